//! Bounds of integers that are sizes or positions. tract narrows some of them to 32 bits, so values
//! that do not fit are refused here.

use tract_onnx::tract_hir::internal::*;

use crate::framework::dims::MAX_DIM;
use crate::framework::errors::{bail, ensure};
use crate::framework::tensors::dims;

/// Passes integers on if they are between two bounds, and fails otherwise.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) struct BoundsCheck {
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) what: &'static str,
}

impl BoundsCheck {
    fn check(&self, tensor: &Tensor) -> TractResult<()> {
        if tensor.datum_type() == TDim::datum_type() {
            // A symbol is the size of an input, which is checked at each run.
            let known = dims(tensor)?.iter().filter_map(TDim::as_i64).collect::<Vec<_>>();
            return self.check(&tensor1(&known));
        }
        let wide = match tensor.datum_type() {
            DatumType::I64 | DatumType::I32 => tensor.cast_to::<i64>()?,
            DatumType::I8 | DatumType::I16 | DatumType::U8 | DatumType::U16 | DatumType::U32 => {
                tensor.cast_to::<i64>()?
            }
            _ => tensor.cast_to::<f64>()?,
        };
        if wide.datum_type() == f64::datum_type() {
            let wide = wide.try_as_plain_ram()?;
            let fits = |value: &f64| {
                value.fract() == 0.0 && *value >= self.min as f64 && *value <= self.max as f64
            };
            return match wide.as_slice::<f64>()?.iter().find(|value| !fits(value)) {
                Some(value) => {
                    bail!("{} {value} is not between {} and {}", self.what, self.min, self.max)
                }
                None => Ok(()),
            };
        }
        let wide = wide.try_as_plain_ram()?;
        let outside = |value: &&i64| !(self.min..=self.max).contains(*value);
        match wide.as_slice::<i64>()?.iter().find(outside) {
            Some(value) => {
                bail!("{} {value} is not between {} and {}", self.what, self.min, self.max)
            }
            None => Ok(()),
        }
    }

    /// Checks a constant at once, and any other input when the model runs.
    pub(crate) fn check_input(
        self,
        name: String,
        model: &mut TypedModel,
        outlet: OutletId,
    ) -> TractResult<OutletId> {
        match &model.outlet_fact(outlet)?.konst {
            Some(konst) => {
                self.check(konst)?;
                Ok(outlet)
            }
            None => Ok(model.wire_node(name, self, &[outlet])?[0]),
        }
    }
}

impl Op for BoundsCheck {
    fn name(&self) -> StaticName {
        "BoundsCheck".into()
    }

    op_as_typed_op!();
}

impl EvalOp for BoundsCheck {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.check(&inputs[0])?;
        Ok(inputs)
    }
}

impl TypedOp for BoundsCheck {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// Bounds of dimensions, with -1 for one that is inferred.
pub(crate) const SIZES: BoundsCheck = BoundsCheck { min: -1, max: MAX_DIM, what: "the size" };

/// Bounds of dimensions and counts.
pub(crate) const COUNTS: BoundsCheck = BoundsCheck { min: 0, max: MAX_DIM, what: "the number" };

/// Refuses an output that is larger than a sandbox can hold.
pub(crate) fn check_fits(sizes: impl IntoIterator<Item = f64>) -> TractResult<()> {
    let elements = sizes.into_iter().fold(1.0, |product, size| product * size.max(1.0));
    ensure!(
        elements <= (MAX_DIM / 4) as f64,
        "the output has {elements} elements, more than a sandbox can hold"
    );
    Ok(())
}

/// Refuses a tensor with fewer dimensions than this.
pub(crate) fn at_least<'r>(
    s: &mut Solver<'r>,
    tensor: &'r TensorProxy,
    min: i64,
    what: &'static str,
) -> InferenceResult {
    s.given(&tensor.rank, move |_, rank| {
        ensure!(rank >= min, "{what}, found {rank} dimensions");
        Ok(())
    })
}
