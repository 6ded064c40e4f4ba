//! The heap: dlmalloc, which the standard library uses for this target too, in our own hands, so
//! that what is free can be made zero before the memory becomes a snapshot, and a stretch of memory
//! for the tensors of runs.
//!
//! What loading a model leaves behind in free memory would be copied back after every run that uses
//! it, and be stored with every snapshot. And dlmalloc spreads what a run allocates over two to three
//! times as many pages as it needs at once.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::{Allocator, Dlmalloc};

use crate::spans::{GRAIN, Spans};

/// Smallest piece of free memory that is made zero: what is smaller lies between live data.
const SMALLEST: usize = 512;

const PAGE: usize = 64 << 10;

/// Smallest block that is allocated from the stretch for runs.
const LARGE: usize = 4 << 10;

/// Whether the linear memory must not grow just now.
static CLOSED: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static HEAP: Heap = Heap {
    all: UnsafeCell::new(Dlmalloc::new_with_allocator(Pages)),
    runs: UnsafeCell::new(Stretch { start: 0, len: 0, spans: Spans::EMPTY }),
};

struct Heap {
    all: UnsafeCell<Dlmalloc<Pages>>,
    runs: UnsafeCell<Stretch>,
}

/// The memory for large blocks of runs: a block of dlmalloc's that is never given back.
struct Stretch {
    start: usize,
    len: usize,
    spans: Spans,
}

impl Stretch {
    fn alloc(&mut self, layout: Layout) -> Option<*mut u8> {
        if self.len == 0 || layout.size() < LARGE || layout.align() > GRAIN {
            return None;
        }
        self.spans.take(layout.size()).map(|at| (self.start + at) as *mut u8)
    }

    fn contains(&self, block: *mut u8) -> bool {
        (block as usize).wrapping_sub(self.start) < self.len
    }
}

// SAFETY: this module has no threads.
unsafe impl Sync for Heap {}

impl Heap {
    /// # Safety
    /// No other reference to the allocator is in use: none of its functions calls one of ours.
    #[expect(clippy::mut_from_ref, reason = "what a cell is for; see above")]
    unsafe fn get(&self) -> &mut Dlmalloc<Pages> {
        // SAFETY: the caller's.
        unsafe { &mut *self.all.get() }
    }

    /// # Safety
    /// As for [`Heap::get`].
    #[expect(clippy::mut_from_ref, reason = "what a cell is for; see above")]
    unsafe fn runs(&self) -> &mut Stretch {
        // SAFETY: the caller's.
        unsafe { &mut *self.runs.get() }
    }
}

// SAFETY: dlmalloc keeps what the trait asks for, and so do the spans: what is taken is nobody
// else's until it is given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's, here and below.
        unsafe {
            let block = self.runs().alloc(layout);
            block.unwrap_or_else(|| self.get().malloc(layout.size(), layout.align()))
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; a block is as long as was asked for.
        unsafe {
            if let Some(block) = self.runs().alloc(layout) {
                block.write_bytes(0, layout.size());
                return block;
            }
            self.get().calloc(layout.size(), layout.align())
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the stretch's blocks are in it, and no others.
        unsafe {
            let runs = self.runs();
            if runs.contains(block) {
                runs.spans.give(block as usize - runs.start, layout.size());
            } else {
                self.get().free(block, layout.size(), layout.align());
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; both blocks have the bytes that are copied, and do not overlap.
        unsafe {
            if !self.runs().contains(block) {
                return self.get().realloc(block, layout.size(), layout.align(), size);
            }
            let other = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !other.is_null() {
                ptr::copy_nonoverlapping(block, other, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            other
        }
    }
}

/// Where dlmalloc gets memory: linear memory, which never shrinks.
struct Pages;

// SAFETY: what is given away is new memory that nobody else knows.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        const NOTHING: (*mut u8, usize, u32) = (ptr::null_mut(), 0, 0);
        if CLOSED.load(Ordering::Relaxed) {
            return NOTHING;
        }
        let pages = size.div_ceil(PAGE);
        let before = wasm32::memory_grow::<0>(pages);
        if before == usize::MAX {
            return NOTHING;
        }
        let (start, size) = (before * PAGE, pages * PAGE);
        // A pointer must not wrap around at the end of the address space.
        let end_is_zero = start.wrapping_add(size) == 0;
        (start as *mut u8, if end_is_zero { size - 16 } else { size }, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

/// Has `len` bytes of zeros lie ready for the large blocks of runs, if there is so much.
pub(crate) fn lay_ready(len: usize) {
    // SAFETY: the allocator is used for this call only; the block is never freed.
    unsafe {
        let block = HEAP.get().calloc(len, GRAIN);
        if !block.is_null() {
            *HEAP.runs() = Stretch { start: block as usize, len, spans: Spans::new(len) };
        }
    }
}

/// Makes free memory zero, but for a few bytes here and there: takes all there is without growing,
/// the largest pieces first, and gives it back.
pub(crate) fn zero_free_memory() {
    CLOSED.store(true, Ordering::Relaxed);
    let mut taken: *mut Taken = ptr::null_mut();
    let mut size = 1 << 30;
    while size >= SMALLEST {
        // SAFETY: the allocator is used for this call only. Each block is large enough for what is
        // written to its start.
        unsafe {
            let block = HEAP.get().malloc(size, align_of::<Taken>());
            if block.is_null() {
                size /= 2;
                continue;
            }
            block.write_bytes(0, size);
            let block = block.cast::<Taken>();
            block.write(Taken { before: taken, size });
            taken = block;
        }
    }
    while !taken.is_null() {
        // SAFETY: a block from above, with what was written there.
        unsafe {
            let Taken { before, size } = taken.read();
            taken.write(Taken { before: ptr::null_mut(), size: 0 });
            HEAP.get().free(taken.cast(), size, align_of::<Taken>());
            taken = before;
        }
    }
    CLOSED.store(false, Ordering::Relaxed);
}

/// At the start of a block that was taken: the one before it, and how many bytes were asked for.
struct Taken {
    before: *mut Taken,
    size: usize,
}
