//! Sets up the namespaces that a worker was started in: an empty root, and a user namespace in
//! which its user is nobody.
//!
//! `unsafe` is needed for `unshare`, and for calls without a safe wrapper.

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

/// The user id of a worker inside its namespace: the kernel's overflow id (`nobody`).
pub(super) const NOBODY: u32 = 65534;

/// Users or groups of this user namespace, from one of the kernel's id maps: the first id of each
/// line, and the number of ids.
fn mapped(map: &str) -> Option<Vec<(u64, u64)>> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some((first, count))
    };
    map.lines().map(line).collect()
}

fn has_id(map: &str, id: u64) -> bool {
    // A map that cannot be parsed excludes no id.
    mapped(map)
        .is_none_or(|all| all.iter().any(|(first, count)| id >= *first && id - first < *count))
}

/// Whether this user namespace has the user and group [`NOBODY`], and allows dropping supplementary
/// groups. If the kernel shows nothing, that is assumed.
pub(super) fn has_nobody() -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    let has = |name| read(name).is_none_or(|map| has_id(&map, NOBODY.into()));
    let groups = read("setgroups").is_none_or(|word| word.trim() != "deny");
    groups && has("uid_map") && has("gid_map")
}

/// Whether this user namespace has only one user, so that a process cannot switch to another. Its
/// uid 0 is an ordinary user outside, and has no more rights here once it has no capabilities.
pub(super) fn has_one_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    matches!(mapped(&map).as_deref(), Some([(_, 1)]))
}

/// Replaces all mounts by an empty read-only folder, and detaches the granted folders and files
/// from their surroundings.
pub(super) fn empty_root(granted: &[Granted<'_>]) -> io::Result<()> {
    // Keeps the changes below out of the mount namespace of the supervisor.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    // The root is emptied even if this fails.
    let cut_off = granted.iter().try_for_each(cut_off);
    // Any folder can be the mount point of the new root, and this one always exists.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = format!("mode=0555,size=4k,nr_inodes={}", granted.len() + 1);
    let options = CString::new(options)?;
    rustix::mount::mount("none", "/proc", "tmpfs", flags, options.as_c_str())?;
    rustix::process::chdir("/proc")?;
    // This stacks the old root on top of the new one, and then unmounts it.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let taken_in = cut_off.and_then(|()| take_in(granted));
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, "")?;
    taken_in
}

/// Attaches the mounts of folders that are granted for writing, with those below them, to this
/// namespace. The kernel protects a mount point from removal only against callers of the same
/// namespace; for others, removing the name silently unmounts what is mounted there.
///
/// They are attached in the new root, which then loses all permissions: no name can be found in it,
/// nor above a granted folder.
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

/// Replaces a granted folder or file by a detached mount of it, under the same descriptor. No path
/// leads out of the mount, because its root has no parent. A grant for reading becomes read-only,
/// including its times; the mount has no devices, programs or effective set-user-ID bits, and does
/// not follow links.
fn cut_off(granted: &Granted<'_>) -> io::Result<()> {
    let failed =
        |err: io::Error| io::Error::other(format!("cannot detach a granted folder or file: {err}"));
    mounted_alone(granted).map_err(failed)
}

fn mounted_alone(granted: &Granted<'_>) -> io::Result<()> {
    let number = granted.descriptor.as_raw_fd();
    let stat = rustix::fs::fstat(granted.descriptor)?;
    let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !folder && granted.write {
        // No other name can be reached from the descriptor of a file.
        return Ok(());
    }
    // A mount can only be cloned from a path in this process's own namespace. The check below makes
    // sure that the path still leads to the same folder or file.
    let path = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&here)?;
    if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(io::Error::other("its path now leads to another folder or file"));
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
    // SAFETY: the owner of this number keeps it, for the same folder or file; the kernel replaces
    // the open file in one step, and this process has one thread.
    match unsafe { libc::dup3(alone.as_raw_fd(), number, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Removes from a mount, and from those below it, everything that plain file access does not need.
/// A grant for writing makes only the mount itself writable, not those below it.
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
        // SAFETY: the path ends in a zero byte, and the attributes have this size; the kernel only
        // reads them.
        let result = unsafe {
            libc::syscall(libc::SYS_mount_setattr, tree, path, how, &raw const attributes, size)
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // Mounts that are read-only on the host stay read-only.
    let was_read_only =
        rustix::fs::fstatvfs(tree)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let set = NO_SET_USER_ID | NO_DEVICES | NO_PROGRAMS | NO_LINKS | READ_ONLY;
    change(Attributes { set, ..Attributes::default() }, libc::AT_RECURSIVE)?;
    if write && !was_read_only {
        change(Attributes { clear: READ_ONLY, ..Attributes::default() }, 0)?;
    }
    Ok(())
}

/// Moves into a new user namespace, as [`NOBODY`]. `proc_self` is this process's folder in `/proc`,
/// which may no longer be reachable by path.
pub(super) fn own_users(proc_self: &impl AsFd) -> io::Result<()> {
    // A process that has changed its user is not dumpable, and root then owns its files in `/proc`.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: this process has one thread, and unshares nothing that threads share.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    // The kernel requires this before an unprivileged process writes its gid map.
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
        _ => Err(io::Error::other(format!("{name}: only a part of it was written"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps_are_parsed() {
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
