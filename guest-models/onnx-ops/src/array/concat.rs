//! Concat (ONNX) of tensors whose other dimensions are equal.

use tract_onnx::tract_hir::internal::*;

use crate::framework::equal_sizes::{check_equal_sizes, shapes_of};
use crate::framework::errors::{OrUserError, ensure};
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
    let mut pairs = Vec::new();
    for (at, other) in shapes.iter().enumerate().skip(1) {
        let same = shapes[0].len() == other.len();
        ensure!(same, "the inputs have different numbers of dimensions: {shapes:?}");
        let others = (0..other.len()).filter(|dim| *dim != axis);
        pairs.extend(others.map(|dim| [(0, dim), (at, dim)]));
    }
    let inputs = check_equal_sizes(pairs, prefix, model, inputs)?;
    // tract drops inputs without elements, whatever their size along the axis.
    let is_empty = |dim: usize| shapes.iter().any(|shape| shape[dim].as_i64() == Some(0));
    if let Some(at) = (0..shapes[0].len()).find(|dim| *dim != axis && is_empty(*dim)) {
        let length = shapes.iter().fold(0.to_dim(), |sum, shape| sum + &shape[axis]);
        // The other dimensions are those of any input whose sizes are known.
        let of = |dim: usize| shapes.iter().find(|shape| shape[dim].as_i64().is_some());
        let each = (0..shapes[0].len()).map(|dim| of(dim).unwrap_or(&shapes[0])[dim].clone());
        let mut dims: TVec<TDim> = each.collect();
        dims[axis] = length;
        let known = dims.iter().map(|dim| dim.to_usize().ok()).collect::<Option<TVec<usize>>>();
        let known =
            known.or_user_error(format!("dimension {at} is 0, and another is not known"))?;
        let dtype = model.outlet_fact(inputs[0])?.datum_type;
        return Ok(tvec!(model.add_const(prefix, empty(dtype, &known)?)?));
    }
    op.wire_original(prefix, model, &inputs)
}

/// A tensor of this shape, which has no elements.
fn empty(dtype: DatumType, shape: &[usize]) -> TractResult<Tensor> {
    match dtype == String::datum_type() {
        true => tensor1(&[] as &[String]).into_shape(shape),
        false => Tensor::zero_dt(dtype, shape),
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::{Tensor, tensor1};

    use crate::testing::{case, counting, tensor};

    #[test]
    fn concat_of_tensors_without_elements_adds_up_their_sizes() {
        let three = |of: fn(&[usize]) -> Tensor| {
            let case = case("Concat").int("axis", 1).input(of(&[0, 2])).input(of(&[0, 1]));
            case.input(of(&[0, 3])).gives(of(&[0, 6]));
        };
        three(|shape| tensor::<f32>(shape, &[]));
        three(|shape| tensor::<bool>(shape, &[]));
        three(|shape| tensor1(&[] as &[String]).into_shape(shape).unwrap());
        let unequal = case("Concat").int("axis", 1).input(tensor::<f32>(&[0, 2], &[]));
        unequal.input(counting(&[1, 2])).fails("");
    }

    #[test]
    fn concat_adds_up_sizes_along_an_axis_without_elements() {
        for axis in [1, 2] {
            let sizes = if axis == 1 { [2, 3, 0] } else { [2, 0, 3] };
            let case = case("Concat").int("axis", axis).input(tensor::<f32>(&sizes, &[]));
            let case = case.input(tensor::<f32>(&sizes, &[])).first_at_run_time();
            let mut expected = sizes;
            expected[axis as usize] *= 2;
            case.gives(tensor::<f32>(&expected, &[]));
        }
    }

    #[test]
    fn concat_takes_a_negative_axis_and_empty_inputs() {
        let concat = |axis| case("Concat").int("axis", axis).input(counting(&[2, 1]));
        let both = concat(-1).input(tensor::<f32>(&[2, 0], &[])).input(counting(&[2, 2]));
        both.gives(tensor(&[2, 3], &[0f32, 0.0, 1.0, 1.0, 2.0, 3.0]));
        concat(2).input(counting(&[2, 1])).fails("2");
        concat(1).input(counting(&[3, 1])).fails("3");
    }
}
