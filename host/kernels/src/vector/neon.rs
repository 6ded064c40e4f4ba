//! Vectors of four with NEON.

use std::arch::aarch64::*;

use super::Vector;

/// Four elements.
#[derive(Clone, Copy)]
pub(in super::super) struct Quad(float32x4_t);

// SAFETY: every method uses NEON instructions, which its callers guarantee.
unsafe impl Vector for Quad {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Quad {
        // SAFETY: the caller's, here and in all that follow.
        Quad(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Quad, addend: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vdivq_f32(self.0, other.0) })
    }

    // These instructions return NaN if either operand is NaN.
    #[inline(always)]
    unsafe fn min(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vminq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vmaxq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vsqrtq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vabsq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vrndnq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn if_less(self, bound: Quad, then: Quad, otherwise: Quad) -> Quad {
        // SAFETY: as above.
        Quad(unsafe { vbslq_f32(vcltq_f32(self.0, bound.0), then.0, otherwise.0) })
    }

    #[inline(always)]
    unsafe fn exp2_of_integer(self) -> Quad {
        // SAFETY: as above.
        Quad(unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(self.0), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        })
    }
}
