//! The host: what all models of one program share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::confine::layers::{Confinement, Layer, MissingLayer};
use crate::confine::process::{WorkerProgram, asked_to_be_worker, enter_worker};
use crate::confine::role::Role;
use crate::error::{Error, ErrorKind};
use crate::model::{IdleWatch, Model};
use crate::places::{default_folder, default_store_size};
use crate::policy::Policy;
use crate::sandbox::{
    CodeCache, CodeNotice, Compiler, Engines, Failure, ImageStore, Job, Sandbox, SandboxLimits,
    StoreNotice, ThreadFilter, ThreadSandbox, Variant, VerifiedCode, Worker, WorkerSandbox, serve,
};
use crate::supervise::{Quarantined, Settings, Supervision, SupervisionNotice};
use crate::trust::{Digest, ModelBytes};

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

/// Something a program may want to tell its user.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The guest is being compiled to native code, once for this machine. It takes some seconds.
    Compiling {
        /// Which variant of the code.
        variant: &'static str,
    },
    /// Compiling is over.
    Compiled,
    /// A file with native code was not what Belljar had put there. It was not used.
    CodeRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// A file of the store of prepared models, or its folder, was not what Belljar had put there. It
    /// was not used.
    ImageRefused {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// Something was put into the store of prepared models.
    ImageStored {
        /// The file.
        path: PathBuf,
    },
    /// Something could not be put into the store of prepared models; the next process prepares it
    /// again.
    ImageNotStored {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A layer around the worker processes is missing on this machine, and nothing demands it. Told
    /// once for each layer.
    LayerMissing {
        /// Which.
        layer: Layer,
        /// What the kernel said.
        why: String,
    },
    /// So many workers of a model have died that it is refused until [`Host::release`].
    Quarantined(Quarantined),
    /// The deaths of a model's workers could not be written down: they count in this process only.
    QuarantineNotStored {
        /// Why not.
        why: String,
    },
    /// The sandboxed runner logged a line about a model. Hostile text: print it through
    /// [`crate::text::Hostile`].
    Log {
        /// The model's label.
        model: String,
        /// The line.
        line: String,
    },
}

type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// Runs models, each in sandboxes of its own. Cheap to clone; clones share compiled code.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

/// Sets up a [`Host`].
pub struct HostBuilder {
    isolation: Isolation,
    confinement: Confinement,
    worker: WorkerProgram,
    cache: Option<PathBuf>,
    state: Option<PathBuf>,
    may_compile: bool,
    store: bool,
    store_size: Option<u64>,
    idle: usize,
    idle_time: Option<Duration>,
    requests_per_worker: u32,
    supervision: Settings,
    listener: Listener,
}

pub(crate) struct Inner {
    isolation: Isolation,
    confinement: Confinement,
    worker: WorkerProgram,
    cache: CodeCache,
    engines: Arc<Engines>,
    codes: Mutex<HashMap<Variant, Arc<VerifiedCode>>>,
    /// A worker that waits for the first model.
    spare: Mutex<Option<Worker>>,
    missing: Arc<Missing>,
    pub(crate) store: ImageStore,
    uses_store: bool,
    pub(crate) idle: usize,
    /// How long a sandbox waits before its memory is given back; without end if there is none.
    pub(crate) idle_time: Option<Duration>,
    /// Runs after which a worker is not used again.
    pub(crate) requests_per_worker: u32,
    pub(crate) supervision: Supervision,
    pub(crate) idle_watch: IdleWatch,
    pub(crate) listener: Listener,
}

/// Tells which layers are missing.
struct Missing {
    /// Layers whose absence was told.
    told: Mutex<Vec<Layer>>,
    listener: Listener,
}

impl Missing {
    /// Tells what a worker lacks, once for each layer.
    fn tell(&self, missing: Vec<MissingLayer>) {
        for MissingLayer { layer, why } in missing {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.contains(&layer) {
                continue;
            }
            told.push(layer);
            drop(told);
            (self.listener)(Event::LayerMissing { layer, why });
        }
    }
}

/// How long a sandbox waits by default.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Requests that a worker serves by default. Starting the next one costs some milliseconds, once in
/// so many requests.
const REQUESTS_PER_WORKER: u32 = 10_000;

/// Room for the framing of messages beside the tensors in them, in bytes.
const FRAMING: u64 = 1 << 20;

/// Runs of one worker for which the kernel's limit on its processor time is enough.
const MANY_RUNS: u32 = 100_000;

/// Most bytes of a description: its texts and lists are bounded one by one.
const MAX_DESCRIPTION: u64 = 32 << 20;

impl HostBuilder {
    /// What stands around each sandbox; a process by default.
    pub fn isolation(mut self, isolation: Isolation) -> HostBuilder {
        self.isolation = isolation;
        self
    }

    /// How much of the confinement of worker processes must be there whatever a policy says, and
    /// when the guest is compiled ahead of any policy ([`Host::warm`]). By default a policy decides
    /// alone, and the default policy is strict.
    pub fn confinement(mut self, confinement: Confinement) -> HostBuilder {
        self.confinement = confinement;
        self
    }

    /// The program that becomes a worker; this one by default.
    pub fn worker_program(mut self, program: WorkerProgram) -> HostBuilder {
        self.worker = program;
        self
    }

    /// Where compiled native code is kept. By default `$BELLJAR_CACHE_DIR`, else `belljar` in
    /// `$XDG_CACHE_HOME` or `~/.cache`. It must be open to nobody else.
    pub fn cache_dir(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.cache = Some(path.into());
        self
    }

    /// Where the secret that seals compiled code is kept. By default `$BELLJAR_STATE_DIR`, else
    /// `belljar` in `$XDG_STATE_HOME` or `~/.local/state`. It must be open to nobody else.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.state = Some(path.into());
        self
    }

    /// Whether the guest may be compiled in this process when its code is not in the cache; yes by
    /// default. A server says no, and has `belljar warm` run where it is deployed: then code that
    /// is missing or was tampered with stops the start instead of costing it some seconds.
    pub fn may_compile(mut self, allowed: bool) -> HostBuilder {
        self.may_compile = allowed;
        self
    }

    /// Whether prepared models are kept on disk and used from there: what one process has prepared,
    /// the next need not. No by default, as it fills a folder of the user's; `belljar run` does.
    pub fn image_store(mut self, used: bool) -> HostBuilder {
        self.store = used;
        self
    }

    /// Most bytes of prepared models on disk; what was not used for longest goes first. By default
    /// what `$BELLJAR_STORE_SIZE` says, such as `500 MiB`, else 2 GiB.
    pub fn image_store_size(mut self, bytes: u64) -> HostBuilder {
        self.store_size = Some(bytes);
        self
    }

    /// How many prepared sandboxes each model may keep waiting for the next run; by default as
    /// many as there are processors. Each keeps its memory.
    pub fn idle_sandboxes(mut self, count: usize) -> HostBuilder {
        self.idle = count;
        self
    }

    /// How long a prepared sandbox waits for its next request before it is ended and its memory
    /// given back; 10 seconds by default, `None` for ever. Its image stays, and a request that finds
    /// no sandbox waiting starts one from it, which takes some milliseconds for a worker process.
    pub fn idle_time(mut self, time: Option<Duration>) -> HostBuilder {
        self.idle_time = time;
        self
    }

    /// How many requests a worker process serves before it is ended; 10,000 by default, at least 1.
    /// Whoever has broken into one then starts anew. The next worker starts from the image, which
    /// takes some milliseconds. Sandboxes on threads are not counted.
    pub fn requests_per_worker(mut self, requests: u32) -> HostBuilder {
        self.requests_per_worker = requests;
        self
    }

    /// How many workers of a model may die before the model is refused until an operator releases
    /// it; 5 by default, at least 1. A death is the end of a worker that had a request, or that had
    /// seen the model and died while it waited, unless it was killed from outside then; what breaks
    /// the rules of its channel counts too. Deadlines, limits and traps do not. As many answers as
    /// this number, without a death between them, and all deaths are forgotten.
    ///
    /// Deaths and quarantine are kept in the state folder and hold for every process of this user.
    /// `None` counts no deaths; a model that is in quarantine stays there all the same.
    pub fn quarantine_after(mut self, deaths: Option<u32>) -> HostBuilder {
        self.supervision.quarantine_after = deaths;
        self
    }

    /// How long after the death of a worker no other is started for the same model: `first` after
    /// the first, twice as long after each further one, at most `most`, until there is an answer. By
    /// default 10 ms and 5 s. A request that needs a new worker waits for up to 100 ms, and no longer
    /// than a run may take; else it gets [`ErrorKind::BackOff`] at once, which says when to come
    /// again. Other models, and workers that are there, are not affected.
    pub fn restart_back_off(mut self, first: Duration, most: Duration) -> HostBuilder {
        self.supervision.back_off = (first, most);
        self
    }

    /// Called, from any thread, when there is something to tell a user. Nothing by default.
    pub fn on_event(mut self, listener: impl Fn(Event) + Send + Sync + 'static) -> HostBuilder {
        self.listener = Arc::new(listener);
        self
    }

    /// Makes the host. Nothing is compiled or started before it is needed.
    ///
    /// # Errors
    /// When no folder for the cache can be told from the environment.
    pub fn build(self) -> Result<Host, Error> {
        let cache = match self.cache {
            Some(path) => path,
            None => default_folder("BELLJAR_CACHE_DIR", "XDG_CACHE_HOME", ".cache")?,
        };
        let state = match self.state {
            Some(path) => path,
            None => default_folder("BELLJAR_STATE_DIR", "XDG_STATE_HOME", ".local/state")?,
        };
        let store_size = match self.store_size {
            Some(bytes) => bytes,
            None => default_store_size()?,
        };
        let listener = Arc::clone(&self.listener);
        let stored = Arc::new(move |notice| {
            listener(match notice {
                StoreNotice::Refused { path, why } => Event::ImageRefused { path, why },
                StoreNotice::Stored { path } => Event::ImageStored { path },
                StoreNotice::NotStored { path, why } => Event::ImageNotStored { path, why },
            });
        });
        let listener = Arc::clone(&self.listener);
        let supervised = Arc::new(move |notice| {
            listener(match notice {
                SupervisionNotice::Quarantined(quarantined) => Event::Quarantined(quarantined),
                SupervisionNotice::NotStored(err) => {
                    Event::QuarantineNotStored { why: err.to_string() }
                }
            });
        });
        let told = Mutex::default();
        let missing = Arc::new(Missing { told, listener: Arc::clone(&self.listener) });
        let (tell, listener) = (Arc::clone(&missing), Arc::clone(&self.listener));
        let notices = Arc::new(move |notice| {
            listener(match notice {
                CodeNotice::Compiling { variant } => Event::Compiling { variant },
                CodeNotice::Compiled => Event::Compiled,
                CodeNotice::Refused { path, why } => Event::CodeRefused { path, why },
                CodeNotice::Missing(layers) => return tell.tell(layers),
            });
        });
        let compiler = self.may_compile.then(|| match self.isolation.in_this_process() {
            false => Compiler::Worker(self.worker.clone()),
            true => Compiler::Here,
        });
        Ok(Host {
            inner: Arc::new(Inner {
                isolation: self.isolation,
                confinement: self.confinement,
                worker: self.worker,
                cache: CodeCache::new(&cache, &state, compiler, notices),
                engines: Arc::default(),
                codes: Mutex::default(),
                spare: Mutex::default(),
                missing,
                store: ImageStore::new(&cache, &state, store_size, stored),
                uses_store: self.store,
                idle: self.idle,
                idle_time: self.idle_time,
                requests_per_worker: self.requests_per_worker,
                supervision: Supervision::new(self.supervision, &state, supervised),
                idle_watch: IdleWatch::default(),
                listener: self.listener,
            }),
        })
    }
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
        HostBuilder {
            isolation: Isolation::default(),
            confinement: Confinement::BestEffort,
            worker: WorkerProgram::default(),
            cache: None,
            state: None,
            may_compile: true,
            store: false,
            store_size: None,
            idle: std::thread::available_parallelism().map_or(1, usize::from),
            idle_time: Some(IDLE_TIME),
            requests_per_worker: REQUESTS_PER_WORKER,
            supervision: Settings::default(),
            listener: Arc::new(|_| {}),
        }
    }

    /// Loads a model: checks it against the policy, has it parsed and described in a sandbox.
    ///
    /// # Errors
    /// When the policy pins another model, when the model is larger than the policy allows or is
    /// not an acceptable ONNX model, and when a limit is hit.
    pub fn load(&self, bytes: ModelBytes, policy: &Policy) -> Result<Model, Error> {
        Model::load(self, bytes, policy)
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
    /// When the cache cannot be used.
    pub fn warm_up(&self, policy: &Policy) -> Result<(), Error> {
        let inner = &self.inner;
        let variant = inner.variant(policy);
        match inner.isolation {
            Isolation::Process => std::thread::scope(|scope| {
                // While the new process begins, this one reads and checks the code.
                scope.spawn(|| {
                    let mut spare = inner.spare.lock().unwrap_or_else(PoisonError::into_inner);
                    if spare.is_none() {
                        // Who needs one that cannot be started is told why then.
                        *spare = Worker::spawn(&inner.worker).ok();
                    }
                });
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

    /// The folder in which compiled native code is kept.
    pub fn cache_dir(&self) -> &Path {
        self.inner.cache.folder()
    }

    /// The store of prepared models, whether or not this host uses it.
    pub fn image_store(&self) -> &ImageStore {
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

    /// The kernels that the guest's registries hold, one a line: for tests.
    #[doc(hidden)]
    pub fn kernels(&self) -> Result<String, Error> {
        crate::model::kernels(self)
    }
}

impl Inner {
    /// The store of prepared models, if it is used.
    pub(crate) fn store(&self) -> Option<&ImageStore> {
        self.uses_store.then_some(&self.store)
    }

    /// Whether a model under this policy may be run by this host at all.
    pub(crate) fn check(&self, policy: &Policy) -> Result<(), ErrorKind> {
        let strict = self.confinement(policy) == Confinement::Strict;
        if strict && self.isolation.in_this_process() {
            return Err(ErrorKind::Unprotected(
                "a sandbox on a thread has no worker process around it, and `confinement` is \
                 \"strict\"; use processes, or set it to \"best-effort\""
                    .into(),
            ));
        }
        Ok(())
    }

    /// How much of the confinement must be there: what the policy or this host demands.
    fn confinement(&self, policy: &Policy) -> Confinement {
        match (policy.confinement, self.confinement) {
            (Confinement::BestEffort, Confinement::BestEffort) => Confinement::BestEffort,
            _ => Confinement::Strict,
        }
    }

    /// Tells what a worker lacks, once for each layer.
    pub(crate) fn tell_missing(&self, missing: Vec<MissingLayer>) {
        self.missing.tell(missing);
    }

    /// A new sandbox with nothing in it.
    pub(crate) fn sandbox(
        &self,
        policy: &Policy,
        role: Role,
    ) -> Result<Box<dyn Sandbox>, ErrorKind> {
        self.check(policy)?;
        let limits = &policy.limits;
        let sandbox = SandboxLimits {
            memory: limits.memory,
            stack: limits.stack,
            log: limits.log_size,
            answer: limits.output_size.saturating_add(FRAMING).max(MAX_DESCRIPTION),
            native_kernels: policy.compute.native_kernels(),
            threads: policy.compute.threads,
        };
        let variant = self.variant(policy);
        let failed = |failure: Failure| match failure {
            Failure::Limit(limit) => ErrorKind::Limit(limit),
            Failure::Unprotected(missing) => ErrorKind::Unprotected(missing.to_string()),
            Failure::Lost(loss) => ErrorKind::Worker(loss),
            other => ErrorKind::Host(other.to_string()),
        };
        match self.isolation {
            Isolation::Process => {
                let confinement = self.confinement(policy);
                let code = self.code(variant, confinement)?;
                let inputs = limits.input_size.saturating_add(FRAMING);
                let time = match role {
                    Role::Compile | Role::Prepare => limits.prepare_time.saturating_mul(3),
                    Role::Run => limits.run_time.saturating_mul(MANY_RUNS),
                };
                let job = Job { role, confinement, variant, limits: sandbox, inputs, time };
                let start = |worker| WorkerSandbox::start(worker, &code, job);
                let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
                // One that has waited for long may have come to an end.
                let waited = spare.and_then(|worker| start(worker).ok());
                let started = match waited {
                    Some(started) => Ok(started),
                    None => Worker::spawn(&self.worker).and_then(start),
                };
                Ok(Box::new(started.map_err(failed)?))
            }
            Isolation::Thread | Isolation::InProcessWithoutAnyConfinement => {
                let (engine, module) = self.engines.get(&self.cache, variant, limits.stack)?;
                let filter = match self.isolation {
                    Isolation::InProcessWithoutAnyConfinement => ThreadFilter::None,
                    _ => ThreadFilter::Installed,
                };
                let sandbox = ThreadSandbox::new(&self.engines, &engine, &module, sandbox, filter);
                Ok(Box::new(sandbox.map_err(failed)?))
            }
        }
    }

    /// The compiled form of the guest for a model under this policy.
    fn variant(&self, policy: &Policy) -> Variant {
        let epochs = self.isolation.in_this_process();
        Variant { epochs, deterministic: policy.compute.deterministic }
    }

    fn code(
        &self,
        variant: Variant,
        confinement: Confinement,
    ) -> Result<Arc<VerifiedCode>, ErrorKind> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = codes.get(&variant) {
            return Ok(Arc::clone(code));
        }
        let code = Arc::new(self.cache.get(variant, confinement)?);
        codes.insert(variant, Arc::clone(&code));
        Ok(code)
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
