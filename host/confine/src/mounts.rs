//! Detects whether anything was mounted or unmounted in this process's mount namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The state of this process's mounts at one moment.
pub struct Mounts(Option<File>);

impl Mounts {
    /// The current state. If the kernel does not show the mounts, they count as changed.
    pub fn now() -> Mounts {
        Mounts(File::open("/proc/self/mountinfo").ok())
    }

    /// Whether the mounts are unchanged. The kernel tracks for each open `mountinfo` file whether
    /// the mounts changed since it was opened, and reports a change once, as a poll error.
    pub fn are_the_same(&self) -> bool {
        let unchanged = |file: &File| -> io::Result<bool> {
            let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            Ok(!fds.iter().any(|fd| fd.revents().intersects(PollFlags::PRI | PollFlags::ERR)))
        };
        self.0.as_ref().is_some_and(|file| unchanged(file).unwrap_or(false))
    }
}
