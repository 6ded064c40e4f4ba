//! Conv (ONNX): tract computes it; its windows are checked here.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};
use crate::nn::window_spec::{check_lists, check_windows};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("Conv", Wrapping::new(conv).check(check_conv))];

fn conv(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    check_windows(op, false, model, inputs)?;
    op.wire_original(prefix, model, inputs)
}

fn check_conv<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    check_lists(op, s, &inputs[0])?;
    check_ranks(s, inputs)
}

/// Checks that images and weights have the same number of dimensions.
pub(crate) fn check_ranks<'r>(s: &mut Solver<'r>, inputs: &'r [TensorProxy]) -> InferenceResult {
    let Some(weights) = inputs.get(1) else { return Ok(()) };
    s.given_2(&inputs[0].rank, &weights.rank, |_, image, weights| {
        ensure!(
            image == weights,
            "weights of {weights} dimensions do not match an input of {image} dimensions"
        );
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn conv_has_groups_dilations_and_a_bias() {
        let groups = case("Conv").int("group", 2).input(counting(&[1, 2, 2]));
        let groups = groups.input(tensor(&[2, 1, 1], &[10f32, 100.0])).input(row(&[0.5f32, -1.0]));
        groups.gives(tensor(&[1, 2, 2], &[0.5f32, 10.5, 199.0, 299.0]));
        let dilated = case("Conv").ints("dilations", &[2]).ints("pads", &[0, 1]);
        let dilated = dilated.input(tensor(&[1, 1, 4], &[1f32, 2.0, 3.0, 4.0]));
        // The kernel is not flipped: the first weight belongs to the first pixel.
        dilated
            .input(tensor(&[1, 1, 2], &[1f32, 10.0]))
            .gives(tensor(&[1, 1, 3], &[31f32, 42.0, 3.0]));
    }

    #[test]
    fn auto_pad_puts_the_odd_element_at_the_named_end() {
        let same = |end| {
            let case = case("Conv").text("auto_pad", end).input(tensor(&[1, 1, 2], &[1f32, 2.0]));
            case.input(tensor(&[1, 1, 2], &[1f32, 10.0]))
        };
        same("SAME_UPPER").gives(tensor(&[1, 1, 2], &[21f32, 2.0]));
        same("SAME_LOWER").gives(tensor(&[1, 1, 2], &[10f32, 21.0]));
        case("Conv").input(counting(&[1, 3, 2])).input(counting(&[1, 2, 1])).fails("");
        case("Conv").input(counting(&[1, 1, 2])).input(counting(&[1, 1, 3])).fails("3");
    }

    #[test]
    fn conv_integer_pads_with_its_zero_point() {
        let node = || {
            let case = case("ConvInteger").ints("pads", &[1, 0]);
            case.input(tensor(&[1, 1, 3], &[10u8, 20, 250])).input(tensor(&[1, 1, 2], &[1u8, 200]))
        };
        node().gives(tensor(&[1, 1, 3], &[2000i32, 4010, 50_020]));
        // Centred pixels are 0, 0, 10, 240.
        node().input(scalar(10u8)).gives(tensor(&[1, 1, 3], &[0i32, 2000, 48_010]));
        node()
            .input(scalar(10u8))
            .input(scalar(200u8))
            .gives(tensor(&[1, 1, 3], &[0i32, 0, -1990]));
    }
}
