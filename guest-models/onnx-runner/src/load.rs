//! From bytes to a decoded model whose outer shape can be relied on. No file is ever opened: the
//! sandbox has none.

use std::collections::HashSet;

use belljar_abi::{GuestErrorCode, MAX_NAME, MAX_RANK, MAX_TENSORS};
use prost::Message as _;
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto, type_proto};

use crate::Refusal;
use crate::memory::Message;

/// Decodes the model and checks its inputs and outputs: a few unique, non-empty names.
pub(crate) fn load(bytes: Message) -> Result<ModelProto, Refusal> {
    let not_onnx = |why: String| Refusal::new(GuestErrorCode::NotOnnx, why);
    let proto = ModelProto::decode(&*bytes)
        .map_err(|err| not_onnx(format!("this is not an ONNX model: {err}")))?;
    // The bytes are copied into the decoded model by now; give them back before anything grows.
    drop(bytes);
    let Some(graph) = &proto.graph else {
        return Err(not_onnx("this is not an ONNX model: it has no graph".into()));
    };
    check_graph(graph).map_err(|why| Refusal::new(GuestErrorCode::ModelRefused, why))?;
    Ok(proto)
}

fn check_graph(graph: &GraphProto) -> Result<(), String> {
    if graph.output.is_empty() {
        return Err("the graph has no outputs".into());
    }
    for (what, values) in [("input", &graph.input), ("output", &graph.output)] {
        if values.len() > MAX_TENSORS {
            let found = values.len();
            return Err(format!("the graph has {found} {what}s; at most {MAX_TENSORS} can cross"));
        }
        let mut seen = HashSet::new();
        for value in values {
            check_value(value)
                .map_err(|why| format!("{what} {:?}: {why}", start_of(&value.name)))?;
            if !seen.insert(&value.name) {
                return Err(format!("two {what}s have the name {:?}", value.name));
            }
        }
    }
    let made: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .chain(graph.initializer.iter().map(|tensor| &tensor.name))
        .chain(graph.input.iter().map(|value| &value.name))
        .map(String::as_str)
        .collect();
    match graph.output.iter().find(|output| !made.contains(&*output.name)) {
        Some(output) => Err(format!("nothing in the graph makes the output {:?}", output.name)),
        None => Ok(()),
    }
}

fn check_value(value: &ValueInfoProto) -> Result<(), String> {
    if value.name.is_empty() {
        return Err("it has no name".into());
    }
    if value.name.len() > MAX_NAME {
        return Err(format!("its name has {} bytes, above {MAX_NAME}", value.name.len()));
    }
    let shape = value
        .r#type
        .as_ref()
        .and_then(|ty| ty.value.as_ref())
        .and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_ref());
    match shape {
        Some(shape) if shape.dim.len() > MAX_RANK => {
            Err(format!("it has {} dimensions, above {MAX_RANK}", shape.dim.len()))
        }
        _ => Ok(()),
    }
}

/// Enough of a name to recognise it by.
fn start_of(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}
