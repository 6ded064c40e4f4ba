//! Guest programs: a model with its own pre- and post-processing, as a WASI 0.2 component. A program
//! is as untrusted as a model, and is compiled and run in worker processes of its own.
//!
//! The way of a run: [`Program`] has the program compiled by a confined process of its own
//! (`worker`, and `serve` on the other side) and its native code loaded by another one, which is
//! confined before. There `execute` runs it under a clock and limits; what it asks for goes over a
//! `link` to the supervisor's `broker`, which holds it against the policy, and has a `clerk` do what
//! takes time. Models run in sandboxes of their own. `wasi` is what a program may reach of WASI.

mod bindings;
mod broker;
mod clerk;
mod clock;
mod code;
mod engine;
mod execute;
mod limiter;
mod link;
mod nn;
mod protocol;
mod serve;
mod value;
mod wire;
mod worker;

pub(crate) mod wasi;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::audit::{Decision, Subject, Verdict};
use crate::error::{Error, ErrorKind};
use crate::host::{Host, Isolation};
use crate::sandbox::Limit;
use crate::supervise::Record;
use crate::trust::{Digest, ModelBytes};
use belljar_confine::memory::SealedBytes;
use belljar_policy::{Effective, Policy, Refused};

use broker::{Broker, Models};
pub use engine::is_component;
use protocol::About;
pub(crate) use protocol::ProgramLimits;
pub(crate) use serve::{compile, granted, new_engine, receive_files, run};
pub use value::Value;
pub use wasi::Spent;
#[cfg(fuzzing)]
pub(crate) use wasi::sequences::run as run_file_operations;
use worker::{Gone, ProgramWorker, Start};

/// Room for the framing of messages beside the values in them, in bytes.
const FRAMING: u64 = 8 << 20;

/// Longest that a run waits until a process may be started for a program whose processes have died.
const PATIENCE: Duration = Duration::from_millis(100);

/// A guest program that was loaded under a policy. Cheap to clone; clones share its models. Any number
/// of threads may run it at once: each run has a process to itself.
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
    /// Native code, made of this program: hostile.
    code: SealedBytes,
    limits: ProgramLimits,
    models: Models,
    record: Arc<Record>,
    /// A process that has loaded the program and waits for the first run.
    spare: Mutex<Option<ProgramWorker>>,
}

impl Host {
    /// Loads a guest program: a WASI 0.2 component of the world `belljar:program/program`. Checks it
    /// against the policy, has it compiled, and holds what it imports and exports against what there
    /// is. Nothing of it runs.
    ///
    /// Programs run in worker processes only ([`Isolation::Process`]).
    ///
    /// # Errors
    /// When the policy is for no program, or for another one; when a ceiling refuses it; when the
    /// program is larger than `limits.model-size`, is no component, or imports what nobody has; when
    /// compiling it takes longer than `limits.prepare-time`, or more memory than that may take.
    pub fn load_program(&self, program: ModelBytes, policy: &Policy) -> Result<Program, Error> {
        let label = program.label().to_owned();
        Program::load(self, program, policy).map_err(|kind| Error::for_model(&label, kind))
    }
}

impl Program {
    fn load(host: &Host, program: ModelBytes, policy: &Policy) -> Result<Program, ErrorKind> {
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
            let why = "guest programs run in worker processes only, not on threads";
            return Err(refused(ErrorKind::Unprotected(why.into())));
        }
        if let Some(pinned) = pinned.filter(|pinned| *pinned != digest) {
            return Err(refused(ErrorKind::ProgramPin { found: digest, pinned }));
        }
        let limits = &policy.limits;
        if size > limits.model_size {
            return Err(refused(Limit::ModelSize { limit: limits.model_size }.into()));
        }
        let record = inner.supervision.record(digest).map_err(refused)?;
        // After every check: a program that is in quarantine was not allowed.
        let rule = if pinned.is_some() { "program.sha256" } else { "no pin" };
        let (resource, access, verdict) = ("program", "load", Verdict::Allowed);
        inner.decide(&Decision { subject, resource, access, verdict, rule })?;
        begins_as_a_component(program.sealed())?;
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

    /// The policy the program was loaded under, as far as the ceilings allow it.
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    /// Runs the program on named inputs, in a new process and a new instance. What it answers comes
    /// from who wrote it: names and texts are hostile.
    ///
    /// # Errors
    /// When the program gives up, which says why if it was refused something; when a limit is hit,
    /// its own or one of a model; and when it traps. Whatever happens, it can be run again.
    pub fn run<N: AsRef<str>>(&self, inputs: &[(N, Value)]) -> Result<Vec<(String, Value)>, Error> {
        self.run_with_arguments(inputs, &[])
    }

    /// As [`Program::run`], with arguments, which reach the program if its policy says so.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run_with_arguments<N: AsRef<str>>(
        &self,
        inputs: &[(N, Value)],
        arguments: &[String],
    ) -> Result<Vec<(String, Value)>, Error> {
        Ok(self.run_measured(inputs, arguments)?.0)
    }

    /// As [`Program::run_with_arguments`], with what the run took, as its process says.
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
                // Without a line in the log there is no answer.
                let decision = Decision { subject, resource, access, verdict, rule: "limits" };
                shared.host.inner.decide(&decision).map_err(named)?;
                Ok(outputs)
            }
            // What it was refused, or what failed for it, is why.
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
                            "; it has also asked for what its policy does not grant: {}",
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

/// Whom decisions about a program are about.
fn subject(program: Digest, policy: &Policy) -> Subject {
    Subject { model: Some(program), policy: policy.file_sha256().map(Digest::from) }
}

/// Looks at the first bytes, so that the most usual mistakes get words of ours.
fn begins_as_a_component(program: &SealedBytes) -> Result<(), ErrorKind> {
    let mut start = [0; 8];
    let len = usize::try_from(program.len()).unwrap_or(usize::MAX).min(start.len());
    let read = start.get_mut(..len).unwrap_or_default();
    program.read_into(read).map_err(|err| ErrorKind::Host(err.to_string()))?;
    if is_component(&start) {
        return Ok(());
    }
    let module = start.starts_with(b"\0asm\x01\0\0\0");
    Err(ErrorKind::Program(match module {
        true => "it is a core module, and programs are components: `wasm-tools component new` \
                 makes one of it"
            .into(),
        false => "it is no WebAssembly component".into(),
    }))
}

#[cfg(test)]
mod tests {
    use belljar_confine::role::Role;
    use belljar_confine::seccomp::of_role;

    #[test]
    fn the_filter_of_granted_programs_has_what_wasi_needs() {
        let rules = of_role(Role::GrantedProgram).rules;
        for (call, why) in super::wasi::SYSTEM_CALLS {
            // Time is waited for with the younger call.
            let known = *call == "poll" || rules.iter().any(|rule| rule.call == *call);
            assert!(known, "{call}: {why}");
        }
        let rules = of_role(Role::Program).rules;
        for call in ["openat2", "unlinkat", "sendto", "recvfrom", "getdents64"] {
            assert!(rules.iter().all(|rule| rule.call != call), "{call} without a grant");
        }
    }
}
