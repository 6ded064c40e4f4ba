//! Operators whose shapes, axes or bounds are only known when the model runs. tract wants them as
//! constants: so such an operator is made anew for each run, from the values of that run.

use tract_onnx::tract_hir::infer::{Factoid, InferenceRulesOp};
use tract_onnx::tract_hir::internal::*;

/// An operator that is made when its inputs are known.
#[derive(Clone, Debug)]
pub(super) struct AtRunTime {
    expansion: Box<dyn Expansion>,
    facts: TVec<TypedFact>,
}

impl PartialEq for AtRunTime {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for AtRunTime {}

impl Op for AtRunTime {
    fn name(&self) -> StaticName {
        format!("{}AtRunTime", self.expansion.as_ref().name()).into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for AtRunTime {
    op_out_of_plan!();

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let outputs = EvalOp::eval(&self.expansion, ctx, inputs)?;
        ensure!(outputs.len() == self.facts.len(), "another number of outputs than was said");
        outputs.iter().zip(&self.facts).try_for_each(|(output, fact)| as_said(output, fact))?;
        Ok(outputs)
    }
}

impl TypedOp for AtRunTime {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}

/// That an output is what was said of it when the model was prepared.
pub(super) fn as_said(output: &Tensor, fact: &TypedFact) -> TractResult<()> {
    let said = fact.datum_type == output.datum_type() && fact.rank() == output.rank();
    let dims = fact.shape.iter().zip(output.shape());
    let known = |(dim, size): (&TDim, &usize)| {
        dim.as_i64().is_none_or(|dim| usize::try_from(dim).ok() == Some(*size))
    };
    ensure!(said && dims.map(known).all(|fits| fits), "another shape than was said");
    Ok(())
}

/// Whether all inputs from this one on are constants.
pub(super) fn known(model: &TypedModel, inputs: &[OutletId], from: usize) -> TractResult<bool> {
    for input in inputs.iter().skip(from) {
        if model.outlet_fact(*input)?.konst.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts an operator into the model that is made at run time. Its number of dimensions must be
/// known: from tract's rules, or else as said.
pub(super) fn wire(
    expansion: &Box<dyn Expansion>,
    prefix: &str,
    node: &InferenceNode,
    model: &mut TypedModel,
    inputs: &[OutletId],
    rank: Option<usize>,
) -> TractResult<TVec<OutletId>> {
    let mut facts = tvec!();
    for output in 0..InferenceRulesOp::nboutputs(expansion)? {
        let fact = &node.outputs.get(output).context("an output is missing")?.fact;
        let dtype = fact.datum_type.concretize().context("its type is only known when it runs")?;
        let known = fact.shape.rank().concretize().and_then(|rank| usize::try_from(rank).ok());
        let Some(rank) = known.or(rank) else {
            bail!("its number of dimensions is only known when it runs, which is not implemented")
        };
        let mut dims: TVec<TDim> = tvec!();
        for axis in 0..rank {
            let dim = fact.shape.dim(axis).and_then(|dim| dim.concretize());
            dims.push(dim.unwrap_or_else(|| model.symbols.new_with_prefix("late").to_dim()));
        }
        facts.push(dtype.fact(dims));
    }
    let op = AtRunTime { expansion: expansion.clone(), facts };
    model.wire_node(prefix, op, inputs)
}
