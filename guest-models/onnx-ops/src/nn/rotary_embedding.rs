//! RotaryEmbedding (ONNX).

use tract_onnx::tract_hir::internal::*;

use crate::framework::checks::BoundsCheck;
use crate::framework::dims::MAX_DIM;
use crate::framework::errors::ensure;
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped("RotaryEmbedding", Wrapping::new(rotary))];

/// tract's own wiring, with positions that are rows of the tables.
fn rotary(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut inputs: TVec<OutletId> = inputs.into();
    if let Some(at) = op.input(3) {
        let mut rows = MAX_DIM;
        for table in [inputs[1], inputs[2]] {
            let shape = &model.outlet_fact(table)?.shape;
            ensure!(
                shape.rank() == 2,
                "the cosine and sine tables have {} dimensions, expected 2",
                shape.rank()
            );
            rows = rows.min(shape[0].to_i64()?);
        }
        let bounds = BoundsCheck { min: 0, max: rows - 1, what: "the position" };
        inputs[at] = bounds.check_input(format!("{prefix}.check"), model, inputs[at])?;
    }
    op.wire_original(prefix, model, &inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, counting, tensor};

    #[test]
    fn rotary_embedding_rotates_halves_or_neighbours() {
        let rotary = || case("RotaryEmbedding").input(counting(&[1, 1, 2, 4]));
        // No rotation, and a quarter turn.
        let tables = |case: Case| {
            let case = case.input(tensor(&[2, 2], &[1f32, 1.0, 0.0, 0.0]));
            case.input(tensor(&[2, 2], &[0f32, 0.0, 1.0, 1.0]))
        };
        let positions = |places: [i64; 2]| tensor(&[1, 2], &places);
        let of = |numbers: [f32; 8]| tensor(&[1, 1, 2, 4], &numbers);
        tables(rotary())
            .input(positions([1, 0]))
            .gives_within(of([-2.0, -3.0, 0.0, 1.0, 4.0, 5.0, 6.0, 7.0]), 0.0);
        tables(rotary().int("interleaved", 1))
            .input(positions([0, 1]))
            .gives_within(of([0.0, 1.0, 2.0, 3.0, -5.0, 4.0, -7.0, 6.0]), 0.0);
        tables(rotary()).input(positions([2, 0])).fails("2");
        tables(rotary()).input(positions([-1, 0])).fails("-1");
    }
}
