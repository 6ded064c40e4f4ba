//! PNG files of zeros, which are small on disk and of any size when unpacked.

/// A gray image of eight bits, all black.
pub(crate) fn flat_png(width: u32, height: u32) -> Vec<u8> {
    let count = (u64::from(width) + 1) * u64::from(height);
    png_of(width, height, 0, &zeros(count))
}

/// An image of eight bits per channel with these compressed rows, whether or not they fit its size.
pub(crate) fn png_of(width: u32, height: u32, color: u8, compressed: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, color, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", &header[..]), (b"IDAT", compressed), (b"IEND", &[])] {
        file.extend((data.len() as u32).to_be_bytes());
        let start = file.len();
        file.extend(kind);
        file.extend(data);
        let sum = crc(&file[start..]);
        file.extend(sum.to_be_bytes());
    }
    file
}

/// `count` zeros as a zlib stream: one byte, and then copies of it, 258 at a time.
fn zeros(count: u64) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let (mut bits, mut len) = (0u64, 0);
    let mut put = |out: &mut Vec<u8>, code: &str| {
        for bit in code.bytes() {
            bits |= u64::from(bit == b'1') << len;
            len += 1;
            if len == 8 {
                out.push(bits as u8);
                (bits, len) = (0, 0);
            }
        }
    };
    // The header of the last block, with fixed codes; then a zero.
    put(&mut out, "110");
    put(&mut out, "00110000");
    for _ in 0..(count - 1) / 258 {
        put(&mut out, "1100010100000");
    }
    for _ in 0..(count - 1) % 258 {
        put(&mut out, "00110000");
    }
    put(&mut out, "0000000");
    // Padding to the end of the last byte.
    put(&mut out, "0000000");
    let (a, b) = (1, count % 65_521);
    out.extend(((b as u32) << 16 | a).to_be_bytes());
    out
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}
