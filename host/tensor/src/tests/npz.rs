//! Tests of npz archives.

use std::io::{Cursor, Write};

use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::{npy, npz};
use super::{AMPLE, Tensor, TensorError, any_tensor, assert_malformed, assert_same};

fn written(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    npz::write(tensors, &mut bytes).expect("writing to memory");
    bytes.into_inner()
}

fn read(bytes: &[u8], limit: u64) -> Result<Vec<(String, Tensor)>, TensorError> {
    npz::read(Cursor::new(bytes), limit)
}

fn npy_file(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = Vec::new();
    npy::write(tensor, &mut bytes).expect("writing to memory");
    bytes
}

/// An archive of these entries, as other programs write it.
fn archive(entries: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        archive.start_file(*name, options).expect("a new entry");
        archive.write_all(bytes).expect("writing to memory");
    }
    archive.finish().expect("writing to memory").into_inner()
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

/// Replaces every occurrence of `from` by `to`, of equal length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

#[test]
fn array_names_are_not_treated_as_paths() {
    let names = ["/etc/passwd", "../../up", "a/b:0", "..", "C:\\x", "é", "arr_0", "a.npy", "x\ny"];
    let tensors: Vec<(String, Tensor)> =
        names.iter().map(|name| ((*name).to_owned(), Tensor::scalar(1u8))).collect();
    let read = read(&written(&tensors), AMPLE).expect("our own archive");
    assert_eq!(read, tensors);
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let tensors = [("x".to_owned(), Tensor::new(vec![0f32; 1000], &[1000]).unwrap())];
    assert_eq!(written(&tensors), written(&tensors));
    assert!(written(&tensors).len() < 1000, "deflated");
}

#[test]
fn stored_deflated_and_zip64_entries() {
    let file = npy_file(&Tensor::scalar(5i64));
    for options in [stored(), SimpleFileOptions::default(), stored().large_file(true)] {
        let tensors = read(&archive(&[("x.npy", &file)], options), AMPLE).expect("one array");
        assert_eq!(tensors, [("x".to_owned(), Tensor::scalar(5i64))]);
    }
    assert_eq!(read(&archive(&[], stored()), AMPLE).expect("no arrays"), []);
}

#[test]
fn a_zip64_directory() {
    let tensors = [("x".to_owned(), Tensor::scalar(5i64))];
    let mut bytes = written(&tensors);
    let end = bytes.split_off(bytes.len() - 22);
    let field = |at: usize| u64::from(u32::from_le_bytes(end[at..at + 4].try_into().unwrap()));
    let record = bytes.len() as u64;
    bytes.extend_from_slice(b"PK\x06\x06");
    bytes.extend_from_slice(&44u64.to_le_bytes());
    bytes.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let counted = bytes.len();
    for value in [1, 1, field(12), field(16)] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    bytes.extend_from_slice(&record.to_le_bytes());
    bytes.extend_from_slice(&[1, 0, 0, 0]);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&[0xff; 12]);
    bytes.extend_from_slice(&[0, 0]);
    assert_eq!(read(&bytes, AMPLE).expect("a 64-bit directory"), tensors);
    // A directory that claims more entries than it has room for.
    bytes[counted..counted + 16].copy_from_slice(&[0x7f; 16]);
    assert!(matches!(read(&bytes, AMPLE), Err(TensorError::Malformed { .. })));
}

#[test]
fn the_limit_holds_over_all_entries() {
    let zeros = Tensor::new(vec![0u8; 100_000], &[100_000]).unwrap();
    let tensors: Vec<(String, Tensor)> =
        (0..8).map(|at| (format!("x{at}"), zeros.clone())).collect();
    let bytes = written(&tensors);
    assert!(bytes.len() < 10_000, "a bomb should be small");
    assert!(read(&bytes, 800_000).is_ok());
    let result = read(&bytes, 799_999);
    assert!(matches!(result, Err(TensorError::TooLarge { limit: 799_999, .. })), "{result:?}");
}

#[test]
fn zip_bombs_are_not_inflated() {
    // A header of a small array, followed by gigabytes of zeros: one extra byte is enough to
    // refuse it.
    let mut file = npy_file(&Tensor::scalar(0u8));
    file.resize(file.len() + (8 << 20), 0);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let bytes = archive(&[("x.npy", &file)], options);
    assert_malformed(read(&bytes, AMPLE), "extra bytes");
    // An entry that falsely declares a small size.
    let zeros = Tensor::new(vec![0u8; 1 << 20], &[1 << 20]).unwrap();
    let bytes = archive(&[("x.npy", &npy_file(&zeros))], options);
    let size = (npy_file(&zeros).len() as u32).to_le_bytes();
    let lying = replaced(&bytes, &size, &100u32.to_le_bytes());
    assert!(read(&lying, 1000).is_err());
    // A file longer than its data allows.
    let mut padded = vec![0; 20 << 20];
    padded.extend_from_slice(&bytes);
    assert!(matches!(read(&padded, 1000), Err(TensorError::TooLarge { .. })));
}

#[test]
fn too_many_entries() {
    let file = npy_file(&Tensor::scalar(0u8));
    let names: Vec<String> = (0..1025).map(|at| format!("{at}.npy")).collect();
    let entries: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), file.as_slice())).collect();
    assert_malformed(read(&archive(&entries, stored()), AMPLE), "1025 entries");
    assert!(read(&archive(&entries[..1024], stored()), AMPLE).is_ok());
}

#[test]
fn malformed_entries_are_refused() {
    let file = npy_file(&Tensor::scalar(0u8));
    let entries = [("a.npy", file.as_slice()), ("b.npy", file.as_slice())];
    let twice = replaced(&archive(&entries, stored()), b"b.npy", b"a.npy");
    assert_malformed(read(&twice, AMPLE), "same name");
    for name in ["readme.txt", "x.npY", ".npy", "folder/"] {
        assert_malformed(read(&archive(&[(name, &file)], stored()), AMPLE), "not an array");
    }
    let long = format!("{}.npy", "n".repeat(4097));
    assert_malformed(read(&archive(&[(&long, &file)], stored()), AMPLE), "longer than");
    let foreign = replaced(&archive(&[("ab.npy", &file)], stored()), b"ab.npy", b"\xff\xfe.npy");
    assert_malformed(read(&foreign, AMPLE), "not UTF-8");

    let plain = archive(&[("a.npy", &file)], stored());
    let central = plain.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory");
    let mut encrypted = plain.clone();
    encrypted[6] |= 1;
    encrypted[central + 8] |= 1;
    let error = read(&encrypted, AMPLE).expect_err("encrypted");
    assert!(error.to_string().contains("encrypted"), "{error}");
    for method in [1, 9, 12, 14, 93, 95, 98] {
        let mut other = plain.clone();
        other[8] = method;
        other[central + 10] = method;
        let result = read(&other, AMPLE);
        assert!(matches!(result, Err(TensorError::Unsupported { .. })), "{method}: {result:?}");
    }
    // A flipped bit in the data, which the checksum detects.
    let mut flipped = plain.clone();
    flipped[central - 1] ^= 1;
    assert_malformed(read(&flipped, AMPLE), "entry \"a\"");
    // An error inside an entry names the entry.
    assert_malformed(read(&archive(&[("a.npy", b"junk")], stored()), AMPLE), "entry \"a\"");
    assert_malformed(read(b"not a zip", AMPLE), "");
    assert_malformed(read(&file, AMPLE), "");
}

#[test]
fn ambiguous_names_are_not_written() {
    let scalar = Tensor::scalar(0u8);
    let twice = [("x".to_owned(), scalar.clone()), ("x".to_owned(), scalar.clone())];
    assert_malformed(npz::write(&twice, Cursor::new(Vec::new())), "two arrays");
    let empty = [(String::new(), scalar)];
    assert_malformed(npz::write(&empty, Cursor::new(Vec::new())), "cannot be named");
}

#[test]
fn strings_of_all_arrays_together_are_bounded() {
    // In the file each string is as wide as the longest: 800 MB for each of these arrays.
    let mut strings = vec![String::new(); 200];
    strings.push("x".repeat(1_000_000));
    let tensor = Tensor::new(strings, &[201]).unwrap();
    let too_large = |arrays: &[&Tensor]| {
        let result = npy::check_strings(arrays.iter().copied());
        matches!(result, Err(TensorError::TooLarge { .. }))
    };
    assert!(!too_large(&[&tensor, &Tensor::scalar(1u8)]));
    assert!(too_large(&[&tensor, &tensor]));
    let named = [("s.0".to_owned(), tensor.clone()), ("s.1".to_owned(), tensor)];
    let result = npz::write(&named, Cursor::new(Vec::new()));
    assert!(matches!(result, Err(TensorError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn written_tensors_read_back(tensors in prop::collection::vec(any_tensor(), 0..4)) {
        let tensors: Vec<(String, Tensor)> = tensors
            .into_iter()
            .enumerate()
            .map(|(at, tensor)| (format!("input:{at}"), tensor))
            .collect();
        let dtype_of = |name: &str| {
            tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor.dtype())
        };
        let archive = written(&tensors);
        let read = npz::read_as(Cursor::new(&archive), dtype_of, AMPLE).expect("our own archive");
        prop_assert_eq!(read.len(), tensors.len());
        for ((name, tensor), (expected_name, expected)) in read.iter().zip(&tensors) {
            prop_assert_eq!(name, expected_name);
            assert_same(tensor, expected);
        }
    }

    #[test]
    fn cut_archives_are_refused_and_mutated_ones_do_not_panic(
        tensor in any_tensor(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(&[("x".to_owned(), tensor)]);
        for len in 0..bytes.len() {
            let result = read(&bytes[..len], AMPLE);
            prop_assert!(matches!(result, Err(TensorError::Malformed { .. })), "{}", len);
        }
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes, AMPLE);
    }
}
