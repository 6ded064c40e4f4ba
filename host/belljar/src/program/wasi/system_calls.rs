//! What a program's process asks of the kernel for WASI, besides what running WebAssembly takes: for
//! the filter of its role.
//!
//! Nothing that makes a socket or a name of a process is among them, and nothing that opens by
//! another way than `openat2`: `open`, `openat`, `socket`, `connect`, `bind`, `listen`, `accept`,
//! `link`, `symlink`, `mknod`, `chmod`, `chown`, `mount` and their like stay forbidden.

/// Names of system calls, and what each is for.
#[cfg_attr(not(test), allow(dead_code, reason = "a test holds the filter against it"))]
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
