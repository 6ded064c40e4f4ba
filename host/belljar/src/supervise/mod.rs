//! Watches over the workers of each model: how soon the next is started after one that died, and
//! whether one is started at all.
//!
//! A worker that dies while it has a request, or breaks the rules of its channel, is a *death* of
//! its model, whoever was the sender of the request. So is the end of one that had seen the model
//! and died while it waited, unless it was killed from outside (SIGKILL): the kernel, short of
//! memory, takes whom it finds. Deadlines and limits are no deaths, as a policy's price for a slow
//! model is known; nor are traps and panics of the guest, which the first wall has held, and which
//! inputs alone can cause: one client must not be able to take a model away from all others.
//!
//! For the same reason a worker that the kernel kills because memory ran out is no death, whatever it
//! was doing: how much memory there is depends on the machine and on all requests together, and
//! large inputs alone can use it up. Such a loss only lengthens the wait before the next start. A
//! hostile model can have itself killed that way and stays out of quarantine; what it gains is one
//! start in each wait, up to the longest, and each start is confined and limited as before.
//!
//! Deaths without an answer between them make the next start wait (`back_off`). Too many deaths put
//! the model into quarantine (`ledger` keeps it across processes), and only an operator takes it out
//! again. Between two deaths that count together there are fewer answers than deaths are allowed.

mod back_off;
mod ledger;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::sandbox::{PrivateError, WorkerLoss};
use crate::trust::Digest;

use back_off::BackOff;
pub(crate) use back_off::PATIENCE;
pub use ledger::Quarantined;
use ledger::{Ledger, Standing, Strikes};

/// How workers that die are dealt with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Wait after the first death, doubled with each further one, and the longest.
    pub(crate) back_off: (Duration, Duration),
    /// Deaths that put a model into quarantine.
    pub(crate) quarantine_after: Option<u32>,
}

impl Default for Settings {
    fn default() -> Settings {
        let back_off = (Duration::from_millis(10), Duration::from_secs(5));
        Settings { back_off, quarantine_after: Some(5) }
    }
}

/// What a program may want to tell its user.
pub(crate) enum SupervisionNotice {
    Quarantined(Quarantined),
    /// Deaths could not be written down; another process will not know of them.
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

/// What is known about the workers of one model. All hosts' models of the same bytes share it.
pub(crate) struct Record {
    digest: Digest,
    /// Nothing has happened that a request would have to know of.
    calm: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    back_off: BackOff,
    /// The last worker was lost because memory ran out.
    out_of_memory: bool,
    strikes: Strikes,
    quarantined: Option<Quarantined>,
    /// The strikes, or the quarantine, are not in the ledger.
    unstored: bool,
}

impl State {
    fn is_calm(&self) -> bool {
        self.back_off.is_over() && self.strikes.deaths == 0 && self.quarantined.is_none()
    }

    /// Notes whether the ledger knows, and what there is to tell.
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
    /// Without a state folder deaths count in this process alone.
    pub(crate) fn new(settings: Settings, state: Option<&Path>, notices: Notices) -> Supervision {
        Supervision { settings, ledger: Ledger::new(state), notices, records: Mutex::default() }
    }

    /// Whether it can be told which models are in quarantine.
    pub(crate) fn check(&self) -> Result<(), PrivateError> {
        self.ledger.folder().map(drop)
    }

    /// What is known about a model that is being loaded.
    ///
    /// # Errors
    /// When the model is in quarantine, or when nobody can tell.
    pub(crate) fn record(&self, digest: Digest) -> Result<Arc<Record>, ErrorKind> {
        let record = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            // What is neither in use nor has anything to say is forgotten; the ledger is not.
            records.retain(|_, known| {
                Arc::strong_count(known) > 1 || {
                    let state = known.state();
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

    /// Takes over what the ledger says.
    fn refresh(&self, state: &mut State, digest: Digest) -> Result<(), ErrorKind> {
        let (strikes, quarantined) = match self.ledger.read(digest)? {
            Standing::Strikes(strikes) => (strikes, None),
            Standing::Quarantined(found) => (state.strikes, Some(found)),
        };
        if state.quarantined.is_some() && quarantined.is_none() {
            // Released, by another process.
            state.back_off = BackOff::default();
        }
        (state.strikes, state.quarantined) = (strikes, quarantined);
        Ok(())
    }

    /// Whether a request for the model is let in.
    pub(crate) fn admit(&self, record: &Record) -> Result<(), ErrorKind> {
        if record.calm.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = record.state();
        if state.quarantined.is_some() && !state.unstored {
            self.refresh(&mut state, record.digest)?;
            record.calm.store(state.is_calm(), Ordering::Release);
        }
        match &state.quarantined {
            Some(quarantined) => Err(ErrorKind::Quarantined(quarantined.clone())),
            None => Ok(()),
        }
    }

    /// Whether another worker may be started for the model, after a wait that is no longer than
    /// `patience`. Nothing is locked meanwhile.
    pub(crate) fn await_start(&self, record: &Record, patience: Duration) -> Result<(), ErrorKind> {
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
                return Err(ErrorKind::BackOff { deaths, wait, out_of_memory });
            }
            std::thread::sleep(wait);
        }
    }

    /// Notes that a worker of the model was lost.
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
        self.tell(notices);
    }

    /// Counts a death.
    fn strike(
        &self,
        state: &mut State,
        model: Digest,
        label: &str,
        loss: &WorkerLoss,
    ) -> Vec<SupervisionNotice> {
        let Some(most) = self.settings.quarantine_after else { return Vec::new() };
        // Other processes run the model too: what they have seen counts here.
        let _turn = self.ledger.turn();
        if !state.unstored && self.refresh(state, model).is_err() {
            state.unstored = true;
        }
        if state.quarantined.is_some() {
            return Vec::new();
        }
        state.strikes = Strikes { deaths: state.strikes.deaths.saturating_add(1), answers: 0 };
        if state.strikes.deaths < most {
            return state.stored(self.ledger.write(model, state.strikes));
        }
        let quarantined =
            Quarantined::new(model, label, loss.end.to_string(), state.strikes.deaths);
        state.quarantined = Some(quarantined.clone());
        let mut notices = state.stored(self.ledger.quarantine(&quarantined));
        notices.push(SupervisionNotice::Quarantined(quarantined));
        notices
    }

    /// Notes that a worker of the model has answered a request.
    pub(crate) fn answered(&self, record: &Record) {
        if record.calm.load(Ordering::Acquire) {
            return;
        }
        let mut state = record.state();
        state.back_off = BackOff::default();
        let notices = self.forgive(&mut state, record.digest);
        record.calm.store(state.is_calm(), Ordering::Release);
        drop(state);
        self.tell(notices);
    }

    /// Counts an answer, if there are deaths that it may help to forget.
    fn forgive(&self, state: &mut State, model: Digest) -> Vec<SupervisionNotice> {
        let Some(most) = self.settings.quarantine_after else { return Vec::new() };
        if state.strikes.deaths == 0 || state.quarantined.is_some() {
            return Vec::new();
        }
        let _turn = self.ledger.turn();
        if !state.unstored && (self.refresh(state, model).is_err() || state.quarantined.is_some()) {
            return Vec::new();
        }
        state.strikes.answers = state.strikes.answers.saturating_add(1);
        if state.strikes.answers >= most {
            state.strikes = Strikes::default();
        }
        state.stored(self.ledger.write(model, state.strikes))
    }

    /// To be called without a lock: whoever listens may call back.
    fn tell(&self, notices: Vec<SupervisionNotice>) {
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

    /// Lets a model run again, and forgets its deaths. Answers whether it was in quarantine.
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

/// What the loss of a worker means for its model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consequence {
    /// The model had no part in it.
    None,
    /// The next start waits. For want of memory, which is not the model's alone.
    Wait,
    /// The next start waits, and the loss counts towards quarantine: the model may have caused it.
    Death,
}

fn consequence(loss: &WorkerLoss) -> Consequence {
    match (loss.began, loss.end.is_out_of_memory()) {
        (true, true) => Consequence::Wait,
        (true, false) => Consequence::Death,
        // Killed from outside while it waited: the kernel, short of memory, takes whom it finds.
        (false, true) => Consequence::None,
        (false, false) if loss.served && !loss.end.is_kill() => Consequence::Death,
        (false, false) => Consequence::None,
    }
}

#[cfg(test)]
mod tests;
