//! ONNX's file of one tensor: `.pb`, a `TensorProto` (onnx.proto of ONNX 1.23), as written by
//! ONNX's test cases and `onnx.numpy_helper`.
//!
//! The few fields of that message are read in order, without a protobuf library, and nothing here
//! recurses. Declared lengths are not trusted: memory grows only with bytes that exist. Shape and
//! element type must come before the data, as every writer puts them (fields in the order of their
//! numbers).

use std::io::{BufReader, Read, Take};

use belljar_abi::{DType, MAX_NAME, MAX_RANK, element_count};

use super::{Coded, Data, Tensor, TensorError, bf16, f16, string_memory};

/// Bytes read at a time.
const CHUNK: u64 = 64 << 10;

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
                        let why = "it has too many dimensions";
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

/// The elements read so far, as their little-endian wire format; or strings.
struct Elements {
    dtype: DType,
    bytes: Vec<u8>,
    strings: Vec<String>,
    /// The expected number of elements, and the bytes they may still take.
    count: u64,
    left: u64,
    limit: u64,
}

impl Elements {
    fn new(dtype: DType, shape: &[usize], limit: u64) -> Result<Elements, TensorError> {
        let dims: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        let size = dtype.size().map_or(string_memory(""), |size| size as u64);
        let why = "its size overflows 64 bits";
        let overflow = || TensorError::Shape { shape: shape.to_vec(), why };
        let count = element_count(&dims).ok_or_else(overflow)?;
        if count.checked_mul(size).ok_or_else(overflow)? > limit {
            let what = format!("a tensor of shape {shape:?}");
            return Err(TensorError::TooLarge { what, limit });
        }
        Ok(Elements { dtype, bytes: Vec::new(), strings: Vec::new(), count, left: limit, limit })
    }

    /// Elements of four bits are packed two in a byte, those of two bits four, the first in the low
    /// bits.
    fn packed(&self) -> u64 {
        match belljar_abi::codes::bits(self.dtype) {
            Some(bits @ (2 | 4)) => 8 / u64::from(bits),
            _ => 1,
        }
    }

    /// Reads a data field.
    fn read<R: Read>(
        &mut self,
        message: &mut Message<R>,
        number: u64,
        wire: Wire,
    ) -> Result<(), TensorError> {
        use DType::*;
        let dtype = self.dtype;
        let size = dtype.size().unwrap_or(0);
        match (number, wire) {
            (field::STRING_DATA, Wire::Bytes(len)) if dtype == String => {
                if self.strings.len() as u64 == self.count {
                    return Err(self.wrong_count());
                }
                let cost = len.saturating_add(string_memory(""));
                let limit = self.limit;
                let too_large = || TensorError::TooLarge { what: "its strings".into(), limit };
                self.left = self.left.checked_sub(cost).ok_or_else(too_large)?;
                let mut text = Vec::new();
                message.bytes(len, |bytes| text.extend_from_slice(bytes))?;
                text.shrink_to_fit();
                let text = std::string::String::from_utf8(text)
                    .map_err(|_| malformed("a string is not UTF-8"))?;
                self.strings.push(text);
                Ok(())
            }
            (field::RAW_DATA, Wire::Bytes(len)) if dtype != String => {
                let packed = self.packed();
                let wanted = match packed {
                    1 => self.count.saturating_mul(size as u64),
                    packed => self.count.div_ceil(packed),
                };
                if len != wanted || !self.bytes.is_empty() {
                    return Err(self.wrong_count());
                }
                message.bytes(len, |bytes| match packed {
                    1 => self.bytes.extend_from_slice(bytes),
                    _ => bytes.iter().for_each(|byte| self.unpack(*byte)),
                })
            }
            (field::FLOAT_DATA, _) if dtype == F32 => {
                message.fixed::<4>(wire, |bytes| self.push(&bytes))
            }
            (field::DOUBLE_DATA, _) if dtype == F64 => {
                message.fixed::<8>(wire, |bytes| self.push(&bytes))
            }
            (field::INT64_DATA, Wire::Varint | Wire::Bytes(_)) if dtype == I64 => {
                message.varints(wire, |value| self.push(&value.to_le_bytes()))
            }
            (field::UINT64_DATA, Wire::Varint | Wire::Bytes(_)) if matches!(dtype, U32 | U64) => {
                message.varints(wire, |value| {
                    self.in_range(value.into(), dtype)?;
                    self.push(value.to_le_bytes().get(..size).unwrap_or_default())
                })
            }
            (field::INT32_DATA, Wire::Varint | Wire::Bytes(_))
                if !matches!(dtype, F32 | F64 | I64 | U32 | U64 | String) =>
            {
                let packed = self.packed();
                message.varints(wire, |value| {
                    let value = value.cast_signed();
                    let Ok(narrow) = i32::try_from(value) else {
                        return Err(malformed(format!("{value} is out of range of int32_data")));
                    };
                    if packed > 1 {
                        if self.bytes.len() as u64 >= self.count {
                            return Err(self.wrong_count());
                        }
                        self.unpack(narrow as u8);
                        return Ok(());
                    }
                    self.in_range(value.into(), dtype)?;
                    self.push(narrow.to_le_bytes().get(..size).unwrap_or_default())
                })
            }
            _ => Err(malformed(format!("field {number} does not hold elements of {dtype}"))),
        }
    }

    fn in_range(&self, value: i128, dtype: DType) -> Result<(), TensorError> {
        use DType::*;
        let range = match dtype {
            I8 => -128..=127,
            I16 => -32768..=32767,
            I32 => i128::from(i32::MIN)..=i128::from(i32::MAX),
            Bool => 0..=1,
            U32 => 0..=i128::from(u32::MAX),
            U64 => 0..=i128::from(u64::MAX),
            // The bits of an element.
            dtype if dtype.size() == Some(2) => 0..=65535,
            _ => 0..=255,
        };
        match range.contains(&value) {
            true => Ok(()),
            false => Err(malformed(format!("{value} is out of range of {dtype}"))),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), TensorError> {
        let size = self.dtype.size().unwrap_or(1) as u64;
        if self.bytes.len() as u64 >= self.count.saturating_mul(size) {
            return Err(self.wrong_count());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds the elements of a byte, up to the number of elements of the tensor.
    fn unpack(&mut self, byte: u8) {
        let packed = self.packed();
        let bits = (8 / packed) as u32;
        for at in 0..packed as u32 {
            if (self.bytes.len() as u64) < self.count {
                self.bytes.push(byte >> (bits * at) & (u8::MAX >> (8 - bits)));
            }
        }
    }

    fn wrong_count(&self) -> TensorError {
        malformed(format!("its data does not have the {} elements of its shape", self.count))
    }

    fn finish(self) -> Result<Data, TensorError> {
        let size = self.dtype.size().unwrap_or(0);
        let found = match self.dtype {
            DType::String => self.strings.len() as u64,
            _ => (self.bytes.len() / size.max(1)) as u64,
        };
        if found != self.count {
            return Err(self.wrong_count());
        }
        fn numbers<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
            bytemuck::pod_collect_to_vec(bytes)
        }
        let bytes = &self.bytes;
        Ok(match self.dtype {
            DType::F16 => Data::F16(numbers::<f16>(bytes)),
            DType::F32 => Data::F32(numbers(bytes)),
            DType::F64 => Data::F64(numbers(bytes)),
            DType::I8 => Data::I8(numbers(bytes)),
            DType::I16 => Data::I16(numbers(bytes)),
            DType::I32 => Data::I32(numbers(bytes)),
            DType::I64 => Data::I64(numbers(bytes)),
            DType::U8 => Data::U8(self.bytes),
            DType::U16 => Data::U16(numbers(bytes)),
            DType::U32 => Data::U32(numbers(bytes)),
            DType::U64 => Data::U64(numbers(bytes)),
            DType::BF16 => Data::BF16(numbers::<bf16>(bytes)),
            DType::Bool => match bytes.iter().find(|byte| **byte > 1) {
                None => Data::Bool(self.bytes.into_iter().map(|byte| byte == 1).collect()),
                Some(byte) => {
                    return Err(malformed(format!("a bool element is {byte}, not 0 or 1")));
                }
            },
            DType::String => Data::String(self.strings),
            dtype => Coded::new(dtype, self.bytes)
                .ok_or_else(|| malformed(format!("a byte is not a valid {dtype}")))?
                .into(),
        })
    }
}

/// The wire format of a field.
#[derive(Clone, Copy)]
enum Wire {
    Varint,
    Fixed64,
    /// This many bytes.
    Bytes(u64),
    Fixed32,
}

/// A message that is read once from start to end.
struct Message<R> {
    source: BufReader<Take<R>>,
    read: u64,
    /// The maximum number of bytes to read.
    max: u64,
}

impl<R: Read> Message<R> {
    fn byte(&mut self) -> Result<Option<u8>, TensorError> {
        let mut byte = [0];
        let found = self.fill(&mut byte)?;
        Ok((found == 1).then_some(byte[0]))
    }

    /// Reads until the buffer is full or the file ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TensorError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if self.read + filled as u64 >= self.max => {
                    let what = "the file".into();
                    return Err(TensorError::TooLarge { what, limit: self.max });
                }
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.read += filled as u64;
        Ok(filled)
    }

    fn ends_early(&self) -> TensorError {
        malformed(format!("it ends within a field, after {} bytes", self.read))
    }

    /// The number and wire format of the next field; `None` at the end.
    fn key(&mut self) -> Result<Option<(u64, Wire)>, TensorError> {
        let Some(first) = self.byte()? else { return Ok(None) };
        let key = self.varint_from(first)?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes(self.varint()?),
            5 => Wire::Fixed32,
            other => return Err(malformed(format!("a field has the unknown wire type {other}"))),
        };
        match key >> 3 {
            0 => Err(malformed("a field has the number 0")),
            number => Ok(Some((number, wire))),
        }
    }

    fn varint(&mut self) -> Result<u64, TensorError> {
        let first = self.byte()?.ok_or_else(|| self.ends_early())?;
        self.varint_from(first)
    }

    fn varint_from(&mut self, first: u8) -> Result<u64, TensorError> {
        let (mut value, mut byte) = (0u64, first);
        for at in 0..10 {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                break;
            }
            value |= bits << (7 * at);
            if byte < 0x80 {
                return Ok(value);
            }
            if at < 9 {
                byte = self.byte()?.ok_or_else(|| self.ends_early())?;
            }
        }
        Err(malformed("a number of more than 64 bits"))
    }

    /// Passes on the bytes of a field in chunks.
    fn bytes(&mut self, len: u64, mut take: impl FnMut(&[u8])) -> Result<(), TensorError> {
        let mut chunk = vec![0; CHUNK.min(len) as usize];
        let mut left = len;
        while left > 0 {
            let part = chunk.get_mut(..left.min(CHUNK) as usize).unwrap_or_default();
            if self.fill(part)? < part.len() {
                return Err(self.ends_early());
            }
            take(part);
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// The number in a field, or all numbers of a packed list.
    fn varints(
        &mut self,
        wire: Wire,
        mut take: impl FnMut(u64) -> Result<(), TensorError>,
    ) -> Result<(), TensorError> {
        let Wire::Bytes(len) = wire else { return take(self.varint()?) };
        let end = self.read.checked_add(len).ok_or_else(|| self.ends_early())?;
        while self.read < end {
            take(self.varint()?)?;
        }
        match self.read == end {
            true => Ok(()),
            false => Err(malformed("a list of numbers ends within a number")),
        }
    }

    /// As `varints`, for numbers of a fixed size.
    fn fixed<const N: usize>(
        &mut self,
        wire: Wire,
        mut take: impl FnMut([u8; N]) -> Result<(), TensorError>,
    ) -> Result<(), TensorError> {
        let len = match (wire, N) {
            (Wire::Bytes(len), _) => len,
            (Wire::Fixed32, 4) => 4,
            (Wire::Fixed64, 8) => 8,
            _ => return Err(malformed("a number does not have its field's size")),
        };
        if len % N as u64 != 0 {
            return Err(malformed("a list of numbers ends within a number"));
        }
        for _ in 0..len / N as u64 {
            let mut bytes = [0; N];
            if self.fill(&mut bytes)? < N {
                return Err(self.ends_early());
            }
            take(bytes)?;
        }
        Ok(())
    }

    fn skip(&mut self, wire: Wire) -> Result<(), TensorError> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.bytes(8, |_| {}),
            Wire::Fixed32 => self.bytes(4, |_| {}),
            Wire::Bytes(len) => self.bytes(len, |_| {}),
        }
    }
}
