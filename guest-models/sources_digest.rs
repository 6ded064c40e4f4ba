//! One digest over everything the built-in guest is made from.
//!
//! Used by `cargo xtask guest`, which writes it beside the module it built, and by the host's build
//! script, which says when that module is older than its sources. Both must see the same bytes, so
//! this file is compiled into both and uses nothing but std and sha2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Files and folders, relative to `guest-models/`, whose contents decide what the guest becomes.
const PARTS: [&str; 13] = [
    "abi/Cargo.toml",
    "abi/src",
    "element_types.rs",
    "onnx-ops/Cargo.toml",
    "onnx-ops/src",
    "onnx-runner/Cargo.lock",
    "onnx-runner/Cargo.toml",
    "onnx-runner/build-flags.txt",
    "onnx-runner/clock/Cargo.toml",
    "onnx-runner/clock/src",
    "onnx-runner/src",
    "operators/Cargo.toml",
    "operators/src",
];

/// The digest in lower-case hex, and the files it covers (sorted by relative path).
///
/// `guest_models` is the repository's `guest-models` folder. Errors name the file that could not be
/// read.
pub(crate) fn sources_digest(guest_models: &Path) -> io::Result<(String, Vec<PathBuf>)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for part in PARTS {
        collect(&guest_models.join(part), part, &mut found)?;
    }
    found.sort();
    let mut hash = Sha256::new();
    for (name, path) in &found {
        let content = fs::read(path).map_err(|e| named(path, e))?;
        // Lengths first, so that no two different sets of files feed the same bytes.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(&content);
    }
    let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((hex, found.into_iter().map(|(_, path)| path).collect()))
}

fn collect(path: &Path, name: &str, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    if !path.is_dir() {
        found.push((name.to_owned(), path.to_owned()));
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|e| named(path, e))? {
        let entry = entry.map_err(|e| named(path, e))?;
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { continue };
        // Editors leave hidden files and backups behind; the compiler reads none of them.
        if file_name.starts_with('.') || file_name.ends_with('~') {
            continue;
        }
        collect(&entry.path(), &format!("{name}/{file_name}"), found)?;
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
