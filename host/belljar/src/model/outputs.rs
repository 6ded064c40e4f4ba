//! What a run answered, before and after it was checked.

use std::sync::Arc;

use super::RunCost;
use super::contract::{Contract, Symbols};
use super::shapes::ShapeDifference;
use crate::audit::Subject;
use crate::error::{Error, ErrorKind};
use crate::host::{Event, Inner};
use belljar_tensor::Tensor;

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
    /// How the inputs differ from the declaration.
    pub(super) inputs: Vec<ShapeDifference>,
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

    /// Checks names, order, number and element types against the model's declaration. Then holds the
    /// values against the policy's rules, and cuts and rounds what they do not let out.
    ///
    /// The shape of an output is checked against `[outputs.NAME] shape` of the policy. A shape that
    /// only differs from the model's own declaration is no error: the output is answered as it was
    /// computed, [`Outputs::shape_differences`] says so, and [`Event::ShapeDiffers`] reports it once for
    /// each loaded model and output. Under a policy with `declared-shapes = "strict"` it is an error:
    /// fixed sizes must be the declared ones, and each symbol the same size everywhere, inputs included.
    ///
    /// # Errors
    /// When an output breaks the declaration or its rule; there is then no answer.
    pub fn validate(self) -> Result<Outputs, Error> {
        let Declared { label, contract, symbols, inputs: mut differences, host, subject } =
            self.declared;
        match contract.check_outputs(symbols, &self.tensors) {
            Ok(found) => differences.extend(found),
            Err(why) => return Err(Error::for_model(&label, ErrorKind::Run(why))),
        }
        if let Err(kind) = contract.check_rules(&self.tensors) {
            return Err(Error::for_model(&label, host.refused(subject, kind)));
        }
        for difference in contract.unreported(&differences) {
            (host.listener)(Event::ShapeDiffers { model: label.clone(), difference });
        }
        Ok(Outputs { tensors: contract.told(self.tensors), differences, cost: self.cost })
    }
}

/// The outputs of a run, in the order in which the model declares them.
#[derive(Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
    differences: Vec<ShapeDifference>,
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

    /// Inputs and outputs of this run whose shape is not the one that the model declares.
    pub fn shape_differences(&self) -> &[ShapeDifference] {
        &self.differences
    }

    /// What the run has cost.
    pub fn cost(&self) -> RunCost {
        self.cost
    }
}
