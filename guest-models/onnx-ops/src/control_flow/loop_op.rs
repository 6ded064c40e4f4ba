//! `Loop`: a body that is run as often as a number and a condition say, both known in advance or not.
//! What it carries from one round to the next keeps its element type and shape; what each round
//! leaves behind is stacked. Nothing bounds the rounds but the limits of the run.

use std::collections::HashMap;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
use tract_onnx::tract_hir::internal::*;

use super::Built;
use super::own::volume;

pub(super) fn register(registry: &mut OnnxOpRegister) {
    registry.insert("Loop", build);
}

fn build(context: &ParsingContext, node: &NodeProto) -> Built {
    let parsed = context.parse_graph(node.get_attr("body")?)?;
    let given = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    let carried = node.input.len().saturating_sub(2);
    let named = node.input.iter().skip(2).all(|name| !name.is_empty());
    ensure!(named, "a carried value is missing");
    let op = Loop {
        body: parsed.model,
        counted: given(0),
        conditional: given(1),
        carried,
        outputs: node.output.iter().filter(|name| !name.is_empty()).count(),
    };
    ensure!(op.outputs == node.output.len() && op.outputs >= carried, "an output has no name");
    Ok((Box::new(op), parsed.unresolved_inputs))
}

/// The inputs are the number of rounds and the condition, where they are given, what is carried, and
/// what the body reads from around it. Those of the body are the round, the condition, what is
/// carried, and what it reads from around it.
#[derive(Clone, Debug)]
struct Loop {
    body: InferenceModel,
    counted: bool,
    conditional: bool,
    carried: usize,
    outputs: usize,
}

super::only_until_translated!(Loop);

/// What is known of a value that will be another one in the next round. Shapes that tract computes
/// with are integers like any other.
fn varying(fact: &InferenceFact) -> InferenceFact {
    let mut fact = fact.clone();
    fact.value = GenericFactoid::Any;
    if fact.datum_type.concretize() == Some(TDim::datum_type()) {
        fact.datum_type = i64::datum_type().into();
    }
    fact
}

impl Loop {
    /// How many of the inputs come before what is carried.
    fn before(&self) -> usize {
        usize::from(self.counted) + usize::from(self.conditional)
    }

    /// Tells the body what its inputs are.
    fn set_inputs(&mut self, inputs: &[InferenceFact]) -> TractResult<()> {
        let scalar =
            |dtype| InferenceFact::dt_shape::<ShapeFactoid>(dtype, ShapeFactoid::closed(tvec!()));
        let read = inputs.get(self.before()..).context("an input is missing")?;
        let wanted = self.body.input_outlets()?.len();
        ensure!(read.len() + 2 == wanted, "a body of {wanted} inputs for {} values", read.len());
        self.body.set_input_fact(0, scalar(i64::datum_type()))?;
        self.body.set_input_fact(1, scalar(bool::datum_type()))?;
        for (at, fact) in read.iter().enumerate() {
            let fact = if at < self.carried { varying(fact) } else { fact.clone() };
            self.body.set_input_fact(at + 2, fact)?;
        }
        Ok(())
    }

    fn body_outputs(&self) -> TractResult<Vec<InferenceFact>> {
        let outlets = self.body.output_outlets()?;
        let wanted = self.outputs + 1;
        ensure!(outlets.len() == wanted, "a body of {} outputs, not {wanted}", outlets.len());
        outlets.iter().map(|outlet| Ok(self.body.outlet_fact(*outlet)?.clone())).collect()
    }
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
        analysed.set_inputs(&inputs)?;
        analysed.body.analyse(false)?;
        let made = analysed.body_outputs()?;
        let mut facts = tvec!();
        for (at, known) in outputs.iter().enumerate() {
            let fact = if at < self.carried {
                varying(&inputs[self.before() + at])
            } else {
                stacked(&made[at + 1])
            };
            facts.push(known.unify(&fact)?);
        }
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
        let mut typed = self.clone();
        typed.set_inputs(&facts)?;
        let body = crate::prepare::optimize(typed.body)?;
        let mut outputs = tvec!();
        for at in 0..self.outputs {
            let made = body.output_fact(at + 1)?.without_value();
            let dtype = if made.datum_type == TDim::datum_type() {
                i64::datum_type()
            } else {
                made.datum_type
            };
            let mut fact = dtype.fact(made.shape.clone());
            if at < self.carried {
                let first = target.outlet_fact(inputs[self.before() + at])?;
                let kept = kept(first, &fact);
                ensure!(kept, "a carried value that changes its type or shape is not implemented");
                fact = dtype.fact(first.shape.clone());
            } else {
                let rounds = target.symbols.new_with_prefix("rounds").to_dim();
                let dims = std::iter::once(rounds).chain(made.shape.iter().cloned());
                fact = dtype.fact(dims.collect::<TVec<TDim>>());
            }
            outputs.push(fact);
        }
        let op = Rounds {
            body: body.into_runnable()?,
            counted: self.counted,
            conditional: self.conditional,
            carried: self.carried,
            outputs,
        };
        target.wire_node(&*node.name, op, &inputs)
    }

    as_op!();
}

/// Whether a carried value can be what it was first; sizes that are not known yet are looked at in
/// each round.
fn kept(first: &TypedFact, made: &TypedFact) -> bool {
    let of_first = match first.datum_type {
        dtype if dtype == TDim::datum_type() => i64::datum_type(),
        dtype => dtype,
    };
    let dims = first.shape.iter().zip(made.shape.iter());
    let known = |(a, b): (&TDim, &TDim)| match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    of_first == made.datum_type && first.rank() == made.rank() && dims.map(known).all(|same| same)
}

/// What the values of all rounds are together, on a new first axis.
fn stacked(each: &InferenceFact) -> InferenceFact {
    let mut fact = InferenceFact::default();
    fact.datum_type = varying(each).datum_type;
    if let Some(rank) = each.shape.rank().concretize() {
        let dims = (0..rank as usize).map(|axis| each.shape.dim(axis).unwrap_or_default());
        let dims = std::iter::once(GenericFactoid::Any).chain(dims);
        fact.shape = ShapeFactoid::closed(dims.collect());
    }
    fact
}

#[derive(Clone, Debug)]
struct Rounds {
    body: Arc<TypedRunnableModel>,
    counted: bool,
    conditional: bool,
    carried: usize,
    outputs: TVec<TypedFact>,
}

impl PartialEq for Rounds {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for Rounds {}

impl Op for Rounds {
    fn name(&self) -> StaticName {
        "Loop".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

/// A value with integers for shapes.
fn plain(value: TValue) -> TractResult<TValue> {
    if value.datum_type() != TDim::datum_type() {
        return Ok(value);
    }
    Ok(value.cast_to::<i64>()?.into_owned().into_tvalue())
}

/// The one element of a number or a condition.
fn one<T: Datum + Copy>(value: &Tensor, what: &str) -> TractResult<T> {
    ensure!(value.len() == 1, "{what} has {} elements", value.len());
    value.cast_to_scalar::<T>()
}

impl EvalOp for Rounds {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().context("an input is missing");
        let most: Option<i64> =
            if self.counted { Some(one(&*next()?, "the number of rounds")?) } else { None };
        let mut going: bool =
            if self.conditional { one(&*next()?, "the condition")? } else { true };
        let mut carried: Vec<TValue> =
            (0..self.carried).map(|_| plain(next()?)).collect::<TractResult<_>>()?;
        let around: Vec<TValue> = inputs.collect();
        let first: Vec<TVec<usize>> = carried.iter().map(|value| value.shape().into()).collect();
        let mut left: Vec<Vec<TValue>> = vec![Vec::new(); self.outputs.len() - self.carried];
        let mut round = 0i64;
        while going && most.is_none_or(|most| round < most) {
            let mut given: TVec<TValue> = tvec!(tensor0(round).into(), tensor0(going).into());
            given.extend(carried.drain(..));
            given.extend(around.iter().cloned());
            let mut made = self.body.run(given)?.into_iter();
            going = one(&*made.next().context("a body without outputs")?, "the condition")?;
            for shape in &first {
                let value = plain(made.next().context("a carried value is missing")?)?;
                let (found, was) = (value.shape(), &**shape);
                ensure!(
                    found == was,
                    "round {round}: a carried value of the shape {was:?} becomes {found:?}"
                );
                carried.push(value);
            }
            for each in &mut left {
                each.push(plain(made.next().context("an output is missing")?)?);
            }
            round += 1;
        }
        let mut outputs: TVec<TValue> = carried.into();
        for (values, fact) in left.into_iter().zip(self.outputs.iter().skip(self.carried)) {
            outputs.push(stack(values, fact)?.into_tvalue());
        }
        Ok(outputs)
    }
}

/// The values of all rounds on a new first axis.
fn stack(values: Vec<TValue>, fact: &TypedFact) -> TractResult<Tensor> {
    let Some(first) = values.first() else {
        let dims = fact.shape.iter().skip(1).map(|dim| dim.to_usize());
        let dims = dims.collect::<Result<Vec<usize>, _>>();
        let dims = dims.context("of no rounds at all the sizes are not known")?;
        let shape: Vec<usize> = std::iter::once(0).chain(dims).collect();
        return Tensor::zero_dt(fact.datum_type, &shape);
    };
    let mut shape: TVec<usize> = first.shape().into();
    let same = values.iter().all(|value| value.shape() == first.shape());
    ensure!(same, "what rounds leave behind has several shapes");
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

impl TypedOp for Rounds {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.clone())
    }

    as_op!();
}
