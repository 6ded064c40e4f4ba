//! The answer of a call of the guest: a kind, then the payload of that kind.

use alloc::string::String;
use alloc::vec::Vec;

use crate::description::Description;
use crate::header::{Kind, read_header, write_header};
use crate::preparation::Preparation;
use crate::profile::Profile;
use crate::reader::{DecodeError, Reader};
use crate::tensors::{TensorView, read_tensors};
use crate::writer::{Writer, cut};
use crate::{MAX_ERROR_TEXT, MAX_TENSORS};

/// The kind of an error of the guest.
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
    /// The model cannot be prepared for inputs of these shapes; other shapes may work.
    ShapesRefused = 6,
    /// An image needs more memory than is allowed.
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

/// An error of the guest. The text comes from the guest, so it is hostile: escape it before
/// printing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestError {
    /// The kind of the error.
    pub code: GuestErrorCode,
    /// The message, at most [`MAX_ERROR_TEXT`] bytes.
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

/// Encodes the answer of success.
pub fn encode_ok() -> Vec<u8> {
    let mut writer = Writer::with_capacity(8);
    write_header(&mut writer, Kind::Ok);
    writer.finish()
}

/// Encodes an error, with the text truncated to [`MAX_ERROR_TEXT`] bytes.
pub fn encode_error(code: GuestErrorCode, text: &str) -> Vec<u8> {
    let text = cut(text, MAX_ERROR_TEXT);
    let mut writer = Writer::with_capacity(16 + text.len());
    write_header(&mut writer, Kind::Error);
    writer.u32(code as u32);
    writer.str(text);
    writer.finish()
}

/// Decodes the answer of a call of the guest.
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
        Kind::Shapes | Kind::Picture | Kind::Run => {
            return Err(DecodeError::Invalid { at: 4, what: "kind of an answer" });
        }
    };
    reader.finish()?;
    Ok(reply)
}
