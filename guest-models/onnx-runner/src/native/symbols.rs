//! The error of a plan with symbols that does not hold.

use std::fmt;

use tract_onnx::prelude::TractError;

/// The error of a plan with symbols that does not hold for the sizes of a run. The host then
/// prepares the model for exactly these sizes.
#[derive(Debug)]
pub(crate) struct Unplanned(String);

impl Unplanned {
    pub(crate) fn error(text: impl fmt::Display) -> TractError {
        TractError::new(Unplanned(text.to_string()))
    }
}

impl fmt::Display for Unplanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plan does not hold for these sizes: {}", self.0)
    }
}

impl std::error::Error for Unplanned {}
