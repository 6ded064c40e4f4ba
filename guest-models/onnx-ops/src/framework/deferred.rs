//! Operators whose shapes, axes or bounds are inputs without a constant value. tract needs
//! constants there, so such an operator is built for each run from the values of that run.

use tract_onnx::tract_hir::infer::{Factoid, InferenceOp, InferenceRulesOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions::is_known_in_runs_only;
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

/// Whether an operator that is built for each run draws random numbers.
pub(crate) fn draws(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<Deferred>().is_some_and(|op| !op.expansion.runs_out_of_plan())
}

impl EvalOp for Deferred {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.expansion.runs_out_of_plan() {
            true => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
            false => Ok(None),
        }
    }

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

/// The facts of outputs that follow from the typed inputs, whose ranks are known, if they can be
/// inferred.
fn inferred(
    expansion: &Box<dyn Expansion>,
    model: &TypedModel,
    inputs: &[OutletId],
) -> Option<TVec<InferenceFact>> {
    let facts = inputs.iter().map(|input| model.outlet_fact(*input));
    let facts = facts.collect::<TractResult<TVec<&TypedFact>>>().ok()?;
    let count = InferenceRulesOp::nboutputs(expansion).ok()?;
    let infer = |facts: TVec<InferenceFact>| {
        let unknown = InferenceFact::default();
        let outputs = (0..count).map(|_| &unknown).collect();
        let mut op = expansion.clone();
        let inferred = InferenceOp::infer_facts(&mut op, facts.iter().collect(), outputs, tvec!());
        let (_, outputs, _) = inferred.ok()?;
        outputs.iter().all(|fact| fact.shape.rank().is_concrete()).then_some(outputs)
    };
    // Operators may have to compare sizes that are not known.
    let symbolic = facts.iter().map(|fact| InferenceFact::from(*fact)).collect();
    infer(symbolic).or_else(|| infer(facts.iter().map(|fact| without_run_sizes(fact)).collect()))
}

/// A fact without the sizes that are only known when the model runs.
pub(crate) fn without_run_sizes(fact: &TypedFact) -> InferenceFact {
    let mut inferred = InferenceFact::from(fact);
    let dims = fact.shape.iter().map(|dim| match is_known_in_runs_only(dim) {
        true => GenericFactoid::Any,
        false => GenericFactoid::Only(dim.clone()),
    });
    inferred.shape = ShapeFactoid::closed(dims.collect());
    inferred
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
    let inferred = inferred(expansion, model, inputs);
    for output in 0..InferenceRulesOp::nboutputs(expansion)? {
        let fact = &node.outputs.get(output).or_user_error("an output is missing")?.fact;
        let more = inferred.as_ref().and_then(|facts| facts.get(output));
        let fact = &more.and_then(|more| fact.unify(more).ok()).unwrap_or_else(|| fact.clone());
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
