//! Sequences and optionals, which are no tensors: what of them is known before a model runs is all
//! that is implemented, and then nothing of them is left. A sequence is a list of values of the
//! graph; what reads one of its elements reads that value. Loops that carry a sequence are unrolled,
//! and so are functions over its elements. Where a length would follow from a value that is given
//! at run time, the model is refused.

mod bodies;
mod make;

use std::collections::{HashMap, HashSet};

use belljar_abi::InputShape;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use self::make::{attribute, constant, identity, operation};
use super::attributes::find;
use super::choice::{integers, truth};
use super::text::shown;
use super::{Versions, bounds, functions, node};

/// Elements of one sequence, and rounds of one loop that is unrolled.
const MOST: usize = 1024;

const OURS: [&str; 11] = [
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

/// A value that is no tensor, or one that stands for another.
#[derive(Clone, Debug)]
enum Value {
    Tensor(String),
    Sequence(Vec<String>),
    Optional(Option<Box<Value>>),
}

/// Takes all sequences and optionals out of a graph.
pub(super) fn resolve(
    graph: &mut GraphProto,
    versions: &Versions,
    shapes: &[InputShape],
) -> Result<(), String> {
    if !there(graph) {
        return Ok(());
    }
    once(graph, &mut HashSet::new(), 0)?;
    let mut prefix = String::from("of:");
    while functions::names(graph).any(|name| name.starts_with(&prefix)) {
        prefix.push('\'');
    }
    let sizes = shapes.iter().map(|shape| (shape.name.clone(), shape.dims.clone())).collect();
    let mut resolver =
        Resolver { versions, prefix, added: 0, sizes, integers: HashMap::new(), nodes: 0 };
    let outputs = resolver.graph(graph, &mut HashMap::new(), false)?;
    for (output, value) in graph.output.iter_mut().zip(outputs) {
        match value {
            Value::Tensor(name) if name == output.name => {}
            Value::Tensor(name) => {
                graph.node.push(identity(name, output.name.clone()));
            }
            _ => {
                let name = shown(&output.name);
                return Err(format!("the output {name} is no tensor, which is not implemented"));
            }
        }
    }
    Ok(())
}

/// Refuses two values of one name: where one of them is taken out nobody else would see it.
fn once<'g>(
    graph: &'g GraphProto,
    taken: &mut HashSet<&'g str>,
    depth: usize,
) -> Result<(), String> {
    if depth > bounds::DEPTH {
        return Err(format!("graphs are nested deeper than {}", bounds::DEPTH));
    }
    let inputs: HashSet<&str> = graph.input.iter().map(|input| &*input.name).collect();
    // An initializer of an input's name is that input's default.
    let tensors = graph.initializer.iter().map(|tensor| &*tensor.name);
    let tensors = tensors.filter(|name| !inputs.contains(name));
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(|name| &**name);
    let inputs = graph.input.iter().map(|input| &*input.name);
    let mut here: Vec<&str> = Vec::new();
    for name in inputs.chain(tensors).chain(outputs).filter(|name| !name.is_empty()) {
        if !taken.insert(name) {
            return Err(format!("two nodes make the same value {}", shown(name)));
        }
        here.push(name);
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    for body in attributes.filter_map(|attribute| attribute.g.as_ref()) {
        once(body, taken, depth + 1)?;
    }
    here.into_iter().for_each(|name| {
        taken.remove(name);
    });
    Ok(())
}

/// Whether there is anything to take out.
fn there(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        ours(node) || node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()).any(there)
    })
}

fn ours(node: &NodeProto) -> bool {
    ["", "ai.onnx"].contains(&&*node.domain)
        && (OURS.contains(&&*node.op_type) || node.op_type == "SequenceMap")
}

type Known = HashMap<String, Value>;

struct Resolver<'v> {
    versions: &'v Versions,
    /// No name of the model begins like this.
    prefix: String,
    added: usize,
    /// The sizes of the model's inputs.
    sizes: HashMap<String, Vec<u64>>,
    /// Constants of integers and truths, flat, and whether they have no dimensions.
    integers: HashMap<String, (bool, Vec<i64>)>,
    nodes: usize,
}

impl Resolver<'_> {
    /// Takes them out of a graph; says what its outputs are.
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        known: &mut Known,
        within: bool,
    ) -> Result<Vec<Value>, String> {
        // Bodies beside this one may have values of the same names.
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

    /// A value of this name is another one from here on.
    fn forget(&mut self, name: &str, known: &mut Known) {
        self.integers.remove(name);
        self.sizes.remove(name);
        known.remove(name);
    }

    fn remember(&mut self, name: &str, tensor: &TensorProto) {
        let truth = (tensor.data_type == DataType::Bool as i32).then(|| truth(tensor)).flatten();
        let values = truth.map(|truth| vec![i64::from(truth)]).or_else(|| integers(tensor));
        if let Some(values) = values.filter(|values| values.len() <= MOST) {
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
                "without its loops the model has more than {} nodes",
                bounds::NODES
            ));
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            self.forget(name, known);
        }
        let plain = ["", "ai.onnx"].contains(&&*node.domain);
        let said = |node: &NodeProto, why: String| {
            let name = node.output.first().map_or("", |name| name);
            format!("node {}: {}: {why}", shown(name), node.op_type)
        };
        if plain && ours(&node) {
            let about = node.clone();
            return self.ours(node, known, nodes).map_err(|why| said(&about, why));
        }
        // What stands for a tensor is that tensor.
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
                let about = node.clone();
                return self.unrolled(node, known, nodes).map_err(|why| said(&about, why));
            }
            _ => {}
        }
        if reads {
            return Err(said(&node, "it reads what is no tensor, which is not implemented".into()));
        }
        for at in 0..node.attribute.len() {
            let Some(body) = &mut node.attribute[at].g else { continue };
            let made = self.graph(body, &mut known.clone(), true)?;
            tensors_only(body, made)?;
        }
        nodes.push(node);
        Ok(())
    }

    /// An operator of sequences or optionals.
    fn ours(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        // The type of an optional that has nothing in it says nothing that matters here.
        let typed = node.op_type == "Optional" && node.input.iter().all(|name| name.is_empty());
        if typed {
            node.attribute.clear();
        }
        node::alone(&node, self.versions)?;
        let int = |name: &str, default: i64| find(&node, name).map_or(default, |a| a.i);
        let input = |at: usize| node.input.get(at).map(|name| &**name).filter(|n| !n.is_empty());
        let output = node.output.first().cloned().unwrap_or_default();
        let made = match &*node.op_type {
            "SequenceEmpty" => Value::Sequence(Vec::new()),
            "SequenceConstruct" => {
                let each = node.input.iter().map(|name| tensor(known, name));
                Value::Sequence(each.collect::<Result<_, _>>()?)
            }
            "SequenceInsert" => {
                let mut list = sequence(known, input(0))?;
                let place = self.place(input(2), list.len(), list.len() + 1, list.len())?;
                list.insert(place, tensor(known, input(1).unwrap_or_default())?);
                if list.len() > MOST {
                    return Err(format!("more than {MOST} elements"));
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
                    // All of one shape, one above the other: the position is looked at when it runs.
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
                Value::Sequence(self.split(source, split, axis, keep, nodes)?)
            }
            "Optional" => Value::Optional(input(0).map(|name| Box::new(value(known, name)))),
            "OptionalHasElement" => {
                let has = input(0)
                    .is_some_and(|name| !matches!(known.get(name), Some(Value::Optional(None))));
                nodes.push(constant(&output, DataType::Bool, Vec::new(), vec![u8::from(has)]));
                self.integers.insert(output, (true, vec![i64::from(has)]));
                return Ok(());
            }
            "OptionalGetElement" => match value(known, input(0).unwrap_or_default()) {
                Value::Optional(Some(value)) => *value,
                Value::Optional(None) => return Err("the optional has nothing in it".into()),
                value => value,
            },
            "SequenceMap" => return self.mapped(&node, known, nodes),
            other => return Err(format!("{other} is not implemented")),
        };
        known.insert(output, made);
        Ok(())
    }

    /// A place among so many, of a position that may count from the end of `length` elements.
    fn place(
        &self,
        position: Option<&str>,
        length: usize,
        places: usize,
        default: usize,
    ) -> Result<usize, String> {
        let at = match position {
            None => default as i64,
            Some(name) => match self.integers.get(name) {
                Some((_, values)) if values.len() == 1 => values[0],
                _ => {
                    return Err(format!(
                        "the position {} is only known when the model runs, which is not implemented",
                        shown(name)
                    ));
                }
            },
        };
        let from_start = if at < 0 { at.saturating_add(length as i64) } else { at };
        match usize::try_from(from_start).ok().filter(|at| *at < places) {
            Some(at) => Ok(at),
            None => Err(format!("the position {at} in a sequence of {length}")),
        }
    }
}

/// What a name stands for: itself, unless it is known better.
fn value(known: &Known, name: &str) -> Value {
    known.get(name).cloned().unwrap_or_else(|| Value::Tensor(name.to_owned()))
}

fn tensor(known: &Known, name: &str) -> Result<String, String> {
    match value(known, name) {
        Value::Tensor(name) => Ok(name),
        _ => Err(format!("its input {} is no tensor", shown(name))),
    }
}

fn sequence(known: &Known, name: Option<&str>) -> Result<Vec<String>, String> {
    let name = name.unwrap_or_default();
    match value(known, name) {
        Value::Sequence(list) => Ok(list),
        _ => Err(format!(
            "its input {} is no sequence that is known before the model runs, which is not implemented",
            shown(name)
        )),
    }
}

/// Has a body pass on tensors, by the names that its outputs have.
fn tensors_only(body: &mut GraphProto, made: Vec<Value>) -> Result<(), String> {
    for (output, value) in body.output.iter().zip(made) {
        match value {
            Value::Tensor(name) if name == output.name => {}
            Value::Tensor(name) => body.node.push(identity(name, output.name.clone())),
            _ => {
                let name = shown(&output.name);
                return Err(format!(
                    "the output {name} of a body is no tensor, which is not implemented"
                ));
            }
        }
    }
    Ok(())
}
