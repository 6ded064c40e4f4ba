//! Configures a host.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::budget::MemoryBudget;
use super::event::{Listener, Missing};
#[cfg(feature = "programs")]
use super::inner::Observer;
use super::{Event, Host, Inner, Isolation};
#[cfg(feature = "programs")]
use crate::audit::Decision;
use crate::audit::DecisionLog;
use crate::dirs::{cache_folder, default_store_size, state_folder};
use crate::error::{Error, ErrorKind};
use crate::model::IdleWatch;
use crate::sandbox::{CodeCache, CodeNotice, Compiler, PrivateError, SnapshotStore, StoreNotice};
use crate::supervise::{Settings, Supervision, SupervisionNotice};
use belljar_confine::layers::Confinement;
use belljar_confine::process::WorkerProgram;
use belljar_policy::Ceilings;

/// How long a sandbox stays idle by default.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Requests that a worker serves by default: starting the next worker costs a few milliseconds once
/// in this many requests.
const REQUESTS_PER_WORKER: u32 = 10_000;

/// Configures a [`Host`].
pub struct HostBuilder {
    isolation: Isolation,
    confinement: Confinement,
    worker: WorkerProgram,
    cache: Option<PathBuf>,
    state: Option<PathBuf>,
    may_compile: bool,
    store: bool,
    store_size: Option<u64>,
    store_metered: bool,
    idle: usize,
    idle_time: Option<Duration>,
    requests_per_worker: u32,
    supervision: Settings,
    ceilings: Vec<PathBuf>,
    decisions: Option<PathBuf>,
    refuses_excess: bool,
    #[cfg(feature = "programs")]
    observer: Option<Observer>,
    listener: Listener,
}

impl HostBuilder {
    pub(super) fn new() -> HostBuilder {
        HostBuilder {
            isolation: Isolation::default(),
            confinement: Confinement::BestEffort,
            worker: WorkerProgram::default(),
            cache: None,
            state: None,
            may_compile: true,
            store: false,
            store_size: None,
            store_metered: true,
            idle: std::thread::available_parallelism().map_or(1, usize::from),
            idle_time: Some(IDLE_TIME),
            requests_per_worker: REQUESTS_PER_WORKER,
            supervision: Settings::default(),
            ceilings: Vec::new(),
            decisions: None,
            refuses_excess: false,
            #[cfg(feature = "programs")]
            observer: None,
            listener: Arc::new(|_| {}),
        }
    }

    /// The isolation of each sandbox; a process by default.
    pub fn isolation(mut self, isolation: Isolation) -> HostBuilder {
        self.isolation = isolation;
        self
    }

    /// The minimum confinement of worker processes, whatever a policy demands, and when the guest
    /// is compiled without a policy ([`Host::warm`]). By default only the policy decides, and the
    /// default policy is strict.
    pub fn confinement(mut self, confinement: Confinement) -> HostBuilder {
        self.confinement = confinement;
        self
    }

    /// The program that becomes a worker; by default the current one.
    pub fn worker_program(mut self, program: WorkerProgram) -> HostBuilder {
        self.worker = program;
        self
    }

    /// The folder for compiled native code. By default `$BELLJAR_CACHE_DIR`, else `belljar` in
    /// `$XDG_CACHE_HOME` or `~/.cache`. It must be private, and every folder above it must belong
    /// to root or the caller and be writable by no other user. Without a folder that can be
    /// written, code is compiled only for this host ([`Event::CodeNotKept`]).
    pub fn cache_dir(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.cache = Some(path.into());
        self
    }

    /// The folder for the secret that seals compiled code. By default `$BELLJAR_STATE_DIR`, else
    /// `belljar` in `$XDG_STATE_HOME` or `~/.local/state`. It must be as private as the code
    /// folder. Models in quarantine are recorded there too; without a folder, only in this process.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.state = Some(path.into());
        self
    }

    /// Whether the guest may be compiled in this process when its code is not in the cache; yes by
    /// default. A server sets this to `false` and runs `belljar warm` at deployment: then missing
    /// or modified code stops the start instead of delaying it by a few seconds.
    pub fn may_compile(mut self, allowed: bool) -> HostBuilder {
        self.may_compile = allowed;
        self
    }

    /// Whether prepared models are stored on disk and reused by later processes. No by default,
    /// because it fills a folder of the user; `belljar run` does it.
    ///
    /// The amount written over time is bounded, because clients choose the shapes that models are
    /// prepared for: for each model, four times `limits.snapshots` snapshots at once and
    /// `limits.snapshots` in each hour; for all models, twice the size of the store at once and its
    /// size in each day. Beyond that, models are prepared but not stored
    /// ([`Event::SnapshotNotStored`]).
    pub fn snapshot_store(mut self, used: bool) -> HostBuilder {
        self.store = used;
        self
    }

    /// The maximum size of all stored models in bytes; the least recently used are removed first.
    /// By default `$BELLJAR_STORE_SIZE`, such as `500 MiB`, else 2 GiB.
    pub fn snapshot_store_size(mut self, bytes: u64) -> HostBuilder {
        self.store_size = Some(bytes);
        self
    }

    /// Whether the amount written to the store over time is bounded; yes by default. Turned off
    /// when a user fills the store deliberately.
    #[doc(hidden)]
    pub fn snapshot_store_metered(mut self, metered: bool) -> HostBuilder {
        self.store_metered = metered;
        self
    }

    /// How many prepared sandboxes each model may keep idle for later runs; by default the number
    /// of processors. Each keeps its memory.
    pub fn idle_sandboxes(mut self, count: usize) -> HostBuilder {
        self.idle = count;
        self
    }

    /// How long a prepared sandbox stays idle before it is ended and its memory freed; 10 seconds
    /// by default, `None` for ever. Its snapshot is kept, and the next request starts a new sandbox
    /// from it, which takes a few milliseconds with worker processes.
    pub fn idle_time(mut self, time: Option<Duration>) -> HostBuilder {
        self.idle_time = time;
        self
    }

    /// How many requests a worker process serves before it is ended; 10,000 by default, at least 1.
    /// This bounds how long an attacker can stay in a compromised worker. The next worker starts
    /// from the snapshot, which takes a few milliseconds. Sandboxes on threads are not counted.
    pub fn requests_per_worker(mut self, requests: u32) -> HostBuilder {
        self.requests_per_worker = requests;
        self
    }

    /// How many workers of a model may die before the model is refused until an operator releases
    /// it; 5 by default, at least 1. A death is the end of a worker that had a request, or that had
    /// seen the model and died while idle, unless it was killed from outside while idle; a worker
    /// that violates the protocol of its channel counts too. Deadlines, limits and traps do not
    /// count, and neither does a worker that the kernel killed because memory ran out: that only
    /// delays the next start. This many successful runs without a death in between clear all
    /// deaths.
    ///
    /// Deaths and quarantine are kept in the state folder and apply to every process of this user.
    /// `None` counts no deaths; a model that is in quarantine stays there.
    pub fn quarantine_after(mut self, deaths: Option<u32>) -> HostBuilder {
        self.supervision.quarantine_after = deaths;
        self
    }

    /// The delay before a worker of a model is started again after one has died: `first` after the
    /// first death, twice as long after each further death, at most `most`, until a run succeeds.
    /// By default 10 ms and 5 s. A request that needs a new worker waits for up to 100 ms, and no
    /// longer than a run may take; otherwise it fails at once with [`ErrorKind::BackOff`], which
    /// says when to retry. Other models and existing workers are not affected.
    pub fn restart_back_off(mut self, first: Duration, most: Duration) -> HostBuilder {
        self.supervision.back_off = (first, most);
        self
    }

    /// Adds a ceiling for every policy, in addition to the administrator's ceiling at
    /// [`OPERATORS_CEILING`](belljar_policy::OPERATORS_CEILING) and the one that `$BELLJAR_CEILING`
    /// names. All of them apply, so each can only restrict further. Can be called several times.
    /// Ceilings are read once, when the host is built.
    pub fn ceiling(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.ceilings.push(path.into());
        self
    }

    /// Whether a policy that asks for more than a ceiling allows is refused even if the ceiling
    /// says `excess = "cut"`. No by default: it is cut, and [`Event::PolicyCut`] reports the cuts.
    pub fn refuse_excess(mut self, refused: bool) -> HostBuilder {
        self.refuses_excess = refused;
        self
    }

    /// A file to which every decision is appended as one line of JSON: what a model was allowed or
    /// refused under which policy, and by which rule. What cannot be logged there is not allowed.
    /// None by default. SPECIFICATION.md documents the keys.
    pub fn decisions(mut self, path: impl Into<PathBuf>) -> HostBuilder {
        self.decisions = Some(path.into());
        self
    }

    /// Called, from any thread, for every decision.
    #[cfg(feature = "programs")]
    #[doc(hidden)]
    pub fn observer(
        mut self,
        observer: impl Fn(&Decision<'_>) + Send + Sync + 'static,
    ) -> HostBuilder {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Called, from any thread, for every [`Event`]. By default events are ignored.
    pub fn on_event(mut self, listener: impl Fn(Event) + Send + Sync + 'static) -> HostBuilder {
        self.listener = Arc::new(listener);
        self
    }

    /// Builds the host. Nothing is compiled or started before it is needed.
    ///
    /// # Errors
    /// When a ceiling exists but cannot be used, when the decision log cannot be opened, and when
    /// an environment variable is invalid.
    pub fn build(self) -> Result<Host, Error> {
        let ceilings = Ceilings::read(&self.ceilings, self.refuses_excess)
            .map_err(|err| Error::new(ErrorKind::Ceiling(err)))?;
        let decisions = self.decisions.as_deref().map(DecisionLog::open).transpose();
        let decisions = decisions.map_err(|err| {
            let path = self.decisions.unwrap_or_default();
            let why = format!("cannot open the decision log {}: {err}", path.display());
            Error::new(ErrorKind::Host(why))
        })?;
        let cache = match self.cache {
            Some(path) => Some(path),
            None => cache_folder()?,
        };
        let state = match self.state {
            Some(path) => Some(path),
            None => state_folder()?,
        };
        let store_size = match self.store_size {
            Some(bytes) => bytes,
            None => default_store_size()?,
        };
        let listener = Arc::clone(&self.listener);
        let stored = Arc::new(move |notice| {
            listener(match notice {
                StoreNotice::Refused { path, why } => Event::SnapshotRefused { path, why },
                StoreNotice::Stored { path } => Event::SnapshotStored { path },
                StoreNotice::NotStored { path, why, unusable } => {
                    Event::SnapshotNotStored { path, why, unusable }
                }
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
        let reported = Mutex::default();
        let missing = Arc::new(Missing { reported, listener: Arc::clone(&self.listener) });
        let (reporter, listener) = (Arc::clone(&missing), Arc::clone(&self.listener));
        let notices = Arc::new(move |notice| {
            listener(match notice {
                CodeNotice::Compiling { variant } => Event::Compiling { variant },
                CodeNotice::Compiled => Event::Compiled,
                CodeNotice::Waiting => Event::WaitingForCompiler,
                CodeNotice::NotKept { why } => Event::CodeNotKept { why },
                CodeNotice::Refused { path, why } => Event::CodeRefused { path, why },
                CodeNotice::Missing(layers) => return reporter.report(layers),
            });
        });
        let (cache, state) = (cache.as_deref(), state.as_deref());
        // Whether compiled code is kept is reported when it is compiled.
        let uses_store = self.store && cache.is_some() && state.is_some();
        if self.store && !uses_store {
            let variable = match cache {
                None => "BELLJAR_CACHE_DIR",
                Some(_) => "BELLJAR_STATE_DIR",
            };
            let why = PrivateError::Nowhere { variable }.to_string();
            (self.listener)(Event::NothingKept { why });
        }
        let compiler = self.may_compile.then(|| match self.isolation.in_this_process() {
            false => Compiler::Worker(self.worker.clone()),
            true => Compiler::Here,
        });
        Ok(Host {
            inner: Arc::new(Inner {
                isolation: self.isolation,
                confinement: self.confinement,
                worker: self.worker,
                cache: CodeCache::new(cache, state, compiler, notices),
                engines: Arc::default(),
                codes: Mutex::default(),
                spare: Mutex::default(),
                missing,
                store: SnapshotStore::new(cache, state, store_size, self.store_metered, stored),
                uses_store,
                idle: self.idle,
                idle_time: self.idle_time,
                requests_per_worker: self.requests_per_worker,
                supervision: Supervision::new(self.supervision, state, supervised),
                memory: MemoryBudget::new(Arc::clone(&self.listener)),
                idle_watch: IdleWatch::default(),
                ceilings,
                decisions,
                #[cfg(feature = "programs")]
                observer: self.observer,
                listener: self.listener,
            }),
        })
    }
}
