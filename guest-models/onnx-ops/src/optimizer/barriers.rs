//! Barriers: replaces operators that tract's optimizer would simplify incorrectly by ones that it
//! does not touch.

use tract_onnx::tract_core::model::{TypedModel, TypedNode};
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{self, Mul, Sqrt, Square};
use tract_onnx::tract_core::ops::nn::Reduce;
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::binary::{Div, Times};

/// Protects products and divisions:
/// - products with zero, which are NaN for NaN and infinity;
/// - squares of roots, which are NaN for negative numbers;
/// - products of equal integers, which tract would compute as squares of floats;
/// - divisions, which tract would compute as products with a rounded inverse. The mean of equal
///   numbers would differ from them, and LayerNormalization would amplify the difference.
pub(crate) fn keep_products(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(first) = node.inputs.first() else { return Ok(None) };
    let dtype = model.outlet_fact(*first)?.datum_type;
    if dtype.is_float()
        && matches!(node.op_as(), Some(TypedBinOp(op, None)) if op.is::<math::Div>())
    {
        // tract fuses the mean of squares into one operator.
        let sum = model.node(first.node);
        let of_squares = sum.op_is::<Reduce>()
            && sum.inputs.first().is_some_and(|input| is::<Square>(model.node(input.node)));
        let op = TypedBinOp(Box::new(Div), None);
        let patch = || TypedModelPatch::replace_single_op(model, node, &node.inputs, op);
        return (!of_squares).then(patch).transpose();
    }
    let square = is::<Square>(node);
    let product = matches!(node.op_as(), Some(TypedBinOp(op, None)) if op.is::<Mul>());
    if !square && !product {
        return Ok(None);
    }
    // Two inputs may become the same one when axes are moved and equal nodes are merged.
    let of_roots = node.inputs.iter().all(|input| is::<Sqrt>(origin(model, *input)));
    let kept = match dtype.is_float() {
        true => of_roots || product && with_zero(model, node)?,
        false => dtype.is_integer(),
    };
    if !kept {
        return Ok(None);
    }
    let inputs = if square { vec![*first, *first] } else { node.inputs.clone() };
    let op = TypedBinOp(Box::new(Times), None);
    TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
}

/// Protects empty slices, which tract would move before operators that cannot compute an empty
/// tensor or that do not allow the move.
pub(crate) fn keep_empty_slices(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(slice) = node.op_as::<Slice>() else { return Ok(None) };
    if slice.start != slice.end {
        return Ok(None);
    }
    let op = EmptySlice { axis: slice.axis };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, op).map(Some)
}

/// Makes an axis empty.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct EmptySlice {
    axis: usize,
}

impl Op for EmptySlice {
    fn name(&self) -> StaticName {
        "EmptySlice".into()
    }

    op_as_typed_op!();
}

impl EvalOp for EmptySlice {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut shape: TVec<usize> = inputs[0].shape().into();
        shape[self.axis] = 0;
        Ok(tvec!(Tensor::zero_dt(inputs[0].datum_type(), &shape)?.into_tvalue()))
    }
}

impl TypedOp for EmptySlice {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        fact.shape.set(self.axis, 0.to_dim());
        Ok(tvec!(fact))
    }

    as_op!();
}

/// The node that computes the elements of a value, ignoring nodes that only move elements.
fn origin(model: &TypedModel, value: OutletId) -> &TypedNode {
    let mut node = model.node(value.node);
    let computes = |node: &TypedNode| node.op_is::<ElementWiseOp>() || node.op_is::<TypedBinOp>();
    while let Some(input) = node.inputs.first().filter(|_| !computes(node)) {
        node = model.node(input.node);
    }
    node
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

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::DatumType::{F32, I64};

    use crate::testing::{case, graph, row, tensor};

    #[test]
    fn products_of_a_value_and_its_own_reshape_are_exact() {
        let body = graph(&[("x", I64)], &["y"]).constant("axes", &row(&[0i64]));
        let body = body.node("Unsqueeze", &["x", "axes"], "lifted");
        let body = body.node("Mul", &["x", "lifted"], "y");
        let large = (1i64 << 31) + 1;
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1);
        let case = case.input(tensor(&[2, 2], &[-3, 4, large, i64::MIN]));
        case.gives(tensor(&[2, 1, 2], &[9, 16, large.wrapping_mul(large), 0]));
    }

    #[test]
    fn products_of_equal_roots_are_nan_for_negative_numbers() {
        let body = graph(&[("x", F32)], &["y"]).constant("axes", &row(&[0i64]));
        let body = body.node("Sqrt", &["x"], "root").node("Sqrt", &["x"], "again");
        let body = body.node("Unsqueeze", &["again", "axes"], "lifted");
        let body = body.node("Mul", &["root", "lifted"], "y");
        let case = case("Scan").graph("body", body).int("num_scan_inputs", 1);
        let case = case.input(tensor(&[2, 2], &[4f32, -4.0, f32::NAN, 0.0]));
        case.gives(tensor(&[2, 1, 2], &[4f32, f32::NAN, f32::NAN, 0.0]));
    }
}
