//! What is known about single layers: why some attempts succeed despite a layer, which are refused
//! by one layer only, and why that is sufficient.

/// The layers on machines that deny namespaces to Belljar, which a strict policy allows.
pub(super) const WITHOUT_NAMESPACES: &str = "all but namespaces";

/// Why an attempt succeeds despite a layer: what that layer does not control.
pub(super) const BLIND: &[(&str, &str)] = &[
    (
        "namespaces",
        "namespaces make outside resources unreachable, and do not restrict what a process does \
         with itself or with private resources",
    ),
    (
        "rights and limits",
        "it needs no privilege beyond those of an ordinary user, and little memory; a worker of \
         root has become an unprivileged user",
    ),
    (
        "Landlock",
        "Landlock (version 7) restricts files, TCP ports, and signals and abstract sockets to \
         other processes; not UDP, other sockets, processes, memory, or what a process does \
         with itself",
    ),
    ("seccomp", "seccomp checks each call, but neither counts calls nor resolves paths"),
];

/// Attempts that consist of calls that seccomp allows individually, or with other paths.
pub(super) const UNSEEN: &[&str] = &[
    "take more than its memory",
    "take more private memory",
    "write more into the file it is given",
    "lengthen the file it is given",
    "take all memory that it can get",
    "find a name outside of a granted folder",
    "change something outside of a granted folder",
];

/// Attempts that succeed with all layers of a column, which SECURITY.md lists as not guaranteed.
pub(super) const OPEN: &[(&str, &str)] =
    &[("find a name outside of a granted folder", WITHOUT_NAMESPACES)];

/// Attempts that only one layer refuses, and why that is sufficient.
pub(super) const ALONE: &[(&str, &str)] = &[
    (
        "start a process",
        "seccomp; the new process would inherit the same layers, and count against the limit on \
         processes",
    ),
    (
        "connect by vsock",
        "seccomp; no other layer restricts this kind of socket, which reaches the host of a \
         virtual machine",
    ),
    ("map writable, executable memory", NO_GAIN),
    ("make memory executable", NO_GAIN),
    ("map a memory file executable", NO_GAIN),
    ("have memory executable by personality", NO_GAIN),
    (
        "handle page faults (userfaultfd)",
        "seccomp; an unprivileged process handles only its own page faults, which helps attacks \
         on the kernel",
    ),
    (
        "use the kernel's keys",
        "seccomp; the process can only access its own keys, but the code behind them is the \
         kernel's",
    ),
    (
        "make a user namespace",
        "seccomp; a new namespace would be private, but would expose more of the kernel",
    ),
    ("take more than its memory", LIMIT),
    ("take more private memory", LIMIT),
    ("take shared memory", UNCOUNTED),
    ("take memory as a stack that grows by itself", UNCOUNTED),
    ("make memory read-only, and take more", UNCOUNTED),
    ("make memory inaccessible, and take more", UNCOUNTED),
    ("write more into the file it is given", LIMIT),
    ("lengthen the file it is given", LIMIT),
    ("take a segment of shared memory", UNCOUNTED),
    ("take all memory that it can get", LIMIT),
    (
        "find a name outside of a granted folder",
        "namespaces; Landlock only restricts access to the content of files, and seccomp does \
         not resolve paths",
    ),
    (
        "change something outside of a granted folder",
        "namespaces; without them seccomp and Landlock do it together: one restricts the calls \
         and the other the paths",
    ),
    (
        "make a set-user-ID file in a granted folder",
        "seccomp; with namespaces the bit has no effect in the program's own process, but other \
         processes could use the file",
    ),
    (
        "make a device or pipe in a granted folder",
        "seccomp; the only device that an unprivileged process can create hides a name from \
         overlays",
    ),
    (
        "send elsewhere by a granted connection",
        "seccomp; a connection belongs to the network of the supervisor, which created it",
    ),
];

/// The bounds on memory that is taken by calls that a worker needs.
const LIMIT: &str = "the kernel's limits on memory and files, in addition to the sandbox's own, \
                     which the attacker has escaped; a cgroup around the supervisor is another \
                     limit";

/// Memory that the kernel's limits do not count.
const UNCOUNTED: &str = "seccomp; the memory limit does not count this kind of memory, so no \
                         worker can use it; a cgroup around the supervisor counts it";

/// An attacker who runs native code gains nothing from executable memory.
const NO_GAIN: &str = "seccomp; an attacker who runs native code gains nothing from more of it, \
                       but a vulnerability that does not yet allow native code cannot be \
                       extended to it this way";

/// Attempts that this machine refuses even without any layer.
pub(super) const NEVER: &[&str] = &[];
