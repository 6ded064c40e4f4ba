//! ArgMax, ArgMin and the operators whose names start with Reduce (ONNX). tract computes them in 32
//! bits, without NaN, or with intermediate overflow.

mod integers;
mod reduction;
mod sums;

use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::math::{abs, ln, square};
use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::errors::{bail, ensure};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::constant_ints;
use crate::framework::wrapped::{Wrapped, Wrapping};

use self::integers::IntegerReduction;
pub use self::reduction::{Reduction, ReductionKind};
pub(crate) use self::sums::mean;
use self::sums::{late_mean, log_sum_exp, may_be_empty, mean_count, reduce_by_sum, sum};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("ReduceMax", REDUCE),
    wrapped("ReduceMin", REDUCE),
    wrapped("ReduceSum", REDUCE),
    wrapped("ReduceProd", REDUCE),
    wrapped("ReduceMean", REDUCE),
    wrapped("ReduceL1", REDUCE),
    wrapped("ReduceL2", REDUCE),
    wrapped("ReduceLogSum", REDUCE),
    wrapped("ReduceLogSumExp", REDUCE),
    wrapped("ReduceSumSquare", REDUCE),
    wrapped("ArgMax", Wrapping::new(arg_reduce)),
    wrapped("ArgMin", Wrapping::new(arg_reduce)),
];

const REDUCE: Wrapping =
    Wrapping::new(reduce).constant_from(1).axes_input().deferred_rank(reduced_rank);

/// The number of dimensions that are left.
fn reduced_rank(op: &Wrapped, rank: usize, axes: usize) -> TractResult<Option<usize>> {
    Ok(match op.int("keepdims", 1)? {
        0 if axes == 0 => None,
        0 => rank.checked_sub(axes),
        _ => Some(rank),
    })
}

/// The axes that a node reduces, or `None` if it reduces nothing.
fn axes(op: &Wrapped, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<TVec<usize>>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let listed = match inputs.get(1) {
        Some(axes) => Some(constant_ints(model, *axes, "the axes")?),
        None => op.node.get_attr_opt_vec::<i64>("axes")?,
    };
    let listed = listed.filter(|axes| !axes.is_empty());
    let Some(listed) = listed else {
        let nothing = op.int("noop_with_empty_axes", 0)? == 1;
        return Ok((!nothing).then(|| (0..rank).collect()));
    };
    let mut axes: TVec<usize> =
        listed.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?;
    axes.sort_unstable();
    ensure!(axes.windows(2).all(|pair| pair[0] != pair[1]), "duplicate axis in {listed:?}");
    Ok(Some(axes))
}

fn reduce(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let float = model.outlet_fact(inputs[0])?.datum_type.is_float();
    // With nothing to reduce the function is still applied to each element.
    let axes = axes(op, model, inputs)?.unwrap_or_default();
    if !float && let Some(reduction) = IntegerReduction::of(&op.node.op_type, &axes) {
        let result = model.wire_node(prefix, reduction, &inputs[..1])?[0];
        return Ok(tvec!(remove_axes(op, prefix, model, result, &axes)?));
    }
    if axes.is_empty() {
        return Ok(tvec!(of_each(&op.node.op_type, prefix, model, inputs[0])?));
    }
    let fold = |kind| Reduction { axes: axes.clone(), kind };
    let result = match &*op.node.op_type {
        "ReduceMax" => model.wire_node(prefix, fold(ReductionKind::Max), &inputs[..1])?[0],
        "ReduceMin" => model.wire_node(prefix, fold(ReductionKind::Min), &inputs[..1])?[0],
        "ReduceProd" => model.wire_node(prefix, fold(ReductionKind::Product), &inputs[..1])?[0],
        "ReduceSum" if !float => {
            model.wire_node(prefix, fold(ReductionKind::Sum), &inputs[..1])?[0]
        }
        "ReduceSum" => sum(prefix, model, inputs[0], &axes)?,
        "ReduceMean" => match mean_count(model, inputs[0], &axes)? {
            Some(_) => mean(prefix, model, inputs[0], axes.clone())?,
            None => late_mean(prefix, model, inputs[0], &axes)?,
        },
        "ReduceLogSumExp" => log_sum_exp(prefix, model, inputs[0], &axes)?,
        // tract composes these of other operators.
        _ if !may_be_empty(model, inputs[0], &axes)? => {
            return op.wire_original(prefix, model, inputs);
        }
        name => {
            ensure!(
                float,
                "{name} of integers over a dimension that may be empty is not implemented"
            );
            reduce_by_sum(name, prefix, model, inputs[0], &axes)?
        }
    };
    Ok(tvec!(remove_axes(op, prefix, model, result, &axes)?))
}

/// A reduction of each element by itself.
fn of_each(
    name: &str,
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
) -> TractResult<OutletId> {
    let float = model.outlet_fact(input)?.datum_type.is_float();
    let mut wire = |op| Ok(model.wire_node(prefix, op, &[input])?[0]);
    match name {
        "ReduceL1" => wire(abs()),
        "ReduceL2" if float => wire(abs()),
        "ReduceSumSquare" if float => wire(square()),
        "ReduceLogSum" if float => wire(ln()),
        "ReduceMax" | "ReduceMin" | "ReduceSum" | "ReduceProd" | "ReduceMean" => Ok(input),
        // The logarithm of an exponential.
        "ReduceLogSumExp" if float => Ok(input),
        _ => bail!("reducing nothing of integers is not implemented"),
    }
}

/// Removes the reduced dimensions unless `keepdims` is set.
fn remove_axes(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    mut wire: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    if op.int("keepdims", 1)? == 0 {
        for axis in axes.iter().rev() {
            let name = format!("{prefix}.rm-{axis}");
            wire = model.wire_node(name, AxisOp::Rm(*axis), &[wire])?[0];
        }
    }
    Ok(wire)
}

fn arg_reduce(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let axis = op.axis("axis", 0, rank)?;
    let last = op.int("select_last_index", 0)? == 1;
    let greatest = op.node.op_type == "ArgMax";
    let kind = if greatest { ReductionKind::ArgMax(last) } else { ReductionKind::ArgMin(last) };
    let place = model.wire_node(prefix, Reduction { axes: tvec!(axis), kind }, inputs)?[0];
    Ok(tvec!(remove_axes(op, prefix, model, place, &[axis])?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, scalar, tensor};

    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;

    #[test]
    fn reduce_max_and_min_of_nan_are_nan() {
        let data = || tensor(&[2, 2], &[1f32, NAN, -3.0, -INF]);
        let axes = || row(&[-1i64]);
        let max = case("ReduceMax").input(data()).input(axes());
        max.gives(tensor(&[2, 1], &[NAN, -3.0]));
        let min = case("ReduceMin").input(data()).input(axes());
        min.gives(tensor(&[2, 1], &[NAN, -INF]));
    }

    /// Adds an input without elements.
    fn of_none(case: Case) -> Case {
        case.input(tensor::<f32>(&[2, 0], &[])).input(row(&[1i64]))
    }

    #[test]
    fn reduce_max_and_min_of_no_elements_are_the_ends_of_the_type() {
        of_none(case("ReduceMax")).gives(tensor(&[2, 1], &[-INF; 2]));
        of_none(case("ReduceMin")).gives(tensor(&[2, 1], &[INF; 2]));
    }

    #[test]
    fn reduce_max_and_min_take_booleans_and_64_bit_integers() {
        let truths = || tensor(&[2, 2], &[true, false, false, false]);
        case("ReduceMax")
            .int("keepdims", 0)
            .input(truths())
            .input(row(&[1i64]))
            .gives(row(&[true, false]));
        case("ReduceMin").int("keepdims", 0).input(truths()).gives(scalar(false));
        let wide = || row(&[(1i64 << 53) + 1, 1 << 53]);
        case("ReduceMax").int("keepdims", 0).input(wide()).gives(scalar((1i64 << 53) + 1));
    }

    #[test]
    fn reduce_sum_and_prod_keep_64_bits() {
        let wide = (1i64 << 53) + 1;
        let data = || tensor(&[2, 2], &[wide, 1, 3, 4]);
        case("ReduceSum").input(data()).input(row(&[1i64])).gives(tensor(&[2, 1], &[wide + 1, 7]));
        let prod = case("ReduceProd").input(data()).input(row(&[0i64])).int("keepdims", 0);
        prod.gives(row(&[3 * wide, 4]));
    }

    #[test]
    fn reductions_of_no_elements_are_the_neutral_elements() {
        of_none(case("ReduceSum")).gives(tensor(&[2, 1], &[0f32; 2]));
        of_none(case("ReduceProd")).gives(tensor(&[2, 1], &[1f32; 2]));
        of_none(case("ReduceL1")).gives(tensor(&[2, 1], &[0f32; 2]));
        of_none(case("ReduceL2")).gives(tensor(&[2, 1], &[0f32; 2]));
        of_none(case("ReduceSumSquare")).gives(tensor(&[2, 1], &[0f32; 2]));
        of_none(case("ReduceLogSum")).gives(tensor(&[2, 1], &[-INF; 2]));
        of_none(case("ReduceLogSumExp")).gives(tensor(&[2, 1], &[-INF; 2]));
    }

    /// `[[1, -2, 4], [3, 2, -6]]`
    fn numbers(case: Case) -> Case {
        case.input(tensor(&[2, 3], &[1f32, -2.0, 4.0, 3.0, 2.0, -6.0]))
    }

    #[test]
    fn reduction_without_axes_is_over_all_axes_unless_noop_is_set() {
        numbers(case("ReduceSum")).gives(tensor(&[1, 1], &[2f32]));
        let none = || row::<i64>(&[]);
        numbers(case("ReduceSum")).input(none()).gives(tensor(&[1, 1], &[2f32]));
        let nothing = numbers(case("ReduceSum").int("noop_with_empty_axes", 1));
        nothing.input(none()).gives(tensor(&[2, 3], &[1f32, -2.0, 4.0, 3.0, 2.0, -6.0]));
    }

    #[test]
    fn reduction_of_nothing_applies_its_function_to_each_element() {
        let nothing = |name: &str| {
            let name = case(name).int("noop_with_empty_axes", 1);
            name.int("keepdims", 0).input(row(&[-3f32, 2.0, NAN, -0.0]))
        };
        for name in ["ReduceL1", "ReduceL2"] {
            let of = || nothing(name).input(row::<i64>(&[]));
            of().gives(row(&[3f32, 2.0, NAN, 0.0]));
            nothing(name).gives(row(&[3f32, 2.0, NAN, 0.0]));
        }
        nothing("ReduceSumSquare").gives(row(&[9f32, 4.0, NAN, 0.0]));
        nothing("ReduceLogSumExp").gives(row(&[-3f32, 2.0, NAN, -0.0]));
        nothing("ReduceLogSum").gives_near(row(&[NAN, 2f32.ln(), NAN, -INF]), 1e-6);
        case("ReduceL2").input(scalar(-3f32)).gives(scalar(3f32));
        case("ReduceLogSumExp").input(scalar(1000f32)).gives(scalar(1000f32));
        case("ReduceSumSquare").input(scalar(3f32)).gives(scalar(9f32));
    }

    #[test]
    fn axes_are_an_attribute_before_version_13_or_18() {
        let old = |case: Case| numbers(case.ints("axes", &[-1]).int("keepdims", 0));
        old(case("ReduceSum").opset(11)).gives(row(&[3f32, -1.0]));
        old(case("ReduceProd").opset(17)).gives(row(&[-8f32, -36.0]));
        old(case("ReduceMean").opset(17)).gives_near(row(&[1f32, -1.0 / 3.0]), 1e-6);
        old(case("ReduceMax").opset(13)).gives(row(&[4f32, 3.0]));
    }

    #[test]
    fn norms_and_logarithms_are_as_defined() {
        let both = |case: Case| numbers(case).input(row(&[1i64])).int("keepdims", 0);
        both(case("ReduceL1")).gives(row(&[7f32, 11.0]));
        both(case("ReduceL2")).gives_near(row(&[21f32.sqrt(), 7.0]), 1e-6);
        both(case("ReduceSumSquare")).gives(row(&[21f32, 49.0]));
        both(case("ReduceMean")).gives_near(row(&[1f32, -1.0 / 3.0]), 1e-6);
        both(case("ReduceLogSum")).gives_near(row(&[3f32.ln(), NAN]), 1e-6);
        let of = |row: [f64; 3]| row.iter().map(|x| x.exp()).sum::<f64>().ln() as f32;
        let sums = row(&[of([1.0, -2.0, 4.0]), of([3.0, 2.0, -6.0])]);
        both(case("ReduceLogSumExp")).gives_near(sums, 1e-6);
    }

    #[test]
    fn reductions_refuse_duplicate_and_out_of_range_axes() {
        numbers(case("ReduceSum")).input(row(&[2i64])).fails("2");
        numbers(case("ReduceMax")).input(row(&[-3i64])).fails("-3");
        numbers(case("ReduceL1")).input(row(&[0i64, -2])).fails("-2");
        numbers(case("ReduceMean").opset(13).ints("axes", &[7])).fails("7");
    }

    #[test]
    fn arg_max_and_arg_min_choose_among_ties() {
        let data = || tensor(&[2, 3], &[2f32, 5.0, 5.0, 1.0, 1.0, 4.0]);
        let last = |case: Case| case.int("axis", -1).int("keepdims", 0).input(data());
        last(case("ArgMax")).gives(row(&[1i64, 2]));
        last(case("ArgMin")).gives(row(&[0i64, 0]));
        last(case("ArgMax").int("select_last_index", 1)).gives(row(&[2i64, 2]));
        last(case("ArgMin").int("select_last_index", 1)).gives(row(&[0i64, 1]));
        case("ArgMax").input(data()).gives(tensor(&[1, 3], &[0i64, 0, 0]));
    }

    #[test]
    fn arg_max_and_arg_min_refuse_a_wrong_axis_and_no_elements() {
        case("ArgMax").int("axis", 2).input(counting(&[1, 2])).fails("2");
        case("ArgMin").int("axis", 1).input(counting(&[2, 0])).fails("");
    }
}
