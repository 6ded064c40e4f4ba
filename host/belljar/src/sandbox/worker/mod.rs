//! The supervisor's side of a sandbox in a worker process. A worker that has seen a model must be
//! treated as hostile: its answers are copied before they are checked, and it is killed when it is
//! late or violates the protocol.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::code_cache::{ProfilingCode, VerifiedCode};
use super::engine::Variant;
use super::failure::{Failure, WorkerLoss};
use super::guest::GuestInfo;
use super::limits::SandboxLimits;
use super::serve::{Request, Response, Source};
use super::setup::{Ready, Setup, Work};
use super::slot::Slot;
use super::snapshot::Snapshot;
use super::thread::HOST_STACK;
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use belljar_confine::channel::{Channel, Received, is_gone};
use belljar_confine::ended::WorkerEnd;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::memory::{SealedWriter, SharedBuffer};
use belljar_confine::process::{WorkerProcess, WorkerProgram, no_process};
use belljar_confine::role::Role;
use belljar_confine::setup::ProcessLimits;

/// Time limit for a worker to confine itself. It takes some milliseconds.
pub(crate) const LONGEST_START: Duration = Duration::from_secs(30);

/// A worker process that waits for its set-up.
pub(crate) struct Worker {
    pub(crate) process: WorkerProcess,
    pub(crate) channel: Channel,
}

impl Worker {
    /// Starts a process. It initialises itself in parallel with the caller.
    pub(crate) fn spawn(program: &WorkerProgram) -> Result<Worker, Failure> {
        let (channel, theirs) = Channel::pair().map_err(not_started)?;
        let process = WorkerProcess::spawn(program, theirs).map_err(not_started)?;
        Ok(Worker { process, channel })
    }

    /// Sends the worker its set-up.
    pub(crate) fn set_up(
        &mut self,
        setup: &Setup,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        self.channel.send(setup, descriptors).map_err(|err| match is_gone(&err) {
            true => self.lost(),
            false => not_started(err),
        })
    }

    /// Waits until the worker reports that it is confined, and returns the missing layers. The
    /// report is checked against what is required and against what the kernel shows. No part of a
    /// model may be sent before.
    pub(crate) fn await_ready(
        &mut self,
        confinement: Confinement,
        longest: Duration,
    ) -> Result<Vec<MissingLayer>, Failure> {
        let violation = |why: String| {
            let end = WorkerEnd::ProtocolViolation(why);
            Failure::Lost(WorkerLoss { end, began: false, served: false })
        };
        let ready = self.channel.receive::<Ready>(Some(longest));
        let mut missing = match ready.map_err(|err| violation(err.to_string()))? {
            Received::Message(Ok(missing), _) => missing,
            Received::Message(Err(missing), _) => return Err(Failure::Unprotected(missing)),
            Received::TimedOut => return Err(violation("it did not become ready in time".into())),
            Received::Closed | Received::Unread => return Err(self.lost()),
        };
        let mut unseen = self.process.lacks_from_outside();
        unseen.retain(|unseen| missing.iter().all(|missing| missing.layer != unseen.layer));
        // `/proc` shows no layers of a worker that has ended in the meantime.
        if !unseen.is_empty() && self.process.ends_in_a_moment() {
            return Err(self.lost());
        }
        for unseen in unseen {
            if missing.iter().all(|missing| missing.layer != unseen.layer) {
                missing.push(unseen);
            }
        }
        confinement.accept(&missing).map_err(Failure::Unprotected)?;
        Ok(missing)
    }

    /// The failure for a worker that ended before it was ready.
    fn lost(&mut self) -> Failure {
        let end = self.process.ended();
        Failure::Lost(WorkerLoss { end, began: false, served: false })
    }
}

fn not_started(err: io::Error) -> Failure {
    Failure::Host(format!("cannot start a worker process: {}", no_process(&err)))
}

/// The settings of a worker sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) role: Role,
    pub(crate) confinement: Confinement,
    pub(crate) variant: Variant,
    pub(crate) limits: SandboxLimits,
    /// Maximum number of bytes that one call passes in, except for the model.
    pub(crate) inputs: u64,
    /// Time limit of all calls together.
    pub(crate) time: Duration,
}

/// Memory for wasmtime itself and for code, in addition to linear memory and buffers, in bytes.
const OWN_MEMORY: u64 = 256 << 20;

/// Scratch memory of kernels for one thread, in bytes. It counts against the sandbox's memory
/// limit; here it is added, so that the sandbox's limit is reached before the process's.
const SCRATCH: u64 = belljar_abi::scratch::MAX_SCRATCH_BYTES;

impl Job {
    /// The process limits, well above the sandbox's own limits.
    fn process_limits(&self) -> ProcessLimits {
        let Job { limits, inputs, time, .. } = *self;
        let threads = u64::from(limits.threads);
        let each = SCRATCH.saturating_add(limits.stack).saturating_add(HOST_STACK);
        ProcessLimits {
            data: [limits.memory, inputs, limits.answer, threads.saturating_mul(each), OWN_MEMORY]
                .into_iter()
                .fold(0, u64::saturating_add),
            // A new slot while the old one is dropped, and a mapping of the snapshot to copy from.
            reserved: Slot::RESERVES.saturating_mul(2).saturating_add(limits.memory),
            file: limits.memory.max(inputs).max(limits.answer),
            cpu: time.as_secs().saturating_add(60).saturating_mul(threads),
            threads: threads + 2,
            handles: 0,
        }
    }
}

/// A sandbox in a worker process.
pub(crate) struct WorkerSandbox {
    worker: Worker,
    confinement: Confinement,
    shared: SharedBuffer,
    limits: SandboxLimits,
    /// Completed requests, and how many of them were runs.
    requests: u64,
    runs: u32,
    log: Vec<String>,
    /// Whether the worker is confined and checked.
    ready: bool,
    missing: Vec<MissingLayer>,
}

impl WorkerSandbox {
    /// Starts turning a worker into a sandbox, without waiting until it is ready.
    pub(crate) fn start(
        worker: Worker,
        code: &VerifiedCode,
        job: Job,
    ) -> Result<WorkerSandbox, Failure> {
        WorkerSandbox::start_work(worker, code, job, Work::Sandbox(job.limits))
    }

    /// Like [`WorkerSandbox::start`], for a sandbox of the profiling variant, which serves no
    /// requests.
    pub(crate) fn start_profiling(
        worker: Worker,
        code: &ProfilingCode,
        job: Job,
    ) -> Result<WorkerSandbox, Failure> {
        WorkerSandbox::start_work(worker, &code.0, job, Work::Profile(job.limits))
    }

    fn start_work(
        mut worker: Worker,
        code: &VerifiedCode,
        job: Job,
        work: Work,
    ) -> Result<WorkerSandbox, Failure> {
        let Job { variant, limits, confinement, .. } = job;
        let shared = SharedBuffer::new(job.inputs.max(limits.answer)).map_err(not_started)?;
        let room = (job.role == Role::Prepare).then(|| SealedWriter::room("belljar-snapshot"));
        let room = room.transpose().map_err(not_started)?;
        let mut descriptors = vec![code.sealed().as_fd(), shared.as_fd()];
        descriptors.extend(room.as_ref().map(AsFd::as_fd));
        let plan = worker.process.plan(job.role, confinement, job.process_limits());
        let guest = GuestInfo::embedded().sha256.to_owned();
        let setup = Setup { plan, variant, guest, work };
        worker.set_up(&setup, &descriptors)?;
        Ok(WorkerSandbox {
            worker,
            confinement,
            shared,
            limits,
            requests: 0,
            runs: 0,
            log: Vec::new(),
            ready: false,
            missing: Vec::new(),
        })
    }

    fn exchange(
        &mut self,
        call: Call,
        payload: &Payload,
        limit: CallLimit,
    ) -> Result<Answer, Unanswered> {
        self.await_ready().map_err(Unanswered::Failed)?;
        let host = |err: io::Error| {
            Unanswered::Failed(Failure::Host(format!("cannot send the request: {err}")))
        };
        let (source, sealed) = match payload {
            Payload::Empty => (Source::Empty, None),
            Payload::Bytes(bytes) => {
                self.shared.write(bytes).map_err(host)?;
                (Source::Shared(bytes.len() as u64), None)
            }
            Payload::Sealed(sealed) => (Source::Sealed, Some(sealed.as_fd())),
            Payload::Snapshot(snapshot) => (Source::Snapshot, Some(snapshot.bytes())),
            Payload::Shared(..) => return Err(host(io::ErrorKind::Unsupported.into())),
        };
        let number = random_number().map_err(host)?;
        self.worker.channel.send(&Request { number, call, source }, sealed.as_slice()).map_err(
            |err| match err.kind() {
                _ if is_gone(&err) => Unanswered::Gone { began: false },
                io::ErrorKind::WouldBlock => Unanswered::violation("it does not read its requests"),
                _ => host(err),
            },
        )?;
        let received =
            self.worker.channel.receive(Some(limit.time)).map_err(Unanswered::violation)?;
        let (response, descriptors): (Response, _) = match received {
            Received::Message(response, descriptors) => (response, descriptors),
            Received::TimedOut => return Err(Unanswered::Failed(limit.exceeded())),
            Received::Closed => return Err(Unanswered::Gone { began: true }),
            Received::Unread => return Err(Unanswered::Gone { began: false }),
        };
        if response.number != number {
            return Err(Unanswered::violation("its response is to another request"));
        }
        let snapshot = match (descriptors.len(), response.snapshot && call == Call::Prepare) {
            (0, false) if !response.snapshot => None,
            (1, true) => descriptors.into_iter().next(),
            _ => {
                return Err(Unanswered::violation("its response came with unexpected descriptors"));
            }
        };
        self.log.extend(response.log);
        let (len, cost) = response.result.map_err(Unanswered::Failed)?;
        if len > self.limits.answer.min(self.shared.len()) {
            return Err(Unanswered::violation("its response exceeds the size limit"));
        }
        let message = self.shared.read(len).map_err(Unanswered::violation)?;
        let snapshot = snapshot
            .map(|fd| Snapshot::take_over(fd, self.limits.memory).map(Arc::new))
            .transpose()
            .map_err(|err| Unanswered::violation(format!("its snapshot is invalid: {err}")))?;
        Ok(Answer { message, cost, snapshot })
    }

    fn loss(&self, end: WorkerEnd, began: bool) -> WorkerLoss {
        WorkerLoss { end, began, served: self.requests > 0 }
    }
}

/// Why a request has no answer.
enum Unanswered {
    /// The worker reported a failure or is late, or an operation of the host failed.
    Failed(Failure),
    /// The worker has closed its channel.
    Gone {
        /// Whether it had read the request.
        began: bool,
    },
    /// The worker violated the protocol.
    ProtocolViolation(String),
}

impl Unanswered {
    fn violation(why: impl ToString) -> Unanswered {
        Unanswered::ProtocolViolation(why.to_string())
    }
}

fn random_number() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

impl Sandbox for WorkerSandbox {
    fn await_ready(&mut self) -> Result<(), Failure> {
        if !self.ready {
            let ready = self.worker.await_ready(self.confinement, LONGEST_START);
            // A worker without the required confinement is killed.
            self.missing = ready.inspect_err(|_| drop(self.worker.process.kill()))?;
            self.ready = true;
        }
        Ok(())
    }

    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure> {
        let answer = self.exchange(call, &payload, limit);
        // A worker that failed is never used again, and a late one must stop computing.
        let (end, began) = match answer {
            Ok(answer) => {
                self.requests += 1;
                self.runs = self.runs.saturating_add(u32::from(call == Call::Run));
                return Ok(answer);
            }
            Err(Unanswered::Failed(failure)) => {
                self.worker.process.kill();
                return Err(failure);
            }
            Err(Unanswered::ProtocolViolation(why)) => {
                self.worker.process.kill();
                (WorkerEnd::ProtocolViolation(why), true)
            }
            Err(Unanswered::Gone { began }) => (self.worker.process.ended(), began),
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
        // Before its first request, a message on the channel may be the report that it is ready.
        if self.requests == 0 || !self.worker.channel.has_news() {
            return None;
        }
        let end = match self.worker.channel.receive::<serde::de::IgnoredAny>(Some(Duration::ZERO)) {
            Ok(Received::TimedOut) => return None,
            Ok(Received::Closed | Received::Unread) => self.worker.process.ended(),
            Ok(Received::Message(..)) | Err(_) => {
                self.worker.process.kill();
                WorkerEnd::ProtocolViolation("it sent a message without a request".into())
            }
        };
        Some(self.loss(end, false))
    }

    fn runs(&self) -> u32 {
        self.runs
    }
}
