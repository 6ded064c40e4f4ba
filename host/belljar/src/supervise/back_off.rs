//! The delay before the next worker starts after consecutive deaths of workers.

use std::time::{Duration, Instant};

/// Maximum time that a request waits for the start of a worker. If it would have to wait longer, it
/// fails with the time after which to try again.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// The delay of one model. Any answer ends it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackOff {
    /// Deaths since the last answer.
    deaths: u32,
    until: Option<Instant>,
}

impl BackOff {
    /// Extends the delay after another death: starts at `first`, and doubles each time up to `max`.
    pub(super) fn lengthen(&mut self, now: Instant, (first, max): (Duration, Duration)) {
        let doublings = 1u32.checked_shl(self.deaths).unwrap_or(u32::MAX);
        self.deaths = self.deaths.saturating_add(1);
        // A time beyond the clock's range is treated as no delay.
        self.until = now.checked_add(first.saturating_mul(doublings).min(max));
    }

    /// The remaining delay, and the number of deaths.
    pub(super) fn wait(&self, now: Instant) -> (Duration, u32) {
        let wait = self.until.map(|until| until.saturating_duration_since(now));
        (wait.unwrap_or_default(), self.deaths)
    }

    pub(super) fn is_over(&self) -> bool {
        self.deaths == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum() {
        let settings = (Duration::from_millis(10), Duration::from_secs(5));
        let now = Instant::now();
        let mut back_off = BackOff::default();
        assert!(back_off.is_over());
        let mut waits = Vec::new();
        for _ in 0..100 {
            back_off.lengthen(now, settings);
            waits.push(back_off.wait(now).0.as_millis());
        }
        assert_eq!(waits[..10], [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000]);
        assert!(waits[10..].iter().all(|wait| *wait == 5000));
        assert_eq!(back_off.wait(now + settings.1), (Duration::ZERO, 100));
        assert!(!back_off.is_over());
    }

    #[test]
    fn the_delay_can_be_zero() {
        let now = Instant::now();
        let mut back_off = BackOff::default();
        back_off.lengthen(now, (Duration::ZERO, Duration::ZERO));
        assert_eq!(back_off.wait(now), (Duration::ZERO, 1));
    }
}
