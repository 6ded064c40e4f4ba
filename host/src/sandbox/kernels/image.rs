//! Images and the windows that filters see of them.

use super::copy::{copy, copy_apart};
use super::scratch::Scratch;
use super::vector::Vector;

/// How windows lie on an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    pub(super) in_h: usize,
    pub(super) in_w: usize,
    pub(super) out_h: usize,
    pub(super) out_w: usize,
    pub(super) kernel_h: usize,
    pub(super) kernel_w: usize,
    pub(super) stride_h: usize,
    pub(super) stride_w: usize,
    pub(super) dilation_h: usize,
    pub(super) dilation_w: usize,
    pub(super) pad_top: usize,
    pub(super) pad_left: usize,
}

impl Windows {
    /// Elements of a window.
    pub(super) fn taps(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// Windows of an image.
    pub(super) fn count(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Whether every window is one element, and they are all there are, in order.
    pub(super) fn are_elements(&self) -> bool {
        self.taps() == 1
            && (self.stride_h, self.stride_w) == (1, 1)
            && (self.pad_top, self.pad_left) == (0, 0)
            && (self.in_h, self.in_w) == (self.out_h, self.out_w)
    }

    /// Rows and columns from the first window's start to the last one's end.
    fn reach(&self) -> (usize, usize) {
        let reach = |out: usize, stride: usize, kernel: usize, dilation: usize| {
            (out - 1) * stride + (kernel - 1) * dilation + 1
        };
        (
            reach(self.out_h, self.stride_h, self.kernel_h, self.dilation_h),
            reach(self.out_w, self.stride_w, self.kernel_w, self.dilation_w),
        )
    }

    /// Elements of a padded channel, see [`Phases`].
    pub(super) fn padded_len(&self) -> usize {
        let (rows, columns) = self.reach();
        let (rows, columns) = (rows.div_ceil(self.stride_h), columns.div_ceil(self.stride_w));
        let phases = self.stride_h.saturating_mul(self.stride_w);
        rows.saturating_mul(columns).saturating_mul(phases)
    }
}

/// Channels of an image, padded and taken apart by what the strides skip, so that every window
/// reads the same element of a window at consecutive places.
pub(super) struct Phases {
    elements: Scratch,
    windows: Windows,
    /// Columns of a phase, and so from one row of results to the next.
    pub(super) pitch: usize,
    /// Elements of a channel.
    channel: usize,
    /// Where each element of the window of the first result lies.
    pub(super) taps: Vec<usize>,
    /// What of a channel of the image goes where.
    runs: Vec<Run>,
    /// Elements of the image from one of a run to the next.
    apart: usize,
}

/// Elements of a row of an image that lie side by side in a phase.
struct Run {
    from: usize,
    to: usize,
    count: usize,
}

impl Phases {
    /// Room for some channels, padded with `padding`, of images whose rows and columns lie so far
    /// apart. Results are computed up to `slack` beyond the last.
    pub(super) fn new(
        windows: Windows,
        channels: usize,
        [row_stride, column_stride]: [usize; 2],
        padding: f32,
        slack: usize,
    ) -> Phases {
        let w = &windows;
        let (rows, columns) = w.reach();
        let pitch = columns.div_ceil(w.stride_w);
        let phase = rows.div_ceil(w.stride_h) * pitch;
        let mut taps = Vec::with_capacity(w.taps());
        let mut used = vec![false; w.stride_h * w.stride_w];
        for ky in 0..w.kernel_h {
            for kx in 0..w.kernel_w {
                let (y, x) = (ky * w.dilation_h, kx * w.dilation_w);
                let at = (y % w.stride_h) * w.stride_w + x % w.stride_w;
                taps.push(at * phase + y / w.stride_h * pitch + x / w.stride_w);
                used[at] = true;
            }
        }
        let mut runs = Vec::new();
        for y in 0..w.in_h {
            let (row, phase_y) = ((y + w.pad_top) / w.stride_h, (y + w.pad_top) % w.stride_h);
            if row >= phase / pitch {
                break;
            }
            for phase_x in 0..w.stride_w {
                let at = phase_y * w.stride_w + phase_x;
                // The first column of the image that belongs to this phase.
                let skip = (phase_x + w.stride_w - w.pad_left % w.stride_w) % w.stride_w;
                let column = (w.pad_left + skip) / w.stride_w;
                if used[at] && skip < w.in_w && column < pitch {
                    runs.push(Run {
                        from: y * row_stride + skip * column_stride,
                        to: at * phase + row * pitch + column,
                        count: (w.in_w - skip).div_ceil(w.stride_w).min(pitch - column),
                    });
                }
            }
        }
        let channel = w.stride_h * w.stride_w * phase;
        let most = taps.iter().max().copied().unwrap_or_default();
        let len = channel.max(most + w.out_h * pitch + slack) + (channels - 1) * channel;
        let mut elements = Scratch::of(len);
        elements.fill(padding);
        let apart = w.stride_w * column_stride;
        Phases { elements, windows, pitch, channel, taps, runs, apart }
    }

    /// Results of a channel, those between the rows that are not wanted included.
    pub(super) fn results(&self) -> usize {
        self.windows.out_h * self.pitch
    }

    /// All elements, channel after channel.
    pub(super) fn elements(&self) -> &[f32] {
        &self.elements
    }

    /// Takes in a channel. What is padding stays as it is.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn fill<V: Vector>(
        &mut self,
        channel: usize,
        plane: &[f32],
        before: &Before,
    ) {
        let elements = &mut self.elements[channel * self.channel..];
        for run in &self.runs {
            let from = &plane[run.from..][..(run.count - 1) * self.apart + 1];
            let to = &mut elements[run.to..][..run.count];
            // SAFETY: the caller's.
            unsafe {
                copy_apart::<V>(from, self.apart, to);
                before.apply::<V>(to);
            }
        }
    }
}

/// What is done with the elements of a channel before they are filtered.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Factor, summand and least result; none if they stay as they are.
    pub(super) scaled: Option<[f32; 3]>,
}

impl Before {
    pub(super) const NOTHING: Before = Before { scaled: None };

    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(&self, elements: &mut [f32]) {
        let Some([factor, summand, low]) = self.scaled else { return };
        let whole = elements.len() / V::LANES * V::LANES;
        let (vectors, rest) = elements.split_at_mut(whole);
        // SAFETY: the caller's; every chunk is a vector.
        unsafe {
            let vector = [V::splat(factor), V::splat(summand), V::splat(low)];
            for place in vectors.chunks_exact_mut(V::LANES) {
                let value = V::load(place.as_ptr()).fma(vector[0], vector[1]);
                vector[2].max(value).store(place.as_mut_ptr());
            }
            if !rest.is_empty() {
                let mut some = [0.0; 16];
                some[..rest.len()].copy_from_slice(rest);
                let value = V::load(some.as_ptr()).fma(vector[0], vector[1]);
                vector[2].max(value).store(some.as_mut_ptr());
                rest.copy_from_slice(&some[..rest.len()]);
            }
        }
    }
}

/// An image as the right operand of a product: for each channel and element of the filter a step,
/// for each place of the filter a column.
pub(super) struct Patches<'a> {
    elements: &'a [f32],
    /// From one channel to the next.
    channel: usize,
    /// Where each element of the first window lies in a channel.
    taps: &'a [usize],
    /// From one row of windows to the next, and how many there are in a row.
    pitch: usize,
    columns: usize,
    /// What is done with each channel first, if there is anything to be done.
    before: &'a [Before],
}

impl<'a> Patches<'a> {
    /// Windows of one element each, side by side.
    pub(super) fn of_elements(
        elements: &'a [f32],
        channel: usize,
        count: usize,
        before: &'a [Before],
    ) -> Patches<'a> {
        Patches { elements, channel, taps: &[0], pitch: count, columns: count, before }
    }

    /// Windows of a padded image.
    pub(super) fn of_phases(phases: &'a Phases) -> Patches<'a> {
        Patches {
            elements: &phases.elements,
            channel: phases.channel,
            taps: &phases.taps,
            pitch: phases.pitch,
            columns: phases.windows.out_w,
            // It was done when they were filled.
            before: &[],
        }
    }

    /// Writes `depth` steps of `valid` columns from `column` on into a panel of `width` columns.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn pack<V: Vector>(
        &self,
        panel: &mut [f32],
        width: usize,
        column: usize,
        valid: usize,
        step: usize,
        depth: usize,
    ) {
        let (mut channel, mut tap) = (step / self.taps.len(), step % self.taps.len());
        let (first_y, first_x) = (column / self.columns, column % self.columns);
        let first = first_y * self.pitch + first_x;
        // Most panels are of one or two rows of windows.
        let head = (self.columns - first_x).min(valid);
        for to in panel.chunks_exact_mut(width).take(depth) {
            let plane = &self.elements[channel * self.channel + self.taps[tap] + first..];
            // SAFETY: the caller's, here and below.
            unsafe { copy::<V>(&plane[..head], &mut to[..head]) };
            let (mut done, mut at) = (head, self.pitch - first_x);
            while done < valid {
                let len = self.columns.min(valid - done);
                // SAFETY: as above.
                unsafe { copy::<V>(&plane[at..at + len], &mut to[done..done + len]) };
                (done, at) = (done + len, at + self.pitch);
            }
            if let Some(before) = self.before.get(channel) {
                // SAFETY: as above.
                unsafe { before.apply::<V>(&mut to[..valid]) };
            }
            to[valid..].fill(0.0);
            tap += 1;
            if tap == self.taps.len() {
                (tap, channel) = (0, channel + 1);
            }
        }
    }
}
