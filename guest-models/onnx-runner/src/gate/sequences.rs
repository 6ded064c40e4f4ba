//! Sequences and optionals, which are no tensors: what of them is known before a model runs is all
//! that is implemented, and then nothing of them is left. A sequence is a list of values of the
//! graph; what reads one of its elements reads that value. Loops that carry a sequence are unrolled,
//! and so are functions over its elements. Where a length would follow from a value that is given
//! at run time, the model is refused.

use std::collections::{HashMap, HashSet};

use belljar_abi::InputShape;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

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

    /// Tensors side by side along an axis, or along a new one.
    fn joined(
        &mut self,
        list: &[String],
        axis: i64,
        new: bool,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<String, String> {
        if list.is_empty() {
            return Err("a sequence without elements".into());
        }
        let mut each = Vec::with_capacity(list.len());
        for name in list {
            each.push(if new {
                self.axes("Unsqueeze", name.clone(), axis, nodes)
            } else {
                name.clone()
            });
        }
        let all = self.name();
        nodes.push(operation("Concat", each, all.clone(), vec![attribute("axis", axis)]));
        Ok(all)
    }

    /// A tensor with one dimension more or less.
    fn axes(&mut self, name: &str, of: String, axis: i64, nodes: &mut Vec<NodeProto>) -> String {
        let made = self.name();
        if self.versions.onnx >= 13 {
            let axes = self.name();
            self.constant(axes.clone(), vec![1], vec![axis], nodes);
            nodes.push(operation(name, vec![of, axes], made.clone(), Vec::new()));
        } else {
            nodes.push(operation(name, vec![of], made.clone(), vec![list("axes", vec![axis])]));
        }
        made
    }

    fn reshaped_to_scalar(&mut self, of: String, nodes: &mut Vec<NodeProto>) -> String {
        let (shape, made) = (self.name(), self.name());
        self.constant(shape.clone(), vec![0], Vec::new(), nodes);
        nodes.push(operation("Reshape", vec![of, shape], made.clone(), Vec::new()));
        made
    }

    fn constant(
        &mut self,
        name: String,
        dims: Vec<i64>,
        values: Vec<i64>,
        nodes: &mut Vec<NodeProto>,
    ) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        nodes.push(constant(&name, DataType::Int64, dims.clone(), bytes));
        self.integers.insert(name, (dims.is_empty(), values));
    }

    /// The parts of a tensor, whose sizes must be known.
    fn split(
        &mut self,
        source: String,
        split: Option<String>,
        axis: i64,
        keep: bool,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<String>, String> {
        let size = || -> Result<i64, String> {
            let Some(dims) = self.sizes.get(&source) else {
                return Err("how many parts there are is not known before the model runs".into());
            };
            let rank = dims.len() as i64;
            let at = if axis < 0 { axis + rank } else { axis };
            let size = usize::try_from(at).ok().and_then(|at| dims.get(at));
            let size = size.and_then(|size| i64::try_from(*size).ok());
            size.ok_or_else(|| format!("axis {axis} of a tensor of {rank} dimensions"))
        };
        let parts: Vec<i64> = match &split {
            None => {
                vec![
                    1;
                    usize::try_from(size()?).ok().filter(|n| *n <= MOST).ok_or("too many parts")?
                ]
            }
            Some(name) => match self.integers.get(name) {
                Some((true, values)) => {
                    let (size, part) = (size()?, values.first().copied().unwrap_or(0));
                    if part < 1 || size / part > MOST as i64 {
                        return Err(format!("parts of {part} of {size} elements"));
                    }
                    (0..size).step_by(part as usize).map(|from| part.min(size - from)).collect()
                }
                Some((false, values)) => values.clone(),
                None => {
                    return Err(format!(
                        "the parts {} are only known when the model runs, which is not implemented",
                        shown(name)
                    ));
                }
            },
        };
        let names: Vec<String> = parts.iter().map(|_| self.name()).collect();
        match &*names {
            [] => {}
            // One part has the size that is known, or not; that it is the whole is not taken for granted.
            _ => {
                let mut node =
                    operation("Split", vec![source], String::new(), vec![attribute("axis", axis)]);
                node.output.clone_from(&names);
                if self.versions.onnx >= 13 {
                    let sizes = self.name();
                    self.constant(sizes.clone(), vec![parts.len() as i64], parts, nodes);
                    node.input.push(sizes);
                } else {
                    node.attribute.push(list("split", parts));
                }
                nodes.push(node);
            }
        }
        if keep || split.is_some() {
            return Ok(names);
        }
        Ok(names.into_iter().map(|name| self.axes("Squeeze", name, axis, nodes)).collect())
    }

    /// A choice between two graphs, whose sequences are of one length.
    fn branches(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let mut made: Vec<Vec<Value>> = Vec::new();
        for at in 0..node.attribute.len() {
            let Some(body) = &mut node.attribute[at].g else { continue };
            made.push(self.graph(body, &mut known.clone(), true)?);
        }
        let [first, second] = &*made else {
            nodes.push(node);
            return Ok(());
        };
        let mut outputs = Vec::new();
        let mut passed: [Vec<String>; 2] = Default::default();
        for (at, name) in node.output.iter().enumerate() {
            match (first.get(at), second.get(at)) {
                (Some(Value::Tensor(a)), Some(Value::Tensor(b))) => {
                    outputs.push(name.clone());
                    passed[0].push(a.clone());
                    passed[1].push(b.clone());
                }
                (Some(Value::Sequence(a)), Some(Value::Sequence(b))) if a.len() == b.len() => {
                    let names: Vec<String> = a.iter().map(|_| self.name()).collect();
                    outputs.extend(names.iter().cloned());
                    passed[0].extend(a.iter().cloned());
                    passed[1].extend(b.iter().cloned());
                    known.insert(name.clone(), Value::Sequence(names));
                }
                _ => {
                    return Err(format!(
                        "node {}: If: its branches make sequences of different lengths, or \
                         optionals, which is not implemented",
                        shown(name)
                    ));
                }
            }
        }
        node.output = outputs;
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        for (body, passed) in bodies.zip(passed) {
            body.output.clear();
            for name in passed {
                let made = self.name();
                body.node.push(identity(name, made.clone()));
                let output = tract_onnx::pb::ValueInfoProto { name: made, ..Default::default() };
                body.output.push(output);
            }
        }
        if !node.output.is_empty() {
            nodes.push(node);
        }
        Ok(())
    }

    /// A loop that carries a sequence, round by round.
    fn unrolled(
        &mut self,
        node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let Some(body) = find(&node, "body").and_then(|attribute| attribute.g.clone()) else {
            return Err("it has no body".into());
        };
        let carried = node.input.len().saturating_sub(2);
        let scanned = (body.output.len() + 1).checked_sub(carried + 2);
        let fits = body.input.len() == carried + 2 && node.output.len() + 1 == body.output.len();
        let Some(scanned) = scanned.filter(|_| fits) else {
            return Err("its body has another number of inputs or outputs".into());
        };
        let number = |name: Option<&String>| -> Option<i64> {
            let (_, values) = self.integers.get(name?)?;
            if let [value] = **values { Some(value) } else { None }
        };
        let going = node.input.get(1).is_none_or(|name| name.is_empty())
            || number(node.input.get(1)) == Some(1);
        let rounds =
            number(node.input.first()).and_then(|rounds| usize::try_from(rounds.max(0)).ok());
        let (Some(rounds), true) = (rounds.filter(|rounds| *rounds <= MOST), going) else {
            return Err(format!(
                "it carries a sequence, and how often it is run is not known before, or is more than \
                 {MOST} times, which is not implemented"
            ));
        };
        let mut state: Vec<Value> =
            node.input.get(2..).unwrap_or_default().iter().map(|name| value(known, name)).collect();
        let mut left: Vec<Vec<String>> = vec![Vec::new(); scanned];
        for round in 0..rounds {
            let (at, on) = (self.name(), self.name());
            self.constant(at.clone(), Vec::new(), vec![round as i64], nodes);
            nodes.push(constant(&on, DataType::Bool, Vec::new(), vec![1]));
            self.integers.insert(on.clone(), (true, vec![1]));
            let mut given = vec![Value::Tensor(at), Value::Tensor(on)];
            given.append(&mut state);
            let mut made = self.copied(&body, given, known, nodes)?.into_iter();
            let condition = match made.next() {
                Some(Value::Tensor(name)) => number_of(&self.integers, &name),
                _ => None,
            };
            if condition != Some(1) {
                return Err("it carries a sequence, and its condition changes, which is not \
                            implemented"
                    .into());
            }
            state = made.by_ref().take(carried).collect();
            for (values, value) in left.iter_mut().zip(made) {
                let Value::Tensor(name) = value else {
                    return Err("its rounds leave behind what is no tensor".into());
                };
                values.push(name);
            }
        }
        for (name, value) in node.output.iter().zip(state) {
            known.insert(name.clone(), value);
        }
        for (name, values) in node.output.iter().skip(carried).zip(left) {
            let all = self.joined(&values, 0, true, nodes)?;
            nodes.push(identity(all, name.clone()));
        }
        Ok(())
    }

    /// A function over the elements of sequences.
    fn mapped(
        &mut self,
        node: &NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let Some(body) = find(node, "body").and_then(|attribute| attribute.g.clone()) else {
            return Err("it has no body".into());
        };
        if body.input.len() != node.input.len() || body.output.len() != node.output.len() {
            return Err("its body has another number of inputs or outputs".into());
        }
        let given: Vec<Value> = node.input.iter().map(|name| value(known, name)).collect();
        let Some(Value::Sequence(first)) = given.first() else {
            return Err("its first input is no sequence".into());
        };
        let mut made: Vec<Vec<String>> = vec![Vec::new(); body.output.len()];
        for at in 0..first.len() {
            let each = given.iter().map(|value| match value {
                Value::Sequence(list) if list.len() == first.len() => {
                    Ok(Value::Tensor(list[at].clone()))
                }
                Value::Tensor(name) => Ok(Value::Tensor(name.clone())),
                _ => Err("its sequences are of different lengths"),
            });
            let each = each.collect::<Result<Vec<_>, _>>()?;
            for (list, value) in made.iter_mut().zip(self.copied(&body, each, known, nodes)?) {
                let Value::Tensor(name) = value else { return Err("it makes no tensors".into()) };
                list.push(name);
            }
        }
        for (name, list) in node.output.iter().zip(made) {
            known.insert(name.clone(), Value::Sequence(list));
        }
        Ok(())
    }

    /// The nodes of a body, under names of their own, for inputs that are these values; says what its
    /// outputs are.
    fn copied(
        &mut self,
        body: &GraphProto,
        given: Vec<Value>,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<Value>, String> {
        if !body.sparse_initializer.is_empty() {
            return Err("its body has sparse initializers".into());
        }
        let mut here: HashMap<String, String> = HashMap::new();
        for (input, value) in body.input.iter().zip(given) {
            let name = self.name();
            known.insert(name.clone(), value);
            here.insert(input.name.clone(), name);
        }
        for tensor in &body.initializer {
            let name = self.name();
            here.insert(tensor.name.clone(), name.clone());
            let mut tensor = tensor.clone();
            tensor.name.clear();
            self.remember(&name, &tensor);
            let value = AttributeProto {
                name: "value".into(),
                r#type: AttributeType::Tensor as i32,
                t: Some(tensor),
                ..AttributeProto::default()
            };
            nodes.push(operation("Constant", Vec::new(), name, vec![value]));
        }
        for made in body.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
            let name = self.name();
            here.insert(made.clone(), name);
        }
        for node in &body.node {
            let mut node = node.clone();
            node.name.clear();
            rename(&mut node, &here);
            self.node(node, known, nodes)?;
        }
        let output = |output: &tract_onnx::pb::ValueInfoProto| {
            value(known, here.get(&output.name).unwrap_or(&output.name))
        };
        Ok(body.output.iter().map(output).collect())
    }
}

fn number_of(integers: &HashMap<String, (bool, Vec<i64>)>, name: &str) -> Option<i64> {
    integers.get(name).and_then(|(_, values)| values.first().copied())
}

/// Gives the values that a node and its bodies read and make other names.
fn rename(node: &mut NodeProto, here: &HashMap<String, String>) {
    let change = |name: &mut String| {
        if let Some(other) = here.get(name) {
            name.clone_from(other);
        }
    };
    node.input.iter_mut().chain(&mut node.output).for_each(change);
    for body in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        body.node.iter_mut().for_each(|node| rename(node, here));
        let values = body.input.iter_mut().chain(&mut body.output).map(|value| &mut value.name);
        values.chain(body.initializer.iter_mut().map(|tensor| &mut tensor.name)).for_each(change);
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

fn operation(
    op_type: &str,
    input: Vec<String>,
    output: String,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        input,
        output: vec![output],
        attribute,
        ..NodeProto::default()
    }
}

fn identity(from: String, to: String) -> NodeProto {
    operation("Identity", vec![from], to, Vec::new())
}

fn attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}

fn list(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values,
        ..AttributeProto::default()
    }
}

fn constant(name: &str, dtype: DataType, dims: Vec<i64>, raw_data: Vec<u8>) -> NodeProto {
    let tensor = TensorProto { dims, data_type: dtype as i32, raw_data, ..TensorProto::default() };
    let value = AttributeProto {
        name: "value".into(),
        r#type: AttributeType::Tensor as i32,
        t: Some(tensor),
        ..AttributeProto::default()
    };
    operation("Constant", Vec::new(), name.to_owned(), vec![value])
}
