//! Inputs that fit a model and its policy, and runs on them.

use std::time::{Duration, Instant};

use super::Model;
use super::contract::{Bound, NamedPart};
use super::outputs::UncheckedOutputs;
use crate::audit::{Decision, Verdict};
use crate::error::{Error, ErrorKind};
use belljar_tensor::{Tensor, Value};

/// What an error says of an input that is not a tensor.
pub(super) const TAKEN_BY_VALUES: &str =
    "`Model::run_values` takes such inputs, and so does `belljar run`, from .json and .npz files";

/// Inputs that fit a model and its policy.
pub struct BoundInputs<'a, N> {
    model: &'a Model,
    inputs: Given<'a, N>,
    bound: Bound,
    seed: u32,
}

enum Given<'a, N> {
    Tensors(&'a [(N, Tensor)]),
    /// The tensors that values cross as.
    Parts(Vec<NamedPart<'a>>),
}

impl<N: AsRef<str>> BoundInputs<'_, N> {
    /// Sets the seed of the run's random numbers; by default that of the policy (`compute.seed`),
    /// else 0. Nodes that have a seed of their own in the model keep it. With the same model,
    /// inputs, policy and seed, all outputs are the same.
    #[must_use]
    pub fn seed(mut self, seed: u32) -> Self {
        self.seed = seed;
        self
    }

    /// Prepares a sandbox for these inputs and keeps it for a later run.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn prepare(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        let shared = &self.model.shared;
        let (plan, sandbox) = shared
            .retried(|| shared.prepared_sandbox(&self.model.contract, &self.bound.shapes))
            .map_err(|kind| self.model.error(kind))?;
        shared.put_back(&plan, sandbox);
        Ok(start.elapsed())
    }

    /// Runs the model on them.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run(&self) -> Result<UncheckedOutputs, Error> {
        let run = || -> Result<UncheckedOutputs, ErrorKind> {
            let outputs = match &self.inputs {
                Given::Tensors(inputs) => self.model.run_bound(inputs, &self.bound, self.seed)?,
                Given::Parts(inputs) => self.model.run_bound(inputs, &self.bound, self.seed)?,
            };
            let shared = &self.model.shared;
            let (host, subject) = (&shared.host, shared.subject());
            let (resource, access, verdict) = ("model", "run", Verdict::Allowed);
            // Without a log line the run is not allowed.
            host.decide(&Decision { subject, resource, access, verdict, rule: "limits" })?;
            Ok(outputs)
        };
        run().map_err(|kind| self.model.error(kind))
    }
}

impl Model {
    /// Checks inputs against the model's declaration and the policy, once for a preparation and any
    /// number of runs.
    ///
    /// # Errors
    /// When the inputs do not fit, or are larger than the policy allows.
    pub fn bind<'a, N: AsRef<str>>(
        &'a self,
        inputs: &'a [(N, Tensor)],
    ) -> Result<BoundInputs<'a, N>, Error> {
        let bind = || {
            self.contract.check_takes_tensors(TAKEN_BY_VALUES)?;
            self.shared.bind(&self.contract, inputs)
        };
        let bound = bind().map_err(|kind| self.error(kind))?;
        let (inputs, seed) = (Given::Tensors(inputs), self.shared.seed());
        Ok(BoundInputs { model: self, inputs, bound, seed })
    }

    /// As [`Model::bind`], for inputs that may also be sequences, maps and optionals.
    ///
    /// # Errors
    /// As [`Model::bind`].
    pub fn bind_values<'a, N: AsRef<str>>(
        &'a self,
        inputs: &'a [(N, Value)],
    ) -> Result<BoundInputs<'a, String>, Error> {
        let bind = || {
            let parts = self.contract.to_parts(inputs)?;
            let bound = self.shared.bind(&self.contract, &parts)?;
            Ok((parts, bound))
        };
        let (parts, bound) = bind().map_err(|kind| self.error(kind))?;
        let (inputs, seed) = (Given::Parts(parts), self.shared.seed());
        Ok(BoundInputs { model: self, inputs, bound, seed })
    }

    /// Runs the model for a caller that only knows tensors, `wasi:nn`. A model with other outputs is
    /// refused before it runs.
    #[cfg(feature = "wasi-nn")]
    pub(crate) fn run_for_tensors(
        &self,
        inputs: &[(String, Tensor)],
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let only = "`wasi:nn` has tensors only; run the model with the library or `belljar run`";
        let check = || {
            self.contract.check_takes_tensors(only)?;
            self.contract.check_makes_tensors(only)
        };
        check().map_err(|kind| self.error(kind))?;
        Ok(self.run(inputs)?.validate()?.into_tensors())
    }
}
