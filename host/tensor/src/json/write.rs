//! Writes tensors as JSON, as objects with dtype, shape and flat data.

use std::collections::HashSet;
use std::io::Write;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::malformed;
use crate::{Data, Tensor, TensorError, bf16, f16};

/// Serialises a tensor as an object of dtype, shape and flat data; numbers have the shortest text
/// that reads back exactly.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(pub &'a Tensor);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Tensor", 3)?;
        object.serialize_field("dtype", self.0.dtype().name())?;
        object.serialize_field("shape", self.0.shape())?;
        object.serialize_field("data", &Values(self.0.data()))?;
        object.end()
    }
}

/// The elements as one flat array, written one by one without collecting them.
pub struct Values<'a>(pub &'a Data);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Data::F16(values) => serializer.collect_seq(values.iter().copied().map(Half)),
            Data::F32(values) => serializer.collect_seq(values.iter().copied().map(Single)),
            Data::F64(values) => serializer.collect_seq(values.iter().copied().map(Double)),
            Data::I8(values) => serializer.collect_seq(values),
            Data::I16(values) => serializer.collect_seq(values),
            Data::I32(values) => serializer.collect_seq(values),
            Data::I64(values) => serializer.collect_seq(values),
            Data::U8(values) => serializer.collect_seq(values),
            Data::U16(values) => serializer.collect_seq(values),
            Data::U32(values) => serializer.collect_seq(values),
            Data::U64(values) => serializer.collect_seq(values),
            Data::BF16(values) => serializer.collect_seq(values.iter().copied().map(Brain)),
            Data::Coded(coded) if coded.are_integers() => {
                serializer.collect_seq(coded.values().map(|value| value as i64))
            }
            // The shortest text that reads back exactly as `f64`.
            Data::Coded(coded) => serializer.collect_seq(coded.values().map(Double)),
            Data::Bool(values) => serializer.collect_seq(values),
            Data::String(values) => serializer.collect_seq(values),
        }
    }
}

/// The text of a float that JSON numbers cannot represent.
fn unwritable(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

struct Half(f16);
struct Brain(bf16);
pub(super) struct Single(pub(super) f32);
pub(super) struct Double(pub(super) f64);

impl Serialize for Half {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Single(self.0.to_f32()).serialize(serializer)
    }
}

impl Serialize for Brain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Single(self.0.to_f32()).serialize(serializer)
    }
}

impl Serialize for Single {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match unwritable(self.0.into()) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_f32(self.0),
        }
    }
}

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match unwritable(self.0) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_f64(self.0),
        }
    }
}

/// Writes one tensor as an object with dtype and shape, and a line end.
///
/// # Errors
/// [`TensorError::Io`].
pub fn write_one(tensor: &Tensor, writer: impl Write) -> Result<(), TensorError> {
    to_line(&Json(tensor), writer)
}

/// Writes an object of names and tensors, and a line end.
///
/// # Errors
/// [`TensorError::Malformed`] for a duplicate name; [`TensorError::Io`].
pub fn write_named(tensors: &[(String, Tensor)], writer: impl Write) -> Result<(), TensorError> {
    let mut names = HashSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name)) {
        return Err(malformed(format!("two tensors are named {name:?}")));
    }
    to_line(&Named(tensors), writer)
}

struct Named<'a>(&'a [(String, Tensor)]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, tensor)| (name, Json(tensor))))
    }
}

pub(super) fn to_line(value: &impl Serialize, mut writer: impl Write) -> Result<(), TensorError> {
    serde_json::to_writer(&mut writer, value).map_err(std::io::Error::from)?;
    writer.write_all(b"\n")?;
    writer.flush()?;
    Ok(())
}
