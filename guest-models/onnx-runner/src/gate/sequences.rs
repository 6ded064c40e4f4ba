//! Removes sequences, maps and optionals, which tract does not have. A sequence becomes a list of
//! values of the graph, and a node that reads an element reads that value. Loops that carry a sequence and
//! functions over its elements are unrolled. A sequence whose length or positions are only known when
//! the model runs, as that of each sequence that is an input, becomes two tensors
//! (`sequences/packed.rs`).

mod bodies;
mod ends;
mod make;
mod mapped;
mod maps;
mod optionals;
mod packed;
mod positions;
mod unique;

pub(super) use self::packed::operator as packed_operator;

use std::collections::{HashMap, HashSet};

use belljar_abi::InputShape;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use self::make::{attribute, identity, operation};
use self::maps::is_of_maps;
use self::optionals::Absent;
use super::attributes::find;
use super::choice::{integers, truth};
use super::text::shown;
use super::{Versions, bounds, functions, node};
use crate::load::Types;

/// Maximum number of elements of a sequence, and of iterations of an unrolled loop.
const MAX_ELEMENTS: usize = 1024;

const OPERATORS: [&str; 11] = [
    "SequenceEmpty",
    "SequenceConstruct",
    "SequenceInsert",
    "SequenceErase",
    "SequenceAt",
    "SequenceLength",
    "SplitToSequence",
    "ConcatFromSequence",
    "Optional",
    "OptionalHasElement",
    "OptionalGetElement",
];

/// A sequence, a map, an optional, or another name for a tensor.
#[derive(Clone, Debug)]
enum Value {
    Tensor(String),
    Sequence(Vec<String>),
    /// A sequence without elements, of this element type.
    Empty(i32),
    /// A sequence whose elements are only known when the model runs: the elements of its tensors one
    /// after another, and their shapes.
    Packed(String, String),
    /// Keys, and the value of each.
    Map(String, String),
    /// A sequence of maps: the keys and values of all of them, and the number of entries of each.
    Maps(String, String, String),
    /// An optional with an element.
    Present(Box<Value>),
    /// An optional without one.
    Absent(Absent),
    /// An optional of which only the run decides whether it has its element: a sequence of at most
    /// one tensor.
    MaybeTensor(String, String),
    /// The same for a sequence: the sequence, and whether it is there.
    MaybeSequence(String, String, String),
}

/// Removes all sequences, maps and optionals from a graph.
pub(super) fn resolve(
    graph: &mut GraphProto,
    versions: &Versions,
    shapes: &[InputShape],
    types: &Types,
) -> Result<(), String> {
    if types.is_empty() && !has_sequences(graph) {
        return Ok(());
    }
    unique::check(graph, &mut HashSet::new(), 0)?;
    let mut prefix = String::from("of:");
    while functions::names(graph).any(|name| name.starts_with(&prefix)) {
        prefix.push('\'');
    }
    // The sizes of the parts of a sequence or a map are those of a run.
    let parts = types.free_inputs();
    let fixed = shapes.iter().filter(|shape| !parts.contains(&shape.name));
    let sizes = fixed.map(|shape| (shape.name.clone(), shape.dims.clone())).collect();
    let mut resolver =
        Resolver { versions, prefix, added: 0, sizes, integers: HashMap::new(), nodes: 0 };
    let mut known = HashMap::new();
    ends::inputs(graph, types, shapes, &mut known)?;
    let outputs = resolver.graph(graph, &mut known, false)?;
    ends::outputs(&mut resolver, graph, types, outputs)
}

/// Whether a graph has operators of sequences, maps or optionals.
fn has_sequences(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let mut bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        is_of_sequences(node) || is_of_maps(node) || bodies.any(has_sequences)
    })
}

fn is_of_sequences(node: &NodeProto) -> bool {
    ["", "ai.onnx"].contains(&&*node.domain)
        && (OPERATORS.contains(&&*node.op_type) || node.op_type == "SequenceMap")
}

type Known = HashMap<String, Value>;

struct Resolver<'v> {
    versions: &'v Versions,
    /// No name of the model starts with this.
    prefix: String,
    added: usize,
    /// The sizes of the model's inputs.
    sizes: HashMap<String, Vec<u64>>,
    /// Integer and boolean constants: whether they are scalars, and their elements.
    integers: HashMap<String, (bool, Vec<i64>)>,
    nodes: usize,
}

impl Resolver<'_> {
    /// Removes them from a graph; returns the values of its outputs.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        known: &mut Known,
        within: bool,
    ) -> Result<Vec<Value>, String> {
        // Other bodies may have values of the same names.
        for input in graph.input.iter().filter(|_| within) {
            self.forget(&input.name, known);
        }
        for tensor in &graph.initializer {
            self.remember(&tensor.name, tensor);
            let dims = tensor.dims.iter().filter_map(|dim| u64::try_from(*dim).ok());
            self.sizes.insert(tensor.name.clone(), dims.collect());
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            self.node(node, known, &mut nodes)?;
        }
        graph.node = nodes;
        Ok(graph.output.iter().map(|output| value(known, &output.name)).collect())
    }

    /// Removes what is known of a name, because a new value gets it.
    fn forget(&mut self, name: &str, known: &mut Known) {
        self.integers.remove(name);
        self.sizes.remove(name);
        known.remove(name);
    }

    fn remember(&mut self, name: &str, tensor: &TensorProto) {
        let truth = (tensor.data_type == DataType::Bool as i32).then(|| truth(tensor)).flatten();
        let values = truth.map(|truth| vec![i64::from(truth)]).or_else(|| integers(tensor));
        if let Some(values) = values.filter(|values| values.len() <= MAX_ELEMENTS) {
            self.integers.insert(name.to_owned(), (tensor.dims.is_empty(), values));
        }
    }

    fn name(&mut self) -> String {
        self.added += 1;
        format!("{}{}", self.prefix, self.added)
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > bounds::NODES {
            return Err(format!(
                "the model has more than {} nodes after unrolling its loops",
                bounds::NODES
            ));
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            self.forget(name, known);
        }
        let plain = ["", "ai.onnx"].contains(&&*node.domain);
        let refusal = |node: &NodeProto, why: String| {
            let name = node.output.first().map_or("", |name| name);
            format!("node {}: {}: {why}", shown(name), node.op_type)
        };
        if plain && is_of_sequences(&node) {
            let about = node.clone();
            return self.operator(node, known, nodes).map_err(|why| refusal(&about, why));
        }
        if is_of_maps(&node) {
            let about = node.clone();
            return self.of_maps(&node, known, nodes).map_err(|why| refusal(&about, why));
        }
        // Another name for a tensor is replaced by the name of the tensor.
        for name in &mut node.input {
            if let Some(Value::Tensor(other)) = known.get(name) {
                name.clone_from(other);
            }
        }
        let reads = node.input.iter().any(|name| known.contains_key(name));
        match &*node.op_type {
            "Identity" if plain && node.input.len() == 1 && node.output.len() == 1 => {
                if let Some(value) = known.get(&node.input[0]) {
                    known.insert(node.output[0].clone(), value.clone());
                    return Ok(());
                }
                if let Some(values) = self.integers.get(&node.input[0]).cloned() {
                    self.integers.insert(node.output[0].clone(), values);
                }
            }
            "Constant" if plain => {
                let value = find(&node, "value").and_then(|attribute| attribute.t.as_ref());
                match (value, find(&node, "value_int"), node.output.first()) {
                    (Some(tensor), _, Some(name)) => self.remember(name, tensor),
                    (_, Some(int), Some(name)) => {
                        self.integers.insert(name.clone(), (true, vec![int.i]));
                    }
                    _ => {}
                }
            }
            "If" if plain => return self.branches(node, known, nodes),
            "Loop" if plain && reads => {
                let (mut unrolled, mut values) = (Vec::new(), known.clone());
                if self.unrolled(node.clone(), &mut values, &mut unrolled).is_ok() {
                    nodes.append(&mut unrolled);
                    *known = values;
                    return Ok(());
                }
                let about = node.clone();
                return self.carried(node, known, nodes).map_err(|why| refusal(&about, why));
            }
            _ => {}
        }
        if reads {
            let read = node.input.iter().find_map(|name| known.get(name));
            let what = read.map_or("a sequence", Value::what);
            let why = format!("it reads {what}, which is not implemented");
            return Err(refusal(&node, why));
        }
        for at in 0..node.attribute.len() {
            let Some(body) = &mut node.attribute[at].g else { continue };
            let made = self.graph(body, &mut known.clone(), true)?;
            ends::tensors_only(body, made)?;
        }
        nodes.push(node);
        Ok(())
    }

    /// An operator of sequences or optionals.
    fn operator(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let absent = Absent::of(&node);
        let typed = node.op_type == "Optional" && node.input.iter().all(|name| name.is_empty());
        if typed {
            node.attribute.clear();
        }
        node::alone(&node, self.versions)?;
        let int = |name: &str, default: i64| find(&node, name).map_or(default, |a| a.i);
        let input = |at: usize| node.input.get(at).map(|name| &**name).filter(|n| !n.is_empty());
        let output = node.output.first().cloned().unwrap_or_default();
        if let Some(result) = self.in_tensors(&node, known, nodes) {
            return result;
        }
        let made = match &*node.op_type {
            "SequenceEmpty" => {
                Value::Empty(int("dtype", DataType::Float as i64).try_into().unwrap_or(0))
            }
            "SequenceConstruct" => {
                let each = node.input.iter().map(|name| tensor(known, name));
                Value::Sequence(each.collect::<Result<_, _>>()?)
            }
            "SequenceInsert" => {
                let mut list = sequence(known, input(0))?;
                let place = self.place(input(2), list.len(), list.len() + 1, list.len())?;
                list.insert(place, tensor(known, input(1).unwrap_or_default())?);
                if list.len() > MAX_ELEMENTS {
                    return Err(format!(
                        "a sequence of more than {MAX_ELEMENTS} elements is not implemented"
                    ));
                }
                Value::Sequence(list)
            }
            "SequenceErase" => {
                let mut list = sequence(known, input(0))?;
                let last = list.len().wrapping_sub(1);
                let place = self.place(input(1), list.len(), list.len(), last)?;
                list.remove(place);
                Value::Sequence(list)
            }
            "SequenceAt" => {
                let list = sequence(known, input(0))?;
                let position = input(1).unwrap_or_default();
                if self.integers.contains_key(position) {
                    let place = self.place(Some(position), list.len(), list.len(), 0)?;
                    Value::Tensor(list[place].clone())
                } else {
                    // The elements are stacked, and the position is read at run time.
                    let position = tensor(known, position)?;
                    let all = self.joined(&list, 0, true, nodes)?;
                    let scalar = self.reshaped_to_scalar(position, nodes);
                    let gathered =
                        operation("Gather", vec![all, scalar], output, vec![attribute("axis", 0)]);
                    nodes.push(gathered);
                    return Ok(());
                }
            }
            "SequenceLength" => {
                let length = sequence(known, input(0))?.len() as i64;
                self.constant(output, Vec::new(), vec![length], nodes);
                return Ok(());
            }
            "ConcatFromSequence" => {
                let list = sequence(known, input(0))?;
                let (axis, new) = (int("axis", 0), int("new_axis", 0) != 0);
                let all = self.joined(&list, axis, new, nodes)?;
                nodes.push(identity(all, output));
                return Ok(());
            }
            "SplitToSequence" => {
                let source = tensor(known, input(0).unwrap_or_default())?;
                let split = input(1).map(str::to_owned);
                let (axis, keep) = (int("axis", 0), int("keepdims", 1) != 0);
                let parts = self.split(source, split, axis, keep, nodes);
                match parts {
                    Ok(parts) => Value::Sequence(parts),
                    // The number of parts is known when the model runs.
                    Err(_) => self.split_in_run(&node, known, nodes)?,
                }
            }
            "Optional" => match input(0).map(|name| value(known, name)) {
                None => Value::Absent(absent),
                Some(value) if value.form().is_some_and(|form| !form.is_optional()) => {
                    Value::Present(Box::new(value))
                }
                Some(other) => return Err(format!("an optional of {}", other.what())),
            },
            "OptionalHasElement" => {
                self.has_element(input(0), output, known, nodes);
                return Ok(());
            }
            "OptionalGetElement" => {
                let optional = value(known, input(0).unwrap_or_default());
                match self.get_element(&optional, &output, nodes)? {
                    Some(element) => element,
                    None => return Ok(()),
                }
            }
            "SequenceMap" => return self.mapped(&node, known, nodes),
            other => return Err(format!("{other} is not implemented")),
        };
        known.insert(output, made);
        Ok(())
    }
}

/// The value of a name; a name that is not in `known` is a tensor.
fn value(known: &Known, name: &str) -> Value {
    known.get(name).cloned().unwrap_or_else(|| Value::Tensor(name.to_owned()))
}

fn tensor(known: &Known, name: &str) -> Result<String, String> {
    match value(known, name) {
        Value::Tensor(name) => Ok(name),
        _ => Err(format!("the input {} is not a tensor", shown(name))),
    }
}

fn sequence(known: &Known, name: Option<&str>) -> Result<Vec<String>, String> {
    let name = name.unwrap_or_default();
    match value(known, name) {
        Value::Sequence(list) => Ok(list),
        Value::Empty(_) => Ok(Vec::new()),
        _ => Err(format!(
            "the input {} is not a sequence that is known before the model runs, which is not \
             implemented",
            shown(name)
        )),
    }
}
