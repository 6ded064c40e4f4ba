//! The start of every message: a magic number and the kind of its content.

use crate::reader::{DecodeError, Reader};
use crate::writer::Writer;

/// The first bytes of every message.
const MAGIC: u32 = u32::from_le_bytes(*b"BJm1");

/// The content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Kind {
    /// The call succeeded without a result.
    Ok = 1,
    /// The call refused or failed.
    Error = 2,
    /// A description of a model.
    Description = 3,
    /// Named tensors.
    Tensors = 4,
    /// Named shapes.
    Shapes = 5,
    /// A model was prepared.
    Prepared = 6,
    /// An image file and its options.
    Picture = 7,
    /// A run that was profiled.
    Profile = 8,
    /// The seed and the inputs of a run.
    Run = 9,
}

impl Kind {
    fn from_code(code: u32) -> Option<Kind> {
        use Kind::*;
        [Ok, Error, Description, Tensors, Shapes, Prepared, Picture, Profile, Run]
            .into_iter()
            .find(|kind| *kind as u32 == code)
    }
}

pub(crate) fn write_header(writer: &mut Writer, kind: Kind) {
    writer.u32(MAGIC);
    writer.u32(kind as u32);
}

pub(crate) fn read_header(reader: &mut Reader<'_>) -> Result<Kind, DecodeError> {
    if reader.u32()? != MAGIC {
        return Err(DecodeError::Invalid { at: 0, what: "magic number" });
    }
    let at = reader.at();
    Kind::from_code(reader.u32()?).ok_or(DecodeError::Invalid { at, what: "message kind" })
}

pub(crate) fn expect_header(reader: &mut Reader<'_>, kind: Kind) -> Result<(), DecodeError> {
    if read_header(reader)? != kind {
        return Err(DecodeError::Invalid { at: 4, what: "message kind" });
    }
    Ok(())
}
