//! Inputs with a default, which is an initializer of the same name. An input for which the caller
//! gives no shape becomes a constant with its default.

use belljar_abi::InputShape;
use belljar_operators::Types;
use tract_onnx::pb::{GraphProto, ModelProto, type_proto};

use super::text::{name_of, shown};

/// Removes the default of every input that the caller gives, and turns every other input with a
/// default into a constant.
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
            // Without a default the input stays. Duplicate initializers are refused later.
            _ => {}
        }
    }
    Ok(())
}

/// Checks that every default has the declared type of its input.
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
                return Err(format!(
                    "the input {name} is {declared}, but its default is {default}"
                ));
            }
        }
    }
    Ok(())
}
