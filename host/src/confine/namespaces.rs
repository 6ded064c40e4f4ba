//! Inside the namespaces that a worker was started in: an empty root, and a user namespace in which
//! its user is nobody.
//!
//! `unsafe` is here for `unshare`.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

/// The user that a worker is, as it sees itself: the kernel's own name for nobody in particular.
pub(super) const NOBODY: u32 = 65534;

/// Replaces all that is mounted by an empty folder that nobody can write to.
pub(super) fn empty_root() -> io::Result<()> {
    // Nothing of what follows may reach the namespace this one was made from.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    // Any folder serves as the place of the new root, and this one is always there.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = c"mode=0555,size=4k,nr_inodes=1";
    rustix::mount::mount("none", "/proc", "tmpfs", flags, options)?;
    rustix::process::chdir("/proc")?;
    // The old root lands on top of the new one, and is taken off.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Moves into a user namespace of its own, as [`NOBODY`]. `proc_self` is this process's folder in
/// `/proc`, which may be out of reach by now.
pub(super) fn own_users(proc_self: &impl AsFd) -> io::Result<()> {
    // A process that has changed its user is not dumpable, and then its files in `/proc` are
    // root's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: this process has one thread, and nothing of what threads share is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    // Who may write a map of a single line must have given up changing groups.
    put(proc_self, "setgroups", "deny")?;
    put(proc_self, "uid_map", &format!("{NOBODY} {} 1", uid.as_raw()))?;
    put(proc_self, "gid_map", &format!("{NOBODY} {} 1", gid.as_raw()))
}

fn put(folder: &impl AsFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let named = |err: rustix::io::Errno| io::Error::other(format!("{name}: {err}"));
    let file = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(named)?;
    match rustix::io::write(&file, text.as_bytes()).map_err(named)? {
        written if written == text.len() => Ok(()),
        _ => Err(io::Error::other(format!("{name}: it was not written whole"))),
    }
}
