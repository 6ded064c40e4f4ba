//! Reads a policy from a file: it is opened once, checked, and read through the same descriptor,
//! and its digest is kept for the audit log.
//!
//! Nothing here may access the file by its name after it was opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use belljar_text::Escaped;
use sha2::{Digest as _, Sha256};

use super::paths::{Found, look};
use super::text::{line_and_column, quote, shown};
use super::{Policy, PolicyError, ownership};

/// Largest policy file in bytes. Real policies have one or two kilobytes; a megabyte leaves room
/// for long lists of grants and still parses in milliseconds.
pub const MAX_POLICY_SIZE: u64 = 1 << 20;

/// Longest path in bytes that Linux accepts (`PATH_MAX` without the final NUL).
const MAX_PATH: usize = 4095;

/// A policy and the file it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedPolicy {
    /// The policy.
    pub policy: Policy,
    /// The file it was read from.
    pub source: Source,
}

/// The file a policy was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The absolute path of the file, with all symbolic links resolved.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl LoadedPolicy {
    /// The path of a grant, escaped for printing and relative to the policy's folder if it is below
    /// it, so that the output does not depend on where the policy is.
    pub fn shown_path(&self, path: &Path) -> String {
        let folder = self.source.path.parent().unwrap_or(Path::new("/"));
        let own = path.strip_prefix(folder).unwrap_or(path);
        match own.as_os_str().is_empty() {
            true => ".".to_owned(),
            false => Escaped::new(&own.to_string_lossy()).to_string(),
        }
    }

    /// Records the file in the policy, until the policy is changed.
    fn with_origin(self) -> LoadedPolicy {
        let LoadedPolicy { policy, source } = self;
        LoadedPolicy { policy: policy.read_from(Some(source.sha256)), source }
    }
}

impl Policy {
    /// Reads a policy file, after checking that only root and the caller could have written it: the
    /// file, every folder above it and every symbolic link on its path belong to one of the two and
    /// are not writable by anyone else.
    ///
    /// Paths in its grants become absolute; relative ones are resolved in the folder that really
    /// contains the file. None of them may contain a symbolic link. A path that does not exist is
    /// not an error here, because it cannot be opened. Policies that it names for models are read
    /// in the same way.
    pub fn load(path: &Path) -> Result<LoadedPolicy, PolicyError> {
        let mut loaded = Self::load_alone(path)?;
        // Nothing to recurse into: the policy of a model names no models.
        for grant in &mut loaded.policy.models {
            if let Some(path) = &grant.policy {
                grant.rules = Some(Box::new(rules_of(path, &grant.sha256)?));
            }
        }
        Ok(loaded.with_origin())
    }

    /// Reads a policy file of any owner in order to show it. The result must not be enforced:
    /// neither the owner nor links in the paths of its grants were checked.
    pub fn read_for_review(path: &Path) -> Result<LoadedPolicy, PolicyError> {
        let alone = |path: &Path| -> Result<LoadedPolicy, PolicyError> {
            let (text, source) = read_untrusted(path)?;
            let mut policy = Self::parse(&text, &path.to_string_lossy())?;
            policy.resolve_in(source.path.parent().unwrap_or(Path::new("/")));
            Ok(LoadedPolicy { policy, source })
        };
        let mut loaded = alone(path)?;
        for grant in &mut loaded.policy.models {
            if let Some(path) = &grant.policy {
                grant.rules = Some(Box::new(alone(path)?.with_origin()));
            }
        }
        Ok(loaded.with_origin())
    }

    /// The text of a policy file of any owner.
    pub fn text_for_review(path: &Path) -> Result<(String, Source), PolicyError> {
        read_untrusted(path)
    }

    /// Reads a policy file, but not the policies that it names.
    fn load_alone(path: &Path) -> Result<LoadedPolicy, PolicyError> {
        let (text, source) = read_trusted(path)?;
        let named = path.to_string_lossy();
        let mut policy = Self::parse(&text, &named)?;
        policy.resolve_in(source.path.parent().unwrap_or(Path::new("/")));
        policy.check_links(&named)?;
        Ok(LoadedPolicy { policy, source })
    }
}

/// Reads a file of any owner: for display only, never to be enforced.
fn read_untrusted(path: &Path) -> Result<(String, Source), PolicyError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let named = path.to_string_lossy();
    if let Some(why) = unacceptable(path.as_os_str()) {
        return Err(PolicyError::Path { path: named.into(), why });
    }
    let unreadable =
        |source| PolicyError::Read { path: (&*named).into(), what: "the file".into(), source };
    // The path may be a pipe.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(PolicyError::NotAFile { path: named.into(), what: "not a regular file" });
    }
    let resolved = path.canonicalize().map_err(unreadable)?;
    read(file, &named, resolved)
}

/// Reads a file that only root and the caller could have written.
pub(super) fn read_trusted(path: &Path) -> Result<(String, Source), PolicyError> {
    let named = path.to_string_lossy();
    if let Some(why) = unacceptable(path.as_os_str()) {
        return Err(PolicyError::Path { path: named.into(), why });
    }
    let (file, resolved) = ownership::open_trusted(path, &named)?;
    read(file, &named, resolved)
}

fn read(mut file: File, named: &str, path: PathBuf) -> Result<(String, Source), PolicyError> {
    let mut bytes = Vec::new();
    // One byte more than allowed, to detect a file that grows while it is read.
    file.by_ref().take(MAX_POLICY_SIZE + 1).read_to_end(&mut bytes).map_err(|source| {
        PolicyError::Read { path: named.into(), what: "the file".into(), source }
    })?;
    if u64::try_from(bytes.len()).map_or(true, |n| n > MAX_POLICY_SIZE) {
        return Err(PolicyError::TooLarge { path: named.into(), limit: MAX_POLICY_SIZE });
    }
    let source = Source { path, sha256: Sha256::digest(&bytes).into() };
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let (line, column) =
            line_and_column(std::str::from_utf8(valid).unwrap_or_default(), valid.len());
        PolicyError::Syntax {
            path: named.into(),
            line,
            column,
            message: "not UTF-8 text".into(),
            hint: "a policy is a text file; save it as UTF-8".into(),
        }
    })?;
    Ok((text, source))
}

impl Policy {
    /// Refuses symbolic links in the paths of grants.
    fn check_links(&self, named: &str) -> Result<(), PolicyError> {
        let models = self.models.iter().flat_map(|grant| {
            let file = grant.path.as_deref().map(|path| ("models.path", path));
            let policy = grant.policy.as_deref().map(|path| ("models.policy", path));
            file.into_iter().chain(policy)
        });
        let files = self.filesystem.iter().map(|grant| ("filesystem.host", grant.host.as_path()));
        for (key, path) in models.chain(files) {
            let (why, hint) = match look(path) {
                Found::Straight | Found::Missing => continue,
                Found::Link(link) => (
                    format!("{} is a symbolic link", shown(&link.to_string_lossy())),
                    "write the path it leads to, as `realpath` prints it",
                ),
                Found::Unreadable(at, err) => (
                    format!("{} cannot be accessed: {err}", shown(&at.to_string_lossy())),
                    "the user who runs the policy must be able to reach every granted path",
                ),
            };
            return Err(PolicyError::Grant {
                path: named.into(),
                key,
                value: quote(&path.to_string_lossy()).into(),
                why: why.into(),
                hint: hint.into(),
            });
        }
        Ok(())
    }
}

/// Reads the policy file that a model grant names.
fn rules_of(path: &Path, sha256: &[u8; 32]) -> Result<LoadedPolicy, PolicyError> {
    let loaded = Policy::load_alone(path)?;
    let policy = &loaded.policy;
    let (why, hint) = if policy.program.is_some() {
        ("it is a policy for a program", "name a policy for a model, without a [program] table")
    } else if !policy.model.accepts(sha256) {
        (
            "it pins a different model than [[models]]",
            "make the two SHA-256 digests equal, or write only the one in [[models]]",
        )
    } else {
        return Ok(loaded.with_origin());
    };
    Err(PolicyError::Grant {
        path: path.to_string_lossy().into(),
        key: "models.policy",
        value: quote(&path.to_string_lossy()).into(),
        why: why.into(),
        hint: hint.into(),
    })
}

/// What is wrong with a path, checked before anything is opened.
fn unacceptable(path: &OsStr) -> Option<&'static str> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        Some("the path is empty; give the policy file's path")
    } else if bytes.contains(&0) {
        Some("the path contains a NUL byte")
    } else if bytes.len() > MAX_PATH {
        Some("the path is longer than 4095 bytes, the maximum that Linux accepts")
    } else if bytes.ends_with(b"/") {
        Some("the path ends in a slash, so it names a folder; give the policy file itself")
    } else {
        None
    }
}
