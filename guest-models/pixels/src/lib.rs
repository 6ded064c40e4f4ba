//! Decodes images to pixels of 8 bits: BMP, JPEG, PNG, PNM, TIFF and WebP. It runs only inside
//! sandboxes.
//!
//! This must never allocate a size that a file declares before comparing it with what the file can
//! hold and what the caller allows.
#![forbid(unsafe_code)]

mod bmp;
mod frame;
mod jpeg;
mod png;
mod pnm;
mod tiff;
mod webp;

/// Maximum width and height of an image, in pixels: that of JPEG.
pub const MAX_SIDE: u64 = 65_535;

/// Maximum compression ratio of deflate, rounded up: two bits become 258 bytes.
const DEFLATE_RATIO: u64 = 1_040;

/// Why an image cannot be decoded.
#[derive(Debug)]
pub enum DecodeError {
    /// The file is malformed, or of a kind that is not implemented.
    File(String),
    /// It needs more memory than is allowed.
    TooLarge(String),
}

fn refused<T>(why: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError::File(why.into()))
}

/// Rows of pixels with one byte per channel: one channel, or red, green and blue.
#[derive(Debug)]
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub bytes: Vec<u8>,
}

/// A decoded image.
#[derive(Debug)]
pub struct Picture {
    pub pixels: Pixels,
    /// The EXIF data of a PNG or JPEG file.
    pub exif: Option<Vec<u8>>,
}

impl From<Pixels> for Picture {
    fn from(pixels: Pixels) -> Picture {
        Picture { pixels, exif: None }
    }
}

/// The memory that one step may take, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room(pub u64);

impl Room {
    /// Refuses an image whose pixels of `each` bytes do not fit, before memory is allocated.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn holds(self, width: u64, height: u64, each: u64) -> Result<(), DecodeError> {
        let bytes = width.saturating_mul(height).saturating_mul(each);
        // No allocation is larger than half of the address space.
        let max = self.0.min(i32::MAX as u64);
        if bytes <= max {
            return Ok(());
        }
        let text = format!("{width}x{height} pixels take {bytes} bytes, but {max} are allowed");
        Err(DecodeError::TooLarge(text))
    }
}

/// A format of files, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Bmp,
    Jpeg,
    /// Recognised, so that it can be refused by its name.
    Jpeg2000,
    Png,
    Pnm,
    Tiff,
    WebP,
}

impl Format {
    /// The format of a file.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<Format> {
        const JP2: &[u8] = b"\0\0\0\x0cjP  \r\n\x87\n";
        Some(match file {
            [b'B', b'M', ..] => Format::Bmp,
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [0xff, 0x4f, 0xff, 0x51, ..] => Format::Jpeg2000,
            _ if file.starts_with(JP2) => Format::Jpeg2000,
            _ if file.starts_with(b"\x89PNG\r\n\x1a\n") => Format::Png,
            _ if file.starts_with(b"II*\0") || file.starts_with(b"MM\0*") => Format::Tiff,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
            _ if pnm::is_pnm(file) => Format::Pnm,
            _ => return None,
        })
    }
}

/// Decodes a file. As in Pillow's `convert("RGB")`, alpha is dropped, 16-bit channels keep their
/// upper eight bits, and colour profiles are not applied.
///
/// # Errors
/// If the file is malformed, of a kind that is not implemented, or larger than is allowed.
pub fn decode(format: Format, file: &[u8], room: Room) -> Result<Picture, DecodeError> {
    match format {
        Format::Bmp => bmp::decode(file, room).map(Picture::from),
        Format::Jpeg => jpeg::decode(file, room),
        Format::Jpeg2000 => refused("JPEG 2000 is not implemented"),
        Format::Png => png::decode(file, room),
        Format::Pnm => pnm::decode(file, room).map(Picture::from),
        Format::Tiff => tiff::decode(file, room).map(Picture::from),
        Format::WebP => webp::decode(file, room).map(Picture::from),
    }
}

/// Converts to gray as Pillow does (ITU-R BT.601 luma with 16 fractional bits, rounded).
#[must_use]
pub fn gray(pixels: Pixels) -> Pixels {
    if pixels.channels == 1 {
        return pixels;
    }
    let luma = |pixel: &[u8; 3]| {
        let [red, green, blue] = pixel.map(u32::from);
        ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
    };
    let bytes = pixels.bytes.as_chunks::<3>().0.iter().map(luma).collect();
    Pixels { channels: 1, bytes, ..pixels }
}

/// Removes the alpha channel after gray or colours.
fn without_alpha(bytes: &mut Vec<u8>, each: usize) -> usize {
    let channels = if each < 3 { 1 } else { 3 };
    if each != channels {
        let area = bytes.len() / each;
        for at in 0..area {
            bytes.copy_within(at * each..at * each + channels, at * channels);
        }
        bytes.truncate(area * channels);
    }
    channels
}

/// Converts CMYK to RGB as Pillow does, without a colour profile. Each pixel shrinks from four
/// bytes to three.
fn cmyk_to_rgb(bytes: &mut Vec<u8>) {
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

fn sides(kind: &str, width: u64, height: u64) -> Result<(u64, u64), DecodeError> {
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
) -> Result<T, DecodeError> {
    refused(format!(
        "the {kind} file: it declares {width}x{height} pixels, more than its {} bytes can hold",
        file.len()
    ))
}
