//! Compares the decoding of every code and the rounding of numbers with ml_dtypes
//! (tests/expectations/codes/make.py).

use belljar_abi::DType;
use belljar_abi::codes::{Beyond, Round, are_codes, bits, decode, encode, encode_e8m0};

fn expected() -> Vec<(String, DType, Vec<u64>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/expectations/codes/codes.txt");
    let text = std::fs::read_to_string(path).expect("the expectations are there");
    let line = |line: &str| {
        let mut words = line.split(' ');
        let what = words.next().expect("what").to_owned();
        let name = words.next().expect("a type");
        let dtype = DType::ALL.iter().find(|dtype| dtype.name() == name).expect("a known type");
        (what, *dtype, words.map(|word| u64::from_str_radix(word, 16).expect("a number")).collect())
    };
    text.lines().map(line).collect()
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn every_code_decodes_as_in_ml_dtypes() {
    let mut seen = Vec::new();
    for (_, dtype, numbers) in expected().into_iter().filter(|(what, ..)| what == "decode") {
        seen.push(dtype);
        let step = if dtype == DType::BF16 { 257 } else { 1 };
        for (at, meant) in numbers.iter().enumerate() {
            let code = (at * step) as u16;
            let (found, meant) = (decode(dtype, code), f32::from_bits(*meant as u32));
            assert!(same(found, meant), "{dtype} {code:#x} is {found:e} for {meant:e}");
            assert!(u32::from(code) < 1 << bits(dtype).expect("codes"));
        }
        assert_eq!(numbers.len(), ((1usize << bits(dtype).expect("codes")) - 1) / step + 1);
    }
    let mut all: Vec<DType> =
        DType::ALL.iter().copied().filter(|dtype| bits(*dtype).is_some()).collect();
    all.sort();
    assert_eq!(seen, all);
    // bfloat16 is the upper half of float32.
    for code in 0..=u16::MAX {
        let meant = f32::from_bits(u32::from(code) << 16);
        assert!(same(decode(DType::BF16, code), meant));
    }
}

#[test]
fn numbers_are_rounded_as_in_ml_dtypes() {
    let mut checked = 0;
    for (_, dtype, numbers) in expected().into_iter().filter(|(what, ..)| what == "encode") {
        let [given, saturated, overflowed] = numbers[..] else { panic!("three numbers") };
        let given = f64::from(f32::from_bits(given as u32));
        let beyond = |beyond| encode(dtype, given, beyond);
        // NaN has several codes.
        let equal = |a: u16, b: u64| same(decode(dtype, a), decode(dtype, b as u16));
        let (found, wanted) = (beyond(Beyond::Overflow), overflowed);
        assert!(equal(found, wanted), "{dtype}: {given:e} is {found:x} for {wanted:x}");
        if dtype != DType::BF16 {
            let (found, wanted) = (beyond(Beyond::Saturate), saturated);
            assert!(equal(found, wanted), "{dtype}: {given:e} saturates: {found:x} for {wanted:x}");
        }
        checked += 1;
    }
    assert!(checked > 3000, "{checked} checked");
}

#[test]
fn decoded_codes_encode_to_themselves() {
    for dtype in DType::ALL.iter().copied() {
        let Some(bits) = bits(dtype) else { continue };
        for code in 0..=(u32::MAX >> (32 - bits)) as u16 {
            let value = decode(dtype, code);
            let again = decode(dtype, encode(dtype, value.into(), Beyond::Overflow));
            assert!(same(again, value), "{dtype} {code:#x}: {value:e} becomes {again:e}");
        }
    }
}

/// The table in ONNX's documentation of Cast, and the rounding that its text describes.
#[test]
fn powers_of_two_are_rounded_as_onnx_specifies() {
    use Beyond::{Overflow, Saturate};
    use Round::{Down, Nearest, Up};
    let (least, most) = (2f64.powi(-127), 2f64.powi(127));
    for (value, saturated_up, nearest) in [
        (0.0, 0, 0xff),
        (f64::NAN, 0xff, 0xff),
        (f64::INFINITY, 254, 0xff),
        (most * 1.5, 254, 0xff),
        (least / 2.0, 0, 0xff),
        (least, 0, 0),
        (most, 254, 254),
    ] {
        assert_eq!(encode_e8m0(value, Saturate, Up), saturated_up, "{value:e}");
        assert_eq!(encode_e8m0(value, Overflow, Nearest), nearest, "{value:e}");
    }
    for (value, up, down, nearest) in
        [(1.0, 127, 127, 127), (1.25, 128, 127, 127), (1.5, 128, 127, 128), (1.75, 128, 127, 128)]
    {
        for (round, wanted) in [(Up, up), (Down, down), (Nearest, nearest)] {
            assert_eq!(encode_e8m0(value, Saturate, round), wanted, "{value} {round:?}");
        }
    }
}

#[test]
fn integers_keep_their_low_bits() {
    for (dtype, value, wanted) in [
        (DType::I4, 8.0, 8),
        (DType::I4, -9.0, 7),
        (DType::U4, 17.9, 1),
        (DType::U4, -1.0, 15),
        (DType::I2, 2.0, 2),
        (DType::U2, 5.0, 1),
        (DType::U2, f64::NAN, 0),
        (DType::I2, f64::INFINITY, 0),
        (DType::U4, 1e300, 0),
    ] {
        assert_eq!(encode(dtype, value, Beyond::Overflow), wanted, "{dtype} {value}");
    }
    assert!(are_codes(DType::U4, &[0, 15]) && !are_codes(DType::I4, &[16]));
    assert!(are_codes(DType::F8E5M2, &[255]) && !are_codes(DType::U2, &[4]));
}
