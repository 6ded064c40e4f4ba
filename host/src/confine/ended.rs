//! How a worker process came to its end, in words for a person.

use std::fmt;

use rustix::process::Signal;

use crate::text::Hostile;

/// How a worker process came to its end although nobody wanted it to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEnd {
    /// It was killed by the signal of this number.
    Signal(i32),
    /// It exited with this code.
    Exit(i32),
    /// It closed its channel and went on running, until it was killed.
    HungUp,
    /// What it sent was nonsense, for this reason, and it was killed.
    Nonsense(String),
    /// The system does not say.
    Unknown,
}

/// Signals that have more to tell than their name.
const SIGNALS: [(Signal, &str, &str); 10] = [
    // A confined process may not send itself the signal by which it would give up for want of memory.
    (Signal::SEGV, "SIGSEGV", "it crashed, or wanted more memory than it may have"),
    (Signal::BUS, "SIGBUS", "it crashed"),
    (Signal::ILL, "SIGILL", "it crashed"),
    (Signal::FPE, "SIGFPE", "it crashed"),
    (Signal::TRAP, "SIGTRAP", "it crashed"),
    (Signal::ABORT, "SIGABRT", "it gave up on itself"),
    (Signal::SYS, "SIGSYS", "it made a system call its role may not make"),
    (Signal::KILL, "SIGKILL", "perhaps the kernel ran out of memory"),
    (Signal::XCPU, "SIGXCPU", "it used more processor time than it may"),
    (Signal::TERM, "SIGTERM", "somebody asked it to end"),
];

impl WorkerEnd {
    pub(super) fn new(signal: Option<i32>, exit_code: Option<i32>) -> WorkerEnd {
        match (signal, exit_code) {
            (Some(signal), _) => WorkerEnd::Signal(signal),
            (None, Some(code)) => WorkerEnd::Exit(code),
            (None, None) => WorkerEnd::Unknown,
        }
    }

    /// Whether it was killed from outside with no way to defend itself: by the kernel, which ran
    /// out of memory, or by somebody with the right to.
    pub(crate) fn is_kill(&self) -> bool {
        *self == WorkerEnd::Signal(Signal::KILL.as_raw())
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        let is = |signal: Signal| *self == WorkerEnd::Signal(signal.as_raw());
        if self.is_kill() {
            "send the request again, and see that the machine has memory for as many requests at \
             a time"
        } else if is(Signal::SYS) || matches!(self, WorkerEnd::HungUp | WorkerEnd::Nonsense(_)) {
            "do not trust the model until somebody has looked into it: this is what breaking out \
             of the sandbox looks like, and otherwise it is a bug of Belljar's, so report it"
        } else {
            "send the request again; if it ends the same way, do not use the model, and report it"
        }
    }
}

/// Continues "the worker process".
impl fmt::Display for WorkerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerEnd::Signal(number) => {
                match SIGNALS.iter().find(|(signal, ..)| signal.as_raw() == *number) {
                    Some((_, name, why)) => write!(f, "was killed by {name}: {why}"),
                    None => write!(f, "was killed by signal {number}"),
                }
            }
            WorkerEnd::Exit(code) => {
                write!(f, "ended by itself with exit code {code}, which nobody had asked it to do")
            }
            WorkerEnd::HungUp => {
                f.write_str("closed its channel and went on running, until it was killed")
            }
            WorkerEnd::Nonsense(why) => {
                write!(f, "talked nonsense and was killed: {}", Hostile::cut(why, 200))
            }
            WorkerEnd::Unknown => f.write_str("ended, and the system does not say how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_name() {
        let text = |signal: Signal| WorkerEnd::new(Some(signal.as_raw()), None).to_string();
        assert_eq!(
            text(Signal::SEGV),
            "was killed by SIGSEGV: it crashed, or wanted more memory than it may have"
        );
        let sys = "was killed by SIGSYS: it made a system call its role may not make";
        assert_eq!(text(Signal::SYS), sys);
        assert!(text(Signal::KILL).ends_with("perhaps the kernel ran out of memory"));
        assert_eq!(WorkerEnd::new(Some(64), None).to_string(), "was killed by signal 64");
        assert!(WorkerEnd::new(None, Some(3)).to_string().contains("exit code 3"));
        for (signal, ..) in SIGNALS {
            assert!(!WorkerEnd::Signal(signal.as_raw()).advice().is_empty());
        }
        let nonsense = WorkerEnd::Nonsense("\x1b[2J".into()).to_string();
        assert!(nonsense.chars().all(|c| !c.is_control()), "{nonsense}");
    }
}
