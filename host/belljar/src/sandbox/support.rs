//! Reports what affects sandboxes on this machine apart from the kernel's confinement: their speed,
//! and whether Belljar's files on disk exist and are private.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::Access;

use super::code_cache::CodeCache;
use super::dirty_pages::DirtyPages;
use super::engine::Variant;
use super::failure::Failure;
use super::guest::GuestInfo;
use super::setup::{Setup, Work};
use super::store::private::{PrivateError, PrivateFolder};
use super::worker::{LONGEST_START, Worker};
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::process::{Namespaces, WorkerProgram};
use belljar_confine::role::Role;
use belljar_confine::setup::ProcessLimits;
use belljar_confine::support::Finding;
use belljar_kernels::InstructionSet;

/// Findings about the speed of sandboxes.
pub fn findings() -> Vec<Finding> {
    let pages = DirtyPages::new();
    let scans = pages.as_ref().is_some_and(DirtyPages::scans);
    let finding = |present: bool, how: &str| match present {
        true => Ok(how.to_owned()),
        false => Err("not available"),
    };
    let set = InstructionSet::best().name().map(str::to_owned);
    let set = set.ok_or("none that native kernels support");
    vec![
        Finding::new(
            "pagemap",
            finding(pages.is_some(), "shows which pages a run has written"),
            "memory is reset by mapping it again: milliseconds for each run",
        ),
        Finding::new(
            "PAGEMAP_SCAN",
            finding(scans, "lists the written pages directly"),
            "written pages are searched one by one: slower between runs",
        ),
        Finding::new("vector instructions", set, "native kernels take several times as long"),
    ]
}

/// Whether the folders exist and are closed to others. Nothing is created.
pub fn folders(cache: Option<&Path>, state: Option<&Path>) -> Vec<Finding> {
    let [code, snapshots] = ["code", "snapshots"].map(|name| cache.map(|cache| cache.join(name)));
    const CACHE: &str = "BELLJAR_CACHE_DIR";
    const STATE: &str = "BELLJAR_STATE_DIR";
    const REFUSED: &str = "models are refused: users who can write there could add native code";
    const COMPILED: &str = "each run compiles for about 15 s";
    let of_code = |what, path: Option<&Path>, variable, without| match private(path, variable) {
        // Without a folder the code is compiled each time; one that is open to others is an error.
        Err(err) if err.is_open_to_others() => Finding::new(what, Err(err), REFUSED).needed(),
        Err(err) => Finding::new(what, Err(err), without),
        Ok(text) => Finding::new(what, Ok::<_, &str>(text), without).needed(),
    };
    let secret = "each run compiles for about 15 s, and deaths of workers are not stored";
    let mut all = vec![
        of_code("folder of compiled code", code.as_deref(), CACHE, COMPILED),
        of_code("folder of its secret", state, STATE, secret),
        Finding::new(
            "folder of prepared models",
            private(snapshots.as_deref(), CACHE),
            "each run prepares its model",
        ),
    ];
    let there = |path: Option<&Path>| path.is_some_and(Path::exists);
    let usable = all.iter().all(|folder| folder.present) && there(code.as_deref()) && there(state);
    let compiled = || {
        let codes = CodeCache::new(cache, state, None, Arc::new(|_| {}));
        let there = |variant: &Variant| codes.get(*variant, Confinement::Strict).is_ok();
        let (there, missing): (Vec<_>, Vec<_>) = Variant::ALL.into_iter().partition(there);
        let names = |all: &[Variant]| all.iter().map(|v| v.name()).collect::<Vec<_>>().join("; ");
        match missing.is_empty() {
            true => Ok(names(&there)),
            false => Err(format!("missing: {}; `belljar warm` creates it", names(&missing))),
        }
    };
    let code = if usable { compiled() } else { Err("none; `belljar warm` creates it".into()) };
    all.push(Finding::new("compiled code", code, "the first run compiles for about 15 s"));
    all
}

/// Whether a folder can be used: it exists and is private, or it can be created.
fn private(path: Option<&Path>, variable: &'static str) -> Result<String, PrivateError> {
    let path = path.ok_or(PrivateError::Nowhere { variable })?;
    match PrivateFolder::open_existing(path, variable)? {
        Some(_) => Ok(format!("{}, closed to others", path.display())),
        None => {
            let above = path.ancestors().skip(1).find(|above| above.exists());
            let above = above.unwrap_or(Path::new("/"));
            match rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => Ok(format!("{}, not created yet", path.display())),
                Err(err) => {
                    let (path, source) = (path.to_owned(), err.into());
                    Err(PrivateError::Io { path, source, variable })
                }
            }
        }
    }
}

/// The result of starting a worker as a test.
#[derive(Debug)]
pub struct Trial {
    /// Its role.
    pub role: Role,
    /// From the start until it reported that it is confined, or failed.
    pub time: Duration,
    /// Whether it got namespaces.
    pub namespaces: Namespaces,
    /// The layers that it lacks, or why it could not be started.
    pub result: Result<Vec<MissingLayer>, String>,
}

/// Starts a worker of this role, waits until it is confined, and ends it.
pub fn try_worker(program: &WorkerProgram, role: Role, confinement: Confinement) -> Trial {
    let start = Instant::now();
    let mut namespaces = Namespaces::None;
    let mut result = || {
        let mut worker = Worker::spawn(program)?;
        namespaces = worker.process.namespaces();
        let limits = ProcessLimits {
            data: 1 << 30,
            reserved: 0,
            file: 1 << 30,
            cpu: 60,
            threads: 3,
            handles: 0,
        };
        let plan = worker.process.plan(role, confinement, limits);
        let (variant, guest) = (Variant::default(), GuestInfo::embedded().sha256.to_owned());
        let setup = Setup { plan, variant, guest, work: Work::Nothing };
        worker.set_up(&setup, &[])?;
        let missing = worker.await_ready(confinement, LONGEST_START)?;
        Ok::<_, Failure>((missing, start.elapsed()))
    };
    match result() {
        Ok((missing, time)) => Trial { role, time, namespaces, result: Ok(missing) },
        Err(failure) => {
            let time = start.elapsed();
            Trial { role, time, namespaces, result: Err(failure.to_string()) }
        }
    }
}
