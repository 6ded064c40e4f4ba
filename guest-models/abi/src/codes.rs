//! Decodes and encodes the small element types of at most 16 bits. Both sides of the sandbox use
//! it.
//!
//! The formats are those of ONNX: bfloat16; the four kinds of float8 with a mantissa ("FP8 Formats
//! for Deep Learning", and those without a negative zero of "8-bit Numerical Formats for Deep
//! Neural Networks"); float8e8m0 and float4e2m1 (OCP Microscaling Formats 1.0); and integers of
//! four and two bits, in two's complement. A code is the bit pattern of an element, as an integer.

use crate::dtype::DType;

/// How a number that is out of range is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beyond {
    /// To the greatest number with its sign; infinities too.
    Saturate,
    /// To infinity if the type has it, otherwise NaN.
    Overflow,
}

/// How a number between two powers of two is rounded to float8e8m0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// The greater one.
    Up,
    /// The lesser one.
    Down,
    /// The nearer one; the greater one of a tie.
    Nearest,
}

/// The format of a type with a sign, an exponent and a mantissa.
struct Float {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    special: Special,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// The greatest exponent stands for infinity and NaN.
    Ieee,
    /// All ones is NaN.
    Fn,
    /// Negative zero is NaN.
    Fnuz,
    /// Every code is a number.
    None,
}

const fn float(dtype: DType) -> Option<Float> {
    let (exponent, mantissa, bias, special) = match dtype {
        DType::BF16 => (8, 7, 127, Special::Ieee),
        DType::F8E4M3FN => (4, 3, 7, Special::Fn),
        DType::F8E4M3FNUZ => (4, 3, 8, Special::Fnuz),
        DType::F8E5M2 => (5, 2, 15, Special::Ieee),
        DType::F8E5M2FNUZ => (5, 2, 16, Special::Fnuz),
        DType::F4E2M1 => (2, 1, 1, Special::None),
        _ => return None,
    };
    Some(Float { exponent, mantissa, bias, special })
}

/// Bits of a code; `None` for types that are not carried as codes.
pub const fn bits(dtype: DType) -> Option<u32> {
    match dtype {
        DType::BF16 => Some(16),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => {
            Some(8)
        }
        DType::U4 | DType::I4 | DType::F4E2M1 => Some(4),
        DType::U2 | DType::I2 => Some(2),
        _ => None,
    }
}

/// Whether the type is an integer of four or two bits.
pub const fn is_integer(dtype: DType) -> bool {
    matches!(dtype, DType::U4 | DType::I4 | DType::U2 | DType::I2)
}

/// Whether bytes, one per element, are codes of this type. Not meaningful for other types.
pub fn are_codes(dtype: DType, bytes: &[u8]) -> bool {
    match bits(dtype) {
        Some(bits @ 1..8) => bytes.iter().all(|byte| *byte >> bits == 0),
        _ => true,
    }
}

/// The value of a code; 0 for types that are not carried as codes. Higher bits are ignored.
pub fn decode(dtype: DType, code: u16) -> f32 {
    let Some(bits) = bits(dtype) else { return 0.0 };
    let code = u32::from(code) & ((1 << bits) - 1);
    match dtype {
        DType::U4 | DType::U2 => code as f32,
        DType::I4 | DType::I2 => ((code << (32 - bits)) as i32 >> (32 - bits)) as f32,
        DType::F8E8M0 => match code {
            0xff => f32::NAN,
            // Below the least exponent of a normal number.
            0 => f32::from_bits(1 << 22),
            code => f32::from_bits(code << 23),
        },
        DType::BF16 => f32::from_bits(code << 16),
        _ => match float(dtype) {
            Some(float) => float.decode(code),
            None => 0.0,
        },
    }
}

/// Rounds a number to the nearest code, ties to even. For float8e8m0 it is rounded up (see
/// [`encode_e8m0`]); for integers it is truncated towards zero and wrapped, and 0 if it is not
/// finite. 0 for types that are not carried as codes.
pub fn encode(dtype: DType, value: f64, beyond: Beyond) -> u16 {
    match (dtype, bits(dtype)) {
        (_, None) => 0,
        (DType::F8E8M0, _) => encode_e8m0(value, beyond, Round::Up),
        (_, Some(bits)) => match float(dtype) {
            Some(float) => float.encode(value, beyond),
            None => modulo(value, bits),
        },
    }
}

/// Rounds a number to a power of two. NaN and negative numbers become code 255, which is NaN; zero
/// becomes the least power if it saturates, otherwise NaN.
pub fn encode_e8m0(value: f64, beyond: Beyond, round: Round) -> u16 {
    const NAN: u16 = 0xff;
    const MOST: i32 = 254;
    if value.is_nan() || value < 0.0 {
        return NAN;
    }
    let beyond = |code: i32| match beyond {
        Beyond::Saturate => code as u16,
        Beyond::Overflow => NAN,
    };
    // Powers of two from 2^-127 to 2^127. Subnormal numbers of f64 are far below.
    if value < two(-127) {
        return beyond(0);
    }
    if value > two(127) {
        return beyond(MOST);
    }
    let bits = value.to_bits();
    let floor = (bits >> 52) as i32 - 1023;
    let part = bits & ((1 << 52) - 1);
    let up = match round {
        Round::Up => part > 0,
        Round::Down => false,
        Round::Nearest => part >= 1 << 51,
    };
    (floor + 127 + i32::from(up)).clamp(0, MOST) as u16
}

/// 2 to this power, which f64 has as a normal number.
fn two(power: i32) -> f64 {
    f64::from_bits(((1023 + power) as u64) << 52)
}

/// A number truncated towards zero, modulo 2 to the power of `bits`.
fn modulo(value: f64, bits: u32) -> u16 {
    let mask = (1u64 << bits) - 1;
    // From 2^63 on a number is a multiple of any of these ranges.
    if !value.is_finite() || value.abs() >= two(63) {
        return 0;
    }
    (value as i64 as u64 & mask) as u16
}

impl Float {
    fn decode(&self, code: u32) -> f32 {
        let sign = code >> (self.exponent + self.mantissa) & 1;
        let magnitude = code & ((1 << (self.exponent + self.mantissa)) - 1);
        let (exponent, mantissa) =
            (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let greatest = (1 << self.exponent) - 1;
        let value = match self.special {
            Special::Ieee if exponent == greatest && mantissa > 0 => f32::NAN,
            Special::Ieee if exponent == greatest => f32::INFINITY,
            Special::Fn if magnitude + 1 == 1 << (self.exponent + self.mantissa) => f32::NAN,
            Special::Fnuz if magnitude == 0 && sign == 1 => return f32::NAN,
            _ => {
                let normal = u32::from(exponent > 0);
                let digits = mantissa | normal << self.mantissa;
                let power = exponent.max(1) as i32 - self.bias - self.mantissa as i32;
                (f64::from(digits) * two(power)) as f32
            }
        };
        if sign == 1 { -value } else { value }
    }

    fn encode(&self, value: f64, beyond: Beyond) -> u16 {
        let sign_bit = 1u32 << (self.exponent + self.mantissa);
        let sign = if value.is_sign_negative() { sign_bit } else { 0 };
        let infinity = ((1u32 << self.exponent) - 1) << self.mantissa;
        let (most, overflow) = match self.special {
            Special::Ieee => (infinity - 1, infinity | sign),
            Special::Fn => (sign_bit - 2, (sign_bit - 1) | sign),
            Special::Fnuz => (sign_bit - 1, sign_bit),
            Special::None => (sign_bit - 1, (sign_bit - 1) | sign),
        };
        if value.is_nan() {
            return match self.special {
                Special::Ieee => infinity | 1 << (self.mantissa - 1) | sign,
                // Without a NaN it becomes a zero of the other sign, as in ml_dtypes.
                Special::None => sign ^ sign_bit,
                _ => overflow,
            } as u16;
        }
        let magnitude = value.abs();
        let code = if magnitude.is_finite() { self.nearest(magnitude) } else { u32::MAX };
        let code = match (code > most, beyond) {
            (true, Beyond::Saturate) => most | sign,
            (true, Beyond::Overflow) => overflow,
            (false, _) if code == 0 && self.special == Special::Fnuz => 0,
            (false, _) => code | sign,
        };
        code as u16
    }

    /// The code of the nearest magnitude, as if the exponent were unbounded.
    fn nearest(&self, magnitude: f64) -> u32 {
        let least = 1 - self.bias;
        // Subnormal numbers of f64 are far below all of these.
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(least);
        // In units of the last place of the mantissa: less than 2^9, so adding 2^52 rounds to whole
        // numbers, of two as near to the even one.
        let digits = magnitude / two(exponent) * two(self.mantissa as i32);
        let rounded = (digits + two(52)) - two(52);
        // One place more carries into the exponent, and one bit less is a number below the normal.
        let exponent = ((exponent + self.bias) as u32) << self.mantissa;
        exponent + rounded as u32 - (1 << self.mantissa)
    }
}
