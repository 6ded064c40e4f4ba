//! Native code makes system calls that it does not need: in a role's process they kill it, on a
//! thread of an embedding program they are refused.

use std::os::unix::process::ExitStatusExt;

use super::super::filter::{install, install_on_thread, narrow};
use super::{process, task};
use crate::role::Role;
use crate::ways;

/// An attempt, made only of system calls.
type Attempt = (&'static str, fn() -> libc::c_long);

/// A system call with any arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the call is refused, harmless, or the subject of the test; pointers are null or
        // outlive the call.
        unsafe { libc::syscall($number as libc::c_long $(, $argument as libc::c_long)*) }
    };
}

const PATH: &std::ffi::CStr = c"/etc/hostname";
const PAGE: usize = 4096;

fn parent() -> i32 {
    rustix::process::getppid().unwrap().as_raw_nonzero().get()
}

fn page(prot: i32) -> libc::c_long {
    map(prot, libc::MAP_PRIVATE)
}

fn map(prot: i32, flags: i32) -> libc::c_long {
    call!(libc::SYS_mmap, 0, PAGE, prot, flags | libc::MAP_ANONYMOUS, -1, 0)
}

const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Changes the protection of memory so that the role's memory limit no longer counts it.
fn protect_otherwise(prot: i32) -> libc::c_long {
    call!(libc::SYS_mprotect, page(WRITABLE), PAGE, prot)
}

/// Calls that are denied in every role, and on a thread of an embedding program.
const DENIED: &[Attempt] = &[
    ("openat", || call!(libc::SYS_openat, libc::AT_FDCWD, PATH.as_ptr(), libc::O_RDONLY)),
    ("openat2", || call!(libc::SYS_openat2, libc::AT_FDCWD, PATH.as_ptr(), [0u64; 3].as_ptr(), 24)),
    ("unlinkat", || call!(libc::SYS_unlinkat, libc::AT_FDCWD, c"/nothing".as_ptr(), 0)),
    ("socket", || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("socket-udp", || call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ("socket-unix", || call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("socket-netlink", || call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("socket-vsock", || call!(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("execve", || call!(libc::SYS_execve, c"/bin/true".as_ptr(), 0, 0)),
    ("execveat", || call!(libc::SYS_execveat, 0, c"/bin/true".as_ptr(), 0, 0, 0)),
    ("fork", || call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("clone-newuser", || call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)),
    ("unshare", || call!(libc::SYS_unshare, libc::CLONE_NEWUSER)),
    ("setns", || call!(libc::SYS_setns, 0, 0)),
    ("mount", || call!(libc::SYS_mount, 0, c"/".as_ptr(), 0, libc::MS_REC | libc::MS_PRIVATE, 0)),
    ("mmap-exec", || page(libc::PROT_READ | libc::PROT_EXEC)),
    ("mmap-all", || page(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)),
    ("mprotect-exec", || {
        let page = page(libc::PROT_READ | libc::PROT_WRITE);
        call!(libc::SYS_mprotect, page, PAGE, libc::PROT_READ | libc::PROT_EXEC)
    }),
    ("pkey-mprotect-exec", || {
        let page = page(libc::PROT_READ | libc::PROT_WRITE);
        call!(libc::SYS_pkey_mprotect, page, PAGE, libc::PROT_READ | libc::PROT_EXEC, -1)
    }),
    ("shmat", || call!(libc::SYS_shmat, 0, 0, libc::SHM_EXEC)),
    ("personality", || call!(libc::SYS_personality, libc::READ_IMPLIES_EXEC)),
    ("prlimit-write", || {
        call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, [64u64, 64].as_ptr(), 0)
    }),
    ("ptrace", || call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, parent(), 0, 0)),
    ("process_vm_readv", || call!(libc::SYS_process_vm_readv, parent(), 0, 0, 0, 0, 0)),
    ("process_vm_writev", || call!(libc::SYS_process_vm_writev, parent(), 0, 0, 0, 0, 0)),
    ("pidfd_open", || call!(libc::SYS_pidfd_open, parent(), 0)),
    ("kill-parent", || call!(libc::SYS_kill, parent(), 0)),
    ("kill-all", || call!(libc::SYS_kill, -1, 0)),
    ("tgkill-parent", || call!(libc::SYS_tgkill, parent(), parent(), libc::SIGABRT)),
    ("io_uring_setup", || call!(libc::SYS_io_uring_setup, 1, 0)),
    ("bpf", || call!(libc::SYS_bpf, 0, 0, 0)),
    ("keyctl", || call!(libc::SYS_keyctl, 0, 0, 0)),
    ("add_key", || call!(libc::SYS_add_key, 0, 0, 0, 0, 0)),
    ("perf_event_open", || call!(libc::SYS_perf_event_open, 0, 0, -1, -1, 0)),
    ("userfaultfd", || call!(libc::SYS_userfaultfd, 0)),
    #[cfg(target_arch = "x86_64")]
    ("open", || call!(libc::SYS_open, PATH.as_ptr(), libc::O_RDONLY)),
    #[cfg(target_arch = "x86_64")]
    ("vfork", || call!(libc::SYS_fork)),
    // The same calls under the numbers of the x32 ABI: openat, and execve, which has its own.
    #[cfg(target_arch = "x86_64")]
    ("x32-openat", || call!(X32 | libc::SYS_openat, libc::AT_FDCWD, PATH.as_ptr(), 0)),
    #[cfg(target_arch = "x86_64")]
    ("x32-execve", || call!(X32 | 520, c"/bin/true".as_ptr(), 0, 0)),
];

#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 1 << 30;

/// Calls that a thread of an embedding program may make, and a role may not.
const NOT_IN_A_ROLE: &[Attempt] = &[
    ("ioctl", || call!(libc::SYS_ioctl, 0, libc::FIONREAD, 0)),
    ("ioctl-tiocsti", || call!(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr())),
    ("prctl-dumpable", || call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)),
    ("prctl-seccomp", || call!(libc::SYS_prctl, libc::PR_GET_SECCOMP, 0, 0, 0, 0)),
    ("fcntl-setfl", || call!(libc::SYS_fcntl, 0, libc::F_SETFL, 0)),
    ("fcntl-dupfd", || call!(libc::SYS_fcntl, 0, libc::F_DUPFD, 0)),
    ("read", || call!(libc::SYS_read, 0, 0, 0)),
    ("write-elsewhere", || call!(libc::SYS_write, 1, 0, 0)),
    ("kill-itself", || call!(libc::SYS_kill, std::process::id(), 0)),
    ("tgkill-otherwise", || call!(libc::SYS_tgkill, std::process::id(), 0, libc::SIGUSR1)),
    ("sigaction", || call!(libc::SYS_rt_sigaction, libc::SIGSYS, 0, 0, 8)),
    ("madvise", || call!(libc::SYS_madvise, 1u64 << 32, 0, libc::MADV_HUGEPAGE)),
    // Kinds of memory that no limit counts.
    ("mmap-shared", || map(WRITABLE, libc::MAP_SHARED)),
    ("mmap-shared-validate", || map(WRITABLE, libc::MAP_SHARED_VALIDATE)),
    ("mmap-growsdown", || map(WRITABLE, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN)),
    ("mmap-huge", || map(WRITABLE, libc::MAP_PRIVATE | libc::MAP_HUGETLB)),
    ("mmap-locked", || map(WRITABLE, libc::MAP_PRIVATE | libc::MAP_LOCKED)),
    ("mmap-populated", || map(WRITABLE, libc::MAP_PRIVATE | libc::MAP_POPULATE)),
    ("mmap-read-only", || page(libc::PROT_READ)),
    ("mmap-write-only", || page(libc::PROT_WRITE)),
    ("mprotect-read-only", || protect_otherwise(libc::PROT_READ)),
    ("mprotect-none", || protect_otherwise(libc::PROT_NONE)),
    ("mremap-dontunmap", || {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
        call!(libc::SYS_mremap, page(WRITABLE), PAGE, PAGE, flags)
    }),
    ("mremap-fixed", || {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        call!(libc::SYS_mremap, page(WRITABLE), PAGE, PAGE, flags, 0x1000_0000)
    }),
    ("memfd_create", || call!(libc::SYS_memfd_create, c"test".as_ptr(), 0)),
    ("fallocate", || call!(libc::SYS_fallocate, 0, 0, 0, PAGE)),
    ("fcntl-add-seals", || call!(libc::SYS_fcntl, 0, libc::F_ADD_SEALS, 0)),
    // The mapping of the open requests of a program's process.
    ("mmap-low", || {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        call!(libc::SYS_mmap, 0x1000_0000, PAGE, libc::PROT_NONE, flags, -1, 0)
    }),
    ("munmap-low", || call!(libc::SYS_munmap, 0x1000_0000, PAGE)),
    ("mprotect-low", || call!(libc::SYS_mprotect, 0x1000_0000, PAGE, WRITABLE)),
    ("mremap-low", || call!(libc::SYS_mremap, 0x1000_0000, PAGE, PAGE, libc::MREMAP_MAYMOVE)),
    ("madvise-low", || call!(libc::SYS_madvise, 0x1000_0000, PAGE, libc::MADV_DONTNEED)),
    // A socket other than the channel, or one that replaces it.
    ("sendmsg-elsewhere", || call!(libc::SYS_sendmsg, 4, 0, 0)),
    ("recvmsg-elsewhere", || call!(libc::SYS_recvmsg, 4, 0, 0)),
    ("close-the-channel", || call!(libc::SYS_close, 3)),
    ("close-its-input", || call!(libc::SYS_close, 0)),
    ("sendto-somebody", || call!(libc::SYS_sendto, 4, 0, 0, 0, PATH.as_ptr(), 16)),
    ("sendmmsg", || call!(libc::SYS_sendmmsg, 4, 0, 0, 0)),
    ("newfstatat", || call!(libc::SYS_newfstatat, 4, PATH.as_ptr(), 0, 0)),
    ("statx", || call!(libc::SYS_statx, 4, PATH.as_ptr(), 0, 0, 0)),
    ("utimensat", || call!(libc::SYS_utimensat, 4, PATH.as_ptr(), 0, 0)),
    ("mkdirat-setgid", || call!(libc::SYS_mkdirat, 4, PATH.as_ptr(), 0o2755)),
    ("renameat2-whiteout", || {
        call!(libc::SYS_renameat2, 4, PATH.as_ptr(), 4, PATH.as_ptr(), libc::RENAME_WHITEOUT)
    }),
    ("thread", || {
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
        let thread = thread | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;
        call!(libc::SYS_clone, thread, 0, 0, 0, 0)
    }),
    ("mprotect-growsdown", || {
        call!(libc::SYS_mprotect, 0, 0, libc::PROT_READ | libc::PROT_GROWSDOWN)
    }),
    ("futex-pi", || call!(libc::SYS_futex, 0, libc::FUTEX_LOCK_PI, 0, 0, 0, 0)),
    ("prlimit-read", || call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, 0)),
    ("chdir", || call!(libc::SYS_chdir, c"/".as_ptr())),
    ("setuid", || call!(libc::SYS_setuid, 65534)),
    ("seccomp", || call!(libc::SYS_seccomp, 2, 0, 0)),
    ("nanosleep", || call!(libc::SYS_nanosleep, [0u64, 0].as_ptr(), 0)),
];

/// Calls that the run role may not make, and the prepare role may.
const NOT_IN_RUN: &[Attempt] = &[("mprotect-none-again", || protect_otherwise(libc::PROT_NONE))];

/// Calls that only the run role may make.
const ONLY_IN_RUN: &[Attempt] =
    &[("pagemap-scan", || call!(libc::SYS_ioctl, 0, 0xc060_6610u32, 0))];

/// Calls that the prepare role may not make.
const NOT_IN_PREPARE: &[Attempt] =
    &[("mremap", || call!(libc::SYS_mremap, 1u64 << 32, 0, PAGE, libc::MREMAP_MAYMOVE, 0))];

/// Calls that the compile role may not make.
const NOT_IN_COMPILE: &[Attempt] = &[
    ("ftruncate", || call!(libc::SYS_ftruncate, 0, 0)),
    ("pread64", || call!(libc::SYS_pread64, 0, 0, 0, 0)),
    ("fstat", || call!(libc::SYS_fstat, 0, 0)),
];

fn attempts() -> impl Iterator<Item = &'static Attempt> {
    let of_all = DENIED.iter().chain(NOT_IN_A_ROLE);
    of_all.chain(NOT_IN_RUN).chain(ONLY_IN_RUN).chain(NOT_IN_PREPARE).chain(NOT_IN_COMPILE)
}

/// Ends this process without cleanup.
fn leave(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { libc::_exit(code) }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// One attempt in a role, or the calls that the role may make.
#[test]
fn in_a_role() {
    let Some(task) = task() else { return };
    let (role, what) = task.split_once(' ').unwrap();
    let role = Role::ALL.into_iter().find(|one| format!("{one:?}") == role).unwrap();
    let attempt = attempts().find(|(name, _)| *name == what).map(|(_, attempt)| attempt);
    rustix::thread::set_no_new_privs(true).unwrap();
    if role == Role::GrantedProgram {
        ways::pin().unwrap();
    }
    // A new thread that never ends, because not every role may end threads. Unlike a worker's, it
    // has a guard page below its signal stack, so it is started before the filter is installed.
    let (sender, receiver) = std::sync::mpsc::channel();
    let (start, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send(0).unwrap();
        started.recv().unwrap();
        // Memory that grows and shrinks.
        let bytes = vec![1u8; 64 << 20];
        sender.send(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()).unwrap();
        drop(bytes);
        loop {
            std::thread::park();
        }
    });
    receiver.recv().unwrap();
    install(role).unwrap();
    narrow(role).unwrap();
    match (what, attempt) {
        (_, Some(attempt)) => {
            attempt();
        }
        ("granted", _) => {
            start.send(()).unwrap();
            let sum = receiver.recv().unwrap();
            // Falls back to an older call.
            let page = page(WRITABLE);
            let refused = call!(libc::SYS_clone3, 0, 0) == -1 && errno() == libc::ENOSYS;
            if sum != 64 << 20 || page == -1 || !refused {
                leave(1);
            }
        }
        ("abort", _) => std::process::abort(),
        ("i386", _) => i386(),
        _ => leave(2),
    }
    leave(0);
}

/// A call with the number of 32-bit processes.
fn i386() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: asks for this process's number; the registers that the kernel may change are named.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20 => _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _);
    }
}

#[test]
fn calls_outside_of_a_role_kill_its_process() {
    for role in Role::ALL {
        // Needed for names in granted folders, which Landlock restricts.
        let granted = |name: &str| role == Role::GrantedProgram && name == "unlinkat";
        let denied = DENIED.iter().chain(NOT_IN_A_ROLE).filter(|(name, _)| !granted(name));
        let more: [&[Attempt]; 2] = match role {
            Role::Prepare => [ONLY_IN_RUN, NOT_IN_PREPARE],
            Role::Run => [NOT_IN_RUN, &[]],
            Role::Compile => [ONLY_IN_RUN, NOT_IN_COMPILE],
            Role::CompileProgram => [ONLY_IN_RUN, &[]],
            Role::Program => [ONLY_IN_RUN, NOT_IN_RUN],
            Role::GrantedProgram => [ONLY_IN_RUN, &[]],
        };
        for (name, _) in denied.chain(more.concat().iter()) {
            let output = process("attacks::in_a_role", &format!("{role:?} {name}"));
            assert_eq!(
                output.status.signal(),
                Some(libc::SIGSYS),
                "{name} in {role:?}: {output:?}"
            );
        }
    }
}

#[test]
fn calls_that_a_role_needs_are_allowed() {
    for role in Role::ALL {
        let output = process("attacks::in_a_role", &format!("{role:?} granted"));
        assert_eq!(output.status.code(), Some(0), "{role:?}: {output:?}");
        let output = process("attacks::in_a_role", &format!("{role:?} abort"));
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{role:?}: {output:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_32_bit_processes_end_the_process() {
    let output = process("attacks::in_a_role", "Run i386");
    // A kernel without such calls raises a fault.
    let deaths = [Some(libc::SIGSYS), Some(libc::SIGSEGV)];
    assert!(deaths.contains(&output.status.signal()), "{output:?}");
}

#[test]
fn installing_a_filter_requires_no_new_privs() {
    if task().is_none() {
        let test = "attacks::installing_a_filter_requires_no_new_privs";
        let output = process(test, "in a separate process");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    // If the parent process has set no_new_privs already, nothing can be tested here.
    if !rustix::thread::no_new_privs().unwrap() {
        assert!(install(Role::Run).unwrap_err().to_string().contains("new privileges"));
        // No filter was installed.
        std::fs::read("/proc/self/stat").unwrap();
    }
}

#[test]
fn calls_that_a_sandbox_does_not_need_fail_on_its_thread() {
    if task().is_none() {
        let test = "attacks::calls_that_a_sandbox_does_not_need_fail_on_its_thread";
        let output = process(test, "in a separate process");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let refused = |attempts: &[Attempt]| {
        attempts.iter().for_each(|(name, attempt)| {
            assert_eq!((attempt(), errno()), (-1, libc::EPERM), "{name}");
        });
    };
    let confined = std::thread::spawn(move || {
        install_on_thread().unwrap();
        assert!(rustix::thread::no_new_privs().unwrap());
        refused(DENIED);
        assert!(std::fs::File::open(PATH.to_str().unwrap()).is_err());
        assert!(std::process::Command::new("/bin/true").status().is_err());
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
        // The same holds for a thread that it starts, which glibc can do without clone3.
        assert_eq!((call!(libc::SYS_clone3, 0, 0), errno()), (-1, libc::ENOSYS));
        std::thread::spawn(move || refused(DENIED)).join().unwrap();
        // The calls of a sandbox are allowed.
        assert!(vec![1u8; 64 << 20].iter().all(|byte| *byte == 1));
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    });
    confined.join().unwrap();
    // The other threads of the process are not affected.
    std::fs::read("/proc/self/stat").unwrap();
    assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    std::net::TcpListener::bind("127.0.0.1:0").unwrap();
}
