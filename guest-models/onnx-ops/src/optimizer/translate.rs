//! Translates a model to tract's typed form, as tract's own translation does, with two ways out for
//! nodes that need sizes which are only known when the model runs: an operator is built for each
//! run (`framework/deferred.rs`), and if not even its number of dimensions is known, it is prepared
//! in each run together with the nodes behind it (`optimizer/late.rs`).

use std::collections::{HashMap, HashSet};

use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::optim::CONST_FOLD_MEM_BUDGET;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::binary::InferenceBinOp;

use super::late::Late;
use crate::framework::assumptions::{self, is_known_in_runs_only};
use crate::framework::deferred;
use crate::framework::errors::UserError;

/// Translates a model whose facts have been inferred.
pub(super) fn translate(model: InferenceModel) -> TractResult<TypedModel> {
    // No operator takes part in tract's step before this one, which also infers all facts again.
    let source = model.into_compact()?;
    let _proof = source.symbols.proof_cache_session();
    let mut target = TypedModel { symbols: source.symbols.clone(), ..TypedModel::default() };
    let mut mapping: HashMap<OutletId, OutletId> = HashMap::new();
    let mut order = source.eval_order()?;
    // Inputs that no node reads stay inputs.
    let unread = source.input_outlets()?.iter().map(|input| input.node);
    let unread: Vec<usize> = unread.filter(|id| !order.contains(id)).collect();
    order.extend(unread);
    // The nodes that are prepared in each run, in their order.
    let mut late: Vec<usize> = Vec::new();
    let mut is_late: HashSet<usize> = HashSet::new();
    for id in order {
        let node = source.node(id);
        if node.inputs.iter().any(|input| is_late.contains(&input.node)) {
            is_late.insert(id);
            late.push(id);
            continue;
        }
        let before = target.nodes.len();
        match translated(&source, node, &mut target, &mapping) {
            Ok(outlets) => {
                let outlets = outlets.into_iter().enumerate();
                mapping.extend(outlets.map(|(slot, outlet)| (OutletId::new(id, slot), outlet)));
            }
            Err(error) if needs_a_run(&error, node, &target, &mapping) => {
                log::debug!("{node} is prepared in each run: {error:#}");
                remove_from(&mut target, before);
                is_late.insert(id);
                late.push(id);
            }
            Err(error) => {
                return Err(error.context(format!("Translating node {node} ToTypedTranslator")));
            }
        }
    }
    if !late.is_empty() {
        // A plan for these sizes alone may know more.
        tract_onnx::tract_hir::internal::ensure!(
            !assumptions::has_symbols(),
            "a node is prepared in each run"
        );
        Late::wire(&source, &late, &mut target, &mut mapping)?;
    }
    target.inputs = source.input_outlets()?.iter().map(|input| mapping[input]).collect();
    target.outputs = source.output_outlets()?.iter().map(|output| mapping[output]).collect();
    Ok(target)
}

/// Adds one node to the typed model.
fn translated(
    source: &InferenceModel,
    node: &InferenceNode,
    target: &mut TypedModel,
    mapping: &HashMap<OutletId, OutletId>,
) -> TractResult<TVec<OutletId>> {
    let is_source = InferenceModel::is_source(&node.op);
    let known = node.outputs.iter().map(|output| output.fact.value.concretize());
    if !is_source
        && node.op.state(&EvalContext::out_of_plan())?.is_none()
        && let Some(known) = known.collect::<Option<Vec<Arc<Tensor>>>>()
    {
        let values = known.into_iter().enumerate();
        return values
            .map(|(slot, value)| add_constant(target, format!("{}.{slot}", node.name), value))
            .collect();
    }
    if is_source && let Some(fact) = with_symbols(&node.outputs[0].fact, target) {
        return Ok(tvec!(target.add_source(&*node.name, fact)?));
    }
    if let Some(values) = folded(node, target, mapping)? {
        let values = values.into_iter().enumerate();
        return values
            .map(|(slot, value)| {
                add_constant(target, format!("{}.{slot}", node.name), value.into_arc_tensor())
            })
            .collect();
    }
    let Some(expansion) = node.op.as_op().downcast_ref::<Box<dyn Expansion>>() else {
        let outlets = node.op.to_typed(source, node, target, mapping)?;
        check(&outlets, node, target)?;
        return Ok(outlets);
    };
    let mut inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
    let before = target.nodes.len();
    if expansion.as_any().is::<InferenceBinOp>() {
        give_constants_the_rank(target, &node.name, &mut inputs)?;
    }
    let wired = expansion
        .as_ref()
        .wire_with_inference_model_and_node(&node.name, source, node, target, &inputs)
        .and_then(|outlets| {
            check(&outlets, node, target)?;
            check_inferred(&outlets, node, target)?;
            check_products(&target.nodes[before..], target)?;
            Ok(outlets)
        });
    let error = match wired {
        Ok(outlets) => return Ok(outlets),
        Err(error) => error,
    };
    let sizes = inputs.iter().map(|input| Ok(&target.outlet_fact(*input)?.shape));
    let sizes = sizes.collect::<TractResult<Vec<&ShapeFact>>>()?;
    let made = target.nodes[before..].iter().flat_map(|node| &node.outputs);
    let mut dims = sizes.into_iter().chain(made.map(|output| &output.fact.shape));
    if !dims.any(|shape| shape.iter().any(is_known_in_runs_only)) {
        return Err(error);
    }
    remove_from(target, before);
    // The error of the operator says more than that of this attempt.
    let outlets = match deferred::wire(expansion, &node.name, node, target, &inputs, None) {
        Ok(outlets) => outlets,
        Err(_) => return Err(error),
    };
    check(&outlets, node, target)?;
    Ok(outlets)
}

/// Adds a constant without looking for an equal one. tract compares it with all others.
fn add_constant(
    target: &mut TypedModel,
    name: String,
    value: Arc<Tensor>,
) -> TractResult<OutletId> {
    let fact = TypedFact::try_from(value.clone())?;
    Ok(target.add_node(name, Const::new(value)?, tvec!(fact))?.into())
}

/// Replaces constants by ones with as many dimensions as the other operand. tract wires and evaluates
/// a node for each dimension.
fn give_constants_the_rank(
    target: &mut TypedModel,
    name: &str,
    inputs: &mut [OutletId],
) -> TractResult<()> {
    let facts = inputs.iter().map(|input| target.outlet_fact(*input));
    let ranks: TVec<usize> =
        facts.map(|fact| fact.map(|fact| fact.rank())).collect::<TractResult<_>>()?;
    let rank = ranks.iter().max().copied().unwrap_or(0);
    for (slot, input) in inputs.iter_mut().enumerate().filter(|(slot, _)| ranks[*slot] < rank) {
        let Some(value) = target.outlet_fact(*input)?.konst.clone() else { continue };
        if !value.is_plain_ram() {
            continue;
        }
        let value = value.into_tensor().broadcast_into_rank(rank)?;
        *input = add_constant(target, format!("{name}.rank-{slot}"), value.into_arc_tensor())?;
    }
    Ok(())
}

/// The outputs of a node whose inputs are constants that inference does not know the elements of.
/// Large ones are left to the run, within the same bounds as in inference: see `InferenceOp::infer`.
fn folded(
    node: &InferenceNode,
    target: &TypedModel,
    mapping: &HashMap<OutletId, OutletId>,
) -> TractResult<Option<TVec<TValue>>> {
    let bytes = |tensor: &Tensor| (tensor.len() * tensor.datum_type().size_of()) as u64;
    let value = |input: &OutletId| {
        let value = target.outlet_fact(mapping[input]).ok()?.konst.clone()?;
        let is_small = value.is_plain_ram() && bytes(&value) <= CONST_FOLD_MEM_BUDGET;
        is_small.then(|| value.into_tvalue())
    };
    let values: Option<TVec<TValue>> = node.inputs.iter().map(value).collect();
    let Some(values) = values.filter(|values| !values.is_empty()) else { return Ok(None) };
    let budget = values.iter().map(|value| bytes(value)).sum::<u64>().max(CONST_FOLD_MEM_BUDGET);
    // A later pass reports what cannot be computed.
    let made = node.op.eval_out_of_plan(values).ok().flatten();
    Ok(made.filter(|made| made.iter().map(|value| bytes(value)).sum::<u64>() <= budget))
}

/// The fact of an input, with a symbol for each size that is not known yet; `None` if all are, or
/// not even their number.
fn with_symbols(fact: &InferenceFact, target: &TypedModel) -> Option<TypedFact> {
    let dtype = fact.datum_type.concretize()?;
    let rank = usize::try_from(fact.shape.rank().concretize()?).ok()?;
    if fact.shape.concretize().is_some() {
        return None;
    }
    let dims = (0..rank).map(|axis| {
        let dim = fact.shape.dim(axis).and_then(|dim| dim.concretize());
        dim.unwrap_or_else(|| target.symbols.new_with_prefix("varying").to_dim())
    });
    Some(dtype.fact(dims.collect::<TVec<TDim>>()))
}

fn check(outlets: &[OutletId], node: &InferenceNode, target: &TypedModel) -> TractResult<()> {
    outlets.iter().try_for_each(|outlet| {
        let fact = target.outlet_fact(*outlet)?;
        fact.consistent().with_context(|| format!("{fact:?} of {node}"))
    })
}

/// Refuses products with a batch dimension that is known in runs only, unless the other operand's is
/// the same or 1: tract takes its size for that of the product, also if it turns out to be 1.
fn check_products(nodes: &[TypedNode], target: &TypedModel) -> TractResult<()> {
    for node in nodes {
        let Some(product) = node.op_as::<EinSum>() else { continue };
        let facts = node.inputs.iter().map(|input| target.outlet_fact(*input));
        let facts = facts.collect::<TractResult<Vec<&TypedFact>>>()?;
        for axis in product.axes.iter_all_axes().filter(|axis| !axis.outputs[0].is_empty()) {
            let places = axis.inputs.iter().zip(&facts);
            let sizes = places.flat_map(|(places, fact)| places.iter().map(|at| &fact.shape[*at]));
            let sizes: TVec<&TDim> = sizes.filter(|size| !size.is_one()).collect();
            let differ = sizes.windows(2).any(|pair| pair[0] != pair[1]);
            if differ && sizes.iter().any(|size| is_known_in_runs_only(size)) {
                let why =
                    format!("the sizes {sizes:?} of a batch are only known when the model runs");
                return Err(UserError::error(why));
            }
        }
    }
    Ok(())
}

/// Compares the outputs of an operator with the facts that were inferred.
fn check_inferred(
    outlets: &[OutletId],
    node: &InferenceNode,
    target: &TypedModel,
) -> TractResult<()> {
    for (outlet, output) in outlets.iter().zip(&node.outputs) {
        let found = InferenceFact::from(target.outlet_fact(*outlet)?);
        let expected = &output.fact;
        let same = expected.clone().unify_with(&found).is_ok();
        tract_onnx::tract_hir::internal::ensure!(
            same,
            "Output mismatch after rewiring expansion: expected {expected:?} got {found:?}"
        );
    }
    Ok(())
}

/// Whether an error is about something that is only known when the model runs.
fn needs_a_run(
    error: &TractError,
    node: &InferenceNode,
    target: &TypedModel,
    mapping: &HashMap<OutletId, OutletId>,
) -> bool {
    let by_value = error.chain().any(|cause| {
        cause.is::<UserError>() && cause.to_string().contains("only known when the model runs")
    });
    let mut facts = node.inputs.iter().filter_map(|input| target.outlet_fact(mapping[input]).ok());
    by_value || facts.any(|fact| fact.shape.iter().any(is_known_in_runs_only))
}

/// Removes the nodes from this one on.
fn remove_from(target: &mut TypedModel, first: usize) {
    target.nodes.truncate(first);
    for output in target.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
        output.successors.retain(|reader| reader.node < first);
    }
}
