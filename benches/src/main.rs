//! Times Belljar beside native runtimes on the same models, in one sitting. Started by
//! `cargo xtask bench`, which builds what is compared.
//!
//! Tables go to standard output, progress to standard error. It fails when something does not run
//! or gives a wrong answer, and never because a machine is slow.

mod cold;
mod inputs;
mod machine;
mod measure;
mod memory;
mod options;
mod peers;
mod report;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use belljar::{GuestInfo, Isolation};

use crate::cold::Starter;
use crate::inputs::Case;
use crate::machine::Machine;
use crate::measure::Samples;
use crate::options::Options;
use crate::peers::Peer;
use crate::peers::belljar::{Belljar, Folders};
use crate::peers::process::{ProcessPeer, Program};
use crate::report::{Kind, Report, Table};

/// Rounds of warm runs, of cold starts, and of looks at memory, which vary least.
const WARM: usize = 15;
const COLD: usize = 9;
const MEMORY: usize = 3;

const MIB: f64 = 1048576.0;

/// A line of progress.
fn say(text: impl AsRef<str>) {
    eprintln!("bench: {}", text.as_ref());
}

fn main() -> ExitCode {
    // Workers are the `belljar` program, never this one.
    let result = Options::parse(std::env::args().skip(1)).and_then(|options| run(&options));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let cases = inputs::cases(&options.root, &options.models)?;
    let mut machine = Machine::look();
    let folders = || Folders::of(&options.root);
    let script = options.root.join("benches/peers/onnxruntime_peer.py");
    let tract = Program::new("tract", &[&options.tract]);
    let onnxruntime = Program::new("onnxruntime", &[&options.python, &script]);

    let belljar = |name, isolation, deterministic| {
        Belljar::new(name, isolation, deterministic, &options.belljar, &folders())
    };
    let process = belljar("Belljar", Isolation::Process, false)?;
    process.warm()?;
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(process),
        Box::new(belljar("Belljar on a thread", Isolation::Thread, false)?),
        Box::new(belljar("Belljar, deterministic", Isolation::Process, true)?),
        Box::new(ProcessPeer::new(tract.clone())),
        Box::new(ProcessPeer::new(onnxruntime.clone())),
    ];
    let (mut tables, linear_memory) = measure_warm(options, &cases, &mut peers)?;
    let versions = versions(&peers);
    // Their processes would only be in the way from here on.
    drop(peers);

    let starters = [
        Starter::Belljar { program: options.cli.clone(), folders: folders() },
        Starter::Peer(tract),
        Starter::Peer(onnxruntime),
    ];
    tables.push(measure_cold(options, &cases, &starters)?);
    tables.push(measure_memory(options, &cases, &starters, &linear_memory)?);

    machine.look_again();
    let report = Report { machine, versions, quick: options.quick, tables };
    if let Some(folder) = options.json.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let json = serde_json::to_string_pretty(&report.json())? + "\n";
    fs::write(&options.json, json).with_context(|| options.json.display().to_string())?;
    say(format!("all figures are in {}", options.json.display()));
    print!("{}", report.markdown());
    Ok(())
}

fn versions(peers: &[Box<dyn Peer>]) -> Vec<(String, String)> {
    let guest: String = GuestInfo::embedded().sha256.chars().take(12).collect();
    let mut versions = vec![("guest".to_owned(), guest)];
    for peer in peers {
        let found = (peer.name().to_owned(), peer.version().to_owned());
        // Belljar's several ways are one program.
        if !versions.iter().any(|(name, _)| found.0.starts_with(name)) {
            versions.push(found);
        }
    }
    versions
}

/// The tables of runs and loads, and each model's linear memory in Belljar's first way.
fn measure_warm(
    options: &Options,
    cases: &[Case],
    peers: &mut [Box<dyn Peer>],
) -> Result<(Vec<Table>, Vec<Samples>)> {
    let columns = |peers: &[Box<dyn Peer>]| -> Vec<(String, Kind)> {
        let kind = |peer: &dyn Peer| match peer.name().starts_with("Belljar") {
            true => Kind::Ours,
            false => Kind::Reference,
        };
        peers.iter().map(|peer| (peer.name().to_owned(), kind(&**peer))).collect()
    };
    let mut run = Table {
        id: "run",
        title: "A run of a loaded model",
        unit: "ms",
        note: "From the caller's tensors to the caller's tensors, in a program that has run the \
               model before; for Belljar with all it does to give each run a clean sandbox. Each \
               round gives the median of its runs, at least three.",
        columns: columns(peers),
        rows: Vec::new(),
    };
    let mut load = Table {
        id: "load",
        title: "Loading",
        unit: "ms",
        note: "From the file to a model that is optimised for its input shapes; for Belljar with \
               the start of its sandbox and its worker. Measured once: a rough figure.",
        columns: columns(peers),
        rows: Vec::new(),
    };
    let mut linear_memory = Vec::new();
    for case in cases {
        let warm = measure::warm(peers, case, options.rounds(WARM))?;
        let memory = warm.memory.first().copied().flatten().map(|bytes| bytes as f64 / MIB);
        linear_memory.push(Samples(memory.into_iter().collect()));
        run.rows.push((case.name.clone(), warm.run));
        load.rows.push((case.name.clone(), warm.load));
    }
    Ok((vec![run, load], linear_memory))
}

fn measure_cold(options: &Options, cases: &[Case], starters: &[Starter]) -> Result<Table> {
    let mut rows = Vec::new();
    for case in cases {
        rows.push((case.name.clone(), cold::cold(starters, case, options.rounds(COLD))?));
    }
    Ok(Table {
        id: "cold",
        title: "Cold start",
        unit: "ms",
        note: "A whole process from start to exit: load, one run, outputs printed as JSON. \
               `belljar run` with its compiled code in the cache; a minimal program with tract; \
               Python importing onnxruntime.",
        columns: starters.iter().map(column).collect(),
        rows,
    })
}

fn column(starter: &Starter) -> (String, Kind) {
    let kind = match starter {
        Starter::Belljar { .. } => Kind::Ours,
        Starter::Peer(_) => Kind::Reference,
    };
    (starter.name().to_owned(), kind)
}

fn measure_memory(
    options: &Options,
    cases: &[Case],
    starters: &[Starter],
    linear_memory: &[Samples],
) -> Result<Table> {
    let mut columns: Vec<_> = starters.iter().map(column).collect();
    let details = ["Belljar's supervisor", "Belljar's worker", "linear memory", "model file"];
    columns.extend(details.map(|detail| (detail.to_owned(), Kind::Detail)));
    let mut rows = Vec::new();
    for (case, linear) in cases.iter().zip(linear_memory) {
        let mut sums = vec![Samples::default(); starters.len()];
        let (mut supervisor, mut worker) = (Samples::default(), Samples::default());
        for _ in 0..options.rounds(MEMORY) {
            for (starter, samples) in starters.iter().zip(&mut sums) {
                let named = || format!("{} on {}", starter.name(), case.name);
                let peak = memory::peak(starter.command(case)?).with_context(named)?;
                samples.0.push(peak.sum() as f64 / MIB);
                if let Starter::Belljar { .. } = starter {
                    supervisor.0.push(peak.first as f64 / MIB);
                    worker.0.push(peak.others as f64 / MIB);
                }
            }
        }
        let file = Samples(vec![case.model_size()? as f64 / MIB]);
        sums.extend([supervisor, worker, linear.clone(), file]);
        rows.push((case.name.clone(), sums));
    }
    say("looked at memory");
    Ok(Table {
        id: "memory",
        title: "Peak memory of a cold start",
        unit: "MiB",
        note: "Peak resident memory (VmHWM) of the processes of a cold start; for Belljar the \
               peaks of supervisor and worker added up, so that pages they share count twice. Not \
               in it: memory files that no process maps, of which Belljar has one with the \
               model's bytes. Linear memory is the size of the sandbox's own, which counts in \
               the worker as far as it was touched.",
        columns,
        rows,
    })
}
