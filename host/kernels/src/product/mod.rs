//! Matrix products by panels: the operands are packed into panels of eight rows and 48 columns
//! (unless they are packed already), and tiles of 8 × 48 elements are computed in registers.
//!
//! The blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
//! (2008). Every element is a chain of fused multiply-adds in the order of the steps, split at the
//! same steps on every instruction set, so all sets with fused multiply-adds produce the same bits.
//!
//! Packed operands may be narrow floats. They are widened a block at a time, so that each is widened
//! once for many rows or columns, or in registers where that is faster.

mod blocks;
mod microkernel;

use belljar_abi::kernel::{PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS};
use belljar_abi::narrow::Narrow;

use super::Watch;
use super::copy::{copy, copy_scalars_apart};
use super::image::Patches;
use super::regions::Stored;
use super::scratch::Scratch;
use super::vector::{Bf16, F16, Single, Vector, rounded, widen};

pub(super) use blocks::Blocks;
use microkernel::tile_of;

/// Maximum number of steps of a block: eight rows of this length fit into the first level cache
/// together with the other data in use.
const BLOCK_STEPS: usize = 384;

/// Maximum number of elements of a block of right operands: some hundred kilobytes, for the second
/// level cache.
const BLOCK_ELEMENTS: usize = 80 << 10;

/// The same for right operands that are read once, which bounds the time between two looks at the
/// deadline.
const READ_ONCE_ELEMENTS: usize = 4 << 20;

/// Maximum number of rows of a product whose narrow right operand is widened in registers, unless a
/// vector has sixteen elements: then a tile has so many sums for each operand that is widened that
/// this always takes less time than memory does.
const FEW_ROWS: usize = 4;

/// The left operand.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Panels of eight rows.
    Packed(Stored<'a>),
    /// Elements with strides.
    Strided { elements: &'a [f32], row: usize, step: usize },
}

/// The right operand.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// Panels of 48 columns.
    Packed(Stored<'a>),
    /// Panels of 48 columns of whole numbers.
    Blocks(Blocks<'a>),
    /// Elements with strides.
    Strided { elements: &'a [f32], step: usize, column: usize },
    /// The patches of an image that a filter covers.
    Patches(&'a Patches<'a>),
}

/// The operations on a finished product.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// Added to every element of a row.
    pub(super) row_bias: Option<&'a [f32]>,
    /// Then the type that the sum is rounded to.
    pub(super) round_sum: Option<Narrow>,
    /// Added to every element of a column.
    pub(super) column_bias: Option<&'a [f32]>,
    /// Added element by element; as long as the output.
    pub(super) residual: Option<&'a [f32]>,
    /// Then the type that the sum is rounded to.
    pub(super) round: Option<Narrow>,
    pub(super) low: f32,
    pub(super) high: f32,
}

/// A product whose operands were checked to be long enough.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) left: Left<'a>,
    pub(super) right: Right<'a>,
    pub(super) finish: Finish<'a>,
}

/// Memory that consecutive products share.
pub(super) struct Panels<'p> {
    left: Scratch<'p>,
    right: Scratch<'p>,
}

impl Panels<'_> {
    pub(super) fn new(watch: &Watch) -> Panels<'_> {
        Panels { left: watch.scratch().none(), right: watch.scratch().none() }
    }
}

#[repr(align(64))]
struct Tile([f32; PANEL_ROWS * PANEL_COLUMNS]);

/// The width of the panel whose first column is `column` of `n`.
fn width(n: usize, column: usize) -> usize {
    (n - column).min(PANEL_COLUMNS).next_multiple_of(PANEL_GRAIN)
}

/// Number of elements of a right operand in panels.
pub(super) fn packed_right_len(n: usize, k: usize) -> usize {
    let whole = n / PANEL_COLUMNS * PANEL_COLUMNS;
    (whole + (n - whole).next_multiple_of(PANEL_GRAIN)).saturating_mul(k)
}

/// Number of elements of a left operand in panels.
pub(super) fn packed_left_len(m: usize, k: usize) -> usize {
    m.next_multiple_of(PANEL_ROWS).saturating_mul(k)
}

impl Product<'_> {
    /// Computes the product into `m × n` elements in order. Returns whether it finished before the
    /// deadline.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn run<V: Vector>(
        &self,
        output: &mut [f32],
        panels: &mut Panels<'_>,
        watch: &Watch,
    ) -> bool {
        let Product { m, n, k, .. } = *self;
        if m == 0 || n == 0 {
            return true;
        }
        let count = k.div_ceil(BLOCK_STEPS).max(1);
        let mut steps = k.div_ceil(count).max(1);
        if matches!(self.right, Right::Blocks(_)) {
            // A block of steps begins with a word.
            steps = steps.next_multiple_of(PANEL_GRAIN);
        }
        let Panels { left: left_scratch, right: right_scratch } = panels;
        left_scratch.resize(steps * PANEL_ROWS);
        let as_it_lies = match self.right {
            Right::Packed(Stored::Single(_)) => true,
            Right::Packed(Stored::Narrow(..)) => V::LANES == 16 || m <= FEW_ROWS,
            Right::Blocks(blocks) => blocks.in_registers,
            _ => false,
        };
        // A right operand that is only read once need not stay in a cache.
        let read_once = as_it_lies && m <= PANEL_ROWS;
        let elements = if read_once { READ_ONCE_ELEMENTS } else { BLOCK_ELEMENTS };
        let columns = (elements / (steps * PANEL_COLUMNS)).max(1) * PANEL_COLUMNS;
        if !as_it_lies {
            right_scratch.resize(steps * n.next_multiple_of(PANEL_GRAIN).min(columns));
        }
        let mut tile = Tile([0.0; PANEL_ROWS * PANEL_COLUMNS]);
        for from in (0..n).step_by(columns) {
            let to = (from + columns).min(n);
            for step in (0..k).step_by(steps) {
                let depth = steps.min(k - step);
                let (first, last) = (step == 0, step + depth == k);
                // SAFETY: the caller's.
                unsafe {
                    if !as_it_lies {
                        self.pack_right::<V>(right_scratch, from..to, step, depth);
                    }
                }
                for row in (0..m).step_by(PANEL_ROWS) {
                    if watch.expired() {
                        return false;
                    }
                    let rows = PANEL_ROWS.min(m - row);
                    // SAFETY: the caller's.
                    let a = unsafe { self.left_panel::<V>(left_scratch, row, rows, step, depth) };
                    for column in (from..to).step_by(PANEL_COLUMNS) {
                        let width = width(n, column);
                        let first_step = column * k + step * width;
                        // SAFETY: the caller's; both operands are long enough for the steps.
                        unsafe {
                            match self.right {
                                Right::Packed(Stored::Narrow(narrow, panels)) if as_it_lies => {
                                    let b = &panels[first_step..][..depth * width];
                                    narrow_tile::<V>(narrow, rows, depth, a, b, width, &mut tile);
                                }
                                Right::Blocks(blocks) if as_it_lies => {
                                    blocks
                                        .tile::<V>(rows, a, column, width, step, depth, &mut tile);
                                }
                                Right::Packed(Stored::Single(panels)) => {
                                    let b = &panels[first_step..][..depth * width];
                                    tile_of::<V, Single>(rows, depth, a, b, width, &mut tile);
                                }
                                _ => {
                                    let b = &right_scratch[(column - from) * depth..];
                                    let b = &b[..depth * width];
                                    tile_of::<V, Single>(rows, depth, a, b, width, &mut tile);
                                }
                            }
                            self.finish_tile::<V>(&tile, row, rows, column, first, last, output);
                        }
                    }
                }
            }
        }
        true
    }

    /// Packs `depth` steps of some columns into consecutive panels.
    #[inline(always)]
    unsafe fn pack_right<V: Vector>(
        &self,
        scratch: &mut [f32],
        columns: std::ops::Range<usize>,
        step: usize,
        depth: usize,
    ) {
        for column in columns.clone().step_by(PANEL_COLUMNS) {
            let width = width(self.n, column);
            let valid = width.min(self.n - column);
            let panel = &mut scratch[(column - columns.start) * depth..][..depth * width];
            match self.right {
                Right::Packed(Stored::Single(_)) => {}
                Right::Packed(Stored::Narrow(narrow, panels)) => {
                    let from = &panels[column * self.k + step * width..][..depth * width];
                    // SAFETY: the caller's.
                    unsafe { widen::<V>(narrow, from, panel) };
                }
                // SAFETY: the caller's.
                Right::Blocks(blocks) => unsafe {
                    blocks.pack::<V>(panel, column, width, step, depth);
                },
                Right::Strided { elements, step: stride, column: apart } => {
                    let first = step * stride + column * apart;
                    for (at, to) in panel.chunks_exact_mut(width).enumerate() {
                        let from = &elements[first + at * stride..];
                        let (to, beyond) = to.split_at_mut(valid);
                        if apart == 1 {
                            // SAFETY: the caller's.
                            unsafe { copy::<V>(&from[..valid], to) };
                        } else {
                            copy_scalars_apart(from, apart, to);
                        }
                        beyond.fill(0.0);
                    }
                }
                // SAFETY: the caller's.
                Right::Patches(patches) => unsafe {
                    patches.pack::<V>(panel, width, column, valid, step, depth);
                },
            }
        }
    }

    /// Packs `depth` steps of eight rows; rows beyond the last are zeros.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn left_panel<'s, V: Vector>(
        &'s self,
        scratch: &'s mut [f32],
        row: usize,
        rows: usize,
        step: usize,
        depth: usize,
    ) -> &'s [f32] {
        match self.left {
            Left::Packed(Stored::Single(panels)) => {
                &panels[row * self.k + step * PANEL_ROWS..][..depth * PANEL_ROWS]
            }
            Left::Packed(Stored::Narrow(narrow, panels)) => {
                let from = &panels[row * self.k + step * PANEL_ROWS..][..depth * PANEL_ROWS];
                let panel = &mut scratch[..depth * PANEL_ROWS];
                // SAFETY: the caller's.
                unsafe { widen::<V>(narrow, from, panel) };
                panel
            }
            Left::Strided { elements, row: apart, step: stride } => {
                let panel = &mut scratch[..depth * PANEL_ROWS];
                if rows < PANEL_ROWS {
                    panel.fill(0.0);
                }
                for at in 0..rows {
                    let from = &elements[(row + at) * apart + step * stride..];
                    // Both sides have the same length: the steps of this row.
                    let to = panel[at..].iter_mut().step_by(PANEL_ROWS);
                    if stride == 1 {
                        to.zip(&from[..depth]).for_each(|(to, from)| *to = *from);
                    } else {
                        assert!(stride > 0 || depth == 1, "one element cannot be several steps");
                        let from = &from[..(depth - 1) * stride + 1];
                        let from = from.iter().step_by(stride.max(1));
                        to.zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
                panel
            }
        }
    }

    /// Stores a tile in the output: adds the sums of earlier steps, and applies the final
    /// operations after the last step.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "every part of a tile is a parameter")]
    unsafe fn finish_tile<V: Vector>(
        &self,
        tile: &Tile,
        row: usize,
        rows: usize,
        column: usize,
        first: bool,
        last: bool,
        output: &mut [f32],
    ) {
        let valid = PANEL_COLUMNS.min(self.n - column);
        let Finish { row_bias, round_sum, column_bias, residual, round, low, high } = self.finish;
        for at in 0..rows {
            let start = (row + at) * self.n + column;
            let to = &mut output[start..][..valid];
            let from = &tile.0[at * PANEL_COLUMNS..][..PANEL_COLUMNS];
            let bias = row_bias.map_or(0.0, |bias| bias[row + at]);
            let by_column = column_bias.map(|bias| &bias[column..][..valid]);
            let residual = residual.map(|residual| &residual[start..][..valid]);
            let mut done = 0;
            // SAFETY: the caller's; all slices have `valid` elements, and `done` plus a vector's
            // lanes is at most that.
            unsafe {
                while done + V::LANES <= valid {
                    let mut value = V::load(from.as_ptr().add(done));
                    let place = to.as_mut_ptr().add(done);
                    if !first {
                        value = V::load(place).add(value);
                    }
                    if last {
                        if row_bias.is_some() {
                            value = value.add(V::splat(bias));
                        }
                        value = rounded(value, round_sum);
                        if let Some(bias) = by_column {
                            value = value.add(V::load(bias.as_ptr().add(done)));
                        }
                        if let Some(residual) = residual {
                            value = value.add(V::load(residual.as_ptr().add(done)));
                        }
                        value = rounded(value, round);
                        // The bound is the first operand, which needs fewer instructions.
                        value = V::splat(low).max(value);
                        value = V::splat(high).min(value);
                    }
                    value.store(place);
                    done += V::LANES;
                }
            }
            for done in done..valid {
                let mut value = from[done];
                if !first {
                    value += to[done];
                }
                if last {
                    if row_bias.is_some() {
                        value += bias;
                    }
                    value = round_sum.map_or(value, |narrow| narrow.round(value));
                    value += by_column.map_or(0.0, |bias| bias[done]);
                    value += residual.map_or(0.0, |residual| residual[done]);
                    value = round.map_or(value, |narrow| narrow.round(value));
                    value = clamp(value, low, high);
                }
                to[done] = value;
            }
        }
    }
}

/// Computes a tile whose narrow right operand is widened in registers.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn narrow_tile<V: Vector>(
    narrow: Narrow,
    rows: usize,
    depth: usize,
    a: &[f32],
    b: &[u16],
    width: usize,
    tile: &mut Tile,
) {
    // Shorter vectors never have more.
    let rows = if V::LANES == 16 { rows } else { rows.min(FEW_ROWS) };
    // SAFETY: the caller's.
    unsafe {
        match narrow {
            Narrow::F16 => tile_of::<V, F16>(rows, depth, a, b, width, tile),
            Narrow::Bf16 => tile_of::<V, Bf16>(rows, depth, a, b, width, tile),
        }
    }
}

/// Like the vectors' clamp: NaN stays NaN.
pub(super) fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}
