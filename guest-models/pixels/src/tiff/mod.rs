//! Decodes TIFF files: the first image, of gray, colours or a palette with 8 or 16 bits in strips,
//! uncompressed or compressed with PackBits, LZW or deflate.

mod directory;
mod strip;

use directory::Directory;
use strip::Compression;

use crate::{DecodeError, Pixels, Room, more_than_it_holds, refused, sides};

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const MEANING: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const STRIP_ROWS: u16 = 278;
const STRIP_LENGTHS: u16 = 279;
const PLANES: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;

/// What the samples of a pixel mean.
enum Meaning {
    /// Gray, and whether 0 is white.
    Gray(bool),
    Rgb,
    /// The colours of a palette.
    Palette(Vec<[u8; 3]>),
}

/// How an image is stored.
struct Header {
    width: usize,
    height: usize,
    meaning: Meaning,
    /// Samples of a pixel; those after gray or colours are dropped.
    samples: usize,
    bits: usize,
    big_endian: bool,
    compression: Compression,
    /// Whether each sample is stored as the difference to the one of the pixel before it.
    differences: bool,
    strip_rows: usize,
}

fn header(file: &[u8], directory: &Directory) -> Result<Header, DecodeError> {
    let number = |tag, default| directory.number(tag, default);
    let (width, height) = sides("TIFF", number(WIDTH, 0)?, number(HEIGHT, 0)?)?;
    // Values with which other files mean something else than what is decoded here.
    for (tag, expected, what) in [
        (FILL_ORDER, 1, "order of bits"),
        (ORIENTATION, 1, "orientation"),
        (SAMPLE_FORMAT, 1, "format of samples"),
        (PLANES, 1, "order of planes"),
    ] {
        if let Some(other) = directory.numbers(tag)?.into_iter().find(|one| *one != expected) {
            return refused(format!("the TIFF file: the {what} {other} is not implemented"));
        }
    }
    if !directory.numbers(TILE_WIDTH)?.is_empty() {
        return refused("the TIFF file: tiles are not implemented");
    }
    if directory.numbers(EXTRA_SAMPLES)?.contains(&1) {
        return refused("the TIFF file: colours multiplied by alpha are not implemented");
    }
    let bits = directory.numbers(BITS)?;
    let bits = match bits.as_slice() {
        [bits @ (8 | 16), others @ ..] if others.iter().all(|other| other == bits) => {
            *bits as usize
        }
        _ => return refused(format!("the TIFF file: {bits:?} bits a sample are not implemented")),
    };
    let samples = number(SAMPLES, 1)?;
    let (meaning, least) = match number(MEANING, 0)? {
        white @ (0 | 1) => (Meaning::Gray(white == 0), 1),
        2 => (Meaning::Rgb, 3),
        3 if bits == 8 => (Meaning::Palette(palette(directory)?), 1),
        other => {
            return refused(format!(
                "the TIFF file: the photometric interpretation {other} with {bits} bits is not \
                 implemented"
            ));
        }
    };
    if !(least..=8).contains(&samples) {
        return refused(format!("the TIFF file: {samples} samples a pixel are not implemented"));
    }
    let compression = Compression::of(number(COMPRESSION, 1)?)?;
    let stored = width * height * samples * (bits as u64 / 8);
    if stored > compression.ratio() * file.len() as u64 {
        return more_than_it_holds("TIFF", file, width, height);
    }
    let differences = match number(PREDICTOR, 1)? {
        1 => false,
        2 => true,
        other => {
            return refused(format!("the TIFF file: the predictor {other} is not implemented"));
        }
    };
    let strip_rows = number(STRIP_ROWS, height)?.clamp(1, height);
    Ok(Header {
        width: width as usize,
        height: height as usize,
        meaning,
        samples: samples as usize,
        bits,
        big_endian: directory.big_endian(),
        compression,
        differences,
        strip_rows: strip_rows as usize,
    })
}

/// The colours of a palette, whose channels are stored one after the other with 16 bits.
fn palette(directory: &Directory) -> Result<Vec<[u8; 3]>, DecodeError> {
    let map = directory.numbers(COLOR_MAP)?;
    let (reds, rest) = map.split_at(map.len() / 3);
    let (greens, blues) = rest.split_at(rest.len() / 2);
    let each = reds.iter().zip(greens).zip(blues);
    let colors: Vec<[u8; 3]> =
        each.map(|((red, green), blue)| [red, green, blue].map(|one| (one >> 8) as u8)).collect();
    match colors.len() {
        256 => Ok(colors),
        count => refused(format!("the TIFF file: its palette has {count} colours, expected 256")),
    }
}

/// Decodes the first image of a file.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Pixels, DecodeError> {
    let directory = Directory::of(file)?;
    let header = header(file, &directory)?;
    let Header { width, height, samples, bits, .. } = header;
    let channels = if let Meaning::Gray(_) = header.meaning { 1 } else { 3 };
    // One strip may be the whole image.
    let each = samples * bits / 8;
    room.holds(width as u64, height as u64, (each + channels) as u64)?;
    let row = width * each;
    let (offsets, lengths) = (directory.numbers(STRIP_OFFSETS)?, directory.numbers(STRIP_LENGTHS)?);
    let mut bytes = Vec::with_capacity(width * height * channels);
    let mut strips = offsets.iter().zip(&lengths);
    for first in (0..height).step_by(header.strip_rows) {
        let rows = header.strip_rows.min(height - first);
        let Some((offset, length)) = strips.next() else {
            return refused("the TIFF file: it has fewer strips than its rows need");
        };
        let start = usize::try_from(*offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(*length).unwrap_or(usize::MAX));
        let Some(stored) = file.get(start..end) else { return refused(directory::CUT_OFF) };
        let mut strip = header.compression.decompress(stored, row * rows)?;
        if header.differences {
            for row in strip.chunks_exact_mut(row) {
                add_differences(row, &header);
            }
        }
        for pixel in strip.chunks_exact(each) {
            push(&mut bytes, pixel, &header);
        }
    }
    Ok(Pixels { width, height, channels, bytes })
}

/// Replaces differences in a row by samples.
fn add_differences(row: &mut [u8], header: &Header) {
    let each = header.samples * header.bits / 8;
    if header.bits == 8 {
        for at in each..row.len() {
            row[at] = row[at].wrapping_add(row[at - each]);
        }
        return;
    }
    let (read, write) = match header.big_endian {
        true => (u16::from_be_bytes as fn([u8; 2]) -> u16, u16::to_be_bytes as fn(u16) -> [u8; 2]),
        false => (u16::from_le_bytes as fn([u8; 2]) -> u16, u16::to_le_bytes as fn(u16) -> [u8; 2]),
    };
    for at in (each..row.len()).step_by(2) {
        let before = read([row[at - each], row[at - each + 1]]);
        let sample = read([row[at], row[at + 1]]).wrapping_add(before);
        row[at..at + 2].copy_from_slice(&write(sample));
    }
}

/// Appends a stored pixel with 8 bits a channel.
fn push(bytes: &mut Vec<u8>, pixel: &[u8], header: &Header) {
    let sample = |at: usize| match (header.bits, header.big_endian) {
        (8, _) => pixel[at],
        (_, true) => pixel[2 * at],
        (_, false) => pixel[2 * at + 1],
    };
    match &header.meaning {
        Meaning::Gray(false) => bytes.push(sample(0)),
        Meaning::Gray(true) => bytes.push(!sample(0)),
        Meaning::Rgb => bytes.extend([sample(0), sample(1), sample(2)]),
        Meaning::Palette(colors) => bytes.extend(colors[usize::from(sample(0))]),
    }
}
