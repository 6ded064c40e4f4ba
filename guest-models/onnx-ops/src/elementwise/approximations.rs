//! Functions of one number in float32, accurate to a few units in the last place wherever the
//! result is a normal number: near zero, where a result as small as its argument must keep its
//! digits, and for large arguments, where a vanishing result must vanish at the right rate.
//!
//! None of them branches, so that the compiler vectorizes a loop over a tensor.
//! The host's kernels (`host/kernels/src/vector.rs`) compute some of them the same way.

use std::f32::consts::LOG2_E;

/// Adding and subtracting this rounds a much smaller number to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// The coefficients of `expf` in the Cephes library: `(eˣ − 1 − x) ÷ x²`, the highest power first.
const EXP: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `erf(x) ÷ x − 1` in powers of `x²`, up to [`ERF_NEAR`] (N. Juffa).
const ERF: [f32; 6] =
    [-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1];
const ERF_NEAR: f32 = 0.927_734_4;

/// `ln(1 − erf(x)) ÷ x + 1` in powers of `x`, from [`ERF_NEAR`] on (N. Juffa).
const ERF_FAR: [f32; 7] = [
    -1.728_534_7e-5,
    3.831_972_6e-4,
    -3.883_964_4e-3,
    2.425_462_2e-2,
    -1.067_778_8e-1,
    -6.348_467e-1,
    -1.287_175_1e-1,
];

/// The slope of `t = 1 ÷ (1 + slope · x)`, in whose powers [`TAIL`] is.
const TAIL_SLOPE: f32 = 0.35;

/// `½ · erfc(x ÷ √2) · exp(x² ÷ 2) ÷ t` for `x` from 0 to 15, fitted to a relative error of 3e-8.
const TAIL: [f32; 9] = [
    -0.029_157_871,
    0.144_030_87,
    -0.255_838_96,
    0.159_319_67,
    -0.023_212_366,
    0.105_552_52,
    0.119_821_28,
    0.139_863_52,
    0.139_621_3,
];

/// The value of a polynomial, the highest power first.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    (1..N).fold(coefficients[0], |sum, at| sum * x + coefficients[at])
}

/// A number kept between two bounds. NaN stays NaN.
#[inline(always)]
fn within(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > high { high } else { x };
    if x < low { low } else { x }
}

/// `eˣ` in parts: `(1 + less_one) · low · high`.
struct Power {
    less_one: f32,
    /// Powers of two: one alone does not reach the ends of the range.
    low: f32,
    high: f32,
}

/// `e` to the power of `x + rest`, where `rest` is small.
#[inline(always)]
fn power(x: f32, rest: f32) -> Power {
    // Outside of these bounds the result is 0 or infinity.
    let x = within(x, -104.0, 89.0);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits, so that its product with n is exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4 + rest;
    let less_one = polynomial(&EXP, r) * (r * r) + r;
    let k = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = k >> 1;
    let of_two = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    Power { less_one, low: of_two(half), high: of_two(k.wrapping_sub(half)) }
}

#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let power = power(x, 0.0);
    (1.0 + power.less_one) * power.low * power.high
}

/// `eˣ − 1` of a number that is not above zero.
#[inline(always)]
fn exp_less_one(x: f32) -> f32 {
    // Below, the result is −1.
    let power = power(within(x, -87.0, 0.0), 0.0);
    let scale = power.low * power.high;
    scale * power.less_one + (scale - 1.0)
}

/// `ln(1 + x)` of a number from 0 to 1, as `2 · artanh(x ÷ (2 + x))`.
#[inline(always)]
fn ln_plus_one(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let odd = [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0];
    let square = s * s;
    2.0 * (s + s * (square * polynomial(&odd, square)))
}

#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let near = polynomial(&ERF, x * x) * x + x;
    // Beyond, the result is 1.
    let size = within(x.abs(), 0.0, 10.0);
    let far = 1.0 - exp(polynomial(&ERF_FAR, size) * size - size);
    if size > ERF_NEAR { far.copysign(x) } else { near }
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    // From 17 on the result is 1.
    let power = exp(within(x, -104.0, 30.0));
    power / (1.0 + power)
}

#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let less_one = exp_less_one(-2.0 * x.abs());
    (-less_one / (2.0 + less_one)).copysign(x)
}

/// `½ · ln((1 + x) ÷ (1 − x))`
#[inline(always)]
pub(crate) fn atanh(x: f32) -> f32 {
    let size = x.abs();
    (0.5 * (2.0 * size / (1.0 - size)).ln_1p()).copysign(x)
}

/// `x · ½ · (1 + erf(x ÷ √2))`
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    // Beyond, the tail is zero.
    let size = within(x.abs(), 0.0, 15.0);
    // The square in two parts, the first of which is exact.
    let split = size * 4097.0;
    let high = split - (split - size);
    let power = power(-0.5 * (high * high), -0.5 * (size - high) * (size + high));
    let t = 1.0 / (1.0 + TAIL_SLOPE * size);
    let tail = polynomial(&TAIL, t) * t * (1.0 + power.less_one) * power.low * power.high;
    let (above, below) = if x < 0.0 { (0.0, x) } else { (x, 0.0) };
    above * (1.0 - tail) + below * tail
}

/// `x · ½ · (1 + tanh(√(2 ÷ π) · (x + 0.044715 · x³)))`
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn gelu_by_tanh(x: f32) -> f32 {
    x * sigmoid(x * (1.595_769_1 + 0.071_354_814 * (x * x)))
}

/// `x · tanh(ln(1 + eˣ))`
#[inline(always)]
pub(crate) fn mish(x: f32) -> f32 {
    // From 20 on the second factor is 1.
    let power = exp(within(x, -104.0, 20.0));
    let both = power * (power + 2.0);
    x * (both / (both + 2.0))
}

/// `ln(1 + eˣ)`
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let above = if x < 0.0 { 0.0 } else { x };
    above + ln_plus_one(exp(-x.abs()))
}

/// `x` above zero, `alpha · (eˣ − 1)` below.
#[inline(always)]
pub(crate) fn elu(x: f32, alpha: f32) -> f32 {
    let below = alpha * exp_less_one(x);
    if x > 0.0 { x } else { below }
}

/// `x` above zero, `alpha · (exp(x ÷ alpha) − 1)` below.
#[inline(always)]
pub(crate) fn celu(x: f32, alpha: f32) -> f32 {
    let below = alpha * exp_less_one(x / alpha);
    if x > 0.0 { x } else { below }
}
