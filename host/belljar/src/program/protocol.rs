//! The messages between the supervisor and the process of a program. Bytes go through a shared
//! buffer. Each side must treat the other's messages as untrusted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wasi::{AtName, Below, Spent, Stream};
use crate::sandbox::Failure;
use belljar_policy::{NetworkGrant, Peer, Policy, Program, Protocol, Quotas};

/// A granted file or folder. Its descriptor comes with the message, before the process is confined.
#[derive(Serialize, Deserialize)]
pub(super) struct FileMessage {
    pub(super) guest: String,
    pub(super) write: bool,
}

/// Commands to a confined process, in this order.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// Load the code from sealed memory. It and the buffer come with the message.
    Load,
    /// Run on the inputs in the buffer, which have this many bytes. [`About`] comes with the
    /// message, in sealed memory.
    Run(u64),
}

/// The rest of a run's settings, as JSON in sealed memory: an environment may be too long for a
/// message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) program: Program,
    pub(super) arguments: Vec<String>,
    pub(super) network: Vec<NetworkGrant>,
    pub(super) quotas: Quotas,
}

impl About {
    pub(super) fn new(policy: &Policy, arguments: &[String]) -> About {
        About {
            program: policy.program.clone().unwrap_or_default(),
            arguments: arguments.to_vec(),
            network: policy.network.clone(),
            quotas: policy.quotas.clone(),
        }
    }
}

/// Messages from the process.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The program is loaded, or not.
    Loaded(Result<(), NotLoaded>),
    /// A request of the program, which waits for the answer.
    Asks(Ask),
    /// The program has printed a line.
    Prints(Stream, String),
    /// A decision of the program's own process. If `waits`, it takes effect only after
    /// [`Answered::Noted`].
    Decided {
        resource: String,
        access: String,
        allowed: bool,
        rule: String,
        #[serde(default)]
        waits: bool,
    },
    /// The run is over: the outputs are in the buffer, and have this many bytes.
    Answers(Result<(u64, Spent), Unanswered>),
}

/// Why a program cannot be run at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum NotLoaded {
    /// The program is invalid. Untrusted text.
    Refused(String),
    Failed(Failure),
}

/// Why a run has no outputs. Untrusted text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Unanswered {
    /// The program returned an error.
    GaveUp(String),
    Failed(Failure),
}

/// A request of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A model by its name.
    Named(String),
    /// The model in the buffer, which has this many bytes.
    Brought(u64),
    /// A run of a model with this number, on tensors in the buffer, which have this many bytes.
    Compute(u32, u64),
    /// A connection.
    Connect(Peer, u16, Protocol),
    /// A check of a name that it wants to remove, move or replace.
    Look(Below),
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) answer: Answered,
    /// The part of its time that does not count as the program's.
    pub(super) credit: Duration,
}

/// The result of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answered {
    /// The model's number.
    Model(u32),
    /// Outputs in the buffer, which have this many bytes.
    Computed(u64),
    /// A connection, which comes with the message.
    Connected,
    /// The result of the check of a name.
    Seen(AtName),
    /// The decision is logged.
    Noted,
    /// The request was refused, or failed.
    Refused(Denied),
}

/// Why a request was refused or failed, as reported to the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Denied {
    pub(super) code: Code,
    pub(super) text: String,
}

/// The kind of a refusal or failure: an error code of `wasi:nn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Code {
    InvalidArgument,
    NotFound,
    RuntimeError,
    Security,
    TooLarge,
    UnsupportedOperation,
}

impl Denied {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Denied {
        Denied { code, text: text.into() }
    }
}

/// Maximum length of a text in a message, in characters, which may take twelve bytes each there.
const MAX_TEXT: usize = 4096;

/// Cuts a text to the maximum length of a message.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
