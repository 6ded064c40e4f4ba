//! A node of one operator, its model and its inputs.

use belljar::Tensor;
use belljar_operators::Attribute;

use crate::run_time::sound;
use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, STRING, UINT8, fixed, float_attribute, floats_attribute,
    import_of_microsoft, int_attribute, ints_attribute, node, string_attribute, strings_attribute,
    value, value_of_any_shape,
};
use crate::{HOST, policy, run};

/// The version of ONNX's operators.
const OPSET: i64 = 26;

/// The element type of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    F32,
    F64,
    U8,
    I8,
    I16,
    I32,
    I64,
    Bool,
    Text,
}

use Kind::{Bool, F32, F64, I8, I16, I32, I64, Text, U8};

/// An input: its element type, its shape and the number that each of its elements has.
pub(super) type Filled = (Kind, &'static [usize], i64);

/// The value of an attribute.
pub(super) enum Say {
    Int(i64),
    Float(f32),
    Said(&'static str),
    Ints(&'static [i64]),
    Floats(&'static [f32]),
    Texts(&'static [&'static str]),
}

/// A node that is answered.
pub(super) struct Row {
    domain: &'static str,
    pub(super) name: &'static str,
    pub(super) inputs: &'static [Option<Filled>],
    attributes: &'static [(&'static str, Say)],
    /// The element types of the outputs; 0 for one that is left out.
    outputs: &'static [i64],
}

pub(super) const fn row(
    domain: &'static str,
    name: &'static str,
    inputs: &'static [Option<Filled>],
    attributes: &'static [(&'static str, Say)],
    outputs: &'static [i64],
) -> Row {
    Row { domain, name, inputs, attributes, outputs }
}

pub(super) const fn of(kind: Kind, shape: &'static [usize], number: i64) -> Option<Filled> {
    Some((kind, shape, number))
}

/// An input: its element type, its shape, and the number that its elements have or start from.
type Given = Option<(Kind, Vec<usize>, f64)>;

/// A node that may be invalid.
#[derive(Clone)]
pub(super) struct Node {
    domain: &'static str,
    name: &'static str,
    pub(super) inputs: Vec<Given>,
    attributes: Vec<(&'static str, Message)>,
    pub(super) outputs: Vec<i64>,
}

impl Row {
    pub(super) fn node(&self) -> Node {
        let attribute = |(name, said): &(&'static str, Say)| {
            let message = match said {
                Say::Int(number) => int_attribute(name, *number),
                Say::Float(number) => float_attribute(name, *number),
                Say::Said(text) => string_attribute(name, text),
                Say::Ints(numbers) => ints_attribute(name, numbers),
                Say::Floats(numbers) => floats_attribute(name, numbers),
                Say::Texts(texts) => strings_attribute(name, texts),
            };
            (*name, message)
        };
        Node {
            domain: self.domain,
            name: self.name,
            inputs: self
                .inputs
                .iter()
                .map(|input| {
                    input.map(|(kind, shape, number)| (kind, shape.to_vec(), number as f64))
                })
                .collect(),
            attributes: self.attributes.iter().map(attribute).collect(),
            outputs: self.outputs.to_vec(),
        }
    }

    /// The attributes that the operator has.
    pub(super) fn known(&self) -> &'static [Attribute] {
        let version = if self.domain.is_empty() { OPSET } else { 1 };
        belljar_operators::find(self.domain, self.name, version).unwrap().attributes
    }
}

impl Node {
    pub(super) fn with(&self, name: &'static str, attribute: Message) -> Node {
        let mut node = self.clone();
        node.attributes.retain(|(other, _)| *other != name);
        node.attributes.push((name, attribute));
        node
    }

    fn bytes(&self) -> Vec<u8> {
        let name = |at: usize, given: bool| if given { format!("i{at}") } else { String::new() };
        let inputs: Vec<String> =
            self.inputs.iter().enumerate().map(|(at, input)| name(at, input.is_some())).collect();
        let outputs: Vec<String> = (0..self.outputs.len())
            .map(|at| if self.outputs[at] == 0 { String::new() } else { format!("o{at}") })
            .collect();
        let declared = |(name, input): (&String, &Given)| {
            let (kind, shape, _) = input.as_ref()?;
            let dims: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
            Some(value(name, elem_type(*kind), &fixed(&dims)))
        };
        let attributes: Vec<Message> =
            self.attributes.iter().map(|(_, message)| message.clone()).collect();
        let written = node(
            self.name,
            &inputs.iter().map(String::as_str).collect::<Vec<_>>(),
            &outputs.iter().map(String::as_str).collect::<Vec<_>>(),
            &attributes,
        );
        let shown = outputs.iter().zip(&self.outputs).filter(|(name, _)| !name.is_empty());
        let graph = Graph {
            nodes: vec![written.bytes(7, self.domain)],
            inputs: inputs.iter().zip(&self.inputs).filter_map(declared).collect(),
            outputs: shown.map(|(name, kind)| value_of_any_shape(name, *kind)).collect(),
            ..Graph::default()
        };
        Message::new()
            .int(1, 8)
            .message(7, graph.message())
            .message(8, Message::new().int(2, OPSET))
            .message(8, import_of_microsoft())
            .finish()
    }

    /// The inputs, with another number in one of them.
    fn tensors(&self, other: Option<(usize, f64)>) -> Vec<(String, Tensor)> {
        let of = |(at, input): (usize, &Given)| {
            let (kind, shape, number) = input.as_ref()?;
            let number =
                other.filter(|(place, _)| *place == at).map_or(*number, |(_, number)| number);
            Some((format!("i{at}"), filled(*kind, shape, number)))
        };
        self.inputs.iter().enumerate().filter_map(of).collect()
    }

    /// Prepares the node and runs it with each of these numbers in an input.
    pub(super) fn survives(&self, what: &str, numbers: &[(usize, f64)]) {
        let model = match crate::support::load_under(&HOST, &self.bytes(), &policy()) {
            Ok(model) => model,
            Err(err) => return sound(self.name, &format!("{what}: loading"), &err),
        };
        for other in std::iter::once(None).chain(numbers.iter().copied().map(Some)) {
            let tensors = self.tensors(other);
            let tensors: Vec<(&str, Tensor)> =
                tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
            if let Err(err) = model.run(&tensors).and_then(|outputs| outputs.validate()) {
                sound(self.name, &format!("{what}: {other:?}"), &err);
            }
        }
    }

    /// Runs the node as a model of the corpus.
    pub(super) fn ends(&self) -> Result<(), belljar::Error> {
        let tensors = self.tensors(None);
        let tensors: Vec<(&str, Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        run(&self.bytes(), &tensors).map(|_| ())
    }
}

fn elem_type(kind: Kind) -> i64 {
    match kind {
        F32 => FLOAT,
        F64 => 11,
        U8 => UINT8,
        I8 => 3,
        I16 => 5,
        I32 => 6,
        I64 => INT64,
        Bool => BOOL,
        Text => STRING,
    }
}

/// A tensor with the same number everywhere; the nearest one that the type has.
fn filled(kind: Kind, shape: &[usize], number: f64) -> Tensor {
    let count = shape.iter().product();
    match kind {
        F32 => Tensor::new(vec![number as f32; count], shape),
        F64 => Tensor::new(vec![number; count], shape),
        U8 => Tensor::new(vec![number as u8; count], shape),
        I8 => Tensor::new(vec![number as i8; count], shape),
        I16 => Tensor::new(vec![number as i16; count], shape),
        I32 => Tensor::new(vec![number as i32; count], shape),
        I64 => Tensor::new(vec![number as i64; count], shape),
        Bool => Tensor::new(vec![number != 0.0; count], shape),
        Text => Tensor::new(vec![format!("{number}"); count], shape),
    }
    .unwrap()
}
