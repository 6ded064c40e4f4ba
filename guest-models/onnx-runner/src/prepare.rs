//! Turns a decoded model into a plan: tract parses, types and optimises it for the concrete shapes
//! of the request, so that no symbolic dimension is left.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use belljar_abi::{DType, GuestErrorCode, InputShape, Preparation, decode_shapes};
use onnx_ops::optimizer;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, type_proto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

use crate::explain::{Nodes, Sources, When};
use crate::folded::{Folded, Wiring};
use crate::load::Loaded;
use crate::{Refusal, gate, heap, native, undecided};

/// An optimised model, with the names of its inputs and outputs.
pub(crate) struct Prepared {
    pub(crate) plan: Arc<TypedRunnableModel>,
    pub(crate) inputs: Vec<PreparedInput>,
    pub(crate) outputs: Vec<PreparedOutput>,
    /// The model's nodes, for error messages of runs.
    pub(crate) nodes: Nodes,
    /// The nodes that are computed together, for a profile.
    pub(crate) folded: Folded,
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
    pub(crate) dims: Vec<usize>,
}

/// Prepares the model for the shapes in `message`.
pub(crate) fn prepare(loaded: Loaded, message: &[u8]) -> Result<(Prepared, Preparation), Refusal> {
    let refuse = |text: String| Refusal::new(GuestErrorCode::ModelRefused, text);
    // Other shapes may work.
    let by_shapes = |text: String| Refusal::new(GuestErrorCode::ShapesRefused, text);
    let Loaded { mut proto, defaults } = loaded;
    let (shapes, fixed) = decode_shapes(message)
        .map_err(|err| Refusal::new(GuestErrorCode::Protocol, format!("input shapes: {err}")))?;
    let bad = |text: String| Refusal::new(GuestErrorCode::BadInput, text);
    gate::fix(&mut proto, &fixed).map_err(bad)?;
    gate::settle(&mut proto, &shapes).map_err(refuse)?;
    let carried = gate::check(&mut proto, &defaults, &shapes);
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
    let failed = |err: TractError| by_shapes(nodes.explain(&err, When::Preparing, Some(&sources)));
    let parsed = onnx.parse(&proto, None).map_err(failed)?;
    drop(proto);
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(refuse(format!("no node of the graph makes the value {name:?}")));
    }
    let mut model = parsed.model;
    let inputs = fix_inputs(&mut model, &shapes, &declared, &carried.inputs)?;
    let model = optimize(model).map_err(failed)?;
    let working_set = working_set(&model).map_err(failed)?;
    let preparation = undecided::of(&model, &nodes);
    let folded = Folded::of(wiring, &nodes, &model);
    log::info!("the plan: {}", operators(&model));
    let plan = model.into_runnable().map_err(failed)?;
    drop(shapes);
    drop(sources);
    heap::reserve_for_runs(working_set);
    heap::zero_free_memory();
    Ok((Prepared { plan, inputs, outputs, nodes, folded }, preparation))
}

/// Optimises a model or the body of a loop, using the kernels of the host.
fn optimize(model: InferenceModel) -> TractResult<TypedModel> {
    optimizer::optimize(model, native::PASSES)
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

/// The peak size of a run's tensors in bytes, plus one half for the temporary memory of operators.
fn working_set(model: &TypedModel) -> TractResult<usize> {
    let order = model.eval_order()?;
    let mut readers: Vec<usize> = Vec::new();
    let mut sizes: Vec<usize> = Vec::new();
    for node in &model.nodes {
        readers.push(node.outputs.iter().map(|output| output.successors.len()).sum());
        let sizes_of = node.outputs.iter().map(|output| {
            let elements: usize = output.fact.shape.as_concrete()?.iter().product();
            elements.checked_mul(output.fact.datum_type.size_of())
        });
        let constant = node.outputs.iter().all(|output| output.fact.konst.is_some());
        let size = sizes_of.flatten().fold(0, usize::saturating_add);
        sizes.push(if constant { 0 } else { size });
    }
    let (mut now, mut most) = (0usize, 0usize);
    for node in order {
        now = now.saturating_add(sizes[node]);
        most = most.max(now);
        for input in &model.node(node).inputs {
            readers[input.node] = readers[input.node].saturating_sub(1);
            if readers[input.node] == 0 {
                now = now.saturating_sub(sizes[input.node]);
            }
        }
    }
    Ok(most.saturating_add(most / 2))
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

/// Gives every input of the model its concrete shape.
fn fix_inputs(
    model: &mut InferenceModel,
    shapes: &[InputShape],
    declared: &HashMap<String, DatumType>,
    carried: &HashMap<String, DType>,
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
        model.set_input_fact(ix, InferenceFact::dt_shape(dtype, &*dims)).map_err(failed)?;
        let carried = carried.get(&name).copied();
        inputs.push(PreparedInput { name, dtype, carried, dims });
    }
    Ok(inputs)
}
