//! `Loop`. The trip count and the condition may be known in advance or not. Carried values keep
//! their element type and their number of dimensions, and may change their sizes; scan outputs are
//! stacked. Only the limits of the run bound the
//! number of iterations.

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

use super::Inferred;
use super::body::Body;
use crate::computed_sizes::{Computing, Value, Values};
use crate::framework::axes::resolve;
use crate::framework::deferred::{check_fact, without_run_sizes};
use crate::framework::dims::volume;
use crate::framework::errors::{OrUserError, ensure};
use crate::framework::randomness::in_iteration;
use crate::framework::registration::{Registration, own};
use crate::framework::upstream::BuildResult;

pub(crate) const OPERATORS: &[Registration] = &[own("Loop", build)];

fn build(context: &ParsingContext, node: &NodeProto) -> BuildResult {
    let graph: &GraphProto = node.get_attr("body")?;
    let parsed = context.parse_graph(graph)?;
    let given = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    let carried = node.input.len().saturating_sub(2);
    let named = node.input.iter().skip(2).all(|name| !name.is_empty());
    ensure!(named, "a carried value is missing");
    let op = Loop {
        body: parsed.model,
        computing: Arc::new(Computing::of(graph)),
        counted: given(0),
        conditional: given(1),
        carried,
        outputs: node.output.iter().filter(|name| !name.is_empty()).count(),
    };
    ensure!(op.outputs == node.output.len() && op.outputs >= carried, "an output has no name");
    Ok((Box::new(op), parsed.unresolved_inputs))
}

/// The inputs are the trip count and the condition, if present, the carried values, and the outer
/// values that the body reads. The body's inputs are the iteration number, the condition, the
/// carried values and the outer values.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub(super) body: InferenceModel,
    computing: Arc<Computing>,
    counted: bool,
    conditional: bool,
    carried: usize,
    outputs: usize,
}

super::only_until_translated!(Loop);

/// The fact of a value that changes between iterations. Shapes in tract's own type become integers.
pub(super) fn varying(fact: &InferenceFact) -> InferenceFact {
    let mut fact = fact.clone();
    fact.value = GenericFactoid::Any;
    if fact.datum_type.concretize() == Some(TDim::datum_type()) {
        fact.datum_type = i64::datum_type().into();
    }
    fact
}

impl Loop {
    /// The number of inputs before the carried values.
    fn before(&self) -> usize {
        usize::from(self.counted) + usize::from(self.conditional)
    }

    /// Sets the facts of the body's inputs. Carried values may have any size in the `open`
    /// dimensions.
    fn set_inputs(&mut self, inputs: &[InferenceFact], open: &Open) -> TractResult<()> {
        let scalar =
            |dtype| InferenceFact::dt_shape::<ShapeFactoid>(dtype, ShapeFactoid::closed(tvec!()));
        let read = inputs.get(self.before()..).or_user_error("an input is missing")?;
        let wanted = self.body.input_outlets()?.len();
        ensure!(
            read.len() + 2 == wanted,
            "the body has {wanted} inputs, which do not match {} values",
            read.len()
        );
        self.body.set_input_fact(0, scalar(i64::datum_type()))?;
        self.body.set_input_fact(1, scalar(bool::datum_type()))?;
        for (at, fact) in read.iter().enumerate() {
            let mut fact = if at < self.carried { varying(fact) } else { fact.clone() };
            if let Some(open) = open.get(at) {
                fact.shape = opened(&fact.shape, open);
            }
            self.body.set_input_fact(at + 2, fact)?;
        }
        Ok(())
    }

    /// No carried value changes its shape.
    fn closed(&self) -> Open {
        vec![Vec::new(); self.carried]
    }

    /// Infers the body by `infer`, with the dimensions of carried values open that it changes.
    fn settle(
        &mut self,
        inputs: &[InferenceFact],
        infer: impl Fn(&mut Loop) -> TractResult<()>,
    ) -> TractResult<Open> {
        let before = self.body.clone();
        let mut open = self.closed();
        loop {
            self.set_inputs(inputs, &open)?;
            infer(self)?;
            let made = self.body_outputs()?;
            let mut more = false;
            for at in 0..self.carried {
                let of = |fact: &InferenceFact| {
                    let rank = fact.shape.rank().concretize()?;
                    let dims = (0..rank as usize).map(|axis| fact.shape.dim(axis)?.concretize());
                    Some(dims.collect::<Vec<Option<TDim>>>())
                };
                let Some(first) = of(&inputs[self.before() + at]) else { continue };
                // Any size may change if not even the number of dimensions is known yet.
                let made = of(&made[at + 1]).unwrap_or_default();
                let same = |a: &Option<TDim>, b: &Option<TDim>| a.is_some() && a == b;
                more |= open_changed(&mut open[at], &first, &made, same);
            }
            if !more {
                return Ok(open);
            }
            self.body = before.clone();
        }
    }

    /// Infers the body from these facts of the node's inputs.
    pub(super) fn analyse(&mut self, inputs: &[InferenceFact]) -> TractResult<Open> {
        self.settle(inputs, |op| op.body.analyse(false).map(|_| ()))
    }

    /// The facts of the node's outputs, from those of its inputs and of the body's outputs.
    fn output_facts(
        &self,
        inputs: &[InferenceFact],
        open: &Open,
    ) -> TractResult<TVec<InferenceFact>> {
        let made = self.body_outputs()?;
        let of = |at: usize| match at < self.carried {
            true => {
                let mut fact = varying(&inputs[self.before() + at]);
                fact.shape = opened(&fact.shape, &open[at]);
                Ok(fact)
            }
            false => stacked(&made[at + 1], 0),
        };
        (0..self.outputs).map(of).collect()
    }

    /// Infers the body, following integers that depend on symbols, and the node's outputs.
    pub(super) fn infer(
        &mut self,
        inputs: &[InferenceFact],
        known: &[Option<Value>],
    ) -> TractResult<Inferred> {
        let open = self.settle(inputs, |op| {
            // Carried values change.
            let around = known.get(op.before() + op.carried..).unwrap_or_default();
            let read = op.body.input_outlets()?.get(2 + op.carried..).unwrap_or_default();
            let read = read.iter().zip(around);
            let outer: Values =
                read.filter_map(|(at, value)| Some((*at, value.clone()?))).collect();
            Arc::clone(&op.computing).infer_from(&mut op.body, outer).map(|_| ())
        })?;
        Ok((self.output_facts(inputs, &open)?, Vec::new()))
    }

    /// The optimised body, and the dimensions of carried values that it changes.
    fn typed(
        &self,
        facts: &[InferenceFact],
        target: &TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<(Body, Open)> {
        let mut open = self.closed();
        loop {
            let mut typed = self.clone();
            typed.set_inputs(facts, &open)?;
            let body = Body::new(typed.body)?;
            let mut more = false;
            for at in 0..self.carried {
                let made = body.model().output_fact(at + 1)?;
                let first = target.outlet_fact(inputs[self.before() + at])?;
                let same = plain_type(first.datum_type) == plain_type(made.datum_type)
                    && first.rank() == made.rank();
                ensure!(
                    same,
                    "a carried value that changes its element type or its number of dimensions is \
                     not implemented"
                );
                let first = first.shape.to_tvec();
                more |= open_changed(&mut open[at], &first, &made.shape.to_tvec(), TDim::eq);
            }
            if !more {
                return Ok((body, open));
            }
        }
    }

    fn body_outputs(&self) -> TractResult<Vec<InferenceFact>> {
        let outlets = self.body.output_outlets()?;
        let wanted = self.outputs + 1;
        ensure!(
            outlets.len() == wanted,
            "the body has {} outputs, expected {wanted}",
            outlets.len()
        );
        outlets.iter().map(|outlet| Ok(self.body.outlet_fact(*outlet)?.clone())).collect()
    }
}

/// For each carried value, the dimensions that change between iterations.
pub(super) type Open = Vec<Vec<bool>>;

/// Marks the dimensions that an iteration changes; returns whether there are more of them.
fn open_changed<T>(
    open: &mut Vec<bool>,
    first: &[T],
    made: &[T],
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    open.resize(first.len(), false);
    let mut more = false;
    for (axis, open) in open.iter_mut().enumerate() {
        let changes = made.get(axis).is_none_or(|made| !same(&first[axis], made));
        more |= changes && !*open;
        *open |= changes;
    }
    more
}

/// A shape with unknown sizes in these dimensions.
fn opened(shape: &ShapeFactoid, open: &[bool]) -> ShapeFactoid {
    let rank = shape.rank().concretize();
    if rank.is_none_or(|rank| rank as usize != open.len()) {
        return shape.clone();
    }
    let dims = open.iter().enumerate().map(|(axis, open)| match open {
        true => GenericFactoid::Any,
        false => shape.dim(axis).unwrap_or_default(),
    });
    ShapeFactoid::closed(dims.collect())
}

impl InferenceOp for Loop {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut analysed = self.clone();
        let open = analysed.analyse(&inputs)?;
        let made = analysed.output_facts(&inputs, &open)?;
        let facts = outputs.iter().zip(&made).map(|(known, made)| known.unify(made));
        let facts = facts.collect::<TractResult<TVec<_>>>()?;
        Ok((inputs, facts, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs)
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
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
        // The body may have to compare sizes that are not known yet.
        let (op_body, open) = match self.typed(&facts, target, &inputs) {
            Ok(typed) => typed,
            Err(error) if facts == without_run_sizes => return Err(error),
            Err(_) => self.typed(&without_run_sizes, target, &inputs)?,
        };
        let body = op_body.model();
        let mut outputs = tvec!();
        for at in 0..self.outputs {
            let made = body.output_fact(at + 1)?.without_value();
            let dtype = plain_type(made.datum_type);
            // What follows from the readers of an output is checked when the model runs.
            let inferred = |axis: usize| node.outputs[at].fact.shape.dim(axis)?.concretize();
            let symbol = || target.symbols.new_with_prefix("iterations").to_dim();
            let dims: TVec<TDim> = if at < self.carried {
                let first = &target.outlet_fact(inputs[self.before() + at])?.shape;
                let dims = first.iter().zip(&open[at]).enumerate();
                dims.map(|(axis, (dim, open))| match open {
                    true => inferred(axis).unwrap_or_else(symbol),
                    false => dim.clone(),
                })
                .collect()
            } else {
                let iterations = inferred(0).unwrap_or_else(symbol);
                let rows = made.shape.iter().enumerate().map(|(axis, dim)| {
                    let known = dim.as_i64().is_some();
                    if known { dim.clone() } else { inferred(axis + 1).unwrap_or_else(symbol) }
                });
                std::iter::once(iterations).chain(rows).collect()
            };
            outputs.push(dtype.fact(dims));
        }
        let op = LoopOp {
            body: op_body,
            counted: self.counted,
            conditional: self.conditional,
            carried: self.carried,
            open,
            outputs,
        };
        target.wire_node(&*node.name, op, &inputs)
    }

    as_op!();
}

/// Whether a carried value can keep its type and shape. Sizes that are not known yet are checked in
/// each iteration.
pub(super) fn keeps_type_and_shape(first: &TypedFact, made: &TypedFact) -> bool {
    let of_first = plain_type(first.datum_type);
    let mut dims = first.shape.iter().zip(made.shape.iter());
    let known = |(a, b): (&TDim, &TDim)| match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    of_first == made.datum_type && first.rank() == made.rank() && dims.all(known)
}

/// The fact of the values of all iterations, stacked on a new axis. A negative axis counts from the
/// end of the result.
pub(super) fn stacked(each: &InferenceFact, axis: i64) -> TractResult<InferenceFact> {
    let datum_type = varying(each).datum_type;
    let mut fact = InferenceFact { datum_type, ..InferenceFact::default() };
    if let Some(rank) = each.shape.rank().concretize() {
        let dims = (0..rank as usize).map(|axis| each.shape.dim(axis).unwrap_or_default());
        let mut dims: TVec<_> = dims.collect();
        dims.insert(resolve(axis, dims.len() + 1)?, GenericFactoid::Any);
        fact.shape = ShapeFactoid::closed(dims);
    }
    Ok(fact)
}

/// An element type, with integers for shapes in tract's own type.
pub(super) fn plain_type(dtype: DatumType) -> DatumType {
    if dtype == TDim::datum_type() { i64::datum_type() } else { dtype }
}

#[derive(Clone, Debug)]
struct LoopOp {
    body: Body,
    counted: bool,
    conditional: bool,
    carried: usize,
    open: Open,
    outputs: TVec<TypedFact>,
}

impl PartialEq for LoopOp {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for LoopOp {}

impl Op for LoopOp {
    fn name(&self) -> StaticName {
        "Loop".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

/// A value with integers for shapes.
pub(crate) fn without_tdim(value: TValue) -> TractResult<TValue> {
    if value.datum_type() != TDim::datum_type() {
        return Ok(value);
    }
    Ok(value.cast_to::<i64>()?.into_owned().into_tvalue())
}

/// The one element of a number or a condition.
fn single<T: Datum + Copy>(value: &Tensor, what: &str) -> TractResult<T> {
    ensure!(value.len() == 1, "{what} has {} elements", value.len());
    value.cast_to_scalar::<T>()
}

/// Whether a Loop draws random numbers.
pub(super) fn draws(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<LoopOp>().is_some_and(|op| op.body.draws())
}

impl EvalOp for LoopOp {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.body.draws() {
            true => Ok(None),
            false => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
        }
    }

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().or_user_error("an input is missing");
        let max_iterations: Option<i64> =
            if self.counted { Some(single(&*next()?, "the number of iterations")?) } else { None };
        let mut going: bool =
            if self.conditional { single(&*next()?, "the condition")? } else { true };
        let mut carried: Vec<TValue> =
            (0..self.carried).map(|_| without_tdim(next()?)).collect::<TractResult<_>>()?;
        let around: Vec<TValue> = inputs.collect();
        let first: Vec<TVec<usize>> = carried.iter().map(|value| value.shape().into()).collect();
        let mut scanned: Vec<Vec<TValue>> = vec![Vec::new(); self.outputs.len() - self.carried];
        let mut iteration = 0i64;
        while going && max_iterations.is_none_or(|max_iterations| iteration < max_iterations) {
            let mut given: TVec<TValue> = tvec!(tensor0(iteration).into(), tensor0(going).into());
            given.extend(carried.drain(..));
            given.extend(around.iter().cloned());
            let made = in_iteration(iteration as u64, || self.body.run(context.symbols, given))?;
            let mut made = made.into_iter();
            going =
                single(&*made.next().or_user_error("the body has no outputs")?, "the condition")?;
            for (shape, open) in first.iter().zip(&self.open) {
                let value = without_tdim(made.next().or_user_error("a carried value is missing")?)?;
                let (found, was) = (value.shape(), &**shape);
                let mut dims = found.iter().zip(was).zip(open);
                ensure!(
                    found.len() == was.len() && dims.all(|((a, b), open)| *open || a == b),
                    "iteration {iteration}: a carried value changes its shape from {was:?} to \
                     {found:?}"
                );
                carried.push(value);
            }
            for each in &mut scanned {
                each.push(without_tdim(made.next().or_user_error("an output is missing")?)?);
            }
            iteration += 1;
        }
        let mut outputs: TVec<TValue> = carried.into();
        for (output, fact) in outputs.iter().zip(&self.outputs) {
            check_fact(output, fact)?;
        }
        for (values, fact) in scanned.into_iter().zip(self.outputs.iter().skip(self.carried)) {
            let stacked = stack(values, fact, context.symbols)?.into_tvalue();
            check_fact(&stacked, fact)?;
            outputs.push(stacked);
        }
        Ok(outputs)
    }
}

/// Stacks the values of all iterations on a new first axis.
fn stack(values: Vec<TValue>, fact: &TypedFact, symbols: &SymbolValues) -> TractResult<Tensor> {
    let Some(first) = values.first() else {
        let dims = fact.shape.iter().skip(1).map(|dim| dim.eval(symbols).to_usize());
        let dims = dims.collect::<Result<Vec<usize>, _>>();
        let dims =
            dims.or_user_error("the sizes of scan outputs are not known after zero iterations")?;
        let shape: Vec<usize> = std::iter::once(0).chain(dims).collect();
        return Tensor::zero_dt(fact.datum_type, &shape);
    };
    let mut shape: TVec<usize> = first.shape().into();
    let same = values.iter().all(|value| value.shape() == first.shape());
    ensure!(same, "the scan outputs of the iterations have different shapes");
    shape.insert(0, values.len());
    volume(&shape)?;
    let each = values.iter().map(|value| {
        let mut value = value.clone().into_tensor();
        value.insert_axis(0)?;
        Ok(value)
    });
    let each = each.collect::<TractResult<Vec<Tensor>>>()?;
    Tensor::stack_tensors(0, &each)
}

impl TypedOp for LoopOp {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.clone())
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::{DatumType, Tensor};

    use crate::testing::{Case, case, graph, row, scalar, tensor};

    /// Adds the iteration number to the carried value while that is below 4.
    fn sums(iterations: Option<i64>, condition: Option<bool>) -> Case {
        let inputs = [("i", DatumType::I64), ("go", DatumType::Bool), ("sum", DatumType::I64)];
        let body = graph(&inputs, &["on", "next", "each"]).constant("limit", &scalar(4i64));
        let body = body.node("Add", &["sum", "i"], "next").node("Less", &["next", "limit"], "on");
        let body = body.node("Mul", &["next", "factor"], "each");
        let optional = |case: Case, input: Option<Tensor>| match input {
            Some(input) => case.input(input),
            None => case.missing(),
        };
        let case = case("Loop").graph("body", body).outputs(2);
        let case = optional(case, iterations.map(scalar));
        let case = optional(case, condition.map(scalar));
        case.input(scalar(0i64)).around("factor", scalar(10i64))
    }

    #[test]
    fn loop_ends_by_its_count_or_its_condition() {
        // 0, 1, 3, 6: the condition ends the loop after the fourth iteration.
        let all = [scalar(6i64), row(&[0i64, 10, 30, 60])];
        sums(Some(9), Some(true)).gives_all(&all);
        sums(None, Some(true)).gives_all(&all);
        sums(Some(9), None).gives_all(&all);
        sums(Some(2), Some(true)).gives_all(&[scalar(1i64), row(&[0i64, 10])]);
    }

    /// Appends the iteration number to the carried row, which may be longer than one row of numbers.
    fn grows(iterations: i64, first: Tensor) -> Case {
        let inputs = [("i", DatumType::I64), ("go", DatumType::Bool), ("row", DatumType::I64)];
        let body = graph(&inputs, &["on", "grown", "sum"]).constant("axis", &row(&[0i64]));
        let body = body.node("Identity", &["go"], "on").node("Unsqueeze", &["i", "axis"], "last");
        let body = body.node("Concat", &["row", "last"], "grown").last_int("axis", 0);
        let body = body.node("ReduceSum", &["grown"], "sum").last_int("keepdims", 0);
        case("Loop").graph("body", body).outputs(2).input(scalar(iterations)).missing().input(first)
    }

    #[test]
    fn carried_values_may_grow() {
        grows(3, row::<i64>(&[])).gives_all(&[row(&[0i64, 1, 2]), row(&[0i64, 1, 3])]);
        grows(2, row(&[7i64])).gives_all(&[row(&[7i64, 0, 1]), row(&[7i64, 8])]);
        grows(0, row(&[7i64])).gives_all(&[row(&[7i64]), row::<i64>(&[])]);
    }

    #[test]
    fn loop_without_iterations_returns_its_inputs_and_no_rows() {
        let none = [scalar(0i64), row::<i64>(&[])];
        sums(Some(0), Some(true)).gives_all(&none);
        sums(Some(9), Some(false)).gives_all(&none);
    }

    #[test]
    fn loop_stacks_scan_outputs_on_a_new_axis() {
        let inputs = [("i", DatumType::I64), ("go", DatumType::Bool), ("x", DatumType::F32)];
        let body = graph(&inputs, &["go", "twice", "twice"]).node("Add", &["x", "x"], "twice");
        let case = case("Loop").graph("body", body).outputs(2).input(scalar(2i64)).missing();
        let rows = tensor(&[2, 2], &[2f32, f32::NAN, 4.0, f32::NAN]);
        case.input(row(&[1f32, f32::NAN])).gives_all(&[row(&[4f32, f32::NAN]), rows]);
    }

    #[test]
    fn loop_refuses_a_carried_value_that_changes_its_type() {
        let inputs = [("i", DatumType::I64), ("go", DatumType::Bool), ("x", DatumType::F32)];
        let body = graph(&inputs, &["go", "same"]).node("Less", &["x", "x"], "same");
        let case = case("Loop").graph("body", body).input(scalar(2i64)).missing();
        case.input(row(&[1f32])).fails("");
    }
}
