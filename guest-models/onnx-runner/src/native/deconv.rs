//! Transposed convolutions, whose products the host computes.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::cnn::Deconv;

/// Splits a transposed convolution into a product and the addition of what overlaps. tract does so
/// only after the products have been replaced.
pub(super) fn split(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<Deconv>() else { return Ok(None) };
    if node.outputs[0].fact.datum_type != f32::datum_type() {
        return Ok(None);
    }
    op.codegen(model, node)
}
