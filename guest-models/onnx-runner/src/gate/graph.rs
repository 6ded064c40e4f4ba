//! Checks graphs and their bodies: every value is defined once, before it is read, and has a known
//! element type.

use std::collections::HashMap;

use belljar_operators::Types;
use tract_onnx::pb::{GraphProto, TypeProto, ValueInfoProto, type_proto};

use super::text::{name_of, shown};
use super::{Versions, bounds, node, tensors};

/// The values that a node can read: those of its graph so far, and of the enclosing graphs.
pub(super) struct Scope<'g> {
    outer: Option<&'g Scope<'g>>,
    values: HashMap<&'g str, Types>,
}

impl<'g> Scope<'g> {
    /// The element type of a value that can be read here.
    pub(super) fn find(&self, name: &str) -> Option<Types> {
        let mut scope = Some(self);
        while let Some(at) = scope {
            if let Some(types) = at.values.get(name) {
                return Some(*types);
            }
            scope = at.outer;
        }
        None
    }

    fn add(&mut self, name: &'g str, types: Types) -> Result<(), String> {
        if name.is_empty() {
            return Err("a value has no name".into());
        }
        if name.len() > bounds::NAME {
            let (name, length) = (shown(name), name.len());
            return Err(format!(
                "the name {name} has {length} bytes; the limit is {}",
                bounds::NAME
            ));
        }
        if self.find(name).is_some() {
            return Err(format!("duplicate value {}: two nodes make the same value", shown(name)));
        }
        self.values.insert(name, types);
        Ok(())
    }
}

/// Counts over a whole model.
#[derive(Default)]
pub(super) struct Totals {
    nodes: usize,
    /// The types of undeclared inputs of bodies, by the address of the input.
    untyped: HashMap<usize, Types>,
}

/// Refuses a graph that is malformed or not implemented. Declares the types of undeclared inputs of
/// bodies, which tract requires.
pub(super) fn check(graph: &mut GraphProto, versions: &Versions) -> Result<(), String> {
    let mut totals = Totals::default();
    body(graph, None, &[], versions, &mut totals, 0)?;
    if !totals.untyped.is_empty() {
        set_types(graph, &totals.untyped);
    }
    Ok(())
}

fn address(input: &ValueInfoProto) -> usize {
    std::ptr::from_ref(input).addr()
}

fn set_types(graph: &mut GraphProto, untyped: &HashMap<usize, Types>) {
    for input in &mut graph.input {
        let Some(types) = untyped.get(&address(input)) else { continue };
        let number = (1..=255).find(|number| Types::of(*number) == Some(*types));
        let tensor = type_proto::Tensor { elem_type: number.unwrap_or(0), shape: None };
        let value = Some(type_proto::Value::TensorType(tensor));
        input.r#type = Some(TypeProto { value, ..TypeProto::default() });
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().for_each(|body| set_types(body, untyped));
    }
}

/// Checks a graph within the scope of another one. Its inputs have these types; returns the types
/// of its outputs.
pub(super) fn body(
    graph: &GraphProto,
    outer: Option<&Scope<'_>>,
    given: &[Types],
    versions: &Versions,
    totals: &mut Totals,
    depth: usize,
) -> Result<Vec<Types>, String> {
    if depth > bounds::DEPTH {
        return Err(format!("graphs are nested deeper than {}", bounds::DEPTH));
    }
    if !graph.quantization_annotation.is_empty() {
        return Err("the model has quantization annotations, which are not implemented".into());
    }
    if graph.initializer.len() > bounds::INITIALIZERS {
        let found = graph.initializer.len();
        return Err(format!("{found} initializers exceed the limit of {}", bounds::INITIALIZERS));
    }
    totals.nodes = totals.nodes.saturating_add(graph.node.len());
    if totals.nodes > bounds::NODES {
        return Err(format!("the model has more than {} nodes", bounds::NODES));
    }
    let mut scope = Scope { outer, values: HashMap::new() };
    for (at, input) in graph.input.iter().enumerate() {
        let declared = if untyped(input, depth) { None } else { declared(input)? };
        let types = match (declared, given.get(at)) {
            (Some(declared), Some(given)) if declared != *given => {
                return Err(format!(
                    "the input {} of a body is declared as {}, but gets {}",
                    shown(&input.name),
                    declared.names(),
                    given.names()
                ));
            }
            (Some(types), _) => types,
            (None, Some(&types)) => {
                totals.untyped.insert(address(input), types);
                types
            }
            (None, None) => {
                return Err(format!("the input {} has no element type", shown(&input.name)));
            }
        };
        scope.add(&input.name, types)?;
    }
    let mut initialized: HashMap<&str, ()> = HashMap::new();
    for tensor in &graph.initializer {
        let types = tensors::check(tensor).map_err(|why| tensors::named(tensor, &why))?;
        if initialized.insert(&tensor.name, ()).is_some() {
            return Err(format!("duplicate initializer {}", shown(&tensor.name)));
        }
        // An initializer with the name of an input is its default.
        match scope.values.get(&*tensor.name) {
            Some(declared) if *declared == types => {}
            Some(declared) => {
                let (declared, types) = (declared.names(), types.names());
                let name = shown(&tensor.name);
                return Err(format!("the input {name} is {declared}, but its default is {types}"));
            }
            None => scope.add(&tensor.name, types)?,
        }
    }
    for one in &graph.node {
        let made = node::check(one, &scope, versions, totals, depth)?;
        for (name, types) in one.output.iter().zip(made) {
            if !name.is_empty() {
                scope.add(name, types)?;
            }
        }
    }
    let mut outputs = Vec::with_capacity(graph.output.len());
    for output in &graph.output {
        // tract cannot pass on a value of the enclosing graph as an output of a body.
        let Some(types) = scope.values.get(&*output.name) else {
            return Err(format!("no node of its graph makes the output {}", shown(&output.name)));
        };
        if !untyped(output, depth)
            && let Some(declared) = declared(output)?
            && declared != *types
        {
            return Err(format!(
                "the output {} is declared as {}, but is {}",
                shown(&output.name),
                declared.names(),
                types.names()
            ));
        }
        outputs.push(*types);
    }
    Ok(outputs)
}

/// Whether an input or output of a body has no declared type; its type then follows from the graph.
fn untyped(value: &ValueInfoProto, depth: usize) -> bool {
    depth > 0 && value.r#type.as_ref().is_some_and(|declared| declared.value.is_none())
}

/// The element type that an input or output is declared with.
fn declared(value: &ValueInfoProto) -> Result<Option<Types>, String> {
    let Some(value_type) = &value.r#type else { return Ok(None) };
    let Some(type_proto::Value::TensorType(tensor)) = &value_type.value else {
        return Err(format!("{} is not a tensor, which is not implemented", shown(&value.name)));
    };
    if tensor.elem_type == 0 {
        return Ok(None);
    }
    match Types::of(tensor.elem_type) {
        Some(types) => Ok(Some(types)),
        None => Err(format!(
            "{} has the element type {}, which is not implemented",
            shown(&value.name),
            name_of(tensor.elem_type)
        )),
    }
}
