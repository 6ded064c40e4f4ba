//! Native kernels of the host, for operators of this crate whose inner loops it computes on this
//! sandbox's memory. Without them, and for what they do not take, the operators compute in plain
//! Rust: integers have the same bits then, and floats differ within the tolerances of
//! SPECIFICATION.md. Requests are made from slices only, so that the addresses in them are valid.

use std::sync::{PoisonError, RwLock};

use belljar_abi::kernel::Kernel;
use belljar_abi::scratch::MAX_SCRATCH_BYTES;

/// Computes a request on the memory of this sandbox.
pub type Compute = fn(&Kernel);

static HOST: RwLock<Option<Compute>> = RwLock::new(None);

/// Lets the operators of this crate use the host's kernels, or stops them. The function gets
/// requests with the addresses of live slices, of which it may only write to the output.
pub fn use_kernels(compute: Option<Compute>) {
    *HOST.write().unwrap_or_else(PoisonError::into_inner) = compute;
}

/// Whether the host's kernels may be used.
pub(crate) fn enabled() -> bool {
    host().is_some()
}

fn host() -> Option<Compute> {
    *HOST.read().unwrap_or_else(PoisonError::into_inner)
}

/// Computes a request if the host may, and its scratch memory fits. Returns whether it did.
pub(crate) fn compute(kernel: &Kernel) -> bool {
    match host() {
        Some(host) if kernel.scratch_bytes() <= MAX_SCRATCH_BYTES => {
            host(kernel);
            true
        }
        _ => false,
    }
}

/// The address of a slice in this sandbox's memory, which has 32 bits.
pub(crate) fn address<T>(slice: &[T]) -> u32 {
    slice.as_ptr() as usize as u32
}

pub(crate) fn address_mut<T>(slice: &mut [T]) -> u32 {
    slice.as_mut_ptr() as usize as u32
}
