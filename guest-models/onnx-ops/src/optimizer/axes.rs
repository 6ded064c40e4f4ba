//! Changes of axes, but for those that tract begins and cannot end: it takes a failure to build one
//! for a failure of the model.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::{OptimizerSession, TypedPass};

/// How many changes of a round may fail: then the axes stay as they are.
const FAILURES: usize = 100;

/// tract's pass, which does not try a change twice in a round.
#[derive(Clone, Debug)]
pub(super) struct ThatFit(pub(super) Box<dyn TypedPass>);

impl TypedPass for ThatFit {
    fn reset(&mut self) -> TractResult<()> {
        self.0.reset()
    }

    fn next(
        &mut self,
        session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        for _ in 0..FAILURES {
            match self.0.next(session, model) {
                Ok(change) => return Ok(change),
                Err(err) => log::debug!("the axes are left as they are: {err:#}"),
            }
        }
        Ok(None)
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        self.0.run_direct(model)
    }
}
