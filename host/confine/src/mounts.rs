//! Whether anything was mounted or unmounted in this process's mount namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The mounts of this process, as they are at one moment.
pub struct Mounts(Option<File>);

impl Mounts {
    /// As they are now. Where the kernel does not show them, they count as changed at once.
    pub fn now() -> Mounts {
        Mounts(File::open("/proc/self/mountinfo").ok())
    }

    /// Whether they are as they were. The kernel remembers for each open file whether they changed
    /// since it was opened, and says so once, as an error that can be waited for.
    pub fn are_the_same(&self) -> bool {
        let unchanged = |file: &File| -> io::Result<bool> {
            let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            Ok(!fds.iter().any(|fd| fd.revents().intersects(PollFlags::PRI | PollFlags::ERR)))
        };
        self.0.as_ref().is_some_and(|file| unchanged(file).unwrap_or(false))
    }
}
