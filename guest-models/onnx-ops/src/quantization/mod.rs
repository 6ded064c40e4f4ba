//! Quantization, and products of quantized numbers.

mod dequantize;
pub(crate) mod qlinear;
pub(crate) mod quantize;
pub(crate) mod quantize_any;

use crate::framework::registration::{Registration, upstream};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] =
    &[quantize::OPERATORS, qlinear::OPERATORS, UPSTREAM];

/// The operators that tract computes according to the specification.
const UPSTREAM: &[Registration] = &[upstream("DynamicQuantizeLinear")];

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
}
