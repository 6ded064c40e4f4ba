//! External data files of a model: weights outside of the ONNX file. Each is opened as a policy
//! grants it and read once into sealed memory; the bytes that were hashed are the bytes the sandbox
//! gets.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::Digest;
use belljar_confine::file_size;
use belljar_confine::memory::{SealedBytes, SealedWriter};

/// A file's content with the name that the model uses for it: the name's length in four bytes,
/// little-endian, then the name, then the content.
#[derive(Clone, Debug)]
pub struct SideFile {
    sealed: Arc<SealedBytes>,
    /// Digest of the content.
    content: Digest,
    /// Digest of the name and the content's digest.
    digest: Digest,
    /// Length of the content.
    len: u64,
}

/// Why an external data file is not read.
#[derive(Debug, PartialEq, Eq)]
pub enum SideFileError {
    /// It may not be opened even if it is granted, for this reason.
    Refused(&'static str),
    /// It is longer than the limit.
    TooLarge,
    /// It cannot be read: why.
    Failed(String),
}

impl From<io::Error> for SideFileError {
    fn from(err: io::Error) -> SideFileError {
        SideFileError::Failed(err.to_string())
    }
}

impl From<Errno> for SideFileError {
    fn from(errno: Errno) -> SideFileError {
        match errno {
            Errno::LOOP => SideFileError::Refused("its path contains a symbolic link"),
            Errno::XDEV => SideFileError::Refused("its path leads out of the granted folder"),
            errno => SideFileError::Failed(errno.to_string()),
        }
    }
}

impl SideFile {
    /// Reads at most `limit` bytes of the file `below`, a plain relative path in the folder
    /// `granted`, or of `granted` itself if `below` is empty.
    pub fn read(
        granted: &Path,
        below: &str,
        name: &str,
        limit: u64,
    ) -> Result<SideFile, SideFileError> {
        let file = open(granted, below)?;
        let mut writer = SealedWriter::new("belljar-side-file")?;
        let length = u32::try_from(name.len()).map_err(io::Error::other)?;
        let mut put = |bytes: &[u8]| {
            file_size::check(writer.len().saturating_add(bytes.len() as u64))?;
            writer.write(bytes)
        };
        put(&length.to_le_bytes())?;
        put(name.as_bytes())?;
        let (content, len) = read_all(file, limit, put)?;
        let mut hasher = Sha256::new();
        hasher.update(length.to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(content.as_bytes());
        let digest = Digest::finish(hasher);
        Ok(SideFile { sealed: Arc::new(writer.seal()?), content, digest, len })
    }

    /// SHA-256 and length of a file that could be read as external data.
    pub fn digest_of(path: &Path, limit: u64) -> Result<(Digest, u64), SideFileError> {
        read_all(open(path, "")?, limit, |_| Ok(()))
    }

    /// The message for the sandbox.
    pub fn sealed(&self) -> &Arc<SealedBytes> {
        &self.sealed
    }

    /// SHA-256 of the content, as `sha256sum` prints it.
    pub fn content(&self) -> Digest {
        self.content
    }

    /// SHA-256 of the name and the content's digest, which identifies it in keys of prepared
    /// models.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the content in bytes.
    #[allow(clippy::len_without_is_empty, reason = "not needed")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

/// Reads at most `limit` bytes; returns their SHA-256 and their number.
fn read_all(
    file: File,
    limit: u64,
    mut put: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(Digest, u64), SideFileError> {
    let mut hasher = Sha256::new();
    let mut file = file.take(limit.saturating_add(1));
    let (mut chunk, mut len) = (vec![0; 256 << 10], 0u64);
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => return Ok((Digest::finish(hasher), len)),
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err.into()),
        };
        len = len.saturating_add(count as u64);
        if len > limit {
            return Err(SideFileError::TooLarge);
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        hasher.update(bytes);
        put(bytes)?;
    }
}

/// Opens a regular file with a single hard link. It is checked before it is opened, because opening
/// pipes and devices has side effects, and once more afterwards.
fn open(granted: &Path, below: &str) -> Result<File, SideFileError> {
    let straight = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let folder = match below {
        "" => None,
        _ => Some(walk(CWD, granted, OFlags::PATH | OFlags::DIRECTORY, straight)?),
    };
    let open = |flags| match &folder {
        None => walk(CWD, granted, flags, straight),
        Some(folder) => {
            let within = straight | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
            walk(folder.as_fd(), Path::new(below), flags, within)
        }
    };
    let seen = acceptable(&open(OFlags::PATH)?)?;
    let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let found = acceptable(&file)?;
    if (seen.st_dev, seen.st_ino) != (found.st_dev, found.st_ino) {
        return Err(SideFileError::Refused("it was changed while it was opened"));
    }
    Ok(File::from(file))
}

fn acceptable(file: &OwnedFd) -> Result<Stat, SideFileError> {
    let stat = fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink == 1 => Ok(stat),
        // Another name may be where other users can write, or where nothing is granted.
        FileType::RegularFile => Err(SideFileError::Refused("it has several hard links")),
        _ => Err(SideFileError::Refused("it is not a regular file")),
    }
}

fn walk(
    base: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    way: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    const TRIES: u32 = 8;
    for _ in 1..TRIES {
        match openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), way) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), way)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn refused(granted: &Path, below: &str) -> bool {
        matches!(SideFile::read(granted, below, "n", 100), Err(SideFileError::Refused(_)))
    }

    #[test]
    fn side_file_is_read_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/file"), "content").unwrap();
        let read = |granted: &Path, below: &str, name: &str, limit| {
            SideFile::read(granted, below, name, limit)
        };
        let file = read(&path, "sub/file", "name", 7).unwrap();
        let mut bytes = vec![0; usize::try_from(file.sealed().len()).unwrap()];
        file.sealed().read_into(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x04\0\0\0namecontent");
        assert_eq!((file.content(), file.len()), (Digest::of(b"content"), 7));
        assert_eq!(read(&path.join("sub/file"), "", "name", 7).unwrap().digest(), file.digest());
        let other = read(&path, "sub/file", "other", 7).unwrap();
        assert_eq!(other.content(), file.content());
        assert_ne!(other.digest(), file.digest());
        fs::write(path.join("sub/other"), "other").unwrap();
        assert_ne!(read(&path, "sub/other", "name", 7).unwrap().digest(), file.digest());
        assert_eq!(read(&path, "sub/file", "name", 6).unwrap_err(), SideFileError::TooLarge);
        assert!(matches!(read(&path, "none", "name", 7), Err(SideFileError::Failed(_))));
    }

    #[test]
    fn only_regular_files_with_one_link_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let granted = path.join("granted");
        fs::create_dir_all(granted.join("sub")).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        fs::write(granted.join("file"), "file").unwrap();
        fs::hard_link(path.join("secret"), granted.join("hard")).unwrap();
        symlink("../secret", granted.join("link")).unwrap();
        symlink("..", granted.join("up")).unwrap();
        symlink("granted", path.join("way")).unwrap();
        rustix::fs::mkfifoat(CWD, granted.join("pipe"), Mode::from(0o600)).unwrap();
        for below in [
            "hard",
            "link",
            "up/secret",
            "pipe",
            "sub",
            "../secret",
            "/etc/passwd",
            "sub/../../secret",
            "/proc/self/root/etc/passwd",
        ] {
            assert!(refused(&granted, below), "{below}");
        }
        for whole in ["way/file", "granted/link", "granted/hard", "granted/pipe", "granted"] {
            assert!(refused(&path.join(whole), ""), "{whole}");
        }
        assert!(refused(&path.join("way"), "file"));
        for device in ["/dev/null", "/dev/zero", "/proc/self/fd/0", "/proc/self/exe"] {
            assert!(refused(Path::new(device), ""), "{device}");
        }
        assert!(SideFile::read(&granted, "file/", "n", 100).is_err());
        assert!(SideFile::read(&granted, "file", "n", 100).is_ok());
    }

    #[test]
    fn replacing_the_file_with_a_link_during_open_never_reads_the_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir(path.join("granted")).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        let file = path.join("granted/file");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::write(path.join("new"), "file").unwrap();
                    fs::rename(path.join("new"), &file).unwrap();
                    symlink("../secret", path.join("new")).unwrap();
                    fs::rename(path.join("new"), &file).unwrap();
                }
            });
            for _ in 0..3000 {
                if let Ok(read) = SideFile::read(&path.join("granted"), "file", "", 100) {
                    let mut bytes = vec![0; usize::try_from(read.sealed().len()).unwrap()];
                    read.sealed().read_into(&mut bytes).unwrap();
                    assert_ne!(&bytes[4..], b"secret");
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
