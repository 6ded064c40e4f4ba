//! Opens a plain path below an open folder, as an extension of `Dir`. No other code may open files
//! in a program's process.
//!
//! With `openat2`, the kernel keeps the path inside the folder, and refuses links and other file
//! systems; there is no fallback without it. A file is checked through an `O_PATH` descriptor
//! before it is opened, because opening a device or pipe has side effects. After that it is checked
//! again, and must be the same file.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};
use rustix::io::Errno;

use super::refusal::{Code, Fail, Why};
use belljar_confine::ways::{self, Way};

/// Maximum number of attempts if a file changes during the open; then the error is "busy".
const ATTEMPTS: u32 = 8;

/// The mode of new folders.
pub(super) const FOLDER_MODE: Mode = Mode::from_raw_mode(ways::FOLDER_MODE);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    File,
    Folder,
}

/// Opens what is below a folder, without links and without leaving its file system. cap-std's own
/// methods are not used in a program's process: they open in more ways than its filter allows.
pub(super) trait StrictDir {
    /// Finds a file without opening it: an `O_PATH` descriptor, which cannot be read or written,
    /// and its metadata.
    fn look(&self, path: &str) -> Result<(OwnedFd, Stat, Found), Fail>;

    /// Opens a folder, to change names in it.
    fn folder(&self, path: &str) -> Result<Dir, Fail>;

    /// Checks that nothing is mounted on a name before it is removed, moved or replaced. This sees
    /// the mounts of the caller: a program's process sees those that existed when it was started,
    /// and the supervisor (`mount_check`) sees the current ones. A missing name is not an error.
    ///
    /// A mount that is created between this check and the change is lost. Do not mount file systems
    /// below a folder that a program may write to.
    fn nothing_mounted(&self, name: &str) -> Result<(), Fail>;

    /// Opens the folder itself, to list its names or set its times.
    fn readable(&self) -> Result<OwnedFd, Fail>;

    /// Opens an existing file.
    fn existing(&self, path: &str, mode: OFlags) -> Result<OwnedFd, Fail>;

    /// Creates a new file.
    fn new_file(&self, path: &str, mode: OFlags) -> Result<OwnedFd, Fail>;
}

impl StrictDir for Dir {
    fn look(&self, path: &str) -> Result<(OwnedFd, Stat, Found), Fail> {
        let fd = walk(self, path, Way::Look)?;
        let stat = fstat(&fd)?;
        let found = acceptable(&stat)?;
        Ok((fd, stat, found))
    }

    fn folder(&self, path: &str) -> Result<Dir, Fail> {
        Ok(Dir::from_std_file(walk(self, path, Way::Folder)?.into()))
    }

    fn nothing_mounted(&self, name: &str) -> Result<(), Fail> {
        // Nothing is opened. The kernel checks for a mount before it checks for a symbolic link, so
        // a link that is refused as a link has nothing mounted on it.
        match walk(self, name, Way::Look) {
            Ok(_) | Err(Fail::Failed(Code::NoEntry) | Fail::Refused(Why::Symlink)) => Ok(()),
            Err(Fail::Refused(Why::Mount)) => Err(Why::MountPoint.into()),
            Err(fail) => Err(fail),
        }
    }

    fn readable(&self) -> Result<OwnedFd, Fail> {
        walk(self, ".", Way::List)
    }

    fn existing(&self, path: &str, mode: OFlags) -> Result<OwnedFd, Fail> {
        let way = match mode {
            OFlags::WRONLY => Way::Write,
            OFlags::RDWR => Way::ReadWrite,
            _ => Way::Read,
        };
        for _ in 0..ATTEMPTS {
            let (_, seen, found) = self.look(path)?;
            if found != Found::File {
                return Err(Fail::Failed(Code::IsDirectory));
            }
            let fd = walk(self, path, way)?;
            let stat = fstat(&fd)?;
            acceptable(&stat)?;
            if (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino) {
                return Ok(fd);
            }
        }
        Err(Fail::Failed(Code::Busy))
    }

    fn new_file(&self, path: &str, mode: OFlags) -> Result<OwnedFd, Fail> {
        let way = match mode {
            OFlags::WRONLY => Way::New,
            OFlags::RDWR => Way::NewReadWrite,
            _ => Way::NewRead,
        };
        walk(self, path, way)
    }
}

/// Checks that this is a type of file that a program may hold.
pub(super) fn acceptable(stat: &Stat) -> Result<Found, Fail> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(Found::Folder),
        // Its other name, and so its content, may be outside of all grants.
        FileType::RegularFile if stat.st_nlink > 1 => Err(Why::HardLink.into()),
        FileType::RegularFile => Ok(Found::File),
        FileType::Symlink => Err(Why::Symlink.into()),
        _ => Err(Why::Special.into()),
    }
}

fn walk(folder: &Dir, path: &str, way: Way) -> Result<OwnedFd, Fail> {
    let path = CString::new(path).map_err(|_| Fail::Failed(Code::IllegalByteSequence))?;
    for _ in 0..ATTEMPTS {
        match ways::open(folder.as_fd(), &path, way) {
            Ok(fd) => return Ok(fd),
            // A part of the path was moved in the meantime.
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

    /// What the kernel refuses, even without the checks of `path`.
    #[test]
    fn kernel_refuses_paths_out_of_the_folder() {
        let kept = tempfile::tempdir().unwrap();
        let path = kept.path();
        fs::create_dir(path.join("granted")).unwrap();
        fs::create_dir(path.join("granted/sub")).unwrap();
        fs::write(path.join("secret"), "").unwrap();
        symlink("../secret", path.join("granted/link")).unwrap();
        symlink("..", path.join("granted/up")).unwrap();
        let granted = Dir::from_std_file(fs::File::open(path.join("granted")).unwrap());
        let secret = path.join("secret");
        for outside in
            ["..", "../secret", "sub/../../secret", "/", "/etc/passwd", "/proc/self/root"]
                .into_iter()
                .chain([secret.to_str().unwrap()])
        {
            for way in [Way::Look, Way::Read, Way::NewReadWrite] {
                let refused = walk(&granted, outside, way);
                assert_eq!(refused.err(), Some(Fail::Refused(Why::Mount)), "{outside}");
            }
        }
        for link in ["link", "up", "up/secret", "sub/../link"] {
            let refused = walk(&granted, link, Way::Look);
            assert_eq!(refused.err(), Some(Fail::Refused(Why::Symlink)), "{link}");
        }
        assert!(walk(&granted, "sub/..", Way::Look).is_ok());
    }
}
