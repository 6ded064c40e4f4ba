//! The regression gate: compares two builds of `belljar`, in turns.
//!
//! Each model is run by both builds in each round, by `belljar bench`, in an order that alternates.
//! A model has become slower if the median over the rounds of new ÷ old is above [`THRESHOLD`] and
//! it is slower in three quarters of the rounds, *and* a repetition with as many rounds gives the
//! same result. Noise of the machine must therefore hit the same model twice, and only in the turns
//! of one of the builds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::inputs::Case;
use crate::measure::{Samples, turns};
use crate::options::{Against, Options};
use crate::peers::belljar::Folders;
use crate::report::{digits, line, rule};
use crate::say;

/// The ratio above which a model is slower: smaller differences occur between two builds of the
/// same sources.
const THRESHOLD: f64 = 1.05;

/// Rounds.
const ROUNDS: usize = 11;
const QUICK: usize = 5;

/// A build of Belljar, run by its command line.
pub(crate) struct Build<'a> {
    pub(crate) program: &'a Path,
    pub(crate) policy: Option<&'a Path>,
}

/// The times of one model.
struct Compared {
    new: Samples,
    old: Samples,
}

impl Compared {
    fn ratios(&self) -> Samples {
        Samples(self.new.0.iter().zip(&self.old.0).map(|(new, old)| new / old).collect())
    }

    fn slower(&self) -> bool {
        let ratios = self.ratios();
        ratios.median() > THRESHOLD && ratios.quartile() > 1.0
    }
}

/// Compares the builds, prints a table, and fails if a model has become slower.
pub(crate) fn against(options: &Options, cases: &[Case], wanted: &Against) -> Result<()> {
    let new = Build { program: &options.belljar, policy: wanted.policy.as_deref() };
    let old = Build { program: &wanted.program, policy: wanted.old_policy.as_deref() };
    let folders = Folders::of(&options.root);
    let rounds = if options.quick { QUICK } else { ROUNDS };
    for build in [&new, &old] {
        let help = Command::new(build.program).args(["bench", "--help"]).output();
        if !help.is_ok_and(|help| help.status.success()) {
            bail!("{} has no `bench` command; compare with a newer build", build.program.display());
        }
    }
    let head = ["model", "new (ms)", "old (ms)", "new ÷ old", ""].map(str::to_owned);
    let mut text = line(head.into_iter()) + &rule(4);
    let mut slower = Vec::new();
    for case in cases {
        let mut found = compare(&new, &old, case, &folders, rounds)?;
        if found.slower() {
            say(format!("{}: slower; measuring again", case.name));
            found = compare(&new, &old, case, &folders, rounds)?;
        }
        let ratios = found.ratios();
        let (low, high) = (digits(ratios.min()), digits(ratios.max()));
        let cells = [
            case.name.clone(),
            digits(found.new.median()),
            digits(found.old.median()),
            format!("{:.3} ({low}–{high})", ratios.median()),
            if found.slower() { "slower".to_owned() } else { String::new() },
        ];
        text += &line(cells.into_iter());
        say(format!("{}: {rounds} rounds, new ÷ old {:.3}", case.name, ratios.median()));
        if found.slower() {
            slower.push(format!("{} ({:.2} ×)", case.name, ratios.median()));
        }
    }
    print!("{text}");
    if !slower.is_empty() {
        bail!("slower than {}: {}", wanted.program.display(), slower.join(", "));
    }
    Ok(())
}

fn compare(
    new: &Build<'_>,
    old: &Build<'_>,
    case: &Case,
    folders: &Folders,
    rounds: usize,
) -> Result<Compared> {
    let once = old.warm(case, folders, 3)?;
    let iterations = turns(Duration::from_secs_f64(once / 1e3)).clamp(5, 100);
    let mut found = Compared { new: Samples::default(), old: Samples::default() };
    for round in 0..rounds {
        let take = |build: &Build<'_>, samples: &mut Samples| -> Result<()> {
            samples.0.push(build.warm(case, folders, iterations)?);
            Ok(())
        };
        if round % 2 == 0 {
            take(old, &mut found.old)?;
            take(new, &mut found.new)?;
        } else {
            take(new, &mut found.new)?;
            take(old, &mut found.old)?;
        }
    }
    Ok(found)
}

impl Build<'_> {
    /// The median of some warm runs, in ms.
    fn warm(&self, case: &Case, folders: &Folders, iterations: usize) -> Result<f64> {
        median(&self.bench(case, folders, iterations)?)
            .with_context(|| format!("{} on {}", self.program.display(), case.name))
    }

    /// What `belljar bench` prints about some warm runs.
    pub(crate) fn bench(&self, case: &Case, folders: &Folders, iterations: usize) -> Result<Value> {
        let mut command = self.command("bench", case, folders);
        command.args(["--format", "json", "--iterations", &iterations.to_string()]);
        serde_json::from_slice(&self.finish(command, case)?)
            .with_context(|| format!("{} on {}", self.program.display(), case.name))
    }

    /// A command on a model with its inputs.
    pub(crate) fn command(&self, name: &str, case: &Case, folders: &Folders) -> Command {
        let mut command = Command::new(self.program);
        command.arg(name).arg(&case.model);
        for input in &case.inputs {
            let mut value = std::ffi::OsString::from(&input.name);
            value.push("=");
            value.push(&input.file);
            command.arg("--input").arg(value);
        }
        if let Some(policy) = self.policy {
            command.arg("--policy").arg(policy);
        }
        command.arg("--quiet");
        command.env("BELLJAR_CACHE_DIR", &folders.cache).env("BELLJAR_STATE_DIR", &folders.state);
        command
    }

    /// Runs the command: what it printed.
    pub(crate) fn finish(&self, mut command: Command, case: &Case) -> Result<Vec<u8>> {
        let named = || format!("{} on {}", self.program.display(), case.name);
        let output = command.stdin(Stdio::null()).output().with_context(named)?;
        let messages = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{} ended with {}: {}", named(), output.status, messages.trim());
        }
        eprint!("{messages}");
        Ok(output.stdout)
    }
}

/// The median of the warm runs in what `belljar bench` printed, in ms.
pub(crate) fn median(found: &Value) -> Result<f64> {
    let median = found.pointer("/warm_ms/p50").and_then(Value::as_f64);
    median.filter(|median| *median > 0.0).context("no warm_ms.p50")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(new: &[f64], old: &[f64]) -> Compared {
        Compared { new: Samples(new.to_vec()), old: Samples(old.to_vec()) }
    }

    #[test]
    fn a_model_is_slower_if_most_rounds_are_slower() {
        assert!(compared(&[11.0, 11.0, 11.2, 10.9, 30.0], &[10.0; 5]).slower());
        assert!(!compared(&[10.4; 5], &[10.0; 5]).slower(), "below the threshold");
        assert!(!compared(&[10.0; 5], &[11.0; 5]).slower(), "faster");
        assert!(!compared(&[9.0, 9.5, 12.0, 12.0, 12.0], &[10.0; 5]).slower(), "noise");
        // The machine became slower for both.
        assert!(!compared(&[10.0, 20.0, 40.0, 41.0], &[10.0, 20.0, 40.0, 40.0]).slower());
    }
}
