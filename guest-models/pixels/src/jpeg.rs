//! Decodes JPEG files.

use std::io::Cursor;

use jpeg_decoder::PixelFormat;

use crate::{
    DecodeError, Picture, Pixels, Room, cmyk_to_rgb, frame, more_than_it_holds, refused, sides,
};

/// Decodes a file.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Picture, DecodeError> {
    let frame = match frame::frame(file) {
        Ok(frame) => frame,
        Err(why) => return refused(format!("the JPEG file: {why}")),
    };
    let (width, height) = sides("JPEG", frame.width, frame.height)?;
    if frame.min_bits() > 8 * file.len() as u64 {
        return more_than_it_holds("JPEG", file, width, height);
    }
    let (stored, channels) = match frame.components() {
        1 => (1, 1),
        3 => (3, 3),
        _ => (4, 3),
    };
    // The decoder holds each component separately before it interleaves them, and a progressive
    // file as 16-bit coefficients until its last scan.
    let coefficients = if frame.progressive { 2 * stored } else { 0 };
    room.holds(width, height, (2 * stored + coefficients) as u64)?;
    let marked = frame::marked(file, &frame.scan_ends);
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(&marked));
    let mut bytes = decoder.decode().map_err(|err| {
        DecodeError::File(format!("the JPEG file: {}", of_jpeg(&err.to_string())))
    })?;
    let (width, height) = (width as usize, height as usize);
    let info = decoder
        .info()
        .map(|info| (usize::from(info.width), usize::from(info.height), info.pixel_format));
    let format = match stored {
        1 => PixelFormat::L8,
        3 => PixelFormat::RGB24,
        _ => PixelFormat::CMYK32,
    };
    if info != Some((width, height, format)) || bytes.len() != width * height * stored {
        return refused("the JPEG file: the decoded pixels do not match the frame header");
    }
    if stored == 4 {
        cmyk_to_rgb(&mut bytes);
    }
    let exif = decoder.exif_data().map(<[u8]>::to_vec);
    Ok(Picture { pixels: Pixels { width, height, channels, bytes }, exif })
}

/// The message of the JPEG decoder, without its common prefix.
fn of_jpeg(text: &str) -> &str {
    match text.strip_prefix("invalid JPEG format: ").unwrap_or(text) {
        "failed to decode huffman code" => "its data is damaged or ends too early",
        text => text,
    }
}
