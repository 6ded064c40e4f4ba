//! The host: what all models of one program share. [`HostBuilder`] sets it up, and [`Event`] is what
//! it has to tell; `inner` makes sandboxes, and `budget` counts their memory.

mod budget;
mod builder;
#[cfg(feature = "programs")]
pub(crate) mod errand;
mod event;
mod inner;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Phase};
use crate::model::Model;
use crate::sandbox::{SnapshotStore, Variant, Worker, serve};
use crate::supervise::Quarantined;
use crate::trust::{Digest, ModelBytes};
use belljar_confine::process::{asked_to_be_worker, enter_worker};
use belljar_confine::role::Role;
use belljar_policy::{Effective, Policy};

pub(crate) use budget::Claim;
pub use builder::HostBuilder;
pub use event::Event;
pub(crate) use inner::Inner;
#[cfg(feature = "programs")]
pub(crate) use inner::too_many_decisions;

/// A limit of time, shortened to what is left of the run of a program that this thread works for; and
/// the limit to tell of then.
#[cfg(feature = "programs")]
pub(crate) use errand::shortened;
#[cfg(not(feature = "programs"))]
pub(crate) fn shortened(limit: Duration) -> (Duration, Option<crate::Limit>) {
    (limit, None)
}

/// What stands around a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Each sandbox in a worker process of its own, which is killed at its deadline. The fastest
    /// code, as it need not look at the clock; starting a worker costs some milliseconds.
    ///
    /// Gives up nothing. Whoever escapes from WebAssembly is in a process without files,
    /// connections and rights, which the kernel confines. Serves policies with either `confinement`.
    #[default]
    Process,
    /// Each sandbox on a thread of this process; its code checks for its deadline, which costs
    /// up to half the speed.
    ///
    /// Gives up the wall of the process. Whoever escapes from WebAssembly is in this process, and
    /// can read and write all of its memory. A filter of system calls refuses that thread what an
    /// attacker asks for first: files, connections, other programs, new executable memory. It is
    /// no wall, as other threads are not under it, and they act on memory that the attacker can
    /// write. A crash of native code, or memory that runs out, ends this process. Serves only
    /// policies with `confinement = "best-effort"`.
    Thread,
    /// As [`Isolation::Thread`], without the filter.
    ///
    /// Gives up everything but WebAssembly. Whoever escapes from it has all that this process has,
    /// at once. For machines whose kernel has no filters of system calls, and for finding out
    /// whether a fault comes from them. Serves only policies with `confinement = "best-effort"`.
    InProcessWithoutAnyConfinement,
}

impl Isolation {
    /// Whether sandboxes are in this very process.
    fn in_this_process(self) -> bool {
        match self {
            Isolation::Process => false,
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => true,
        }
    }
}

/// Runs models, each in sandboxes of its own. Cheap to clone; clones share compiled code.
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

    /// Sets up a host.
    pub fn builder() -> HostBuilder {
        HostBuilder::new()
    }

    /// What is left of a policy under the ceilings that hold for this host. What was cut is told
    /// ([`Event::PolicyCut`]). Every policy that this host is given goes through this, so that a
    /// program need not; it is for those that want to know the limits beforehand.
    ///
    /// # Errors
    /// When nothing may run under this policy here.
    pub fn effective(&self, policy: &Policy) -> Result<Effective, Error> {
        self.inner.admit(policy, None).map_err(Error::new)
    }

    /// Loads a model: checks it against the policy, has it parsed and described in a sandbox. Where the
    /// policy grants files, those in which the model keeps data are read now, once.
    ///
    /// # Errors
    /// When a ceiling refuses the policy, when the policy pins another model, when the model is larger
    /// than the policy allows or is not an acceptable ONNX model, when it keeps data in a file that the
    /// policy's grants do not cover or that is no regular file, and when a limit is hit.
    pub fn load(&self, bytes: ModelBytes, policy: &Policy) -> Result<Model, Error> {
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

    /// Has the code that a model under this policy needs in memory, compiling it if it must, and a
    /// worker process for the first model. The first load does so otherwise.
    ///
    /// # Errors
    /// When a ceiling refuses the policy, and when the cache cannot be used.
    pub fn warm_up(&self, policy: &Policy) -> Result<(), Error> {
        let inner = &self.inner;
        let policy = &self.effective(policy)?;
        let variant = inner.variant(policy);
        match inner.isolation {
            Isolation::Process => std::thread::scope(|scope| {
                let start = || {
                    let mut spare = inner.spare.lock().unwrap_or_else(PoisonError::into_inner);
                    if spare.is_none() {
                        // Who needs one that cannot be started is told why then.
                        *spare = Worker::spawn(&inner.worker).ok();
                    }
                };
                // While the new process begins, this one reads and checks the code. Without a thread
                // to wait for it, whoever needs the worker starts it.
                let _ = std::thread::Builder::new().spawn_scoped(scope, start);
                inner.code(variant, inner.confinement(policy)).map(drop).map_err(Error::new)
            }),
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => {
                let engine = inner.engines.get(&inner.cache, variant, policy.limits.stack);
                engine.map(drop).map_err(Error::new)
            }
        }
    }

    /// What stands around each sandbox.
    pub fn isolation(&self) -> Isolation {
        self.inner.isolation
    }

    /// The folder in which compiled native code is kept; `None` if none was named and the environment
    /// names none either.
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

    /// Lets a model run again whose workers kept dying, and forgets their deaths. Answers whether it
    /// was in quarantine. Other processes learn of it at their next request for the model.
    ///
    /// # Errors
    /// When the state folder cannot be written to, or is open to others.
    pub fn release(&self, model: Digest) -> Result<bool, Error> {
        self.inner.supervision.release(model).map_err(Error::new)
    }

    /// How long it takes until a sandbox that will run models is there, confined, and has its code:
    /// for benchmarks.
    #[doc(hidden)]
    pub fn time_to_ready(&self, policy: &Policy) -> Result<Duration, Error> {
        let start = std::time::Instant::now();
        let policy = self.effective(policy)?;
        let mut sandbox = self.inner.sandbox(&policy, Role::Run).map_err(Error::new)?;
        let failed = |failure| ErrorKind::from_failure(failure, Phase::Prepare);
        sandbox.await_ready().map_err(|failure| Error::new(failed(failure)))?;
        Ok(start.elapsed())
    }

    /// The kernels that the guest's registries hold, one a line: for tests.
    #[doc(hidden)]
    pub fn kernels(&self) -> Result<String, Error> {
        crate::model::kernels(self)
    }
}

/// Makes this process a worker if a host started it as one, and then does not return.
///
/// A program that uses [`Isolation::Process`] calls this first thing in `main`, before it reads
/// its arguments or starts a thread. In any other process it does nothing.
pub fn become_worker_if_asked() {
    if !asked_to_be_worker() {
        return;
    }
    // Nothing is printed: a worker has nobody to talk to but its supervisor, which sees it end.
    let served = enter_worker().and_then(serve);
    std::process::exit(if served.is_ok() { 0 } else { 1 });
}
