//! The `belljar` program.
//!
//! `unsafe` is here for one look at standard output before Rust's runtime begins.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard output was closed when this program was started. The runtime opens /dev/null in
/// its place before `main`, and an answer would get lost there without an error.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_at_stdout() {
    // SAFETY: this asks for the flags of a descriptor; any number may be asked for.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: what this section holds is called before the runtime begins, on the main thread. The function
// needs nothing of the runtime, and ignores the arguments that it is called with.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

fn main() -> ExitCode {
    belljar::become_worker_if_asked();
    belljar::cli::main(STDOUT_CLOSED.load(Ordering::Relaxed))
}
