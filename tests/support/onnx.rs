//! Writes ONNX files, well-formed or not: the few protobuf messages that tests need, by field
//! number (onnx.proto of ONNX 1.23).
#![allow(dead_code)] // Each user uses a part.

/// A protobuf message under construction.
#[derive(Clone, Default, Debug)]
pub(crate) struct Message(Vec<u8>);

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Message {
    pub(crate) fn new() -> Message {
        Message::default()
    }

    pub(crate) fn int(mut self, field: u64, value: i64) -> Message {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value as u64);
        self
    }

    pub(crate) fn float(mut self, field: u64, value: f32) -> Message {
        varint(&mut self.0, field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Message {
        let value = value.as_ref();
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, value.0)
    }

    pub(crate) fn messages(self, field: u64, values: impl IntoIterator<Item = Message>) -> Message {
        values.into_iter().fold(self, |message, value| message.message(field, value))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The domain of classical models.
pub(crate) const ML: &str = "ai.onnx.ml";

/// The domain of onnxruntime's own operators, in the only version that it has.
pub(crate) const MICROSOFT: &str = "com.microsoft";

pub(crate) const FLOAT: i64 = 1;
pub(crate) const UINT8: i64 = 2;
pub(crate) const INT64: i64 = 7;
pub(crate) const STRING: i64 = 8;
pub(crate) const BOOL: i64 = 9;

/// One dimension of a declared shape.
#[derive(Clone, Copy)]
pub(crate) enum Dim<'a> {
    Fixed(i64),
    Symbol(&'a str),
}

pub(crate) fn fixed(dims: &[i64]) -> Vec<Dim<'static>> {
    dims.iter().map(|dim| Dim::Fixed(*dim)).collect()
}

/// A declared input or output.
pub(crate) fn value(name: &str, elem_type: i64, dims: &[Dim<'_>]) -> Message {
    let shape = dims.iter().fold(Message::new(), |shape, dim| {
        shape.message(
            1,
            match dim {
                Dim::Fixed(size) => Message::new().int(1, *size),
                Dim::Symbol(name) => Message::new().bytes(2, name),
            },
        )
    });
    let tensor = Message::new().int(1, elem_type).message(2, shape);
    Message::new().bytes(1, name).message(2, Message::new().message(1, tensor))
}

/// A declared output with a type but no shape.
pub(crate) fn value_of_any_shape(name: &str, elem_type: i64) -> Message {
    let tensor = Message::new().int(1, elem_type);
    Message::new().bytes(1, name).message(2, Message::new().message(1, tensor))
}

/// The type of tensors of any shape.
pub(crate) fn tensor_type(elem_type: i64) -> Message {
    Message::new().message(1, Message::new().int(1, elem_type))
}

/// The type of sequences of tensors.
pub(crate) fn sequence_type(elem_type: i64) -> Message {
    Message::new().message(4, Message::new().message(1, tensor_type(elem_type)))
}

/// The type of maps.
pub(crate) fn map_type(key: i64, value: i64) -> Message {
    Message::new().message(5, Message::new().int(1, key).message(2, tensor_type(value)))
}

/// The type of sequences of maps.
pub(crate) fn maps_type(key: i64, value: i64) -> Message {
    Message::new().message(4, Message::new().message(1, map_type(key, value)))
}

/// The type of optionals.
pub(crate) fn optional_type(of: Message) -> Message {
    Message::new().message(9, Message::new().message(1, of))
}

/// A declared input or output of such a type.
pub(crate) fn value_of_type(name: &str, of: Message) -> Message {
    Message::new().bytes(1, name).message(2, of)
}

/// A node of the domain of classical models.
pub(crate) fn classical_node(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[Message],
) -> Message {
    node(op_type, inputs, outputs, attributes).bytes(7, ML)
}

pub(crate) fn node(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[Message],
) -> Message {
    let mut node = Message::new();
    for input in inputs {
        node = node.bytes(1, input);
    }
    for output in outputs {
        node = node.bytes(2, output);
    }
    node.bytes(3, outputs.first().copied().unwrap_or(op_type))
        .bytes(4, op_type)
        .messages(5, attributes.iter().cloned())
}

/// The name of an operator in lists of tests: with its domain, if that has names of ONNX's.
pub(crate) fn listed_name(domain: &str, name: &str) -> String {
    if domain == MICROSOFT { format!("{MICROSOFT}:{name}") } else { name.to_owned() }
}

/// A node of an operator with such a name.
pub(crate) fn node_of(
    listed_name: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[Message],
) -> Message {
    match listed_name.split_once(':') {
        Some((domain, name)) => node(name, inputs, outputs, attributes).bytes(7, domain),
        None => node(listed_name, inputs, outputs, attributes),
    }
}

/// An import of the operators of onnxruntime.
pub(crate) fn import_of_microsoft() -> Message {
    Message::new().bytes(1, MICROSOFT).int(2, 1)
}

pub(crate) fn int_attribute(name: &str, value: i64) -> Message {
    Message::new().bytes(1, name).int(3, value).int(20, 2)
}

pub(crate) fn float_attribute(name: &str, value: f32) -> Message {
    Message::new().bytes(1, name).float(2, value).int(20, 1)
}

pub(crate) fn string_attribute(name: &str, value: &str) -> Message {
    Message::new().bytes(1, name).bytes(4, value).int(20, 3)
}

pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> Message {
    let attribute = Message::new().bytes(1, name);
    values.iter().fold(attribute, |attribute, value| attribute.int(8, *value)).int(20, 7)
}

pub(crate) fn floats_attribute(name: &str, values: &[f32]) -> Message {
    let attribute = Message::new().bytes(1, name);
    values.iter().fold(attribute, |attribute, value| attribute.float(7, *value)).int(20, 6)
}

pub(crate) fn strings_attribute(name: &str, values: &[&str]) -> Message {
    let attribute = Message::new().bytes(1, name);
    values.iter().fold(attribute, |attribute, value| attribute.bytes(9, value)).int(20, 8)
}

pub(crate) fn tensor_attribute(name: &str, value: Message) -> Message {
    Message::new().bytes(1, name).message(5, value).int(20, 4)
}

pub(crate) fn graph_attribute(name: &str, graph: Message) -> Message {
    Message::new().bytes(1, name).message(6, graph).int(20, 5)
}

pub(crate) fn tensor_i64(name: &str, dims: &[i64], values: &[i64]) -> Message {
    let mut tensor = Message::new();
    for dim in dims {
        tensor = tensor.int(1, *dim);
    }
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.int(2, INT64).bytes(8, name).bytes(9, raw)
}

/// A tensor of any element type, from its raw data.
pub(crate) fn tensor(name: &str, elem_type: i64, dims: &[i64], raw: &[u8]) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    tensor.int(2, elem_type).bytes(8, name).bytes(9, raw)
}

pub(crate) fn tensor_f32(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let mut tensor = Message::new();
    for dim in dims {
        tensor = tensor.int(1, *dim);
    }
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.int(2, FLOAT).bytes(8, name).bytes(9, raw)
}

/// A graph: nodes, initializers, inputs, outputs.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Message>,
    pub(crate) initializers: Vec<Message>,
    pub(crate) inputs: Vec<Message>,
    pub(crate) outputs: Vec<Message>,
}

impl Graph {
    pub(crate) fn message(&self) -> Message {
        Message::new()
            .messages(1, self.nodes.iter().cloned())
            .bytes(2, "graph")
            .messages(5, self.initializers.iter().cloned())
            .messages(11, self.inputs.iter().cloned())
            .messages(12, self.outputs.iter().cloned())
    }

    /// The fields of a model with this graph and operator set 17; more can be added.
    pub(crate) fn model(&self) -> Message {
        Message::new()
            .int(1, 8)
            .bytes(2, "belljar tests")
            .message(7, self.message())
            .message(8, Message::new().int(2, 17))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.model().finish()
    }

    /// The same with operators of the domain `ai.onnx.ml`, in this version.
    pub(crate) fn classical(&self, version: i64) -> Vec<u8> {
        self.model().message(8, Message::new().bytes(1, ML).int(2, version)).finish()
    }
}

/// `y = Relu(x)` for f32 of this shape.
pub(crate) fn relu(dims: &[Dim<'_>]) -> Graph {
    Graph {
        nodes: vec![node("Relu", &["x"], &["y"], &[])],
        inputs: vec![value("x", FLOAT, dims)],
        outputs: vec![value("y", FLOAT, dims)],
        ..Graph::default()
    }
}

/// Noise like an input of any length, noise of a fixed shape, noise with a seed of its own, and noise
/// in the three iterations of a Loop.
pub(crate) fn noises() -> Graph {
    let shape = ints_attribute("shape", &[4]);
    Graph {
        nodes: vec![
            node("RandomNormalLike", &["x"], &["like"], &[]),
            node("RandomNormal", &[], &["fixed"], std::slice::from_ref(&shape)),
            node("RandomNormal", &[], &["own"], &[shape, float_attribute("seed", 3.0)]),
            node(
                "Loop",
                &["three", ""],
                &["loop"],
                &[graph_attribute("body", noise_of_an_iteration().message())],
            ),
        ],
        initializers: vec![tensor_i64("three", &[], &[3])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
        outputs: ["like", "fixed", "own", "loop"]
            .map(|name| value_of_any_shape(name, FLOAT))
            .to_vec(),
    }
}

/// The body of the Loop.
fn noise_of_an_iteration() -> Graph {
    Graph {
        nodes: vec![
            node("Identity", &["go"], &["going"], &[]),
            node("RandomUniformLike", &["x"], &["each"], &[]),
        ],
        inputs: vec![value("at", INT64, &[]), value("go", BOOL, &[])],
        outputs: vec![value("going", BOOL, &[]), value_of_any_shape("each", FLOAT)],
        ..Graph::default()
    }
}

/// Passes a value through a sequence. Models with sequences are prepared for exact shapes.
pub(crate) fn through_a_sequence(from: &str, to: &str) -> Vec<Message> {
    vec![
        node("SequenceConstruct", &[from], &["sequence"], &[]),
        node("Constant", &[], &["first"], &[tensor_attribute("value", tensor_i64("", &[], &[0]))]),
        node("SequenceAt", &["sequence", "first"], &[to], &[]),
    ]
}

/// A product of two square matrices that are computed at run time, so that it takes as long as the
/// size asks for: `y = (x · xᵀ)^(2^doublings)`, about 2n³ operations for each doubling.
pub(crate) fn slow(size: i64, doublings: usize) -> Graph {
    let mut nodes = vec![node("MatMul", &["x", "x"], &["m0"], &[])];
    for step in 0..doublings {
        let (from, to) = (format!("m{step}"), format!("m{}", step + 1));
        nodes.push(node("MatMul", &[&from, &from], &[&to], &[]));
    }
    let last = format!("m{doublings}");
    let dims = fixed(&[size, size]);
    Graph {
        nodes,
        inputs: vec![value("x", FLOAT, &dims)],
        outputs: vec![value(&last, FLOAT, &dims)],
        ..Graph::default()
    }
}

/// A size that is only known when it runs, halved again and again: a formula as deep as that.
pub(crate) fn halved(times: usize) -> Graph {
    let mut nodes = vec![
        node("NonZero", &["x"], &["places"], &[]),
        node("Cast", &["places"], &["numbers"], &[int_attribute("to", FLOAT)]),
        node("Unsqueeze", &["numbers", "axes"], &["v0"], &[]),
    ];
    let window = [
        ints_attribute("kernel_shape", &[3]),
        ints_attribute("strides", &[2]),
        string_attribute("auto_pad", "SAME_UPPER"),
    ];
    nodes.extend((0..times).map(|n| {
        let (from, to) = (format!("v{n}"), format!("v{}", n + 1));
        node("MaxPool", &[&from], &[&to], &window)
    }));
    Graph {
        nodes,
        initializers: vec![tensor_i64("axes", &[1], &[0])],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape(&format!("v{times}"), FLOAT)],
    }
}
