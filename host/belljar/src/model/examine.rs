//! Whether a model would be prepared, without a run of it.

use belljar_abi::{GuestErrorCode, InputShape, Preparation};

use super::Model;
use super::shared::refusal;
use crate::error::{Error, ErrorKind};

/// What came of preparing a model for inputs of some shapes.
#[derive(Debug)]
pub enum Examined {
    /// It was prepared. A run on inputs of these shapes is answered unless one of the undecided
    /// nodes refuses its values, a rule of the policy does, or a limit is hit.
    Prepared(Preparation),
    /// It was refused. A run on inputs of these shapes ends in this error.
    Refused {
        /// Why.
        error: Error,
        /// Whether it is refused for inputs of all other shapes as well.
        for_all_shapes: bool,
    },
}

impl Model {
    /// Prepares the model for inputs of these shapes, afresh, and says what came of it. One shape
    /// for each input is needed, except for inputs that have a default, or a value from the policy.
    ///
    /// # Errors
    /// When a shape does not fit what the model declares, and when the sandbox or its worker process
    /// fails. That the model is refused, or hits a limit while it is prepared, is no error.
    pub fn examine_for(&self, shapes: &[InputShape]) -> Result<Examined, Error> {
        let shared = &self.shared;
        let shapes = shared.contract.bind_shapes(shapes).map_err(|kind| self.error(kind))?;
        let limit = shared.policy.limits.input_size;
        if let Some(one) = shared.contract.unacceptable(&shapes, limit) {
            let error = self.error(one.kind);
            return Ok(Examined::Refused { error, for_all_shapes: one.for_all_shapes });
        }
        let (kind, for_all_shapes) = match shared.retried(|| shared.examined(&shapes)) {
            Ok(Ok((_, preparation))) => return Ok(Examined::Prepared(preparation)),
            Ok(Err(refused)) => {
                use GuestErrorCode::{ModelRefused, NotOnnx};
                let for_all_shapes = matches!(refused.code, ModelRefused | NotOnnx);
                (refusal(refused), for_all_shapes)
            }
            Err(kind) => (kind, false),
        };
        let judged = matches!(kind, ErrorKind::Model(_) | ErrorKind::Limit(_));
        let error = self.error(kind);
        if judged { Ok(Examined::Refused { error, for_all_shapes }) } else { Err(error) }
    }
}
