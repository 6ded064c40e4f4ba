//! Decodes PNG files.

use std::io::Cursor;

use crate::{
    DEFLATE_RATIO, DecodeError, Picture, Pixels, Room, more_than_it_holds, refused, sides,
    without_alpha,
};

/// Decodes the first image of a file.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Picture, DecodeError> {
    let malformed = |err: ::png::DecodingError| {
        DecodeError::File(match err {
            ::png::DecodingError::IoError(_) => "the PNG file: it is cut off".to_owned(),
            err => format!("the PNG file: {}", of_png(&err.to_string())),
        })
    };
    let mut decoder = ::png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(::png::Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let info = decoder.read_header_info().map_err(malformed)?;
    let (width, height) = sides("PNG", info.width.into(), info.height.into())?;
    // The stored size, before palettes and narrow pixels are expanded.
    let stored = (width * info.bits_per_pixel() as u64).div_ceil(8) * height;
    if stored > DEFLATE_RATIO * file.len() as u64 {
        return more_than_it_holds("PNG", file, width, height);
    }
    let mut reader = decoder.read_info().map_err(malformed)?;
    // The decoder panics on such a palette when it expands the pixels.
    if reader.info().palette.as_ref().is_some_and(|palette| palette.len() % 3 != 0) {
        return refused("the PNG file: the length of its palette is not a multiple of 3");
    }
    let (color, _) = reader.output_color_type();
    let each = color.samples();
    room.holds(width, height, each as u64)?;
    let mut bytes = vec![0; width as usize * height as usize * each];
    if reader.output_buffer_size() != Some(bytes.len()) {
        return refused("the PNG file: the decoded pixels do not have eight bits per channel");
    }
    reader.next_frame(&mut bytes).map_err(malformed)?;
    // The other frames of an animation are not decoded.
    if reader.info().animation_control.is_none() {
        reader.finish().map_err(malformed)?;
    }
    let exif = reader.info().exif_metadata.as_deref().map(<[u8]>::to_vec);
    let channels = without_alpha(&mut bytes, each);
    let (width, height) = (width as usize, height as usize);
    Ok(Picture { pixels: Pixels { width, height, channels, bytes }, exif })
}

/// The message of the PNG decoder, without its internal chunk names.
fn of_png(text: &str) -> &str {
    text.split_once(" while decoding ChunkType").map_or(text, |(text, _)| text)
}
