//! Reference implementations of functions of one number in 64 bits, which are accurate for small
//! results too.
#![allow(dead_code)] // Each test file uses only some of them.

use std::f64::consts::{LN_2, PI, SQRT_2};

/// The error function by its series, none of whose terms cancel.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// `exp(−x² ÷ 2)`, from a square in two parts, the first of which is exact: the power of a rounded
/// square would lose the digits of small results.
fn bell(x: f64) -> f64 {
    let x = x.abs().min(60.0);
    let high = f64::from_bits(x.to_bits() & !((1 << 27) - 1));
    (-0.5 * high * high).exp() * (-0.5 * (x - high) * (x + high)).exp()
}

/// `½ · (1 − erf(x ÷ √2))` of a nonnegative number; for large ones by a continued fraction.
fn tail(x: f64) -> f64 {
    if x < 1.5 {
        return 0.5 * (1.0 - erf(x / SQRT_2));
    }
    let below = (1..=300).rev().fold(x, |below, n| x + f64::from(n) / below);
    bell(x) / (2.0 * PI).sqrt() / below
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    let power = (-x.abs()).exp();
    if x < 0.0 { power / (1.0 + power) } else { 1.0 / (1.0 + power) }
}

pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(crate) fn gelu(x: f64) -> f64 {
    let tail = tail(x.abs());
    if x < 0.0 { x * tail } else { x * (1.0 - tail) }
}

pub(crate) fn gelu_by_tanh(x: f64) -> f64 {
    x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x))
}

pub(crate) fn elu(x: f64, alpha: f64) -> f64 {
    if x > 0.0 { x } else { alpha * x.exp_m1() }
}

/// The standard library's function may be infinite for half of the largest numbers.
pub(crate) fn acosh(x: f64) -> f64 {
    if x > 1e9 { x.ln() + LN_2 } else { x.acosh() }
}

pub(crate) fn asinh(x: f64) -> f64 {
    if x.abs() > 1e9 { (x.abs().ln() + LN_2).copysign(x) } else { x.asinh() }
}

pub(crate) fn celu(x: f64, alpha: f64) -> f64 {
    if x > 0.0 { x } else { alpha * (x / alpha).exp_m1() }
}

pub(crate) fn atanh(x: f64) -> f64 {
    (0.5 * (2.0 * x.abs() / (1.0 - x.abs())).ln_1p()).copysign(x)
}

/// A unit in the last place of a number of this magnitude, in a type with this number of mantissa
/// bits and this exponent of the smallest step.
pub(crate) fn unit(size: f64, digits: i32, least: i32) -> f64 {
    if size == 0.0 || !size.is_finite() {
        return 2f64.powi(least);
    }
    let exponent = ((size.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    2f64.powi((exponent - digits).max(least))
}
