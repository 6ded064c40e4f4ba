//! Reads the fields of one protobuf message in order.

use std::io::{BufReader, Read, Take};

use super::malformed;
use crate::TensorError;

/// Bytes read at a time.
pub(super) const CHUNK: u64 = 64 << 10;

/// The wire format of a field.
#[derive(Clone, Copy)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    /// This many bytes.
    Bytes(u64),
    Fixed32,
}

/// A message that is read once from start to end.
pub(super) struct Message<R> {
    pub(super) source: BufReader<Take<R>>,
    pub(super) read: u64,
    /// The maximum number of bytes to read.
    pub(super) max: u64,
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
    pub(super) fn key(&mut self) -> Result<Option<(u64, Wire)>, TensorError> {
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

    pub(super) fn varint(&mut self) -> Result<u64, TensorError> {
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
    pub(super) fn bytes(
        &mut self,
        len: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), TensorError> {
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
    pub(super) fn varints(
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
    pub(super) fn fixed<const N: usize>(
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

    pub(super) fn skip(&mut self, wire: Wire) -> Result<(), TensorError> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.bytes(8, |_| {}),
            Wire::Fixed32 => self.bytes(4, |_| {}),
            Wire::Bytes(len) => self.bytes(len, |_| {}),
        }
    }
}
