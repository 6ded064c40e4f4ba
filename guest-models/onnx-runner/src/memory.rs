//! The guest's side of passing messages through linear memory. All the unsafe code that concerns
//! memory is here.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::atomic::{AtomicBool, Ordering};

use belljar_abi::ALIGN;

unsafe extern "C" {
    /// Made by the linker: runs the constructors of every linked crate.
    fn __wasm_call_ctors();
}

static CONSTRUCTED: AtomicBool = AtomicBool::new(false);

/// Runs the constructors once; running them twice would register every kernel twice.
pub(crate) fn run_constructors_once() {
    if !CONSTRUCTED.swap(true, Ordering::Relaxed) {
        // SAFETY: the linker made this function for exactly this call, and the flag above lets it
        // happen once.
        unsafe { __wasm_call_ctors() }
    }
}

fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.max(1), ALIGN).ok()
}

/// Memory for a message of `len` bytes, aligned to [`ALIGN`]; 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn belljar_alloc(len: usize) -> usize {
    // SAFETY: the layout's size is at least 1.
    layout(len).map_or(0, |layout| unsafe { alloc(layout) } as usize)
}

/// A message the host wrote; its memory is given back when this is dropped.
pub(crate) struct Message {
    address: usize,
    len: usize,
}

/// Takes over the message that the host wrote at `address`.
pub(crate) fn take_message(address: usize, len: usize) -> Message {
    Message { address, len }
}

impl std::ops::Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the host got `address` from `belljar_alloc(len)` and wrote `len` bytes there;
        // no other reference to them exists. A host that lies can only harm this sandbox, which
        // it controls anyway.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.len) {
            // SAFETY: `address` came from `alloc` with this very layout, in `belljar_alloc`.
            unsafe { dealloc(self.address as *mut u8, layout) }
        }
    }
}
