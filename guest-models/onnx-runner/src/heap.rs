//! The global allocator: dlmalloc, which the standard library uses for this target too, with two
//! additions. Free memory can be zeroed before the memory becomes a snapshot, and a separate region
//! holds the tensors of runs.
//!
//! Without the first, the data that loading a model leaves in free memory would be stored in every
//! snapshot, and copied back after every run that overwrites it. Without the second, dlmalloc would
//! spread the allocations of a run over two to three times as many pages as they need.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::{Allocator, Dlmalloc};

use crate::spans::{GRAIN, Spans};

/// Minimum size of a free block that is zeroed. Smaller ones lie between live data.
const MIN_ZEROED: usize = 512;

const PAGE: usize = 64 << 10;

/// Minimum size of a block that is allocated from the region for runs.
const MIN_LARGE: usize = 4 << 10;

/// Whether growing the linear memory is disabled.
static GROWTH_DISABLED: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static HEAP: Heap = Heap {
    all: UnsafeCell::new(Dlmalloc::new_with_allocator(Pages)),
    runs: UnsafeCell::new([Region::EMPTY; 2]),
};

struct Heap {
    all: UnsafeCell<Dlmalloc<Pages>>,
    /// The region that is part of the snapshot, and one for a run that needs a larger one.
    runs: UnsafeCell<[Region; 2]>,
}

/// The region for large blocks of runs: a block of dlmalloc's that is never freed.
struct Region {
    start: usize,
    len: usize,
    spans: Spans,
}

impl Region {
    const EMPTY: Region = Region { start: 0, len: 0, spans: Spans::EMPTY };

    fn alloc(&mut self, layout: Layout) -> Option<*mut u8> {
        if self.len == 0 || layout.size() < MIN_LARGE || layout.align() > GRAIN {
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
    #[expect(
        clippy::mut_from_ref,
        reason = "the function is unsafe, and its callers guarantee exclusive access"
    )]
    unsafe fn get(&self) -> &mut Dlmalloc<Pages> {
        // SAFETY: guaranteed by the caller.
        unsafe { &mut *self.all.get() }
    }

    /// # Safety
    /// As for [`Heap::get`].
    #[expect(
        clippy::mut_from_ref,
        reason = "the function is unsafe, and its callers guarantee exclusive access"
    )]
    unsafe fn runs(&self) -> &mut [Region; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { &mut *self.runs.get() }
    }

    /// A block of a region. The larger region, if there is one, is used first.
    ///
    /// # Safety
    /// As for [`Heap::get`].
    unsafe fn of_regions(&self, layout: Layout) -> Option<*mut u8> {
        // SAFETY: guaranteed by the caller.
        let [first, larger] = unsafe { self.runs() };
        larger.alloc(layout).or_else(|| first.alloc(layout))
    }
}

// SAFETY: dlmalloc fulfils the contract of the trait, and so do the spans: a block that is taken
// does not overlap any other until it is given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: guaranteed by the caller, here and below.
        unsafe {
            let block = self.of_regions(layout);
            block.unwrap_or_else(|| self.get().malloc(layout.size(), layout.align()))
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; a block has the requested length.
        unsafe {
            if let Some(block) = self.of_regions(layout) {
                block.write_bytes(0, layout.size());
                return block;
            }
            self.get().calloc(layout.size(), layout.align())
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; a block is in the region if and only if it was allocated from it.
        unsafe {
            match self.runs().iter_mut().find(|region| region.contains(block)) {
                Some(region) => region.spans.give(block as usize - region.start, layout.size()),
                None => self.get().free(block, layout.size(), layout.align()),
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; both blocks are at least as long as the copy, and do not overlap.
        unsafe {
            if !self.runs().iter().any(|region| region.contains(block)) {
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

/// The source of memory for dlmalloc: linear memory, which never shrinks.
struct Pages;

// SAFETY: `alloc` returns new memory that nothing else uses.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        const NONE: (*mut u8, usize, u32) = (ptr::null_mut(), 0, 0);
        if GROWTH_DISABLED.load(Ordering::Relaxed) {
            return NONE;
        }
        let pages = size.div_ceil(PAGE);
        let before = wasm32::memory_grow::<0>(pages);
        if before == usize::MAX {
            return NONE;
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

/// Reserves `len` zeroed bytes for the large blocks of runs, if that much memory is available.
pub(crate) fn reserve_for_runs(len: usize) {
    // SAFETY: the allocator is used for this call only; the block is never freed.
    unsafe { reserve(&mut HEAP.runs()[0], len) }
}

/// Reserves a larger region for a run that needs `len` bytes, if the first region is smaller.
pub(crate) fn reserve_for_larger_run(len: usize) {
    // SAFETY: as above.
    unsafe {
        let [first, larger] = HEAP.runs();
        if len > first.len && larger.len == 0 {
            reserve(larger, len);
        }
    }
}

/// # Safety
/// As for [`Heap::get`].
unsafe fn reserve(region: &mut Region, len: usize) {
    // SAFETY: guaranteed by the caller.
    let block = unsafe { HEAP.get().calloc(len, GRAIN) };
    if !block.is_null() {
        *region = Region { start: block as usize, len, spans: Spans::new(len) };
    }
}

/// Zeroes free memory, except for small blocks: allocates all of it without growing the memory, the
/// largest blocks first, and frees it again.
pub(crate) fn zero_free_memory() {
    GROWTH_DISABLED.store(true, Ordering::Relaxed);
    let mut taken: *mut Taken = ptr::null_mut();
    let mut size = 1 << 30;
    while size >= MIN_ZEROED {
        // SAFETY: the allocator is used for this call only. Each block is large enough for the
        // `Taken` at its start.
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
        // SAFETY: a block from the loop above, which starts with a `Taken`.
        unsafe {
            let Taken { before, size } = taken.read();
            taken.write(Taken { before: ptr::null_mut(), size: 0 });
            HEAP.get().free(taken.cast(), size, align_of::<Taken>());
            taken = before;
        }
    }
    GROWTH_DISABLED.store(false, Ordering::Relaxed);
}

/// The start of a block that was taken: the previous one, and the size of this one.
struct Taken {
    before: *mut Taken,
    size: usize,
}
