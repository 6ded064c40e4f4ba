//! Vectors of `f32`, one type for each instruction set, and the functions made of them.
//!
//! A kernel is written once, for any [`Vector`], and compiled for each instruction set: everything
//! here is inlined into the entry that [`dispatch`] picks. `unsafe` is here for the instructions
//! and for loads and stores through pointers.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::InstructionSet;

/// Some elements in a register, or in what takes its place.
///
/// # Safety
/// Every method must only be called on a machine that has the instruction set, from code inlined
/// into one of [`dispatch`]'s entries.
pub(super) unsafe trait Vector: Copy {
    /// Elements in a vector; a divisor of 16.
    const LANES: usize;

    /// # Safety
    /// See the trait; `from` must be readable for all lanes.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// See the trait; `to` must be writable for all lanes.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// See the trait.
    unsafe fn splat(value: f32) -> Self;
    /// `self · factor + addend`, rounded once where the machine can.
    /// # Safety
    /// See the trait.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn sub(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn mul(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn div(self, other: Self) -> Self;
    /// The lesser; NaN if either is.
    /// # Safety
    /// See the trait.
    unsafe fn min(self, other: Self) -> Self;
    /// The greater; NaN if either is.
    /// # Safety
    /// See the trait.
    unsafe fn max(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn sqrt(self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn abs(self) -> Self;
    /// The nearest integer, the even one of two.
    /// # Safety
    /// See the trait.
    unsafe fn round(self) -> Self;
    /// Two to the power of whole numbers from −126 to 127.
    /// # Safety
    /// See the trait.
    unsafe fn exp2_of_integer(self) -> Self;
}

/// Work that can be done with any vectors.
pub(super) trait Job {
    /// What comes of it.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, and so is what they call.
    ///
    /// # Safety
    /// As [`Vector`]: only [`dispatch`] calls it.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Does a job with the vectors of an instruction set that this machine has.
pub(super) fn dispatch<J: Job>(set: InstructionSet, job: J) -> J::Output {
    match set {
        // SAFETY: an `InstructionSet` is only ever made for a machine that has it, here and below.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { with_avx512(job) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2Fma => unsafe { with_avx2(job) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        InstructionSet::Neon => unsafe { with_neon(job) },
        // SAFETY: these vectors are plain arrays.
        InstructionSet::Portable => unsafe { job.run::<portable::Plain>() },
    }
}

/// # Safety
/// The machine must have these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn with_avx512<J: Job>(job: J) -> J::Output {
    // SAFETY: see above.
    unsafe { job.run::<x86::Wide>() }
}

/// # Safety
/// The machine must have these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<J: Job>(job: J) -> J::Output {
    // SAFETY: see above.
    unsafe { job.run::<x86::Half>() }
}

/// # Safety
/// The machine must have these instructions.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn with_neon<J: Job>(job: J) -> J::Output {
    // SAFETY: see above.
    unsafe { job.run::<neon::Quad>() }
}

/// `eˣ` to some units in the last place: the argument is split into `n · ln 2` and a rest, whose
/// exponential is a polynomial of the fifth degree (the coefficients of Cephes' `expf`).
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        // Outside of these bounds the result is 0 or infinity; NaN stays what it is.
        let x = x.min(V::splat(89.0)).max(V::splat(-104.0));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, the first with few bits, so that its product with n is exact.
        let rest = n.fma(V::splat(-0.693_359_4), x);
        let rest = n.fma(V::splat(2.121_944_4e-4), rest);
        let mut sum = V::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            sum = sum.fma(rest, V::splat(coefficient));
        }
        let sum = sum.fma(rest.mul(rest), rest).add(V::splat(1.0));
        // Two factors, as n may be beyond what one can express.
        let half = n.mul(V::splat(0.5)).round();
        sum.mul(half.exp2_of_integer()).mul(n.sub(half).exp2_of_integer())
    }
}

/// `1 ÷ (1 + e⁻ˣ)`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let one = V::splat(1.0);
        one.div(one.add(exp(V::splat(0.0).sub(x))))
    }
}

/// The hyperbolic tangent to some units in the last place, as a quotient of polynomials (the
/// coefficients that Eigen uses).
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        // Beyond, the result is 1 to the last bit.
        let bound = V::splat(7.905_311);
        let x = x.min(bound).max(V::splat(-7.905_311));
        let square = x.mul(x);
        let mut above = V::splat(-2.760_768_5e-16);
        for coefficient in [
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297e-8,
            1.485_722_4e-5,
            6.372_619e-4,
            4.893_524_6e-3,
        ] {
            above = above.fma(square, V::splat(coefficient));
        }
        let mut below = V::splat(1.198_258_4e-6);
        for coefficient in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
            below = below.fma(square, V::splat(coefficient));
        }
        x.mul(above).div(below)
    }
}
