//! Runs of a model in the profiling variant of the guest, which tells how long each node took. They
//! start from the memory snapshot that requests start from, in a worker of their own that has the same
//! confinement and answers nothing else. No request is ever served by it.

use std::sync::Arc;

use belljar_abi::{ProfiledNode, Reply};

use super::contract::Bound;
use super::shared::{Served, Shared, reply, unexpected};
use super::{Model, payload};
use crate::audit::{Decision, Verdict};
use crate::error::{Error, ErrorKind, Phase};
use crate::sandbox::{Call, Payload, Sandbox};
use belljar_tensor::Tensor;

/// A run that was profiled. All text in it is hostile.
pub struct ProfiledRun {
    /// Nodes of the plan in the order in which they ran.
    pub nodes: Vec<ProfiledNode>,
    /// When the run began, in nanoseconds of the worker's clock.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// Nanoseconds of each measured time that reading the clock takes.
    pub reading: u64,
    /// Whether the answer has the same bytes as that of the guest without a clock.
    pub same_answer: bool,
}

/// A sandbox of the profiling variant, for one model and inputs of some shapes.
pub struct Profiler<'a, N> {
    model: &'a Model,
    inputs: &'a [(N, Tensor)],
    sandbox: Box<dyn Sandbox>,
    /// What the guest without a clock answers.
    answer: Vec<u8>,
}

impl Model {
    /// Starts a sandbox for profiled runs on these inputs. Compiles the profiling variant if this
    /// machine does not have its code.
    ///
    /// # Errors
    /// As [`Model::run`], and when sandboxes of this host are in this process.
    #[doc(hidden)]
    pub fn profiler<'a, N: AsRef<str>>(
        &'a self,
        inputs: &'a [(N, Tensor)],
    ) -> Result<Profiler<'a, N>, Error> {
        let start = || {
            let shared = &*self.shared;
            let bound = shared.bind(inputs)?;
            let served = shared.served(&bound.shapes, || payload(inputs, &shared.contract))?;
            let Served { sandbox, answer, .. } = served;
            reply(&answer, Phase::Run)?;
            shared.answered();
            shared.put_back(bound.shapes.clone(), sandbox);
            let sandbox = shared.retried(|| shared.profiling_sandbox(&bound))?;
            Ok(Profiler { model: self, inputs, sandbox, answer: answer.message })
        };
        start().map_err(|kind| self.error(kind))
    }
}

impl Shared {
    /// A sandbox of the profiling variant that has the memory which requests start from.
    fn profiling_sandbox(&self, bound: &Bound) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let mut sandbox = self.host.profiling_sandbox(&self.policy)?;
        let snapshot = self.snapshot(&bound.shapes)?;
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
        let payload = payload(self.inputs, &shared.contract);
        let answer = shared.call(&mut *self.sandbox, Call::Profile, payload, Phase::Run)?;
        let Reply::Profile(profile) = reply(&answer, Phase::Run)? else { return Err(unexpected()) };
        let (subject, resource, access) = (shared.subject(), "model", "run");
        let (verdict, rule) = (Verdict::Allowed, "limits");
        // Without a line in the log there is no profile, as there is no answer.
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
