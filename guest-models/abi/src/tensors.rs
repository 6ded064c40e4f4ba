//! Named tensors. A tensor is its name, dtype and dims, then its data at the next multiple of
//! [`ALIGN`](crate::ALIGN) bytes: row-major, little-endian, one byte for a bool (0 or 1); for
//! strings each element is a length (`u32`) and that many bytes of UTF-8. An element of eight bits
//! or fewer is a byte: its code in the low bits, all others zero (see [`codes`](crate::codes)).

use alloc::vec::Vec;

use crate::codes;
use crate::dtype::DType;
use crate::header::{Kind, expect_header, write_header};
use crate::reader::{DecodeError, Reader};
use crate::writer::Writer;
use crate::{ALIGN, MAX_NAME, MAX_RANK, MAX_TENSORS};

/// A tensor whose data is borrowed, from a message or from its owner. Row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Name of the input or output.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Number of elements along each axis; empty for a scalar.
    pub dims: Vec<u64>,
    /// The elements, in the layout that this module describes.
    pub data: &'a [u8],
}

/// Number of elements of a tensor with these dims; `None` if it does not fit a `u64`.
pub fn element_count(dims: &[u64]) -> Option<u64> {
    // A zero dimension makes the tensor empty, even if the product of the others overflows.
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim))
}

/// Bytes of data of a tensor of this type and shape; `None` for strings, or when it overflows.
pub fn fixed_data_len(dtype: DType, dims: &[u64]) -> Option<u64> {
    element_count(dims)?.checked_mul(dtype.size()? as u64)
}

/// Writes a message of named tensors one by one.
pub struct TensorsWriter {
    writer: Writer,
}

impl TensorsWriter {
    /// A message that will hold exactly `count` tensors and about `capacity` bytes.
    pub fn new(count: usize, capacity: usize) -> TensorsWriter {
        let mut writer = Writer::with_capacity(capacity);
        write_header(&mut writer, Kind::Tensors);
        writer.u32(count as u32);
        TensorsWriter { writer }
    }

    /// Adds one tensor.
    pub fn push(&mut self, view: &TensorView<'_>) {
        write_tensor(&mut self.writer, view);
    }

    /// The finished message.
    pub fn finish(self) -> Vec<u8> {
        self.writer.finish()
    }
}

pub(crate) fn write_tensor(writer: &mut Writer, view: &TensorView<'_>) {
    writer.str(view.name);
    writer.u32(view.dtype.to_onnx());
    writer.list(&view.dims, |writer, dim| writer.u64(*dim));
    writer.u64(view.data.len() as u64);
    writer.align(ALIGN);
    writer.bytes(view.data);
}

/// An upper bound of the bytes [`encode_tensors`] writes for these tensors.
pub fn encoded_len<'a>(views: impl IntoIterator<Item = &'a TensorView<'a>>) -> usize {
    views.into_iter().fold(12, |len, view| {
        len + 20 + view.name.len() + 8 * view.dims.len() + ALIGN + view.data.len()
    })
}

/// Encodes named tensors.
pub fn encode_tensors(views: &[TensorView<'_>]) -> Vec<u8> {
    let mut writer = TensorsWriter::new(views.len(), encoded_len(views));
    for view in views {
        writer.push(view);
    }
    writer.finish()
}

/// Decodes named tensors. The length of every view's data matches its dtype and dims; bools are 0
/// or 1 and strings are UTF-8.
pub fn decode_tensors(bytes: &[u8]) -> Result<Vec<TensorView<'_>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    expect_header(&mut reader, Kind::Tensors)?;
    let tensors = read_tensors(&mut reader, MAX_TENSORS)?;
    reader.finish()?;
    Ok(tensors)
}

pub(crate) fn read_tensors<'a>(
    reader: &mut Reader<'a>,
    limit: usize,
) -> Result<Vec<TensorView<'a>>, DecodeError> {
    reader.list(limit, "number of tensors", read_tensor)
}

fn read_tensor<'a>(reader: &mut Reader<'a>) -> Result<TensorView<'a>, DecodeError> {
    let name = reader.str(MAX_NAME, "tensor name")?;
    let at = reader.at();
    let dtype =
        DType::from_onnx(reader.u32()?).ok_or(DecodeError::Invalid { at, what: "element type" })?;
    let dims = reader.list(MAX_RANK, "rank", |reader| reader.u64())?;
    let at = reader.at();
    let invalid = |what| DecodeError::Invalid { at, what };
    let len = reader.u64()?;
    let count = element_count(&dims).ok_or(invalid("shape"))?;
    if dtype.size().is_some() && fixed_data_len(dtype, &dims) != Some(len) {
        return Err(invalid("data length"));
    }
    let len = usize::try_from(len).map_err(|_| invalid("data length"))?;
    reader.align(ALIGN)?;
    let data = reader.take(len)?;
    match dtype {
        DType::Bool if data.iter().any(|b| *b > 1) => return Err(invalid("bool")),
        DType::String => check_strings(data, count).map_err(|()| invalid("string data"))?,
        _ if !codes::are_codes(dtype, data) => return Err(invalid("code of an element")),
        _ => {}
    }
    Ok(TensorView { name, dtype, dims, data })
}

/// Checks that `data` is exactly `count` length-prefixed UTF-8 strings.
fn check_strings(data: &[u8], count: u64) -> Result<(), ()> {
    let mut reader = Reader::new(data);
    // Each element takes at least its four bytes of length, so a hostile count ends here.
    if count > data.len() as u64 / 4 {
        return Err(());
    }
    for _ in 0..count {
        reader.str(u32::MAX as usize, "string").map_err(|_| ())?;
    }
    reader.finish().map_err(|_| ())
}

impl<'a> TensorView<'a> {
    /// The elements of a string tensor, in row-major order.
    pub fn strings(&self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(if self.dtype == DType::String { self.data } else { &[] });
        core::iter::from_fn(move || reader.str(u32::MAX as usize, "string").ok())
    }
}
