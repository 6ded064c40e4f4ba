//! Decodes a model, which arrives in parts, and checks the inputs and outputs of its graph. No file
//! is ever opened; the host sends external data in the same way.
//!
//! Nothing here keeps a file: the elements of large initializers are copied to their tensors
//! ([`Weights`]) as they arrive, and the rest is decoded when it is complete.

mod external;
mod scan;
mod types;

use std::collections::{HashMap, HashSet, VecDeque};

use belljar_abi::{
    DType, GuestErrorCode, MAX_NAME, MAX_RANK, MAX_TENSORS, Part, ValueType, part_names_fit,
};
use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::decode_varint;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, ValueInfoProto, type_proto};

use crate::Refusal;
use crate::weights::{Weight, Weights};

pub(crate) use external::Filling;
pub(crate) use scan::Elements;
use scan::{Rest, Scanner};
pub(crate) use types::{Declared, Types};

/// A decoded model, and the fields that its decoder skips.
pub(crate) struct Loaded {
    pub(crate) proto: ModelProto,
    /// The elements of large initializers.
    pub(crate) weights: Weights,
    /// The attributes with defaults of each function, in the order of the functions.
    pub(crate) defaults: Vec<Vec<AttributeProto>>,
    /// The declared types of inputs and outputs that are not tensors.
    pub(crate) types: Types,
}

/// A model of which some bytes have not arrived.
pub(crate) struct Loading {
    scanner: Scanner<Weight>,
    left: usize,
}

impl Loading {
    /// For a model of this many bytes.
    pub(crate) fn new(len: usize) -> Loading {
        Loading { scanner: Scanner::new(len), left: len }
    }

    /// Reads the next bytes.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(too_long)?;
        self.scanner.read(bytes);
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Decodes the model and checks the number and names of its inputs and outputs.
    pub(crate) fn finish(self) -> Result<Loaded, Refusal> {
        let not_onnx = |why: String| Refusal::new(GuestErrorCode::NotOnnx, why);
        let (rest, elements) = self.scanner.finish();
        let defaults = function_defaults(&rest);
        let (mut proto, types) =
            decoded(rest).map_err(|err| not_onnx(format!("this is not an ONNX model: {err}")))?;
        let refused = |why: String| Refusal::new(GuestErrorCode::ModelRefused, why);
        let defaults = match proto.functions.is_empty() {
            true => Vec::new(),
            false => defaults.map_err(refused)?,
        };
        let mut weights = Weights::new(&mut proto);
        let Some(graph) = &mut proto.graph else {
            return Err(not_onnx("this is not an ONNX model: it has no graph".into()));
        };
        for (index, elements) in elements {
            if let Some(tensor) = graph.initializer.get_mut(index) {
                weights.keep(tensor, elements);
            }
        }
        check_graph(graph).map_err(refused)?;
        check_parts(graph, &types).map_err(refused)?;
        Ok(Loaded { proto, weights, defaults, types })
    }
}

/// Decodes a model. Most have only tensors as inputs and outputs, and no `Optional` node: their bytes
/// are freed while they are decoded. The others are decoded from bytes that stay, because the types
/// that the decoder skips are read from the same bytes.
fn decoded(rest: Rest) -> Result<(ModelProto, Types), prost::DecodeError> {
    if !types::are_declared(&rest) {
        return Ok((ModelProto::decode(Consumed::new(rest))?, Types::default()));
    }
    let mut proto = ModelProto::decode(Borrowed::new(&rest))?;
    let types = proto.graph.as_mut().map(|graph| types::read(&rest, graph));
    Ok((proto, types.unwrap_or_default()))
}

/// Checks that the tensors that inputs and outputs cross as have names of their own.
fn check_parts(graph: &GraphProto, types: &Types) -> Result<(), String> {
    let of = |declared: &HashMap<String, Declared>, values: &[ValueInfoProto]| {
        let kind = |value: &ValueInfoProto| {
            declared.get(&value.name).map_or(ValueType::Tensor, |declared| declared.value_type)
        };
        values.iter().map(|value| (value.name.clone(), kind(value))).collect::<Vec<_>>()
    };
    let (inputs, outputs) = (of(&types.inputs, &graph.input), of(&types.outputs, &graph.output));
    for (what, values, parts) in [
        ("inputs", inputs, ValueType::input_parts as fn(ValueType) -> Vec<(Part, DType)>),
        ("outputs", outputs, ValueType::output_parts),
    ] {
        let count: usize = values.iter().map(|(_, kind)| parts(*kind).len().max(1)).sum();
        if count > MAX_TENSORS {
            return Err(format!("the {what} cross as {count} tensors; the limit is {MAX_TENSORS}"));
        }
        let named = values.iter().map(|(name, kind)| (&**name, *kind));
        if !part_names_fit(named, parts) {
            return Err(format!(
                "the {what} have names that are too long, or equal to those of the parts of a \
                 sequence or map, such as NAME.shapes and NAME.keys"
            ));
        }
    }
    Ok(())
}

/// A part that is longer than what is left of its file.
fn too_long() -> Refusal {
    Refusal::new(GuestErrorCode::Protocol, "a part ends behind the end of its file")
}

/// The field of each function (field 25 of a model) that the decoder skips: `attribute_proto` (11),
/// its attributes with defaults. A function with `overload` (13) is refused.
fn function_defaults(model: &Rest) -> Result<Vec<Vec<AttributeProto>>, String> {
    let mut defaults = Vec::new();
    for (_, function) in fields(Borrowed::new(model), &[25]) {
        let mut of_it = Vec::new();
        for (field, value) in fields(&*function, &[11, 13]) {
            match field {
                11 => of_it.push(AttributeProto::decode(&*value).map_err(|err| {
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

/// The length-delimited fields of a message with these numbers, by number. Stops at a malformed
/// field, which the decoder refuses.
fn fields(mut bytes: impl Buf, wanted: &[u64]) -> impl Iterator<Item = (u64, Vec<u8>)> {
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
            if length > bytes.remaining() {
                return None;
            }
            if key & 7 == 2 && wanted.contains(&(key >> 3)) {
                let mut value = vec![0; length];
                bytes.copy_to_slice(&mut value);
                return Some((key >> 3, value));
            }
            bytes.advance(length);
        }
    })
}

/// The rest of a file, from which each part is freed once it was read.
struct Consumed {
    parts: VecDeque<Vec<u8>>,
    /// How much of the first part was read; less than its length.
    at: usize,
    remaining: usize,
}

impl Consumed {
    fn new(rest: Rest) -> Consumed {
        let remaining = rest.len();
        Consumed { parts: rest.into_parts().into(), at: 0, remaining }
    }
}

impl Buf for Consumed {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().and_then(|first| first.get(self.at..)).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.remaining -= count;
        self.at += count;
        while let Some(first) = self.parts.front().map(Vec::len).filter(|first| *first <= self.at) {
            self.at -= first;
            self.parts.pop_front();
        }
    }
}

/// The rest of a file, which stays as it is.
struct Borrowed<'a> {
    parts: &'a [Vec<u8>],
    at: usize,
    remaining: usize,
}

impl<'a> Borrowed<'a> {
    fn new(rest: &'a Rest) -> Borrowed<'a> {
        Borrowed { parts: rest.parts(), at: 0, remaining: rest.len() }
    }
}

impl Buf for Borrowed<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.parts.first().and_then(|first| first.get(self.at..)).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.remaining -= count;
        self.at += count;
        while let [first, later @ ..] = self.parts
            && first.len() <= self.at
        {
            self.at -= first.len();
            self.parts = later;
        }
    }
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
