//! Vectors of sixteen with AVX-512 and of eight with AVX2 and FMA.

use std::arch::x86_64::*;

use belljar_abi::narrow::Narrow;

use super::{EXACT, Vector};

/// The bits of the sign, and those of the NaN that [`Narrow::round`] makes.
const SIGN: i32 = i32::MIN;
const NAN: i32 = 0x7fc0_0000;

/// Sixteen elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Wide(__m512);

/// Eight elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Half(__m256);

// SAFETY: every method uses AVX-512F and AVX2 instructions, which its callers guarantee.
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

    #[inline(always)]
    unsafe fn codes<const BITS: usize>(from: *const u32, place: u32) -> Wide {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_loadu_si512(from.cast());
            let words = _mm512_srlv_epi32(words, _mm512_set1_epi32(place as i32));
            let code = _mm512_and_si512(words, _mm512_set1_epi32((1 << BITS) - 1));
            let exact = _mm512_set1_epi32(EXACT.to_bits() as i32);
            Wide(_mm512_castsi512_ps(_mm512_or_si512(code, exact)))
        }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Wide {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let exact = _mm512_set1_epi32(EXACT.to_bits() as i32);
            Wide(_mm512_castsi512_ps(_mm512_or_si512(bytes, exact)))
        }
    }

    #[inline(always)]
    unsafe fn load_narrow(narrow: Narrow, from: *const u16) -> Wide {
        // SAFETY: as above.
        unsafe {
            let codes = _mm256_loadu_si256(from.cast());
            Wide(match narrow {
                Narrow::F16 => _mm512_cvtph_ps(codes),
                Narrow::Bf16 => {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(codes)))
                }
            })
        }
    }

    #[inline(always)]
    unsafe fn store_narrow(self, narrow: Narrow, to: *mut u16) {
        // SAFETY: as above.
        unsafe {
            let rounded = self.round_narrow(narrow).0;
            let codes = match narrow {
                Narrow::F16 => _mm512_cvtps_ph::<_MM_FROUND_NO_EXC>(rounded),
                Narrow::Bf16 => {
                    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(rounded)))
                }
            };
            _mm256_storeu_si256(to.cast(), codes);
        }
    }

    #[inline(always)]
    unsafe fn round_narrow(self, narrow: Narrow) -> Wide {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let rounded = match narrow {
                Narrow::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_NO_EXC>(self.0)),
                Narrow::Bf16 => {
                    let odd = _mm512_srli_epi32::<16>(bits);
                    let odd = _mm512_and_si512(odd, _mm512_set1_epi32(1));
                    let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                    let mask = _mm512_set1_epi32(0xffff_0000u32 as i32);
                    _mm512_castsi512_ps(_mm512_and_si512(_mm512_add_epi32(bits, up), mask))
                }
            };
            let sign = _mm512_and_si512(bits, _mm512_set1_epi32(SIGN));
            let nan = _mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_set1_epi32(NAN)));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            Wide(_mm512_mask_blend_ps(is_nan, rounded, nan))
        }
    }
}

// SAFETY: every method uses AVX2, FMA and F16C instructions, which its callers guarantee.
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

    #[inline(always)]
    unsafe fn codes<const BITS: usize>(from: *const u32, place: u32) -> Half {
        // SAFETY: as above.
        unsafe {
            let words = _mm256_loadu_si256(from.cast());
            let words = _mm256_srlv_epi32(words, _mm256_set1_epi32(place as i32));
            let code = _mm256_and_si256(words, _mm256_set1_epi32((1 << BITS) - 1));
            let exact = _mm256_set1_epi32(EXACT.to_bits() as i32);
            Half(_mm256_castsi256_ps(_mm256_or_si256(code, exact)))
        }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Half {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let exact = _mm256_set1_epi32(EXACT.to_bits() as i32);
            Half(_mm256_castsi256_ps(_mm256_or_si256(bytes, exact)))
        }
    }

    #[inline(always)]
    unsafe fn load_narrow(narrow: Narrow, from: *const u16) -> Half {
        // SAFETY: as above.
        unsafe {
            let codes = _mm_loadu_si128(from.cast());
            Half(match narrow {
                Narrow::F16 => _mm256_cvtph_ps(codes),
                Narrow::Bf16 => {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(codes)))
                }
            })
        }
    }

    #[inline(always)]
    unsafe fn store_narrow(self, narrow: Narrow, to: *mut u16) {
        // SAFETY: as above.
        unsafe {
            let rounded = self.round_narrow(narrow).0;
            let codes = match narrow {
                Narrow::F16 => _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(rounded),
                Narrow::Bf16 => {
                    // Halves of 32 bits that fit 16 are not changed by the saturation.
                    let high = _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded));
                    let (low, high) =
                        (_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
                    _mm_packus_epi32(low, high)
                }
            };
            _mm_storeu_si128(to.cast(), codes);
        }
    }

    #[inline(always)]
    unsafe fn round_narrow(self, narrow: Narrow) -> Half {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let rounded = match narrow {
                Narrow::F16 => {
                    _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0))
                }
                Narrow::Bf16 => {
                    let odd = _mm256_srli_epi32::<16>(bits);
                    let odd = _mm256_and_si256(odd, _mm256_set1_epi32(1));
                    let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                    let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
                    _mm256_castsi256_ps(_mm256_and_si256(_mm256_add_epi32(bits, up), mask))
                }
            };
            let sign = _mm256_and_si256(bits, _mm256_set1_epi32(SIGN));
            let nan = _mm256_castsi256_ps(_mm256_or_si256(sign, _mm256_set1_epi32(NAN)));
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            Half(_mm256_blendv_ps(rounded, nan, is_nan))
        }
    }
}
