//! Maps each node of the plan to the nodes of the model that it computes. The optimizer fuses
//! nodes, and the result has the name of only one of them: the last one for the host's kernels, the
//! first one for tract's operators. Only the profile report uses this.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;

use crate::explain::{Named, Nodes};

/// Marks a node of the model that no node of the plan computes, because its result is a constant.
const NONE: u32 = u32::MAX;

/// The dependencies between the nodes of a model's graph.
pub(crate) struct Wiring {
    /// For each node, the nodes whose outputs it reads.
    makers: Vec<Vec<u32>>,
    /// Whether a node depends on an input of the model.
    dynamic: Vec<bool>,
}

impl Wiring {
    /// The dependencies of a model whose nodes are sorted.
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
            // A node that only reads shapes has a constant result.
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

/// Adds the values that the nodes of a body read. The protobuf decoder limits the nesting.
fn add_reads<'a>(body: &'a GraphProto, read: &mut Vec<&'a str>) {
    for node in &body.node {
        read.extend(node.input.iter().map(String::as_str));
        let bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        bodies.for_each(|body| add_reads(body, read));
    }
}

/// For each node of a model that is not in a body: the index of the model's node whose name the
/// node of the plan that computes it has. Its own index if the plan has a node of its name.
#[derive(Default)]
pub(crate) struct Folded(Vec<u32>);

impl Folded {
    /// Finds the node of the plan that computes each node of a model.
    pub(crate) fn of(wiring: Wiring, nodes: &Nodes, plan: &TypedModel) -> Folded {
        let Wiring { makers, dynamic } = wiring;
        let indices = indices(nodes);
        let count = makers.len();
        let mut into = vec![NONE; count];
        // Whether the host computes the plan's last node of this name.
        let mut native = vec![false; count];
        for node in &plan.nodes {
            let operator = node.op.name();
            if !["Const", "Source"].contains(&&*operator)
                && let Some(at) = index_of(&indices, &node.name).filter(|at| (*at as usize) < count)
            {
                into[at as usize] = at;
                native[at as usize] = operator.starts_with("Native");
            }
        }
        let free = |into: &[u32], at: u32| into[at as usize] == NONE && dynamic[at as usize];
        // Fused into a kernel of the host that reads it.
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
        // Fused into a node that it reads.
        for at in (0..count).filter(|at| free(&into, *at as u32)).collect::<Vec<_>>() {
            let mut targets = makers[at].iter().rev().map(|maker| into[*maker as usize]);
            into[at] = targets.find(|target| *target != NONE).unwrap_or(NONE);
        }
        // Fused into any node that reads it.
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
        let indices = indices(nodes);
        let found: Vec<Option<u32>> = plan.iter().map(|name| index_of(&indices, name)).collect();
        // If several nodes of the plan are named after one, the last one has the fused nodes.
        let last = found.iter().enumerate().filter_map(|(at, index)| Some(((*index)?, at)));
        let last: HashMap<u32, usize> = last.collect();
        let mut computed: Vec<Vec<&Named>> = vec![Vec::new(); plan.len()];
        for (named, into) in nodes.outermost().zip(&self.0) {
            if let Some(at) = last.get(into) {
                computed[*at].push(named);
            }
        }
        for (computed, index) in computed.iter_mut().zip(found).filter(|(c, _)| c.is_empty()) {
            computed.extend(index.and_then(|index| nodes.outermost().nth(index as usize)));
        }
        computed
    }
}

fn indices(nodes: &Nodes) -> HashMap<&str, u32> {
    nodes.outermost().enumerate().map(|(at, named)| (&*named.name, at as u32)).collect()
}

/// The index of the model's node that a node of a plan is named after: the longest name that is a
/// prefix of its name and does not end within a word.
fn index_of(indices: &HashMap<&str, u32>, name: &str) -> Option<u32> {
    if let Some(index) = indices.get(name) {
        return Some(*index);
    }
    let ends = name.char_indices().rev().filter(|(_, c)| !c.is_ascii_alphanumeric());
    ends.map(|(at, _)| &name[..at]).find_map(|start| indices.get(start)).copied()
}
