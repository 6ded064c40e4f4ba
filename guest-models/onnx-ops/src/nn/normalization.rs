//! LayerNormalization, RMSNormalization, GroupNormalization, LpNormalization, LRN and
//! MeanVarianceNormalization (ONNX).

use tract_onnx::tract_core::ops::math::{add, sqrt, square, sub};
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::binary::{self, Div};
use crate::framework::axes::resolve;
use crate::framework::checks::at_least;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::{check_axis, is_empty};
use crate::framework::wrapped::{Wrapped, Wrapping};
use crate::math::reduce::mean;
use crate::nn::double_normalization::{is_double, wire_double};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("GroupNormalization", Wrapping::new(original_or_double)),
    wrapped("LayerNormalization", NORMALIZATION),
    wrapped("LpNormalization", Wrapping::new(lp_normalization)),
    wrapped("LRN", LRN),
    wrapped("MeanVarianceNormalization", Wrapping::new(mean_variance_normalization)),
    wrapped("RMSNormalization", NORMALIZATION),
];

const NORMALIZATION: Wrapping = Wrapping::new(along_axis)
    .check(|_, s, inputs| at_least(s, &inputs[0], 1, "expected a tensor with an axis"));

const LRN: Wrapping = Wrapping::new(original_or_double)
    .check(|_, s, inputs| at_least(s, &inputs[0], 3, "expected an image with batch and channels"));

fn along_axis(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    check_axis(op, None, model, inputs)?;
    let shape = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let axis = op.node.get_attr_opt::<i64>("axis")?.unwrap_or(-1);
    let normalized = &shape[resolve(axis, shape.len())?..];
    ensure!(
        normalized.iter().all(|dim| dim.as_i64() != Some(0)),
        "cannot compute the mean of a tensor with a zero dimension"
    );
    original_or_double(op, prefix, model, inputs)
}

/// tract's own wiring, or this crate's operator for float64.
fn original_or_double(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    if is_double(model, inputs[0])? {
        return wire_double(op, prefix, model, inputs);
    }
    op.wire_original(prefix, model, inputs)
}

fn lp_normalization(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    ensure!(
        !is_empty(model, inputs[0])?,
        "cannot compute the norm of a tensor with a zero dimension"
    );
    check_axis(op, None, model, inputs)?;
    op.wire_original(prefix, model, inputs)
}

/// `(x − m) / (√v + 10⁻⁹)`, with the mean `m` and the variance `v`, computed as the mean of the
/// squared differences from `m`. ONNX's function subtracts the squared mean from the mean of
/// squares, which loses precision far from zero and may be negative.
fn mean_variance_normalization(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let rank = model.outlet_fact(x)?.rank();
    let axes = op.node.get_attr_opt_vec::<i64>("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    ensure!(!axes.is_empty(), "a mean over no axes is not implemented");
    op.check_distinct(&axes, rank as i64)?;
    let mut axes =
        axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<TVec<_>>>()?;
    axes.sort_unstable();
    let name = |part: &str| format!("{prefix}.{part}");
    let middle = mean(&name("mean"), model, x, axes.clone())?;
    let apart = model.wire_node(name("apart"), sub(), &[x, middle])?;
    let squares = model.wire_node(name("squares"), square(), &apart)?[0];
    let variance = mean(&name("variance"), model, squares, axes)?;
    let deviation = model.wire_node(name("deviation"), sqrt(), &[variance])?[0];
    let epsilon = crate::framework::wiring::constant_like(model, name("least"), 1e-9, deviation)?;
    let divisor = model.wire_node(name("divisor"), add(), &[deviation, epsilon])?[0];
    Ok(tvec!(binary::wire(prefix, model, Div, &[apart[0], divisor])?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn mean_variance_normalization_is_over_all_but_the_channels() {
        let data = tensor(&[1, 2, 1, 2], &[1f32, 3.0, 10.0, 20.0]);
        let expected = tensor(&[1, 2, 1, 2], &[-1f32, 1.0, -1.0, 1.0]);
        case("MeanVarianceNormalization").input(data).gives_near(expected, 1e-6);
        let rows = tensor(&[2, 2], &[1f32, 3.0, 5.0, 5.0]);
        let case = case("MeanVarianceNormalization").ints("axes", &[-1]).input(rows);
        case.gives_near(tensor(&[2, 2], &[-1f32, 1.0, 0.0, 0.0]), 1e-6);
    }

    #[test]
    fn layer_normalization_gives_mean_and_inverse_deviation() {
        let norm = || {
            let case = case("LayerNormalization").float("epsilon", 0.0);
            case.input(tensor(&[2, 2], &[1f32, 3.0, 10.0, 30.0])).input(row(&[1f32, 2.0]))
        };
        norm().gives_near(tensor(&[2, 2], &[-1f32, 2.0, -1.0, 2.0]), 1e-6);
        let outputs = norm().input(row(&[0.5f32, 0.0])).outputs(3);
        let (mean, inverse) = (tensor(&[2, 1], &[2f32, 20.0]), tensor(&[2, 1], &[1f32, 0.1]));
        outputs.gives_all_near(&[tensor(&[2, 2], &[-0.5f32, 2.0, -0.5, 2.0]), mean, inverse], 1e-6);
        norm().int("axis", 2).fails("2");
    }

    #[test]
    fn layer_normalization_refuses_an_empty_mean_and_keeps_empty_batches() {
        let of = |dims: &[usize]| {
            case("LayerNormalization").input(tensor::<f32>(dims, &[])).input(row(&[1f32, 2.0]))
        };
        of(&[0, 2]).gives(tensor::<f32>(&[0, 2], &[]));
        let empty = case("LayerNormalization").input(tensor::<f32>(&[2, 0], &[]));
        empty.input(row::<f32>(&[])).fails("zero dimension");
    }

    #[test]
    fn lp_normalization_divides_by_the_norm_along_an_axis() {
        let norm = || case("LpNormalization").input(tensor(&[2, 2], &[3f32, -4.0, 0.0, 5.0]));
        norm().gives_near(tensor(&[2, 2], &[0.6f32, -0.8, 0.0, 1.0]), 1e-6);
        let column = norm().int("axis", 0).int("p", 1);
        column.gives_near(tensor(&[2, 2], &[1f32, -4.0 / 9.0, 0.0, 5.0 / 9.0]), 1e-6);
    }

    #[test]
    fn lrn_sums_squares_of_channels_around_each() {
        let node = case("LRN").int("size", 3).float("alpha", 3.0).float("beta", 0.5);
        let node = node.float("bias", 2.0).input(tensor(&[1, 3, 1], &[1f32, 2.0, -3.0]));
        // The sums are 5, 14 and 13, to which 2 is added.
        let expected: Vec<f32> = [1.0, 2.0, -3.0]
            .iter()
            .zip([7f64, 16.0, 15.0])
            .map(|(x, sum): (&f64, f64)| (x / sum.sqrt()) as f32)
            .collect();
        node.gives_near(tensor(&[1, 3, 1], &expected), 1e-6);
        case("LRN").int("size", 3).input(row(&[1f32])).fails("1");
    }

    #[test]
    fn normalizations_along_an_axis_refuse_a_tensor_without_dimensions() {
        case("LayerNormalization").input(scalar(1f32)).input(row(&[1f32])).fails("0");
        case("RMSNormalization").input(scalar(1f32)).input(row(&[1f32])).fails("0");
    }
}
