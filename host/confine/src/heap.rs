//! Settings of glibc's heap: one arena for all threads of a worker, and memory returned to the
//! kernel after many sandboxes.
//!
//! By default glibc gives each thread its own arena, and opens a file under `/proc` when it shrinks
//! one, which a worker may not do. Kernels on several threads allocate almost nothing, so they do
//! not contend for the single arena. `unsafe` is needed for the calls.

/// Restricts glibc to one arena. Call it before a second thread starts.
pub fn keep_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator, whose lock it takes; no memory is involved.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(set, 1);
}

/// Returns free pages inside the heap to the kernel. glibc otherwise keeps them: half a gigabyte
/// after a thousand sandboxes on threads.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: frees pages without allocations; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
