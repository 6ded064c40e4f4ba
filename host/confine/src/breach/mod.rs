//! Escape attempts of an attacker who runs native code inside a worker. Only in test builds.
//!
//! Each attempt is a few system calls made in a confined worker, as by code that has broken out of
//! WebAssembly. It returns whether the kernel allowed them.
//!
//! `unsafe` is needed because attacks are raw system calls.

use std::ffi::{c_int, c_long, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

mod calls;
mod grants;
pub mod memory;

use calls::{
    address, bind, call, connect, inet, last_error, map, map_large, open, result, socket, unix,
};

/// One attempt, with the facts about the system outside the worker that it uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// Its index in [`attempts`].
    pub number: usize,
    /// Targets that an attacker may have found out about.
    pub world: World,
}

/// Targets outside of a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct World {
    /// The supervisor's process.
    pub supervisor: i32,
    /// A file in the user's home folder.
    pub home: String,
    /// Another model.
    pub model: String,
    /// A file in the store of prepared models.
    pub store: String,
    /// A log file that another process reads.
    pub log: String,
    /// TCP port of a listener on the loopback device.
    pub tcp: u16,
    /// UDP port of a listener on the loopback device.
    pub udp: u16,
    /// A listening Unix socket, by its path.
    pub socket: String,
    /// A listening Unix socket, by its abstract name.
    pub abstract_socket: String,
    /// A folder that is granted to a program.
    pub granted: String,
    /// A symbolic link next to that folder.
    pub link: String,
    /// A path next to it where nothing exists.
    pub made: String,
    /// Port of a UDP listener that is not the peer of the granted connection.
    pub other_udp: u16,
    /// The role of the worker.
    pub role: String,
    /// The form of paths that leave the granted folder, below [`FORMS`].
    pub form: usize,
}

/// The number of forms of paths that leave a granted folder.
pub const FORMS: usize = 4;

/// Descriptors that the worker holds, as if a policy had granted them.
pub struct Held {
    /// A folder.
    pub folder: c_long,
    /// A UDP socket, connected.
    pub socket: c_long,
    /// An empty memory file for the worker's outputs.
    pub room: c_long,
}

static HELD: OnceLock<Held> = OnceLock::new();

/// Stores the descriptors that the worker was given.
pub fn hold(held: Held) {
    let _ = HELD.set(held);
}

fn held() -> Result<&'static Held, i32> {
    HELD.get().ok_or(libc::EBADF)
}

/// The result of an attempt: `Ok` if it succeeded, else the kernel's error number.
pub type AttemptResult = Result<(), i32>;

type Try = fn(&World) -> Result<(), i32>;

impl Attempt {
    /// Makes the attempt.
    pub fn make(&self) -> AttemptResult {
        let found = all().nth(self.number);
        // An attempt that does not exist counts as a success, so that a test with a wrong number
        // fails.
        found.map_or(Ok(()), |(_, attempt)| attempt(&self.world))
    }
}

/// The names of all attempts, in the order of the table in SECURITY.md. Attempts with the same name
/// try to reach the same goal in different ways.
pub fn attempts() -> Vec<&'static str> {
    listed().map(|(name, _)| *name).collect()
}

/// The numbers of the attempts that are not in the table. They try to unmount what is mounted below
/// a granted folder, on the folder `mnt` and on the file `pin`, next to the empty folder `empty`.
pub fn unmounts() -> std::ops::Range<usize> {
    let first = listed().count();
    first..first + grants::UNMOUNTS.len()
}

fn listed() -> impl Iterator<Item = &'static (&'static str, Try)> {
    ATTEMPTS.iter().chain(memory::ATTEMPTS).chain(grants::ATTEMPTS)
}

fn all() -> impl Iterator<Item = &'static (&'static str, Try)> {
    listed().chain(grants::UNMOUNTS)
}

const ATTEMPTS: &[(&str, Try)] = &[
    ("read /etc/passwd", |_| open("/etc/passwd", libc::O_RDONLY)),
    ("read a file in the home folder", |world| open(&world.home, libc::O_RDONLY)),
    ("read another model", |world| open(&world.model, libc::O_RDONLY)),
    ("write to the store of prepared models", |world| open(&world.store, libc::O_RDWR)),
    ("append to a log", |world| open(&world.log, libc::O_WRONLY | libc::O_APPEND)),
    ("create a file", |world| {
        open(&format!("{}.new", world.log), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)
    }),
    ("list /proc", |_| open("/proc", libc::O_RDONLY | libc::O_DIRECTORY)),
    ("write to /proc/self/mem", |_| open("/proc/self/mem", libc::O_RDWR)),
    ("read the supervisor's environment", |world| {
        open(&format!("/proc/{}/environ", world.supervisor), libc::O_RDONLY)
    }),
    ("run a program", |_| {
        let program = c"/bin/true";
        let arguments = [program.as_ptr(), null()];
        // SAFETY: strings and lists are zero-terminated. The call returns only when it is refused.
        result(unsafe {
            libc::execve(program.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr())
        })
    }),
    ("run a program from memory", |_| {
        let memory = call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0])?;
        let script = b"#!/bin/true\n";
        call(libc::SYS_write, [memory, script.as_ptr() as c_long, script.len() as c_long, 0, 0])?;
        let arguments = [c"x".as_ptr(), null()];
        let list = arguments.as_ptr() as c_long;
        let empty = libc::AT_EMPTY_PATH.into();
        call(libc::SYS_execveat, [memory, c"".as_ptr() as c_long, list, 0, empty]).map(drop)
    }),
    ("start a process", |_| {
        // SAFETY: the child ends at once.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe { libc::_exit(0) },
            child => result(child),
        }
    }),
    ("trace the supervisor", |world| {
        let supervisor = world.supervisor.into();
        call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), supervisor, 0, 0, 0]).map(drop)
    }),
    ("read the supervisor's memory", |world| cross(libc::SYS_process_vm_readv, world)),
    ("write to the supervisor's memory", |world| cross(libc::SYS_process_vm_writev, world)),
    ("signal the supervisor", |world| {
        call(libc::SYS_kill, [world.supervisor.into(), libc::SIGCONT.into(), 0, 0, 0]).map(drop)
    }),
    ("signal every process", |_| {
        call(libc::SYS_kill, [-1, libc::SIGCONT.into(), 0, 0, 0]).map(drop)
    }),
    ("open a pidfd of the supervisor", |world| {
        call(libc::SYS_pidfd_open, [world.supervisor.into(), 0, 0, 0, 0]).map(drop)
    }),
    ("connect by TCP", |world| inet(libc::SOCK_STREAM, world.tcp)),
    ("send by UDP", |world| inet(libc::SOCK_DGRAM, world.udp)),
    ("listen on a TCP port", |_| {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        bind(socket, &address(0))?;
        call(libc::SYS_listen, [socket, 1, 0, 0, 0]).map(drop)
    }),
    ("connect to a Unix socket by path", |world| unix(world.socket.as_bytes())),
    ("connect to an abstract Unix socket", |world| {
        unix(&[b"\0", world.abstract_socket.as_bytes()].concat())
    }),
    ("ask the kernel by netlink", |_| {
        let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        // Lists all network devices: any beyond the namespace's loopback is a success.
        // SAFETY: a zeroed address of this family is a valid one.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        bind(socket, &address)?;
        devices(socket)
    }),
    ("use a raw socket", |_| {
        socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
        devices(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?)
    }),
    ("connect by vsock", |_| {
        let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
        // SAFETY: a zeroed address of this family is a valid one.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as u16;
        address.svm_cid = libc::VMADDR_CID_HOST;
        address.svm_port = 1;
        // Nothing listens on that port, so a reset means that the connection left the worker.
        match connect(socket, &address) {
            Err(libc::ECONNRESET | libc::ECONNREFUSED | libc::ETIMEDOUT) => Ok(()),
            other => other,
        }
    }),
    ("map writable, executable memory", |_| {
        map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, -1).map(drop)
    }),
    ("make memory executable", |_| {
        let memory = map(libc::PROT_READ | libc::PROT_WRITE, -1)?;
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        call(libc::SYS_mprotect, [memory, 4096, prot.into(), 0, 0]).map(drop)
    }),
    ("map a memory file executable", |_| {
        let memory = call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0])?;
        call(libc::SYS_ftruncate, [memory, 4096, 0, 0, 0])?;
        map(libc::PROT_READ | libc::PROT_EXEC, memory as c_int).map(drop)
    }),
    ("map shared memory executable", |_| {
        let flags = libc::IPC_CREAT | 0o600;
        let segment = call(libc::SYS_shmget, [libc::IPC_PRIVATE.into(), 4096, flags.into(), 0, 0])?;
        let result = call(libc::SYS_shmat, [segment, 0, libc::SHM_EXEC.into(), 0, 0]);
        let _ = call(libc::SYS_shmctl, [segment, libc::IPC_RMID.into(), 0, 0, 0]);
        result.map(drop)
    }),
    ("have memory executable by personality", |_| {
        call(libc::SYS_personality, [libc::READ_IMPLIES_EXEC.into(), 0, 0, 0, 0]).map(drop)
    }),
    ("use io_uring", |_| {
        let parameters = [0u64; 32];
        call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as c_long, 0, 0, 0]).map(drop)
    }),
    ("handle page faults (userfaultfd)", |_| {
        const USER_MODE_ONLY: c_long = 1;
        call(libc::SYS_userfaultfd, [USER_MODE_ONLY, 0, 0, 0, 0]).map(drop)
    }),
    ("load a program into the kernel (bpf)", |_| {
        // BPF_MAP_CREATE: an array of one element, the smallest map.
        let map: [u32; 32] = std::array::from_fn(|at| [2, 4, 4, 1].get(at).copied().unwrap_or(0));
        call(libc::SYS_bpf, [0, map.as_ptr() as c_long, 128, 0, 0]).map(drop)
    }),
    ("count events of the machine (perf)", |_| {
        // struct perf_event_attr: software, its size, the CPU clock.
        let event: [u32; 32] = std::array::from_fn(|at| [1, 128].get(at).copied().unwrap_or(0));
        let all = -1;
        call(libc::SYS_perf_event_open, [event.as_ptr() as c_long, all, 0, -1, 0]).map(drop)
    }),
    ("use the kernel's keys", |_| {
        let [kind, name] = [c"user", c"belljar-breach"].map(|text| text.as_ptr() as c_long);
        const OF_THIS_PROCESS: c_long = -2;
        call(libc::SYS_add_key, [kind, name, kind, 4, OF_THIS_PROCESS]).map(drop)
    }),
    ("raise a limit", |_| {
        // More descriptors than a worker may have.
        let more = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        let more = &raw const more as c_long;
        call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE.into(), more, 0, 0]).map(drop)
    }),
    ("leave core dumps", |_| {
        let more = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        let more = &raw const more as c_long;
        call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), more, 0, 0]).map(drop)
    }),
    ("enter the supervisor's namespaces", |world| {
        let process = call(libc::SYS_pidfd_open, [world.supervisor.into(), 0, 0, 0, 0])?;
        let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWNET;
        call(libc::SYS_setns, [process, kinds.into(), 0, 0, 0]).map(drop)
    }),
    ("make a user namespace", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]).map(drop)
    }),
    ("mount something", |_| {
        let [none, place, kind] = [c"none", c"/", c"tmpfs"].map(|text| text.as_ptr() as c_long);
        call(libc::SYS_mount, [none, place, kind, 0, 0])?;
        // Without the namespace layer this is the machine's root.
        call(libc::SYS_umount2, [place, libc::MNT_DETACH.into(), 0, 0, 0]).map(drop)
    }),
    ("change the root", |_| {
        call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0]).map(drop)
    }),
    ("become root", |_| {
        call(libc::SYS_setresuid, [0, 0, 0, 0, 0])?;
        // Succeeds only if the process really has root's rights.
        call(libc::SYS_setgroups, [0, 0, 0, 0, 0]).map(drop)
    }),
    ("make a device", |_| {
        let device = libc::makedev(1, 1) as c_long;
        let path = c"/belljar-breach".as_ptr() as c_long;
        let mode = (libc::S_IFCHR | 0o600).into();
        call(libc::SYS_mknodat, [libc::AT_FDCWD.into(), path, mode, device, 0])?;
        let _ = call(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path, 0, 0, 0]);
        Ok(())
    }),
    ("take more than its memory", |_| {
        // Eight GiB in pieces of 64 MiB, not touched.
        (0..128).try_for_each(|_| map_large(64 << 20).map(drop))
    }),
    ("read physical addresses", |_| physical_address(3..64)),
    ("read physical addresses", |_| {
        let path = c"/proc/self/pagemap".as_ptr() as c_long;
        let opened = call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, 0, 0, 0])?;
        physical_address(opened..opened + 1)
    }),
    ("have a hundred threads", |_| {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        (0..100).try_for_each(|_| {
            let stack = map_large(64 << 10)? + (32 << 10);
            // SAFETY: each thread has its own stack, and only waits.
            let started = unsafe { libc::clone(wait, stack as *mut c_void, flags, null_mut()) };
            result(started)
        })
    }),
];

extern "C" fn wait(_: *mut c_void) -> c_int {
    loop {
        std::hint::spin_loop();
    }
}

/// Looks for the physical address of one page through descriptors that may be a pagemap.
fn physical_address(mut descriptors: std::ops::Range<c_long>) -> AttemptResult {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let here = 0u8;
    let page = std::hint::black_box(&raw const here) as c_long / 4096;
    let found = descriptors.any(|descriptor| {
        let mut entry = 0u64;
        let to = &raw mut entry as c_long;
        let read = call(libc::SYS_pread64, [descriptor, to, 8, 8 * page, 0]);
        read == Ok(8) && entry & PRESENT != 0 && entry & FRAME != 0
    });
    if found { Ok(()) } else { Err(libc::EPERM) }
}

/// Transfers one byte from or to the supervisor at an address that is never mapped. With permission
/// the kernel reports `EFAULT` instead of a permission error.
fn cross(number: c_long, world: &World) -> AttemptResult {
    const NOTHING: usize = 64;
    let mut byte = 0u8;
    let here = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(NOTHING), iov_len: 1 };
    let (local, remote) = (&raw const here as c_long, &raw const there as c_long);
    // SAFETY: both vectors are valid, and nothing is mapped at this address in the other process.
    let crossed = unsafe {
        let (supervisor, one, none): (c_long, c_long, c_long) = (world.supervisor.into(), 1, 0);
        libc::syscall(number, supervisor, local, one, remote, one, none)
    };
    match (crossed, last_error()) {
        (-1, libc::EFAULT) => Ok(()),
        (-1, err) => Err(err),
        _ => Ok(()),
    }
}

/// Succeeds if there is a network device other than the loopback device of the worker's own
/// namespace.
fn devices(_: c_long) -> AttemptResult {
    const INTERFACE_NAMES: c_long = 0x8912; // SIOCGIFCONF
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut names = [0u8; 4096];
    /// `struct ifconf` of Linux.
    #[repr(C)]
    struct Names {
        len: c_int,
        start: *mut u8,
    }
    let mut found = Names { len: 4096, start: names.as_mut_ptr() };
    call(libc::SYS_ioctl, [socket, INTERFACE_NAMES, &raw mut found as c_long, 0, 0])?;
    // A namespace's own loopback has no address, and is not among them.
    if found.len > 0 { Ok(()) } else { Err(libc::ENODEV) }
}
