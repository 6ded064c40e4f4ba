//! The product with AVX-512 and with AVX2 and FMA. `unsafe` is needed for the instructions, and for
//! loads whose ranges were checked before.
//!
//! Every element is a chain of fused multiply-adds in the order of the steps, so both produce the
//! same bits.

use std::arch::x86_64::*;

use super::operations::{COLUMNS, Operation};
use super::tile::{Row, Tile};

/// # Safety
/// The machine must have AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512(tile: &mut Tile, memory: &mut [u8], operations: &[Operation]) {
    tile.run(memory, operations, |rows, a, b, depth| {
        let height = rows.len();
        assert!(a.len() >= 4 * depth * height && b.len() >= 4 * depth * COLUMNS);
        // Wrapping, because without steps the pointer may be out of bounds.
        for (block, rows) in rows.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: the caller guarantees the instructions. `a` has `height` elements for each
            // step, of which the eight from `8 * block` on are read, and `b` has 32.
            unsafe {
                let a = a.as_ptr().cast::<f32>().wrapping_add(8 * block);
                block_avx512(rows, a, height, b.as_ptr().cast(), depth);
            }
        }
    });
}

/// Eight rows of two vectors of sixteen.
///
/// # Safety
/// The machine must have AVX-512F. `a` points to eight elements at each of `depth` steps of
/// `height` elements, `b` to 32 at each step.
#[inline(always)]
unsafe fn block_avx512(
    rows: &mut [Row; 8],
    mut a: *const f32,
    height: usize,
    mut b: *const f32,
    depth: usize,
) {
    // SAFETY: see above; a row has 32 elements.
    unsafe {
        let mut sums: [[__m512; 2]; 8] = std::array::from_fn(|row| {
            let row = rows[row].as_ptr();
            [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16))]
        });
        for _ in 0..depth {
            let (low, high) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(a.add(row).read_unaligned());
                sums[0] = _mm512_fmadd_ps(factor, low, sums[0]);
                sums[1] = _mm512_fmadd_ps(factor, high, sums[1]);
            }
            a = a.wrapping_add(height);
            b = b.wrapping_add(COLUMNS);
        }
        for (row, sums) in rows.iter_mut().zip(sums) {
            _mm512_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), sums[1]);
        }
    }
}

/// # Safety
/// The machine must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2(tile: &mut Tile, memory: &mut [u8], operations: &[Operation]) {
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
                    block_avx2(
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

/// Four rows of two vectors of eight: columns `half` to `half + 15`.
///
/// # Safety
/// The machine must have AVX2 and FMA. `half` is at most 16; `a` points to four elements at each of
/// `depth` steps of `height` elements, `b` to sixteen at each step of 32.
#[inline(always)]
unsafe fn block_avx2(
    rows: &mut [Row; 4],
    half: usize,
    mut a: *const f32,
    height: usize,
    mut b: *const f32,
    depth: usize,
) {
    // SAFETY: see above; a row has 32 elements.
    unsafe {
        let mut sums: [[__m256; 2]; 4] = std::array::from_fn(|row| {
            let row = rows[row].as_ptr().add(half);
            [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))]
        });
        for _ in 0..depth {
            let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm256_set1_ps(a.add(row).read_unaligned());
                sums[0] = _mm256_fmadd_ps(factor, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(factor, high, sums[1]);
            }
            a = a.wrapping_add(height);
            b = b.wrapping_add(COLUMNS);
        }
        for (row, sums) in rows.iter_mut().zip(sums) {
            let row = row.as_mut_ptr().add(half);
            _mm256_storeu_ps(row, sums[0]);
            _mm256_storeu_ps(row.add(8), sums[1]);
        }
    }
}
