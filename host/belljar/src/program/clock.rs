//! The deadline of a program's run, as its own process keeps it. Its code looks at the engine's epoch,
//! which moves once, when the time is up; not while the supervisor works for it, which knows the
//! deadline too, and ends the process if this one fails to.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// The time of one run; clones tell the same. It ends with its last clone but the timer's.
#[derive(Clone)]
pub(super) struct Clock {
    shared: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    until: Instant,
    /// Whether somebody else works for it.
    paused: bool,
    ended: bool,
}

impl Clock {
    /// A clock for a run in this engine, which nothing else runs in. It stands still until it is
    /// started, but its thread is there.
    pub(super) fn new(engine: &Engine) -> std::io::Result<Clock> {
        let state = State { until: Instant::now(), paused: true, ended: false };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let (timer, engine) = (Arc::clone(&shared), engine.clone());
        std::thread::Builder::new()
            .name("belljar-clock".into())
            .stack_size(64 << 10)
            .spawn(move || wait(&timer, &engine))?;
        Ok(Clock { shared })
    }

    /// Starts the time of the run.
    pub(super) fn start(&self, time: Duration) {
        let now = Instant::now();
        let mut state = self.state();
        // A time that no clock can show does not come.
        state.until = now.checked_add(time).unwrap_or(now + Duration::from_secs(1 << 30));
        state.paused = false;
        drop(state);
        self.shared.1.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something done that also says how much of its time is not the program's.
    pub(super) fn pausing<T>(&self, work: impl FnOnce() -> (T, Duration)) -> T {
        self.state().paused = true;
        let (done, credit) = work();
        let mut state = self.state();
        state.paused = false;
        state.until = state.until.checked_add(credit).unwrap_or(state.until);
        drop(state);
        self.shared.1.notify_one();
        done
    }

    /// That the run is over.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.shared.1.notify_one();
    }
}

fn wait((state, changed): &(Mutex<State>, Condvar), engine: &Engine) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    while !state.ended {
        let left = state.until.saturating_duration_since(Instant::now());
        state = match state.paused {
            true => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            false if left.is_zero() => return engine.increment_epoch(),
            false => changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}
