//! `If` of which the branch that is not taken is never analysed: where the condition follows from
//! constants and shapes, which tract finds out on its way, the other branch need not fit.

use std::collections::HashMap;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

use super::Built;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("If", build);
}

fn build(context: &ParsingContext, node: &NodeProto) -> Built {
    let mut outer: Vec<String> = Vec::new();
    let mut branch = |name: &str| {
        let parsed = context.parse_graph(node.get_attr(name)?)?;
        let mut reads = Vec::with_capacity(parsed.unresolved_inputs.len());
        for name in parsed.unresolved_inputs {
            let at = outer.iter().position(|known| *known == name).unwrap_or_else(|| {
                outer.push(name);
                outer.len() - 1
            });
            // Behind the condition.
            reads.push(at + 1);
        }
        Ok::<_, TractError>(Branch { body: parsed.model, reads })
    };
    let (then, other) = (branch("then_branch")?, branch("else_branch")?);
    Ok((Box::new(If { then, other }), outer))
}

/// A graph, and which of the node's inputs it reads.
#[derive(Clone, Debug)]
struct Branch {
    body: InferenceModel,
    reads: Vec<usize>,
}

#[derive(Clone, Debug)]
struct If {
    then: Branch,
    other: Branch,
}

super::only_until_translated!(If);

impl Branch {
    /// What its outputs are, given what is known of the node's inputs.
    fn facts(&mut self, inputs: &[InferenceFact]) -> TractResult<TVec<InferenceFact>> {
        for (at, read) in self.reads.iter().enumerate() {
            let input = inputs.get(*read).context("an input is missing")?;
            self.body.set_input_fact(at, input.clone())?;
        }
        self.body.analyse(false)?;
        let outlets = self.body.output_outlets()?.to_vec();
        outlets.iter().map(|outlet| Ok(self.body.outlet_fact(*outlet)?.clone())).collect()
    }

    /// In its typed form, for inputs that are known so far.
    fn typed(&self, inputs: &[InferenceFact]) -> TractResult<TypedModel> {
        let mut branch = self.clone();
        branch.facts(inputs)?;
        branch.body.into_typed()
    }
}

/// What two branches have in common.
fn common(a: &InferenceFact, b: &InferenceFact) -> InferenceFact {
    let mut fact = InferenceFact::default();
    if a.datum_type == b.datum_type {
        fact.datum_type = a.datum_type;
    }
    let rank = |fact: &InferenceFact| fact.shape.rank().concretize();
    if let (Some(rank), Some(other)) = (rank(a), rank(b))
        && rank == other
    {
        let dims = (0..rank as usize).map(|axis| match (a.shape.dim(axis), b.shape.dim(axis)) {
            (Some(a), Some(b)) if a == b => a,
            _ => GenericFactoid::Any,
        });
        fact.shape = ShapeFactoid::closed(dims.collect());
    }
    fact
}

impl InferenceOp for If {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let mut inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let condition = inputs.first_mut().context("without a condition")?;
        condition.datum_type.unify_with(&bool::datum_type().into())?;
        let made = match condition.value.concretize() {
            Some(condition) if one(&condition)? => self.then.facts(&inputs)?,
            Some(_) => self.other.facts(&inputs)?,
            // What fails in a branch that may not be taken does not matter yet.
            None => match (self.then.clone().facts(&inputs), self.other.clone().facts(&inputs)) {
                (Ok(then), Ok(other)) => {
                    then.iter().zip(&other).map(|(then, other)| common(then, other)).collect()
                }
                _ => tvec![InferenceFact::default(); outputs.len()],
            },
        };
        ensure!(made.len() == outputs.len(), "branches of another number of outputs");
        let outputs = outputs.iter().zip(&made).map(|(known, made)| known.unify(made));
        let outputs = outputs.collect::<TractResult<TVec<_>>>()?;
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.then.body.output_outlets()?.len())
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
        let facts = inputs.iter().map(|input| Ok(InferenceFact::from(target.outlet_fact(*input)?)));
        let facts = facts.collect::<TractResult<Vec<InferenceFact>>>()?;
        let known = match &target.outlet_fact(inputs[0])?.konst {
            Some(konst) => Some(Arc::clone(konst)),
            None => source.outlet_fact(node.inputs[0])?.value.concretize(),
        };
        let Some(condition) = known else {
            let op = IfThenElse {
                then_body: self.then.typed(&facts)?,
                then_input_mapping: self.then.reads.clone(),
                else_body: self.other.typed(&facts)?,
                else_input_mapping: self.other.reads.clone(),
            };
            return target.wire_node(&*node.name, op, &inputs);
        };
        let taken = if one(&condition)? { &self.then } else { &self.other };
        let body = taken.typed(&facts)?;
        let given: Vec<OutletId> = taken.reads.iter().map(|read| inputs[*read]).collect();
        inlined(&node.name, &body, &given, target)
    }

    as_op!();
}

/// The one value of a condition.
fn one(condition: &Tensor) -> TractResult<bool> {
    ensure!(
        condition.datum_type() == bool::datum_type() && condition.len() == 1,
        "the condition is not one truth"
    );
    condition.cast_to_scalar::<bool>()
}

/// Puts the nodes of a graph into another one.
fn inlined(
    prefix: &str,
    body: &TypedModel,
    given: &[OutletId],
    target: &mut TypedModel,
) -> TractResult<TVec<OutletId>> {
    let mut mapping: HashMap<OutletId, OutletId> = HashMap::new();
    for (input, given) in body.input_outlets()?.iter().zip(given) {
        mapping.insert(*input, *given);
    }
    for id in body.eval_order()? {
        let node = body.node(id);
        if node.op_is::<TypedSource>() {
            ensure!(mapping.contains_key(&OutletId::new(id, 0)), "an input of a branch is missing");
            continue;
        }
        let inputs = node
            .inputs
            .iter()
            .map(|input| mapping.get(input).copied().context("a value of a branch is missing"));
        let inputs = inputs.collect::<TractResult<TVec<OutletId>>>()?;
        let made = target.wire_node(format!("{prefix}.{}", node.name), node.op.clone(), &inputs)?;
        for (slot, outlet) in made.into_iter().enumerate() {
            mapping.insert(OutletId::new(id, slot), outlet);
        }
    }
    let outputs = body.output_outlets()?.iter();
    outputs.map(|output| mapping.get(output).copied().context("an output is missing")).collect()
}
