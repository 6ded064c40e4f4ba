//! The message for `prepare`: concrete shapes of the model's inputs, which fix the symbolic
//! dimensions, and values of inputs that become constants.

use alloc::string::String;
use alloc::vec::Vec;

use crate::header::{Kind, expect_header, write_header};
use crate::reader::{DecodeError, Reader};
use crate::tensors::{TensorView, read_tensors, write_tensor};
use crate::writer::Writer;
use crate::{MAX_NAME, MAX_RANK, MAX_TENSORS};

/// The concrete shape of one input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputShape {
    /// Name of the input, as the model declares it.
    pub name: String,
    /// Number of elements along each axis; empty for a scalar.
    pub dims: Vec<u64>,
}

/// Encodes the shapes of a model's inputs, and the values of those that are fixed.
pub fn encode_shapes(shapes: &[InputShape], fixed: &[TensorView<'_>]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(64 * (1 + shapes.len()));
    write_header(&mut writer, Kind::Shapes);
    writer.list(shapes, |writer, shape| {
        writer.str(&shape.name);
        writer.list(&shape.dims, |writer, dim| writer.u64(*dim));
    });
    writer.list(fixed, write_tensor);
    writer.finish()
}

/// Decodes the shapes of a model's inputs, and the values of those that are fixed.
pub fn decode_shapes(bytes: &[u8]) -> Result<(Vec<InputShape>, Vec<TensorView<'_>>), DecodeError> {
    let mut reader = Reader::new(bytes);
    expect_header(&mut reader, Kind::Shapes)?;
    let shapes = reader.list(MAX_TENSORS, "number of shapes", |reader| {
        let name = reader.string(MAX_NAME, "input name")?;
        let dims = reader.list(MAX_RANK, "rank", |reader| reader.u64())?;
        Ok(InputShape { name, dims })
    })?;
    let fixed = read_tensors(&mut reader, MAX_TENSORS)?;
    reader.finish()?;
    Ok((shapes, fixed))
}
