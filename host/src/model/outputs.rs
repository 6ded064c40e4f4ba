//! What a run answered, before and after it was checked.

use std::sync::Arc;

use super::RunCost;
use super::contract::{Contract, Symbols};
use crate::audit::Subject;
use crate::error::{Error, ErrorKind};
use crate::host::Inner;
use crate::tensor::Tensor;

/// Outputs as the sandbox gave them. They cannot be looked at before [`validate`] has held them
/// against what the model declares.
///
/// [`validate`]: UncheckedOutputs::validate
#[must_use = "outputs are only usable once they are validated"]
pub struct UncheckedOutputs {
    declared: Declared,
    tensors: Vec<(String, Tensor)>,
    cost: RunCost,
}

/// What outputs are held against, and who is told of it.
pub(super) struct Declared {
    pub(super) label: String,
    pub(super) contract: Arc<Contract>,
    pub(super) symbols: Symbols,
    pub(super) host: Arc<Inner>,
    pub(super) subject: Subject,
}

impl UncheckedOutputs {
    pub(super) fn new(
        declared: Declared,
        tensors: Vec<(String, Tensor)>,
        cost: RunCost,
    ) -> UncheckedOutputs {
        UncheckedOutputs { declared, tensors, cost }
    }

    /// Checks names, element types and shapes against the model's declaration: fixed dimensions
    /// exactly, and each symbolic one the same number everywhere, inputs included. Then holds the
    /// values against the policy's rules, and cuts and rounds what they say is not told.
    ///
    /// # Errors
    /// When an output breaks the declaration or its rule; there is then no answer.
    pub fn validate(self) -> Result<Outputs, Error> {
        let Declared { label, contract, symbols, host, subject } = self.declared;
        if let Err(why) = contract.check_outputs(symbols, &self.tensors) {
            return Err(Error::for_model(&label, ErrorKind::Run(why)));
        }
        if let Err(kind) = contract.check_rules(&self.tensors) {
            return Err(Error::for_model(&label, host.refused(subject, kind)));
        }
        Ok(Outputs { tensors: contract.told(self.tensors), cost: self.cost })
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
