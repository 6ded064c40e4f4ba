//! Operators on strings. This crate computes all of them. Strings are UTF-8, and their characters
//! are Unicode scalar values; what depends on Unicode tables or a locale is refused for strings
//! that are not ASCII.

pub(crate) mod cast;
pub(crate) mod regex_full_match;
mod regex_syntax;
mod string_normalizer;
mod string_split;
mod tf_idf;

use tract_onnx::tract_hir::internal::*;

use crate::framework::registration::Registration;

/// The elements of a tensor of strings.
pub(crate) fn strings(tensor: &Tensor) -> TractResult<&[String]> {
    tensor.try_as_plain_ram()?.as_slice::<String>()
}

/// A tensor of strings.
pub(crate) fn from_strings(shape: &[usize], texts: Vec<String>) -> TractResult<Tensor> {
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, texts)?.into_tensor())
}

/// The operators of this family.
pub(crate) const OPERATORS: &[&[Registration]] = &[
    tf_idf::OPERATORS,
    string_normalizer::OPERATORS,
    regex_full_match::OPERATORS,
    string_split::OPERATORS,
];
