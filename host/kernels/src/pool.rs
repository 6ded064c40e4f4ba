//! Pooling: the maximum or the mean of every window.

use belljar_abi::kernel::{MAX_POOL_SIZE, MAX_TAPS, Pool};

use super::copy::copy;
use super::image::{Before, Phases, Windows};
use super::regions::{Region, Regions, volume};
use super::vector::{Job, Vector};
use super::{Clock, Refused, Rows, Watch, in_parallel, split_rows};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Max,
    Sum,
    /// The mean of the elements that are not padding.
    Mean,
    MeanWithPadding,
}

/// Checks a pooling and computes it.
pub(super) fn pool(memory: &mut [u8], pool: &Pool, watch: &Watch) -> Result<(), Refused> {
    let p = pool;
    let all = [
        p.planes, p.in_h, p.in_w, p.out_h, p.out_w, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w,
    ];
    let sizes = [p.in_h, p.in_w, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w];
    if all.contains(&0) || sizes.iter().any(|size| *size > MAX_POOL_SIZE) {
        return Err(Refused::Malformed);
    }
    // A window that contains only padding has no maximum and no mean.
    let last = |out: u32, stride: u32| u64::from(out - 1) * u64::from(stride);
    let inside = p.pad_top < p.kernel_h
        && p.pad_left < p.kernel_w
        && last(p.out_h, p.stride_h) < u64::from(p.in_h) + u64::from(p.pad_top)
        && last(p.out_w, p.stride_w) < u64::from(p.in_w) + u64::from(p.pad_left);
    let mode = match p.mode {
        0 => Mode::Max,
        1 => Mode::Sum,
        2 => Mode::Mean,
        3 => Mode::MeanWithPadding,
        _ => return Err(Refused::Malformed),
    };
    if !inside {
        return Err(Refused::Malformed);
    }
    let windows = Windows {
        in_h: p.in_h as usize,
        in_w: p.in_w as usize,
        out_h: p.out_h as usize,
        out_w: p.out_w as usize,
        kernel_h: p.kernel_h as usize,
        kernel_w: p.kernel_w as usize,
        stride_h: p.stride_h as usize,
        stride_w: p.stride_w as usize,
        dilation_h: 1,
        dilation_w: 1,
        pad_top: p.pad_top as usize,
        pad_left: p.pad_left as usize,
    };
    if windows.taps() > MAX_TAPS {
        return Err(Refused::TooMuch);
    }
    let input = Region::new(memory, p.input, volume(&[p.planes, p.in_h, p.in_w])?)?;
    let output = Region::new(memory, p.output, volume(&[p.planes, p.out_h, p.out_w])?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let input = regions.get(input)?;
    let jobs = split_rows(output, windows.count(), usize::MAX, 1, watch.threads());
    in_parallel(watch, p.scratch_bytes(), jobs, |part| {
        super::dispatch(watch.set(), Planes { windows, mode, input, part, watch })
    })
}

struct Planes<'a, 'o> {
    windows: Windows,
    mode: Mode,
    input: &'a [f32],
    part: Rows<'o>,
    watch: &'a Watch,
}

impl Job for Planes<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Planes { windows, mode, input, part, watch } = self;
        let w = &windows;
        let padding = if mode == Mode::Max { f32::NEG_INFINITY } else { 0.0 };
        let mut phases = Phases::new(watch, windows, 1, [w.in_w, 1], padding, 2 * V::LANES);
        let mut results = watch.scratch().take(phases.layout().results() + 2 * V::LANES);
        let mut factors = Factors::new(w, mode);
        for (first, output) in part.pieces() {
            for (at, plane) in output.chunks_exact_mut(w.count()).enumerate() {
                if watch.expired() {
                    return false;
                }
                let from = &input[(first + at) * w.in_h * w.in_w..][..w.in_h * w.in_w];
                // SAFETY: the caller's.
                unsafe {
                    phases.fill::<V>(0, from, &Before::NOTHING);
                    let finished = match mode {
                        Mode::Max => gather::<V, true>(&phases, &mut results, watch),
                        _ => gather::<V, false>(&phases, &mut results, watch),
                    };
                    if !finished {
                        return false;
                    }
                }
                for (y, to) in plane.chunks_exact_mut(w.out_w).enumerate() {
                    let from = &results[y * phases.layout().pitch..][..w.out_w];
                    match mode {
                        // SAFETY: the caller's.
                        Mode::Max | Mode::Sum => unsafe { copy::<V>(from, to) },
                        Mode::Mean | Mode::MeanWithPadding => {
                            let factors = factors.of_row(y);
                            for ((to, from), factor) in to.iter_mut().zip(from).zip(factors) {
                                *to = from * factor;
                            }
                        }
                    }
                }
            }
        }
        true
    }
}

/// The reciprocal of the number of elements that count, for each window of a row.
struct Factors<'a> {
    windows: &'a Windows,
    mode: Mode,
    /// Rows of the image that count in the windows for which `row` was computed.
    rows: Option<usize>,
    row: Vec<f32>,
}

impl Factors<'_> {
    fn new(windows: &Windows, mode: Mode) -> Factors<'_> {
        let len = match mode {
            Mode::Max | Mode::Sum => 0,
            Mode::Mean | Mode::MeanWithPadding => windows.out_w,
        };
        Factors { windows, mode, rows: None, row: vec![0.0; len] }
    }

    /// The factors of the windows in row `y`. Most rows have the same factors.
    fn of_row(&mut self, y: usize) -> &[f32] {
        let Factors { windows: w, mode, .. } = *self;
        let valid = |out: usize, stride: usize, kernel: usize, pad: usize, size: usize| {
            let start = out * stride;
            if mode == Mode::MeanWithPadding {
                return kernel;
            }
            (start + kernel).min(pad + size).saturating_sub(start.max(pad))
        };
        let rows = valid(y, w.stride_h, w.kernel_h, w.pad_top, w.in_h);
        if self.rows.replace(rows) != Some(rows) {
            for (x, factor) in self.row.iter_mut().enumerate() {
                let columns = valid(x, w.stride_w, w.kernel_w, w.pad_left, w.in_w);
                *factor = 1.0 / (rows * columns) as f32;
            }
        }
        &self.row
    }
}

/// Returns whether it finished before the deadline: a window may be as large as an image.
#[inline(always)]
unsafe fn gather<V: Vector, const MAX: bool>(
    phases: &Phases<'_>,
    results: &mut [f32],
    watch: &Watch,
) -> bool {
    let elements = phases.elements();
    let (mut clock, mut at) = (Clock::new(watch), 0);
    while at < phases.layout().results() {
        if clock.expired_before(phases.layout().taps.len()) {
            return false;
        }
        // SAFETY: the caller's. Phases and results have two vectors of slack.
        unsafe {
            let start = if MAX { f32::NEG_INFINITY } else { 0.0 };
            let mut found = [V::splat(start); 2];
            for tap in &phases.layout().taps {
                let from = elements[*tap as usize + at..][..2 * V::LANES].as_ptr();
                for (half, found) in found.iter_mut().enumerate() {
                    let more = V::load(from.add(half * V::LANES));
                    *found = if MAX { found.max(more) } else { found.add(more) };
                }
            }
            let to = results[at..][..2 * V::LANES].as_mut_ptr();
            found[0].store(to);
            found[1].store(to.add(V::LANES));
        }
        at += 2 * V::LANES;
    }
    true
}
