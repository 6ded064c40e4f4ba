//! The open modes with which a guest program's process may open files and folders below its grants.
//!
//! `openat2` takes its arguments from memory, which a seccomp filter cannot read. So the requests
//! are constants at a fixed address, and the filter allows `openat2` only with a pointer to one of
//! them. A compromised process cannot change them: the memory is a sealed file that is mapped
//! read-only, and every call that maps, unmaps, moves or protects memory is allowed above that
//! address only. Every request keeps the kernel below the folder and makes it refuse links, and new
//! files get at most the mode below: neither `..` nor a set-user-ID bit is possible.
//!
//! `unsafe` is needed for the call and for the mapping.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::memory::SealedWriter;
use super::seccomp::{Condition, Test, Value, long};

/// Permissions of new files and folders, before the process's umask.
const FILE_MODE: u64 = 0o644;
pub const FOLDER_MODE: u32 = 0o755;

/// How the kernel resolves paths: below the folder, without following links of either kind, and
/// without entering another file system.
const BENEATH: u64 = libc::RESOLVE_BENEATH
    | libc::RESOLVE_NO_SYMLINKS
    | libc::RESOLVE_NO_MAGICLINKS
    | libc::RESOLVE_NO_XDEV;

/// The address of the requests in a confined process: below everything that it maps itself.
const ADDRESS: usize = 0x1000_0000;

const PAGE: usize = 4 << 10;

/// `struct open_how` of Linux.
#[repr(C)]
#[derive(Clone, Copy)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// One way to open a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A file or folder, without opening it (`O_PATH`).
    Look,
    /// A folder, as the base of later calls on names in it.
    Folder,
    /// A folder, to list its names.
    List,
    /// A file, to read.
    Read,
    /// A file, to write.
    Write,
    /// A file, to read and write.
    ReadWrite,
    /// A new file, to write.
    New,
    /// A new file, to read and write.
    NewReadWrite,
    /// A new file, to read.
    NewRead,
}

impl Way {
    const ALL: [Way; 9] = [
        Way::Look,
        Way::Folder,
        Way::List,
        Way::Read,
        Way::Write,
        Way::ReadWrite,
        Way::New,
        Way::NewReadWrite,
        Way::NewRead,
    ];

    const fn how(self) -> How {
        const OPENED: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;
        const NEW: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_NOCTTY;
        let flags = match self {
            Way::Look => libc::O_PATH,
            Way::Folder => libc::O_PATH | libc::O_DIRECTORY,
            Way::List => libc::O_RDONLY | libc::O_DIRECTORY,
            Way::Read => libc::O_RDONLY | OPENED,
            Way::Write => libc::O_WRONLY | OPENED,
            Way::ReadWrite => libc::O_RDWR | OPENED,
            Way::New => libc::O_WRONLY | NEW,
            Way::NewReadWrite => libc::O_RDWR | NEW,
            Way::NewRead => libc::O_RDONLY | NEW,
        };
        let mode = match self {
            Way::New | Way::NewReadWrite | Way::NewRead => FILE_MODE,
            _ => 0,
        };
        How { flags: (flags | libc::O_CLOEXEC) as u64, mode, resolve: BENEATH }
    }

    /// The filter's conditions on the arguments of `openat2`.
    pub(super) const fn condition(self) -> &'static [Condition] {
        const fn at(name: &'static str, way: Way) -> [Condition; 2] {
            let address = ADDRESS + way as usize * size_of::<How>();
            [
                long(2, "how", Test::Is(Value(name, address as u64))),
                long(3, "size", Test::Is(Value("24", size_of::<How>() as u64))),
            ]
        }
        match self {
            Way::Look => const { &at("O_PATH, beneath", Way::Look) },
            Way::Folder => const { &at("O_PATH | O_DIRECTORY, beneath", Way::Folder) },
            Way::List => const { &at("O_RDONLY | O_DIRECTORY, beneath", Way::List) },
            Way::Read => const { &at("O_RDONLY, beneath", Way::Read) },
            Way::Write => const { &at("O_WRONLY, beneath", Way::Write) },
            Way::ReadWrite => const { &at("O_RDWR, beneath", Way::ReadWrite) },
            Way::New => const { &at("O_WRONLY | O_CREAT | O_EXCL, 0644, beneath", Way::New) },
            Way::NewReadWrite => {
                const { &at("O_RDWR | O_CREAT | O_EXCL, 0644, beneath", Way::NewReadWrite) }
            }
            Way::NewRead => {
                const { &at("O_RDONLY | O_CREAT | O_EXCL, 0644, beneath", Way::NewRead) }
            }
        }
    }
}

/// The requests. A process without the filter uses them directly.
static REQUESTS: [How; Way::ALL.len()] = {
    let mut all = [Way::Look.how(); Way::ALL.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = Way::ALL[at].how();
        at += 1;
    }
    all
};

/// Whether the requests are mapped at their fixed address.
static PINNED: AtomicBool = AtomicBool::new(false);

/// Maps the requests at the address that the filter expects. Call it before the filter is
/// installed.
pub(super) fn pin() -> io::Result<()> {
    let mut writer = SealedWriter::new("belljar-ways")?;
    for How { flags, mode, resolve } in REQUESTS {
        let bytes = [flags, mode, resolve].map(u64::to_ne_bytes).concat();
        writer.write(&bytes)?;
    }
    writer.skip(PAGE as u64 - writer.len());
    let sealed = writer.seal()?;
    let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED_NOREPLACE);
    let wanted = std::ptr::without_provenance_mut(ADDRESS);
    // SAFETY: a new mapping of memory that never changes; it replaces no other mapping.
    let at = unsafe { rustix::mm::mmap(wanted, PAGE, prot, flags, &sealed, 0)? };
    if at != wanted {
        return Err(io::Error::other(format!("cannot map the open requests at {ADDRESS:#x}")));
    }
    PINNED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Opens a path below a folder.
pub fn open(folder: BorrowedFd<'_>, path: &CStr, way: Way) -> rustix::io::Result<OwnedFd> {
    let at = way as usize;
    let how: *const How = match PINNED.load(Ordering::Relaxed) {
        true => std::ptr::with_exposed_provenance(ADDRESS + at * size_of::<How>()),
        false => REQUESTS.as_ptr().wrapping_add(at),
    };
    // SAFETY: the path ends in a zero byte, and the request is one of `REQUESTS`, here or in the
    // mapping that `pin` has made of them; the kernel only reads them.
    let opened = unsafe {
        let (folder, path) = (folder.as_raw_fd(), path.as_ptr());
        libc::syscall(libc::SYS_openat2, folder, path, how, size_of::<How>())
    };
    match i32::try_from(opened) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(opened) if opened >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(opened) }),
        _ => Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_at_the_index_of_its_way() {
        for (at, way) in Way::ALL.into_iter().enumerate() {
            assert_eq!(way as usize, at, "{way:?}");
            let How { flags, mode, resolve } = REQUESTS[at];
            assert_eq!(resolve, BENEATH, "{way:?}");
            assert_eq!(mode & !0o777, 0, "{way:?}");
            assert_eq!(mode != 0, flags & libc::O_CREAT as u64 != 0, "{way:?}");
        }
        assert!(size_of_val(&REQUESTS) <= PAGE && ADDRESS + PAGE <= 1 << 32);
    }
}
