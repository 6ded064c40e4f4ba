//! The heap: dlmalloc, which the standard library uses for this target too, in our own hands, so
//! that what is free can be made zero before the memory becomes an image.
//!
//! What loading a model leaves behind in free memory would be copied back after every run that uses
//! it, and be stored with every image.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::{Allocator, Dlmalloc};

/// Smallest piece of free memory that is made zero: what is smaller lies between live data.
const SMALLEST: usize = 512;

const PAGE: usize = 64 << 10;

/// Whether the linear memory must not grow just now.
static CLOSED: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Pages)));

struct Heap(UnsafeCell<Dlmalloc<Pages>>);

// SAFETY: this module has no threads.
unsafe impl Sync for Heap {}

impl Heap {
    /// # Safety
    /// No other reference to the allocator is in use: none of its functions calls one of ours.
    #[expect(clippy::mut_from_ref, reason = "what a cell is for; see above")]
    unsafe fn get(&self) -> &mut Dlmalloc<Pages> {
        // SAFETY: the caller's.
        unsafe { &mut *self.0.get() }
    }
}

// SAFETY: dlmalloc keeps what the trait asks for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's, here and below.
        unsafe { self.get().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.get().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.get().free(block, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.get().realloc(block, layout.size(), layout.align(), size) }
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
