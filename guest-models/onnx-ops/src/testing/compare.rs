//! Compares an output with the expected one.

use tract_onnx::tract_hir::internal::*;

/// The tolerance of an output.
#[derive(Clone, Copy)]
pub(super) enum Tolerance {
    Exact,
    Relative(f64),
    Absolute(f64),
}

/// The first difference between two tensors, if there is one.
pub(super) fn difference(
    output: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
) -> Option<String> {
    let whole = |tensor: &Tensor| format!("{tensor:?} {:?}", shown(tensor));
    let kind = |tensor: &Tensor| (tensor.datum_type(), tensor.shape().to_vec());
    let values = shown(output).into_iter().zip(shown(expected));
    let same = kind(output) == kind(expected)
        && match expected.datum_type() {
            dtype if dtype.is_float() => {
                let pairs = numbers(output).into_iter().zip(numbers(expected));
                pairs.into_iter().all(|(one, other)| near(one, other, tolerance))
            }
            _ => values.into_iter().all(|(one, other)| one == other),
        };
    (!same).then(|| format!("{} instead of {}", whole(output), whole(expected)))
}

fn near(one: f64, other: f64, tolerance: Tolerance) -> bool {
    if one.is_nan() || other.is_nan() {
        return one.is_nan() && other.is_nan();
    }
    let most = match tolerance {
        Tolerance::Exact => {
            return one == other && one.is_sign_negative() == other.is_sign_negative();
        }
        Tolerance::Relative(part) => part * other.abs(),
        Tolerance::Absolute(most) => most,
    };
    one == other || one.is_finite() && other.is_finite() && (one - other).abs() <= most
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let wide = tensor.cast_to::<f64>().unwrap();
    wide.to_plain_array_view::<f64>().unwrap().iter().copied().collect()
}

/// The elements as text.
fn shown(tensor: &Tensor) -> Vec<String> {
    fn each<T: Datum + std::fmt::Debug>(tensor: &Tensor) -> Vec<String> {
        let view = tensor.to_plain_array_view::<T>().unwrap();
        view.iter().map(|value| format!("{value:?}")).collect()
    }
    dispatch_datum!(each(tensor.datum_type())(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{row, scalar};

    #[test]
    fn difference_tells_nan_and_zeros_apart() {
        let differs = |one: f32, other: f32| {
            difference(&scalar(one), &scalar(other), Tolerance::Exact).is_some()
        };
        assert!(!differs(f32::NAN, f32::NAN));
        assert!(differs(f32::NAN, 0.0) && differs(0.0, f32::NAN));
        assert!(differs(0.0, -0.0) && differs(1.0, 1.000_000_1));
        assert!(difference(&scalar(1i64), &scalar(1i32), Tolerance::Exact).is_some());
        assert!(difference(&scalar(1i64), &row(&[1i64]), Tolerance::Exact).is_some());
        assert!(
            difference(&scalar(f32::INFINITY), &scalar(1f32), Tolerance::Absolute(0.1)).is_some()
        );
    }
}
