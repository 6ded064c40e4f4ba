//! glibc's heap: one for all threads of a worker, and memory given back after many sandboxes.
//!
//! In a worker glibc would give each thread an arena of its own, and look into files under `/proc` when it
//! makes one smaller: a worker opens none. Kernels on several threads allocate next to nothing, so
//! nobody waits. `unsafe` is here for the calls.

/// Has glibc keep one heap. To be called before there is a second thread.
pub fn keep_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator, whose lock it takes; no memory is involved.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(set, 1);
}

/// Gives the kernel what has become free in the midst of the heap, which glibc keeps otherwise: after
/// a thousand sandboxes on threads half a gigabyte.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: frees pages in which there is no allocation; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
