//! Private folders and files of the calling user, and the secret key for seals.
//!
//! The location of a file is no evidence of its content. In addition, a folder or file that is open
//! to others must not be read, nor a folder that others could move away and replace: the folders
//! above it must satisfy the ownership rule for policies ([`belljar_files::ownership`]). Files are written
//! completely or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use belljar_confine::file_size;
use belljar_files::ownership::{Untrusted, find};
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

/// Size of a small file, in bytes.
const SMALL: u64 = 64 << 10;

/// A folder that belongs to the caller and is closed to others.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
    folder: Dir,
    variable: &'static str,
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
    fn write_new_file(&self, name: &str, content: &[u8]) -> Result<(), PrivateError> {
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

/// The error for an untrusted path to a private folder.
fn refused(path: &Path, variable: &'static str, untrusted: Untrusted) -> PrivateError {
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

/// The secret key for seals, created on first use.
pub(in crate::sandbox) fn secret(state: Option<&Path>) -> Result<[u8; 32], PrivateError> {
    const NAME: &str = "seal.key";
    let state = state.ok_or(PrivateError::Nowhere { variable: "BELLJAR_STATE_DIR" })?;
    let folder = PrivateFolder::open(state, "BELLJAR_STATE_DIR")?;
    let path = state.join(NAME);
    let failed = |err: io::Error| folder.error(&path, err);
    for _ in 0..2 {
        let mut secret = match read_secret(&folder, NAME)? {
            Stored::Good(secret) => return Ok(secret),
            Stored::Nothing => [0; 32],
            Stored::Damaged => return replaced_secret(&folder, NAME),
        };
        // A temporary file is linked into place, so that two processes agree on one secret and no
        // process reads a part of it.
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
            .map_err(|err| failed(err.into()))?;
        folder.write_new_file(NAME, &secret)?;
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

/// The state of the secret's file.
enum Stored {
    Good([u8; 32]),
    Nothing,
    /// A file of another length, or of zeros, as after a full disk or a power failure.
    Damaged,
}

fn read_secret(folder: &PrivateFolder, name: &str) -> Result<Stored, PrivateError> {
    let Some(file) = folder.open_file(name)? else { return Ok(Stored::Nothing) };
    let mut found = Vec::new();
    file.take(33)
        .read_to_end(&mut found)
        .map_err(|err| folder.error(&folder.path().join(name), err))?;
    Ok(match <[u8; 32]>::try_from(found) {
        Ok(secret) if secret != [0; 32] => Stored::Good(secret),
        _ => Stored::Damaged,
    })
}

/// Replaces a damaged secret by a new one. Files that were sealed with the old one become invalid,
/// and are created again.
fn replaced_secret(folder: &PrivateFolder, name: &str) -> Result<[u8; 32], PrivateError> {
    // The lock makes processes that find the damage at the same time agree on one secret.
    folder.lock_for_a_moment();
    if let Stored::Good(secret) = read_secret(folder, name)? {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| folder.error(&folder.path().join(name), err.into()))?;
    folder.write_file(name, |file| file.write_all(&secret))?;
    // Without locks, another process may have written last.
    match read_secret(folder, name)? {
        Stored::Good(secret) => Ok(secret),
        Stored::Nothing | Stored::Damaged => {
            Err(folder.error(&folder.path().join(name), io::ErrorKind::InvalidData.into()))
        }
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

    #[test]
    fn a_damaged_secret_is_replaced_once_and_a_good_one_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        let first = secret(Some(&state)).unwrap();
        assert_eq!(secret(Some(&state)).unwrap(), first);
        for damage in [&[][..], &[7; 31], &[7; 33], &[0; 32], &[0; 5000]] {
            std::fs::write(state.join("seal.key"), damage).unwrap();
            let secrets: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| secret(Some(&state)).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(secrets.iter().all(|one| *one == secrets[0]), "{damage:?}");
            assert_ne!(secrets[0], first);
            assert_eq!(std::fs::read(state.join("seal.key")).unwrap(), secrets[0]);
        }
    }

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
