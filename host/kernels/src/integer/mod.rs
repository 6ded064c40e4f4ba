//! Matrix products of 8-bit integers, exact on every machine.
//!
//! Each of the four combinations of signs becomes a product of unsigned bytes by signed ones:
//! adding 128 to the elements and to the zero points of a signed left operand does not change their
//! differences, and neither does subtracting 128 from an unsigned right operand. The bytes are
//! multiplied without their zero points, which are taken into account afterwards by the sums of
//! rows and columns. All sums wrap around at 32 bits, so their order does not matter.

mod pack;
mod path;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use belljar_abi::kernel::{
    INTEGER_STEPS, IntegerGemm, MAX_INTEGER_STEPS, PANEL_COLUMNS, PANEL_ROWS,
};

use super::regions::{Region, Regions, extent, volume};
use super::{Refused, Rows, Watch, in_parallel, split_rows};
use pack::{SUM_BYTES, pack_left, pack_right};
use path::Path;

/// Width of the narrowest panel; the width of every panel is a multiple of it.
const GRAIN: usize = 16;

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
        let columns = u64::from(g.n).next_multiple_of(GRAIN as u64);
        let one = columns.checked_mul(column_bytes(g.k as usize) as u64);
        let before = u64::from(g.batch - 1).checked_mul(g.b_batch_stride.into());
        one.zip(before)
            .and_then(|(one, before)| before.checked_add(one))
            .ok_or(Refused::OutOfBounds)?
    } else {
        extent(&[(g.batch, g.b_batch_stride), (g.k, g.b_step_stride), (g.n, g.b_column_stride)])?
    };
    let output = Region::new(memory, g.output, volume(&[g.batch, g.m, g.n])?)?;
    let (output, regions) = Regions::split(memory, output)?;
    let zeros = |address: u32, count: u32, stride: u32| match address {
        0 => Ok(None),
        _ => regions.bytes(address, if stride == 0 { 1 } else { count.into() }).map(Some),
    };
    let operands = Operands {
        gemm,
        a: regions.bytes(g.a, a)?,
        b: regions.bytes(g.b, b)?,
        a_zeros: zeros(g.a_zeros, g.m, g.a_zero_stride)?,
        b_zeros: zeros(g.b_zeros, g.n, g.b_zero_stride)?,
    };
    let jobs = split_rows(output, g.n as usize, g.m as usize, PANEL_ROWS, watch.threads());
    in_parallel(watch, g.scratch_bytes(), jobs, |part| operands.compute(path, part, watch))
}

/// Number of bytes of each column of a packed operand.
fn column_bytes(k: usize) -> usize {
    SUM_BYTES + k.next_multiple_of(INTEGER_STEPS)
}

/// The width of the panel whose first column is `column` of `n`.
fn width(n: usize, column: usize) -> usize {
    (n - column).min(PANEL_COLUMNS).next_multiple_of(GRAIN)
}

/// A product whose operands were checked to be long enough.
struct Operands<'a> {
    gemm: &'a IntegerGemm,
    a: &'a [u8],
    b: &'a [u8],
    a_zeros: Option<&'a [u8]>,
    b_zeros: Option<&'a [u8]>,
}

impl Operands<'_> {
    /// Computes some rows. Returns whether it finished before the deadline.
    fn compute(&self, path: Path, part: Rows<'_>, watch: &Watch) -> bool {
        let g = self.gemm;
        let (n, k) = (g.n as usize, g.k as usize);
        let groups = k.div_ceil(INTEGER_STEPS);
        let each = column_bytes(k);
        let columns = (BLOCK_BYTES / (each * PANEL_COLUMNS)).max(1) * PANEL_COLUMNS;
        let packed = g.b_step_stride == 0;
        let mut left = watch.scratch().take(groups * PANEL_ROWS * path.words());
        let mut right = watch.scratch().none();
        if !packed {
            right.resize(each / 4 * n.next_multiple_of(GRAIN).min(columns));
        }
        let mut tile = Tile([0; PANEL_ROWS * PANEL_COLUMNS]);
        for (first, output) in part.pieces() {
            let output: &mut [i32] = bytemuck::cast_slice_mut(output);
            let (batch, from_row) = (first / g.m as usize, first % g.m as usize);
            let a = &self.a[batch * g.a_batch_stride as usize..];
            let b = &self.b[batch * g.b_batch_stride as usize..];
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
                for (at, output) in output.chunks_mut(PANEL_ROWS * n).enumerate() {
                    if watch.expired() {
                        return false;
                    }
                    let (row, rows) = (from_row + at * PANEL_ROWS, output.len() / n);
                    let panel: &mut [u32] = bytemuck::cast_slice_mut(&mut left);
                    let row_sums = pack_left(g, a, row, rows, path.words(), panel);
                    let offsets = self.offsets(row, rows, row_sums);
                    for column in (from..to).step_by(PANEL_COLUMNS) {
                        let width = width(n, column);
                        let panels = if packed {
                            &b[column * each..]
                        } else {
                            &bytemuck::cast_slice(&right)[(column - from) * each..]
                        };
                        let (sums, elements) = panels[..width * each].split_at(width * SUM_BYTES);
                        path.tile(rows, groups, panel, elements, width, &mut tile);
                        self.finish(&tile, &offsets[..rows], column, sums, output);
                    }
                }
            }
        }
        true
    }

    /// For each row, the zero point, and the factor of the right zero points.
    fn offsets(
        &self,
        row: usize,
        rows: usize,
        row_sums: [i32; PANEL_ROWS],
    ) -> [Offset; PANEL_ROWS] {
        let g = self.gemm;
        let mut offsets = [Offset::default(); PANEL_ROWS];
        for (at, (offset, sum)) in offsets.iter_mut().zip(row_sums).take(rows).enumerate() {
            let zero = self.a_zeros.map_or(0, |zeros| zeros[(row + at) * g.a_zero_stride as usize]);
            let zero = i32::from(if g.signs & 1 == 0 { zero } else { zero ^ 0x80 });
            *offset = Offset { zero, factor: zero.wrapping_mul(g.k as i32).wrapping_sub(sum) };
        }
        offsets
    }

    /// Stores a tile in the output, and applies the zero points.
    fn finish(
        &self,
        tile: &Tile,
        offsets: &[Offset],
        column: usize,
        sums: &[u8],
        output: &mut [i32],
    ) {
        let g = self.gemm;
        let n = g.n as usize;
        let valid = PANEL_COLUMNS.min(n - column);
        let flip = if g.signs & 2 == 0 { 0x80 } else { 0 };
        let (mut zeros, mut column_sums) = ([0i32; PANEL_COLUMNS], [0i32; PANEL_COLUMNS]);
        for (at, zero) in zeros[..valid].iter_mut().enumerate() {
            let byte =
                self.b_zeros.map_or(0, |zeros| zeros[(column + at) * g.b_zero_stride as usize]);
            *zero = i32::from((byte ^ flip) as i8);
        }
        for (sum, bytes) in column_sums.iter_mut().zip(sums.as_chunks::<SUM_BYTES>().0) {
            *sum = i32::from_le_bytes(*bytes);
        }
        let no_zeros = zeros == [0; PANEL_COLUMNS];
        let rows = output.chunks_exact_mut(n).zip(offsets);
        for ((output, offset), from) in rows.zip(tile.0.chunks_exact(PANEL_COLUMNS)) {
            let to = &mut output[column..][..valid];
            if no_zeros && offset.zero == 0 {
                to.copy_from_slice(&from[..valid]);
                continue;
            }
            let columns = zeros.iter().zip(&column_sums);
            for ((to, from), (zero, sum)) in to.iter_mut().zip(from).zip(columns) {
                *to = from
                    .wrapping_add(offset.factor.wrapping_mul(*zero))
                    .wrapping_sub(offset.zero.wrapping_mul(*sum));
            }
        }
    }
}

/// What the zero points add to a row.
#[derive(Clone, Copy, Default)]
struct Offset {
    zero: i32,
    /// `k` times the zero point, minus the sum of the row.
    factor: i32,
}
