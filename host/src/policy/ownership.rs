//! Who may own a policy file: the walk from `/` down to it, one folder at a time.
//!
//! The rule. Every folder, symbolic link and file on the way belongs to root or to the caller
//! (effective uid), and no folder or file is writable by group or world. A symbolic link is
//! followed by this walk itself, never by the kernel, and its target is held to the same rule.
//! Why that is safe: whoever could change an entry must be able to write the folder that holds
//! it, and each folder was checked through the descriptor the next step starts from, so nobody
//! but root and the caller can put something else there, neither before nor during the walk.
//!
//! One exception: a folder such as `/tmp`, writable by all but with the sticky bit. There, only
//! an entry's owner, the folder's owner and root may rename or remove it, and the rule makes all
//! three root or the caller, so others cannot replace it. They can still add a hard link to an
//! *old* file of the caller's where the system permits that, so whatever is not a folder must
//! also have a link count of 1 there.
//!
//! Access control lists need no look of their own: on Linux the most that a list grants anyone
//! shows in the group bits of the mode.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

use super::text::shown;
use super::{MAX_POLICY_SIZE, PolicyError};

/// Most symbolic links on one path, as in the kernel.
const MAX_LINKS: u32 = 40;

const FOLDER: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `NONBLOCK` and `NOCTTY` because what is opened may turn out not to be a regular file.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens a regular file that nobody but root and the caller could have written, and says where
/// it really lies. `named` is what errors call it.
pub(super) fn open_trusted(path: &Path, named: &str) -> Result<(File, PathBuf), PolicyError> {
    let mut walk = Walk::start(named)?;
    if path.is_relative() {
        let cwd = std::env::current_dir().map_err(|e| walk.unreadable("the current folder", e))?;
        walk.queue(cwd.as_os_str());
    }
    walk.queue_after(path.as_os_str());
    walk.run()
}

/// A folder that was opened and found trusted.
struct Folder {
    name: OsString,
    fd: OwnedFd,
    /// Writable by all, with the sticky bit.
    shared: bool,
}

struct Walk<'a> {
    named: &'a str,
    uid: u32,
    root: Folder,
    /// The folders below the root down to where the walk is.
    stack: Vec<Folder>,
    /// Names still to be walked.
    todo: VecDeque<OsString>,
    links: u32,
}

impl<'a> Walk<'a> {
    fn start(named: &'a str) -> Result<Self, PolicyError> {
        let fd = rustix::fs::open("/", FOLDER, Mode::empty()).map_err(|e| PolicyError::Read {
            path: named.into(),
            what: "folder /".into(),
            source: e.into(),
        })?;
        let mut walk = Self {
            named,
            uid: rustix::process::geteuid().as_raw(),
            root: Folder { name: OsString::new(), fd, shared: false },
            stack: Vec::new(),
            todo: VecDeque::new(),
            links: 0,
        };
        walk.root.shared = walk.check_folder(&walk.root.fd, Path::new("/"))?;
        Ok(walk)
    }

    fn run(mut self) -> Result<(File, PathBuf), PolicyError> {
        while let Some(name) = self.todo.pop_front() {
            if name == "." {
                continue;
            }
            if name == ".." {
                // The folder above is one this walk came through, so it was checked; `..` is
                // never asked of the kernel.
                self.stack.pop();
                continue;
            }
            let at = self.here().join(&name);
            // This look only decides how to go on; what counts is checked on the descriptor.
            let seen = rustix::fs::statat(self.folder(), &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.unreadable(&at, e))?;
            match FileType::from_raw_mode(seen.st_mode) {
                FileType::Symlink => self.follow(&name, &seen, &at)?,
                FileType::Directory => {
                    let fd = rustix::fs::openat(self.folder(), &name, FOLDER, Mode::empty())
                        .map_err(|e| self.unreadable(&at, e))?;
                    let shared = self.check_folder(&fd, &at)?;
                    self.stack.push(Folder { name, fd, shared });
                }
                _ if !self.todo.is_empty() => {
                    return Err(self.unreadable(&at, Errno::NOTDIR));
                }
                FileType::RegularFile => return self.open(&name, at),
                other => return Err(self.not_a_file(other)),
            }
        }
        Err(self.not_a_file(FileType::Directory))
    }

    /// Opens the file itself: the only open of something that is not a folder.
    fn open(&self, name: &OsStr, at: PathBuf) -> Result<(File, PathBuf), PolicyError> {
        let fd = rustix::fs::openat(self.folder(), name, FILE, Mode::empty())
            .map_err(|e| self.unreadable(&at, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.unreadable(&at, e))?;
        let found = FileType::from_raw_mode(stat.st_mode);
        if found != FileType::RegularFile {
            return Err(self.not_a_file(found));
        }
        self.check_owner(&stat, "file", &at)?;
        self.check_link_count(&stat, &at)?;
        if writable_by_others(&stat) {
            return Err(self.untrusted(
                format!("file {} is writable by group or world ({})", path(&at), mode(&stat)),
                format!("chmod go-w {}", path(&at)),
            ));
        }
        if u64::try_from(stat.st_size).map_or(true, |size| size > MAX_POLICY_SIZE) {
            return Err(PolicyError::TooLarge { path: self.named.into(), limit: MAX_POLICY_SIZE });
        }
        Ok((File::from(fd), at))
    }

    /// Puts a symbolic link's target in front of what is still to be walked.
    fn follow(&mut self, name: &OsStr, stat: &Stat, at: &Path) -> Result<(), PolicyError> {
        self.check_owner(stat, "symbolic link", at)?;
        self.check_link_count(stat, at)?;
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.unreadable(at, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(self.folder(), name, Vec::new())
            .map_err(|e| self.unreadable(at, e))?;
        let target = OsString::from_vec(target.into_bytes());
        if target.as_bytes().starts_with(b"/") {
            self.stack.clear();
        }
        self.queue(&target);
        Ok(())
    }

    /// Whether a folder is acceptable, and if so, whether it is shared in the manner of `/tmp`.
    fn check_folder(&self, fd: &OwnedFd, at: &Path) -> Result<bool, PolicyError> {
        let stat = rustix::fs::fstat(fd).map_err(|e| self.unreadable(at, e))?;
        let system = rustix::fs::fstatfs(fd).map_err(|e| self.unreadable(at, e))?;
        if system.f_type == PROC_SUPER_MAGIC {
            return Err(self.untrusted(
                format!("{} belongs to a process, not to a file system", path(at)),
                "give the policy as a file of its own, not as a descriptor or a pipe".to_owned(),
            ));
        }
        self.check_owner(&stat, "folder", at)?;
        let shared = writable_by_others(&stat);
        if shared && stat.st_mode & Mode::SVTX.as_raw_mode() == 0 {
            return Err(self.untrusted(
                format!("folder {} is writable by group or world ({})", path(at), mode(&stat)),
                format!("chmod go-w {}, or keep the policy elsewhere", path(at)),
            ));
        }
        Ok(shared)
    }

    fn check_owner(&self, stat: &Stat, what: &str, at: &Path) -> Result<(), PolicyError> {
        if stat.st_uid == 0 || stat.st_uid == self.uid {
            return Ok(());
        }
        Err(self.untrusted(
            format!(
                "{what} {} belongs to uid {}, not to root or the caller (uid {})",
                path(at),
                stat.st_uid,
                self.uid
            ),
            "copy the policy to a folder of your own, read it, and use the copy".to_owned(),
        ))
    }

    fn check_link_count(&self, stat: &Stat, at: &Path) -> Result<(), PolicyError> {
        if !self.current().shared || stat.st_nlink == 1 {
            return Ok(());
        }
        Err(self.untrusted(
            format!(
                "{} has {} hard links and lies in a folder everybody may write to",
                path(at),
                stat.st_nlink
            ),
            "move the policy to a folder only you may write to".to_owned(),
        ))
    }

    /// Queues the names of `path` before everything that is queued already.
    fn queue(&mut self, path: &OsStr) {
        for name in names(path).rev() {
            self.todo.push_front(name);
        }
    }

    /// Queues the names of `path` behind everything that is queued already.
    fn queue_after(&mut self, path: &OsStr) {
        self.todo.extend(names(path));
    }

    fn current(&self) -> &Folder {
        self.stack.last().unwrap_or(&self.root)
    }

    fn folder(&self) -> impl std::os::fd::AsFd {
        self.current().fd.as_fd()
    }

    /// The absolute path of the folder the walk is in.
    fn here(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.stack.iter().map(|folder| &folder.name));
        path
    }

    fn unreadable(&self, at: impl AsRef<Path>, source: impl Into<io::Error>) -> PolicyError {
        PolicyError::Read {
            path: self.named.into(),
            what: path(at.as_ref()).into(),
            source: source.into(),
        }
    }

    fn untrusted(&self, why: String, hint: String) -> PolicyError {
        PolicyError::Untrusted { path: self.named.into(), why: why.into(), hint: hint.into() }
    }

    fn not_a_file(&self, found: FileType) -> PolicyError {
        let what = match found {
            FileType::Directory => "a folder",
            FileType::Fifo => "a pipe",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => "something else",
        };
        PolicyError::NotAFile { path: self.named.into(), what }
    }
}

/// The names in a path. A slash at the end counts as `.`, so that a file before it is refused.
fn names(path: &OsStr) -> impl DoubleEndedIterator<Item = OsString> {
    let slash_at_end = path.as_bytes().ends_with(b"/").then(|| OsString::from("."));
    path.as_bytes()
        .split(|b| *b == b'/')
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .chain(slash_at_end)
}

fn writable_by_others(stat: &Stat) -> bool {
    stat.st_mode & (Mode::WGRP | Mode::WOTH).as_raw_mode() != 0
}

fn mode(stat: &Stat) -> String {
    format!("mode {:04o}", stat.st_mode & 0o7777)
}

fn path(at: &Path) -> String {
    shown(&at.to_string_lossy())
}
