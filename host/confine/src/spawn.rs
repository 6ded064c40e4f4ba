//! Starts a program as a child process in new namespaces.
//!
//! A process enters a new PID namespace only when it is created, which the standard library does
//! not support. Like `posix_spawn` in C libraries, the child shares the memory of its parent, on a
//! separate stack, while the parent waits until the child has executed the new program (`CLONE_VM`
//! and `CLONE_VFORK`). So the memory of a large parent is not copied.
//!
//! `unsafe` is needed for that: until it executes the new program, the child may only make system
//! calls.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

/// The namespaces of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespaces {
    /// All except a user namespace: the parent is privileged to create them.
    WithoutUser,
    /// All, including a user namespace in which the child is uid 0.
    WithUser,
    /// None: the kernel allows neither of the others.
    None,
}

impl Namespaces {
    fn flags(self) -> c_int {
        let all = libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        match self {
            Namespaces::WithoutUser => all,
            Namespaces::WithUser => all | libc::CLONE_NEWUSER,
            Namespaces::None => 0,
        }
    }
}

/// The program of a child. Its environment is empty.
pub(crate) struct Program<'a> {
    pub path: &'a CStr,
    /// Its arguments, including its own name.
    pub arguments: &'a [&'a CStr],
    /// Its standard input; its standard output and error are `/dev/null`.
    pub input: BorrowedFd<'a>,
}

/// Everything that the child needs, prepared in advance because the child may not allocate.
struct Plan {
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    input: RawFd,
    nothing: RawFd,
    /// Content of the id maps of its user namespace, if it has one.
    uid_map: Option<Vec<u8>>,
    gid_map: Option<Vec<u8>>,
    /// The error that kept the child from executing the program.
    failed: c_int,
}

/// Stack size of the child until it executes the program.
const STACK: usize = 64 << 10;

/// Starts a program and returns a descriptor of the process (`pidfd`). Closing the descriptor
/// neither ends the process nor waits for it.
///
/// The child starts with all signals blocked, in a new session, and in `/`.
pub(crate) fn spawn(program: &Program<'_>, namespaces: Namespaces) -> io::Result<OwnedFd> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let mut arguments: Vec<*const c_char> = program.arguments.iter().map(|a| a.as_ptr()).collect();
    arguments.push(std::ptr::null());
    let environment = [std::ptr::null()];
    let user = namespaces == Namespaces::WithUser;
    let map = |id: u32| user.then(|| format!("0 {id} 1").into_bytes());
    let mut plan = Plan {
        path: program.path.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        input: program.input.as_raw_fd(),
        nothing: null.as_raw_fd(),
        uid_map: map(rustix::process::geteuid().as_raw()),
        gid_map: map(rustix::process::getegid().as_raw()),
        failed: 0,
    };
    // Units of 16 bytes, because the stack pointer must be a multiple of 16.
    let mut stack: Vec<u128> = vec![0; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags =
        namespaces.flags() | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;

    // A signal handler of this program must not run in the child, which shares our memory.
    let blocked = BlockedSignals::all();
    // SAFETY: the stack is large enough for `child`, which makes little more than system calls. It
    // and `plan` live until the child has executed the program or ended, because this thread waits
    // for that. The kernel stores the descriptor in `pidfd`.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        let plan = (&raw mut plan).cast::<c_void>();
        libc::clone(child, top, flags, plan, &raw mut pidfd)
    };
    let err = io::Error::last_os_error();
    drop(blocked);
    if pid < 0 {
        return Err(err);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: reads a field that the child may have written to before it ended.
    let failed = unsafe { (&raw const plan.failed).read_volatile() };
    if failed != 0 {
        // The child has ended, and only this function can wait for it.
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        return Err(io::Error::from_raw_os_error(failed));
    }
    Ok(pidfd)
}

/// Runs in the child: executes the program, or stores the error.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: this is the `Plan` of `spawn`, which waits; nothing else uses it meanwhile.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: only system calls with descriptors and strings that `spawn` has prepared, until
    // `execve`, which does not return when it succeeds.
    unsafe {
        plan.failed = match become_program(plan) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        libc::_exit(127)
    }
}

/// # Safety
/// Call it in the child only: it changes the process.
unsafe fn become_program(plan: &Plan) -> Result<std::convert::Infallible, c_int> {
    // SAFETY: reads this thread's own variable, which the child shares with its waiting parent.
    let errno = || unsafe { *libc::__errno_location() };
    let checked = |result: c_int| if result < 0 { Err(errno()) } else { Ok(result) };
    // SAFETY: system calls on descriptors that are this process's copies, and on strings that end
    // in a zero byte; the arrays for `execve` end in a null pointer.
    unsafe {
        if let (Some(uid), Some(gid)) = (&plan.uid_map, &plan.gid_map) {
            // The kernel requires this before an unprivileged process writes its gid map.
            put(c"/proc/self/setgroups", b"deny").map_err(|()| errno())?;
            put(c"/proc/self/uid_map", uid).map_err(|()| errno())?;
            put(c"/proc/self/gid_map", gid).map_err(|()| errno())?;
        }
        // The standard library then puts no guard page below the stack on which each thread handles
        // signals: a worker may not make memory inaccessible. See `default_signals`.
        set_faults(libc::SIG_IGN);
        checked(libc::setsid())?;
        checked(libc::chdir(c"/".as_ptr()))?;
        // The source numbers may be among 0 to 2, so they are first duplicated to higher numbers.
        let input = checked(libc::fcntl(plan.input, libc::F_DUPFD_CLOEXEC, 3))?;
        let nothing = checked(libc::fcntl(plan.nothing, libc::F_DUPFD_CLOEXEC, 3))?;
        checked(libc::dup2(input, 0))?;
        checked(libc::dup2(nothing, 1))?;
        checked(libc::dup2(nothing, 2))?;
        libc::execve(plan.path, plan.arguments, plan.environment);
    }
    Err(errno())
}

/// # Safety
/// No conditions. It makes only system calls, because its caller may make nothing else.
unsafe fn put(path: &CStr, bytes: &[u8]) -> Result<(), ()> {
    // SAFETY: system calls on a string that ends in a zero byte and on bytes of the given length.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(());
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        // Keeps the error of the write, not of the close.
        let errno = *libc::__errno_location();
        libc::close(fd);
        *libc::__errno_location() = errno;
        if usize::try_from(written) == Ok(bytes.len()) { Ok(()) } else { Err(()) }
    }
}

/// Blocks all signals of the calling thread until it is dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> BlockedSignals {
        // SAFETY: both sets live on this stack, and a zeroed set is a valid one.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            BlockedSignals { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was there before.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Sets the action of the signals for memory faults.
///
/// # Safety
/// Call it where no other thread handles signals.
unsafe fn set_faults(action: libc::sighandler_t) {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: a zeroed action is valid and has no flags; neither value is a handler's address.
        // The call cannot fail for these two signals.
        unsafe {
            let mut wanted: libc::sigaction = std::mem::zeroed();
            wanted.sa_sigaction = action;
            libc::sigaction(signal, &raw const wanted, std::ptr::null_mut());
        }
    }
}

/// Restores, in the new process, the signal settings that its parent changed while creating it.
/// Faults end the process until an engine handles them.
pub(crate) fn default_signals() {
    // SAFETY: this process has only one thread so far.
    unsafe { set_faults(libc::SIG_DFL) };
    unblock_signals();
}

/// Unblocks all signals.
fn unblock_signals() {
    // SAFETY: the set lives on this stack, and a zeroed set is a valid, empty one.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// The output of a shell that runs this script in these namespaces.
    fn output(script: &CStr, namespaces: Namespaces) -> io::Result<String> {
        let (mut here, there) = UnixStream::pair()?;
        let arguments = [c"sh", c"-c", script];
        let program = Program { path: c"/bin/sh", arguments: &arguments, input: there.as_fd() };
        let pidfd = spawn(&program, namespaces)?;
        drop(there);
        let mut text = String::new();
        here.read_to_string(&mut text)?;
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
        assert_eq!(status.unwrap().exit_status(), Some(0), "{text}");
        Ok(text.trim().to_owned())
    }

    #[test]
    fn child_gets_its_input_and_an_empty_environment_and_parent_keeps_its_signal_mask() {
        let text = output(c"env >&0; pwd >&0; cat <&1 >&0", Namespaces::None).unwrap();
        assert!(text.contains("PWD=/"), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
        // The signal mask of this thread is restored.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    }

    #[test]
    fn child_gets_new_namespaces_where_the_kernel_allows_them() {
        let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let mut made = 0;
        for namespaces in [Namespaces::WithoutUser, Namespaces::WithUser] {
            let Ok(text) = output(c"echo $$ >&0; readlink /proc/self/ns/net >&0", namespaces)
            else {
                continue;
            };
            made += 1;
            let (pid, net) = text.split_once('\n').unwrap();
            assert_eq!(pid, "1", "{namespaces:?}");
            assert_ne!(net, link("net").to_str().unwrap(), "{namespaces:?}");
        }
        eprintln!("{made} of 2 kinds of namespaces can be created here");
    }

    #[test]
    fn spawning_a_missing_program_is_an_error() {
        let (_here, there) = UnixStream::pair().unwrap();
        let arguments = [c"nothing"];
        let program =
            Program { path: c"/nowhere/nothing", arguments: &arguments, input: there.as_fd() };
        let err = spawn(&program, Namespaces::None).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
    }
}
