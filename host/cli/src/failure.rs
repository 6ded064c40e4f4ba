//! Why a command failed: the library's errors, and those of the command line itself.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::limit;
use belljar::CodeCacheError;
use belljar::{Error, ErrorKind};
use belljar_policy::Refused;
use belljar_tensor::TensorError;
use belljar_text::Escaped;

/// A failure, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    what: What,
    hint: Option<String>,
}

#[derive(Debug)]
enum What {
    Library(Error),
    /// Ready to be shown.
    Usage(String),
    InputTooLarge(String),
    /// Another limit of the policy. Ready to be shown.
    Limit(String),
    Output(io::Error),
    /// A file that could not be written.
    Write(String),
    /// Ready to be shown.
    Refused(String),
    /// Ready to be shown.
    Failed(String),
}

impl Failure {
    /// Something that the person typing can mend. `text` is shown as it is: escape what is not
    /// ours.
    pub(super) fn usage(text: impl Into<String>) -> Failure {
        Failure { what: What::Usage(text.into()), hint: None }
    }

    /// A policy is not what was asked for. `text` is shown as it is: escape what is not ours.
    pub(super) fn refused(text: impl Into<String>) -> Failure {
        Failure { what: What::Refused(text.into()), hint: None }
    }

    /// Something else is wrong. `text` is shown as it is: escape what is not ours.
    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure { what: What::Failed(text.into()), hint: None }
    }

    /// A limit of the policy was hit, which was noted where it was found. `text` is shown as it is:
    /// escape what is not ours.
    pub(super) fn limit(text: impl Into<String>) -> Failure {
        Failure { what: What::Limit(text.into()), hint: None }
    }

    /// Writing to standard output failed.
    pub(super) fn output(err: io::Error) -> Failure {
        Failure { what: What::Output(err), hint: None }
    }

    /// Writing a file failed.
    pub(super) fn write(path: &Path, err: &dyn fmt::Display) -> Failure {
        let what = What::Write(format!("{}: {err}", shown(path)));
        let failure = Failure { what, hint: None };
        failure.hint("choose another place, or --force to replace a file")
    }

    /// Reading a file of tensors failed.
    pub(super) fn tensor(source: &str, err: &TensorError) -> Failure {
        let text = format!("{source}: {}", Escaped::new(&err.to_string()));
        let what = match err {
            TensorError::TooLarge { .. } => What::InputTooLarge(text),
            _ => What::Usage(text),
        };
        let hint = matches!(what, What::InputTooLarge(_))
            .then(|| "raise `limits.input-size` in a policy".to_owned());
        Failure { what, hint }
    }

    /// The same under this policy, or without one. A limit that was hit gets a hint that says where it
    /// stands.
    pub(super) fn under(self, policy: Option<&Path>) -> Failure {
        let hint = match &self.what {
            What::Library(err) if self.hint.is_none() => match err.kind() {
                ErrorKind::Limit(limit) => limit::hint(limit, policy),
                _ => return self,
            },
            What::InputTooLarge(_) => limit::where_it_stands("limits.input-size", policy),
            _ => return self,
        };
        self.hint(hint)
    }

    /// Why the model is refused, in the words of its error, if it is the model's fault or that of a
    /// limit.
    pub(super) fn refusal(&self) -> Option<String> {
        match &self.what {
            What::Library(err) => match err.kind() {
                kind @ (ErrorKind::Model(_) | ErrorKind::Limit(_)) => Some(kind.to_string()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an input is not acceptable.
    pub(super) fn is_of_input(&self) -> bool {
        matches!(&self.what, What::Library(err) if matches!(err.kind(), ErrorKind::Input { .. }))
    }

    /// Whether writing to standard output failed.
    pub(super) fn is_of_output(&self) -> bool {
        matches!(self.what, What::Output(_))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn exit_code(&self) -> u8 {
        match &self.what {
            What::Library(err) => err.exit_code(),
            What::Usage(_) => 2,
            What::Refused(_) => 3,
            What::InputTooLarge(_) | What::Limit(_) => 5,
            What::Output(_) | What::Write(_) | What::Failed(_) => 1,
        }
    }

    /// Whether a file is larger than the policy allows.
    pub(super) fn is_limit(&self) -> bool {
        match &self.what {
            What::Library(err) => matches!(err.kind(), ErrorKind::Limit(_)),
            What::InputTooLarge(_) => true,
            _ => false,
        }
    }

    /// Whether the reader of our output has left, which is no error.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(&self.what, What::Output(err) if err.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(super) fn hint_text(&self) -> Option<&str> {
        let library = |err: &Error| match err.kind() {
            ErrorKind::Limit(limit) if !limit.resource().starts_with("limits.") => {
                Some(limit::NO_POLICY)
            }
            ErrorKind::Limit(_) => Some("a policy can raise it: see `belljar new-policy --help`"),
            ErrorKind::Pin { .. } => Some("`belljar new-policy` writes a policy for this model"),
            ErrorKind::Refused(Refused::NoPin { .. }) => {
                Some("`belljar new-policy` writes a policy that pins the model")
            }
            ErrorKind::FilePin { .. } => {
                Some("`belljar new-policy` writes grants with the SHA-256 of the files as they are")
            }
            ErrorKind::Refused(Refused::NoFilePin { .. }) => {
                Some("`belljar new-policy` writes grants with the SHA-256 of each file")
            }
            ErrorKind::Refused(Refused::ForProgram) => {
                Some("name a policy for the model; `belljar new-policy` writes one")
            }
            ErrorKind::Refused(Refused::ForModel) => Some(NEEDS_PROGRAM),
            ErrorKind::Refused(_) => {
                Some("ask for less in the policy; `belljar policy check` says what is too much")
            }
            ErrorKind::Unprotected(_) | ErrorKind::Code(CodeCacheError::Unprotected(_)) => Some(
                "`belljar doctor` says what this machine lacks; a policy with \
                 `confinement = \"best-effort\"` does without it",
            ),
            ErrorKind::Input { .. } => Some("`belljar inspect` shows what the model declares"),
            _ => None,
        };
        match (&self.hint, &self.what) {
            (Some(hint), _) => Some(hint),
            (None, What::Library(err)) => library(err).or_else(|| scarce(&err.to_string())),
            (None, What::Output(err)) if err.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                Some("start it with a standard output: a terminal, a file, or /dev/null")
            }
            (None, _) => scarce(&self.to_string()),
        }
    }
}

/// What to do where the system has too few of something, and the message does not say it.
fn scarce(text: &str) -> Option<&'static str> {
    let says = |errno: Errno| text.contains(&format!("(os error {})", errno.raw_os_error()));
    if text.contains("ulimit") {
        None
    } else if says(Errno::MFILE) {
        Some("raise the limit on open files (`ulimit -n`): 64 are enough for one model")
    } else if says(Errno::NFILE) {
        Some("the whole machine has too many files open: raise fs.file-max")
    } else if says(Errno::NOMEM) {
        Some(
            "raise the limit on address space (`ulimit -v`), of which a sandbox reserves some GiB \
             without using as much memory; without such a limit, the machine is short of memory",
        )
    } else {
        None
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Library(err) => err.fmt(f),
            What::Usage(text)
            | What::InputTooLarge(text)
            | What::Limit(text)
            | What::Write(text)
            | What::Refused(text)
            | What::Failed(text) => f.write_str(text),
            What::Output(err) => write!(f, "the answer could not be printed: {err}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        Failure { what: What::Library(err), hint: None }
    }
}

/// What to do when a guest program is to run under a policy that is for none.
pub(super) const NEEDS_PROGRAM: &str = "write a policy with a [program] table, which may be empty, and \
    its models in [[models]]; `belljar new-policy PROGRAM` begins one";

/// A path as it may be printed.
pub(super) fn shown(path: &Path) -> String {
    Escaped::new(&path.to_string_lossy()).to_string()
}
