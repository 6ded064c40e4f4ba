//! Nodes that are prepared in each run, because not even the number of their dimensions is known
//! before: an `If` whose branches differ in it, and all nodes behind that one. The values and shapes
//! of the run are the constants and shapes of this preparation. What is still not known then is
//! prepared within it in the same way, so that in the end every node has been prepared.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

use crate::control_flow::body::optimize_graph;
use crate::control_flow::loop_op::without_tdim;
use crate::framework::deferred::check_fact;
use crate::framework::errors::{OrUserError, ensure};

/// Values of at most this many elements become constants. Larger ones are no shapes or conditions.
const MAX_CONSTANT: usize = 1024;

/// How often a preparation within a run may contain another one. Each knows more sizes than the one
/// around it, unless what is missing cannot be known.
const MAX_DEPTH: usize = 8;

thread_local! {
    /// How many preparations the current one is within.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone, Debug)]
pub(crate) struct Late {
    model: InferenceModel,
    outputs: TVec<LateOutput>,
}

#[derive(Clone, Debug)]
struct LateOutput {
    /// If its number of dimensions is not known, a fact of one dimension.
    fact: TypedFact,
    has_rank: bool,
}

/// The names of the nodes that an operator prepares in each run, if it is one that does.
pub fn prepared_in_runs(op: &dyn TypedOp) -> Option<Vec<&str>> {
    let late = op.downcast_ref::<Late>()?;
    let nodes = late.model.nodes.iter().filter(|node| !node.inputs.is_empty());
    Some(nodes.map(|node| &*node.name).collect())
}

impl Late {
    /// Whether the number of dimensions of an output is not known.
    pub(crate) fn has_unknown_rank(&self) -> bool {
        self.outputs.iter().any(|output| !output.has_rank)
    }

    /// Puts these nodes, which nothing else reads than the outputs of the model, into one operator.
    pub(super) fn wire(
        source: &InferenceModel,
        nodes: &[usize],
        target: &mut TypedModel,
        mapping: &mut HashMap<OutletId, OutletId>,
    ) -> TractResult<()> {
        let within: HashSet<usize> = nodes.iter().copied().collect();
        let mut model = InferenceModel { symbols: source.symbols.clone(), ..Default::default() };
        let mut copied: HashMap<OutletId, OutletId> = HashMap::new();
        let mut given: TVec<OutletId> = tvec!();
        for id in nodes {
            let node = source.node(*id);
            for input in node.inputs.iter().filter(|input| !within.contains(&input.node)) {
                if copied.contains_key(input) {
                    continue;
                }
                let outlet = *mapping.get(input).or_user_error("a value is missing")?;
                let name = format!("{}.given-{}", node.name, given.len());
                copied.insert(*input, model.add_source(name, InferenceFact::default())?);
                given.push(outlet);
            }
            let inputs: TVec<OutletId> = node.inputs.iter().map(|input| copied[input]).collect();
            let facts = tvec!(InferenceFact::default(); node.outputs.len());
            let made = model.add_node(&*node.name, node.op.clone(), facts)?;
            for (slot, input) in inputs.into_iter().enumerate() {
                model.add_edge(input, InletId::new(made, slot))?;
            }
            for slot in 0..node.outputs.len() {
                copied.insert(OutletId::new(*id, slot), OutletId::new(made, slot));
            }
        }
        let outputs = source.output_outlets()?.iter().filter(|o| within.contains(&o.node));
        let mut outputs: Vec<OutletId> = outputs.copied().collect();
        outputs.sort_by_key(|outlet| (outlet.node, outlet.slot));
        outputs.dedup();
        let made: Vec<OutletId> = outputs.iter().map(|output| copied[output]).collect();
        model.select_output_outlets(&made)?;
        let symbol = || target.symbols.new_with_prefix("late").to_dim();
        let mut late_outputs = tvec!();
        for output in &outputs {
            let fact = source.outlet_fact(*output)?;
            let rank = fact.shape.rank().concretize().and_then(|rank| usize::try_from(rank).ok());
            let dims = rank.map(|rank| {
                let dims = (0..rank).map(|axis| fact.shape.dim(axis)?.concretize());
                dims.map(|dim| dim.unwrap_or_else(&symbol)).collect::<TVec<TDim>>()
            });
            let known = fact.datum_type.concretize().zip(dims);
            late_outputs.push(match known {
                Some((dtype, dims)) => LateOutput { fact: dtype.fact(dims), has_rank: true },
                // Each has a symbol of its own: its size is different from that of the others.
                None => LateOutput { fact: f32::fact([symbol()]), has_rank: false },
            });
        }
        let first = source.node(nodes[0]);
        let op = Late { model, outputs: late_outputs };
        let wired = target.wire_node(format!("{}.late", first.name), op, &given)?;
        mapping.extend(outputs.into_iter().zip(wired));
        Ok(())
    }
}

impl PartialEq for Late {
    fn eq(&self, _: &Late) -> bool {
        false
    }
}

impl Eq for Late {}

impl Op for Late {
    fn name(&self) -> StaticName {
        "PreparedInRun".into()
    }

    fn mints_runtime_symbols(&self) -> bool {
        true
    }

    op_as_typed_op!();
}

impl EvalOp for Late {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let inputs = inputs.into_iter().map(without_tdim).collect::<TractResult<TVec<TValue>>>()?;
        let mut model = self.model.clone();
        for (at, input) in inputs.iter().enumerate() {
            let mut fact = InferenceFact::dt_shape(input.datum_type(), input.shape());
            if input.is_plain() && input.len() <= MAX_CONSTANT {
                fact.value = input.clone().into_arc_tensor().into();
            }
            model.set_input_fact(at, fact)?;
        }
        let depth = DEPTH.get();
        ensure!(
            depth < MAX_DEPTH,
            "the number of its dimensions does not follow from the values of the run"
        );
        DEPTH.set(depth + 1);
        let outputs = optimize_graph(model).and_then(|model| model.into_runnable()?.run(inputs));
        DEPTH.set(depth);
        let outputs = outputs?;
        ensure!(outputs.len() == self.outputs.len(), "an output is missing");
        for (output, expected) in outputs.iter().zip(&self.outputs).filter(|(_, e)| e.has_rank) {
            check_fact(output, &expected.fact)?;
        }
        Ok(outputs)
    }
}

impl TypedOp for Late {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.iter().map(|output| output.fact.clone()).collect())
    }

    as_op!();
}
