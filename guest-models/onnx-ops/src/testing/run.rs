//! Takes a graph through tract as the runner does.

use std::sync::OnceLock;

use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto};
use tract_onnx::tract_hir::internal::*;

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
    let mut model = onnx().parse(&proto, None)?.model;
    for (at, input) in inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
        model.set_input_fact(at, fact)?;
    }
    let plan = optimize(model)?.into_runnable()?;
    let outputs = plan.run(inputs.into_iter().map(Tensor::into_tvalue).collect())?;
    outputs.into_iter().map(plain).collect()
}

/// An output as it leaves the runner.
fn plain(output: TValue) -> TractResult<Tensor> {
    let output = output.into_tensor();
    Ok(match output.datum_type() {
        DatumType::TDim => output.cast_to::<i64>()?.into_owned(),
        dtype => output.cast_to_dt(dtype.unquantized())?.into_owned(),
    })
}
