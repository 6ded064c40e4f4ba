//! Plans for more than one shape. Dimensions that the host calls open become symbols, which are
//! made here and never come from names in the model. A plan is used only if its shapes were inferred
//! alike for other sizes; otherwise the model is prepared for exactly the shapes given.

mod attempts;

use attempts::{Related, STEP};
use belljar_abi::{InputShape, SizeRange};
use onnx_ops::computed_sizes::Computing;
use onnx_ops::control_flow;
use onnx_ops::framework::assumptions::{self, Assumptions, Relation};
use onnx_ops::framework::inference::infer;
use onnx_ops::optimizer;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::SymbolValues;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::InferenceNode;

use crate::native;
use crate::prepare::PreparedInput;
pub(crate) use attempts::{Attempt, Attempts};

/// The symbols of the open dimensions.
pub(crate) struct Symbols {
    /// By number.
    symbols: Vec<OpenSize>,
    /// The shape of each input of the plan.
    pub(crate) shapes: Vec<TVec<TDim>>,
}

/// The size of open dimensions, as a multiple of a symbol.
struct OpenSize {
    symbol: Symbol,
    /// The factor: 1, unless the plan is only for multiples of it.
    step: i64,
    /// The value of the symbol in the given shapes.
    value: i64,
}

/// A plan for more than one shape.
pub(crate) struct OpenPlan {
    pub(crate) model: TypedModel,
    /// The sizes that each symbol may have.
    pub(crate) sizes: Vec<SizeRange>,
    /// The sizes of the symbols in the given shapes.
    pub(crate) example: SymbolValues,
}

/// The largest size of a symbol: products of two are far from the limits of 64 bits.
const MAX_SIZE: i64 = 1 << 30;

/// Whether no node of the model is planned for exact sizes: the gate removes sequences and optionals
/// for the lengths that they have. Checked before it does.
pub(crate) fn is_supported(proto: &ModelProto) -> bool {
    fn fits(node: &NodeProto) -> bool {
        let bodies = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        !node.op_type.contains("Sequence")
            && !node.op_type.contains("Optional")
            && bodies.flat_map(|body| &body.node).all(fits)
    }
    let in_functions = proto.functions.iter().flat_map(|function| &function.node);
    proto.graph.iter().flat_map(|graph: &GraphProto| &graph.node).chain(in_functions).all(fits)
}

/// Makes a symbol for each number, and the shapes of the inputs with them.
pub(crate) fn symbols(
    model: &InferenceModel,
    inputs: &[PreparedInput],
    shapes: &[InputShape],
    attempt: &Attempt,
) -> Option<Symbols> {
    let open = &attempt.open;
    let count = open.iter().map(|open| open.symbol as usize + 1).max()?;
    let new = || {
        let symbol = model.symbols.new_with_prefix("size");
        // tract rounds divisions only if it knows the sign.
        model.symbols.add_assertion(format!("{symbol}>=1")).ok()?;
        Some(OpenSize { symbol, step: 1, value: 0 })
    };
    let mut symbols: Vec<OpenSize> = (0..count).map(|_| new()).collect::<Option<_>>()?;
    let mut of_inputs = Vec::with_capacity(inputs.len());
    for input in inputs {
        let at = shapes.iter().position(|shape| shape.name == input.name)?;
        let mut dims: TVec<TDim> = shapes[at].dims.iter().map(|dim| dim.to_dim()).collect();
        for open in open.iter().filter(|open| open.input as usize == at) {
            let known = symbols.get_mut(open.symbol as usize)?;
            let axis = open.axis as usize;
            let size = open.symbol_size(*shapes[at].dims.get(axis)?)?;
            let step = if attempt.steps && size.is_multiple_of(STEP) { STEP } else { 1 };
            known.step = i64::try_from(step).ok()?;
            known.value = i64::try_from(size / step).ok()?;
            let more = i64::try_from(open.more).ok()?;
            *dims.get_mut(axis)? = known.symbol.to_dim() * known.step + more;
        }
        of_inputs.push(dims);
    }
    Some(Symbols { symbols, shapes: of_inputs })
}

impl Symbols {
    /// Values of the symbols, from those in the given shapes.
    fn values(&self, of: impl Fn(&OpenSize) -> i64) -> SymbolValues {
        let mut values = SymbolValues::default();
        for size in &self.symbols {
            values.set(&size.symbol, of(size));
        }
        values
    }

    /// The plan for a range of sizes.
    pub(crate) fn plan(
        &self,
        model: &InferenceModel,
        inputs: &[PreparedInput],
        computing: &Computing,
    ) -> Result<OpenPlan, Failed> {
        let example: Vec<(Symbol, i64)> =
            self.symbols.iter().map(|size| (size.symbol.clone(), size.value)).collect();
        if example.iter().any(|(_, size)| *size > MAX_SIZE) {
            return Err(failed("a size is larger than those that plans are made for"));
        }
        let none = Assumptions::none(&example, MAX_SIZE);
        let (plan, assumed) = assumptions::under(none, || {
            let mut with_symbols = with_shapes(model, inputs, |at| self.shapes[at].clone())?;
            computing.infer(&mut with_symbols)?;
            check_not_empty(&with_symbols)?;
            self.check_broadcasts(&with_symbols)?;
            let plan = optimizer::optimize_inferred(with_symbols.clone(), native::PASSES)?;
            Ok::<_, Failed>((with_symbols, plan))
        });
        let (with_symbols, plan) = plan.map_err(|failed| Failed {
            related: failed.related.or_else(|| self.related(assumed.relation()?)),
            ..failed
        })?;
        self.check_shapes(&plan)?;
        check_outputs(&with_symbols, &plan)?;
        let mut ranges: Vec<assumptions::SizeRange> =
            self.symbols.iter().filter_map(|size| assumed.range(&size.symbol)).collect();
        if ranges.iter().all(|range| range.min == range.max) {
            return Err(failed("the plan holds for these sizes only"));
        }
        let agrees = |values: SymbolValues| {
            let concrete = |at: usize| self.shapes[at].iter().map(|d| d.eval(&values)).collect();
            let mut concrete = with_shapes(model, inputs, concrete)?;
            infer(&mut concrete)?;
            match first_difference(&with_symbols, &concrete, &values) {
                Some(difference) => Err(TractError::msg(difference)),
                None => Ok(()),
            }
        };
        // A branch that cannot be inferred with symbols cannot be without them either.
        agrees(self.values(|size| size.value))?;
        // Sizes that no others are likely to be equal to. No number greater than one divides both of
        // two neighbours, so that a size that was taken for a multiple is found out.
        for more in [11, 12] {
            let larger = |size: &OpenSize| {
                let range = assumed.range(&size.symbol);
                range.map_or(size.value, |range| (2 * size.value + more).min(range.max))
            };
            agrees(self.values(larger))?;
        }
        let smallest = |more: i64| {
            self.values(|size| {
                let range = assumed.range(&size.symbol);
                range.map_or(size.value, |range| (range.min + more).min(size.value))
            })
        };
        if let Err(err) = agrees(smallest(0)) {
            // Many operators treat a dimension of 1 differently, because it is broadcast.
            log::info!("the smallest sizes are planned separately: {err:#}");
            let next = agrees(smallest(1)).is_ok();
            for (range, size) in ranges.iter_mut().zip(&self.symbols) {
                range.min = if next { (range.min + 1).min(size.value) } else { size.value };
            }
        }
        let unsigned = |size: i64| u64::try_from(size).unwrap_or(0);
        let sizes = ranges.iter().zip(&self.symbols).map(|(range, size)| SizeRange {
            min: unsigned(range.min * size.step),
            max: unsigned(range.max * size.step),
            step: unsigned(size.step),
        });
        let example = self.values(|size| size.value);
        Ok(OpenPlan { model: plan, sizes: sizes.collect(), example })
    }

    /// The numbers of two symbols.
    fn related(&self, relation: &Relation) -> Option<Related> {
        let number = |wanted: &Symbol| {
            let at = self.symbols.iter().position(|size| size.symbol == *wanted)?;
            u32::try_from(at).ok()
        };
        let [one, other] = &relation.symbols;
        Some(Related { symbols: [number(one)?, number(other)?], equal: relation.equal })
    }

    /// Two symbols whose sizes must be related for a broadcast to be of equal dimensions.
    fn broadcast(&self, dim: &TDim) -> Option<Related> {
        let TDim::Broadcast(terms) = dim else {
            let (TDim::Add(terms) | TDim::Mul(terms) | TDim::Min(terms) | TDim::Max(terms)) = dim
            else {
                return None;
            };
            return terms.iter().find_map(|term| self.broadcast(term));
        };
        let example = self.values(|size| size.value);
        let sizes = terms.iter().map(|term| term.maybe_eval_to_i64(&example));
        let sizes = sizes.collect::<Option<Vec<i64>>>()?;
        let symbols: Vec<Symbol> = dim.symbols().into_iter().collect();
        let equal = sizes.windows(2).all(|pair| pair[0] == pair[1]);
        let symbols = <[Symbol; 2]>::try_from(symbols).ok()?;
        self.related(&Relation { symbols, equal })
    }

    /// Checks that no inferred dimension depends on how two sizes compare, in bodies too.
    fn check_broadcasts(&self, model: &InferenceModel) -> Result<(), Failed> {
        for node in &model.nodes {
            for output in &node.outputs {
                let dims = output.fact.shape.dims();
                let dims = dims.filter_map(Factoid::concretize);
                if let Some(dim) = dims.into_iter().find(broadcasts) {
                    let why = format!("{node} broadcasts dimensions of different sizes to {dim}");
                    return Err(Failed {
                        error: TractError::msg(why),
                        related: self.broadcast(&dim),
                    });
                }
            }
            let facts = node.inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.clone()));
            let facts = facts.collect::<TractResult<Vec<InferenceFact>>>()?;
            // One that fails may do so because of such a dimension.
            for (body, _) in control_flow::inferred_bodies(node, &facts).into_iter().flatten() {
                self.check_broadcasts(body)?;
            }
        }
        Ok(())
    }

    /// Checks that no dimension depends on how two sizes compare.
    fn check_shapes(&self, plan: &TypedModel) -> Result<(), Failed> {
        for node in &plan.nodes {
            for output in &node.outputs {
                let shape = &output.fact.shape;
                if shape.iter().any(broadcasts) {
                    let why =
                        format!("{node} broadcasts dimensions of different sizes to {shape:?}");
                    let related = shape.iter().find_map(|dim| self.broadcast(dim));
                    return Err(Failed { error: TractError::msg(why), related });
                }
            }
        }
        Ok(())
    }
}

/// Why an attempt failed, and the two sizes on whose relation it depends, if that is why.
pub(crate) struct Failed {
    pub(crate) error: TractError,
    pub(crate) related: Option<Related>,
}

fn failed(why: &'static str) -> Failed {
    TractError::msg(why).into()
}

impl From<TractError> for Failed {
    fn from(error: TractError) -> Failed {
        Failed { error, related: None }
    }
}

/// A copy of the model with these shapes of its inputs.
fn with_shapes(
    model: &InferenceModel,
    inputs: &[PreparedInput],
    shape: impl Fn(usize) -> TVec<TDim>,
) -> TractResult<InferenceModel> {
    let mut model = model.clone();
    for (at, input) in inputs.iter().enumerate() {
        model.set_input_fact(at, InferenceFact::dt_shape(input.dtype, shape(at)))?;
    }
    Ok(model)
}

/// Refuses tensors that are empty whatever the symbols are: tract folds them to constants, with the
/// symbols as 1.
fn check_not_empty(model: &InferenceModel) -> TractResult<()> {
    for node in &model.nodes {
        for output in &node.outputs {
            let Some(shape) = output.fact.shape.concretize() else { continue };
            let is_empty = shape.iter().any(|dim| dim.as_i64() == Some(0));
            if is_empty && shape.iter().any(|dim| dim.as_i64().is_none()) {
                let why = format!("{node} is empty and has the shape {shape:?}");
                return Err(TractError::msg(why));
            }
        }
    }
    Ok(())
}

/// Checks that the outputs of a plan have the shapes that were inferred. Folding may lose symbols.
fn check_outputs(inferred: &InferenceModel, plan: &TypedModel) -> TractResult<()> {
    for (outlet, planned) in inferred.output_outlets()?.iter().zip(plan.output_outlets()?) {
        let Some(shape) = inferred.outlet_fact(*outlet)?.shape.concretize() else { continue };
        let planned = &plan.outlet_fact(*planned)?.shape;
        if planned.rank() != shape.len() || planned.iter().zip(&shape).any(|(a, b)| a != b) {
            let why = format!("an output has the shape {planned:?}, but {shape:?} was inferred");
            return Err(TractError::msg(why));
        }
    }
    Ok(())
}

/// The first shape of a model with symbols that is not that of a model with these sizes.
fn first_difference(
    symbolic: &InferenceModel,
    concrete: &InferenceModel,
    sizes: &SymbolValues,
) -> Option<String> {
    for (node, other) in symbolic.nodes.iter().zip(&concrete.nodes) {
        if let Some(difference) = difference_in_bodies((symbolic, node), (concrete, other), sizes) {
            return Some(difference);
        }
        for (output, other) in node.outputs.iter().zip(&other.outputs) {
            let (shape, other) = (&output.fact.shape, &other.fact.shape);
            let same = match (shape.concretize(), other.concretize()) {
                (Some(shape), Some(other)) => {
                    let same = |(dim, other): (&TDim, &TDim)| {
                        dim.maybe_eval_to_i64(sizes) == other.as_i64()
                    };
                    shape.len() == other.len() && shape.iter().zip(&other).all(same)
                }
                // A plan for these sizes knows more, and its kernels are faster.
                (None, Some(_)) => false,
                (_, None) => true,
            };
            if !same {
                return Some(format!("{node} has the shape {shape:?}, but {other:?} at {sizes:?}"));
            }
        }
    }
    None
}

/// The first difference in the graphs of a node.
fn difference_in_bodies(
    (symbolic, node): (&InferenceModel, &InferenceNode),
    (concrete, other): (&InferenceModel, &InferenceNode),
    sizes: &SymbolValues,
) -> Option<String> {
    let facts = |model: &InferenceModel, node: &InferenceNode| {
        let facts = node.inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.clone()));
        facts.collect::<TractResult<Vec<InferenceFact>>>()
    };
    let bodies = control_flow::inferred_bodies(node, &facts(symbolic, node).ok()?);
    if bodies.is_empty() {
        return None;
    }
    let others = facts(concrete, other).and_then(|f| control_flow::infer_bodies(other, &f));
    let others = match others {
        Ok(others) => others,
        Err(err) => return Some(format!("{node} cannot be inferred at {sizes:?}: {err:#}")),
    };
    let pairs = bodies.into_iter().zip(&others);
    let mut pairs = pairs.filter_map(|(body, other)| body.zip(other.as_ref()));
    pairs.find_map(|((body, fails), other)| match (fails, other) {
        (false, Ok(other)) => first_difference(body, other, sizes),
        (true, Err(_)) => None,
        (true, Ok(_)) => Some(format!("a graph of {node} can be inferred only without symbols")),
        (false, Err(err)) => Some(format!("{node} cannot be inferred at {sizes:?}: {err:#}")),
    })
}

/// Whether a dimension is the result of broadcasting sizes that may differ.
fn broadcasts(dim: &TDim) -> bool {
    match dim {
        TDim::Broadcast(_) => true,
        TDim::Add(terms) | TDim::Mul(terms) | TDim::Min(terms) | TDim::Max(terms) => {
            terms.iter().any(broadcasts)
        }
        TDim::MulInt(_, of) | TDim::Div(of, _) => broadcasts(of),
        TDim::Sym(_) | TDim::Val(_) => false,
        TDim::Ge(..) | TDim::Eq(..) => true,
    }
}
