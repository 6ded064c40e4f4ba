//! What the supervisor and the process of a program say to each other. Bytes go through a buffer that
//! both share; here are the words beside them. Each side takes the other's for hostile, the supervisor
//! with reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wasi::{AtName, Below, Spent, Stream};
use crate::sandbox::Failure;
use belljar_policy::{NetworkGrant, Peer, Policy, Program, Protocol, Quotas};

/// What holds for one run of a program. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ProgramLimits {
    /// All memories of the program, and what its host keeps for it.
    pub(super) memory: u64,
    /// Stack of the WebAssembly code.
    pub(super) stack: u64,
    /// Outputs, all together.
    pub(super) outputs: u64,
    /// What the program may hand over at once.
    pub(super) crossing: u64,
    /// Its own time and that of its models' runs, without what it takes to load and prepare those.
    pub(super) time: Duration,
}

impl ProgramLimits {
    pub(crate) fn stack(&self) -> u64 {
        self.stack
    }
}

/// A file or folder that is granted, which comes with the message, before the process is confined.
#[derive(Serialize, Deserialize)]
pub(super) struct FileMessage {
    pub(super) guest: String,
    pub(super) write: bool,
}

/// What a confined process is told to do, in this order.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// Load the code, sealed memory that comes with the message, and the buffer.
    Load,
    /// Run on the inputs, which are in the buffer with this many bytes. [`About`] comes with the
    /// message, as sealed memory.
    Run(u64),
}

/// What else a run is made of, as JSON in sealed memory: an environment may be too long for a message.
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

/// What the process says.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    /// The program is loaded, or not.
    Loaded(Result<(), NotLoaded>),
    /// The program asks for something, and waits.
    Asks(Ask),
    /// The program has printed a line.
    Prints(Stream, String),
    /// Something is granted or refused to it by its own process. Where that waits, the program has
    /// nothing of it before [`Answered::Noted`] comes.
    Decided {
        resource: String,
        access: String,
        allowed: bool,
        rule: String,
        #[serde(default)]
        waits: bool,
    },
    /// The run is over: the outputs are in the buffer with this many bytes.
    Answers(Result<(u64, Spent), Unanswered>),
}

/// Why a program cannot be run at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum NotLoaded {
    /// The program is not acceptable. Untrusted text.
    Refused(String),
    Failed(Failure),
}

/// Why a run has no outputs. Untrusted text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Unanswered {
    /// The program says so itself.
    GaveUp(String),
    Failed(Failure),
}

/// What a program asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A model by its name.
    Named(String),
    /// The model whose bytes are in the buffer, this many.
    Brought(u64),
    /// A run of a model that was answered before, on tensors in the buffer with this many bytes.
    Compute(u32, u64),
    /// A connection.
    Connect(Peer, u16, Protocol),
    /// What is seen at a name that it wants to remove, move or replace.
    Look(Below),
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) answer: Answered,
    /// Time that it took and that is not the program's.
    pub(super) credit: Duration,
}

/// What became of a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answered {
    /// The model's number.
    Model(u32),
    /// Outputs, in the buffer with this many bytes.
    Computed(u64),
    /// A connection, which comes with the message.
    Connected,
    /// What is seen at the name.
    Seen(AtName),
    /// The decision is written down.
    Noted,
    /// It is refused, or it failed.
    Refused(Denied),
}

/// Why a program does not get what it has asked for, in words for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Denied {
    pub(super) code: Code,
    pub(super) text: String,
}

/// What kind of refusal it is, in the terms of `wasi:nn`.
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

/// Longest text that goes into a message, in characters, which may take twelve bytes each there.
const MAX_TEXT: usize = 4096;

/// A text that fits a message.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
