//! Operators that this crate computes: a trait with one function that infers the outputs and one
//! that computes them. Both get the inputs at the positions that ONNX gives them. Nothing relies on
//! what a model declares: the shapes of the tensors themselves are checked.

use std::fmt::Debug;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::internal::*;

use crate::framework::assumptions;
use crate::framework::deferred;
use crate::framework::errors::ensure;
use crate::framework::facts::{InputFact, OutputFact, with_dims};
use crate::framework::quantized::Quantized;

/// An operator that this crate computes.
pub(crate) trait Operator: Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Infers the outputs, or fails with a message for the user.
    fn outputs(&self, inputs: &[Option<InputFact>]) -> TractResult<TVec<OutputFact>>;

    /// Computes the outputs. Shapes that `outputs` checked are valid here; values are valid only if
    /// they were known then.
    fn compute(&self, inputs: &[Option<&Tensor>]) -> TractResult<TVec<Tensor>>;

    /// How its weights are quantized, if the host can restore them.
    fn quantized(&self) -> Option<Quantized> {
        None
    }

    /// The operator with some of its constant inputs in the layout of the host's kernels, and the
    /// positions of those inputs, which it does not read any more.
    fn packed(
        &self,
        _constants: &[Option<&Arc<Tensor>>],
    ) -> Option<(Arc<dyn Operator>, Vec<usize>)> {
        None
    }

    /// Whether it draws random numbers. Then it is computed in runs only, never before them.
    fn draws(&self) -> bool {
        false
    }
}

/// Whether an operator of this crate draws random numbers.
pub(crate) fn draws(op: &dyn TypedOp) -> bool {
    op.downcast_ref::<Computed>().is_some_and(|op| op.expansion.op.draws())
}

/// Brings constant inputs of operators of this crate into the layout of the host's kernels. The model
/// must be complete, because its shapes are not inferred again.
pub fn pack(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let Some(computed) = node.op_as::<Computed>() else { continue };
        let facts = node.inputs.iter().map(|input| model.outlet_fact(*input));
        let facts = facts.collect::<TractResult<Vec<_>>>()?;
        let constants =
            computed.expansion.by_position(facts.iter().map(|fact| fact.konst.as_ref()));
        let constants: Vec<_> = constants.into_iter().map(Option::flatten).collect();
        let Some((op, dropped)) = computed.expansion.op.packed(&constants) else { continue };
        let mut expansion = OperatorExpansion { op, ..computed.expansion.clone() };
        let mut inputs = expansion.by_position(node.inputs.clone());
        for at in dropped {
            expansion.present[at] = false;
            inputs[at] = None;
        }
        let packed = Computed { expansion, facts: computed.facts.clone() };
        reconnect(model, id, inputs.into_iter().flatten().collect());
        model.nodes[id].op = Box::new(packed);
    }
    Ok(())
}

/// Replaces the inputs of a node, and frees constants that have no readers left.
fn reconnect(model: &mut TypedModel, id: usize, inputs: Vec<OutletId>) {
    let before = std::mem::replace(&mut model.nodes[id].inputs, inputs.clone());
    for outlet in &before {
        let successors = &mut model.nodes[outlet.node].outputs[outlet.slot].successors;
        successors.retain(|successor| successor.node != id);
    }
    for (slot, outlet) in inputs.iter().enumerate() {
        let successors = &mut model.nodes[outlet.node].outputs[outlet.slot].successors;
        successors.push(InletId::new(id, slot));
    }
    for outlet in before {
        let is_output = model.outputs.contains(&outlet);
        let node = &mut model.nodes[outlet.node];
        let unused = node.outputs.iter().all(|output| output.successors.is_empty()) && !is_output;
        if unused
            && node.op_is::<Const>()
            && let Ok(nothing) = Const::new(tensor1::<u8>(&[]).into_arc_tensor())
            && let Ok(fact) = TypedFact::try_from(Arc::clone(nothing.val()))
        {
            node.outputs[outlet.slot].fact = fact;
            node.op = Box::new(nothing);
        }
    }
}

/// How the weights of an operator of this crate are quantized, and where each input that ONNX gives
/// it is among those that are present.
pub fn quantized(op: &dyn TypedOp) -> Option<(Quantized, Vec<Option<usize>>)> {
    let expansion = &op.downcast_ref::<Computed>()?.expansion;
    let mut next = 0..;
    let place = |present: &bool| if *present { next.next() } else { None };
    Some((expansion.op.quantized()?, expansion.present.iter().map(place).collect()))
}

/// An operator in the form that tract's registry expects.
pub(crate) fn built<O: Operator>(
    op: O,
    node: &NodeProto,
) -> crate::framework::upstream::BuildResult {
    Ok((expand(expansion(op, node)), vec![]))
}

/// An operator as an expansion, of which another expansion can be a part.
pub(crate) fn expansion<O: Operator>(op: O, node: &NodeProto) -> OperatorExpansion {
    let present = node.input.iter().map(|name| !name.is_empty()).collect();
    let named: TVec<bool> = node.output.iter().map(|name| !name.is_empty()).collect();
    OperatorExpansion { op: Arc::new(op), present, named }
}

/// Adds an operator to a typed model.
pub(crate) fn wire_operator<O: Operator>(
    op: O,
    node: &NodeProto,
    prefix: &str,
    model: &mut TypedModel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    expansion(op, node).wire(prefix, model, inputs)
}

/// Adapts any operator to tract. It is not generic, so that it is compiled only once.
#[derive(Clone, Debug)]
pub(crate) struct OperatorExpansion {
    op: Arc<dyn Operator>,
    /// Which inputs are present.
    present: TVec<bool>,
    /// Which outputs have names. tract knows no others.
    named: TVec<bool>,
}

impl PartialEq for OperatorExpansion {
    fn eq(&self, other: &OperatorExpansion) -> bool {
        Arc::ptr_eq(&self.op, &other.op)
            && (&self.present, &self.named) == (&other.present, &other.named)
    }
}

impl Eq for OperatorExpansion {}

impl OperatorExpansion {
    /// Another operator for the same node, which does not get one of its inputs.
    pub(crate) fn without_input<O: Operator>(&self, op: O, at: usize) -> OperatorExpansion {
        let mut present = self.present.clone();
        present[at] = false;
        OperatorExpansion { op: Arc::new(op), present, named: self.named.clone() }
    }

    /// The inputs at the positions that ONNX gives them.
    pub(crate) fn by_position<T>(&self, inputs: impl IntoIterator<Item = T>) -> Vec<Option<T>> {
        let mut inputs = inputs.into_iter();
        self.present.iter().map(|present| if *present { inputs.next() } else { None }).collect()
    }

    fn output_count(&self) -> usize {
        self.named.iter().filter(|named| **named).count()
    }

    /// The outputs that have names.
    pub(crate) fn named_outputs<T>(&self, outputs: TVec<T>) -> TractResult<TVec<T>> {
        let named = self.named.iter().zip(outputs).filter(|(named, _)| **named);
        let chosen: TVec<T> = named.map(|(_, output)| output).collect();
        ensure!(
            chosen.len() == self.output_count(),
            "the node names more outputs than the operator has"
        );
        Ok(chosen)
    }

    fn output_facts(&self, inputs: Vec<InputFact>) -> TractResult<TVec<OutputFact>> {
        let inputs = self.by_position(inputs);
        let mut outputs = self.op.outputs(&inputs)?;
        let unknown = |(_, dims): &OutputFact| dims.iter().any(Option::is_none);
        if outputs.iter().any(unknown)
            && let Some(found) = symbolic_outputs(&*self.op, &inputs)?
        {
            outputs = found;
        }
        self.named_outputs(outputs)
    }
}

impl OperatorExpansion {
    /// The ranks of the outputs, if they follow from those of the inputs, whatever the sizes.
    fn ranks(&self, dtypes: &[DatumType], ranks: &[i64]) -> Vec<usize> {
        let symbols = SymbolScope::default();
        let any = |rank: &i64| (0..*rank).map(|_| symbols.new_with_prefix("any").to_dim());
        let each = dtypes.iter().zip(ranks);
        let inputs = each.map(|(dtype, rank)| InputFact {
            dtype: *dtype,
            shape: any(rank).collect(),
            value: None,
        });
        // A failure may be due to the sizes, which are checked where they are known.
        let inputs = self.by_position(inputs);
        let outputs = self.op.outputs(&inputs).and_then(|outputs| self.named_outputs(outputs));
        outputs.map(|all| all.iter().map(|(_, dims)| dims.len()).collect()).unwrap_or_default()
    }
}

/// The element types and sizes of outputs.
type SizedOutputs = TVec<(DatumType, TVec<i64>)>;

/// The outputs for inputs with symbols, from those for the sizes of the example and some others, if
/// each dimension grows evenly with each of the inputs' open dimensions. A plan with symbols
/// compares the shapes of all tensors with these in each run, so another relation is found out then.
fn symbolic_outputs(
    op: &dyn Operator,
    inputs: &[Option<InputFact>],
) -> TractResult<Option<TVec<OutputFact>>> {
    let mut open: Vec<TDim> = Vec::new();
    for dim in inputs.iter().flatten().flat_map(|input| &input.shape) {
        if dim.as_i64().is_none() && !open.contains(dim) {
            open.push(dim.clone());
        }
    }
    let sizes = open.iter().map(|dim| i64::try_from(assumptions::size(dim)?).ok());
    let sizes: Option<Vec<i64>> = sizes.collect();
    let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) else { return Ok(None) };
    let at = |sizes: &[i64]| -> TractResult<Option<SizedOutputs>> {
        let sized = |dim: &TDim| match open.iter().position(|other| other == dim) {
            Some(at) => sizes[at].to_dim(),
            None => dim.clone(),
        };
        let of = |input: &Option<InputFact>| {
            let input = input.as_ref()?;
            Some(InputFact { shape: input.shape.iter().map(sized).collect(), ..input.clone() })
        };
        let inputs: Vec<Option<InputFact>> = inputs.iter().map(of).collect();
        let numbers = |(dtype, dims): OutputFact| {
            let dims = dims.into_iter().map(|dim| dim?.as_i64()).collect::<Option<TVec<i64>>>()?;
            Some((dtype, dims))
        };
        Ok(op.outputs(&inputs)?.into_iter().map(numbers).collect())
    };
    let Some(base) = at(&sizes)? else { return Ok(None) };
    let same = |other: &SizedOutputs| {
        let mut pairs = base.iter().zip(other);
        base.len() == other.len() && pairs.all(|(a, b)| a.0 == b.0 && a.1.len() == b.1.len())
    };
    // By how much each dimension of the outputs grows with each open dimension.
    let mut slopes: Vec<SizedOutputs> = Vec::with_capacity(open.len());
    let with = |which: usize, size: i64| {
        let mut sizes = sizes.clone();
        sizes[which] = size;
        sizes
    };
    for (which, size) in sizes.iter().enumerate() {
        // Steps that operators with strides or blocks may need.
        let larger = [1, 2, 4, 8, 12, 16, 32, sizes[which]]
            .into_iter()
            .find_map(|step| Some((step, at(&with(which, size + step)).ok()??)));
        let Some((step, mut larger)) = larger.filter(|(_, larger)| same(larger)) else {
            return Ok(None);
        };
        for (larger, base) in larger.iter_mut().zip(&base) {
            for (larger, base) in larger.1.iter_mut().zip(&base.1) {
                let growth = *larger - base;
                if growth % step != 0 {
                    return Ok(None);
                }
                *larger = growth / step;
            }
        }
        slopes.push(larger);
    }
    // Sizes grow with those of the inputs, so a dimension that is the same at both ends of a range
    // is the same within it, even if nothing in the plan compares it.
    let agrees = |which: usize, size: i64| {
        let Ok(Some(outputs)) = at(&with(which, size)) else { return false };
        let more = size - sizes[which];
        same(&outputs)
            && outputs.iter().zip(&base).zip(&slopes[which]).all(|((output, base), slope)| {
                let mut each = output.1.iter().zip(&base.1).zip(&slope.1);
                each.all(|((output, base), slope)| *output == base + slope * more)
            })
    };
    for (which, dim) in open.iter().enumerate() {
        let answered = |size: &i64| at(&with(which, *size)).is_ok_and(|outputs| outputs.is_some());
        let highest = [29, 24, 20, 16, 12, 10].map(|bits| 1i64 << bits);
        let highest = highest.into_iter().find(answered).unwrap_or(sizes[which]);
        let lowest = (1..=64).find(answered).unwrap_or(sizes[which]);
        let in_range = assumptions::at_most(&lowest.to_dim(), dim).unwrap_or(false)
            && assumptions::at_most(dim, &highest.to_dim()).unwrap_or(false);
        if !in_range || !agrees(which, lowest) || !agrees(which, highest) {
            return Ok(None);
        }
    }
    let fact = |output: usize| {
        let (dtype, dims) = &base[output];
        let dims = dims.iter().enumerate().map(|(axis, size)| {
            let mut sum = size.to_dim();
            for ((dim, size), slope) in open.iter().zip(&sizes).zip(&slopes) {
                sum += (dim.clone() - *size) * slope[output].1[axis];
            }
            sum.reduce()
        });
        with_dims(*dtype, dims.collect::<Vec<_>>())
    };
    Ok(Some((0..base.len()).map(fact).collect()))
}

impl Expansion for OperatorExpansion {
    fn name(&self) -> StaticName {
        self.op.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.output_count())
    }

    fn runs_out_of_plan(&self) -> bool {
        !self.op.draws()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_output_arity(outputs, self.output_count())?;
        let count = self.present.iter().filter(|present| **present).count();
        check_input_arity(inputs, count)?;
        let agree = |s: &mut Solver<'r>, inputs: Vec<InputFact>| {
            for (at, (dtype, dims)) in self.output_facts(inputs)?.into_iter().enumerate() {
                s.equals(&outputs[at].datum_type, dtype)?;
                s.equals(&outputs[at].rank, dims.len() as i64)?;
                for (axis, dim) in dims.into_iter().enumerate() {
                    if let Some(dim) = dim {
                        s.equals(&outputs[at].shape[axis], dim)?;
                    }
                }
            }
            Ok(())
        };
        s.given_all(inputs.iter().map(|input| &input.datum_type), move |s, dtypes| {
            let types = dtypes.clone();
            s.given_all(inputs.iter().map(|input| &input.rank), move |s, ranks| {
                for (at, rank) in self.ranks(&types, &ranks).into_iter().enumerate() {
                    s.equals(&outputs[at].rank, rank as i64)?;
                }
                Ok(())
            })?;
            s.given_all(inputs.iter().map(|input| &input.shape), move |s, shapes| {
                let each = dtypes.iter().zip(&shapes);
                let known: Vec<InputFact> = each
                    .map(|(dtype, shape)| InputFact {
                        dtype: *dtype,
                        shape: shape.clone(),
                        value: None,
                    })
                    .collect();
                agree(s, known.clone())?;
                // Values may determine dimensions that shapes do not.
                s.given_all(inputs.iter().skip(1).map(|input| &input.value), move |s, values| {
                    let mut known = known.clone();
                    for (input, value) in known.iter_mut().skip(1).zip(values) {
                        input.value = Some(value);
                    }
                    agree(s, known)
                })
            })
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut known = Vec::with_capacity(inputs.len());
        for input in inputs {
            let fact = model.outlet_fact(*input)?;
            let (dtype, shape) = (fact.datum_type, fact.shape.to_tvec());
            known.push(InputFact { dtype, shape, value: fact.konst.clone() });
        }
        let mut facts = tvec!();
        for (dtype, dims) in self.output_facts(known)? {
            let dims = dims.into_iter().map(|dim| match dim {
                Some(dim) => dim,
                None => model.symbols.new_with_prefix("deferred").to_dim(),
            });
            facts.push(dtype.fact(dims.collect::<TVec<TDim>>()));
        }
        model.wire_node(prefix, Computed { expansion: self.clone(), facts }, inputs)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Computed {
    expansion: OperatorExpansion,
    facts: TVec<TypedFact>,
}

impl Op for Computed {
    fn name(&self) -> StaticName {
        self.expansion.op.name().into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for Computed {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        match self.expansion.op.draws() {
            true => Ok(None),
            false => self.eval(&EvalContext::out_of_plan(), inputs).map(Some),
        }
    }

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let placed = self.expansion.by_position(inputs.iter().map(|input| &**input));
        let outputs = self.expansion.named_outputs(self.expansion.op.compute(&placed)?)?;
        outputs
            .iter()
            .zip(&self.facts)
            .try_for_each(|(output, fact)| deferred::check_fact(output, fact))?;
        Ok(outputs.into_iter().map(Tensor::into_tvalue).collect())
    }
}

impl TypedOp for Computed {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}
