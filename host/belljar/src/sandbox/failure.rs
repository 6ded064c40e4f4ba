//! The ways in which a call into a sandbox can fail.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use belljar_confine::ended::WorkerEnd;
use belljar_confine::layers::MissingLayer;

/// A limit that was exceeded. The message names the policy key that sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Limit {
    /// The sandbox asked for more linear memory.
    #[error("it needs more than {limit} bytes of memory (`limits.memory`)")]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The stack of the WebAssembly code is exhausted.
    #[error("it needs more than {limit} bytes of stack (`limits.stack`)")]
    Stack {
        /// The limit in bytes.
        limit: u64,
    },
    /// The stack that the sandboxed runner keeps in its own memory is exhausted. No policy key sets
    /// its size.
    #[error("its nesting is too deep for the sandboxed runner's own stack of {limit} bytes")]
    GuestStack {
        /// The limit in bytes.
        limit: u64,
    },
    /// Loading, describing or optimising took too long.
    #[error("preparing it took longer than {limit:?} (`limits.prepare-time`)")]
    PrepareTime {
        /// The limit.
        limit: Duration,
    },
    /// A run took too long.
    #[error("the run took longer than {limit:?} (`limits.run-time`)")]
    RunTime {
        /// The limit.
        limit: Duration,
    },
    /// The model is too large.
    #[error("it is larger than {limit} bytes (`limits.model-size`)")]
    ModelSize {
        /// The limit in bytes.
        limit: u64,
    },
    /// The inputs are too large, all together.
    #[error("its inputs have {found} bytes; the limit is {limit} (`limits.input-size`)")]
    InputSize {
        /// Bytes found.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The outputs are too large, all together.
    #[error("its outputs have {found} bytes; the limit is {limit} (`limits.output-size`)")]
    OutputSize {
        /// Bytes found.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A guest program passed too much data in one call.
    #[error(
        "it passes more than {limit} bytes at once, the larger of `limits.input-size` and \
         `limits.output-size`"
    )]
    Crossing {
        /// The limit in bytes.
        limit: u64,
    },
    /// The sandbox asked for more table elements than the guest ever needs.
    #[error("it needs a WebAssembly table of {found} elements; the limit is {limit}")]
    Table {
        /// Elements asked for.
        found: u64,
        /// The limit in elements.
        limit: u64,
    },
}

impl Limit {
    /// The limited resource: the policy key, if there is one.
    #[must_use]
    pub fn resource(&self) -> &'static str {
        match self {
            Limit::Memory { .. } => "limits.memory",
            Limit::Stack { .. } => "limits.stack",
            Limit::GuestStack { .. } => "guest stack",
            Limit::PrepareTime { .. } => "limits.prepare-time",
            Limit::RunTime { .. } => "limits.run-time",
            Limit::ModelSize { .. } => "limits.model-size",
            Limit::InputSize { .. } => "limits.input-size",
            Limit::OutputSize { .. } | Limit::Crossing { .. } => "limits.output-size",
            Limit::Table { .. } => "table",
        }
    }
}

/// The loss of a worker process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerLoss {
    /// How it ended.
    pub end: WorkerEnd,
    /// Whether it had received the request. A request that was not received is sent to other
    /// workers, a few times, before it fails.
    pub began: bool,
    /// Whether it had completed an earlier request, and so may have seen a model.
    pub served: bool,
}

impl fmt::Display for WorkerLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = self.end.advice();
        if self.began {
            write!(f, "no answer: while it had this request, the worker process {}; ", self.end)?;
            write!(f, "no other request is affected; {advice}")
        } else if self.served {
            write!(f, "no answer: before it took this request, the worker process {}; ", self.end)?;
            write!(f, "the workers tried before it were lost too; {advice}")
        } else {
            write!(f, "no worker process: before its first request, it {}; ", self.end)?;
            f.write_str(
                "the workers tried before it were lost too; check that the worker program can be \
                 executed, is of the same build as this one, and calls \
                 `belljar::become_worker_if_asked()` first thing in `main`",
            )
        }
    }
}

/// Why a call has no answer. All text in it may come from the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Failure {
    /// A limit was exceeded.
    #[error("{0}")]
    Limit(Limit),
    /// The guest panicked.
    #[error("the sandboxed runner panicked: {0}")]
    Panicked(String),
    /// The guest trapped.
    #[error("the sandbox trapped: {0}")]
    Trapped(String),
    /// The sandbox violated its interface.
    #[error("the sandbox violated its interface: {0}")]
    Protocol(String),
    /// A layer of the worker's confinement could not be applied.
    #[error("{0}")]
    Unprotected(MissingLayer),
    /// The worker process was lost. Only the supervisor creates this; it is not serialized, so a
    /// worker cannot claim it.
    #[serde(skip)]
    #[error("{0}")]
    Lost(WorkerLoss),
    /// An operation of the host failed.
    #[error("{0}")]
    Host(String),
}
