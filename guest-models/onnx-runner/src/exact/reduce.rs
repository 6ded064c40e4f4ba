//! Reductions that tract computes with 32 bits, without NaN, or with numbers that overflow.

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::math::{abs, add, exp, ln, sqrt, square, sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

use super::binary::{self, Div};
use super::guards::constant;
use super::numbers::{Number, by_number};
use super::{Ours, resolve};

/// What is made of many numbers.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Extreme {
    Max,
    Min,
    Sum,
    Product,
    /// The place of the greatest; the last one if there are several.
    ArgMax(bool),
    ArgMin(bool),
}

/// A reduction. The dimensions stay, with one element.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Fold {
    pub(crate) axes: TVec<usize>,
    pub(crate) what: Extreme,
}

impl Fold {
    fn of<T: Number>(&self, input: &Tensor) -> TractResult<Tensor> {
        let view = input.to_plain_array_view::<T>()?;
        let kept = (0..input.rank()).filter(|axis| !self.axes.contains(axis));
        let order: Vec<usize> = kept.chain(self.axes.iter().copied()).collect();
        let shape: TVec<usize> = (0..input.rank())
            .map(|axis| if self.axes.contains(&axis) { 1 } else { input.shape()[axis] })
            .collect();
        let width: usize = self.axes.iter().map(|axis| input.shape()[*axis]).product();
        let count: usize = shape.iter().product();
        let moved = view.permuted_axes(order);
        let moved = moved.as_standard_layout();
        let Some(elements) = moved.as_slice() else { bail!("a tensor that is not in order") };
        let row = |at: usize| &elements[at * width..(at + 1) * width];
        let rows = (0..count).map(row);
        Ok(match self.what {
            Extreme::Max => whole(rows, &shape, |row| fold(row, T::LEAST, T::greater))?,
            Extreme::Min => whole(rows, &shape, |row| fold(row, T::GREATEST, T::lesser))?,
            Extreme::Sum => whole(rows, &shape, |row| fold(row, T::default(), T::plus))?,
            Extreme::Product => {
                let one = tensor0(1u8).cast_to_scalar::<T>()?;
                whole(rows, &shape, |row| fold(row, one, T::times))?
            }
            Extreme::ArgMax(last) => {
                ensure!(width > 0 || count == 0, "the greatest of no numbers");
                whole(rows, &shape, |row| place(row, last, |a, b| a > b))?
            }
            Extreme::ArgMin(last) => {
                ensure!(width > 0 || count == 0, "the least of no numbers");
                whole(rows, &shape, |row| place(row, last, |a, b| a < b))?
            }
        })
    }
}

fn fold<T: Copy>(row: &[T], from: T, with: impl Fn(T, T) -> T) -> T {
    row.iter().fold(from, |result, value| with(result, *value))
}

/// The place of the best element: a NaN is better than all others, and the first one stays.
fn place<T: Number>(row: &[T], last: bool, better: impl Fn(T, T) -> bool) -> i64 {
    let mut found = 0;
    for (at, value) in row.iter().enumerate().skip(1) {
        let (best, value) = (row[found], *value);
        if !best.is_number() {
            break;
        }
        if !value.is_number() || better(value, best) || (last && value == best) {
            found = at;
        }
    }
    found as i64
}

fn whole<'e, T: 'e, R: Datum>(
    rows: impl Iterator<Item = &'e [T]>,
    shape: &[usize],
    function: impl Fn(&'e [T]) -> R,
) -> TractResult<Tensor> {
    let results: Vec<R> = rows.map(function).collect();
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, results)?.into_tensor())
}

impl Op for Fold {
    fn name(&self) -> StaticName {
        format!("{:?}", self.what).into()
    }

    op_as_typed_op!();
}

impl EvalOp for Fold {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        fn run<T: Number>(fold: &Fold, input: &Tensor) -> TractResult<Tensor> {
            fold.of::<T>(input)
        }
        let input = &inputs[0];
        if input.datum_type() == bool::datum_type() {
            // Truth is more than falsehood.
            let folded = self.of::<u8>(&*input.cast_to::<u8>()?)?;
            return Ok(tvec!(folded.cast_to::<bool>()?.into_owned().into_tvalue()));
        }
        Ok(tvec!(by_number!(run(input.datum_type())(self, input))?.into_tvalue()))
    }
}

impl TypedOp for Fold {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        for axis in &self.axes {
            shape[*axis] = 1.to_dim();
        }
        let dtype = match self.what {
            Extreme::ArgMax(_) | Extreme::ArgMin(_) => i64::datum_type(),
            _ => inputs[0].datum_type,
        };
        Ok(tvec!(dtype.fact(shape)))
    }

    as_op!();
}

pub(super) fn register(registry: &mut OnnxOpRegister) {
    for name in [
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "ReduceProd",
        "ReduceMean",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ] {
        registry.insert(name, |context, node| Ours::build_late(context, node, 1, reduce));
    }
    for name in ["ArgMax", "ArgMin"] {
        registry.insert(name, |context, node| Ours::build(context, node, arg));
    }
    registry.insert("MeanVarianceNormalization", |context, node| {
        Ours::build(context, node, normalized)
    });
    registry.insert("GlobalMaxPool", |context, node| {
        Ours::build(context, node, |_, prefix, model, inputs| {
            let axes = (2..model.outlet_fact(inputs[0])?.rank()).collect();
            model.wire_node(prefix, Fold { axes, what: Extreme::Max }, inputs)
        })
    });
    registry.insert("GlobalAveragePool", |context, node| {
        Ours::build(context, node, |_, prefix, model, inputs| {
            let axes = (2..model.outlet_fact(inputs[0])?.rank()).collect();
            Ok(tvec!(mean(prefix, model, inputs[0], axes)?))
        })
    });
}

/// The axes that a node reduces; none if it reduces nothing.
fn axes(ours: &Ours, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<TVec<usize>>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let said = match inputs.get(1) {
        Some(axes) => Some(constant(model, *axes, "the axes")?),
        None => ours.node.get_attr_opt_vec::<i64>("axes")?,
    };
    let said = said.filter(|axes| !axes.is_empty());
    let Some(said) = said else {
        let nothing = ours.int("noop_with_empty_axes", 0)? == 1;
        return Ok((!nothing).then(|| (0..rank).collect()));
    };
    let mut axes: TVec<usize> =
        said.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<_>>()?;
    axes.sort_unstable();
    ensure!(axes.windows(2).all(|pair| pair[0] != pair[1]), "an axis is there twice: {said:?}");
    Ok(Some(axes))
}

fn reduce(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let float = model.outlet_fact(inputs[0])?.datum_type.is_float();
    let Some(axes) = axes(ours, model, inputs)? else {
        // What is done to each number would be done all the same.
        let plain = ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceMean"];
        ensure!(plain.contains(&&*ours.node.op_type), "without axes this is not implemented");
        return Ok(tvec!(inputs[0]));
    };
    if axes.is_empty() {
        ensure!(
            ours.node.op_type.len() <= "ReduceMean".len()
                && ours.node.op_type != "ReduceL1"
                && ours.node.op_type != "ReduceL2",
            "of a number alone this is not implemented"
        );
        return Ok(tvec!(inputs[0]));
    }
    let fold = |what| Fold { axes: axes.clone(), what };
    let result = match &*ours.node.op_type {
        "ReduceMax" => model.wire_node(prefix, fold(Extreme::Max), &inputs[..1])?[0],
        "ReduceMin" => model.wire_node(prefix, fold(Extreme::Min), &inputs[..1])?[0],
        "ReduceProd" => model.wire_node(prefix, fold(Extreme::Product), &inputs[..1])?[0],
        "ReduceSum" if !float => model.wire_node(prefix, fold(Extreme::Sum), &inputs[..1])?[0],
        "ReduceSum" => sum(prefix, model, inputs[0], &axes)?,
        "ReduceMean" => mean(prefix, model, inputs[0], axes.clone())?,
        "ReduceLogSumExp" => log_sum_exp(prefix, model, inputs[0], &axes)?,
        // tract puts these together of others, with dimensions kept or not.
        _ if !may_be_empty(model, inputs[0], &axes)? => {
            return ours.original.as_ref().wire(prefix, model, inputs);
        }
        name => {
            ensure!(float, "{name} of integers, of which there may be none, is not implemented");
            of_sum(name, prefix, model, inputs[0], &axes)?
        }
    };
    Ok(tvec!(without(ours, prefix, model, result, &axes)?))
}

/// Takes dimensions out if a node says so.
fn without(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    mut wire: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    if ours.int("keepdims", 1)? == 0 {
        for axis in axes.iter().rev() {
            let name = format!("{prefix}.rm-{axis}");
            wire = model.wire_node(name, AxisOp::Rm(*axis), &[wire])?[0];
        }
    }
    Ok(wire)
}

/// Whether there may be nothing to sum up: tract divides by its size.
fn may_be_empty(model: &TypedModel, input: OutletId, axes: &[usize]) -> TractResult<bool> {
    let shape = &model.outlet_fact(input)?.shape;
    Ok(axes.iter().any(|axis| shape[*axis].as_i64().is_none_or(|dim| dim == 0)))
}

/// Reductions that are made of a sum.
fn of_sum(
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

fn sum(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    if may_be_empty(model, input, axes)? {
        return Ok(model.wire_node(
            prefix,
            Fold { axes: axes.into(), what: Extreme::Sum },
            &[input],
        )?[0]);
    }
    Ok(model.wire_node(prefix, Reduce::new(axes.into(), Reducer::Sum), &[input])?[0])
}

fn mean(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: TVec<usize>,
) -> TractResult<OutletId> {
    let shape = model.outlet_fact(input)?.shape.to_tvec();
    let count: i64 = axes
        .iter()
        .try_fold(1i64, |count, axis| {
            let dim = shape[*axis].to_i64().ok()?;
            count.checked_mul(dim)
        })
        .context("a mean over a dimension of unknown size is not implemented")?;
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

/// `(x − m) / (√v + 10⁻⁹)`, with the mean `m` and the variance `v`: the mean of the squares of what
/// differs from `m`. ONNX's function subtracts the squares of means from the means of squares, which
/// for numbers far from zero leaves little, or less than nothing.
fn normalized(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let x = inputs[0];
    let rank = model.outlet_fact(x)?.rank();
    let axes = ours.node.get_attr_opt_vec::<i64>("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    ensure!(!axes.is_empty(), "a mean over no axis is not implemented");
    ours.distinct(&axes, rank as i64)?;
    let mut axes =
        axes.iter().map(|axis| resolve(*axis, rank)).collect::<TractResult<TVec<_>>>()?;
    axes.sort_unstable();
    let name = |part: &str| format!("{prefix}.{part}");
    let middle = mean(&name("mean"), model, x, axes.clone())?;
    let apart = model.wire_node(name("apart"), sub(), &[x, middle])?;
    let squares = model.wire_node(name("squares"), square(), &apart)?[0];
    let variance = mean(&name("variance"), model, squares, axes)?;
    let deviation = model.wire_node(name("deviation"), sqrt(), &[variance])?[0];
    let least = super::scalar(model, name("least"), 1e-9, deviation)?;
    let divisor = model.wire_node(name("divisor"), add(), &[deviation, least])?[0];
    Ok(tvec!(binary::wire(prefix, model, Div, &[apart[0], divisor])?))
}

/// `m + ln(Σ exp(x − m))` with the greatest number `m`, or with 0 where that is infinite.
fn log_sum_exp(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    axes: &[usize],
) -> TractResult<OutletId> {
    let most = Fold { axes: axes.into(), what: Extreme::Max };
    let most = model.wire_node(format!("{prefix}.max"), most, &[input])?[0];
    // Beyond all numbers, the difference to it would be none.
    let mut bound =
        |name: &str, value| super::scalar(model, format!("{prefix}.{name}"), value, input);
    let dtype_most = 60000.0;
    let (low, high) = (bound("low", -dtype_most)?, bound("high", dtype_most)?);
    let most = binary::wire(&format!("{prefix}.above"), model, super::Max, &[most, low])?;
    let most = binary::wire(&format!("{prefix}.below"), model, super::Min, &[most, high])?;
    let less = model.wire_node(format!("{prefix}.less"), sub(), &[input, most])?[0];
    let power = model.wire_node(format!("{prefix}.exp"), exp(), &[less])?[0];
    let total = sum(&format!("{prefix}.sum"), model, power, axes)?;
    let log = model.wire_node(format!("{prefix}.ln"), ln(), &[total])?[0];
    Ok(model.wire_node(prefix, add(), &[log, most])?[0])
}

fn arg(
    ours: &Ours,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let axis = ours.axis("axis", 0, rank)?;
    let last = ours.int("select_last_index", 0)? == 1;
    let greatest = ours.node.op_type == "ArgMax";
    let what = if greatest { Extreme::ArgMax(last) } else { Extreme::ArgMin(last) };
    let place = model.wire_node(prefix, Fold { axes: tvec!(axis), what }, inputs)?[0];
    Ok(tvec!(without(ours, prefix, model, place, &[axis])?))
}
