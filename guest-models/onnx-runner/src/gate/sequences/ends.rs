//! Inputs and outputs of a model that are sequences, maps or optionals. Each becomes the tensors that
//! it crosses as (`belljar_abi::ValueType`).

use belljar_abi::{DType, InputShape, Part, ValueType};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TypeProto, ValueInfoProto, type_proto};

use super::make::{constant, identity};
use super::optionals::Form;
use super::{Absent, Known, Resolver, Value};
use crate::gate::text::shown;
use crate::load::Types;

/// A tensor of this element type and any shape.
fn typed(name: String, dtype: DType) -> ValueInfoProto {
    let elem_type = dtype.to_onnx().cast_signed();
    let tensor = type_proto::Tensor { elem_type, shape: None };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name, r#type, ..ValueInfoProto::default() }
}

fn of_type(name: &str, value_type: ValueType) -> String {
    format!("{} is {value_type}, which is not implemented", shown(name))
}

/// Replaces the inputs of a graph. An optional is absent if there is no shape for it.
pub(super) fn inputs(
    graph: &mut GraphProto,
    types: &Types,
    shapes: &[InputShape],
    known: &mut Known,
) -> Result<(), String> {
    for input in std::mem::take(&mut graph.input) {
        let Some(declared) = types.inputs.get(&input.name) else {
            graph.input.push(input);
            continue;
        };
        let value_type = declared.value_type;
        if value_type == ValueType::Other {
            return Err(of_type(&format!("the input {}", input.name), value_type));
        }
        let given = shapes.iter().any(|shape| shape.name == input.name);
        let named = |part: Part| part.name(&input.name);
        let sequence = || Value::Packed(named(Part::Elements), named(Part::Shapes));
        let (keys, values) = (named(Part::Keys), named(Part::Values));
        let absent = |form, dtype: DType| {
            Value::Absent(Absent { form, dtype: dtype.to_onnx().cast_signed() })
        };
        let value = match value_type {
            ValueType::OptionalTensor(dtype) if !given => absent(Form::OptionalTensor, dtype),
            ValueType::OptionalSequence(dtype) if !given => absent(Form::OptionalSequence, dtype),
            ValueType::OptionalTensor(_) => {
                Value::Present(Box::new(Value::Tensor(input.name.clone())))
            }
            ValueType::OptionalSequence(_) => Value::Present(Box::new(sequence())),
            ValueType::Map(..) => Value::Map(keys, values),
            ValueType::SequenceOfMaps(..) => Value::Maps(keys, values, named(Part::Lengths)),
            _ => sequence(),
        };
        if !matches!(value, Value::Absent(_)) {
            for (part, dtype) in value_type.input_parts() {
                graph.input.push(typed(part.name(&input.name), dtype));
            }
        }
        known.insert(input.name, value);
    }
    Ok(())
}

/// Replaces the outputs of a graph, which are these values.
pub(super) fn outputs(
    resolver: &mut Resolver<'_>,
    graph: &mut GraphProto,
    types: &Types,
    values: Vec<Value>,
) -> Result<(), String> {
    let mut outputs = Vec::new();
    for (output, value) in std::mem::take(&mut graph.output).into_iter().zip(values) {
        let name = &output.name;
        let declared = types.outputs.get(name).map_or(ValueType::Tensor, |one| one.value_type);
        let parts = match (declared, value) {
            (ValueType::Tensor, Value::Tensor(made)) => {
                pass(resolver, made, name.clone(), &mut graph.node);
                outputs.push(output);
                continue;
            }
            (ValueType::Tensor, other) => {
                return Err(format!(
                    "the output {} is {}, but the model does not declare it as one",
                    shown(name),
                    other.what()
                ));
            }
            (ValueType::Other, _) => {
                return Err(of_type(&format!("the output {name}"), declared));
            }
            (ValueType::Map(..), Value::Map(keys, values)) => vec![keys, values],
            (ValueType::SequenceOfMaps(..), Value::Maps(keys, values, lengths)) => {
                vec![keys, values, lengths]
            }
            (ValueType::Map(..) | ValueType::SequenceOfMaps(..), other) => {
                return Err(mismatch(name, declared, &other));
            }
            (ValueType::Sequence(dtype), value) => {
                resolver.as_declared(value, Form::Sequence, dtype, name, &mut graph.node)?
            }
            (ValueType::OptionalTensor(dtype), value) => {
                resolver.as_declared(value, Form::OptionalTensor, dtype, name, &mut graph.node)?
            }
            (ValueType::OptionalSequence(dtype), value) => {
                resolver.as_declared(value, Form::OptionalSequence, dtype, name, &mut graph.node)?
            }
        };
        for (made, (part, dtype)) in parts.into_iter().zip(declared.output_parts()) {
            pass(resolver, made, part.name(name), &mut graph.node);
            outputs.push(typed(part.name(name), dtype));
        }
    }
    graph.output = outputs;
    Ok(())
}

/// Adds nodes to a body so that its outputs are tensors of the declared names.
pub(super) fn tensors_only(body: &mut GraphProto, made: Vec<Value>) -> Result<(), String> {
    for (output, value) in body.output.iter().zip(made) {
        match value {
            Value::Tensor(name) if name == output.name => {}
            Value::Tensor(name) => body.node.push(identity(name, output.name.clone())),
            _ => {
                let name = shown(&output.name);
                return Err(format!(
                    "the output {name} of a body is not a tensor, which is not implemented"
                ));
            }
        }
    }
    Ok(())
}

/// Gives a value this name. A model of classical operators alone, such as one that CatBoost exports,
/// imports no version of ONNX's own, so the node that makes the value is changed there.
fn pass(resolver: &Resolver<'_>, made: String, name: String, nodes: &mut Vec<NodeProto>) {
    if made == name {
        return;
    }
    let is_read = nodes.iter().any(|node| node.input.contains(&made));
    if resolver.versions.onnx.is_none() && !is_read {
        let mut outputs = nodes.iter_mut().flat_map(|node| &mut node.output);
        if let Some(output) = outputs.find(|output| **output == made) {
            *output = name;
            return;
        }
    }
    nodes.push(identity(made, name));
}

fn mismatch(name: &str, declared: ValueType, value: &Value) -> String {
    format!("the output {} is declared as {declared}, but is {}", shown(name), value.what())
}

impl Resolver<'_> {
    /// The tensors of an output that is declared in this form.
    fn as_declared(
        &mut self,
        value: Value,
        form: Form,
        dtype: DType,
        name: &str,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<String>, String> {
        let about = |why: String| format!("the output {}: {why}", shown(name));
        let dtype = dtype.to_onnx().cast_signed();
        let value = match value {
            // The element type of a sequence from which all elements are removed is only declared.
            Value::Sequence(list) if list.is_empty() => Value::Empty(dtype),
            Value::Absent(absent) => Value::Absent(Absent { dtype, ..absent }),
            // A loop that always makes a sequence may return an optional where it does not run.
            value @ Value::MaybeSequence(..) if form == Form::Sequence => {
                self.element_in_run(&value, nodes).map_err(about)?
            }
            other => other,
        };
        if !value.has_form(form) {
            let form = form.what();
            return Err(about(format!("it is declared as {form}, but is {}", value.what())));
        }
        self.tensors_of(&value, form, nodes).map_err(about)
    }
}

/// A boolean constant.
pub(super) fn truth(
    resolver: &mut Resolver<'_>,
    truth: bool,
    nodes: &mut Vec<NodeProto>,
) -> String {
    let name = resolver.name();
    nodes.push(constant(&name, DataType::Bool, Vec::new(), vec![u8::from(truth)]));
    resolver.integers.insert(name.clone(), (true, vec![i64::from(truth)]));
    name
}
