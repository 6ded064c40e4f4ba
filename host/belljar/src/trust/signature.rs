//! Identifies files that were passed as a model by mistake, by their first bytes: the most common
//! failures of downloads and exports, each with what to do. Nothing is parsed here, and no file is
//! ever declared valid.

use belljar_tensor::BYTE_ORDER_MARK;

/// Bytes at the start of a file that are inspected.
pub const MAX_INSPECTED: usize = 4096;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// A noun with its article: `a web page (HTML)`.
    pub what: &'static str,
    /// What to do if a model was expected: a sentence without its full stop.
    pub for_model: &'static str,
}

const fn known(what: &'static str, for_model: &'static str) -> Option<Signature> {
    Some(Signature { what, for_model })
}

const UNPACK: &str = "Unpack it and give the .onnx file inside";

const AS_INPUT: &str = "Give it as an input: `--input NAME=FILE`";

const AS_PNG: &str = "Save it as a PNG, and give it as an input: `--input NAME=FILE`";

/// Identifies a file of `len` bytes by its first bytes; `None` if they are not known.
pub fn look(start: &[u8], len: u64) -> Option<Signature> {
    binary(start, len).or_else(|| text(start))
}

fn binary(start: &[u8], len: u64) -> Option<Signature> {
    match start {
        [0x1f, 0x8b, ..] => known("compressed with gzip", "Unpack it first: `gzip -d FILE.gz`"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            known("compressed with zstd", "Unpack it first: `zstd -d FILE.zst`")
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            known("compressed with xz", "Unpack it first: `xz -d FILE.xz`")
        }
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..] => {
            known("compressed with bzip2", "Unpack it first: `bzip2 -d FILE.bz2`")
        }
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => known("a 7z archive", UNPACK),
        [b'R', b'a', b'r', b'!', 0x1a, 0x07, ..] => known("a RAR archive", UNPACK),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => zip(start),
        [0x89, b'H', b'D', b'F', b'\r', b'\n', ..] => {
            known("an HDF5 file, as Keras writes them", "Export the model with tf2onnx")
        }
        [0x80, 2..=5, ..] => known(
            "a Python pickle, as joblib, scikit-learn and old versions of PyTorch write them, which \
             runs code when it is loaded",
            "Export the model to ONNX where it was made (skl2onnx, `torch.onnx.export`)",
        ),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => {
            known("a numpy array (.npy)", "Give it as an input: `--input NAME=FILE`")
        }
        [0x89, b'P', b'N', b'G', ..] => known("a PNG image", AS_INPUT),
        [0xff, 0xd8, 0xff, ..] => known("a JPEG image", AS_INPUT),
        [b'G', b'I', b'F', b'8', ..] => known("a GIF image", AS_PNG),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            known("a WebP image", AS_PNG)
        }
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => known("a BMP image", AS_PNG),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => known("a TIFF image", AS_PNG),
        [0, 0, 0, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => {
            known("an AVIF image", AS_PNG)
        }
        [0, 0, 0, _, b'f', b't', b'y', b'p', b'h' | b'm', b'e' | b'i', ..] => {
            known("a HEIC image", AS_PNG)
        }
        [b'%', b'P', b'D', b'F', b'-', ..] => known("a PDF", "Give the model's file instead"),
        [0x7f, b'E', b'L', b'F', ..] => {
            known("a Linux program or library (ELF)", "Give the model's file instead")
        }
        [0, b'a', b's', b'm', 1, ..] => known(
            "a core WebAssembly module",
            "Guest programs are components: `wasm-tools component new` converts it to one",
        ),
        [b'G', b'G', b'U', b'F', ..] => {
            known("a GGUF file, as llama.cpp reads them", "Get the model as an ONNX file")
        }
        [_, _, _, _, b'O', b'R', b'T', b'M', ..] => known(
            "a model in onnxruntime's own format (.ort)",
            "Give the ONNX file that it was made from; it cannot be converted back",
        ),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => known(
            "a TensorFlow Lite model (.tflite)",
            "Convert it to ONNX: `python3 -m tf2onnx.convert --tflite FILE --output model.onnx`",
        ),
        _ if start.get(257..262) == Some(b"ustar") => known("a tar archive", UNPACK),
        _ if is_safetensors(start, len) => known(
            "weights without a model (safetensors)",
            "Export the model to ONNX with the program that uses these weights, such as \
             `optimum-cli export onnx`",
        ),
        _ => None,
    }
}

/// Checks the length of the JSON header, and its first byte.
fn is_safetensors(start: &[u8], len: u64) -> bool {
    let Some((header, rest)) = start.split_first_chunk::<8>() else { return false };
    let header = u64::from_le_bytes(*header);
    rest.starts_with(b"{") && header >= 2 && header <= len.saturating_sub(8)
}

/// Identifies a zip archive by the name of its first entry.
fn zip(start: &[u8]) -> Option<Signature> {
    let len = start.get(26..28).map_or(0, |len| usize::from(len[0]) | usize::from(len[1]) << 8);
    let name = start.get(30..30 + len).unwrap_or_default();
    let ends = |with: &[u8]| name.ends_with(with);
    if ends(b"/data.pkl") || ends(b"/version") || ends(b"/.data/serialization_id") {
        return known(
            "a PyTorch file (.pt, .pth), which contains a pickle that runs code when it is loaded",
            "Export the model to ONNX where it was made: `torch.onnx.export`",
        );
    }
    if matches!(name, b"metadata.json" | b"config.json" | b"model.weights.h5") {
        return known(
            "a Keras model (.keras)",
            "Export the model: `model.export(\"model.onnx\", format=\"onnx\")`, or with tf2onnx",
        );
    }
    if ends(b".npy") {
        return known("numpy arrays (.npz)", "Give them as inputs: `--input FILE.npz`");
    }
    known("a zip archive", UNPACK)
}

fn text(start: &[u8]) -> Option<Signature> {
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    let begins = |with: &str| {
        start.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    let has = |what: &[u8]| start.windows(what.len()).any(|window| window == what);
    if begins("version https://git-lfs.") {
        return known(
            "a Git LFS pointer to a file that was not fetched",
            "Fetch the file: `git lfs pull`, or download it from the repository's page",
        );
    }
    // ONNX's two text formats; the second is protobuf's.
    if (begins("<") || begins("ir_version")) && has(b"ir_version") {
        return known(
            "ONNX as text",
            "Convert it to the binary format: `onnx.save(onnx.load(FILE), \"model.onnx\")`",
        );
    }
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<!-- ") {
        return known(
            "a web page (HTML): a page about the file, or a server error, instead of the file",
            "Download the file itself (on GitHub and Hugging Face: \"raw\" or \"resolve\")",
        );
    }
    if begins("<?xml") || begins("<error") || begins("<net ") {
        return known(
            "XML: a server error instead of the file, or OpenVINO's format",
            "Download the file again, or export the model to ONNX",
        );
    }
    if begins("{") && !has(b"\0") {
        return known("JSON: a configuration, or a server error", "Download the file again");
    }
    None
}

/// The message for a file that is not a model: two sentences.
pub fn not_a_model(found: Signature) -> String {
    let Signature { what, for_model } = found;
    format!("not an ONNX model: the file is {what}. {for_model}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(start: &[u8]) -> &'static str {
        look(start, 1 << 20).map_or("", |found| found.what)
    }

    #[test]
    fn common_wrong_files_are_identified() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let zip = |name: &str| {
            let mut bytes = b"PK\x03\x04".to_vec();
            bytes.resize(26, 0);
            bytes.extend([name.len() as u8, 0, 0, 0]);
            bytes.extend(name.bytes());
            bytes
        };
        for (start, expected) in [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec(), "Git LFS"),
            (b"\n\n <!DOCTYPE html>\n<html>".to_vec(), "web page"),
            (b"\xef\xbb\xbf<HTML lang=en>".to_vec(), "web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied".to_vec(), "XML"),
            (b"{\"error\": \"Repository not found\"}".to_vec(), "JSON"),
            (b"<\n  ir_version: 8,\n  opset_import: [\"\" : 17]\n>".to_vec(), "ONNX as text"),
            (b"ir_version: 8\ngraph {\n".to_vec(), "ONNX as text"),
            (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "gzip"),
            (b"\x28\xb5\x2f\xfd\x24".to_vec(), "zstd"),
            (b"\xfd7zXZ\0\0".to_vec(), "xz"),
            (b"BZh91AY&SY".to_vec(), "bzip2"),
            (tar, "tar"),
            (zip("archive/data.pkl"), "PyTorch"),
            (zip("metadata.json"), "Keras"),
            (zip("x.npy"), "numpy"),
            (zip("model.onnx"), "zip"),
            (b"PK\x05\x06".to_vec(), "zip"),
            (b"\x80\x04\x95\x10".to_vec(), "pickle"),
            (b"\x80\x02}q\0".to_vec(), "pickle"),
            (b"\x24\0\0\0ORTM\0\0".to_vec(), ".ort"),
            (b"\x1c\0\0\0TFL3".to_vec(), ".tflite"),
            (b"\x08\0\0\0\0\0\0\0{\"a\":1}".to_vec(), "safetensors"),
            (b"\x89HDF\r\n\x1a\n".to_vec(), "HDF5"),
            (b"\x93NUMPY\x01\0".to_vec(), "numpy"),
            (b"GGUF\x03".to_vec(), "GGUF"),
            (b"\x89PNG\r\n\x1a\n".to_vec(), "a PNG image"),
            (b"\xff\xd8\xff\xe0".to_vec(), "a JPEG image"),
            (b"GIF89a".to_vec(), "a GIF image"),
            (b"RIFF\x24\0\0\0WEBPVP8 ".to_vec(), "a WebP image"),
            (b"BM\x46\0\0\0\0\0\0\0".to_vec(), "a BMP image"),
            (b"MM\0*\0\0\0\x08".to_vec(), "a TIFF image"),
            (b"\0\0\0\x18ftypavif".to_vec(), "an AVIF image"),
            (b"\0\0\0\x18ftypmif1".to_vec(), "a HEIC image"),
            (b"\0asm\x01\0\0\0".to_vec(), "WebAssembly"),
        ] {
            let found = what(&start);
            assert!(found.contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn other_bytes_are_not_identified() {
        // The start of an ONNX model, of a frozen TensorFlow graph, and of unknown data.
        for start in [
            &b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xe2\x01"[..],
            b"\n\x10\n\x05input\x12\x0bPlaceholder",
            b"",
            b"{",
            b"\x1f",
            b"PK",
            b"this is not a model",
            b"BM,25\n1,2\n",
            b"\0\0\0\x18ftypisom",
            b"\xff\xff\xff\xff\xff\xff\xff\xff{",
        ] {
            let found = what(start);
            assert!(found.is_empty() || start == b"{", "{start:?}: {found}");
        }
        for start in [&b"\x80"[..], b"PK\x03\x04", &[0xff; 64], b"<", &[b'<'; 5000]] {
            let _ = look(start, u64::MAX);
        }
    }
}
