//! The host: the state that all models of one program share. [`HostBuilder`] configures it, and
//! [`Event`] is what it reports; `inner` creates sandboxes, and `budget` counts their memory.

mod budget;
mod builder;
mod event;
mod inner;
#[cfg(feature = "programs")]
pub(crate) mod run_context;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Phase};
use crate::model::Model;
use crate::sandbox::{SnapshotStore, Variant, Worker};
use crate::supervise::Quarantined;
use crate::trust::{Digest, ModelBytes};
use belljar_confine::enter::enter_worker;
use belljar_confine::process::asked_to_be_worker;
use belljar_confine::role::Role;
use belljar_policy::{Admissible, Effective, Policy};

pub(crate) use budget::Claim;
pub use builder::HostBuilder;
pub use event::Event;
pub(crate) use inner::Inner;
#[cfg(feature = "programs")]
pub(crate) use inner::too_many_decisions;

/// A time limit, shortened to the remaining time of the program run that this thread works for, and
/// then the limit to report.
#[cfg(feature = "programs")]
pub(crate) use run_context::shortened;
#[cfg(not(feature = "programs"))]
pub(crate) fn shortened(limit: Duration) -> (Duration, Option<crate::Limit>) {
    (limit, None)
}

/// What isolates a sandbox from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Each sandbox is in its own worker process, which is killed at its deadline. This has the
    /// fastest code, because it never checks the clock; starting a worker costs a few milliseconds.
    ///
    /// Disadvantages: none. An attacker who escapes from WebAssembly is in a process without files,
    /// connections and privileges, confined by the kernel. Supports both values of `confinement`.
    #[default]
    Process,
    /// Each sandbox is on a thread of this process; its code checks its deadline, which costs up to
    /// half the speed.
    ///
    /// Disadvantages: there is no process boundary. An attacker who escapes from WebAssembly is in
    /// this process, and can read and write all of its memory. A system call filter on that thread
    /// refuses what an attacker needs first: files, connections, other programs, new executable
    /// memory. The filter is not a boundary, because other threads are not under it and act on
    /// memory that the attacker can write. A crash of native code, or running out of memory, ends
    /// this process. Supports only policies with `confinement = "best-effort"`.
    Thread,
    /// As [`Isolation::Thread`], without the filter.
    ///
    /// Disadvantages: WebAssembly is the only boundary. An attacker who escapes from it immediately
    /// has everything this process has. Meant for kernels without system call filters, and for
    /// finding out whether a filter causes a failure. Supports only policies with
    /// `confinement = "best-effort"`.
    InProcessWithoutAnyConfinement,
}

impl Isolation {
    /// Whether sandboxes are in this process.
    fn in_this_process(self) -> bool {
        match self {
            Isolation::Process => false,
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => true,
        }
    }
}

/// Runs models, each in its own sandboxes. Cheap to clone; clones share compiled code.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

impl Host {
    /// A host with every setting at its default.
    ///
    /// # Errors
    /// As [`HostBuilder::build`].
    pub fn new() -> Result<Host, Error> {
        Host::builder().build()
    }

    /// Configures a host.
    pub fn builder() -> HostBuilder {
        HostBuilder::new()
    }

    /// The policy cut down to this host's ceilings. Cuts are reported ([`Event::PolicyCut`]). The
    /// host does this for every policy; programs need it only to learn the limits in advance. The
    /// result can be used in place of the policy.
    ///
    /// # Errors
    /// When a ceiling refuses the policy.
    pub fn effective(&self, policy: &Policy) -> Result<Effective, Error> {
        self.inner.admit(policy, None).map_err(Error::new)
    }

    /// Loads a model: checks it against the policy, and parses and describes it in a sandbox.
    /// External data files are read now, once, if the policy grants files.
    ///
    /// # Errors
    /// When a ceiling refuses the policy, when the policy pins another model, when the model is
    /// larger than the policy allows or not an acceptable ONNX model, when it keeps data in a file
    /// that the policy does not grant or that is not a regular file, and when a limit is hit.
    pub fn load(&self, bytes: ModelBytes, policy: &impl Admissible) -> Result<Model, Error> {
        match self.inner.admit(policy, Some(bytes.digest())) {
            Ok(effective) => Model::load(self, bytes, effective),
            Err(kind) => Err(Error::for_model(bytes.label(), kind)),
        }
    }

    /// Compiles the guest ahead of time, in every variant this host can need.
    ///
    /// # Errors
    /// When the cache cannot be used.
    pub fn warm(&self) -> Result<(), Error> {
        for variant in Variant::ALL {
            self.inner.cache.get(variant, self.inner.confinement).map_err(Error::new)?;
        }
        Ok(())
    }

    /// Loads the code for models under this policy into memory, compiling it if necessary, and
    /// starts a worker process for the first model. Otherwise the first load does this.
    ///
    /// # Errors
    /// When a ceiling refuses the policy, and when the cache cannot be used.
    pub fn warm_up(&self, policy: &impl Admissible) -> Result<(), Error> {
        let inner = &self.inner;
        let policy = &inner.admit(policy, None).map_err(Error::new)?;
        let variant = inner.variant(policy);
        match inner.isolation {
            Isolation::Process => std::thread::scope(|scope| {
                let start = || {
                    let mut spare = inner.spare.lock().unwrap_or_else(PoisonError::into_inner);
                    if spare.is_none() {
                        // The load that needs a worker reports why it cannot be started.
                        *spare = Worker::spawn(&inner.worker).ok();
                    }
                };
                // While the new process starts, this one reads and checks the code. If no thread
                // can be started to wait for the process, the load that needs the worker starts it.
                let _ = std::thread::Builder::new().spawn_scoped(scope, start);
                inner.code(variant, inner.confinement(policy)).map(drop).map_err(Error::new)
            }),
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => {
                let engine = inner.engines.get(&inner.cache, variant, policy.limits.stack);
                engine.map(drop).map_err(Error::new)
            }
        }
    }

    /// The isolation of each sandbox.
    pub fn isolation(&self) -> Isolation {
        self.inner.isolation
    }

    /// The folder of compiled native code; `None` if neither the builder nor the environment names
    /// one.
    pub fn cache_dir(&self) -> Option<&Path> {
        self.inner.cache.folder()
    }

    /// The store of prepared models, whether or not this host uses it.
    pub fn snapshot_store(&self) -> &SnapshotStore {
        &self.inner.store
    }

    /// The models that are refused because their workers kept dying.
    ///
    /// # Errors
    /// When the state folder cannot be read, or is open to others.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, Error> {
        self.inner.supervision.quarantined().map_err(Error::new)
    }

    /// Releases a model from quarantine and forgets the deaths of its workers. Returns whether it
    /// was in quarantine. Other processes notice at their next request for the model.
    ///
    /// # Errors
    /// When the state folder cannot be written to, or is open to others.
    pub fn release(&self, model: Digest) -> Result<bool, Error> {
        self.inner.supervision.release(model).map_err(Error::new)
    }

    /// The time to start a sandbox for running models, confine it and load its code: for
    /// benchmarks.
    #[doc(hidden)]
    pub fn time_to_ready(&self, policy: &Policy) -> Result<Duration, Error> {
        let start = std::time::Instant::now();
        let policy = self.effective(policy)?;
        let mut sandbox = self.inner.sandbox(&policy, Role::Run).map_err(Error::new)?;
        let failed = |failure| ErrorKind::from_failure(failure, Phase::Prepare);
        sandbox.await_ready().map_err(|failure| Error::new(failed(failure)))?;
        Ok(start.elapsed())
    }

    /// The kernels in the guest's registries, one in each line: for tests.
    #[doc(hidden)]
    pub fn kernels(&self) -> Result<String, Error> {
        crate::model::kernels(self)
    }
}

/// Turns this process into a worker if a host started it as one, and then does not return.
///
/// A program that uses [`Isolation::Process`] calls this first in `main`, before it reads its
/// arguments or starts a thread. In any other process this does nothing.
pub fn become_worker_if_asked() {
    if !asked_to_be_worker() {
        return;
    }
    // Nothing is printed: a worker communicates only with its supervisor, which sees it end.
    let served = enter_worker().and_then(crate::roles::serve);
    std::process::exit(if served.is_ok() { 0 } else { 1 });
}
