//! The limit on the length of files that this process writes (`ulimit -f`), including memory files.
//!
//! A write beyond the limit raises SIGXFSZ, which by default ends the process. A library must not
//! change the signal handling of the program around it, so code that writes long files checks
//! first.
//!
//! `unsafe` is needed to change the signal's action, which only the command line does.

use std::io;

use rustix::process::{Resource, getrlimit};

/// The limit in bytes, if there is one.
pub(super) fn limit() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// Fails if a file of this length would exceed the limit.
pub fn check(len: u64) -> io::Result<()> {
    match limit() {
        Some(limit) if len > limit => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "a file of {len} bytes exceeds this process's file size limit of {limit} bytes; \
                 raise the limit (`ulimit -f`)"
            ),
        )),
        _ => Ok(()),
    }
}

/// Makes a write beyond the limit return an error instead of ending this process. Only for programs
/// that Belljar controls entirely.
pub fn ignore_signal() {
    // SAFETY: no handler is installed; the signal is only ignored.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
