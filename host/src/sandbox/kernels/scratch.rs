//! Memory that kernels leave for the next one on the same thread. What large allocations cost is
//! not the asking but the pages, which the system would have to make anew each time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Most elements that a thread keeps: 16 MiB.
const KEPT: usize = 4 << 20;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Some elements, of which nothing is known.
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// At first without elements.
    pub(super) fn new() -> Scratch {
        Scratch(FREE.with_borrow_mut(Vec::pop).unwrap_or_default())
    }

    /// A number of elements. What is in them may be anything that a kernel left there.
    pub(super) fn of(len: usize) -> Scratch {
        let mut scratch = Scratch::new();
        scratch.resize(len);
        scratch
    }

    /// Changes the number of elements.
    pub(super) fn resize(&mut self, len: usize) {
        self.0.resize(len, 0.0);
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let elements = std::mem::take(&mut self.0);
        // A thread that ends has given its memory back already.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let kept: usize = free.iter().map(Vec::capacity).sum();
            if kept + elements.capacity() <= KEPT {
                free.push(elements);
            }
        });
    }
}
