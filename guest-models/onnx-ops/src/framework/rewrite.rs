//! Rewrites of the nodes of a typed model, one by one.

use std::fmt::Debug;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

use crate::optimizer::run_passes;

/// Replaces a node, or leaves it.
pub type Rewrite = fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>;

/// Applies each rewrite to every node of a model, in order.
pub fn rewrite_each_node(model: &mut TypedModel, rewrites: Vec<Rewrite>) -> TractResult<()> {
    let passes = rewrites
        .into_iter()
        .map(|rewrite| Box::new(EachNode { rewrite, next: 0 }) as Box<dyn TypedPass>)
        .collect();
    run_passes(&Optimizer { passes, steps: None }, model)
}

/// A pass that applies a rewrite to every node.
#[derive(Clone)]
struct EachNode {
    rewrite: Rewrite,
    next: usize,
}

impl Debug for EachNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("rewrite")
    }
}

impl TypedPass for EachNode {
    fn reset(&mut self) -> TractResult<()> {
        self.next = 0;
        Ok(())
    }

    fn next(
        &mut self,
        _session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        while let Some(node) = model.nodes.get(self.next) {
            self.next += 1;
            if let Some(patch) = (self.rewrite)(model, node)? {
                return Ok(Some(patch));
            }
        }
        Ok(None)
    }
}
