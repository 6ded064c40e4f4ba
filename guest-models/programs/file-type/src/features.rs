//! The feature extraction of magika's model: the bytes of a file as the 2048 numbers of its input.
//!
//! Follows version 2 of the feature extraction in the package's `config.min.json`: white space is
//! stripped at the outer end of the first and the last 4096 bytes; the first and the last 1024
//! remaining bytes are used; missing ones are filled with the number 256.

/// Values from each end (`beg_size`, `end_size`).
const SIDE: usize = 1024;

/// Bytes read from each end (`block_size`).
const BLOCK: usize = 4096;

/// The value for a missing byte (`padding_token`).
const PADDING: i32 = 256;

/// Minimum number of bytes after stripping (`min_file_size_for_dl`).
const MIN_BYTES: usize = 8;

/// The model's input for this file: shape [1, 2048].
pub(crate) fn features(content: &[u8]) -> Result<Vec<i32>, String> {
    let block = content.len().min(BLOCK);
    let (first, _) = content.split_at(block);
    let (_, last) = content.split_at(content.len() - block);
    let first = strip_start(first);
    let last = strip_end(last);
    if first.len() < MIN_BYTES {
        return Err(format!("the file is too short: {} bytes without white space", first.len()));
    }
    let beg = first.get(..SIDE).unwrap_or(first);
    let end = last.get(last.len().saturating_sub(SIDE)..).unwrap_or(last);

    let mut values = vec![PADDING; 2 * SIDE];
    let (left, right) = values.split_at_mut(SIDE);
    for (value, &byte) in left.iter_mut().zip(beg) {
        *value = i32::from(byte);
    }
    for (value, &byte) in right.iter_mut().rev().zip(end.iter().rev()) {
        *value = i32::from(byte);
    }
    Ok(values)
}

/// Python's `bytes.isspace`, with vertical tab, which `u8::is_ascii_whitespace` leaves out.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn strip_start(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    bytes
}

fn strip_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_padded_in_the_middle() {
        let values = features(b"\n\x0b 12345678 \x0c\r\n").expect("long enough");
        assert_eq!(values.len(), 2048);
        // The start keeps the white space at its end, and the end that at its start.
        let start: Vec<i32> = b"12345678 \x0c\r\n".iter().map(|&b| i32::from(b)).collect();
        let end: Vec<i32> = b"\n\x0b 12345678".iter().map(|&b| i32::from(b)).collect();
        assert_eq!(values[..start.len()], start);
        assert_eq!(values[2048 - end.len()..], end);
        assert!(values[start.len()..2048 - end.len()].iter().all(|&value| value == 256));
    }

    #[test]
    fn a_long_file_contributes_its_two_ends() {
        let content: Vec<u8> = (0..10_000_u32).map(|i| 33 + (i % 90) as u8).collect();
        let values = features(&content).expect("long enough");
        let first: Vec<i32> = content[..1024].iter().map(|&b| i32::from(b)).collect();
        let last: Vec<i32> = content[8976..].iter().map(|&b| i32::from(b)).collect();
        assert_eq!(values[..1024], first);
        assert_eq!(values[1024..], last);
    }

    #[test]
    fn white_space_outside_of_the_block_is_not_stripped() {
        let mut content = vec![b' '; 4090];
        content.extend_from_slice(&[b'a'; 100]);
        assert!(features(&content).is_err());
        content[4000] = b'x';
        assert_eq!(features(&content).expect("long enough")[0], i32::from(b'x'));
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        assert!(features(b"").is_err());
        assert!(features(b"  1234567  \n").is_ok());
        assert!(features(b"  123").is_err());
    }
}
