//! Decodes WebP files, with and without loss.

use std::io::Cursor;

use image_webp::WebPDecoder;

use crate::{DecodeError, Pixels, Room, refused, sides, without_alpha};

/// The memory of the decoder for each pixel, in addition to the image: planes of brightness and
/// colours, or the image with four channels and its transformations.
const OWN: u64 = 8;

/// Decodes a file, with alpha dropped.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Pixels, DecodeError> {
    let malformed = |err: image_webp::DecodingError| match err {
        image_webp::DecodingError::IoError(_) => DecodeError::File(CUT_OFF.into()),
        err => DecodeError::File(format!("the WebP file: {err}")),
    };
    let simple = simple(file)?;
    let mut decoder = WebPDecoder::new(Cursor::new(&simple)).map_err(malformed)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = sides("WebP", width.into(), height.into())?;
    let each = if decoder.has_alpha() { 4 } else { 3 };
    // Images with loss are decoded in blocks of 16 by 16 pixels.
    room.holds(width.next_multiple_of(16), height.next_multiple_of(16), each as u64 + OWN)?;
    let (width, height) = (width as usize, height as usize);
    let mut bytes = vec![0; width * height * each];
    decoder.read_image(&mut bytes).map_err(malformed)?;
    let channels = without_alpha(&mut bytes, each);
    Ok(Pixels { width, height, channels, bytes })
}

const CUT_OFF: &str = "the WebP file: it is cut off";

/// A file with nothing but the image of this one, so that the decoder takes its size from the same
/// bytes as the pixels, and reads no metadata and no alpha channel.
fn simple(file: &[u8]) -> Result<Vec<u8>, DecodeError> {
    // After the length of the file and its kind, each chunk has a name, a length and content that is
    // padded to an even length.
    let mut at = 12;
    loop {
        let Some([a, b, c, d, l0, l1, l2, l3, content @ ..]) = file.get(at..) else {
            return refused(CUT_OFF);
        };
        let name = [*a, *b, *c, *d];
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        let Some(content) = content.get(..len) else { return refused(CUT_OFF) };
        match &name {
            b"VP8 " | b"VP8L" => {
                let mut simple = b"RIFF".to_vec();
                simple.extend_from_slice(&(len as u32 + 12).to_le_bytes());
                simple.extend_from_slice(b"WEBP");
                simple.extend_from_slice(&name);
                simple.extend_from_slice(&(len as u32).to_le_bytes());
                simple.extend_from_slice(content);
                return Ok(simple);
            }
            b"ANIM" | b"ANMF" => return refused("the WebP file: animations are not implemented"),
            _ => at += 8 + len.next_multiple_of(2),
        }
    }
}
