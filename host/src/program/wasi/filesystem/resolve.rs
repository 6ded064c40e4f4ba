//! From a folder that is held and a plain path to an open file: the only place that opens anything
//! in a program's process.
//!
//! The kernel keeps the way inside the folder (`openat2`), refuses every link and every other file
//! system on it, and there is no fallback to a walk of our own. What is found is looked at by
//! `O_PATH`, which opens nothing, before it is opened: devices and pipes do things when they are
//! opened. After that it is looked at once more, and must be the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

use super::refusal::{Code, Fail, Why};

/// How the kernel walks.
const WAY: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// How often something is tried again that changed under our eyes, before it is busy.
const ATTEMPTS: u32 = 8;

/// What new files and folders may be used for, and by whom: the process's umask narrows it.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
pub(super) const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    File,
    Folder,
}

/// What is there, without opening it: a descriptor of it that can neither be read nor written, and
/// what the kernel knows of it.
pub(super) fn look(folder: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, Stat, Found), Fail> {
    let fd = walk(folder, path, OFlags::PATH, Mode::empty())?;
    let stat = fstat(&fd)?;
    let found = acceptable(&stat)?;
    Ok((fd, stat, found))
}

/// A folder, for what happens to names in it.
pub(super) fn folder(folder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Fail> {
    walk(folder, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// The same folder, for reading its list of names or setting its times.
pub(super) fn readable_folder(folder: BorrowedFd<'_>) -> Result<OwnedFd, Fail> {
    walk(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a file that is there.
pub(super) fn existing(folder: BorrowedFd<'_>, path: &str, mode: OFlags) -> Result<OwnedFd, Fail> {
    for _ in 0..ATTEMPTS {
        let (_, seen, found) = look(folder, path)?;
        if found != Found::File {
            return Err(Fail::Failed(Code::IsDirectory));
        }
        let fd = walk(folder, path, mode | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        let stat = fstat(&fd)?;
        acceptable(&stat)?;
        if (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino) {
            return Ok(fd);
        }
    }
    Err(Fail::Failed(Code::Busy))
}

/// Makes a file that is not there.
pub(super) fn new_file(folder: BorrowedFd<'_>, path: &str, mode: OFlags) -> Result<OwnedFd, Fail> {
    let flags = mode | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOCTTY;
    walk(folder, path, flags, FILE_MODE)
}

/// Whether this is something a program may hold at all.
pub(super) fn acceptable(stat: &Stat) -> Result<Found, Fail> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(Found::Folder),
        // Its other name may lie where nothing is granted, and then so does its content.
        FileType::RegularFile if stat.st_nlink > 1 => Err(Why::HardLink.into()),
        FileType::RegularFile => Ok(Found::File),
        FileType::Symlink => Err(Why::Symlink.into()),
        _ => Err(Why::Special.into()),
    }
}

fn walk(folder: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Fail> {
    for _ in 0..ATTEMPTS {
        match openat2(folder.as_fd(), path, flags | OFlags::CLOEXEC, mode, WAY) {
            Ok(fd) => return Ok(fd),
            // Something on the way was moved meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::LOOP) => return Err(Why::Symlink.into()),
            Err(Errno::XDEV) => return Err(Why::Mount.into()),
            Err(Errno::NOSYS | Errno::PERM) => return Err(Why::NoOpenat2.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Fail::Failed(Code::Busy))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What the kernel refuses alone, were the paths not made plain before.
    #[test]
    fn the_kernel_keeps_to_the_folder_by_itself() {
        let kept = tempfile::tempdir().unwrap();
        let path = kept.path();
        fs::create_dir(path.join("granted")).unwrap();
        fs::create_dir(path.join("granted/sub")).unwrap();
        fs::write(path.join("secret"), "").unwrap();
        symlink("../secret", path.join("granted/link")).unwrap();
        symlink("..", path.join("granted/up")).unwrap();
        let granted = fs::File::open(path.join("granted")).unwrap();
        let secret = path.join("secret");
        for outside in
            ["..", "../secret", "sub/../../secret", "/", "/etc/passwd", "/proc/self/root"]
                .into_iter()
                .chain([secret.to_str().unwrap()])
        {
            for flags in [OFlags::PATH, OFlags::RDONLY, OFlags::RDWR | OFlags::CREATE] {
                let mode = if flags.contains(OFlags::CREATE) { FILE_MODE } else { Mode::empty() };
                let refused = walk(granted.as_fd(), outside, flags, mode);
                assert_eq!(refused.err(), Some(Fail::Refused(Why::Mount)), "{outside}");
            }
        }
        for link in ["link", "up", "up/secret", "sub/../link"] {
            let refused = walk(granted.as_fd(), link, OFlags::PATH, Mode::empty());
            assert_eq!(refused.err(), Some(Fail::Refused(Why::Symlink)), "{link}");
        }
        assert!(walk(granted.as_fd(), "sub/..", OFlags::PATH, Mode::empty()).is_ok());
    }
}
