//! Scratch memory of kernels: bounded, kept from one kernel to the next, and cleared between
//! requests.
//!
//! Buffers are kept because making the pages of a large allocation anew costs more than anything
//! else about it. So what one kernel wrote is still there when the next one begins. Nothing of it
//! may reach a result: a kernel writes every element before it reads it, and [`ScratchPool::clear`],
//! which is part of a sandbox's reset, zeroes what the last request wrote.

use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

const ELEMENT_BYTES: usize = size_of::<f32>();

/// Most bytes that are kept for each thread while no kernel runs: 16 MiB.
const KEPT_PER_THREAD: usize = 16 << 20;

/// The scratch memory of one sandbox, for all threads of its kernels.
pub struct ScratchPool {
    free: Mutex<Free>,
    /// Most bytes that are kept.
    most: usize,
}

/// Buffers that no kernel uses at the moment.
#[derive(Default)]
struct Free {
    buffers: Vec<Buffer>,
    /// Bytes of all of them.
    bytes: usize,
    /// What every buffer is filled with before a kernel gets it.
    #[cfg(any(test, fuzzing, feature = "planted-secrets"))]
    planted: Option<f32>,
}

#[derive(Default)]
struct Buffer {
    elements: Vec<f32>,
    /// Elements from the start that may have been written since the buffer was cleared. The rest
    /// is zero.
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
        // Else the compiler leaves the zeroes out where the buffer is freed next.
        black_box(written);
        self.written = 0;
    }
}

/// Memory that goes back to the allocator holds nothing of a request either.
impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

impl ScratchPool {
    /// For kernels on so many threads.
    pub fn new(threads: usize) -> ScratchPool {
        let most = KEPT_PER_THREAD.saturating_mul(threads);
        ScratchPool { free: Mutex::default(), most }
    }

    /// A number of elements. What is in them may be anything that an earlier kernel left there.
    pub(super) fn take(&self, len: usize) -> Scratch<'_> {
        let mut free = self.lock();
        // The smallest that is large enough; else the largest makes room for one that is.
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
            // Freed first, so that there are never both.
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

    /// No elements, until there are some.
    pub(super) fn none(&self) -> Scratch<'_> {
        Scratch { pool: self, buffer: Buffer::default(), len: 0 }
    }

    fn give_back(&self, buffer: Buffer) {
        if buffer.elements.is_empty() {
            return;
        }
        let mut free = self.lock();
        if free.bytes + buffer.bytes() <= self.most {
            free.bytes += buffer.bytes();
            free.buffers.push(buffer);
            return;
        }
        // Clearing what is not kept takes a while, and needs no lock.
        drop(free);
        drop(buffer);
    }

    /// Zeroes what kernels wrote since the last time. To be called when a request has ended, while
    /// no kernel runs.
    pub fn clear(&self) {
        self.lock().buffers.iter_mut().for_each(Buffer::clear);
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Gives back what is kept, cleared.
    pub fn release(&self) {
        let mut free = self.lock();
        free.bytes = 0;
        let buffers = std::mem::take(&mut free.buffers);
        // Without the lock, as clearing takes a while.
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

/// What tests need to show that nothing gets from one request to the next.
#[cfg(any(test, fuzzing, feature = "planted-secrets"))]
impl ScratchPool {
    /// Fills every buffer with a value from now on before a kernel gets it, new ones too.
    pub fn plant(&self, value: f32) {
        self.lock().planted = Some(value);
    }

    /// Whether all of what is kept is zero, whatever counts as written.
    pub fn is_clear(&self) -> bool {
        const ZEROS: [f32; 1024] = [0.0; 1024];
        let bytes = |elements| -> &[u8] { bytemuck::cast_slice(elements) };
        let free = self.lock();
        let mut pieces = free.buffers.iter().flat_map(|buffer| buffer.elements.chunks(1024));
        pieces.all(|piece| bytes(piece) == bytes(&ZEROS[..piece.len()]))
    }

    /// Whether any element of what is kept is like this.
    pub fn any(&self, like: impl Fn(f32) -> bool) -> bool {
        self.lock().buffers.iter().flat_map(|buffer| &buffer.elements).any(|value| like(*value))
    }
}

/// Some elements, of which nothing is known.
pub(super) struct Scratch<'p> {
    pool: &'p ScratchPool,
    buffer: Buffer,
    len: usize,
}

impl Scratch<'_> {
    /// Changes the number of elements. What was in them may be gone.
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
