//! From a folder that is held and a plain path to an open file: the only place that opens anything
//! in a program's process.
//!
//! The kernel keeps the way inside the folder (`openat2`), refuses every link and every other file
//! system on it, and there is no fallback to a walk of our own. What is found is looked at by
//! `O_PATH`, which opens nothing, before it is opened: devices and pipes do things when they are
//! opened. After that it is looked at once more, and must be the same.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::io::Errno;

use super::refusal::{Code, Fail, Why};
use belljar_confine::ways::{self, Way};

/// How often something is tried again that changed under our eyes, before it is busy.
const ATTEMPTS: u32 = 8;

/// What new folders may be used for, and by whom.
pub(super) const FOLDER_MODE: Mode = Mode::from_raw_mode(ways::FOLDER_MODE);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    File,
    Folder,
}

/// What is there, without opening it: a descriptor of it that can neither be read nor written, and
/// what the kernel knows of it.
pub(super) fn look(folder: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, Stat, Found), Fail> {
    let fd = walk(folder, path, Way::Look)?;
    let stat = fstat(&fd)?;
    let found = acceptable(&stat)?;
    Ok((fd, stat, found))
}

/// A folder, for what happens to names in it.
pub(super) fn folder(folder: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Fail> {
    walk(folder, path, Way::Folder)
}

/// Whether a name in a folder may be removed, moved or replaced as far as mounts go: not if something is
/// mounted there. What this walk sees are the mounts below the folder as it is held: a program's process
/// those that were there when it was started, and its supervisor (`lookout`) those that are there now. A
/// name that is not there is none of this function's.
///
/// A mount that is made after this and before the change is lost: whoever makes it below a folder that a
/// program may write to has to expect that.
pub(super) fn nothing_mounted(folder: BorrowedFd<'_>, name: &str) -> Result<(), Fail> {
    // What is found is not opened. The kernel looks for a mount before it looks whether the name is a
    // symbolic link, so that a link which is refused as one has nothing mounted on it.
    match walk(folder, name, Way::Look) {
        Ok(_) | Err(Fail::Failed(Code::NoEntry) | Fail::Refused(Why::Symlink)) => Ok(()),
        Err(Fail::Refused(Why::Mount)) => Err(Why::MountPoint.into()),
        Err(fail) => Err(fail),
    }
}

/// The same folder, for reading its list of names or setting its times.
pub(super) fn readable_folder(folder: BorrowedFd<'_>) -> Result<OwnedFd, Fail> {
    walk(folder, ".", Way::List)
}

/// Opens a file that is there.
pub(super) fn existing(folder: BorrowedFd<'_>, path: &str, mode: OFlags) -> Result<OwnedFd, Fail> {
    let way = match mode {
        OFlags::WRONLY => Way::Write,
        OFlags::RDWR => Way::ReadWrite,
        _ => Way::Read,
    };
    for _ in 0..ATTEMPTS {
        let (_, seen, found) = look(folder, path)?;
        if found != Found::File {
            return Err(Fail::Failed(Code::IsDirectory));
        }
        let fd = walk(folder, path, way)?;
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
    let way = match mode {
        OFlags::WRONLY => Way::New,
        OFlags::RDWR => Way::NewReadWrite,
        _ => Way::NewRead,
    };
    walk(folder, path, way)
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

fn walk(folder: BorrowedFd<'_>, path: &str, way: Way) -> Result<OwnedFd, Fail> {
    let path = CString::new(path).map_err(|_| Fail::Failed(Code::IllegalByteSequence))?;
    for _ in 0..ATTEMPTS {
        match ways::open(folder, &path, way) {
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
    use std::os::fd::AsFd;
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
            for way in [Way::Look, Way::Read, Way::NewReadWrite] {
                let refused = walk(granted.as_fd(), outside, way);
                assert_eq!(refused.err(), Some(Fail::Refused(Why::Mount)), "{outside}");
            }
        }
        for link in ["link", "up", "up/secret", "sub/../link"] {
            let refused = walk(granted.as_fd(), link, Way::Look);
            assert_eq!(refused.err(), Some(Fail::Refused(Why::Symlink)), "{link}");
        }
        assert!(walk(granted.as_fd(), "sub/..", Way::Look).is_ok());
    }
}
