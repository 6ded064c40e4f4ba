//! Concat (ONNX) of tensors whose other dimensions are equal.

use tract_onnx::tract_hir::internal::*;

use crate::framework::equal_sizes::{check_equal_sizes, shapes_of};
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::check_axis;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped("Concat", Wrapping::new(concat))];

fn concat(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    check_axis(op, None, model, inputs)?;
    let shapes = shapes_of(model, inputs)?;
    let axis = op.axis("axis", 1, shapes[0].len())?;
    // tract drops inputs without elements, whatever their size along the axis.
    for (at, dim) in shapes[0].iter().enumerate().filter(|(at, _)| *at != axis) {
        ensure!(dim.as_i64() != Some(0), "dimension {at} of input 0 is 0");
    }
    let mut pairs = Vec::new();
    for (at, other) in shapes.iter().enumerate().skip(1) {
        let same = shapes[0].len() == other.len();
        ensure!(same, "the inputs have different numbers of dimensions: {shapes:?}");
        let others = (0..other.len()).filter(|dim| *dim != axis);
        pairs.extend(others.map(|dim| [(0, dim), (at, dim)]));
    }
    let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
    op.wire_original(prefix, model, &inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, tensor};

    #[test]
    fn concat_takes_a_negative_axis_and_empty_inputs() {
        let concat = |axis| case("Concat").int("axis", axis).input(counting(&[2, 1]));
        let both = concat(-1).input(tensor::<f32>(&[2, 0], &[])).input(counting(&[2, 2]));
        both.gives(tensor(&[2, 3], &[0f32, 0.0, 1.0, 1.0, 2.0, 3.0]));
        concat(2).input(counting(&[2, 1])).fails("2");
        concat(1).input(counting(&[3, 1])).fails("3");
    }
}
