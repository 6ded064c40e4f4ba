//! Resolves `If` nodes whose condition is a constant or a comparison of constants: the branch that
//! is taken becomes part of the graph, and the other one is not checked.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::attributes::find;

/// Maximum number of nodes of a graph that are resolved; the others are left as they are.
const MAX_RESOLVED: usize = 64;

/// Inlines the branches with a constant condition, in this graph and its bodies.
pub(super) fn resolve(graph: &mut GraphProto) {
    // Every iteration visits all names, so the number of iterations is bounded.
    for _ in 0..MAX_RESOLVED {
        match next(graph) {
            Some((at, taken)) => take(graph, at, taken),
            None => break,
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().for_each(resolve);
    }
}

/// The first node with a constant condition, and the attribute of the branch that it takes.
fn next(graph: &GraphProto) -> Option<(usize, &'static str)> {
    let ifs = || graph.node.iter().enumerate().filter(|(_, node)| node.op_type == "If");
    ifs().next()?;
    let taken_names = names(graph);
    ifs().find_map(|(at, node)| {
        let valid = ["", "ai.onnx"].contains(&&*node.domain)
            && node.attribute.len() == 2
            && node.attribute.iter().all(|a| a.r#type == AttributeType::Graph as i32);
        let [condition] = &*node.input else { return None };
        let branch = match known(graph, condition).filter(|_| valid)? {
            true => "then_branch",
            false => "else_branch",
        };
        let body = find(node, branch)?.g.as_ref()?;
        let fits = body.input.is_empty()
            && body.sparse_initializer.is_empty()
            && body.output.len() == node.output.len()
            // A node whose branch has names that the graph uses is left as it is.
            && names(body).is_disjoint(&taken_names);
        fits.then_some((at, branch))
    })
}

/// The names of all values of a graph.
fn names(graph: &GraphProto) -> HashSet<&str> {
    let inputs = graph.input.iter().map(|input| &input.name);
    let tensors = graph.initializer.iter().map(|tensor| &tensor.name);
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    inputs.chain(tensors).chain(outputs).filter(|name| !name.is_empty()).map(|n| &**n).collect()
}

/// The value of a boolean that follows from constants of this graph.
fn known(graph: &GraphProto, name: &str) -> Option<bool> {
    let plain = |node: &NodeProto| ["", "ai.onnx"].contains(&&*node.domain);
    if let Some(tensor) = constant(graph, name) {
        return truth(tensor);
    }
    if graph.input.iter().any(|input| input.name == name) {
        return None;
    }
    let node = maker(graph, name).filter(|node| plain(node) && node.attribute.is_empty())?;
    match (&*node.op_type, &*node.input) {
        ("Identity", [of]) => truth(constant(graph, of)?),
        ("Not", [of]) => Some(!truth(constant(graph, of)?)?),
        ("Equal", [a, b]) => {
            let (a, b) = (integer(constant(graph, a)?)?, integer(constant(graph, b)?)?);
            // Values of two types cannot be compared.
            (a.0 == b.0).then_some(a.1 == b.1)
        }
        _ => None,
    }
}

fn maker<'g>(graph: &'g GraphProto, name: &str) -> Option<&'g NodeProto> {
    graph.node.iter().find(|node| node.output.first().is_some_and(|output| output == name))
}

/// A constant of this graph.
fn constant<'g>(graph: &'g GraphProto, name: &str) -> Option<&'g TensorProto> {
    if name.is_empty() || graph.input.iter().any(|input| input.name == name) {
        return None;
    }
    if let Some(tensor) = graph.initializer.iter().find(|tensor| tensor.name == name) {
        return Some(tensor);
    }
    let node = maker(graph, name).filter(|node| node.op_type == "Constant")?;
    find(node, "value")?.t.as_ref()
}

/// The integers of a tensor of 32 or 64 bits.
pub(super) fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    super::tensors::check(tensor).ok()?;
    match DataType::try_from(tensor.data_type) {
        Ok(DataType::Int64) if tensor.raw_data.is_empty() => Some(tensor.int64_data.clone()),
        Ok(DataType::Int64) => {
            let (each, _) = tensor.raw_data.as_chunks::<8>();
            Some(each.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
        }
        Ok(DataType::Int32) if tensor.raw_data.is_empty() => {
            Some(tensor.int32_data.iter().map(|value| i64::from(*value)).collect())
        }
        Ok(DataType::Int32) => {
            let (each, _) = tensor.raw_data.as_chunks::<4>();
            Some(each.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
        }
        _ => None,
    }
}

/// One integer of 32 or 64 bits, with its type.
fn integer(tensor: &TensorProto) -> Option<(i32, i64)> {
    let one = tensor.dims.iter().all(|dim| *dim == 1) && super::tensors::check(tensor).is_ok();
    if !one {
        return None;
    }
    let value = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Int64) => match (&*tensor.raw_data, &*tensor.int64_data) {
            (raw, []) => i64::from_le_bytes(raw.try_into().ok()?),
            ([], [value]) => *value,
            _ => return None,
        },
        Ok(DataType::Int32) => match (&*tensor.raw_data, &*tensor.int32_data) {
            (raw, []) => i64::from(i32::from_le_bytes(raw.try_into().ok()?)),
            ([], [value]) => i64::from(*value),
            _ => return None,
        },
        _ => return None,
    };
    Some((tensor.data_type, value))
}

pub(super) fn truth(tensor: &TensorProto) -> Option<bool> {
    let one = tensor.dims.iter().all(|dim| *dim == 1) && super::tensors::check(tensor).is_ok();
    if !one || tensor.data_type != DataType::Bool as i32 {
        return None;
    }
    match (&*tensor.raw_data, &*tensor.int32_data) {
        ([byte], []) => Some(*byte != 0),
        ([], [number]) => Some(*number != 0),
        _ => None,
    }
}

fn take(graph: &mut GraphProto, at: usize, branch: &str) {
    let mut node = graph.node.remove(at);
    let taken = node.attribute.iter_mut().find(|attribute| attribute.name == branch);
    let Some(body) = taken.and_then(|attribute| attribute.g.take()) else { return };
    graph.initializer.extend(body.initializer);
    let passed = body.output.into_iter().zip(node.output).filter(|(_, to)| !to.is_empty());
    let passed = passed.map(|(from, to)| NodeProto {
        op_type: "Identity".into(),
        input: vec![from.name],
        output: vec![to],
        ..NodeProto::default()
    });
    let nodes: Vec<NodeProto> = body.node.into_iter().chain(passed).collect();
    graph.node.splice(at..at, nodes);
}
