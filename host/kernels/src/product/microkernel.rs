//! One tile of a product, summed in registers over a block of steps.

use belljar_abi::kernel::{PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS};

use super::super::vector::{Element, Vector};
use super::Tile;

/// Computes a tile.
///
/// # Safety
/// As [`Vector`]. `a` has eight elements for each step, `b` has `width`.
#[inline(always)]
pub(super) unsafe fn tile_of<V: Vector, E: Element>(
    rows: usize,
    depth: usize,
    a: &[f32],
    b: &[E::Stored],
    width: usize,
    tile: &mut Tile,
) {
    assert!(a.len() >= depth * PANEL_ROWS && b.len() >= depth * width);
    assert!(width <= PANEL_COLUMNS && width.is_multiple_of(PANEL_GRAIN));
    let (a, b, tile) = (a.as_ptr(), b.as_ptr(), tile.0.as_mut_ptr());
    // SAFETY: the caller's and the lines above: eight rows, and columns below `width`, which is a
    // multiple of every vector's length.
    unsafe {
        match (V::LANES, rows) {
            (16, 1) => columns::<V, E, 1, 3>(1, depth, a, b, width, tile),
            (16, 2..=4) => columns::<V, E, 4, 3>(1, depth, a, b, width, tile),
            (16, _) => columns::<V, E, 8, 3>(1, depth, a, b, width, tile),
            (_, 1) => columns::<V, E, 1, 3>(1, depth, a, b, width, tile),
            (_, 2..=4) => columns::<V, E, 4, 3>(1, depth, a, b, width, tile),
            (8, _) => columns::<V, E, 4, 3>(2, depth, a, b, width, tile),
            // 24 of 32 registers hold sums.
            _ => columns::<V, E, 8, 3>(1, depth, a, b, width, tile),
        }
    }
}

/// All columns of a tile, in pieces of three vectors, or of one if three do not fit.
///
/// # Safety
/// As [`tile_of`]; `groups × R` rows are at most eight.
#[inline(always)]
unsafe fn columns<V: Vector, E: Element, const R: usize, const C: usize>(
    groups: usize,
    depth: usize,
    a: *const f32,
    b: *const E::Stored,
    width: usize,
    tile: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        for group in 0..groups {
            let (a, tile) = (a.add(group * R), tile.add(group * R * PANEL_COLUMNS));
            let mut column = 0;
            while column + C * V::LANES <= width {
                piece::<V, E, R, C>(depth, a, b.add(column), width, tile.add(column));
                column += C * V::LANES;
            }
            while column + 2 * V::LANES <= width {
                piece::<V, E, R, 2>(depth, a, b.add(column), width, tile.add(column));
                column += 2 * V::LANES;
            }
            while column < width {
                piece::<V, E, R, 1>(depth, a, b.add(column), width, tile.add(column));
                column += V::LANES;
            }
        }
    }
}

/// `R` rows of `C` vectors.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn piece<V: Vector, E: Element, const R: usize, const C: usize>(
    depth: usize,
    mut a: *const f32,
    mut b: *const E::Stored,
    width: usize,
    tile: *mut f32,
) {
    // SAFETY: the caller's. The pointers use wrapping arithmetic because they move beyond the last
    // step, where they are not dereferenced.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for _ in 0..depth {
            let mut right = [V::splat(0.0); C];
            for (at, right) in right.iter_mut().enumerate() {
                *right = E::load(b.add(at * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = V::splat(*a.add(row));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = factor.fma(right, *sum);
                }
            }
            a = a.wrapping_add(PANEL_ROWS);
            b = b.wrapping_add(width);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (at, sum) in sums.iter().enumerate() {
                sum.store(tile.add(row * PANEL_COLUMNS + at * V::LANES));
            }
        }
    }
}
