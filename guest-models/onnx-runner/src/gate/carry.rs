//! Small element types, which tract does not have: their values are carried as codes, a byte each
//! or two, in tensors of unsigned integers. Here a graph that was checked is rewritten so that
//! tract meets only those. What moves elements moves codes; conversions and quantisations become
//! operators of ours that know the formats; what computes with bfloat16 computes with float32, and
//! each result is rounded once. Nothing else passed the check with such a type.

use std::collections::HashMap;

use belljar_abi::DType;
use belljar_operators::{self as table, BF16, BYTES, F8E8M0, F32, STORED, STRING, Types};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};

use super::attributes::find;
use super::text::shown;
use super::{Versions, functions, node, tensors};

/// Operators of ours, under names that no model can use: the table does not have them.
pub(crate) const CAST: &str = "BelljarCast";
pub(crate) const TEXT_CAST: &str = "BelljarTextCast";
pub(crate) const QUANTIZE: &str = "BelljarQuantize";
pub(crate) const DEQUANTIZE: &str = "BelljarDequantize";

/// The inputs and outputs of a model that are carried, by name, and what they are.
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
    let mut rewriter = Rewriter { versions, prefix, added: 0 };
    let (given, made) = rewriter.graph(graph, None, &[])?;
    let small = |(name, types): (String, Types)| Some((name, dtype(types)?));
    Ok(Carried {
        inputs: inputs.into_iter().zip(given).filter_map(small).collect(),
        outputs: outputs.into_iter().zip(made).filter_map(small).collect(),
    })
}

/// The small type that this is.
fn dtype(types: Types) -> Option<DType> {
    let number = types.number().filter(|_| STORED.has(types))?;
    u32::try_from(number).ok().and_then(DType::from_onnx)
}

/// What tensors of a small type are to tract.
fn carrier(dtype: DType) -> DataType {
    if dtype == DType::BF16 { DataType::Uint16 } else { DataType::Uint8 }
}

/// The types of the values of a graph, and of those around it.
struct Known<'k> {
    outer: Option<&'k Known<'k>>,
    values: HashMap<String, Types>,
}

impl Known<'_> {
    fn find(&self, name: &str) -> Option<Types> {
        let mut scope = Some(self);
        while let Some(at) = scope {
            if let Some(types) = at.values.get(name) {
                return Some(*types);
            }
            scope = at.outer;
        }
        None
    }
}

struct Rewriter<'v> {
    versions: &'v Versions,
    /// No name of the model begins like this.
    prefix: String,
    added: usize,
}

impl Rewriter<'_> {
    /// Rewrites a graph whose inputs are known to have these types; says the types of its inputs and
    /// outputs.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        outer: Option<&Known<'_>>,
        given: &[Types],
    ) -> Result<(Vec<Types>, Vec<Types>), String> {
        let mut known = Known { outer, values: HashMap::new() };
        let mut taken = Vec::with_capacity(graph.input.len());
        for (at, input) in graph.input.iter_mut().enumerate() {
            let types = declared(input).or(given.get(at).copied());
            let types = types.ok_or_else(|| unknown(&input.name))?;
            // tract wants the inputs of bodies declared.
            if declared(input).is_none() {
                declare(input, types);
            }
            retype(input);
            known.values.insert(input.name.clone(), types);
            taken.push(types);
        }
        for tensor in &mut graph.initializer {
            let types = Types::of(tensor.data_type).ok_or_else(|| unknown(&tensor.name))?;
            known.values.insert(tensor.name.clone(), types);
            self.tensor(tensor).map_err(|why| tensors::named(tensor, &why))?;
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            self.node(node, &mut known, &mut nodes)?;
        }
        graph.node = nodes;
        let mut made = Vec::with_capacity(graph.output.len());
        for output in &mut graph.output {
            retype(output);
            made.push(known.find(&output.name).ok_or_else(|| unknown(&output.name))?);
        }
        // Nobody reads what is declared of values within.
        graph.value_info.clear();
        Ok((taken, made))
    }

    /// Makes a tensor of codes of one of small elements.
    fn tensor(&self, tensor: &mut TensorProto) -> Result<(), String> {
        let Some(dtype) = Types::of(tensor.data_type).and_then(dtype) else { return Ok(()) };
        tensor.raw_data = tensors::codes(tensor)?;
        tensor.int32_data = Vec::new();
        tensor.data_type = carrier(dtype) as i32;
        Ok(())
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        known: &mut Known<'_>,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let domain = super::domain_of(&node);
        let operator = table::find(domain, &node.op_type, self.versions.of(domain)?)?;
        let read = node::inputs(&node, operator, &|name| known.find(name))?;
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
                made = self.graph(body, Some(known), &inner)?.1;
            }
            node::made_of_body(&node, made)
        };
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().try_for_each(|tensor| self.tensor(tensor))?;
        }
        for (name, types) in node.output.iter().zip(&made) {
            if !name.is_empty() {
                known.values.insert(name.clone(), *types);
            }
        }
        let small = |types: &Types| STORED.has(*types);
        let any_small = given.iter().chain(&made).any(small);
        match &*node.op_type {
            "Cast" if given.contains(&STRING) || made.contains(&STRING) => {
                if any_small {
                    let name = node.output.first().map_or("", |name| name);
                    return Err(format!(
                        "node {}: Cast: between texts and {} is not implemented",
                        shown(name),
                        given
                            .iter()
                            .chain(&made)
                            .find(|types| small(types))
                            .map_or_else(String::new, |types| types.names())
                    ));
                }
                node.op_type = TEXT_CAST.into();
            }
            "Cast" | "CastLike" if any_small => {
                let (from, to) = (given.first(), made.first());
                let (Some(from), Some(to)) = (from, to) else { return Err(unknown("")) };
                node.input.truncate(1);
                node.attribute.retain(|attribute| attribute.name != "to");
                say(&mut node, "from", *from);
                say(&mut node, "to", *to);
                node.op_type = CAST.into();
            }
            "QuantizeLinear" | "DequantizeLinear" if any_small || !usual(&node, &read) => {
                for read in &read {
                    say(&mut node, ["x", "scale", "zero"][read.at.min(2)], read.types);
                }
                let made = made.first().ok_or_else(|| unknown(""))?;
                say(&mut node, "to", *made);
                let quantize = node.op_type == "QuantizeLinear";
                node.op_type = if quantize { QUANTIZE } else { DEQUANTIZE }.into();
            }
            // What takes any small type moves it, and computes nothing.
            _ if operator.inputs.iter().any(|input| input.types.has(F8E8M0)) => {}
            _ if given.contains(&BF16) || made.contains(&BF16) => {
                return self.widened(node, known, &made, nodes);
            }
            _ => {}
        }
        nodes.push(node);
        Ok(())
    }

    /// Adds a node that computes with float32 what is bfloat16.
    fn widened(
        &mut self,
        mut node: NodeProto,
        known: &Known<'_>,
        made: &[Types],
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        if node.attribute.iter().any(|attribute| attribute.g.is_some()) {
            // The bodies have been rewritten; what they pass on is carried.
            nodes.push(node);
            return Ok(());
        }
        for name in &mut node.input {
            if !name.is_empty() && known.find(name) == Some(BF16) {
                let wide = self.name();
                nodes.push(conversion(std::mem::replace(name, wide.clone()), wide, BF16, F32));
            }
        }
        let mut rounded = Vec::new();
        for (name, types) in node.output.iter_mut().zip(made) {
            if !name.is_empty() && *types == BF16 {
                let wide = self.name();
                let name = std::mem::replace(name, wide.clone());
                rounded.push(conversion(wide, name, F32, BF16));
            }
        }
        nodes.push(node);
        nodes.extend(rounded);
        Ok(())
    }

    fn name(&mut self) -> String {
        self.added += 1;
        format!("{}{}", self.prefix, self.added)
    }
}

fn unknown(name: &str) -> String {
    format!("the type of the value {} is not known", shown(name))
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

fn declared(value: &ValueInfoProto) -> Option<Types> {
    Types::of(tensor_type(value)?.elem_type)
}

/// Declares a value of which nothing is declared.
fn declare(value: &mut ValueInfoProto, types: Types) {
    let tensor = type_proto::Tensor { elem_type: types.number().unwrap_or_default(), shape: None };
    let value_type = type_proto::Value::TensorType(tensor);
    value.r#type = Some(TypeProto { value: Some(value_type), ..TypeProto::default() });
}

/// Declares a value of a small type as what carries it.
fn retype(value: &mut ValueInfoProto) {
    let Some(dtype) = declared(value).and_then(dtype) else { return };
    let value = value.r#type.as_mut().and_then(|value| value.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = value {
        tensor.elem_type = carrier(dtype) as i32;
    }
}

/// Whether a quantisation is one that tract computes: bytes, and `f32` in one step or along an axis.
fn usual(node: &NodeProto, read: &[node::Read]) -> bool {
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

/// Adds what an operator of ours is told of types.
fn say(node: &mut NodeProto, name: &str, types: Types) {
    node.attribute.push(AttributeProto {
        name: format!("type_{name}"),
        r#type: AttributeType::Int as i32,
        i: types.number().unwrap_or_default().into(),
        ..AttributeProto::default()
    });
}

fn conversion(from: String, to: String, from_type: Types, to_type: Types) -> NodeProto {
    let mut node = NodeProto {
        op_type: CAST.into(),
        input: vec![from],
        output: vec![to],
        ..NodeProto::default()
    };
    say(&mut node, "from", from_type);
    say(&mut node, "to", to_type);
    node
}
