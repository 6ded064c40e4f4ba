//! Trilu (ONNX).

use tract_onnx::tract_core::ops::math::{max, min};
use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::at_least;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped("Trilu", TRILU)];

const TRILU: Wrapping =
    Wrapping::new(trilu).check(|_, s, inputs| at_least(s, &inputs[0], 2, "expected a matrix"));

/// `k` is clamped to this, because tract adds it to a row number without checking for overflow. No
/// tensor has as many rows or columns, so larger values have the same meaning.
const MAX_DIAGONAL: i64 = 1 << 40;

fn trilu(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    if let Some(k) = inputs.get_mut(1) {
        for (name, op, bound) in [("most", min(), MAX_DIAGONAL), ("least", max(), -MAX_DIAGONAL)] {
            let bound = model.add_const(format!("{prefix}.{name}"), tensor0(bound))?;
            *k = model.wire_node(format!("{prefix}.at_{name}"), op, &[*k, bound])?[0];
        }
    }
    op.wire_original(prefix, model, &inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, row, scalar, tensor};

    #[test]
    fn trilu_replaces_nan_by_zeros() {
        let square = || tensor(&[2, 2], &[1f32, f32::NAN, f32::NAN, 4.0]);
        let nan = f32::NAN;
        case("Trilu").input(square()).gives(tensor(&[2, 2], &[1f32, nan, 0.0, 4.0]));
        case("Trilu")
            .int("upper", 0)
            .input(square())
            .gives(tensor(&[2, 2], &[1f32, 0.0, nan, 4.0]));
        let wide = || tensor(&[2, 2], &[1i64 << 40, 2, 3, 4]);
        case("Trilu").input(wide()).input(scalar(1i64)).gives(tensor(&[2, 2], &[0i64, 2, 0, 0]));
        case("Trilu").input(wide()).input(scalar(-9i64)).gives(wide());
        case("Trilu").input(wide()).input(scalar(1i64 << 62)).gives(tensor(&[2, 2], &[0i64; 4]));
        case("Trilu").input(row(&[1f32])).fails("1");
    }

    #[test]
    fn trilu_takes_the_largest_k() {
        let square = tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let node = case("Trilu").input(square).input(scalar(i64::MAX));
        node.gives(tensor(&[2, 2], &[0f32; 4]));
        let square = || tensor(&[2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let lower = |k: i64| case("Trilu").int("upper", 0).input(square()).input(scalar(k));
        lower(i64::MAX).gives(square());
        lower(i64::MIN).gives(tensor(&[2, 2], &[0f32; 4]));
        case("Trilu").input(square()).input(scalar(i64::MIN)).gives(square());
    }
}
