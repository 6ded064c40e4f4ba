//! Whether this process was started with its standard output closed.
//!
//! The runtime replaces a closed one with /dev/null before `main`, so that results would be lost
//! without an error. This checks before the runtime starts, which needs `unsafe`.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn check() {
    // SAFETY: F_GETFD only reads a descriptor's flags, and is valid for any descriptor number.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the functions in this section are called on the main thread before the runtime starts.
// This function does not depend on the runtime, and ignores its arguments.
#[used]
#[unsafe(link_section = ".init_array")]
static CHECK: extern "C" fn() = check;

/// Whether standard output was closed when this process started.
pub fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
