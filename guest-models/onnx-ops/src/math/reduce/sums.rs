//! Sums, means, norms and logarithms of sums, wired from reductions and elementwise operators.

use tract_onnx::tract_core::ops::math::{abs, add, exp, ln, sqrt, square, sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::is_positive;

use super::reduction::{Reduction, ReductionKind};
use crate::elementwise::binary::{self, Div};

/// Whether a reduced dimension may be empty: tract divides by its size.
pub(super) fn may_be_empty(
    model: &TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<bool> {
    let shape = &model.outlet_fact(input)?.shape;
    Ok(axes.iter().any(|axis| !is_positive(&shape[*axis])))
}

pub(super) fn sum(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    if may_be_empty(model, input, axes)? {
        return Ok(model.wire_node(
            prefix,
            Reduction { axes: axes.into(), kind: ReductionKind::Sum },
            &[input],
        )?[0]);
    }
    Ok(model.wire_node(prefix, Reduce::new(axes.into(), Reducer::Sum), &[input])?[0])
}

/// Reductions that consist of a sum.
pub(super) fn reduce_by_sum(
    name: &str,
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    let each = match name {
        "ReduceL1" => Some(abs()),
        "ReduceL2" | "ReduceSumSquare" => Some(square()),
        _ => None,
    };
    let end = match name {
        "ReduceL2" => Some(sqrt()),
        "ReduceLogSum" => Some(ln()),
        _ => None,
    };
    let mut wire = input;
    if let Some(each) = each {
        wire = model.wire_node(format!("{prefix}.each"), each, &[wire])?[0];
    }
    wire = sum(&format!("{prefix}.sum"), model, wire, axes)?;
    match end {
        Some(end) => Ok(model.wire_node(prefix, end, &[wire])?[0]),
        None => Ok(wire),
    }
}

/// The number of elements along these axes, if it is known before the model runs.
pub(super) fn mean_count(
    model: &TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<Option<i64>> {
    let shape = &model.outlet_fact(input)?.shape;
    let mut dims = axes.iter().map(|axis| shape[*axis].to_i64().ok());
    Ok(dims.try_fold(1i64, |count, dim| count.checked_mul(dim?)))
}

/// The mean over these axes, which keep one element each.
pub(crate) fn mean(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: TVec<usize>,
) -> TractResult<OutletId> {
    let Some(count) = mean_count(model, input, &axes)? else {
        return late_mean(prefix, model, input, &axes);
    };
    if axes.is_empty() {
        return Ok(input);
    }
    let total = sum(&format!("{prefix}.sum"), model, input, &axes)?;
    let fact = model.outlet_fact(total)?;
    let (dtype, rank) = (fact.datum_type, fact.rank());
    let count = tensor0(count as f64).cast_to_dt(dtype)?.into_owned().broadcast_into_rank(rank)?;
    let count = model.add_const(format!("{prefix}.count"), count)?;
    binary::wire(prefix, model, Div, &[total, count])
}

/// The mean over axes whose sizes are only known when the model runs.
pub(super) fn late_mean(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    let total = sum(&format!("{prefix}.sum"), model, input, axes)?;
    let count = Reduction { axes: axes.into(), kind: ReductionKind::Count };
    let count = model.wire_node(format!("{prefix}.count"), count, &[input])?[0];
    binary::wire(prefix, model, Div, &[total, count])
}

/// `m + ln(Σ exp(x − m))` with the greatest number `m`, or with 0 where that is infinite.
pub(super) fn log_sum_exp(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    let max = Reduction { axes: axes.into(), kind: ReductionKind::Max };
    let max = model.wire_node(format!("{prefix}.max"), max, &[input])?[0];
    // The difference of two infinities would be NaN.
    let mut bound = |name: &str, value| {
        crate::framework::wiring::constant_like(model, format!("{prefix}.{name}"), value, input)
    };
    let dtype_most = 60000.0;
    let (low, high) = (bound("low", -dtype_most)?, bound("high", dtype_most)?);
    let max =
        binary::wire(&format!("{prefix}.above"), model, crate::elementwise::Max, &[max, low])?;
    let max =
        binary::wire(&format!("{prefix}.below"), model, crate::elementwise::Min, &[max, high])?;
    let shifted = model.wire_node(format!("{prefix}.less"), sub(), &[input, max])?[0];
    let power = model.wire_node(format!("{prefix}.exp"), exp(), &[shifted])?[0];
    let total = sum(&format!("{prefix}.sum"), model, power, axes)?;
    let log = model.wire_node(format!("{prefix}.ln"), ln(), &[total])?[0];
    Ok(model.wire_node(prefix, add(), &[log, max])?[0])
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row};

    const NAN: f32 = f32::NAN;

    #[test]
    fn log_sum_exp_of_large_numbers_does_not_overflow() {
        let node = |numbers: &[f32]| case("ReduceLogSumExp").input(row(numbers));
        node(&[1000.0, 1000.0]).gives_near(row(&[1000f32 + 2f32.ln()]), 1e-6);
        node(&[-1000.0, -2000.0]).gives(row(&[-1000f32]));
        node(&[NAN, 1.0]).gives(row(&[NAN]));
    }
}
