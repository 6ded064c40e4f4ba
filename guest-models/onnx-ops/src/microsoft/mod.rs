//! Operators of the domain `com.microsoft`. This crate computes all of them; tract's are never used.
//! Some have the names of operators of ONNX and do something else. Their specification is
//! onnxruntime's documentation of them.

mod activations;
pub(crate) mod attention;
mod blocks;
mod embedding;
mod normalization;
pub(crate) mod quantized;

use crate::framework::registration::Registration;

/// The operators of this family, without those of [`attention`] and [`quantized`].
pub(crate) const OPERATORS: &[&[Registration]] = &[
    activations::OPERATORS,
    embedding::OPERATORS,
    normalization::OPERATORS,
    blocks::matmul::OPERATORS,
    blocks::gather::OPERATORS,
];
