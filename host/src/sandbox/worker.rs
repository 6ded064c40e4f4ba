//! A sandbox in a worker process, as its supervisor sees it. The worker is hostile from the moment
//! it has seen a model: what it answers is copied before it is looked at, and it is killed when it
//! is late or talks nonsense.

use super::code_cache::VerifiedCode;
use super::engine::Variant;
use super::failure::Failure;
use super::guest::GuestInfo;
use super::image::Image;
use super::limits::SandboxLimits;
use super::serve::{Order, Outcome, Ready, Setup, Source, Work};
use super::thread::HOST_STACK;
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use crate::confine::channel::{Channel, Received};
use crate::confine::layers::{Confinement, MissingLayer};
use crate::confine::memory::SharedBuffer;
use crate::confine::process::{WorkerProcess, WorkerProgram};
use crate::confine::role::Role;
use crate::confine::setup::ProcessLimits;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Longest that a worker may take to be confined. It takes some milliseconds.
const LONGEST_START: Duration = Duration::from_secs(30);

/// A worker process that waits for its set-up.
pub(crate) struct Worker {
    pub(super) process: WorkerProcess,
    pub(super) channel: Channel,
}

impl Worker {
    /// Starts a process, which goes on starting while something else is done here.
    pub(crate) fn spawn(program: &WorkerProgram) -> Result<Worker, Failure> {
        let (channel, theirs) = Channel::pair().map_err(not_started)?;
        let process = WorkerProcess::spawn(program, theirs).map_err(not_started)?;
        Ok(Worker { process, channel })
    }
}

fn not_started(err: std::io::Error) -> Failure {
    Failure::Host(format!("a worker process could not be started: {err}"))
}

/// What a worker is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) role: Role,
    pub(crate) confinement: Confinement,
    pub(crate) variant: Variant,
    pub(crate) limits: SandboxLimits,
    /// Most bytes that go in with one call, the model excepted.
    pub(crate) inputs: u64,
    /// Longest that all calls together may take.
    pub(crate) time: Duration,
}

/// Memory beside the linear one and what crosses: wasmtime's own, and code. In bytes.
const OWN_MEMORY: u64 = 256 << 20;

/// Scratch memory of kernels for one thread, in bytes.
const SCRATCH: u64 = 64 << 20;

impl Job {
    /// Limits of the kernel, well above those that the sandbox itself keeps to.
    fn process_limits(&self) -> ProcessLimits {
        let Job { limits, inputs, time, .. } = *self;
        let threads = u64::from(limits.threads);
        let each = SCRATCH.saturating_add(limits.stack).saturating_add(HOST_STACK);
        ProcessLimits {
            data: [limits.memory, inputs, limits.answer, threads.saturating_mul(each), OWN_MEMORY]
                .into_iter()
                .fold(0, u64::saturating_add),
            file: limits.memory.max(inputs).max(limits.answer),
            cpu: time.as_secs().saturating_add(60).saturating_mul(threads),
            threads: threads + 2,
        }
    }
}

/// A sandbox in a worker process.
pub(crate) struct WorkerSandbox {
    process: WorkerProcess,
    channel: Channel,
    shared: SharedBuffer,
    log: Vec<String>,
    /// Whether the worker has said that it is confined.
    ready: bool,
    missing: Vec<MissingLayer>,
}

impl WorkerSandbox {
    /// Has a worker begin to become a sandbox, which takes a while.
    pub(crate) fn start(
        worker: Worker,
        code: &VerifiedCode,
        job: Job,
    ) -> Result<WorkerSandbox, Failure> {
        let Worker { process, mut channel } = worker;
        let Job { variant, limits, .. } = job;
        let shared = SharedBuffer::new(job.inputs.max(limits.answer)).map_err(not_started)?;
        let descriptors = [code.sealed().as_fd(), shared.as_fd()];
        let plan = process.plan(job.role, job.confinement, job.process_limits());
        let guest = GuestInfo::embedded().sha256.to_owned();
        let setup = Setup { plan, variant, guest, work: Work::Sandbox(limits) };
        channel.send(&setup, &descriptors).map_err(not_started)?;
        let (log, missing) = (Vec::new(), Vec::new());
        Ok(WorkerSandbox { process, channel, shared, log, ready: false, missing })
    }

    /// Waits until the worker is confined. Nothing of a model is sent before.
    fn await_ready(&mut self) -> Result<(), Failure> {
        if self.ready {
            return Ok(());
        }
        let nonsense = |err: std::io::Error| Failure::Protocol(err.to_string());
        match self.channel.receive::<Ready>(Some(LONGEST_START)).map_err(nonsense)? {
            Received::Message(Ok(missing), _) => self.missing = missing,
            Received::Message(Err(missing), _) => return Err(Failure::Unprotected(missing)),
            Received::TimedOut => {
                return Err(Failure::Host("the worker process does not get ready".into()));
            }
            Received::Closed => return Err(Failure::Worker(String::new())),
        }
        self.ready = true;
        Ok(())
    }

    fn exchange(
        &mut self,
        call: Call,
        payload: &Payload,
        limit: CallLimit,
    ) -> Result<Answer, Failure> {
        self.await_ready()?;
        let host = |err: std::io::Error| Failure::Host(format!("the inputs cannot cross: {err}"));
        let (source, sealed) = match payload {
            Payload::Empty => (Source::Empty, None),
            Payload::Bytes(bytes) => {
                self.shared.write(bytes).map_err(host)?;
                (Source::Shared(bytes.len() as u64), None)
            }
            Payload::Sealed(sealed) => (Source::Sealed, Some(sealed.as_fd())),
            Payload::Image(image) => (Source::Image, Some(image.bytes())),
        };
        let nonsense = |err: std::io::Error| Failure::Protocol(err.to_string());
        self.channel
            .send(&Order { call, source }, sealed.as_slice())
            .map_err(|err| Failure::Worker(err.to_string()))?;
        let received = self.channel.receive(Some(limit.time)).map_err(nonsense)?;
        let (outcome, descriptors): (Outcome, _) = match received {
            Received::Message(outcome, descriptors) => (outcome, descriptors),
            Received::TimedOut => return Err(limit.exceeded()),
            Received::Closed => return Err(Failure::Worker(String::new())),
        };
        self.log.extend(outcome.log);
        let (len, cost) = outcome.result?;
        if len > self.shared.len() {
            return Err(Failure::Protocol("the answer is longer than its buffer".into()));
        }
        let mut message = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.shared.read_into(&mut message).map_err(nonsense)?;
        // An image that cannot be taken over is one that others do not start from.
        let image = descriptors.into_iter().next().filter(|_| outcome.image);
        let image = image.and_then(|fd| Image::take_over(fd).ok()).map(Arc::new);
        Ok(Answer { message, cost, image })
    }
}

impl Sandbox for WorkerSandbox {
    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure> {
        self.exchange(call, &payload, limit).map_err(|failure| {
            // A worker that failed is never used again, and a late one must not go on computing.
            let ended = self.process.kill();
            match failure {
                Failure::Worker(_) => Failure::Worker(ended),
                other => other,
            }
        })
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn take_missing(&mut self) -> Vec<MissingLayer> {
        std::mem::take(&mut self.missing)
    }
}
