//! Checks whether a model can be prepared, without running it.

use belljar_abi::{GuestErrorCode, InputShape, Preparation};

use super::Model;
use super::answers::refusal;
use crate::error::{Error, ErrorKind};

/// The result of preparing a model for inputs of some shapes.
#[derive(Debug)]
pub enum Examined {
    /// It was prepared. A run on inputs of these shapes succeeds unless an undecided node refuses
    /// the values, a rule of the policy is violated, or a limit is hit.
    Prepared(Preparation),
    /// It was refused. A run on inputs of these shapes fails with this error.
    Refused {
        /// The error.
        error: Error,
        /// Whether inputs of all other shapes are refused as well.
        for_all_shapes: bool,
    },
}

impl Model {
    /// Prepares the model for inputs of these shapes anew and returns the result. One shape is
    /// needed for each input, except for inputs with a default or a value from the policy.
    ///
    /// # Errors
    /// When a shape does not fit the model's declaration, and when the sandbox or its worker
    /// process fails. A model that is refused, or hits a limit while it is prepared, is not an
    /// error.
    pub fn examine_for(&self, shapes: &[InputShape]) -> Result<Examined, Error> {
        let shared = &self.shared;
        let shapes = self.contract.bind_shapes(shapes).map_err(|kind| self.error(kind))?;
        let limit = shared.policy.limits.input_size;
        if let Some(one) = self.contract.unacceptable(&shapes, limit) {
            let error = self.error(one.kind);
            return Ok(Examined::Refused { error, for_all_shapes: one.for_all_shapes });
        }
        let (kind, for_all_shapes) = match shared.retried(|| shared.examined(&shapes, &[])) {
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
