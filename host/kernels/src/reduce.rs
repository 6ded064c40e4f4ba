//! Reductions along one dimension.

use belljar_abi::kernel::Reduce;

use super::regions::{Region, Regions, volume};
use super::vector::{Job, Vector};
use super::{Refused, Watch};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Sum,
    Max,
    Min,
    MeanOfSquares,
}

/// Number of elements of the inner dimension that are held at a time.
const COLUMNS: usize = 512;

/// Checks a reduction and computes it.
pub(super) fn reduce(memory: &mut [u8], reduce: &Reduce, watch: &Watch) -> Result<(), Refused> {
    let r = reduce;
    let mode = match r.mode {
        0 => Mode::Sum,
        1 => Mode::Max,
        2 => Mode::Min,
        3 => Mode::MeanOfSquares,
        _ => return Err(Refused::Malformed),
    };
    if [r.outer, r.middle, r.inner].contains(&0) {
        return Err(Refused::Malformed);
    }
    let input = Region::new(memory, r.input, volume(&[r.outer, r.middle, r.inner])?)?;
    let output = Region::new(memory, r.output, volume(&[r.outer, r.inner])?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    let (middle, inner) = (r.middle as usize, r.inner as usize);
    let job = Reduction { mode, middle, inner, input, output, watch };
    super::done(super::dispatch(watch.set(), job))
}

struct Reduction<'a, 'o> {
    mode: Mode,
    middle: usize,
    inner: usize,
    input: &'a [f32],
    output: &'o mut [f32],
    watch: &'a Watch,
}

impl Job for Reduction<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Reduction { mode, middle, inner, input, output, watch } = self;
        // SAFETY: the caller's, here and below.
        unsafe {
            match mode {
                Mode::Sum => each::<V, 0>(middle, inner, input, output, watch),
                Mode::Max => each::<V, 1>(middle, inner, input, output, watch),
                Mode::Min => each::<V, 2>(middle, inner, input, output, watch),
                Mode::MeanOfSquares => each::<V, 3>(middle, inner, input, output, watch),
            }
        }
    }
}

#[inline(always)]
unsafe fn each<V: Vector, const MODE: u32>(
    middle: usize,
    inner: usize,
    input: &[f32],
    output: &mut [f32],
    watch: &Watch,
) -> bool {
    for (from, to) in input.chunks_exact(middle * inner).zip(output.chunks_exact_mut(inner)) {
        if watch.expired() {
            return false;
        }
        // SAFETY: the caller's.
        unsafe {
            if inner == 1 {
                to[0] = row::<V, MODE>(from);
            } else {
                columns::<V, MODE>(inner, from, to);
            }
        }
        if MODE == 3 {
            to.iter_mut().for_each(|value| *value /= middle as f32);
        }
    }
    true
}

#[inline(always)]
fn start<const MODE: u32>() -> f32 {
    match MODE {
        1 => f32::NEG_INFINITY,
        2 => f32::INFINITY,
        _ => 0.0,
    }
}

#[inline(always)]
unsafe fn join<V: Vector, const MODE: u32>(sum: V, value: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        match MODE {
            0 => sum.add(value),
            1 => sum.max(value),
            2 => sum.min(value),
            _ => value.fma(value, sum),
        }
    }
}

/// Like the vectors' version, with the same bits: rounded once.
#[inline(always)]
fn join_one<const MODE: u32>(sum: f32, value: f32) -> f32 {
    match MODE {
        0 => sum + value,
        1 if sum > value || sum.is_nan() => sum,
        2 if sum < value || sum.is_nan() => sum,
        1 | 2 => value,
        _ => value.mul_add(value, sum),
    }
}

/// Reduces a row. Every instruction set uses sixteen partial results, so that all produce the same
/// bits.
#[inline(always)]
unsafe fn row<V: Vector, const MODE: u32>(from: &[f32]) -> f32 {
    let mut partial = [start::<MODE>(); 16];
    let vectors = 16 / V::LANES;
    let (chunks, rest) = from.as_chunks::<16>();
    // SAFETY: the caller's; sixteen elements are a whole number of vectors, at most four.
    unsafe {
        let mut sums = [V::splat(start::<MODE>()); 4];
        for chunk in chunks {
            for (at, sum) in sums.iter_mut().enumerate().take(vectors) {
                *sum = join::<V, MODE>(*sum, V::load(chunk.as_ptr().add(at * V::LANES)));
            }
        }
        for (at, sum) in sums.iter().enumerate().take(vectors) {
            sum.store(partial.as_mut_ptr().add(at * V::LANES));
        }
    }
    let mut half = 8;
    while half > 0 {
        for at in 0..half {
            let (low, high) = (partial[at], partial[at + half]);
            // The elements were squared above.
            partial[at] = if MODE == 3 { low + high } else { join_one::<MODE>(low, high) };
        }
        half /= 2;
    }
    rest.iter().fold(partial[0], |sum, value| join_one::<MODE>(sum, *value))
}

#[inline(always)]
unsafe fn columns<V: Vector, const MODE: u32>(inner: usize, from: &[f32], to: &mut [f32]) {
    for (at, to) in to.chunks_mut(COLUMNS).enumerate() {
        to.fill(start::<MODE>());
        for row in from.chunks_exact(inner) {
            let row = &row[at * COLUMNS..][..to.len()];
            let whole = to.len() / V::LANES * V::LANES;
            // SAFETY: the caller's; both have `whole` elements.
            unsafe {
                let mut done = 0;
                while done < whole {
                    let place = to.as_mut_ptr().add(done);
                    let more = V::load(row.as_ptr().add(done));
                    join::<V, MODE>(V::load(place), more).store(place);
                    done += V::LANES;
                }
            }
            for (to, from) in to[whole..].iter_mut().zip(&row[whole..]) {
                *to = join_one::<MODE>(*to, *from);
            }
        }
    }
}
