//! Activations that tract composes of other operators, losing a NaN or precision.

use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_hir::internal::*;

use crate::elementwise::binary::{Max, Min, wire};
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::constant_like;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("Relu", Wrapping::new(relu)),
    wrapped("Clip", Wrapping::new(clip_6)).until(10),
    wrapped("Clip", Wrapping::new(clip_11)).since(11),
    wrapped("HardSigmoid", Wrapping::new(hard_sigmoid)),
    wrapped("HardSwish", Wrapping::new(hard_swish)),
];

fn relu(
    _: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let zero = constant_like(model, format!("{prefix}.zero"), 0.0, inputs[0])?;
    Ok(tvec!(wire(prefix, model, Max, &[inputs[0], zero])?))
}

fn hard_swish(
    _: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let gate = bounded_line(prefix, model, inputs[0], 1.0 / 6.0, 0.5)?;
    model.wire_node(prefix, mul(), &[inputs[0], gate])
}

/// Clip with its bounds in attributes.
fn clip_6(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let bound = |name| op.node.get_attr_opt::<f32>(name);
    let (min, max) = (bound("min")?, bound("max")?);
    let mut constant = |name: &str, bound: Option<f32>| {
        bound.map(|b| constant_like(model, format!("{prefix}.{name}"), b, inputs[0])).transpose()
    };
    let bounds = [constant("lower", min)?, constant("upper", max)?];
    clip(prefix, model, inputs[0], bounds)
}

/// Clip with its bounds as inputs.
fn clip_11(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    clip(prefix, model, inputs[0], [1, 2].map(|input| op.input(input).map(|at| inputs[at])))
}

fn clip(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    [min, max]: [Option<OutletId>; 2],
) -> TractResult<TVec<OutletId>> {
    let mut result = input;
    for bound in [min, max].into_iter().flatten() {
        let one = model.outlet_fact(bound)?.shape.volume().is_one();
        ensure!(one, "min and max must be one number each");
    }
    if let Some(min) = min {
        result = wire(&format!("{prefix}.least"), model, Max, &[result, min])?;
    }
    if let Some(max) = max {
        result = wire(&format!("{prefix}.most"), model, Min, &[result, max])?;
    }
    Ok(tvec!(result))
}

/// `max(0, min(1, x · slope + shift))`
fn bounded_line(
    prefix: &str,
    model: &mut TypedModel,
    input: OutletId,
    slope: f32,
    shift: f32,
) -> TractResult<OutletId> {
    let mut constant =
        |name: &str, value| constant_like(model, format!("{prefix}.{name}"), value, input);
    let (slope, shift) = (constant("slope", slope)?, constant("shift", shift)?);
    let (zero, one) = (constant("zero", 0.0)?, constant("one", 1.0)?);
    let scaled = model.wire_node(format!("{prefix}.scaled"), mul(), &[input, slope])?[0];
    let line = model.wire_node(format!("{prefix}.line"), add(), &[scaled, shift])?[0];
    let below = wire(&format!("{prefix}.below"), model, Min, &[line, one])?;
    wire(&format!("{prefix}.above"), model, Max, &[below, zero])
}

fn hard_sigmoid(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let (slope, shift) = (op.float("alpha", 0.2)?, op.float("beta", 0.5)?);
    Ok(tvec!(bounded_line(prefix, model, inputs[0], slope, shift)?))
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar};

    const NAN: f32 = f32::NAN;

    #[test]
    fn relu_keeps_nan_and_takes_integers() {
        case("Relu").input(row(&[-1f32, NAN, 2.0])).gives(row(&[0f32, NAN, 2.0]));
        case("Relu").input(row(&[-5i64, 1 << 40])).gives(row(&[0i64, 1 << 40]));
    }

    #[test]
    fn clip_to_crossed_bounds_is_the_upper_bound() {
        let clip = || case("Clip").input(row(&[-9f32, NAN, 9.0]));
        clip().input(scalar(-1f32)).input(scalar(2f32)).gives(row(&[-1f32, NAN, 2.0]));
        clip().input(scalar(5f32)).input(scalar(2f32)).gives(row(&[2f32, NAN, 2.0]));
        clip().missing().input(scalar(2f32)).gives(row(&[-9f32, NAN, 2.0]));
        clip().input(scalar(-1f32)).gives(row(&[-1f32, NAN, 9.0]));
    }

    #[test]
    fn clip_of_old_versions_has_its_bounds_in_attributes() {
        for opset in [6, 10] {
            let clip = case("Clip").opset(opset).float("min", -1.0).float("max", 0.5);
            clip.input(row(&[-9f32, NAN, 0.25, 9.0])).gives(row(&[-1f32, NAN, 0.25, 0.5]));
        }
        let clip = case("Clip").opset(11).input(row(&[-9f32, 9.0])).input(scalar(-1f32));
        clip.gives(row(&[-1f32, 9.0]));
        case("Clip").opset(6).input(row(&[-9f32, 9.0])).gives(row(&[-9f32, 9.0]));
    }

    #[test]
    fn clip_of_integers_keeps_64_bits() {
        let clip = case("Clip").input(row(&[i64::MIN, 1 << 40, i64::MAX]));
        let (min, max) = (-(1i64 << 33), (1i64 << 53) + 1);
        clip.input(scalar(min)).input(scalar(max)).gives(row(&[min, 1 << 40, max]));
    }

    #[test]
    fn hard_sigmoid_has_the_specifications_default_attributes() {
        let numbers = row(&[-9f32, 1.0, 9.0, NAN]);
        case("HardSigmoid").input(numbers.clone()).gives_near(row(&[0f32, 0.7, 1.0, NAN]), 1e-6);
        let case = case("HardSigmoid").float("alpha", 0.5).float("beta", 0.25);
        case.input(numbers).gives_near(row(&[0f32, 0.75, 1.0, NAN]), 1e-6);
    }

    #[test]
    fn hard_swish_is_the_identity_from_three_on() {
        let numbers = row(&[-1f32, 0.0, 1.0, 4.0, NAN]);
        let expected = row(&[-1f32 / 3.0, 0.0, 2.0 / 3.0, 4.0, NAN]);
        case("HardSwish").input(numbers).gives_near(expected, 1e-6);
    }
}
