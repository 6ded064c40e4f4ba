//! Decodes PNG and JPEG files to 8-bit pixels. Both decoders are crates that forbid unsafe code.

use std::io::Cursor;

use jpeg_decoder::PixelFormat;

use super::orient::Orientation;
use super::{MAX_SIDE, PictureError, Pixels, Room, jpeg, refused};

/// Maximum compression ratio of deflate, rounded up: two bits become 258 bytes.
const DEFLATE_RATIO: u64 = 1_040;

/// Decodes a file in the format that its first bytes show, and returns its orientation. As in
/// Pillow's `convert("RGB")`, alpha is dropped, 16-bit channels keep their upper eight bits, and
/// colour profiles are not applied.
pub(super) fn decode(file: &[u8], room: Room) -> Result<(Pixels, Orientation), PictureError> {
    if file.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(file, room)
    } else if file.starts_with(b"\xff\xd8\xff") {
        jpeg(file, room)
    } else {
        refused("it is neither a PNG nor a JPEG file")
    }
}

fn png(file: &[u8], room: Room) -> Result<(Pixels, Orientation), PictureError> {
    let malformed = |err: png::DecodingError| {
        PictureError::File(match err {
            png::DecodingError::IoError(_) => "the PNG file: it is cut off".to_owned(),
            err => format!("the PNG file: {}", of_png(&err.to_string())),
        })
    };
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
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
    let orientation = orientation(reader.info().exif_metadata.as_deref());
    // Removes the alpha channel after gray or colours.
    let channels = if each < 3 { 1 } else { 3 };
    if each != channels {
        let area = bytes.len() / each;
        for at in 0..area {
            bytes.copy_within(at * each..at * each + channels, at * channels);
        }
        bytes.truncate(area * channels);
    }
    let (width, height) = (width as usize, height as usize);
    Ok((Pixels { width, height, channels, bytes }, orientation))
}

fn jpeg(file: &[u8], room: Room) -> Result<(Pixels, Orientation), PictureError> {
    let frame = match jpeg::frame(file) {
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
    let marked = jpeg::marked(file, &frame.scan_ends);
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(&marked));
    let mut bytes = decoder.decode().map_err(|err| {
        PictureError::File(format!("the JPEG file: {}", of_jpeg(&err.to_string())))
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
        to_rgb(&mut bytes);
    }
    let orientation = orientation(decoder.exif_data());
    Ok((Pixels { width, height, channels, bytes }, orientation))
}

/// Converts CMYK to RGB as Pillow does, without a colour profile. Each pixel shrinks from four
/// bytes to three.
fn to_rgb(bytes: &mut Vec<u8>) {
    let area = bytes.len() / 4;
    for at in 0..area {
        let white = 255 - u32::from(bytes[4 * at + 3]);
        for ink in 0..3 {
            let product = u32::from(bytes[4 * at + ink]) * white + 128;
            bytes[3 * at + ink] = (white - ((product + (product >> 8)) >> 8)) as u8;
        }
    }
    bytes.truncate(3 * area);
}

/// Reads the EXIF data, which some writers prefix with a name.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    let Some(exif) = exif else { return Orientation::default() };
    Orientation::of_exif(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// The message of the PNG decoder, without its internal chunk names.
fn of_png(text: &str) -> &str {
    text.split_once(" while decoding ChunkType").map_or(text, |(text, _)| text)
}

/// The message of the JPEG decoder, without its common prefix.
fn of_jpeg(text: &str) -> &str {
    match text.strip_prefix("invalid JPEG format: ").unwrap_or(text) {
        "failed to decode huffman code" => "its data is damaged or ends too early",
        text => text,
    }
}

fn sides(kind: &str, width: u64, height: u64) -> Result<(u64, u64), PictureError> {
    match (width, height) {
        (1..=MAX_SIDE, 1..=MAX_SIDE) => Ok((width, height)),
        _ => refused(format!(
            "the {kind} file: it declares {width}x{height} pixels, but sides must be from 1 to \
             {MAX_SIDE}"
        )),
    }
}

fn more_than_it_holds<T>(
    kind: &str,
    file: &[u8],
    width: u64,
    height: u64,
) -> Result<T, PictureError> {
    refused(format!(
        "the {kind} file: it declares {width}x{height} pixels, more than its {} bytes can hold",
        file.len()
    ))
}
