//! Random weights for the `onnx` package's light models, the same on every machine.
//!
//! Those models have real architectures, but each weight is a `ConstantOfShape` node of one value,
//! so a permuted kernel or a swapped channel would go unnoticed. Every such node becomes an
//! initializer of seeded values under the same name; everything else is copied.
//!
//! Scale: He et al., "Delving Deep into Rectifiers" (2015): a variance of gain / fan-in keeps the
//! activations' size from layer to layer. Each filter is also centred to a sum of zero: otherwise
//! the positive mean that every ReLU leaves grows with depth until all inputs get the same answer.
//! Only exactly rounded arithmetic is used (+, -, ×, ÷, square root), never ln or cos, whose last
//! bit depends on the machine's library.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use crate::protobuf::{self, Field};

/// Numbers of the fields of ModelProto, GraphProto, NodeProto, TensorProto and ValueInfoProto.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const NODE_INPUT: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_OP_TYPE: u64 = 4;
const TENSOR_DIMS: u64 = 1;
const TENSOR_DATA_TYPE: u64 = 2;
const TENSOR_INT64_DATA: u64 = 7;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW_DATA: u64 = 9;
const VALUE_INFO_NAME: u64 = 1;
const VALUE_INFO_TYPE: u64 = 2;
const FLOAT: u64 = 1;

/// The maximum number of elements of a weight: the models here have none above 10 MB.
const MAX_ELEMENTS: u64 = 1 << 25;

struct Node<'a> {
    op: &'a str,
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
}

/// The role of a weight, which decides its distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// A filter or matrix whose rows are `fan_in` long; the variance is `gain / fan_in`.
    Filter { gain: f64 },
    /// Around `mean`, with this standard deviation.
    Around { mean: f64, deviation: f64 },
}

/// The model with seeded weights in place of its constant ones.
///
/// `classifier` scales the last filter or matrix, so that the logits differ without saturating the
/// softmax behind them.
pub(crate) fn randomise(model: &[u8], classifier: f64) -> Result<Vec<u8>> {
    let fields = protobuf::fields(model)?;
    let mut out = Vec::new();
    for field in &fields {
        if field.number == MODEL_GRAPH {
            let graph = randomise_graph(field.bytes()?, classifier)?;
            protobuf::put_bytes(&mut out, MODEL_GRAPH, &graph);
        } else {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}

fn randomise_graph(graph: &[u8], classifier: f64) -> Result<Vec<u8>> {
    let fields = protobuf::fields(graph)?;
    let nodes = fields
        .iter()
        .filter(|field| field.number == GRAPH_NODE)
        .map(|field| node(field.bytes()?))
        .collect::<Result<Vec<_>>>()?;
    let topology = Topology::of(&nodes);
    let last_filter = nodes.iter().rfind(|node| matches!(node.op, "Conv" | "Gemm"));
    let last_filter = last_filter.and_then(|node| node.inputs.get(1).copied());

    // Maps the shape that a ConstantOfShape node reads to the weight that it makes.
    let mut weights: HashMap<&str, (&str, Role)> = HashMap::new();
    for node in nodes.iter().filter(|node| node.op == "ConstantOfShape") {
        let (&[shape], &[weight]) = (&node.inputs[..], &node.outputs[..]) else {
            bail!("a ConstantOfShape node has {} inputs", node.inputs.len());
        };
        let mut role = topology.role(weight)?;
        if let (Role::Filter { gain }, true) = (role, Some(weight) == last_filter) {
            role = Role::Filter { gain: gain * classifier * classifier };
        }
        if weights.insert(shape, (weight, role)).is_some() {
            bail!("two ConstantOfShape nodes read {shape}");
        }
    }

    let mut shapes: HashMap<&str, Vec<u64>> = HashMap::new();
    for field in fields.iter().filter(|field| field.number == GRAPH_INITIALIZER) {
        let (name, shape) = shape_tensor(field)?;
        if weights.contains_key(name) {
            shapes.insert(name, shape);
        }
    }

    let mut out = Vec::new();
    for field in &fields {
        let name = match field.number {
            GRAPH_INITIALIZER => text_of(field.bytes()?, TENSOR_NAME)?,
            GRAPH_INPUT => text_of(field.bytes()?, VALUE_INFO_NAME)?,
            GRAPH_NODE if node(field.bytes()?)?.op == "ConstantOfShape" => continue,
            _ => "",
        };
        let Some(&(weight, role)) = weights.get(name) else {
            out.extend_from_slice(field.raw);
            continue;
        };
        let shape = shapes.get(name).with_context(|| format!("{name} is not an initializer"))?;
        let message = match field.number {
            GRAPH_INITIALIZER => float_tensor(weight, shape, &values(weight, shape, role)?),
            _ => float_input(weight, shape),
        };
        protobuf::put_bytes(&mut out, field.number, &message);
    }
    Ok(out)
}

/// The producer and the consumers of each tensor.
struct Topology<'a> {
    producers: HashMap<&'a str, &'a Node<'a>>,
    readers: HashMap<&'a str, Vec<(&'a Node<'a>, usize)>>,
}

impl<'a> Topology<'a> {
    fn of(nodes: &'a [Node<'a>]) -> Topology<'a> {
        let mut producers = HashMap::new();
        let mut readers: HashMap<&str, Vec<_>> = HashMap::new();
        for node in nodes {
            for &output in &node.outputs {
                producers.insert(output, node);
            }
            for (index, &input) in node.inputs.iter().enumerate() {
                readers.entry(input).or_default().push((node, index));
            }
        }
        Topology { producers, readers }
    }

    fn only_reader(&self, tensor: &str) -> Result<(&'a Node<'a>, usize)> {
        match self.readers.get(tensor).map(Vec::as_slice) {
            Some(&[reader]) => Ok(reader),
            readers => bail!("{tensor} has {} readers", readers.map_or(0, <[_]>::len)),
        }
    }

    fn role(&self, weight: &str) -> Result<Role> {
        let (reader, index) = self.only_reader(weight)?;
        Ok(match (reader.op, index) {
            ("Conv" | "Gemm", 1) => Role::Filter { gain: self.gain(reader) },
            ("Conv" | "Gemm", 2) => Role::Around { mean: 0.0, deviation: 0.1 },
            ("BatchNormalization", 1) => {
                // The last scale of a residual branch is halved: sums would grow block by block.
                let output = reader.outputs.first().copied().unwrap_or_default();
                let to_sum = self.only_reader(output).is_ok_and(|(next, _)| next.op == "Sum");
                let mean = if to_sum { 0.5 } else { 1.0 };
                Role::Around { mean, deviation: 0.1 * mean }
            }
            ("BatchNormalization", 2 | 3) => Role::Around { mean: 0.0, deviation: 0.1 },
            // At most 3.5 deviations from its mean, so a variance is never below 0.65.
            ("BatchNormalization", 4) => Role::Around { mean: 1.0, deviation: 0.1 },
            ("Unsqueeze", 0) => {
                let output = reader.outputs.first().copied().unwrap_or_default();
                match self.only_reader(output)?.0.op {
                    "Mul" => Role::Around { mean: 1.0, deviation: 0.2 },
                    "Add" => Role::Around { mean: 0.0, deviation: 0.1 },
                    other => bail!("no rule for {weight}, which feeds {other} through Unsqueeze"),
                }
            }
            (op, index) => bail!("no rule for {weight}, which is input {index} of {op}"),
        })
    }

    /// 1 if the input is centred already, else the inverse of what a ReLU leaves: its output has a
    /// variance of 0.34 times its input's, and the mean does not pass a centred filter.
    fn gain(&self, filter: &Node<'_>) -> f64 {
        let producer = filter.inputs.first().and_then(|input| self.producers.get(input));
        match producer {
            None => 1.0,
            Some(node) if node.op == "BatchNormalization" => 1.0,
            Some(_) => 2.9,
        }
    }
}

fn node(message: &[u8]) -> Result<Node<'_>> {
    let mut node = Node { op: "", inputs: Vec::new(), outputs: Vec::new() };
    for field in protobuf::fields(message)? {
        match field.number {
            NODE_INPUT => node.inputs.push(field.text()?),
            NODE_OUTPUT => node.outputs.push(field.text()?),
            NODE_OP_TYPE => node.op = field.text()?,
            _ => {}
        }
    }
    Ok(node)
}

fn text_of(message: &[u8], number: u64) -> Result<&str> {
    let fields = protobuf::fields(message)?;
    fields.iter().find(|field| field.number == number).map_or(Ok(""), Field::text)
}

/// An initializer's name and, if it holds 64-bit integers, its content.
fn shape_tensor<'a>(initializer: &Field<'a>) -> Result<(&'a str, Vec<u64>)> {
    let mut name = "";
    let mut shape = Vec::new();
    for field in protobuf::fields(initializer.bytes()?)? {
        match field.number {
            TENSOR_NAME => name = field.text()?,
            TENSOR_INT64_DATA => shape.extend(field.integers()?),
            TENSOR_RAW_DATA => {
                let (numbers, _) = field.bytes()?.as_chunks::<8>();
                shape.extend(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)));
            }
            _ => {}
        }
    }
    Ok((name, shape))
}

fn float_tensor(name: &str, shape: &[u64], values: &[f32]) -> Vec<u8> {
    let mut tensor = Vec::new();
    for &dim in shape {
        protobuf::put_integer(&mut tensor, TENSOR_DIMS, dim);
    }
    protobuf::put_integer(&mut tensor, TENSOR_DATA_TYPE, FLOAT);
    protobuf::put_bytes(&mut tensor, TENSOR_NAME, name.as_bytes());
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    protobuf::put_bytes(&mut tensor, TENSOR_RAW_DATA, &raw);
    tensor
}

/// In IR version 3 every initializer is also declared as an input of the graph.
fn float_input(name: &str, dims: &[u64]) -> Vec<u8> {
    let mut shape = Vec::new();
    for &dim in dims {
        let mut dimension = Vec::new();
        protobuf::put_integer(&mut dimension, 1, dim);
        protobuf::put_bytes(&mut shape, 1, &dimension);
    }
    let mut tensor_type = Vec::new();
    protobuf::put_integer(&mut tensor_type, 1, FLOAT);
    protobuf::put_bytes(&mut tensor_type, 2, &shape);
    let mut of_type = Vec::new();
    protobuf::put_bytes(&mut of_type, 1, &tensor_type);
    let mut input = Vec::new();
    protobuf::put_bytes(&mut input, VALUE_INFO_NAME, name.as_bytes());
    protobuf::put_bytes(&mut input, VALUE_INFO_TYPE, &of_type);
    input
}

fn values(name: &str, shape: &[u64], role: Role) -> Result<Vec<f32>> {
    let count = shape.iter().try_fold(1_u64, |count, &dim| count.checked_mul(dim));
    let count = count.filter(|&count| count > 0 && count <= MAX_ELEMENTS);
    let count = count.with_context(|| format!("{name} has the unsupported shape {shape:?}"))?;
    let mut random = Random::named(name);
    let mut values = Vec::with_capacity(count as usize);
    match role {
        Role::Around { mean, deviation } => {
            values.extend(
                (0..count).map(|_| (mean + deviation * (random.draw() as f64 / DEVIATION)) as f32),
            );
        }
        Role::Filter { gain } => {
            let filters = shape.first().copied().unwrap_or(1);
            let fan_in = count / filters;
            let scale = (gain / fan_in as f64).sqrt() / DEVIATION;
            for _ in 0..filters {
                let drawn: Vec<i64> = (0..fan_in).map(|_| random.draw()).collect();
                // Sums of integers are exact in any order.
                let mean = match fan_in {
                    1 => 0.0,
                    _ => drawn.iter().sum::<i64>() as f64 / fan_in as f64,
                };
                values.extend(drawn.iter().map(|&value| ((value as f64 - mean) * scale) as f32));
            }
        }
    }
    Ok(values)
}

/// Standard deviation of [`Random::draw`]: the square root of 4 × (65536² − 1) / 12.
const DEVIATION: f64 = 37_837.227_24;

/// splitmix64 (Steele, Lea and Flood, 2014), seeded by a name through 64-bit FNV-1a.
struct Random(u64);

impl Random {
    fn named(name: &str) -> Random {
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The sum of four uniform 16-bit integers, shifted to a mean of zero: bell-shaped, bounded.
    fn draw(&mut self) -> i64 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
        sum as i64 - 2 * 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_centred_and_scaled() {
        let mut random = Random::named("conv1_w_0");
        let drawn: Vec<f64> = (0..100_000).map(|_| random.draw() as f64 / DEVIATION).collect();
        let mean = drawn.iter().sum::<f64>() / 1e5;
        let variance = drawn.iter().map(|value| value * value).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!(drawn.iter().all(|value| value.abs() < 3.47));
    }

    #[test]
    fn filters_are_centred_and_depend_on_their_name() {
        let role = Role::Filter { gain: 2.9 };
        let one = values("a", &[4, 3, 3, 3], role).expect("values");
        assert_eq!(one.len(), 108);
        assert_eq!(one, values("a", &[4, 3, 3, 3], role).expect("values"));
        assert_ne!(one, values("b", &[4, 3, 3, 3], role).expect("values"));
        for filter in one.chunks(27) {
            assert!(filter.iter().sum::<f32>().abs() < 1e-5);
        }
    }

    #[test]
    fn empty_and_huge_shapes_are_errors() {
        for shape in [&[0, 3][..], &[1 << 40], &[u64::MAX, 2]] {
            assert!(values("a", shape, Role::Filter { gain: 1.0 }).is_err());
        }
    }
}
