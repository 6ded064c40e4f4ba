//! Supervises the workers of each model: decides when the next worker may start after one has died,
//! and whether it may start at all.
//!
//! A worker that dies while it handles a request, or violates the protocol of its channel, counts
//! as a *death* of its model, regardless of who sent the request. So does a worker that has seen
//! the model and dies while it waits, unless it was killed by SIGKILL: a kernel that is short of
//! memory kills any process. Exceeded deadlines and limits do not count as deaths, because policies
//! are expected to reach them. Traps and panics of the guest do not count either: WebAssembly has
//! contained them, and inputs alone can cause them, and one client must not be able to make a model
//! unavailable to all others.
//!
//! For the same reason a worker that the kernel kills because memory ran out does not count as a
//! death: the available memory depends on the machine and on all requests together, and large
//! inputs alone can exhaust it. Such a loss only extends the delay before the next start. A hostile
//! model can use this to stay out of quarantine; it gains one start after each delay, and each
//! start is confined and limited as before.
//!
//! Deaths without an answer between them delay the next start (`back_off`). Too many deaths put the
//! model into quarantine (`ledger` stores it across processes), and only an operator can release
//! it. Deaths are forgotten after as many answers in a row as the number of deaths that leads to
//! quarantine.

mod back_off;
mod ledger;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sandbox::{PrivateError, WorkerLoss};
use crate::trust::Digest;

use back_off::BackOff;
pub(crate) use back_off::PATIENCE;
pub use ledger::Quarantined;
use ledger::{Ledger, Standing, Strikes};

/// How deaths of workers are handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Delay after the first death, doubled with each further one, and its maximum.
    pub(crate) back_off: (Duration, Duration),
    /// Number of deaths that put a model into quarantine.
    pub(crate) quarantine_after: Option<u32>,
}

impl Default for Settings {
    fn default() -> Settings {
        let back_off = (Duration::from_millis(10), Duration::from_secs(5));
        Settings { back_off, quarantine_after: Some(5) }
    }
}

/// Why no worker of a model may be started or used.
#[derive(Debug)]
pub(crate) enum NoWorker {
    /// The ledger could not be read.
    Store(PrivateError),
    /// The last workers died or were lost, so the next one is not started yet.
    BackOff {
        deaths: u32,
        wait: Duration,
        out_of_memory: bool,
    },
    Quarantined(Quarantined),
}

impl From<PrivateError> for NoWorker {
    fn from(err: PrivateError) -> NoWorker {
        NoWorker::Store(err)
    }
}

/// Events that a program may want to report to its user.
pub(crate) enum SupervisionNotice {
    Quarantined(Quarantined),
    /// Deaths could not be stored, so other processes do not count them.
    NotStored(PrivateError),
}

type Notices = Arc<dyn Fn(SupervisionNotice) + Send + Sync>;

/// All models of a host.
pub(crate) struct Supervision {
    settings: Settings,
    ledger: Ledger,
    notices: Notices,
    records: Mutex<HashMap<Digest, Arc<Record>>>,
}

/// The supervision state of one model. All hosts' models of the same bytes share it.
pub(crate) struct Record {
    digest: Digest,
    /// Whether requests need not check the state.
    calm: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    back_off: BackOff,
    /// Whether the last worker was lost because memory ran out.
    out_of_memory: bool,
    strikes: Strikes,
    quarantined: Option<Quarantined>,
    /// Whether the strikes, or the quarantine, could not be stored in the ledger.
    unstored: bool,
}

impl State {
    fn is_calm(&self) -> bool {
        self.back_off.is_over() && self.strikes.deaths == 0 && self.quarantined.is_none()
    }

    /// Records whether the ledger was written, and returns the notice if it was not.
    fn stored(&mut self, written: Result<(), PrivateError>) -> Vec<SupervisionNotice> {
        self.unstored = written.is_err();
        written.err().map(SupervisionNotice::NotStored).into_iter().collect()
    }
}

impl Record {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervision {
    /// Without a state folder, deaths count in this process only.
    pub(crate) fn new(settings: Settings, state: Option<&Path>, notices: Notices) -> Supervision {
        Supervision { settings, ledger: Ledger::new(state), notices, records: Mutex::default() }
    }

    /// Checks whether the ledger can be read.
    pub(crate) fn check(&self) -> Result<(), PrivateError> {
        self.ledger.folder().map(drop)
    }

    /// The record of a model that is being loaded.
    ///
    /// # Errors
    /// If the model is in quarantine, or if the ledger cannot be read.
    pub(crate) fn record(&self, digest: Digest) -> Result<Arc<Record>, NoWorker> {
        let record = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            // Drops records that are not in use and hold no more than the ledger.
            records.retain(|_, record| {
                Arc::strong_count(record) > 1 || {
                    let state = record.state();
                    !state.back_off.is_over() || state.unstored
                }
            });
            let new = || {
                let (calm, state) = (AtomicBool::new(true), Mutex::default());
                Arc::new(Record { digest, calm, state })
            };
            Arc::clone(records.entry(digest).or_insert_with(new))
        };
        let mut state = record.state();
        if !state.unstored {
            self.refresh(&mut state, digest)?;
        }
        record.calm.store(state.is_calm(), Ordering::Release);
        drop(state);
        self.admit(&record)?;
        Ok(record)
    }

    /// Updates the state from the ledger.
    fn refresh(&self, state: &mut State, digest: Digest) -> Result<(), NoWorker> {
        let (strikes, quarantined) = match self.ledger.read(digest)? {
            Standing::Strikes(strikes) => (strikes, None),
            Standing::Quarantined(found) => (state.strikes, Some(found)),
        };
        if state.quarantined.is_some() && quarantined.is_none() {
            // Another process has released it.
            state.back_off = BackOff::default();
        }
        (state.strikes, state.quarantined) = (strikes, quarantined);
        Ok(())
    }

    /// Checks whether requests for the model are accepted.
    pub(crate) fn admit(&self, record: &Record) -> Result<(), NoWorker> {
        if record.calm.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = record.state();
        if state.quarantined.is_some() && !state.unstored {
            self.refresh(&mut state, record.digest)?;
            record.calm.store(state.is_calm(), Ordering::Release);
        }
        match &state.quarantined {
            Some(quarantined) => Err(NoWorker::Quarantined(quarantined.clone())),
            None => Ok(()),
        }
    }

    /// Waits until another worker may be started for the model, for at most `patience`. No lock is
    /// held meanwhile.
    pub(crate) fn await_start(&self, record: &Record, patience: Duration) -> Result<(), NoWorker> {
        if record.calm.load(Ordering::Acquire) {
            return Ok(());
        }
        let until = Instant::now().checked_add(patience);
        loop {
            let now = Instant::now();
            let ((wait, deaths), out_of_memory) = {
                let state = record.state();
                (state.back_off.wait(now), state.out_of_memory)
            };
            if wait.is_zero() {
                return Ok(());
            }
            if now.checked_add(wait).is_none_or(|start| until.is_some_and(|until| start > until)) {
                return Err(NoWorker::BackOff { deaths, wait, out_of_memory });
            }
            std::thread::sleep(wait);
        }
    }

    /// Records that a worker of the model was lost.
    pub(crate) fn lost(&self, record: &Record, label: &str, loss: &WorkerLoss) {
        let consequence = consequence(loss);
        if consequence == Consequence::None {
            return;
        }
        let mut state = record.state();
        record.calm.store(false, Ordering::Release);
        state.back_off.lengthen(Instant::now(), self.settings.back_off);
        state.out_of_memory = consequence == Consequence::Wait;
        let notices = match consequence {
            Consequence::Death => self.strike(&mut state, record.digest, label, loss),
            Consequence::None | Consequence::Wait => Vec::new(),
        };
        drop(state);
        self.notify(notices);
    }

    /// Counts a death.
    fn strike(
        &self,
        state: &mut State,
        model: Digest,
        label: &str,
        loss: &WorkerLoss,
    ) -> Vec<SupervisionNotice> {
        let Some(limit) = self.settings.quarantine_after else { return Vec::new() };
        // Other processes may run the model too; their deaths count here.
        let _turn = self.ledger.turn();
        if !state.unstored && self.refresh(state, model).is_err() {
            state.unstored = true;
        }
        if state.quarantined.is_some() {
            return Vec::new();
        }
        state.strikes = Strikes { deaths: state.strikes.deaths.saturating_add(1), answers: 0 };
        if state.strikes.deaths < limit {
            return state.stored(self.ledger.write(model, state.strikes));
        }
        let quarantined =
            Quarantined::new(model, label, loss.end.to_string(), state.strikes.deaths);
        state.quarantined = Some(quarantined.clone());
        let mut notices = state.stored(self.ledger.quarantine(&quarantined));
        notices.push(SupervisionNotice::Quarantined(quarantined));
        notices
    }

    /// Records that a worker of the model has answered a request.
    pub(crate) fn answered(&self, record: &Record) {
        if record.calm.load(Ordering::Acquire) {
            return;
        }
        let mut state = record.state();
        state.back_off = BackOff::default();
        let notices = self.forgive(&mut state, record.digest);
        record.calm.store(state.is_calm(), Ordering::Release);
        drop(state);
        self.notify(notices);
    }

    /// Counts an answer; enough answers clear the deaths of a model that is not in quarantine.
    fn forgive(&self, state: &mut State, model: Digest) -> Vec<SupervisionNotice> {
        let Some(limit) = self.settings.quarantine_after else { return Vec::new() };
        if state.strikes.deaths == 0 || state.quarantined.is_some() {
            return Vec::new();
        }
        let _turn = self.ledger.turn();
        if !state.unstored && (self.refresh(state, model).is_err() || state.quarantined.is_some()) {
            return Vec::new();
        }
        state.strikes.answers = state.strikes.answers.saturating_add(1);
        if state.strikes.answers >= limit {
            state.strikes = Strikes::default();
        }
        state.stored(self.ledger.write(model, state.strikes))
    }

    /// Call it without a lock: the listener may call back.
    fn notify(&self, notices: Vec<SupervisionNotice>) {
        notices.into_iter().for_each(|notice| (self.notices)(notice));
    }

    /// The models in quarantine.
    pub(crate) fn quarantined(&self) -> Result<Vec<Quarantined>, PrivateError> {
        let mut list = self.ledger.list()?;
        let records: Vec<_> = {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.values().cloned().collect()
        };
        for record in records {
            let state = record.state();
            if state.unstored {
                list.extend(state.quarantined.clone());
            }
        }
        Ok(list)
    }

    /// Releases a model, and clears its deaths. Returns whether it was in quarantine.
    pub(crate) fn release(&self, digest: Digest) -> Result<bool, PrivateError> {
        let turn = self.ledger.turn();
        let mut was_in = self.ledger.release(digest)?;
        drop(turn);
        let record = {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.get(&digest).cloned()
        };
        if let Some(record) = record {
            let mut state = record.state();
            was_in |= state.quarantined.is_some();
            *state = State::default();
            record.calm.store(true, Ordering::Release);
        }
        Ok(was_in)
    }
}

/// The consequence of a worker's loss for its model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consequence {
    /// The model did not cause the loss.
    None,
    /// The next start is delayed: memory ran out, which the model alone need not have caused.
    Wait,
    /// The next start is delayed, and the loss counts towards quarantine: the model may have caused
    /// it.
    Death,
}

fn consequence(loss: &WorkerLoss) -> Consequence {
    match (loss.began, loss.end.is_out_of_memory()) {
        (true, true) => Consequence::Wait,
        (true, false) => Consequence::Death,
        // Killed while it waited: a kernel that is short of memory kills any process.
        (false, true) => Consequence::None,
        (false, false) if loss.served && !loss.end.is_kill() => Consequence::Death,
        (false, false) => Consequence::None,
    }
}

#[cfg(test)]
mod tests;
