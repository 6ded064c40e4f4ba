//! Cold start: whole processes, from start to exit, that load one model, run it once and print what
//! it answered. Compiled code is in Belljar's cache and files are in the system's, as on a machine
//! that has done this before.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::inputs::Case;
use crate::measure::{Samples, millis};
use crate::peers::belljar::Folders;
use crate::peers::process::{Program, outputs};
use crate::say;

/// Something that can be started cold.
pub(crate) enum Starter {
    /// Belljar's command line.
    Belljar { program: PathBuf, folders: Folders },
    /// A peer's program.
    Peer(Program),
}

impl Starter {
    pub(crate) fn name(&self) -> &str {
        match self {
            Starter::Belljar { .. } => "Belljar",
            Starter::Peer(program) => program.name,
        }
    }

    /// The command of one start.
    pub(crate) fn command(&self, case: &Case) -> Result<Command> {
        match self {
            Starter::Peer(program) => program.command(case, true),
            Starter::Belljar { program, folders } => Ok(belljar(program, folders, case)),
        }
    }

    /// One start, looked at instead of timed.
    fn check(&self, case: &Case) -> Result<()> {
        let mut command = self.command(case)?;
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("it ended with {}", output.status);
        }
        let printed: Value =
            serde_json::from_slice(&output.stdout).context("what it printed is no JSON")?;
        match self {
            // Its outputs were checked when it was warm, and it may print them in part.
            Starter::Belljar { .. } => Ok(()),
            Starter::Peer(_) => case.check(self.name(), &outputs(&printed)?),
        }
    }
}

fn belljar(program: &Path, folders: &Folders, case: &Case) -> Command {
    let mut command = Command::new(program);
    command.arg("run").arg(&case.model);
    for input in &case.inputs {
        let mut value = OsString::from(&input.name);
        value.push("=");
        value.push(&input.file);
        command.arg("--input").arg(value);
    }
    command.args(["--format", "json"]).stdin(Stdio::null());
    command.env("BELLJAR_CACHE_DIR", &folders.cache).env("BELLJAR_STATE_DIR", &folders.state);
    command
}

/// Times starts, in milliseconds, in the order of the starters.
pub(crate) fn cold(starters: &[Starter], case: &Case, rounds: usize) -> Result<Vec<Samples>> {
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
