//! Folders and files of the caller's own, and the secret that seals are made with.
//!
//! Nothing is believed about a file because of where it lies, but a folder or file that is open to
//! others is not even read. Files appear whole or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Why a folder or file of the caller's own could not be used.
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
        /// What is wrong with it.
        why: &'static str,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// The system said no.
    #[error("{path}: {source}; name a folder you can write to with {variable}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
}

/// A folder that belongs to the caller and is closed to others.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
    folder: File,
    variable: &'static str,
}

impl PrivateFolder {
    /// Opens a folder, making it when it is missing. `variable` is what moves it elsewhere.
    pub(crate) fn open(path: &Path, variable: &'static str) -> Result<Self, PrivateError> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |source| PrivateError::Io { path: path.to_owned(), source, variable };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let folder = PrivateFolder::open_existing(path, variable)?;
        folder.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Opens a folder; `None` if there is none.
    pub(crate) fn open_existing(
        path: &Path,
        variable: &'static str,
    ) -> Result<Option<Self>, PrivateError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(err) => {
                let (path, source) = (path.to_owned(), err.into());
                return Err(PrivateError::Io { path, source, variable });
            }
        };
        let folder = PrivateFolder { path: path.to_owned(), folder: File::from(fd), variable };
        folder.check(&folder.folder, path, true)?;
        Ok(Some(folder))
    }

    /// Locks the folder against others that do the same, until it is dropped; not for ever, should
    /// one of them have stopped.
    pub(crate) fn lock_for_a_moment(&self) {
        const TRIES: u32 = 200;
        for _ in 0..TRIES {
            match rustix::fs::flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file of the caller's own; `None` if there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, PrivateError> {
        let path = self.path.join(name);
        // Without NONBLOCK, opening a FIFO waits for whoever writes to it.
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

    /// Writes a file whole or not at all: aside first, then to disk, then to its place.
    pub(crate) fn write_file(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), PrivateError> {
        self.remove_leftovers();
        self.aside(|file, temporary| {
            write(file)?;
            file.sync_all()?;
            Ok(rustix::fs::renameat(&self.folder, temporary, &self.folder, name)?)
        })
        .map_err(|err| self.error(&self.path, err))
    }

    /// Writes a file unless there is one.
    fn write_new_file(&self, name: &str, content: &[u8]) -> Result<(), PrivateError> {
        self.aside(|file, temporary| {
            file.write_all(content)?;
            let none = AtFlags::empty();
            match rustix::fs::linkat(&self.folder, temporary, &self.folder, name, none) {
                Ok(()) | Err(Errno::EXIST) => {
                    Ok(rustix::fs::unlinkat(&self.folder, temporary, none)?)
                }
                Err(err) => Err(err.into()),
            }
        })
        .map_err(|err| self.error(&self.path, err))
    }

    /// Has a temporary file written, which must be gone in the end.
    fn aside(&self, work: impl FnOnce(&mut File, &str) -> io::Result<()>) -> io::Result<()> {
        let (mut file, temporary) = self.temporary()?;
        let done = work(&mut file, &temporary);
        if done.is_err() {
            // Best effort: what is left over has a name that is never read.
            let _ = rustix::fs::unlinkat(&self.folder, &*temporary, AtFlags::empty());
        }
        done
    }

    /// A new file, locked: whoever finds it unlocked knows that its writer is gone. Where there are no
    /// locks nobody else gets one either.
    fn temporary(&self) -> io::Result<(File, String)> {
        const TIMES: usize = 100;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        for _ in 0..TIMES {
            let name = format!(".{}-{}", std::process::id(), random_name()?);
            let fd = rustix::fs::openat(&self.folder, &*name, flags, Mode::RUSR | Mode::WUSR)?;
            // Whoever takes it for a leftover holds the lock while they remove it.
            let _ = rustix::fs::flock(&fd, FlockOperation::LockExclusive);
            if rustix::fs::fstat(&fd)?.st_nlink > 0 {
                return Ok((File::from(fd), name));
            }
        }
        Err(io::Error::other("every temporary file was removed at once"))
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

    /// The names of everything in the folder that are UTF-8, as all of ours are.
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

    /// What is known about an entry without opening it.
    pub(crate) fn stat(&self, name: &str) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes a file. One that is gone already is as good.
    pub(crate) fn remove(&self, name: &str) -> Result<(), PrivateError> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(self.error(&self.path.join(name), err.into())),
        }
    }

    pub(crate) fn error(&self, path: &Path, source: io::Error) -> PrivateError {
        PrivateError::Io { path: path.to_owned(), source, variable: self.variable }
    }

    fn check(&self, file: &File, path: &Path, is_folder: bool) -> Result<(), PrivateError> {
        let metadata = file.metadata().map_err(|source| self.error(path, source))?;
        let why = if metadata.uid() != rustix::process::geteuid().as_raw() {
            "it belongs to somebody else"
        } else if metadata.mode() & 0o077 != 0 {
            "its mode lets others in"
        } else if is_folder != metadata.is_dir() || is_folder == metadata.is_file() {
            "it is not a regular file"
        } else {
            return Ok(());
        };
        let variable = self.variable;
        Err(PrivateError::NotPrivate { path: path.to_owned(), why, variable })
    }
}

/// The secret that seals are made with, made at first use.
pub(in crate::sandbox) fn secret(state: &Path) -> Result<[u8; 32], PrivateError> {
    const NAME: &str = "seal.key";
    let folder = PrivateFolder::open(state, "BELLJAR_STATE_DIR")?;
    let path = state.join(NAME);
    let failed = |err: io::Error| folder.error(&path, err);
    for _ in 0..2 {
        let mut secret = [0; 32];
        if let Some(mut file) = folder.open_file(NAME)? {
            file.read_exact(&mut secret).map_err(failed)?;
            return Ok(secret);
        }
        // Written aside and linked into place, so that two processes agree on one secret and
        // nobody reads half of it.
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
            .map_err(|err| failed(err.into()))?;
        folder.write_new_file(NAME, &secret)?;
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Others tidy up at every moment of a write.
    #[test]
    fn nobody_takes_a_file_that_has_just_begun_for_a_leftover() {
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
