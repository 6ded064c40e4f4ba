//! What a run answered, before and after it was checked.

use std::sync::Arc;

use super::RunCost;
use super::contract::{Contract, Symbols};
use crate::error::{Error, ErrorKind};
use crate::tensor::Tensor;

/// Outputs as the sandbox gave them. They cannot be looked at before [`validate`] has held them
/// against what the model declares.
///
/// [`validate`]: UncheckedOutputs::validate
#[must_use = "outputs are only usable once they are validated"]
pub struct UncheckedOutputs {
    label: String,
    contract: Arc<Contract>,
    symbols: Symbols,
    tensors: Vec<(String, Tensor)>,
    cost: RunCost,
}

impl UncheckedOutputs {
    pub(super) fn new(
        label: String,
        contract: Arc<Contract>,
        symbols: Symbols,
        tensors: Vec<(String, Tensor)>,
        cost: RunCost,
    ) -> UncheckedOutputs {
        UncheckedOutputs { label, contract, symbols, tensors, cost }
    }

    /// Checks names, element types and shapes against the model's declaration: fixed dimensions
    /// exactly, and each symbolic one the same number everywhere, inputs included.
    ///
    /// # Errors
    /// When an output breaks the declaration; there is then no answer.
    pub fn validate(self) -> Result<Outputs, Error> {
        match self.contract.check_outputs(self.symbols, &self.tensors) {
            Ok(()) => Ok(Outputs { tensors: self.tensors, cost: self.cost }),
            Err(why) => Err(Error::for_model(&self.label, ErrorKind::Run(why))),
        }
    }
}

/// The outputs of a run, in the order in which the model declares them.
#[derive(Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
    cost: RunCost,
}

impl Outputs {
    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    /// All outputs with their names, which the model chose.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The outputs themselves.
    pub fn into_tensors(self) -> Vec<(String, Tensor)> {
        self.tensors
    }

    /// What the run has cost.
    pub fn cost(&self) -> RunCost {
        self.cost
    }
}
