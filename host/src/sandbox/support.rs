//! What this machine offers to sandboxes, beside the kernel's confinement: how fast they can be, and
//! whether what Belljar keeps on disk is there and nobody else's.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::code_cache::CodeCache;
use super::engine::Variant;
use super::failure::Failure;
use super::guest::GuestInfo;
use super::kernels::InstructionSet;
use super::serve::{Setup, Work};
use super::store::private::PrivateFolder;
use super::worker::{LONGEST_START, Worker};
use super::written::WrittenPages;
use crate::confine::layers::{Confinement, MissingLayer};
use crate::confine::process::{Namespaces, WorkerProgram};
use crate::confine::role::Role;
use crate::confine::setup::ProcessLimits;
use crate::confine::support::Finding;

/// What makes sandboxes fast or slow.
pub(crate) fn findings() -> Vec<Finding> {
    let pages = WrittenPages::new();
    let scans = pages.as_ref().is_some_and(WrittenPages::scans);
    let tells = |tells: bool, how: &str| match tells {
        true => Ok(how.to_owned()),
        false => Err("the kernel does not tell"),
    };
    let set = match InstructionSet::best() {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => Ok("AVX-512".to_owned()),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2Fma => Ok("AVX2 and FMA".to_owned()),
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => Ok("NEON".to_owned()),
        InstructionSet::Portable => Err("none that native kernels are written for"),
    };
    vec![
        Finding::new(
            "pagemap",
            tells(pages.is_some(), "tells which pages a run wrote"),
            "memory is made pristine by mapping it anew: milliseconds for each run",
        ),
        Finding::new(
            "PAGEMAP_SCAN",
            tells(scans, "tells it at once"),
            "written pages are looked for one by one: slower between runs",
        ),
        Finding::new("vector instructions", set, "native kernels take several times as long"),
    ]
}

/// Whether the folders are there, and closed to others. Nothing is made.
pub(crate) fn folders(cache: &Path, state: &Path) -> Vec<Finding> {
    let (code, images) = (cache.join("code"), cache.join("images"));
    let private = |path: &Path, variable| match path.symlink_metadata() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            Ok(format!("{}, not made yet", path.display()))
        }
        _ => match PrivateFolder::open(path, variable) {
            Ok(_) => Ok(format!("{}, closed to others", path.display())),
            Err(err) => Err(err.to_string()),
        },
    };
    let finding =
        |what, path: &Path, variable, without| Finding::new(what, private(path, variable), without);
    const CACHE: &str = "BELLJAR_CACHE_DIR";
    const REFUSED: &str = "models are refused: whoever can write there could put in native code";
    let mut all = vec![
        finding("folder of compiled code", &code, CACHE, REFUSED).needed(),
        finding("folder of its secret", state, "BELLJAR_STATE_DIR", REFUSED).needed(),
        finding("folder of prepared models", &images, CACHE, "each run prepares its model"),
    ];
    let usable = all.iter().all(|folder| folder.present) && code.exists() && state.exists();
    let compiled = || {
        let codes = CodeCache::new(cache, state, None, Arc::new(|_| {}));
        let there = |variant: &Variant| codes.get(*variant, Confinement::Strict).is_ok();
        let (there, missing): (Vec<_>, Vec<_>) = Variant::ALL.into_iter().partition(there);
        let names = |all: &[Variant]| all.iter().map(|v| v.name()).collect::<Vec<_>>().join("; ");
        match missing.is_empty() {
            true => Ok(names(&there)),
            false => Err(format!("not there: {}; `belljar warm` makes it", names(&missing))),
        }
    };
    let code = if usable { compiled() } else { Err("none; `belljar warm` makes it".into()) };
    all.push(Finding::new("compiled code", code, "the first run compiles for some 15 s"));
    all
}

/// What became of a worker that was started only to see.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) role: Role,
    /// From the order to start it until it said that it is confined, or failed.
    pub(crate) time: Duration,
    pub(crate) namespaces: Namespaces,
    /// The layers that it lacks, or why it is none.
    pub(crate) result: Result<Vec<MissingLayer>, Failure>,
}

/// Starts a worker of this role, has it confined, and ends it.
pub(crate) fn try_worker(program: &WorkerProgram, role: Role, confinement: Confinement) -> Trial {
    let start = Instant::now();
    let mut namespaces = Namespaces::None;
    let mut result = || {
        let mut worker = Worker::spawn(program)?;
        namespaces = worker.process.namespaces();
        let limits =
            ProcessLimits { data: 1 << 30, file: 1 << 30, cpu: 60, threads: 3, handles: 0 };
        let plan = worker.process.plan(role, confinement, limits);
        let (variant, guest) = (Variant::default(), GuestInfo::embedded().sha256.to_owned());
        let setup = Setup { plan, variant, guest, work: Work::Nothing };
        worker.set_up(&setup, &[])?;
        let missing = worker.await_ready(confinement, LONGEST_START)?;
        Ok((missing, start.elapsed()))
    };
    match result() {
        Ok((missing, time)) => Trial { role, time, namespaces, result: Ok(missing) },
        Err(failure) => Trial { role, time: start.elapsed(), namespaces, result: Err(failure) },
    }
}
