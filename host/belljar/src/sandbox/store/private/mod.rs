//! Private folders and files of the calling user.
//!
//! The location of a file does not prove its content. In addition, a folder or file that is open to
//! others must not be read, nor a folder that others could move away and replace: the folders above
//! it must satisfy the ownership rule for policies ([`belljar_files::ownership`]). Files are written
//! completely or not at all.

mod error;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use belljar_confine::file_size;
use belljar_files::ownership::{Untrusted, find};

pub use error::PrivateError;
use error::refused;

/// Size of a small file, in bytes.
const SMALL: u64 = 64 << 10;

/// A folder that belongs to the caller and is closed to others.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
    folder: Dir,
    variable: &'static str,
}

impl PrivateFolder {
    /// Opens a folder, and creates it if it is missing. `variable` is the environment variable that
    /// moves it.
    pub(crate) fn open(path: &Path, variable: &'static str) -> Result<Self, PrivateError> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(folder) = PrivateFolder::open_existing(path, variable)? {
            return Ok(folder);
        }
        let failed = |source| PrivateError::Io { path: path.to_owned(), source, variable };
        // `open_existing` has just checked the existing folders, and new ones belong to the caller.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let folder = PrivateFolder::open_existing(path, variable)?;
        folder.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Opens a folder; `None` if it does not exist.
    pub(crate) fn open_existing(
        path: &Path,
        variable: &'static str,
    ) -> Result<Option<Self>, PrivateError> {
        let missing = |untrusted: &Untrusted| match untrusted {
            Untrusted::Unreadable { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        let found = match find(path, false) {
            Err(untrusted) if missing(&untrusted) => return Ok(None),
            found => found.map_err(|untrusted| refused(path, variable, untrusted))?,
        };
        if found.seen == Some(FileType::Symlink) {
            let path = path.to_owned();
            return Err(PrivateError::NotPrivate { path, why: "it is a symlink", variable });
        }
        let fd = match found.open(OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(untrusted) if missing(&untrusted) => return Ok(None),
            opened => opened.map_err(|untrusted| refused(path, variable, untrusted))?,
        };
        let (path, folder) = (path.to_owned(), Dir::from_std_file(fd.into()));
        let folder = PrivateFolder { path, folder, variable };
        folder.check(&folder.folder, &folder.path, true)?;
        Ok(Some(folder))
    }

    /// Locks the folder until it is dropped. Gives up after a second, in case the holder of the
    /// lock is stopped.
    pub(crate) fn lock_for_a_moment(&self) {
        self.lock(Duration::from_secs(1), || {});
    }

    /// Locks the folder until it is dropped or this process ends. Calls `waits` once if another
    /// process holds the lock. Gives up after `longest`, or if the file system does not support
    /// locks: the work that the lock guards may then be done twice.
    pub(crate) fn lock(&self, longest: Duration, waits: impl FnOnce()) {
        const PAUSE: Duration = Duration::from_millis(5);
        let start = Instant::now();
        let mut waits = Some(waits);
        loop {
            match rustix::fs::flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if start.elapsed() < longest => {
                    if let Some(waits) = waits.take() {
                        waits();
                    }
                    std::thread::sleep(PAUSE);
                }
                _ => return,
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a private regular file; `None` if it does not exist.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, PrivateError> {
        let path = self.path.join(name);
        // Without NONBLOCK, opening a FIFO waits for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                let variable = self.variable;
                return Err(PrivateError::NotPrivate { path, why: "it is a symlink", variable });
            }
            Err(err) => return Err(self.error(&path, err.into())),
        };
        self.check(&file, &path, false)?;
        Ok(Some(file))
    }

    /// Writes a file completely or not at all: writes and syncs a temporary file, then renames it.
    pub(crate) fn write_file(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), PrivateError> {
        self.remove_leftovers();
        self.aside(|file, temporary| {
            write(file)?;
            file.sync_all()?;
            self.folder.rename(temporary, &self.folder, name)
        })
        .map_err(|err| self.error(&self.path, err))
    }

    /// Writes a file, unless it exists.
    pub(super) fn write_new_file(&self, name: &str, content: &[u8]) -> Result<(), PrivateError> {
        self.aside(|file, temporary| {
            file.write_all(content)?;
            // Otherwise an empty file could remain after a power failure.
            file.sync_all()?;
            match self.folder.hard_link(temporary, &self.folder, name) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
                _ => self.folder.remove_file(temporary),
            }
        })
        .map_err(|err| self.error(&self.path, err))
    }

    /// Calls `work` with a temporary file, which it must rename or remove. Removes it on failure.
    fn aside(&self, work: impl FnOnce(&mut File, &str) -> io::Result<()>) -> io::Result<()> {
        // Callers that write more check again.
        file_size::check(SMALL)?;
        let (mut file, temporary) = self.temporary()?;
        let done = work(&mut file, &temporary);
        if done.is_err() {
            // Best effort: temporary names are never read.
            let _ = self.folder.remove_file(&temporary);
        }
        done
    }

    /// A new, locked file: if another process can lock it, its writer is gone. On file systems
    /// without locks, the other process cannot lock it either.
    fn temporary(&self) -> io::Result<(File, String)> {
        const TRIES: usize = 100;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let name = format!(".{}-{}", std::process::id(), random_name()?);
            let fd = rustix::fs::openat(&self.folder, &*name, flags, Mode::RUSR | Mode::WUSR)?;
            // A process that mistakes it for a leftover holds the lock while it removes the file.
            let _ = rustix::fs::flock(&fd, FlockOperation::LockExclusive);
            if rustix::fs::fstat(&fd)?.st_nlink > 0 {
                return Ok((File::from(fd), name));
            }
        }
        Err(io::Error::other("another process removed every temporary file"))
    }

    /// Removes the temporary files of writers that are gone.
    pub(crate) fn remove_leftovers(&self) {
        let Ok(names) = self.names() else { return };
        for name in names.iter().filter(|name| name.starts_with('.')) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&self.folder, &**name, flags, Mode::empty()) else {
                continue;
            };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = self.remove(name);
            }
        }
    }

    /// The UTF-8 names in the folder; all names that Belljar uses are UTF-8.
    pub(crate) fn names(&self) -> Result<Vec<String>, PrivateError> {
        let failed = |err: io::Error| self.error(&self.path, err);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder).map_err(|err| failed(err.into()))? {
            let entry = entry.map_err(|err| failed(err.into()))?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The metadata of an entry, without opening it or following links.
    pub(crate) fn stat(&self, name: &str) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes a file, if it exists.
    pub(crate) fn remove(&self, name: &str) -> Result<(), PrivateError> {
        match self.folder.remove_file(name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(self.error(&self.path.join(name), err))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn error(&self, path: &Path, source: io::Error) -> PrivateError {
        PrivateError::Io { path: path.to_owned(), source, variable: self.variable }
    }

    fn check(&self, file: impl AsFd, path: &Path, is_folder: bool) -> Result<(), PrivateError> {
        let stat = rustix::fs::fstat(file).map_err(|err| self.error(path, err.into()))?;
        let expected = if is_folder { FileType::Directory } else { FileType::RegularFile };
        let why = if stat.st_uid != rustix::process::geteuid().as_raw() {
            "it belongs to another user"
        } else if stat.st_mode & 0o077 != 0 {
            "its mode permits access by others"
        } else if FileType::from_raw_mode(stat.st_mode) != expected {
            "it is not a regular file"
        } else {
            return Ok(());
        };
        let variable = self.variable;
        Err(PrivateError::NotPrivate { path: path.to_owned(), why, variable })
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other threads remove leftovers continuously during the writes.
    #[test]
    fn a_file_that_is_being_written_is_not_removed_as_a_leftover() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let folder = PrivateFolder::open(&path, "A_VARIABLE").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        folder.remove_leftovers();
                    }
                });
            }
            let written: Vec<_> = (0..500)
                .map(|_| folder.write_file("file", |file| file.write_all(b"content")))
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for result in written {
                result.unwrap();
            }
        });
        assert_eq!(folder.names().unwrap(), ["file"]);
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"content");
    }
}
