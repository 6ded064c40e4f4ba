//! What one run of a guest program has written to the decision log: how much, and what.
//!
//! A program can ask for the same thing, or for ever other things, as long as it runs. The same
//! decision has one line in a run, and is counted after that. A run that causes more different
//! decisions than the log may take is ended: what is not written down does not happen.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Decision, written_len};

/// Most different decisions of one run.
pub(crate) const MOST_DECISIONS: usize = 100_000;

/// Most bytes of the texts (`resource`, `access`, `rule`) in all lines of one run. The rest of a line
/// has some 260.
pub(crate) const MOST_TEXT: u64 = 8 << 20;

/// The decisions of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Hashes of the decisions that have a line. A program does not know the key of the hash.
    written: HashSet<u64>,
    key: RandomState,
    text: u64,
    repeated: u64,
    full: bool,
}

/// What is to be done about a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is written down.
    New,
    /// It has a line already.
    Repeated,
    /// The run has had all the lines that it may have, and ends.
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
        if counts.written.len() >= MOST_DECISIONS || counts.text.saturating_add(text) > MOST_TEXT {
            counts.full = true;
        }
        if counts.full {
            return Noted::Full;
        }
        counts.text += text;
        counts.written.insert(hash);
        Noted::New
    }

    /// Whether there was a decision for which there was no line left.
    pub(crate) fn is_full(&self) -> bool {
        self.counts().full
    }

    /// How many decisions had a line already.
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
    fn the_same_decision_is_counted_and_written_once() {
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
    fn a_run_has_so_many_decisions_and_so_much_text() {
        let tally = Tally::default();
        for at in 0..MOST_DECISIONS {
            assert_eq!(tally.note(&decision(&format!("/{at}"), Verdict::Refused)), Noted::New);
        }
        assert_eq!(tally.note(&decision("/more", Verdict::Allowed)), Noted::Full);
        assert!(tally.is_full());
        // What has a line has one.
        assert_eq!(tally.note(&decision("/0", Verdict::Refused)), Noted::Repeated);

        // Each of these takes 12 bytes a character.
        let tally = Tally::default();
        let long = "\u{1f600}".repeat(2000);
        let noted = (0..).take_while(|at| {
            tally.note(&decision(&format!("{at}{long}"), Verdict::Allowed)) == Noted::New
        });
        let lines = noted.count() as u64;
        assert!((600..=MOST_TEXT / 12_000 + 1).contains(&lines), "{lines}");
        assert_eq!(tally.note(&decision("/a", Verdict::Allowed)), Noted::Full);
    }

    #[test]
    fn texts_are_measured_as_they_are_written() {
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
