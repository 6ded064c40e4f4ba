//! Tiles of integer products with AVX-512 VNNI, AVX-512BW and AVX2.

use std::arch::x86_64::*;

use belljar_abi::kernel::{INTEGER_STEPS, PANEL_COLUMNS, PANEL_ROWS};

use super::{GRAIN, Tile};

/// Sums of consecutive columns.
///
/// # Safety
/// Every method requires the implementation's instructions. Pointers must be valid for a whole
/// vector, or for [`Sums::WORDS`] words.
unsafe trait Sums: Copy {
    /// Columns.
    const LANES: usize;
    /// Words of four steps of one row.
    const WORDS: usize;
    /// Rows that are summed at a time; 8 is a multiple of it.
    const ROWS: usize;
    /// Four steps of one row, for all columns.
    type Left: Copy;
    /// Four steps of the columns.
    type Right: Copy;

    unsafe fn zero() -> Self;
    unsafe fn left(from: *const u32) -> Self::Left;
    unsafe fn right(from: *const u8) -> Self::Right;
    unsafe fn add(self, left: Self::Left, right: Self::Right) -> Self;
    unsafe fn store(self, to: *mut i32);
}

/// AVX-512 VNNI. The instruction multiplies unsigned by signed bytes, and adds four products to a
/// sum that wraps around.
#[derive(Clone, Copy)]
struct Vnni(__m512i);

// SAFETY: every method uses AVX-512F and AVX-512 VNNI, which its callers guarantee.
unsafe impl Sums for Vnni {
    const LANES: usize = 16;
    const WORDS: usize = 1;
    const ROWS: usize = 8;
    type Left = __m512i;
    type Right = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Vnni {
        // SAFETY: the caller's, here and in all that follow.
        Vnni(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn left(from: *const u32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(from.read().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add(self, left: __m512i, right: __m512i) -> Vnni {
        // SAFETY: as above.
        Vnni(unsafe { _mm512_dpbusd_epi32(self.0, left, right) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }
}

/// AVX-512BW. Bytes are widened to 16 bits; the sum of two products has at most 17 bits.
#[derive(Clone, Copy)]
struct Wide(__m512i);

// SAFETY: every method uses AVX-512F and AVX-512BW, which its callers guarantee.
unsafe impl Sums for Wide {
    const LANES: usize = 16;
    const WORDS: usize = 2;
    const ROWS: usize = 8;
    type Left = [__m512i; 2];
    type Right = [__m512i; 2];

    #[inline(always)]
    unsafe fn zero() -> Wide {
        // SAFETY: the caller's, here and in all that follow.
        Wide(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn left(from: *const u32) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let (even, odd) = (from.read().cast_signed(), from.add(1).read().cast_signed());
            [_mm512_set1_epi32(even), _mm512_set1_epi32(odd)]
        }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let four = _mm512_loadu_si512(from.cast());
            let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(four));
            [even, _mm512_srai_epi16::<8>(four)]
        }
    }

    #[inline(always)]
    unsafe fn add(self, left: [__m512i; 2], right: [__m512i; 2]) -> Wide {
        // SAFETY: as above.
        unsafe {
            let even = _mm512_madd_epi16(left[0], right[0]);
            let odd = _mm512_madd_epi16(left[1], right[1]);
            Wide(_mm512_add_epi32(_mm512_add_epi32(self.0, even), odd))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }
}

/// AVX2, like [`Wide`].
#[derive(Clone, Copy)]
struct Half(__m256i);

// SAFETY: every method uses AVX2, which its callers guarantee.
unsafe impl Sums for Half {
    const LANES: usize = 8;
    const WORDS: usize = 2;
    const ROWS: usize = 4;
    type Left = [__m256i; 2];
    type Right = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> Half {
        // SAFETY: the caller's, here and in all that follow.
        Half(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn left(from: *const u32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let (even, odd) = (from.read().cast_signed(), from.add(1).read().cast_signed());
            [_mm256_set1_epi32(even), _mm256_set1_epi32(odd)]
        }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let four = _mm256_loadu_si256(from.cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(four));
            [even, _mm256_srai_epi16::<8>(four)]
        }
    }

    #[inline(always)]
    unsafe fn add(self, left: [__m256i; 2], right: [__m256i; 2]) -> Half {
        // SAFETY: as above.
        unsafe {
            let even = _mm256_madd_epi16(left[0], right[0]);
            let odd = _mm256_madd_epi16(left[1], right[1]);
            Half(_mm256_add_epi32(_mm256_add_epi32(self.0, even), odd))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }
}

/// Declares the function that computes a tile with some instructions.
macro_rules! tiles {
    ($($name:ident = $sums:ty, $features:literal;)*) => {$(
        /// Computes a tile.
        #[target_feature(enable = $features)]
        pub(super) fn $name(
            rows: usize,
            groups: usize,
            a: &[u32],
            b: &[u8],
            width: usize,
            tile: &mut Tile,
        ) {
            // SAFETY: this function's features are those of its sums.
            unsafe { tile_of::<$sums>(rows, groups, a, b, width, tile) }
        }
    )*};
}

tiles! {
    vnni = Vnni, "avx512f,avx512bw,avx512vnni";
    wide = Wide, "avx512f,avx512bw";
    half = Half, "avx2";
}

/// # Safety
/// As [`Sums`].
#[inline(always)]
unsafe fn tile_of<S: Sums>(
    rows: usize,
    groups: usize,
    a: &[u32],
    b: &[u8],
    width: usize,
    tile: &mut Tile,
) {
    assert!(a.len() >= groups * PANEL_ROWS * S::WORDS && b.len() >= groups * width * INTEGER_STEPS);
    assert!(width <= PANEL_COLUMNS && width.is_multiple_of(GRAIN) && rows <= PANEL_ROWS);
    let (a, b, tile) = (a.as_ptr(), b.as_ptr(), tile.0.as_mut_ptr());
    // SAFETY: the caller's and the lines above: eight rows, and columns below `width`, which is a
    // multiple of every vector's length.
    unsafe {
        match (S::ROWS, rows) {
            (_, 1) => columns::<S, 1>(groups, a, b, width, tile),
            (_, 2..=4) => columns::<S, 4>(groups, a, b, width, tile),
            (8, _) => columns::<S, 8>(groups, a, b, width, tile),
            _ => {
                columns::<S, 4>(groups, a, b, width, tile);
                let (a, tile) = (a.add(4 * S::WORDS), tile.add(4 * PANEL_COLUMNS));
                columns::<S, 4>(groups, a, b, width, tile);
            }
        }
    }
}

/// All columns of `R` rows, in pieces of three vectors, or two if each needs two registers.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn columns<S: Sums, const R: usize>(
    groups: usize,
    a: *const u32,
    b: *const u8,
    width: usize,
    tile: *mut i32,
) {
    let mut column = 0;
    // SAFETY: the caller's.
    unsafe {
        while S::WORDS == 1 && column + 3 * S::LANES <= width {
            piece::<S, R, 3>(groups, a, b.add(column * 4), width, tile.add(column));
            column += 3 * S::LANES;
        }
        while column + 2 * S::LANES <= width {
            piece::<S, R, 2>(groups, a, b.add(column * 4), width, tile.add(column));
            column += 2 * S::LANES;
        }
        while column < width {
            piece::<S, R, 1>(groups, a, b.add(column * 4), width, tile.add(column));
            column += S::LANES;
        }
    }
}

/// `R` rows of `C` vectors.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn piece<S: Sums, const R: usize, const C: usize>(
    groups: usize,
    mut a: *const u32,
    mut b: *const u8,
    width: usize,
    tile: *mut i32,
) {
    // SAFETY: the caller's. The pointers use wrapping arithmetic because they move beyond the last
    // group, where they are not dereferenced.
    unsafe {
        let mut sums = [[S::zero(); C]; R];
        let step = width * INTEGER_STEPS;
        for _ in 0..groups {
            let mut right = [S::right(b); C];
            for (at, right) in right.iter_mut().enumerate() {
                *right = S::right(b.add(at * S::LANES * INTEGER_STEPS));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = S::left(a.add(row * S::WORDS));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.add(left, right);
                }
            }
            a = a.wrapping_add(PANEL_ROWS * S::WORDS);
            b = b.wrapping_add(step);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (at, sum) in sums.iter().enumerate() {
                sum.store(tile.add(row * PANEL_COLUMNS + at * S::LANES));
            }
        }
    }
}
