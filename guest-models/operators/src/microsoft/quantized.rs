//! Operators on quantized tensors: of 8 bits, and of weights in blocks of fewer bits.

use crate::entry::Operator;

#[rustfmt::skip]
pub(crate) const OPERATORS: &[Operator] = &[
];
