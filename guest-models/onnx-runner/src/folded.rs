//! Which nodes of the model a node of the plan computes. Optimising folds nodes into others, and only
//! one of them gives its name to what is left: with the host's kernels the last one, with tract's
//! operators the first one. This is for the report of a profile; nothing else depends on it.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;

use crate::explain::{Named, Nodes};

/// Marks a node of the model that nothing of the plan computes: what it makes is a constant.
const NONE: u32 = u32::MAX;

/// The nodes of a model's graph, and which of them read each other.
pub(crate) struct Wiring {
    /// For each node, the nodes whose outputs it reads.
    makers: Vec<Vec<u32>>,
    /// Whether a node depends on an input of the model.
    dynamic: Vec<bool>,
}

impl Wiring {
    /// The nodes of a model whose nodes are in order.
    pub(crate) fn of(proto: &ModelProto) -> Wiring {
        let mut wiring = Wiring { makers: Vec::new(), dynamic: Vec::new() };
        let Some(graph) = &proto.graph else { return wiring };
        let inputs: HashSet<&str> = graph.input.iter().map(|input| &*input.name).collect();
        let mut made: HashMap<&str, u32> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            let mut read: Vec<&str> = node.input.iter().map(String::as_str).collect();
            let bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
            bodies.for_each(|body| add_reads(body, &mut read));
            let mut makers: Vec<u32> =
                read.iter().filter_map(|value| made.get(value)).copied().collect();
            makers.sort_unstable();
            makers.dedup();
            // What reads shapes only has a constant as its result.
            let constant = ["Shape", "Size"].contains(&&*node.op_type);
            let from = |maker: &u32| wiring.dynamic[*maker as usize];
            let dynamic =
                read.iter().any(|value| inputs.contains(value)) || makers.iter().any(from);
            wiring.dynamic.push(dynamic && !constant);
            wiring.makers.push(makers);
            made.extend(node.output.iter().map(|output| (&**output, at as u32)));
        }
        wiring
    }
}

/// Adds what the nodes of a body read. The protobuf decoder has bounded the nesting.
fn add_reads<'a>(body: &'a GraphProto, read: &mut Vec<&'a str>) {
    for node in &body.node {
        read.extend(node.input.iter().map(String::as_str));
        let bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        bodies.for_each(|body| add_reads(body, read));
    }
}

/// For each node of a model that is in no body: the place of the node after which the part of the plan
/// is named that computes it. Its own place if the plan has a node of its name.
#[derive(Default)]
pub(crate) struct Folded(Vec<u32>);

impl Folded {
    /// Finds out what became of each node of a model.
    pub(crate) fn of(wiring: Wiring, nodes: &Nodes, plan: &TypedModel) -> Folded {
        let Wiring { makers, dynamic } = wiring;
        let places = places(nodes);
        let count = makers.len();
        let mut into = vec![NONE; count];
        // Whether the plan's last node of this name is computed by the host.
        let mut native = vec![false; count];
        for node in &plan.nodes {
            let operator = node.op.name();
            if !["Const", "Source"].contains(&&*operator)
                && let Some(at) = place_of(&places, &node.name).filter(|at| (*at as usize) < count)
            {
                into[at as usize] = at;
                native[at as usize] = operator.starts_with("Native");
            }
        }
        let free = |into: &[u32], at: u32| into[at as usize] == NONE && dynamic[at as usize];
        // Into a kernel of the host that reads it.
        for at in (0..count).rev() {
            let target = into[at];
            if target != NONE && native[target as usize] {
                for maker in &makers[at] {
                    if free(&into, *maker) {
                        into[*maker as usize] = target;
                    }
                }
            }
        }
        // Into what it reads.
        for at in (0..count).filter(|at| free(&into, *at as u32)).collect::<Vec<_>>() {
            let mut targets = makers[at].iter().rev().map(|maker| into[*maker as usize]);
            into[at] = targets.find(|target| *target != NONE).unwrap_or(NONE);
        }
        // Into anything that reads it.
        for at in (0..count).rev() {
            let target = into[at];
            for maker in &makers[at] {
                if free(&into, *maker) {
                    into[*maker as usize] = target;
                }
            }
        }
        Folded(into)
    }

    /// For each node of the plan, the nodes of the model that it computes, in the model's order.
    pub(crate) fn computed_by<'a>(&self, nodes: &'a Nodes, plan: &[&str]) -> Vec<Vec<&'a Named>> {
        let places = places(nodes);
        let found: Vec<Option<u32>> = plan.iter().map(|name| place_of(&places, name)).collect();
        // Where several nodes of the plan are named after one, the last one does what is folded.
        let last = found.iter().enumerate().filter_map(|(at, place)| Some(((*place)?, at)));
        let last: HashMap<u32, usize> = last.collect();
        let mut computed: Vec<Vec<&Named>> = vec![Vec::new(); plan.len()];
        for (named, into) in nodes.outermost().zip(&self.0) {
            if let Some(at) = last.get(into) {
                computed[*at].push(named);
            }
        }
        for (computed, place) in computed.iter_mut().zip(found).filter(|(c, _)| c.is_empty()) {
            computed.extend(place.and_then(|place| nodes.outermost().nth(place as usize)));
        }
        computed
    }
}

fn places(nodes: &Nodes) -> HashMap<&str, u32> {
    nodes.outermost().enumerate().map(|(at, named)| (&*named.name, at as u32)).collect()
}

/// The node after which a node of a plan is named: the longest name that its own one starts with,
/// followed by nothing or by what cannot be part of a word.
fn place_of(places: &HashMap<&str, u32>, name: &str) -> Option<u32> {
    if let Some(place) = places.get(name) {
        return Some(*place);
    }
    let ends = name.char_indices().rev().filter(|(_, c)| !c.is_ascii_alphanumeric());
    ends.map(|(at, _)| &name[..at]).find_map(|start| places.get(start)).copied()
}
