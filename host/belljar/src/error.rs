//! The errors of this crate, and the exit code of the command line for each.

use std::time::Duration;

use crate::model::DimError;
use crate::sandbox::{CodeCacheError, Failure, Limit, PrivateError, WorkerLoss};
use crate::supervise::{NoWorker, Quarantined};
use crate::trust::{Digest, ModelBytesError};
use belljar_policy::{PolicyError, Refused};
use belljar_text::Escaped;

/// An error, and the model it concerns.
///
/// Its message is safe to print: everything in it that a model could have chosen is escaped.
#[derive(Debug)]
pub struct Error {
    model: Option<String>,
    kind: Box<ErrorKind>,
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.kind)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(model) = &self.model {
            write!(f, "{}: ", Escaped::new(model))?;
        }
        self.kind.fmt(f)
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A ceiling exists but cannot be used. Nothing is run.
    #[error("the operator's ceiling cannot be used: {0}")]
    Ceiling(#[source] PolicyError),
    /// The ceiling refuses the policy.
    #[error("the policy is refused: {0}")]
    Refused(#[from] Refused),
    /// The policy pins another model.
    #[error(
        "its SHA-256 is {found}, but the policy pins {pinned} (`model.sha256`); \
         this is not the model that was approved"
    )]
    Pin {
        /// Digest of the model.
        found: Digest,
        /// Digest in the policy.
        pinned: Digest,
    },
    /// The policy pins another guest program.
    #[error(
        "its SHA-256 is {found}, but the policy pins {pinned} (`program.sha256`); \
         this is not the program that was approved"
    )]
    ProgramPin {
        /// Digest of the program.
        found: Digest,
        /// Digest in the policy.
        pinned: Digest,
    },
    /// The policy pins another content for a file in which the model keeps data.
    #[error(
        "the SHA-256 of its file {} is {found}, but the policy pins {pinned} \
         (`filesystem.sha256`): this is not the file that was approved. Put the approved file back, \
         or approve this one and write its SHA-256 into the policy",
        Escaped::cut(.file, 200)
    )]
    FilePin {
        /// The path at which the model finds the file, below its own folder.
        file: String,
        /// Digest of the file's content.
        found: Digest,
        /// Digest in the policy.
        pinned: Digest,
    },
    /// A guest program asked for something that its policy does not grant, and failed.
    #[error("the policy does not grant {}", Escaped::new(.0))]
    NotGranted(String),
    /// The guest program cannot be accepted.
    #[error("the program is refused: {}", Escaped::new(.0))]
    Program(String),
    /// The model's file could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] ModelBytesError),
    /// The model cannot be accepted.
    #[error("the model is refused: {}", Escaped::new(.0))]
    Model(String),
    /// An input cannot be accepted.
    #[error("input {}: {}", Escaped::cut(.name, 100), Escaped::new(.why))]
    Input {
        /// Name of the input.
        name: String,
        /// What is wrong with it, and the model's declaration.
        why: String,
    },
    /// An input has another size than a dimension is fixed to
    /// ([`Model::with_dims`](crate::Model::with_dims)).
    #[error(
        "input {}: dimension {axis}, \"{}\", is {found}, but it is fixed to {fixed}",
        Escaped::cut(.name, 100),
        Escaped::cut(.dim, 60)
    )]
    InputDim {
        /// Name of the input.
        name: String,
        /// The dimension, from 0.
        axis: usize,
        /// The name of the dimension. Untrusted text.
        dim: String,
        /// The size that the input has.
        found: u64,
        /// The size that it must have.
        fixed: u64,
    },
    /// Dimensions cannot be fixed to the given sizes.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// A value rule of the policy does not fit the model.
    #[error("the policy's rule {key} does not fit the model: {}", Escaped::new(.why))]
    Rule {
        /// The rule, by its key in the policy.
        key: String,
        /// What does not fit.
        why: String,
    },
    /// An output violates its rule in the policy, and all outputs are withheld.
    #[error("the answer is withheld: output {}: {}", Escaped::cut(.name, 100), Escaped::new(.why))]
    Withheld {
        /// Name of the output.
        name: String,
        /// The rule it violates, and the position.
        why: String,
    },
    /// The run failed on these inputs, or its outputs violate the model's declaration.
    #[error("no answer: {}", Escaped::new(.0))]
    Run(String),
    /// A limit was hit.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// The sandbox trapped, panicked, or broke its interface.
    #[error("{}", Escaped::new(.0))]
    Sandbox(String),
    /// The worker process was lost. Other requests are not affected.
    #[error("{0}")]
    Worker(WorkerLoss),
    /// Workers of the model keep dying, so the next is not started yet.
    #[error(
        "no worker process: the last {deaths} of this model {}, and the next one starts in {} ms \
         at the earliest; send the request again then{}",
        if *.out_of_memory { "were lost, the latest because memory ran out" } else { "died" },
        .wait.as_millis(),
        if *.out_of_memory {
            ", and send fewer or smaller ones at a time, lower `limits.memory` in the policy, or \
             give the machine or the control group more memory"
        } else {
            ""
        }
    )]
    BackOff {
        /// The number of workers that have died since the last successful run.
        deaths: u32,
        /// The time until a worker is started again.
        wait: Duration,
        /// Whether the kernel killed the last of them because memory ran out.
        out_of_memory: bool,
    },
    /// Too many workers of the model have died; it is not run until an operator releases it.
    #[error("{0}")]
    Quarantined(Quarantined),
    /// The guest's native code could not be loaded or compiled.
    #[error(transparent)]
    Code(#[from] CodeCacheError),
    /// The store of prepared models could not be used.
    #[error(transparent)]
    Store(#[from] PrivateError),
    /// A required protection layer around the model's worker process is missing. No model was read.
    #[error("a protection is missing: {}", Escaped::new(.0))]
    Unprotected(String),
    /// Something in the host, or in a worker process, failed.
    #[error("{}", Escaped::new(.0))]
    Host(String),
}

impl Error {
    #[doc(hidden)]
    pub fn new(kind: impl Into<ErrorKind>) -> Error {
        Error { model: None, kind: Box::new(kind.into()) }
    }

    #[doc(hidden)]
    pub fn for_model(model: &str, kind: impl Into<ErrorKind>) -> Error {
        Error { model: Some(model.to_owned()), kind: Box::new(kind.into()) }
    }

    /// The same error with another kind.
    #[cfg(feature = "programs")]
    pub(crate) fn with(self, kind: ErrorKind) -> Error {
        Error { kind: Box::new(kind), ..self }
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The exit code of the command line for this error.
    pub fn exit_code(&self) -> u8 {
        match &*self.kind {
            ErrorKind::Host(_) => 1,
            ErrorKind::Unreadable(ModelBytesError::TooLarge { .. }) => 5,
            ErrorKind::Unreadable(_) => 2,
            ErrorKind::Policy(PolicyError::Untrusted { .. } | PolicyError::Grant { .. })
            | ErrorKind::Pin { .. }
            | ErrorKind::ProgramPin { .. }
            | ErrorKind::FilePin { .. }
            | ErrorKind::NotGranted(_)
            | ErrorKind::Ceiling(_)
            | ErrorKind::Rule { .. }
            | ErrorKind::Withheld { .. }
            | ErrorKind::Refused(_) => 3,
            ErrorKind::Dim(DimError::Excluded { .. }) => 3,
            ErrorKind::Policy(_) | ErrorKind::Dim(_) => 2,
            ErrorKind::Model(_)
            | ErrorKind::Program(_)
            | ErrorKind::Input { .. }
            | ErrorKind::InputDim { .. }
            | ErrorKind::Run(_) => 4,
            ErrorKind::Limit(_) => 5,
            ErrorKind::Sandbox(_) => 6,
            ErrorKind::Unprotected(_) => 7,
            ErrorKind::Worker(loss) if loss.began || loss.served => 6,
            ErrorKind::Worker(_) => 1,
            ErrorKind::BackOff { .. } | ErrorKind::Quarantined(_) => 6,
            ErrorKind::Code(CodeCacheError::Private(err)) | ErrorKind::Store(err)
                if err.is_open_to_others() =>
            {
                7
            }
            ErrorKind::Code(
                CodeCacheError::NotCompiled { .. } | CodeCacheError::Unprotected(_),
            ) => 7,
            ErrorKind::Code(_) | ErrorKind::Store(_) => 1,
        }
    }
}

impl From<PolicyError> for Error {
    fn from(err: PolicyError) -> Error {
        Error::new(err)
    }
}

impl From<NoWorker> for ErrorKind {
    fn from(reason: NoWorker) -> ErrorKind {
        match reason {
            NoWorker::Store(err) => ErrorKind::Store(err),
            NoWorker::BackOff { deaths, wait, out_of_memory } => {
                ErrorKind::BackOff { deaths, wait, out_of_memory }
            }
            NoWorker::Quarantined(quarantined) => ErrorKind::Quarantined(quarantined),
        }
    }
}

/// The phase of a model's life in which a failure occurred.
#[derive(Clone, Copy)]
pub(crate) enum Phase {
    Prepare,
    Run,
}

impl ErrorKind {
    /// A failure of the sandbox in the given phase.
    pub(crate) fn from_failure(failure: Failure, phase: Phase) -> ErrorKind {
        match (failure, phase) {
            (Failure::Limit(limit), _) => ErrorKind::Limit(limit),
            (Failure::Host(why), _) => ErrorKind::Host(why),
            (Failure::Unprotected(missing), _) => ErrorKind::Unprotected(missing.to_string()),
            (Failure::Lost(loss), _) => ErrorKind::Worker(loss),
            // A model that cannot even be read without a panic or a trap is refused; the sandbox
            // did its work.
            (failure @ (Failure::Panicked(_) | Failure::Trapped(_)), Phase::Prepare) => {
                ErrorKind::Model(failure.to_string())
            }
            (failure, _) => ErrorKind::Sandbox(failure.to_string()),
        }
    }
}
