//! Cold start: whole processes, from start to exit, that load one model, run it once and print its
//! outputs. Compiled code is in Belljar's cache and files are in the system's page cache, as on a
//! machine that has done this before.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::inputs::Case;
use crate::measure::{Samples, millis};
use crate::options::Options;
use crate::peers::belljar::Folders;
use crate::peers::process::{Program, outputs};
use crate::report::{Kind, Table};
use crate::say;

/// A program that can be started cold.
pub(crate) enum Starter {
    /// Belljar's command line, with its folders.
    Belljar {
        name: &'static str,
        program: PathBuf,
        folders: Folders,
        more: &'static [&'static str],
    },
    /// A peer's program.
    Peer(Program),
}

/// Rounds of cold starts, and of first starts.
const COLD: usize = 9;
const FIRST: usize = 3;

impl Starter {
    pub(crate) fn column(&self) -> (String, Kind) {
        let kind = match self {
            Starter::Belljar { .. } => Kind::Belljar,
            Starter::Peer(_) => Kind::Reference,
        };
        (self.name().to_owned(), kind)
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Starter::Belljar { name, .. } => name,
            Starter::Peer(program) => program.name,
        }
    }

    /// The command of one start.
    pub(crate) fn command(&self, case: &Case) -> Result<Command> {
        match self {
            Starter::Peer(program) => program.command(case, true),
            Starter::Belljar { program, folders, more, .. } => {
                let mut command = run(program, folders, case);
                command.args(["--format", "json"]).args(*more);
                Ok(command)
            }
        }
    }

    /// One start, checked instead of timed.
    fn check(&self, case: &Case) -> Result<()> {
        let mut command = self.command(case)?;
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("the process ended with {}", output.status);
        }
        let printed: Value =
            serde_json::from_slice(&output.stdout).context("the output is not JSON")?;
        match self {
            // Its outputs are checked in the warm runs, and it may print only a part of them.
            Starter::Belljar { .. } => Ok(()),
            Starter::Peer(_) => case.check(self.name(), &outputs(&printed)?),
        }
    }
}

/// A `belljar` command for the model.
fn belljar(program: &Path, folders: &Folders, order: &str, case: &Case) -> Command {
    let mut command = Command::new(program);
    command.arg(order).arg(&case.model).stdin(Stdio::null());
    command.env("BELLJAR_CACHE_DIR", &folders.cache).env("BELLJAR_STATE_DIR", &folders.state);
    command
}

fn run(program: &Path, folders: &Folders, case: &Case) -> Command {
    let mut command = belljar(program, folders, "run", case);
    for input in &case.inputs {
        let mut value = OsString::from(&input.name);
        value.push("=");
        value.push(&input.file);
        command.arg("--input").arg(value);
    }
    command
}

/// Prepares the model ahead for the shapes of its inputs.
fn prepare(program: &Path, folders: &Folders, case: &Case) -> Command {
    let mut command = belljar(program, folders, "prepare", case);
    for input in &case.inputs {
        let dims: Vec<String> = input.tensor.shape().iter().map(usize::to_string).collect();
        command.arg("--input-shape").arg(format!("{}={}", input.name, dims.join(",")));
    }
    command
}

/// All programs that are started cold: Belljar, Belljar with models prepared ahead if this build
/// supports it, and the peers.
pub(crate) fn starters(
    options: &Options,
    cases: &[Case],
    peers: &[Program],
) -> Result<Vec<Starter>> {
    let (program, folders) = (&options.cli, Folders::of(&options.root));
    let starter =
        |name, folders, more| Starter::Belljar { name, program: program.clone(), folders, more };
    let mut starters = Vec::new();
    if can_prepare(program) {
        // A separate cache, so that the other starts do not find the prepared models.
        let prepared =
            Folders { cache: options.root.join("target/bench/prepared"), ..folders.clone() };
        let mut warm = Command::new(program);
        warm.env("BELLJAR_CACHE_DIR", &prepared.cache).env("BELLJAR_STATE_DIR", &prepared.state);
        succeed(warm.arg("warm")).context("compiling ahead")?;
        for case in cases {
            succeed(&mut prepare(program, &prepared, case))
                .with_context(|| format!("preparing {} ahead", case.name))?;
        }
        starters.push(starter("Belljar", folders, &["--no-store"]));
        starters.push(starter("Belljar, prepared", prepared, &[]));
    } else {
        starters.push(starter("Belljar", folders, &[]));
    }
    starters.extend(peers.iter().cloned().map(Starter::Peer));
    Ok(starters)
}

fn can_prepare(program: &Path) -> bool {
    let mut help = Command::new(program);
    help.args(["prepare", "--help"]).stdout(Stdio::null()).stderr(Stdio::null());
    help.status().is_ok_and(|status| status.success())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("the process ended with {status}");
    }
    Ok(())
}

pub(crate) fn table(options: &Options, cases: &[Case], starters: &[Starter]) -> Result<Table> {
    let mut rows = Vec::new();
    for case in cases {
        rows.push((case.name.clone(), cold(starters, case, options.rounds(COLD))?));
    }
    Ok(Table {
        id: "cold",
        title: "Cold start",
        unit: "ms",
        note: "A whole process from start to exit: load, one run, outputs printed as JSON. \
               `belljar run` with its compiled code in the cache, and, if the build has \
               `belljar prepare`, with the model prepared ahead; a minimal program with tract; \
               Python importing onnxruntime; node importing onnxruntime-web.",
        columns: starters.iter().map(Starter::column).collect(),
        rows,
    })
}

/// The very first start: nothing in the cache, so that the guest is compiled too.
pub(crate) fn first(options: &Options, cases: &[Case]) -> Result<Table> {
    // Compiling takes nearly all of the time, whatever the model.
    let case = cases.first().context("no model is selected")?;
    let rounds = if options.quick { 1 } else { FIRST };
    let folder = options.root.join("target/bench/first");
    let mut samples = Samples::default();
    for _ in 0..rounds {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        let folders = Folders { cache: folder.join("cache"), state: folder.join("state") };
        let mut command = run(&options.cli, &folders, case);
        command.stderr(Stdio::null());
        let start = Instant::now();
        succeed(&mut command).context("a first start")?;
        samples.0.push(start.elapsed().as_secs_f64());
    }
    say(format!("{}: {rounds} first starts", case.name));
    Ok(Table {
        id: "first",
        title: "First start",
        unit: "s",
        note: "`belljar run` as a whole process with an empty cache: the guest is compiled for \
               this machine, on all its cores, which happens once.",
        columns: vec![("Belljar".to_owned(), Kind::Belljar)],
        rows: vec![(case.name.clone(), vec![samples])],
    })
}

/// Times starts, in milliseconds, in the order of the starters.
fn cold(starters: &[Starter], case: &Case, rounds: usize) -> Result<Vec<Samples>> {
    let named = |starter: &Starter| format!("a cold start of {} on {}", starter.name(), case.name);
    for starter in starters {
        starter.check(case).with_context(|| named(starter))?;
    }
    let mut all = vec![Samples::default(); starters.len()];
    let begun = Instant::now();
    for _ in 0..rounds {
        for (starter, samples) in starters.iter().zip(&mut all) {
            let mut command = starter.command(case)?;
            command.stdout(Stdio::null());
            let start = Instant::now();
            let status = command.status().with_context(|| named(starter))?;
            samples.0.push(millis(start.elapsed()));
            if !status.success() {
                bail!("{} ended with {status}", named(starter));
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(format!("{}: {rounds} rounds of cold starts in {seconds:.0} s", case.name));
    Ok(all)
}
