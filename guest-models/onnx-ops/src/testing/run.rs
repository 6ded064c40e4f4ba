//! Takes a graph through tract as the runner does.

use std::sync::OnceLock;

use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::{self, Assumptions};
use crate::framework::randomness::with_seed;
use crate::optimizer::{self, Passes};

/// tract with this crate's operators, set up as the runner does.
fn onnx() -> &'static tract_onnx::Onnx {
    static ONNX: OnceLock<tract_onnx::Onnx> = OnceLock::new();
    ONNX.get_or_init(|| {
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let mut onnx = onnx.with_ignore_output_shapes(true);
        crate::register(&mut onnx.op_register, optimize);
        onnx
    })
}

fn optimize(model: InferenceModel) -> TractResult<TypedModel> {
    optimizer::optimize(model, Passes::NONE)
}

/// Takes a graph through tract as the runner does.
pub(super) fn run(graph: GraphProto, opset: i64, inputs: Vec<Tensor>) -> TractResult<Vec<Tensor>> {
    let mut model = parsed(graph, opset)?;
    for (at, input) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
        model.set_input_fact(at, fact)?;
    }
    ran(optimize(model)?, inputs)
}

/// The bytes of the constants of a plan.
pub(super) fn constant_bytes(
    graph: GraphProto,
    opset: i64,
    inputs: &[Tensor],
) -> TractResult<usize> {
    let mut model = parsed(graph, opset)?;
    for (at, input) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
        model.set_input_fact(at, fact)?;
    }
    let plan = optimize(model)?;
    let constants = plan.nodes.iter().filter_map(|node| node.op_as::<Const>());
    Ok(constants.map(|constant| constant.val().as_bytes().len()).sum())
}

/// The outputs of runs with different seeds, for which the graph is optimised once.
pub(super) fn run_seeded(
    graph: GraphProto,
    opset: i64,
    inputs: &[Tensor],
    seeds: &[u32],
) -> TractResult<Vec<Vec<Tensor>>> {
    let mut model = parsed(graph, opset)?;
    for (at, input) in inputs.iter().enumerate() {
        model.set_input_fact(at, InferenceFact::dt_shape(input.datum_type(), input.shape()))?;
    }
    let model = optimize(model)?;
    let run = |seed: &u32| with_seed(*seed, || ran(model.clone(), inputs.to_vec()));
    seeds.iter().map(run).collect()
}

/// The outputs of a plan with symbols for some dimensions of inputs, and their shapes in the plan.
pub(super) fn run_open(
    graph: GraphProto,
    opset: i64,
    inputs: Vec<Tensor>,
    open: &[(usize, usize, &str)],
) -> TractResult<(Vec<String>, Vec<Tensor>)> {
    let mut model = parsed(graph, opset)?;
    let mut example = vec![];
    for (at, input) in inputs.iter().enumerate() {
        let mut shape: TVec<TDim> = input.shape().iter().map(|size| size.to_dim()).collect();
        for (_, axis, name) in open.iter().filter(|(of, ..)| *of == at) {
            let symbol = model.symbols.sym(name);
            shape[*axis] = symbol.to_dim();
            example.push((symbol, input.shape()[*axis] as i64));
        }
        model.set_input_fact(at, InferenceFact::dt_shape(input.datum_type(), shape))?;
    }
    let none = Assumptions::none(&example, 1 << 20);
    let plan = assumptions::under(none, || optimize(model)).0?;
    let facts = plan.output_outlets()?.to_vec();
    let shape = |outlet: &OutletId| {
        let shape = &plan.outlet_fact(*outlet)?.shape;
        // The order of terms is tract's.
        let sorted = |dim: &TDim| {
            let dim = dim.to_string();
            let mut terms: Vec<&str> = dim.split('+').collect();
            terms.sort_unstable();
            terms.join("+")
        };
        Ok(shape.iter().map(sorted).collect::<Vec<_>>().join(","))
    };
    let shapes = facts.iter().map(shape).collect::<TractResult<_>>()?;
    Ok((shapes, ran(plan, inputs)?))
}

fn ran(plan: TypedModel, inputs: Vec<Tensor>) -> TractResult<Vec<Tensor>> {
    let plan = plan.into_runnable()?;
    let outputs = plan.run(inputs.into_iter().map(Tensor::into_tvalue).collect())?;
    outputs.into_iter().map(plain).collect()
}

fn parsed(graph: GraphProto, opset: i64) -> TractResult<InferenceModel> {
    let set = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let mut proto = ModelProto {
        ir_version: 10,
        opset_import: vec![
            set("", opset),
            set(belljar_operators::ML, belljar_operators::NEWEST_ML),
            set(belljar_operators::MICROSOFT, belljar_operators::NEWEST_MICROSOFT),
        ],
        graph: Some(graph),
        ..ModelProto::default()
    };
    // As the gate of the runner does.
    proto.graph.iter_mut().for_each(optimizer::move_negative_zeros_to_nodes);
    Ok(onnx().parse(&proto, None)?.model)
}

/// An output as it leaves the runner.
fn plain(output: TValue) -> TractResult<Tensor> {
    let output = output.into_tensor();
    Ok(match output.datum_type() {
        DatumType::TDim => output.cast_to::<i64>()?.into_owned(),
        dtype => output.cast_to_dt(dtype.unquantized())?.into_owned(),
    })
}
