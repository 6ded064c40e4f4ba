//! The supervisor's side of a program's processes: one that compiles it, and one for each run. Both
//! must be treated as compromised once they have its bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broker::{Broker, GRACE};
use super::limiter;
use super::protocol::{
    About, Answered, Ask, Denied, FileMessage, NotLoaded, Reply, Report, Request, Unanswered,
};
use super::serve::{Compiled, HOST_STACK};
use super::wasi::{self, Asked, OpenedGrant, Spent, Views};
use super::{Value, wire};
use crate::error::{ErrorKind, Phase};
use crate::host::Host;
use crate::sandbox::{LONGEST_START, Limit, ProgramLimits, Setup, Work, Worker, WorkerLoss};
use belljar_confine::channel::{Channel, Received, is_gone};
use belljar_confine::ended::WorkerEnd;
use belljar_confine::layers::Confinement;
use belljar_confine::memory::{SealedBytes, SealedWriter, SharedBuffer};
use belljar_confine::mounts::Mounts;
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;
use belljar_confine::setup::ProcessLimits;
use belljar_policy::{Access, Policy};

/// Maximum memory for compiling one program, in bytes. An interpreter with its library, 18 MB of
/// WebAssembly, takes less than half of it.
const COMPILE_MEMORY: u64 = 3 << 30;

/// Maximum size of compiled code, in bytes.
const MAX_CODE: u64 = 512 << 20;

/// Memory in addition to the policy's limits, for wasmtime and compiled code, in bytes.
const OWN_MEMORY: u64 = 256 << 20;

/// How the processes of programs are started.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) worker: WorkerProgram,
    pub(super) confinement: Confinement,
}

/// A confined process, and the layers that confine it.
fn confined(
    host: &Host,
    start: &Start,
    role: Role,
    limits: ProcessLimits,
    work: Work,
    files: &[OpenedGrant],
) -> Result<Worker, ErrorKind> {
    let failed = |failure| ErrorKind::from_failure(failure, Phase::Run);
    let mut worker = Worker::spawn(&start.worker).map_err(failed)?;
    let plan = worker.process.plan(role, start.confinement, limits);
    worker.set_up(&Setup::new(plan, work), &[]).map_err(failed)?;
    for OpenedGrant { descriptor, guest, access } in files {
        let message = FileMessage { guest: guest.clone(), write: *access == Access::Write };
        worker.send(&message, &[descriptor.as_fd()])?;
    }
    let missing = worker.await_ready(start.confinement, LONGEST_START).map_err(failed)?;
    host.inner.report_missing(missing);
    Ok(worker)
}

fn host_failed(err: io::Error) -> ErrorKind {
    ErrorKind::Host(err.to_string())
}

/// The loss of a process that had started to work on the program.
fn lost(end: WorkerEnd) -> ErrorKind {
    ErrorKind::Worker(WorkerLoss { end, began: true, served: false })
}

fn violation(why: impl ToString) -> ErrorKind {
    lost(WorkerEnd::ProtocolViolation(why.to_string()))
}

/// Compiles a program, within `time`.
pub(super) fn compile(
    host: &Host,
    start: &Start,
    program: &SealedBytes,
    time: Duration,
) -> Result<SealedBytes, ErrorKind> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let limits = ProcessLimits {
        data: COMPILE_MEMORY,
        reserved: 0,
        file: MAX_CODE,
        cpu: time.as_secs().saturating_add(1).saturating_mul(processors),
        threads: processors + 2,
        handles: 0,
    };
    let worker = confined(host, start, Role::CompileProgram, limits, Work::CompileProgram, &[])?;
    let Worker { mut process, mut channel } = worker;
    let room = SealedWriter::room("belljar-program").map_err(host_failed)?;
    if let Err(err) = channel.send(&(), &[program.as_fd(), room.as_fd()]) {
        return Err(if is_gone(&err) { lost(process.ended()) } else { host_failed(err) });
    }
    let code = match channel.receive::<Compiled>(Some(time)).map_err(violation)? {
        Received::Message(Ok(()), code) => code.into_iter().next(),
        Received::Message(Err(why), _) => return Err(ErrorKind::Program(why)),
        Received::TimedOut => return Err(Limit::PrepareTime { limit: time }.into()),
        Received::Closed | Received::Unread => return Err(lost(process.ended())),
    };
    let code = code.ok_or_else(|| violation("it sent no compiled code"))?;
    let code = SealedBytes::take_over(code).map_err(violation)?;
    match code.len() {
        1..=MAX_CODE => Ok(code),
        len => Err(violation(format!("it sent {len} bytes of code"))),
    }
}

/// A confined process that has loaded a program, and waits for its one run.
pub(super) struct ProgramWorker {
    worker: Worker,
    shared: Arc<SharedBuffer>,
    limits: ProgramLimits,
    /// The folders that it may write to.
    views: Arc<Views>,
    /// The mounts when it was started, if it may write to any folder.
    mounts: Option<Mounts>,
}

impl ProgramWorker {
    /// Starts a process, with the grants of the policy.
    pub(super) fn start(
        host: &Host,
        start: &Start,
        code: &SealedBytes,
        limits: ProgramLimits,
        policy: &Policy,
    ) -> Result<ProgramWorker, ErrorKind> {
        let buffer = limits.crossing.max(policy.limits.model_size);
        let load_time = policy.limits.prepare_time;
        let files = policy.filesystem.iter().map(|grant| {
            wasi::open_grant(grant).map_err(|err| {
                let place = grant.host.display();
                ErrorKind::Host(format!("[[filesystem]] host = \"{place}\": {err}"))
            })
        });
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let writes = files.iter().any(|file| file.access == Access::Write);
        let role = match files.is_empty() && policy.network.is_empty() {
            true => Role::Program,
            false => Role::GrantedProgram,
        };
        let data = [
            limits.memory,
            limits.stack,
            HOST_STACK,
            // Code is in memory twice: once read, once loaded.
            code.len().saturating_mul(2),
            // Data of a message is in memory three times: in the program, in the host, and in the
            // buffer.
            buffer.saturating_mul(2),
            limits.crossing,
            OWN_MEMORY,
        ];
        let process_limits = ProcessLimits {
            data: data.into_iter().fold(0, u64::saturating_add),
            reserved: limiter::RESERVES,
            // Quotas limit how much a program writes, but not the size of the files it writes to.
            file: if writes { u64::MAX } else { buffer },
            cpu: limits.time.saturating_add(load_time).as_secs().saturating_add(60),
            threads: 3 + 1,
            handles: u64::from(policy.quotas.open_handles).saturating_add(files.len() as u64),
        };
        let mounts = writes.then(Mounts::now);
        let work = Work::Program { limits, files: files.len() };
        let mut worker = confined(host, start, role, process_limits, work, &files)?;
        let shared = Arc::new(SharedBuffer::new(buffer).map_err(host_failed)?);
        worker.send(&Request::Load, &[code.as_fd(), shared.as_fd()])?;
        match worker.channel.receive::<Report>(Some(load_time)).map_err(violation)? {
            Received::Message(Report::Loaded(loaded), _) => loaded.map_err(|why| match why {
                NotLoaded::Refused(why) => ErrorKind::Program(why),
                NotLoaded::Failed(failure) => ErrorKind::from_failure(failure, Phase::Run),
            })?,
            Received::Message(..) => return Err(violation("it sent an unexpected message")),
            Received::TimedOut => return Err(Limit::PrepareTime { limit: load_time }.into()),
            Received::Closed | Received::Unread => return Err(lost(worker.process.ended())),
        }
        Ok(ProgramWorker { worker, shared, limits, views: Arc::new(Views::of(files)), mounts })
    }

    /// Whether it sees all mounts below its writable folders: none has changed since it was started.
    pub(super) fn sees_all_mounts(&self) -> bool {
        self.mounts.as_ref().is_none_or(Mounts::are_the_same)
    }

    /// Runs the program on these inputs, and returns what it used. The process then exits.
    pub(super) fn run(
        mut self,
        inputs: &[u8],
        about: &About,
        broker: &mut Broker,
    ) -> Result<(Vec<(String, Value)>, Spent), Gone> {
        let mut writer = SealedWriter::new("belljar-run").map_err(host_failed)?;
        let about = serde_json::to_vec(about).map_err(io::Error::other).map_err(host_failed)?;
        writer.write(&about).map_err(host_failed)?;
        let about = writer.seal().map_err(host_failed)?;
        self.shared.write(inputs).map_err(host_failed)?;
        self.worker.send(&Request::Run(inputs.len() as u64), &[about.as_fd()])?;
        broker.begin();
        let (len, spent) = loop {
            let left = (broker.deadline() + GRACE).saturating_duration_since(Instant::now());
            // It must not gain time by sending messages without end.
            let received = match left.is_zero() {
                true => Ok(Received::TimedOut),
                false => self.worker.channel.receive::<Report>(Some(left)),
            };
            let report = match received.map_err(violation)? {
                Received::Message(report, _) => report,
                Received::TimedOut => return Err(broker.out_of_time().into()),
                Received::Closed | Received::Unread => {
                    return Err(lost(self.worker.process.ended()).into());
                }
            };
            match report {
                Report::Asks(ask) => self.answer(ask, broker)?,
                Report::Prints(stream, line) => broker.print(stream, &line),
                Report::Decided { resource, access, allowed, rule, waits } => {
                    let (resource, access, rule) = (&*resource, &*access, &*rule);
                    broker.decided(&Asked { resource, access, allowed, rule });
                    if waits && broker.broken.is_none() {
                        self.reply(Answered::Noted, Duration::ZERO, &[])?;
                    }
                }
                Report::Answers(Ok(answer)) => break answer,
                Report::Answers(Err(Unanswered::GaveUp(why))) => return Err(Gone::GaveUp(why)),
                Report::Answers(Err(Unanswered::Failed(failure))) => {
                    return Err(ErrorKind::from_failure(failure, Phase::Run).into());
                }
                Report::Loaded(_) => {
                    return Err(violation("it reported twice that it is loaded").into());
                }
            }
            if let Some(broken) = broker.broken.take() {
                return Err(broken.into());
            }
        };
        if len > self.shared.len() {
            return Err(violation("its outputs do not fit the shared memory").into());
        }
        let message = self.shared.read(len).map_err(violation)?;
        let outputs = wire::decode(&message).map_err(violation)?;
        let found = outputs.iter().fold(0u64, |sum, (_, v)| sum.saturating_add(v.byte_len()));
        let limit = self.limits.outputs;
        match found > limit {
            true => Err(ErrorKind::from(Limit::OutputSize { found, limit }).into()),
            false => Ok((outputs, spent)),
        }
    }

    /// Answers a request, unless the run has no time left.
    fn answer(&mut self, ask: Ask, broker: &mut Broker) -> Result<(), ErrorKind> {
        let before = broker.credit;
        let brought = |len: u64| match len <= self.shared.len() {
            true => Ok(len),
            false => Err(violation("its request does not fit the shared memory")),
        };
        let mut connection = None;
        let answer = match ask {
            Ask::Named(name) => broker.named(&name).map(Answered::Model),
            Ask::Brought(len) => broker.brought(&self.shared, brought(len)?).map(Answered::Model),
            Ask::Connect(host, port, protocol) => {
                broker.connect(&host, port, protocol).map(|connected| {
                    connection = Some(connected);
                    Answered::Connected
                })
            }
            Ask::Look(at) => broker.look(&self.views, at).map(Answered::Seen),
            Ask::Compute(model, len) => {
                broker.compute(model, &self.shared, brought(len)?).map(Answered::Computed)
            }
        };
        if broker.broken.is_some() {
            return Ok(());
        }
        if Instant::now() >= broker.deadline() {
            return Err(broker.out_of_time());
        }
        let descriptors = connection.as_ref().map(AsFd::as_fd);
        let answer = answer.unwrap_or_else(|denied| {
            // Its messages contain untrusted text from the sandbox.
            Answered::Refused(Denied { text: super::protocol::cut(&denied.text), ..denied })
        });
        self.reply(answer, broker.credit.saturating_sub(before), descriptors.as_slice())
    }

    fn reply(
        &mut self,
        answer: Answered,
        credit: Duration,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ErrorKind> {
        self.worker.send(&Reply { answer, credit }, descriptors)
    }
}

/// Why there are no outputs.
pub(super) enum Gone {
    /// The program returned an error; its text.
    GaveUp(String),
    Failed(ErrorKind),
}

impl From<ErrorKind> for Gone {
    fn from(kind: ErrorKind) -> Gone {
        Gone::Failed(kind)
    }
}

impl Worker {
    fn send(
        &mut self,
        message: &impl serde::Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ErrorKind> {
        let channel: &mut Channel = &mut self.channel;
        channel.send(message, descriptors).map_err(|err| match err.kind() {
            _ if is_gone(&err) => lost(self.process.ended()),
            io::ErrorKind::WouldBlock => violation("it does not read its requests"),
            _ => host_failed(err),
        })
    }
}
