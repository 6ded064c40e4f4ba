//! Splits long sums of products, such as matrix products, into blocks whose sums are added
//! pairwise. A sequential float sum stops growing once another term is less than half a unit in its
//! last place.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::TypedNode;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::add;

use crate::math::reduce::{Reduction, ReductionKind};

/// Maximum length of a sum that is left to a kernel, which may add sequentially.
const MAX_IN_ORDER: usize = 1 << 16;

/// The block length of longer sums.
const BLOCK: usize = 1 << 12;

/// An axis that is summed over.
struct Summed {
    letter: char,
    /// Its position in each input that has it.
    positions: TVec<Option<usize>>,
    size: usize,
}

/// Splits the longest summed axis of a node, if the whole sum is too long.
pub(crate) fn split(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<EinSum>() else { return Ok(None) };
    if op.q_params.is_some() || !op.operating_dt.is_float() {
        return Ok(None);
    }
    let summed = summed(op, model, node)?;
    let total = summed.iter().fold(1usize, |total, axis| total.saturating_mul(axis.size));
    let Some(axis) = summed.into_iter().max_by_key(|axis| axis.size) else { return Ok(None) };
    if total <= MAX_IN_ORDER || axis.size < 2 {
        return Ok(None);
    }
    let block = (BLOCK / (total / axis.size)).clamp(1, axis.size);
    let whole = axis.size / block * block;
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &node.inputs)?;
    let name = &node.name;
    let blocks =
        part(op, &axis, (0, whole, block), &format!("{name}.blocks"), &mut patch, &inputs)?;
    let mut result = blocks;
    if whole < axis.size {
        let rest = (whole, axis.size, axis.size - whole);
        let rest = part(op, &axis, rest, &format!("{name}.rest"), &mut patch, &inputs)?;
        result = patch.wire_node(name, add(), &[blocks, rest])?[0];
    }
    patch.shunt_outside(model, node.id.into(), result)?;
    Ok(Some(patch))
}

/// The axes that a node sums over.
fn summed(op: &EinSum, model: &TypedModel, node: &TypedNode) -> TractResult<Vec<Summed>> {
    let mut found = Vec::new();
    for axis in op.axes.iter_all_axes().filter(|axis| axis.outputs[0].is_empty()) {
        let mut sizes = Vec::new();
        for (input, positions) in node.inputs.iter().zip(&axis.inputs) {
            let shape = &model.outlet_fact(*input)?.shape;
            sizes.extend(positions.iter().map(|place| shape[*place].as_i64().unwrap_or(0)));
        }
        let once = axis.inputs.iter().all(|positions| positions.len() <= 1);
        let (Some(size), true) = (sizes.first().copied(), once) else { continue };
        if size > 0 && sizes.iter().all(|other| *other == size) {
            let positions =
                axis.inputs.iter().map(|positions| positions.first().copied()).collect();
            found.push(Summed { letter: axis.repr, positions, size: size as usize });
        }
    }
    Ok(found)
}

/// The sums over a part of an axis, from `start` to `end` in blocks.
fn part(
    op: &EinSum,
    axis: &Summed,
    (start, end, block): (usize, usize, usize),
    prefix: &str,
    patch: &mut TypedModelPatch,
    inputs: &[OutletId],
) -> TractResult<OutletId> {
    let mut read = tvec!();
    for (at, (input, place)) in inputs.iter().zip(&axis.positions).enumerate() {
        let mut wire = *input;
        if let Some(place) = *place {
            let slice = Slice::new(place, start, end);
            wire = patch.wire_node(format!("{prefix}.{at}.slice"), slice, &[wire])?[0];
            let from = tvec!((end - start).to_dim());
            let to = tvec!(((end - start) / block).to_dim(), block.to_dim());
            let split = AxisOp::Reshape(place, from, to);
            wire = patch.wire_node(format!("{prefix}.{at}.split"), split, &[wire])?[0];
        }
        read.push(wire);
    }
    // The blocks become the first axis of the result.
    let formula = op.axes.to_string();
    let Some(blocks) = ('A'..='Z').chain('a'..='z').find(|letter| !formula.contains(*letter))
    else {
        bail!("a product has too many axes")
    };
    let formula = formula.replace(axis.letter, &format!("{blocks}{}", axis.letter));
    let formula = formula.replace("->", &format!("->{blocks}"));
    let op = EinSum { axes: formula.parse()?, ..op.clone() };
    let product = patch.wire_node(format!("{prefix}.product"), op, &read)?[0];
    let sum = Reduction { axes: tvec!(0), kind: ReductionKind::Sum };
    let sum = patch.wire_node(format!("{prefix}.sum"), sum, &[product])?[0];
    Ok(patch.wire_node(prefix, AxisOp::Rm(0), &[sum])?[0])
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Tensor;

    use crate::testing::{case, row, scalar, tensor};

    /// So many ones that a sequential sum would stop at 2^24.
    const LONG: usize = (1 << 24) + 5000;

    fn ones(shape: &[usize]) -> Tensor {
        tensor(shape, &vec![1f32; shape.iter().product()])
    }

    #[test]
    fn long_product_of_vectors_does_not_stop_growing() {
        let product = case("MatMul").input(ones(&[LONG])).input(ones(&[LONG]));
        product.first_at_run_time().gives(scalar(LONG as f32));
    }

    #[test]
    fn long_products_keep_the_order_of_their_axes() {
        // Differs from block to block, and is not a multiple of the block length.
        let depth = (1 << 16) + 3;
        let a: Vec<f32> = (0..2 * depth).map(|at| (at % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..depth * 3).map(|at| (at % 5) as f32 - 2.0).collect();
        let at = |row: usize, column: usize| -> f32 {
            (0..depth).map(|k| f64::from(a[row * depth + k] * b[k * 3 + column])).sum::<f64>()
                as f32
        };
        let expected: Vec<f32> = (0..6).map(|index| at(index / 3, index % 3)).collect();
        let (left, right) = (tensor(&[2, depth], &a), tensor(&[depth, 3], &b));
        let expected = tensor(&[2, 3], &expected);
        let product = case("MatMul").input(left.clone()).input(right.clone());
        product.first_at_run_time().gives(expected.clone());
        let gemm = case("Gemm").input(left.clone()).input(right.clone()).input(row(&[0f32; 3]));
        gemm.first_at_run_time().gives(expected.clone());
        let sum = case("Einsum").text("equation", "ik,kj->ij").input(left).input(right);
        sum.first_at_run_time().gives(expected);
    }

    #[test]
    fn sums_over_several_axes_are_split_too() {
        let sum = case("Einsum").text("equation", "ijk,ijk->").first_at_run_time();
        let shape = [300, 300, 200];
        let expected = (300 * 300 * 200) as f32;
        sum.input(ones(&shape)).input(ones(&shape)).gives(scalar(expected));
    }
}
