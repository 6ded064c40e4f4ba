//! Rewrites a checked graph that uses element types that tract lacks or does not compute with as
//! ONNX specifies. Values of small types are carried as codes of one or two bytes in tensors of
//! unsigned integers: operators that move elements move codes, and conversions and quantizations
//! become operators of `onnx_ops` that know the formats. Operators that compute with float16 or
//! bfloat16 compute with float32, and each result is rounded once (`narrow.rs`). The check passes
//! no other operator with such a type.
//!
//! A float16 or bfloat16 value can exist twice: under its own name, and as a float32 of the same
//! value under a generated name. Each is made when it is first read, in the graph that defines the
//! value.

mod declared;
mod nodes;

use std::collections::HashMap;

use belljar_abi::DType;
use belljar_operators::{BYTES, F32, FLOAT8, MICROSOFT, NARROW, STORED, STRING, Types};
use onnx_ops::framework::synthetic::{CAST, DEQUANTIZE, QUANTIZE, TEXT_CAST};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

use self::declared::{carrier, declare, declared, dtype, retype};
use self::nodes::{add_type, conversion, number, rounding};
use super::attributes::find;
use super::narrow::{Rule, rule};
use super::text::shown;
use super::{Versions, functions, node, tensors};
use crate::weights::Weights;

/// The inputs and outputs of a model that are carried as codes, by name, with their element types.
#[derive(Default)]
pub(crate) struct Carried {
    pub(crate) inputs: HashMap<String, DType>,
    pub(crate) outputs: HashMap<String, DType>,
}

/// Rewrites a model's graph.
pub(super) fn rewrite(graph: &mut GraphProto, versions: &Versions) -> Result<Carried, String> {
    let mut prefix = String::from("as:");
    while functions::names(graph).any(|name| name.starts_with(&prefix)) {
        prefix.push('\'');
    }
    let names = |values: &[ValueInfoProto]| -> Vec<String> {
        values.iter().map(|value| value.name.clone()).collect()
    };
    let (inputs, outputs) = (names(&graph.input), names(&graph.output));
    let mut rewriter = Rewriter { versions, prefix, added: 0, scopes: Vec::new() };
    let (given, made) = rewriter.graph(graph, &[])?;
    let small = |(name, types): (String, Types)| Some((name, dtype(types)?));
    Ok(Carried {
        inputs: inputs.into_iter().zip(given).filter_map(small).collect(),
        outputs: outputs.into_iter().zip(made).filter_map(small).collect(),
    })
}

/// A value of a graph.
struct Value {
    types: Types,
    /// Whether the rewritten graph has a value of this name; otherwise it has only the float32.
    exists: bool,
    /// The name of a float32 of the same value, if there is one.
    wide: Option<String>,
}

/// A graph that is being rewritten.
#[derive(Default)]
struct Scope {
    values: HashMap<String, Value>,
    nodes: Vec<NodeProto>,
}

struct Rewriter<'v> {
    versions: &'v Versions,
    /// No name of the model starts with this.
    prefix: String,
    added: usize,
    /// The graph that is being rewritten, after the graphs that enclose it.
    scopes: Vec<Scope>,
}

impl Rewriter<'_> {
    /// Rewrites a graph whose inputs have these types; returns the types of its inputs and outputs.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        given: &[Types],
    ) -> Result<(Vec<Types>, Vec<Types>), String> {
        self.scopes.push(Scope::default());
        let mut taken = Vec::with_capacity(graph.input.len());
        for (at, input) in graph.input.iter_mut().enumerate() {
            let types = declared(input).or(given.get(at).copied());
            let types = types.ok_or_else(|| unknown(&input.name))?;
            // tract requires the inputs of bodies to be declared.
            if declared(input).is_none() {
                declare(input, types);
            }
            retype(input);
            self.made(&input.name, types, None);
            taken.push(types);
        }
        for tensor in &mut graph.initializer {
            let types = Types::of(tensor.data_type).ok_or_else(|| unknown(&tensor.name))?;
            self.made(&tensor.name, types, None);
            self.tensor(tensor).map_err(|why| tensors::named(tensor, &why))?;
        }
        for node in std::mem::take(&mut graph.node) {
            self.node(node)?;
        }
        let mut made = Vec::with_capacity(graph.output.len());
        for output in &mut graph.output {
            retype(output);
            self.itself(&output.name);
            made.push(self.find(&output.name).ok_or_else(|| unknown(&output.name))?);
        }
        graph.node = self.scopes.pop().map(|scope| scope.nodes).unwrap_or_default();
        // Declarations of intermediate values are not read.
        graph.value_info.clear();
        Ok((taken, made))
    }

    /// The graph that is being rewritten.
    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn push(&mut self, node: NodeProto) {
        self.scope().nodes.push(node);
    }

    /// Records a value of the graph: the value itself, or only a float32 of this name.
    fn made(&mut self, name: &str, types: Types, wide: Option<String>) {
        if !name.is_empty() {
            let value = Value { types, exists: wide.is_none(), wide };
            self.scope().values.insert(name.to_owned(), value);
        }
    }

    /// A value, and the nodes of the graph that defines it.
    fn lookup(&mut self, name: &str) -> Option<(&mut Value, &mut Vec<NodeProto>)> {
        let scopes = self.scopes.iter_mut().rev();
        let mut found = scopes.filter(|scope| scope.values.contains_key(name));
        let Scope { values, nodes } = found.next()?;
        Some((values.get_mut(name)?, nodes))
    }

    /// The type of a value that can be read here.
    fn find(&self, name: &str) -> Option<Types> {
        self.scopes.iter().rev().find_map(|scope| scope.values.get(name)).map(|value| value.types)
    }

    /// The name of a float32 with the value of a float16 or bfloat16.
    fn wide(&mut self, name: &str) -> String {
        let fresh = self.name();
        let Some((value, nodes)) = self.lookup(name) else { return name.to_owned() };
        if !NARROW.has(value.types) {
            return name.to_owned();
        }
        let types = value.types;
        let wide = value.wide.get_or_insert_with(|| {
            nodes.push(conversion(name.to_owned(), fresh.clone(), types, F32));
            fresh
        });
        wide.clone()
    }

    /// Makes sure that the value exists under its own name.
    fn itself(&mut self, name: &str) {
        let Some((value, nodes)) = self.lookup(name) else { return };
        if let (false, Some(wide)) = (value.exists, &value.wide) {
            nodes.push(conversion(wide.clone(), name.to_owned(), F32, value.types));
            value.exists = true;
        }
    }

    /// Replaces the elements of a small type by codes.
    fn tensor(&self, tensor: &mut TensorProto) -> Result<(), String> {
        let Some(dtype) = Types::of(tensor.data_type).and_then(dtype) else { return Ok(()) };
        // Those of large initializers are in their place already.
        if !Weights::has(tensor) {
            tensor.raw_data = tensors::codes(tensor)?;
            tensor.int32_data = Vec::new();
        }
        tensor.data_type = carrier(dtype) as i32;
        Ok(())
    }

    fn node(&mut self, mut node: NodeProto) -> Result<(), String> {
        let operator = node::operator(&node, self.versions)?;
        let read = node::inputs(&node, operator, &|name| self.find(name))?;
        let given: Vec<Types> = read.iter().map(|read| read.types).collect();
        let bodies: Vec<usize> =
            (0..node.attribute.len()).filter(|at| node.attribute[*at].g.is_some()).collect();
        let made = if bodies.is_empty() {
            node::made(&node, operator, &read)?
        } else {
            let inner = node::given_to_body(&node, &read);
            let mut made = Vec::new();
            for at in bodies {
                let Some(body) = &mut node.attribute[at].g else { continue };
                made = self.graph(body, &inner)?.1;
            }
            node::made_of_body(&node, made)
        };
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
        }
        let small = |types: &Types| STORED.has(*types);
        let any_small = given.iter().chain(&made).any(small);
        let converted = any_small || given.iter().chain(&made).any(|types| NARROW.has(*types));
        // Its data have no type of their own once they are codes.
        if node.op_type == "GatherBlockQuantized" {
            add_type(&mut node, "data", *given.first().ok_or_else(|| unknown(""))?);
        }
        if any_small && node.domain == MICROSOFT {
            let quantized = match &*node.op_type {
                "QuantizeLinear" => made.first(),
                "DequantizeLinear" => given.first(),
                _ => None,
            };
            if let Some(types) = quantized {
                add_type(&mut node, "codes", *types);
            }
        }
        match super::onnx_operator(&node) {
            "Cast" | "CastLike" if given.first() == Some(&STRING) || made.contains(&STRING) => {
                if any_small {
                    let name = node.output.first().map_or("", |name| name);
                    return Err(format!(
                        "node {}: Cast: a conversion between strings and {} is not implemented",
                        shown(name),
                        given
                            .iter()
                            .chain(&made)
                            .find(|types| small(types))
                            .map_or_else(String::new, |types| types.names())
                    ));
                }
                if node.op_type == "CastLike" {
                    node.input.truncate(1);
                    node.attribute = made.first().map(|to| number("to", *to)).into_iter().collect();
                }
                node.op_type = TEXT_CAST.into();
                self.kept(node, &made);
            }
            "Cast" | "CastLike" if converted => {
                let (Some(from), Some(to)) = (given.first(), made.first()) else {
                    return Err(unknown(""));
                };
                self.cast(node, *from, *to);
            }
            "IsNaN" | "IsInf" if given.iter().any(|types| FLOAT8.has(*types)) => {
                let (from, to) = (given[0], self.name());
                self.push(conversion(std::mem::take(&mut node.input[0]), to.clone(), from, F32));
                node.input[0] = to;
                self.kept(node, &made);
            }
            // The codes in its input do not tell their type.
            "EyeLike" if any_small => {
                node.attribute.retain(|attribute| attribute.name != "dtype");
                node.attribute.push(number("dtype", *made.first().ok_or_else(|| unknown(""))?));
                self.kept(node, &made);
            }
            "QuantizeLinear" | "DequantizeLinear" if any_small || !tract_computes(&node, &read) => {
                for read in &read {
                    add_type(&mut node, ["x", "scale", "zero"][read.at.min(2)], read.types);
                }
                add_type(&mut node, "to", *made.first().ok_or_else(|| unknown(""))?);
                let quantize = node.op_type == "QuantizeLinear";
                node.op_type = if quantize { QUANTIZE } else { DEQUANTIZE }.into();
                self.kept(node, &made);
            }
            "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
            | "Bernoulli" | "Multinomial" => {
                add_type(&mut node, "to", *made.first().ok_or_else(|| unknown(""))?);
                // Only the shape of these is read.
                if !node.op_type.ends_with("Like") {
                    for name in &mut node.input {
                        *name = self.wide(name);
                    }
                }
                self.kept(node, &made);
            }
            _ => match rule(&node, operator, &given, &made) {
                Rule::Compute => self.computed(node, &made, true),
                Rule::Choose => self.computed(node, &made, false),
                Rule::Move => self.moved(node, &made),
                Rule::Keep => self.kept(node, &made),
            },
        }
        Ok(())
    }

    /// Adds a node that reads and makes values under their own names.
    fn kept(&mut self, node: NodeProto, made: &[Types]) {
        for name in &node.input {
            self.itself(name);
        }
        for (name, types) in node.output.iter().zip(made) {
            self.made(name, *types, None);
        }
        self.push(node);
    }

    /// Adds a node that computes in float32 instead of a narrow type, and rounds its results.
    fn computed(&mut self, mut node: NodeProto, made: &[Types], round: bool) {
        for name in &mut node.input {
            *name = self.wide(name);
        }
        let mut rounded = Vec::new();
        for (name, types) in node.output.iter_mut().zip(made) {
            if !NARROW.has(*types) || name.is_empty() {
                self.made(name, *types, None);
                continue;
            }
            let result = self.name();
            if node.name.is_empty() {
                node.name.clone_from(name);
            }
            let name = std::mem::replace(name, result.clone());
            let wide = if round { self.name() } else { result.clone() };
            if round {
                rounded.push(rounding(result, wide.clone(), *types));
            }
            self.made(&name, *types, Some(wide));
        }
        self.push(node);
        self.scope().nodes.extend(rounded);
    }

    /// Adds a node that moves elements: as float32 if one of its inputs only exists as float32.
    fn moved(&mut self, node: NodeProto, made: &[Types]) {
        let mut wide = false;
        for name in &node.input {
            wide |= self.lookup(name).is_some_and(|(value, _)| !value.exists);
        }
        match wide {
            true => self.computed(node, made, false),
            false => self.kept(node, made),
        }
    }

    /// Adds a conversion from or to a small or narrow type. A narrow float is read as float32; a
    /// value that becomes one is rounded once.
    fn cast(&mut self, mut node: NodeProto, from: Types, to: Types) {
        let (Some(input), Some(output)) = (node.input.first(), node.output.first()) else { return };
        let (mut input, output) = (input.clone(), output.clone());
        node.input.truncate(1);
        if from == to {
            node.op_type = "Identity".into();
            node.attribute.clear();
            return self.moved(node, &[to]);
        }
        node.attribute.retain(|attribute| attribute.name != "to");
        let read = if NARROW.has(from) { F32 } else { from };
        if NARROW.has(from) {
            input = self.wide(&input);
        }
        if read == F32 && NARROW.has(to) {
            let wide = self.name();
            self.push(rounding(input, wide.clone(), to));
            return self.made(&output, to, Some(wide));
        }
        node.input = vec![input];
        if read == to {
            node.op_type = "Identity".into();
            node.attribute.clear();
        } else if [read, to].iter().any(|types| STORED.has(*types) || NARROW.has(*types)) {
            add_type(&mut node, "from", read);
            add_type(&mut node, "to", to);
            node.op_type = CAST.into();
        } else {
            node.attribute = vec![number("to", to)];
            node.op_type = "Cast".into();
        }
        self.push(node);
        self.made(&output, to, None);
    }

    fn name(&mut self) -> String {
        self.added += 1;
        format!("{}{}", self.prefix, self.added)
    }
}

fn unknown(name: &str) -> String {
    format!("the type of the value {} is unknown", shown(name))
}

/// Whether tract computes this quantization: bytes and `f32`, one scale or one along an axis.
fn tract_computes(node: &NodeProto, read: &[node::Read]) -> bool {
    let of = |at: usize| read.iter().find(|read| read.at == at).map(|read| read.types);
    let int = |name: &str| find(node, name).map_or(0, |attribute| attribute.i);
    let plain = |types: Option<Types>| types.is_some_and(|types| BYTES.has(types));
    let quantize = node.op_type == "QuantizeLinear";
    let (full, bytes) = if quantize { (of(0), of(2)) } else { (of(1), of(0)) };
    full == Some(F32)
        && of(1) == Some(F32)
        && plain(bytes)
        && int("block_size") == 0
        && [0, DataType::Float as i64].contains(&int("precision"))
        && (quantize || [0, DataType::Float as i64].contains(&int("output_dtype")))
}
