//! Scratch memory of kernels: bounded, kept from one kernel to the next, and cleared between
//! requests.
//!
//! Buffers are kept because faulting in the pages of a new large allocation is its main cost. So a
//! kernel's buffers may contain data of an earlier kernel. That data must not reach a result: a
//! kernel writes every element before it reads it, and [`ScratchPool::clear`], which is part of a
//! sandbox's reset, zeroes everything that the last request wrote.

use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ELEMENT_BYTES: usize = size_of::<f32>();

/// Maximum number of bytes that are kept for each thread while no kernel runs: 16 MiB.
const KEPT_PER_THREAD: usize = 16 << 20;

/// The scratch memory of one sandbox, for all threads of its kernels.
pub struct ScratchPool {
    free: Mutex<Free>,
    /// Maximum number of bytes that are kept.
    max_bytes: usize,
}

/// Buffers that no kernel is using.
#[derive(Default)]
struct Free {
    buffers: Vec<Buffer>,
    /// Total bytes.
    bytes: usize,
    /// The value with which every buffer is filled before a kernel gets it.
    #[cfg(any(test, fuzzing, feature = "planted-secrets"))]
    planted: Option<f32>,
}

#[derive(Default)]
struct Buffer {
    elements: Vec<f32>,
    /// Number of elements from the start that may have been written since the buffer was cleared.
    /// The rest is zero.
    written: usize,
}

impl Buffer {
    fn new(len: usize) -> Buffer {
        Buffer { elements: vec![0.0; len], written: 0 }
    }

    fn bytes(&self) -> usize {
        self.elements.len() * ELEMENT_BYTES
    }

    fn clear(&mut self) {
        let written = self.elements.get_mut(..self.written).unwrap_or_default();
        written.fill(0.0);
        // Otherwise the compiler removes the stores if the buffer is freed next.
        black_box(written);
        self.written = 0;
    }
}

/// Clears memory that is returned to the allocator, too.
impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

impl ScratchPool {
    /// A pool for kernels on this many threads.
    pub fn new(threads: usize) -> ScratchPool {
        let max_bytes = KEPT_PER_THREAD.saturating_mul(threads);
        ScratchPool { free: Mutex::default(), max_bytes }
    }

    /// Takes a buffer of `len` elements. It may contain data of an earlier kernel.
    pub(super) fn take(&self, len: usize) -> Scratch<'_> {
        let mut free = self.lock();
        // Takes the smallest buffer that is large enough, or else replaces the largest by a new
        // one.
        let fitting = free.buffers.iter().enumerate();
        let fitting = fitting.filter(|(_, buffer)| buffer.elements.len() >= len);
        let found = fitting.min_by_key(|(_, buffer)| buffer.elements.len()).map(|(at, _)| at);
        let found = found.or_else(|| {
            let all = free.buffers.iter().enumerate();
            all.max_by_key(|(_, buffer)| buffer.elements.len()).map(|(at, _)| at)
        });
        let mut buffer = found.map(|at| free.remove(at)).unwrap_or_default();
        #[cfg(any(test, fuzzing, feature = "planted-secrets"))]
        let planted = free.planted;
        drop(free);
        if buffer.elements.len() < len {
            // Freed before the new allocation, so that both never exist at the same time.
            drop(buffer);
            buffer = Buffer::new(len);
        }
        #[cfg(any(test, fuzzing, feature = "planted-secrets"))]
        if let Some(value) = planted {
            buffer.elements.fill(value);
            buffer.written = buffer.elements.len();
        }
        Scratch { pool: self, buffer, len }
    }

    /// An empty buffer, to be resized later.
    pub(super) fn none(&self) -> Scratch<'_> {
        Scratch { pool: self, buffer: Buffer::default(), len: 0 }
    }

    fn give_back(&self, buffer: Buffer) {
        if buffer.elements.is_empty() {
            return;
        }
        let mut free = self.lock();
        if free.bytes + buffer.bytes() <= self.max_bytes {
            free.bytes += buffer.bytes();
            free.buffers.push(buffer);
            return;
        }
        // Dropping clears the buffer, which takes a while and needs no lock.
        drop(free);
        drop(buffer);
    }

    /// Zeroes everything that kernels wrote since the last call. Call it when a request has ended,
    /// while no kernel runs.
    pub fn clear(&self) {
        self.lock().buffers.iter_mut().for_each(Buffer::clear);
    }

    /// Number of bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Clears all kept buffers and returns them to the allocator.
    pub fn release(&self) {
        let mut free = self.lock();
        free.bytes = 0;
        let buffers = std::mem::take(&mut free.buffers);
        // Without the lock, because clearing takes a while.
        drop(free);
        drop(buffers);
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Free {
    fn remove(&mut self, at: usize) -> Buffer {
        let buffer = self.buffers.swap_remove(at);
        self.bytes -= buffer.bytes();
        buffer
    }
}

/// For tests that no data passes from one request to the next.
#[cfg(any(test, fuzzing, feature = "planted-secrets"))]
impl ScratchPool {
    /// From now on, fills every buffer, including new ones, with a value before a kernel gets it.
    pub fn plant(&self, value: f32) {
        self.lock().planted = Some(value);
    }

    /// Whether all kept buffers are zero, including the parts that do not count as written.
    pub fn is_clear(&self) -> bool {
        const ZEROS: [f32; 1024] = [0.0; 1024];
        let bytes = |elements| -> &[u8] { bytemuck::cast_slice(elements) };
        let free = self.lock();
        let mut pieces = free.buffers.iter().flat_map(|buffer| buffer.elements.chunks(1024));
        pieces.all(|piece| bytes(piece) == bytes(&ZEROS[..piece.len()]))
    }

    /// Whether any kept element satisfies the predicate.
    pub fn any(&self, like: impl Fn(f32) -> bool) -> bool {
        self.lock().buffers.iter().flat_map(|buffer| &buffer.elements).any(|value| like(*value))
    }
}

/// A scratch buffer with unspecified content.
pub(super) struct Scratch<'p> {
    pool: &'p ScratchPool,
    buffer: Buffer,
    len: usize,
}

impl Scratch<'_> {
    /// Changes the number of elements. The content may be lost.
    pub(super) fn resize(&mut self, len: usize) {
        if len > self.buffer.elements.len() {
            self.pool.give_back(std::mem::take(&mut self.buffer));
            *self = self.pool.take(len);
        }
        self.len = len;
    }
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.buffer.elements.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.buffer.written = self.buffer.written.max(self.len);
        self.buffer.elements.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}
