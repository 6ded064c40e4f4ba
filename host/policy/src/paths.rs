//! Paths in grants: what they may look like, and that no symbolic link is on the way.
//!
//! A link is a way for whoever may write to some folder to choose what another one's grant means, and
//! `..` does not mean the same to the kernel and to a reader of the policy. Neither is followed here
//! and judged, as with policy files themselves: both are refused.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::text::is_invisible;

/// Longest path in bytes: what Linux accepts, with the closing NUL.
const MAX_PATH: usize = 4095;

/// Opened to look whether it can be reached, and for nothing else. Without `NOFOLLOW`: together with
/// `PATH` it would have `openat2` open a link that is the last name, whatever it was told to resolve.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A path on the host in the one form in which it is compared. `Err` says what is wrong with it.
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
    // `.`, `./` and the like: the folder of the policy itself.
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// Checks the path under which a program sees something: absolute and normalised already, as this is
/// what the program's code has to say.
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
            "" => return Err("a slash too many; write one between names and none at the end"),
            "." => return Err("`.` in it; leave it out"),
            ".." => return Err(PARENT),
            _ => {}
        }
    }
    Ok(())
}

const PARENT: &str = "`..` in it, which leads out of what a reader of the policy sees; write where \
                      it leads";

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("empty")
    } else if text.contains('\0') {
        Err("a NUL in it, which no path can have")
    } else if text.chars().any(is_invisible) {
        Err("a character in it that cannot be seen")
    } else if text.len() > MAX_PATH {
        Err("longer than 4095 bytes, the most the system accepts")
    } else {
        Ok(())
    }
}

/// Whether one of two normalised guest paths is the other, or lies in it.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    // By whole names: `/data` and `/database` are neighbours.
    Path::new(a).starts_with(b) || Path::new(b).starts_with(a)
}

/// What is at an absolute path.
#[derive(Debug)]
pub(super) enum Found {
    /// Something that no symbolic link leads to.
    Straight,
    /// A symbolic link: this one.
    Link(PathBuf),
    /// Nothing.
    Missing,
    /// It cannot be looked at.
    Unreadable(PathBuf, io::Error),
}

/// Looks for symbolic links on the way to an absolute path, its last name included.
pub(super) fn look(path: &Path) -> Found {
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, LOOK, Mode::empty(), how) {
        Ok(_) => Found::Straight,
        // What is wrong, and with which name, a walk finds out; it also serves old kernels and
        // filters that do not know this call.
        Err(_) => walk(path),
    }
}

/// One name at a time, each looked up in the folder that was found to be one.
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
