//! Algebra, reductions and spectra.

pub(crate) mod algebra;
mod contraction;
pub(crate) mod cumulative;
pub(crate) mod einsum;
pub(crate) mod fourier;
pub(crate) mod gemm;
mod integer_gemm;
mod integer_product;
pub(crate) mod matmul;
mod mel;
pub(crate) mod reduce;
pub(crate) mod top_k;

use crate::framework::registration::Registration;

pub use reduce::{Reduction, ReductionKind};

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    algebra::OPERATORS,
    cumulative::OPERATORS,
    einsum::OPERATORS,
    gemm::OPERATORS,
    matmul::OPERATORS,
    mel::OPERATORS,
    reduce::OPERATORS,
    fourier::OPERATORS,
    top_k::OPERATORS,
];
