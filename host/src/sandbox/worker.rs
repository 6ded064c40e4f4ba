//! A sandbox in a worker process, as its supervisor sees it. The worker is hostile from the moment
//! it has seen a model: what it answers is copied before it is looked at, and it is killed when it
//! is late or talks nonsense.

use super::code_cache::VerifiedCode;
use super::engine::Variant;
use super::failure::{Failure, WorkerLoss};
use super::image::Image;
use super::limits::SandboxLimits;
use super::serve::{Order, Outcome, Setup, Source};
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use crate::confine::channel::{Channel, Received, is_gone};
use crate::confine::ended::WorkerEnd;
use crate::confine::memory::SharedBuffer;
use crate::confine::process::{WorkerProcess, WorkerProgram};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

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

fn not_started(err: io::Error) -> Failure {
    Failure::Host(format!("a worker process could not be started: {err}"))
}

/// A sandbox in a worker process.
pub(crate) struct WorkerSandbox {
    process: WorkerProcess,
    channel: Channel,
    shared: SharedBuffer,
    limits: SandboxLimits,
    /// Orders that were carried out, and how many of them were runs.
    orders: u64,
    runs: u32,
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
        let Worker { mut process, mut channel } = worker;
        let shared = SharedBuffer::new(inputs.max(limits.answer)).map_err(not_started)?;
        let descriptors = [code.sealed().as_fd(), shared.as_fd()];
        channel.send(&Setup { variant, limits }, &descriptors).map_err(|err| {
            if is_gone(&err) {
                let end = process.ended();
                return Failure::Lost(WorkerLoss { end, began: false, served: false });
            }
            not_started(err)
        })?;
        let log = Vec::new();
        Ok(WorkerSandbox { process, channel, shared, limits, orders: 0, runs: 0, log })
    }

    fn exchange(
        &mut self,
        call: Call,
        payload: &Payload,
        limit: CallLimit,
    ) -> Result<Answer, Unanswered> {
        let host = |err: io::Error| {
            Unanswered::Failed(Failure::Host(format!("the inputs cannot cross: {err}")))
        };
        let (source, sealed) = match payload {
            Payload::Empty => (Source::Empty, None),
            Payload::Bytes(bytes) => {
                self.shared.write(bytes).map_err(host)?;
                (Source::Shared(bytes.len() as u64), None)
            }
            Payload::Sealed(sealed) => (Source::Sealed, Some(sealed.as_fd())),
            Payload::Image(image) => (Source::Image, Some(image.bytes())),
        };
        let number = random_number().map_err(host)?;
        self.channel.send(&Order { number, call, source }, sealed.as_slice()).map_err(|err| {
            match err.kind() {
                _ if is_gone(&err) => Unanswered::Gone { began: false },
                io::ErrorKind::WouldBlock => Unanswered::nonsense("it does not read its orders"),
                _ => host(err),
            }
        })?;
        let received = self.channel.receive(Some(limit.time)).map_err(Unanswered::nonsense)?;
        let (outcome, descriptors): (Outcome, _) = match received {
            Received::Message(outcome, descriptors) => (outcome, descriptors),
            Received::TimedOut => return Err(Unanswered::Failed(limit.exceeded())),
            Received::Closed => return Err(Unanswered::Gone { began: true }),
            Received::Unread => return Err(Unanswered::Gone { began: false }),
        };
        if outcome.number != number {
            return Err(Unanswered::nonsense(
                "it answered another order than the one it was given",
            ));
        }
        let image = match (descriptors.len(), outcome.image && call == Call::Prepare) {
            (0, false) if !outcome.image => None,
            (1, true) => descriptors.into_iter().next(),
            _ => {
                return Err(Unanswered::nonsense(
                    "what came with its answer does not belong there",
                ));
            }
        };
        self.log.extend(outcome.log);
        let (len, cost) = outcome.result.map_err(Unanswered::Failed)?;
        if len > self.limits.answer.min(self.shared.len()) {
            return Err(Unanswered::nonsense("its answer is longer than an answer can be"));
        }
        let mut message = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.shared.read_into(&mut message).map_err(Unanswered::nonsense)?;
        let image = image
            .map(|fd| Image::take_over(fd, self.limits.memory).map(Arc::new))
            .transpose()
            .map_err(|err| Unanswered::nonsense(format!("its image is none: {err}")))?;
        Ok(Answer { message, cost, image })
    }

    fn loss(&self, end: WorkerEnd, began: bool) -> WorkerLoss {
        WorkerLoss { end, began, served: self.orders > 0 }
    }
}

/// Why an order has no answer.
enum Unanswered {
    /// The worker said so, or is late, or something is wrong here.
    Failed(Failure),
    /// The worker has closed its channel.
    Gone {
        /// Whether it had read the order.
        began: bool,
    },
    /// The worker does not keep to the rules.
    Nonsense(String),
}

impl Unanswered {
    fn nonsense(why: impl ToString) -> Unanswered {
        Unanswered::Nonsense(why.to_string())
    }
}

fn random_number() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

impl Sandbox for WorkerSandbox {
    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure> {
        let answer = self.exchange(call, &payload, limit);
        // A worker that failed is never used again, and a late one must not go on computing.
        let (end, began) = match answer {
            Ok(answer) => {
                self.orders += 1;
                self.runs = self.runs.saturating_add(u32::from(call == Call::Run));
                return Ok(answer);
            }
            Err(Unanswered::Failed(failure)) => {
                self.process.kill();
                return Err(failure);
            }
            Err(Unanswered::Nonsense(why)) => {
                self.process.kill();
                (WorkerEnd::Nonsense(why), true)
            }
            Err(Unanswered::Gone { began }) => (self.process.ended(), began),
        };
        Err(Failure::Lost(self.loss(end, began)))
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn loss_while_waiting(&mut self) -> Option<WorkerLoss> {
        // One that has not done anything yet may still be on its way to begin.
        if self.orders == 0 || !self.channel.has_news() {
            return None;
        }
        let end = match self.channel.receive::<serde::de::IgnoredAny>(Some(Duration::ZERO)) {
            Ok(Received::TimedOut) => return None,
            Ok(Received::Closed | Received::Unread) => self.process.ended(),
            Ok(Received::Message(..)) | Err(_) => {
                self.process.kill();
                WorkerEnd::Nonsense("it spoke without being asked".into())
            }
        };
        Some(self.loss(end, false))
    }

    fn runs(&self) -> u32 {
        self.runs
    }
}
