//! Runs passes until none changes the model, as tract's own loop does. tract compares each new node
//! with all nodes of the model, whose constants may be large, and looks for equal names among all of
//! them, after each change: half of the time to prepare a model. Nothing follows from the first, and
//! here the names are kept in a table.

use std::collections::{BTreeMap, HashMap, HashSet};

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

/// Runs the passes of an optimizer in turn, until none of them changes the model or its number of
/// steps is reached.
pub(crate) fn run(optimizer: &Optimizer, model: &mut TypedModel) -> TractResult<()> {
    let _proofs = model.symbols.proof_cache_session();
    model.compact()?;
    let mut steps = 0;
    // For passes that optimize the bodies of nodes.
    let mut session = optimizer.session();
    let mut once = HashSet::new();
    loop {
        let before = steps;
        for pass in &mut optimizer.passes.clone() {
            while run_pass(
                &mut **pass,
                &mut session,
                model,
                (optimizer.steps, &mut steps),
                &mut once,
            )
            .with_context(|| format!("running pass {pass:?}"))?
            {
                model.compact()?;
            }
            model.compact()?;
        }
        if steps == before {
            return Ok(());
        }
    }
}

/// Runs one pass over the model, and returns whether it changed something. `once` has the patches
/// that must not be applied again.
fn run_pass(
    pass: &mut dyn TypedPass,
    session: &mut OptimizerSession,
    model: &mut TypedModel,
    (limit, steps): (Option<usize>, &mut usize),
    once: &mut HashSet<String>,
) -> TractResult<bool> {
    pass.reset()?;
    let before = *steps;
    let is_enough = |steps: usize| limit.is_some_and(|limit| steps >= limit);
    if is_enough(*steps) {
        return Ok(false);
    }
    let mut names = Names::of(model);
    while let Some(mut patch) = pass.next(session, model)? {
        if let Some(what) = patch.dont_apply_twice.take()
            && !once.insert(what)
        {
            continue;
        }
        apply(patch, model, &mut names)?;
        *steps += 1;
        if is_enough(*steps) {
            return Ok(true);
        }
    }
    pass.run_direct(model)?;
    Ok(*steps > before)
}

/// How many nodes have each name.
struct Names(HashMap<String, usize>);

impl Names {
    fn of(model: &TypedModel) -> Names {
        let mut names = Names(HashMap::with_capacity(model.nodes.len()));
        model.nodes.iter().for_each(|node| names.add(&node.name));
        names
    }

    fn add(&mut self, name: &str) {
        match self.0.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(name.to_owned(), 1)),
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(count) = self.0.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(name);
            }
        }
    }

    /// The name, or one with a number after it if a node has it already.
    fn unique(&self, prefix: &str) -> String {
        let numbered = (1..).map(|number: usize| format!("{prefix}.{number}"));
        let mut all = std::iter::once(prefix.to_owned()).chain(numbered);
        all.find(|name| !self.0.contains_key(name)).unwrap_or_default()
    }
}

/// Applies a patch as `ModelPatch::apply` does.
fn apply(patch: TypedModelPatch, model: &mut TypedModel, names: &mut Names) -> TractResult<()> {
    let TypedModelPatch { model: added, taps, shunts, obliterate, inputs: replaced, .. } = patch;
    // From outlets of the patch to those of the model.
    let mut mapping = taps;
    let mut new_nodes = Vec::new();
    let mut model_inputs = model.input_outlets()?.to_vec();
    for node in added.nodes {
        let is_tap =
            TypedModel::is_source(&node.op) && mapping.contains_key(&OutletId::new(node.id, 0));
        if is_tap {
            continue;
        }
        let facts: TVec<TypedFact> = node.outputs.into_iter().map(|output| output.fact).collect();
        names.add(&node.name);
        let slots = facts.len();
        let id = model.add_node(node.name, node.op, facts)?;
        for slot in 0..slots {
            mapping.insert(OutletId::new(node.id, slot), OutletId::new(id, slot));
        }
        if TypedModel::is_source(&model.node(id).op) {
            let old = replaced.get(&node.id).copied().context("a source that replaces none")?;
            model_inputs.iter_mut().filter(|input| input.node == old).for_each(|i| i.node = id);
        }
        new_nodes.push((id, node.inputs));
    }
    let mapped = |outlet: &OutletId| {
        mapping.get(outlet).copied().context("a patch refers to an outlet that it does not have")
    };
    let shunts: BTreeMap<OutletId, OutletId> = shunts.into_iter().collect();
    for (old, by) in &shunts {
        let by = mapped(by)?;
        for successor in model.node(old.node).outputs[old.slot].successors.clone() {
            model.add_edge(by, successor)?;
        }
        model.outputs.iter_mut().filter(|output| *output == old).for_each(|output| *output = by);
        if let Some(label) = model.outlet_labels.remove(old) {
            model.set_outlet_label(by, label)?;
        }
    }
    for (id, inputs) in &new_nodes {
        for (slot, input) in inputs.iter().enumerate() {
            model.add_edge(mapped(input)?, InletId::new(*id, slot))?;
        }
    }
    for id in obliterate {
        model.node_mut(id).op = model.create_dummy();
    }
    model.set_input_outlets(&model_inputs)?;
    remove_unused(model, names, shunts.keys().map(|old| old.node).collect());
    for (id, _) in new_nodes {
        let name = model.node(id).name.clone();
        let wanted = match name.split_once('#') {
            Some((prefix, _)) => prefix,
            None if names.0.get(&name).is_some_and(|count| *count > 1) => &name,
            None => continue,
        };
        names.remove(&name);
        let unique = names.unique(wanted);
        names.add(&unique);
        model.node_mut(id).name = unique;
    }
    Ok(())
}

/// Removes nodes whose outputs nobody reads, and those before them that nobody reads then.
fn remove_unused(model: &mut TypedModel, names: &mut Names, mut candidates: Vec<usize>) {
    while let Some(id) = candidates.pop() {
        let is_used = model.outputs.iter().chain(&model.inputs).any(|outlet| outlet.node == id)
            || model.node(id).outputs.iter().any(|output| !output.successors.is_empty());
        if is_used {
            continue;
        }
        let dummy = model.create_dummy();
        let node = model.node_mut(id);
        node.op = dummy;
        let name = std::mem::replace(&mut node.name, format!("Dummy-node-{id}"));
        // Facts and constants go with the outputs.
        node.outputs.clear();
        let inputs = std::mem::take(&mut node.inputs);
        names.remove(&name);
        names.add(&format!("Dummy-node-{id}"));
        for input in inputs {
            let successors = &mut model.node_mut(input.node).outputs[input.slot].successors;
            successors.retain(|successor| successor.node != id);
            candidates.push(input.node);
        }
    }
}
