//! Quantization, and products of quantized numbers.

mod dequantize;
pub(crate) mod dynamic;
pub(crate) mod integers;
mod matmul_integer;
mod native;
pub(crate) mod packed;
pub(crate) mod qlinear;
pub(crate) mod quantize;
pub(crate) mod quantize_any;
pub(crate) mod shapes;

use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] =
    &[dynamic::OPERATORS, matmul_integer::OPERATORS, quantize::OPERATORS, qlinear::OPERATORS];
