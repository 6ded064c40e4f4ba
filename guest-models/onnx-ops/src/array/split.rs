//! Split (ONNX).

use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::equal;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wiring::constant_ints;
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] =
    &[wrapped("Split", SPLIT_2).until(17), wrapped("Split", SPLIT_18).since(18)];

const SPLIT_2: Wrapping =
    Wrapping::new(|op, prefix, model, inputs| split(op, prefix, model, inputs, false))
        .constant_from(1)
        .check(check_parts);

const SPLIT_18: Wrapping =
    Wrapping::new(|op, prefix, model, inputs| split(op, prefix, model, inputs, true))
        .constant_from(1)
        .check(check_parts);

const UNKNOWN_SIZE: &str =
    "the size of the axis is only known when the model runs, which is not implemented";

/// Checks that there are as many parts as outputs.
fn check_parts<'r>(
    op: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
) -> InferenceResult {
    s.given(&inputs[0].rank, |_, rank| {
        ensure!(rank > 0, "cannot split a scalar");
        Ok(())
    })?;
    let parts = op.node.get_attr_opt_vec::<i64>("split")?.map(|parts| parts.len());
    let outputs = op.node.output.len();
    let whole = parts.is_none_or(|parts| parts == outputs);
    ensure!(whole, "{} parts do not match {outputs} outputs", parts.unwrap_or_default());
    Ok(())
}

/// tract's own wiring, with parts that add up to the size of the axis. Without a list of parts, the
/// last one may be smaller if `uneven` is set.
fn split(
    op: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
    uneven: bool,
) -> TractResult<TVec<OutletId>> {
    let fact = model.outlet_fact(inputs[0])?;
    let axis = op.axis("axis", 0, fact.rank())?;
    let size = fact.shape[axis].clone();
    let parts = match inputs.get(1) {
        Some(parts) => Some(constant_ints(model, *parts, "the parts")?),
        None => op.node.get_attr_opt_vec::<i64>("split")?,
    };
    let outputs = op.node.output.len();
    match parts {
        Some(parts) => {
            let sum = parts.iter().try_fold(0i64, |sum, part| sum.checked_add(*part));
            let whole = match sum {
                Some(sum) => equal(&sum.to_dim(), &size)? && parts.iter().all(|part| *part >= 0),
                None => false,
            };
            ensure!(
                whole && parts.len() == outputs,
                "the parts {parts:?} do not divide {size} elements into {outputs} outputs"
            );
        }
        None => {
            let count = op.int("num_outputs", outputs as i64)?;
            ensure!(
                count == outputs as i64,
                "num_outputs is {count}, but the node has {outputs} outputs"
            );
            let size = size.as_i64().or_user_error(UNKNOWN_SIZE)?;
            let even = size % count == 0;
            ensure!(even || uneven, "cannot split {size} elements into {count} equal parts");
            // The smaller part is not empty.
            let part = (size + count - 1) / count;
            ensure!(part * (count - 1) <= size, "cannot split {size} elements into {count} parts");
        }
    }
    op.wire_original(prefix, model, inputs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{case, counting, row, tensor};

    #[test]
    fn split_into_uneven_parts_has_the_smallest_last() {
        let split = |count| case("Split").int("num_outputs", count).outputs(count as usize);
        let three = || split(2).input(counting(&[3]));
        three().gives_all(&[row(&[0f32, 1.0]), row(&[2f32])]);
        three().opset(18).gives_all(&[row(&[0f32, 1.0]), row(&[2f32])]);
        three().opset(17).fails("3");
        split(2).opset(18).input(row(&[1i64, 2])).gives_all(&[row(&[1i64]), row(&[2i64])]);
    }

    #[test]
    fn split_refuses_parts_that_are_not_the_whole() {
        let split = |parts: &[i64]| {
            let case = case("Split").int("axis", -1).outputs(2).input(counting(&[1, 3]));
            case.input(row(parts))
        };
        split(&[1, 2]).gives_all(&[counting(&[1, 1]), tensor(&[1, 2], &[1f32, 2.0])]);
        split(&[0, 3]).gives_all(&[tensor::<f32>(&[1, 0], &[]), counting(&[1, 3])]);
        split(&[1, 1]).fails("");
        split(&[-1, 4]).fails("-1");
        let old = case("Split").opset(11).ints("split", &[2, 1]).outputs(2).input(counting(&[3]));
        old.gives_all(&[row(&[0f32, 1.0]), row(&[2f32])]);
    }
}
