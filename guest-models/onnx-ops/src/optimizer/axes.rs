//! tract's pass that changes axes, without the changes that it fails to build. tract would report
//! such a failure as an error of the model.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::{OptimizerSession, TypedPass};

/// Maximum number of failed changes in one round, after which the axes are left as they are.
const MAX_FAILURES: usize = 100;

/// Wraps tract's pass, which tries each change once in a round.
#[derive(Clone, Debug)]
pub(crate) struct SkipFailingChanges(pub(crate) Box<dyn TypedPass>);

impl TypedPass for SkipFailingChanges {
    fn reset(&mut self) -> TractResult<()> {
        self.0.reset()
    }

    fn next(
        &mut self,
        session: &mut OptimizerSession,
        model: &TypedModel,
    ) -> TractResult<Option<TypedModelPatch>> {
        for _ in 0..MAX_FAILURES {
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
