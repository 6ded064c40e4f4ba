//! Compares two tensors up to rounding.
#![allow(dead_code)] // Each test binary uses a part.

use belljar::Tensor;
use belljar::tensor::{DType, Data, bf16};

/// The first element in which two tensors differ by more than the tolerance of their element type.
pub(crate) fn difference(
    found: &Tensor,
    expected: &Tensor,
    rtol: f64,
    atol: f64,
) -> Option<String> {
    // The effect of rounding alone: a few units in the last place of float16, and an absolute error
    // from larger terms.
    let (rtol, atol) = match found.dtype() {
        DType::F16 => (rtol.max(4e-3), atol.max(1e-3)),
        // One unit in the last place.
        DType::BF16 => (rtol.max(8e-3), atol.max(1e-3)),
        DType::F64 => (rtol, atol.max(1e-12)),
        _ if matches!(found.data(), Data::Coded(_)) => (0.0, 0.0),
        _ => (rtol, atol.max(1e-6)),
    };
    beyond(found, expected, rtol, atol)
}

/// The first element in which two tensors differ by more than this.
pub(crate) fn beyond(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
        let (a, b) = ((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
        return Some(format!("{a:?} for {b:?}"));
    }
    macro_rules! exactly {
        ($($type:ty),*) => { $(
            if let (Some(a), Some(b)) = (found.as_slice::<$type>(), expected.as_slice::<$type>()) {
                let at = a.iter().zip(b).position(|(a, b)| a != b)?;
                return Some(format!("element {at} is {:?} for {:?}", a[at], b[at]));
            }
        )* };
    }
    exactly!(i8, i16, i32, i64, u8, u16, u32, u64, bool, String);
    let (a, b) = (floats(found), floats(expected));
    let near = |a: f64, b: f64| {
        a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= atol + rtol * b.abs()
    };
    let at = a.iter().zip(&b).position(|(a, b)| !near(*a, *b))?;
    Some(format!("element {at} is {:e} for {:e}", a[at], b[at]))
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    if let Some(floats) = tensor.as_slice::<f32>() {
        floats.iter().map(|float| f64::from(*float)).collect()
    } else if let Some(floats) = tensor.as_slice::<half::f16>() {
        floats.iter().map(|float| f64::from(*float)).collect()
    } else if let Some(floats) = tensor.as_slice::<bf16>() {
        floats.iter().map(|float| f64::from(*float)).collect()
    } else if let Data::Coded(coded) = tensor.data() {
        coded.values().collect()
    } else {
        tensor.as_slice::<f64>().unwrap().to_vec()
    }
}
