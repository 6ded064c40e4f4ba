//! Turns an image upright according to the orientation in its EXIF data.

use belljar_pixels::Pixels;

/// The EXIF tag `Orientation`, 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation(u8);

impl Default for Orientation {
    /// The orientation as stored.
    fn default() -> Orientation {
        Orientation(1)
    }
}

impl Orientation {
    /// Reads the tag from EXIF data, which is a TIFF file. Malformed data and invalid values are
    /// ignored.
    pub(super) fn of_exif(exif: &[u8]) -> Orientation {
        let found = read(exif).filter(|found| (1..=8).contains(found));
        found.map_or_else(Orientation::default, Orientation)
    }
}

fn read(exif: &[u8]) -> Option<u8> {
    let big = match exif.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let bytes: [u8; 4] = exif.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    let entries = usize::from(u16_at(directory)?);
    // An entry has twelve bytes: a tag, a type, a count, and the value or its offset.
    for entry in 0..entries {
        let at = directory.checked_add(2)?.checked_add(12 * entry)?;
        if u16_at(at)? == 0x0112 {
            let short = u16_at(at + 2)? == 3 && u32_at(at + 4)? == 1;
            return short.then_some(u16_at(at + 8)?)?.try_into().ok();
        }
    }
    None
}

/// Rotates and mirrors an image so that it is upright.
pub(super) fn turned(from: Pixels, Orientation(orientation): Orientation) -> Pixels {
    if orientation == 1 {
        return from;
    }
    let (last_x, last_y) = (from.width - 1, from.height - 1);
    let sideways = orientation >= 5;
    let (width, height) =
        if sideways { (from.height, from.width) } else { (from.width, from.height) };
    let channels = from.channels;
    let mut bytes = Vec::with_capacity(from.bytes.len());
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = match orientation {
                2 => (last_x - x, y),
                3 => (last_x - x, last_y - y),
                4 => (x, last_y - y),
                5 => (y, x),
                6 => (y, last_y - x),
                7 => (last_x - y, last_y - x),
                _ => (last_x - y, x),
            };
            let at = (from_y * from.width + from_x) * channels;
            bytes.extend_from_slice(&from.bytes[at..at + channels]);
        }
    }
    Pixels { width, height, channels, bytes }
}
