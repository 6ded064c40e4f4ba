//! Encodes values for messages between processes: a message of tensors, where the first letter of
//! each name is the kind of value. Bytes and texts are encoded as tensors of bytes.

use std::collections::HashSet;

use belljar_abi::{
    DType, MAX_NAME, MAX_RANK, MAX_TENSORS, TensorView, decode_tensors, encode_tensors,
    fixed_data_len,
};

use super::Value;
use super::bindings;
use super::protocol::Unanswered;
use crate::error::ErrorKind;
use crate::sandbox::{Failure, Limit};
use belljar_tensor::Tensor;
use belljar_text::Escaped;

const TENSOR: &str = "t";
const BYTES: &str = "b";
const TEXT: &str = "s";

/// Encodes inputs.
pub(super) fn encode<N: AsRef<str>>(
    inputs: &[(N, Value)],
    limit: u64,
) -> Result<Vec<u8>, ErrorKind> {
    let found = inputs.iter().fold(0u64, |sum, (_, value)| sum.saturating_add(value.byte_len()));
    if found > limit {
        return Err(Limit::InputSize { found, limit }.into());
    }
    let mut names = HashSet::new();
    for (name, value) in inputs {
        let error = |why: &str| ErrorKind::Input { name: name.as_ref().into(), why: why.into() };
        if !names.insert(name.as_ref()) {
            return Err(error("duplicate input"));
        }
        if name.as_ref().len() >= MAX_NAME {
            return Err(error(&format!("its name has {MAX_NAME} bytes or more")));
        }
        if names.len() > MAX_TENSORS {
            return Err(error(&format!("there are more than {MAX_TENSORS} inputs")));
        }
        if !matches!(value, Value::Tensor(_) | Value::Bytes(_) | Value::Text(_)) {
            let what = value.what();
            return Err(error(&format!(
                "programs take tensors, bytes and texts, and it is {what}; run the model itself"
            )));
        }
        if matches!(value, Value::Tensor(tensor) if tensor.dtype() == DType::String) {
            return Err(error(
                "programs cannot take tensors of strings; give the string as a text",
            ));
        }
        if let Value::Tensor(tensor) = value
            && element_type(tensor.dtype()).is_none()
        {
            let why =
                format!("programs cannot take tensors of {}; convert it to f32", tensor.dtype());
            return Err(error(&why));
        }
    }
    let wires: Vec<_> = inputs
        .iter()
        .map(|(name, value)| match value {
            Value::Tensor(tensor) => (format!("{TENSOR}{}", name.as_ref()), tensor.to_wire()),
            Value::Bytes(bytes) => (format!("{BYTES}{}", name.as_ref()), bytes.into()),
            Value::Text(text) => (format!("{TEXT}{}", name.as_ref()), text.as_bytes().into()),
            // Refused above.
            _ => (name.as_ref().to_owned(), Vec::new().into()),
        })
        .collect();
    let views: Vec<_> = inputs
        .iter()
        .zip(&wires)
        .map(|((_, value), (name, data))| match value {
            Value::Tensor(tensor) => tensor.view(name, data),
            _ => TensorView { name, dtype: DType::U8, dims: vec![data.len() as u64], data },
        })
        .collect();
    Ok(encode_tensors(&views))
}

/// Decodes outputs. An `Err` means that the process violates the protocol.
pub(super) fn decode(message: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let views = decode_tensors(message).map_err(|err| format!("malformed outputs: {err}"))?;
    let mut names = HashSet::new();
    let mut values = Vec::with_capacity(views.len());
    for view in &views {
        let (kind, name) = kind_and_name(view)?;
        if !names.insert(name) {
            return Err("two outputs have the same name".into());
        }
        let value = match kind {
            TENSOR => Value::Tensor(Tensor::from_view(view).map_err(|err| err.to_string())?),
            BYTES => Value::Bytes(view.data.to_vec()),
            _ => Value::Text(text(view)?),
        };
        values.push((name.to_owned(), value));
    }
    Ok(values)
}

fn kind_and_name<'a>(view: &TensorView<'a>) -> Result<(&'a str, &'a str), String> {
    let (kind, name) =
        view.name.split_at_checked(1).ok_or("a value's name lacks the prefix for its kind")?;
    match (kind, view.dtype, view.dims.len()) {
        (TENSOR, DType::String, _) => {
            Err("a value is a tensor of strings, which is not supported".into())
        }
        (TENSOR, ..) | (BYTES | TEXT, DType::U8, 1) => Ok((kind, name)),
        _ => Err(format!("a value of kind {kind:?} has a type or shape that is not valid for it")),
    }
}

fn text(view: &TensorView<'_>) -> Result<String, String> {
    String::from_utf8(view.data.to_vec()).map_err(|_| "a text is not valid UTF-8".into())
}

/// Decodes inputs for the program.
pub(super) fn for_program(message: &[u8]) -> Result<Vec<bindings::NamedValue>, String> {
    let views = decode_tensors(message).map_err(|err| err.to_string())?;
    let value = |view: TensorView<'_>| {
        let (kind, name) = kind_and_name(&view)?;
        let value = match kind {
            TENSOR => bindings::Value::Tensor(bindings::Tensor {
                element_type: element_type(view.dtype)
                    .ok_or("a value is a tensor of strings, which is not supported")?,
                data: view.data.to_vec(),
                shape: view.dims.clone(),
            }),
            BYTES => bindings::Value::Bytes(view.data.to_vec()),
            _ => bindings::Value::Text(text(&view)?),
        };
        Ok((name.to_owned(), value))
    };
    views.into_iter().map(value).collect()
}

/// Encodes the outputs of a program, after checking that they are consistent.
pub(super) fn from_program(
    outputs: &[bindings::NamedValue],
    limit: u64,
) -> Result<Vec<u8>, Unanswered> {
    let data = |value: &bindings::Value| -> u64 {
        let len = match value {
            bindings::Value::Tensor(tensor) => tensor.data.len(),
            bindings::Value::Bytes(bytes) => bytes.len(),
            bindings::Value::Text(text) => text.len(),
        };
        len as u64
    };
    let found = outputs.iter().fold(0u64, |sum, (_, value)| sum.saturating_add(data(value)));
    if found > limit {
        return Err(Unanswered::Failed(Failure::Limit(Limit::OutputSize { found, limit })));
    }
    let wrong = |name: &str, why: &str| {
        Unanswered::GaveUp(format!("the output {} {why}", Escaped::cut(name, 100)))
    };
    if outputs.len() > MAX_TENSORS {
        let why = format!("it has {} outputs; the maximum is {MAX_TENSORS}", outputs.len());
        return Err(Unanswered::GaveUp(why));
    }
    let mut known = HashSet::new();
    let mut names = Vec::with_capacity(outputs.len());
    for (name, value) in outputs {
        if !known.insert(name) {
            return Err(wrong(name, "is duplicated"));
        }
        if name.len() >= MAX_NAME {
            return Err(wrong(name, "has a name that is too long"));
        }
        if let bindings::Value::Tensor(tensor) = value {
            let dtype = dtype(tensor.element_type);
            let fits = fixed_data_len(dtype, &tensor.shape) == Some(tensor.data.len() as u64);
            if tensor.shape.len() > MAX_RANK || !fits {
                return Err(wrong(name, "has a size that does not match its shape"));
            }
            if dtype == DType::Bool && tensor.data.iter().any(|byte| *byte > 1) {
                return Err(wrong(name, "has booleans that are neither 0 nor 1"));
            }
        }
        let kind = match value {
            bindings::Value::Tensor(_) => TENSOR,
            bindings::Value::Bytes(_) => BYTES,
            bindings::Value::Text(_) => TEXT,
        };
        names.push(format!("{kind}{name}"));
    }
    let bytes = |name, data| {
        let data: &[u8] = data;
        TensorView { name, dtype: DType::U8, dims: vec![data.len() as u64], data }
    };
    let views: Vec<_> = outputs
        .iter()
        .zip(&names)
        .map(|((_, value), name)| match value {
            bindings::Value::Tensor(tensor) => TensorView {
                name,
                dtype: dtype(tensor.element_type),
                dims: tensor.shape.clone(),
                data: &tensor.data,
            },
            bindings::Value::Bytes(data) => bytes(name, data),
            bindings::Value::Text(text) => bytes(name, text.as_bytes()),
        })
        .collect();
    Ok(encode_tensors(&views))
}

macro_rules! element_types {
    ($($name:ident),*) => {
        fn dtype(element_type: bindings::ElementType) -> DType {
            match element_type {
                $(bindings::ElementType::$name => DType::$name,)*
            }
        }

        fn element_type(dtype: DType) -> Option<bindings::ElementType> {
            Some(match dtype {
                $(DType::$name => bindings::ElementType::$name,)*
                _ => return None,
            })
        }
    };
}

element_types!(F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Bool);
