//! Matches the arrays in a file to the inputs of a model.

use super::super::failure::Failure;
use belljar::{Description, ValueInfo, ValueType};
use belljar_tensor::{DType, Tensor, TensorError, Value, json, take_value};
use belljar_text::Escaped;

/// The inputs of a model, and the escaped name of the file that is read for them.
pub(super) struct Wanted<'a> {
    pub(super) description: &'a Description,
    pub(super) source: &'a str,
}

impl Wanted<'_> {
    /// The inputs without a default.
    fn inputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.description.inputs.iter().filter(|input| !input.has_default)
    }

    pub(super) fn input(&self, name: &str) -> Option<&ValueInfo> {
        self.description.inputs.iter().find(|input| input.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.input(name).is_some()
    }

    pub(super) fn at(&self, position: usize) -> Option<&ValueInfo> {
        self.inputs().nth(position)
    }

    /// The declared element type.
    pub(super) fn dtype(&self, name: &str) -> Option<DType> {
        self.input(name)?.dtype()
    }

    /// The declared type, and the element type of a tensor.
    pub(super) fn declared(&self, name: &str) -> json::Declared {
        let declared = self.input(name);
        (declared.map_or(ValueType::Tensor, |input| input.value_type), self.dtype(name))
    }

    /// The element type of an array that is a part of an input that is not a tensor.
    pub(super) fn dtype_of_part(&self, array: &str) -> Option<DType> {
        let (name, part) = match array.rsplit_once('.') {
            Some((name, part)) => (name, part),
            None => (array, ""),
        };
        let declared = self.input(array).or_else(|| self.input(name))?.value_type;
        match (declared, part) {
            (ValueType::OptionalTensor(dtype), _) => Some(dtype),
            (ValueType::Map(key, _) | ValueType::SequenceOfMaps(key, _), "keys") => Some(key),
            (ValueType::Map(_, of) | ValueType::SequenceOfMaps(_, of), "values") => Some(of),
            (ValueType::Sequence(dtype) | ValueType::OptionalSequence(dtype), part) => {
                part.bytes().all(|byte| byte.is_ascii_digit()).then_some(dtype)
            }
            _ => None,
        }
    }

    /// Takes the inputs that are not tensors, or only one of them, from the arrays of a file.
    pub(super) fn values(
        &self,
        only: Option<&str>,
        arrays: &mut Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Value)>, TensorError> {
        let mut values = Vec::new();
        for input in &self.description.inputs {
            let other = input.value_type != ValueType::Tensor;
            if other && only.is_none_or(|only| only == input.name) {
                let value = take_value(&input.name, input.value_type, arrays)?;
                values.extend(value.map(|value| (input.name.clone(), value)));
            }
        }
        Ok(values)
    }

    /// The declared number of dimensions.
    pub(super) fn rank(&self, name: &str) -> Option<usize> {
        self.input(name)?.shape.as_ref().map(Vec::len)
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.inputs().map(|input| cut(&input.name)).collect();
        names.join(", ")
    }

    /// The name of the model's only input.
    pub(super) fn single(&self) -> Result<String, Failure> {
        let mut wanted = self.inputs();
        match (wanted.next(), wanted.next()) {
            (Some(only), None) => Ok(only.name.clone()),
            _ => {
                let names = self.names();
                let text = format!(
                    "{}: the name of the input is required; the model has {names}",
                    self.source
                );
                Err(Failure::usage(text).hint("write --input NAME=FILE"))
            }
        }
    }

    /// The array of this name, or the only array.
    pub(super) fn one_of(
        &self,
        mut arrays: Vec<(String, Tensor)>,
        name: &str,
    ) -> Result<Vec<(String, Tensor)>, Failure> {
        let at = match arrays.iter().position(|(array, _)| array == name) {
            Some(at) => at,
            None if arrays.len() == 1 => 0,
            None => {
                let source = self.source;
                let names: Vec<_> = arrays.iter().map(|(name, _)| cut(name)).collect();
                let names = names.join(", ");
                let text = format!("{source}: no array {:?}, only {names}", cut(name));
                return Err(Failure::usage(text));
            }
        };
        Ok(vec![(name.to_owned(), arrays.swap_remove(at).1)])
    }

    /// Matches arrays to inputs by name, or by position if `numpy.savez` numbered them.
    pub(super) fn by_position(
        &self,
        mut arrays: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, Failure> {
        let unnamed = |(name, _): &(String, Tensor)| position(name).is_some() && !self.has(name);
        // A guest program declares no inputs, so it gets the names unchanged.
        if self.at(0).is_none() || arrays.is_empty() || !arrays.iter().all(unnamed) {
            return Ok(arrays);
        }
        arrays.sort_by_key(|(name, _)| position(name));
        let numbered = arrays.iter().enumerate().all(|(at, (name, _))| position(name) == Some(at));
        if !numbered || arrays.len() != self.inputs().count() {
            let found: Vec<_> = arrays.iter().map(|(name, _)| cut(name)).collect();
            let text = format!(
                "{}: cannot match {} arrays without names ({}) to the inputs of the model: {}",
                self.source,
                found.len(),
                found.join(", "),
                self.names()
            );
            return Err(Failure::usage(text).hint("add names: `np.savez(FILE, NAME=ARRAY, …)`"));
        }
        let names: Vec<String> = self.inputs().map(|input| input.name.clone()).collect();
        Ok(names.into_iter().zip(arrays).map(|(name, (_, tensor))| (name, tensor)).collect())
    }

    /// Whether each column of a table is one input. A model with a single input of several columns
    /// takes the table as a whole.
    pub(super) fn are_columns(&self, header: &[String]) -> Result<bool, Failure> {
        let known = header.iter().filter(|name| self.has(name)).count();
        let missing = self.inputs().find(|input| !header.contains(&input.name));
        match missing {
            _ if known == 0 => Ok(false),
            None => Ok(self.inputs().count() > 1 || header.len() == 1),
            Some(_) if self.inputs().count() == 1 => Ok(false),
            Some(missing) => {
                let text = format!("{}: missing column {:?}", self.source, cut(&missing.name));
                Err(Failure::usage(text).hint("add a column for each input, or give NAME=FILE"))
            }
        }
    }

    /// Whether JSON is an object of tensors by name: its first key is an input, or is none of the
    /// keys of a single tensor.
    pub(super) fn starts_with_named_tensors(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        let Some(object) = text.strip_prefix('{') else { return false };
        match serde_json::Deserializer::from_str(object).into_iter::<String>().next() {
            Some(Ok(key)) => self.has(&key) || !["dtype", "shape", "data"].contains(&key.as_str()),
            _ => false,
        }
    }
}

/// A name, shortened and escaped for printing.
fn cut(name: &str) -> String {
    Escaped::cut(name, 60).to_string()
}

/// The position of an array that `numpy.savez` named `arr_0`, `arr_1`, …
pub(super) fn position(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("arr_")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|at: &usize| plain && at.to_string() == digits)
}
