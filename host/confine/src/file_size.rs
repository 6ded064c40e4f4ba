//! The limit on the length of files that this process writes (`ulimit -f`), memory files among them.
//!
//! Who writes beyond it is sent SIGXFSZ, which ends the process unless it says otherwise. A library
//! does not change how the program around it takes signals, so whoever writes a long file asks first.
//!
//! `unsafe` is here to set what happens on the signal, which only the command line does.

use std::io;

use rustix::process::{Resource, getrlimit};

/// The longest that a file may become, if that is limited.
pub(super) fn most() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// Fails if a file may not become this long.
pub fn check(len: u64) -> io::Result<()> {
    match most() {
        Some(most) if len > most => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "a file of {len} bytes is longer than this process may write, {most} bytes; raise \
                 the limit (`ulimit -f`)"
            ),
        )),
        _ => Ok(()),
    }
}

/// Has a write beyond the limit answered with an error, and not end this process. For a program that
/// belongs to Belljar alone.
pub fn ignore_signal() {
    // SAFETY: no handler is installed; the signal is only ignored.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
