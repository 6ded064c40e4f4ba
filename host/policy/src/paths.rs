//! Checks paths in grants: their form, and that they contain no symbolic link.
//!
//! A link lets a user who may write to some folder choose what another user's grant means, and `..`
//! means different things to the kernel and to a reader of the policy. So both are refused; only
//! the links in the path of a policy file itself are followed and checked (`source`).

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::text::is_invisible;

/// Longest path in bytes: what Linux accepts, with the closing NUL.
const MAX_PATH: usize = 4095;

/// Only to test whether a path can be reached. Without `NOFOLLOW`: together with `PATH` it would
/// make `openat2` open a link as the last component, whatever its resolve flags are.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Normalises a path on the host. `Err` is what is wrong with it.
pub(super) fn host_path(text: &str) -> Result<PathBuf, &'static str> {
    check_text(text)?;
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::ParentDir => return Err(PARENT),
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => {
                path.push(component);
            }
        }
    }
    // `.`, `./` and similar: the policy's own folder.
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// Checks the path at which a program sees something: absolute and already normalised, because the
/// program's code uses exactly this path.
pub(super) fn check_guest_path(text: &str) -> Result<(), &'static str> {
    check_text(text)?;
    let Some(below) = text.strip_prefix('/') else {
        return Err("not absolute; begin it with a slash");
    };
    if below.is_empty() {
        return Ok(());
    }
    for name in below.split('/') {
        match name {
            "" => {
                return Err("contains an extra slash; write one between names and none at the end");
            }
            "." => return Err("contains `.`; leave it out"),
            ".." => return Err(PARENT),
            _ => {}
        }
    }
    Ok(())
}

const PARENT: &str = "contains `..`; write the path without it";

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("empty")
    } else if text.contains('\0') {
        Err("contains a NUL byte")
    } else if text.chars().any(is_invisible) {
        Err("contains an invisible character")
    } else if text.len() > MAX_PATH {
        Err("longer than 4095 bytes, the maximum that Linux accepts")
    } else {
        Ok(())
    }
}

/// Whether two normalised guest paths are equal, or one is inside the other.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    // Compares whole components: `/data` and `/database` do not overlap.
    Path::new(a).starts_with(b) || Path::new(b).starts_with(a)
}

/// What an absolute path leads to.
#[derive(Debug)]
pub(super) enum Found {
    /// Something, without a symbolic link on the path.
    Straight,
    /// This component is a symbolic link.
    Link(PathBuf),
    /// Nothing.
    Missing,
    /// This component cannot be accessed.
    Unreadable(PathBuf, io::Error),
}

/// Looks for symbolic links in all components of an absolute path.
pub(super) fn look(path: &Path) -> Found {
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, LOOK, Mode::empty(), how) {
        Ok(_) => Found::Straight,
        // The walk finds the component and the cause; it also works with kernels and seccomp
        // filters that do not support this call.
        Err(_) => walk(path),
    }
}

/// Opens one component at a time, each relative to the folder before it.
fn walk(path: &Path) -> Found {
    let mut at = PathBuf::from("/");
    let mut folder = match rustix::fs::open("/", LOOK, Mode::empty()) {
        Ok(folder) => folder,
        Err(err) => return Found::Unreadable(at, err.into()),
    };
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    for name in names {
        at.push(name);
        match rustix::fs::openat(&folder, name, LOOK | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(next) => folder = next,
            Err(Errno::NOENT) => return Found::Missing,
            Err(err) => return Found::Unreadable(at, err.into()),
        }
        match rustix::fs::fstat(&folder) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                return Found::Link(at);
            }
            Ok(_) => {}
            Err(err) => return Found::Unreadable(at, err.into()),
        }
    }
    Found::Straight
}
