//! What clones of a host share, and the sandboxes it makes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::budget::MemoryBudget;
use super::event::{Listener, Missing};
use super::{Event, Isolation};
#[cfg(feature = "programs")]
use crate::audit::tally::{MOST_DECISIONS, MOST_TEXT, Noted};
use crate::audit::{Decision, DecisionLog, Subject, Verdict};
use crate::error::ErrorKind;
use crate::model::IdleWatch;
use crate::sandbox::{
    CodeCache, Engines, Failure, Job, Sandbox, SandboxLimits, SnapshotStore, ThreadFilter,
    ThreadSandbox, Variant, VerifiedCode, Worker, WorkerSandbox,
};
use crate::supervise::Supervision;
use crate::trust::Digest;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;
use belljar_policy::{Ceilings, Effective, Policy};

/// Room for the framing of messages beside the tensors in them, in bytes.
const FRAMING: u64 = 1 << 20;

/// Runs of one worker for which the kernel's limit on its processor time is enough.
const MANY_RUNS: u32 = 100_000;

/// Most bytes of a description: its texts and lists are bounded one by one.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// Why a run of a program ends that has caused more decisions than may be written down.
#[cfg(feature = "programs")]
pub(crate) fn too_many_decisions() -> ErrorKind {
    ErrorKind::Sandbox(format!(
        "the program asked for more than {MOST_DECISIONS} different things, or for things with too \
         long names: one run may write {MOST_TEXT} bytes of names and rules to the decision log"
    ))
}

/// Hears every decision.
#[cfg(feature = "programs")]
pub(super) type Observer = Arc<dyn Fn(&Decision<'_>) + Send + Sync>;

pub(crate) struct Inner {
    pub(super) isolation: Isolation,
    pub(super) confinement: Confinement,
    pub(super) worker: WorkerProgram,
    pub(super) cache: CodeCache,
    pub(super) engines: Arc<Engines>,
    pub(super) codes: Mutex<HashMap<Variant, Arc<VerifiedCode>>>,
    /// A worker that waits for the first model.
    pub(super) spare: Mutex<Option<Worker>>,
    pub(super) missing: Arc<Missing>,
    pub(crate) store: SnapshotStore,
    pub(super) uses_store: bool,
    pub(crate) idle: usize,
    /// How long a sandbox waits before its memory is given back; without end if there is none.
    pub(crate) idle_time: Option<Duration>,
    /// Runs after which a worker is not used again.
    pub(crate) requests_per_worker: u32,
    pub(crate) supervision: Supervision,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) idle_watch: IdleWatch,
    pub(super) ceilings: Ceilings,
    pub(super) decisions: Option<DecisionLog>,
    #[cfg(feature = "programs")]
    pub(super) observer: Option<Observer>,
    pub(crate) listener: Listener,
}

impl Inner {
    #[cfg(feature = "programs")]
    pub(crate) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The program that becomes a worker.
    #[cfg(feature = "programs")]
    pub(crate) fn worker_program(&self) -> &WorkerProgram {
        &self.worker
    }

    /// Whether the state folder can be used, as far as models that are run need it.
    pub(crate) fn check_state(&self) -> Result<(), crate::Error> {
        self.supervision.check().map_err(crate::Error::new)
    }

    /// Whether compiled code can be kept.
    pub(crate) fn check_cache(&self) -> Result<(), crate::Error> {
        self.cache.check().map_err(crate::Error::new)
    }

    /// The store of prepared models, if it is used.
    pub(crate) fn store(&self) -> Option<&SnapshotStore> {
        self.uses_store.then_some(&self.store)
    }

    /// What is left of a policy under the ceilings; what was cut is told. Nothing in here obeys a
    /// policy that did not come through this.
    pub(crate) fn admit(
        &self,
        policy: &Policy,
        model: Option<Digest>,
    ) -> Result<Effective, ErrorKind> {
        let subject = Subject { model, policy: policy.file_sha256().map(Digest::from) };
        let effective = match self.ceilings.admit(policy) {
            Ok(effective) => effective,
            Err(refused) => return Err(self.refused(subject, refused.into())),
        };
        for cut in effective.cuts() {
            (self.listener)(Event::PolicyCut(cut.clone()));
            let rule = format!("ceiling: {}", cut.left);
            let (resource, access) = (cut.key.as_str(), cut.asked.as_str());
            let verdict = Verdict::Cut;
            self.decide(&Decision { subject, resource, access, verdict, rule: &rule })?;
        }
        Ok(effective)
    }

    /// Writes a decision down, if somebody wants them. In a run of a program the same decision has
    /// one line.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be allowed by it.
    pub(crate) fn decide(&self, decision: &Decision<'_>) -> Result<(), ErrorKind> {
        #[cfg(feature = "programs")]
        match super::errand::note(decision) {
            Noted::New => {}
            Noted::Repeated => return Ok(()),
            Noted::Full => return Err(too_many_decisions()),
        }
        self.write_down(decision)
    }

    /// Whether anybody wants to know of decisions.
    #[cfg(feature = "programs")]
    pub(crate) fn wants_decisions(&self) -> bool {
        self.observer.is_some() || self.decisions.is_some()
    }

    /// Writes a decision down that was counted.
    ///
    /// # Errors
    /// As [`Inner::decide`].
    pub(crate) fn write_down(&self, decision: &Decision<'_>) -> Result<(), ErrorKind> {
        #[cfg(feature = "programs")]
        if let Some(observer) = &self.observer {
            observer(decision);
        }
        let Some(log) = &self.decisions else { return Ok(()) };
        log.record(decision).map_err(|err| {
            let path = log.path().display();
            ErrorKind::Host(format!("a decision cannot be written to {path}: {err}"))
        })
    }

    /// Writes down what was refused, if this error is a refusal of ours, and hands the error back.
    pub(crate) fn refused(&self, subject: Subject, kind: ErrorKind) -> ErrorKind {
        let (resource, access, rule) = match &kind {
            ErrorKind::Refused(refused) => ("policy", "use", refused.to_string()),
            ErrorKind::Pin { .. } => ("model", "load", "model.sha256".to_owned()),
            ErrorKind::ProgramPin { .. } => ("program", "load", "program.sha256".to_owned()),
            ErrorKind::Limit(limit) => (limit.resource(), "use more", limit.to_string()),
            ErrorKind::Unprotected(missing) => ("confinement", "do without", missing.clone()),
            ErrorKind::Rule { key, .. } => ("model", "load", key.clone()),
            ErrorKind::Withheld { why, .. } => ("output", "tell", why.clone()),
            ErrorKind::Quarantined(_) => ("model", "run", "quarantine".to_owned()),
            _ => return kind,
        };
        let verdict = Verdict::Refused;
        // A refusal stays one, whether or not it can be written down.
        let _ = self.decide(&Decision { subject, resource, access, verdict, rule: &rule });
        kind
    }

    /// Whether a model under this policy may be run by this host at all.
    pub(crate) fn check(&self, policy: &Effective) -> Result<(), ErrorKind> {
        let strict = self.confinement(policy) == Confinement::Strict;
        if strict && self.isolation.in_this_process() {
            return Err(ErrorKind::Unprotected(
                "a sandbox on a thread has no worker process around it, and `confinement` is \
                 \"strict\"; use processes, or set it to \"best-effort\""
                    .into(),
            ));
        }
        Ok(())
    }

    /// How much of the confinement must be there: what the policy or this host demands.
    pub(crate) fn confinement(&self, policy: &Effective) -> Confinement {
        match (policy.confinement, self.confinement) {
            (Confinement::BestEffort, Confinement::BestEffort) => Confinement::BestEffort,
            _ => Confinement::Strict,
        }
    }

    /// Tells what a worker lacks, once for each layer.
    pub(crate) fn tell_missing(&self, missing: Vec<MissingLayer>) {
        self.missing.tell(missing);
    }

    /// A new sandbox with nothing in it.
    pub(crate) fn sandbox(
        &self,
        policy: &Effective,
        role: Role,
    ) -> Result<Box<dyn Sandbox>, ErrorKind> {
        self.check(policy)?;
        let limits = &policy.limits;
        match self.isolation {
            Isolation::Process => {
                let job = self.job(policy, role);
                let code = self.code(job.variant, job.confinement)?;
                let start = |worker| WorkerSandbox::start(worker, &code, job);
                let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                // One that has waited for long may have come to an end.
                let waited = spare.and_then(|worker| start(worker).ok());
                let started = match waited {
                    Some(started) => Ok(started),
                    None => Worker::spawn(&self.worker).and_then(start),
                };
                Ok(Box::new(started.map_err(not_started)?))
            }
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => {
                let (variant, sandbox) = (self.variant(policy), sandbox_limits(policy));
                let (engine, module) = self.engines.get(&self.cache, variant, limits.stack)?;
                let filter = match self.isolation {
                    Isolation::InProcessWithoutAnyConfinement => ThreadFilter::None,
                    _ => ThreadFilter::Installed,
                };
                let sandbox = ThreadSandbox::new(&self.engines, &engine, &module, sandbox, filter);
                Ok(Box::new(sandbox.map_err(not_started)?))
            }
        }
    }

    /// A new sandbox of the profiling variant, with nothing in it. Always in a worker process: no clock
    /// is given to a guest in this one.
    pub(crate) fn profiling_sandbox(
        &self,
        policy: &Effective,
    ) -> Result<Box<dyn Sandbox>, ErrorKind> {
        self.check(policy)?;
        if self.isolation != Isolation::Process {
            return Err(ErrorKind::Host("profiling needs worker processes".into()));
        }
        let mut job = self.job(policy, Role::Run);
        job.limits.answer = job.limits.answer.saturating_add(belljar_abi::MAX_PROFILE_BYTES);
        let code = self.cache.get_profiling(job.variant, job.confinement)?;
        let start = |worker| WorkerSandbox::start_profiling(worker, &code, job);
        Ok(Box::new(Worker::spawn(&self.worker).and_then(start).map_err(not_started)?))
    }

    /// What a worker process is to be for a model under this policy.
    fn job(&self, policy: &Effective, role: Role) -> Job {
        let limits = &policy.limits;
        let time = match role {
            Role::Run => limits.run_time.saturating_mul(MANY_RUNS),
            _ => limits.prepare_time.saturating_mul(3),
        };
        Job {
            role,
            confinement: self.confinement(policy),
            variant: self.variant(policy),
            limits: sandbox_limits(policy),
            inputs: limits.input_size.saturating_add(FRAMING),
            time,
        }
    }

    /// The compiled form of the guest for a model under this policy.
    pub(super) fn variant(&self, policy: &Effective) -> Variant {
        let epochs = self.isolation.in_this_process();
        Variant { epochs, deterministic: policy.compute.deterministic }
    }

    pub(super) fn code(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<Arc<VerifiedCode>, ErrorKind> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = codes.get(&variant) {
            return Ok(Arc::clone(code));
        }
        let code = Arc::new(self.cache.get(variant, confinement)?);
        codes.insert(variant, Arc::clone(&code));
        Ok(code)
    }
}

/// What a sandbox for a model under this policy may use.
fn sandbox_limits(policy: &Effective) -> SandboxLimits {
    let limits = &policy.limits;
    SandboxLimits {
        memory: limits.memory,
        stack: limits.stack,
        log: limits.log_size,
        answer: limits.output_size.saturating_add(FRAMING).max(MAX_DESCRIPTION),
        native_kernels: policy.compute.native_kernels(),
        threads: policy.compute.threads,
    }
}

/// Why there is no sandbox.
fn not_started(failure: Failure) -> ErrorKind {
    match failure {
        Failure::Limit(limit) => ErrorKind::Limit(limit),
        Failure::Unprotected(missing) => ErrorKind::Unprotected(missing.to_string()),
        Failure::Lost(loss) => ErrorKind::Worker(loss),
        other => ErrorKind::Host(other.to_string()),
    }
}
