//! Softmax along the middle one of three dimensions.

use belljar_abi::kernel::Softmax;

use super::regions::{Region, Regions, volume};
use super::vector::{Job, Vector, exp};
use super::watch::Clock;
use super::{Refused, Watch};

/// Elements of a row between two looks at the clock; a multiple of sixteen.
const PIECE: usize = 1 << 14;

/// Rows between two looks at the clock. Their exponentials are added up before they are added to
/// those of the rows before, which keeps the error of long sums small.
const ROWS: usize = 128;

/// Checks a softmax and computes it.
pub(super) fn softmax(memory: &mut [u8], softmax: &Softmax, watch: &Watch) -> Result<(), Refused> {
    let s = softmax;
    if [s.outer, s.middle, s.inner].contains(&0) {
        return Err(Refused::Malformed);
    }
    let all = volume(&[s.outer, s.middle, s.inner])?;
    let input = Region::new(memory, s.input, all)?;
    let output = Region::new(memory, s.output, all)?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    let (middle, inner) = (s.middle as usize, s.inner as usize);
    let job = Planes { middle, inner, input, output, watch };
    super::done(super::dispatch(watch.set(), job))
}

struct Planes<'a, 'o> {
    middle: usize,
    inner: usize,
    input: &'a [f32],
    output: &'o mut [f32],
    watch: &'a Watch,
}

impl Job for Planes<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Planes { middle, inner, input, output, watch } = self;
        if watch.expired() {
            return false;
        }
        let mut clock = Clock::new(watch);
        let plane = middle * inner;
        // Loops rather than closures: only what is inlined here is compiled for the vectors.
        for (from, to) in input.chunks_exact(plane).zip(output.chunks_exact_mut(plane)) {
            // SAFETY: the caller's.
            let finished = unsafe {
                if inner == 1 {
                    row::<V>(from, to, &mut clock)
                } else if inner < V::LANES {
                    narrow::<V>(inner, from, to, &mut clock)
                } else {
                    columns::<V>(inner, from, to, &mut clock)
                }
            };
            if !finished {
                return false;
            }
        }
        true
    }
}

/// The clock's steps for so many vectors.
#[inline(always)]
fn steps(vectors: usize) -> usize {
    vectors.div_ceil(2)
}

/// One softmax of consecutive elements; whether it finished before the deadline. Every instruction
/// set adds up sixteen partial sums, so that all produce the same bits.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn row<V: Vector>(from: &[f32], to: &mut [f32], clock: &mut Clock<'_>) -> bool {
    assert_eq!(from.len(), to.len());
    let vectors = 16 / V::LANES;
    let mut partial = [0.0; 16];
    // SAFETY: the caller's; vectors are loaded and stored only within chunks of sixteen elements,
    // which are a whole number of vectors, at most four.
    unsafe {
        // Sixteen elements are at most four vectors; four independent maxima hide the latency.
        let mut most = [V::splat(f32::NEG_INFINITY); 4];
        for piece in from.chunks(PIECE) {
            if clock.expired_before(steps(piece.len().div_ceil(V::LANES))) {
                return false;
            }
            let (groups, rest) = piece.as_chunks::<64>();
            for group in groups {
                for at in (0..64).step_by(4 * V::LANES) {
                    for (lane, most) in most.iter_mut().enumerate() {
                        *most = most.max(V::load(group.as_ptr().add(at + lane * V::LANES)));
                    }
                }
            }
            for chunk in rest.chunks(16) {
                let chunk = padded(chunk, f32::NEG_INFINITY);
                for (lane, most) in most.iter_mut().enumerate().take(vectors) {
                    *most = most.max(V::load(chunk.as_ptr().add(lane * V::LANES)));
                }
            }
        }
        let [a, b, c, d] = most;
        a.max(b).max(c.max(d)).store(partial.as_mut_ptr());
        let greater = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
        let max = V::splat(partial[..V::LANES].iter().copied().fold(f32::NEG_INFINITY, greater));

        let mut sums = [V::splat(0.0); 4];
        for (from, to) in from.chunks(PIECE).zip(to.chunks_mut(PIECE)) {
            if clock.expired_before(steps(from.len().div_ceil(V::LANES))) {
                return false;
            }
            for (from, to) in from.as_chunks::<16>().0.iter().zip(to.as_chunks_mut::<16>().0) {
                for (lane, sum) in sums.iter_mut().enumerate().take(vectors) {
                    let power = exp(V::load(from.as_ptr().add(lane * V::LANES)).sub(max));
                    power.store(to.as_mut_ptr().add(lane * V::LANES));
                    *sum = sum.add(power);
                }
            }
        }
        for (lane, sum) in sums.iter().enumerate().take(vectors) {
            sum.store(partial.as_mut_ptr().add(lane * V::LANES));
        }
        let mut half = 8;
        while half > 0 {
            for at in 0..half {
                partial[at] += partial[at + half];
            }
            half /= 2;
        }
        let rest = to.as_chunks_mut::<16>().1;
        if !rest.is_empty() {
            let mut last = padded(from.as_chunks::<16>().1, 0.0);
            for lane in (0..16).step_by(V::LANES) {
                let place = last.as_mut_ptr().add(lane);
                exp(V::load(place).sub(max)).store(place);
            }
            rest.copy_from_slice(&last[..rest.len()]);
        }
        let sum = rest.iter().fold(partial[0], |sum, value| sum + value);
        let factor = 1.0 / sum;
        for piece in to.chunks_mut(PIECE) {
            if clock.expired_before(steps(piece.len().div_ceil(V::LANES))) {
                return false;
            }
            for value in piece {
                *value *= factor;
            }
        }
    }
    true
}

/// Up to sixteen elements, filled up to sixteen.
#[inline(always)]
fn padded(some: &[f32], with: f32) -> [f32; 16] {
    let mut all = [with; 16];
    all[..some.len()].copy_from_slice(some);
    all
}

/// The softmax of each column of at least a vector's columns.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn columns<V: Vector>(
    inner: usize,
    from: &[f32],
    to: &mut [f32],
    clock: &mut Clock<'_>,
) -> bool {
    let mut at = 0;
    while at < inner {
        // SAFETY: the caller's.
        let finished = unsafe {
            if at + 4 * V::LANES <= inner {
                at += 4 * V::LANES;
                block::<V, 4>(inner, at - 4 * V::LANES, from, to, clock)
            } else {
                // The last vector may contain columns of the one before, which are the same again.
                let first = at.min(inner - V::LANES);
                at += V::LANES;
                block::<V, 1>(inner, first, from, to, clock)
            }
        };
        if !finished {
            return false;
        }
    }
    true
}

/// The softmax of each column of `N` vectors, which start at the column `first`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn block<V: Vector, const N: usize>(
    inner: usize,
    first: usize,
    from: &[f32],
    to: &mut [f32],
    clock: &mut Clock<'_>,
) -> bool {
    assert!(first + N * V::LANES <= inner && from.len() == to.len());
    let each = ROWS * inner;
    // SAFETY: the caller's; the vectors of a row end at or before its last column.
    unsafe {
        let mut max = [V::splat(f32::NEG_INFINITY); N];
        for rows in from.chunks(each) {
            if clock.expired_before(steps(N * ROWS)) {
                return false;
            }
            for row in rows.chunks_exact(inner) {
                let place = row.as_ptr().add(first);
                for (lane, max) in max.iter_mut().enumerate() {
                    *max = max.max(V::load(place.add(lane * V::LANES)));
                }
            }
        }
        let mut total = [V::splat(0.0); N];
        for (from, to) in from.chunks(each).zip(to.chunks_mut(each)) {
            if clock.expired_before(steps(N * ROWS)) {
                return false;
            }
            let mut sum = [V::splat(0.0); N];
            for (from, to) in from.chunks_exact(inner).zip(to.chunks_exact_mut(inner)) {
                let (from, to) = (from.as_ptr().add(first), to.as_mut_ptr().add(first));
                for (lane, (sum, max)) in sum.iter_mut().zip(max).enumerate() {
                    let power = exp(V::load(from.add(lane * V::LANES)).sub(max));
                    power.store(to.add(lane * V::LANES));
                    *sum = sum.add(power);
                }
            }
            for (total, sum) in total.iter_mut().zip(sum) {
                *total = total.add(sum);
            }
        }
        let mut factor = total;
        for factor in &mut factor {
            *factor = V::splat(1.0).div(*factor);
        }
        for rows in to.chunks_mut(each) {
            if clock.expired_before(steps(N * ROWS)) {
                return false;
            }
            for row in rows.chunks_exact_mut(inner) {
                let place = row.as_mut_ptr().add(first);
                for (lane, factor) in factor.iter().enumerate() {
                    let place = place.add(lane * V::LANES);
                    V::load(place).mul(*factor).store(place);
                }
            }
        }
    }
    true
}

/// The softmax of each column of less than a vector's columns.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn narrow<V: Vector>(
    inner: usize,
    from: &[f32],
    to: &mut [f32],
    clock: &mut Clock<'_>,
) -> bool {
    let each = ROWS * inner;
    // SAFETY: the caller's; an array of sixteen elements has at least one vector.
    unsafe {
        let mut max = V::splat(f32::NEG_INFINITY);
        for rows in from.chunks(each) {
            if clock.expired_before(steps(ROWS)) {
                return false;
            }
            for row in rows.chunks_exact(inner) {
                max = max.max(V::load(padded(row, 0.0).as_ptr()));
            }
        }
        let mut total = V::splat(0.0);
        for (from, to) in from.chunks(each).zip(to.chunks_mut(each)) {
            if clock.expired_before(steps(ROWS)) {
                return false;
            }
            let mut sum = V::splat(0.0);
            for (from, to) in from.chunks_exact(inner).zip(to.chunks_exact_mut(inner)) {
                let mut row = padded(from, 0.0);
                let power = exp(V::load(row.as_ptr()).sub(max));
                power.store(row.as_mut_ptr());
                to.copy_from_slice(&row[..inner]);
                sum = sum.add(power);
            }
            total = total.add(sum);
        }
        let mut factors = [0.0; 16];
        V::splat(1.0).div(total).store(factors.as_mut_ptr());
        for rows in to.chunks_mut(each) {
            if clock.expired_before(steps(ROWS)) {
                return false;
            }
            for row in rows.chunks_exact_mut(inner) {
                row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            }
        }
    }
    true
}
