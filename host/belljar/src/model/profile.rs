//! Runs a model in the profiling variant of the guest, which measures the time of each node. Such
//! runs start from the same memory snapshot as requests, in a separate worker with the same
//! confinement. That worker never serves requests.

use std::sync::Arc;

use belljar_abi::{ProfiledNode, Reply};

use super::answers::{reply, unexpected};
use super::contract::Contract;
use super::shared::{Served, Shared};
use super::{Model, payload};
use crate::audit::{Decision, Verdict};
use crate::error::{Error, ErrorKind, Phase};
use crate::sandbox::{Call, Payload, PlanShapes, Sandbox};
use belljar_tensor::Tensor;

/// A profiled run. All text in it is untrusted.
pub struct ProfiledRun {
    /// Nodes of the plan in execution order.
    pub nodes: Vec<ProfiledNode>,
    /// Start of the run, in nanoseconds of the worker's clock.
    pub began: u64,
    /// End of the run.
    pub ended: u64,
    /// The nanoseconds in each measured time that reading the clock takes.
    pub reading: u64,
    /// Whether the outputs are identical to those of the guest without a clock.
    pub same_answer: bool,
}

/// A sandbox of the profiling variant, for one model and inputs of some shapes.
pub struct Profiler<'a, N> {
    model: &'a Model,
    inputs: &'a [(N, Tensor)],
    sandbox: Box<dyn Sandbox>,
    /// The response of the guest without a clock.
    answer: Vec<u8>,
}

impl Model {
    /// Starts a sandbox for profiled runs on these inputs. Compiles the profiling variant if its
    /// code is not cached.
    ///
    /// # Errors
    /// As [`Model::run`], and when this host's sandboxes are in this process.
    #[doc(hidden)]
    pub fn profiler<'a, N: AsRef<str>>(
        &'a self,
        inputs: &'a [(N, Tensor)],
    ) -> Result<Profiler<'a, N>, Error> {
        let start = || {
            let (shared, contract) = (&*self.shared, &*self.contract);
            contract.check_takes_tensors(super::bound::TAKEN_BY_VALUES)?;
            let bound = shared.bind(contract, inputs)?;
            let payload = || payload(inputs, contract, shared.seed());
            let served = shared.served(contract, &bound.shapes, payload)?;
            let Served { sandbox, plan, answer, .. } = served;
            reply(&answer, Phase::Run)?;
            shared.answered();
            shared.put_back(&plan, sandbox);
            let sandbox = shared.retried(|| shared.profiling_sandbox(contract, &plan))?;
            Ok(Profiler { model: self, inputs, sandbox, answer: answer.message })
        };
        start().map_err(|kind| self.error(kind))
    }
}

impl Shared {
    /// A sandbox of the profiling variant with the memory that requests start from.
    fn profiling_sandbox(
        &self,
        contract: &Contract,
        plan: &PlanShapes,
    ) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let mut sandbox = self.host.profiling_sandbox(&self.policy)?;
        let snapshot = self.snapshot(contract, plan)?;
        self.call(&mut *sandbox, Call::Adopt, Payload::Snapshot(snapshot), Phase::Prepare)?;
        Ok(sandbox)
    }
}

impl<N: AsRef<str>> Profiler<'_, N> {
    /// Runs the model once.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn run(&mut self) -> Result<ProfiledRun, Error> {
        self.run_inner().map_err(|kind| self.model.error(kind))
    }

    fn run_inner(&mut self) -> Result<ProfiledRun, ErrorKind> {
        let shared: &Arc<Shared> = &self.model.shared;
        let payload = payload(self.inputs, &self.model.contract, shared.seed());
        let answer = shared.call(&mut *self.sandbox, Call::Profile, payload, Phase::Run)?;
        let Reply::Profile(profile) = reply(&answer, Phase::Run)? else { return Err(unexpected()) };
        let (subject, resource, access) = (shared.subject(), "model", "run");
        let (verdict, rule) = (Verdict::Allowed, "limits");
        // Without a log line the run is not allowed.
        shared.host.decide(&Decision { subject, resource, access, verdict, rule })?;
        Ok(ProfiledRun {
            same_answer: profile.answer == self.answer,
            nodes: profile.nodes,
            began: profile.began,
            ended: profile.ended,
            reading: profile.reading,
        })
    }
}
