//! Why a command failed: the library's errors, and those of the command line itself.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::{dims, limit};
use belljar::CodeCacheError;
use belljar::{DimError, Error, ErrorKind};
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
    /// Texts are already escaped.
    Usage(String),
    InputTooLarge(String),
    /// Another limit of the policy.
    Limit(String),
    Output(io::Error),
    /// A file could not be written.
    Write(String),
    Refused(String),
    Failed(String),
}

impl Failure {
    /// A mistake in the command line or in a file. `text` is printed unchanged: escape untrusted
    /// parts.
    pub(super) fn usage(text: impl Into<String>) -> Failure {
        Failure { what: What::Usage(text.into()), hint: None }
    }

    /// A policy does not meet the request. `text` is printed unchanged: escape untrusted parts.
    pub(super) fn refused(text: impl Into<String>) -> Failure {
        Failure { what: What::Refused(text.into()), hint: None }
    }

    /// Any other error. `text` is printed unchanged: escape untrusted parts.
    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure { what: What::Failed(text.into()), hint: None }
    }

    /// A limit of the policy was exceeded, and the decision is already logged. `text` is printed
    /// unchanged: escape untrusted parts.
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
        failure.hint("choose another path, or use --force to replace a file")
    }

    /// Reading a file of tensors failed.
    pub(super) fn tensor(source: &str, err: &TensorError) -> Failure {
        let text = format!("{source}: {}", Escaped::new(&err.to_string()));
        let what = match err {
            TensorError::TooLarge { .. } => What::InputTooLarge(text),
            _ => What::Usage(text),
        };
        let hint = matches!(what, What::InputTooLarge(_))
            .then(|| "raise `limits.input-size` in the policy".to_owned());
        Failure { what, hint }
    }

    /// Adds a hint to an exceeded limit: where `policy` sets it, or that it has its default.
    pub(super) fn under(self, policy: Option<&Path>) -> Failure {
        let hint = match &self.what {
            What::Library(err) if self.hint.is_none() => match err.kind() {
                ErrorKind::Limit(limit) => limit::hint(limit, policy),
                _ => return self,
            },
            What::InputTooLarge(_) => limit::where_it_is_set("limits.input-size", policy),
            _ => return self,
        };
        self.hint(hint)
    }

    /// The error text, if the model is refused because of the model itself or of a limit.
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

    /// Whether the reader of standard output closed the pipe, which is not an error.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(&self.what, What::Output(err) if err.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(super) fn hint_text(&self) -> Option<&str> {
        let library = |err: &Error| match err.kind() {
            ErrorKind::Limit(limit) if !limit.resource().starts_with("limits.") => {
                Some(limit::NO_POLICY)
            }
            ErrorKind::Limit(_) => Some("raise it in a policy: see `belljar new-policy --help`"),
            ErrorKind::Pin { .. } => Some("`belljar new-policy` writes a policy for this model"),
            ErrorKind::Refused(Refused::NoPin { .. }) => {
                Some("`belljar new-policy` writes a policy that pins the model")
            }
            ErrorKind::FilePin { .. } => Some(
                "if you trust the new content, `belljar new-policy` writes grants with the \
                 current SHA-256 of each file",
            ),
            ErrorKind::Refused(Refused::NoFilePin { .. }) => {
                Some("`belljar new-policy` writes grants with the SHA-256 of each file")
            }
            ErrorKind::Refused(Refused::ForProgram) => {
                Some("use a policy for the model; `belljar new-policy` writes one")
            }
            ErrorKind::Refused(Refused::ForModel) => Some(NEEDS_PROGRAM),
            ErrorKind::Refused(_) => {
                Some("reduce what the policy requests; `belljar policy check` shows the excess")
            }
            ErrorKind::Unprotected(_) | ErrorKind::Code(CodeCacheError::Unprotected(_)) => Some(
                "`belljar doctor` shows what this machine lacks; a policy with \
                 `confinement = \"best-effort\"` runs without it",
            ),
            ErrorKind::Input { .. } => Some("`belljar inspect` shows what the model declares"),
            ErrorKind::InputDim { .. } => {
                Some("--dim fixes this dimension: give an input of that size, or another --dim")
            }
            ErrorKind::Dim(DimError::Unknown { .. }) => Some(dims::WITHOUT_A_NAME),
            ErrorKind::Dim(DimError::Excluded { .. }) => {
                Some("give --dim a size that the policy allows, or change the policy")
            }
            ErrorKind::Dim(_) => Some("correct --dim NAME=N"),
            _ => None,
        };
        match (&self.hint, &self.what) {
            (Some(hint), _) => Some(hint),
            (None, What::Library(err)) => library(err).or_else(|| scarce(&err.to_string())),
            (None, What::Output(err)) if err.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                Some("open standard output: redirect it to a terminal, a file or /dev/null")
            }
            (None, _) => scarce(&self.to_string()),
        }
    }
}

/// What to do if a system resource ran out and the message itself gives no advice.
fn scarce(text: &str) -> Option<&'static str> {
    let says = |errno: Errno| text.contains(&format!("(os error {})", errno.raw_os_error()));
    if text.contains("ulimit") {
        None
    } else if says(Errno::MFILE) {
        Some("raise the limit on open files (`ulimit -n`): 64 is enough for one model")
    } else if says(Errno::NFILE) {
        Some("the whole machine has too many files open: raise fs.file-max")
    } else if says(Errno::NOMEM) {
        Some(
            "raise the limit on address space (`ulimit -v`): a sandbox reserves several GiB, but \
             uses less memory; if there is no such limit, the machine is short of memory",
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
            What::Output(err) => write!(f, "the result could not be printed: {err}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        Failure { what: What::Library(err), hint: None }
    }
}

/// What to do if a guest program is run under a policy without a [program] table.
pub(super) const NEEDS_PROGRAM: &str = "write a policy with a [program] table, which may be empty, \
    and its models in [[models]]; `belljar new-policy PROGRAM` writes a template";

/// A path, escaped for printing.
pub(super) fn shown(path: &Path) -> String {
    Escaped::new(&path.to_string_lossy()).to_string()
}
