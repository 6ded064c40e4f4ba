//! What is refused before tract sees the model. tract reads what it knows of a model and passes
//! over the rest: attributes, versions of operators, domains. A model that asks for more than is
//! computed would get an answer all the same, and a wrong one. So nothing passes here that is not
//! in the table of operators (`guest-models/operators`): operator, versions, number of inputs and outputs, element
//! types, and every attribute with the values that have been checked against the specification.
//!
//! A refusal names the node, the operator, its version, and what it is that is not implemented.

mod attributes;
mod bounds;
mod carry;
mod choice;
mod fixed;
mod functions;
mod graph;
mod node;
mod sequences;
mod tensors;
mod text;

use std::collections::HashSet;

pub(crate) use carry::{CAST, Carried, DEQUANTIZE, QUANTIZE};
pub(crate) use fixed::fix;
pub(crate) use functions::names_of;
pub(crate) use node::refusal;

use belljar_abi::InputShape;
use belljar_operators::NEWEST;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ModelProto, type_proto};

/// Refuses what the runner does not compute as ONNX says, and brings the rest into the one form
/// that tract reads rightly. Says which inputs and outputs are carried in another element type.
pub(crate) fn check(proto: &mut ModelProto, shapes: &[InputShape]) -> Result<Carried, String> {
    if !proto.training_info.is_empty() {
        return Err("the model has information for training, which is not implemented".into());
    }
    let versions = versions(proto)?;
    functions::inline(proto)?;
    let Some(graph) = &mut proto.graph else { return Err("the model has no graph".into()) };
    choice::resolve(graph);
    sequences::resolve(graph, &versions, shapes)?;
    graph::check(graph, &versions)?;
    let carried = carry::rewrite(graph, &versions)?;
    tensors::make_raw(graph);
    forget_symbols(graph);
    name_nodes(graph);
    Ok(carried)
}

/// Takes the names of dimensions out of a graph's inputs. tract reads them as formulas, and every
/// shape is given as numbers.
fn forget_symbols(graph: &mut GraphProto) {
    for input in &mut graph.input {
        let value = input.r#type.as_mut().and_then(|value| value.value.as_mut());
        let shape = value.and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_mut());
        for dim in shape.into_iter().flat_map(|shape| &mut shape.dim) {
            if let Some(dimension::Value::DimParam(_)) = dim.value {
                dim.value = None;
            }
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().for_each(forget_symbols);
    }
}

/// Gives every node of a graph a name of its own: tract stumbles over two of one name.
fn name_nodes(graph: &mut GraphProto) {
    let mut taken: HashSet<String> = HashSet::new();
    let values = graph.input.iter().map(|input| &input.name);
    taken.extend(values.chain(graph.initializer.iter().map(|tensor| &tensor.name)).cloned());
    for node in &mut graph.node {
        if node.name.is_empty() || taken.contains(&node.name) {
            // No other node makes this value.
            node.name =
                node.output.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
            while taken.contains(&node.name) {
                node.name.push('\'');
            }
        }
        taken.insert(node.name.clone());
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().for_each(name_nodes);
        }
    }
}

/// The version of each operator set that the model is written in.
pub(crate) struct Versions {
    onnx: i64,
}

pub(crate) fn versions(proto: &ModelProto) -> Result<Versions, String> {
    let mut onnx = None;
    let mut seen: Vec<&str> = Vec::new();
    for import in &proto.opset_import {
        let domain = if import.domain == "ai.onnx" { "" } else { &*import.domain };
        if seen.contains(&domain) {
            return Err(format!("the operator set {} is imported twice", text::domain(domain)));
        }
        seen.push(domain);
        if seen.len() > 64 {
            return Err("more than 64 operator sets are imported".into());
        }
        // Operators of other domains are refused one by one: an import that nothing uses does no
        // harm.
        if domain.is_empty() {
            if !(1..=NEWEST).contains(&import.version) {
                return Err(format!(
                    "version {} of ONNX's operator set is not implemented; 1 to {NEWEST} are",
                    import.version
                ));
            }
            onnx = Some(import.version);
        }
    }
    match onnx {
        Some(onnx) => Ok(Versions { onnx }),
        None => {
            Err("the model does not say which version of ONNX's operator set it is written in"
                .into())
        }
    }
}
