//! PNG and JPEG files to pixels of eight bits. Both decoders are crates that forbid unsafe code.

use std::io::Cursor;

use jpeg_decoder::PixelFormat;

use super::orient::Orientation;
use super::{LONGEST_SIDE, PictureError, Pixels, Room, jpeg, refused};

/// What deflate makes of one byte at most, rounded up: 258 bytes of two bits.
const DEFLATE_RATIO: u64 = 1_040;

/// Decodes a file, whichever its first bytes say that it is; answers how it is to be turned, too. Alpha
/// is dropped, of 16 bits the upper eight are kept, and colour profiles are not applied: as Pillow's
/// `convert("RGB")` does.
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
    // As it is stored: before palettes and narrow pixels are expanded.
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
        return refused("the PNG file: its pixels are not of eight bits after decoding");
    }
    reader.next_frame(&mut bytes).map_err(malformed)?;
    // An animation's other frames are not looked at.
    if reader.info().animation_control.is_none() {
        reader.finish().map_err(malformed)?;
    }
    let orientation = orientation(reader.info().exif_metadata.as_deref());
    // Gray or colours without the alpha that stands behind them.
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
    if frame.least_bits() > 8 * file.len() as u64 {
        return more_than_it_holds("JPEG", file, width, height);
    }
    let (stored, channels) = match frame.components() {
        1 => (1, 1),
        3 => (3, 3),
        _ => (4, 3),
    };
    // Each component is decoded by itself before they are put together; a progressive file is kept as
    // coefficients of 16 bits until its last scan.
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
        return refused("the JPEG file: its pixels are not those that its frame declares");
    }
    if stored == 4 {
        to_rgb(&mut bytes);
    }
    let orientation = orientation(decoder.exif_data());
    Ok((Pixels { width, height, channels, bytes }, orientation))
}

/// Cyan, magenta, yellow and black to red, green and blue as Pillow does it, without a colour profile.
/// Of four bytes for a pixel three are left.
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

/// Reads the EXIF data, which some writers begin with a name.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    let Some(exif) = exif else { return Orientation::default() };
    Orientation::of_exif(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// The message of the decoder of PNG, without the inner names of a chunk.
fn of_png(text: &str) -> &str {
    text.split_once(" while decoding ChunkType").map_or(text, |(text, _)| text)
}

/// The message of the decoder of JPEG, without the words that each begins with.
fn of_jpeg(text: &str) -> &str {
    match text.strip_prefix("invalid JPEG format: ").unwrap_or(text) {
        "failed to decode huffman code" => "its data is damaged, or ends too early",
        text => text,
    }
}

fn sides(kind: &str, width: u64, height: u64) -> Result<(u64, u64), PictureError> {
    match (width, height) {
        (1..=LONGEST_SIDE, 1..=LONGEST_SIDE) => Ok((width, height)),
        _ => refused(format!(
            "the {kind} file: it declares {width}x{height} pixels, and sides are from 1 to {LONGEST_SIDE}"
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
