//! The system calls that each role may make, and why it needs them. A test removes each rule in
//! turn and checks that the work then fails, so every rule here must be needed.

use super::calls::Test::{AtLeast, Bits, Is, IsThisProcess};
use super::calls::{Call, Condition, Test, Value, int, long};
use crate::channel::CHANNEL;
use crate::role::Role;
use crate::role::Role::{Compile, CompileProgram, GrantedProgram, Prepare, Program, Run};
use crate::ways::{self, Way};

/// A system call that some roles may make under some conditions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) call: Call,
    /// Conditions on the arguments, which must all hold.
    pub(super) when: &'static [Condition],
    pub(super) roles: &'static [Role],
    /// What needs the call.
    pub(super) why: &'static str,
    /// When the rule is needed, if not on every machine and in every run.
    pub(super) sometimes: Option<&'static str>,
    /// Until when the rule applies, if not to the end. A second filter then removes it.
    pub(super) until: Option<&'static str>,
}

/// All rules of a role, including temporary ones.
pub(super) fn of(role: Role) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.holds_for(role))
}

/// The rules of a role that apply until the process ends.
pub(super) fn lasting(role: Role) -> impl Iterator<Item = &'static Rule> {
    of(role).filter(|rule| rule.until.is_none())
}

const fn rule(call: Call, when: &'static [Condition], why: &'static str) -> Rule {
    let roles = &[Compile, Prepare, Run, CompileProgram, Program];
    Rule { call, when, roles, why, sometimes: None, until: None }
}

impl Rule {
    /// Whether the rule applies to a role. A program with grants has the rules of one without.
    pub(super) fn holds_for(&self, role: Role) -> bool {
        self.roles.contains(&role) || (role == GrantedProgram && self.roles.contains(&Program))
    }

    /// A rule for the use of grants, which a program need not use.
    const fn granted(self) -> Rule {
        Rule { roles: &[GrantedProgram], ..self }.sometimes("when the program does so")
    }

    const fn only(self, roles: &'static [Role]) -> Rule {
        Rule { roles, ..self }
    }

    const fn sometimes(self, when: &'static str) -> Rule {
        Rule { sometimes: Some(when), ..self }
    }

    /// Restricts the rule to the time until all threads of the process run. Until then the process
    /// has seen no hostile input and has run none of a program's code.
    const fn until_ready(self) -> Rule {
        Rule { until: Some("until its threads run"), ..self }
    }
}

/// Returns ENOSYS, because its flags are in memory, which a filter cannot read. glibc falls back to
/// clone for this error only.
pub(super) const CLONE3: Call = Call::new("clone3", 435, 435);

const fn protection(name: &'static str, bits: i32) -> Condition {
    long(2, "prot", Is(Value(name, bits as u64)))
}

/// Writable memory, which counts against `RLIMIT_DATA`. It must not become read-only or
/// inaccessible afterwards, because the kernel would stop counting it while it keeps its content.
/// Other bits are refused too, because some architectures define more of them.
const WRITABLE: Condition =
    protection("PROT_READ | PROT_WRITE", libc::PROT_READ | libc::PROT_WRITE);

const MAY_MOVE: Condition =
    int(3, "flags", Is(Value("MREMAP_MAYMOVE", libc::MREMAP_MAYMOVE as u64)));

/// Reserved address space without content.
const RESERVED: Condition = protection("PROT_NONE", libc::PROT_NONE);

const READ_ONLY: Condition = protection("PROT_READ", libc::PROT_READ);

const PRIVATE_MEMORY: Value = Value("MAP_PRIVATE", libc::MAP_PRIVATE as u64);
const ANONYMOUS: Value = Value("MAP_ANONYMOUS", libc::MAP_ANONYMOUS as u64);
const FIXED: Value = Value("MAP_FIXED", libc::MAP_FIXED as u64);
const NO_RESERVE: Value = Value("MAP_NORESERVE", libc::MAP_NORESERVE as u64);
const STACK: Value = Value("MAP_STACK", libc::MAP_STACK as u64);

const fn mapping(all: &'static [Value], some: &'static [Value]) -> Condition {
    long(3, "flags", Bits(all, some))
}

/// Private anonymous memory at an address of the kernel's choice. Shared memory and stacks that
/// grow by themselves (`MAP_GROWSDOWN`) would not count against `RLIMIT_DATA`.
const PRIVATE_ANONYMOUS: Condition = mapping(&[PRIVATE_MEMORY, ANONYMOUS], &[NO_RESERVE, STACK]);

/// Protects the mapping of `confine::ways`, which is below. A worker's other memory is far above.
const ABOVE: Test = AtLeast(Value("4 GiB", 1 << 32));

const fn above(name: &'static str) -> Condition {
    long(0, name, ABOVE)
}

/// Memory that becomes executable and stops being writable.
const CODE: Condition = long(
    2,
    "prot",
    Bits(
        &[Value("PROT_READ", libc::PROT_READ as u64), Value("PROT_EXEC", libc::PROT_EXEC as u64)],
        &[],
    ),
);

/// The channel to the supervisor, as opposed to sockets that the process was granted.
const ON_THE_CHANNEL: Condition = int(0, "fd", Is(Value("3", CHANNEL as u64)));

/// The flags of a new thread. They exclude new namespaces, processes and tracing.
const THREAD: Condition = int(
    0,
    "flags",
    Bits(
        &[
            Value("CLONE_VM", libc::CLONE_VM as u64),
            Value("CLONE_FS", libc::CLONE_FS as u64),
            Value("CLONE_FILES", libc::CLONE_FILES as u64),
            Value("CLONE_SIGHAND", libc::CLONE_SIGHAND as u64),
            Value("CLONE_THREAD", libc::CLONE_THREAD as u64),
            Value("CLONE_SYSVSEM", libc::CLONE_SYSVSEM as u64),
        ],
        &[
            Value("CLONE_SETTLS", libc::CLONE_SETTLS as u64),
            Value("CLONE_PARENT_SETTID", libc::CLONE_PARENT_SETTID as u64),
            Value("CLONE_CHILD_CLEARTID", libc::CLONE_CHILD_CLEARTID as u64),
        ],
    ),
);

const PRIVATE: Value = Value("FUTEX_PRIVATE_FLAG", libc::FUTEX_PRIVATE_FLAG as u64);
const REALTIME: Value = Value("FUTEX_CLOCK_REALTIME", libc::FUTEX_CLOCK_REALTIME as u64);

const fn futex(operation: &'static [Value], flags: &'static [Value]) -> Condition {
    int(1, "op", Bits(operation, flags))
}

const fn signal(position: u8, name: &'static str, number: i32) -> Condition {
    int(position, "signum", Is(Value(name, number as u64)))
}

const fn fcntl(name: &'static str, command: i32) -> Condition {
    int(1, "cmd", Is(Value(name, command as u64)))
}

const fn whence(name: &'static str, from: i32) -> Condition {
    int(2, "whence", Is(Value(name, from as u64)))
}

const fn advice(name: &'static str, number: u64) -> Condition {
    int(2, "advice", Is(Value(name, number)))
}

/// Opens a file in one way: the request is at an address where the process cannot change it.
const fn way(way: Way, why: &'static str) -> Rule {
    rule(OPENAT2, way.condition(), why).granted()
}

const MMAP: Call = Call::new("mmap", 9, 222);
const MPROTECT: Call = Call::new("mprotect", 10, 226);
const OPENAT2: Call = Call::new("openat2", 437, 437);
const BRK: Call = Call::new("brk", 12, 214);
const FCNTL: Call = Call::new("fcntl", 72, 25);
const FUTEX: Call = Call::new("futex", 202, 98);
const LSEEK: Call = Call::new("lseek", 8, 62);
const MREMAP: Call = Call::new("mremap", 25, 216);
const MADVISE: Call = Call::new("madvise", 28, 233);
const SIGACTION: Call = Call::new("rt_sigaction", 13, 134);

const LARGE_PIECES: &str =
    "large heap allocations that are resized: a compiler's, and tables of a program's resources";

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// The signal by which glibc changes the user of all threads; not in any header.
const SIGSETXID: i32 = 33;

pub(super) static RULES: &[Rule] = &[
    // Memory.
    rule(MMAP, &[WRITABLE, PRIVATE_ANONYMOUS], "the heap"),
    rule(MMAP, &[RESERVED, PRIVATE_ANONYMOUS], "stacks, and address space for sandboxes"),
    rule(
        MMAP,
        &[RESERVED, mapping(&[PRIVATE_MEMORY, ANONYMOUS, FIXED], &[NO_RESERVE]), above("addr")],
        "frees the memory that a run has used beyond its snapshot; parts of a snapshot without content",
    )
    .only(&[Run]),
    rule(
        MMAP,
        &[WRITABLE, mapping(&[PRIVATE_MEMORY, FIXED], &[NO_RESERVE]), above("addr")],
        "the snapshot of a prepared model, copy-on-write",
    )
    .only(&[Run]),
    rule(
        MMAP,
        &[READ_ONLY, mapping(&[Value("MAP_SHARED", libc::MAP_SHARED as u64)], &[])],
        "a second mapping of the snapshot, to copy from",
    )
    .only(&[Run]),
    rule(Call::new("munmap", 11, 215), &[above("addr")], "frees memory"),
    rule(
        MPROTECT,
        &[WRITABLE, above("addr")],
        "sandboxes that grow; stacks of threads above their guard page",
    ),
    rule(MREMAP, &[MAY_MOVE, above("old_address")], LARGE_PIECES).only(&[Compile, Program]),
    rule(MREMAP, &[MAY_MOVE, above("old_address")], LARGE_PIECES)
        .only(&[CompileProgram])
        .sometimes("when glibc maps a list of the compiler separately before it grows"),
    rule(BRK, &[], "the heap").only(&[Compile, Run, CompileProgram, Program]),
    rule(BRK, &[], "the heap")
        .only(&[Prepare])
        .sometimes("when loading the code has left too little free memory in the heap"),
    rule(
        MADVISE,
        &[advice("MADV_DONTNEED", libc::MADV_DONTNEED as u64), above("addr")],
        "frees the stacks of threads that have ended",
    )
    .only(&[Prepare, Run, Program]),
    rule(MADVISE, &[advice("MADV_GUARD_INSTALL", 102), above("addr")], "guard pages of stacks")
        .sometimes("since glibc 2.42"),
    // Threads. glibc and Rust's standard library set each of them up.
    rule(Call::new("clone", 56, 220), &[THREAD], "the sandbox's thread, and kernels on several")
        .until_ready(),
    rule(Call::new("set_robust_list", 273, 99), &[], "glibc, in each new thread"),
    rule(Call::new("rseq", 334, 293), &[], "glibc, in each new thread")
        .sometimes("since glibc 2.35"),
    rule(Call::new("rt_sigprocmask", 14, 135), &[], "glibc starts threads with signals blocked"),
    rule(SIGACTION, &[signal(0, "SIGSETXID", SIGSETXID)], "glibc, before the first thread"),
    rule(Call::new("sigaltstack", 131, 132), &[], "the stack on which a thread handles a trap")
        .only(&[Prepare, Run, Program]),
    rule(
        Call::new("prctl", 157, 167),
        &[int(0, "option", Is(Value("PR_SET_NAME", libc::PR_SET_NAME as u64)))],
        "names of threads",
    )
    .only(&[Prepare, Run, Program]),
    rule(Call::new("gettid", 186, 178), &[], "Rust stores it for messages; an abort"),
    rule(Call::new("getrandom", 318, 278), &[], "keys of Rust's hash tables"),
    rule(
        FUTEX,
        &[futex(&[Value("FUTEX_WAKE", libc::FUTEX_WAKE as u64)], &[PRIVATE])],
        "locks, and threads that wait for each other",
    ),
    rule(
        FUTEX,
        &[futex(
            &[Value("FUTEX_WAIT_BITSET", libc::FUTEX_WAIT_BITSET as u64)],
            &[PRIVATE, REALTIME],
        )],
        "locks, and threads that wait for each other",
    ),
    rule(
        FUTEX,
        &[futex(&[Value("FUTEX_WAIT", libc::FUTEX_WAIT as u64)], &[PRIVATE])],
        "glibc's own locks",
    )
    .sometimes("when two threads want the heap at the same moment"),
    rule(Call::new("sched_yield", 24, 124), &[], "threads that have run out of work").only(&[
        Compile,
        Prepare,
        Run,
        CompileProgram,
    ]),
    rule(Call::new("exit", 60, 93), &[], "the end of a thread").only(&[Prepare, Run, Program]),
    // Faults: traps of the sandbox, and crashes with a meaningful signal.
    rule(Call::new("rt_sigreturn", 15, 139), &[], "the end of a signal handler"),
    rule(SIGACTION, &[signal(0, "SIGSEGV", libc::SIGSEGV)], "a crash of the worker's own code"),
    rule(
        Call::new("write", 1, 64),
        &[int(0, "fd", Is(Value("2", 2)))],
        "the message of a panic, which is discarded",
    ),
    rule(SIGACTION, &[signal(0, "SIGABRT", libc::SIGABRT)], "an abort")
        .sometimes("in a PID namespace, whose first process survives the signal"),
    rule(Call::new("getpid", 39, 172), &[], "an abort"),
    rule(
        Call::new("tgkill", 234, 131),
        &[int(0, "tgid", IsThisProcess), signal(2, "SIGABRT", libc::SIGABRT)],
        "an abort",
    ),
    rule(Call::new("exit_group", 231, 94), &[], "the end of the process"),
    // The work.
    rule(Call::new("recvmsg", 47, 212), &[ON_THE_CHANNEL], "requests from the supervisor").only(&[
        Prepare,
        Run,
        CompileProgram,
        Program,
    ]),
    rule(Call::new("sendmsg", 46, 211), &[ON_THE_CHANNEL], "answers to the supervisor"),
    rule(
        Call::new("close", 3, 57),
        // The channel must stay open, or another socket could get its number.
        &[int(0, "fd", AtLeast(Value("4", CHANNEL as u64 + 1)))],
        "descriptors that came with a request",
    ),
    rule(
        FCNTL,
        &[fcntl("F_GET_SEALS", libc::F_GET_SEALS)],
        "checks that a model, a snapshot, or a program can no longer change",
    )
    .only(&[Prepare, Run, CompileProgram, Program]),
    rule(Call::new("fstat", 5, 80), &[], "the size of a model, of a snapshot, or of a program")
        .only(&[Prepare, Run, CompileProgram, Program]),
    rule(Call::new("pread64", 17, 67), &[], "a model, a program, or inputs").only(&[
        Prepare,
        Run,
        CompileProgram,
        Program,
    ]),
    rule(LSEEK, &[whence("SEEK_DATA", libc::SEEK_DATA)], "the parts of a snapshot with content")
        .only(&[Run]),
    rule(LSEEK, &[whence("SEEK_HOLE", libc::SEEK_HOLE)], "the ends of these parts").only(&[Run]),
    rule(Call::new("pwrite64", 18, 68), &[], "outputs; a snapshot, or compiled code"),
    rule(
        Call::new("ioctl", 16, 29),
        &[int(1, "op", Is(Value("PAGEMAP_SCAN", PAGEMAP_SCAN)))],
        "the pages that a run has written",
    )
    .only(&[Run]),
    rule(
        Call::new("prctl", 157, 167),
        &[int(0, "option", Is(Value("PR_SET_NO_NEW_PRIVS", libc::PR_SET_NO_NEW_PRIVS as u64)))],
        "the filter that removes what only the start needs",
    )
    .until_ready(),
    rule(
        Call::new("seccomp", 317, 277),
        &[int(0, "op", Is(Value("SECCOMP_SET_MODE_FILTER", libc::SECCOMP_SET_MODE_FILTER as u64)))],
        "the filter that removes what only the start needs",
    )
    .until_ready(),
    // A program's code may be hostile, so it is loaded after its process is confined.
    rule(MPROTECT, &[READ_ONLY, above("addr")], "the code of the program, and its constants")
        .only(&[Program])
        .until_ready(),
    rule(MPROTECT, &[CODE, above("addr")], "the code of the program")
        .only(&[Program])
        .until_ready(),
    rule(Call::new("membarrier", 324, 283), &[], "makes new code visible to all processors")
        .only(&[Program])
        .until_ready()
        .sometimes("on processors whose instruction caches must be synchronized"),
    // Files and connections that a policy grants to a program. Every open uses `openat2` below a
    // granted descriptor, in one of the ways of `confine::ways`. Landlock allows only what is below
    // those descriptors.
    way(Way::Look, "looks at what is in a granted folder"),
    way(Way::Folder, "a folder below a granted one, for the names in it"),
    way(Way::List, "the list of names in a granted folder, or the folder's times"),
    way(Way::Read, "a granted file, to read"),
    way(Way::Write, "a granted file, to write"),
    way(Way::ReadWrite, "a granted file, to read and write"),
    way(Way::New, "a new file in a granted folder, to write"),
    way(Way::NewReadWrite, "a new file in a granted folder, to read and write"),
    way(Way::NewRead, "a new file in a granted folder, to read"),
    rule(Call::new("getdents64", 217, 61), &[], "the names in a granted folder").granted(),
    rule(LSEEK, &[], "rewinds to the first of those names").granted(),
    rule(Call::new("pwritev2", 328, 287), &[], "appends to a granted file").granted(),
    rule(
        Call::new("mkdirat", 258, 34),
        &[int(2, "mode", Is(Value("0755", ways::FOLDER_MODE as u64)))],
        "makes a folder in a granted one",
    )
    .granted(),
    rule(
        Call::new("unlinkat", 263, 35),
        &[int(2, "flags", Bits(&[], &[Value("AT_REMOVEDIR", libc::AT_REMOVEDIR as u64)]))],
        "removes what is in a granted folder",
    )
    .granted(),
    rule(
        Call::new("renameat2", 316, 276),
        // The flag `RENAME_WHITEOUT` would create a device.
        &[int(4, "flags", Is(Value("0", 0)))],
        "moves what is in a granted folder",
    )
    .granted(),
    rule(Call::new("ftruncate", 77, 46), &[], "the size of a granted file").granted(),
    rule(
        Call::new("utimensat", 280, 88),
        // Only the open file, not one found by a path.
        &[long(1, "pathname", Is(Value("null", 0)))],
        "the times of a granted file",
    )
    .granted(),
    rule(Call::new("fsync", 74, 82), &[], "writes a granted file to its disk").granted(),
    rule(Call::new("fdatasync", 75, 83), &[], "writes a granted file to its disk").granted(),
    rule(Call::new("recvfrom", 45, 207), &[], "receives from a granted peer").granted(),
    rule(
        Call::new("sendto", 44, 206),
        // Only to the peer that the socket is connected to.
        &[long(4, "dest_addr", Is(Value("null", 0)))],
        "sends to a granted peer",
    )
    .granted(),
    rule(Call::new("shutdown", 48, 210), &[], "ends a connection").granted(),
    rule(Call::new("ppoll", 271, 73), &[], "waits for a granted peer, or for a time")
        .only(&[Program])
        .sometimes("when the program waits"),
    rule(Call::new("clock_gettime", 228, 113), &[], "how long a run takes")
        .sometimes("on machines whose clock cannot be read without the kernel"),
];
