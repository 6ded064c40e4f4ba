//! What a run leaves behind besides its outputs: printed lines and logged decisions, both counted
//! and within the run's time.

use super::{Broker, GRACE, Reason};
use crate::audit::tally::Noted;
use crate::audit::{Decision, Verdict};
use crate::error::ErrorKind;
use crate::host::{Event, too_many_decisions};
use crate::program::task_thread::Undone;
use crate::program::wasi::{Asked, Stream};

/// Requests that a stub answers if they are not granted, and the key that grants each. Printing is
/// omitted, because all programs request it.
const STUBS: [(&str, &str); 5] = [
    ("folders", "[[filesystem]]"),
    ("program.environment", "[program] environment"),
    ("program.arguments", "[program] arguments"),
    ("program.clocks", "[program] clocks"),
    ("program.randomness", "[program] randomness"),
];

impl Broker {
    /// Forwards a line that the program printed.
    pub(in crate::program) fn print(&mut self, stream: Stream, line: &str) {
        let granted = self.policy.program.as_ref().is_some_and(|program| match stream {
            Stream::Out => program.stdout,
            Stream::Err => program.stderr,
        });
        // An empty line counts too.
        let len = line.len() as u64 + 1;
        match self.to_print.checked_sub(len) {
            Some(left) if granted => {
                self.to_print = left;
                self.emit(stream, line.to_owned());
            }
            _ => self.unprinted = self.unprinted.saturating_add(1),
        }
    }

    /// Sends a line to the event listener, which may be slow.
    fn emit(&mut self, stream: Stream, line: String) {
        let (program, error) = (self.label.clone(), stream == Stream::Err);
        let host = self.host.clone();
        let done = self.task_thread.within(self.context(self.deadline() + GRACE), move || {
            (host.inner.listener)(Event::Printed { program, error, line });
        });
        if let Err(undone) = done {
            let kind = self.undone(undone);
            self.broken.get_or_insert(kind);
        }
    }

    /// The error of a run if a printed line or a log entry was not accepted.
    fn undone(&mut self, undone: Undone) -> ErrorKind {
        match undone {
            Undone::Late => {
                self.blocked = true;
                self.out_of_time()
            }
            Undone::NoThread(why) => ErrorKind::Host(why),
        }
    }

    /// Logs a decision of the program's process.
    pub(in crate::program) fn decided(&mut self, asked: &Asked<'_>) {
        let Asked { resource, access, allowed, rule } = *asked;
        // A request that a stub answers is seldom the cause of a failure: ordinary programs request
        // clocks and the like without needing them.
        let stub = resource.starts_with("program.") || resource == "folders";
        if !allowed && stub {
            let lacks = STUBS.iter().find(|(of, _)| *of == resource).map(|(_, lacks)| *lacks);
            if let Some(lacks) = lacks.filter(|lacks| !self.lacks.contains(lacks)) {
                self.lacks.push(lacks);
            }
        }
        if !allowed && !stub {
            let missing = format!("{access} {resource}: {rule}");
            self.failure = Some(Reason::New(self.error(ErrorKind::NotGranted(missing))));
        }
        let verdict = if allowed { Verdict::Allowed } else { Verdict::Refused };
        self.decide(resource, access, verdict, rule);
    }

    /// Ends the run, and reports unprinted lines and repeated decisions.
    pub(in crate::program) fn end(&mut self) {
        if self.blocked {
            return;
        }
        let unprinted = std::mem::take(&mut self.unprinted);
        if unprinted > 0 {
            let key = "quotas.bytes-written";
            let line = format!("({unprinted} more lines were not printed: `{key}`)");
            let program = self.label.clone();
            (self.host.inner.listener)(Event::Printed { program, error: true, line });
        }
        let repeated = self.tally.repeated();
        if repeated > 0 {
            let rule = format!("{repeated} decisions of this run repeat one above");
            let (resource, access, verdict) = ("decisions", "repeat", Verdict::Allowed);
            let decision =
                Decision { subject: self.subject, resource, access, verdict, rule: &rule };
            // This entry allows nothing, so its failure is ignored.
            let _ = self.host.inner.write_down(&decision);
        }
    }

    /// Whether the decision log or the listener did not accept an entry in time. Then nothing more
    /// is written.
    pub(in crate::program) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Logs a decision. If an allowed request cannot be logged, the run ends.
    pub(super) fn decide(&mut self, resource: &str, access: &str, verdict: Verdict, rule: &str) {
        let decision = Decision { subject: self.subject, resource, access, verdict, rule };
        match self.tally.note(&decision) {
            Noted::Repeated => {}
            Noted::Full => self.too_many_decisions(),
            Noted::New => {
                if let (Err(kind), Verdict::Allowed) = (self.write_down(&decision), verdict) {
                    self.broken.get_or_insert(kind);
                }
            }
        }
    }

    /// Ends the run, with a last entry in the log.
    pub(super) fn too_many_decisions(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let kind = too_many_decisions();
        let rule = kind.to_string();
        self.broken = Some(kind);
        let (resource, access, verdict) = ("decisions", "use more", Verdict::Refused);
        let decision = Decision { subject: self.subject, resource, access, verdict, rule: &rule };
        // A refusal holds even if it cannot be logged.
        let _ = self.write_down(&decision);
    }

    /// Writes a counted decision to the log before the run's time is up: the log may be a pipe
    /// without a reader.
    fn write_down(&mut self, decision: &Decision<'_>) -> Result<(), ErrorKind> {
        if !self.host.inner.wants_decisions() {
            return Ok(());
        }
        let Decision { subject, verdict, .. } = *decision;
        let texts = [decision.resource, decision.access, decision.rule].map(str::to_owned);
        let host = self.host.clone();
        let done = self.task_thread.within(self.context(self.deadline() + GRACE), move || {
            let [resource, access, rule] = &texts;
            host.inner.write_down(&Decision { subject, resource, access, verdict, rule })
        });
        done.unwrap_or_else(|undone| Err(self.undone(undone)))
    }
}
