//! Inside the namespaces that a worker was started in: an empty root, and a user namespace in which
//! its user is nobody.
//!
//! `unsafe` is here for `unshare`, and for calls that have no safe name.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

use super::setup::Granted;

/// The user that a worker is, as it sees itself: the kernel's own name for nobody in particular.
pub(super) const NOBODY: u32 = 65534;

/// Users or groups of this user namespace, from a map of the kernel's: for each line the first of
/// them, and how many there are.
fn mapped(map: &str) -> Option<Vec<(u64, u64)>> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some((first, count))
    };
    map.lines().map(line).collect()
}

fn has_id(map: &str, id: u64) -> bool {
    // A map that makes no sense rules nobody out.
    mapped(map)
        .is_none_or(|all| all.iter().any(|(first, count)| id >= *first && id - first < *count))
}

/// Whether there is another user to become in this user namespace, with a group of its own, and no
/// other groups. Where the kernel shows nothing, that is assumed.
pub(super) fn has_nobody() -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let known = |name| read(name).is_none_or(|map| has_id(&map, NOBODY.into()));
    let groups = read("setgroups").is_none_or(|word| word.trim() != "deny");
    groups && known("uid_map") && known("gid_map")
}

/// Whether this user namespace has one user, so that nobody can stop being it. Its uid 0 is an
/// ordinary user elsewhere and no more than that here, once it has no capabilities.
pub(super) fn has_one_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    matches!(mapped(&map).as_deref(), Some([(_, 1)]))
}

/// Replaces all that is mounted by an empty folder that nobody can write to, and has what is granted
/// end at itself.
pub(super) fn empty_root(granted: &[Granted<'_>]) -> io::Result<()> {
    // Nothing of what follows may reach the namespace this one was made from.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    // The root is emptied even if this fails.
    let cut_off = granted.iter().try_for_each(cut_off);
    // Any folder serves as the place of the new root, and this one is always there.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = format!("mode=0555,size=4k,nr_inodes={}", granted.len() + 1);
    let options = CString::new(options)?;
    rustix::mount::mount("none", "/proc", "tmpfs", flags, options.as_c_str())?;
    rustix::process::chdir("/proc")?;
    // The old root lands on top of the new one, and is taken off.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let taken_in = cut_off.and_then(|()| take_in(granted));
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, "")?;
    taken_in
}

/// Makes the mounts of folders that are granted for writing, with those below them, part of this
/// namespace. The kernel keeps a name busy for the mounts of the caller's own namespace, and takes the
/// mounts of all others away with the name, without a word.
///
/// They lie in the new root, which nobody may look into any more: no name is found there, and none above
/// a granted folder.
fn take_in(granted: &[Granted<'_>]) -> io::Result<()> {
    for (at, granted) in granted.iter().enumerate() {
        let stat = rustix::fs::fstat(granted.descriptor)?;
        if granted.write && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let place = format!("/{at}");
            rustix::fs::mkdir(&place, Mode::empty())?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(granted.descriptor, "", CWD, &place, flags)?;
            rustix::fs::chmod("/", Mode::empty())?;
        }
    }
    Ok(())
}

/// Puts a mount of its own in the place of something granted, under the same descriptor. No path
/// leads out of it: above its root there is nothing. What is granted for reading is read-only there,
/// its times too; there are no devices, no programs, no set-user-ID bits that count, and no links that
/// are followed.
fn cut_off(granted: &Granted<'_>) -> io::Result<()> {
    let failed = |err: io::Error| io::Error::other(format!("a granted folder or file: {err}"));
    mounted_alone(granted).map_err(failed)
}

fn mounted_alone(granted: &Granted<'_>) -> io::Result<()> {
    let number = granted.descriptor.as_raw_fd();
    let stat = rustix::fs::fstat(granted.descriptor)?;
    let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !folder && granted.write {
        // It leads nowhere, and its descriptor is all that there is to it.
        return Ok(());
    }
    // A mount can only be made of what is in this process's own namespace. That it is the same folder
    // or file is looked at, not taken from its name.
    let path = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&here)?;
    if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(io::Error::other("something else is where it was"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(&here, "", flags)?;
    restrict(&tree, granted.write)?;
    let alone = match folder {
        true => tree,
        false => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
            rustix::fs::open(path, flags, Mode::empty())?
        }
    };
    // SAFETY: the owner of this number goes on owning it, on the same folder or file; the kernel changes
    // what it stands for in one step, and this process has one thread.
    match unsafe { libc::dup3(alone.as_raw_fd(), number, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes from a mount, and from those below it, what nobody needs who works with files. Where it is
/// granted for writing, that holds for the mount itself and not for those below.
fn restrict(tree: &impl AsFd, write: bool) -> io::Result<()> {
    /// `struct mount_attr` of Linux.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const READ_ONLY: u64 = 0x1;
    const NO_SET_USER_ID: u64 = 0x2;
    const NO_DEVICES: u64 = 0x4;
    const NO_PROGRAMS: u64 = 0x8;
    const NO_LINKS: u64 = 0x20_0000;
    let change = |attributes: Attributes, how: i32| {
        let (tree, how) = (tree.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH | how);
        let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
        // SAFETY: an empty path that ends in a zero byte, and attributes of this size, which the kernel
        // only reads.
        let result = unsafe {
            libc::syscall(libc::SYS_mount_setattr, tree, path, how, &raw const attributes, size)
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // What the host mounts for reading stays so.
    let was_read_only =
        rustix::fs::fstatvfs(tree)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let set = NO_SET_USER_ID | NO_DEVICES | NO_PROGRAMS | NO_LINKS | READ_ONLY;
    change(Attributes { set, ..Attributes::default() }, libc::AT_RECURSIVE)?;
    if write && !was_read_only {
        change(Attributes { clear: READ_ONLY, ..Attributes::default() }, 0)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_users_are_understood() {
        let (all, one) =
            ("         0          0 4294967295\n", "         0       1000          1\n");
        let container = "         0       1000          1\n         1     100000      65536\n";
        assert!(has_id(all, NOBODY.into()) && has_id(container, NOBODY.into()));
        assert!(!has_id(one, NOBODY.into()) && has_id(one, 0));
        assert!(has_id("nonsense", NOBODY.into()));
        assert_eq!(mapped(one), Some(vec![(0, 1)]));
        assert_eq!(mapped(container).map(|all| all.len()), Some(2));
        assert_eq!(mapped("1 2"), None);
    }
}
