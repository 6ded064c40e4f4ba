//! Right operands of whole numbers of a few bits, which are quantized in blocks of steps. They are
//! restored in registers if a product has few rows, otherwise a panel at a time.

use belljar_abi::kernel::{PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS};

use super::super::vector::{EXACT, Vector};
use super::Tile;

/// Maximum number of rows of a product whose right operand is restored in registers.
const FEW_ROWS: usize = 4;

/// Blocks that were checked to be long enough, in the layout of `belljar_abi::kernel::BlockGemm`.
#[derive(Clone, Copy)]
pub(in super::super) struct Blocks<'a> {
    pub(in super::super) words: &'a [u32],
    pub(in super::super) scales: &'a [f32],
    pub(in super::super) zeros: Option<&'a [u8]>,
    /// Bits of a number: 2, 4 or 8.
    pub(in super::super) bits: usize,
    /// Steps of a block, a multiple of those of a word.
    pub(in super::super) block: usize,
    /// Steps of the product.
    pub(in super::super) steps: usize,
    /// Whether it is restored in registers; see [`Blocks::in_registers`].
    pub(in super::super) in_registers: bool,
}

/// The block of some columns of a panel.
struct Block<'a> {
    scales: &'a [f32],
    zeros: Option<&'a [u8]>,
    middle: f32,
}

impl Block<'_> {
    /// Scales and zero points of a vector's columns, the latter as [`Vector::codes`] has numbers.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn parameters<V: Vector>(&self, column: usize) -> (V, V) {
        let scales = &self.scales[column..][..V::LANES];
        // SAFETY: the caller's; the slices have a vector's elements.
        unsafe {
            let zeros = match self.zeros {
                None => V::splat(EXACT + self.middle),
                Some(zeros) => V::bytes(zeros[column..][..V::LANES].as_ptr()),
            };
            (V::load(scales.as_ptr()), zeros)
        }
    }
}

impl Blocks<'_> {
    /// Whether the right operand of a product of so many rows, on all threads together, is restored
    /// in registers. Then sums of blocks are scaled, and not elements: the bits of the result must
    /// not depend on the number of threads.
    pub(in super::super) fn in_registers(rows: usize) -> bool {
        rows <= FEW_ROWS
    }

    /// Steps of a word.
    fn per_word(&self) -> usize {
        32 / self.bits
    }

    /// Words of a column.
    fn column_words(&self) -> usize {
        self.steps.div_ceil(self.per_word())
    }

    /// The block of a step, of the panel of this width that begins at `column`.
    #[inline(always)]
    fn block(&self, column: usize, width: usize, step: usize) -> Block<'_> {
        let blocks = self.steps.div_ceil(self.block);
        let first = column * blocks + step / self.block * width;
        Block {
            scales: &self.scales[first..][..width],
            zeros: self.zeros.map(|zeros| &zeros[first..][..width]),
            middle: (1u32 << (self.bits - 1)) as f32,
        }
    }

    /// The words of a step that is the first of one and of those after it.
    #[inline(always)]
    fn words(&self, column: usize, width: usize, step: usize, depth: usize) -> &[u32] {
        let first = column * self.column_words() + step / self.per_word() * width;
        &self.words[first..][..depth.div_ceil(self.per_word()) * width]
    }

    /// The end of the part of `step..end` that is in the same block.
    fn same_block(&self, step: usize, end: usize) -> usize {
        (step / self.block + 1).saturating_mul(self.block).min(end)
    }

    /// Writes `depth` steps of a panel as numbers. The first step is the first of a word.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn pack<V: Vector>(
        &self,
        panel: &mut [f32],
        column: usize,
        width: usize,
        step: usize,
        depth: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match self.bits {
                2 => self.pack_bits::<V, 2>(panel, column, width, step, depth),
                4 => self.pack_bits::<V, 4>(panel, column, width, step, depth),
                _ => self.pack_bits::<V, 8>(panel, column, width, step, depth),
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_bits<V: Vector, const BITS: usize>(
        &self,
        panel: &mut [f32],
        column: usize,
        width: usize,
        step: usize,
        depth: usize,
    ) {
        assert!(width.is_multiple_of(PANEL_GRAIN) && panel.len() == depth * width);
        let (end, mut at) = (step + depth, step);
        while at < end {
            let next = self.same_block(at, end);
            let block = self.block(column, width, at);
            let words = self.words(column, width, at, next - at);
            let numbers = &mut panel[(at - step) * width..][..(next - at) * width];
            for lane in (0..width).step_by(V::LANES) {
                // SAFETY: the caller's; a row of words and one of numbers has `width` elements, a
                // multiple of a vector's, and the last word may have steps beyond the last.
                unsafe {
                    let (scales, zeros) = block.parameters::<V>(lane);
                    for (words, numbers) in
                        words.chunks_exact(width).zip(numbers.chunks_mut(width * (32 / BITS)))
                    {
                        let from = words[lane..][..V::LANES].as_ptr();
                        let mut to = numbers.chunks_exact_mut(width);
                        for place in 0..32 / BITS {
                            let Some(to) = to.next() else { break };
                            let code = V::codes::<BITS>(from, (place * BITS) as u32);
                            let number = code.sub(zeros).mul(scales);
                            number.store(to[lane..][..V::LANES].as_mut_ptr());
                        }
                    }
                }
            }
            at = next;
        }
    }

    /// Computes a tile of at most [`FEW_ROWS`] rows. The first step is the first of a word.
    ///
    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "every part of a tile is a parameter")]
    pub(super) unsafe fn tile<V: Vector>(
        &self,
        rows: usize,
        a: &[f32],
        column: usize,
        width: usize,
        step: usize,
        depth: usize,
        tile: &mut Tile,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match (self.bits, rows) {
                (2, 1) => self.rows::<V, 2, 1>(a, column, width, step, depth, tile),
                (2, _) => self.rows::<V, 2, FEW_ROWS>(a, column, width, step, depth, tile),
                (4, 1) => self.rows::<V, 4, 1>(a, column, width, step, depth, tile),
                (4, _) => self.rows::<V, 4, FEW_ROWS>(a, column, width, step, depth, tile),
                (_, 1) => self.rows::<V, 8, 1>(a, column, width, step, depth, tile),
                _ => self.rows::<V, 8, FEW_ROWS>(a, column, width, step, depth, tile),
            }
        }
    }

    /// # Safety
    /// As [`Vector`].
    #[inline(always)]
    unsafe fn rows<V: Vector, const BITS: usize, const R: usize>(
        &self,
        a: &[f32],
        column: usize,
        width: usize,
        step: usize,
        depth: usize,
        tile: &mut Tile,
    ) {
        assert!(a.len() >= depth * PANEL_ROWS && R <= PANEL_ROWS);
        assert!(width.is_multiple_of(PANEL_GRAIN) && width <= PANEL_COLUMNS);
        for row in 0..R {
            tile.0[row * PANEL_COLUMNS..][..width].fill(0.0);
        }
        let (end, mut at) = (step + depth, step);
        while at < end {
            let next = self.same_block(at, end);
            let block = self.block(column, width, at);
            let words = self.words(column, width, at, next - at);
            let a = &a[(at - step) * PANEL_ROWS..][..(next - at) * PANEL_ROWS];
            let mut lane = 0;
            // SAFETY: the caller's; every piece is within `width`.
            unsafe {
                while lane + 3 * V::LANES <= width {
                    piece::<V, BITS, R, 3>(&block, a, words, width, lane, tile);
                    lane += 3 * V::LANES;
                }
                while lane < width {
                    piece::<V, BITS, R, 1>(&block, a, words, width, lane, tile);
                    lane += V::LANES;
                }
            }
            at = next;
        }
    }
}

/// Adds the products of `R` rows with `C` vectors of columns in one block.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn piece<V: Vector, const BITS: usize, const R: usize, const C: usize>(
    block: &Block<'_>,
    a: &[f32],
    words: &[u32],
    width: usize,
    lane: usize,
    tile: &mut Tile,
) {
    // SAFETY: the caller's. Every row of words is `width` long, and `a` has eight elements for each
    // step; of the last word, the steps beyond the last are not read.
    unsafe {
        let (mut scales, mut zeros) = ([V::splat(0.0); C], [V::splat(0.0); C]);
        for at in 0..C {
            (scales[at], zeros[at]) = block.parameters::<V>(lane + at * V::LANES);
        }
        let mut sums = [[V::splat(0.0); C]; R];
        for (words, a) in words.chunks_exact(width).zip(a.chunks(PANEL_ROWS * (32 / BITS))) {
            let words = words[lane..][..C * V::LANES].as_ptr();
            if a.len() == PANEL_ROWS * (32 / BITS) {
                for place in 0..32 / BITS {
                    let a = a.as_ptr().add(place * PANEL_ROWS);
                    step_of::<V, BITS, R, C>(words, place, a, &zeros, &mut sums);
                }
            } else {
                for place in 0..a.len() / PANEL_ROWS {
                    let a = a.as_ptr().add(place * PANEL_ROWS);
                    step_of::<V, BITS, R, C>(words, place, a, &zeros, &mut sums);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for at in 0..C {
                let place = tile.0[row * PANEL_COLUMNS + lane + at * V::LANES..].as_mut_ptr();
                sums[at].fma(scales[at], V::load(place)).store(place);
            }
        }
    }
}

/// # Safety
/// As [`Vector`]; `words` has `C` vectors, `a` has `R` elements.
#[inline(always)]
unsafe fn step_of<V: Vector, const BITS: usize, const R: usize, const C: usize>(
    words: *const u32,
    place: usize,
    a: *const f32,
    zeros: &[V; C],
    sums: &mut [[V; C]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut right = [V::splat(0.0); C];
        for at in 0..C {
            let code = V::codes::<BITS>(words.add(at * V::LANES), (place * BITS) as u32);
            right[at] = code.sub(zeros[at]);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let factor = V::splat(*a.add(row));
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = factor.fma(right, *sum);
            }
        }
    }
}
