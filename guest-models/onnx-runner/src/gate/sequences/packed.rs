//! Sequences whose lengths or positions are only known when the model runs. Each becomes two tensors
//! of the graph: the elements of all its tensors one after another, and the shape of each. The
//! operators on these are in onnx-ops (`sequence/packed.rs`). Their nodes are marked, so that no model
//! can use them by name.

use belljar_operators::{self as table, Operator};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, ValueInfoProto};

use super::make::{attribute, constant, identity, operation};
use super::optionals::Form;
use super::{Known, Resolver, Value, tensor, value};
use crate::gate::attributes::find;
use crate::gate::text::shown;

/// The doc string of nodes that this file makes. Those of the model have been cleared.
const MARK: &str = "packed";

/// The operator of a node that this file made.
pub(in crate::gate) fn operator(node: &NodeProto) -> Option<&'static Operator> {
    table::packed(&node.op_type).filter(|_| node.doc_string == MARK)
}

pub(super) fn marked(
    op_type: &str,
    input: Vec<String>,
    output: Vec<String>,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    let node = operation(op_type, input, String::new(), attribute);
    NodeProto { output, doc_string: MARK.into(), ..node }
}

impl Value {
    pub(super) fn is_sequence(&self) -> bool {
        matches!(self, Value::Sequence(_) | Value::Empty(_) | Value::Packed(..))
    }
}

impl Resolver<'_> {
    /// The tensors of a sequence.
    pub(super) fn pack(
        &mut self,
        value: &Value,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(String, String), String> {
        match value {
            Value::Packed(data, shapes) => Ok((data.clone(), shapes.clone())),
            Value::Empty(dtype) => {
                let dtype =
                    DataType::try_from(*dtype).map_err(|_| "its element type is unknown")?;
                let (data, shapes) = (self.name(), self.name());
                nodes.push(constant(&data, dtype, vec![0], Vec::new()));
                nodes.push(constant(&shapes, DataType::Int64, vec![0, 0], Vec::new()));
                Ok((data, shapes))
            }
            Value::Sequence(list) if !list.is_empty() => {
                Ok(self.made("BelljarSequenceConstruct", list.clone(), Vec::new(), nodes))
            }
            _ => Err("a sequence whose element type is unknown is not implemented".into()),
        }
    }

    /// Adds a node that makes a sequence.
    fn made(
        &mut self,
        op_type: &str,
        input: Vec<String>,
        attributes: Vec<AttributeProto>,
        nodes: &mut Vec<NodeProto>,
    ) -> (String, String) {
        let (data, shapes) = (self.name(), self.name());
        nodes.push(marked(op_type, input, vec![data.clone(), shapes.clone()], attributes));
        (data, shapes)
    }

    /// A node of a sequence in tensors, or of one that becomes it because a position is only known
    /// when the model runs; `None` for other nodes.
    pub(super) fn in_tensors(
        &mut self,
        node: &NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Option<Result<(), String>> {
        let first = node.input.first().map(|name| value(known, name))?;
        let position = match &*node.op_type {
            "SequenceInsert" => node.input.get(2),
            "SequenceErase" => node.input.get(1),
            _ => None,
        };
        let position = position.filter(|name| !name.is_empty());
        let late = position.is_some_and(|name| !self.integers.contains_key(name));
        let in_tensors = matches!(first, Value::Packed(..)) || first.is_sequence() && late;
        let optional = ["Optional", "OptionalGetElement", "OptionalHasElement"];
        if !in_tensors || optional.contains(&&*node.op_type) || node.op_type == "SequenceMap" {
            return None;
        }
        Some(self.operator_in_tensors(node, &first, known, nodes))
    }

    fn operator_in_tensors(
        &mut self,
        node: &NodeProto,
        first: &Value,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let (data, shapes) = self.pack(first, nodes)?;
        let output = node.output.first().cloned().unwrap_or_default();
        let mut input = vec![data, shapes];
        for name in node.input.iter().skip(1) {
            input.push(if name.is_empty() { String::new() } else { tensor(known, name)? });
        }
        let int = |name: &str| find(node, name).map_or(0, |attribute| attribute.i);
        match &*node.op_type {
            "SequenceInsert" | "SequenceErase" => {
                let op_type = format!("Belljar{}", node.op_type);
                let (data, shapes) = self.made(&op_type, input, Vec::new(), nodes);
                known.insert(output, Value::Packed(data, shapes));
            }
            "SequenceAt" => {
                nodes.push(marked("BelljarSequenceAt", input, vec![output], Vec::new()));
            }
            "ConcatFromSequence" => {
                let attributes =
                    vec![attribute("axis", int("axis")), attribute("new_axis", int("new_axis"))];
                nodes.push(marked("BelljarConcatFromSequence", input, vec![output], attributes));
            }
            "SequenceLength" => {
                let length = self.length(input.swap_remove(1), nodes);
                nodes.push(identity(length, output));
            }
            other => return Err(format!("{other} is not implemented")),
        }
        Ok(())
    }

    /// Splits a tensor into a number of parts that is only known when the model runs.
    pub(super) fn split_in_run(
        &mut self,
        node: &NodeProto,
        known: &Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Value, String> {
        let input = node.input.iter().map(|name| tensor(known, name));
        let input = input.collect::<Result<Vec<String>, String>>()?;
        let attributes = node.attribute.clone();
        let (data, shapes) = self.made("BelljarSplitToSequence", input, attributes, nodes);
        Ok(Value::Packed(data, shapes))
    }

    /// A loop that carries sequences, each as two tensors.
    pub(super) fn carried(
        &mut self,
        mut node: NodeProto,
        known: &mut Known,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<(), String> {
        let body = node.attribute.iter_mut().find(|attribute| attribute.name == "body");
        let Some(mut body) = body.and_then(|attribute| attribute.g.take()) else {
            return Err("it has no body".into());
        };
        let carried = node.input.len().saturating_sub(2);
        if body.input.len() != carried + 2 || body.output.len() < carried + 1 {
            return Err(
                "the numbers of inputs or outputs of the node and its body do not match".into()
            );
        }
        if node.output.len() + 1 != body.output.len() {
            return Err("the numbers of outputs of the node and its body do not match".into());
        }
        let mut within = known.clone();
        let mut inputs: Vec<String> = node.input.iter().take(2).cloned().collect();
        let mut taken: Vec<ValueInfoProto> = body.input.iter().take(2).cloned().collect();
        let untyped = |name: String| ValueInfoProto { name, ..ValueInfoProto::default() };
        let mut forms = Vec::with_capacity(carried);
        for at in 0..carried {
            let given = &body.input[at + 2];
            self.forget(&given.name, &mut within);
            let initial = value(known, &node.input[at + 2]);
            let form = initial.form().ok_or_else(|| {
                format!("a loop that carries {} is not implemented", initial.what())
            })?;
            inputs.extend(self.tensors_of(&initial, form, nodes)?);
            if form == Form::Tensor {
                taken.push(given.clone());
            } else {
                let (names, value) = self.new_value(form);
                taken.extend(names.into_iter().map(untyped));
                within.insert(given.name.clone(), value);
            }
            forms.push(form);
        }
        body.input = taken;
        let made = self.graph(&mut body, &mut within, true)?;
        let (mut outputs, mut results) = (Vec::new(), Vec::new());
        for (at, (made, declared)) in made.into_iter().zip(&body.output).enumerate() {
            let name = at.checked_sub(1).map(|at| node.output[at].clone());
            let form = at.checked_sub(1).and_then(|at| forms.get(at)).copied();
            match (made, form) {
                (Value::Tensor(from), Some(Form::Tensor) | None) => {
                    if from != declared.name {
                        body.node.push(identity(from, declared.name.clone()));
                    }
                    outputs.push(declared.clone());
                    results.extend(name);
                }
                (made, Some(form)) if made.has_form(form) => {
                    for from in self.tensors_of(&made, form, &mut body.node)? {
                        let to = self.name();
                        body.node.push(identity(from, to.clone()));
                        outputs.push(untyped(to));
                    }
                    let (names, value) = self.new_value(form);
                    results.extend(names);
                    known.insert(name.unwrap_or_default(), value);
                }
                _ => {
                    let name = shown(&declared.name);
                    return Err(format!("the output {name} of its body is not implemented"));
                }
            }
        }
        body.output = outputs;
        (node.input, node.output) = (inputs, results);
        for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name == "body") {
            attribute.g = Some(std::mem::take(&mut body));
        }
        nodes.push(node);
        Ok(())
    }
}
