//! Sandboxes: instances of the `onnx-runner` guest, each holding one model.
//!
//! However a sandbox runs — on a thread of this process, or in a worker process — it is called the
//! same way: a [`Call`] with a [`Payload`] and a time limit, answered by the guest's message as
//! untrusted bytes, or by a [`Failure`] after which the sandbox is thrown away.

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
#[cfg(test)]
mod profiling_tests;
mod serve;
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
pub(crate) use compile::Compiler;
#[cfg(feature = "programs")]
pub(crate) use compile::CompilerThreads;
pub(crate) use engine::{Engines, Variant};
pub(crate) use failure::Failure;
pub use failure::{Limit, WorkerLoss};
pub use guest::GuestInfo;
pub(crate) use limits::SandboxLimits;
pub(crate) use serve::serve;
#[cfg(feature = "programs")]
pub(crate) use serve::{Setup, Work};
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

/// One of the guest's exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    Load,
    Describe,
    /// A file in which the model keeps data.
    External,
    Prepare,
    /// Starts from the snapshot of a sandbox that has prepared the same model. No export: the guest
    /// is not asked.
    Adopt,
    Run,
    /// A run that is profiled. Only for the guest that has a clock, which answers nothing else.
    Profile,
    Kernels,
    /// Makes a tensor of an image file. The sandbox has no model.
    Picture,
    /// What a panic of the guest is: no model is known to cause one.
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

/// What goes into the sandbox with a call.
pub(crate) enum Payload {
    Empty,
    Bytes(Vec<u8>),
    /// So many bytes at the start of a buffer that two processes share; never more than it has.
    Shared(Arc<SharedBuffer>, u64),
    Sealed(Arc<SealedBytes>),
    Snapshot(Arc<Snapshot>),
}

/// What a call brought back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The guest's message: hostile until decoded.
    pub(crate) message: Vec<u8>,
    /// What the call cost.
    pub(crate) cost: Cost,
    /// After `prepare`: what other sandboxes can start from, if this one can share it.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
}

/// What the sandbox has used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Size of the linear memory in bytes, which only ever grows.
    pub(crate) memory: u64,
    /// Time inside the guest.
    pub(crate) time: Duration,
    /// Time in native kernels; part of `time`.
    pub(crate) kernels: Duration,
    /// Time to make the instance of a run, ahead of it or at its start.
    pub(crate) instantiate: Duration,
    /// Time to make memory pristine after the run before.
    pub(crate) reset: Duration,
    /// How memory is made pristine.
    pub(crate) method: ResetMethod,
}

/// A sandbox, wherever it runs.
pub(crate) trait Sandbox: Send {
    /// Waits until all that must be around it is there. Until then it is given nothing of a model.
    fn await_ready(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Makes one call. After a failure the sandbox is unusable.
    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure>;

    /// The lines that the guest logged since the last time, for a person to read.
    fn take_log(&mut self) -> Vec<String>;

    /// Layers around it that are missing, as far as that was not told before.
    fn take_missing(&mut self) -> Vec<MissingLayer> {
        Vec::new()
    }

    /// What became of it since it was last called, if it cannot be called any more.
    fn loss_while_waiting(&mut self) -> Option<WorkerLoss> {
        None
    }

    /// How many runs its process has served; none where it has no process of its own.
    fn runs(&self) -> u32 {
        0
    }
}

/// How long a call may take, and under which name that is known in a policy.
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
