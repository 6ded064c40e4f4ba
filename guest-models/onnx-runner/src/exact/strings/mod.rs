//! Operators that work on texts, all ours. A text is UTF-8, and its letters are those of Unicode
//! where nothing else is said; what depends on tables of Unicode or on a locale is refused for
//! other texts than ASCII.

mod cast;
mod ngrams;
mod normalize;
mod pattern;
mod pieces;
mod syntax;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_hir::internal::*;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    cast::register(registry);
    ngrams::register(registry);
    normalize::register(registry);
    pattern::register(registry);
    pieces::register(registry);
}

/// The elements of a tensor of texts.
pub(super) fn strings(tensor: &Tensor) -> TractResult<&[String]> {
    tensor.try_as_plain_ram()?.as_slice::<String>()
}

/// A tensor of texts.
pub(super) fn from_strings(shape: &[usize], texts: Vec<String>) -> TractResult<Tensor> {
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, texts)?.into_tensor())
}
