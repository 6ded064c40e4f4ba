//! DynamicQuantizeLinear (ONNX, operator set 11), and quantization to bytes as other operators use
//! it.

use tract_onnx::tract_hir::internal::*;

use super::integers::{Rounding, of_bytes};
use super::native;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, required, with_dims};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own};

pub(crate) const OPERATORS: &[Registration] =
    &[own("DynamicQuantizeLinear", |_, node| built(Dynamic, node))];

/// The least and the greatest of numbers and zero, without NaN.
pub(crate) fn range(numbers: &[f32]) -> (f32, f32) {
    // Several pairs at a time, which the compiler turns into vectors.
    let (mut least, mut greatest) = ([0f32; 16], [0f32; 16]);
    let (groups, rest) = numbers.as_chunks::<16>();
    for group in groups {
        for at in 0..16 {
            least[at] = if group[at] < least[at] { group[at] } else { least[at] };
            greatest[at] = if group[at] > greatest[at] { group[at] } else { greatest[at] };
        }
    }
    for number in rest {
        least[0] = if *number < least[0] { *number } else { least[0] };
        greatest[0] = if *number > greatest[0] { *number } else { greatest[0] };
    }
    (least.into_iter().fold(0.0, f32::min), greatest.into_iter().fold(0.0, f32::max))
}

/// Numbers divided by a scale and rounded. `nan` stands for quotients that are NaN.
pub(crate) fn quantize(numbers: &[f32], scale: f32, rounding: Rounding, nan: u8) -> Vec<u8> {
    let mut results = vec![0; numbers.len()];
    if !native::quantize(numbers, scale, rounding, nan, &mut results) {
        for (result, number) in results.iter_mut().zip(numbers) {
            let quotient = number / scale;
            *result = if quotient.is_nan() { nan } else { rounding.byte(quotient.into()) };
        }
    }
    results
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Dynamic;

impl Operator for Dynamic {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let x = required(inputs, 0)?;
        ensure!(
            x.dtype == f32::datum_type(),
            "quantizing elements of {:?} is not implemented; use float32",
            x.dtype
        );
        let dtype = u8::datum_type();
        Ok(tvec!(
            with_dims(dtype, x.shape.iter().cloned()),
            with_dims(f32::datum_type(), []),
            with_dims(dtype, [])
        ))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let x = *required(inputs, 0)?;
        let plain = x.try_as_plain_ram()?;
        let numbers = plain.as_slice::<f32>()?;
        let (least, greatest) = range(numbers);
        let scale = (greatest - least) / 255.0;
        // Without a number other than zero this is NaN, and the zero point is 0.
        let zero = (-least / scale).round_ties_even().clamp(0.0, 255.0) as u8;
        let rounding = Rounding { signed: false, zero: zero.into() };
        let bytes = quantize(numbers, scale, rounding, zero);
        Ok(tvec!(of_bytes(false, x.shape(), &bytes)?, tensor0(scale), tensor0(zero)))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar};

    #[test]
    fn dynamic_quantization_has_zero_in_its_range() {
        // From 0 to 5.1, in 255 steps of 0.02.
        let positive = case("DynamicQuantizeLinear").outputs(3).input(row(&[1f32, 5.1, 0.05]));
        positive.gives_all_near(&[row(&[50u8, 255, 2]), scalar(0.02f32), scalar(0u8)], 1e-6);
        let negative = case("DynamicQuantizeLinear").outputs(3).input(row(&[-5.1f32, -1.0]));
        negative.gives_all_near(&[row(&[0u8, 205]), scalar(0.02f32), scalar(255u8)], 1e-6);
    }

    #[test]
    fn dynamic_quantization_of_equal_numbers_and_of_what_is_no_number() {
        let zeros = case("DynamicQuantizeLinear").outputs(3).input(row(&[0f32; 3]));
        zeros.gives_all_near(&[row(&[0u8; 3]), scalar(0f32), scalar(0u8)], 0.0);
        let nan = case("DynamicQuantizeLinear").outputs(3);
        let nan = nan.input(row(&[f32::NAN, -1.0, 1.55]));
        nan.gives_all_near(&[row(&[100u8, 0, 255]), scalar(0.01f32), scalar(100u8)], 1e-6);
    }
}
