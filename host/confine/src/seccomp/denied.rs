//! The system calls that are denied to a sandbox on a thread of an embedding program.
//!
//! This is a deny list, because the thread shares its process, allocator and libraries with an
//! unknown program. So it is not a security boundary: it only blocks the calls that an exploit
//! usually makes first.

use super::calls::Test::{Has, IsOtherProcess, Lacks};
use super::calls::{Call, Condition, Value, int, long};

/// A group of denied calls, with the reason.
pub(super) struct Denied {
    pub(super) why: &'static str,
    pub(super) calls: &'static [(Call, &'static [Condition])],
}

const EXECUTABLE: Condition = long(2, "prot", Has(Value("PROT_EXEC", libc::PROT_EXEC as u64)));
const NO_THREAD: Condition =
    int(0, "flags", Lacks(Value("CLONE_THREAD", libc::CLONE_THREAD as u64)));
const SOMEBODY_ELSE: Condition = int(0, "pid", IsOtherProcess);

const fn call(name: &'static str, x86_64: i64, aarch64: i64) -> (Call, &'static [Condition]) {
    (Call::new(name, x86_64, aarch64), &[])
}

const fn old(name: &'static str, number: i64) -> (Call, &'static [Condition]) {
    (Call::x86_64(name, number), &[])
}

pub(super) static DENIED: &[Denied] = &[
    Denied {
        why: "no new executable memory",
        calls: &[
            (Call::new("mmap", 9, 222), &[EXECUTABLE]),
            (Call::new("mprotect", 10, 226), &[EXECUTABLE]),
            (Call::new("pkey_mprotect", 329, 288), &[EXECUTABLE]),
            call("shmat", 30, 196),
            call("personality", 135, 92),
            call("remap_file_pages", 216, 234),
        ],
    },
    Denied {
        why: "no other programs and no new processes",
        calls: &[
            call("execve", 59, 221),
            call("execveat", 322, 281),
            old("fork", 57),
            old("vfork", 58),
            (Call::new("clone", 56, 220), &[NO_THREAD]),
            old("uselib", 134),
        ],
    },
    Denied {
        why: "no access to other processes",
        calls: &[
            call("ptrace", 101, 117),
            call("process_vm_readv", 310, 270),
            call("process_vm_writev", 311, 271),
            call("process_madvise", 440, 440),
            call("pidfd_open", 434, 434),
            call("pidfd_getfd", 438, 438),
            call("pidfd_send_signal", 424, 424),
            (Call::new("kill", 62, 129), &[SOMEBODY_ELSE]),
            (Call::new("tgkill", 234, 131), &[SOMEBODY_ELSE]),
            call("tkill", 200, 130),
            (Call::new("rt_sigqueueinfo", 129, 138), &[SOMEBODY_ELSE]),
            (Call::new("rt_tgsigqueueinfo", 297, 240), &[SOMEBODY_ELSE]),
            call("prlimit64", 302, 261),
        ],
    },
    Denied {
        why: "no new connections",
        calls: &[
            call("socket", 41, 198),
            call("socketpair", 53, 199),
            call("connect", 42, 203),
            call("bind", 49, 200),
        ],
    },
    Denied {
        why: "no files",
        calls: &[
            old("open", 2),
            call("openat", 257, 56),
            call("openat2", 437, 437),
            old("creat", 85),
            call("open_by_handle_at", 304, 265),
            call("open_tree", 428, 428),
            call("truncate", 76, 45),
            old("unlink", 87),
            call("unlinkat", 263, 35),
            old("rename", 82),
            call("renameat", 264, 38),
            call("renameat2", 316, 276),
            old("link", 86),
            call("linkat", 265, 37),
            old("symlink", 88),
            call("symlinkat", 266, 36),
            old("mkdir", 83),
            call("mkdirat", 258, 34),
            old("rmdir", 84),
            old("mknod", 133),
            call("mknodat", 259, 33),
            old("chmod", 90),
            call("fchmodat", 268, 53),
            call("fchmodat2", 452, 452),
            old("chown", 92),
            old("lchown", 94),
            call("fchownat", 260, 54),
            call("setxattr", 188, 5),
            call("lsetxattr", 189, 6),
            call("removexattr", 197, 14),
            call("lremovexattr", 198, 15),
        ],
    },
    Denied {
        why: "no change of mounts, root and namespaces",
        calls: &[
            call("mount", 165, 40),
            call("umount2", 166, 39),
            call("pivot_root", 155, 41),
            call("chroot", 161, 51),
            call("move_mount", 429, 429),
            call("fsopen", 430, 430),
            call("fsconfig", 431, 431),
            call("fsmount", 432, 432),
            call("fspick", 433, 433),
            call("mount_setattr", 442, 442),
            call("unshare", 272, 97),
            call("setns", 308, 268),
        ],
    },
    Denied {
        why: "kernel interfaces that exploits have often started from",
        calls: &[
            call("io_uring_setup", 425, 425),
            call("io_uring_enter", 426, 426),
            call("io_uring_register", 427, 427),
            call("bpf", 321, 280),
            call("keyctl", 250, 219),
            call("add_key", 248, 217),
            call("request_key", 249, 218),
            call("perf_event_open", 298, 241),
            call("userfaultfd", 323, 282),
            call("init_module", 175, 105),
            call("finit_module", 313, 273),
            call("delete_module", 176, 106),
            call("kexec_load", 246, 104),
            call("kexec_file_load", 320, 294),
            old("modify_ldt", 154),
            old("iopl", 172),
            old("ioperm", 173),
        ],
    },
];
