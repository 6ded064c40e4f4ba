//! The state that all clones of a model share: its sandboxes and snapshots, and calls to them.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use belljar_abi::{Description, InputShape, Reply};

use super::answers::{description, reply, sizes_refused, unexpected};
use super::contract::{Bound, Contract};
use super::preparation::Kept;
use super::side_files::Granted;
use crate::audit::Subject;
use crate::error::{ErrorKind, Phase};
use crate::host::{Claim, Event, Inner, shortened};
use crate::sandbox::{
    Answer, Call, CallLimit, Failure, Limit, Payload, PlanShapes, Sandbox, TimeKey, WorkerLoss,
};
use crate::supervise::{PATIENCE, Record};
use crate::trust::ModelBytes;
use belljar_confine::role::Role;
use belljar_policy::Effective;
use belljar_tensor::Tensor;

pub(crate) struct Shared {
    pub(super) host: Arc<Inner>,
    pub(super) bytes: ModelBytes,
    pub(super) label: String,
    pub(super) policy: Effective,
    /// The external data files, as they were when the model was loaded.
    pub(super) side_files: Vec<Granted>,
    /// Inputs whose value the policy fixes, with their names.
    pub(super) fixed: Vec<(String, Tensor)>,
    pub(super) waiting: Mutex<Waiting>,
    /// The supervisor's record of its workers.
    pub(super) record: Arc<Record>,
    /// The memory that its sandboxes may use.
    pub(super) _memory: Claim,
    /// One for each field of [`Calls`].
    pub(super) calls: [AtomicU64; 5],
    /// How many plans for exact sizes did not answer either where an open one had failed.
    pub(super) useless_plans: AtomicU64,
}

/// Idle sandboxes.
#[derive(Default)]
pub(super) struct Waiting {
    /// Holds the decoded model, not yet prepared for shapes: left over from the description.
    pub(super) loaded: Option<Box<dyn Sandbox>>,
    /// Prepared for these shapes; the least recently used first.
    pub(super) prepared: Vec<Prepared>,
    /// The memory of prepared sandboxes, from which others for the same plan start; oldest first.
    pub(super) snapshots: Vec<Kept>,
}

/// An idle sandbox that is prepared for inputs of some shapes.
pub(super) struct Prepared {
    pub(super) plan: Arc<PlanShapes>,
    pub(super) sandbox: Box<dyn Sandbox>,
    since: Instant,
}

/// A served request, and the sandbox that served it.
pub(super) struct Served {
    pub(super) sandbox: Box<dyn Sandbox>,
    /// The shapes that the sandbox accepts.
    pub(super) plan: Arc<PlanShapes>,
    pub(super) answer: Answer,
    /// Time to get the sandbox.
    pub(super) prepare: Duration,
    /// When the request was sent.
    pub(super) begin: Instant,
}

impl Shared {
    /// The subject of decisions.
    pub(super) fn subject(&self) -> Subject {
        super::subject(self.bytes.digest(), &self.policy)
    }

    /// The seed of runs that set no other.
    pub(super) fn seed(&self) -> u32 {
        self.policy.compute.seed.unwrap_or(0)
    }

    /// Checks inputs against the model's declaration and `limits.input-size`.
    pub(super) fn bind<N: AsRef<str>, T: Borrow<Tensor>>(
        &self,
        contract: &Contract,
        inputs: &[(N, T)],
    ) -> Result<Bound, ErrorKind> {
        let bound = contract.bind(inputs)?;
        let limit = self.policy.limits.input_size;
        let found =
            inputs.iter().fold(0u64, |sum, (_, t)| sum.saturating_add(t.borrow().byte_len()));
        if found > limit {
            return Err(Limit::InputSize { found, limit }.into());
        }
        Ok(bound)
    }

    pub(super) fn call(
        &self,
        sandbox: &mut dyn Sandbox,
        call: Call,
        payload: Payload,
        phase: Phase,
    ) -> Result<Answer, ErrorKind> {
        // A sandbox that is not confined is never called.
        let ready = sandbox.await_ready();
        ready.map_err(|failure| ErrorKind::from_failure(failure, phase))?;
        let [load, describe, prepare, adopt, run] = &self.calls;
        let count = match call {
            Call::Load => Some(load),
            Call::Describe => Some(describe),
            Call::Prepare => Some(prepare),
            Call::Adopt => Some(adopt),
            Call::Run => Some(run),
            Call::External | Call::Kernels | Call::Profile => None,
            Call::Picture => None,
            #[cfg(test)]
            Call::Panic => None,
        };
        count.map(|count| count.fetch_add(1, Ordering::Relaxed));
        let limits = &self.policy.limits;
        let limit = match phase {
            Phase::Prepare => CallLimit { time: limits.prepare_time, key: TimeKey::Prepare },
            Phase::Run => CallLimit { time: limits.run_time, key: TimeKey::Run },
        };
        let (time, ends_first) = shortened(limit.time);
        let answer = sandbox.call(call, payload, CallLimit { time, ..limit });
        let answer = answer.map_err(|failure| match (failure, ends_first) {
            // The limit that was hit is not the model's own.
            (Failure::Limit(Limit::RunTime { .. } | Limit::PrepareTime { .. }), Some(ended)) => {
                Failure::Limit(ended)
            }
            (failure, _) => failure,
        });
        for line in sandbox.take_log() {
            (self.host.listener)(Event::Log { model: self.label.clone(), line });
        }
        self.host.report_missing(sandbox.take_missing());
        if let Err(Failure::Lost(loss)) = &answer {
            self.lost(loss);
        }
        answer.map_err(|failure| ErrorKind::from_failure(failure, phase))
    }

    /// The model's description of itself, and the sandbox that produced it.
    pub(super) fn described_sandbox(
        &self,
    ) -> Result<(Description, Option<Box<dyn Sandbox>>), ErrorKind> {
        let mut sandbox = self.loaded_sandbox()?;
        let answer = self.call(&mut *sandbox, Call::Describe, Payload::Empty, Phase::Prepare)?;
        let described = description(&answer.message)?;
        if let Some(store) = self.host.store() {
            store.keep_description(self.bytes.digest(), &self.label, answer.message);
        }
        Ok((described, Some(sandbox)))
    }

    /// A sandbox that has decoded the model.
    pub(super) fn loaded_sandbox(&self) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let mut sandbox = self.new_sandbox(Role::Prepare)?;
        let payload = Payload::Sealed(Arc::clone(self.bytes.sealed()));
        let answer = self.call(&mut *sandbox, Call::Load, payload, Phase::Prepare)?;
        match reply(&answer, Phase::Prepare)? {
            Reply::Ok => Ok(sandbox),
            _ => Err(unexpected()),
        }
    }

    /// Returns an idle sandbox unless its worker has ended meanwhile; no request was lost then, and
    /// the next one need not know.
    pub(super) fn alive(&self, mut sandbox: Box<dyn Sandbox>) -> Option<Box<dyn Sandbox>> {
        match sandbox.loss_while_waiting() {
            None => Some(sandbox),
            Some(loss) => {
                self.lost(&loss);
                None
            }
        }
    }

    fn lost(&self, loss: &WorkerLoss) {
        self.host.supervision.lost(&self.record, &self.label, loss);
    }

    /// Records that a request succeeded.
    pub(super) fn answered(&self) {
        self.host.supervision.answered(&self.record);
    }

    /// A new, empty sandbox, unless too many have just died.
    pub(super) fn new_sandbox(&self, role: Role) -> Result<Box<dyn Sandbox>, ErrorKind> {
        let patience = PATIENCE.min(self.policy.limits.run_time);
        self.host.supervision.await_start(&self.record, patience)?;
        self.host.sandbox(&self.policy, role)
    }

    /// Serves a request in a sandbox that is prepared for its shapes.
    pub(super) fn served(
        &self,
        contract: &Contract,
        shapes: &[InputShape],
        payload: impl Fn() -> Payload,
    ) -> Result<Served, ErrorKind> {
        self.retried(|| {
            let start = Instant::now();
            let (mut plan, mut sandbox) = self.prepared_sandbox(contract, shapes)?;
            let mut prepare = start.elapsed();
            let mut begin = Instant::now();
            let mut answer = self.call(&mut *sandbox, Call::Run, payload(), Phase::Run);
            if plan.is_open() && self.may_hold_exactly(&answer) {
                let start = Instant::now();
                let by_sizes = answer.as_ref().is_ok_and(sizes_refused);
                match self.exact_sandbox(shapes) {
                    Ok((exact, with_exact)) => {
                        let open = std::mem::replace(&mut sandbox, with_exact);
                        if answer.is_ok() {
                            self.put_back(&plan, open);
                        }
                        plan = exact;
                        prepare += start.elapsed();
                        begin = Instant::now();
                        answer = self.call(&mut *sandbox, Call::Run, payload(), Phase::Run);
                    }
                    // Without a plan for these sizes, why there is none is the answer.
                    Err(kind) if by_sizes || matches!(kind, ErrorKind::Model(_)) => {
                        self.useless_plans.fetch_add(u64::from(!by_sizes), Ordering::Relaxed);
                        return Err(kind);
                    }
                    Err(_) => {}
                }
                let helped = answer.as_ref().is_ok_and(|answer| reply(answer, Phase::Run).is_ok());
                if !helped {
                    self.useless_plans.fetch_add(1, Ordering::Relaxed);
                }
            }
            let answer = answer?;
            Ok(Served { sandbox, plan, answer, prepare, begin })
        })
    }

    /// Whether a plan for exactly the sizes of a request may answer it where an open plan did not.
    /// Errors of values and traps are mostly the model's own, so after a few that stay, only sizes
    /// are a reason.
    fn may_hold_exactly(&self, answer: &Result<Answer, ErrorKind>) -> bool {
        const USELESS: u64 = 3;
        let untried = self.useless_plans.load(Ordering::Relaxed) < USELESS;
        match answer {
            Ok(answer) if sizes_refused(answer) => true,
            Ok(answer) => untried && matches!(reply(answer, Phase::Run), Err(ErrorKind::Run(_))),
            Err(kind) => untried && matches!(kind, ErrorKind::Sandbox(_)),
        }
    }

    /// Does work that needs a worker, and repeats it if a worker was lost before it took the
    /// request. A request that a worker had taken is not repeated, because the model could be
    /// killing its workers. A model in quarantine gets no worker.
    pub(super) fn retried<T>(
        &self,
        attempt: impl Fn() -> Result<T, ErrorKind>,
    ) -> Result<T, ErrorKind> {
        const AGAIN: u32 = 3;
        let attempt = || {
            self.host.supervision.admit(&self.record)?;
            attempt()
        };
        for _ in 0..AGAIN {
            match attempt() {
                Err(ErrorKind::Worker(loss)) if !loss.began => {}
                other => return other,
            }
        }
        attempt()
    }

    /// Keeps a sandbox for the next request, unless its worker has served enough requests.
    pub(super) fn put_back(&self, plan: &Arc<PlanShapes>, sandbox: Box<dyn Sandbox>) {
        if sandbox.runs() >= self.host.requests_per_worker {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = Arc::clone(plan);
        waiting.prepared.push(Prepared { plan, sandbox, since: Instant::now() });
        let surplus = waiting.prepared.len().saturating_sub(self.host.idle);
        let dropped: Vec<_> = waiting.prepared.drain(..surplus).collect();
        // Ending a sandbox takes a while, so no lock is held.
        drop(waiting);
        drop(dropped);
    }

    /// Removes sandboxes that have been idle since a time that is too long ago, if others can start
    /// without them.
    pub(super) fn take_idle(&self, too_long: impl Fn(Instant) -> bool) -> Vec<Prepared> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { prepared, snapshots, .. } = &mut *waiting;
        let has_snapshot = |one: &Prepared| snapshots.iter().any(|(plan, _)| *plan == one.plan);
        prepared.extract_if(.., |one| too_long(one.since) && has_snapshot(one)).collect()
    }
}
