//! Inputs whose values the policy fixes become constants. An `If` on such an input is then resolved
//! first, and its other branch is not analysed.

use belljar_abi::{DType, TensorView};
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

use super::text::shown;

/// Replaces the inputs of these names by constants.
pub(crate) fn fix(proto: &mut ModelProto, fixed: &[TensorView<'_>]) -> Result<(), String> {
    let Some(graph) = &mut proto.graph else { return Err("the model has no graph".into()) };
    for view in fixed {
        one(graph, view).map_err(|why| format!("fixed input {}: {why}", shown(view.name)))?;
    }
    Ok(())
}

fn one(graph: &mut GraphProto, view: &TensorView<'_>) -> Result<(), String> {
    let Some(at) = graph.input.iter().position(|input| input.name == view.name) else {
        return Err("the model has no input of this name".into());
    };
    if view.dtype == DType::String {
        return Err("values of strings are not implemented".into());
    }
    let data_type = i32::try_from(view.dtype.to_onnx()).unwrap_or_default();
    if elem_type(&graph.input[at]) != Some(data_type) {
        return Err(format!("its value is {}, which is not the declared element type", view.dtype));
    }
    let dims = view.dims.iter().map(|dim| i64::try_from(*dim)).collect::<Result<_, _>>();
    let dims = dims.map_err(|_| "its shape is too large".to_owned())?;
    graph.input.remove(at);
    // The fixed value replaces the default.
    graph.initializer.retain(|tensor| tensor.name != view.name);
    graph.initializer.push(TensorProto {
        name: view.name.to_owned(),
        data_type,
        dims,
        raw_data: super::tensors::packed(view.dtype, view.data),
        ..TensorProto::default()
    });
    Ok(())
}

fn elem_type(input: &ValueInfoProto) -> Option<i32> {
    let type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    Some(tensor.elem_type)
}
