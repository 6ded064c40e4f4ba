//! Values as named arrays, for `.npz` files and folders of `.npy` files. The tensors of a sequence
//! `s` are `s.0`, `s.1` and so on, and their number is `s.length`. A map `m` is `m.keys` and
//! `m.values`. A sequence of maps has the keys and values of all its maps one after another in the
//! same two arrays, and the number of entries of each in `m.lengths`. An optional is its element, or
//! no array.

use std::borrow::Cow;

use belljar_abi::ValueType;

use super::{Tensor, TensorError, Value};

fn malformed(why: String) -> TensorError {
    TensorError::Malformed { format: "npz", why }
}

/// The arrays of a value with this name.
pub fn arrays_of<'a>(name: &str, value: &'a Value) -> Vec<(String, Cow<'a, Tensor>)> {
    let named = |suffix: &str| format!("{name}.{suffix}");
    match value {
        Value::Tensor(tensor) => vec![(name.to_owned(), Cow::Borrowed(tensor))],
        Value::Sequence(tensors) => {
            let length = Tensor::scalar(tensors.len() as i64);
            let each = tensors.iter().enumerate();
            each.map(|(at, tensor)| (named(&at.to_string()), Cow::Borrowed(tensor)))
                .chain([(named("length"), Cow::Owned(length))])
                .collect()
        }
        Value::Map(map) => vec![
            (named("keys"), Cow::Borrowed(map.keys())),
            (named("values"), Cow::Borrowed(map.values())),
        ],
        Value::Maps(maps) => {
            let (Some(first), suffixes) = (maps.first(), ["keys", "values", "lengths"]) else {
                let none = Tensor { shape: vec![0], data: Vec::<i64>::new().into() };
                return vec![(named("lengths"), Cow::Owned(none))];
            };
            let declared = ValueType::SequenceOfMaps(first.keys().dtype(), first.values().dtype());
            let parts = value.to_parts(declared).unwrap_or_default();
            suffixes.into_iter().map(named).zip(parts.into_iter().map(|(_, part)| part)).collect()
        }
        Value::Absent | Value::Bytes(_) | Value::Text(_) => Vec::new(),
    }
}

/// Takes the arrays of a value of this name and type from those of a file. `None` if the file has
/// none of them.
///
/// # Errors
/// [`TensorError::Malformed`] if some of the arrays are missing or contradict each other, and
/// [`TensorError::Map`].
pub fn take_value(
    name: &str,
    declared: ValueType,
    arrays: &mut Vec<(String, Tensor)>,
) -> Result<Option<Value>, TensorError> {
    let mut take = |suffix: &str| {
        let wanted = if suffix.is_empty() { name.to_owned() } else { format!("{name}.{suffix}") };
        let at = arrays.iter().position(|(known, _)| *known == wanted)?;
        Some(arrays.remove(at).1)
    };
    match declared {
        ValueType::Tensor | ValueType::Other | ValueType::OptionalTensor(_) => {
            Ok(take("").map(Value::Tensor))
        }
        ValueType::Sequence(_) | ValueType::OptionalSequence(_) => {
            let length = take("length");
            let mut tensors = Vec::new();
            while let Some(tensor) = take(&tensors.len().to_string()) {
                tensors.push(tensor);
            }
            let Some(length) = length else {
                return Ok((!tensors.is_empty()).then_some(Value::Sequence(tensors)));
            };
            let found = tensors.len();
            match length.as_slice::<i64>() {
                Some([count]) if *count == found as i64 => Ok(Some(Value::Sequence(tensors))),
                Some([count]) => Err(malformed(format!(
                    "the array {name}.length is {count}, but the file has {found} of the arrays \
                     {name}.0, {name}.1, …"
                ))),
                _ => Err(malformed(format!(
                    "the array {name}.length is {} {:?}, expected one i64",
                    length.dtype(),
                    length.shape()
                ))),
            }
        }
        ValueType::Map(..) | ValueType::SequenceOfMaps(..) => {
            let is_map = matches!(declared, ValueType::Map(..));
            let lengths = if is_map { None } else { take("lengths") };
            let empty = lengths.as_ref().is_some_and(|lengths| lengths.len() == 0);
            match (take("keys"), take("values"), lengths) {
                (None, None, None) => Ok(None),
                (None, None, Some(_)) if empty => Ok(Some(Value::Maps(Vec::new()))),
                (Some(keys), Some(values), lengths) if is_map || lengths.is_some() => {
                    let parts = [keys, values].into_iter().chain(lengths).collect();
                    let value = Value::from_parts(declared, parts);
                    value.map(Some).map_err(|why| malformed(format!("{name}: {why}")))
                }
                _ => Err(malformed(format!(
                    "{name} needs the arrays {name}.keys and {name}.values{}",
                    match is_map {
                        true => String::new(),
                        false =>
                            format!(", and the number of entries of each map in {name}.lengths"),
                    }
                ))),
            }
        }
    }
}
