//! The example programs, under the policies that come with Belljar, match onnxruntime.

use crate::support;

use std::path::PathBuf;

use belljar::tensor::npy;
use belljar::{Isolation, Policy, Value};
use support::{host, repository};

use super::{assert_fails, load, names_the_type, program_bytes};

#[test]
fn model_of_a_program_matches_onnxruntime() {
    let (_folder, policy) = shipped("file-type.toml", "magika");
    names_the_type("file-type", &policy);
}

/// Built only by `cargo xtask programs --all`, and in the check before a release.
#[test]
fn model_of_a_python_program_matches_onnxruntime() {
    let file = repository().join("target/guest/programs/file-type-python.wasm");
    if !file.is_file() {
        let required = std::env::var_os("BELLJAR_PYTHON_PROGRAM").is_some();
        assert!(!required, "{}: run `cargo xtask programs --all`", file.display());
        return;
    }
    let (_folder, policy) = shipped("file-type-python.toml", "magika");
    names_the_type("file-type-python", &policy);
}

/// A PNG file of these pixels, without compression.
fn png(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        })
    }
    let mut lines = Vec::new();
    for line in rgb.chunks_exact(3 * width as usize) {
        // No filter.
        lines.push(0);
        lines.extend(line);
    }
    let mut zlib = vec![0x78, 1];
    let mut blocks = lines.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).unwrap();
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend(len.to_le_bytes());
        zlib.extend((!len).to_le_bytes());
        zlib.extend(block);
    }
    let (a, b) = lines.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", head), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        let chunk = [&kind[..], &content].concat();
        file.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        file.extend(&chunk);
        file.extend(crc(&chunk).to_be_bytes());
    }
    file
}

/// The pixels of a stored image, row by row.
fn stored_pixels(name: &str) -> Vec<u8> {
    let path = repository().join(format!("tests/expectations/images/{name}.npy"));
    let planes = npy::read(std::fs::File::open(path).unwrap(), 1 << 20).unwrap();
    let planes = planes.as_slice::<u8>().unwrap();
    let size = 224 * 224;
    (0..size).flat_map(|at| [planes[at], planes[size + at], planes[2 * size + at]]).collect()
}

/// A policy of the repository, in a folder with the models that it names and their policies.
fn shipped(name: &str, model: &str) -> (tempfile::TempDir, Policy) {
    let folder = tempfile::tempdir().unwrap();
    let put = |from: PathBuf| {
        std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    };
    let policies = repository().join("policies");
    put(policies.join(name));
    put(policies.join(model).with_extension("toml"));
    put(support::models().join(model).with_extension("onnx"));
    let file = folder.path().join(name);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let policy = Policy::load(&file).unwrap().policy;
    (folder, policy)
}

#[test]
fn image_classification_matches_onnxruntime() {
    let host = host(Isolation::Process);
    let (_folder, policy) = shipped("classify.toml", "squeezenet");
    let classify = load(&host, &program_bytes("classify"), &policy).unwrap();
    let scores = |image: Vec<u8>| {
        let outputs = classify.run(&[("image", Value::Bytes(image))]).unwrap();
        let [(_, Value::Tensor(class)), (_, Value::Tensor(scores))] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        (class.as_slice::<i64>().unwrap()[0], scores.as_slice::<f32>().unwrap().to_vec())
    };
    let expected = |path: &str| {
        let file = std::fs::File::open(repository().join("tests/expectations").join(path));
        let tensor = npy::read(file.unwrap(), 1 << 20).unwrap();
        tensor.as_slice::<f32>().unwrap().to_vec()
    };
    let assert_close = |(class, found): (i64, Vec<f32>), wanted: Vec<f32>, relative: f32| {
        assert_eq!(found.len(), wanted.len());
        let greatest = (0..wanted.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
        assert_eq!(class, greatest.unwrap() as i64);
        for (found, wanted) in found.iter().zip(&wanted) {
            let tolerance = 1e-6 + relative * wanted.abs();
            assert!((found - wanted).abs() <= tolerance, "{found}, not {wanted}");
        }
    };
    for (image, name) in [("photo_one", "one"), ("photo_two", "two")] {
        let pixels = stored_pixels(image);
        let wanted = || expected(&format!("squeezenet/{name}.out0.npy"));
        assert_close(scores(png(224, 224, &pixels)), wanted(), 1e-3);
        // Twice the size, with each pixel four times: the same after resizing.
        let double: Vec<u8> = (0..448 * 448)
            .flat_map(|at| {
                let (y, x) = (at / 448 / 2, at % 448 / 2);
                pixels[3 * (y * 224 + x)..][..3].to_vec()
            })
            .collect();
        assert_close(scores(png(448, 448, &double)), wanted(), 1e-3);
    }
    // JPEG decoders may differ by one in each colour, which these weights amplify.
    let photo = std::fs::read(repository().join("tests/expectations/classify/photo.jpg")).unwrap();
    assert_close(scores(photo.clone()), expected("classify/photo.out0.npy"), 0.15);
    // The program refuses files that are not images, and its limits stop an image bomb.
    let refused = |image: Vec<u8>, says: &str| {
        assert_fails(classify.run(&[("image", Value::Bytes(image))]), 4, says);
    };
    refused(b"GIF89a".to_vec(), "neither a PNG nor a JPEG");
    refused(photo[..photo.len() / 2].to_vec(), "JPEG file");
    refused(png(60_000, 60_000, &[]), "the PNG file");
}
