//! numpy's file of one array: `.npy`, versions 1.0, 2.0 and 3.0.
//!
//! All numbers, bools and fixed-width strings that numpy writes are read; Python objects are stored
//! as pickles and must never be read. The header is not trusted: memory grows only with bytes of
//! data that exist.

mod header;

use std::io::{self, BufReader, Read, Write};

use belljar_abi::{DType, element_count};
use bytemuck::Pod;

use self::header::{Header, Stored};
use super::{Coded, Data, Tensor, TensorError, bf16, f16};

/// Bytes of data read at a time, and the most that is allocated ahead of the data.
const CHUNK: usize = 256 * 1024;

/// Largest data of strings in one file, and in all arrays that are written together. In a
/// fixed-width format every string takes the width of the longest, so a model could turn one long
/// string, or a sequence of them, into terabytes of files.
const MAX_STRING_DATA: u64 = 1 << 30;

fn malformed(why: impl Into<String>) -> TensorError {
    TensorError::Malformed { format: "npy", why: why.into() }
}

/// Reads one array; extra bytes after its data are an error.
///
/// `limit` bounds the data in bytes. A string counts at least the 24 bytes that it takes in memory
/// whatever its length.
///
/// # Errors
/// [`TensorError::Malformed`] for a file that numpy does not write, [`TensorError::Unsupported`]
/// for objects, records, complex numbers and dates, [`TensorError::Shape`] and
/// [`TensorError::TooLarge`] for a shape or size out of bounds.
pub fn read(reader: impl Read, limit: u64) -> Result<Tensor, TensorError> {
    read_counted(reader, None, limit).map(|(tensor, _)| tensor)
}

/// Like [`read`], with a requested element type `dtype`. numpy has no names for bfloat16 and the
/// types of eight bits and fewer of ml_dtypes: it stores their bytes without the type, so only the
/// caller can know it.
///
/// # Errors
/// As [`read`]; [`TensorError::Malformed`] also for bytes that are not valid codes of the type.
pub fn read_as(reader: impl Read, dtype: Option<DType>, limit: u64) -> Result<Tensor, TensorError> {
    read_counted(reader, dtype, limit).map(|(tensor, _)| tensor)
}

/// Like [`read_as`]; also returns how much of the limit was used.
pub(super) fn read_counted(
    mut reader: impl Read,
    dtype: Option<DType>,
    limit: u64,
) -> Result<(Tensor, u64), TensorError> {
    let header = Header::read(&mut reader, dtype)?;
    let shape = &header.shape;
    let dims: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
    let overflow = || {
        let why = "its size overflows 64 bits";
        TensorError::Shape { shape: shape.clone(), why }
    };
    let count = element_count(&dims).ok_or_else(overflow)?;
    let cost = element_cost(header.stored).and_then(|cost| count.checked_mul(cost));
    let cost = cost.ok_or_else(overflow)?;
    if cost > limit {
        return Err(TensorError::TooLarge { what: format!("an array of shape {shape:?}"), limit });
    }
    let count = usize::try_from(count).map_err(|_| overflow())?;
    let source = &mut reader;
    let data = match header.stored {
        Stored::Bytes(len) => strings(source, &header, count, len, from_bytes)?,
        Stored::Utf32(len) => {
            let len = len.checked_mul(4).ok_or_else(overflow)?;
            let big_endian = header.big_endian;
            strings(source, &header, count, len, |bytes| from_utf32(bytes, big_endian))?
        }
        Stored::Fixed(dtype) => match dtype {
            DType::F16 => numbers::<f16>(source, &header, count)?.into(),
            DType::F32 => numbers::<f32>(source, &header, count)?.into(),
            DType::F64 => numbers::<f64>(source, &header, count)?.into(),
            DType::I8 => numbers::<i8>(source, &header, count)?.into(),
            DType::I16 => numbers::<i16>(source, &header, count)?.into(),
            DType::I32 => numbers::<i32>(source, &header, count)?.into(),
            DType::I64 => numbers::<i64>(source, &header, count)?.into(),
            DType::U8 => numbers::<u8>(source, &header, count)?.into(),
            DType::U16 => numbers::<u16>(source, &header, count)?.into(),
            DType::U32 => numbers::<u32>(source, &header, count)?.into(),
            DType::U64 => numbers::<u64>(source, &header, count)?.into(),
            DType::BF16 => numbers::<bf16>(source, &header, count)?.into(),
            dtype if Coded::new(dtype, Vec::new()).is_some() => {
                let codes = numbers::<u8>(source, &header, count)?;
                let coded = Coded::new(dtype, codes);
                coded.ok_or_else(|| malformed(format!("a byte is not a valid {dtype}")))?.into()
            }
            DType::Bool => bools(numbers::<u8>(source, &header, count)?)?,
            other => return Err(malformed(format!("{other} is not stored this way"))),
        },
    };
    Ok((Tensor::new(data, shape)?, cost))
}

/// The bytes that one element counts against the limit.
fn element_cost(stored: Stored) -> Option<u64> {
    let in_memory = size_of::<String>() as u64;
    match stored {
        Stored::Fixed(dtype) => dtype.size().map(|size| size as u64),
        Stored::Bytes(len) => Some(len.max(in_memory)),
        Stored::Utf32(len) => len.checked_mul(4).map(|len| len.max(in_memory)),
    }
}

/// Reads until `buffer` is full or the input ends; returns the number of bytes read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, TensorError> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

fn expect_end(reader: &mut impl Read) -> Result<(), TensorError> {
    match fill(reader, &mut [0])? {
        0 => Ok(()),
        _ => Err(malformed("extra bytes after its data")),
    }
}

fn ends_early(elements: usize, count: usize) -> TensorError {
    malformed(format!("the data ends after {elements} of {count} elements"))
}

fn numbers<T: Pod + Default>(
    reader: &mut impl Read,
    header: &Header,
    count: usize,
) -> Result<Vec<T>, TensorError> {
    let mut elements: Vec<T> = Vec::new();
    while elements.len() < count {
        let start = elements.len();
        let more = (count - start).min(CHUNK / size_of::<T>());
        elements.resize(start + more, T::zeroed());
        let chunk: &mut [u8] = bytemuck::cast_slice_mut(&mut elements[start..]);
        let read = fill(reader, chunk)?;
        if read < chunk.len() {
            return Err(ends_early(start + read / size_of::<T>(), count));
        }
        if header.big_endian {
            chunk.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
    }
    expect_end(reader)?;
    Ok(row_major(elements, header))
}

fn bools(bytes: Vec<u8>) -> Result<Data, TensorError> {
    match bytes.iter().find(|byte| **byte > 1) {
        None => Ok(Data::Bool(bytes.into_iter().map(|byte| byte == 1).collect())),
        Some(byte) => Err(malformed(format!("a bool element is {byte}, not 0 or 1"))),
    }
}

fn strings(
    reader: &mut impl Read,
    header: &Header,
    count: usize,
    len: u64,
    decode: impl Fn(&[u8]) -> Option<String>,
) -> Result<Data, TensorError> {
    // numpy has no strings of width 0; elements without bytes could be claimed in any number.
    if len == 0 && count > 0 {
        return Err(malformed("its strings have zero width"));
    }
    let mut reader = BufReader::new(reader);
    let mut elements = Vec::new();
    let mut bytes = Vec::new();
    for at in 0..count {
        bytes.clear();
        reader.by_ref().take(len).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < len {
            return Err(ends_early(at, count));
        }
        let text = decode(&bytes);
        elements.push(text.ok_or_else(|| malformed(format!("string {at} is not Unicode text")))?);
    }
    expect_end(&mut reader)?;
    Ok(Data::String(row_major(elements, header)))
}

fn from_bytes(bytes: &[u8]) -> Option<String> {
    let text = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(bytes.get(..text)?).ok().map(String::from)
}

fn from_utf32(bytes: &[u8], big_endian: bool) -> Option<String> {
    let (units, _) = bytes.as_chunks::<4>();
    let text = units.iter().rposition(|unit| *unit != [0; 4]).map_or(0, |last| last + 1);
    let code = |unit: &[u8; 4]| match big_endian {
        true => u32::from_be_bytes(*unit),
        false => u32::from_le_bytes(*unit),
    };
    units.get(..text)?.iter().map(|unit| char::from_u32(code(unit))).collect()
}

/// Reorders elements stored with the first axis fastest (Fortran order) into row-major order.
fn row_major<T: Default>(mut stored: Vec<T>, header: &Header) -> Vec<T> {
    let shape = &header.shape;
    if !header.fortran_order || shape.len() < 2 || stored.is_empty() {
        return stored;
    }
    // No dimension is zero here, and their product is the length of `stored`, so nothing overflows.
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |stride, dim| Some(std::mem::replace(stride, *stride * dim)))
        .collect();
    let mut index = vec![0; shape.len()];
    let mut from = 0;
    let mut elements = Vec::with_capacity(stored.len());
    for _ in 0..stored.len() {
        elements.push(std::mem::take(&mut stored[from]));
        for ((index, dim), stride) in index.iter_mut().zip(shape).zip(&strides).rev() {
            *index += 1;
            from += stride;
            if *index < *dim {
                break;
            }
            *index = 0;
            from -= stride * dim;
        }
    }
    elements
}

/// Writes one array, byte for byte as `numpy.save` would; strings as `<U` of the longest one.
///
/// # Errors
/// [`TensorError::Unsupported`] for a string that ends in NUL, which the format cannot store;
/// [`TensorError::TooLarge`] for strings that would take more than 1 GiB at one width.
pub fn write(tensor: &Tensor, mut writer: impl Write) -> Result<(), TensorError> {
    if let Data::String(strings) = tensor.data() {
        return write_strings(tensor.shape(), strings, writer);
    }
    let descr = match tensor.dtype() {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        // Types of ml_dtypes are written as numpy does: raw bytes without a type name.
        DType::BF16 => "<V2",
        other if other.size() == Some(1) => "<V1",
        other => {
            let hint = "write it as json";
            return Err(TensorError::Unsupported { what: format!("npy for {other}"), hint });
        }
    };
    writer.write_all(&header::encode(descr, tensor.shape()))?;
    writer.write_all(&tensor.to_wire())?;
    writer.flush()?;
    Ok(())
}

/// Checks that the strings of arrays that are written together take no more than the data of one
/// file may.
///
/// # Errors
/// [`TensorError::TooLarge`] for strings that would take more than 1 GiB, each as wide as the longest
/// of its array.
pub fn check_strings<'a>(arrays: impl Iterator<Item = &'a Tensor>) -> Result<(), TensorError> {
    let bytes = arrays.map(|tensor| match tensor.data() {
        Data::String(strings) => fixed_width_len(strings),
        _ => 0,
    });
    if bytes.fold(0, u64::saturating_add) > MAX_STRING_DATA {
        let what = "npy of all strings, each as wide as the longest of its array,".to_owned();
        return Err(TensorError::TooLarge { what, limit: MAX_STRING_DATA });
    }
    Ok(())
}

/// Characters of the longest string; numpy has no width of 0.
fn width(strings: &[String]) -> usize {
    strings.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1)
}

fn fixed_width_len(strings: &[String]) -> u64 {
    (width(strings) as u64).saturating_mul(4).saturating_mul(strings.len() as u64)
}

fn write_strings(
    shape: &[usize],
    strings: &[String],
    mut writer: impl Write,
) -> Result<(), TensorError> {
    if let Some(at) = strings.iter().position(|text| text.ends_with('\0')) {
        return Err(TensorError::Unsupported {
            what: format!("npy for string {at}, which ends in NUL,"),
            hint: "numpy drops such NULs when it reads; write it as json",
        });
    }
    if fixed_width_len(strings) > MAX_STRING_DATA {
        let what = format!("npy of {} strings, each as wide as the longest,", strings.len());
        return Err(TensorError::TooLarge { what, limit: MAX_STRING_DATA });
    }
    let width = width(strings);
    writer.write_all(&header::encode(&format!("<U{width}"), shape))?;
    let mut element = Vec::new();
    for text in strings {
        element.clear();
        element.extend(text.chars().flat_map(|char| u32::from(char).to_le_bytes()));
        element.resize(4 * width, 0);
        writer.write_all(&element)?;
    }
    writer.flush()?;
    Ok(())
}
