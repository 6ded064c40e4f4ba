//! One heap for all threads of a worker.
//!
//! glibc would give each thread an arena of its own, and look into files under `/proc` when it
//! makes one smaller: a worker opens none. Kernels on several threads allocate next to nothing, so
//! nobody waits. `unsafe` is here for the call.

/// Has glibc keep one heap. To be called before there is a second thread.
pub(crate) fn keep_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator, whose lock it takes; no memory is involved.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(set, 1);
}
