//! Escape attempts that start from what a policy grants to a program: a folder and a connection.
//! Each path is tried in several forms: through the parent folder, absolute, and through `/proc`.

use std::ffi::{CString, c_int, c_long};
use std::mem::MaybeUninit;

use super::calls::{address, call, connect};
use super::{AttemptResult, Try, World, held};

pub(super) const ATTEMPTS: &[(&str, Try)] = &[
    (LOOK, |world| each_form(world, |at, path| openat2(at, path, libc::O_PATH, 0, 0).map(drop))),
    (LOOK, |world| {
        each_form(world, |at, path| {
            let mut stat = MaybeUninit::<libc::stat>::uninit();
            let to = stat.as_mut_ptr() as c_long;
            call(libc::SYS_newfstatat, [at, path, to, 0, 0]).map(drop)
        })
    }),
    (LOOK, |world| {
        each_form(world, |at, path| {
            let mut stat = MaybeUninit::<libc::statx>::uninit();
            let (all, to) = (libc::STATX_BASIC_STATS.into(), stat.as_mut_ptr() as c_long);
            call(libc::SYS_statx, [at, path, 0, all, to]).map(drop)
        })
    }),
    (LOOK, |world| {
        each_form(world, |at, path| call(libc::SYS_faccessat2, [at, path, 0, 0, 0]).map(drop))
    }),
    (LOOK, |world| {
        let mut text = [0u8; 64];
        let to = text.as_mut_ptr() as c_long;
        each_form_of(world, &world.link, |at, path| {
            call(libc::SYS_readlinkat, [at, path, to, 64, 0]).map(drop)
        })
    }),
    (LOOK, |world| {
        // Opens the link itself, without following it.
        each_form_of(world, &world.link, |at, path| {
            openat2(at, path, libc::O_PATH | libc::O_NOFOLLOW, 0, 0).map(drop)
        })
    }),
    (FIND, |world| {
        // Neither is a folder, so nothing is removed, but the error could reveal which one exists.
        let asked = |path: &str| {
            each_form_of(world, path, |at, path| {
                let how = libc::AT_REMOVEDIR.into();
                call(libc::SYS_unlinkat, [at, path, how, 0, 0]).map(drop)
            })
        };
        match (asked(&world.home), asked(&format!("{}-missing", world.home))) {
            (Err(there), Err(missing)) if there != missing => Ok(()),
            (there, _) => there,
        }
    }),
    (OPEN, |world| each_form(world, |at, path| openat2(at, path, libc::O_RDONLY, 0, 0).map(drop))),
    (OPEN, |world| {
        each_form(world, |at, path| {
            call(libc::SYS_openat, [at, path, libc::O_RDWR.into(), 0, 0]).map(drop)
        })
    }),
    (OPEN, |world| {
        each_form(world, |at, path| {
            let steal = [at, path, held()?.folder, c"stolen".as_ptr() as c_long, 0];
            call(libc::SYS_linkat, steal)?;
            remove(held()?.folder, c"stolen", 0)
        })
    }),
    (CHANGE, |world| {
        each_form(world, |at, path| call(libc::SYS_utimensat, [at, path, 0, 0, 0]).map(drop))
    }),
    (CHANGE, |world| {
        each_form(world, |at, path| call(libc::SYS_fchmodat, [at, path, 0o666, 0, 0]).map(drop))
    }),
    (CHANGE, |world| {
        each_form(world, |at, path| call(libc::SYS_fchmodat2, [at, path, 0o666, 0, 0]).map(drop))
    }),
    (CHANGE, |world| {
        each_form(world, |at, path| call(libc::SYS_fchownat, [at, path, -1, -1, 0]).map(drop))
    }),
    (CHANGE, |world| {
        each_form_of(world, &world.made, |at, path| {
            call(libc::SYS_mkdirat, [at, path, 0o755, 0, 0])?;
            was_outside(world, at, path, libc::AT_REMOVEDIR)
        })
    }),
    (CHANGE, |world| {
        each_form_of(world, &world.made, |at, path| {
            let to = c"nowhere".as_ptr() as c_long;
            call(libc::SYS_symlinkat, [to, at, path, 0, 0])?;
            was_outside(world, at, path, 0)
        })
    }),
    (CHANGE, |world| {
        each_form_of(world, &world.made, |at, path| {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            openat2(at, path, flags, 0o600, 0)?;
            was_outside(world, at, path, 0)
        })
    }),
    (CHANGE, |world| {
        each_form_of(world, &world.log, |at, path| {
            let inside = [at, path, held()?.folder, c"moved".as_ptr() as c_long, 0];
            call(libc::SYS_renameat2, inside)?;
            let back = [held()?.folder, c"moved".as_ptr() as c_long, at, path, 0];
            call(libc::SYS_renameat2, back).map(drop)
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            openat2(folder, path, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o4755, 0)
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            call(libc::SYS_openat, [folder, path, flags.into(), 0o4755, 0])
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            let file = new_file(folder, path)?;
            call(libc::SYS_fchmod, [file, 0o4755, 0, 0, 0])
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            new_file(folder, path)?;
            call(libc::SYS_fchmodat, [folder, path, 0o4755, 0, 0])
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            let file = new_file(folder, path)?;
            let (empty, itself) = (c"".as_ptr() as c_long, libc::AT_EMPTY_PATH.into());
            call(libc::SYS_fchmodat2, [file, empty, 0o4755, itself, 0])
        })
    }),
    (SET_USER, |_| {
        made(|folder, path| {
            call(libc::SYS_mknodat, [folder, path, (libc::S_IFREG | 0o4755).into(), 0, 0])
        })
    }),
    (SET_USER, |_| {
        let folder = held()?.folder;
        call(libc::SYS_mkdirat, [folder, NAME.as_ptr() as c_long, 0o3777, 0, 0])?;
        remove(folder, NAME, libc::AT_REMOVEDIR)
    }),
    (DEVICE, |_| {
        made(|folder, path| {
            call(libc::SYS_mknodat, [folder, path, (libc::S_IFCHR | 0o666).into(), 0, 0])
        })
    }),
    (DEVICE, |_| {
        made(|folder, path| {
            new_file(folder, path)?;
            let flags = libc::RENAME_WHITEOUT.into();
            let to = c"moved".as_ptr() as c_long;
            call(libc::SYS_renameat2, [folder, path, folder, to, flags])?;
            remove(folder, c"moved", 0).map(|()| 0)
        })
    }),
    (DEVICE, |_| {
        made(|folder, path| {
            call(libc::SYS_mknodat, [folder, path, (libc::S_IFIFO | 0o666).into(), 0, 0])
        })
    }),
    (ELSEWHERE, |world| {
        let (socket, to) = (held()?.socket, address(world.other_udp));
        let (to, len) = (&raw const to as c_long, size_of_val(&to) as c_long);
        // SAFETY: an address of this length, and a buffer of one byte.
        match unsafe { libc::syscall(libc::SYS_sendto, socket, c"x".as_ptr(), 1_usize, 0, to, len) }
        {
            1 => Ok(()),
            _ => Err(super::last_error()),
        }
    }),
    (ELSEWHERE, |world| {
        with_message(world, |message| {
            call(libc::SYS_sendmsg, [held()?.socket, message, 0, 0, 0]).map(drop)
        })
    }),
    (ELSEWHERE, |world| {
        with_message(world, |message| {
            call(libc::SYS_sendmmsg, [held()?.socket, message, 1, 0, 0]).map(drop)
        })
    }),
    (ELSEWHERE, |world| connect(held()?.socket, &address(world.other_udp))),
    (ELSEWHERE, |world| {
        // Replaces the one descriptor through which messages may be sent.
        call(libc::SYS_close, [super::super::channel::CHANNEL.into(), 0, 0, 0, 0])?;
        let socket = call(libc::SYS_dup, [held()?.socket, 0, 0, 0, 0])?;
        with_message(world, |message| {
            call(libc::SYS_sendmsg, [socket, message, 0, 0, 0])?;
            // The channel is closed, so only the exit code can report the result.
            // SAFETY: the end of the process.
            unsafe { libc::_exit(0) }
        })
    }),
];

/// Each removes or renames a mount point.
pub(super) const UNMOUNTS: &[(&str, Try)] = &[
    (UNMOUNT, |_| unlink(c"mnt", libc::AT_REMOVEDIR)),
    (UNMOUNT, |_| unlink(c"pin", 0)),
    (UNMOUNT, |_| rename(c"mnt", c"moved")),
    (UNMOUNT, |_| rename(c"pin", c"moved")),
    (UNMOUNT, |_| rename(c"empty", c"mnt")),
];

const UNMOUNT: &str = "unmount what is mounted below a granted folder";
const LOOK: &str = "look at a host file from a granted folder";
const FIND: &str = "find a name outside of a granted folder";
const OPEN: &str = "open a host file from a granted folder";
const CHANGE: &str = "change something outside of a granted folder";
const SET_USER: &str = "make a set-user-ID file in a granted folder";
const DEVICE: &str = "make a device or pipe in a granted folder";
const ELSEWHERE: &str = "send elsewhere by a granted connection";

const NAME: &std::ffi::CStr = c"breach";

/// Tries a call on a file next to the granted folder.
fn each_form(world: &World, attempt: impl Fn(c_long, c_long) -> AttemptResult) -> AttemptResult {
    each_form_of(world, &world.home, attempt)
}

/// Tries a call on a file next to the granted folder, with the path in this attempt's form.
fn each_form_of(
    world: &World,
    path: &str,
    attempt: impl Fn(c_long, c_long) -> AttemptResult,
) -> AttemptResult {
    let folder = held()?.folder;
    let name = path.rsplit('/').next().unwrap_or_default();
    let (at, path) = match world.form {
        0 => (folder, format!("../{name}")),
        1 => (folder, path.to_owned()),
        2 => (libc::AT_FDCWD.into(), format!("/proc/self/fd/{folder}/../{name}")),
        _ => (folder, format!("./../{name}")),
    };
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    attempt(at, path.as_ptr() as c_long)
}

/// Removes what an attempt created through a path that leaves the granted folder. If the folder is
/// the root of its mount, such a path leads back into it, and nothing was created outside.
fn was_outside(world: &World, at: c_long, path: c_long, flags: c_int) -> AttemptResult {
    let name = world.made.rsplit('/').next().unwrap_or_default();
    let name = CString::new(name).map_err(|_| libc::EINVAL)?;
    let inside = [held()?.folder, name.as_ptr() as c_long, flags.into(), 0, 0];
    match call(libc::SYS_unlinkat, inside) {
        Ok(_) => Err(libc::EXDEV),
        Err(_) => call(libc::SYS_unlinkat, [at, path, flags.into(), 0, 0]).map(drop),
    }
}

/// Creates something forbidden in the granted folder, and removes it.
fn made(attempt: impl Fn(c_long, c_long) -> Result<c_long, i32>) -> AttemptResult {
    let folder = held()?.folder;
    attempt(folder, NAME.as_ptr() as c_long)?;
    remove(folder, NAME, 0)
}

fn new_file(folder: c_long, path: c_long) -> Result<c_long, i32> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    call(libc::SYS_openat, [folder, path, flags.into(), 0o600, 0])
}

fn unlink(name: &std::ffi::CStr, flags: c_int) -> AttemptResult {
    call(libc::SYS_unlinkat, [held()?.folder, name.as_ptr() as c_long, flags.into(), 0, 0])
        .map(drop)
}

fn rename(from: &std::ffi::CStr, to: &std::ffi::CStr) -> AttemptResult {
    let folder = held()?.folder;
    let names = [from, to].map(|name| name.as_ptr() as c_long);
    call(libc::SYS_renameat2, [folder, names[0], folder, names[1], 0]).map(drop)
}

/// Removes a name. Errors are ignored: the test cleans up afterwards.
fn remove(folder: c_long, name: &std::ffi::CStr, flags: c_int) -> AttemptResult {
    let _ = call(libc::SYS_unlinkat, [folder, name.as_ptr() as c_long, flags.into(), 0, 0]);
    Ok(())
}

fn openat2(at: c_long, path: c_long, flags: c_int, mode: u64, way: u64) -> Result<c_long, i32> {
    let how = [flags as u64, mode, way];
    call(libc::SYS_openat2, [at, path, how.as_ptr() as c_long, 24, 0])
}

/// A message of one byte to an address other than the peer's.
fn with_message(world: &World, attempt: impl Fn(c_long) -> AttemptResult) -> AttemptResult {
    let mut to = address(world.other_udp);
    let mut byte = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: a zeroed message is a valid one.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = (&raw mut to).cast();
    message.msg_hdr.msg_namelen = size_of_val(&to) as u32;
    message.msg_hdr.msg_iov = &raw mut byte;
    message.msg_hdr.msg_iovlen = 1;
    attempt(&raw mut message as c_long)
}
