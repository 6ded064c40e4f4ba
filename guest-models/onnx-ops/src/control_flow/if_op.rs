//! `If`. A branch that is not taken is never analysed: if the condition follows from constants and
//! shapes, the shapes of the other branch need not match.

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

use super::Inferred;
use super::body::{Body, check_ranks};
use crate::computed_sizes::{Computing, Value, Values};
use crate::framework::assumptions;
use crate::framework::deferred::{check_fact, without_run_sizes};
use crate::framework::errors::{OrUserError, UserError, ensure};
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;
use crate::optimizer;

pub(crate) const OPERATORS: &[Registration] = &[own("If", build)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let mut outer: Vec<String> = Vec::new();
    let mut branch = |name: &str| {
        let graph: &GraphProto = node.get_attr(name)?;
        let parsed = context.parse_graph(graph)?;
        let mut reads = Vec::with_capacity(parsed.unresolved_inputs.len());
        for name in parsed.unresolved_inputs {
            let at = outer.iter().position(|known| *known == name).unwrap_or_else(|| {
                outer.push(name);
                outer.len() - 1
            });
            // After the condition.
            reads.push(at + 1);
        }
        let computing = Arc::new(Computing::of(graph));
        Ok::<_, TractError>(Branch { body: parsed.model, reads, computing, fails: false })
    };
    let (then, other) = (branch("then_branch")?, branch("else_branch")?);
    Ok((Box::new(If { then, other }), outer))
}

/// A graph, and which of the node's inputs it reads.
#[derive(Clone, Debug)]
struct Branch {
    body: InferenceModel,
    reads: Vec<usize>,
    computing: Arc<Computing>,
    /// Whether it could not be inferred with symbols.
    fails: bool,
}

#[derive(Clone, Debug)]
pub(super) struct If {
    then: Branch,
    other: Branch,
}

super::only_until_translated!(If);

impl Branch {
    fn set_inputs(&mut self, inputs: &[InferenceFact]) -> TractResult<()> {
        for (at, read) in self.reads.iter().enumerate() {
            let input = inputs.get(*read).or_user_error("an input is missing")?;
            self.body.set_input_fact(at, input.clone())?;
        }
        Ok(())
    }

    /// The facts of its outputs, from those of the node's inputs.
    fn facts(&mut self, inputs: &[InferenceFact]) -> TractResult<TVec<InferenceFact>> {
        self.set_inputs(inputs)?;
        self.body.analyse(false)?;
        self.output_facts()
    }

    /// The same, following integers that depend on symbols.
    fn infer(
        &mut self,
        inputs: &[InferenceFact],
        known: &[Option<Value>],
    ) -> TractResult<Inferred> {
        self.set_inputs(inputs)?;
        let outer = self.body.input_outlets()?.iter().zip(&self.reads);
        let outer = outer.filter_map(|(input, read)| Some((*input, known.get(*read)?.clone()?)));
        let outer: Values = outer.collect();
        let values = self.computing.infer_from(&mut self.body, outer)?;
        let outlets = self.body.output_outlets()?.iter();
        Ok((self.output_facts()?, outlets.map(|outlet| values.get(outlet).cloned()).collect()))
    }

    fn output_facts(&self) -> TractResult<TVec<InferenceFact>> {
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

impl If {
    /// Which branch is taken, if it is known.
    fn taken(inputs: &[InferenceFact]) -> TractResult<Option<bool>> {
        let condition = inputs.first().and_then(|condition| condition.value.concretize());
        condition.map(|condition| one(&condition)).transpose()
    }

    pub(super) fn infer(
        &mut self,
        inputs: &[InferenceFact],
        known: &[Option<Value>],
    ) -> TractResult<Inferred> {
        match If::taken(inputs)? {
            Some(true) => self.then.infer(inputs, known),
            Some(false) => self.other.infer(inputs, known),
            // A branch that never fits the inputs is an error only if it is taken.
            None => {
                let (then, other) =
                    (self.then.infer(inputs, known), self.other.infer(inputs, known));
                (self.then.fails, self.other.fails) = (then.is_err(), other.is_err());
                let facts = match (then, other) {
                    (Ok((then, _)), Ok((other, _))) => {
                        then.iter().zip(&other).map(|(a, b)| common(a, b)).collect()
                    }
                    (Ok((only, _)), Err(_)) | (Err(_), Ok((only, _))) => {
                        only.iter().map(without_value).collect()
                    }
                    (Err(err), Err(_)) => return Err(err),
                };
                Ok((facts, Vec::new()))
            }
        }
    }

    pub(super) fn set_inputs(&mut self, inputs: &[InferenceFact]) -> TractResult<()> {
        self.then.set_inputs(inputs)?;
        self.other.set_inputs(inputs)
    }

    /// The branches that may be taken, and whether they fail.
    pub(super) fn bodies(&self, inputs: &[InferenceFact]) -> Vec<Option<(&InferenceModel, bool)>> {
        let taken = If::taken(inputs).ok().flatten();
        let each = [(&self.then, Some(false)), (&self.other, Some(true))];
        each.into_iter()
            .map(|(branch, not)| (taken != not).then_some((&branch.body, branch.fails)))
            .collect()
    }
}

/// A fact that holds whether or not the branch is taken.
fn without_value(fact: &InferenceFact) -> InferenceFact {
    InferenceFact { value: GenericFactoid::Any, ..fact.clone() }
}

fn has_known_shape(fact: &InferenceFact) -> bool {
    fact.datum_type.is_concrete() && fact.shape.concretize().is_some()
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
            // A failure in a branch that may not be taken is not an error yet. If all shapes are
            // known, that branch has no outputs, whatever else is inferred.
            None => match (self.then.clone().facts(&inputs), self.other.clone().facts(&inputs)) {
                (Ok(then), Ok(other)) => {
                    then.iter().zip(&other).map(|(then, other)| common(then, other)).collect()
                }
                (Ok(only), Err(_)) | (Err(_), Ok(only)) if inputs.iter().all(has_known_shape) => {
                    only.iter().map(without_value).collect()
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
        let without_run_sizes =
            inputs.iter().map(|input| Ok(without_run_sizes(target.outlet_fact(*input)?)));
        let without_run_sizes = without_run_sizes.collect::<TractResult<Vec<InferenceFact>>>()?;
        let known = match &target.outlet_fact(inputs[0])?.konst {
            Some(konst) => Some(Arc::clone(konst)),
            None => source.outlet_fact(node.inputs[0])?.value.concretize(),
        };
        let Some(condition) = known else {
            let op = Choice::new(&self.then, &self.other, &facts, &without_run_sizes, target)?;
            return target.wire_node(&*node.name, op, &inputs);
        };
        let taken = if one(&condition)? { &self.then } else { &self.other };
        // A branch may have to compare sizes that are not known yet.
        let body = match taken.typed(&facts) {
            Err(_) if facts != without_run_sizes => taken.typed(&without_run_sizes)?,
            typed => typed?,
        };
        check_ranks(&body)?;
        let given: Vec<OutletId> = taken.reads.iter().map(|read| inputs[*read]).collect();
        inlined(&node.name, &body, &given, target)
    }

    as_op!();
}

/// An `If` whose condition is known when the model runs. Both branches are prepared with the model.
#[derive(Clone, Debug)]
struct Choice {
    then: Arc<Prepared>,
    other: Arc<Prepared>,
    facts: TVec<TypedFact>,
}

/// A branch that may be taken.
#[derive(Debug)]
enum Prepared {
    Plan {
        body: Body,
        reads: Vec<usize>,
    },
    /// Why it cannot be computed for these inputs: the error and its contexts, innermost last, and
    /// whether it is for users. It is only an error if the branch is taken.
    Refused {
        chain: Vec<String>,
        for_user: bool,
    },
}

impl Choice {
    fn new(
        then: &Branch,
        other: &Branch,
        inputs: &[InferenceFact],
        without_run_sizes: &[InferenceFact],
        target: &TypedModel,
    ) -> TractResult<Choice> {
        let optimized_for = |branch: &Branch, inputs: &[InferenceFact]| {
            let mut prepared = branch.clone();
            prepared.facts(inputs)?;
            let body = Body::new(prepared.body)?;
            let model = body.model();
            let facts = model.output_outlets()?.iter().map(|o| Ok(model.outlet_fact(*o)?.clone()));
            let facts = facts.collect::<TractResult<TVec<TypedFact>>>()?;
            Ok::<_, TractError>((Prepared::Plan { body, reads: branch.reads.clone() }, facts))
        };
        let (then_fails, other_fails) = (then.fails, other.fails);
        let optimized = |branch: &Branch| match optimized_for(branch, inputs) {
            Err(_) if inputs != without_run_sizes => optimized_for(branch, without_run_sizes),
            optimized => optimized,
        };
        let (then, other, facts) = match (optimized(then), optimized(other)) {
            (Ok((then, facts)), Ok((other, others))) => {
                ensure!(facts.len() == others.len(), "the branches have different outputs");
                let each = facts.iter().zip(&others);
                let facts = each.map(|(then, other)| either(then, other, target));
                (then, other, facts.collect::<TractResult<_>>()?)
            }
            // Without symbols the branch may be possible.
            (Err(err), _) if assumptions::has_symbols() && !then_fails => return Err(err),
            (_, Err(err)) if assumptions::has_symbols() && !other_fails => return Err(err),
            (Ok((then, facts)), Err(err)) => (then, refused(&err), facts),
            (Err(err), Ok((other, facts))) => (refused(&err), other, facts),
            (Err(err), Err(_)) => return Err(err),
        };
        let facts: TVec<TypedFact> = facts.iter().map(TypedFact::without_value).collect();
        Ok(Choice { then: Arc::new(then), other: Arc::new(other), facts })
    }
}

fn refused(err: &TractError) -> Prepared {
    let chain = err.chain().map(ToString::to_string).collect();
    // With symbols the model is prepared for exact sizes instead, if the branch is taken.
    let for_user = !assumptions::has_symbols() && err.chain().any(|cause| cause.is::<UserError>());
    Prepared::Refused { chain, for_user }
}

/// The fact of an output that either branch may make. Sizes that differ are only known in a run.
fn either(then: &TypedFact, other: &TypedFact, target: &TypedModel) -> TractResult<TypedFact> {
    let (one, two) = (then.rank(), other.rank());
    ensure!(
        then.datum_type == other.datum_type,
        "its branches make outputs of different element types"
    );
    ensure!(
        one == two,
        "its branches make outputs of {one} and {two} dimensions, and which is taken is only known \
         when the model runs: this is not implemented"
    );
    let dims = then.shape.iter().zip(other.shape.iter()).map(|(then, other)| match then == other {
        true => then.clone(),
        false => target.symbols.new_with_prefix("deferred").to_dim(),
    });
    Ok(then.datum_type.fact(dims.collect::<TVec<TDim>>()))
}

impl PartialEq for Choice {
    fn eq(&self, _: &Choice) -> bool {
        false
    }
}

impl Eq for Choice {}

impl Op for Choice {
    fn name(&self) -> StaticName {
        "IfThenElse".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl Prepared {
    fn draws(&self) -> bool {
        matches!(self, Prepared::Plan { body, .. } if body.draws())
    }
}

/// Whether a branch of an If draws random numbers.
pub(super) fn draws(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<Choice>().is_some_and(|op| op.then.draws() || op.other.draws())
}

impl EvalOp for Choice {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.then.draws() || self.other.draws() {
            true => Ok(None),
            false => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
        }
    }

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let taken = if one(&inputs[0])? { &self.then } else { &self.other };
        let outputs = match &**taken {
            Prepared::Plan { body, reads } => {
                let given = reads.iter().map(|read| inputs[*read].clone()).collect();
                body.run(context.symbols, given)?
            }
            Prepared::Refused { chain, for_user } => {
                let mut causes = chain.iter().rev();
                let innermost = causes.next().map_or("the branch cannot be computed", |c| &**c);
                let first = match for_user {
                    true => UserError::error(innermost),
                    false => TractError::msg(innermost.to_owned()),
                };
                return Err(causes.fold(first, |err, context| err.context(context.clone())));
            }
        };
        outputs.iter().zip(&self.facts).try_for_each(|(output, fact)| check_fact(output, fact))?;
        Ok(outputs)
    }
}

impl TypedOp for Choice {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
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
    use tract_onnx::prelude::Tensor;

    use crate::testing::{Case, case, graph, row, scalar, tensor};

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

    /// The branches make constants, for a condition that is an input.
    fn of_constants(
        condition: bool,
        then: crate::testing::Graph,
        other: crate::testing::Graph,
    ) -> Case {
        case("If").graph("then_branch", then).graph("else_branch", other).input(scalar(condition))
    }

    fn constant(value: Tensor) -> crate::testing::Graph {
        let graph = graph(&[], &["out"]).constant("value", &value);
        graph.node("Identity", &["value"], "out")
    }

    #[test]
    fn branches_may_make_outputs_of_different_sizes() {
        let of = |condition| {
            let (then, other) = (constant(row(&[1f32, 2.0])), constant(row(&[3f32])));
            of_constants(condition, then, other)
        };
        of(true).gives(row(&[1f32, 2.0]));
        of(false).gives(row(&[3f32]));
    }

    #[test]
    fn branches_may_make_outputs_of_different_numbers_of_dimensions() {
        let of = |condition, x: Tensor| {
            let flat = graph(&[], &["flat"]).constant("shape", &row(&[-1i64]));
            let flat = flat.node("Reshape", &["x", "shape"], "flat");
            let whole = graph(&[], &["whole"]).node("Identity", &["x"], "whole");
            of_constants(condition, flat, whole).around("x", x)
        };
        let x = || tensor(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        of(true, x()).gives(row(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
        of(false, x()).gives(x());
    }

    #[test]
    fn a_branch_that_cannot_be_computed_is_refused_when_it_is_taken() {
        let of = |condition| {
            let product = graph(&[], &["out"])
                .constant("a", &tensor(&[2, 3], &[0f32; 6]))
                .constant("b", &tensor(&[4, 5], &[0f32; 20]))
                .node("MatMul", &["a", "b"], "out");
            of_constants(condition, constant(tensor(&[1, 1], &[7f32])), product)
        };
        of(true).gives(tensor(&[1, 1], &[7f32]));
        of(false).fails("");
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
