//! Work that a supervisor thread does for one run of a guest program: its deadline, and what the
//! run has written to the decision log.
//!
//! It is thread-local. Work for a run goes through the same functions as all other work, down to
//! the call of a sandbox, and most of them need not know about it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::Decision;
use crate::audit::tally::{Noted, Tally};
use crate::sandbox::Limit;

/// The deadline and tally of work that is done for one run.
#[derive(Clone, Debug)]
pub(crate) struct RunContext {
    /// When the run's time is up.
    pub(crate) until: Instant,
    /// The run's time limit: `limits.run-time` of the program.
    pub(crate) time: Duration,
    pub(crate) tally: Arc<Tally>,
}

thread_local! {
    static CURRENT: RefCell<Option<RunContext>> = const { RefCell::new(None) };
}

impl RunContext {
    /// Does work on this thread for the run.
    pub(crate) fn during<T>(self, work: impl FnOnce() -> T) -> T {
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                CURRENT.with_borrow_mut(|current| *current = None);
            }
        }
        CURRENT.with_borrow_mut(|current| *current = Some(self));
        let _over = Over;
        work()
    }
}

/// The run that this thread works for, if any.
fn current() -> Option<RunContext> {
    CURRENT.with_borrow(Clone::clone)
}

/// A time limit, shortened to the remaining time of the run that this thread works for, and then
/// the limit to report.
pub(crate) fn shortened(limit: Duration) -> (Duration, Option<Limit>) {
    let Some(RunContext { until, time, .. }) = current() else { return (limit, None) };
    let left = until.saturating_duration_since(Instant::now());
    match left < limit {
        true => (left, Some(Limit::RunTime { limit: time })),
        false => (limit, None),
    }
}

/// Counts a decision for the run that this thread works for.
pub(crate) fn note(decision: &Decision<'_>) -> Noted {
    current().map_or(Noted::New, |context| context.tally.note(decision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_shortened_during_the_work() {
        let minute = Duration::from_secs(60);
        assert_eq!(shortened(minute), (minute, None));
        let context = |left: Duration| RunContext {
            until: Instant::now() + left,
            time: Duration::from_secs(1),
            tally: Arc::default(),
        };
        context(Duration::from_secs(600)).during(|| assert_eq!(shortened(minute), (minute, None)));
        context(Duration::ZERO).during(|| {
            let limit = Some(Limit::RunTime { limit: Duration::from_secs(1) });
            assert_eq!(shortened(minute), (Duration::ZERO, limit));
        });
        let panicked = std::panic::catch_unwind(|| context(Duration::ZERO).during(|| panic!("oh")));
        assert!(panicked.is_err());
        assert_eq!(shortened(minute), (minute, None));
    }
}
