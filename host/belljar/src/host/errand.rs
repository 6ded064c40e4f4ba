//! Work that a thread of the supervisor does for one run of a guest program: by when it must be over,
//! and what the run has written to the decision log.
//!
//! Kept for the thread. What is done for a run goes through the same functions as what is done for
//! everybody else, down to the call of a sandbox, and most of them have nothing to do with it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::Decision;
use crate::audit::tally::{Noted, Tally};
use crate::sandbox::Limit;

/// What holds for work that is done for one run.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    /// When the run has no time left.
    pub(crate) until: Instant,
    /// The time that the run had: `limits.run-time` of the program.
    pub(crate) time: Duration,
    pub(crate) tally: Arc<Tally>,
}

thread_local! {
    static CURRENT: RefCell<Option<Errand>> = const { RefCell::new(None) };
}

impl Errand {
    /// Has this thread do something for the run.
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

/// What this thread works on, if it works for a run of a program.
fn current() -> Option<Errand> {
    CURRENT.with_borrow(Clone::clone)
}

/// A limit of time, shortened to what is left of the run that this thread works for; and the limit to
/// tell of then.
pub(crate) fn shortened(limit: Duration) -> (Duration, Option<Limit>) {
    let Some(Errand { until, time, .. }) = current() else { return (limit, None) };
    let left = until.saturating_duration_since(Instant::now());
    match left < limit {
        true => (left, Some(Limit::RunTime { limit: time })),
        false => (limit, None),
    }
}

/// Counts a decision of the run that this thread works for.
pub(crate) fn note(decision: &Decision<'_>) -> Noted {
    current().map_or(Noted::New, |errand| errand.tally.note(decision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shortened_while_the_work_lasts() {
        let minute = Duration::from_secs(60);
        assert_eq!(shortened(minute), (minute, None));
        let errand = |left: Duration| Errand {
            until: Instant::now() + left,
            time: Duration::from_secs(1),
            tally: Arc::default(),
        };
        errand(Duration::from_secs(600)).during(|| assert_eq!(shortened(minute), (minute, None)));
        errand(Duration::ZERO).during(|| {
            let told = Some(Limit::RunTime { limit: Duration::from_secs(1) });
            assert_eq!(shortened(minute), (Duration::ZERO, told));
        });
        let panicked = std::panic::catch_unwind(|| errand(Duration::ZERO).during(|| panic!("oh")));
        assert!(panicked.is_err());
        assert_eq!(shortened(minute), (minute, None));
    }
}
