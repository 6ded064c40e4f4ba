//! Folders and files of the caller's own, and the secret that seals are made with.
//!
//! Nothing is believed about a file because of where it lies, but a folder or file that is open to
//! others is not even read, and neither is a folder that others could move away and replace: the
//! folders above it are held to the rule for policies ([`belljar_files::ownership`]). Files appear whole or
//! not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use belljar_confine::file_size;
use belljar_files::ownership::{Untrusted, find};
use belljar_text::Escaped;

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
    /// A folder or link above it could be changed by somebody else, who could replace the folder.
    #[error("{path}: {why}; {remedy}, or name another folder with {variable}")]
    Replaceable {
        /// The caller's own folder.
        path: PathBuf,
        /// Which folder above it, and what is wrong with that one.
        why: String,
        /// What to do about that one.
        remedy: String,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
    /// There is no folder, because nothing says where it could be.
    #[error(
        "there is no folder to keep files in: neither {variable} nor HOME is set; set one of them"
    )]
    Nowhere {
        /// The environment variable that names the folder.
        variable: &'static str,
    },
    /// The system said no.
    #[error("{path}: {source}; {}", remedy(.source, .variable))]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// The environment variable that moves the folder.
        variable: &'static str,
    },
}

/// What to do about an error of the system.
fn remedy(source: &io::Error, variable: &str) -> String {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => format!(
            "raise the limit on open files (`ulimit -n`{}): 64 are enough for one model",
            match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
                Some(limit) => format!(" is {limit}"),
                None => String::new(),
            }
        ),
        Some(Errno::NFILE) => "the whole machine has too many files open: raise fs.file-max".into(),
        Some(Errno::NOMEM) => "give the process more memory (`ulimit -v`, `ulimit -d`)".into(),
        Some(Errno::NOSPC | Errno::DQUOT) => {
            format!("make room there, or name a folder elsewhere with {variable}")
        }
        _ => format!("name a folder you can write to with {variable}"),
    }
}

/// Room for a file of a few lines, in bytes.
const SMALL: u64 = 64 << 10;

/// A folder that belongs to the caller and is closed to others.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    path: PathBuf,
    folder: File,
    variable: &'static str,
}

impl PrivateError {
    /// Whether somebody else could have put something there: then nothing goes on without it.
    pub(crate) fn is_open_to_others(&self) -> bool {
        match self {
            PrivateError::NotPrivate { .. } | PrivateError::Replaceable { .. } => true,
            PrivateError::Nowhere { .. } | PrivateError::Io { .. } => false,
        }
    }

    /// Whether there is no folder that could be used, for as long as nobody changes anything. Too few
    /// descriptors, or too little memory, are another matter.
    pub(crate) fn is_lasting(&self) -> bool {
        const PASSING: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match self {
            PrivateError::Io { source, .. } => {
                PASSING.iter().all(|errno| source.raw_os_error() != Some(errno.raw_os_error()))
            }
            _ => true,
        }
    }
}

impl PrivateFolder {
    /// Opens a folder, making it when it is missing. `variable` is what moves it elsewhere.
    pub(crate) fn open(path: &Path, variable: &'static str) -> Result<Self, PrivateError> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(folder) = PrivateFolder::open_existing(path, variable)? {
            return Ok(folder);
        }
        let failed = |source| PrivateError::Io { path: path.to_owned(), source, variable };
        // The folders that are there already were found trusted just now, and those that are made
        // belong to the caller.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let folder = PrivateFolder::open_existing(path, variable)?;
        folder.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Opens a folder; `None` if there is none.
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
        let folder = PrivateFolder { path: path.to_owned(), folder: File::from(fd), variable };
        folder.check(&folder.folder, path, true)?;
        Ok(Some(folder))
    }

    /// Locks the folder against others that do the same, until it is dropped; not for ever, should
    /// one of them have stopped.
    pub(crate) fn lock_for_a_moment(&self) {
        self.lock(Duration::from_secs(1), || {});
    }

    /// Locks the folder against others that do the same, until it is dropped or this process ends.
    /// Calls `waits` once if another one has the lock, and gives up after `longest`, or where the
    /// file system has no locks: what is guarded by the lock is then done twice.
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
            // An empty file must not be what is left after the power fails.
            file.sync_all()?;
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
        // Whoever writes more than that asks again.
        file_size::check(SMALL)?;
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

/// What is wrong with the way to a folder of the caller's own.
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
            format!("{} has {links} names and lies in a folder open to all", shown(&at)),
            "remove the others".to_owned(),
        ),
    };
    PrivateError::Replaceable { path: path.to_owned(), why, remedy, variable }
}

/// The secret that seals are made with, made at first use.
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
        // Written aside and linked into place, so that two processes agree on one secret and
        // nobody reads half of it.
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
            .map_err(|err| failed(err.into()))?;
        folder.write_new_file(NAME, &secret)?;
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

/// What there is of the secret.
enum Stored {
    Good([u8; 32]),
    Nothing,
    /// A file of another length, or of zeros: what is left where a disk was full or the power failed.
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

/// A new secret in the place of a damaged one. Nothing that was sealed with the old one is believed
/// any more: it is made anew.
fn replaced_secret(folder: &PrivateFolder, name: &str) -> Result<[u8; 32], PrivateError> {
    // Processes that find it at the same time agree on one secret.
    folder.lock_for_a_moment();
    if let Stored::Good(secret) = read_secret(folder, name)? {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| folder.error(&folder.path().join(name), err.into()))?;
    folder.write_file(name, |file| file.write_all(&secret))?;
    // Where there are no locks, another process may have been the last to write.
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
