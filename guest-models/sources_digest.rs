//! A digest of all sources of the built-in guest.
//!
//! `cargo xtask guest` writes it next to the module that it builds, and the host's build script
//! reports a module that is older than its sources. This file is compiled into both, so that they
//! compute the same digest, and only uses std and sha2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Files and folders, relative to `guest-models/`, that the guest is built from.
const PARTS: [&str; 15] = [
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
    "pixels/Cargo.toml",
    "pixels/src",
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
        // Lengths first, so that different sets of files never hash the same bytes.
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
        // Editors create hidden files and backups, which the compiler does not read.
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
