//! Ways to make symbols for the open dimensions of a model. They are tried one after the other.

use belljar_abi::{InputShape, OpenDim};

/// A way to make symbols for the open dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) open: Vec<OpenDim>,
    /// Whether sizes that are multiples of [`STEP`] stay so.
    pub(super) steps: bool,
}

/// Networks that halve an image several times and join the results need multiples of it.
pub(super) const STEP: u64 = 32;

/// Maximum number of attempts. Each may take as long as the preparation for one shape.
const MAX_ATTEMPTS: usize = 7;

/// The attempts that are still to be made, the next one first.
pub(crate) struct Attempts<'a> {
    shapes: &'a [InputShape],
    waiting: Vec<Attempt>,
    left: usize,
}

/// Two symbols whose sizes a plan compares, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Related {
    pub(super) symbols: [u32; 2],
    /// Whether the compared dimensions are equal in the given shapes.
    pub(super) equal: bool,
}

impl<'a> Attempts<'a> {
    /// The ways to make symbols for the open dimensions: as given; one for each size, because
    /// exporters give equal dimensions different names; each with multiples of a number; those that
    /// are larger by one as such, because a new token makes a cache longer by one; and the
    /// dimensions of one size alone, because many models declare sizes as open that they need as
    /// they are.
    pub(crate) fn of(shapes: &'a [InputShape], open: Vec<OpenDim>) -> Attempts<'a> {
        let mut attempts = Attempts { shapes, waiting: Vec::new(), left: MAX_ATTEMPTS };
        if open.is_empty() {
            return attempts;
        }
        let size = |open: &OpenDim| attempts.size(open);
        let mut sizes: Vec<u64> = Vec::new();
        let mut by_size = open.clone();
        for open in &mut by_size {
            let size = size(open);
            let at = sizes.iter().position(|other| *other == size).unwrap_or_else(|| {
                sizes.push(size);
                sizes.len() - 1
            });
            open.symbol = at as u32;
        }
        let alone = |wanted: u64| -> Vec<OpenDim> {
            let of_it = by_size.iter().filter(|open| size(open) == wanted);
            of_it.map(|open| OpenDim { symbol: 0, ..*open }).collect()
        };
        let with_steps = |open: Vec<OpenDim>| {
            let in_steps = open.iter().any(|open| size(open).is_multiple_of(STEP));
            let stepped = in_steps.then(|| Attempt { open: open.clone(), steps: true });
            [Some(Attempt { open, steps: false }), stepped].into_iter().flatten()
        };
        let mut waiting: Vec<Attempt> = with_steps(open.clone()).collect();
        if by_size != open {
            waiting.extend(with_steps(by_size.clone()));
        }
        let by_size = Attempt { open: by_size.clone(), steps: false };
        for (smaller, size) in sizes.iter().enumerate() {
            let larger = sizes.iter().position(|other| size.checked_add(1) == Some(*other));
            let symbols = larger.map(|larger| [smaller as u32, larger as u32]);
            waiting.extend(symbols.and_then(|symbols| attempts.joined(&by_size, symbols)));
        }
        if sizes.len() > 1 {
            let mut largest = sizes.clone();
            largest.sort_by_key(|size| std::cmp::Reverse(*size));
            waiting.extend(largest.into_iter().flat_map(|size| with_steps(alone(size))));
        }
        attempts.waiting = waiting;
        attempts
    }

    /// The next attempt.
    pub(crate) fn next(&mut self) -> Option<Attempt> {
        self.left = self.left.checked_sub(1)?;
        (!self.waiting.is_empty()).then(|| self.waiting.remove(0))
    }

    /// Adds the attempt in which two sizes of a failed one always differ as they do now: the next
    /// one if the plan needs them so, else the last one.
    pub(crate) fn relate(&mut self, failed: &Attempt, related: Related) {
        let Some(joined) = self.joined(failed, related.symbols) else { return };
        self.waiting.retain(|waiting| *waiting != joined);
        let at = if related.equal { 0 } else { self.waiting.len() };
        self.waiting.insert(at, joined);
    }

    /// An attempt with one symbol instead of two, whose dimensions differ as they do now.
    fn joined(&self, attempt: &Attempt, symbols: [u32; 2]) -> Option<Attempt> {
        let size = |wanted: u32| {
            let of_it = attempt.open.iter().find(|open| open.symbol == wanted)?;
            of_it.symbol_size(self.size(of_it))
        };
        let [mut kept, mut gone] = symbols;
        if size(gone)? < size(kept)? {
            std::mem::swap(&mut kept, &mut gone);
        }
        let difference = size(gone)?.checked_sub(size(kept)?)?;
        let mut open = attempt.open.clone();
        for open in open.iter_mut().filter(|open| open.symbol == gone) {
            *open = OpenDim { symbol: kept, more: open.more.checked_add(difference)?, ..*open };
        }
        // All numbers up to the largest one are those of symbols.
        let mut numbers: Vec<u32> = open.iter().map(|open| open.symbol).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for open in &mut open {
            open.symbol = numbers.iter().position(|number| *number == open.symbol)? as u32;
        }
        Some(Attempt { open, steps: attempt.steps })
    }

    fn size(&self, open: &OpenDim) -> u64 {
        let shape = self.shapes.get(open.input as usize);
        shape.and_then(|shape| shape.dims.get(open.axis as usize)).copied().unwrap_or(0)
    }
}
