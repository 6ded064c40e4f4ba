//! A graph inside a node, when the model runs.

use std::sync::OnceLock;

use tract_onnx::tract_core::plan;
use tract_onnx::tract_hir::internal::*;

use super::{if_op, loop_op, scan};
use crate::framework::errors::ensure;
use crate::framework::{assumptions, deferred, operator};
use crate::optimizer;

/// The function that optimises bodies.
static OPTIMIZE: OnceLock<fn(InferenceModel) -> TractResult<TypedModel>> = OnceLock::new();

/// Sets the function that optimises bodies. Only the first call has an effect.
pub(crate) fn optimize_bodies_by(optimize: fn(InferenceModel) -> TractResult<TypedModel>) {
    OPTIMIZE.get_or_init(|| optimize);
}

/// Optimises a graph.
pub(crate) fn optimize_graph(graph: InferenceModel) -> TractResult<TypedModel> {
    match OPTIMIZE.get() {
        Some(optimize) => optimize(graph),
        None => optimizer::optimize(graph, optimizer::Passes::NONE),
    }
}

/// Refuses a body with an output whose number of dimensions is not known.
pub(super) fn check_ranks(body: &TypedModel) -> TractResult<()> {
    let mut late = body.nodes.iter().filter_map(|node| node.op_as::<optimizer::Late>());
    ensure!(
        !late.any(optimizer::Late::has_unknown_rank),
        "its number of dimensions is only known when the model runs, which is not implemented"
    );
    Ok(())
}

/// Whether a node draws random numbers, or may do so in a graph of its own.
fn draws(op: &dyn TypedOp) -> bool {
    let in_graph = if_op::draws(op) || loop_op::draws(op) || scan::draws(op);
    // What is prepared in each run is not searched, and never computed before one.
    in_graph || operator::draws(op) || deferred::draws(op) || op.is::<optimizer::Late>()
}

/// The plan of a body.
#[derive(Clone, Debug)]
pub(super) struct Body {
    plan: Arc<TypedRunnableModel>,
    /// Whether its shapes have symbols of the model's inputs.
    is_open: bool,
    /// Whether a node in it draws random numbers.
    draws: bool,
}

impl Body {
    /// Optimises a body whose inputs have facts. Its outputs must have known numbers of dimensions.
    pub(super) fn new(body: InferenceModel) -> TractResult<Body> {
        let model = optimize_graph(body)?;
        check_ranks(&model)?;
        let draws = model.nodes.iter().any(|node| draws(&*node.op));
        let is_open = assumptions::has_symbols();
        Ok(Body { plan: model.into_runnable()?, is_open, draws })
    }

    /// Whether a node in it draws random numbers: then the body only runs within a run.
    pub(super) fn draws(&self) -> bool {
        self.draws
    }

    pub(super) fn model(&self) -> &TypedModel {
        self.plan.model()
    }

    /// Runs the body once, with the sizes of the symbols in the graph around it. With symbols the
    /// shape of each output is compared with the plan's: tract itself checks it only in debug builds.
    pub(super) fn run(
        &self,
        around: &SymbolValues,
        inputs: TVec<TValue>,
    ) -> TractResult<TVec<TValue>> {
        if !self.is_open {
            return self.plan.run(inputs);
        }
        let mut state = self.plan.spawn()?;
        state.turn_state.resolved_symbols = around.clone();
        state.run_plan_with_eval(inputs, |context, op_state, node, inputs| {
            let expected = expected(node, context.symbols)?;
            let outputs = plan::eval(context, op_state, node, inputs)?;
            for (output, expected) in outputs.iter().zip(&expected) {
                let fits =
                    |(size, dim): (&usize, &Option<usize>)| dim.is_none_or(|dim| dim == *size);
                let shape = output.shape();
                if shape.len() != expected.len() || !shape.iter().zip(expected).all(fits) {
                    // Not an error for users: the model is prepared for exactly these sizes then.
                    let why = format!("an output of {node} has the shape {shape:?}");
                    return Err(TractError::msg(why));
                }
            }
            Ok::<_, TractError>(outputs)
        })
    }
}

/// The shapes of a node's outputs, as far as they are known before it is computed.
fn expected(node: &TypedNode, symbols: &SymbolValues) -> TractResult<TVec<TVec<Option<usize>>>> {
    let shape = |output: &Outlet<TypedFact>| {
        let dims = output.fact.shape.iter().map(|dim| {
            let size = dim.as_i64().or_else(|| dim.maybe_eval_to_i64(symbols));
            size.map(usize::try_from).transpose()
        });
        let dims = dims.collect::<Result<TVec<Option<usize>>, _>>()?;
        let known: Option<TVec<usize>> = dims.iter().copied().collect();
        let bytes = known.map(|shape| {
            let element = output.fact.datum_type.size_of();
            shape.iter().try_fold(element, |bytes, dim| bytes.checked_mul((*dim).max(1)))
        });
        match bytes {
            Some(bytes) if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) => {
                Err(TractError::msg("a tensor is larger than a sandbox can hold"))
            }
            _ => Ok(dims),
        }
    };
    node.outputs.iter().map(shape).collect()
}
