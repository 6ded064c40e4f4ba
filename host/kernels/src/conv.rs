//! Convolutions: as products of the weights and patches of the image, or channel by channel for
//! depthwise convolutions.

use belljar_abi::kernel::{Conv, MAX_TAPS, PANEL_ROWS};
use belljar_abi::narrow::Narrow;

use super::copy::copy;
use super::image::{Before, Patches, Phases, Scaling, Windows};
use super::product::{Finish, Left, Panels, Product, Right, clamp, packed_left_len};
use super::regions::{Region, Regions, Stored, extent, narrow_type, volume};
use super::vector::{Job, Vector, rounded};
use super::{Clock, Refused, Watch, split_rows};

/// A convolution whose addresses are all checked.
struct Checked<'a> {
    windows: Windows,
    groups: usize,
    channels_in: usize,
    channels_out: usize,
    batch_stride: usize,
    channel_stride: usize,
    row_stride: usize,
    column_stride: usize,
    input: &'a [f32],
    weights: Stored<'a>,
    bias: Option<&'a [f32]>,
    /// The type that sums with their bias are rounded to.
    round_sum: Option<Narrow>,
    residual: Option<&'a [f32]>,
    /// The type that results with the residual are rounded to.
    round: Option<Narrow>,
    /// The scaling of the input's channels before the convolution.
    before: Option<Scaling<'a>>,
    /// Whether the input in memory can be used directly as an operand of the product.
    as_it_lies: bool,
    /// Maximum number of bytes of scratch memory for each thread.
    scratch_bytes: u64,
    low: f32,
    high: f32,
}

/// Checks a convolution and computes it.
pub(super) fn conv(memory: &mut [u8], conv: &Conv, watch: &Watch) -> Result<(), Refused> {
    let c = &conv.on_its_side();
    let windows = windows(c)?;
    let all = [c.batch, c.groups, c.channels_in, c.channels_out];
    if all.contains(&0) {
        return Err(Refused::Malformed);
    }
    let channels = u64::from(c.groups) * u64::from(c.channels_in);
    let channels = u32::try_from(channels).map_err(|_| Refused::OutOfBounds)?;
    let outputs = u64::from(c.groups) * u64::from(c.channels_out);
    let outputs = u32::try_from(outputs).map_err(|_| Refused::OutOfBounds)?;
    let steps = volume(&[c.channels_in, c.kernel_h, c.kernel_w])?;
    let by_channel = c.has_a_filter_for_each_channel();
    let weights = if by_channel {
        u64::from(c.groups).checked_mul(steps)
    } else {
        let panels = u64::from(c.channels_out).next_multiple_of(PANEL_ROWS as u64);
        panels.checked_mul(steps).and_then(|group| group.checked_mul(c.groups.into()))
    };
    let input = extent(&[
        (c.batch, c.batch_stride),
        (channels, c.channel_stride),
        (c.in_h, c.row_stride),
        (c.in_w, c.column_stride),
    ])?;
    let results = volume(&[c.batch, outputs, c.out_h, c.out_w])?;
    let (weights_type, round_sum) = (narrow_type(c.weights_type)?, narrow_type(c.round_sum)?);
    let round = narrow_type(c.round)?;
    if by_channel && weights_type.is_some() {
        return Err(Refused::Malformed);
    }
    let region = |memory: &[u8], address, count| Region::new(memory, address, count);
    let input = region(memory, c.input, input)?;
    let weights = weights.ok_or(Refused::OutOfBounds)?;
    let weights = Region::of(memory, c.weights, weights, weights_type)?;
    let optional = |memory: &[u8], address, count| {
        (address != 0).then(|| Region::new(memory, address, count)).transpose()
    };
    let bias = optional(memory, c.bias, outputs.into())?;
    let residual = optional(memory, c.residual, results)?;
    let scale = optional(memory, c.scale, channels.into())?;
    let shift = optional(memory, c.shift, channels.into())?;
    let output = region(memory, c.output, results)?;
    let (output, regions) = Regions::split(memory, output)?;
    let before = match (scale, shift) {
        (None, None) => None,
        (Some(scale), Some(shift)) => {
            let (scale, shift) = (regions.get(scale)?, regions.get(shift)?);
            let round = narrow_type(c.round_scaled)?;
            Some(Scaling { scale, shift, round, least: f32::from_bits(c.least) })
        }
        _ => return Err(Refused::Malformed),
    };
    let checked = Checked {
        windows,
        before,
        as_it_lies: c.input_is_an_operand(),
        scratch_bytes: c.scratch_bytes(),
        groups: c.groups as usize,
        channels_in: c.channels_in as usize,
        channels_out: c.channels_out as usize,
        batch_stride: c.batch_stride as usize,
        channel_stride: c.channel_stride as usize,
        row_stride: c.row_stride as usize,
        column_stride: c.column_stride as usize,
        input: regions.get(input)?,
        weights: Stored::new(regions.get(weights)?, weights_type),
        bias: bias.map(|bias| regions.get(bias)).transpose()?,
        round_sum,
        round,
        residual: residual.map(|residual| regions.get(residual)).transpose()?,
        low: f32::from_bits(c.low),
        high: f32::from_bits(c.high),
    };
    if by_channel { checked.by_channel(output, watch) } else { checked.by_product(output, watch) }
}

pub(super) fn windows(c: &Conv) -> Result<Windows, Refused> {
    let all = [
        c.in_h,
        c.in_w,
        c.out_h,
        c.out_w,
        c.kernel_h,
        c.kernel_w,
        c.stride_h,
        c.stride_w,
        c.dilation_h,
        c.dilation_w,
    ];
    if all.contains(&0) {
        return Err(Refused::Malformed);
    }
    let taps = volume(&[c.kernel_h, c.kernel_w])?;
    // The last window may end beyond the image, but its end must not overflow.
    let reach = |out: u32, stride: u32, kernel: u32, dilation: u32, size: u32, pad: u32| {
        let end = u64::from(out - 1)
            .checked_mul(stride.into())?
            .checked_add(u64::from(kernel - 1).checked_mul(dilation.into())?)?;
        let padded = u64::from(size).checked_add(u64::from(pad))?;
        (end < 1 << 31 && padded < 1 << 31).then_some(())
    };
    let rows = reach(c.out_h, c.stride_h, c.kernel_h, c.dilation_h, c.in_h, c.pad_top);
    let columns = reach(c.out_w, c.stride_w, c.kernel_w, c.dilation_w, c.in_w, c.pad_left);
    if taps > MAX_TAPS as u64 || rows.is_none() || columns.is_none() {
        return Err(Refused::TooMuch);
    }
    Ok(Windows {
        in_h: c.in_h as usize,
        in_w: c.in_w as usize,
        out_h: c.out_h as usize,
        out_w: c.out_w as usize,
        kernel_h: c.kernel_h as usize,
        kernel_w: c.kernel_w as usize,
        stride_h: c.stride_h as usize,
        stride_w: c.stride_w as usize,
        dilation_h: c.dilation_h as usize,
        dilation_w: c.dilation_w as usize,
        pad_top: c.pad_top as usize,
        pad_left: c.pad_left as usize,
    })
}

impl Checked<'_> {
    fn by_product(&self, output: &mut [f32], watch: &Watch) -> Result<(), Refused> {
        let jobs = split_rows(
            output,
            self.windows.count(),
            self.channels_out,
            PANEL_ROWS,
            watch.threads(),
        );
        super::in_parallel(watch, self.scratch_bytes, jobs, |part| {
            super::dispatch(watch.set(), Products { conv: self, part, watch })
        })
    }

    fn by_channel(&self, output: &mut [f32], watch: &Watch) -> Result<(), Refused> {
        let jobs = split_rows(output, self.windows.count(), usize::MAX, 1, watch.threads());
        super::in_parallel(watch, self.scratch_bytes, jobs, |part| {
            super::dispatch(watch.set(), Channels { conv: self, part, watch })
        })
    }

    /// The strides of rows and columns of the input.
    fn strides(&self) -> [usize; 2] {
        [self.row_stride, self.column_stride]
    }

    /// The scaling of a group's channels.
    fn before(&self, group: usize) -> Option<Scaling<'_>> {
        let first = group * self.channels_in;
        self.before.map(|all| all.of(first..first + self.channels_in))
    }

    /// The input of a group.
    fn group(&self, image: usize, group: usize) -> &[f32] {
        let channel = group * self.channels_in;
        &self.input[image * self.batch_stride + channel * self.channel_stride..]
    }
}

struct Products<'a, 'o> {
    conv: &'a Checked<'a>,
    part: super::Rows<'o>,
    watch: &'a Watch,
}

impl Job for Products<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Products { conv, part, watch } = self;
        let (n, k) = (conv.windows.count(), conv.channels_in * conv.windows.taps());
        let mut panels = Panels::new(watch);
        let mut phases = (!conv.as_it_lies)
            .then(|| Phases::new(watch, conv.windows, conv.channels_in, conv.strides(), 0.0, 0));
        let mut filled = None;
        // Rows are numbered across images, groups and the channels of a group; a piece never
        // crosses a group.
        for (first, output) in part.pieces() {
            let (group, row) = (first / conv.channels_out, first % conv.channels_out);
            let (image, group) = (group / conv.groups, group % conv.groups);
            let m = output.len() / n;
            let channel = group * conv.channels_out + row;
            let weights = group * packed_left_len(conv.channels_out, k) + row * k;
            let input = conv.group(image, group);
            let before = conv.before(group);
            let patches = match &mut phases {
                None => Patches::of_elements(input, conv.channel_stride, n, before),
                Some(phases) => {
                    if filled.replace((image, group)) != Some((image, group)) {
                        for channel in 0..conv.channels_in {
                            let plane = &input[channel * conv.channel_stride..];
                            let before = before.map(|all| all.before(channel));
                            let before = before.unwrap_or(Before::NOTHING);
                            // SAFETY: the caller's.
                            unsafe { phases.fill::<V>(channel, plane, &before) };
                        }
                    }
                    Patches::of_phases(phases)
                }
            };
            let product = Product {
                m,
                n,
                k,
                left: Left::Packed(conv.weights.from(weights)),
                right: Right::Patches(&patches),
                finish: Finish {
                    row_bias: conv.bias.map(|bias| &bias[channel..channel + m]),
                    round_sum: conv.round_sum,
                    column_bias: None,
                    residual: conv.residual.map(|all| &all[first * n..first * n + output.len()]),
                    round: conv.round,
                    low: conv.low,
                    high: conv.high,
                },
            };
            // SAFETY: the caller's.
            if !unsafe { product.run::<V>(output, &mut panels, watch) } {
                return false;
            }
        }
        true
    }
}

struct Channels<'a, 'o> {
    conv: &'a Checked<'a>,
    part: super::Rows<'o>,
    watch: &'a Watch,
}

impl Job for Channels<'_, '_> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> bool {
        let Channels { conv, part, watch } = self;
        let w = &conv.windows;
        // Filters of single channels are never narrow.
        let Stored::Single(weights) = conv.weights else { return true };
        let mut phases = Phases::new(watch, *w, 1, conv.strides(), 0.0, 2 * V::LANES);
        let mut results = watch.scratch().take(phases.layout().results() + 2 * V::LANES);
        for (first, output) in part.pieces() {
            for (at, plane) in output.chunks_exact_mut(w.count()).enumerate() {
                if watch.expired() {
                    return false;
                }
                let (image, channel) = ((first + at) / conv.groups, (first + at) % conv.groups);
                let weights = &weights[channel * w.taps()..][..w.taps()];
                let input = conv.group(image, channel);
                let bias = conv.bias.map_or(0.0, |bias| bias[channel]);
                // The addend is applied after the sum and before the bounds.
                let (low, high, round) = match conv.residual {
                    None => (conv.low, conv.high, conv.round),
                    Some(_) => (f32::NEG_INFINITY, f32::INFINITY, None),
                };
                // SAFETY: the caller's.
                unsafe {
                    let before = conv.before(channel).map(|one| one.before(0));
                    phases.fill::<V>(0, input, &before.unwrap_or(Before::NOTHING));
                    let bounds = [bias, low, high];
                    let round = [conv.round_sum, round];
                    if !filter::<V>(&phases, weights, bounds, round, &mut results, watch) {
                        return false;
                    }
                    for (y, to) in plane.chunks_exact_mut(w.out_w).enumerate() {
                        copy::<V>(&results[y * phases.layout().pitch..][..w.out_w], to);
                    }
                }
                if let Some(all) = conv.residual {
                    let more = &all[(first + at) * w.count()..][..w.count()];
                    for (to, more) in plane.iter_mut().zip(more) {
                        let sum = *to + more;
                        let sum = conv.round.map_or(sum, |narrow| narrow.round(sum));
                        *to = clamp(sum, conv.low, conv.high);
                    }
                }
            }
        }
        true
    }
}

/// Applies one filter to one channel. Returns whether it finished before the deadline.
#[inline(always)]
unsafe fn filter<V: Vector>(
    phases: &Phases<'_>,
    weights: &[f32],
    [bias, low, high]: [f32; 3],
    [round_sum, round]: [Option<Narrow>; 2],
    results: &mut [f32],
    watch: &Watch,
) -> bool {
    let elements = phases.elements();
    let (mut clock, mut at) = (Clock::new(watch), 0);
    // Two independent vectors at a time hide the latency of the additions.
    while at < phases.layout().results() {
        if clock.expired_before(phases.layout().taps.len()) {
            return false;
        }
        // SAFETY: the caller's. Phases and results have two vectors of slack.
        unsafe {
            let mut sums = [V::splat(0.0); 2];
            for (tap, weight) in phases.layout().taps.iter().zip(weights) {
                let from = elements[*tap as usize + at..][..2 * V::LANES].as_ptr();
                let weight = V::splat(*weight);
                sums[0] = V::load(from).fma(weight, sums[0]);
                sums[1] = V::load(from.add(V::LANES)).fma(weight, sums[1]);
            }
            let to = results[at..][..2 * V::LANES].as_mut_ptr();
            for (half, sum) in sums.iter().enumerate() {
                let sum = rounded(rounded(sum.add(V::splat(bias)), round_sum), round);
                let sum = V::splat(low).max(sum);
                V::splat(high).min(sum).store(to.add(half * V::LANES));
            }
        }
        at += 2 * V::LANES;
    }
    true
}
