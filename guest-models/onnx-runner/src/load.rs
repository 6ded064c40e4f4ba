//! From bytes to a decoded model whose outer shape can be relied on. No file is ever opened: the
//! sandbox has none.

use std::collections::HashSet;

use belljar_abi::{GuestErrorCode, MAX_NAME, MAX_RANK, MAX_TENSORS};
use prost::Message as _;
use prost::encoding::decode_varint;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};

use crate::Refusal;
use crate::memory::Message;

/// A decoded model, and what of it was not decoded.
pub(crate) struct Loaded {
    pub(crate) proto: ModelProto,
    /// Whether a function has overloads, or attributes with defaults: the decoder knows neither.
    pub(crate) newer_functions: bool,
}

/// Decodes the model and checks its inputs and outputs: a few unique, non-empty names.
pub(crate) fn load(bytes: Message) -> Result<Loaded, Refusal> {
    let not_onnx = |why: String| Refusal::new(GuestErrorCode::NotOnnx, why);
    let proto = ModelProto::decode(&*bytes)
        .map_err(|err| not_onnx(format!("this is not an ONNX model: {err}")))?;
    let newer_functions = !proto.functions.is_empty() && has_newer_functions(&bytes);
    // The bytes are copied into the decoded model by now; give them back before anything grows.
    drop(bytes);
    let Some(graph) = &proto.graph else {
        return Err(not_onnx("this is not an ONNX model: it has no graph".into()));
    };
    check_graph(graph).map_err(|why| Refusal::new(GuestErrorCode::ModelRefused, why))?;
    Ok(Loaded { proto, newer_functions })
}

/// Puts the content of a file into the tensors that keep their data there, as if it had been theirs
/// from the start.
pub(crate) fn external(loaded: &mut Loaded, message: &[u8]) -> Result<(), Refusal> {
    let malformed =
        || Refusal::new(GuestErrorCode::Protocol, "a file beside the model comes malformed");
    let (length, rest) = message.split_first_chunk::<4>().ok_or_else(malformed)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| malformed())?;
    let (location, content) = rest.split_at_checked(length).ok_or_else(malformed)?;
    match &mut loaded.proto.graph {
        Some(graph) => fill_graph(graph, location, content)
            .map_err(|why| Refusal::new(GuestErrorCode::ModelRefused, why)),
        None => Ok(()),
    }
}

/// Tensors of functions are not looked for: whatever keeps its data elsewhere in the end is refused.
fn fill_graph(graph: &mut GraphProto, location: &[u8], content: &[u8]) -> Result<(), String> {
    for tensor in &mut graph.initializer {
        fill(tensor, location, content)?;
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            fill(tensor, location, content)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            fill_graph(graph, location, content)?;
        }
    }
    Ok(())
}

fn fill(tensor: &mut TensorProto, location: &[u8], content: &[u8]) -> Result<(), String> {
    if tensor.data_location != Some(DataLocation::External as i32) {
        return Ok(());
    }
    let (mut found, mut offset, mut length) = (None, None, None);
    let name = start_of(&tensor.name);
    for entry in &tensor.external_data {
        let place = match &*entry.key {
            "location" => &mut found,
            "offset" => &mut offset,
            "length" => &mut length,
            key => {
                let key = start_of(key);
                return Err(format!("the tensor {name:?} has the unknown external data {key:?}"));
            }
        };
        if place.replace(&*entry.value).is_some() {
            return Err(format!("the tensor {name:?} has {:?} twice", entry.key));
        }
    }
    if found.map(str::as_bytes) != Some(location) {
        return Ok(());
    }
    if !tensor.raw_data.is_empty() {
        return Err(format!("the tensor {name:?} keeps its data twice"));
    }
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<usize>().ok(),
        false => None,
    };
    let offset = offset.map_or(Some(0), number);
    let data = offset.and_then(|offset| content.get(offset..)).and_then(|rest| match length {
        Some(length) => rest.get(..number(length)?),
        None => Some(rest),
    });
    let Some(data) = data else {
        return Err(format!("the tensor {name:?} ends behind the end of its file"));
    };
    tensor.raw_data = data.to_vec();
    tensor.data_location = None;
    tensor.external_data.clear();
    Ok(())
}

/// Looks for fields of functions that the decoder passes over: `attribute_proto` (11) and
/// `overload` (13) of the functions (25) of a model.
fn has_newer_functions(bytes: &[u8]) -> bool {
    fields(bytes, |field, value| {
        field == 25 && fields(value, |field, value| [11, 13].contains(&field) && !value.is_empty())
    })
}

/// Whether one of the length-delimited fields of a message is as wanted. What does not decode, the
/// decoder has refused.
fn fields(mut bytes: &[u8], wanted: impl Fn(u64, &[u8]) -> bool) -> bool {
    while let Ok(key) = decode_varint(&mut bytes) {
        let length = match key & 7 {
            0 => match decode_varint(&mut bytes) {
                Ok(_) => 0,
                Err(_) => return false,
            },
            1 => 8,
            5 => 4,
            2 => match decode_varint(&mut bytes).map(usize::try_from) {
                Ok(Ok(length)) => length,
                _ => return false,
            },
            _ => return false,
        };
        let Some((value, rest)) = bytes.split_at_checked(length) else { return false };
        if key & 7 == 2 && wanted(key >> 3, value) {
            return true;
        }
        bytes = rest;
    }
    false
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
