//! The deadline of a measurement, and its progress line.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::terminal::Terminal;

/// Time between two progress lines: without a terminal, and on a terminal.
const SELDOM: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(200);

/// The time until which requests are sent.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// A deadline `time` from now, or none.
    pub(super) fn after(time: Option<Duration>) -> Deadline {
        Deadline(time.and_then(|time| Instant::now().checked_add(time)))
    }

    /// A deadline after a part of the remaining time.
    pub(super) fn part(self, parts: u32) -> Deadline {
        let now = Instant::now();
        let end = |end: Instant| now + end.saturating_duration_since(now) / parts.max(1);
        Deadline(self.0.map(end))
    }

    /// Whether something that takes this long ends before the deadline.
    pub(super) fn has_time_for(self, long: Duration) -> bool {
        self.0.is_none_or(|end| end.saturating_duration_since(Instant::now()) > long)
    }

    /// How many requests of this duration fit before the deadline.
    pub(super) fn count(self, long: Duration) -> usize {
        let Some(end) = self.0 else { return usize::MAX };
        let left = end.saturating_duration_since(Instant::now()).as_nanos();
        usize::try_from(left / long.as_nanos().max(1)).unwrap_or(usize::MAX)
    }
}

/// Shows how many requests were measured: on a terminal in a changing line, otherwise in a new line
/// every ten seconds.
pub(super) struct Progress<'a> {
    terminal: &'a Terminal,
    what: &'static str,
    of: u32,
    begun: Instant,
    shown: Instant,
    line: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(terminal: &'a Terminal, what: &'static str, of: u32) -> Progress<'a> {
        let now = Instant::now();
        Progress { terminal, what, of, begun: now, shown: now, line: false }
    }

    pub(super) fn at(&mut self, count: usize) {
        let often = if self.terminal.is_watched() { OFTEN } else { SELDOM };
        if self.terminal.is_quiet() || self.shown.elapsed() < often {
            return;
        }
        self.shown = Instant::now();
        let (what, of, seconds) = (self.what, self.of, self.begun.elapsed().as_secs());
        let text = format!("{what}: {count} of {of} after {seconds} s");
        // If standard error is closed, the error cannot be reported.
        let _ = match self.terminal.is_watched() {
            true => write!(io::stderr(), "\r{text}\x1b[K"),
            false => writeln!(io::stderr(), "belljar: {text}"),
        };
        self.line |= self.terminal.is_watched();
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.line {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_would_end_too_late_are_not_sent() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let deadline = Deadline::after(Some(hour));
        assert!(deadline.has_time_for(second) && !deadline.has_time_for(hour));
        assert!(
            deadline.part(2).has_time_for(hour / 3) && !deadline.part(2).has_time_for(hour / 2)
        );
        assert!((3598..=3600).contains(&deadline.count(second)));
        let over = Deadline::after(Some(Duration::ZERO));
        assert!(!over.has_time_for(Duration::ZERO) && over.count(second) == 0);
        let never = Deadline::after(None);
        assert!(never.part(7).has_time_for(hour) && never.count(hour) == usize::MAX);
    }
}
