//! Functions of one number in float64, accurate to a few units in the last place.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LN_2, PI};

/// Above this number, adding one to the square of a number does not change it.
const ONE_IS_LOST: f64 = 134_217_728.0;

/// `ln(x + √(x² − 1))`
pub(super) fn acosh(x: f64) -> f64 {
    if x < 1.0 {
        return f64::NAN;
    }
    if x > ONE_IS_LOST {
        return x.ln() + LN_2;
    }
    let above_one = x - 1.0;
    (above_one + (above_one * (above_one + 2.0)).sqrt()).ln_1p()
}

/// `ln(x + √(x² + 1))`
pub(super) fn asinh(x: f64) -> f64 {
    let size = x.abs();
    if size > ONE_IS_LOST {
        return (size.ln() + LN_2).copysign(x);
    }
    let square = size * size;
    (size + square / (1.0 + (1.0 + square).sqrt())).ln_1p().copysign(x)
}

/// `½ · ln((1 + x) ÷ (1 − x))`
pub(super) fn atanh(x: f64) -> f64 {
    let size = x.abs();
    (0.5 * (2.0 * size / (1.0 - size)).ln_1p()).copysign(x)
}

/// `ln(1 + eˣ)`
pub(super) fn softplus(x: f64) -> f64 {
    let above = if x < 0.0 { 0.0 } else { x };
    above + (-x.abs()).exp().ln_1p()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    // The power of a number that is not above zero does not overflow.
    let power = (-x.abs()).exp();
    if x < 0.0 { power / (1.0 + power) } else { 1.0 / (1.0 + power) }
}

/// `x · tanh(ln(1 + eˣ))`
pub(super) fn mish(x: f64) -> f64 {
    // From 40 on the second factor is 1.
    let power = if x > 40.0 { 40f64.exp() } else { x.exp() };
    let both = power * (power + 2.0);
    x * (both / (both + 2.0))
}

/// `x · ½ · (1 + erf(x ÷ √2))`
pub(super) fn gelu(x: f64) -> f64 {
    // The square in two parts, the first of which is exact: the power of a rounded square would
    // lose the digits of small results.
    0.5 * x * complement(-x * FRAC_1_SQRT_2, power_of_square(x, 0.5))
}

/// `x · ½ · (1 + tanh(√(2 ÷ π) · (x + 0.044715 · x³)))`
pub(super) fn gelu_by_tanh(x: f64) -> f64 {
    x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x))
}

/// From here on [`erf`] is computed from its complement.
const FAR: f64 = 1.0;

pub(super) fn erf(x: f64) -> f64 {
    let size = x.abs();
    if size < FAR { near(x, power_of_square(x, 1.0)) } else { far_erf(size).copysign(x) }
}

fn far_erf(size: f64) -> f64 {
    1.0 - tail(size, power_of_square(size, 1.0))
}

/// `exp(−factor · x²)`, where multiplying with the factor is exact.
fn power_of_square(x: f64, factor: f64) -> f64 {
    // Beyond, the power is zero.
    let x = x.abs().min(60.0);
    // The upper half of the digits, whose square is exact.
    let high = f64::from_bits(x.to_bits() & !((1 << 27) - 1));
    (-factor * high * high).exp() * (-factor * (x - high) * (x + high)).exp()
}

/// `1 − erf(x)`, from `exp(−x²)`
fn complement(x: f64, power: f64) -> f64 {
    if x >= FAR {
        tail(x, power)
    } else if x <= -FAR {
        2.0 - tail(-x, power)
    } else {
        1.0 - near(x, power)
    }
}

/// `erf(x)` from `exp(−x²)`: a series of which all terms have the sign of the number.
fn near(x: f64, power: f64) -> f64 {
    let square = 2.0 * x * x;
    let (mut term, mut sum) = (x, x);
    for odd in (3..61).step_by(2) {
        term *= square / f64::from(odd);
        sum += term;
    }
    FRAC_2_SQRT_PI * power * sum
}

/// `1 − erf(x)` for `x` from [`FAR`] on, from `exp(−x²)`: the continued fraction of Laplace.
fn tail(x: f64, power: f64) -> f64 {
    let fraction = (1..=250).rev().fold(x, |below, at| x + 0.5 * f64::from(at) / below);
    0.5 * FRAC_2_SQRT_PI * power / fraction
}
