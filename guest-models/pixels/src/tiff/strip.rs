//! Decompresses the strips of a TIFF file.

use crate::{DEFLATE_RATIO, DecodeError, refused};

#[derive(Clone, Copy)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
}

const DAMAGED: &str = "the TIFF file: its compressed data is damaged or ends too early";

impl Compression {
    /// The compression of this number.
    pub(super) fn of(number: u64) -> Result<Compression, DecodeError> {
        match number {
            1 => Ok(Compression::None),
            5 => Ok(Compression::Lzw),
            8 | 32_946 => Ok(Compression::Deflate),
            32_773 => Ok(Compression::PackBits),
            other => refused(format!("the TIFF file: the compression {other} is not implemented")),
        }
    }

    /// Maximum compression ratio, rounded up.
    pub(super) fn ratio(self) -> u64 {
        match self {
            Compression::None => 1,
            // Codes of at least 9 bits for at most 4096 bytes.
            Compression::Lzw => 3_641,
            Compression::Deflate => DEFLATE_RATIO,
            // Two bytes for at most 128.
            Compression::PackBits => 64,
        }
    }

    /// The first `length` decompressed bytes, which must all be there.
    pub(super) fn decompress(self, stored: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
        let bytes = match self {
            Compression::None => stored.get(..length).map(<[u8]>::to_vec),
            Compression::Lzw => lzw(stored, length),
            Compression::Deflate => fdeflate::decompress_to_vec_bounded(stored, length).ok(),
            Compression::PackBits => pack_bits(stored, length),
        };
        match bytes {
            Some(bytes) if bytes.len() == length => Ok(bytes),
            _ => refused(DAMAGED),
        }
    }
}

/// Runs of one byte, and of bytes as they are.
fn pack_bits(mut stored: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let (count, rest) = stored.split_first()?;
        stored = match *count {
            count @ 0..=127 => {
                let (run, rest) = rest.split_at_checked(usize::from(count) + 1)?;
                bytes.extend_from_slice(run);
                rest
            }
            128 => rest,
            count => {
                let (byte, rest) = rest.split_first()?;
                bytes.resize(bytes.len() + 257 - usize::from(count), *byte);
                rest
            }
        };
    }
    bytes.truncate(length);
    Some(bytes)
}

/// The first code of a string of several bytes; those before are single bytes and two marks.
const FIRST: usize = 258;
/// Forgets all strings.
const CLEAR: usize = 256;
const END: usize = 257;
/// Codes have at most 12 bits.
const CODES: usize = 4_096;

/// LZW with the highest bit first. Codes get longer one code earlier than necessary.
fn lzw(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::new();
    // Each string is the one of an earlier code and the byte after it, so it is part of the result:
    // its start and length there.
    let mut strings: Vec<(usize, usize)> = Vec::new();
    let mut before: Option<(usize, usize)> = None;
    let mut at = 0;
    while bytes.len() < length {
        let width = match FIRST + strings.len() {
            0..=510 => 9,
            511..=1022 => 10,
            1023..=2046 => 11,
            _ => 12,
        };
        let code = bits(stored, at, width)?;
        at += width;
        match code {
            CLEAR => {
                strings.clear();
                before = None;
                continue;
            }
            END => break,
            _ => {}
        }
        if let Some((start, len)) = before
            && FIRST + strings.len() < CODES
        {
            strings.push((start, len + 1));
        }
        let here = bytes.len();
        let len = match u8::try_from(code) {
            Ok(byte) => {
                bytes.push(byte);
                1
            }
            Err(_) => {
                let (start, len) = *strings.get(code - FIRST)?;
                // One by one: the last byte may be the first one that is written here.
                for at in start..start + len {
                    bytes.push(bytes[at]);
                }
                len
            }
        };
        before = Some((here, len));
    }
    bytes.truncate(length);
    Some(bytes)
}

/// An integer of `width` bits, at most 12.
fn bits(stored: &[u8], at: usize, width: usize) -> Option<usize> {
    let byte = |which: usize| stored.get(at / 8 + which).copied();
    let last = (at % 8 + width - 1) / 8;
    // A third byte is only there if the code needs it.
    let third = if last < 2 { 0 } else { byte(2)? };
    let word = usize::from(byte(0)?) << 16 | usize::from(byte(1)?) << 8 | usize::from(third);
    Some(word >> (24 - at % 8 - width) & ((1 << width) - 1))
}
