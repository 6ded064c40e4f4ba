//! Vectors of `f32`, one type for each instruction set, and mathematical functions on them.
//!
//! A kernel is written once, for any [`Vector`], and compiled for each instruction set: everything
//! here is inlined into the entry that [`dispatch`] selects. `unsafe` is needed for the
//! instructions and for loads and stores through pointers.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use belljar_abi::narrow::Narrow;

use super::{InstructionSet, Instructions};

/// 2²³: the last bits of this number and of those from it on are whole numbers. So a small whole
/// number becomes a float by replacing these bits, and the difference of two is exact.
pub(super) const EXACT: f32 = 8_388_608.0;

/// Elements in a vector register, or in an array on machines without one.
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
    /// `self · factor + addend`, rounded once if the machine supports it.
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
    /// The nearest integer; ties round to even.
    /// # Safety
    /// See the trait.
    unsafe fn round(self) -> Self;
    /// `then` in the lanes that are less than the bound, `otherwise` in the others.
    /// # Safety
    /// See the trait.
    unsafe fn if_less(self, bound: Self, then: Self, otherwise: Self) -> Self;
    /// Two to the power of whole numbers from −126 to 127.
    /// # Safety
    /// See the trait.
    unsafe fn exp2_of_integer(self) -> Self;

    /// Numbers of `BITS` bits from a place in words on, each added to [`EXACT`].
    /// # Safety
    /// See the trait; `from` must be readable for all lanes.
    #[inline(always)]
    unsafe fn codes<const BITS: usize>(from: *const u32, place: u32) -> Self {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's; no vector has more than 16 lanes.
        unsafe {
            for (at, lane) in lanes[..Self::LANES].iter_mut().enumerate() {
                let code = *from.add(at) >> place & ((1 << BITS) - 1);
                *lane = f32::from_bits(EXACT.to_bits() | code);
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Bytes, each added to [`EXACT`].
    /// # Safety
    /// See the trait; `from` must be readable for all lanes.
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's; no vector has more than 16 lanes.
        unsafe {
            for (at, lane) in lanes[..Self::LANES].iter_mut().enumerate() {
                *lane = f32::from_bits(EXACT.to_bits() | u32::from(*from.add(at)));
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Narrow floats as float32.
    /// # Safety
    /// See the trait; `from` must be readable for all lanes.
    #[inline(always)]
    unsafe fn load_narrow(narrow: Narrow, from: *const u16) -> Self {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's; no vector has more than 16 lanes.
        unsafe {
            for (at, lane) in lanes[..Self::LANES].iter_mut().enumerate() {
                *lane = narrow.decode(from.add(at).read_unaligned());
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Stores each lane as the nearest narrow float, as [`Narrow::encode`] does.
    /// # Safety
    /// See the trait; `to` must be writable for all lanes.
    #[inline(always)]
    unsafe fn store_narrow(self, narrow: Narrow, to: *mut u16) {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's; no vector has more than 16 lanes.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (at, lane) in lanes[..Self::LANES].iter().enumerate() {
                to.add(at).write_unaligned(narrow.encode(*lane));
            }
        }
    }

    /// Rounds each lane to the nearest narrow float, as [`Narrow::round`] does.
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn round_narrow(self, narrow: Narrow) -> Self {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's; no vector has more than 16 lanes.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for lane in &mut lanes[..Self::LANES] {
                *lane = narrow.round(*lane);
            }
            Self::load(lanes.as_ptr())
        }
    }
}

/// How the elements of an operand are stored. A type and not a value, because the innermost loops
/// must not choose.
pub(super) trait Element {
    /// An element in memory.
    type Stored: Copy;

    /// # Safety
    /// As [`Vector`]; `from` must be readable for all lanes.
    unsafe fn load<V: Vector>(from: *const Self::Stored) -> V;
}

/// Elements of float32.
pub(super) struct Single;

/// Elements of float16.
pub(super) struct F16;

/// Elements of bfloat16.
pub(super) struct Bf16;

impl Element for Single {
    type Stored = f32;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const f32) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(from) }
    }
}

impl Element for F16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u16) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_narrow(Narrow::F16, from) }
    }
}

impl Element for Bf16 {
    type Stored = u16;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u16) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_narrow(Narrow::Bf16, from) }
    }
}

/// Rounds each lane to the nearest narrow float, if there is a type to round to.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn rounded<V: Vector>(value: V, to: Option<Narrow>) -> V {
    // SAFETY: the caller's.
    unsafe {
        match to {
            None => value,
            Some(Narrow::F16) => value.round_narrow(Narrow::F16),
            Some(Narrow::Bf16) => value.round_narrow(Narrow::Bf16),
        }
    }
}

/// Narrow floats as float32. Both slices have the same length.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn widen<V: Vector>(narrow: Narrow, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let whole = to.len() / V::LANES * V::LANES;
    // SAFETY: the caller's; both have `whole` elements, which are a whole number of vectors.
    unsafe {
        match narrow {
            Narrow::F16 => widen_whole::<V, F16>(from.as_ptr(), to.as_mut_ptr(), whole),
            Narrow::Bf16 => widen_whole::<V, Bf16>(from.as_ptr(), to.as_mut_ptr(), whole),
        }
    }
    for (from, to) in from[whole..].iter().zip(&mut to[whole..]) {
        *to = narrow.decode(*from);
    }
}

/// # Safety
/// As [`Vector`]; both sides have `len` elements, a whole number of vectors.
#[inline(always)]
unsafe fn widen_whole<V: Vector, E: Element<Stored = u16>>(
    from: *const u16,
    to: *mut f32,
    len: usize,
) {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller's.
        unsafe { E::load::<V>(from.add(at)).store(to.add(at)) };
        at += V::LANES;
    }
}

/// The nearest narrow floats. Both slices have the same length.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn narrow<V: Vector>(narrow: Narrow, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    let whole = to.len() / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        // SAFETY: the caller's; both have a vector's elements from `at` on.
        unsafe {
            let value = V::load(from.as_ptr().add(at));
            match narrow {
                Narrow::F16 => value.store_narrow(Narrow::F16, to.as_mut_ptr().add(at)),
                Narrow::Bf16 => value.store_narrow(Narrow::Bf16, to.as_mut_ptr().add(at)),
            }
        }
    }
    for (from, to) in from[whole..].iter().zip(&mut to[whole..]) {
        *to = narrow.encode(*from);
    }
}

/// A computation that is generic over the vector type.
pub(super) trait Job {
    /// The result.
    type Output;

    /// Runs it. Implementations, and all functions that they call, are `#[inline(always)]`.
    ///
    /// # Safety
    /// As [`Vector`]: only [`dispatch`] calls it.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}

/// Runs a job with the vectors of an instruction set of this machine.
pub(super) fn dispatch<J: Job>(set: InstructionSet, job: J) -> J::Output {
    match set.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only `InstructionSet::available` creates this value, after it has found AVX-512F,
        // AVX2, FMA and F16C on this machine.
        Instructions::Avx512 => unsafe { with_avx512(job) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, for AVX2, FMA and F16C.
        Instructions::Avx2Fma => unsafe { with_avx2(job) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, for NEON.
        Instructions::Neon => unsafe { with_neon(job) },
        // SAFETY: these vectors are plain arrays.
        Instructions::Portable => unsafe { job.run::<portable::Plain>() },
    }
}

/// # Safety
/// The machine must have the instructions that the function is compiled for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn with_avx512<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller guarantees the instructions, and everything in a job is inlined here.
    unsafe { job.run::<x86::Wide>() }
}

/// # Safety
/// The machine must have the instructions that the function is compiled for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller guarantees the instructions, and everything in a job is inlined here.
    unsafe { job.run::<x86::Half>() }
}

/// # Safety
/// The machine must have the instructions that the function is compiled for.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn with_neon<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller guarantees the instructions, and everything in a job is inlined here.
    unsafe { job.run::<neon::Quad>() }
}

/// The value of a polynomial; coefficients start with the highest power.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn polynomial<V: Vector, const N: usize>(coefficients: [f32; N], x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = sum.fma(x, V::splat(*coefficient));
        }
        sum
    }
}

/// Splits a number into `n · ln 2` and a remainder, the two arguments of [`power`].
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn reduced<V: Vector>(x: V) -> (V, V) {
    // SAFETY: the caller's.
    unsafe {
        // Outside of these bounds the result is 0 or infinity; NaN stays NaN.
        let x = x.min(V::splat(89.0)).max(V::splat(-104.0));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, the first with few bits, so that its product with n is exact.
        let rest = n.fma(V::splat(-0.693_359_4), x);
        (n, n.fma(V::splat(2.121_944_4e-4), rest))
    }
}

/// `2ⁿ · eˣ` of a small number: a polynomial of the fifth degree (the coefficients of Cephes'
/// `expf`).
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn power<V: Vector>(n: V, x: V) -> V {
    const EXP: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // SAFETY: the caller's.
    unsafe {
        let sum = polynomial(EXP, x).fma(x.mul(x), x).add(V::splat(1.0));
        // Two factors, because n may exceed the exponent range of one.
        let half = n.mul(V::splat(0.5)).round();
        sum.mul(half.exp2_of_integer()).mul(n.sub(half).exp2_of_integer())
    }
}

/// `eˣ` to some units in the last place.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let (n, rest) = reduced(x);
        power(n, rest)
    }
}

/// `1 ÷ (1 + e⁻ˣ)`, computed as `eˣ ÷ (1 + eˣ)`, because `e⁻ˣ` overflows for negative numbers.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        // From 17 on the result is 1.
        let power = exp(x.min(V::splat(30.0)));
        power.div(power.add(V::splat(1.0)))
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
        let above = polynomial(
            [
                -2.760_768_5e-16,
                2.000_188e-13,
                -8.604_672e-11,
                5.122_297e-8,
                1.485_722_4e-5,
                6.372_619e-4,
                4.893_524_6e-3,
            ],
            square,
        );
        let below =
            polynomial([1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3], square);
        x.mul(above).div(below)
    }
}

/// The error function to a unit in the last place, with the coefficients of N. Juffa: a polynomial
/// near zero, and one minus a power beyond.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn erf<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let near = polynomial(
            [
                -5.967_617e-4,
                4.991_194e-3,
                -2.676_813_5e-2,
                1.128_199_3e-1,
                -3.761_253_4e-1,
                1.283_791_7e-1,
            ],
            x.mul(x),
        );
        let near = near.fma(x, x);
        // Beyond, the result is 1.
        let size = x.abs().min(V::splat(10.0));
        let less = V::splat(0.0).sub(size);
        let log = polynomial(
            [
                -1.728_534_7e-5,
                3.831_972_6e-4,
                -3.883_964_4e-3,
                2.425_462_2e-2,
                -1.067_778_8e-1,
                -6.348_467e-1,
                -1.287_175_1e-1,
            ],
            size,
        );
        let power = exp(log.fma(size, less));
        let one = V::splat(1.0);
        let far = x.if_less(V::splat(0.0), power.sub(one), one.sub(power));
        size.if_less(V::splat(0.927_734_4), near, far)
    }
}

/// `x · ½ · (1 + erf(x ÷ √2))`. Below zero, where the sum would cancel, the tail of the normal
/// distribution is computed directly: a power times a polynomial in `1 ÷ (1 + 0.35 · |x|)`, which
/// was fitted to a relative error of 3e-8.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn gelu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        // Beyond, the tail is zero.
        let size = x.abs().min(V::splat(15.0));
        // The square in two parts, the first of which is exact.
        let split = size.mul(V::splat(4097.0));
        let high = split.sub(split.sub(size));
        let (n, rest) = reduced(high.mul(high).mul(V::splat(-0.5)));
        let low = size.sub(high).mul(size.add(high));
        let power = power(n, low.fma(V::splat(-0.5), rest));
        let t = one.div(size.fma(V::splat(0.35), one));
        let tail = polynomial(
            [
                -0.029_157_871,
                0.144_030_87,
                -0.255_838_96,
                0.159_319_67,
                -0.023_212_366,
                0.105_552_52,
                0.119_821_28,
                0.139_863_52,
                0.139_621_3,
            ],
            t,
        );
        let tail = tail.mul(t).mul(power);
        x.max(zero).mul(one.sub(tail)).add(x.min(zero).mul(tail))
    }
}

/// `x · ½ · (1 + tanh(√(2 ÷ π) · (x + 0.044715 · x³)))`, as a sigmoid of twice the argument.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn gelu_by_tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller's.
    unsafe {
        let slope = x.mul(x).fma(V::splat(0.071_354_814), V::splat(1.595_769));
        x.mul(sigmoid(x.mul(slope)))
    }
}
