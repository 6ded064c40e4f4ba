//! Vectors of sixteen with AVX-512 and of eight with AVX2 and FMA.

use std::arch::x86_64::*;

use super::Vector;

/// Sixteen elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Wide(__m512);

/// Eight elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Half(__m256);

// SAFETY: every method uses AVX-512F instructions, which its callers guarantee.
unsafe impl Vector for Wide {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Wide {
        // SAFETY: the caller's, here and in all that follow.
        Wide(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Wide, addend: Wide) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Wide) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Wide) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Wide) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Wide) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Wide) -> Wide {
        // The instruction returns the second operand if either is NaN, so only a NaN in the first
        // operand needs handling.
        // SAFETY: as above.
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            Wide(_mm512_mask_blend_ps(nan, _mm512_min_ps(self.0, other.0), self.0))
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Wide) -> Wide {
        // SAFETY: as above.
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            Wide(_mm512_mask_blend_ps(nan, _mm512_max_ps(self.0, other.0), self.0))
        }
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Wide {
        // SAFETY: as above.
        Wide(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Wide {
        // SAFETY: as above.
        Wide(unsafe {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn if_less(self, bound: Wide, then: Wide, otherwise: Wide) -> Wide {
        // SAFETY: as above.
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
            Wide(_mm512_mask_blend_ps(less, otherwise.0, then.0))
        }
    }

    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Wide {
        // SAFETY: as above.
        Wide(unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
}

// SAFETY: every method uses AVX2 and FMA instructions, which its callers guarantee.
unsafe impl Vector for Half {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Half {
        // SAFETY: the caller's, here and in all that follow.
        Half(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Half, addend: Half) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Half) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Half) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Half) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Half) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Half) -> Half {
        // SAFETY: as above.
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            Half(_mm256_blendv_ps(_mm256_min_ps(self.0, other.0), self.0, nan))
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Half) -> Half {
        // SAFETY: as above.
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            Half(_mm256_blendv_ps(_mm256_max_ps(self.0, other.0), self.0, nan))
        }
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Half {
        // SAFETY: as above.
        Half(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Half {
        // SAFETY: as above.
        Half(unsafe {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn if_less(self, bound: Half, then: Half, otherwise: Half) -> Half {
        // SAFETY: as above.
        unsafe {
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
            Half(_mm256_blendv_ps(otherwise.0, then.0, less))
        }
    }

    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Half {
        // SAFETY: as above.
        Half(unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }
}
