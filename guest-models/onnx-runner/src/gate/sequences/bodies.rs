//! Bodies with sequences: branches of `If`, iterations of `Loop`, and functions over elements.

use std::collections::HashMap;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

use super::make::{constant, identity, operation};
use super::optionals::common;
use super::{Known, MAX_ELEMENTS, Resolver, Value, value};
use crate::gate::attributes::find;
use crate::gate::text::shown;

impl Resolver<'_> {
    /// An `If`. Sequences of the same length become an output for each element.
    pub(super) fn branches(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let mut made: Vec<Vec<Value>> = Vec::new();
        let mut bodies = Vec::new();
        for at in 0..node.attribute.len() {
            let Some(body) = &mut node.attribute[at].g else { continue };
            bodies.push(at);
            made.push(self.graph(body, &mut known.clone(), true)?);
        }
        let [first, second] = &*made else {
            nodes.push(node);
            return Ok(());
        };
        let mut outputs = Vec::new();
        let mut passed: [Vec<String>; 2] = Default::default();
        for (at, name) in node.output.iter().enumerate() {
            match (first.get(at), second.get(at)) {
                (Some(Value::Tensor(a)), Some(Value::Tensor(b))) => {
                    outputs.push(name.clone());
                    passed[0].push(a.clone());
                    passed[1].push(b.clone());
                }
                (Some(Value::Sequence(a)), Some(Value::Sequence(b))) if a.len() == b.len() => {
                    let names: Vec<String> = a.iter().map(|_| self.name()).collect();
                    outputs.extend(names.iter().cloned());
                    passed[0].extend(a.iter().cloned());
                    passed[1].extend(b.iter().cloned());
                    known.insert(name.clone(), Value::Sequence(names));
                }
                (Some(a), Some(b)) if common(a, b).is_some() => {
                    let Some(form) = common(a, b) else { continue };
                    for (which, value) in [a, b].into_iter().enumerate() {
                        let Some(body) = &mut node.attribute[bodies[which]].g else { continue };
                        passed[which].extend(self.tensors_of(value, form, &mut body.node)?);
                    }
                    let (names, value) = self.new_value(form);
                    outputs.extend(names);
                    known.insert(name.clone(), value);
                }
                (Some(a), Some(b)) => {
                    return Err(format!(
                        "node {}: If: branches that make {} and {} are not implemented",
                        shown(name),
                        a.what(),
                        b.what()
                    ));
                }
                _ => return Err(format!("node {}: If: a branch lacks an output", shown(name))),
            }
        }
        node.output = outputs;
        let bodies = node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut());
        for (body, passed) in bodies.zip(passed) {
            body.output.clear();
            for name in passed {
                let made = self.name();
                body.node.push(identity(name, made.clone()));
                let output = ValueInfoProto { name: made, ..Default::default() };
                body.output.push(output);
            }
        }
        if !node.output.is_empty() {
            nodes.push(node);
        }
        Ok(())
    }

    /// Unrolls a loop that carries a sequence.
    pub(super) fn unrolled(
        &mut self,
        node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let Some(body) = find(&node, "body").and_then(|attribute| attribute.g.clone()) else {
            return Err("it has no body".into());
        };
        let carried = node.input.len().saturating_sub(2);
        let scanned = (body.output.len() + 1).checked_sub(carried + 2);
        let fits = body.input.len() == carried + 2 && node.output.len() + 1 == body.output.len();
        let Some(scanned) = scanned.filter(|_| fits) else {
            return Err(
                "the numbers of inputs or outputs of the node and its body do not match".into()
            );
        };
        let number = |name: Option<&String>| -> Option<i64> {
            let (_, values) = self.integers.get(name?)?;
            if let [value] = **values { Some(value) } else { None }
        };
        let going = node.input.get(1).is_none_or(|name| name.is_empty())
            || number(node.input.get(1)) == Some(1);
        let iterations =
            number(node.input.first()).and_then(|count| usize::try_from(count.max(0)).ok());
        let (Some(iterations), true) = (iterations.filter(|count| *count <= MAX_ELEMENTS), going)
        else {
            return Err(format!(
                "a loop that carries a sequence is only implemented if its number of iterations is \
                 known before the model runs, and at most {MAX_ELEMENTS}"
            ));
        };
        let mut state: Vec<Value> =
            node.input.get(2..).unwrap_or_default().iter().map(|name| value(known, name)).collect();
        let mut left: Vec<Vec<String>> = vec![Vec::new(); scanned];
        for iteration in 0..iterations {
            let (at, on) = (self.name(), self.name());
            self.constant(at.clone(), Vec::new(), vec![iteration as i64], nodes);
            nodes.push(constant(&on, DataType::Bool, Vec::new(), vec![1]));
            self.integers.insert(on.clone(), (true, vec![1]));
            let mut given = vec![Value::Tensor(at), Value::Tensor(on)];
            given.append(&mut state);
            let mut made = self.copied(&body, given, known, nodes)?.into_iter();
            let condition = match made.next() {
                Some(Value::Tensor(name)) => number_of(&self.integers, &name),
                _ => None,
            };
            if condition != Some(1) {
                return Err("a loop that carries a sequence and changes its condition is not \
                            implemented"
                    .into());
            }
            state = made.by_ref().take(carried).collect();
            for (values, value) in left.iter_mut().zip(made) {
                let Value::Tensor(name) = value else {
                    return Err("a scan output of its body is not a tensor".into());
                };
                values.push(name);
            }
        }
        for (name, value) in node.output.iter().zip(state) {
            known.insert(name.clone(), value);
        }
        for (name, values) in node.output.iter().skip(carried).zip(left) {
            let all = self.joined(&values, 0, true, nodes)?;
            nodes.push(identity(all, name.clone()));
        }
        Ok(())
    }

    /// A function over the elements of sequences.
    pub(super) fn mapped(
        &mut self,
        node: &NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let Some(body) = find(node, "body").and_then(|attribute| attribute.g.clone()) else {
            return Err("it has no body".into());
        };
        if body.input.len() != node.input.len() || body.output.len() != node.output.len() {
            return Err(
                "the numbers of inputs or outputs of the node and its body do not match".into()
            );
        }
        let given: Vec<Value> = node.input.iter().map(|name| value(known, name)).collect();
        if given.iter().any(|value| matches!(value, Value::Packed(..))) {
            return self.mapped_in_run(node, body, &given, known, nodes);
        }
        let Some(Value::Sequence(first)) = given.first() else {
            return Err("its first input is not a sequence".into());
        };
        let mut made: Vec<Vec<String>> = vec![Vec::new(); body.output.len()];
        for at in 0..first.len() {
            let each = given.iter().map(|value| match value {
                Value::Sequence(list) if list.len() == first.len() => {
                    Ok(Value::Tensor(list[at].clone()))
                }
                Value::Tensor(name) => Ok(Value::Tensor(name.clone())),
                _ => Err("its sequences have different lengths"),
            });
            let each = each.collect::<Result<Vec<_>, _>>()?;
            for (list, value) in made.iter_mut().zip(self.copied(&body, each, known, nodes)?) {
                let Value::Tensor(name) = value else {
                    return Err("an output of its body is not a tensor".into());
                };
                list.push(name);
            }
        }
        for (name, list) in node.output.iter().zip(made) {
            known.insert(name.clone(), Value::Sequence(list));
        }
        Ok(())
    }

    /// Copies the nodes of a body under new names, with these values as its inputs; returns the
    /// values of its outputs.
    fn copied(
        &mut self,
        body: &GraphProto,
        given: Vec<Value>,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<Value>, String> {
        if !body.sparse_initializer.is_empty() {
            return Err("its body has sparse initializers".into());
        }
        let mut here: HashMap<String, String> = HashMap::new();
        for (input, value) in body.input.iter().zip(given) {
            let name = self.name();
            known.insert(name.clone(), value);
            here.insert(input.name.clone(), name);
        }
        for tensor in &body.initializer {
            let name = self.name();
            here.insert(tensor.name.clone(), name.clone());
            let mut tensor = tensor.clone();
            tensor.name.clear();
            self.remember(&name, &tensor);
            let value = AttributeProto {
                name: "value".into(),
                r#type: AttributeType::Tensor as i32,
                t: Some(tensor),
                ..AttributeProto::default()
            };
            nodes.push(operation("Constant", Vec::new(), name, vec![value]));
        }
        for made in body.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
            let name = self.name();
            here.insert(made.clone(), name);
        }
        for node in &body.node {
            let mut node = node.clone();
            node.name.clear();
            rename(&mut node, &here);
            self.node(node, known, nodes)?;
        }
        let output =
            |output: &ValueInfoProto| value(known, here.get(&output.name).unwrap_or(&output.name));
        Ok(body.output.iter().map(output).collect())
    }
}

fn number_of(integers: &HashMap<String, (bool, Vec<i64>)>, name: &str) -> Option<i64> {
    integers.get(name).and_then(|(_, values)| values.first().copied())
}

/// Renames the values that a node and its bodies read and make.
fn rename(node: &mut NodeProto, here: &HashMap<String, String>) {
    let change = |name: &mut String| {
        if let Some(other) = here.get(name) {
            name.clone_from(other);
        }
    };
    node.input.iter_mut().chain(&mut node.output).for_each(change);
    for body in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        body.node.iter_mut().for_each(|node| rename(node, here));
        let values = body.input.iter_mut().chain(&mut body.output).map(|value| &mut value.name);
        values.chain(body.initializer.iter_mut().map(|tensor| &mut tensor.name)).for_each(change);
    }
}
