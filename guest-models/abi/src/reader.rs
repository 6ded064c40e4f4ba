//! A forward-only reader over bytes from the other side.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Why a message is refused. Offsets are in bytes from the start of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends before the value at `at` is complete.
    Truncated {
        /// Offset of the value.
        at: usize,
    },
    /// The value at `at` is not valid for its field.
    Invalid {
        /// Offset of the value.
        at: usize,
        /// The field.
        what: &'static str,
    },
    /// A count or length is above this crate's bound.
    TooMany {
        /// Offset of the value.
        at: usize,
        /// The field.
        what: &'static str,
        /// The count or length in the message.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// Bytes are left over after the last field.
    Trailing {
        /// Offset of the first of them.
        at: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated { at } => write!(f, "the message is cut off at byte {at}"),
            DecodeError::Invalid { at, what } => write!(f, "invalid {what} at byte {at}"),
            DecodeError::TooMany { at, what, found, limit } => {
                write!(f, "{what} at byte {at} is {found}, above the limit of {limit}")
            }
            DecodeError::Trailing { at } => {
                write!(f, "unexpected bytes after the message, from byte {at} on")
            }
        }
    }
}

impl core::error::Error for DecodeError {}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError::Truncated { at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        let at = self.at;
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { at, what }),
        }
    }

    /// A count or length of at most `limit`.
    pub(crate) fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let at = self.at;
        let found = self.u32()? as usize;
        if found > limit {
            let (found, limit) = (found as u64, limit as u64);
            return Err(DecodeError::TooMany { at, what, found, limit });
        }
        Ok(found)
    }

    pub(crate) fn str(&mut self, limit: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let len = self.count(limit, what)?;
        core::str::from_utf8(self.take(len)?).map_err(|_| DecodeError::Invalid { at, what })
    }

    pub(crate) fn string(
        &mut self,
        limit: usize,
        what: &'static str,
    ) -> Result<String, DecodeError> {
        self.str(limit, what).map(String::from)
    }

    /// A list: its count, then each item. Items are read one by one, so memory only grows with
    /// bytes that exist.
    pub(crate) fn list<T>(
        &mut self,
        limit: usize,
        what: &'static str,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(limit, what)?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// Skips to the next multiple of `align` from the start of the message. The skipped bytes must
    /// be zero.
    pub(crate) fn align(&mut self, align: usize) -> Result<(), DecodeError> {
        let at = self.at;
        let padding = self.take(self.at.next_multiple_of(align) - self.at)?;
        if padding.iter().any(|b| *b != 0) {
            return Err(DecodeError::Invalid { at, what: "padding" });
        }
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.remaining() != 0 {
            return Err(DecodeError::Trailing { at: self.at });
        }
        Ok(())
    }
}
