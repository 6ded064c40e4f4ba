//! Range (ONNX).

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::MAX_DIM;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, wrapped};
use crate::framework::wrapped::{Wrapped, Wrapping};

pub(crate) const OPERATORS: &[Registration] = &[wrapped("Range", RANGE)];

const RANGE: Wrapping = Wrapping::new(range).constant_from(0).rules(range_rules);

/// tract's own rules divide by a step that may be zero.
fn range_rules<'r>(
    _: &'r Wrapped,
    s: &mut Solver<'r>,
    inputs: &'r [TensorProxy],
    outputs: &'r [TensorProxy],
) -> InferenceResult {
    check_output_arity(outputs, 1)?;
    s.equals(&outputs[0].rank, 1)?;
    s.equals(&inputs[0].datum_type, &outputs[0].datum_type)
}

/// Computes each number from the start: adding the step again and again would add up rounding
/// errors.
fn range(
    _: &Wrapped,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let known: Option<Vec<Arc<Tensor>>> = inputs
        .iter()
        .map(|input| Ok(model.outlet_fact(*input)?.konst.clone()))
        .collect::<TractResult<_>>()?;
    let known = known.or_user_error("start, limit and delta must be constants")?;
    let dtype = known[0].datum_type();
    let single = known.iter().all(|value| value.rank() <= 1 && value.len() == 1);
    ensure!(single, "start, limit and delta must be one number each");
    let known: Vec<Tensor> =
        known.iter().map(|value| (**value).clone().into_shape(&[])).collect::<TractResult<_>>()?;
    if dtype.is_integer() {
        let values = integers(&known)?.cast_to_dt(dtype)?.into_owned();
        return Ok(tvec!(model.add_const(prefix, values)?));
    }
    let one = |at: usize| known[at].cast_to_scalar::<f64>();
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    ensure!(
        delta != 0.0 && delta.is_finite() && start.is_finite() && limit.is_finite(),
        "start, limit and delta must be finite, and delta must not be 0"
    );
    let count = ((limit - start) / delta).ceil().max(0.0);
    // An allocation of the whole address space would abort.
    ensure!(count <= (MAX_DIM / 16) as f64, "a range of {count} numbers is too long");
    let values = if [f16::datum_type(), f32::datum_type()].contains(&dtype) {
        let (start, delta) = (start as f32, delta as f32);
        tensor1(&(0..count as u32).map(|at| start + at as f32 * delta).collect::<Vec<_>>())
    } else {
        tensor1(&(0..count as u32).map(|at| start + f64::from(at) * delta).collect::<Vec<_>>())
    };
    let values = values.cast_to_dt(dtype)?.into_owned();
    Ok(tvec!(model.add_const(prefix, values)?))
}

/// A range of integers of 64 bits. Its length may need more bits than they have.
fn integers(known: &[Tensor]) -> TractResult<Tensor> {
    let one = |at: usize| known[at].cast_to_scalar::<i64>().map(i128::from);
    let (start, limit, delta) = (one(0)?, one(1)?, one(2)?);
    ensure!(delta != 0, "delta must not be 0");
    let length = (limit - start) * delta.signum();
    let count = if length <= 0 { 0 } else { (length - 1) / delta.abs() + 1 };
    ensure!(count <= i128::from(MAX_DIM / 16), "a range of {count} numbers is too long");
    // Each number lies between the start and the limit.
    let each = |at: i128| (start + delta * at) as i64;
    Ok(tensor1(&(0..count).map(each).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::Datum;

    use crate::testing::{Case, case, row, scalar};

    fn range<T: Datum + Clone>(start: T, limit: T, delta: T) -> Case {
        case("Range").input(scalar(start)).input(scalar(limit)).input(scalar(delta))
    }

    #[test]
    fn range_counts_down_and_may_have_no_elements() {
        range(10i64, 4, -2).gives(row(&[10i64, 8, 6]));
        range(3i32, 3, 1).gives(row::<i32>(&[]));
        range(3i32, 5, -1).gives(row::<i32>(&[]));
        range(1f32, 5.0, 1.5).gives(row(&[1f32, 2.5, 4.0]));
        range(1i16, -5, -3).gives(row(&[1i16, -2]));
        let third = 1.0 / 3.0;
        range(0f64, 1.0, third).gives(row(&[0f64, third, 2.0 * third]));
    }

    #[test]
    fn range_of_64_bits_is_exact_beyond_the_integers_of_a_double() {
        let large = (1i64 << 53) + 1;
        range(large, large + 8, 2).gives(row(&[large, large + 2, large + 4, large + 6]));
        range(large, large + 1, 1).gives(row(&[large]));
        let (least, most) = (i64::MIN, i64::MAX);
        range(least, most, most).gives(row(&[least, -1, most - 1]));
        range(most, least, least).gives(row(&[most, -1]));
        range(most, least, most).gives(row::<i64>(&[]));
        range(least, most, 1).fails("too long");
    }

    #[test]
    fn range_keeps_64_bits_and_refuses_steps_of_zero() {
        let wide = 1i64 << 40;
        range(wide, wide + 3, 2).gives(row(&[wide, wide + 2]));
        range(1i64, 2, 0).fails("");
        range(0f32, f32::INFINITY, 1.0).fails("");
        range(0i64, 1 << 50, 1).fails("");
    }
}
