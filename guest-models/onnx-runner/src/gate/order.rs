//! Sorts the nodes of a graph topologically. ONNX requires that order, but many exporters write
//! another one. The sort is stable: nodes that are already in order keep their positions. A cycle
//! is refused.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto};

use super::text::shown;

/// Maximum number of nodes of a cycle that a message names.
const MAX_NAMED: usize = 6;

/// Sorts a graph and its bodies.
pub(super) fn sort(graph: &mut GraphProto) -> Result<(), String> {
    sorted(graph, &[]).map(drop)
}

/// Sorts a graph that is enclosed by graphs with these values; returns the values it reads from
/// them. The protobuf decoder limits the nesting.
fn sorted(graph: &mut GraphProto, around: &[&HashSet<String>]) -> Result<HashSet<String>, String> {
    let bodies = graph.node.iter().flat_map(|node| &node.attribute).any(|a| a.g.is_some());
    let made: HashSet<String> =
        if bodies { own(graph).map(str::to_owned).collect() } else { HashSet::new() };
    let within: Vec<&HashSet<String>> = around.iter().copied().chain([&made]).collect();
    // The values of enclosing graphs that the bodies of each node read.
    let mut captured: Vec<HashSet<String>> = Vec::with_capacity(graph.node.len());
    for node in &mut graph.node {
        let mut reads = HashSet::new();
        for body in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            reads.extend(sorted(body, &within)?);
        }
        captured.push(reads);
    }
    // No node makes the values of inputs, initializers and enclosing graphs; a duplicate is refused
    // later.
    let inputs = graph.input.iter().map(|input| &*input.name);
    let given: HashSet<&str> =
        inputs.chain(graph.initializer.iter().map(|tensor| &*tensor.name)).collect();
    let elsewhere =
        |name: &str| given.contains(name) || around.iter().any(|names| names.contains(name));
    if let Some(order) = order(&graph.node, &captured, &elsewhere)? {
        let mut nodes: Vec<Option<NodeProto>> =
            std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        graph.node = order.into_iter().filter_map(|at| nodes[at].take()).collect();
    }
    let own: HashSet<&str> = own(graph).collect();
    let read = graph.node.iter().flat_map(|node| &node.input).cloned();
    let read = read.chain(captured.into_iter().flatten());
    Ok(read.filter(|name| !name.is_empty() && !own.contains(&**name)).collect())
}

/// The values that a graph defines.
fn own(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|input| &*input.name);
    let tensors = graph.initializer.iter().map(|tensor| &*tensor.name);
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(|name| &**name);
    inputs.chain(tensors).chain(outputs)
}

/// The order of the nodes, or `None` if they are already in order.
fn order(
    nodes: &[NodeProto],
    captured: &[HashSet<String>],
    elsewhere: &dyn Fn(&str) -> bool,
) -> Result<Option<Vec<usize>>, String> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty() && !elsewhere(name)) {
            // Two makers of one value are refused later.
            makers.entry(name).or_insert(at);
        }
    }
    let read_by = |at: usize| {
        let names = nodes[at].input.iter().chain(&captured[at]);
        names.filter_map(|name| makers.get(&**name).copied())
    };
    if (0..nodes.len()).all(|at| read_by(at).all(|maker| maker < at)) {
        return Ok(None);
    }
    let mut missing = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for at in 0..nodes.len() {
        for maker in read_by(at) {
            missing[at] += 1;
            readers[maker].push(at);
        }
    }
    // The nodes whose inputs are all available; the first one in the original order comes next.
    let ready = (0..nodes.len()).filter(|at| missing[*at] == 0).map(Reverse);
    let mut ready: BinaryHeap<Reverse<usize>> = ready.collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(at)) = ready.pop() {
        order.push(at);
        for reader in std::mem::take(&mut readers[at]) {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() == nodes.len() {
        return Ok(Some(order));
    }
    Err(cycle(nodes, |at| read_by(at).find(|maker| missing[*maker] > 0), &missing))
}

/// The message that names the nodes of a cycle. Every node that still lacks a value reads from
/// another such node, so that following them ends in a cycle.
fn cycle(nodes: &[NodeProto], maker: impl Fn(usize) -> Option<usize>, missing: &[usize]) -> String {
    let mut path: Vec<usize> = Vec::new();
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut next = missing.iter().position(|missing| *missing > 0);
    let start = loop {
        let Some(at) = next else { break 0 };
        if let Some(start) = place.get(&at) {
            break *start;
        }
        place.insert(at, path.len());
        path.push(at);
        next = maker(at);
    };
    // From maker to reader.
    let round: Vec<usize> = path[start..].iter().rev().copied().collect();
    let named = |at: &usize| {
        let node = &nodes[*at];
        let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
        let operator = super::text::operator(&node.op_type);
        format!("{} ({operator})", shown(name.map_or("", |name| name)))
    };
    let names: Vec<String> = round.iter().take(MAX_NAMED).map(named).collect();
    let names = names.join(", ");
    let end = "Remove the cycle and export the model again";
    match round.len() {
        1 => format!("node {names} reads its own output. {end}"),
        count if count > MAX_NAMED => format!(
            "{count} nodes form a cycle, in which each reads an output of the previous one: \
             {names}, …. {end}"
        ),
        _ => format!(
            "nodes form a cycle, in which each reads an output of the previous one: {names}. {end}"
        ),
    }
}
