//! The data fields of a tensor, decoded as they are read.

use std::io::Read;

use belljar_abi::{DType, element_count};

use super::message::{Message, Wire};
use super::{field, malformed};
use crate::{Coded, Data, TensorError, bf16, f16, string_memory};

/// The elements read so far, as their little-endian wire format; or strings.
pub(super) struct Elements {
    dtype: DType,
    bytes: Vec<u8>,
    strings: Vec<String>,
    /// The expected number of elements, and the bytes they may still take.
    count: u64,
    left: u64,
    limit: u64,
}

impl Elements {
    pub(super) fn new(dtype: DType, shape: &[usize], limit: u64) -> Result<Elements, TensorError> {
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
    pub(super) fn read<R: Read>(
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

    pub(super) fn finish(self) -> Result<Data, TensorError> {
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
