//! The tensors that inputs and outputs cross as. A tensor is one; a sequence, a map and an optional
//! are several (`belljar_abi::ValueType`). Everything else of a contract only knows tensors.

use std::borrow::Cow;

use belljar_abi::{DType, Dim, InputShape, Part, TensorView, ValueInfo, ValueType};

use super::Contract;
use super::declared::declaration;
use crate::error::ErrorKind;
use belljar_tensor::{Tensor, Value};

/// A tensor of an input, with its name.
pub(in crate::model) type NamedPart<'a> = (String, Cow<'a, Tensor>);

/// A declared tensor of an input or output.
#[derive(Clone, Debug)]
pub(super) struct DeclaredPart {
    pub(super) info: ValueInfo,
    pub(super) part: Part,
}

/// The declared tensors of inputs. Those of an optional may be omitted.
pub(super) fn of_inputs(values: &[ValueInfo]) -> Vec<DeclaredPart> {
    values.iter().flat_map(|value| parts(value, value.value_type.input_parts())).collect()
}

/// The declared tensors of outputs.
pub(super) fn of_outputs(values: &[ValueInfo]) -> Vec<DeclaredPart> {
    values.iter().flat_map(|value| parts(value, value.value_type.output_parts())).collect()
}

fn parts(value: &ValueInfo, parts: Vec<(Part, DType)>) -> Vec<DeclaredPart> {
    if parts.is_empty() {
        return vec![DeclaredPart { info: value.clone(), part: Part::Whole }];
    }
    let part = |(part, dtype): (Part, DType)| DeclaredPart {
        info: ValueInfo {
            name: part.name(&value.name),
            elem_type: dtype.to_onnx(),
            value_type: ValueType::Tensor,
            shape: match part.rank() {
                Some(rank) => Some(vec![Dim::Unknown; rank]),
                None => value.shape.clone(),
            },
            has_default: may_be_omitted(value),
        },
        part,
    };
    parts.into_iter().map(part).collect()
}

pub(super) fn may_be_omitted(value: &ValueInfo) -> bool {
    let optional =
        matches!(value.value_type, ValueType::OptionalTensor(_) | ValueType::OptionalSequence(_));
    value.has_default || optional
}

/// The shape that a plan is prepared for: the first dimension of a part of a sequence or a map has
/// any size, which is written as 0.
pub(super) fn planned(part: Part, mut dims: Vec<u64>) -> Vec<u64> {
    if part.rank().is_some()
        && let Some(first) = dims.first_mut()
    {
        *first = 0;
    }
    dims
}

impl Contract {
    /// The tensors of inputs.
    pub(in crate::model) fn to_parts<'a, N: AsRef<str>>(
        &self,
        inputs: &'a [(N, Value)],
    ) -> Result<Vec<NamedPart<'a>>, ErrorKind> {
        let mut all = Vec::with_capacity(inputs.len());
        for (name, value) in inputs {
            let name = name.as_ref();
            let error = |why: String| ErrorKind::Input { name: name.to_owned(), why };
            let declared = self.declared_inputs.iter().find(|declared| declared.name == name);
            let declared = declared.map_or(ValueType::Tensor, |declared| declared.value_type);
            for (part, tensor) in value.to_parts(declared).map_err(error)? {
                all.push((part.name(name), tensor));
            }
        }
        let given = |name: &str| inputs.iter().any(|(given, _)| given.as_ref() == name);
        let missing = self.declared_inputs.iter().find(|declared| {
            declared.value_type != ValueType::Tensor
                && !may_be_omitted(declared)
                && !given(&declared.name)
        });
        if let Some(missing) = missing {
            let (name, why) = (missing.name.clone(), format!("not given; {}", self.wants()));
            return Err(ErrorKind::Input { name, why });
        }
        for (at, (name, _)) in inputs.iter().enumerate() {
            if inputs.iter().take(at).any(|(earlier, _)| earlier.as_ref() == name.as_ref()) {
                let (name, why) = (name.as_ref().to_owned(), "given twice".into());
                return Err(ErrorKind::Input { name, why });
            }
        }
        Ok(all)
    }

    /// Refuses a model with an input that no tensor can be. `by` names what takes such inputs.
    pub(in crate::model) fn check_takes_tensors(&self, by: &str) -> Result<(), ErrorKind> {
        let needed = |value: &&ValueInfo| {
            let tensor = matches!(
                value.value_type,
                ValueType::Tensor | ValueType::Other | ValueType::OptionalTensor(_)
            );
            !tensor && !may_be_omitted(value)
        };
        match self.declared_inputs.iter().find(needed) {
            Some(value) => Err(ErrorKind::Input {
                name: value.name.clone(),
                why: format!("the model declares {}; {by}", declaration(value)),
            }),
            None => Ok(()),
        }
    }

    /// Refuses a model with an output that is not a tensor.
    #[cfg(feature = "wasi-nn")]
    pub(in crate::model) fn check_makes_tensors(&self, by: &str) -> Result<(), ErrorKind> {
        let tensor =
            |value: &&ValueInfo| !matches!(value.value_type, ValueType::Tensor | ValueType::Other);
        match self.declared_outputs.iter().find(tensor) {
            Some(value) => {
                let declared = declaration(value);
                Err(ErrorKind::Run(format!("the model declares the output {declared}; {by}")))
            }
            None => Ok(()),
        }
    }

    /// The shapes of parts, from shapes of inputs: that of a sequence is the shape of one of its
    /// tensors, of which only the number of dimensions counts, and that of a map does not count.
    pub(in crate::model) fn part_shapes(&self, given: &[InputShape]) -> Vec<InputShape> {
        let mut shapes = Vec::with_capacity(given.len());
        for shape in given {
            let declared = self.declared_inputs.iter().find(|value| value.name == shape.name);
            let parts = declared.map(|value| value.value_type.input_parts()).unwrap_or_default();
            if parts.is_empty() {
                shapes.push(shape.clone());
            }
            for (part, _) in parts {
                let dims = match part {
                    Part::Whole => shape.dims.clone(),
                    Part::Shapes => vec![0, shape.dims.len() as u64],
                    Part::Present => Vec::new(),
                    Part::Elements | Part::Keys | Part::Values | Part::Lengths => vec![0],
                };
                shapes.push(InputShape { name: part.name(&shape.name), dims });
            }
        }
        shapes
    }

    /// The number of elements of all sequences among outputs, as the sandbox sent them: each takes
    /// memory in this process in addition to its data.
    pub(in crate::model) fn elements(&self, sent: &[TensorView<'_>]) -> u64 {
        let counted = |declared: &ValueInfo| {
            let parts = declared.value_type.output_parts().into_iter();
            let counts = |part: &Part| matches!(part, Part::Shapes | Part::Lengths);
            let part = parts.map(|(part, _)| part).find(counts)?;
            let view = sent.iter().find(|view| view.name == part.name(&declared.name))?;
            view.dims.first().copied()
        };
        self.declared_outputs.iter().filter_map(counted).fold(0, u64::saturating_add)
    }

    /// The outputs that checked tensors stand for.
    pub(in crate::model) fn to_values(
        &self,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Value)>, String> {
        let mut tensors = tensors.into_iter().map(|(_, tensor)| tensor);
        let value = |declared: &ValueInfo| {
            let count = declared.value_type.output_parts().len().max(1);
            let parts = tensors.by_ref().take(count).collect();
            let value = Value::from_parts(declared.value_type, parts).map_err(|why| {
                format!("output {:?} violates the model's declaration: {why}", declared.name)
            })?;
            Ok((declared.name.clone(), value))
        };
        self.declared_outputs.iter().map(value).collect()
    }
}
