//! Rounds float32 to the narrow floats, float16 and bfloat16.
//!
//! All computation with narrow floats is in float32, with each result rounded once by these
//! functions. They have no branches, so that the compiler vectorizes loops over them. Both sides of
//! the sandbox use them.

use crate::dtype::DType;

/// A float of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Narrow {
    /// IEEE 754 binary16: 11 bits of precision, up to 65504.
    F16,
    /// The upper half of a float32: 8 bits of precision.
    Bf16,
}

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;
const NAN: u32 = 0x7fc0_0000;
/// 2^-14, the least normal number of float16, as a float32.
const LEAST_NORMAL: u32 = 0x3880_0000;
/// 65536, the least number out of the range of float16 after rounding, as a float32.
const BEYOND: u32 = 0x4780_0000;

impl Narrow {
    /// The element type, if it is one of these.
    pub const fn of(dtype: DType) -> Option<Narrow> {
        match dtype {
            DType::F16 => Some(Narrow::F16),
            DType::BF16 => Some(Narrow::Bf16),
            _ => None,
        }
    }

    /// A type as a word of a request to a native kernel: 0 for float32.
    pub const fn to_word(narrow: Option<Narrow>) -> u32 {
        match narrow {
            None => 0,
            Some(Narrow::F16) => 1,
            Some(Narrow::Bf16) => 2,
        }
    }

    /// The type that a word of a request stands for; `None` if it stands for none.
    pub const fn from_word(word: u32) -> Option<Option<Narrow>> {
        match word {
            0 => Some(None),
            1 => Some(Some(Narrow::F16)),
            2 => Some(Some(Narrow::Bf16)),
            _ => None,
        }
    }

    /// The nearest number of this type as a float32, ties to even. Numbers out of range become
    /// infinity.
    #[inline(always)]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Narrow::F16 => round_f16(value),
            Narrow::Bf16 => round_bf16(value),
        }
    }

    /// The bits of the nearest number of this type, as [`Narrow::round`] finds it.
    #[inline(always)]
    pub fn encode(self, value: f32) -> u16 {
        match self {
            Narrow::F16 => encode_f16(value),
            Narrow::Bf16 => (round_bf16(value).to_bits() >> 16) as u16,
        }
    }

    /// The bits of the number of this type that is nearest to a float64, rounded once.
    pub fn encode_f64(self, value: f64) -> u16 {
        let near = value as f32;
        let (bits, exact) = (near.to_bits(), f64::from(near) == value);
        if exact || bits & 1 == 1 || !near.is_finite() {
            return self.encode(near);
        }
        // Of the two float32 around the number, takes the one whose last bit is odd, so that the
        // next rounding does not see a tie.
        let beyond = f64::from(near.abs()) > value.abs();
        self.encode(f32::from_bits(if beyond { bits - 1 } else { bits + 1 }))
    }

    /// The number with these bits.
    #[inline(always)]
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Narrow::F16 => decode_f16(bits),
            Narrow::Bf16 => f32::from_bits(u32::from(bits) << 16),
        }
    }
}

/// The bits of a positive float32 without those that float16 has no room for, rounded to even. What
/// rounds up to the next power of two carries into the exponent.
#[inline(always)]
fn rounded_13(magnitude: u32) -> u32 {
    (magnitude + 0xfff + (magnitude >> 13 & 1)) & !0x1fff
}

#[inline(always)]
fn round_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
    let normal = rounded_13(magnitude);
    let normal = if normal >= BEYOND { INFINITY } else { normal };
    // A float32 between one half and one counts in steps of 2^-24, as float16 does below 2^-14.
    let small = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    let number = if magnitude < LEAST_NORMAL { small } else { normal };
    f32::from_bits(sign | if magnitude > INFINITY { NAN } else { number })
}

#[inline(always)]
fn encode_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & SIGN, bits & !SIGN);
    let normal = rounded_13(magnitude);
    let normal = if normal >= BEYOND { 0x7c00 } else { normal.wrapping_sub(0x3800_0000) >> 13 };
    // How many steps of 2^-24 it is.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let number = if magnitude < LEAST_NORMAL { small } else { normal };
    (sign >> 16 | if magnitude > INFINITY { 0x7e00 } else { number }) as u16
}

#[inline(always)]
fn decode_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
    // The same digits with an exponent that is 112 too small, so that it is the power of two that
    // is missing; numbers below the normal ones are so in both types.
    let number = (f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000)).to_bits();
    let special = (magnitude << 13) + 0x7000_0000;
    f32::from_bits(sign | if magnitude >= 0x7c00 { special } else { number })
}

#[inline(always)]
fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    let nan = bits & SIGN | NAN;
    f32::from_bits(if bits & !SIGN > INFINITY { nan } else { rounded })
}
