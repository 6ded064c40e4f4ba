//! Dimensions that have to be equal. tract compares only those that are known before a model runs;
//! with others it reads out of bounds or drops elements. This check compares them as soon as they
//! are known.

use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{bail, ensure};

/// An input, and one of its dimensions.
pub(crate) type Place = (usize, usize);

/// Two dimensions that have to be equal.
pub(crate) type Pair = [Place; 2];

/// Compares the dimensions of each pair: at once if all sizes are known, or else when the model
/// runs. Every place must be one of its input's dimensions.
pub(crate) fn check_equal_sizes(
    pairs: Vec<Pair>,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let shapes = shapes_of(model, inputs)?;
    let shapes: Vec<&[TDim]> = shapes.iter().map(|shape| &shape[..]).collect();
    let size = |place: &Place| shapes.get(place.0).and_then(|shape| shape.get(place.1));
    let known = |pair: &&Pair| {
        let [a, b] = pair.map(|place| size(&place));
        a.is_none()
            || b.is_none()
            || a == b
            || [a, b].iter().flatten().all(|d| d.as_i64().is_some())
    };
    let (known, pairs): (Vec<Pair>, Vec<Pair>) = pairs.iter().partition(known);
    check(&known, &shapes)?;
    if pairs.is_empty() {
        return Ok(inputs.into());
    }
    model.wire_node(format!("{prefix}.equal-sizes"), EqualSizes { pairs }, inputs)
}

/// The shapes of values.
pub(crate) fn shapes_of(model: &TypedModel, inputs: &[OutletId]) -> TractResult<Vec<TVec<TDim>>> {
    inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.shape.to_tvec())).collect()
}

fn check<D: PartialEq + std::fmt::Debug>(pairs: &[Pair], shapes: &[&[D]]) -> TractResult<()> {
    for [a, b] in pairs {
        let size = |place: &Place| shapes.get(place.0).and_then(|shape| shape.get(place.1));
        let (Some(a), Some(b)) = (size(a), size(b)) else {
            bail!("dimensions to compare are missing: {shapes:?}")
        };
        ensure!(a == b, "dimensions of {a:?} and {b:?} must be equal in the shapes {shapes:?}");
    }
    Ok(())
}

/// Passes its inputs on if the dimensions are equal.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct EqualSizes {
    pairs: Vec<Pair>,
}

impl Op for EqualSizes {
    fn name(&self) -> StaticName {
        "EqualSizes".into()
    }

    op_as_typed_op!();
}

impl EvalOp for EqualSizes {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        check(&self.pairs, &shapes)?;
        Ok(inputs)
    }
}

impl TypedOp for EqualSizes {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shapes: Vec<&[TDim]> = inputs.iter().map(|input| &*input.shape).collect();
        let mut facts: TVec<TypedFact> = inputs.iter().map(|input| input.without_value()).collect();
        // A size that is known for one dimension holds for the other. tract's optimiser does not
        // terminate on a product along a dimension that is 1 in one operand and unknown in the
        // other.
        for [a, b] in &self.pairs {
            for (known, other) in [(a, b), (b, a)] {
                let size = shapes.get(known.0).and_then(|shape| shape.get(known.1));
                let size = size.filter(|size| size.as_i64().is_some());
                let there = shapes.get(other.0).is_some_and(|shape| other.1 < shape.len());
                if let Some(size) = size.filter(|_| there) {
                    facts[other.0].shape.set(other.1, size.clone());
                }
            }
        }
        Ok(facts)
    }

    as_op!();
}
