//! Just enough of the protobuf wire format to take a message apart and put it together again.
//!
//! Other fields are copied byte for byte. This module knows nothing of ONNX, and checks lengths
//! against the bytes that are left.

use anyhow::{Context, Result, bail};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// One field of a message.
pub(crate) struct Field<'a> {
    /// The field's number.
    pub(crate) number: u64,
    /// Its value.
    pub(crate) value: Value<'a>,
    /// Tag and value as in the message.
    pub(crate) raw: &'a [u8],
}

/// A field's value, by wire type.
pub(crate) enum Value<'a> {
    /// An integer, enumeration or boolean.
    Varint(u64),
    /// A string, a nested message, or packed numbers.
    Bytes(&'a [u8]),
    /// A fixed-size number; kept only to be copied.
    Fixed,
}

impl<'a> Field<'a> {
    /// The bytes of this field; an error for numbers.
    pub(crate) fn bytes(&self) -> Result<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => bail!("field {} holds a number where bytes are expected", self.number),
        }
    }

    /// The text of this field.
    pub(crate) fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?)
            .with_context(|| format!("field {} is not UTF-8", self.number))
    }

    /// The integers of this field, packed or single.
    pub(crate) fn integers(&self) -> Result<Vec<u64>> {
        match self.value {
            Value::Varint(number) => Ok(vec![number]),
            Value::Bytes(mut rest) => {
                let mut numbers = Vec::new();
                while !rest.is_empty() {
                    numbers.push(varint(&mut rest)?);
                }
                Ok(numbers)
            }
            Value::Fixed => bail!("field {} holds fixed-size numbers", self.number),
        }
    }
}

/// The fields of a message, in order.
pub(crate) fn fields(message: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            VARINT => Value::Varint(varint(&mut rest)?),
            FIXED64 => take(&mut rest, 8).map(|_| Value::Fixed)?,
            FIXED32 => take(&mut rest, 4).map(|_| Value::Fixed)?,
            BYTES => {
                let length = usize::try_from(varint(&mut rest)?)
                    .context("the length of a field is too large")?;
                Value::Bytes(take(&mut rest, length)?)
            }
            other => bail!("unknown wire type {other}"),
        };
        let raw = start.get(..start.len() - rest.len()).unwrap_or_default();
        found.push(Field { number: tag >> 3, value, raw });
    }
    Ok(found)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?.first().copied().unwrap_or_default();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("an integer has more than ten bytes")
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    match rest.split_at_checked(length) {
        Some((taken, left)) => {
            *rest = left;
            Ok(taken)
        }
        None => bail!("a field has a length of {length} bytes, but {} are left", rest.len()),
    }
}

/// Appends an integer field.
pub(crate) fn put_integer(message: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(message, number << 3 | VARINT);
    put_varint(message, value);
}

/// Appends a field of bytes: a string, a nested message, raw data.
pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(message, number << 3 | BYTES);
    put_varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_fields_are_read_again() {
        let mut message = Vec::new();
        put_integer(&mut message, 1, 300);
        put_bytes(&mut message, 8, b"name");
        message.extend_from_slice(&[0x15, 1, 2, 3, 4]);
        let fields = fields(&message).expect("well-formed");
        assert_eq!(fields.len(), 3);
        assert_eq!(fields[0].integers().expect("integer"), [300]);
        assert_eq!(fields[1].text().expect("text"), "name");
        assert!(matches!(fields[2].value, Value::Fixed));
        let copied: Vec<u8> = fields.iter().flat_map(|field| field.raw).copied().collect();
        assert_eq!(copied, message);
    }

    #[test]
    fn packed_integers_are_unpacked() {
        let mut message = Vec::new();
        put_bytes(&mut message, 7, &[64, 0xac, 0x02]);
        assert_eq!(fields(&message).expect("ok")[0].integers().expect("ok"), [64, 300]);
    }

    #[test]
    fn malformed_messages_are_errors() {
        for message in [&[0x0a, 5, 1][..], &[0x08], &[0x0b], &[0xff; 11], &[0x15, 1]] {
            assert!(fields(message).is_err(), "{message:?}");
        }
    }
}
