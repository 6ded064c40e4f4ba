//! Reshape and Flatten (ONNX).

use tract_onnx::tract_hir::internal::*;

use crate::framework::axes::resolve;
use crate::framework::checks::SIZES;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::wire_with_bounds;
use crate::framework::wrapped::{AxisSpace, Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("Reshape", RESHAPE), wrapped("Flatten", FLATTEN)];

const RESHAPE: Wrapping =
    Wrapping::new(reshape).constant_from(1).deferred_rank(|_, _, sizes| Ok(Some(sizes)));

const FLATTEN: Wrapping = Wrapping::new(flatten).axes_of(AxisSpace::InputAndEnd);

fn reshape(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    wire_with_bounds(op, prefix, model, inputs, 1, SIZES)
}

fn flatten(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let rank = model.outlet_fact(inputs[0])?.rank();
    if let Some(axis) = op.node.get_attr_opt::<i64>("axis")? {
        // Flattening at the end gives one column.
        if axis != rank as i64 {
            resolve(axis, rank)?;
        }
    }
    op.wire_original(prefix, model, inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, scalar, tensor};

    #[test]
    fn reshape_copies_zeros_and_infers_one_dimension() {
        let reshape = |shape: &[i64]| case("Reshape").input(counting(&[2, 3])).input(row(shape));
        reshape(&[0, -1, 1]).gives(counting(&[2, 3, 1]));
        reshape(&[-1]).gives(counting(&[6]));
        reshape(&[4, -1]).fails("");
        reshape(&[7]).fails("");
        reshape(&[-1, -1]).fails("");
        reshape(&[6, -2]).fails("");
        reshape(&[2, 3, 1 << 32]).fails("");
    }

    #[test]
    fn reshape_with_allowzero_keeps_zeros() {
        let none = || tensor::<f32>(&[0, 3], &[]);
        let reshape = case("Reshape").int("allowzero", 1).input(none()).input(row(&[3i64, 0]));
        reshape.gives(tensor::<f32>(&[3, 0], &[]));
        case("Reshape").int("allowzero", 1).input(counting(&[2])).input(row(&[0i64])).fails("0");
    }

    #[test]
    fn flatten_may_have_a_row_or_a_column() {
        let flatten = |axis| case("Flatten").int("axis", axis).input(counting(&[2, 3, 2]));
        flatten(0).gives(counting(&[1, 12]));
        flatten(3).gives(counting(&[12, 1]));
        flatten(-1).gives(counting(&[6, 2]));
        case("Flatten").input(counting(&[2, 3, 2])).gives(counting(&[2, 6]));
        case("Flatten").int("axis", 0).input(scalar(7f32)).gives(tensor(&[1, 1], &[7f32]));
        flatten(4).fails("4");
    }
}
