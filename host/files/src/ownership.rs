//! Who can replace what lies at a path: the walk from `/` down to it, one folder at a time.
//!
//! The rule. Every folder and symbolic link on the way belongs to root or to the caller (effective
//! uid), and no folder is writable by group or world. A symbolic link is followed by this walk
//! itself, never by the kernel, and its target is held to the same rule. Why that is safe: to change
//! an entry one must be able to write the folder that holds it, and each folder was checked through
//! the descriptor that the next step starts from, so nobody but root and the caller can put
//! something else there, neither before nor during the walk.
//!
//! One exception: a folder such as `/tmp`, writable by all but with the sticky bit. There, only an
//! entry's owner, the folder's owner and root may rename or remove it, and the rule makes all three
//! root or the caller, so others cannot replace it. They can still add a hard link to an *old* file
//! of the caller's where the system permits that, so whatever is not a folder must also have a link
//! count of 1 there.
//!
//! In a user namespace that does not map root, the kernel shows root's folders as those of its
//! "overflow" user, and those of every other user outside of the namespace too. There, if `/` itself
//! is shown so, folders (not files, and not links) of that user are taken for root's: nothing tells
//! them apart.
//!
//! Access control lists need no look of their own: on Linux the most that a list grants anyone shows
//! in the group bits of the mode.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

/// Most symbolic links on one path, as in the kernel.
const MAX_LINKS: u32 = 40;

const FOLDER: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why something is not trusted, or could not be looked at.
#[derive(Debug)]
pub enum Untrusted {
    /// The system said no.
    Unreadable { at: PathBuf, source: io::Error },
    /// A folder that belongs to a process.
    InProc { at: PathBuf },
    /// It belongs to somebody else.
    Owner { at: PathBuf, what: &'static str, owner: u32, caller: u32 },
    /// Others may write to it.
    Writable { at: PathBuf, what: &'static str, mode: u32 },
    /// It has another name too, which somebody else may have made.
    Linked { at: PathBuf, links: u64 },
}

/// What a path leads to, when all folders above it are trusted.
pub struct Found {
    /// The folder that it is in.
    folder: Folder,
    /// Its name there; empty for `/`.
    name: OsString,
    /// Where it really lies.
    pub at: PathBuf,
    /// What it seemed to be before it was opened, if it is there. Nothing is decided by this alone.
    pub seen: Option<FileType>,
    uid: u32,
}

/// Finds what a path leads to, whose last part need not exist. Symbolic links are followed; one that
/// is the last part only if `follows_last` says so. A path that ends in `.` or `..` is that folder,
/// by its name in the one above.
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
        rustix::fs::openat(self.folder.fd(), self.place(), flags, Mode::empty())
            .map_err(|err| unreadable(&self.at, err))
    }

    fn place(&self) -> &OsStr {
        if self.name.is_empty() { OsStr::new(".") } else { &self.name }
    }

    /// Whether what was opened belongs to root or the caller.
    pub fn check_owner(&self, stat: &Stat, what: &'static str) -> Result<(), Untrusted> {
        check_owner(stat, what, &self.at, self.uid, None)
    }

    /// Whether what was opened has no other name that somebody else may have made.
    pub fn check_link_count(&self, stat: &Stat) -> Result<(), Untrusted> {
        check_link_count(stat, &self.at, self.folder.shared)
    }

    /// Whether nobody but its owner may write to what was opened.
    pub fn check_mode(&self, stat: &Stat, what: &'static str) -> Result<(), Untrusted> {
        if writable_by_others(stat) {
            let (at, mode) = (self.at.clone(), stat.st_mode);
            return Err(Untrusted::Writable { at, what, mode });
        }
        Ok(())
    }
}

/// A folder that was opened and found trusted.
struct Folder {
    name: OsString,
    fd: OwnedFd,
    /// Writable by all, with the sticky bit.
    shared: bool,
}

impl Folder {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

struct Walk {
    uid: u32,
    /// The user that folders outside of this user namespace seem to belong to, if that is to be
    /// taken for root.
    outside: Option<u32>,
    /// The folders from the root down to where the walk is.
    stack: Vec<Folder>,
    /// Names still to be walked.
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
                // The folder above is one this walk came through, so it was checked; `..` is
                // never asked of the kernel.
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                continue;
            }
            let at = self.here().join(&name);
            let last = self.todo.is_empty();
            // This look only decides how to go on; what counts is checked on the descriptor.
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
        // It is the folder that the walk has come to.
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
            // The root is always there.
            None => Err(unreadable(&at, Errno::NOENT)),
        }
    }

    /// Puts a symbolic link's target in front of what is still to be walked.
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

    /// Whether a folder is acceptable, and if so, whether it is shared in the manner of `/tmp`.
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

    /// Queues the names of `path` before everything that is queued already.
    fn queue(&mut self, path: &OsStr) {
        for name in names(path).rev() {
            self.todo.push_front(name);
        }
    }

    fn folder(&self) -> BorrowedFd<'_> {
        // The root is never taken off.
        self.stack.last().map_or(rustix::fs::CWD, Folder::fd)
    }

    /// The absolute path of the folder the walk is in.
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

/// The user that everybody outside of this user namespace seems to be; `None` if it stands for
/// somebody in here.
fn overflow_user() -> Option<u32> {
    let user = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    let user: u32 = user.trim().parse().ok()?;
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let is_inside = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(u64::from(user) >= first && u64::from(user) - first < count)
    };
    // A map that cannot be read hides nobody.
    let inside = map.lines().any(|line| is_inside(line) != Some(false));
    (!inside && !map.trim().is_empty()).then_some(user)
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

fn unreadable(at: &Path, source: Errno) -> Untrusted {
    Untrusted::Unreadable { at: at.to_owned(), source: source.into() }
}
