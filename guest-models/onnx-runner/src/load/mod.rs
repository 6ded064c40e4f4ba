//! Decodes a model and checks the inputs and outputs of its graph. No file is ever opened; the host
//! sends external data as messages.

use std::collections::HashSet;

use belljar_abi::{GuestErrorCode, MAX_NAME, MAX_RANK, MAX_TENSORS};
use prost::Message as _;
use prost::encoding::decode_varint;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto,
};

use crate::Refusal;
use crate::memory::Message;

/// A decoded model, and the fields that its decoder skips.
pub(crate) struct Loaded {
    pub(crate) proto: ModelProto,
    /// The attributes with defaults of each function, in the order of the functions.
    pub(crate) defaults: Vec<Vec<AttributeProto>>,
}

/// Decodes the model and checks the number and names of its inputs and outputs.
pub(crate) fn load(bytes: Message) -> Result<Loaded, Refusal> {
    let not_onnx = |why: String| Refusal::new(GuestErrorCode::NotOnnx, why);
    let proto = ModelProto::decode(&*bytes)
        .map_err(|err| not_onnx(format!("this is not an ONNX model: {err}")))?;
    let defaults = match proto.functions.is_empty() {
        true => Ok(Vec::new()),
        false => function_defaults(&bytes),
    };
    let refused = |why: String| Refusal::new(GuestErrorCode::ModelRefused, why);
    let defaults = defaults.map_err(refused)?;
    // The decoded model has copies of the bytes; they are freed before more memory is needed.
    drop(bytes);
    let Some(graph) = &proto.graph else {
        return Err(not_onnx("this is not an ONNX model: it has no graph".into()));
    };
    check_graph(graph).map_err(refused)?;
    Ok(Loaded { proto, defaults })
}

/// Copies the content of a file into the tensors that have their external data there.
pub(crate) fn external(loaded: &mut Loaded, message: &[u8]) -> Result<(), Refusal> {
    let malformed = || {
        Refusal::new(
            GuestErrorCode::Protocol,
            "the message with an external data file is malformed",
        )
    };
    let (length, rest) = message.split_first_chunk::<4>().ok_or_else(malformed)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| malformed())?;
    let (location, content) = rest.split_at_checked(length).ok_or_else(malformed)?;
    match &mut loaded.proto.graph {
        Some(graph) => fill_graph(graph, location, content)
            .map_err(|why| Refusal::new(GuestErrorCode::ModelRefused, why)),
        None => Ok(()),
    }
}

/// Tensors of functions are not filled; the gate refuses tensors that still have external data.
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
    // A SHA-1 digest from the model itself, which the author of the model can choose. It is
    // ignored, as in onnxruntime; a policy pins files by SHA-256 (`filesystem.sha256`).
    let mut checksum = None;
    let name = start_of(&tensor.name);
    for entry in &tensor.external_data {
        let field = match &*entry.key {
            "location" => &mut found,
            "offset" => &mut offset,
            "length" => &mut length,
            "checksum" => &mut checksum,
            key => {
                let key = start_of(key);
                return Err(format!(
                    "the tensor {name:?} has the unknown external data key {key:?}"
                ));
            }
        };
        if field.replace(&*entry.value).is_some() {
            return Err(format!(
                "the tensor {name:?} has a duplicate external data key {:?}",
                entry.key
            ));
        }
    }
    if found.map(str::as_bytes) != Some(location) {
        return Ok(());
    }
    if !tensor.raw_data.is_empty() {
        return Err(format!("the tensor {name:?} has both raw and external data"));
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

/// The field of each function (field 25 of a model) that the decoder skips: `attribute_proto` (11),
/// its attributes with defaults. A function with `overload` (13) is refused.
fn function_defaults(bytes: &[u8]) -> Result<Vec<Vec<AttributeProto>>, String> {
    let mut defaults = Vec::new();
    for (_, function) in fields(bytes).filter(|(field, _)| *field == 25) {
        let mut of_it = Vec::new();
        for (field, value) in fields(function) {
            match field {
                11 => of_it.push(AttributeProto::decode(value).map_err(|err| {
                    format!("cannot decode the default of a function's attribute: {err}")
                })?),
                13 if !value.is_empty() => {
                    return Err("a function of the model has overloads, which are not \
                                implemented. Inline functions when exporting the model"
                        .into());
                }
                _ => {}
            }
        }
        defaults.push(of_it);
    }
    Ok(defaults)
}

/// The length-delimited fields of a message, by number. Stops at a malformed field, which the
/// decoder has already refused.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let key = decode_varint(&mut bytes).ok()?;
            let length = match key & 7 {
                0 => decode_varint(&mut bytes).map(|_| 0).ok()?,
                1 => 8,
                5 => 4,
                2 => usize::try_from(decode_varint(&mut bytes).ok()?).ok()?,
                _ => return None,
            };
            let (value, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            if key & 7 == 2 {
                return Some((key >> 3, value));
            }
        }
    })
}

fn check_graph(graph: &GraphProto) -> Result<(), String> {
    if graph.output.is_empty() {
        return Err("the graph has no outputs".into());
    }
    for (what, values) in [("input", &graph.input), ("output", &graph.output)] {
        if values.len() > MAX_TENSORS {
            let found = values.len();
            return Err(format!("the graph has {found} {what}s; the limit is {MAX_TENSORS}"));
        }
        let mut seen = HashSet::new();
        for value in values {
            check_value(value)
                .map_err(|why| format!("{what} {:?}: {why}", start_of(&value.name)))?;
            if !seen.insert(&value.name) {
                return Err(format!("duplicate {what} {:?}", value.name));
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
        Some(output) => Err(format!("no node of the graph makes the output {:?}", output.name)),
        None => Ok(()),
    }
}

fn check_value(value: &ValueInfoProto) -> Result<(), String> {
    if value.name.is_empty() {
        return Err("it has no name".into());
    }
    if value.name.len() > MAX_NAME {
        return Err(format!("its name has {} bytes; the limit is {MAX_NAME}", value.name.len()));
    }
    let shape = value
        .r#type
        .as_ref()
        .and_then(|ty| ty.value.as_ref())
        .and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_ref());
    match shape {
        Some(shape) if shape.dim.len() > MAX_RANK => {
            Err(format!("it has {} dimensions; the limit is {MAX_RANK}", shape.dim.len()))
        }
        _ => Ok(()),
    }
}

/// The start of a name, for messages.
fn start_of(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}
