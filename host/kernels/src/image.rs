//! Images and the windows of filters on them.

use belljar_abi::narrow::Narrow;

use super::Watch;
use super::copy::{copy, copy_apart};
use super::scratch::Scratch;
use super::vector::{Vector, rounded};

/// The geometry of windows on an image.
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
    /// Number of elements of a window.
    pub(super) fn taps(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// Number of windows of an image.
    pub(super) fn count(&self) -> usize {
        self.out_h * self.out_w
    }

    /// The columns of an image that windows read, for each phase; see [`Layout`].
    fn columns(&self, phase: usize, pitch: usize) -> Vec<Columns> {
        let read = read_at(self.kernel_w, self.dilation_w, self.stride_w);
        let capacity = self.kernel_w.min(self.stride_w).min(self.in_w);
        let mut found = Vec::with_capacity(capacity);
        for (at, _) in read.iter().enumerate().filter(|(_, read)| **read) {
            // The first column of the image that belongs to this phase.
            let skip = (at + self.stride_w - self.pad_left % self.stride_w) % self.stride_w;
            let column = (self.pad_left + skip) / self.stride_w;
            if skip < self.in_w && column < pitch {
                found.push(Columns {
                    from: skip,
                    to: at * phase + column,
                    count: (self.in_w - skip).div_ceil(self.stride_w).min(pitch - column),
                });
            }
        }
        found
    }

    /// Number of rows and columns from the first window's start to the last one's end.
    fn reach(&self) -> (usize, usize) {
        let reach = |out: usize, stride: usize, kernel: usize, dilation: usize| {
            (out - 1) * stride + (kernel - 1) * dilation + 1
        };
        (
            reach(self.out_h, self.stride_h, self.kernel_h, self.dilation_h),
            reach(self.out_w, self.stride_w, self.kernel_w, self.dilation_w),
        )
    }
}

/// The order in which a channel of an image is copied: padded and split into one phase for each
/// offset modulo the strides, so that the same element of neighbouring windows is at consecutive
/// addresses.
///
/// [`belljar_abi::scratch`] computes its memory and must match it.
pub(super) struct Layout {
    pub(super) windows: Windows,
    /// Columns of a phase, which is also the distance between rows of results.
    pub(super) pitch: usize,
    /// Elements of a phase.
    phase: usize,
    /// Elements of a channel.
    pub(super) channel: usize,
    /// The offset of each element of the first result's window.
    pub(super) taps: Vec<u32>,
    /// For each row of a stride, whether any window reads it.
    rows: Vec<bool>,
    /// The columns of the image to copy, the same for each of its rows.
    pub(super) columns: Vec<Columns>,
}

/// Columns of an image that are consecutive in a phase.
pub(super) struct Columns {
    /// The first column of the image. The next ones are a stride apart.
    pub(super) from: usize,
    /// Its destination, relative to the start of a row of the first phase.
    pub(super) to: usize,
    pub(super) count: usize,
}

impl Layout {
    pub(super) fn new(windows: Windows) -> Layout {
        let w = &windows;
        let (rows, columns) = w.reach();
        let pitch = columns.div_ceil(w.stride_w);
        let phase = rows.div_ceil(w.stride_h) * pitch;
        let mut taps = Vec::with_capacity(w.taps());
        for ky in 0..w.kernel_h {
            for kx in 0..w.kernel_w {
                let (y, x) = (ky * w.dilation_h, kx * w.dilation_w);
                let at = (y % w.stride_h) * w.stride_w + x % w.stride_w;
                // Fits 32 bits: the number of a channel's elements was checked before.
                taps.push((at * phase + y / w.stride_h * pitch + x / w.stride_w) as u32);
            }
        }
        Layout {
            windows,
            pitch,
            phase,
            channel: w.stride_h * w.stride_w * phase,
            taps,
            rows: read_at(w.kernel_h, w.dilation_h, w.stride_h),
            columns: w.columns(phase, pitch),
        }
    }

    /// Number of elements of several channels, if a kernel may compute up to `slack` elements
    /// beyond the last result.
    pub(super) fn len(&self, channels: usize, slack: usize) -> usize {
        let last_tap = self.taps.iter().max().copied().unwrap_or_default() as usize;
        let last = self.channel.max(last_tap + self.results() + slack);
        last + (channels - 1) * self.channel
    }

    /// Number of results of a channel, including the unused ones between rows.
    pub(super) fn results(&self) -> usize {
        self.windows.out_h * self.pitch
    }

    /// The rows of the image that windows read, each with its place in a channel.
    #[inline(always)]
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let w = &self.windows;
        // The position of the image's first row: its row of a stride, and its offset in the phase.
        let (mut at, mut down) = (w.pad_top % w.stride_h, w.pad_top / w.stride_h * self.pitch);
        let places = (0..w.in_h).map_while(move |y| {
            let place = (down < self.phase).then_some((y, at, down));
            at += 1;
            if at == w.stride_h {
                (at, down) = (0, down + self.pitch);
            }
            place
        });
        let read = places.filter(|(_, at, _)| self.rows[*at]);
        read.map(|(y, at, down)| (y, at * w.stride_w * self.phase + down))
    }
}

/// Channels of an image in the order of a [`Layout`].
pub(super) struct Phases<'p> {
    elements: Scratch<'p>,
    layout: Layout,
    /// Elements of the image from one row to the next.
    row_stride: usize,
    /// Elements of the image from one column to the next.
    column_stride: usize,
}

impl<'p> Phases<'p> {
    /// Allocates several channels, padded with `padding`, of images with these strides of rows and
    /// columns. The kernel may compute up to `slack` elements beyond the last result.
    pub(super) fn new(
        watch: &'p Watch,
        windows: Windows,
        channels: usize,
        [row_stride, column_stride]: [usize; 2],
        padding: f32,
        slack: usize,
    ) -> Phases<'p> {
        let layout = Layout::new(windows);
        let mut elements = watch.scratch().take(layout.len(channels, slack));
        elements.fill(padding);
        Phases { elements, layout, row_stride, column_stride }
    }

    /// How the elements are arranged.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All elements, channel after channel.
    pub(super) fn elements(&self) -> &[f32] {
        &self.elements
    }

    /// Copies a channel in. Padding is not changed.
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
        let layout = &self.layout;
        let apart = layout.windows.stride_w * self.column_stride;
        let elements = &mut self.elements[channel * layout.channel..];
        for (y, row) in layout.rows() {
            for columns in &layout.columns {
                let from = &plane[y * self.row_stride + columns.from * self.column_stride..];
                let from = &from[..(columns.count - 1) * apart + 1];
                let to = &mut elements[row + columns.to..][..columns.count];
                // SAFETY: the caller's.
                unsafe {
                    copy_apart::<V>(from, apart, to);
                    before.apply::<V>(to);
                }
            }
        }
    }
}

/// For each row or column of a stride, whether any window reads it.
fn read_at(kernel: usize, dilation: usize, stride: usize) -> Vec<bool> {
    let mut read = vec![false; stride];
    (0..kernel).for_each(|at| read[at * dilation % stride] = true);
    read
}

/// The scaling of each input channel before the filter: `max(x · scale + shift, least)`, with the
/// sum rounded to a narrow type if there is one.
#[derive(Clone, Copy)]
pub(super) struct Scaling<'a> {
    /// One number for each channel.
    pub(super) scale: &'a [f32],
    /// As many.
    pub(super) shift: &'a [f32],
    pub(super) round: Option<Narrow>,
    pub(super) least: f32,
}

impl<'a> Scaling<'a> {
    /// Of some of the channels.
    pub(super) fn of(self, channels: std::ops::Range<usize>) -> Scaling<'a> {
        Scaling { scale: &self.scale[channels.clone()], shift: &self.shift[channels], ..self }
    }

    /// Of one channel.
    #[inline(always)]
    pub(super) fn before(&self, channel: usize) -> Before {
        let scaled = Some([self.scale[channel], self.shift[channel], self.least]);
        Before { scaled, round: self.round }
    }
}

/// The scaling of one channel's elements before the filter.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Factor, summand and minimum result; `None` if the elements are not changed.
    pub(super) scaled: Option<[f32; 3]>,
    pub(super) round: Option<Narrow>,
}

impl Before {
    pub(super) const NOTHING: Before = Before { scaled: None, round: None };

    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(&self, elements: &mut [f32]) {
        let Some([factor, summand, low]) = self.scaled else { return };
        let whole = elements.len() / V::LANES * V::LANES;
        let (vectors, rest) = elements.split_at_mut(whole);
        // SAFETY: the caller's; every chunk is a vector, and no vector has more than 16 elements.
        unsafe {
            let vector = [V::splat(factor), V::splat(summand), V::splat(low)];
            for place in vectors.chunks_exact_mut(V::LANES) {
                let value = V::load(place.as_ptr()).fma(vector[0], vector[1]);
                let value = rounded(value, self.round);
                vector[2].max(value).store(place.as_mut_ptr());
            }
            if !rest.is_empty() {
                let mut some = [0.0; 16];
                some[..rest.len()].copy_from_slice(rest);
                let value = V::load(some.as_ptr()).fma(vector[0], vector[1]);
                let value = rounded(value, self.round);
                vector[2].max(value).store(some.as_mut_ptr());
                rest.copy_from_slice(&some[..rest.len()]);
            }
        }
    }
}

/// An image as the right operand of a product, with a step for each channel and element of the
/// filter, and a column for each position of the filter.
pub(super) struct Patches<'a> {
    elements: &'a [f32],
    /// Distance between channels.
    channel: usize,
    /// Offset of each element of the first window in a channel.
    taps: &'a [u32],
    /// Distance between rows of windows, and the number of windows in a row.
    pitch: usize,
    columns: usize,
    /// The scaling of each channel, if there is one.
    before: Option<Scaling<'a>>,
}

impl<'a> Patches<'a> {
    /// Consecutive windows of one element each.
    pub(super) fn of_elements(
        elements: &'a [f32],
        channel: usize,
        count: usize,
        before: Option<Scaling<'a>>,
    ) -> Patches<'a> {
        Patches { elements, channel, taps: &[0], pitch: count, columns: count, before }
    }

    /// Windows of a padded image.
    pub(super) fn of_phases(phases: &'a Phases<'_>) -> Patches<'a> {
        Patches {
            elements: &phases.elements,
            channel: phases.layout.channel,
            taps: &phases.layout.taps,
            pitch: phases.layout.pitch,
            columns: phases.layout.windows.out_w,
            // The phases were scaled when they were filled.
            before: None,
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
            let plane = &self.elements[channel * self.channel + self.taps[tap] as usize + first..];
            // SAFETY: the caller's, here and below.
            unsafe { copy::<V>(&plane[..head], &mut to[..head]) };
            let (mut done, mut at) = (head, self.pitch - first_x);
            while done < valid {
                let len = self.columns.min(valid - done);
                // SAFETY: as above.
                unsafe { copy::<V>(&plane[at..at + len], &mut to[done..done + len]) };
                (done, at) = (done + len, at + self.pitch);
            }
            if let Some(before) = &self.before {
                // SAFETY: as above.
                unsafe { before.before(channel).apply::<V>(&mut to[..valid]) };
            }
            to[valid..].fill(0.0);
            tap += 1;
            if tap == self.taps.len() {
                (tap, channel) = (0, channel + 1);
            }
        }
    }
}
