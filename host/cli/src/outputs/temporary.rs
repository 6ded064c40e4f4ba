//! Files that are written atomically: they appear complete or not at all.
//!
//! A file without a name (`O_TMPFILE`) disappears with the process. A temporary name is needed if
//! the file system does not support such files, and for the moment in which a file replaces another
//! one. A signal that ends the process removes the temporary file; after a SIGKILL, the next write
//! to the folder removes it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use belljar_confine::stop_signals::RemovedOnSignal;

/// The prefix of temporary names, which is followed by the process ID and a random number.
const PREFIX: &str = ".belljar-";

/// The folder of links to this process's open files.
const OPEN_FILES: &str = "/proc/self/fd";

/// A file that does not have its final name yet.
pub(super) struct Temporary<'a> {
    folder: &'a Path,
    file: File,
    name: Option<Name>,
}

/// A temporary name. Dropping it removes the file.
struct Name {
    path: PathBuf,
    /// Dropped last, so that the file is removed while signals are still handled.
    _on_signal: RemovedOnSignal,
}

impl Drop for Name {
    fn drop(&mut self) {
        // After a rename the file no longer exists.
        let _ = fs::remove_file(&self.path);
    }
}

impl Name {
    fn new(folder: &Path) -> io::Result<Name> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
        let (process, random) = (std::process::id(), u64::from_ne_bytes(random));
        let path = folder.join(format!("{PREFIX}{process}-{random:016x}"));
        Ok(Name { _on_signal: RemovedOnSignal::new(&path)?, path })
    }
}

impl Temporary<'_> {
    pub(super) fn new(folder: &Path) -> io::Result<Temporary<'_>> {
        remove_leftovers(folder);
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        // Without /proc such a file cannot be named.
        if Path::new(OPEN_FILES).is_dir()
            && let Ok(file) = rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666))
        {
            let file = File::from(file);
            lock(&file);
            return Ok(Temporary { folder, file, name: None });
        }
        let (file, name) = named(folder)?;
        Ok(Temporary { folder, file, name: Some(name) })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name; an existing file of that name is replaced only with `force`.
    pub(super) fn keep(mut self, path: &Path, force: bool) -> io::Result<()> {
        let link = |to: &Path| {
            let from = format!("{OPEN_FILES}/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)
        };
        if self.name.is_none() {
            let name = match force {
                false => None,
                true => Some(Name::new(self.folder)?),
            };
            match (link(name.as_ref().map_or(path, |name| &name.path)), name) {
                (Ok(()), None) => return Ok(()),
                (Ok(()), Some(name)) => self.name = Some(name),
                (Err(Errno::EXIST), None) => return Err(exists()),
                // Some file systems can create such files but not name them.
                (Err(_), name) => {
                    drop(name);
                    let (mut file, name) = named(self.folder)?;
                    self.file.rewind()?;
                    io::copy(&mut self.file, &mut file)?;
                    file.sync_all()?;
                    (self.file, self.name) = (file, Some(name));
                }
            }
        }
        let Some(name) = &self.name else { return Err(io::ErrorKind::NotFound.into()) };
        if force {
            return fs::rename(&name.path, path);
        }
        match rustix::fs::renameat_with(CWD, &name.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(exists()),
            // Creating a link also fails if the path exists.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&name.path, path),
            Err(err) => Err(err.into()),
        }
    }
}

fn exists() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "already exists")
}

/// A new file with a temporary name, locked for as long as it is open.
fn named(folder: &Path) -> io::Result<(File, Name)> {
    const MAX_ATTEMPTS: usize = 100;
    for _ in 0..MAX_ATTEMPTS {
        let name = Name::new(folder)?;
        let file = File::options().read(true).write(true).create_new(true).open(&name.path)?;
        lock(&file);
        // Another process may have removed it as a leftover before it was locked.
        if rustix::fs::fstat(&file)?.st_nlink > 0 {
            return Ok((file, name));
        }
    }
    Err(io::Error::other("each temporary file was removed by another process"))
}

/// Locks a file. Without support for locks this fails, and then leftovers are not removed either.
fn lock(file: &File) {
    let _ = rustix::fs::flock(file, FlockOperation::LockExclusive);
}

/// The folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes temporary files that are not locked, which means that their writers have exited.
pub(super) fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name())) {
        let path = entry.path();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
        let own = rustix::fs::fstat(&file).is_ok_and(|stat| {
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            is_file && stat.st_uid == rustix::process::geteuid().as_raw()
        });
        if own && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// `.belljar-PROCESS-…`
fn is_temporary(name: &OsStr) -> bool {
    let Some(rest) = name.as_bytes().strip_prefix(PREFIX.as_bytes()) else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest.get(digits) == Some(&b'-') && rest.len() > digits + 1
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn named_temporary_file_is_kept_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answer");
        let make = |content: &[u8]| {
            let (mut file, name) = named(folder.path()).unwrap();
            file.write_all(content).unwrap();
            Temporary { folder: folder.path(), file, name: Some(name) }
        };
        drop(make(b"dropped"));
        assert!(names(folder.path()).is_empty());
        make(b"first").keep(&path, false).unwrap();
        let err = make(b"second").keep(&path, false).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        make(b"third").keep(&path, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(names(folder.path()), ["answer"]);
    }

    #[test]
    fn only_unlocked_temporary_files_are_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in [".belljar-1-answer.npz", ".belljar-77-0123456789abcdef"] {
            fs::write(place(name), "left over").unwrap();
        }
        let kept = [".belljar-", ".belljar--x", ".belljar-1", ".belljar-1-", ".belljar-x-1", "1-x"];
        for name in kept {
            fs::write(place(name), "not ours").unwrap();
        }
        fs::create_dir(place(".belljar-2-folder")).unwrap();
        std::os::unix::fs::symlink("1-x", place(".belljar-3-link")).unwrap();
        let (_file, written) = named(folder.path()).unwrap();
        remove_leftovers(folder.path());
        let mut expected: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
        expected.push(".belljar-2-folder".into());
        expected.push(".belljar-3-link".into());
        expected.push(written.path.file_name().unwrap().to_str().unwrap().to_owned());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }
}
