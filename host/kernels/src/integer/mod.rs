//! Matrix products and convolutions of 8-bit integers, exact on every machine.
//!
//! Each of the four combinations of signs becomes a product of unsigned bytes by signed ones: adding
//! 128 to the elements and to the zero points of a signed operand does not change their differences,
//! and neither does subtracting 128 from an unsigned one. The bytes are multiplied without their
//! zero points, which are taken into account afterwards by the sums of rows and columns. All sums
//! wrap around at 32 bits, so their order does not matter.

mod conv;
mod finish;
mod pack;
mod path;
mod portable;
mod quantize;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use conv::conv;
pub(super) use quantize::{dequantize, quantize};

use belljar_abi::kernel::{
    INTEGER_STEPS, IntegerGemm, MAX_INTEGER_STEPS, PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS,
};

use super::regions::{Region, Regions, extent, volume};
use super::{Refused, Rows, Watch, in_parallel, split_rows};
use finish::{Finish, Words, output_bytes};
use pack::{SUM_BYTES, flip, number, pack_left, pack_right};
use path::{Job, Path, Tiles};

/// Maximum number of bytes of a block of right operands, unless one panel has more: for the second
/// level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Sums of eight rows and 48 columns.
#[repr(align(64))]
struct Tile([i32; PANEL_ROWS * PANEL_COLUMNS]);

/// Checks a product and computes it.
pub(super) fn gemm(memory: &mut [u8], gemm: &IntegerGemm, watch: &Watch) -> Result<(), Refused> {
    gemm_by(Path::of(watch.set()), memory, gemm, watch)
}

fn gemm_by(
    path: Path,
    memory: &mut [u8],
    gemm: &IntegerGemm,
    watch: &Watch,
) -> Result<(), Refused> {
    let g = gemm;
    let strides = g.a_zero_stride.max(g.b_zero_stride);
    if [g.batch, g.m, g.n, g.k].contains(&0) || g.signs > 3 || strides > 1 {
        return Err(Refused::Malformed);
    }
    if g.k > MAX_INTEGER_STEPS {
        return Err(Refused::TooMuch);
    }
    let a = extent(&[(g.batch, g.a_batch_stride), (g.m, g.a_row_stride), (g.k, 1)])?;
    let b = if g.b_step_stride == 0 {
        // An operand that all products share has a stride of 0.
        if g.batch > 1 && g.b_batch_stride == 0 {
            return Err(Refused::Malformed);
        }
        let columns = u64::from(g.n).next_multiple_of(PANEL_GRAIN as u64);
        let one = columns.checked_mul(column_bytes(g.k as usize) as u64);
        let before = u64::from(g.batch - 1).checked_mul(g.b_batch_stride.into());
        one.zip(before)
            .and_then(|(one, before)| before.checked_add(one))
            .ok_or(Refused::OutOfBounds)?
    } else {
        extent(&[(g.batch, g.b_batch_stride), (g.k, g.b_step_stride), (g.n, g.b_column_stride)])?
    };
    let words = Words {
        output_type: g.output_type,
        scales: g.scales,
        scale_stride: g.scale_stride,
        bias: g.bias,
        zero: g.zero,
    };
    let count = volume(&[g.batch, g.m, g.n])?;
    let bytes = count.checked_mul(output_bytes(words)?).ok_or(Refused::OutOfBounds)?;
    let output = Region::new(memory, g.output, bytes.div_ceil(4))?;
    let (output, regions) = Regions::split(memory, output)?;
    let zeros = |address: u32, count: u32, stride: u32| match address {
        0 => Ok(None),
        _ => regions.bytes(address, if stride == 0 { 1 } else { count.into() }).map(Some),
    };
    let product = Gemm {
        gemm,
        a: regions.bytes(g.a, a)?,
        b: regions.bytes(g.b, b)?,
        a_zeros: zeros(g.a_zeros, g.m, g.a_zero_stride)?,
        b_zeros: zeros(g.b_zeros, g.n, g.b_zero_stride)?,
        finish: Finish::new(words, &regions, g.n)?,
    };
    // The region may end after the last byte.
    let output = &mut bytemuck::cast_slice_mut(output)[..bytes as usize];
    let columns = g.n as usize * product.finish.bytes();
    let jobs = split_rows(output, columns, g.m as usize, PANEL_ROWS, watch.threads());
    in_parallel(watch, g.scratch_bytes(), jobs, |part| {
        path.run(Products { product: &product, part, watch })
    })
}

/// Number of bytes of each column of a packed operand.
fn column_bytes(k: usize) -> usize {
    SUM_BYTES + k.next_multiple_of(INTEGER_STEPS)
}

/// The width of the panel whose first column is `column` of `n`.
fn width(n: usize, column: usize) -> usize {
    (n - column).min(PANEL_COLUMNS).next_multiple_of(PANEL_GRAIN)
}

/// A product whose operands were checked to be long enough.
struct Gemm<'a> {
    gemm: &'a IntegerGemm,
    a: &'a [u8],
    b: &'a [u8],
    a_zeros: Option<&'a [u8]>,
    b_zeros: Option<&'a [u8]>,
    finish: Finish<'a, false>,
}

/// Some rows of a product.
struct Products<'a, 'o> {
    product: &'a Gemm<'a>,
    part: Rows<'o, u8>,
    watch: &'a Watch,
}

impl Job for Products<'_, '_> {
    #[inline(always)]
    unsafe fn run<T: Tiles>(self) -> bool {
        let Products { product, part, watch } = self;
        let g = product.gemm;
        let (n, k) = (g.n as usize, g.k as usize);
        let row_bytes = n * product.finish.bytes();
        let groups = k.div_ceil(INTEGER_STEPS);
        let each = column_bytes(k);
        let columns = (BLOCK_BYTES / (each * PANEL_COLUMNS)).max(1) * PANEL_COLUMNS;
        let packed = g.b_step_stride == 0;
        let mut left = watch.scratch().take(groups * PANEL_ROWS * T::WORDS);
        let mut right = watch.scratch().none();
        if !packed {
            right.resize(each / 4 * n.next_multiple_of(PANEL_GRAIN).min(columns));
        }
        let mut tile = Tile([0; PANEL_ROWS * PANEL_COLUMNS]);
        for (first, output) in part.pieces() {
            let (batch, from_row) = (first / g.m as usize, first % g.m as usize);
            let a = &product.a[batch * g.a_batch_stride as usize..];
            let b = &product.b[batch * g.b_batch_stride as usize..];
            for from in (0..n).step_by(columns) {
                let to = (from + columns).min(n);
                if !packed {
                    let panels: &mut [u8] = bytemuck::cast_slice_mut(&mut right);
                    for column in (from..to).step_by(PANEL_COLUMNS) {
                        if watch.expired() {
                            return false;
                        }
                        let panel = &mut panels[(column - from) * each..];
                        let panel = &mut panel[..width(n, column) * each];
                        pack_right(g, b, column, width(n, column), panel);
                    }
                }
                for (at, output) in output.chunks_mut(PANEL_ROWS * row_bytes).enumerate() {
                    if watch.expired() {
                        return false;
                    }
                    let (row, rows) = (from_row + at * PANEL_ROWS, output.len() / row_bytes);
                    let panel: &mut [u32] = bytemuck::cast_slice_mut(&mut left);
                    let elements = (row..row + rows)
                        .map(|row| &a[row * g.a_row_stride as usize..][..g.k as usize]);
                    let change = flip(g.signs & 1 != 0, false);
                    let sums = pack_left::<false>(elements, change, T::WORDS, panel);
                    let offsets = product.offsets(row, sums);
                    for column in (from..to).step_by(PANEL_COLUMNS) {
                        let width = width(n, column);
                        let panels = if packed {
                            &b[column * each..]
                        } else {
                            &bytemuck::cast_slice(&right)[(column - from) * each..]
                        };
                        let (sums, elements) = panels[..width * each].split_at(width * SUM_BYTES);
                        // SAFETY: the caller's.
                        unsafe {
                            T::tile::<false>(rows, groups, panel, elements, width, &mut tile);
                        }
                        let valid = PANEL_COLUMNS.min(n - column);
                        let zeros = product.zeros(column, valid);
                        let mut parameters = product.finish.parameters(column, valid);
                        let offsets = &offsets[..rows];
                        shift(&mut tile, offsets, sums, zeros);
                        let size = product.finish.bytes();
                        let place = column * size..(column + valid) * size;
                        for (at, output) in output.chunks_exact_mut(row_bytes).enumerate() {
                            let to = &mut output[place.clone()];
                            product.finish.store(tile.row(at), row + at, &mut parameters, to);
                        }
                    }
                }
            }
        }
        true
    }
}

impl Gemm<'_> {
    /// For each row, the zero point, and the factor of the right zero points.
    #[inline(always)]
    fn offsets(&self, row: usize, sums: [i32; PANEL_ROWS]) -> [Offset; PANEL_ROWS] {
        let g = self.gemm;
        let mut offsets = [Offset::default(); PANEL_ROWS];
        for (at, (offset, sum)) in offsets.iter_mut().zip(sums).enumerate() {
            let place = (row + at) * g.a_zero_stride as usize;
            let zero = self.a_zeros.map_or(0, |zeros| zeros.get(place).copied().unwrap_or(0));
            let zero = number(zero ^ flip(g.signs & 1 != 0, false), false);
            *offset = Offset::new(zero, g.k, sum);
        }
        offsets
    }

    /// The zero points of columns.
    #[inline(always)]
    fn zeros(&self, column: usize, valid: usize) -> [i32; PANEL_COLUMNS] {
        let g = self.gemm;
        let mut all = [0; PANEL_COLUMNS];
        for (at, to) in all[..valid].iter_mut().enumerate() {
            let place = (column + at) * g.b_zero_stride as usize;
            let zero = self.b_zeros.map_or(0, |zeros| zeros[place]);
            *to = number(zero ^ flip(g.signs & 2 != 0, true), true);
        }
        all
    }
}

impl Tile {
    #[inline(always)]
    fn row(&self, at: usize) -> &[i32; PANEL_COLUMNS] {
        &self.0.as_chunks::<PANEL_COLUMNS>().0[at]
    }
}

/// What the zero points add to a row.
#[derive(Clone, Copy, Default)]
struct Offset {
    zero: i32,
    /// `k` times the zero point, minus the sum of the row.
    factor: i32,
}

impl Offset {
    fn new(zero: i32, k: u32, sum: i32) -> Offset {
        Offset { zero, factor: zero.wrapping_mul(k.cast_signed()).wrapping_sub(sum) }
    }
}

/// Takes the zero points of rows and columns into account. `sums` are those of the columns, as
/// bytes.
#[inline(always)]
fn shift(tile: &mut Tile, offsets: &[Offset], sums: &[u8], zeros: [i32; PANEL_COLUMNS]) {
    let no_zeros = zeros == [0; PANEL_COLUMNS];
    let mut column_sums = [0i32; PANEL_COLUMNS];
    for (sum, bytes) in column_sums.iter_mut().zip(sums.as_chunks::<SUM_BYTES>().0) {
        *sum = i32::from_le_bytes(*bytes);
    }
    for (offset, row) in offsets.iter().zip(tile.0.chunks_exact_mut(PANEL_COLUMNS)) {
        if no_zeros && offset.zero == 0 {
            continue;
        }
        let columns = zeros.iter().zip(&column_sums);
        for (to, (zero, sum)) in row.iter_mut().zip(columns) {
            *to = to
                .wrapping_add(offset.factor.wrapping_mul(*zero))
                .wrapping_sub(offset.zero.wrapping_mul(*sum));
        }
    }
}
