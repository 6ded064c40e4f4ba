//! The outputs of a run, before and after they are checked.

use std::borrow::Cow;
use std::sync::Arc;

use super::RunCost;
use super::contract::{Contract, Symbols};
use super::shapes::ShapeDifference;
use crate::audit::Subject;
use crate::error::{Error, ErrorKind};
use crate::host::{Event, Inner};
use belljar_tensor::{Tensor, Value};

/// Outputs as the sandbox returned them. They are not accessible before [`validate`] has checked
/// them against the model's declaration.
///
/// [`validate`]: UncheckedOutputs::validate
#[must_use = "outputs are only usable once they are validated"]
pub struct UncheckedOutputs {
    declared: Declared,
    tensors: Vec<(String, Tensor)>,
    cost: RunCost,
}

/// What outputs are checked against, and where differences are reported.
pub(super) struct Declared {
    pub(super) label: String,
    pub(super) contract: Arc<Contract>,
    pub(super) symbols: Symbols,
    /// Differences of the inputs from the declaration.
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

    /// Checks names, order, number and element types against the model's declaration. Then checks
    /// the values against the policy's rules, and applies their `top-k` and `decimals`.
    ///
    /// The shape of an output is checked against `[outputs.NAME] shape` of the policy. A shape that
    /// differs only from the model's own declaration is not an error: the output is returned as
    /// computed, [`Outputs::shape_differences`] lists the difference, and [`Event::ShapeDiffers`]
    /// reports it once for each loaded model and output. Under a policy with `declared-shapes =
    /// "strict"` it is an error: fixed sizes must be the declared ones, and each symbol must have
    /// the same size everywhere, including inputs.
    ///
    /// # Errors
    /// When an output violates the declaration or its rule; then no outputs are returned.
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
        let tensors = contract.disclosed(self.tensors);
        let values = contract.to_values(tensors);
        let values = values.map_err(|why| Error::for_model(&label, ErrorKind::Run(why)))?;
        for difference in contract.unreported(&differences) {
            (host.listener)(Event::ShapeDiffers { model: label.clone(), difference });
        }
        Ok(Outputs::new(values, differences, self.cost))
    }
}

/// The outputs of a run, in the order of the model's declaration.
#[derive(Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
    /// Outputs that are not tensors, with their positions among all.
    others: Vec<(usize, (String, Value))>,
    differences: Vec<ShapeDifference>,
    cost: RunCost,
}

impl Outputs {
    fn new(
        values: Vec<(String, Value)>,
        differences: Vec<ShapeDifference>,
        cost: RunCost,
    ) -> Outputs {
        let (mut tensors, mut others) = (Vec::new(), Vec::new());
        for (at, (name, value)) in values.into_iter().enumerate() {
            match value {
                Value::Tensor(tensor) => tensors.push((name, tensor)),
                other => others.push((at, (name, other))),
            }
        }
        Outputs { tensors, others, differences, cost }
    }

    /// The output of this name, if it is a tensor. [`Outputs::value`] also finds the others.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    /// The output of this name: a tensor, a sequence, a map or an absent optional.
    pub fn value(&self, name: &str) -> Option<Cow<'_, Value>> {
        let other = self.others.iter().find(|(_, (known, _))| known == name);
        match other {
            Some((_, (_, value))) => Some(Cow::Borrowed(value)),
            None => self.get(name).map(|tensor| Cow::Owned(Value::Tensor(tensor.clone()))),
        }
    }

    /// All outputs that are tensors, with their names, which are untrusted.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The outputs that are not tensors, with their names: sequences, maps and absent optionals.
    pub fn others(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.others.iter().map(|(_, (name, value))| (name.as_str(), value))
    }

    /// All outputs that are tensors, with their names, by value.
    pub fn into_tensors(self) -> Vec<(String, Tensor)> {
        self.tensors
    }

    /// All outputs with their names, in the order of the model's declaration.
    pub fn into_values(self) -> Vec<(String, Value)> {
        let tensors = self.tensors.into_iter();
        let mut values: Vec<(String, Value)> =
            tensors.map(|(name, tensor)| (name, Value::Tensor(tensor))).collect();
        for (at, other) in self.others {
            values.insert(at.min(values.len()), other);
        }
        values
    }

    /// Inputs and outputs of this run whose shape differs from the model's declaration.
    pub fn shape_differences(&self) -> &[ShapeDifference] {
        &self.differences
    }

    /// The cost of the run.
    pub fn cost(&self) -> RunCost {
        self.cost
    }
}
