//! Why a private folder or file could not be used, and how to fix it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use belljar_files::ownership::Untrusted;
use belljar_text::Escaped;

/// Why a private folder or file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// It is open to others.
    #[error(
        "{path} must belong to you and be closed to others ({why}); `chmod -R go-rwx` it, or name \
         another folder with {variable}"
    )]
    NotPrivate {
        /// The folder or file.
        path: PathBuf,
        /// The reason.
        why: &'static str,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// Another user could change a folder or link above it, and so replace the folder.
    #[error("{path}: {why}; {remedy}, or name another folder with {variable}")]
    Replaceable {
        /// The private folder.
        path: PathBuf,
        /// The folder above it, and the reason.
        why: String,
        /// How to fix the folder above it.
        remedy: String,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// There is no folder, because no environment variable names one.
    #[error("no folder to store files in: neither {variable} nor HOME is set; set one of them")]
    Nowhere {
        /// The environment variable that names the folder.
        variable: &'static str,
    },
    /// A system call failed.
    #[error("{path}: {source}; {}", remedy(.source, .variable))]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
}

/// How to fix an error of the system.
fn remedy(source: &io::Error, variable: &str) -> String {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => format!(
            "raise the limit on open files (`ulimit -n`{}); 64 are enough for one model",
            match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
                Some(limit) => format!(" is {limit}"),
                None => String::new(),
            }
        ),
        Some(Errno::NFILE) => "the machine has too many open files; raise fs.file-max".into(),
        Some(Errno::NOMEM) => "give the process more memory (`ulimit -v`, `ulimit -d`)".into(),
        Some(Errno::NOSPC | Errno::DQUOT) => {
            format!("free space there, or name another folder with {variable}")
        }
        _ => format!("name a folder you can write to with {variable}"),
    }
}

impl PrivateError {
    /// Whether another user could have placed files there. This is always an error, even if the
    /// folder is not essential.
    pub(crate) fn is_open_to_others(&self) -> bool {
        match self {
            PrivateError::NotPrivate { .. } | PrivateError::Replaceable { .. } => true,
            PrivateError::Nowhere { .. } | PrivateError::Io { .. } => false,
        }
    }

    /// Whether the error persists until the user changes something, unlike a temporary shortage of
    /// descriptors or memory.
    pub(crate) fn is_lasting(&self) -> bool {
        const TEMPORARY: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match self {
            PrivateError::Io { source, .. } => {
                TEMPORARY.iter().all(|errno| source.raw_os_error() != Some(errno.raw_os_error()))
            }
            _ => true,
        }
    }
}

/// The error for an untrusted path to a private folder.
pub(super) fn refused(path: &Path, variable: &'static str, untrusted: Untrusted) -> PrivateError {
    let shown = |at: &Path| Escaped::new(&at.to_string_lossy()).to_string();
    let (why, remedy) = match untrusted {
        Untrusted::Unreadable { at, source } => {
            return PrivateError::Io { path: at, source, variable };
        }
        Untrusted::InProc { at } => (
            format!("{} belongs to a process, not to a file system", shown(&at)),
            "do not keep files there".to_owned(),
        ),
        Untrusted::Owner { at, what, owner, caller } => (
            format!(
                "the {what} {} belongs to uid {owner}, not to root or to you (uid {caller}), so \
                 another user could replace what is below it",
                shown(&at)
            ),
            "let root or you own it".to_owned(),
        ),
        Untrusted::Writable { at, what, mode } => (
            format!(
                "the {what} {} is writable by group or world (mode {:04o}), so another user could \
                 replace what is below it",
                shown(&at),
                mode & 0o7777
            ),
            format!("`chmod go-w {}`", shown(&at)),
        ),
        Untrusted::Linked { at, links } => (
            format!("{} has {links} hard links and is in a world-writable folder", shown(&at)),
            "remove the other links".to_owned(),
        ),
    };
    PrivateError::Replaceable { path: path.to_owned(), why, remedy, variable }
}
