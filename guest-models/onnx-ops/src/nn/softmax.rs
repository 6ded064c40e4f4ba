//! Softmax, LogSoftmax and Hardmax (ONNX).

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::is_positive;
use crate::framework::axes::resolve;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, like, required};
use crate::framework::numbers::{Number, by_number};
use crate::framework::operator::{Operator, built};
use crate::framework::registration::{Registration, own, wrapped};
use crate::framework::upstream::BuildResult;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("Softmax", Wrapping::new(softmax_1)).until(12),
    wrapped("Softmax", Wrapping::new(softmax_13)).since(13),
    wrapped("LogSoftmax", Wrapping::new(softmax_1)).until(12),
    wrapped("LogSoftmax", Wrapping::new(softmax_13)).since(13),
    own("Hardmax", |_, node| build_hardmax(node, 1, true)).until(12),
    own("Hardmax", |_, node| build_hardmax(node, -1, false)).since(13),
];

/// Up to version 12 all dimensions from the axis on are flattened.
fn softmax_1(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    let axis = op.axis("axis", 1, rank)?;
    softmax((axis..rank).collect(), op, prefix, model, inputs)
}

fn softmax_13(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let axis = op.axis("axis", -1, model.outlet_fact(inputs[0])?.rank())?;
    softmax(tvec!(axis), op, prefix, model, inputs)
}

fn softmax(
    axes: TVec<usize>,
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shape = &model.outlet_fact(inputs[0])?.shape;
    let not_empty = shape.iter().all(is_positive);
    let kind = match &*op.node.op_type {
        "LogSoftmax" => SoftmaxKind::LogSoftmax,
        _ => SoftmaxKind::Softmax,
    };
    let softmax = Softmax { axes, quant_output_dt: None, kind };
    match not_empty {
        // tract's own wiring. Before version 13 it keeps axis changes from the operators behind it.
        true if kind == SoftmaxKind::Softmax => op.wire_original(prefix, model, inputs),
        true => model.wire_node(prefix, softmax, inputs),
        false => model.wire_node(prefix, SoftmaxOfEmpty(softmax), inputs),
    }
}

/// A softmax that returns an empty tensor for an empty one, where tract panics.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SoftmaxOfEmpty(Softmax);

impl Op for SoftmaxOfEmpty {
    fn name(&self) -> StaticName {
        "SoftmaxOfEmpty".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SoftmaxOfEmpty {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        if inputs[0].volume() == 0 {
            return Ok(inputs);
        }
        self.0.eval(ctx, inputs)
    }
}

impl TypedOp for SoftmaxOfEmpty {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }

    as_op!();
}

/// One at the greatest element along the axis, of which NaN is the greatest, and zeros elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hardmax {
    axis: i64,
    /// Up to version 12 all dimensions from the axis on are flattened.
    flattens: bool,
}

fn build_hardmax(node: &NodeProto, default_axis: i64, flattens: bool) -> BuildResult {
    let axis = node.get_attr_opt("axis")?.unwrap_or(default_axis);
    built(Hardmax { axis, flattens }, node)
}

impl Hardmax {
    fn axis(&self, rank: usize) -> TractResult<usize> {
        ensure!(rank > 0, "the input has no dimensions, so it has no axis");
        resolve(self.axis, rank)
    }
}

/// Marks the first of the greatest elements of each line, of `long` elements `inner` apart.
fn mark<T: Number>(data: &Tensor, long: usize, inner: usize) -> TractResult<Tensor> {
    let values = data.try_as_plain_ram()?;
    let values = values.as_slice::<T>()?;
    let mut marks = vec![0i8; values.len()];
    for block in (0..values.len()).step_by(long * inner) {
        for start in block..block + inner {
            let mut greatest = start;
            for at in (start..start + long * inner).step_by(inner) {
                let (old, new) = (values[greatest], values[at]);
                if new > old || old.is_number() && !new.is_number() {
                    greatest = at;
                }
            }
            marks[greatest] = 1;
        }
    }
    let marks = Tensor::from_shape(data.shape(), &marks)?;
    Ok(marks.cast_to_dt(data.datum_type())?.into_owned())
}

impl Operator for Hardmax {
    fn name(&self) -> &'static str {
        "Hardmax"
    }

    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>> {
        let data = required(inputs, 0)?;
        self.axis(data.rank())?;
        ensure!(
            data.shape.iter().all(|dim| dim.as_i64() != Some(0)),
            "cannot find the maximum of a tensor with a zero dimension"
        );
        Ok(tvec!(like(data)))
    }

    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>> {
        let data = *required(inputs, 0)?;
        let shape = data.shape();
        let axis = self.axis(shape.len())?;
        ensure!(data.len() > 0, "cannot find the maximum of a tensor with a zero dimension");
        let behind = shape[axis + 1..].iter().product::<usize>();
        let (long, inner) =
            if self.flattens { (shape[axis] * behind, 1) } else { (shape[axis], behind) };
        Ok(tvec!(by_number!(mark(data.datum_type())(data, long, inner))?))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, tensor};

    #[test]
    fn softmax_of_large_numbers_does_not_overflow() {
        let (e, ones) = (1f32.exp(), [1f32 / 3.0; 3]);
        let rows = tensor(&[2, 2], &[1000f32, 1001.0, -2000.0, -2000.0]);
        let expected = tensor(&[2, 2], &[1.0 / (1.0 + e), e / (1.0 + e), 0.5, 0.5]);
        case("Softmax").input(rows).gives_near(expected, 1e-5);
        let column = tensor(&[3, 1], &[7f32; 3]);
        case("Softmax").int("axis", -2).input(column).gives_near(tensor(&[3, 1], &ones), 1e-6);
    }

    #[test]
    fn softmax_before_version_13_is_over_all_axes_from_axis_on() {
        let cube = tensor(&[1, 2, 2], &[0f32; 4]);
        let node = |name: &str, opset| case(name).opset(opset).input(cube.clone());
        let expected = |number: f32| tensor(&[1, 2, 2], &[number; 4]);
        node("Softmax", 12).gives_near(expected(0.25), 1e-6);
        node("Softmax", 13).gives_near(expected(0.5), 1e-6);
        node("LogSoftmax", 12).gives_near(expected(0.25f32.ln()), 1e-6);
        node("LogSoftmax", 13).gives_near(expected(0.5f32.ln()), 1e-6);
    }

    #[test]
    fn softmax_refuses_an_axis_outside_of_the_tensor() {
        case("Softmax").int("axis", 2).input(tensor(&[1, 2], &[0f32; 2])).fails("2");
        case("Softmax").int("axis", -3).input(tensor(&[1, 2], &[0f32; 2])).fails("-3");
    }

    #[test]
    fn log_softmax_of_a_small_part_is_finite() {
        let numbers = tensor(&[1, 2], &[0f32, -200.0]);
        case("LogSoftmax").input(numbers.clone()).gives_within(numbers, 0.0);
    }

    #[test]
    fn log_softmax_takes_a_negative_axis() {
        let numbers = tensor(&[2, 2], &[0f32, 1.0, 0.0, 1.0]);
        let half = -(2f32.ln());
        let case = case("LogSoftmax").int("axis", -2).input(numbers);
        case.gives_near(tensor(&[2, 2], &[half; 4]), 1e-6);
    }

    #[test]
    fn hardmax_takes_the_first_of_equals() {
        let data = || tensor(&[2, 2], &[3f32, 3.0, -2.0, -1.0]);
        case("Hardmax").input(data()).gives(tensor(&[2, 2], &[1f32, 0.0, 0.0, 1.0]));
        let columns = case("Hardmax").int("axis", 0).input(data());
        columns.gives(tensor(&[2, 2], &[1f32, 1.0, 0.0, 0.0]));
        let cube = |opset| {
            let case = case("Hardmax").opset(opset);
            case.input(tensor(&[1, 2, 2], &[3f32, 3.0, 5.0, -1.0]))
        };
        cube(12).gives(tensor(&[1, 2, 2], &[0f32, 0.0, 1.0, 0.0]));
        cube(13).gives(tensor(&[1, 2, 2], &[1f32, 0.0, 1.0, 0.0]));
        case("Hardmax").int("axis", 3).input(data()).fails("3");
    }

    #[test]
    fn hardmax_treats_nan_as_the_greatest() {
        let node = case("Hardmax").input(tensor(&[1, 3], &[0f32, f32::NAN, 1.0]));
        node.gives(tensor(&[1, 3], &[0f32, 1.0, 0.0]));
    }
}
