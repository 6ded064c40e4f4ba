//! Counts what one run of a guest program has written to the decision log.
//!
//! A program can request the same thing, or ever new things, for as long as it runs. Equal
//! decisions of a run are logged once and only counted after that. A run that causes more different
//! decisions than the log may take is ended, because nothing may happen that is not logged.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Decision, written_len};

/// The maximum number of different decisions of one run.
pub(crate) const MAX_DECISIONS: usize = 100_000;

/// The maximum number of bytes of the texts (`resource`, `access`, `rule`) in all lines of one run.
/// The rest of a line has about 260 bytes.
pub(crate) const MAX_TEXT_SIZE: u64 = 8 << 20;

/// The decisions of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Hashes of the logged decisions, keyed so that a program cannot cause collisions.
    written: HashSet<u64>,
    key: RandomState,
    text: u64,
    repeated: u64,
    full: bool,
}

/// How to handle a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Log it.
    New,
    /// It was logged before.
    Repeated,
    /// The run has used up its log lines, and ends.
    Full,
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a decision.
    pub(crate) fn note(&self, decision: &Decision<'_>) -> Noted {
        let Decision { subject, resource, access, verdict, rule } = decision;
        let counts = &mut *self.counts();
        let model = subject.model.as_ref().map(|digest| *digest.as_bytes());
        let hash = counts.key.hash_one((model, resource, access, verdict.name(), rule));
        if counts.written.contains(&hash) {
            counts.repeated = counts.repeated.saturating_add(1);
            return Noted::Repeated;
        }
        let texts = [resource, access, rule];
        let text = texts.into_iter().map(|text| written_len(text)).sum::<u64>();
        if counts.written.len() >= MAX_DECISIONS || counts.text.saturating_add(text) > MAX_TEXT_SIZE
        {
            counts.full = true;
        }
        if counts.full {
            return Noted::Full;
        }
        counts.text += text;
        counts.written.insert(hash);
        Noted::New
    }

    /// Whether a decision could not be logged because the tally is full.
    pub(crate) fn is_full(&self) -> bool {
        self.counts().full
    }

    /// How many decisions were logged before.
    pub(crate) fn repeated(&self) -> u64 {
        self.counts().repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Subject, Verdict};
    use crate::trust::Digest;

    fn decision<'a>(resource: &'a str, verdict: Verdict) -> Decision<'a> {
        Decision { subject: Subject::default(), resource, access: "read", verdict, rule: "r" }
    }

    #[test]
    fn equal_decisions_are_logged_once_and_counted() {
        let tally = Tally::default();
        assert_eq!(tally.note(&decision("/a", Verdict::Allowed)), Noted::New);
        assert_eq!(tally.note(&decision("/a", Verdict::Allowed)), Noted::Repeated);
        assert_eq!(tally.note(&decision("/a", Verdict::Refused)), Noted::New);
        let subject = Subject { model: Some(Digest::of(b"")), policy: None };
        let other = Decision { subject, ..decision("/a", Verdict::Allowed) };
        assert_eq!(tally.note(&other), Noted::New);
        assert_eq!(tally.repeated(), 1);
        assert!(!tally.is_full());
    }

    #[test]
    fn decisions_and_text_of_a_run_are_limited() {
        let tally = Tally::default();
        for at in 0..MAX_DECISIONS {
            assert_eq!(tally.note(&decision(&format!("/{at}"), Verdict::Refused)), Noted::New);
        }
        assert_eq!(tally.note(&decision("/more", Verdict::Allowed)), Noted::Full);
        assert!(tally.is_full());
        // Decisions that were logged before are still counted.
        assert_eq!(tally.note(&decision("/0", Verdict::Refused)), Noted::Repeated);

        // Each of these characters takes 12 bytes.
        let tally = Tally::default();
        let long = "\u{1f600}".repeat(2000);
        let noted = (0..).take_while(|at| {
            tally.note(&decision(&format!("{at}{long}"), Verdict::Allowed)) == Noted::New
        });
        let lines = noted.count() as u64;
        assert!((600..=MAX_TEXT_SIZE / 12_000 + 1).contains(&lines), "{lines}");
        assert_eq!(tally.note(&decision("/a", Verdict::Allowed)), Noted::Full);
    }

    #[test]
    fn text_length_is_measured_as_written() {
        for text in ["a b", "\"\\", "\u{1}\n\u{7f}", "\u{e4}\u{202e}\u{1f600}"] {
            let with = |text: &str| {
                let line = super::super::line(
                    &Decision { resource: text, ..decision("", Verdict::Allowed) },
                    std::time::SystemTime::UNIX_EPOCH,
                );
                line.len() as u64
            };
            // JSON has shorter forms of some control characters.
            let (found, written) = (written_len(text), with(text) - with(""));
            assert!(found >= written && found <= written + 12, "{text:?}: {found}, {written}");
        }
    }
}
