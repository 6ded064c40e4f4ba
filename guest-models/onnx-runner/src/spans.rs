//! Tracks the free parts of a memory region. An allocation gets the lowest free part that is large
//! enough, so that a run reuses the same few pages: every page that it writes must be restored
//! afterwards.

/// Maximum number of parts that are taken at once. There is at most one more free part.
const MAX_TAKEN: usize = 255;

/// Every part starts and ends at a multiple of this, in bytes.
pub(crate) const GRAIN: usize = 64;

/// A part of the region, in bytes from its start.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
}

/// The free parts of a memory region.
pub(crate) struct Spans {
    /// In ascending order; no two are adjacent.
    free: [Span; MAX_TAKEN + 1],
    count: usize,
    taken: usize,
}

impl Spans {
    /// An empty region.
    pub(crate) const EMPTY: Spans =
        Spans { free: [Span { start: 0, len: 0 }; MAX_TAKEN + 1], count: 0, taken: 0 };

    /// A region that is entirely free.
    pub(crate) fn new(len: usize) -> Spans {
        let mut spans = Spans::EMPTY;
        spans.insert(0, Span { start: 0, len: len / GRAIN * GRAIN });
        spans
    }

    /// Takes a part from the first free one that is large enough, and returns its start.
    pub(crate) fn take(&mut self, len: usize) -> Option<usize> {
        let len = len.checked_next_multiple_of(GRAIN)?;
        let at = self.free.iter().take(self.count).position(|span| span.len >= len)?;
        let span = self.free.get_mut(at).filter(|_| self.taken < MAX_TAKEN)?;
        let start = span.start;
        *span = Span { start: start + len, len: span.len - len };
        if span.len == 0 {
            self.free.copy_within(at + 1..self.count, at);
            self.count -= 1;
        }
        self.taken += 1;
        Some(start)
    }

    /// Frees a part that was taken with the same length.
    pub(crate) fn give(&mut self, start: usize, len: usize) {
        let len = len.next_multiple_of(GRAIN);
        self.taken -= 1;
        let at = self.free.iter().take(self.count).take_while(|span| span.start < start).count();
        let after = self.free.get(at).filter(|_| at < self.count);
        let after = after.filter(|after| start + len == after.start).map(|after| after.len);
        let before = at.checked_sub(1).filter(|at| {
            let before = self.free[*at];
            before.start + before.len == start
        });
        match (before, after) {
            (Some(before), None) => self.free[before].len += len,
            (Some(before), Some(after)) => {
                self.free[before].len += len + after;
                self.free.copy_within(at + 1..self.count, at);
                self.count -= 1;
            }
            (None, Some(after)) => self.free[at] = Span { start, len: len + after },
            (None, None) => self.insert(at, Span { start, len }),
        }
    }

    fn insert(&mut self, at: usize, span: Span) {
        self.free.copy_within(at..self.count, at + 1);
        self.free[at] = span;
        self.count += 1;
    }
}
