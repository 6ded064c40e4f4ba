//! Names unnamed outputs, which nothing reads. tract only counts outputs with names, so an unnamed
//! one would shift those after it.

use std::collections::HashSet;

use belljar_operators as table;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::node::named;
use super::{Versions, domain_of, functions, onnx_operator};

/// Operators whose builders handle unnamed outputs.
const COUNTED: [&str; 4] = ["RNN", "GRU", "LSTM", "Attention"];

/// Removes unnamed outputs from the end of each node that may have fewer, and gives the others
/// unused names.
pub(super) fn name_unnamed(graph: &mut GraphProto, versions: &Versions) {
    if !unnamed(graph) {
        return;
    }
    let prefix = {
        let names: HashSet<&str> = functions::names(graph).collect();
        let mut prefix = String::from("unread:");
        while names.iter().any(|name| name.starts_with(&prefix)) {
            prefix.push('\'');
        }
        prefix
    };
    name_in_graph(graph, versions, &prefix, &mut 0);
}

/// Whether a graph has an unnamed output. The protobuf decoder limits the nesting.
fn unnamed(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let mut bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        node.output.iter().any(String::is_empty) || bodies.any(unnamed)
    })
}

fn name_in_graph(graph: &mut GraphProto, versions: &Versions, prefix: &str, made: &mut usize) {
    for node in &mut graph.node {
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        bodies.for_each(|body| name_in_graph(body, versions, prefix, made));
        name_in_node(node, versions, prefix, made);
    }
}

fn name_in_node(node: &mut NodeProto, versions: &Versions, prefix: &str, made: &mut usize) {
    // A node without any named output is refused later.
    let last = named(&node.output);
    if last == 0 {
        return;
    }
    let operator = versions.of_node(node);
    let operator =
        operator.and_then(|version| table::find(domain_of(node), &node.op_type, version));
    let fewest = match operator {
        // The number of outputs has a meaning.
        Ok(operator) if operator.many_outputs => node.output.len(),
        Ok(operator) => last.max(operator.fewest_outputs),
        Err(_) => last,
    };
    node.output.truncate(fewest);
    if COUNTED.contains(&onnx_operator(node)) {
        return;
    }
    for name in node.output.iter_mut().filter(|name| name.is_empty()) {
        *made += 1;
        *name = format!("{prefix}{made}");
    }
}
