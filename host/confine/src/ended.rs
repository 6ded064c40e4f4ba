//! How a worker process ended, with messages for users.

use std::fmt;

use rustix::process::Signal;

use belljar_text::Escaped;

/// How a worker process ended unexpectedly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEnd {
    /// It was killed by the signal of this number.
    Signal(i32),
    /// It exited with this code.
    Exit(i32),
    /// The kernel killed it because memory ran out: the machine's, or that of its control group.
    OutOfMemory {
        /// Whether the kernel's count of such kills confirms it. Where the kernel shows no count, a
        /// SIGKILL that the supervisor did not send is assumed to be one.
        counted: bool,
    },
    /// It closed its channel, kept running, and was killed.
    HungUp,
    /// It sent an invalid message, for this reason, and was killed.
    ProtocolViolation(String),
    /// The system does not report how it ended.
    Unknown,
}

/// Signals with an explanation.
const SIGNALS: [(Signal, &str, &str); 10] = [
    // A confined process that runs out of memory may be unable to raise SIGABRT, and ends so.
    (Signal::SEGV, "SIGSEGV", "it crashed, or exceeded its memory limit"),
    (Signal::BUS, "SIGBUS", "it crashed"),
    (Signal::ILL, "SIGILL", "it crashed"),
    (Signal::FPE, "SIGFPE", "it crashed"),
    (Signal::TRAP, "SIGTRAP", "it crashed"),
    (Signal::ABORT, "SIGABRT", "it aborted"),
    (Signal::SYS, "SIGSYS", "it made a system call that its role does not allow"),
    (
        Signal::KILL,
        "SIGKILL",
        "Belljar did not send it, and the kernel counted no out-of-memory kill, so an \
         administrator or another program sent it",
    ),
    (Signal::XCPU, "SIGXCPU", "it reached its limit of processor time"),
    (Signal::TERM, "SIGTERM", "an administrator or another program ended it"),
];

impl WorkerEnd {
    pub(super) fn new(signal: Option<i32>, exit_code: Option<i32>) -> WorkerEnd {
        match (signal, exit_code) {
            (Some(signal), _) => WorkerEnd::Signal(signal),
            (None, Some(code)) => WorkerEnd::Exit(code),
            (None, None) => WorkerEnd::Unknown,
        }
    }

    /// Whether it was killed by SIGKILL: by the kernel, because memory ran out, or by a user with
    /// the right to.
    pub fn is_kill(&self) -> bool {
        *self == WorkerEnd::Signal(Signal::KILL.as_raw())
    }

    /// Whether it was killed because memory ran out.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, WorkerEnd::OutOfMemory { .. })
    }

    /// What the user can do about it.
    pub fn advice(&self) -> &'static str {
        let is = |signal: Signal| *self == WorkerEnd::Signal(signal.as_raw());
        if self.is_out_of_memory() {
            "send fewer or smaller requests at a time, lower `limits.memory` in the policy, or give \
             the machine or the control group (memory.max) more memory"
        } else if self.is_kill() {
            "find out what killed it (a service manager, a memory daemon such as systemd-oomd or \
             earlyoom, a person), and send the request again"
        } else if is(Signal::SYS)
            || matches!(self, WorkerEnd::HungUp | WorkerEnd::ProtocolViolation(_))
        {
            "do not trust the model until the cause is known: this may be an attempt to escape \
             the sandbox; if it is not, it is a bug in Belljar, so report it"
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
                write!(f, "exited unexpectedly with exit code {code}")
            }
            WorkerEnd::OutOfMemory { counted: true } => f.write_str(
                "was killed by the kernel because memory ran out (the machine's, or that of the \
                 control group)",
            ),
            WorkerEnd::OutOfMemory { counted: false } => f.write_str(
                "was killed by SIGKILL, most likely by the kernel because memory ran out",
            ),
            WorkerEnd::HungUp => f.write_str("closed its channel, kept running, and was killed"),
            WorkerEnd::ProtocolViolation(why) => {
                write!(f, "violated the protocol and was killed: {}", Escaped::cut(why, 200))
            }
            WorkerEnd::Unknown => f.write_str("ended, and the system does not say how"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_signal_and_its_cause() {
        let text = |signal: Signal| WorkerEnd::new(Some(signal.as_raw()), None).to_string();
        assert_eq!(
            text(Signal::SEGV),
            "was killed by SIGSEGV: it crashed, or exceeded its memory limit"
        );
        let sys = "was killed by SIGSYS: it made a system call that its role does not allow";
        assert_eq!(text(Signal::SYS), sys);
        assert!(text(Signal::KILL).ends_with("another program sent it"));
        assert_eq!(WorkerEnd::new(Some(64), None).to_string(), "was killed by signal 64");
        assert!(WorkerEnd::new(None, Some(3)).to_string().contains("exit code 3"));
        for counted in [true, false] {
            let end = WorkerEnd::OutOfMemory { counted };
            assert!(end.to_string().contains("memory ran out"), "{end}");
            assert!(end.advice().contains("limits.memory"));
        }
        for (signal, ..) in SIGNALS {
            assert!(!WorkerEnd::Signal(signal.as_raw()).advice().is_empty());
        }
        let violation = WorkerEnd::ProtocolViolation("\x1b[2J".into()).to_string();
        assert!(violation.chars().all(|c| !c.is_control()), "{violation}");
    }
}
