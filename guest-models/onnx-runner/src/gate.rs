//! What is refused before tract sees the model, because tract would not notice. A refusal names
//! the node; nothing here may let a model through that means something else than tract computes.

use std::collections::HashSet;

use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

/// Operator domains whose operators tract implements under their own names.
const DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// Refuses what is outside what the runner implements.
pub(crate) fn check(proto: &ModelProto) -> Result<(), String> {
    if let Some(function) = proto.functions.first() {
        return Err(format!(
            "the model defines functions of its own ({:?}), which are not implemented; \
             inline them when exporting the model",
            function.name.as_deref().unwrap_or_default()
        ));
    }
    match &proto.graph {
        Some(graph) => check_graph(graph),
        None => Ok(()),
    }
}

fn check_graph(graph: &GraphProto) -> Result<(), String> {
    if !graph.sparse_initializer.is_empty() {
        return Err("the model has sparse initializers, which are not implemented".into());
    }
    let external = Some(DataLocation::External as i32);
    if let Some(tensor) = graph.initializer.iter().find(|t| t.data_location == external) {
        return Err(format!(
            "the initializer {:?} keeps its data in another file, and a sandbox has none; \
             save the model as one file",
            tensor.name
        ));
    }
    let mut made = HashSet::new();
    for node in &graph.node {
        check_node(node)?;
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if !made.insert(output) {
                return Err(format!("two nodes make the same value {output:?}"));
            }
        }
    }
    Ok(())
}

fn check_node(node: &NodeProto) -> Result<(), String> {
    if !DOMAINS.contains(&&*node.domain) {
        return Err(format!(
            "node {:?}: operator {:?} is from the domain {:?}, which is not implemented",
            node.name, node.op_type, node.domain
        ));
    }
    for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        check_graph(graph)?;
    }
    Ok(())
}
