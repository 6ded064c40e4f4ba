//! A sandbox in a worker process, as its supervisor sees it. The worker is hostile from the moment
//! it has seen a model: what it answers is copied before it is looked at, and it is killed when it
//! is late or talks nonsense.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::code_cache::VerifiedCode;
use super::engine::Variant;
use super::failure::{Failure, WorkerLoss};
use super::guest::GuestInfo;
use super::image::Image;
use super::limits::SandboxLimits;
use super::serve::{Order, Outcome, Ready, Setup, Source, Work};
use super::thread::HOST_STACK;
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use crate::confine::channel::{Channel, Received, is_gone};
use crate::confine::ended::WorkerEnd;
use crate::confine::layers::{Confinement, MissingLayer};
use crate::confine::memory::SharedBuffer;
use crate::confine::process::{WorkerProcess, WorkerProgram};
use crate::confine::role::Role;
use crate::confine::setup::ProcessLimits;

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

fn not_started(err: io::Error) -> Failure {
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
    limits: SandboxLimits,
    /// Orders that were carried out, and how many of them were runs.
    orders: u64,
    runs: u32,
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
        let Worker { mut process, mut channel } = worker;
        let Job { variant, limits, .. } = job;
        let shared = SharedBuffer::new(job.inputs.max(limits.answer)).map_err(not_started)?;
        let descriptors = [code.sealed().as_fd(), shared.as_fd()];
        let plan = process.plan(job.role, job.confinement, job.process_limits());
        let guest = GuestInfo::embedded().sha256.to_owned();
        let setup = Setup { plan, variant, guest, work: Work::Sandbox(limits) };
        channel.send(&setup, &descriptors).map_err(|err| {
            if is_gone(&err) {
                let end = process.ended();
                return Failure::Lost(WorkerLoss { end, began: false, served: false });
            }
            not_started(err)
        })?;
        Ok(WorkerSandbox {
            process,
            channel,
            shared,
            limits,
            orders: 0,
            runs: 0,
            log: Vec::new(),
            ready: false,
            missing: Vec::new(),
        })
    }

    /// Waits until the worker is confined. Nothing of a model is sent before.
    fn await_ready(&mut self) -> Result<(), Unanswered> {
        if self.ready {
            return Ok(());
        }
        let ready = self.channel.receive::<Ready>(Some(LONGEST_START));
        match ready.map_err(Unanswered::nonsense)? {
            Received::Message(Ok(missing), _) => self.missing = missing,
            Received::Message(Err(missing), _) => {
                return Err(Unanswered::Failed(Failure::Unprotected(missing)));
            }
            Received::TimedOut => return Err(Unanswered::nonsense("it does not get ready")),
            Received::Closed | Received::Unread => return Err(Unanswered::Gone { began: false }),
        }
        self.ready = true;
        Ok(())
    }

    fn exchange(
        &mut self,
        call: Call,
        payload: &Payload,
        limit: CallLimit,
    ) -> Result<Answer, Unanswered> {
        self.await_ready()?;
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

    fn take_missing(&mut self) -> Vec<MissingLayer> {
        std::mem::take(&mut self.missing)
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
