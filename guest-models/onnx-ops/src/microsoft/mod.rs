//! Operators of the domain `com.microsoft`. This crate computes all of them; tract's are never used.
//! Some have the names of operators of ONNX and do something else. Their specification is
//! onnxruntime's documentation of them.

mod activations;
mod aliases;
pub(crate) mod attention;
mod blocks;
mod crop_and_resize;
mod cubic_sample;
mod embedding;
mod experts;
mod fused;
mod gated_norm;
mod matrices;
mod normalization;
mod pad;
mod pools;
pub(crate) mod quantized;
mod shapes;
mod tokenizer;
mod tokens;
mod word_embedding;

use crate::framework::registration::Registration;

/// The operators of this family, without those of [`attention`] and [`quantized`].
pub(crate) const OPERATORS: &[&[Registration]] = &[
    activations::OPERATORS,
    aliases::OPERATORS,
    blocks::gather::OPERATORS,
    blocks::matmul::OPERATORS,
    crop_and_resize::OPERATORS,
    embedding::OPERATORS,
    experts::OPERATORS,
    fused::OPERATORS,
    gated_norm::OPERATORS,
    matrices::OPERATORS,
    normalization::OPERATORS,
    pad::OPERATORS,
    pools::OPERATORS,
    shapes::OPERATORS,
    tokenizer::OPERATORS,
    tokens::OPERATORS,
    word_embedding::OPERATORS,
];
