//! Convolutions of 8-bit integers: as products of the weights, which are the signed operand, and
//! patches of the image, or channel by channel.

use belljar_abi::kernel::{
    INTEGER_STEPS, IntegerConv, MAX_INTEGER_STEPS, PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS,
};
use belljar_abi::scratch::MAX_PACKED_WEIGHTS;

use super::super::conv::windows;
use super::super::image::{Layout, Windows};
use super::super::regions::{Region, Regions, volume};
use super::super::{Clock, Refused, Rows, Watch, in_parallel, split_rows};
use super::finish::{Finish, Words, output_bytes};
use super::pack::{SUM_BYTES, flip, interleave, number, pack_left};
use super::path::{Job, Path, Tiles};
use super::{BLOCK_BYTES, Offset, Tile, column_bytes, shift, width};

/// Results that a filter of a single channel computes at a time.
const LANES: usize = 32;

/// A convolution whose operands were checked to be long enough.
struct Conv<'a> {
    windows: Windows,
    channels_in: usize,
    channels_out: usize,
    groups: usize,
    /// Products of each sum.
    k: usize,
    input: &'a [u8],
    /// The flipped bits of the image, which is the unsigned operand.
    input_flip: u8,
    input_zero: u8,
    weights: &'a [u8],
    weight_flip: u8,
    weight_zeros: Option<&'a [u8]>,
    weight_zero_stride: usize,
    finish: Finish<'a, true>,
    /// Whether the input in memory can be used directly as an operand of the product.
    as_it_lies: bool,
}

/// Checks a convolution and computes it.
pub(in super::super) fn conv(
    memory: &mut [u8],
    conv: &IntegerConv,
    watch: &Watch,
) -> Result<(), Refused> {
    conv_by(Path::of(watch.set()), memory, conv, watch)
}

pub(super) fn conv_by(
    path: Path,
    memory: &mut [u8],
    conv: &IntegerConv,
    watch: &Watch,
) -> Result<(), Refused> {
    let geometry = &conv.geometry().on_its_side();
    let windows = windows(geometry)?;
    let c = conv;
    let none = [c.batch, c.groups, c.channels_in, c.channels_out].contains(&0);
    if none || c.signs > 3 || c.input_zero > 255 || c.weight_zero_stride > 1 {
        return Err(Refused::Malformed);
    }
    let number_of = |channels: u32| {
        let all = u64::from(c.groups) * u64::from(channels);
        u32::try_from(all).map_err(|_| Refused::OutOfBounds)
    };
    let (channels, outputs) = (number_of(c.channels_in)?, number_of(c.channels_out)?);
    let k = volume(&[c.channels_in, c.kernel_h, c.kernel_w])?;
    if k > MAX_INTEGER_STEPS.into() {
        return Err(Refused::TooMuch);
    }
    let words = Words {
        output_type: c.output_type,
        scales: c.scales,
        scale_stride: c.scale_stride,
        bias: c.bias,
        zero: c.zero,
    };
    let count = volume(&[c.batch, outputs, c.out_h, c.out_w])?;
    let bytes = count.checked_mul(output_bytes(words)?).ok_or(Refused::OutOfBounds)?;
    let output = Region::new(memory, c.output, bytes.div_ceil(4))?;
    let (output, regions) = Regions::split(memory, output)?;
    let weight_zeros = match c.weight_zeros {
        0 => None,
        address => Some(
            regions.bytes(address, if c.weight_zero_stride == 0 { 1 } else { outputs.into() })?,
        ),
    };
    let checked = Conv {
        windows,
        channels_in: c.channels_in as usize,
        channels_out: c.channels_out as usize,
        groups: c.groups as usize,
        k: k as usize,
        input: regions.bytes(c.input, volume(&[c.batch, channels, c.in_h, c.in_w])?)?,
        input_flip: flip(c.signs & 1 != 0, false),
        input_zero: c.input_zero as u8,
        weights: regions
            .bytes(c.weights, k.checked_mul(outputs.into()).ok_or(Refused::OutOfBounds)?)?,
        weight_flip: flip(c.signs & 2 != 0, true),
        weight_zeros,
        weight_zero_stride: c.weight_zero_stride as usize,
        finish: Finish::new(words, &regions, outputs)?,
        as_it_lies: geometry.input_is_an_operand(),
    };
    // The region may end after the last byte.
    let output = &mut bytemuck::cast_slice_mut(output)[..bytes as usize];
    let columns = windows.count() * checked.finish.bytes();
    let by_channel = geometry.has_a_filter_for_each_channel();
    let (group, align) =
        if by_channel { (usize::MAX, 1) } else { (checked.channels_out, PANEL_ROWS) };
    let jobs = split_rows(output, columns, group, align, watch.threads());
    in_parallel(watch, c.scratch_bytes(), jobs, |part| match by_channel {
        true => path.run(Channels { conv: &checked, part, watch }),
        false => path.run(Products { conv: &checked, part, watch }),
    })
}

impl Conv<'_> {
    /// The channels of a group of an image.
    fn group(&self, image: usize, group: usize) -> &[u8] {
        let area = self.windows.in_h * self.windows.in_w;
        &self.input[(image * self.groups + group) * self.channels_in * area..]
    }

    /// The zero point of an output channel's weights, as that of signed numbers.
    fn weight_zero(&self, channel: usize) -> i32 {
        let zeros = self.weight_zeros.map_or(0, |all| all[channel * self.weight_zero_stride]);
        number(zeros ^ self.weight_flip, true)
    }

    /// The zero point of the image, as that of unsigned numbers.
    fn input_zero(&self) -> i32 {
        number(self.input_zero ^ self.input_flip, false)
    }

    /// The weights of an output channel.
    fn weights(&self, channel: usize) -> &[u8] {
        &self.weights[channel * self.k..][..self.k]
    }
}

/// Channels of an image in the order of a [`Layout`], padded with the zero point.
struct Planes<'a> {
    layout: &'a Layout,
    elements: &'a mut [u8],
}

impl Planes<'_> {
    /// Copies a channel in. Padding is not changed.
    #[inline(always)]
    fn fill(&mut self, channel: usize, plane: &[u8]) {
        let (layout, apart) = (self.layout, self.layout.windows.stride_w);
        let elements = &mut self.elements[channel * layout.channel..];
        for (y, row) in layout.rows() {
            for columns in &layout.columns {
                let from = &plane[y * layout.windows.in_w + columns.from..];
                let to = &mut elements[row + columns.to..][..columns.count];
                match apart {
                    1 => to.copy_from_slice(&from[..columns.count]),
                    2 => {
                        let (last, to) = match to.split_last_mut() {
                            Some(parts) => parts,
                            None => continue,
                        };
                        let pairs = from.as_chunks::<2>().0;
                        to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[0]);
                        *last = from[2 * to.len()];
                    }
                    _ => {
                        let from = from.iter().step_by(apart);
                        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
}

/// The windows of an image, each of which is a column.
struct Patches<'a> {
    elements: &'a [u8],
    /// Distance between channels.
    channel: usize,
    /// Offset of each element of the first window in a channel.
    taps: &'a [u32],
    /// Distance between rows of windows, and the number of windows in a row.
    pitch: usize,
    columns: usize,
}

impl Patches<'_> {
    /// Packs all `k` steps of some columns.
    #[inline(always)]
    fn pack(&self, k: usize, flip: u8, column: usize, valid: usize, panel: &mut [u8]) {
        let width = valid.next_multiple_of(PANEL_GRAIN);
        let (sum_bytes, groups) = panel.split_at_mut(width * SUM_BYTES);
        let mut sums = [0i32; PANEL_COLUMNS];
        let (mut channel, mut tap) = (0, 0);
        let (first_y, first_x) = (column / self.columns, column % self.columns);
        let first = first_y * self.pitch + first_x;
        let head = (self.columns - first_x).min(valid);
        let mut rows = [[0u8; PANEL_COLUMNS]; INTEGER_STEPS];
        let groups = groups.as_chunks_mut::<INTEGER_STEPS>().0;
        for (group, to) in groups.chunks_exact_mut(width).enumerate() {
            for (at, row) in rows.iter_mut().enumerate() {
                if group * INTEGER_STEPS + at >= k {
                    // The flipped bits make zeros of these.
                    row.fill(flip);
                    continue;
                }
                let plane =
                    &self.elements[channel * self.channel + self.taps[tap] as usize + first..];
                if head == PANEL_COLUMNS {
                    row.copy_from_slice(&plane[..PANEL_COLUMNS]);
                } else {
                    copy(&plane[..head], &mut row[..head]);
                    let (mut done, mut at) = (head, self.pitch - first_x);
                    while done < valid {
                        let len = self.columns.min(valid - done);
                        copy(&plane[at..at + len], &mut row[done..done + len]);
                        (done, at) = (done + len, at + self.pitch);
                    }
                }
                tap += 1;
                if tap == self.taps.len() {
                    (tap, channel) = (0, channel + 1);
                }
            }
            let rows = rows.each_ref().map(|row| &row[..valid]);
            interleave::<false>(rows, flip, to, &mut sums);
        }
        for (to, sum) in sum_bytes.as_chunks_mut::<SUM_BYTES>().0.iter_mut().zip(sums) {
            *to = sum.to_le_bytes();
        }
    }
}

/// A copy of few bytes, for which a call would take longer.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    let (from, more) = from.as_chunks::<8>();
    let (to, rest) = to.as_chunks_mut::<8>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    rest.iter_mut().zip(more).for_each(|(to, from)| *to = *from);
}

/// Output channels that are computed as a product.
struct Products<'a, 'o> {
    conv: &'a Conv<'a>,
    part: Rows<'o, u8>,
    watch: &'a Watch,
}

impl Job for Products<'_, '_> {
    #[inline(always)]
    unsafe fn run<T: Tiles>(self) -> bool {
        let Products { conv, part, watch } = self;
        let (n, k) = (conv.windows.count(), conv.k);
        let (size, groups) = (conv.finish.bytes(), k.div_ceil(INTEGER_STEPS));
        let each = column_bytes(k);
        let columns = (BLOCK_BYTES / (each * PANEL_COLUMNS)).max(1) * PANEL_COLUMNS;
        let layout = Layout::new(conv.windows);
        let mut image = watch.scratch().none();
        if !conv.as_it_lies {
            image.resize(layout.len(conv.channels_in, 0).div_ceil(4));
            bytemuck::cast_slice_mut::<f32, u8>(&mut image).fill(conv.input_zero);
        }
        let mut right =
            watch.scratch().take(each / 4 * n.next_multiple_of(PANEL_GRAIN).min(columns));
        let panel = groups * PANEL_ROWS * T::WORDS;
        // If the weights are small, or used only once, all are packed at once.
        let tiles = conv.channels_out.div_ceil(PANEL_ROWS);
        let all = tiles * panel * 4 <= MAX_PACKED_WEIGHTS && n > columns;
        let mut left = watch.scratch().take(if all { tiles * panel } else { panel });
        let mut offsets = vec![[Offset::default(); PANEL_ROWS]; if all { tiles } else { 1 }];
        let mut filled = None;
        let mut tile = Tile([0; PANEL_ROWS * PANEL_COLUMNS]);
        // Rows are numbered across images, groups and the channels of a group; a piece never
        // crosses a group.
        for (first, output) in part.pieces() {
            let (whole, row) = (first / conv.channels_out, first % conv.channels_out);
            let (at_image, group) = (whole / conv.groups, whole % conv.groups);
            let input = conv.group(at_image, group);
            let channel = group * conv.channels_out + row;
            let area = conv.windows.in_h * conv.windows.in_w;
            let rows = output.len() / (n * size);
            if !conv.as_it_lies && filled.replace(whole) != Some(whole) {
                let elements: &mut [u8] = bytemuck::cast_slice_mut(&mut image);
                let mut planes = Planes { layout: &layout, elements };
                for channel in 0..conv.channels_in {
                    if watch.expired() {
                        return false;
                    }
                    planes.fill(channel, &input[channel * area..][..area]);
                }
            }
            let patches = match conv.as_it_lies {
                true => {
                    let (pitch, columns) = (n, n);
                    Patches { elements: input, channel: area, taps: &[0], pitch, columns }
                }
                false => Patches {
                    elements: bytemuck::cast_slice(&image),
                    channel: layout.channel,
                    taps: &layout.taps,
                    pitch: layout.pitch,
                    columns: conv.windows.out_w,
                },
            };
            let weights = |at: usize, rows: usize| {
                let from = channel + at * PANEL_ROWS;
                (from..from + rows).map(|channel| conv.weights(channel))
            };
            let count = |at: usize| PANEL_ROWS.min(rows - at * PANEL_ROWS);
            let left: &mut [u32] = bytemuck::cast_slice_mut(&mut left);
            for from in (0..n).step_by(columns) {
                let to = (from + columns).min(n);
                let panels: &mut [u8] = bytemuck::cast_slice_mut(&mut right);
                for column in (from..to).step_by(PANEL_COLUMNS) {
                    if watch.expired() {
                        return false;
                    }
                    let valid = PANEL_COLUMNS.min(n - column);
                    let to = &mut panels[(column - from) * each..][..width(n, column) * each];
                    patches.pack(k, conv.input_flip, column, valid, to);
                }
                for at in 0..rows.div_ceil(PANEL_ROWS) {
                    if watch.expired() {
                        return false;
                    }
                    let place = if all { at } else { 0 };
                    let a = &mut left[place * panel..][..panel];
                    if !all || from == 0 {
                        let elements = weights(at, count(at));
                        let sums = pack_left::<true>(elements, conv.weight_flip, T::WORDS, a);
                        for (row, (offset, sum)) in
                            offsets[place].iter_mut().zip(sums).take(count(at)).enumerate()
                        {
                            let zero = conv.weight_zero(channel + at * PANEL_ROWS + row);
                            *offset = Offset::new(zero, k as u32, sum);
                        }
                    }
                    let offsets = &offsets[place][..count(at)];
                    let rows = output[at * PANEL_ROWS * n * size..].chunks_exact_mut(n * size);
                    let mut rows: [&mut [u8]; PANEL_ROWS] = {
                        let mut rows = rows.take(count(at));
                        std::array::from_fn(|_| rows.next().unwrap_or_default())
                    };
                    for column in (from..to).step_by(PANEL_COLUMNS) {
                        let width = width(n, column);
                        let b = &panels[(column - from) * each..][..width * each];
                        let (sums, elements) = b.split_at(width * SUM_BYTES);
                        // SAFETY: the caller's.
                        unsafe {
                            T::tile::<true>(count(at), groups, a, elements, width, &mut tile);
                        }
                        shift(&mut tile, offsets, sums, [conv.input_zero(); PANEL_COLUMNS]);
                        let valid = PANEL_COLUMNS.min(n - column);
                        let mut parameters = conv.finish.parameters(column, valid);
                        for (row, to) in rows.iter_mut().take(count(at)).enumerate() {
                            let channel = channel + at * PANEL_ROWS + row;
                            let to = &mut to[column * size..(column + valid) * size];
                            conv.finish.store(tile.row(row), channel, &mut parameters, to);
                        }
                    }
                }
            }
        }
        true
    }
}

/// Output channels that each have a filter of one channel.
struct Channels<'a, 'o> {
    conv: &'a Conv<'a>,
    part: Rows<'o, u8>,
    watch: &'a Watch,
}

impl Job for Channels<'_, '_> {
    #[inline(always)]
    unsafe fn run<T: Tiles>(self) -> bool {
        let Channels { conv, part, watch } = self;
        let (w, size) = (&conv.windows, conv.finish.bytes());
        let layout = Layout::new(conv.windows);
        let mut image = watch.scratch().take(layout.len(1, 2 * LANES).div_ceil(4));
        let image: &mut [u8] = bytemuck::cast_slice_mut(&mut image);
        image.fill(conv.input_zero);
        let mut sums = watch.scratch().take(layout.results() + 2 * LANES);
        let sums: &mut [i32] = bytemuck::cast_slice_mut(&mut sums);
        for (first, output) in part.pieces() {
            for (at, plane) in output.chunks_exact_mut(w.count() * size).enumerate() {
                if watch.expired() {
                    return false;
                }
                let (of, channel) = ((first + at) / conv.groups, (first + at) % conv.groups);
                let area = w.in_h * w.in_w;
                let input = &conv.group(of, channel)[..area];
                Planes { layout: &layout, elements: &mut *image }.fill(0, input);
                let zero = conv.weight_zero(channel);
                let centred = |byte: &u8| number(byte ^ conv.weight_flip, true) - zero;
                let weights = conv.weights(channel);
                let total: i32 = weights.iter().map(centred).sum();
                let shift = total.wrapping_mul(conv.input_zero());
                let taps = layout.taps.iter().zip(weights.iter().map(centred));
                let mut clock = Clock::new(watch);
                for (at, to) in sums.chunks_exact_mut(LANES).enumerate() {
                    if at * LANES >= layout.results() {
                        break;
                    }
                    if clock.expired_before(layout.taps.len()) {
                        return false;
                    }
                    let mut all = [shift.wrapping_neg(); LANES];
                    for (tap, weight) in taps.clone() {
                        let from = &image[*tap as usize + at * LANES..][..LANES];
                        for (sum, byte) in all.iter_mut().zip(from) {
                            let product =
                                weight.wrapping_mul(number(byte ^ conv.input_flip, false));
                            *sum = sum.wrapping_add(product);
                        }
                    }
                    to.copy_from_slice(&all);
                }
                for (y, to) in plane.chunks_exact_mut(w.out_w * size).enumerate() {
                    for x in (0..w.out_w).step_by(PANEL_COLUMNS) {
                        let valid = PANEL_COLUMNS.min(w.out_w - x);
                        let mut some = [0; PANEL_COLUMNS];
                        some[..valid].copy_from_slice(&sums[y * layout.pitch + x..][..valid]);
                        let mut parameters = conv.finish.parameters(x, valid);
                        let to = &mut to[x * size..(x + valid) * size];
                        conv.finish.store(&some, channel, &mut parameters, to);
                    }
                }
            }
        }
        true
    }
}
