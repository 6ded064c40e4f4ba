//! NonMaxSuppression (ONNX).

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::tensors::ints;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("NonMaxSuppression", Wrapping::new(non_max_suppression).rules(rules))];

/// tract's rules, but counts and thresholds may be scalars.
fn rules<'r>(
    _: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_output_arity(outputs, 1)?;
    s.equals(&outputs[0].rank, 2)?;
    s.equals(&outputs[0].shape[1], 3usize.to_dim())?;
    s.equals(&outputs[0].datum_type, i64::datum_type())?;
    s.equals(&inputs[0].rank, 3)?;
    s.equals(&inputs[0].shape[2], 4usize.to_dim())?;
    s.equals(&inputs[1].rank, 3)?;
    s.equals(&inputs[0].shape[0], &inputs[1].shape[0])?;
    s.equals(&inputs[0].shape[1], &inputs[1].shape[2])?;
    for one in &inputs[2..] {
        s.given(&one.shape, |_, shape| {
            let single = shape.len() <= 1 && shape.iter().all(|dim| dim.as_i64() == Some(1));
            ensure!(single, "expected one number, found a tensor of the shape {shape:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn non_max_suppression(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    // Without a maximum, or with 0, ONNX selects no boxes; tract selects all.
    let none = |model: &mut TypedModel| {
        let none = Tensor::zero::<i64>(&[0, 3])?;
        Ok(tvec!(model.add_const(prefix.to_string(), none)?))
    };
    let Some(at) = op.input(2) else { return none(model) };
    let most = model.outlet_fact(inputs[at])?.konst.clone();
    let most = most.as_deref().map(most_boxes).transpose()?;
    if most == Some(0) {
        return none(model);
    }
    // tract reads lists of one number.
    let mut inputs: TVec<OutletId> = inputs.into();
    for (place, input) in inputs.iter_mut().enumerate().skip(2) {
        if model.outlet_fact(*input)?.rank() == 0 {
            *input =
                model.wire_node(format!("{prefix}.list_{place}"), AxisOp::Add(0), &[*input])?[0];
        }
    }
    if most.is_some() {
        return op.wire_original(prefix, model, &inputs);
    }
    let most = inputs[at];
    inputs[at] = model.wire_node(format!("{prefix}.most"), AtLeastOne, &[most])?[0];
    let chosen = op.wire_original(&format!("{prefix}.chosen"), model, &inputs)?[0];
    model.wire_node(prefix, NoneIfZero, &[chosen, most])
}

/// The maximum number of boxes of a class. A negative one counts as 0.
fn most_boxes(tensor: &Tensor) -> TractResult<i64> {
    match *ints(tensor)? {
        [most] => Ok(most.max(0)),
        ref list => bail!("expected one max_output_boxes_per_class, found {}", list.len()),
    }
}

/// A number that is at least 1.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct AtLeastOne;

impl Op for AtLeastOne {
    fn name(&self) -> StaticName {
        "AtLeastOne".into()
    }

    op_as_typed_op!();
}

impl EvalOp for AtLeastOne {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let most = tensor1(&[most_boxes(&inputs[0])?.max(1)]);
        Ok(tvec!(most.into_shape(inputs[0].shape())?.into_tvalue()))
    }
}

impl TypedOp for AtLeastOne {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// Rows of boxes, or none if the maximum is 0.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct NoneIfZero;

impl Op for NoneIfZero {
    fn name(&self) -> StaticName {
        "NonMaxSuppression".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for NoneIfZero {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        if most_boxes(&inputs[1])? == 0 {
            return Ok(tvec!(Tensor::zero::<i64>(&[0, 3])?.into_tvalue()));
        }
        inputs.truncate(1);
        Ok(inputs)
    }
}

impl TypedOp for NoneIfZero {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, row, scalar, tensor};

    fn suppression(boxes: &[[f32; 4]], scores: &[f32]) -> Case {
        let boxes: Vec<f32> = boxes.iter().flatten().copied().collect();
        let case = case("NonMaxSuppression").input(tensor(&[1, scores.len(), 4], &boxes));
        case.input(tensor(&[1, 1, scores.len()], scores)).first_at_run_time()
    }

    #[test]
    fn non_max_suppression_takes_corners_in_either_order() {
        let boxes = [[0.0, 0.0, 1.0, 1.0], [1.0, 1.1, 0.0, 0.1], [0.0, 10.0, 1.0, 11.0]];
        let of = || suppression(&boxes, &[0.7, 0.8, 0.9]);
        let chosen = |places: &[i64]| {
            let rows: Vec<i64> = places.iter().flat_map(|place| [0, 0, *place]).collect();
            tensor(&[places.len(), 3], &rows)
        };
        of().input(row(&[3i64])).input(row(&[0.5f32])).gives(chosen(&[2, 1]));
        of().input(row(&[1i64])).input(row(&[0.5f32])).gives(chosen(&[2]));
        of().input(row(&[3i64]))
            .input(row(&[0.9f32]))
            .input(row(&[0.75f32]))
            .gives(chosen(&[2, 1]));
        of().input(row(&[3i64])).input(row(&[0.5f32])).input(row(&[0.95f32])).gives(chosen(&[]));
    }

    #[test]
    fn non_max_suppression_takes_scalars() {
        let of =
            suppression(&[[0.0, 0.0, 1.0, 1.0]], &[0.7]).input(scalar(3i64)).input(scalar(0.5f32));
        of.input(scalar(0f32)).gives(tensor(&[1, 3], &[0i64; 3]));
    }

    #[test]
    fn non_max_suppression_takes_centres_and_sizes() {
        let boxes = [[0.5, 0.5, 1.0, 1.0], [0.5, 0.6, 1.0, 1.0], [10.0, 0.5, 1.0, 1.0]];
        let of = suppression(&boxes, &[0.9, 0.8, 0.7]).int("center_point_box", 1);
        of.input(row(&[3i64])).input(row(&[0.5f32])).gives(tensor(&[2, 3], &[0i64, 0, 0, 0, 0, 2]));
    }

    #[test]
    fn no_boxes_are_chosen_without_a_maximum_or_with_zero() {
        let of = || suppression(&[[0.0, 0.0, 1.0, 1.0]], &[0.7]);
        let none = || tensor::<i64>(&[0, 3], &[]);
        of().gives(none());
        of().missing().input(scalar(0.5f32)).gives(none());
        of().input(scalar(0i64)).gives(none());
        of().input(row(&[0i64])).input(row(&[0.5f32])).gives(none());
        of().input(row(&[-1i64])).gives(none());
        of().input(row(&[1i64])).gives(tensor(&[1, 3], &[0i64; 3]));
    }
}
