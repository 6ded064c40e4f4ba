//! Decodes BMP files: palettes and colours of 1 to 32 bits, without compression.

use crate::{DecodeError, Pixels, Room, refused, sides};

/// The header of the pixels.
struct Header {
    width: usize,
    height: usize,
    /// Whether the first row is the top one.
    top_down: bool,
    bits: usize,
    palette: Palette,
    masks: Option<[u32; 3]>,
    /// Where the pixels start.
    pixels: usize,
}

/// Where the colours of a palette are, and how many bytes each has.
struct Palette {
    at: usize,
    colors: usize,
    each: usize,
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

const CUT_OFF: &str = "the BMP file: it is cut off";
/// The length of the file header, in bytes.
const FILE_HEADER: usize = 14;
/// The length of the header with 16-bit sizes, which has no fields for a compression.
const CORE: usize = 12;
const INFO: usize = 40;

fn header(file: &[u8]) -> Result<Header, DecodeError> {
    let cut_off = || DecodeError::File(CUT_OFF.into());
    let word = |at| u32_at(file, FILE_HEADER + at).ok_or_else(cut_off);
    let half = |at| u16_at(file, FILE_HEADER + at).ok_or_else(cut_off);
    let pixels = u32_at(file, 10).ok_or_else(cut_off)? as usize;
    let size = word(0)? as usize;
    let (width, height, bits, compression, colors) = match size {
        CORE => (i64::from(half(4)?), i64::from(half(6)?), half(10)?, 0, 0),
        INFO..=256 => {
            let side = |at| word(at).map(|word| i64::from(word as i32));
            (side(4)?, side(8)?, half(14)?, word(16)?, word(32)?)
        }
        _ => return refused(format!("the BMP file: its header has an unknown length of {size}")),
    };
    let (across, down) = sides("BMP", width.max(0) as u64, height.unsigned_abs())?;
    let bits = usize::from(bits);
    let fields = compression == 3;
    match (compression, bits) {
        (0, 1 | 4 | 8 | 16 | 24 | 32) | (3, 16 | 32) => {}
        (1 | 2, _) => {
            return refused("the BMP file: run-length encoding is not implemented");
        }
        (0 | 3, _) => return refused(format!("the BMP file: {bits} bits a pixel are not valid")),
        _ => return refused(format!("the BMP file: compression {compression} is not implemented")),
    }
    let masks = match (fields, bits) {
        // The masks follow the shorter header, and are part of the longer ones.
        (true, _) => Some([word(INFO)?, word(INFO + 4)?, word(INFO + 8)?]),
        (false, 16) => Some([0x7c00, 0x03e0, 0x001f]),
        (false, _) => None,
    };
    let palette = Palette {
        at: FILE_HEADER + size + if fields && size == INFO { 12 } else { 0 },
        colors: match bits {
            1 | 4 | 8 => match colors as usize {
                0 => 1 << bits,
                colors => colors.min(1 << bits),
            },
            _ => 0,
        },
        each: if size == CORE { 3 } else { 4 },
    };
    let (width, rows) = (across as usize, down as usize);
    Ok(Header { width, height: rows, top_down: height < 0, bits, palette, masks, pixels })
}

/// Decodes a file, with alpha dropped.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Pixels, DecodeError> {
    let header = header(file)?;
    let Header { width, height, bits, .. } = header;
    let stride = (width * bits).div_ceil(32) * 4;
    let cut_off = || DecodeError::File(CUT_OFF.into());
    let stored = file.get(header.pixels..).ok_or_else(cut_off)?;
    // The padding of the last row may be missing.
    let needed = stride as u64 * (height as u64 - 1) + (width * bits).div_ceil(8) as u64;
    if (stored.len() as u64) < needed {
        return Err(cut_off());
    }
    room.holds(width as u64, height as u64, 3)?;
    let Palette { at, colors, each } = header.palette;
    let palette = file.get(at..at + colors * each).ok_or_else(cut_off)?;
    let mut bytes = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let row = if header.top_down { row } else { height - 1 - row };
        let row = &stored[row * stride..];
        for column in 0..width {
            let pixel = match (bits, header.masks) {
                (1 | 4 | 8, _) => {
                    let byte = row[column * bits / 8];
                    let shift = 8 - bits - column * bits % 8;
                    let index = usize::from(byte >> shift) & ((1 << bits) - 1);
                    let color = palette.get(index * each..index * each + 3);
                    let Some([blue, green, red]) = color else {
                        return refused(format!(
                            "the BMP file: a pixel has the colour {index} of a palette of {colors}"
                        ));
                    };
                    [*red, *green, *blue]
                }
                (_, Some(masks)) => {
                    let at = column * bits / 8;
                    let pixel = match bits {
                        16 => u16_at(row, at).map(u32::from),
                        _ => u32_at(row, at),
                    };
                    let pixel = pixel.ok_or_else(cut_off)?;
                    masks.map(|mask| of_mask(pixel, mask))
                }
                (_, None) => {
                    let at = column * bits / 8;
                    [row[at + 2], row[at + 1], row[at]]
                }
            };
            bytes.extend_from_slice(&pixel);
        }
    }
    Ok(Pixels { width, height, channels: 3, bytes })
}

/// The bits of a pixel under a mask, scaled to 8 bits.
fn of_mask(pixel: u32, mask: u32) -> u8 {
    if mask == 0 {
        return 0;
    }
    let shift = mask.trailing_zeros();
    let (value, most) = (u64::from((pixel & mask) >> shift), u64::from(mask >> shift));
    (value * 255 / most) as u8
}
