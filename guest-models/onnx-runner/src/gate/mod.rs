//! Checks a model before tract reads it. tract ignores attributes, operator versions and domains
//! that it does not know, so a model that uses them would get a wrong answer instead of an error.
//! The gate must never pass anything that is not in the table of operators
//! (`guest-models/operators`): operator, versions, number of inputs and outputs, element types,
//! and every attribute with the values that were checked against the specification.
//!
//! An error names the node, the operator, its version, and what is not implemented.

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
mod sparse;
mod tensors;
mod text;
mod versioned;

use std::collections::HashSet;

pub(crate) use carry::Carried;
pub(crate) use defaults::settle;
pub(crate) use fixed::fix;
pub(crate) use functions::{Defaults, names_of};
pub(crate) use node::refusal;
pub(crate) use tensors::{MAX_DIMS, is_complete_with};
pub(crate) use text::shown;
pub(crate) use versioned::operator_of;

use belljar_abi::InputShape;
use belljar_operators::{MICROSOFT, ML, NEWEST, newest};
use onnx_ops::optimizer;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, type_proto,
};

use crate::load::Types;

/// The domain of operators that onnxruntime makes for the vectors of a processor.
const NCHWC: &str = "com.microsoft.nchwc";

/// Why a model is refused.
pub(crate) enum Refused {
    /// Whatever the shapes of its inputs are.
    Always(String),
    /// With inputs of these shapes; other shapes may work.
    ForShapes(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Refused {
        Refused::Always(why)
    }
}

/// Refuses what the runner does not compute as ONNX specifies, and rewrites the rest into the form
/// that tract reads correctly. Returns the inputs and outputs that are carried in another element
/// type.
pub(crate) fn check(
    proto: &mut ModelProto,
    defaults: &Defaults,
    shapes: &[InputShape],
    types: &Types,
) -> Result<Carried, Refused> {
    if !proto.training_info.is_empty() {
        let why = "the model contains training information, which is not implemented";
        return Err(why.to_owned().into());
    }
    proto.graph.as_mut().map_or(Ok(()), sparse::densify)?;
    versioned::clear_doc_strings(proto);
    let versions = Versions { noted: true, ..versions(proto)? };
    functions::inline(proto, defaults)?;
    flex::lower(proto, &versions)?;
    let Some(graph) = &mut proto.graph else {
        return Err("the model has no graph".to_owned().into());
    };
    normalize(graph)?;
    outputs::name_unnamed(graph, &versions);
    order::sort(graph)?;
    choice::resolve(graph);
    sequences::resolve(graph, &versions, shapes, types).map_err(Refused::ForShapes)?;
    graph::check(graph, &versions)?;
    let carried = carry::rewrite(graph, &versions)?;
    tensors::make_raw(graph);
    optimizer::move_negative_zeros_to_nodes(graph);
    clear_symbols(graph);
    name_nodes(graph);
    versioned::mark(graph);
    complete(proto, &versions);
    Ok(carried)
}

/// Removes omitted inputs from the end of each node's list, because tract counts them. Some
/// exporters write -1 for an unknown dimension.
fn normalize(graph: &mut GraphProto) -> Result<(), String> {
    for value in &mut graph.input {
        let name = text::shown(&value.name);
        let types = value.r#type.as_mut().and_then(|value| value.value.as_mut());
        let shape = types.and_then(|type_proto::Value::TensorType(tensor)| tensor.shape.as_mut());
        for dim in shape.into_iter().flat_map(|shape| &mut shape.dim) {
            match dim.value {
                Some(dimension::Value::DimValue(-1)) => dim.value = None,
                Some(dimension::Value::DimValue(size)) if size < 0 => {
                    return Err(format!("the input {name} has the negative dimension {size}"));
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

/// Removes the symbolic dimensions of a graph's inputs. tract parses them as formulas, but the
/// shapes of a request are always concrete.
fn clear_symbols(graph: &mut GraphProto) {
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
        attribute.g.iter_mut().for_each(clear_symbols);
    }
}

/// Gives every node of a graph a unique name, which tract requires.
fn name_nodes(graph: &mut GraphProto) {
    let mut taken: HashSet<String> = HashSet::new();
    let values = graph.input.iter().map(|input| &input.name);
    taken.extend(values.chain(graph.initializer.iter().map(|tensor| &tensor.name)).cloned());
    for node in &mut graph.node {
        if node.name.is_empty() || taken.contains(&node.name) {
            // Values have unique names.
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

/// The versions of the known operator sets that a model imports.
#[derive(Clone)]
pub(crate) struct Versions {
    onnx: Option<i64>,
    ml: Option<i64>,
    microsoft: Option<i64>,
    /// Whether a node's `doc_string` holds its own version. Only true after the model's own doc
    /// strings have been cleared.
    noted: bool,
}

impl Versions {
    /// The version of a node's operator: that of the function it comes from, or the model's.
    fn of_node(&self, node: &NodeProto) -> Result<i64, String> {
        match versioned::of(node).filter(|_| self.noted) {
            Some(version) => Ok(version),
            None => self.of(domain_of(node)),
        }
    }

    /// The imported version of a domain, or why its operators are not implemented.
    fn of(&self, domain: &str) -> Result<i64, String> {
        match domain {
            "" => self.onnx.ok_or_else(no_version),
            ML => self.ml.ok_or_else(|| not_imported(ML)),
            MICROSOFT => self.microsoft.ok_or_else(|| not_imported(MICROSOFT)),
            NCHWC => Err(format!(
                "operators of the domain {NCHWC} depend on one processor; save the model from \
                 onnxruntime at ORT_ENABLE_EXTENDED, before its layout is optimised"
            )),
            other => {
                let from = text::domain(other);
                Err(format!("operators of the domain {from} are not implemented"))
            }
        }
    }

    /// The versions that apply to the nodes of a function.
    pub(crate) fn within(&self, function: &FunctionProto) -> Versions {
        let of = |domain| functions::version(function, domain);
        Versions {
            onnx: of("").or(self.onnx),
            ml: of(ML).or(self.ml),
            microsoft: of(MICROSOFT).or(self.microsoft),
            noted: self.noted,
        }
    }
}

fn not_imported(domain: &str) -> String {
    format!("the model does not import the domain {domain}")
}

fn no_version() -> String {
    "the model does not import a version of the ONNX operator set".into()
}

/// The domain of a node; `ai.onnx` is a second name of the default domain.
pub(crate) fn domain_of(node: &NodeProto) -> &str {
    if node.domain == "ai.onnx" { "" } else { &node.domain }
}

/// The name of a node's operator, if it is one of ONNX's own; empty for operators of other domains,
/// some of which have the same names.
pub(crate) fn onnx_operator(node: &NodeProto) -> &str {
    if domain_of(node).is_empty() { &node.op_type } else { "" }
}

pub(crate) fn versions(proto: &ModelProto) -> Result<Versions, String> {
    let mut versions = Versions { onnx: None, ml: None, microsoft: None, noted: false };
    let mut seen: Vec<(&str, i64)> = Vec::new();
    for import in &proto.opset_import {
        let domain = if import.domain == "ai.onnx" { "" } else { &*import.domain };
        // Some exporters write the same import twice.
        match seen.iter().find(|(other, _)| *other == domain) {
            Some((_, version)) if *version == import.version => continue,
            Some((_, version)) => {
                let (set, other) = (text::set(domain), import.version);
                return Err(format!(
                    "duplicate import of {set} with the versions {version} and {other}"
                ));
            }
            None => seen.push((domain, import.version)),
        }
        if seen.len() > 64 {
            return Err("the model imports more than 64 operator sets".into());
        }
        // Operators of other domains are refused when a node uses one; an unused import is
        // harmless.
        let Some(newest) = newest(domain) else { continue };
        if !(1..=newest).contains(&import.version) {
            let (version, set) = (import.version, text::set(domain));
            return Err(format!(
                "version {version} of {set} is not implemented; use 1 to {newest}"
            ));
        }
        match domain {
            "" => versions.onnx = Some(import.version),
            MICROSOFT => versions.microsoft = Some(import.version),
            _ => versions.ml = Some(import.version),
        }
    }
    match versions {
        // The functions may import versions for all nodes.
        Versions { onnx: None, ml: None, microsoft: None, .. } if proto.functions.is_empty() => {
            Err(no_version())
        }
        versions => Ok(versions),
    }
}

/// Adds an import of the ONNX operator set, which tract requires even if no node uses it.
fn complete(proto: &mut ModelProto, versions: &Versions) {
    if versions.onnx.is_none() {
        let import = OperatorSetIdProto { domain: String::new(), version: NEWEST };
        proto.opset_import.push(import);
    }
}
