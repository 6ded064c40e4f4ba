//! A sandbox in a worker process, as its supervisor sees it. The worker is hostile from the moment
//! it has seen a model: what it answers is copied before it is looked at, and it is killed when it
//! is late or talks nonsense.

use super::code_cache::VerifiedCode;
use super::engine::Variant;
use super::failure::Failure;
use super::image::Image;
use super::limits::SandboxLimits;
use super::serve::{Order, Outcome, Setup, Source};
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use crate::confine::channel::{Channel, Received};
use crate::confine::memory::SharedBuffer;
use crate::confine::process::{WorkerProcess, WorkerProgram};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A worker process that waits for its set-up.
pub(crate) struct Worker {
    process: WorkerProcess,
    channel: Channel,
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

/// A sandbox in a worker process.
pub(crate) struct WorkerSandbox {
    process: WorkerProcess,
    channel: Channel,
    shared: SharedBuffer,
    log: Vec<String>,
}

impl WorkerSandbox {
    /// Makes a worker a sandbox. `inputs` is the most bytes that go in with one call, the model excepted.
    pub(crate) fn start(
        worker: Worker,
        code: &VerifiedCode,
        variant: Variant,
        limits: SandboxLimits,
        inputs: u64,
    ) -> Result<WorkerSandbox, Failure> {
        let Worker { process, mut channel } = worker;
        let shared = SharedBuffer::new(inputs.max(limits.answer)).map_err(not_started)?;
        let descriptors = [code.sealed().as_fd(), shared.as_fd()];
        let setup = Setup {
            variant,
            limits,
            #[cfg(feature = "test-hooks")]
            hooks: crate::confine::hooks::Hooks::from_environment().map_err(not_started)?,
        };
        channel.send(&setup, &descriptors).map_err(not_started)?;
        Ok(WorkerSandbox { process, channel, shared, log: Vec::new() })
    }

    fn exchange(
        &mut self,
        call: Call,
        payload: &Payload,
        limit: CallLimit,
    ) -> Result<Answer, Failure> {
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
}
