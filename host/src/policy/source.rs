//! A policy from a file: opened once, checked, read through the same descriptor, and its digest
//! kept for the audit log.
//!
//! Nothing here may look at the file by its name after it was opened.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::text::line_and_column;
use super::{Policy, PolicyError, ownership};

/// Largest policy file in bytes. Real ones have one or two kilobytes; a megabyte leaves room for
/// long lists of grants and still parses in milliseconds.
pub const MAX_POLICY_SIZE: u64 = 1 << 20;

/// Longest path, in bytes: what Linux accepts (`PATH_MAX`, with the closing NUL).
const MAX_PATH: usize = 4095;

/// A policy together with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedPolicy {
    /// The policy.
    pub policy: Policy,
    /// The file it was read from.
    pub source: Source,
}

/// A policy file, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where the file lies: absolute, with every symbolic link followed.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl Policy {
    /// Reads a policy file, after checking that nobody but root and the caller could have
    /// written it: it, every folder above it and every symbolic link on the way belong to one of
    /// the two and are writable by nobody else.
    pub fn load(path: &Path) -> Result<LoadedPolicy, PolicyError> {
        let named = path.to_string_lossy();
        if let Some(why) = unacceptable(path.as_os_str()) {
            return Err(PolicyError::Path { path: named.into(), why });
        }
        let (mut file, resolved) = ownership::open_trusted(path, &named)?;

        let mut bytes = Vec::new();
        let too_large = || PolicyError::TooLarge { path: (&*named).into(), limit: MAX_POLICY_SIZE };
        // One byte more than allowed, so that a file that grows while it is read is noticed.
        file.by_ref().take(MAX_POLICY_SIZE + 1).read_to_end(&mut bytes).map_err(|source| {
            PolicyError::Read { path: (&*named).into(), what: "the file".into(), source }
        })?;
        if u64::try_from(bytes.len()).map_or(true, |n| n > MAX_POLICY_SIZE) {
            return Err(too_large());
        }

        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let (line, column) =
                line_and_column(std::str::from_utf8(valid).unwrap_or_default(), valid.len());
            PolicyError::Syntax {
                path: (&*named).into(),
                line,
                column,
                message: "not UTF-8 text".into(),
                hint: "a policy is a text file; save it as UTF-8".into(),
            }
        })?;
        let policy = Self::parse(text, &named)?;
        let source = Source { path: resolved, sha256: Sha256::digest(&bytes).into() };
        Ok(LoadedPolicy { policy, source })
    }
}

/// What is wrong with a path before anything is opened.
fn unacceptable(path: &OsStr) -> Option<&'static str> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        Some("the path is empty; give the policy file's path")
    } else if bytes.contains(&0) {
        Some("the path has a NUL byte in it, which no file's name can have")
    } else if bytes.len() > MAX_PATH {
        Some("the path is longer than 4095 bytes, the most the system accepts")
    } else if bytes.ends_with(b"/") {
        Some("the path ends in a slash, so it names a folder; give the policy file itself")
    } else {
        None
    }
}
