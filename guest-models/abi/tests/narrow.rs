//! Compares the rounding to narrow floats with the definition of the nearest number, for every
//! number of both types and its neighbours in float32.

use belljar_abi::DType;
use belljar_abi::narrow::Narrow;

/// The value of a code with these numbers of exponent and mantissa bits, by its definition.
fn meaning(code: u16, exponent_bits: i32, mantissa_bits: i32) -> f64 {
    let sign = if code >> 15 == 1 { -1.0 } else { 1.0 };
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
    let exponent = i32::from(code >> mantissa_bits & ((1 << exponent_bits) - 1));
    let bias = (1 << (exponent_bits - 1)) - 1;
    let unit = 2f64.powi(exponent.max(1) - bias - mantissa_bits);
    if exponent == (1 << exponent_bits) - 1 {
        return if mantissa == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let leading = if exponent > 0 { 2f64.powi(mantissa_bits) } else { 0.0 };
    sign * (leading + mantissa) * unit
}

const TYPES: [(Narrow, i32, i32); 2] = [(Narrow::F16, 5, 10), (Narrow::Bf16, 8, 7)];

fn same(found: f32, expected: f64) -> bool {
    let found = f64::from(found);
    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
}

#[test]
fn every_code_decodes_to_its_number_and_is_kept_by_rounding() {
    for (narrow, exponent, mantissa) in TYPES {
        for code in 0..=u16::MAX {
            let (found, expected) = (narrow.decode(code), meaning(code, exponent, mantissa));
            assert!(same(found, expected), "{narrow:?} {code:#x}: {found} for {expected}");
            assert!(same(narrow.round(found), expected), "{narrow:?} {code:#x} is not kept");
            if !expected.is_nan() {
                assert_eq!(narrow.encode(found), code, "{narrow:?} {code:#x}");
            }
        }
    }
}

#[test]
fn numbers_round_to_the_nearer_neighbour_and_ties_to_even() {
    for (narrow, exponent, mantissa) in TYPES {
        let infinity = ((1u16 << exponent) - 1) << mantissa;
        for code in 0..infinity {
            // After the greatest number comes the one with the next exponent.
            let low = meaning(code, exponent, mantissa);
            let high = match code + 1 {
                next if next == infinity => low + (low - meaning(code - 1, exponent, mantissa)),
                next => meaning(next, exponent, mantissa),
            };
            let middle = (low + high) / 2.0;
            let exact = (middle as f32).to_bits();
            assert_eq!(f64::from(f32::from_bits(exact)), middle, "float32 has the middle");
            let even = if code & 1 == 0 { code } else { code + 1 };
            let cases = [(exact - 1, code), (exact, even), (exact + 1, code + 1)];
            for (bits, expected) in cases {
                for sign in [0u16, 0x8000] {
                    let value = f32::from_bits(bits | u32::from(sign) << 16);
                    assert_eq!(narrow.encode(value), expected | sign, "{narrow:?} of {value:e}");
                    let rounded = narrow.round(value).to_bits();
                    let decoded = narrow.decode(expected | sign).to_bits();
                    assert_eq!(rounded, decoded, "{narrow:?} of {value:e}");
                }
            }
        }
    }
}

#[test]
fn float64_is_rounded_once() {
    for (narrow, exponent, mantissa) in TYPES {
        let infinity = ((1u16 << exponent) - 1) << mantissa;
        for code in 0..infinity - 1 {
            let (low, high) =
                (meaning(code, exponent, mantissa), meaning(code + 1, exponent, mantissa));
            let middle = (low + high) / 2.0;
            let even = if code & 1 == 0 { code } else { code + 1 };
            // A little less and more than the middle, in the last place that float64 has.
            let (less, more) = (middle.next_down(), middle.next_up());
            for (value, expected) in [(less, code), (middle, even), (more, code + 1), (low, code)] {
                assert_eq!(narrow.encode_f64(value), expected, "{narrow:?} of {value:e}");
                assert_eq!(narrow.encode_f64(-value), expected | 0x8000, "{narrow:?} {value:e}");
            }
        }
        assert_eq!(narrow.encode_f64(f64::MAX), infinity);
        assert_eq!(narrow.encode_f64(f64::from_bits(1)), 0);
        assert!(narrow.decode(narrow.encode_f64(f64::NAN)).is_nan());
    }
}

#[test]
fn nan_and_infinity_are_kept() {
    for (narrow, _, _) in TYPES {
        for bits in [0x7f80_0001u32, 0x7fff_ffff, 0xffc0_0000, 0xff80_0001] {
            let nan = f32::from_bits(bits);
            assert!(narrow.round(nan).is_nan() && narrow.decode(narrow.encode(nan)).is_nan());
        }
        for value in [f32::INFINITY, f32::MAX] {
            assert_eq!(narrow.round(value), f32::INFINITY);
            assert_eq!(narrow.round(-value), f32::NEG_INFINITY);
        }
        assert_eq!(narrow.encode(-0.0), 0x8000);
        assert_eq!(narrow.round(-0.0).to_bits(), (-0f32).to_bits());
        // Far below the least number of float16.
        assert_eq!(Narrow::F16.encode(f32::from_bits(1)), 0);
        assert_eq!(Narrow::F16.encode(-1e-30), 0x8000);
    }
    assert_eq!(Narrow::of(DType::F16), Some(Narrow::F16));
    assert_eq!(Narrow::of(DType::BF16), Some(Narrow::Bf16));
    assert_eq!(Narrow::of(DType::F32), None);
}
