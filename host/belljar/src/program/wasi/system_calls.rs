//! The system calls that a program's process needs for WASI, in addition to those for running
//! WebAssembly: for the filter of its role.
//!
//! The list must have no call that creates a socket, a link or a device, and none that opens files
//! except `openat2`: `open`, `openat`, `socket`, `connect`, `bind`, `listen`, `accept`, `link`,
//! `symlink`, `mknod`, `chmod`, `chown`, `mount` and similar calls stay forbidden.

/// System calls, and the purpose of each.
#[cfg_attr(not(test), allow(dead_code, reason = "a test compares the filter with it"))]
pub(crate) const SYSTEM_CALLS: &[(&str, &str)] = &[
    ("openat2", "every open below a grant"),
    ("close", "a handle dropped"),
    ("fstat", "what was opened: type, links, size"),
    ("getdents64", "the names in a folder"),
    ("lseek", "to the beginning of a folder's names"),
    ("pread64", "reading a file"),
    ("pwrite64", "writing a file"),
    ("pwritev2", "appending to a file"),
    ("mkdirat", "making a folder, in a grant to write"),
    ("unlinkat", "removing a file or folder, in a grant to write"),
    ("renameat2", "moving within a grant to write"),
    ("ftruncate", "setting a file's size, in a grant to write"),
    ("utimensat", "setting a file's times, in a grant to write"),
    ("fsync", "a file onto its disk"),
    ("fdatasync", "a file onto its disk"),
    ("recvfrom", "receiving from a connection that was handed over"),
    ("sendto", "sending to one"),
    ("shutdown", "ending one"),
    ("poll", "waiting for one, or for a time"),
    ("ppoll", "the same"),
    ("getrandom", "randomness, where it is granted"),
    ("clock_gettime", "clocks, where the kernel's page for them is missing"),
];
