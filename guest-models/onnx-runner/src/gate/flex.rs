//! Lowers FlexAttention (`ai.onnx.preview`, version 1) to the operators that its specification
//! defines it by, with its graphs for scores and probabilities inlined. The gate checks the
//! resulting nodes like all others.

use std::collections::{HashMap, HashSet};

use belljar_operators::{self as table, Types};
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};

use super::attributes::find;
use super::{Versions, node};

const PREVIEW: &str = "ai.onnx.preview";

/// The oldest version of the ONNX operator set that has all operators it is lowered to.
const OLDEST: i64 = 18;

/// Maximum number of FlexAttention nodes in a model.
const MAX_NODES: usize = 1_024;

/// Replaces every FlexAttention node of the model's graph; those in bodies are refused later.
pub(super) fn lower(proto: &mut ModelProto, versions: &Versions) -> Result<(), String> {
    let onnx = versions.onnx.unwrap_or(0);
    let import = proto.opset_import.iter().find(|import| import.domain == PREVIEW);
    if import.is_none_or(|import| import.version != 1) {
        return Ok(());
    }
    let Some(graph) = &mut proto.graph else { return Ok(()) };
    let is_lowered = |node: &NodeProto| lowered(node, onnx);
    let count = graph.node.iter().filter(|node| is_lowered(node)).count();
    if count > MAX_NODES {
        return Err(format!("{count} FlexAttention nodes exceed the limit of {MAX_NODES}"));
    }
    if count == 0 {
        return Ok(());
    }
    let mut types = declared(graph);
    let mut prefix = String::from("flex");
    while names(graph).any(|name| name.starts_with(&prefix)) {
        prefix.push('\'');
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (at, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        if !is_lowered(&node) {
            infer(&node, versions, &mut types);
            nodes.push(node);
            continue;
        }
        let name = node.output.first().cloned().unwrap_or_default();
        let mut builder = Builder { prefix: format!("{prefix}{at}/"), made: 0, nodes: &mut nodes };
        let tensors = builder
            .attention(&node, &types)
            .map_err(|why| format!("node {}: FlexAttention: {why}", super::text::shown(&name)))?;
        graph.initializer.extend(tensors);
        // The result has the type of the values.
        if let (Some(values), Some(to)) = (node.input.get(2), node.output.first())
            && let Some(dtype) = types.get(values).copied()
        {
            types.insert(to.clone(), dtype);
        }
    }
    graph.node = nodes;
    Ok(())
}

/// Whether a node is lowered, in a model with this version of the ONNX operator set.
pub(super) fn lowered(node: &NodeProto, onnx: i64) -> bool {
    node.domain == PREVIEW && node.op_type == "FlexAttention" && onnx >= OLDEST
}

/// The element types of inputs and initializers.
fn declared(graph: &GraphProto) -> HashMap<String, i32> {
    let inputs = graph.input.iter().filter_map(|input| Some((input.name.clone(), of(input)?)));
    let tensors = graph.initializer.iter().map(|tensor| (tensor.name.clone(), tensor.data_type));
    inputs.chain(tensors).collect()
}

/// Adds the element types of the outputs of a node, if they follow from the types so far.
fn infer(node: &NodeProto, versions: &Versions, types: &mut HashMap<String, i32>) {
    let domain = super::domain_of(node);
    let Ok(operator) =
        versions.of(domain).and_then(|version| table::find(domain, &node.op_type, version))
    else {
        return;
    };
    let known = |name: &str| types.get(name).and_then(|number| Types::of(*number));
    let made = node::inputs(node, operator, &known)
        .and_then(|read| node::made(node, operator, &read))
        .unwrap_or_default();
    for (name, made) in node.output.iter().zip(made) {
        if let Some(number) = made.number() {
            types.insert(name.clone(), number);
        }
    }
}

fn of(value: &ValueInfoProto) -> Option<i32> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    Some(tensor.elem_type)
}

fn names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let values = graph.input.iter().map(|input| &input.name);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let made = graph.node.iter().flat_map(|node| node.output.iter().chain([&node.name]));
    values.chain(tensors).chain(made).map(String::as_str)
}

fn int(name: &str, i: i64) -> AttributeProto {
    let r#type = AttributeType::Int as i32;
    AttributeProto { name: name.into(), r#type, i, ..AttributeProto::default() }
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    let r#type = AttributeType::Ints as i32;
    AttributeProto { name: name.into(), r#type, ints, ..AttributeProto::default() }
}

struct Builder<'n> {
    prefix: String,
    made: usize,
    nodes: &'n mut Vec<NodeProto>,
}

impl Builder<'_> {
    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("{}{}", self.prefix, self.made)
    }

    /// Adds a node with one output of this name.
    fn named(&mut self, to: &str, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            op_type: op.into(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![to.into()],
            name: to.into(),
            attribute,
            ..NodeProto::default()
        });
    }

    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let to = self.fresh();
        self.named(&to, op, inputs, attribute);
        to
    }

    /// A range of the dimensions of a value.
    fn sizes(&mut self, of: &str, start: i64, end: i64) -> String {
        self.node("Shape", &[of], vec![int("start", start), int("end", end)])
    }

    fn numbers(&mut self, values: Vec<i64>) -> String {
        self.node("Constant", &[], vec![ints("value_ints", values)])
    }

    fn reshaped(&mut self, of: &str, parts: &[&str]) -> String {
        let shape = self.node("Concat", parts, vec![int("axis", 0)]);
        self.node("Reshape", &[of, &shape], vec![])
    }

    /// Adds the nodes of one FlexAttention; returns the initializers of its inlined graphs.
    fn attention(
        &mut self,
        node: &NodeProto,
        types: &HashMap<String, i32>,
    ) -> Result<Vec<TensorProto>, String> {
        let ([q, k, v], [to]) = (&*node.input, &*node.output) else {
            return Err("expected three inputs and one output".into());
        };
        let known = ["scale", "score_mod", "prob_mod", "softmax_precision"];
        for (at, attribute) in node.attribute.iter().enumerate() {
            let duplicate = node.attribute[..at].iter().any(|other| other.name == attribute.name);
            if duplicate
                || !known.contains(&&*attribute.name)
                || !attribute.ref_attr_name.is_empty()
            {
                let name = super::text::shown(&attribute.name);
                return Err(format!("the attribute {name} is not implemented"));
            }
        }
        let computed = computed(node, types.get(q).copied())?;
        // Intermediate values are not rounded to float16.
        let narrow = types.get(q) == Some(&(DataType::Float16 as i32));
        let mut full = |name: &String| match narrow {
            true => self.node("Cast", &[name], vec![int("to", DataType::Float as i64)]),
            false => name.clone(),
        };
        let (queries, keys) = (full(q), full(k));
        let root = self.root(node, &queries)?;
        let scaled = self.node("Mul", &[&queries, &root], vec![]);
        let keys = self.node("Mul", &[&keys, &root], vec![]);
        // Each head of keys and values serves the same number of query heads.
        let (batch, heads) = (self.sizes(q, 0, 1), self.sizes(k, 1, 2));
        let (rest, group, two) =
            (self.sizes(q, 2, 4), self.numbers(vec![-1]), self.numbers(vec![2]));
        let queries = self.reshaped(&scaled, &[&batch, &heads, &group, &rest]);
        let keys = self.node("Transpose", &[&keys], vec![ints("perm", vec![0, 1, 3, 2])]);
        let keys = self.node("Unsqueeze", &[&keys, &two], vec![]);
        let products = self.node("MatMul", &[&queries, &keys], vec![]);
        let (of_queries, length) = (self.sizes(q, 0, 3), self.sizes(k, 2, 3));
        let scores = self.reshaped(&products, &[&of_queries, &length]);
        let mut tensors = Vec::new();
        let scores = self.node("Cast", &[&scores], vec![int("to", computed)]);
        let scores = self.changed(node, "score_mod", scores, &mut tensors)?;
        let weights = self.node("Softmax", &[&scores], vec![int("axis", -1)]);
        let weights = self.changed(node, "prob_mod", weights, &mut tensors)?;
        let steps = self.sizes(q, 2, 3);
        let weights = self.reshaped(&weights, &[&batch, &heads, &group, &steps, &length]);
        let values = self.node("Cast", &[v], vec![int("to", computed)]);
        let values = self.node("Unsqueeze", &[&values, &two], vec![]);
        let result = self.node("MatMul", &[&weights, &values], vec![]);
        let width = self.sizes(v, 3, 4);
        let result = self.reshaped(&result, &[&of_queries, &width]);
        self.named(to, "CastLike", &[&result, v], vec![]);
        Ok(tensors)
    }

    /// The square root of the scale, in the type of the queries.
    fn root(&mut self, node: &NodeProto, q: &str) -> Result<String, String> {
        let root = match find(node, "scale") {
            Some(scale) if scale.r#type == AttributeType::Float as i32 && scale.f > 0.0 => {
                let value = AttributeProto {
                    name: "value_float".into(),
                    r#type: AttributeType::Float as i32,
                    f: scale.f.sqrt(),
                    ..AttributeProto::default()
                };
                self.node("Constant", &[], vec![value])
            }
            Some(_) => {
                return Err("a \"scale\" that is not a number above zero is not implemented".into());
            }
            None => {
                let width = self.sizes(q, 3, 4);
                let width = self.node("Cast", &[&width], vec![int("to", DataType::Float as i64)]);
                let root = self.node("Sqrt", &[&width], vec![]);
                let root = self.node("Reciprocal", &[&root], vec![]);
                self.node("Sqrt", &[&root], vec![])
            }
        };
        Ok(self.node("CastLike", &[&root, q], vec![]))
    }

    /// Inlines the graph that changes scores or weights; it has one input and one output.
    fn changed(
        &mut self,
        node: &NodeProto,
        which: &str,
        value: String,
        tensors: &mut Vec<TensorProto>,
    ) -> Result<String, String> {
        let Some(attribute) = find(node, which) else { return Ok(value) };
        let Some(graph) = &attribute.g else { return Err(format!("{which:?} is not a graph")) };
        let ([input], [output]) = (&*graph.input, &*graph.output) else {
            return Err(format!("{which:?} must have one input and one output"));
        };
        let nested = graph.node.iter().flat_map(|node| &node.attribute).any(|a| a.g.is_some());
        if nested || !graph.sparse_initializer.is_empty() || graph.node.is_empty() {
            return Err(format!("this {which:?} is not implemented"));
        }
        let mut own: HashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
        own.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
        if own.contains(&*input.name) || !own.contains(&*output.name) {
            return Err(format!(
                "{which:?} computes its own input, or does not compute its output"
            ));
        }
        let prefix = format!("{}{which}/", self.prefix);
        let renamed = |name: &String| match &**name {
            "" => String::new(),
            name if name == input.name => value.clone(),
            name if own.contains(name) => format!("{prefix}{name}"),
            // A value of the enclosing graph.
            name => name.to_owned(),
        };
        for tensor in &graph.initializer {
            tensors.push(TensorProto { name: renamed(&tensor.name), ..tensor.clone() });
        }
        for (at, inner) in graph.node.iter().enumerate() {
            self.nodes.push(NodeProto {
                input: inner.input.iter().map(renamed).collect(),
                output: inner.output.iter().map(renamed).collect(),
                name: format!("{prefix}{at}"),
                ..inner.clone()
            });
        }
        Ok(renamed(&output.name))
    }
}

/// The type that scores are computed in: the attribute, or the wider of float32 and the queries.
fn computed(node: &NodeProto, queries: Option<i32>) -> Result<i64, String> {
    let floats = [DataType::Float16, DataType::Float, DataType::Double].map(|dtype| dtype as i32);
    let computed = match (find(node, "softmax_precision"), queries) {
        (Some(given), _) if given.r#type == AttributeType::Int as i32 => {
            i32::try_from(given.i).ok()
        }
        (Some(_), _) => None,
        (None, Some(queries)) if queries == floats[0] => Some(floats[1]),
        (None, queries) => queries,
    };
    let known = computed.filter(|computed| floats.contains(computed));
    let known = known.ok_or("the element type of the scores is unknown or not implemented")?;
    for which in ["score_mod", "prob_mod"] {
        let graph = find(node, which).and_then(|attribute| attribute.g.as_ref());
        let values = graph.iter().flat_map(|graph| graph.input.iter().chain(&graph.output));
        if values.filter_map(of).any(|dtype| dtype != 0 && dtype != known) {
            return Err(format!("{which:?} has another element type than the scores"));
        }
    }
    Ok(i64::from(known))
}
