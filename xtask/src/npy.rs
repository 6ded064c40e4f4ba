//! Writes NumPy files for the demo's inputs.

/// The values as a NumPy file (format 1.0) of 32-bit integers with the shape [1, n].
pub(crate) fn npy(values: &[i32]) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '<i4', 'fortran_order': False, 'shape': (1, {}), }}", values.len());
    // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend_from_slice(&(header.len() as u16).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numpy_header_is_aligned() {
        let file = npy(&[1, -1]);
        assert_eq!(file.len() % 64, 8);
        assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
        assert_eq!(&file[file.len() - 8..], [1, 0, 0, 0, 255, 255, 255, 255]);
        assert!(String::from_utf8_lossy(&file).contains("'shape': (1, 2), "));
    }
}
