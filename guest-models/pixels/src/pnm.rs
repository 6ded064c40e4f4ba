//! Decodes PNM files: bitmaps, gray and colours (PBM, PGM, PPM), as text and as bytes.

use crate::{DecodeError, Pixels, Room, refused, sides};

/// Reads the header, and the numbers of a file as text.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

const CUT_OFF: &str = "the PNM file: it is cut off";

fn cut_off<T>() -> Result<T, DecodeError> {
    refused(CUT_OFF)
}

impl Reader<'_> {
    /// Skips white space and comments.
    fn skip(&mut self) {
        while let Some(byte) = self.file.get(self.at) {
            match byte {
                b'#' => {
                    let rest = &self.file[self.at..];
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    self.at += end.unwrap_or(rest.len());
                }
                byte if byte.is_ascii_whitespace() || *byte == 0x0b => self.at += 1,
                _ => break,
            }
        }
    }

    /// The next number.
    fn number(&mut self) -> Result<u64, DecodeError> {
        self.skip();
        let rest = &self.file[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return match rest.first() {
                Some(byte) => refused(format!(
                    "the PNM file: expected a number, found the byte {byte} at {}",
                    self.at
                )),
                None => cut_off(),
            };
        }
        self.at += digits;
        let digit = |number: u64, byte: &u8| number.saturating_mul(10) + u64::from(byte - b'0');
        Ok(rest[..digits.min(18)].iter().fold(0, digit))
    }

    /// The next digit of a bitmap, whose digits need no space between them.
    fn bit(&mut self) -> Result<u64, DecodeError> {
        self.skip();
        match self.file.get(self.at) {
            Some(byte @ (b'0' | b'1')) => {
                self.at += 1;
                Ok(u64::from(byte - b'0'))
            }
            Some(byte) => refused(format!("the PNM file: expected 0 or 1, found the byte {byte}")),
            None => cut_off(),
        }
    }
}

/// Whether a file is one of these formats.
pub(crate) fn is_pnm(file: &[u8]) -> bool {
    matches!(file, [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace() || *space == b'#')
}

/// Decodes a file; samples of other maxima are scaled to 255.
pub(crate) fn decode(file: &[u8], room: Room) -> Result<Pixels, DecodeError> {
    let kind = file.get(1).map_or(0, |byte| byte - b'0');
    let mut reader = Reader { file, at: 2 };
    let (width, height) = (reader.number()?, reader.number()?);
    let (width, height) = sides("PNM", width, height)?;
    let bitmap = matches!(kind, 1 | 4);
    let most = if bitmap { 1 } else { reader.number()? };
    if !(1..=65_535).contains(&most) {
        return refused(format!("the PNM file: its maximum is {most}, expected 1 to 65535"));
    }
    let channels = if matches!(kind, 3 | 6) { 3 } else { 1 };
    // A number as text takes two bytes, and a digit of a bitmap one.
    let (across, down) = (width as usize, height as usize);
    let count = width * height * channels as u64;
    let row = across.div_ceil(8);
    let needed = match kind {
        1 => count,
        2 | 3 => 2 * count - 1,
        4 => row as u64 * height,
        _ if most < 256 => count,
        _ => 2 * count,
    };
    let start = if kind >= 4 { reader.at + 1 } else { reader.at };
    let Some(stored) = file.get(start..).filter(|stored| stored.len() as u64 >= needed) else {
        return cut_off();
    };
    room.holds(width, height, channels as u64)?;
    // Pillow's rounding.
    let scaled =
        |sample: u64| (sample.min(most) as f64 / most as f64 * 255.0).round_ties_even() as u8;
    let count = across * down * channels;
    let mut bytes = Vec::with_capacity(count);
    match kind {
        // In a bitmap, 1 is black.
        1 => {
            for _ in 0..count {
                bytes.push(scaled(1 - reader.bit()?));
            }
        }
        2 | 3 => {
            for _ in 0..count {
                bytes.push(scaled(reader.number()?));
            }
        }
        4 => {
            for row in stored.chunks(row).take(down) {
                let bit = |at: usize| u64::from(row[at / 8] >> (7 - at % 8) & 1);
                bytes.extend((0..across).map(|at| scaled(1 - bit(at))));
            }
        }
        _ if most < 256 => bytes.extend(stored[..count].iter().map(|byte| scaled((*byte).into()))),
        _ => {
            let (pairs, _) = stored[..2 * count].as_chunks::<2>();
            bytes.extend(pairs.iter().map(|pair| scaled(u16::from_be_bytes(*pair).into())));
        }
    }
    Ok(Pixels { width: across, height: down, channels, bytes })
}
