//! Merges equal nodes. If two of three equal nodes are outputs, tract's own pass connects an output
//! to a node that it removes in the same step, and the model cannot run.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::TypedNode;
use tract_onnx::tract_core::optim::{OptimizerSession, TypedPass};

#[derive(Clone, Debug)]
pub(crate) struct MergeEqualNodes;

impl TypedPass for MergeEqualNodes {
    fn reset(&mut self) -> TractResult<()> {
        Ok(())
    }

    fn next(
        &mut self,
        _: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        let is_output = |node: usize| model.outputs.iter().any(|output| output.node == node);
        let mut patch = TypedModelPatch::default();
        for node in model.eval_order()? {
            for output in &model.node(node).outputs {
                for (at, kept) in output.successors.iter().enumerate() {
                    for gone in &output.successors[at + 1..] {
                        let (kept, gone) = (kept.node, gone.node);
                        if kept == gone
                            || patch.obliterate.contains(&kept)
                            || patch.obliterate.contains(&gone)
                            || is_output(kept) && is_output(gone)
                            || !same(model.node(kept), model.node(gone))
                        {
                            continue;
                        }
                        for slot in 0..model.node(gone).outputs.len() {
                            let tap = patch.tap_model(model, OutletId::new(kept, slot))?;
                            patch.shunt_outside(model, OutletId::new(gone, slot), tap)?;
                        }
                        patch.obliterate(gone)?;
                    }
                }
            }
        }
        Ok(Some(patch).filter(|patch| !patch.is_empty()))
    }
}

/// Whether two nodes are equal. For tract, zeros of both signs are equal.
fn same(one: &TypedNode, other: &TypedNode) -> bool {
    one.same_as(other) && format!("{:?}", one.op) == format!("{:?}", other.op)
}
