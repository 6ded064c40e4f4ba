//! How a kernel works: with which instructions, until when, and on how many threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::ThreadPool;

use super::{InstructionSet, Refused};

/// The circumstances of a kernel.
#[derive(Clone)]
pub(in crate::sandbox) struct Watch {
    set: InstructionSet,
    until: Option<Instant>,
    pool: Option<Arc<ThreadPool>>,
}

impl Watch {
    /// So many threads, the calling one among them; for now somebody else looks at the clock.
    pub(in crate::sandbox) fn new(
        set: InstructionSet,
        threads: u32,
    ) -> Result<Watch, rayon::ThreadPoolBuildError> {
        let others = threads.saturating_sub(1) as usize;
        let build = || {
            let name = |at| format!("belljar-kernel-{at}");
            rayon::ThreadPoolBuilder::new().num_threads(others).thread_name(name).build()
        };
        let pool = (others > 0).then(build).transpose()?.map(Arc::new);
        Ok(Watch { set, until: None, pool })
    }

    /// To end at a deadline.
    pub(in crate::sandbox) fn until(&mut self, deadline: Option<Instant>) {
        self.until = deadline;
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

/// Looks at the clock now and then, where one row alone may be a lot of work.
pub(super) struct Clock<'a> {
    watch: &'a Watch,
    steps: usize,
}

impl Clock<'_> {
    /// Steps, of two vectors each, between two looks.
    const BETWEEN: usize = 1 << 18;

    pub(super) fn new(watch: &Watch) -> Clock<'_> {
        Clock { watch, steps: 0 }
    }

    /// Whether the deadline has passed, before so many steps more.
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

/// Rows of an output that one thread computes: pieces, each with the number of its first row.
pub(super) struct Rows<'a> {
    pub(super) pieces: Vec<(usize, &'a mut [f32])>,
}

/// Divides an output of rows of `columns` elements among threads. No piece crosses from one group
/// of rows into the next, and within a group all but the last have a multiple of `align` rows.
pub(super) fn split_rows<'a>(
    output: &'a mut [f32],
    columns: usize,
    group: usize,
    align: usize,
    threads: usize,
) -> Vec<Rows<'a>> {
    let total = output.len() / columns.max(1);
    let group = group.clamp(1, total.max(1));
    let share = total.div_ceil(threads.max(1)).next_multiple_of(align.max(1));
    let piece = share.min(group.next_multiple_of(align.max(1)));
    let mut parts = vec![Rows { pieces: Vec::new() }];
    let (mut first, mut taken) = (0, 0);
    for rows in output.chunks_mut((group * columns).max(1)) {
        for rows in rows.chunks_mut((piece * columns).max(1)) {
            let count = rows.len() / columns.max(1);
            if taken >= share {
                parts.push(Rows { pieces: Vec::new() });
                taken = 0;
            }
            if let Some(part) = parts.last_mut() {
                part.pieces.push((first, rows));
            }
            (first, taken) = (first + count, taken + count);
        }
    }
    parts
}

/// Has every part computed, by as many threads as there are.
pub(super) fn in_parallel(
    watch: &Watch,
    parts: Vec<Rows<'_>>,
    compute: impl Fn(Rows<'_>) -> bool + Sync,
) -> Result<(), Refused> {
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
        // This thread is none of the pool's.
        if own.is_some_and(|part| !compute(part)) {
            all.store(false, Ordering::Relaxed);
        }
    });
    done(all.into_inner())
}

/// What it means that a kernel did not come to its end.
pub(super) fn done(finished: bool) -> Result<(), Refused> {
    if finished { Ok(()) } else { Err(Refused::Interrupted) }
}
