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
mod defaults;
mod fixed;
mod flex;
mod functions;
mod graph;
mod narrow;
mod node;
mod order;
mod outputs;
mod sequences;
mod tensors;
mod text;
mod versioned;

use std::collections::HashSet;

pub(crate) use carry::Carried;
pub(crate) use defaults::settle;
pub(crate) use fixed::fix;
pub(crate) use functions::{Defaults, names_of};
pub(crate) use node::refusal;
pub(crate) use text::shown;
pub(crate) use versioned::operator_of;

use belljar_abi::InputShape;
use belljar_operators::{ML, NEWEST, newest};
use onnx_ops::optimizer;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, type_proto,
};

/// Why a model is refused.
pub(crate) enum Refused {
    /// For what it is.
    Always(String),
    /// For what it is with inputs of these shapes.
    ForShapes(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused::Always(why)
    }
}

/// Refuses what the runner does not compute as ONNX says, and brings the rest into the one form
/// that tract reads rightly. Says which inputs and outputs are carried in another element type.
pub(crate) fn check(
    proto: &mut ModelProto,
    defaults: &Defaults,
    shapes: &[InputShape],
) -> Result<Carried, Refused> {
    if !proto.training_info.is_empty() {
        let why = "the model has information for training, which is not implemented";
        return Err(why.to_owned().into());
    }
    versioned::forget_texts(proto);
    let versions = Versions { noted: true, ..versions(proto)? };
    functions::inline(proto, defaults)?;
    flex::lower(proto, &versions)?;
    let Some(graph) = &mut proto.graph else {
        return Err("the model has no graph".to_owned().into());
    };
    normalize(graph)?;
    outputs::settle(graph, &versions);
    order::sort(graph)?;
    choice::resolve(graph);
    sequences::resolve(graph, &versions, shapes).map_err(Refused::ForShapes)?;
    graph::check(graph, &versions)?;
    let carried = carry::rewrite(graph, &versions)?;
    tensors::make_raw(graph);
    optimizer::move_negative_zeros_to_nodes(graph);
    forget_symbols(graph);
    name_nodes(graph);
    versioned::mark(graph);
    complete(proto, &versions);
    Ok(carried)
}

/// Inputs that are left out at the end of a node's list are as if they were not in it; tract counts
/// them. A dimension of -1 is what some programs write for one that is not known.
fn normalize(graph: &mut GraphProto) -> Result<(), String> {
    for value in &mut graph.input {
        let name = text::shown(&value.name);
        let types = value.r#type.as_mut().and_then(|value| value.value.as_mut());
        let shape = types.and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_mut());
        for dim in shape.into_iter().flat_map(|shape| &mut shape.dim) {
            match dim.value {
                Some(dimension::Value::DimValue(-1)) => dim.value = None,
                Some(dimension::Value::DimValue(size)) if size < 0 => {
                    return Err(format!("the input {name} has a dimension of {size}"));
                }
                _ => {}
            }
        }
    }
    for node in &mut graph.node {
        while node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
        for body in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            normalize(body)?;
        }
    }
    Ok(())
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

/// The version of each operator set that the model is written in, of the sets that are known.
#[derive(Clone)]
pub(crate) struct Versions {
    onnx: Option<i64>,
    ml: Option<i64>,
    /// Whether nodes can carry a version of their own: once the model's own texts are taken out of
    /// the field in which they do.
    noted: bool,
}

impl Versions {
    /// The version in which a node is written: the one of the function that it comes from, or the
    /// model's.
    fn of_node(&self, node: &NodeProto) -> Result<i64, String> {
        match versioned::of(node).filter(|_| self.noted) {
            Some(version) => Ok(version),
            None => self.of(domain_of(node)),
        }
    }

    /// The version in which the operators of a domain are written, or why they are not implemented.
    fn of(&self, domain: &str) -> Result<i64, String> {
        match domain {
            "" => self.onnx.ok_or_else(unsaid),
            ML => self.ml.ok_or_else(|| format!("the model does not import the domain {ML}")),
            other => {
                let from = text::domain(other);
                Err(format!("operators of the domain {from} are not implemented"))
            }
        }
    }

    /// The versions in which the nodes of a function are written.
    pub(crate) fn within(&self, function: &FunctionProto) -> Versions {
        let of = |domain| functions::version(function, domain);
        Versions { onnx: of("").or(self.onnx), ml: of(ML).or(self.ml), noted: self.noted }
    }
}

fn unsaid() -> String {
    "the model does not say which version of ONNX's operator set it is written in".into()
}

/// A domain by its one name.
pub(crate) fn domain_of(node: &NodeProto) -> &str {
    if node.domain == "ai.onnx" { "" } else { &node.domain }
}

pub(crate) fn versions(proto: &ModelProto) -> Result<Versions, String> {
    let mut versions = Versions { onnx: None, ml: None, noted: false };
    let mut seen: Vec<(&str, i64)> = Vec::new();
    for import in &proto.opset_import {
        let domain = if import.domain == "ai.onnx" { "" } else { &*import.domain };
        // Some exporters say the same thing twice.
        match seen.iter().find(|(other, _)| *other == domain) {
            Some((_, version)) if *version == import.version => continue,
            Some((_, version)) => {
                let (set, other) = (text::set(domain), import.version);
                return Err(format!(
                    "{set} is imported twice, in the versions {version} and {other}"
                ));
            }
            None => seen.push((domain, import.version)),
        }
        if seen.len() > 64 {
            return Err("more than 64 operator sets are imported".into());
        }
        // Operators of other domains are refused one by one: an import that nothing uses does no
        // harm.
        let Some(newest) = newest(domain) else { continue };
        if !(1..=newest).contains(&import.version) {
            let (version, set) = (import.version, text::set(domain));
            return Err(format!(
                "version {version} of {set} is not implemented; 1 to {newest} are"
            ));
        }
        match domain {
            "" => versions.onnx = Some(import.version),
            _ => versions.ml = Some(import.version),
        }
    }
    match versions {
        // Its functions may say it for all of its nodes.
        Versions { onnx: None, ml: None, .. } if proto.functions.is_empty() => Err(unsaid()),
        versions => Ok(versions),
    }
}

/// tract wants to be told the version of ONNX's own operators also where a model has none of them.
fn complete(proto: &mut ModelProto, versions: &Versions) {
    if versions.onnx.is_none() {
        let import = OperatorSetIdProto { domain: String::new(), version: NEWEST };
        proto.opset_import.push(import);
    }
}
