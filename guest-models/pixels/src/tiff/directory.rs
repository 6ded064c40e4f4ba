//! Reads the directory of a TIFF image: numbers by their tags.

use crate::{DecodeError, refused};

pub(super) const CUT_OFF: &str = "the TIFF file: it is cut off";

/// The first directory of a file.
pub(super) struct Directory<'a> {
    file: &'a [u8],
    big_endian: bool,
    /// Entries of twelve bytes: a tag, a type, a count, and the values or their offset.
    entries: &'a [[u8; 12]],
}

impl<'a> Directory<'a> {
    /// The directory of a file that starts with the marks of TIFF.
    pub(super) fn of(file: &'a [u8]) -> Result<Directory<'a>, DecodeError> {
        let mut directory = Directory { file, big_endian: file.starts_with(b"MM"), entries: &[] };
        let entries = || {
            let at = directory.u32(file.get(4..)?)? as usize;
            let (count, entries) = file.get(at..)?.split_first_chunk::<2>()?;
            let count = usize::from(directory.u16(count)?);
            entries.as_chunks::<12>().0.get(..count)
        };
        let Some(entries) = entries() else { return refused(CUT_OFF) };
        directory.entries = entries;
        Ok(directory)
    }

    pub(super) fn big_endian(&self) -> bool {
        self.big_endian
    }

    fn u16(&self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The integers with a tag; none if the directory does not have it. They are all in the file, so
    /// their number is bounded by its length.
    pub(super) fn numbers(&self, tag: u16) -> Result<Vec<u64>, DecodeError> {
        let Some(entry) = self.entries.iter().find(|entry| self.u16(&entry[..]) == Some(tag))
        else {
            return Ok(Vec::new());
        };
        let kind = self.u16(&entry[2..]).unwrap_or_default();
        let size = match kind {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => {
                return refused(format!(
                    "the TIFF file: the tag {tag} has the invalid type {kind}"
                ));
            }
        };
        let numbers = || {
            let count = self.u32(&entry[4..])? as usize;
            let length = count.checked_mul(size)?;
            let values = match entry[8..].get(..length) {
                Some(values) => values,
                None => self.file.get(self.u32(&entry[8..])? as usize..)?.get(..length)?,
            };
            let each = values.chunks_exact(size).map(|value| match size {
                1 => Some(value[0].into()),
                2 => self.u16(value).map(u64::from),
                _ => self.u32(value).map(u64::from),
            });
            each.collect::<Option<Vec<u64>>>()
        };
        numbers().ok_or_else(|| DecodeError::File(CUT_OFF.into()))
    }

    /// The only integer with a tag.
    pub(super) fn number(&self, tag: u16, default: u64) -> Result<u64, DecodeError> {
        match self.numbers(tag)?.as_slice() {
            [] => Ok(default),
            [number] => Ok(*number),
            numbers => refused(format!(
                "the TIFF file: the tag {tag} has {} values, expected 1",
                numbers.len()
            )),
        }
    }
}
