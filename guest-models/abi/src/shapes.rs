//! The message for `prepare`: shapes of the model's inputs, which of their dimensions may have other
//! sizes in a run, and values of inputs that become constants.

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

/// A dimension of an input that may have another size in a run than in the shapes that the model is
/// prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenDim {
    /// Index of the input among the shapes.
    pub input: u32,
    /// The dimension.
    pub axis: u32,
    /// Number of the symbol, from 0. Dimensions with the same symbol always have the same size, but
    /// for `more`.
    pub symbol: u32,
    /// By how much the dimension is larger than its symbol: an attention mask over a cache and one
    /// new token is longer by one than the cache.
    pub more: u64,
}

impl OpenDim {
    /// The size of its symbol where the dimension has this size.
    pub fn symbol_size(&self, dimension: u64) -> Option<u64> {
        dimension.checked_sub(self.more)
    }
}

/// Maximum number of open dimensions.
pub const MAX_OPEN_DIMS: usize = 256;

/// The message for `prepare`.
#[derive(Clone, Debug)]
pub struct Shapes<'a> {
    /// The shapes of the inputs.
    pub shapes: Vec<InputShape>,
    /// The dimensions that may have other sizes in a run.
    pub open: Vec<OpenDim>,
    /// The values of inputs that become constants.
    pub fixed: Vec<TensorView<'a>>,
}

/// Encodes the shapes of a model's inputs, the dimensions that are open, and the values of inputs
/// that are fixed.
pub fn encode_shapes(shapes: &[InputShape], open: &[OpenDim], fixed: &[TensorView<'_>]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(64 * (1 + shapes.len()));
    write_header(&mut writer, Kind::Shapes);
    writer.list(shapes, |writer, shape| {
        writer.str(&shape.name);
        writer.list(&shape.dims, |writer, dim| writer.u64(*dim));
    });
    writer.list(open, write_open);
    writer.list(fixed, write_tensor);
    writer.finish()
}

pub(crate) fn write_open(writer: &mut Writer, open: &OpenDim) {
    writer.u32(open.input);
    writer.u32(open.axis);
    writer.u32(open.symbol);
    writer.u64(open.more);
}

pub(crate) fn read_open(reader: &mut Reader<'_>) -> Result<OpenDim, DecodeError> {
    let (input, axis, symbol) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Ok(OpenDim { input, axis, symbol, more: reader.u64()? })
}

/// Decodes the message for `prepare`. Every open dimension is one of its input's, with the size of
/// its symbol.
pub fn decode_shapes(bytes: &[u8]) -> Result<Shapes<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    expect_header(&mut reader, Kind::Shapes)?;
    let shapes = reader.list(MAX_TENSORS, "number of shapes", |reader| {
        let name = reader.string(MAX_NAME, "input name")?;
        let dims = reader.list(MAX_RANK, "rank", |reader| reader.u64())?;
        Ok(InputShape { name, dims })
    })?;
    let mut sizes: Vec<Option<u64>> = Vec::new();
    let open = reader.list(MAX_OPEN_DIMS, "number of open dimensions", |reader| {
        let at = reader.at();
        let open = read_open(reader)?;
        let OpenDim { input, axis, symbol, .. } = open;
        let invalid = || DecodeError::Invalid { at, what: "open dimension" };
        let size = shapes.get(input as usize).and_then(|shape| shape.dims.get(axis as usize));
        let size = size.and_then(|size| open.symbol_size(*size)).ok_or_else(invalid)?;
        let known = symbol as usize;
        if known >= MAX_OPEN_DIMS {
            return Err(invalid());
        }
        if sizes.len() <= known {
            sizes.resize(known + 1, None);
        }
        match sizes[known].replace(size) {
            Some(other) if other != size => Err(invalid()),
            _ => Ok(open),
        }
    })?;
    let fixed = read_tensors(&mut reader, MAX_TENSORS)?;
    reader.finish()?;
    Ok(Shapes { shapes, open, fixed })
}
