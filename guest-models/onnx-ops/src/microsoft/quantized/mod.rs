//! Operators on quantized tensors: of 8 bits, and of weights in blocks of fewer bits.

mod attention;
mod bnb4;
mod elementwise;
mod embedding;
mod fpq4;
mod gemm;
mod linear;
mod lookup;
mod lstm;
mod matmul;
mod parameters;
mod pool;
mod softmax;

use crate::framework::registration::Registration;

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    attention::OPERATORS,
    bnb4::OPERATORS,
    elementwise::OPERATORS,
    embedding::OPERATORS,
    fpq4::OPERATORS,
    gemm::OPERATORS,
    linear::OPERATORS,
    lookup::OPERATORS,
    lstm::OPERATORS,
    matmul::OPERATORS,
    pool::OPERATORS,
    softmax::OPERATORS,
];
