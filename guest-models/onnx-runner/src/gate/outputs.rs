//! Outputs without a name: ones that nobody reads. tract counts the outputs that have names, so that
//! one left out would shift those behind it.

use std::collections::HashSet;

use belljar_operators as table;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::node::named;
use super::{Versions, domain_of, functions};

/// Operators that are read with their unnamed outputs in mind.
const COUNTED: [&str; 4] = ["RNN", "GRU", "LSTM", "Attention"];

/// Takes unnamed outputs off the end of each node that may have fewer, and gives the others names
/// that nothing reads.
pub(super) fn settle(graph: &mut GraphProto, versions: &Versions) {
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
    settle_graph(graph, versions, &prefix, &mut 0);
}

/// Whether there is any. The protobuf decoder has bounded the nesting.
fn unnamed(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let mut bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        node.output.iter().any(String::is_empty) || bodies.any(unnamed)
    })
}

fn settle_graph(graph: &mut GraphProto, versions: &Versions, prefix: &str, made: &mut usize) {
    for node in &mut graph.node {
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        bodies.for_each(|body| settle_graph(body, versions, prefix, made));
        settle_node(node, versions, prefix, made);
    }
}

fn settle_node(node: &mut NodeProto, versions: &Versions, prefix: &str, made: &mut usize) {
    // A node that names none is refused as it is.
    let last = named(&node.output);
    if last == 0 {
        return;
    }
    let operator = versions.of_node(node);
    let operator =
        operator.and_then(|version| table::find(domain_of(node), &node.op_type, version));
    let fewest = match operator {
        // How many outputs there are says what the node does.
        Ok(operator) if operator.many_outputs => node.output.len(),
        Ok(operator) => last.max(operator.fewest_outputs),
        Err(_) => last,
    };
    node.output.truncate(fewest);
    if COUNTED.contains(&&*node.op_type) {
        return;
    }
    for name in node.output.iter_mut().filter(|name| name.is_empty()) {
        *made += 1;
        *name = format!("{prefix}{made}");
    }
}
