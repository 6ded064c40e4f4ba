//! Operators whose shapes, axes or bounds are inputs without a constant value. tract needs
//! constants there, so such an operator is built for each run from the values of that run.

use tract_onnx::tract_hir::infer::{Factoid, InferenceRulesOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, bail, ensure};

/// An operator that is built when the model runs.
#[derive(Clone, Debug)]
pub(crate) struct Deferred {
    expansion: Box<dyn Expansion>,
    facts: TVec<TypedFact>,
}

impl PartialEq for Deferred {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Deferred {}

impl Op for Deferred {
    fn name(&self) -> StaticName {
        format!("{}Deferred", self.expansion.as_ref().name()).into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for Deferred {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let outputs = EvalOp::eval(&self.expansion, ctx, inputs)?;
        ensure!(
            outputs.len() == self.facts.len(),
            "the number of outputs differs from that expected when the model was prepared"
        );
        outputs.iter().zip(&self.facts).try_for_each(|(output, fact)| check_fact(output, fact))?;
        Ok(outputs)
    }
}

impl TypedOp for Deferred {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}

/// Checks that an output has the element type and shape that were announced when the model was
/// prepared.
pub(crate) fn check_fact(output: &Tensor, fact: &TypedFact) -> TractResult<()> {
    let same = fact.datum_type == output.datum_type() && fact.rank() == output.rank();
    let mut dims = fact.shape.iter().zip(output.shape());
    let known = |(dim, size): (&TDim, &usize)| {
        dim.as_i64().is_none_or(|dim| usize::try_from(dim).ok() == Some(*size))
    };
    ensure!(
        same && dims.all(known),
        "an output has another shape than expected when the model was prepared"
    );
    Ok(())
}

/// Whether all inputs from this one on are constants.
pub(crate) fn all_constant(
    model: &TypedModel,
    inputs: &[OutletId],
    from: usize,
) -> TractResult<bool> {
    for input in inputs.iter().skip(from) {
        if model.outlet_fact(*input)?.konst.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds a deferred operator to the model. The number of dimensions of its outputs must be known,
/// from tract's rules or from `rank`.
// An `Expansion` can only be cloned in its box.
#[allow(clippy::borrowed_box)]
pub(crate) fn wire(
    expansion: &Box<dyn Expansion>,
    prefix: &str,
    node: &InferenceNode,
    model: &mut TypedModel,
    inputs: &[OutletId],
    rank: Option<usize>,
) -> TractResult<TVec<OutletId>> {
    let mut facts = tvec!();
    for output in 0..InferenceRulesOp::nboutputs(expansion)? {
        let fact = &node.outputs.get(output).or_user_error("an output is missing")?.fact;
        let dtype = fact
            .datum_type
            .concretize()
            .or_user_error("its element type is only known when the model runs")?;
        let known = fact.shape.rank().concretize().and_then(|rank| usize::try_from(rank).ok());
        let Some(rank) = known.or(rank) else {
            bail!(
                "its number of dimensions is only known when the model runs, which is not implemented"
            )
        };
        let mut dims: TVec<TDim> = tvec!();
        for axis in 0..rank {
            let dim = fact.shape.dim(axis).and_then(|dim| dim.concretize());
            dims.push(dim.unwrap_or_else(|| model.symbols.new_with_prefix("deferred").to_dim()));
        }
        facts.push(dtype.fact(dims));
    }
    let op = Deferred { expansion: expansion.clone(), facts };
    model.wire_node(prefix, op, inputs)
}
