//! Sandboxes: instances of the `onnx-runner` guest, each holding one model.
//!
//! A sandbox runs on a thread of this process or in a worker process. Both are called the same way:
//! a [`Call`] with a [`Payload`] and a time limit returns the guest's message as untrusted bytes,
//! or a [`Failure`], after which the sandbox must not be used again.

#[cfg(feature = "test-hooks")]
pub(crate) mod attack;
mod code_cache;
mod compile;
mod dirty_pages;
mod engine;
mod failure;
#[cfg(feature = "test-hooks")]
pub(crate) mod foreign_guest;
mod guest;
mod instance;
mod limits;
mod machine;
mod plan;
#[cfg(test)]
mod profiling_tests;
mod serve;
mod setup;
mod slot;
mod snapshot;
mod store;
pub mod support;
mod thread;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use code_cache::CodeCacheError;
pub(crate) use code_cache::{CodeCache, CodeNotice, VerifiedCode};
#[cfg(feature = "programs")]
pub(crate) use compile::CompilerThreads;
pub(crate) use compile::{Compiler, compile};
pub(crate) use engine::{Engines, Variant};
pub(crate) use failure::Failure;
pub use failure::{Limit, WorkerLoss};
pub use guest::GuestInfo;
pub(crate) use guest::GuestKind;
pub(crate) use limits::SandboxLimits;
pub use plan::PlanShapes;
pub(crate) use serve::{only, serve};
#[cfg(feature = "programs")]
pub(crate) use setup::ProgramLimits;
pub(crate) use setup::{Setup, Work, be_confined};
pub use slot::ResetMethod;
pub(crate) use snapshot::Snapshot;
pub use store::private::PrivateError;
pub(crate) use store::private::PrivateFolder;
pub(crate) use store::{SnapshotKey, StoreNotice};
pub use store::{SnapshotStore, StoredKind, StoredModel};
pub(crate) use thread::{ThreadFilter, ThreadSandbox};
#[cfg(feature = "programs")]
pub(crate) use worker::LONGEST_START;
pub(crate) use worker::{Job, Worker, WorkerSandbox};

use belljar_confine::layers::MissingLayer;
use belljar_confine::memory::{SealedBytes, SharedBuffer};

/// One of the guest's exports. The payload of `Load` and of `External` is a file, which is passed in
/// in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    Load,
    Describe,
    /// Passes a file with external data of the model.
    External,
    Prepare,
    /// Starts from the snapshot of a sandbox that has prepared the same model. It calls no export
    /// of the guest.
    Adopt,
    Run,
    /// A profiled run. Only for the guest with a clock, which accepts no other call.
    Profile,
    Kernels,
    /// Converts an image file to a tensor. The sandbox has no model.
    Picture,
    /// Makes the guest panic, because no model is known to cause a panic.
    #[cfg(test)]
    Panic,
}

impl Call {
    /// The name of the export, and whether it takes a message.
    fn export(self) -> (&'static str, bool) {
        match self {
            Call::Load => ("belljar_load", true),
            Call::Describe => ("belljar_describe", false),
            Call::External => ("belljar_external", true),
            Call::Prepare => ("belljar_prepare", true),
            Call::Adopt => ("", false),
            Call::Run => ("belljar_run", true),
            Call::Profile => ("belljar_profile", true),
            Call::Kernels => ("belljar_kernels", false),
            Call::Picture => ("belljar_picture", true),
            #[cfg(test)]
            Call::Panic => ("belljar_panic", false),
        }
    }
}

/// The data that a call passes into the sandbox.
pub(crate) enum Payload {
    Empty,
    Bytes(Vec<u8>),
    /// This many bytes at the start of a buffer that two processes share; never more than it has.
    Shared(Arc<SharedBuffer>, u64),
    Sealed(Arc<SealedBytes>),
    Snapshot(Arc<Snapshot>),
}

impl Payload {
    /// Its length in bytes, if it is a message of the guest.
    fn len(&self) -> Option<u64> {
        match self {
            Payload::Empty | Payload::Snapshot(_) => None,
            Payload::Bytes(bytes) => Some(bytes.len() as u64),
            Payload::Shared(_, len) => Some(*len),
            Payload::Sealed(sealed) => Some(sealed.len()),
        }
    }

    /// Copies its bytes from an offset on directly into linear memory.
    fn read_at(&self, memory: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            Payload::Empty | Payload::Snapshot(_) => Err(std::io::ErrorKind::Unsupported.into()),
            Payload::Bytes(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let from = from.and_then(|from| from.get(..memory.len()));
                memory.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Payload::Shared(buffer, _) => buffer.read_at(memory, offset),
            Payload::Sealed(sealed) => sealed.read_at(memory, offset),
        }
    }
}

/// The result of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The guest's message: untrusted until decoded.
    pub(crate) message: Vec<u8>,
    /// The cost of the call.
    pub(crate) cost: Cost,
    /// After `prepare`: the snapshot that other sandboxes can start from, if it can be shared.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
}

/// Resources that a call used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Size of the linear memory in bytes, which only ever grows.
    pub(crate) memory: u64,
    /// Time inside the guest.
    pub(crate) time: Duration,
    /// Time in native kernels; part of `time`.
    pub(crate) kernels: Duration,
    /// Time to create the instance of a run, in advance or at its start.
    pub(crate) instantiate: Duration,
    /// Time to reset memory after the previous run.
    pub(crate) reset: Duration,
    /// How memory is reset.
    pub(crate) method: ResetMethod,
}

/// A sandbox, wherever it runs.
pub(crate) trait Sandbox: Send {
    /// Waits until all required layers of confinement are in place. The sandbox receives no part of
    /// a model before.
    fn await_ready(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Makes one call. After a failure the sandbox is unusable.
    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure>;

    /// Takes the lines that the guest has logged since the last call of this function.
    fn take_log(&mut self) -> Vec<String>;

    /// Takes the missing layers of confinement that were not yet reported.
    fn take_missing(&mut self) -> Vec<MissingLayer> {
        Vec::new()
    }

    /// How the sandbox was lost since its last call, if it can no longer be called.
    fn loss_while_waiting(&mut self) -> Option<WorkerLoss> {
        None
    }

    /// How many runs its process has served; 0 if it has no process of its own.
    fn runs(&self) -> u32 {
        0
    }
}

/// The time limit of a call, and the policy key that sets it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct CallLimit {
    pub(crate) time: Duration,
    /// Key of the policy.
    pub(crate) key: TimeKey,
}

/// The key of a policy that sets a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TimeKey {
    Prepare,
    Run,
}

impl CallLimit {
    pub(crate) fn exceeded(self) -> Failure {
        Failure::Limit(match self.key {
            TimeKey::Prepare => Limit::PrepareTime { limit: self.time },
            TimeKey::Run => Limit::RunTime { limit: self.time },
        })
    }
}
