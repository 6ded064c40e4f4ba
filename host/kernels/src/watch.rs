//! The execution environment of a kernel: instruction set, deadline and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use belljar_abi::scratch::MAX_SCRATCH_BYTES;
use rayon::ThreadPool;

use super::scratch::ScratchPool;
use super::{InstructionSet, Refused};

/// The execution environment of a kernel.
#[derive(Clone)]
pub struct Watch {
    set: InstructionSet,
    until: Option<Instant>,
    pool: Option<Arc<ThreadPool>>,
    scratch: Arc<ScratchPool>,
    /// Maximum number of bytes of scratch memory, on all threads together.
    room: u64,
}

impl Watch {
    /// Starts this many threads, including the calling one. There is no deadline until one is set.
    pub fn new(set: InstructionSet, threads: u32) -> Result<Watch, rayon::ThreadPoolBuildError> {
        let others = threads.saturating_sub(1) as usize;
        let build = || {
            let name = |at| format!("belljar-kernel-{at}");
            rayon::ThreadPoolBuilder::new().num_threads(others).thread_name(name).build()
        };
        let pool = (others > 0).then(build).transpose()?.map(Arc::new);
        let scratch = Arc::new(ScratchPool::new(others + 1));
        Ok(Watch { set, until: None, pool, scratch, room: u64::MAX })
    }

    /// Sets the deadline.
    pub fn until(&mut self, deadline: Option<Instant>) {
        self.until = deadline;
    }

    /// Bounds the scratch memory of the next kernel, on all threads together.
    pub fn room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// The scratch memory of this sandbox.
    pub fn scratch(&self) -> &Arc<ScratchPool> {
        &self.scratch
    }

    /// Checks that `threads` threads can use `each` bytes of scratch memory, and releases kept
    /// memory that would exceed the limit together with that.
    fn reserve(&self, each: u64, threads: usize) -> Result<(), Refused> {
        if each > MAX_SCRATCH_BYTES {
            return Err(Refused::TooMuch);
        }
        let all = each.saturating_mul(threads as u64);
        if all > self.room {
            return Err(Refused::Memory);
        }
        let limit = MAX_SCRATCH_BYTES.saturating_mul(self.threads() as u64).min(self.room);
        if all.saturating_add(self.scratch.bytes() as u64) > limit {
            self.scratch.release();
        }
        Ok(())
    }

    /// Runs a function on each thread except the calling one.
    #[cfg(test)]
    pub(super) fn on_other_threads(&self, something: impl Fn() + Sync) {
        if let Some(pool) = &self.pool {
            pool.broadcast(|_| something());
        }
    }

    pub(super) fn set(&self) -> InstructionSet {
        self.set
    }

    pub(super) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads() + 1)
    }

    /// Whether the deadline has passed.
    #[inline]
    pub(super) fn expired(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Checks the deadline at intervals, for rows that are a lot of work.
pub(super) struct Clock<'a> {
    watch: &'a Watch,
    steps: usize,
}

impl Clock<'_> {
    /// Number of steps, of two vectors each, between two checks.
    const BETWEEN: usize = 1 << 18;

    pub(super) fn new(watch: &Watch) -> Clock<'_> {
        Clock { watch, steps: 0 }
    }

    /// Whether the deadline has passed, before `steps` further steps.
    #[inline]
    pub(super) fn expired_before(&mut self, steps: usize) -> bool {
        self.steps += steps;
        if self.steps < Clock::BETWEEN {
            return false;
        }
        self.steps = 0;
        self.watch.expired()
    }
}

/// Rows of an output that one thread computes.
pub(super) struct Rows<'a, T = f32> {
    first: usize,
    elements: &'a mut [T],
    layout: Layout,
}

/// The boundaries of pieces of an output: at every group of rows, and within a group after every
/// `piece` rows.
#[derive(Clone, Copy)]
struct Layout {
    columns: usize,
    group: usize,
    piece: usize,
}

impl Layout {
    /// The first row at or after `row` at which a piece begins.
    fn start_from(self, row: usize) -> usize {
        let (group, within) = (row / self.group, row % self.group);
        group * self.group + within.next_multiple_of(self.piece).min(self.group)
    }
}

impl<'a, T> Rows<'a, T> {
    /// The pieces in order, each with the number of its first row. They are computed lazily,
    /// because a list of them could be larger than the output.
    pub(super) fn pieces(self) -> impl Iterator<Item = (usize, &'a mut [T])> {
        let Rows { mut first, elements: mut rest, layout } = self;
        std::iter::from_fn(move || {
            let rows = layout.start_from(first + 1) - first;
            let len = (rows * layout.columns).min(rest.len());
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
            let found = (!piece.is_empty()).then_some((first, piece));
            (first, rest) = (first + rows, after);
            found
        })
    }
}

/// Divides an output of rows of `columns` elements among at most `threads` threads. No piece
/// crosses from one group of rows into the next, and within a group all but the last have a
/// multiple of `align` rows.
pub(super) fn split_rows<'a, T>(
    output: &'a mut [T],
    columns: usize,
    group: usize,
    align: usize,
    threads: usize,
) -> Vec<Rows<'a, T>> {
    let (columns, align) = (columns.max(1), align.max(1));
    let total = output.len() / columns;
    let group = group.clamp(1, total.max(1));
    let share = total.div_ceil(threads.max(1)).next_multiple_of(align).max(1);
    let piece = share.min(group.next_multiple_of(align));
    let layout = Layout { columns, group, piece };
    let mut parts = Vec::with_capacity(threads);
    let (mut first, mut rest) = (0, output);
    while first < total {
        let end = layout.start_from(first + share).min(total);
        let (elements, after) = rest.split_at_mut((end - first) * columns);
        parts.push(Rows { first, elements, layout });
        (first, rest) = (end, after);
    }
    parts
}

/// Computes every part, on several threads. Each thread needs at most this many bytes of scratch
/// memory; if they are not available, nothing is computed.
pub(super) fn in_parallel<T: Send>(
    watch: &Watch,
    scratch_bytes: u64,
    parts: Vec<Rows<'_, T>>,
    compute: impl Fn(Rows<'_, T>) -> bool + Sync,
) -> Result<(), Refused> {
    watch.reserve(scratch_bytes, parts.len())?;
    let Some(pool) = watch.pool.as_ref().filter(|_| parts.len() > 1) else {
        return done(parts.into_iter().all(compute));
    };
    let all = AtomicBool::new(true);
    pool.in_place_scope(|scope| {
        let mut parts = parts.into_iter();
        let own = parts.next();
        for part in parts {
            scope.spawn(|_| {
                if !compute(part) {
                    all.store(false, Ordering::Relaxed);
                }
            });
        }
        // This thread does not belong to the pool.
        if own.is_some_and(|part| !compute(part)) {
            all.store(false, Ordering::Relaxed);
        }
    });
    done(all.into_inner())
}

/// Converts whether a kernel finished before the deadline to a result.
pub(super) fn done(finished: bool) -> Result<(), Refused> {
    if finished { Ok(()) } else { Err(Refused::Interrupted) }
}
