//! Arithmetic up to operator set 6: the second operand has the shape of the first one, or is
//! broadcast from an axis on if the attribute `broadcast` is set. Newer versions are registered in
//! `arithmetic.rs` and in this folder's `mod.rs`.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::change_axes::{AxisOp, wire_with_rank_broadcast};
use tract_onnx::tract_core::ops::math::{add, mul, sub};
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::arithmetic;
use crate::elementwise::binary::{self, Div};
use crate::framework::errors::{OrUserError, bail, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::{self, BuildResult};

pub(crate) const OPERATORS: &[Registration] = &[
    own("Add", build).until(6),
    own("Sub", build).until(6),
    own("Mul", build).until(6),
    own("Div", build).until(6),
    own("Pow", build).until(6),
    own("PRelu", build_p_relu).until(6),
];

fn build(_: &ParsingContext, node: &NodeProto) -> BuildResult {
    let broadcast = node.get_attr_opt::<i64>("broadcast")?.unwrap_or(0) != 0;
    let axis = node.get_attr_opt::<usize>("axis")?;
    Ok((expand(Arithmetic { op: node.op_type.clone(), broadcast, axis }), vec![]))
}

#[derive(Clone, Debug)]
struct Arithmetic {
    op: String,
    broadcast: bool,
    /// The axis of the first operand at which the dimensions of the second one start.
    axis: Option<usize>,
}

/// Adds the dimensions that the second operand lacks, before the axis and after.
fn broadcast_second(
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
    broadcast: bool,
    axis: Option<usize>,
) -> TractResult<OutletId> {
    let first = model.outlet_fact(inputs[0])?.shape.to_tvec();
    let second = model.outlet_fact(inputs[1])?.shape.to_tvec();
    ensure!(
        broadcast || first == second,
        "the second operand has the shape {second:?}, expected {first:?}"
    );
    let one = second.iter().all(|dim| dim.is_one());
    let fits = second.len() <= first.len();
    ensure!(fits, "the second operand's shape {second:?} has more dimensions than {first:?}");
    let start = match axis {
        // A single number is broadcast anywhere.
        Some(axis) if !one => axis,
        _ => first.len() - second.len(),
    };
    let behind = first.len().checked_sub(start).and_then(|rest| rest.checked_sub(second.len()));
    let behind = behind.or_user_error(format_args!(
        "the second operand's shape {second:?} does not match {first:?} from axis {start} on"
    ))?;
    let within = second.iter().zip(&first[start..]).all(|(b, a)| b.is_one() || a == b);
    ensure!(
        within,
        "the second operand's shape {second:?} does not match {first:?} from axis {start} on"
    );
    let mut wire = inputs[1];
    for (at, axis) in (0..start).map(|_| 0).chain((0..behind).map(|_| usize::MAX)).enumerate() {
        let axis = axis.min(model.outlet_fact(wire)?.rank());
        wire = model.wire_node(format!("{prefix}.axis-{at}"), AxisOp::Add(axis), &[wire])?[0];
    }
    Ok(wire)
}

impl Expansion for Arithmetic {
    fn name(&self) -> StaticName {
        format!("Old{}", self.op).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let second = broadcast_second(prefix, model, inputs, self.broadcast, self.axis)?;
        let operands = [inputs[0], second];
        match &*self.op {
            "Add" => wire_with_rank_broadcast(prefix, model, add(), &operands),
            "Sub" => wire_with_rank_broadcast(prefix, model, sub(), &operands),
            "Mul" => wire_with_rank_broadcast(prefix, model, mul(), &operands),
            "Div" => Ok(tvec!(binary::wire(prefix, model, Div, &operands)?)),
            "Pow" => arithmetic::power(prefix, model, &operands),
            other => bail!("{other} is not implemented this way"),
        }
    }
}

/// PRelu, whose slopes belonged to the channels: converted to the form of newer versions.
fn build_p_relu(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let (original, outer) = upstream::build(context, node)?;
    let Some(original) = original.as_op().downcast_ref::<Box<dyn Expansion>>().cloned() else {
        bail!("{} is not implemented this way", node.op_type)
    };
    Ok((expand(OldPRelu { original }), outer))
}

#[derive(Clone, Debug)]
struct OldPRelu {
    original: Box<dyn Expansion>,
}

impl Expansion for OldPRelu {
    fn name(&self) -> StaticName {
        self.original.as_ref().name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let rank = model.outlet_fact(inputs[0])?.rank();
        let slopes = model.outlet_fact(inputs[1])?.shape.to_tvec();
        ensure!(
            slopes.len() == 1 && rank >= 2,
            "the slope has the shape {slopes:?}, expected one value for each channel"
        );
        let place = format!("{prefix}.slopes");
        let slopes = broadcast_second(&place, model, inputs, true, Some(1))?;
        self.original.as_ref().wire(prefix, model, &[inputs[0], slopes])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, row, scalar, tensor};

    #[test]
    fn add_sub_and_mul_keep_64_bits() {
        let wide = (1i64 << 53) + 1;
        let (a, b) = (|| row(&[wide, -wide]), || scalar(2i64));
        case("Add").input(a()).input(b()).gives(row(&[wide + 2, 2 - wide]));
        case("Sub").input(a()).input(b()).gives(row(&[wide - 2, -wide - 2]));
        case("Mul").input(a()).input(b()).gives(row(&[2 * wide, -2 * wide]));
    }

    #[test]
    fn zero_times_infinity_is_nan() {
        let case = case("Mul").input(row(&[f32::INFINITY, f32::NAN, 2.0]));
        case.input(scalar(0f32)).gives(row(&[f32::NAN, f32::NAN, 0.0]));
    }

    #[test]
    fn add_refuses_shapes_that_cannot_be_broadcast() {
        case("Add").input(row(&[1f32, 2.0])).input(row(&[1f32, 2.0, 3.0])).fails("");
    }

    #[test]
    fn arithmetic_before_version_7_aligns_the_second_input_at_axis() {
        let data = || counting(&[2, 3, 2]);
        let channel = || row(&[1f32, 2.0, 4.0]);
        let old = |case: Case| {
            case.opset(6).int("broadcast", 1).int("axis", 1).input(data()).input(channel())
        };
        let of = |function: fn(f32, f32) -> f32| {
            let numbers: Vec<f32> =
                (0..12).map(|at| function(at as f32, [1.0, 2.0, 4.0][at / 2 % 3])).collect();
            tensor(&[2, 3, 2], &numbers)
        };
        old(case("Add")).gives(of(|a, b| a + b));
        old(case("Sub")).gives(of(|a, b| a - b));
        old(case("Mul")).gives(of(|a, b| a * b));
        old(case("Div")).gives(of(|a, b| a / b));
        old(case("Pow")).gives(of(f32::powf));
    }

    #[test]
    fn arithmetic_from_version_7_on_broadcasts_without_an_attribute() {
        let arithmetic = |name: &str, opset| {
            let case = case(name).opset(opset).input(tensor(&[1, 2], &[2f32, 3.0]));
            case.input(row(&[4f32, 2.0]))
        };
        let each = [
            ("Add", [6f32, 5.0]),
            ("Sub", [-2.0, 1.0]),
            ("Mul", [8.0, 6.0]),
            ("Div", [0.5, 1.5]),
            ("Pow", [16.0, 9.0]),
        ];
        for (name, expected) in each {
            arithmetic(name, 6).fails("second operand");
            arithmetic(name, 7).gives(tensor(&[1, 2], &expected));
        }
    }

    #[test]
    fn division_of_integers_is_towards_zero() {
        let (a, b) = (row(&[-7i64, 7, (1 << 60) + 1]), row(&[2i64, -2, 1]));
        case("Div").input(a).input(b).gives(row(&[-3i64, -3, (1 << 60) + 1]));
        case("Div").input(row(&[250u8])).input(row(&[3u8])).gives(row(&[83u8]));
        case("Div").input(row(&[1i32, 1])).input(row(&[1i32, 0])).fails("zero");
    }

    #[test]
    fn division_of_floats_is_rounded_once() {
        // 5 * (1 / 49) is another float32 than 5 / 49.
        let node = |a: &[f32], b: f32| case("Div").input(row(a)).input(scalar(b));
        node(&[5.0, 49.0], 49.0).gives(row(&[5f32 / 49.0, 1.0]));
        node(&[1.0, -1.0, 0.0], 0.0).gives(row(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]));
    }

    #[test]
    fn pow_has_the_type_of_the_base() {
        let integers = case("Pow").input(row(&[3i64, 2, -2])).input(row(&[39i64, 62, 3]));
        integers.gives(row(&[4_052_555_153_018_976_267i64, 1 << 62, -8]));
        case("Pow").input(row(&[4i32, 9])).input(scalar(0.5f32)).gives(row(&[2i32, 3]));
        let floats = case("Pow").input(row(&[0f32, -8.0, f32::NAN, 2.0]));
        floats.input(row(&[0i64, 3, 0, -1])).gives(row(&[1f32, -512.0, 1.0, 0.5]));
    }

    #[test]
    fn square_of_nan_is_nan() {
        let case = case("Pow").input(row(&[f32::NAN, -3.0])).input(scalar(2f32));
        case.gives(row(&[f32::NAN, 9.0]));
    }

    #[test]
    fn prelu_broadcasts_its_slopes_from_the_last_axis() {
        let data = || tensor(&[1, 2, 2], &[-1f32, 1.0, -2.0, f32::NAN]);
        let node = |slopes| case("PRelu").input(data()).input(slopes);
        let expected = |a, b| tensor(&[1, 2, 2], &[a, 1f32, b, f32::NAN]);
        node(row(&[0.5f32, 3.0])).gives(expected(-0.5, -1.0));
        node(tensor(&[2, 1], &[0.5f32, 3.0])).gives(expected(-0.5, -6.0));
        // Before version 7, the slopes are of the channels.
        node(row(&[0.5f32, 3.0])).opset(6).gives(expected(-0.5, -6.0));
        node(row(&[0.5f32, 3.0])).opset(7).gives(expected(-0.5, -1.0));
    }
}
