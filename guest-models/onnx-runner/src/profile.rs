//! A run that measures the time of each node of the plan. In a guest without a clock all times are
//! zero; the host only calls this in the profiling variant.

use belljar_abi::clock::Reading;
use belljar_abi::{MAX_FOLDED, MAX_PROFILED, ModelNode, Profile, ProfiledNode};
use onnx_ops::framework::dtypes::from_tract;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::SymbolValues;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::plan;

use crate::Refusal;
use crate::explain::Named;
use crate::memory::Message;
use crate::prepare::{OpenSizes, Prepared};
use crate::run;

/// Number of pairs of readings for measuring the cost of a reading.
const READINGS: usize = 256;

/// One node that ran.
struct Measured {
    /// Its index in the plan.
    node: usize,
    began: Reading,
    ended: Reading,
    outputs: Vec<(DatumType, Vec<u64>)>,
}

/// Runs the plan on the tensors in `message`, and encodes its outputs and the times.
pub(crate) fn run(prepared: &Prepared, message: Message) -> Result<Vec<u8>, Refusal> {
    let reading = cost_of_reading();
    let began = clock::read();
    let mut measured = Vec::new();
    let mut sizes = SymbolValues::default();
    let answer = run::with(prepared, message, |inputs, is_example| {
        let mut state = prepared.plan.spawn()?;
        state.run_plan_with_eval(inputs, |context, op_state, node, inputs| {
            let began = clock::read();
            let outputs = plan::eval(context, op_state, node, inputs);
            let ended = clock::read();
            if measured.is_empty() {
                sizes = context.symbols.clone();
            }
            if let Ok(outputs) = &outputs
                && measured.len() < MAX_PROFILED
            {
                let shape = |output: &TValue| {
                    let dims = output.shape().iter().map(|dim| *dim as u64);
                    (output.datum_type(), dims.collect())
                };
                let outputs = outputs.iter().map(shape).collect();
                measured.push(Measured { node: node.id, began, ended, outputs });
            }
            let outputs = outputs?;
            if let Some(OpenSizes { tensors, .. }) = &prepared.sizes {
                tensors.check_outputs(node, &outputs, context.symbols, is_example)?;
            }
            Ok::<_, TractError>(outputs)
        })
    })?;
    let ended = clock::read();
    let profile = Profile {
        nodes: described(prepared, measured, &sizes),
        began: began.nanoseconds,
        ended: ended.nanoseconds,
        reading,
        answer: &answer,
    };
    Ok(profile.encode())
}

/// The minimum time between two successive readings.
fn cost_of_reading() -> u64 {
    let pair = || {
        let (one, other) = (clock::read(), clock::read());
        other.nanoseconds.saturating_sub(one.nanoseconds)
    };
    (0..READINGS).map(|_| pair()).min().unwrap_or(0)
}

/// The nodes that ran, with the nodes of the model that they compute. Inputs are left out.
fn described(
    prepared: &Prepared,
    mut measured: Vec<Measured>,
    sizes: &SymbolValues,
) -> Vec<ProfiledNode> {
    let plan = prepared.plan.model();
    measured.retain(|measured| plan.nodes[measured.node].op.name() != "Source");
    let names: Vec<&str> = measured.iter().map(|m| &*plan.nodes[m.node].name).collect();
    let computed = prepared.folded.computed_by(&prepared.nodes, &names);
    let describe = |(measured, computes): (Measured, Vec<&Named>)| {
        let Measured { node, began, ended, outputs } = measured;
        let node = &plan.nodes[node];
        let named = computes.into_iter().take(MAX_FOLDED);
        let computes = named
            .map(|named| ModelNode { name: named.name.clone(), operator: named.operator.clone() });
        let computes = computes.collect();
        ProfiledNode {
            computes,
            name: node.name.clone(),
            operator: node.op.name().into_owned(),
            outputs: outputs.into_iter().map(|(dtype, dims)| (from_tract(dtype), dims)).collect(),
            multiply_adds: multiply_adds(plan, node, sizes),
            began: began.nanoseconds,
            ended: ended.nanoseconds,
            kernels: ended.kernel_nanoseconds.saturating_sub(began.kernel_nanoseconds),
            operators: ended.operators.saturating_sub(began.operators),
            tiles: ended.tiles.saturating_sub(began.tiles),
            native: if ended.operators > began.operators { ended.last_operator } else { 0 },
        }
    };
    measured.into_iter().zip(computed).map(describe).collect()
}

/// The number of multiply-adds of a product or convolution, with the sizes of a run.
fn multiply_adds(plan: &TypedModel, node: &TypedNode, sizes: &SymbolValues) -> Option<u64> {
    let facts = plan.node_input_facts(node.id).ok()?.into_iter().map(|fact| {
        let dims: TVec<TDim> = fact.shape.iter().map(|dim| dim.eval(sizes)).collect();
        TypedFact { shape: dims.into(), ..fact.clone() }
    });
    let facts: Vec<TypedFact> = facts.collect();
    let facts: TVec<&TypedFact> = facts.iter().collect();
    let costs = node.op.cost(&facts).ok()?;
    let count = |(cost, count): &(Cost, TDim)| match cost {
        Cost::FMA(_) => count.to_i64().ok().and_then(|count| u64::try_from(count).ok()),
        _ => None,
    };
    let counts: Vec<u64> = costs.iter().filter_map(count).collect();
    (!counts.is_empty())
        .then(|| counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)))
}
