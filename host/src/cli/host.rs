//! The host as the command line uses it, and loading the model a person named.

use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{IsolationArg, ModelArgs};
use super::failure::{Failure, shown};
use super::terminal::Terminal;
use crate::error::{Error, ErrorKind};
use crate::policy::{LoadedPolicy, Policy};
use crate::text::Hostile;
use crate::{Confinement, Event, Host, Isolation, Model, ModelBytes, ModelBytesError};

/// A model that a person named, loaded.
pub(super) struct Loaded {
    pub(super) host: Host,
    pub(super) model: Model,
    pub(super) size: u64,
    /// Where the policy came from, if it is not the default.
    pub(super) policy: Option<LoadedPolicy>,
    pub(super) read_time: Duration,
    pub(super) load_time: Duration,
}

/// Whether prepared models are kept on disk and used from there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Used,
    Unused,
}

/// `idle` is how many sandboxes of a model are kept: as many as there are requests at once.
pub(super) fn host(
    isolation: IsolationArg,
    store: Store,
    idle: usize,
    terminal: &Terminal,
) -> Result<Host, Failure> {
    let isolation = match isolation {
        IsolationArg::Process => Isolation::Process,
        IsolationArg::Thread => Isolation::Thread,
    };
    let terminal = terminal.clone();
    let listener = move |event| match event {
        Event::Compiling { variant } => terminal.compiling(variant),
        Event::Compiled => terminal.note("compiled"),
        Event::CodeRefused { path, why } => {
            let path = shown(&path);
            terminal.warn(&format!("{path} was not used: {}; it is replaced", Hostile::new(&why)));
        }
        Event::ImageRefused { path, why } => {
            let path = shown(&path);
            terminal.warn(&format!("{path} was not used: {}", Hostile::new(&why)));
        }
        Event::ImageStored { path } => terminal.note(&format!("stored {}", shown(&path))),
        Event::ImageNotStored { path, why } => {
            let path = shown(&path);
            terminal.note(&format!("{path} was not stored: {}", Hostile::new(&why)));
        }
        Event::LayerMissing { layer, why } => {
            let (layer, why) = (layer.name(), Hostile::new(&why));
            terminal.warn(&format!("workers are confined without {layer}: {why}"));
        }
        Event::Quarantined(quarantined) => {
            terminal.warn(&format!("{}: {quarantined}", Hostile::cut(&quarantined.label, 100)));
        }
        Event::QuarantineNotStored { why } => terminal.warn(&format!(
            "that a worker process died could not be noted, so the next process does not know: {}",
            Hostile::new(&why)
        )),
        Event::Log { line, .. } => terminal.note(&format!("runner: {}", Hostile::new(&line))),
    };
    let builder = Host::builder().isolation(isolation).idle_sandboxes(idle).on_event(listener);
    Ok(builder.image_store(store == Store::Used).build()?)
}

/// The policy that was named, or the default one; the former also with where it came from.
pub(super) fn rules(
    arguments: &ModelArgs,
    terminal: &Terminal,
) -> Result<(Policy, Option<LoadedPolicy>), Failure> {
    let Some(path) = &arguments.policy else {
        // Who asks for threads, and has no policy, asks to do without a process.
        let confinement = match arguments.isolation {
            IsolationArg::Process => Confinement::Strict,
            IsolationArg::Thread => Confinement::BestEffort,
        };
        return Ok((Policy { confinement, ..Policy::default() }, None));
    };
    let loaded = Policy::load(path).map_err(Error::from)?;
    let digest = crate::Digest::from(loaded.source.sha256);
    terminal.note(&format!("policy {} (SHA-256 {digest})", shown(&loaded.source.path)));
    Ok((loaded.policy.clone(), Some(loaded)))
}

/// Reads, checks and loads the model.
pub(super) fn load(
    arguments: &ModelArgs,
    store: Store,
    terminal: &Terminal,
) -> Result<Loaded, Failure> {
    // A command runs one thing at a time.
    load_on(&host(arguments.isolation, store, 1, terminal)?, arguments, store, terminal)
}

/// Reads, checks and loads the model on a host that is there already.
pub(super) fn load_on(
    host: &Host,
    arguments: &ModelArgs,
    store: Store,
    terminal: &Terminal,
) -> Result<Loaded, Failure> {
    let (rules, policy) = rules(arguments, terminal)?;
    // The code is checked, and a worker started, while the model is read. Should that fail, then
    // so does whoever needs it, and says why.
    let warm = std::thread::spawn({
        let (host, rules) = (host.clone(), rules.clone());
        move || host.warm_up(&rules)
    });
    let start = Instant::now();
    let bytes = read_model(&arguments.model, rules.limits.model_size)?;
    let read_time = start.elapsed();
    let size = bytes.size();
    if store == Store::Unused {
        // Compiling the guest, once for this machine, is no part of any model's time.
        let warm = terminal.progress("starting", || warm.join());
        warm.map_err(|_| Failure::failed("starting failed"))??;
    }
    let start = Instant::now();
    let model = terminal.progress("loading the model", || host.load(bytes, &rules))?;
    Ok(Loaded { host: host.clone(), model, size, policy, read_time, load_time: start.elapsed() })
}

pub(super) fn read_model(path: &Path, limit: u64) -> Result<ModelBytes, Failure> {
    if path == Path::new("-") {
        return Err(Failure::usage("a model cannot be read from standard input")
            .hint("name a file; inputs may come from standard input"));
    }
    ModelBytes::open(path, limit).map_err(|err| {
        let label = path.to_string_lossy();
        match err {
            ModelBytesError::TooLarge { limit } => {
                Error::for_model(&label, crate::Limit::ModelSize { limit }).into()
            }
            other => Error::for_model(&label, ErrorKind::Unreadable(other)).into(),
        }
    })
}
