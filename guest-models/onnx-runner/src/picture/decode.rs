//! Decodes PNG and JPEG files to 8-bit pixels, with their orientation.

use belljar_pixels::{DecodeError, Format, Picture, Pixels, Room};

use super::PictureError;
use super::orient::Orientation;

impl From<DecodeError> for PictureError {
    fn from(err: DecodeError) -> PictureError {
        match err {
            DecodeError::File(why) => PictureError::File(why),
            DecodeError::TooLarge(why) => PictureError::TooLarge(why),
        }
    }
}

/// Decodes a file in the format that its first bytes show, and returns its orientation.
pub(super) fn decode(file: &[u8], room: Room) -> Result<(Pixels, Orientation), PictureError> {
    let format = Format::of(file).filter(|format| matches!(format, Format::Png | Format::Jpeg));
    let Some(format) = format else {
        return Err(PictureError::File("it is neither a PNG nor a JPEG file".into()));
    };
    let Picture { pixels, exif } = belljar_pixels::decode(format, file, room)?;
    Ok((pixels, orientation(exif.as_deref())))
}

/// Reads the EXIF data, which some writers prefix with a name.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    let Some(exif) = exif else { return Orientation::default() };
    Orientation::of_exif(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}
