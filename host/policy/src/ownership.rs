//! Opens a policy file that only root and the caller can have written. The rule of
//! [`belljar_files::ownership`] for the folders above it applies to the file too.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};

use super::text::shown;
use super::{MAX_POLICY_SIZE, PolicyError};
use belljar_files::ownership::{Untrusted, find};

/// `NONBLOCK` and `NOCTTY` because the path may not be a regular file.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens a regular file that only root and the caller could have written, and returns its real
/// path. `named` is the path that errors show.
pub(super) fn open_trusted(path: &Path, named: &str) -> Result<(File, PathBuf), PolicyError> {
    let refused = |untrusted| error(untrusted, named);
    let found = find(path, true).map_err(refused)?;
    let not_a_file = |found| Err(PolicyError::NotAFile { path: named.into(), what: kind(found) });
    // Checked before opening, because opening a device or a socket may have side effects.
    if let Some(seen) = found.seen.filter(|seen| *seen != FileType::RegularFile) {
        return not_a_file(seen);
    }
    let fd = found.open(FILE).map_err(refused)?;
    let stat = rustix::fs::fstat(&fd).map_err(|err| PolicyError::Read {
        path: named.into(),
        what: shown_path(&found.at).into(),
        source: err.into(),
    })?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        other => return not_a_file(other),
    }
    found.check_owner(&stat, "file").map_err(refused)?;
    found.check_link_count(&stat).map_err(refused)?;
    found.check_mode(&stat, "file").map_err(refused)?;
    if u64::try_from(stat.st_size).map_or(true, |size| size > MAX_POLICY_SIZE) {
        return Err(PolicyError::TooLarge { path: named.into(), limit: MAX_POLICY_SIZE });
    }
    Ok((File::from(fd), found.at))
}

fn kind(found: FileType) -> &'static str {
    match found {
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

fn error(untrusted: Untrusted, named: &str) -> PolicyError {
    let path = || named.into();
    let (why, hint) = match untrusted {
        Untrusted::Unreadable { at, source } => {
            return PolicyError::Read { path: path(), what: shown_path(&at).into(), source };
        }
        Untrusted::InProc { at } => (
            format!("{} belongs to a process, not to a file system", shown_path(&at)),
            "write the policy to a regular file; descriptors and pipes are not accepted".to_owned(),
        ),
        Untrusted::Owner { at, what, owner, caller } => (
            format!(
                "{what} {} belongs to uid {owner}, not to root or the caller (uid {caller})",
                shown_path(&at)
            ),
            "copy the policy to a folder of your own, read it, and use the copy".to_owned(),
        ),
        Untrusted::Writable { at, what, mode } => {
            let at = shown_path(&at);
            let elsewhere = if what == "folder" { ", or keep the policy elsewhere" } else { "" };
            (
                format!("{what} {at} is writable by group or world (mode {:04o})", mode & 0o7777),
                format!("chmod go-w {at}{elsewhere}"),
            )
        }
        Untrusted::Linked { at, links } => (
            format!("{} has {links} hard links and is in a world-writable folder", shown_path(&at)),
            "move the policy to a folder that only you can write to".to_owned(),
        ),
    };
    PolicyError::Untrusted { path: path(), why: why.into(), hint: hint.into() }
}

fn shown_path(at: &Path) -> String {
    shown(&at.to_string_lossy())
}
