//! Why a command failed: the library's errors, and those of the command line itself.

use std::fmt;
use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::policy::Refused;
use crate::sandbox::CodeCacheError;
use crate::tensor::TensorError;
use crate::text::Hostile;

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
        let text = format!("{source}: {}", Hostile::new(&err.to_string()));
        let what = match err {
            TensorError::TooLarge { .. } => What::InputTooLarge(text),
            _ => What::Usage(text),
        };
        let hint = matches!(what, What::InputTooLarge(_))
            .then(|| "raise `limits.input-size` in a policy".to_owned());
        Failure { what, hint }
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
            What::InputTooLarge(_) => 5,
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
            ErrorKind::Limit(_) => Some("a policy can raise it: see `belljar new-policy --help`"),
            ErrorKind::Pin { .. } => Some("`belljar new-policy` writes a policy for this model"),
            ErrorKind::Refused(Refused::NoPin { .. }) => {
                Some("`belljar new-policy` writes a policy that pins the model")
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
            (None, What::Library(err)) => library(err),
            (None, _) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Library(err) => err.fmt(f),
            What::Usage(text)
            | What::InputTooLarge(text)
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
    Hostile::new(&path.to_string_lossy()).to_string()
}
