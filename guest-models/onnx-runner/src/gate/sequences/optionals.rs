//! Optionals. Most are known before the model runs: an input is given or not. Where a branch or a loop
//! decides in a run whether an optional has an element, it is a sequence of at most one tensor, or a
//! sequence and a bool.

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::ends::truth;
use super::make::{attribute, constant, identity, operation};
use super::packed::marked;
use super::{Known, Resolver, Value, value};
use crate::gate::attributes::find;

/// The form in which a value is passed on where only a run decides what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Tensor,
    Sequence,
    OptionalTensor,
    OptionalSequence,
}

impl Form {
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Form::OptionalTensor | Form::OptionalSequence)
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Form::Tensor => "a tensor",
            Form::Sequence => "a sequence",
            Form::OptionalTensor => "an optional tensor",
            Form::OptionalSequence => "an optional sequence",
        }
    }
}

/// An optional without an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent {
    pub(super) form: Form,
    /// The element type, or 0 if it is not known.
    pub(super) dtype: i32,
}

impl Absent {
    /// That of a node `Optional` without an input. The type attribute has this form since the model
    /// was loaded (`load/types.rs`).
    pub(super) fn of(node: &NodeProto) -> Absent {
        let Some(declared) = find(node, "type") else {
            return Absent { form: Form::OptionalTensor, dtype: 0 };
        };
        let form = match &*declared.s {
            b"seq" => Form::OptionalSequence,
            _ => Form::OptionalTensor,
        };
        Absent { form, dtype: i32::try_from(declared.i).unwrap_or(0) }
    }
}

impl Value {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Sequence(_) | Value::Empty(_) | Value::Packed(..) => "a sequence",
            Value::Present(_)
            | Value::Absent(_)
            | Value::MaybeTensor(..)
            | Value::MaybeSequence(..) => "an optional",
            Value::Map(..) => "a map",
            Value::Maps(..) => "a sequence of maps",
        }
    }

    /// The form of a value, if it can be passed on.
    pub(super) fn form(&self) -> Option<Form> {
        match self {
            Value::Tensor(_) => Some(Form::Tensor),
            Value::Sequence(_) | Value::Empty(_) | Value::Packed(..) => Some(Form::Sequence),
            Value::Absent(absent) => Some(absent.form),
            Value::MaybeTensor(..) => Some(Form::OptionalTensor),
            Value::MaybeSequence(..) => Some(Form::OptionalSequence),
            Value::Present(value) => match value.form()? {
                Form::Tensor => Some(Form::OptionalTensor),
                Form::Sequence => Some(Form::OptionalSequence),
                _ => None,
            },
            Value::Map(..) | Value::Maps(..) => None,
        }
    }

    /// Whether a value can be passed on in this form: a tensor or a sequence also as an optional.
    pub(super) fn has_form(&self, form: Form) -> bool {
        self.form() == Some(form)
            || matches!(
                (self.form(), form),
                (Some(Form::Tensor), Form::OptionalTensor)
                    | (Some(Form::Sequence), Form::OptionalSequence)
            )
    }
}

/// The form in which either of two values can be passed on.
pub(super) fn common(one: &Value, other: &Value) -> Option<Form> {
    let forms = [one.form()?, other.form()?];
    forms.into_iter().find(|form| one.has_form(*form) && other.has_form(*form))
}

impl Resolver<'_> {
    /// The tensors that stand for a value that has this form.
    pub(super) fn tensors_of(
        &mut self,
        value: &Value,
        form: Form,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Vec<String>, String> {
        let pair = |(elements, shapes): (String, String)| vec![elements, shapes];
        match (form, value) {
            (Form::Tensor, Value::Tensor(name)) => Ok(vec![name.clone()]),
            (Form::OptionalTensor | Form::OptionalSequence, Value::Present(value)) => {
                self.tensors_of(value, form, nodes)
            }
            (Form::OptionalTensor, Value::MaybeTensor(elements, shapes)) => {
                Ok(vec![elements.clone(), shapes.clone()])
            }
            (Form::OptionalTensor, Value::Tensor(name)) => {
                self.pack(&Value::Sequence(vec![name.clone()]), nodes).map(pair)
            }
            (Form::OptionalTensor, Value::Absent(absent)) => {
                self.pack(&Value::Empty(absent.dtype), nodes).map(pair)
            }
            (Form::OptionalSequence, Value::MaybeSequence(elements, shapes, present)) => {
                Ok(vec![elements.clone(), shapes.clone(), present.clone()])
            }
            (Form::OptionalSequence, value) => {
                let there = !matches!(value, Value::Absent(_));
                let (elements, shapes) = match value {
                    Value::Absent(absent) => self.pack(&Value::Empty(absent.dtype), nodes)?,
                    value => self.pack(value, nodes)?,
                };
                Ok(vec![elements, shapes, truth(self, there, nodes)])
            }
            (Form::Sequence, value) => self.pack(value, nodes).map(pair),
            (_, other) => Err(format!("it is {}, which is not implemented here", other.what())),
        }
    }

    /// New tensors for a value of this form: their names, and the value.
    pub(super) fn new_value(&mut self, form: Form) -> (Vec<String>, Value) {
        let mut name = || self.name();
        match form {
            Form::Tensor => {
                let tensor = name();
                (vec![tensor.clone()], Value::Tensor(tensor))
            }
            Form::Sequence => {
                let (elements, shapes) = (name(), name());
                (vec![elements.clone(), shapes.clone()], Value::Packed(elements, shapes))
            }
            Form::OptionalTensor => {
                let (elements, shapes) = (name(), name());
                (vec![elements.clone(), shapes.clone()], Value::MaybeTensor(elements, shapes))
            }
            Form::OptionalSequence => {
                let (elements, shapes, present) = (name(), name(), name());
                let names = vec![elements.clone(), shapes.clone(), present.clone()];
                (names, Value::MaybeSequence(elements, shapes, present))
            }
        }
    }

    /// OptionalHasElement.
    pub(super) fn has_element(
        &mut self,
        input: Option<&str>,
        output: String,
        known: &Known,
        nodes: &mut Vec<NodeProto>,
    ) {
        let has = match input.map(|name| value(known, name)) {
            None | Some(Value::Absent(_)) => false,
            Some(Value::MaybeSequence(_, _, present)) => {
                nodes.push(identity(present, output));
                return;
            }
            Some(Value::MaybeTensor(_, shapes)) => {
                let length = self.length(shapes, nodes);
                let to = attribute("to", DataType::Bool as i64);
                nodes.push(operation("Cast", vec![length], output, vec![to]));
                return;
            }
            Some(_) => true,
        };
        nodes.push(constant(&output, DataType::Bool, Vec::new(), vec![u8::from(has)]));
        self.integers.insert(output, (true, vec![i64::from(has)]));
    }

    /// OptionalGetElement. A run fails if the optional has no element then.
    pub(super) fn get_element(
        &mut self,
        input: &Value,
        output: &str,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Option<Value>, String> {
        match input {
            Value::Present(value) => Ok(Some((**value).clone())),
            Value::Absent(_) => Err("the optional is empty".into()),
            Value::MaybeSequence(..) => self.element_in_run(input, nodes).map(Some),
            Value::MaybeTensor(elements, shapes) => {
                let first = self.name();
                self.constant(first.clone(), Vec::new(), vec![0], nodes);
                let given = vec![elements.clone(), shapes.clone(), first];
                nodes.push(marked("BelljarSequenceAt", given, vec![output.into()], Vec::new()));
                Ok(None)
            }
            value => Ok(Some(value.clone())),
        }
    }

    /// The sequence of an optional, which the run checks to be there.
    pub(super) fn element_in_run(
        &mut self,
        optional: &Value,
        nodes: &mut Vec<NodeProto>,
    ) -> Result<Value, String> {
        let Value::MaybeSequence(elements, shapes, present) = optional else {
            return Err("it is not an optional sequence".into());
        };
        let (names, sequence) = self.new_value(Form::Sequence);
        let given = vec![elements.clone(), shapes.clone(), present.clone()];
        nodes.push(marked("BelljarOptionalGetElement", given, names, Vec::new()));
        Ok(sequence)
    }

    /// The number of tensors of a sequence.
    pub(super) fn length(&mut self, shapes: String, nodes: &mut Vec<NodeProto>) -> String {
        let (sizes, first, length) = (self.name(), self.name(), self.name());
        self.constant(first.clone(), Vec::new(), vec![0], nodes);
        nodes.push(operation("Shape", vec![shapes], sizes.clone(), Vec::new()));
        let axis = vec![attribute("axis", 0)];
        nodes.push(operation("Gather", vec![sizes, first], length.clone(), axis));
        length
    }
}
