//! Signals that ask this process to end, for commands that must clean up first.
//!
//! `unsafe` is needed for the C library's signal functions, which have no safe wrappers.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The signals that a person, a terminal or a service manager sends to end a process.
const STOP: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGQUIT, unless they are ignored, in the calling thread and
/// the threads it starts afterwards. Worker processes are not affected.
pub struct StopSignals {
    set: libc::sigset_t,
}

impl StopSignals {
    /// Call it before any other thread is started.
    pub fn hold_back() -> io::Result<StopSignals> {
        // SAFETY: a zeroed set and a zeroed action are valid and live on this stack. No action is
        // changed: a null pointer queries the current one.
        let (set, failed) = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in STOP {
                let mut action: libc::sigaction = std::mem::zeroed();
                let asked = libc::sigaction(signal, std::ptr::null(), &raw mut action);
                // A parent that ignores a signal, like `nohup`, wants this process to keep running.
                if asked == 0 && action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut set, signal);
                }
            }
            let none = std::ptr::null_mut();
            (set, libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, none))
        };
        match failed {
            0 => Ok(StopSignals { set }),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: `hold_back` created the set, and both pointers are valid during the call.
        match unsafe { libc::sigwait(&raw const self.set, &raw mut signal) } {
            0 => Ok(signal),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Unblocks them in this thread.
    pub fn let_through(&self) {
        // SAFETY: `hold_back` created the set, and a null pointer discards the old mask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.set, std::ptr::null_mut());
        }
    }

    /// Ends this process by the signal that it received.
    pub fn end_by(&self, signal: i32) -> ! {
        self.let_through();
        // SAFETY: raising a signal has no preconditions. Its action is the default or the handler
        // of `RemovedOnSignal`; both end the process.
        unsafe { libc::raise(signal) };
        std::process::exit(128 + signal)
    }
}

/// The path of the file to remove, as a C string that a `RemovedOnSignal` owns, or null.
static TO_REMOVE: AtomicPtr<libc::c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Held by the one `RemovedOnSignal` that may exist at a time.
static TURN: Mutex<()> = Mutex::new(());

/// While this value lives, a signal that ends the process first removes a file.
pub struct RemovedOnSignal {
    /// The signals whose action was changed.
    changed: Vec<libc::c_int>,
    _turn: MutexGuard<'static, ()>,
}

impl RemovedOnSignal {
    /// `path` need not exist yet. Signals that are ignored, or have a handler, stay as they are.
    pub fn new(path: &Path) -> io::Result<RemovedOnSignal> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        TO_REMOVE.store(path.into_raw(), Ordering::SeqCst);
        let mut changed = Vec::with_capacity(STOP.len());
        for signal in STOP {
            // SAFETY: zeroed actions are valid and live on this stack. The handler calls only
            // async-signal-safe functions, and need not preserve `errno`: it never returns to the
            // interrupted code.
            let done = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let asked = libc::sigaction(signal, std::ptr::null(), &raw mut action);
                asked == 0 && action.sa_sigaction == libc::SIG_DFL && {
                    action.sa_sigaction = remove_and_end as *const () as libc::sighandler_t;
                    action.sa_flags = 0;
                    libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
                }
            };
            if done {
                changed.push(signal);
            }
        }
        Ok(RemovedOnSignal { changed, _turn: turn })
    }
}

impl Drop for RemovedOnSignal {
    fn drop(&mut self) {
        for signal in &self.changed {
            // SAFETY: the default action is valid for each of these signals.
            unsafe { libc::signal(*signal, libc::SIG_DFL) };
        }
        let path = TO_REMOVE.swap(std::ptr::null_mut(), Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: it came from `CString::into_raw`, and the swap took it away from the handler.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// Removes the file and ends the process by the signal that it received.
extern "C" fn remove_and_end(signal: libc::c_int) {
    let path = TO_REMOVE.swap(std::ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: these three calls are async-signal-safe. The path is a C string that is never freed:
    // the swap took it from `RemovedOnSignal`. The raised signal is blocked until this handler
    // returns, and then ends the process by its default action.
    unsafe {
        if !path.is_null() {
            libc::unlink(path);
        }
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;

    const FILE: &str = "BELLJAR_TEST_REMOVED_ON_SIGNAL";

    /// The test below runs this in a child process.
    #[test]
    fn a_process_with_a_file() {
        let Some(path) = std::env::var_os(FILE).map(PathBuf::from) else { return };
        let removed = RemovedOnSignal::new(&path).unwrap();
        std::fs::write(&path, "content").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        drop(removed);
    }

    #[test]
    fn a_signal_removes_the_file_and_ends_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for signal in STOP {
            // A shell that starts the tests in the background may make them ignore signals.
            let mut command = Command::new("env");
            command.arg("--default-signal=INT,TERM,HUP,QUIT").arg(std::env::current_exe().unwrap());
            command.args(["--exact", "stop_signals::tests::a_process_with_a_file"]);
            command.env(FILE, &path).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            while !path.exists() {
                assert!(child.try_wait().unwrap().is_none());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let pid = rustix::process::Pid::from_child(&child);
            let number = rustix::process::Signal::from_named_raw(signal).unwrap();
            rustix::process::kill_process(pid, number).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(signal));
            assert!(!path.exists(), "signal {signal}");
        }
    }

    #[test]
    fn without_a_signal_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        for _ in 0..2 {
            drop(RemovedOnSignal::new(&path).unwrap());
        }
        assert!(path.exists());
    }
}
