//! Inputs that have a default: an initializer of the same name. Which of them are inputs and which
//! are constants is decided here, once the shapes say what the caller gives.

use belljar_abi::InputShape;
use belljar_operators::Types;
use tract_onnx::pb::{GraphProto, ModelProto, type_proto};

use super::text::{name_of, shown};

/// Takes out the default of every input that is given, and makes a constant of every other input
/// that has one.
pub(crate) fn settle(proto: &mut ModelProto, shapes: &[InputShape]) -> Result<(), String> {
    let Some(graph) = &mut proto.graph else { return Err("the model has no graph".into()) };
    check(graph)?;
    let given = |name: &str| shapes.iter().any(|shape| shape.name == name);
    let inputs: Vec<String> = graph.input.iter().map(|input| input.name.clone()).collect();
    for name in inputs {
        let mut defaults = graph.initializer.iter().filter(|tensor| tensor.name == name);
        match (defaults.next(), defaults.next()) {
            (Some(_), None) if given(&name) => {
                graph.initializer.retain(|tensor| tensor.name != name);
            }
            (Some(_), None) => graph.input.retain(|input| input.name != name),
            // None has nothing to decide. Two of one name are refused with the graph.
            _ => {}
        }
    }
    Ok(())
}

/// Whether every default is of the type that its input is declared with.
fn check(graph: &GraphProto) -> Result<(), String> {
    for input in &graph.input {
        let declared = match input.r#type.as_ref().and_then(|value| value.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => tensor.elem_type,
            None => 0,
        };
        let defaults = graph.initializer.iter().filter(|tensor| tensor.name == input.name);
        for default in defaults {
            if declared != 0 && Types::of(declared) != Types::of(default.data_type) {
                let (name, default) = (shown(&input.name), name_of(default.data_type));
                let declared = name_of(declared);
                return Err(format!("the input {name} is {declared}, its default {default}"));
            }
        }
    }
    Ok(())
}
