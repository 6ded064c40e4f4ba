//! What the optimiser would simplify to something else, put beyond its reach.

use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Mul, Sqrt, Square};
use tract_onnx::tract_hir::internal::*;

use super::binary::Times;

/// Products with zero, which are NaN for NaN and infinity; squares of roots, which are NaN for
/// negative numbers; squares of integers, which tract computes as 32-bit floats.
pub(crate) fn keep_products(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(first) = node.inputs.first() else { return Ok(None) };
    let dtype = model.outlet_fact(*first)?.datum_type;
    let square = is::<Square>(node);
    let product = matches!(node.op_as(), Some(TypedBinOp(op, None)) if op.is::<Mul>());
    let itself = square || product && node.inputs.iter().all(|input| input == first);
    let of_root = itself && is::<Sqrt>(model.node(first.node));
    let kept = match dtype.is_float() {
        true => of_root || product && with_zero(model, node)?,
        false => itself && dtype.is_integer(),
    };
    if !kept {
        return Ok(None);
    }
    let inputs = if square { vec![*first, *first] } else { node.inputs.clone() };
    let op = TypedBinOp(Box::new(Times), None);
    TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
}

fn is<O: tract_onnx::tract_core::ops::element_wise::ElementWiseMiniOp>(node: &TypedNode) -> bool {
    matches!(node.op_as(), Some(ElementWiseOp(op, _)) if op.is::<O>())
}

fn with_zero(model: &TypedModel, node: &TypedNode) -> TractResult<bool> {
    for input in &node.inputs {
        if let Some(konst) = &model.outlet_fact(*input)?.konst
            && let Some(uniform) = konst.as_uniform()
            && uniform.cast_to_scalar::<f64>()? == 0.0
        {
            return Ok(true);
        }
    }
    Ok(false)
}
