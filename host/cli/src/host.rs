//! Builds the host for the command line, reports its events, and loads the model.

use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{IsolationArg, ModelArgs};
use super::dims;
use super::failure::{Failure, shown};
use super::terminal::Terminal;
use belljar::internals::{Decision, Subject, Verdict, decide};
use belljar::{
    Confinement, Digest, Event, Host, HostBuilder, Isolation, Model, ModelBytes, ModelBytesError,
};
use belljar::{Error, ErrorKind};
use belljar_policy::{Cut, Effective, LoadedPolicy, Policy};
use belljar_text::Escaped;

/// The loaded model.
pub(super) struct Loaded {
    pub(super) host: Host,
    pub(super) model: Model,
    pub(super) size: u64,
    /// The policy and its file; none for the default policy.
    pub(super) policy: Option<LoadedPolicy>,
    /// What the ceilings reduced in it.
    pub(super) cuts: Vec<Cut>,
    pub(super) read_time: Duration,
    pub(super) load_time: Duration,
}

/// The effective policy, and the policy file it came from, if there was one.
pub(super) type Rules = (Effective, Option<LoadedPolicy>);

/// Whether prepared models are kept on disk and used from there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    Used,
    Unused,
    /// Used by `belljar prepare`: the amount written is not limited.
    Filled,
}

/// A host for commands without a model or without a policy file.
pub(super) fn host(
    isolation: IsolationArg,
    store: Store,
    idle: usize,
    terminal: &Terminal,
) -> Result<Host, Failure> {
    Ok(builder(isolation, store, idle, terminal).build()?)
}

/// A host for a model. `idle` is how many of its sandboxes are kept: one for each concurrent
/// request.
pub(super) fn host_for(
    arguments: &ModelArgs,
    store: Store,
    idle: usize,
    terminal: &Terminal,
) -> Result<Host, Failure> {
    // A mistake is reported before anything takes time.
    dims::parse(&arguments.dims)?;
    let mut builder = builder(arguments.isolation, store, idle, terminal);
    if let Some(path) = &arguments.decisions {
        builder = builder.decisions(path);
    }
    let host = builder.refuse_excess(arguments.strict_policy).build()?;
    // Checked first because it is fast: without the state folder no model is run.
    belljar::internals::check_state(&host)?;
    Ok(host)
}

pub(super) fn builder(
    isolation: IsolationArg,
    store: Store,
    idle: usize,
    terminal: &Terminal,
) -> HostBuilder {
    let isolation = match isolation {
        IsolationArg::Process => Isolation::Process,
        IsolationArg::Thread => Isolation::Thread,
    };
    let terminal = terminal.clone();
    let listener = move |event| report(event, &terminal);
    let builder = Host::builder().isolation(isolation).idle_sandboxes(idle).on_event(listener);
    builder.snapshot_store(store != Store::Unused).snapshot_store_metered(store != Store::Filled)
}

/// Prints an event of a host.
pub(super) fn report(event: Event, terminal: &Terminal) {
    match event {
        Event::Compiling { variant } => terminal.compiling(variant),
        Event::Compiled => terminal.note("compiled"),
        Event::CodeRefused { path, why } => {
            let path = shown(&path);
            terminal.warn(&format!("ignoring and replacing {path}: {}", Escaped::new(&why)));
        }
        Event::SnapshotRefused { path, why } => {
            let path = shown(&path);
            terminal.warn(&format!("ignoring {path}: {}", Escaped::new(&why)));
        }
        Event::SnapshotStored { path } => terminal.note(&format!("stored {}", shown(&path))),
        Event::SnapshotNotStored { path, why, unusable } => {
            let text = format!("{} was not stored: {}", shown(&path), Escaped::new(&why));
            match unusable {
                true => terminal.warn(&format!("{text}; --no-store disables the store")),
                false => terminal.note(&text),
            }
        }
        Event::WaitingForCompiler => terminal.waiting_for_compiler(),
        Event::CodeNotKept { why } => terminal.warn(&format!(
            "cannot cache the compiled sandboxed runner, so each run compiles it again: {}",
            Escaped::new(&why)
        )),
        Event::NothingKept { why } => terminal.warn(&format!(
            "cannot store prepared models, or count the workers that models kill: {}; --no-store \
             disables the store",
            Escaped::new(&why)
        )),
        Event::MemoryOvercommitted { claimed, there, what } => terminal.warn(&format!(
            "all sandboxes together may use {} MiB of memory (`limits.memory`), but only {} MiB \
             are available ({}); the kernel kills workers when memory runs out: lower \
             `limits.memory`, or provide more memory",
            claimed >> 20,
            there >> 20,
            Escaped::new(&what)
        )),
        Event::LayerMissing { layer, why } => {
            let (layer, why) = (layer.name(), Escaped::new(&why));
            terminal.warn(&format!("workers run without {layer}: {why}"));
        }
        Event::PolicyCut(cut) => terminal.warn(&cut.to_string()),
        Event::Quarantined(quarantined) => {
            terminal.warn(&format!("{}: {quarantined}", Escaped::cut(&quarantined.label, 100)));
        }
        Event::QuarantineNotStored { why } => terminal.warn(&format!(
            "cannot record the death of a worker process, so other processes will not count it: {}",
            Escaped::new(&why)
        )),
        Event::ShapeDiffers { model, difference } => terminal.remark(&format!(
            "{}: {difference}; the output is returned unchanged (`declared-shapes = \"strict\"` in \
             a policy refuses it)",
            Escaped::cut(&model, 100)
        )),
        Event::Printed { error, line, .. } => {
            terminal.printed(error, &Escaped::new(&line).to_string());
        }
        Event::Log { line, .. } => terminal.note(&format!("runner: {}", Escaped::new(&line))),
        // The library may report more than this program knows.
        event => terminal.note(&Escaped::new(&format!("{event:?}")).to_string()),
    }
}

/// The named policy with its file, or the default policy, each reduced to the ceilings.
pub(super) fn rules(
    host: &Host,
    arguments: &ModelArgs,
    terminal: &Terminal,
) -> Result<Rules, Failure> {
    let Some(path) = &arguments.policy else {
        // `--isolation thread` without a policy is a request to run without a worker process.
        let confinement = match arguments.isolation {
            IsolationArg::Process => Confinement::Strict,
            IsolationArg::Thread => Confinement::BestEffort,
        };
        let policy = Policy::default().with_confinement(confinement);
        return Ok((host.effective(&policy)?, None));
    };
    let loaded = Policy::load(path).map_err(Error::from)?;
    let digest = Digest::from(loaded.source.sha256);
    terminal.note(&format!("policy {} (SHA-256 {digest})", shown(&loaded.source.path)));
    Ok((host.effective(&loaded.policy)?, Some(loaded)))
}

/// Reads, checks and loads the model.
pub(super) fn load(
    arguments: &ModelArgs,
    store: Store,
    terminal: &Terminal,
) -> Result<Loaded, Failure> {
    // A command runs one thing at a time.
    let host = host_for(arguments, store, 1, terminal)?;
    let rules = rules(&host, arguments, terminal)?;
    load_on(&host, rules, arguments, store, terminal)
}

/// Reads, checks and loads the model on an existing host.
pub(super) fn load_on(
    host: &Host,
    (rules, policy): Rules,
    arguments: &ModelArgs,
    store: Store,
    terminal: &Terminal,
) -> Result<Loaded, Failure> {
    // The code is checked and a worker started while the model is read. If this fails, the first
    // use of the worker fails too and reports why.
    let warm = std::thread::Builder::new().name("belljar-warm-up".into()).spawn({
        let (host, rules) = (host.clone(), rules.clone());
        move || host.warm_up(&rules)
    });
    let start = Instant::now();
    let bytes = read_model(&arguments.model, rules.limits.model_size)
        .inspect_err(|failure| note_too_large(host, None, &rules, "limits.model-size", failure))?;
    let read_time = start.elapsed();
    let size = bytes.size();
    if store == Store::Unused {
        // The guest is compiled once for this machine; that time is not counted as the model's.
        let warm = terminal.progress("starting", || match warm {
            Ok(thread) => thread.join(),
            // If no thread can be started, warm up on this one.
            Err(_) => Ok(host.warm_up(&rules)),
        });
        warm.map_err(|_| {
            Failure::failed("starting the sandboxed runner failed: its thread panicked")
        })??;
    }
    let start = Instant::now();
    let model = terminal.progress("loading the model", || host.load(bytes, &rules))?;
    let model = dims::fixed(model, &arguments.dims)?;
    let (host, load_time, cuts) = (host.clone(), start.elapsed(), rules.cuts().to_vec());
    Ok(Loaded { host, model, size, policy, cuts, read_time, load_time })
}

/// Logs the refusal of a file that is too large. File sizes are checked here while reading, before
/// the library sees the file, so the library cannot log them.
pub(super) fn note_too_large(
    host: &Host,
    model: Option<Digest>,
    policy: &Policy,
    resource: &str,
    failure: &Failure,
) {
    if failure.is_limit() {
        let subject = Subject { model, policy: policy.file_sha256().map(Digest::from) };
        let (access, verdict, rule) = ("use more", Verdict::Refused, &failure.to_string());
        // The file is refused even if the decision cannot be logged.
        let _ = decide(host, &Decision { subject, resource, access, verdict, rule });
    }
}

pub(super) fn read_model(path: &Path, limit: u64) -> Result<ModelBytes, Failure> {
    if path == Path::new("-") {
        return Err(Failure::usage("a model cannot be read from standard input")
            .hint("give a file; only inputs may come from standard input"));
    }
    ModelBytes::open(path, limit).map_err(|err| {
        let label = path.to_string_lossy();
        match err {
            ModelBytesError::TooLarge { limit } => {
                Error::for_model(&label, belljar::Limit::ModelSize { limit }).into()
            }
            other => Error::for_model(&label, ErrorKind::Unreadable(other)).into(),
        }
    })
}
