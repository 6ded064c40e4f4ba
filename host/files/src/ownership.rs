//! Checks who can replace the file at a path, by walking from `/` down to it, one folder at a time.
//!
//! The rule: every folder and symbolic link on the path belongs to root or to the caller (effective
//! uid), and no folder is writable by group or world. The walk itself follows symbolic links, never
//! the kernel, and applies the same rule to their targets. This is safe because changing an entry
//! requires write access to the folder that contains it, and each folder is checked through the
//! descriptor that the next step starts from. So only root and the caller can replace an entry,
//! both before and during the walk.
//!
//! One exception: a world-writable folder with the sticky bit, such as `/tmp`. There, only an
//! entry's owner, the folder's owner and root may rename or remove it, and by the rule all three
//! are root or the caller, so others cannot replace it. They can still add a hard link to an *old*
//! file of the caller where the system permits that, so anything that is not a folder must also
//! have a link count of 1 there.
//!
//! In a user namespace that does not map root, the kernel shows root's folders as those of its
//! "overflow" user, together with those of every other user outside of the namespace. If `/` itself
//! has this owner, folders (but not files or links) of that user are accepted as root's, because
//! they cannot be distinguished.
//!
//! Access control lists need no separate check: on Linux, the group bits of the mode show the most
//! that a list grants.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

/// Maximum number of symbolic links on one path, as in the kernel.
const MAX_LINKS: u32 = 40;

const FOLDER: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why something is not trusted, or could not be checked.
#[derive(Debug)]
pub enum Untrusted {
    /// The system returned an error.
    Unreadable { at: PathBuf, source: io::Error },
    /// A folder that belongs to a process.
    InProc { at: PathBuf },
    /// It belongs to another user.
    Owner { at: PathBuf, what: &'static str, owner: u32, caller: u32 },
    /// Other users may write to it.
    Writable { at: PathBuf, what: &'static str, mode: u32 },
    /// It has another hard link, which another user may have made.
    Linked { at: PathBuf, links: u64 },
}

/// The target of a path, all of whose folders are trusted.
pub struct Found {
    /// The folder that contains it.
    folder: Folder,
    /// Its name in the folder; empty for `/`.
    name: OsString,
    /// Its real path.
    pub at: PathBuf,
    /// Its type before it was opened, if it exists. This alone must not decide anything.
    pub seen: Option<FileType>,
    uid: u32,
}

/// Finds the target of a path, whose last component need not exist. Symbolic links are followed; a
/// link as the last component only with `follows_last`. A path that ends in `.` or `..` means that
/// folder, by its name in its parent.
pub fn find(path: &Path, follows_last: bool) -> Result<Found, Untrusted> {
    let mut walk = Walk::start()?;
    if path.is_relative() {
        let cwd = std::env::current_dir()
            .map_err(|source| Untrusted::Unreadable { at: "the current folder".into(), source })?;
        walk.queue(cwd.as_os_str());
    }
    walk.todo.extend(names(path.as_os_str()));
    walk.run(follows_last)
}

impl Found {
    /// Opens it, without following a link.
    pub fn open(&self, flags: OFlags) -> Result<OwnedFd, Untrusted> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.folder.fd(), self.component(), flags, Mode::empty())
            .map_err(|err| unreadable(&self.at, err))
    }

    fn component(&self) -> &OsStr {
        if self.name.is_empty() { OsStr::new(".") } else { &self.name }
    }

    /// Whether the opened file belongs to root or the caller.
    pub fn check_owner(&self, stat: &Stat, what: &'static str) -> Result<(), Untrusted> {
        check_owner(stat, what, &self.at, self.uid, None)
    }

    /// Whether the opened file has no other name that another user may have made.
    pub fn check_link_count(&self, stat: &Stat) -> Result<(), Untrusted> {
        check_link_count(stat, &self.at, self.folder.shared)
    }

    /// Whether only the owner may write to the opened file.
    pub fn check_mode(&self, stat: &Stat, what: &'static str) -> Result<(), Untrusted> {
        if writable_by_others(stat) {
            let (at, mode) = (self.at.clone(), stat.st_mode);
            return Err(Untrusted::Writable { at, what, mode });
        }
        Ok(())
    }
}

/// An opened and trusted folder.
struct Folder {
    name: OsString,
    fd: OwnedFd,
    /// World-writable, with the sticky bit.
    shared: bool,
}

impl Folder {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Walk {
    uid: u32,
    /// The owner that the kernel shows for folders outside of this user namespace, if it is
    /// accepted as root.
    outside: Option<u32>,
    /// The folders from the root down to the current one.
    stack: Vec<Folder>,
    /// Components still to be walked.
    todo: VecDeque<OsString>,
    links: u32,
}

impl Walk {
    fn start() -> Result<Walk, Untrusted> {
        let uid = rustix::process::geteuid().as_raw();
        let mut walk =
            Walk { uid, outside: None, stack: Vec::new(), todo: VecDeque::new(), links: 0 };
        let root = Path::new("/");
        let fd =
            rustix::fs::open(root, FOLDER, Mode::empty()).map_err(|err| unreadable(root, err))?;
        let stat = rustix::fs::fstat(&fd).map_err(|err| unreadable(root, err))?;
        if stat.st_uid != 0 && stat.st_uid != uid {
            walk.outside = overflow_user().filter(|user| *user == stat.st_uid);
        }
        let shared = walk.check_folder(&fd, root)?;
        walk.stack.push(Folder { name: OsString::new(), fd, shared });
        Ok(walk)
    }

    fn run(mut self, follows_last: bool) -> Result<Found, Untrusted> {
        while let Some(name) = self.todo.pop_front() {
            if name == "." {
                continue;
            }
            if name == ".." {
                // The walk came through the parent folder, so it was checked; `..` is never passed
                // to the kernel.
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                continue;
            }
            let at = self.here().join(&name);
            let last = self.todo.is_empty();
            // This only decides how to continue; the checks are made on the descriptor.
            let seen = rustix::fs::statat(self.folder(), &name, AtFlags::SYMLINK_NOFOLLOW);
            match seen {
                Err(Errno::NOENT) if last => return self.found(name, at, None),
                Err(err) => return Err(unreadable(&at, err)),
                Ok(seen) => match FileType::from_raw_mode(seen.st_mode) {
                    FileType::Symlink if !last || follows_last => self.follow(&name, &seen, &at)?,
                    FileType::Directory if !last => {
                        let fd = rustix::fs::openat(self.folder(), &name, FOLDER, Mode::empty())
                            .map_err(|err| unreadable(&at, err))?;
                        let shared = self.check_folder(&fd, &at)?;
                        self.stack.push(Folder { name, fd, shared });
                    }
                    _ if !last => return Err(unreadable(&at, Errno::NOTDIR)),
                    kind => return self.found(name, at, Some(kind)),
                },
            }
        }
        // The path leads to the current folder.
        let at = self.here();
        let name = match self.stack.len() {
            1 => OsString::new(),
            _ => self.stack.pop().map(|folder| folder.name).unwrap_or_default(),
        };
        self.found(name, at, Some(FileType::Directory))
    }

    fn found(
        mut self,
        name: OsString,
        at: PathBuf,
        seen: Option<FileType>,
    ) -> Result<Found, Untrusted> {
        let uid = self.uid;
        match self.stack.pop() {
            Some(folder) => Ok(Found { folder, name, at, seen, uid }),
            // The root is always on the stack.
            None => Err(unreadable(&at, Errno::NOENT)),
        }
    }

    /// Puts a symbolic link's target in front of the remaining components.
    fn follow(&mut self, name: &OsStr, stat: &Stat, at: &Path) -> Result<(), Untrusted> {
        check_owner(stat, "symbolic link", at, self.uid, None)?;
        let shared = self.stack.last().is_some_and(|folder| folder.shared);
        check_link_count(stat, at, shared)?;
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(unreadable(at, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(self.folder(), name, Vec::new())
            .map_err(|err| unreadable(at, err))?;
        let target = OsString::from_vec(target.into_bytes());
        if target.as_bytes().starts_with(b"/") {
            self.stack.truncate(1);
        }
        self.queue(&target);
        Ok(())
    }

    /// Checks a folder; `true` if it is shared like `/tmp`.
    fn check_folder(&self, fd: &OwnedFd, at: &Path) -> Result<bool, Untrusted> {
        let stat = rustix::fs::fstat(fd).map_err(|err| unreadable(at, err))?;
        let system = rustix::fs::fstatfs(fd).map_err(|err| unreadable(at, err))?;
        if system.f_type == PROC_SUPER_MAGIC {
            return Err(Untrusted::InProc { at: at.to_owned() });
        }
        check_owner(&stat, "folder", at, self.uid, self.outside)?;
        let shared = writable_by_others(&stat);
        if shared && stat.st_mode & Mode::SVTX.as_raw_mode() == 0 {
            let (at, mode) = (at.to_owned(), stat.st_mode);
            return Err(Untrusted::Writable { at, what: "folder", mode });
        }
        Ok(shared)
    }

    /// Queues the components of `path` before all others.
    fn queue(&mut self, path: &OsStr) {
        for name in names(path).rev() {
            self.todo.push_front(name);
        }
    }

    fn folder(&self) -> BorrowedFd<'_> {
        // The root is never removed.
        self.stack.last().map_or(rustix::fs::CWD, Folder::fd)
    }

    /// The absolute path of the current folder.
    fn here(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.stack.iter().skip(1).map(|folder| &folder.name));
        path
    }
}

fn check_owner(
    stat: &Stat,
    what: &'static str,
    at: &Path,
    caller: u32,
    outside: Option<u32>,
) -> Result<(), Untrusted> {
    let owner = stat.st_uid;
    if owner == 0 || owner == caller || Some(owner) == outside {
        return Ok(());
    }
    Err(Untrusted::Owner { at: at.to_owned(), what, owner, caller })
}

#[allow(clippy::useless_conversion, reason = "the count is narrower on some architectures")]
fn check_link_count(stat: &Stat, at: &Path, shared: bool) -> Result<(), Untrusted> {
    if !shared || stat.st_nlink == 1 {
        return Ok(());
    }
    Err(Untrusted::Linked { at: at.to_owned(), links: stat.st_nlink.into() })
}

/// The user that the kernel shows for all users outside of this user namespace; `None` if it is
/// also mapped to a user inside.
fn overflow_user() -> Option<u32> {
    let user = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    let user: u32 = user.trim().parse().ok()?;
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let is_inside = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(u64::from(user) >= first && u64::from(user) - first < count)
    };
    // An unreadable map is treated as if it contained the user.
    let inside = map.lines().any(|line| is_inside(line) != Some(false));
    (!inside && !map.trim().is_empty()).then_some(user)
}

/// The components of a path. A trailing slash counts as `.`, so that a file before it is refused.
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

fn unreadable(at: &Path, source: Errno) -> Untrusted {
    Untrusted::Unreadable { at: at.to_owned(), source: source.into() }
}
