//! The deadline of a program's run, enforced in its own process. The code checks the engine's
//! epoch, which advances once, when the time is up. The clock pauses while the supervisor works for
//! the program. The supervisor also knows the deadline, and ends the process if this clock fails.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// The time of one run, shared by clones. The timer ends with the last other clone.
#[derive(Clone)]
pub(super) struct Clock {
    shared: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    until: Instant,
    /// Whether the clock is paused.
    paused: bool,
    ended: bool,
}

impl Clock {
    /// A clock for a run in this engine, which must have no other runs. Its thread starts at once,
    /// but its time starts with [`Clock::start`].
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
        // A time beyond the clock's range is never reached.
        state.until = now.checked_add(time).unwrap_or(now + Duration::from_secs(1 << 30));
        state.paused = false;
        drop(state);
        self.shared.1.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work with the clock paused. The work returns how much of its time is not counted.
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

    /// Ends the run.
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
