//! What is known of the inputs and outputs of an operator before the model runs.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::OrUserError;
use crate::framework::tensors::ints;

/// What is known of an input before the model runs.
#[derive(Clone)]
pub(crate) struct InputFact {
    pub(crate) dtype: DatumType,
    pub(crate) shape: TVec<TDim>,
    pub(crate) value: Option<Arc<Tensor>>,
}

impl InputFact {
    pub(crate) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The integers of a constant.
    pub(crate) fn ints(&self) -> TractResult<Option<Vec<i64>>> {
        self.value.as_deref().map(ints).transpose()
    }
}

/// What is known of an output: its element type and its dimensions. A dimension that depends on the
/// values of inputs is `None`.
pub(crate) type OutputFact = (DatumType, TVec<Option<TDim>>);

/// An output with the element type and shape of an input.
pub(crate) fn like(input: &InputFact) -> OutputFact {
    (input.dtype, input.shape.iter().cloned().map(Some).collect())
}

/// An output with these dimensions.
pub(crate) fn with_dims(dtype: DatumType, dims: impl IntoIterator<Item = TDim>) -> OutputFact {
    (dtype, dims.into_iter().map(Some).collect())
}

/// An output whose dimensions are not known before the model runs.
pub(crate) fn unknown_dims(dtype: DatumType, rank: usize) -> OutputFact {
    (dtype, tvec![None; rank])
}

/// A required input.
pub(crate) fn required<T>(inputs: &[Option<T>], at: usize) -> TractResult<&T> {
    inputs.get(at).and_then(Option::as_ref).or_user_error(format_args!("input {at} is missing"))
}

/// An optional input.
pub(crate) fn optional<T>(inputs: &[Option<T>], at: usize) -> Option<&T> {
    inputs.get(at).and_then(Option::as_ref)
}

/// A shape as numbers, if all its dimensions are known before the model runs.
pub(crate) fn concrete(shape: &[TDim]) -> Option<Vec<usize>> {
    shape.iter().map(|dim| dim.as_i64().and_then(|dim| usize::try_from(dim).ok())).collect()
}

/// The shapes of all inputs, if all are known before the model runs.
pub(crate) fn known_shapes(inputs: &[Option<InputFact>]) -> Option<Vec<Option<Vec<usize>>>> {
    let shape = |input: &Option<InputFact>| match input {
        Some(input) => concrete(&input.shape).map(Some),
        None => Some(None),
    };
    inputs.iter().map(shape).collect()
}
