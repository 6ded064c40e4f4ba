//! The state that clones of a host share, and the creation of sandboxes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::budget::MemoryBudget;
use super::event::{Listener, Missing};
use super::{Event, Isolation};
#[cfg(feature = "programs")]
use crate::audit::tally::{MAX_DECISIONS, MAX_TEXT_SIZE, Noted};
use crate::audit::{Decision, DecisionLog, Subject, Verdict};
use crate::error::ErrorKind;
use crate::model::{DimError, IdleWatch};
use crate::sandbox::{
    CodeCache, Engines, Failure, Job, Sandbox, SandboxLimits, SnapshotStore, ThreadFilter,
    ThreadSandbox, Variant, VerifiedCode, Worker, WorkerSandbox,
};
use crate::supervise::Supervision;
use crate::trust::Digest;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;
use belljar_policy::{Admissible, Ceilings, Effective};

/// Room for message framing in addition to tensors, in bytes.
const FRAMING: u64 = 1 << 20;

/// The kernel's limit on a worker's processor time allows this many runs.
const MANY_RUNS: u32 = 100_000;

/// Maximum size of a description in bytes: each of its texts and lists is bounded.
const MAX_DESCRIPTION: u64 = 32 << 20;

/// The error that ends a run of a program which has caused more decisions than may be logged.
#[cfg(feature = "programs")]
pub(crate) fn too_many_decisions() -> ErrorKind {
    ErrorKind::Sandbox(format!(
        "the program caused more than {MAX_DECISIONS} different decisions, or decisions with too \
         much text: one run may write {MAX_TEXT_SIZE} bytes of names and rules to the decision log"
    ))
}

/// Called for every decision.
#[cfg(feature = "programs")]
pub(super) type Observer = Arc<dyn Fn(&Decision<'_>) + Send + Sync>;

pub(crate) struct Inner {
    pub(super) isolation: Isolation,
    pub(super) confinement: Confinement,
    pub(super) worker: WorkerProgram,
    pub(super) cache: CodeCache,
    pub(super) engines: Arc<Engines>,
    pub(super) codes: Mutex<HashMap<Variant, Arc<VerifiedCode>>>,
    /// An idle worker for the first model.
    pub(super) spare: Mutex<Option<Worker>>,
    pub(super) missing: Arc<Missing>,
    pub(crate) store: SnapshotStore,
    pub(super) uses_store: bool,
    pub(crate) idle: usize,
    /// How long a sandbox stays idle before its memory is freed; `None` is for ever.
    pub(crate) idle_time: Option<Duration>,
    /// Requests after which a worker is not used again.
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

    /// Whether the state folder can be used for the records of models.
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

    /// The policy cut down to the ceilings; cuts are reported and logged once.
    /// Nothing here uses a policy that did not pass through this function.
    pub(crate) fn admit(
        &self,
        policy: &impl Admissible,
        model: Option<Digest>,
    ) -> Result<Effective, ErrorKind> {
        let subject = Subject { model, policy: policy.digest_of_file().map(Digest::from) };
        let (effective, cuts) = match policy.admitted_by(&self.ceilings) {
            Ok(admitted) => admitted,
            Err(refused) => return Err(self.refused(subject, refused.into())),
        };
        for cut in cuts {
            (self.listener)(Event::PolicyCut(cut.clone()));
            let rule = format!("ceiling: {}", cut.left);
            let (resource, access) = (cut.key.as_str(), cut.asked.as_str());
            let verdict = Verdict::Cut;
            self.decide(&Decision { subject, resource, access, verdict, rule: &rule })?;
        }
        Ok(effective)
    }

    /// Logs a decision, if there is a log. Equal decisions of one run of a program are logged once.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be allowed by it.
    pub(crate) fn decide(&self, decision: &Decision<'_>) -> Result<(), ErrorKind> {
        #[cfg(feature = "programs")]
        match super::run_context::note(decision) {
            Noted::New => {}
            Noted::Repeated => return Ok(()),
            Noted::Full => return Err(too_many_decisions()),
        }
        self.write_down(decision)
    }

    /// Whether decisions are logged or observed.
    #[cfg(feature = "programs")]
    pub(crate) fn wants_decisions(&self) -> bool {
        self.observer.is_some() || self.decisions.is_some()
    }

    /// Logs a decision that was counted.
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
            ErrorKind::Host(format!("cannot write to the decision log {path}: {err}"))
        })
    }

    /// Logs the refusal, if this error is one, and returns the error.
    pub(crate) fn refused(&self, subject: Subject, kind: ErrorKind) -> ErrorKind {
        let (resource, access, rule) = match &kind {
            ErrorKind::Refused(refused) => ("policy", "use", refused.to_string()),
            ErrorKind::Pin { .. } => ("model", "load", "model.sha256".to_owned()),
            ErrorKind::ProgramPin { .. } => ("program", "load", "program.sha256".to_owned()),
            ErrorKind::Limit(limit) => (limit.resource(), "use more", limit.to_string()),
            ErrorKind::Unprotected(missing) => ("confinement", "do without", missing.clone()),
            ErrorKind::Rule { key, .. } => ("model", "load", key.clone()),
            ErrorKind::Dim(DimError::Excluded { key, .. }) => ("model", "run", key.clone()),
            ErrorKind::Withheld { why, .. } => ("output", "return", why.clone()),
            ErrorKind::Quarantined(_) => ("model", "run", "quarantine".to_owned()),
            _ => return kind,
        };
        let verdict = Verdict::Refused;
        // A refusal stands whether or not it can be logged.
        let _ = self.decide(&Decision { subject, resource, access, verdict, rule: &rule });
        kind
    }

    /// Whether this host can run models under this policy.
    pub(crate) fn check(&self, policy: &Effective) -> Result<(), ErrorKind> {
        let strict = self.confinement(policy) == Confinement::Strict;
        if strict && self.isolation.in_this_process() {
            return Err(ErrorKind::Unprotected(
                "the policy has `confinement = \"strict\"`, which needs worker processes, but \
                 sandboxes run on threads; use process isolation, or set it to \"best-effort\""
                    .into(),
            ));
        }
        Ok(())
    }

    /// The required confinement: the stricter of the policy and this host.
    pub(crate) fn confinement(&self, policy: &Effective) -> Confinement {
        match (policy.confinement, self.confinement) {
            (Confinement::BestEffort, Confinement::BestEffort) => Confinement::BestEffort,
            _ => Confinement::Strict,
        }
    }

    /// Reports the layers that a worker lacks, once for each layer.
    pub(crate) fn report_missing(&self, missing: Vec<MissingLayer>) {
        self.missing.report(missing);
    }

    /// A new, empty sandbox.
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
                // A worker that has been idle for long may have ended.
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

    /// A new, empty sandbox of the profiling variant, always in a worker process: guests in this
    /// process have no access to a clock.
    pub(crate) fn profiling_sandbox(
        &self,
        policy: &Effective,
    ) -> Result<Box<dyn Sandbox>, ErrorKind> {
        self.check(policy)?;
        if self.isolation != Isolation::Process {
            return Err(ErrorKind::Host(
                "profiling needs worker processes; use process isolation".into(),
            ));
        }
        let mut job = self.job(policy, Role::Run);
        job.limits.answer = job.limits.answer.saturating_add(belljar_abi::MAX_PROFILE_BYTES);
        let code = self.cache.get_profiling(job.variant, job.confinement)?;
        let start = |worker| WorkerSandbox::start_profiling(worker, &code, job);
        Ok(Box::new(Worker::spawn(&self.worker).and_then(start).map_err(not_started)?))
    }

    /// The job of a worker process for a model under this policy.
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

/// The limits of a sandbox for a model under this policy.
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

/// The error for a sandbox that could not be started.
fn not_started(failure: Failure) -> ErrorKind {
    match failure {
        Failure::Limit(limit) => ErrorKind::Limit(limit),
        Failure::Unprotected(missing) => ErrorKind::Unprotected(missing.to_string()),
        Failure::Lost(loss) => ErrorKind::Worker(loss),
        other => ErrorKind::Host(other.to_string()),
    }
}
