//! `If`. A branch that is not taken is never analysed: if the condition follows from constants and
//! shapes, the shapes of the other branch need not match.

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

use crate::framework::errors::{OrUserError, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::optimizer;

pub(crate) const OPERATORS: &[Registration] = &[own("If", build)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mut outer: Vec<String> = Vec::new();
    let mut branch = |name: &str| {
        let parsed = context.parse_graph(node.get_attr(name)?)?;
        let mut reads = Vec::with_capacity(parsed.unresolved_inputs.len());
        for name in parsed.unresolved_inputs {
            let at = outer.iter().position(|known| *known == name).unwrap_or_else(|| {
                outer.push(name);
                outer.len() - 1
            });
            // After the condition.
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
    /// The facts of its outputs, from those of the node's inputs.
    fn facts(&mut self, inputs: &[InferenceFact]) -> TractResult<TVec<InferenceFact>> {
        for (at, read) in self.reads.iter().enumerate() {
            let input = inputs.get(*read).or_user_error("an input is missing")?;
            self.body.set_input_fact(at, input.clone())?;
        }
        self.body.analyse(false)?;
        let outlets = self.body.output_outlets()?.to_vec();
        outlets.iter().map(|outlet| Ok(self.body.outlet_fact(*outlet)?.clone())).collect()
    }

    /// Its typed form, for these facts of the inputs.
    fn typed(&self, inputs: &[InferenceFact]) -> TractResult<TypedModel> {
        let mut branch = self.clone();
        branch.facts(inputs)?;
        optimizer::into_typed(branch.body)
    }
}

/// The facts that hold for both branches.
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
        let condition = inputs.first_mut().or_user_error("the condition is missing")?;
        condition.datum_type.unify_with(&bool::datum_type().into())?;
        let made = match condition.value.concretize() {
            Some(condition) if one(&condition)? => self.then.facts(&inputs)?,
            Some(_) => self.other.facts(&inputs)?,
            // A failure in a branch that may not be taken is not an error yet.
            None => match (self.then.clone().facts(&inputs), self.other.clone().facts(&inputs)) {
                (Ok(then), Ok(other)) => {
                    then.iter().zip(&other).map(|(then, other)| common(then, other)).collect()
                }
                _ => tvec![InferenceFact::default(); outputs.len()],
            },
        };
        ensure!(made.len() == outputs.len(), "a branch has an unexpected number of outputs");
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
        "the condition is not a single boolean"
    );
    condition.cast_to_scalar::<bool>()
}

/// Copies the nodes of a graph into another one.
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
        let inputs = node.inputs.iter().map(|input| {
            mapping.get(input).copied().or_user_error("a value of a branch is missing")
        });
        let inputs = inputs.collect::<TractResult<TVec<OutletId>>>()?;
        let made = target.wire_node(format!("{prefix}.{}", node.name), node.op.clone(), &inputs)?;
        for (slot, outlet) in made.into_iter().enumerate() {
            mapping.insert(OutletId::new(id, slot), outlet);
        }
    }
    let outputs = body.output_outlets()?.iter();
    outputs
        .map(|output| mapping.get(output).copied().or_user_error("an output is missing"))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{Case, case, graph, row, scalar};

    /// One branch adds to a value of the enclosing graph, the other one is a constant.
    fn choice(condition: bool) -> Case {
        let then = graph(&[], &["sum"]).node("Add", &["x", "one"], "sum");
        let then = then.constant("one", &scalar(1i64));
        let other = graph(&[], &["same"]).constant("zero", &row(&[0i64, 0]));
        let other = other.node("Identity", &["zero"], "same");
        let case = case("If").graph("then_branch", then).graph("else_branch", other);
        case.input(scalar(condition)).around("x", row(&[1i64 << 40, 2]))
    }

    #[test]
    fn branch_reads_values_of_the_enclosing_graph() {
        choice(true).gives(row(&[(1i64 << 40) + 1, 3]));
        choice(false).gives(row(&[0i64, 0]));
    }

    #[test]
    fn branches_of_a_constant_condition_may_have_different_shapes() {
        let branch = |tensor| {
            let graph = graph(&[], &["out"]).constant("value", &tensor);
            graph.node("Identity", &["value"], "out")
        };
        let of = |condition| {
            let case = case("If").graph("then_branch", branch(row(&[1f32, 2.0])));
            case.graph("else_branch", branch(row(&[3f32]))).constants().input(scalar(condition))
        };
        of(true).gives(row(&[1f32, 2.0]));
        of(false).gives(row(&[3f32]));
    }
}
