//! ONNX's file of one tensor: `.pb`, a `TensorProto` (onnx.proto of ONNX 1.23), as written by
//! ONNX's test cases and `onnx.numpy_helper`.
//!
//! The few fields of that message are read in order, without a protobuf library, and nothing here
//! recurses. Declared lengths are not trusted: memory grows only with bytes that exist. Shape and
//! element type must come before the data, as every writer puts them (fields in the order of their
//! numbers).

mod elements;
mod message;

use std::io::{BufReader, Read};

use belljar_abi::{DType, MAX_NAME, MAX_RANK};

use super::{Tensor, TensorError};
use elements::Elements;
use message::{CHUNK, Message, Wire};

/// Bytes of a message allowed in addition to its data: names, documentation, shape.
const OVERHEAD: u64 = 1 << 20;

/// Fields of `TensorProto`.
mod field {
    pub(super) const DIMS: u64 = 1;
    pub(super) const DATA_TYPE: u64 = 2;
    pub(super) const SEGMENT: u64 = 3;
    pub(super) const FLOAT_DATA: u64 = 4;
    pub(super) const INT32_DATA: u64 = 5;
    pub(super) const STRING_DATA: u64 = 6;
    pub(super) const INT64_DATA: u64 = 7;
    pub(super) const NAME: u64 = 8;
    pub(super) const RAW_DATA: u64 = 9;
    pub(super) const DOUBLE_DATA: u64 = 10;
    pub(super) const UINT64_DATA: u64 = 11;
    pub(super) const EXTERNAL_DATA: u64 = 13;
    pub(super) const DATA_LOCATION: u64 = 14;
}

fn malformed(why: impl Into<String>) -> TensorError {
    TensorError::Malformed { format: "pb", why: why.into() }
}

/// Whether bytes are the start of such a file and not text: a shape or an element type.
pub fn begins_as_tensor(start: &[u8]) -> bool {
    let is_text = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
    let data_type = field::DATA_TYPE << 3;
    match start {
        [0x08 | 0x10, ..] => true,
        // A list of dimensions, and then the element type; text never contains such bytes.
        [0x0a, len, rest @ ..] => {
            let next = rest.get(usize::from(*len)).copied();
            next.map(u64::from) == Some(data_type) || !is_text(len)
        }
        _ => false,
    }
}

/// Reads one tensor, and its name if the file has one. `limit` bounds its data in bytes, where a
/// string counts at least the 24 bytes that it takes in memory.
///
/// # Errors
/// [`TensorError::Malformed`], [`TensorError::Unsupported`] for unsupported element types and
/// external data, [`TensorError::Count`], [`TensorError::Shape`] and [`TensorError::TooLarge`].
pub fn read(reader: impl Read, limit: u64) -> Result<(String, Tensor), TensorError> {
    // An element takes at max ten bytes in the file, and elements that do take at least one here.
    let max = limit.saturating_mul(10).saturating_add(OVERHEAD);
    let source = BufReader::with_capacity(CHUNK as usize, reader.take(max));
    let mut message = Message { source, read: 0, max };
    let mut shape: Vec<usize> = Vec::new();
    let mut name = Vec::new();
    let mut dtype: Option<DType> = None;
    let mut data: Option<Elements> = None;
    while let Some((number, wire)) = message.key()? {
        match (number, wire) {
            (field::DIMS, Wire::Varint | Wire::Bytes(_)) => {
                if data.is_some() {
                    return Err(malformed("its shape comes after its data"));
                }
                message.varints(wire, |dim| {
                    if shape.len() == MAX_RANK {
                        let why = "it has more than 32 dimensions";
                        return Err(TensorError::Shape { shape: shape.clone(), why });
                    }
                    let dim = i64::try_from(dim).ok().and_then(|dim| usize::try_from(dim).ok());
                    shape.push(dim.ok_or_else(|| malformed("a dimension is negative"))?);
                    Ok(())
                })?;
            }
            (field::DATA_TYPE, Wire::Varint) => {
                let code = message.varint()?;
                let code = u32::try_from(code).unwrap_or(u32::MAX);
                let known = DType::from_onnx(code);
                dtype = Some(known.ok_or_else(|| TensorError::Unsupported {
                    what: format!("a tensor of element type {code} ({})", DType::onnx_name(code)),
                    hint: "save numbers, such as float32",
                })?);
            }
            (field::SEGMENT, _) => {
                return Err(TensorError::Unsupported {
                    what: "a segment of a tensor".into(),
                    hint: "save the tensor in one piece",
                });
            }
            (field::EXTERNAL_DATA, _) => return Err(elsewhere()),
            (field::DATA_LOCATION, Wire::Varint) => {
                if message.varint()? != 0 {
                    return Err(elsewhere());
                }
            }
            (field::NAME, Wire::Bytes(len)) => {
                if len > MAX_NAME as u64 {
                    let why = format!("its name is longer than {MAX_NAME} bytes");
                    return Err(malformed(why));
                }
                name.clear();
                message.bytes(len, |bytes| name.extend_from_slice(bytes))?;
            }
            (number, wire) if is_data(number) => {
                let elements = match &mut data {
                    Some(elements) => elements,
                    None => {
                        let dtype = dtype.ok_or_else(|| {
                            malformed("its data comes before its element type, or it has none")
                        })?;
                        data.insert(Elements::new(dtype, &shape, limit)?)
                    }
                };
                elements.read(&mut message, number, wire)?;
            }
            (_, wire) => message.skip(wire)?,
        }
    }
    let name = String::from_utf8(name).map_err(|_| malformed("its name is not UTF-8"))?;
    let dtype = dtype.ok_or_else(|| malformed("it has no element type"))?;
    let elements = match data {
        Some(elements) => elements,
        // An empty tensor has no data.
        None => Elements::new(dtype, &shape, limit)?,
    };
    Ok((name, Tensor::new(elements.finish()?, &shape)?))
}

fn elsewhere() -> TensorError {
    TensorError::Unsupported {
        what: "a tensor whose data is in another file".into(),
        hint: "save the tensor with its data, as `onnx.numpy_helper.from_array` does",
    }
}

fn is_data(number: u64) -> bool {
    use field::{
        DOUBLE_DATA, FLOAT_DATA, INT32_DATA, INT64_DATA, RAW_DATA, STRING_DATA, UINT64_DATA,
    };
    matches!(
        number,
        FLOAT_DATA | INT32_DATA | STRING_DATA | INT64_DATA | RAW_DATA | DOUBLE_DATA | UINT64_DATA
    )
}
