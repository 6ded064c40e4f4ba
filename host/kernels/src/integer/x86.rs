//! Tiles of integer products with AVX-512 VNNI, AVX-512BW and AVX2.

use std::arch::x86_64::*;

use belljar_abi::kernel::{INTEGER_STEPS, PANEL_COLUMNS, PANEL_GRAIN, PANEL_ROWS};

use super::Tile;
use super::path::{Job, Tiles};

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
    unsafe fn right<const SIGNED: bool>(from: *const u8) -> Self::Right;
    unsafe fn add<const SIGNED_LEFT: bool>(self, left: Self::Left, right: Self::Right) -> Self;
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
    unsafe fn right<const SIGNED: bool>(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add<const SIGNED_LEFT: bool>(self, left: __m512i, right: __m512i) -> Vnni {
        let (unsigned, signed) = if SIGNED_LEFT { (right, left) } else { (left, right) };
        // SAFETY: as above.
        Vnni(unsafe { _mm512_dpbusd_epi32(self.0, unsigned, signed) })
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
    unsafe fn right<const SIGNED: bool>(from: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let four = _mm512_loadu_si512(from.cast());
            let even = _mm512_slli_epi16::<8>(four);
            match SIGNED {
                true => [_mm512_srai_epi16::<8>(even), _mm512_srai_epi16::<8>(four)],
                false => [_mm512_srli_epi16::<8>(even), _mm512_srli_epi16::<8>(four)],
            }
        }
    }

    #[inline(always)]
    unsafe fn add<const SIGNED_LEFT: bool>(self, left: [__m512i; 2], right: [__m512i; 2]) -> Wide {
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
    unsafe fn right<const SIGNED: bool>(from: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let four = _mm256_loadu_si256(from.cast());
            let even = _mm256_slli_epi16::<8>(four);
            match SIGNED {
                true => [_mm256_srai_epi16::<8>(even), _mm256_srai_epi16::<8>(four)],
                false => [_mm256_srli_epi16::<8>(even), _mm256_srli_epi16::<8>(four)],
            }
        }
    }

    #[inline(always)]
    unsafe fn add<const SIGNED_LEFT: bool>(self, left: [__m256i; 2], right: [__m256i; 2]) -> Half {
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

/// Declares the entries that run a job with some instructions.
macro_rules! entries {
    ($($name:ident = $sums:ty, $features:literal;)*) => {$(
        /// # Safety
        /// The machine must have the instructions that the function is compiled for.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<J: Job>(job: J) -> bool {
            // SAFETY: the caller guarantees the instructions, and everything in a job is inlined
            // here.
            unsafe { job.run::<By<$sums>>() }
        }
    )*};
}

entries! {
    with_vnni = Vnni, "avx2,avx512f,avx512bw,avx512vnni";
    with_wide = Wide, "avx2,avx512f,avx512bw";
    with_half = Half, "avx2";
}

/// Tiles of such sums.
struct By<S>(std::marker::PhantomData<S>);

// SAFETY: the instructions are those of the sums.
unsafe impl<S: Sums> Tiles for By<S> {
    const WORDS: usize = S::WORDS;

    #[inline(always)]
    unsafe fn tile<const SIGNED_LEFT: bool>(
        rows: usize,
        groups: usize,
        a: &[u32],
        b: &[u8],
        width: usize,
        tile: &mut Tile,
    ) {
        // SAFETY: the caller's.
        unsafe { tile_of::<S, SIGNED_LEFT>(rows, groups, a, b, width, tile) }
    }
}

/// # Safety
/// As [`Sums`].
#[inline(always)]
unsafe fn tile_of<S: Sums, const SIGNED_LEFT: bool>(
    rows: usize,
    groups: usize,
    a: &[u32],
    b: &[u8],
    width: usize,
    tile: &mut Tile,
) {
    assert!(a.len() >= groups * PANEL_ROWS * S::WORDS && b.len() >= groups * width * INTEGER_STEPS);
    assert!(width <= PANEL_COLUMNS && width.is_multiple_of(PANEL_GRAIN) && rows <= PANEL_ROWS);
    let (a, b, tile) = (a.as_ptr(), b.as_ptr(), tile.0.as_mut_ptr());
    // SAFETY: the caller's and the lines above: eight rows, and columns below `width`, which is a
    // multiple of every vector's length.
    unsafe {
        match (S::ROWS, rows) {
            (_, 1) => columns::<S, SIGNED_LEFT, 1>(groups, a, b, width, tile),
            (_, 2..=4) => columns::<S, SIGNED_LEFT, 4>(groups, a, b, width, tile),
            (8, _) => columns::<S, SIGNED_LEFT, 8>(groups, a, b, width, tile),
            _ => {
                columns::<S, SIGNED_LEFT, 4>(groups, a, b, width, tile);
                let (a, tile) = (a.add(4 * S::WORDS), tile.add(4 * PANEL_COLUMNS));
                columns::<S, SIGNED_LEFT, 4>(groups, a, b, width, tile);
            }
        }
    }
}

/// All columns of `R` rows, in pieces of three vectors, or two if each needs two registers.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn columns<S: Sums, const SIGNED_LEFT: bool, const R: usize>(
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
            piece::<S, SIGNED_LEFT, R, 3>(groups, a, b.add(column * 4), width, tile.add(column));
            column += 3 * S::LANES;
        }
        while column + 2 * S::LANES <= width {
            piece::<S, SIGNED_LEFT, R, 2>(groups, a, b.add(column * 4), width, tile.add(column));
            column += 2 * S::LANES;
        }
        while column < width {
            piece::<S, SIGNED_LEFT, R, 1>(groups, a, b.add(column * 4), width, tile.add(column));
            column += S::LANES;
        }
    }
}

/// `R` rows of `C` vectors.
///
/// # Safety
/// As [`tile_of`].
#[inline(always)]
unsafe fn piece<S: Sums, const SIGNED_LEFT: bool, const R: usize, const C: usize>(
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
            let mut right = [S::right::<false>(b); C];
            for (at, right) in right.iter_mut().enumerate() {
                let from = b.add(at * S::LANES * INTEGER_STEPS);
                *right = match SIGNED_LEFT {
                    true => S::right::<false>(from),
                    false => S::right::<true>(from),
                };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = S::left(a.add(row * S::WORDS));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = sum.add::<SIGNED_LEFT>(left, right);
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
