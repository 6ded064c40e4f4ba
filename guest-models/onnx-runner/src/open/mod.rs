//! Plans for more than one shape. Dimensions that the host calls open become symbols, which are
//! made here and never come from names in the model. A plan is used only if its shapes were inferred
//! alike for other sizes; otherwise the model is prepared for exactly the shapes given.

mod arithmetic;
mod values;

use belljar_abi::{InputShape, OpenDim, SizeRange};
use onnx_ops::framework::assumptions::{self, Assumptions};
use onnx_ops::optimizer;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::SymbolValues;
use tract_onnx::tract_hir::infer::Factoid;

use crate::native;
use crate::prepare::PreparedInput;
pub(crate) use values::Computing;

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

/// Operators whose graphs the gate builds for sizes, or that tract plans separately.
const NOT_OPEN: &[&str] = &["Loop", "Scan", "If", "SequenceMap"];

/// Whether no node of the model is planned for exact sizes. Checked before the gate rewrites them.
pub(crate) fn is_supported(proto: &ModelProto) -> bool {
    let fits = |graph: &GraphProto| {
        graph.node.iter().all(|node| {
            !NOT_OPEN.contains(&&*node.op_type)
                && !node.op_type.contains("Sequence")
                && !node.op_type.contains("Optional")
        })
    };
    proto.graph.iter().all(fits) && proto.functions.is_empty()
}

/// A way to make symbols for the open dimensions.
pub(crate) struct Attempt {
    pub(crate) open: Vec<OpenDim>,
    /// Whether sizes that are multiples of [`STEP`] stay so.
    steps: bool,
}

/// Networks that halve an image several times and join the results need multiples of it.
const STEP: u64 = 32;

/// Maximum number of attempts. Each may take as long as the preparation for one shape.
const MAX_ATTEMPTS: usize = 6;

/// The ways to make symbols for the open dimensions: as given; one for each size, because exporters
/// give equal dimensions different names; each with multiples of a number; and the dimensions of
/// one size alone, because many models declare sizes as open that they need as they are.
pub(crate) fn attempts(shapes: &[InputShape], open: Vec<OpenDim>) -> Vec<Attempt> {
    if open.is_empty() {
        return Vec::new();
    }
    let size = |open: &OpenDim| {
        let shape = shapes.get(open.input as usize);
        shape.and_then(|shape| shape.dims.get(open.axis as usize)).copied().unwrap_or(0)
    };
    let mut sizes: Vec<u64> = Vec::new();
    let mut by_size = open.clone();
    for open in &mut by_size {
        let size = size(open);
        let at = sizes.iter().position(|other| *other == size).unwrap_or_else(|| {
            sizes.push(size);
            sizes.len() - 1
        });
        open.symbol = at as u32;
    }
    let alone = |wanted: u64| -> Vec<OpenDim> {
        let of_it = by_size.iter().filter(|open| size(open) == wanted);
        of_it.map(|open| OpenDim { symbol: 0, ..*open }).collect()
    };
    let with_steps = |open: Vec<OpenDim>| {
        let in_steps = open.iter().any(|open| size(open).is_multiple_of(STEP));
        let stepped = in_steps.then(|| Attempt { open: open.clone(), steps: true });
        [Some(Attempt { open, steps: false }), stepped].into_iter().flatten()
    };
    let mut attempts: Vec<Attempt> = with_steps(open.clone()).collect();
    if by_size != open {
        attempts.extend(with_steps(by_size.clone()));
    }
    if sizes.len() > 1 {
        let mut largest = sizes.clone();
        largest.sort_by_key(|size| std::cmp::Reverse(*size));
        attempts.extend(largest.into_iter().flat_map(|size| with_steps(alone(size))));
    }
    attempts.truncate(MAX_ATTEMPTS);
    attempts
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
            let size = *shapes[at].dims.get(axis)?;
            let step = if attempt.steps && size.is_multiple_of(STEP) { STEP } else { 1 };
            known.step = i64::try_from(step).ok()?;
            known.value = i64::try_from(size / step).ok()?;
            *dims.get_mut(axis)? = known.symbol.to_dim() * known.step;
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
    ) -> TractResult<OpenPlan> {
        let example: Vec<(Symbol, i64)> =
            self.symbols.iter().map(|size| (size.symbol.clone(), size.value)).collect();
        if example.iter().any(|(_, size)| *size > MAX_SIZE) {
            return Err(TractError::msg("a size is larger than those that plans are made for"));
        }
        let none = Assumptions::none(&example, MAX_SIZE);
        let (plan, assumed) = assumptions::under(none, || {
            let mut with_symbols = with_shapes(model, inputs, |at| self.shapes[at].clone())?;
            computing.infer(&mut with_symbols)?;
            check_not_empty(&with_symbols)?;
            let plan = optimizer::optimize(with_symbols.clone(), native::PASSES)?;
            Ok::<_, TractError>((with_symbols, plan))
        });
        let (with_symbols, plan) = plan?;
        self.check_shapes(&plan)?;
        let mut ranges: Vec<assumptions::SizeRange> =
            self.symbols.iter().filter_map(|size| assumed.range(&size.symbol)).collect();
        if ranges.iter().all(|range| range.min == range.max) {
            return Err(TractError::msg("the plan holds for these sizes only"));
        }
        let agrees = |values: SymbolValues| {
            let concrete = |at: usize| self.shapes[at].iter().map(|d| d.eval(&values)).collect();
            let mut concrete = with_shapes(model, inputs, concrete)?;
            concrete.analyse(false)?;
            match first_difference(&with_symbols, &concrete, &values) {
                Some(difference) => Err(TractError::msg(difference)),
                None => Ok(()),
            }
        };
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

    /// Checks that all shapes follow from the sizes of the inputs.
    fn check_shapes(&self, plan: &TypedModel) -> TractResult<()> {
        for node in &plan.nodes {
            for output in &node.outputs {
                let known = |dim: &TDim| {
                    let is_ours =
                        |symbol: &Symbol| self.symbols.iter().any(|ours| ours.symbol == *symbol);
                    dim.symbols().iter().all(is_ours)
                };
                if !output.fact.shape.iter().all(|dim| known(dim) && !broadcasts(dim)) {
                    let shape = &output.fact.shape;
                    let why =
                        format!("{node} has the shape {shape:?}, not one of the inputs' sizes");
                    return Err(TractError::msg(why));
                }
            }
        }
        Ok(())
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

/// The first shape of a model with symbols that is not that of a model with these sizes.
fn first_difference(
    symbolic: &InferenceModel,
    concrete: &InferenceModel,
    sizes: &SymbolValues,
) -> Option<String> {
    for (node, other) in symbolic.nodes.iter().zip(&concrete.nodes) {
        for (output, other) in node.outputs.iter().zip(&other.outputs) {
            let (shape, other) = (&output.fact.shape, &other.fact.shape);
            let same = match (shape.concretize(), other.concretize()) {
                (Some(shape), Some(other)) => {
                    let same = |(dim, other): (&TDim, &TDim)| {
                        dim.maybe_eval_to_i64(sizes) == other.as_i64()
                    };
                    shape.len() == other.len() && shape.iter().zip(&other).all(same)
                }
                _ => true,
            };
            if !same {
                return Some(format!("{node} has the shape {shape:?}, but {other:?} at {sizes:?}"));
            }
        }
    }
    None
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
