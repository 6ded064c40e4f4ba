//! The scratch folder of a recorded run: an empty folder that the program sees at `/`, and copies
//! of the folders that it may write to. Other users must not be able to enter it. It is removed
//! after the recording, also if a signal ends it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use belljar_confine::stop_signals::StopSignals;
use rustix::fs::{
    Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, openat2,
};

/// Maximum number of copied files and folders, their maximum total size, and the maximum depth.
const MAX_COPIED: u32 = 10_000;
const MAX_BYTES: u64 = 256 << 20;
const MAX_DEPTH: u32 = 32;

/// The existing scratch folders.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// After this call, SIGINT, SIGTERM, SIGHUP and SIGQUIT first remove the scratch folders, and then
/// end this process. Must be called before any other thread is started.
pub(super) fn clean_up_on_signals() -> io::Result<()> {
    let signals = StopSignals::hold_back()?;
    let waiting = std::thread::Builder::new().name("belljar-signals".into()).spawn(move || {
        let Ok(signal) = signals.wait() else { return signals.let_through() };
        // Held until the process ends, so that no other thread creates another folder.
        let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        folders.iter().for_each(|folder| remove(folder));
        signals.end_by(signal)
    });
    waiting.map(drop)
}

/// Removes a folder, with retries because a program may still be writing to it.
fn remove(folder: &Path) {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match fs::remove_dir_all(folder) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

pub(super) struct Scratch {
    path: PathBuf,
    copies: u32,
    /// An unlocked folder is a leftover, so this lock is held while the folder is in use.
    _lock: OwnedFd,
}

/// The prefix of the names of these folders, which is followed by a random number.
const PREFIX: &str = "belljar-record-";

/// Removes folders of recordings that were ended by SIGKILL.
fn remove_leftovers(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    let is_ours = |name: &OsStr| {
        let number = name.as_bytes().strip_prefix(PREFIX.as_bytes());
        number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
    };
    for entry in entries.flatten().filter(|entry| is_ours(&entry.file_name())) {
        let path = entry.path();
        let Ok(folder) = open(rustix::fs::CWD, &path, FOLDER, ResolveFlags::empty()) else {
            continue;
        };
        let user = rustix::process::geteuid().as_raw();
        let own = fstat(&folder).is_ok_and(|stat| stat.st_uid == user);
        if own && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path);
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

impl Scratch {
    pub(super) fn new() -> io::Result<Scratch> {
        const MAX_ATTEMPTS: usize = 100;
        let place = std::env::temp_dir().canonicalize()?;
        remove_leftovers(&place);
        for _ in 0..MAX_ATTEMPTS {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
            let path = place.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
            let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
            // Fails if the path exists.
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            folders.push(path.clone());
            drop(folders);
            // Another recording may remove it as a leftover before it is locked.
            let lock = open(rustix::fs::CWD, &path, FOLDER, ResolveFlags::empty());
            let locked = lock.and_then(|lock| {
                // Without support for locks this fails, and then leftovers are not removed either.
                let _ = flock(&lock, FlockOperation::LockExclusive);
                match fs::symlink_metadata(&path) {
                    Ok(_) => Ok(lock),
                    Err(err) => Err(err),
                }
            });
            match locked {
                Ok(lock) => {
                    let scratch = Scratch { path, copies: 0, _lock: lock };
                    scratch.open_folder(&scratch.root())?;
                    return Ok(scratch);
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => forget(&path),
                Err(err) => {
                    remove(&path);
                    forget(&path);
                    return Err(err);
                }
            }
        }
        Err(io::Error::other("each scratch folder was removed by another process"))
    }

    /// The folder that the program sees at `/`.
    pub(super) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// Creates a folder below the root, given by the path that the program sees.
    pub(super) fn folder(&self, guest: &str) -> io::Result<()> {
        let mut path = self.root();
        for part in Path::new(guest).components() {
            match part {
                Component::RootDir => continue,
                Component::Normal(name) => path.push(name),
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
            if !path.is_dir() {
                self.open_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Copies a file, or a folder with the files and folders in it. Files with several hard links
    /// are omitted.
    pub(super) fn copy(&mut self, from: &Path) -> io::Result<PathBuf> {
        let to = self.path.join(format!("copy{}", self.copies));
        self.copies += 1;
        let found = open(rustix::fs::CWD, from, OFlags::PATH, ResolveFlags::NO_SYMLINKS)?;
        let mut left = Left { entries: MAX_COPIED, bytes: MAX_BYTES };
        match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::Directory => self.copy_folder(found, &to, &mut left, MAX_DEPTH)?,
            _ => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = open(rustix::fs::CWD, from, flags, ResolveFlags::NO_SYMLINKS)?;
                copy_file(file, &to, &mut left)?;
            }
        }
        Ok(to)
    }

    fn copy_folder(
        &self,
        from: OwnedFd,
        to: &Path,
        left: &mut Left,
        deeper: u32,
    ) -> io::Result<()> {
        self.open_folder(to)?;
        let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let listed = open(from.as_fd(), Path::new("."), OFlags::RDONLY, below)?;
        for entry in Dir::read_from(&listed)? {
            let entry = entry?;
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            left.entries = left.entries.checked_sub(1).ok_or_else(too_much)?;
            // The program could not have opened it either: a link, or a file of another file
            // system.
            let Ok(found) = open(from.as_fd(), name, OFlags::PATH, below) else { continue };
            let stat = fstat(&found)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => match deeper.checked_sub(1) {
                    Some(deeper) => self.copy_folder(found, &to.join(name), left, deeper)?,
                    None => return Err(too_much()),
                },
                FileType::RegularFile if stat.st_nlink == 1 => {
                    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                    let Ok(file) = open(from.as_fd(), name, flags, below) else { continue };
                    copy_file(file, &to.join(name), left)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Creates a folder that any user may write to, because the worker may run as another user.
    /// Other users cannot reach it, because the scratch folder above it is private.
    fn open_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        // If this fails, the next recording removes it.
        let _ = fs::remove_dir_all(&self.path);
        folders.retain(|folder| *folder != self.path);
    }
}

/// Removes a deleted folder from the list.
fn forget(path: &Path) {
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    folders.retain(|folder| folder != path);
}

/// How much may still be copied.
struct Left {
    entries: u32,
    bytes: u64,
}

fn copy_file(from: OwnedFd, to: &Path, left: &mut Left) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(&from)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("neither a file nor a folder"));
    }
    let mut file = fs::File::options().write(true).create_new(true).open(to)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))?;
    let copied = io::copy(&mut fs::File::from(from).take(left.bytes + 1), &mut file)?;
    left.bytes = left.bytes.checked_sub(copied).ok_or_else(too_much)?;
    Ok(())
}

fn too_much() -> io::Error {
    let most = belljar_policy::units::format_size(MAX_BYTES);
    io::Error::other(format!(
        "more than {most}, {MAX_COPIED} files or {MAX_DEPTH} levels of folders: too large to copy"
    ))
}

fn open(
    base: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    way: ResolveFlags,
) -> io::Result<OwnedFd> {
    let way = way | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), way)?)
}

/// Whether a path below a grant is a file, without opening it. `None` if it does not exist, or
/// contains a link.
pub(super) fn is_file(granted: &Path, below: &str) -> Option<bool> {
    let base = open(rustix::fs::CWD, granted, OFlags::PATH, ResolveFlags::NO_SYMLINKS).ok()?;
    let found = match below {
        "" => base,
        below => {
            let way = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            open(base.as_fd(), Path::new(below), OFlags::PATH, way).ok()?
        }
    };
    Some(FileType::from_raw_mode(fstat(&found).ok()?.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_and_folders_are_copied_and_drop_removes_everything() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().canonicalize().unwrap();
        fs::create_dir_all(from.join("data/sub")).unwrap();
        fs::write(from.join("data/sub/file"), "kept").unwrap();
        fs::write(from.join("secret"), "secret").unwrap();
        fs::hard_link(from.join("secret"), from.join("data/other-name")).unwrap();
        symlink("../secret", from.join("data/link")).unwrap();
        symlink("..", from.join("data/up")).unwrap();
        symlink("data", from.join("way")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, from.join("data/pipe"), Mode::from(0o600)).unwrap();
        let mut scratch = Scratch::new().unwrap();
        let kept = scratch.path.clone();
        let copy = scratch.copy(&from.join("data")).unwrap();
        assert_eq!(fs::read_to_string(copy.join("sub/file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 1);
        let file = scratch.copy(&from.join("data/sub/file")).unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "kept");
        for not in ["way", "data/link", "data/pipe", "nothing", "way/sub"] {
            assert!(scratch.copy(&from.join(not)).is_err(), "{not}");
        }
        scratch.folder("/out/a").unwrap();
        scratch.folder("/out/a").unwrap();
        assert!(scratch.root().join("out/a").is_dir());
        assert!(scratch.folder("/out/../..").is_err());
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(is_file(&from, "data/sub/file"), Some(true));
        assert_eq!(is_file(&from.join("secret"), ""), Some(true));
        assert_eq!(is_file(&from, "data"), Some(false));
        for not in ["data/link", "data/up/secret", "../x", "nothing", "way/sub/file"] {
            assert_eq!(is_file(&from, not), None, "{not}");
        }
        // While it is there, another recording leaves it alone.
        drop(Scratch::new().unwrap());
        assert!(kept.exists());
        drop(scratch);
        assert!(!kept.exists());
    }
}
