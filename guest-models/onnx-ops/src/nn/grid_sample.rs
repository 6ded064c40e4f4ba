//! GridSample (ONNX). tract computes it in float32.

use tract_onnx::tract_hir::internal::*;

use super::double_sample::DoubleSample;
use crate::framework::errors::ensure;
use crate::framework::native;
use crate::framework::operator::wire_operator;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("GridSample", Wrapping::new(grid_sample).check(check_rank))];

fn grid_sample(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    for input in inputs {
        if model.outlet_fact(*input)?.datum_type == f64::datum_type() {
            return wire_operator(DoubleSample::new(&op.node)?, &op.node, prefix, model, inputs);
        }
    }
    // tract looks up the neighbours of a point for each channel. The nearest element of a point
    // between two depends on how its place is rounded, so that stays as it is.
    let mode = op.node.get_attr_opt::<&str>("mode")?.unwrap_or("linear");
    let single = model.outlet_fact(inputs[0])?.datum_type == f32::datum_type();
    if native::enabled() && single && mode.ends_with("linear") {
        return wire_operator(DoubleSample::new(&op.node)?, &op.node, prefix, model, inputs);
    }
    op.wire_original(prefix, model, inputs)
}

/// Checks that cubic samples are those of images.
fn check_rank<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    let mode = op.node.get_attr_opt::<&str>("mode")?.unwrap_or_default();
    let cubic = mode.ends_with("cubic");
    s.given(&inputs[0].rank, move |_, rank| {
        ensure!(!cubic || rank == 4, "cubic mode needs 4 dimensions, found {rank}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, tensor};

    #[test]
    fn grid_sample_is_zero_outside_unless_padded_otherwise() {
        let sample = |padding| {
            let case = case("GridSample").text("padding_mode", padding).int("align_corners", 1);
            let case = case.input(tensor(&[1, 1, 1, 3], &[1f32, 2.0, 4.0]));
            case.input(tensor(&[1, 1, 3, 2], &[0f32, 0.0, 0.5, 0.0, 2.0, 0.0]))
        };
        let of = |numbers: [f32; 3]| tensor(&[1, 1, 1, 3], &numbers);
        sample("zeros").gives_within(of([2.0, 3.0, 0.0]), 1e-6);
        sample("border").gives_within(of([2.0, 3.0, 4.0]), 1e-6);
        sample("reflection").gives_within(of([2.0, 3.0, 2.0]), 1e-6);
    }
}
