//! MatMul (ONNX), with sizes that are checked.

use tract_onnx::tract_hir::internal::*;

use super::integer_product::IntegerProduct;
use crate::framework::equal_sizes::check_equal_sizes;
use crate::framework::errors::ensure;
use crate::framework::operator::wire_operator;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("MatMul", Wrapping::new(matmul).check(check_ranks))];

/// Checks that both operands have dimensions.
fn check_ranks<'r>(
    _: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    for input in inputs.iter().take(2) {
        s.given(&input.rank, |_, rank| {
            ensure!(rank > 0, "matrix multiplication needs operands with at least one dimension");
            Ok(())
        })?;
    }
    Ok(())
}

/// tract's own wiring, with the last dimension of the first operand equal to the last but one of
/// the second.
fn product(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = |at: usize| Ok::<_, TractError>(model.outlet_fact(inputs[at])?.rank());
    let (a, b) = (rank(0)?, rank(1)?);
    ensure!(a > 0 && b > 0, "matrix multiplication needs operands with at least one dimension");
    let pairs = vec![[(0, a - 1), (1, b.saturating_sub(2))]];
    let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
    op.wire_original(prefix, model, &inputs)
}

/// A product that also takes two vectors.
fn matmul(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    if !model.outlet_fact(inputs[0])?.datum_type.is_float() {
        return wire_operator(IntegerProduct, &op.node, prefix, model, inputs);
    }
    let rank =
        |model: &TypedModel, at: usize| Ok::<_, TractError>(model.outlet_fact(inputs[at])?.rank());
    if rank(model, 0)? != 1 || rank(model, 1)? != 1 {
        return product(op, prefix, model, inputs);
    }
    let row = model.wire_node(format!("{prefix}.row"), AxisOp::Add(0), &inputs[..1])?[0];
    let column = model.wire_node(format!("{prefix}.column"), AxisOp::Add(1), &inputs[1..])?[0];
    let name = format!("{prefix}.product");
    let product = product(op, &name, model, &[row, column])?;
    let number = model.wire_node(format!("{prefix}.rows"), AxisOp::Rm(0), &product)?;
    model.wire_node(prefix, AxisOp::Rm(0), &number)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn matmul_takes_vectors_and_broadcasts_batches() {
        let batch = || tensor(&[2, 1, 2], &[1f32, 2.0, 3.0, 4.0]);
        case("MatMul")
            .input(batch())
            .input(row(&[10f32, 1.0]))
            .gives(tensor(&[2, 1], &[12f32, 34.0]));
        case("MatMul")
            .input(row(&[3f32]))
            .input(batch())
            .gives(tensor(&[2, 2], &[3f32, 6.0, 9.0, 12.0]));
        let columns = tensor(&[1, 2, 1], &[10f32, 1.0]);
        case("MatMul").input(batch()).input(columns).gives(tensor(&[2, 1, 1], &[12f32, 34.0]));
        case("MatMul").input(counting(&[2, 3])).input(counting(&[2, 3])).fails("");
    }

    #[test]
    fn matmul_over_no_elements_is_zero_and_nan_times_zero_is_nan() {
        let none = case("MatMul").input(tensor::<f32>(&[2, 0], &[]));
        none.input(tensor::<f32>(&[0, 1], &[])).gives(tensor(&[2, 1], &[0f32; 2]));
        let nan = case("MatMul").input(tensor(&[1, 2], &[0f32, 0.0]));
        nan.input(tensor(&[2, 1], &[f32::INFINITY, 1.0])).gives(tensor(&[1, 1], &[f32::NAN]));
    }

    #[test]
    fn matmul_of_integers_wraps_around_and_broadcasts_its_batches() {
        let wide = 1i64 << 62;
        let a = tensor(&[2, 1, 2], &[wide, 1, 3, -1]);
        let product = case("MatMul").input(a).input(tensor(&[2, 2], &[4i64, 1, 5, 7]));
        product.gives(tensor(&[2, 1, 2], &[5, wide + 7, 7, -4]));
        let vectors = case("MatMul").input(row(&[u32::MAX, 2])).input(row(&[2u32, 3]));
        vectors.gives(scalar(4u32));
        let column = case("MatMul").input(tensor(&[2, 2], &[1i32, 2, 3, 4]));
        column.input(row(&[10i32, 1])).gives(row(&[12i32, 34]));
        let none = case("MatMul").input(tensor::<i64>(&[2, 0], &[]));
        none.input(tensor::<i64>(&[0, 1], &[])).gives(tensor(&[2, 1], &[0i64; 2]));
        let wrong = case("MatMul").input(row(&[1i32, 2])).input(row(&[1i32, 2, 3]));
        wrong.fails("");
    }

    #[test]
    fn matmul_of_integers_keeps_open_dimensions() {
        let product = case("MatMul").input(tensor(&[2, 2], &[1i64, 2, 3, 4])).constants();
        let product = product.input(tensor(&[2, 1], &[10i64, 1]));
        product.gives_open(&[(0, 0, "n")], &["n,1"], &[tensor(&[2, 1], &[12i64, 34])], 0.0);
    }
}
