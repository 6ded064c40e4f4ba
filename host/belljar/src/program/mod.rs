//! Guest programs: a model with its own pre- and post-processing, as a WASI 0.2 component. A
//! program is as untrusted as a model. It must never be compiled or run outside of its own worker
//! processes.
//!
//! A run takes these steps: [`Program`] starts a confined process that compiles the program
//! (`worker`, and `serve` on the other side). Another process is confined first, and then loads the
//! native code. There `execute` runs it under a clock and limits. Its requests go over a `link` to
//! the supervisor's `broker`, which checks them against the policy; a `task_thread` does the
//! work that takes time. Models run in separate sandboxes. `wasi` is the part of WASI that a program
//! can use.

mod bindings;
mod broker;
mod clock;
mod code;
mod engine;
mod execute;
mod limiter;
mod link;
mod nn;
mod protocol;
mod serve;
mod task_thread;
mod wire;
mod worker;

pub(crate) mod wasi;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::audit::{Decision, Subject, Verdict};
use crate::error::{Error, ErrorKind};
use crate::host::{Host, Isolation};
use crate::sandbox::{Limit, ProgramLimits};
use crate::supervise::Record;
use crate::trust::{Digest, ModelBytes};
use belljar_confine::memory::SealedBytes;
use belljar_policy::{Admissible, Effective, Policy, Refused};

use belljar_tensor::Value;
use broker::{Broker, Models};
pub use engine::is_component;
use protocol::About;
pub(crate) use serve::{compile, granted, new_engine, receive_files, run};
pub use wasi::Spent;
#[cfg(fuzzing)]
pub(crate) use wasi::sequences::run as run_file_operations;
use worker::{Gone, ProgramWorker, Start};

/// Space for the framing of messages, in addition to the values in them, in bytes.
const FRAMING: u64 = 8 << 20;

/// Maximum time that a run waits before a process is restarted for a program whose processes died.
const PATIENCE: Duration = Duration::from_millis(100);

/// A guest program that was loaded under a policy. Cheap to clone; clones share its models. Any
/// number of threads may run it at the same time: each run has its own process.
#[derive(Clone)]
pub struct Program {
    shared: Arc<Shared>,
}

struct Shared {
    host: Host,
    label: String,
    digest: Digest,
    size: u64,
    policy: Arc<Effective>,
    start: Start,
    /// Native code of this program; untrusted.
    code: SealedBytes,
    limits: ProgramLimits,
    models: Models,
    record: Arc<Record>,
    /// A process that has loaded the program, for the first run.
    spare: Mutex<Option<ProgramWorker>>,
}

impl Host {
    /// Loads a guest program: a WASI 0.2 component of the world `belljar:program/program`. Checks
    /// it against the policy, compiles it, and checks its imports and exports. None of its code
    /// runs.
    ///
    /// Programs run only in worker processes ([`Isolation::Process`]).
    ///
    /// # Errors
    /// If the policy is for a model or for another program; if a ceiling refuses it; if the program
    /// is larger than `limits.model-size`, is not a component, or has an unknown import; if
    /// compiling it takes longer than `limits.prepare-time`, or too much memory.
    pub fn load_program(
        &self,
        program: ModelBytes,
        policy: &impl Admissible,
    ) -> Result<Program, Error> {
        let label = program.label().to_owned();
        Program::load(self, program, policy).map_err(|kind| Error::for_model(&label, kind))
    }
}

impl Program {
    fn load(
        host: &Host,
        program: ModelBytes,
        policy: &impl Admissible,
    ) -> Result<Program, ErrorKind> {
        let (digest, size) = (program.digest(), program.size());
        let inner = &host.inner;
        let policy = inner.admit(policy, Some(digest))?;
        let subject = subject(digest, &policy);
        let refused = |kind: ErrorKind| inner.refused(subject, kind);
        let pinned = match &policy.program {
            None => return Err(refused(Refused::ForModel.into())),
            Some(granted) => granted.sha256.map(Digest::from),
        };
        inner.check(&policy).map_err(refused)?;
        if inner.isolation() != Isolation::Process {
            let why = "guest programs run only in worker processes; use process isolation";
            return Err(refused(ErrorKind::Unprotected(why.into())));
        }
        if let Some(pinned) = pinned.filter(|pinned| *pinned != digest) {
            return Err(refused(ErrorKind::ProgramPin { found: digest, pinned }));
        }
        let limits = &policy.limits;
        if size > limits.model_size {
            return Err(refused(Limit::ModelSize { limit: limits.model_size }.into()));
        }
        let record = inner.supervision.record(digest).map_err(|reason| refused(reason.into()))?;
        // Logged after all checks, because a program in quarantine is not allowed.
        let rule = if pinned.is_some() { "program.sha256" } else { "no pin" };
        let (resource, access, verdict) = ("program", "load", Verdict::Allowed);
        inner.decide(&Decision { subject, resource, access, verdict, rule })?;
        check_header(program.sealed())?;
        let start = Start {
            worker: inner.worker_program().clone(),
            confinement: inner.confinement(&policy),
        };
        let limits = ProgramLimits {
            memory: limits.memory,
            stack: limits.stack,
            outputs: limits.output_size,
            crossing: limits.input_size.max(limits.output_size).saturating_add(FRAMING),
            time: limits.run_time,
        };
        let died = |kind: ErrorKind| {
            if let ErrorKind::Worker(loss) = &kind {
                inner.supervision.lost(&record, program.label(), loss);
            }
            refused(kind)
        };
        inner.supervision.await_start(&record, PATIENCE)?;
        let prepare = policy.limits.prepare_time;
        let code = worker::compile(host, &start, program.sealed(), prepare).map_err(died)?;
        let shared = Shared {
            host: host.clone(),
            label: program.label().to_owned(),
            digest,
            size,
            policy: Arc::new(policy),
            start,
            code,
            limits,
            models: Models::default(),
            record: Arc::clone(&record),
            spare: Mutex::default(),
        };
        let spare = shared.process().map_err(died)?;
        *shared.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(spare);
        Ok(Program { shared: Arc::new(shared) })
    }

    /// SHA-256 of the program's bytes.
    pub fn digest(&self) -> Digest {
        self.shared.digest
    }

    /// Size of the program in bytes.
    pub fn size(&self) -> u64 {
        self.shared.size
    }

    /// The policy of the program, reduced to the ceilings.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Runs the program on named inputs, in a new process and a new instance. Names and texts of
    /// its outputs are untrusted.
    ///
    /// # Errors
    /// If the program returns an error, which includes the last refused request; if it exceeds a
    /// limit, its own or that of a model; and if it traps. It can be run again in all cases.
    pub fn run<N: AsRef<str>>(&self, inputs: &[(N, Value)]) -> Result<Vec<(String, Value)>, Error> {
        self.run_with_arguments(inputs, &[])
    }

    /// Like [`Program::run`], with arguments, which the program gets if its policy grants them.
    ///
    /// # Errors
    /// Like [`Program::run`].
    pub fn run_with_arguments<N: AsRef<str>>(
        &self,
        inputs: &[(N, Value)],
        arguments: &[String],
    ) -> Result<Vec<(String, Value)>, Error> {
        Ok(self.run_measured(inputs, arguments)?.0)
    }

    /// Like [`Program::run_with_arguments`], with the resources that the process reports to have
    /// used.
    #[doc(hidden)]
    pub fn run_measured<N: AsRef<str>>(
        &self,
        inputs: &[(N, Value)],
        arguments: &[String],
    ) -> Result<(Vec<(String, Value)>, Spent), Error> {
        let shared = &*self.shared;
        let subject = subject(shared.digest, &shared.policy);
        let named = |kind: ErrorKind| {
            Error::for_model(&shared.label, shared.host.inner.refused(subject, kind))
        };
        let limit = shared.policy.limits.input_size;
        let inputs = wire::encode(inputs, limit).map_err(named)?;
        let process = shared.ready().map_err(named)?;
        let about = About::new(&shared.policy, arguments);
        let mut broker =
            Broker::new(&shared.host, &shared.label, &shared.policy, subject, &shared.models);
        let outputs = process.run(&inputs, &about, &mut broker);
        broker.end();
        let supervision = &shared.host.inner.supervision;
        match outputs {
            Ok(outputs) => {
                supervision.answered(&shared.record);
                let (resource, access, verdict) = ("program", "run", Verdict::Allowed);
                // If the decision cannot be logged, the outputs are not returned.
                let decision = Decision { subject, resource, access, verdict, rule: "limits" };
                shared.host.inner.decide(&decision).map_err(named)?;
                Ok(outputs)
            }
            // If a request of the program was refused or failed, that is reported as the cause.
            Err(Gone::GaveUp(text)) => match broker.take_failure() {
                Some(failure) => Err(match failure.kind() {
                    ErrorKind::NotGranted(missing) if text != failure.kind().to_string() => {
                        let missing = format!("{missing}; the program says: {text}");
                        failure.with(ErrorKind::NotGranted(missing))
                    }
                    _ => failure,
                }),
                None => {
                    let lacks = match &broker.lacks[..] {
                        [] => String::new(),
                        lacks => format!(
                            "; it also requested what its policy does not grant: {}",
                            lacks.join(", ")
                        ),
                    };
                    Err(named(ErrorKind::Run(format!("the program says: {text}{lacks}"))))
                }
            },
            Err(Gone::Failed(kind)) => {
                if let ErrorKind::Worker(loss) = &kind {
                    supervision.lost(&shared.record, &shared.label, loss);
                }
                match broker.is_blocked() {
                    true => Err(Error::for_model(&shared.label, kind)),
                    false => Err(named(kind)),
                }
            }
        }
    }
}

impl Shared {
    /// A process that has loaded the program.
    fn process(&self) -> Result<ProgramWorker, ErrorKind> {
        ProgramWorker::start(&self.host, &self.start, &self.code, self.limits, &self.policy)
    }

    fn ready(&self) -> Result<ProgramWorker, ErrorKind> {
        let supervision = &self.host.inner.supervision;
        supervision.admit(&self.record)?;
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spare) = spare.filter(ProgramWorker::sees_all_mounts) {
            return Ok(spare);
        }
        supervision.await_start(&self.record, PATIENCE)?;
        self.process().inspect_err(|kind| {
            if let ErrorKind::Worker(loss) = kind {
                supervision.lost(&self.record, &self.label, loss);
            }
        })
    }
}

/// The subject of decisions about a program.
fn subject(program: Digest, policy: &Policy) -> Subject {
    Subject { model: Some(program), policy: policy.file_sha256().map(Digest::from) }
}

/// Checks the first bytes, to report the most common mistakes clearly.
fn check_header(program: &SealedBytes) -> Result<(), ErrorKind> {
    let mut start = [0; 8];
    let len = usize::try_from(program.len()).unwrap_or(usize::MAX).min(start.len());
    let read = start.get_mut(..len).unwrap_or_default();
    program.read_into(read).map_err(|err| ErrorKind::Host(err.to_string()))?;
    if is_component(&start) {
        return Ok(());
    }
    let module = start.starts_with(b"\0asm\x01\0\0\0");
    Err(ErrorKind::Program(match module {
        true => "it is a core module, but programs must be components; convert it with \
                 `wasm-tools component new`"
            .into(),
        false => "it is not a WebAssembly component".into(),
    }))
}

#[cfg(test)]
mod tests {
    use belljar_confine::role::Role;
    use belljar_confine::seccomp::of_role;

    #[test]
    fn filter_of_granted_programs_allows_the_calls_that_wasi_needs() {
        let rules = of_role(Role::GrantedProgram).rules;
        for (call, why) in super::wasi::SYSTEM_CALLS {
            // The filter has `ppoll` instead.
            let known = *call == "poll" || rules.iter().any(|rule| rule.call == *call);
            assert!(known, "{call}: {why}");
        }
        let rules = of_role(Role::Program).rules;
        for call in ["openat2", "unlinkat", "sendto", "recvfrom", "getdents64"] {
            assert!(rules.iter().all(|rule| rule.call != call), "{call} without a grant");
        }
    }
}
