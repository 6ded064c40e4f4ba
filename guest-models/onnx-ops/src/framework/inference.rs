//! Inference of the types, shapes and values of all tensors of a model.
//!
//! tract visits each node again after any of its tensors has changed, which is twice for most. In
//! almost all models everything follows from the inputs in one pass through the nodes in order.

use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

/// Infers the facts of a model: in one pass, and as tract does if that does not say everything.
///
/// # Errors
/// As `InferenceModel::analyse`.
pub fn infer(model: &mut InferenceModel) -> TractResult<()> {
    let mut order = model.eval_order()?;
    let mut is_ordered = vec![false; model.nodes.len()];
    order.iter().for_each(|id| is_ordered[*id] = true);
    order.extend((0..model.nodes.len()).filter(|id| !is_ordered[*id]));
    for id in order {
        match infer_node(model, id) {
            Ok(Refined::Outputs) => (),
            // Nodes before it may follow from that. An error gets its words from tract.
            Ok(Refined::Inputs) | Err(_) => return model.analyse(false).map(drop),
        }
    }
    complete(model)
}

/// Infers the facts of a model of which all nodes have been visited in order, if some are missing.
///
/// # Errors
/// As `InferenceModel::analyse`.
pub(crate) fn complete(model: &mut InferenceModel) -> TractResult<()> {
    let is_known = |output: &Outlet<InferenceFact>| {
        output.fact.datum_type.concretize().is_some() && output.fact.shape.concretize().is_some()
    };
    if !model.nodes.iter().flat_map(|node| &node.outputs).all(is_known) {
        model.analyse(false)?;
    }
    Ok(())
}

/// The facts that a node adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refined {
    /// Those of its outputs at most.
    Outputs,
    /// Those of its inputs too.
    Inputs,
}

/// Infers the facts of a node's inputs and outputs from each other.
pub(crate) fn infer_node(model: &mut InferenceModel, id: usize) -> TractResult<Refined> {
    let node = &model.nodes[id];
    let observed = node.op.observe_outlets(model, node)?;
    let outputs = (0..node.outputs.len()).map(|slot| OutletId::new(id, slot)).collect();
    let outlets: [Vec<OutletId>; 3] = [node.inputs.to_vec(), outputs, observed];
    let mut facts: TVec<TVec<InferenceFact>> = tvec![];
    for outlets in &outlets {
        let of = outlets.iter().map(|outlet| Ok(model.outlet_fact(*outlet)?.clone()));
        facts.push(of.collect::<TractResult<_>>()?);
    }
    let [inputs, outputs, observed] = [&facts[0], &facts[1], &facts[2]];
    let inferred = model.nodes[id].op.infer(
        inputs.iter().collect(),
        outputs.iter().collect(),
        observed.iter().collect(),
    );
    let named = |err: TractError| err.context(format!("inferring {}", model.nodes[id]));
    let inferred = inferred.map_err(named)?;
    let mut refined = Refined::Outputs;
    for (outlets, inferred) in outlets.iter().zip([inferred.0, inferred.1, inferred.2]) {
        for (outlet, fact) in outlets.iter().zip(inferred) {
            let before = model.outlet_fact(*outlet)?;
            let unified = before.unify(&fact)?;
            if unified != *before {
                if outlet.node != id {
                    refined = Refined::Inputs;
                }
                model.set_outlet_fact(*outlet, unified)?;
            }
        }
    }
    Ok(refined)
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::math::Add;
    use tract_onnx::tract_hir::ops::binary::BinIntoHir;

    use super::*;

    /// Adds two inputs; the second one and the sum have these facts.
    fn sum(second: InferenceFact, sum: InferenceFact) -> InferenceModel {
        let mut model = InferenceModel::default();
        let fact = InferenceFact::dt_shape(f32::datum_type(), tvec![2, 3]);
        let a = model.add_source("a", fact).unwrap();
        let b = model.add_source("b", second).unwrap();
        let op = Add.into_hir();
        let out = model.wire_node("sum", op, &[a, b]).unwrap()[0];
        model.set_outlet_fact(out, sum).unwrap();
        model.select_output_outlets(&[out]).unwrap();
        model
    }

    #[test]
    fn facts_are_those_that_tract_infers() {
        let f32 = f32::datum_type();
        let whole = InferenceFact::dt_shape(f32, tvec![2, 3]);
        let unknown = InferenceFact::default();
        let typed = InferenceFact::dt(f32);
        for second in [&whole, &unknown, &typed] {
            for of_sum in [&whole, &unknown, &typed] {
                let mut ours = sum(second.clone(), of_sum.clone());
                let mut theirs = ours.clone();
                let result = infer(&mut ours).map_err(|err| format!("{err:#}"));
                let expected = theirs.analyse(false).map(drop).map_err(|err| format!("{err:#}"));
                assert_eq!(result, expected);
                for (ours, theirs) in ours.nodes.iter().zip(&theirs.nodes) {
                    assert_eq!(ours.outputs[0].fact, theirs.outputs[0].fact, "{}", ours.name);
                }
            }
        }
    }

    #[test]
    fn contradictions_are_errors_of_tract() {
        let other = InferenceFact::dt_shape(f32::datum_type(), tvec![4, 3]);
        let whole = InferenceFact::dt_shape(f32::datum_type(), tvec![2, 3]);
        let mut model = sum(whole, other);
        let expected = model.clone().analyse(false).unwrap_err();
        assert_eq!(format!("{:#}", infer(&mut model).unwrap_err()), format!("{expected:#}"));
    }
}
