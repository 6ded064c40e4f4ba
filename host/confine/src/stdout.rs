//! Whether this process was started with its standard output closed.
//!
//! Rust's runtime opens /dev/null in its place before `main`, and an answer would get lost there
//! without an error. So this looks before the runtime begins, which needs `unsafe`.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: this asks for the flags of a descriptor; any number may be asked for.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: what this section holds is called before the runtime begins, on the main thread. The
// function needs nothing of the runtime, and ignores the arguments that it is called with.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether standard output was closed when this process started.
pub fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
