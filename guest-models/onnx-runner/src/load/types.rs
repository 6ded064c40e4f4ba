//! The declared types that tract's decoder skips: sequences, maps and optionals. They are read from
//! the bytes of the model, in parallel with what was decoded from the same bytes, so nothing here
//! refuses a malformed message: the decoder has.

use std::collections::{HashMap, HashSet};

use belljar_abi::{DType, ValueType};
use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::decode_varint;
use tract_onnx::pb::{GraphProto, NodeProto, TensorShapeProto, ValueInfoProto, type_proto};

use super::scan::Rest;
use super::{Borrowed, fields};

/// An input or output that is not a tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) value_type: ValueType,
    /// The declared shape of an optional tensor.
    pub(crate) shape: Option<TensorShapeProto>,
}

/// The inputs and outputs of a model that are not tensors, by name.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub(crate) inputs: HashMap<String, Declared>,
    pub(crate) outputs: HashMap<String, Declared>,
}

impl Types {
    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }

    /// The inputs of a plan whose first dimension is only known in a run: the parts of sequences and
    /// maps.
    pub(crate) fn free_inputs(&self) -> HashSet<String> {
        let parts = self.inputs.iter().flat_map(|(name, declared)| {
            let parts = declared.value_type.input_parts().into_iter();
            parts.filter(|(part, _)| part.rank().is_some()).map(|(part, _)| part.name(name))
        });
        parts.collect()
    }
}

// Field numbers of ONNX.
const GRAPH_OF_MODEL: u64 = 7;
const NODE_OF_GRAPH: u64 = 1;
const INPUT_OF_GRAPH: u64 = 11;
const OUTPUT_OF_GRAPH: u64 = 12;
const TYPE_OF_VALUE: u64 = 2;
const ATTRIBUTE_OF_NODE: u64 = 5;
const GRAPH_OF_ATTRIBUTE: u64 = 6;
const TYPE_OF_ATTRIBUTE: u64 = 14;
const TENSOR: u64 = 1;
const SEQUENCE: u64 = 4;
const MAP: u64 = 5;
const SPARSE_TENSOR: u64 = 8;
const OPAQUE: u64 = 7;
const OPTIONAL: u64 = 9;
const ELEMENT: u64 = 1;
const VALUE_OF_MAP: u64 = 2;

/// Reads the types of a model whose graph was decoded, and gives the `type` attributes of its
/// `Optional` nodes a form that the gate can read.
pub(super) fn read(model: &Rest, graph: &mut GraphProto) -> Types {
    let mut types = Types::default();
    let (mut inputs, mut outputs, mut nodes) = (0, 0, 0);
    graph_fields(model, |field, value| match field {
        INPUT_OF_GRAPH => add(&mut types.inputs, graph.input.get(next(&mut inputs)), &value),
        OUTPUT_OF_GRAPH => add(&mut types.outputs, graph.output.get(next(&mut outputs)), &value),
        _ => {
            if let Some(node) = graph.node.get_mut(next(&mut nodes)) {
                of_node(node, &value);
            }
        }
    });
    types
}

/// Whether a model may declare such types: an input, an output or a node has a type that is not a
/// tensor's, or a node is an `Optional`.
pub(super) fn are_declared(model: &Rest) -> bool {
    let mut found = false;
    graph_fields(model, |field, value| {
        found = found
            || match field {
                NODE_OF_GRAPH => contains(&value, OPTIONAL_NAME),
                _ => fields(&*value, &[TYPE_OF_VALUE])
                    .any(|(_, of_it)| declared(&of_it).value_type != ValueType::Tensor),
            };
    });
    found
}

const OPTIONAL_NAME: &[u8] = b"Optional";

/// Whether bytes contain a name, found by its first byte: a node may hold megabytes of weights.
fn contains(bytes: &[u8], name: &[u8]) -> bool {
    const BLOCK: usize = 256;
    (0..bytes.len()).step_by(BLOCK).any(|start| {
        let block = &bytes[start..bytes.len().min(start + BLOCK)];
        block.contains(&name[0])
            && bytes[start..bytes.len().min(start + BLOCK + name.len() - 1)]
                .windows(name.len())
                .any(|at| at == name)
    })
}

fn next(count: &mut usize) -> usize {
    *count += 1;
    *count - 1
}

/// The fields of the model's graph that have types in them. A message that is there several times is
/// one message in parts.
fn graph_fields(model: &Rest, mut each: impl FnMut(u64, Vec<u8>)) {
    let mut bytes = Borrowed::new(model);
    let wanted = [NODE_OF_GRAPH, INPUT_OF_GRAPH, OUTPUT_OF_GRAPH];
    while bytes.has_remaining() {
        let Ok(key) = decode_varint(&mut bytes) else { return };
        let length = match key & 7 {
            0 => decode_varint(&mut bytes).map(|_| 0),
            1 => Ok(8),
            5 => Ok(4),
            2 => decode_varint(&mut bytes),
            _ => return,
        };
        let Some(length) = length.ok().and_then(|length| usize::try_from(length).ok()) else {
            return;
        };
        let Some(left) = bytes.remaining().checked_sub(length) else { return };
        if (key >> 3, key & 7) == (GRAPH_OF_MODEL, 2) {
            fields((&mut bytes).take(length), &wanted)
                .for_each(|(field, value)| each(field, value));
        }
        bytes.advance(bytes.remaining().saturating_sub(left));
    }
}

fn add(types: &mut HashMap<String, Declared>, value: Option<&ValueInfoProto>, bytes: &[u8]) {
    let Some(value) = value else { return };
    let Some((_, of_it)) = fields(bytes, &[TYPE_OF_VALUE]).last() else { return };
    let declared = declared(&of_it);
    if declared.value_type != ValueType::Tensor {
        types.insert(value.name.clone(), declared);
    }
}

/// Writes the declared type of an empty `Optional` into its attribute, also in bodies. The decoder
/// limits the nesting.
fn of_node(node: &mut NodeProto, bytes: &[u8]) {
    let is_typed = node.op_type == "Optional";
    let has_bodies = node.attribute.iter().any(|attribute| attribute.g.is_some());
    if !is_typed && !has_bodies {
        return;
    }
    let attributes = fields(bytes, &[ATTRIBUTE_OF_NODE]);
    for (attribute, (_, bytes)) in node.attribute.iter_mut().zip(attributes) {
        if let Some(graph) = &mut attribute.g {
            let mut at = 0;
            for (_, body) in fields(&*bytes, &[GRAPH_OF_ATTRIBUTE]) {
                for (_, inner) in fields(&*body, &[NODE_OF_GRAPH]) {
                    if let Some(node) = graph.node.get_mut(next(&mut at)) {
                        of_node(node, &inner);
                    }
                }
            }
        } else if is_typed && let Some((_, of_it)) = fields(&*bytes, &[TYPE_OF_ATTRIBUTE]).last() {
            let (word, dtype) = match declared(&of_it).value_type {
                ValueType::Sequence(dtype) => ("seq", Some(dtype)),
                ValueType::Tensor => ("tensor", element_type(&of_it)),
                _ => ("", None),
            };
            attribute.s = word.into();
            attribute.i = dtype.map_or(0, |dtype| i64::from(dtype.to_onnx()));
        }
    }
}

/// A type: of its fields, the last one counts.
fn declared(bytes: &[u8]) -> Declared {
    let of = |value_type| Declared { value_type, shape: None };
    let kinds = [TENSOR, SEQUENCE, MAP, SPARSE_TENSOR, OPAQUE, OPTIONAL];
    let element = |bytes: &[u8], field: u64| fields(bytes, &[field]).last().map(|(_, e)| e);
    let Some((kind, value)) = fields(bytes, &kinds).last() else { return Declared::default() };
    match kind {
        TENSOR => Declared::default(),
        SEQUENCE => match element(&value, ELEMENT) {
            Some(element) => match (declared(&element).value_type, element_type(&element)) {
                (ValueType::Tensor, Some(dtype)) => of(ValueType::Sequence(dtype)),
                (ValueType::Map(key, value), _) => of(ValueType::SequenceOfMaps(key, value)),
                _ => of(ValueType::Other),
            },
            None => of(ValueType::Other),
        },
        MAP => {
            let key = varint(&value, 1).and_then(|key| DType::from_onnx(u32::try_from(key).ok()?));
            let value = element(&value, VALUE_OF_MAP).and_then(|value| element_type(&value));
            let map = key.zip(value).and_then(|(key, value)| ValueType::map(key, value));
            of(map.unwrap_or(ValueType::Other))
        }
        OPTIONAL => match element(&value, ELEMENT) {
            Some(element) => match (declared(&element).value_type, tensor(&element)) {
                (ValueType::Sequence(dtype), _) => of(ValueType::OptionalSequence(dtype)),
                (ValueType::Tensor, Some((Some(dtype), shape))) => {
                    Declared { value_type: ValueType::OptionalTensor(dtype), shape }
                }
                _ => of(ValueType::Other),
            },
            None => of(ValueType::Other),
        },
        _ => of(ValueType::Other),
    }
}

/// The element type and shape of a tensor type.
fn tensor(bytes: &[u8]) -> Option<(Option<DType>, Option<TensorShapeProto>)> {
    let (_, value) = fields(bytes, &[TENSOR]).last()?;
    let tensor = type_proto::Tensor::decode(&*value).ok()?;
    let dtype = u32::try_from(tensor.elem_type).ok().and_then(DType::from_onnx);
    Some((dtype, tensor.shape))
}

fn element_type(bytes: &[u8]) -> Option<DType> {
    tensor(bytes)?.0
}

/// The last varint field of this number in a message.
fn varint(mut bytes: &[u8], wanted: u64) -> Option<u64> {
    let mut found = None;
    while bytes.has_remaining() {
        let key = decode_varint(&mut bytes).ok()?;
        let length = match key & 7 {
            0 => {
                let value = decode_varint(&mut bytes).ok()?;
                found = if key >> 3 == wanted { Some(value) } else { found };
                0
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(decode_varint(&mut bytes).ok()?).ok()?,
            _ => return None,
        };
        bytes = bytes.get(length..)?;
    }
    found
}
