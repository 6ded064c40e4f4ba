//! The first steps of a worker process.
//!
//! `unsafe` is needed to close inherited descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::channel::CHANNEL;
use super::setup::die_with_supervisor;
use super::spawn::default_signals;

/// The first step of a worker, while it has one thread: binds its life to its supervisor, closes
/// inherited descriptors, and takes its socket from standard input.
pub fn enter_worker() -> io::Result<OwnedFd> {
    let parent = rustix::process::getppid();
    die_with_supervisor()?;
    // The supervisor may have ended before the line above. In a PID namespace this check cannot see
    // that, but then the socket is closed.
    if rustix::process::getppid() != parent {
        return Err(io::Error::other("the supervisor has ended"));
    }
    default_signals();
    close_inherited()?;
    // Makes the kernel prefer workers when it must kill a process because memory ran out. It needs
    // no privilege; if it fails, the kernel's default applies.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    if socket.as_raw_fd() != CHANNEL {
        return Err(io::Error::other(format!(
            "the worker's channel is descriptor {} instead of {CHANNEL}",
            socket.as_raw_fd()
        )));
    }
    let kind = rustix::net::sockopt::socket_type(&socket)?;
    if kind != rustix::net::SocketType::SEQPACKET {
        return Err(io::Error::other(
            "standard input is not a worker's channel; only belljar can start a worker",
        ));
    }
    Ok(socket)
}

/// Closes every descriptor except the three standard ones. A program that embeds the host, or the
/// shell it was started from, may have leaked others to its children.
fn close_inherited() -> io::Result<()> {
    let mut numbers: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // Skips `.` and `..`.
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: this runs first in a worker process, so nothing owns a descriptor yet. One of the
        // numbers belonged to the folder just read; it is closed already, and closing a number that
        // is not open does nothing.
        unsafe { rustix::io::close(number) };
    }
    Ok(())
}
