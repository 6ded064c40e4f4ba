//! The product with NEON. `unsafe` is needed for the instructions, and for loads whose ranges were
//! checked before. Every element is a chain of fused multiply-adds in the order of the steps.

use std::arch::aarch64::*;

use super::operations::{COLUMNS, Operation};
use super::tile::{Row, Tile};

/// # Safety
/// The machine must have NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run(tile: &mut Tile, memory: &mut [u8], operations: &[Operation]) {
    tile.run(memory, operations, |rows, a, b, depth| {
        let height = rows.len();
        assert!(a.len() >= 4 * depth * height && b.len() >= 4 * depth * COLUMNS);
        // Wrapping, because without steps the pointer may be out of bounds.
        for half in [0, 16] {
            for (block, rows) in rows.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                // SAFETY: the caller guarantees the instructions. `a` has `height` elements for
                // each step, of which the four from `4 * block` on are read, and `b` has 32, of
                // which the sixteen from `half` on are.
                unsafe {
                    let a = a.as_ptr().cast::<f32>().wrapping_add(4 * block);
                    tile_block(
                        rows,
                        half,
                        a,
                        height,
                        b.as_ptr().cast::<f32>().wrapping_add(half),
                        depth,
                    );
                }
            }
        }
    });
}

/// Computes columns `half` to `half + 15` of four rows: four vectors of four elements each.
///
/// # Safety
/// The machine must have NEON. `half` is at most 16; `a` points to four elements at each of `depth`
/// steps of `height` elements, `b` to sixteen at each step of 32.
#[inline(always)]
unsafe fn tile_block(
    rows: &mut [Row; 4],
    half: usize,
    mut a: *const f32,
    height: usize,
    mut b: *const f32,
    depth: usize,
) {
    // SAFETY: see above; a row has 32 elements.
    unsafe {
        let mut sums: [[float32x4_t; 4]; 4] = std::array::from_fn(|row| {
            let row = rows[row].as_ptr().add(half);
            std::array::from_fn(|vector| vld1q_f32(row.add(4 * vector)))
        });
        for _ in 0..depth {
            let others: [float32x4_t; 4] =
                std::array::from_fn(|vector| vld1q_f32(b.add(4 * vector)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = vdupq_n_f32(a.add(row).read_unaligned());
                for (sum, other) in sums.iter_mut().zip(others) {
                    *sum = vfmaq_f32(*sum, factor, other);
                }
            }
            a = a.wrapping_add(height);
            b = b.wrapping_add(COLUMNS);
        }
        for (row, sums) in rows.iter_mut().zip(sums) {
            for (vector, sum) in sums.into_iter().enumerate() {
                vst1q_f32(row.as_mut_ptr().add(half + 4 * vector), sum);
            }
        }
    }
}
