//! LeakyRelu, Round, IsNaN and IsInf (ONNX), which tract computes in float32 only.

use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[
    wrapped("LeakyRelu", Wrapping::new(leaky_relu)),
    wrapped("Round", Wrapping::new(round)),
    wrapped("IsNaN", Wrapping::new(is_nan).rules(truths)),
    wrapped("IsInf", Wrapping::new(is_inf).rules(truths)),
];

/// A function of each element of a tensor of float64.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    LeakyRelu { alpha: f32 },
    Round,
    IsNaN,
    IsInf { negative: bool, positive: bool },
}

impl Eq for Step {}

impl Step {
    fn truth(self, x: f64) -> bool {
        match self {
            Step::IsInf { negative, positive } => {
                x.is_infinite() && if x < 0.0 { negative } else { positive }
            }
            _ => x.is_nan(),
        }
    }
}

impl ElementWiseMiniOp for Step {
    fn name(&self) -> String {
        match self {
            Step::LeakyRelu { .. } => "LeakyRelu",
            Step::Round => "Round",
            Step::IsNaN => "IsNaN",
            Step::IsInf { .. } => "IsInf",
        }
        .into()
    }

    fn output_type(&self, _: DatumType) -> Option<DatumType> {
        matches!(self, Step::IsNaN | Step::IsInf { .. }).then(bool::datum_type)
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let mut plain = tensor.try_as_plain_ram_mut()?;
        let values = plain.as_slice_mut::<f64>()?.iter_mut();
        match self {
            Step::LeakyRelu { alpha } => {
                let alpha = f64::from(*alpha);
                values.filter(|x| **x < 0.0).for_each(|x| *x *= alpha);
            }
            _ => values.for_each(|x| *x = x.round_ties_even()),
        }
        Ok(())
    }

    fn eval_out_of_place(&self, tensor: &Tensor, _: Option<DatumType>) -> TractResult<Tensor> {
        let plain = tensor.try_as_plain_ram()?;
        let truths: Vec<bool> = plain.as_slice::<f64>()?.iter().map(|x| self.truth(*x)).collect();
        Tensor::from_shape(tensor.shape(), &truths)
    }
}

/// tract's rules know only the element types that it computes.
fn truths<'r>(
    _: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_input_arity(inputs, 1)?;
    check_output_arity(outputs, 1)?;
    s.equals(&outputs[0].datum_type, bool::datum_type())?;
    s.equals(&outputs[0].shape, &inputs[0].shape)
}

/// tract's own operator, or this step of float64.
fn wire(
    op: &Wrapped,
    step: Step,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    if model.outlet_fact(inputs[0])?.datum_type != f64::datum_type() {
        return op.wire_original(prefix, model, inputs);
    }
    model.wire_node(prefix, ElementWiseOp(Box::new(step), None), inputs)
}

fn leaky_relu(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let alpha = op.float("alpha", 0.01)?;
    wire(op, Step::LeakyRelu { alpha }, prefix, model, inputs)
}

fn round(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire(op, Step::Round, prefix, model, inputs)
}

fn is_nan(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire(op, Step::IsNaN, prefix, model, inputs)
}

fn is_inf(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let negative = op.int("detect_negative", 1)? != 0;
    let positive = op.int("detect_positive", 1)? != 0;
    wire(op, Step::IsInf { negative, positive }, prefix, model, inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row};

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    #[test]
    fn leaky_relu_and_round_of_float64_keep_its_digits() {
        let numbers = || row(&[-2.0, -0.0, 1e300, NAN]);
        let steep = case("LeakyRelu").float("alpha", 0.25).input(numbers());
        steep.gives(row(&[-0.5, -0.0, 1e300, NAN]));
        let default = f64::from(0.01f32);
        case("LeakyRelu").input(row(&[-3f64])).gives(row(&[-3.0 * default]));
        let numbers = row(&[2.5, 3.5, -0.5, 4_503_599_627_370_497.0, NAN, -INF]);
        case("Round").input(numbers).gives(row(&[
            2.0,
            4.0,
            -0.0,
            4_503_599_627_370_497.0,
            NAN,
            -INF,
        ]));
    }

    #[test]
    fn is_nan_and_is_inf_of_float64_tell_large_numbers_apart() {
        // As float32, 1e300 would be infinite.
        let numbers = || row(&[NAN, INF, -INF, 1e300]);
        case("IsNaN").input(numbers()).gives(row(&[true, false, false, false]));
        case("IsInf").input(numbers()).gives(row(&[false, true, true, false]));
        let positive = case("IsInf").int("detect_negative", 0).input(numbers());
        positive.gives(row(&[false, true, false, false]));
        let negative = case("IsInf").int("detect_positive", 0).input(numbers());
        negative.gives(row(&[false, false, true, false]));
    }
}
