//! Turns a decoded model into a plan: tract parses, types and optimises it for the shapes of the
//! request, or for all sizes of the dimensions that the host calls open.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use belljar_abi::{DType, GuestErrorCode, InputShape, Preparation, Shapes, decode_shapes};
use onnx_ops::computed_sizes::Computing;
use onnx_ops::optimizer;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::SymbolValues;
use tract_onnx::tract_hir::infer::Factoid;

use crate::explain::{Nodes, Sources, When};
use crate::folded::{Folded, Wiring};
use crate::load::Loaded;
use crate::sizes::Sizes;
use crate::{Refusal, gate, heap, native, open, undecided};

/// An optimised model, with the names of its inputs and outputs.
pub(crate) struct Prepared {
    pub(crate) plan: Arc<TypedRunnableModel>,
    pub(crate) inputs: Vec<PreparedInput>,
    pub(crate) outputs: Vec<PreparedOutput>,
    /// The model's nodes, for error messages of runs.
    pub(crate) nodes: Nodes,
    /// The nodes that are computed together, for a profile.
    pub(crate) folded: Folded,
    /// The sizes of the tensors, if they depend on those of the inputs.
    pub(crate) sizes: Option<OpenSizes>,
}

/// The sizes of a plan's tensors, and those of its symbols for which it was prepared.
pub(crate) struct OpenSizes {
    pub(crate) tensors: Sizes,
    pub(crate) example: SymbolValues,
}

/// One output of the plan, in the plan's order.
pub(crate) struct PreparedOutput {
    pub(crate) name: String,
    /// The element type of its codes, if it is carried in another one.
    pub(crate) carried: Option<DType>,
}

/// One input of the plan, in the plan's order.
pub(crate) struct PreparedInput {
    pub(crate) name: String,
    pub(crate) dtype: DatumType,
    /// The element type of its codes, if it is carried in another one.
    pub(crate) carried: Option<DType>,
    /// Its shape; a symbol is an open dimension.
    pub(crate) dims: TVec<TDim>,
}

/// Prepares the model for the shapes in `message`.
pub(crate) fn prepare(loaded: Loaded, message: &[u8]) -> Result<(Prepared, Preparation), Refusal> {
    let refuse = |text: String| Refusal::new(GuestErrorCode::ModelRefused, text);
    // Other shapes may work.
    let by_shapes = |text: String| Refusal::new(GuestErrorCode::ShapesRefused, text);
    let Loaded { mut proto, defaults, weights, types } = loaded;
    let Shapes { shapes, open, fixed } = decode_shapes(message)
        .map_err(|err| Refusal::new(GuestErrorCode::Protocol, format!("input shapes: {err}")))?;
    let bad = |text: String| Refusal::new(GuestErrorCode::BadInput, text);
    gate::fix(&mut proto, &fixed).map_err(bad)?;
    gate::settle(&mut proto, &shapes).map_err(refuse)?;
    // The sizes of the parts of sequences and maps are always those of a run.
    let free = types.free_inputs();
    let supported = free.is_empty() && open::is_supported(&proto);
    let open = if supported { open } else { Vec::new() };
    let carried = gate::check(&mut proto, &defaults, &shapes, &types);
    let carried = carried.map_err(|refused| match refused {
        gate::Refused::Always(text) => refuse(text),
        gate::Refused::ForShapes(text) => by_shapes(text),
    })?;
    // tract loses the types of inputs that are also outputs.
    let declared = declared_types(&proto);
    let outputs = proto.graph.iter().flat_map(|graph| &graph.output).map(|output| {
        let carried = carried.outputs.get(&output.name).copied();
        PreparedOutput { name: output.name.clone(), carried }
    });
    let outputs = outputs.collect();
    // Some exporters write shapes of intermediate values and outputs that contradict the graph.
    // Only the input shapes of this request are used; all others are inferred.
    let onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let mut onnx = onnx.with_ignore_output_shapes(true);
    onnx_ops::register(&mut onnx.op_register, optimize);
    let (nodes, sources) = (Nodes::of(&proto), Sources::of(&proto));
    let wiring = Wiring::of(&proto);
    let computing = proto.graph.as_ref().map(Computing::of).filter(|_| !open.is_empty());
    let failed = |err: TractError| by_shapes(nodes.explain(&err, When::Preparing, Some(&sources)));
    weights.stand_in(&mut proto);
    let parsed = onnx.parse(&proto, None).map_err(failed)?;
    drop(proto);
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(refuse(format!("no node of the graph makes the value {name:?}")));
    }
    let mut model = parsed.model;
    weights.install(&mut model).map_err(failed)?;
    let mut inputs = fix_inputs(&mut model, &shapes, &declared, &carried.inputs, &free)?;
    let mut planned = None;
    let (mut opened, mut sizes) = (Vec::new(), Vec::new());
    let mut example = SymbolValues::default();
    let computing = computing.unwrap_or_default();
    let mut attempts = open::Attempts::of(&shapes, open);
    while let Some(attempt) = attempts.next() {
        let Some(symbols) = open::symbols(&model, &inputs, &shapes, &attempt) else { continue };
        match symbols.plan(&model, &inputs, &computing) {
            Ok(plan) => {
                for (input, shape) in inputs.iter_mut().zip(symbols.shapes) {
                    input.dims = shape;
                }
                (planned, opened, sizes) = (Some(plan.model), attempt.open, plan.sizes);
                example = plan.example;
                break;
            }
            Err(failed) => {
                log::info!("no plan with open dimensions: {:#}", failed.error);
                if let Some(related) = failed.related {
                    attempts.relate(&attempt, related);
                }
            }
        }
    }
    let model = match planned {
        Some(mut plan) => {
            drop(model);
            native::pack(&mut plan).map_err(failed)?;
            plan
        }
        None => optimize(model).map_err(failed)?,
    };
    let preparation = Preparation { open: opened, sizes, ..undecided::of(&model, &nodes) };
    let tensors = Sizes::of(&model, &example).map_err(failed)?;
    let working_set = tensors.working_set(&example).map_err(failed)?;
    let folded = Folded::of(wiring, &nodes, &model);
    log::info!("the plan: {}", operators(&model));
    let plan = model.into_runnable().map_err(failed)?;
    let is_open = !preparation.open.is_empty();
    let sizes = is_open.then_some(OpenSizes { tensors, example });
    drop(shapes);
    drop(sources);
    heap::reserve_for_runs(working_set);
    heap::zero_free_memory();
    Ok((Prepared { plan, inputs, outputs, nodes, folded, sizes }, preparation))
}

/// Optimises a model or the body of a loop, using the kernels of the host.
fn optimize(model: InferenceModel) -> TractResult<TypedModel> {
    let mut model = optimizer::optimize(model, native::PASSES)?;
    native::pack(&mut model)?;
    Ok(model)
}

/// The operators of a plan with their counts. The host computes those whose names start with
/// `Native`.
fn operators(model: &TypedModel) -> String {
    let mut counts = BTreeMap::new();
    for node in &model.nodes {
        *counts.entry(node.op.name()).or_insert(0usize) += 1;
    }
    let each: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    each.join(", ")
}

/// The declared element types of the model's inputs.
fn declared_types(proto: &ModelProto) -> HashMap<String, DatumType> {
    let inputs = proto.graph.iter().flat_map(|graph| &graph.input);
    inputs
        .filter_map(|input| {
            let type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
            let dtype = DataType::try_from(tensor.elem_type).ok()?;
            Some((input.name.clone(), DatumType::try_from(dtype).ok()?))
        })
        .collect()
}

/// Gives every input of the model its concrete shape. The first dimension of a part of a sequence or
/// a map is only known in a run.
fn fix_inputs(
    model: &mut InferenceModel,
    shapes: &[InputShape],
    declared: &HashMap<String, DatumType>,
    carried: &HashMap<String, DType>,
    free: &HashSet<String>,
) -> Result<Vec<PreparedInput>, Refusal> {
    let bad = |text: String| Refusal::new(GuestErrorCode::BadInput, text);
    let failed = |err: TractError| {
        log::info!("{err:#}");
        bad("the inputs of the model cannot have these shapes".into())
    };
    let outlets = model.input_outlets().map_err(failed)?.to_vec();
    let mut inputs = Vec::with_capacity(outlets.len());
    for (ix, outlet) in outlets.iter().enumerate() {
        let name = model.node(outlet.node).name.clone();
        let shape = shapes
            .iter()
            .find(|shape| shape.name == name)
            .ok_or_else(|| bad(format!("the input {name:?} has no shape")))?;
        let dims: Vec<usize> = shape
            .dims
            .iter()
            .map(|dim| usize::try_from(*dim))
            .collect::<Result<_, _>>()
            .map_err(|_| bad(format!("input {name:?}: a dimension does not fit 32 bits")))?;
        let fact = model.input_fact(ix).map_err(failed)?;
        let dtype = fact
            .datum_type
            .concretize()
            .or_else(|| declared.get(&name).copied())
            .ok_or_else(|| bad(format!("input {name:?} has no element type")))?;
        let mut dims: TVec<TDim> = dims.iter().map(|dim| dim.to_dim()).collect();
        if free.contains(&name)
            && let Some(first) = dims.first_mut()
        {
            *first = model.symbols.new_with_prefix("given").to_dim();
        }
        let fact = InferenceFact::dt_shape(dtype, dims.clone());
        model.set_input_fact(ix, fact).map_err(failed)?;
        let carried = carried.get(&name).copied();
        inputs.push(PreparedInput { name, dtype, carried, dims });
    }
    Ok(inputs)
}
