//! What a call of the guest answers: a kind, then that kind's payload.

use alloc::string::String;
use alloc::vec::Vec;

use crate::description::Description;
use crate::preparation::Preparation;
use crate::profile::Profile;
use crate::reader::{DecodeError, Reader};
use crate::tensors::{TensorView, read_tensors};
use crate::writer::Writer;
use crate::{MAX_ERROR_TEXT, MAX_TENSORS};

/// First bytes of every message.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"BJm1");

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Kind {
    /// The call did what it was asked; nothing to say.
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
    /// An image file, and what is made of it.
    Picture = 7,
    /// A run that was profiled.
    Profile = 8,
}

impl Kind {
    fn from_code(code: u32) -> Option<Kind> {
        use Kind::*;
        [Ok, Error, Description, Tensors, Shapes, Prepared, Picture, Profile]
            .into_iter()
            .find(|kind| *kind as u32 == code)
    }
}

/// The kind of a guest's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum GuestErrorCode {
    /// The bytes are not an ONNX model.
    NotOnnx = 1,
    /// The model asks for something that is not implemented, or is inconsistent.
    ModelRefused = 2,
    /// The inputs do not fit the model.
    BadInput = 3,
    /// The run failed on these values.
    RunFailed = 4,
    /// Exports were called out of order, or a message did not decode: a bug on the host's side.
    Protocol = 5,
    /// The model cannot be prepared for inputs of these shapes. For others it may be.
    ShapesRefused = 6,
    /// An image takes more memory than it may.
    PictureTooLarge = 7,
}

impl GuestErrorCode {
    fn from_code(code: u32) -> Option<GuestErrorCode> {
        use GuestErrorCode::*;
        [NotOnnx, ModelRefused, BadInput, RunFailed, Protocol, ShapesRefused, PictureTooLarge]
            .into_iter()
            .find(|known| *known as u32 == code)
    }
}

/// A guest's refusal. The text is the guest's, so it is hostile: escape it before printing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestError {
    /// What kind of refusal.
    pub code: GuestErrorCode,
    /// Why, at most [`MAX_ERROR_TEXT`] bytes.
    pub text: String,
}

/// A decoded answer of the guest.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // One answer exists at a time, and is taken apart at once.
pub enum Reply<'a> {
    /// Done.
    Ok,
    /// Refused.
    Error(GuestError),
    /// A description.
    Description(Description),
    /// Output tensors, borrowed from the message.
    Tensors(Vec<TensorView<'a>>),
    /// A model was prepared.
    Prepared(Preparation),
    /// A run was profiled.
    Profile(Profile<'a>),
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

/// Cuts `text` to at most `limit` bytes at a character boundary.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// The answer "done".
pub fn encode_ok() -> Vec<u8> {
    let mut writer = Writer::with_capacity(8);
    write_header(&mut writer, Kind::Ok);
    writer.finish()
}

/// The answer "refused", with the text cut to [`MAX_ERROR_TEXT`] bytes.
pub fn encode_error(code: GuestErrorCode, text: &str) -> Vec<u8> {
    let text = cut(text, MAX_ERROR_TEXT);
    let mut writer = Writer::with_capacity(16 + text.len());
    write_header(&mut writer, Kind::Error);
    writer.u32(code as u32);
    writer.str(text);
    writer.finish()
}

/// Decodes what a call of the guest answered.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let reply = match read_header(&mut reader)? {
        Kind::Ok => Reply::Ok,
        Kind::Error => {
            let at = reader.at();
            let code = GuestErrorCode::from_code(reader.u32()?)
                .ok_or(DecodeError::Invalid { at, what: "error code" })?;
            Reply::Error(GuestError { code, text: reader.string(MAX_ERROR_TEXT, "error text")? })
        }
        Kind::Description => Reply::Description(Description::read(&mut reader)?),
        Kind::Tensors => Reply::Tensors(read_tensors(&mut reader, MAX_TENSORS)?),
        Kind::Prepared => Reply::Prepared(Preparation::read(&mut reader)?),
        Kind::Profile => Reply::Profile(Profile::read(&mut reader)?),
        Kind::Shapes | Kind::Picture => {
            return Err(DecodeError::Invalid { at: 4, what: "kind of an answer" });
        }
    };
    reader.finish()?;
    Ok(reply)
}
