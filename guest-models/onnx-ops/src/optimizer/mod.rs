//! Optimizer passes that replace those of tract's that may change a model's outputs.

mod axes;
mod barriers;
mod bodies;
mod gathered;
mod late;
mod long_sums;
mod merge;
mod passes;
mod simplify;
mod translate;
mod zeros;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::optim::Optimizer;

use crate::framework::errors::UserError;
use crate::framework::inference::infer;
use crate::framework::rewrite::rewrite_each_node;
use crate::nn::pool;

pub(crate) use late::Late;
pub use late::prepared_in_runs;
pub(crate) use passes::run as run_passes;
pub(crate) use zeros::into_typed;
pub use zeros::{large_constant, move_negative_zeros_to_nodes};

/// Maximum number of rewrites of a model, in addition to those for each of its nodes. Models need
/// far fewer.
const MAX_STEPS: usize = 2_000;
const MAX_STEPS_PER_NODE: usize = 50;

/// Passes that the caller adds. Each replaces operators by others.
#[derive(Clone, Copy, Debug)]
pub struct Passes {
    /// Runs before tract simplifies the model, on the nodes of the ONNX file.
    pub before_simplifying: fn(&mut TypedModel) -> TractResult<()>,
    /// Runs after tract has simplified the model.
    pub after_simplifying: fn(&mut TypedModel) -> TractResult<()>,
}

impl Passes {
    /// No passes.
    pub const NONE: Passes =
        Passes { before_simplifying: |_| Ok(()), after_simplifying: |_| Ok(()) };
}

/// tract's passes over symbolic expressions. Shapes are numbers here, so they gain nothing; and
/// they treat half of an odd number as whole.
const SYMBOLIC_PASSES: [&str; 3] = ["PropagateUniformTdim", "PropagateRoi", "FoldUniformMask"];

/// One of tract's optimisers, with some passes removed or replaced.
fn with_replaced_passes(mut optimizer: Optimizer) -> Optimizer {
    optimizer.passes.retain(|pass| {
        let name = format!("{pass:?}");
        !SYMBOLIC_PASSES.iter().any(|gone| name.starts_with(gone))
    });
    for pass in &mut optimizer.passes {
        match &*format!("{pass:?}") {
            "PushSplitDown" => *pass = Box::new(merge::MergeEqualNodes),
            "declutter" => *pass = Box::<simplify::Simplify>::default(),
            "ChangeAxes" => *pass = Box::new(axes::SkipFailingChanges(pass.clone())),
            _ => (),
        }
    }
    optimizer
}

/// Optimises a model with tract's passes, those of this crate, and those of the caller.
pub fn optimize(mut model: InferenceModel, passes: Passes) -> TractResult<TypedModel> {
    infer(&mut model)?;
    optimize_inferred(model, passes)
}

/// As [`optimize`], for a model whose facts have been inferred.
pub fn optimize_inferred(model: InferenceModel, passes: Passes) -> TractResult<TypedModel> {
    let mut model = zeros::inferred_into_typed(model)?;
    check_sizes(&model)?;
    protect(&mut model)?;
    (passes.before_simplifying)(&mut model)?;
    // Two of tract's rewrites can undo each other endlessly. The model stays correct if they are
    // stopped.
    let steps = MAX_STEPS.saturating_add(model.nodes.len().saturating_mul(MAX_STEPS_PER_NODE));
    run_passes(&with_replaced_passes(Optimizer::declutter()).stopping_at(steps), &mut model)?;
    (passes.after_simplifying)(&mut model)?;
    generate(&mut model)?;
    Ok(model)
}

/// Replaces the operators that tract's passes must not change, in bodies too.
fn protect(model: &mut TypedModel) -> TractResult<()> {
    // Before tables are computed to see whether they are small enough to be kept.
    rewrite_each_node(model, vec![gathered::move_gathers])?;
    // Scale factors are often computed from constants.
    run_passes(&Optimizer::prop_consts(), model)?;
    rewrite_each_node(
        model,
        vec![barriers::keep_products, barriers::keep_empty_slices, long_sums::split],
    )?;
    bodies::change_each(model, protect)
}

/// Generates code for a simplified model.
fn generate(model: &mut TypedModel) -> TractResult<()> {
    // Replaces operators of tract that do not follow the specification.
    rewrite_each_node(model, vec![pool::keep_nan, lower_scan])?;
    bodies::change_each(model, |body| rewrite_each_node(body, vec![pool::keep_nan]))?;
    run_passes(&with_replaced_passes(Optimizer::codegen()), model)
}

fn lower_scan(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    bodies::lower_scan(model, node, generate)
}

/// Refuses tensors whose size in bytes does not fit 32 bits, where it would wrap around.
fn check_sizes(model: &TypedModel) -> TractResult<()> {
    for node in &model.nodes {
        for output in &node.outputs {
            let fact = &output.fact;
            // A dimension without symbols that has no value results from broadcasting two sizes
            // that do not match.
            let none = SymbolValues::default();
            let never = |dim: &TDim| dim.symbols().is_empty() && dim.eval_to_i64(&none).is_err();
            if fact.shape.iter().any(never) {
                let inputs = node.inputs.iter().filter_map(|input| model.outlet_fact(*input).ok());
                let shape = |fact: &TypedFact| {
                    let dims: Vec<String> = fact.shape.iter().map(ToString::to_string).collect();
                    format!("[{}]", dims.join(", "))
                };
                let shapes: Vec<String> = inputs.map(shape).collect();
                let why = format!("inputs of the shapes {} do not match", shapes.join(" and "));
                return Err(UserError::error(why).context(node.to_string()));
            }
            let dims = fact.shape.iter().filter_map(|dim| dim.to_i64().ok());
            let bytes = dims.clone().try_fold(fact.datum_type.size_of(), |bytes, dim| {
                bytes.checked_mul(usize::try_from(dim).ok()?.max(1))
            });
            if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
                let dims: Vec<i64> = dims.collect();
                let why =
                    format!("a tensor of the shape {dims:?} is larger than a sandbox can hold");
                return Err(UserError::error(why).context(node.to_string()));
            }
        }
    }
    Ok(())
}
