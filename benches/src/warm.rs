//! Runs of a loaded model, on one thread and on two, and the cost of the sandbox around each.

use anyhow::Result;
use belljar::Policy;

use crate::MIB;
use crate::inputs::Case;
use crate::measure::{self, Samples};
use crate::options::Options;
use crate::peers::Peer;
use crate::peers::belljar::{Belljar, Folders, Way};
use crate::peers::process::{ProcessPeer, Program};
use crate::report::{Kind, Table};

/// Rounds.
const WARM: usize = 15;

/// A policy that lets kernels use two threads. Older builds of Belljar do not know the key.
const TWO_THREADS: &str = "version = 1\n[compute]\nthreads = 2\n";

const RUN_NOTE: &str = "From the caller's tensors to the caller's tensors, in a program that has \
    run the model before; for Belljar including all it does to give each run a clean \
    sandbox. The value of a round is the median of its runs, at least three.";

/// The results on one thread.
pub(crate) struct Warm {
    pub(crate) run: Table,
    pub(crate) load: Table,
    pub(crate) around: Table,
    /// Each model's linear memory in Belljar's first configuration, in MiB.
    pub(crate) linear_memory: Vec<Samples>,
    /// Programs and their versions.
    pub(crate) versions: Vec<(String, String)>,
}

/// Belljar in its configurations, and the other runtimes.
pub(crate) fn peers(options: &Options, programs: &[Program]) -> Result<Vec<Box<dyn Peer>>> {
    let folders = Folders::of(&options.root);
    let thread = Way::on_a_thread();
    let deterministic =
        Way { policy: "version = 1\n[compute]\ndeterministic = true\n", ..Way::default() };
    let belljar = |name, way| Belljar::new(name, way, &options.belljar, &folders);
    let process = belljar("Belljar", Way::default())?;
    process.warm()?;
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(process),
        Box::new(belljar("Belljar on a thread", thread)?),
        Box::new(belljar("Belljar, deterministic", deterministic)?),
    ];
    for program in programs {
        peers.push(Box::new(ProcessPeer::new(program.clone())));
    }
    Ok(peers)
}

pub(crate) fn one_thread(
    options: &Options,
    cases: &[Case],
    peers: &mut [Box<dyn Peer>],
) -> Result<Warm> {
    let mut run = table("run", "A run of a loaded model, on one thread", RUN_NOTE, peers);
    let mut load = table(
        "load",
        "Loading",
        "From the file to a model that is optimised for its input shapes; for Belljar including \
         the start of its sandbox and worker, for onnxruntime-web including its own module. \
         Measured once: a rough figure.",
        peers,
    );
    let ours: Vec<usize> =
        (0..peers.len()).filter(|at| peers.get(*at).is_some_and(|p| is_ours(&**p))).collect();
    let name = |at: &usize| peers.get(*at).map_or_else(String::new, |peer| peer.name().to_owned());
    let columns = ours.iter().flat_map(|at| {
        ["instantiate", "reset"].map(|what| (format!("{}: {what}", name(at)), Kind::Detail))
    });
    let mut around = Table {
        id: "around",
        title: "Before and after a run",
        unit: "µs",
        note: "Time to make the instance of a run from the snapshot of the prepared model, and to \
               undo what the run wrote to memory. Both happen after the previous run has its \
               answer, and are part of the figures above only as far as the next request arrives \
               before they are finished. The value of a round is the median of its runs.",
        columns: columns.collect(),
        rows: Vec::new(),
    };
    let mut linear_memory = Vec::new();
    for case in cases {
        let warm = measure::warm(peers, case, options.rounds(WARM))?;
        let memory = warm.memory.first().copied().flatten().map(|bytes| bytes as f64 / MIB);
        linear_memory.push(Samples(memory.into_iter().collect()));
        run.rows.push((case.name.clone(), warm.run));
        load.rows.push((case.name.clone(), warm.load));
        let costs = warm.instantiate.into_iter().zip(warm.reset).enumerate();
        let costs = costs.filter(|(at, _)| ours.contains(at));
        around.rows.push((case.name.clone(), costs.flat_map(|(_, (i, r))| [i, r]).collect()));
    }
    Ok(Warm { run, load, around, linear_memory, versions: versions(peers) })
}

pub(crate) fn two_threads(
    options: &Options,
    cases: &[Case],
    programs: &[Program],
) -> Result<Table> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    if Policy::parse(TWO_THREADS, "two threads").is_ok() {
        let way = Way { policy: TWO_THREADS, ..Way::default() };
        let folders = Folders::of(&options.root);
        peers.push(Box::new(Belljar::new("Belljar", way, &options.belljar, &folders)?));
    }
    for program in programs {
        peers.push(Box::new(ProcessPeer::new(program.on_threads(2))));
    }
    let title = "A run of a loaded model, on two threads";
    let mut run = table("run-two-threads", title, RUN_NOTE, &peers);
    for case in cases {
        let warm = measure::warm(&mut peers, case, options.rounds(WARM))?;
        run.rows.push((case.name.clone(), warm.run));
    }
    Ok(run)
}

fn table(
    id: &'static str,
    title: &'static str,
    note: &'static str,
    peers: &[Box<dyn Peer>],
) -> Table {
    let kind = |peer: &dyn Peer| if is_ours(peer) { Kind::Belljar } else { Kind::Reference };
    let columns = peers.iter().map(|peer| (peer.name().to_owned(), kind(&**peer))).collect();
    Table { id, title, unit: "ms", note, columns, rows: Vec::new() }
}

fn is_ours(peer: &dyn Peer) -> bool {
    peer.name().starts_with("Belljar")
}

fn versions(peers: &[Box<dyn Peer>]) -> Vec<(String, String)> {
    let guest: String = belljar::GuestInfo::embedded().sha256.chars().take(12).collect();
    let mut versions = vec![("guest".to_owned(), guest)];
    for peer in peers {
        // Belljar's configurations are one program.
        if !versions.iter().any(|(name, _)| is_ours(&**peer) && name == "Belljar") {
            versions.push((peer.name().to_owned(), peer.version().to_owned()));
        }
    }
    versions
}
