//! Fuzzing by libFuzzer, guided by coverage, with the compiler at hand: no nightly is needed for
//! that, only for its address sanitizer.
//!
//! What a run finds worth keeping stays under `target/fuzz`; what is committed is a small selection
//! of it, under `tests/fuzz/corpus`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::run::{self, say};
use crate::setup;

const FAST: [&str; 5] = ["host_side", "guest_side", "kernels", "tensors", "policy"];

/// The one that needs a part of wasmtime and works on real files: left out of what is run every day.
const SLOW: &str = "files";

/// Executions of each target, where nothing else is said: half a minute for all.
const RUNS: u64 = 20_000;

/// What the compiler adds so that libFuzzer sees which code an input reached, as cargo-fuzz has it.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// What is run: `[TARGET …] [--runs N] [--seed N]`.
pub(crate) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let (mut wanted, mut runs, mut seed) = (Vec::new(), RUNS, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let number = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            number.parse().with_context(|| format!("{argument} {number}"))
        };
        match *argument {
            "--runs" => runs = number()?,
            "--seed" => seed = Some(number()?),
            target if target == SLOW || FAST.contains(&target) => wanted.push(target),
            other => bail!("{other} is no target; there are {} and {SLOW}", FAST.join(", ")),
        }
    }
    if wanted.is_empty() {
        wanted.extend(FAST);
    }
    targets(repo, &wanted, runs, seed)
}

/// Every target, for so many executions; the one that works on real files, for a tenth of them.
pub(crate) fn all(repo: &Repo, runs: u64) -> Result<()> {
    targets(repo, &FAST, runs, None)?;
    targets(repo, &[SLOW], runs / 10, None)
}

fn targets(repo: &Repo, wanted: &[&str], runs: u64, seed: Option<u64>) -> Result<()> {
    let built = build(repo, wanted)?;
    for target in wanted {
        say(format!("fuzzing {target}: {runs} executions"));
        one(repo, &built, target, runs, seed).with_context(|| format!("fuzzing {target}"))?;
    }
    Ok(())
}

/// Builds the targets; the folder in which they are.
fn build(repo: &Repo, wanted: &[&str]) -> Result<PathBuf> {
    say("building the fuzz targets (1 minute the first time, 3 with `files`)");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let made = repo.target().join("fuzz/build");
    let mut cargo = setup::cargo(repo);
    cargo.args(["build", "--release", "--locked", "--target", &triple]);
    cargo.arg("--manifest-path").arg(repo.root().join("tests/fuzz/Cargo.toml"));
    if wanted.contains(&SLOW) {
        cargo.args(["--features", "programs"]);
    }
    for target in wanted {
        cargo.args(["--bin", target]);
    }
    cargo.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &made);
    run::run(&mut cargo).context("building the fuzz targets; they need a C++ compiler")?;
    Ok(made.join(triple).join("release"))
}

fn one(
    repo: &Repo,
    built: &std::path::Path,
    target: &str,
    runs: u64,
    seed: Option<u64>,
) -> Result<()> {
    let fuzz = repo.root().join("tests/fuzz");
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = repo.target().join("fuzz").join(name).join(target);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    };
    let (kept, findings) = (folder("corpus")?, folder("findings")?);
    let mut command = Command::new(built.join(target));
    // New inputs go into the first folder.
    command.arg(&kept).arg(fuzz.join("corpus").join(target));
    if target == "policy" {
        command.arg(repo.root().join("policies"));
        command.arg(format!("-dict={}", fuzz.join("policy.dict").display()));
    }
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    command.args([format!("-runs={runs}"), "-timeout=20".into(), "-rss_limit_mb=2048".into()]);
    command.arg("-print_final_stats=1");
    if let Some(seed) = seed {
        command.arg(format!("-seed={seed}"));
    }
    let output =
        command.output().with_context(|| format!("starting `{}`", run::shown(&command)))?;
    // It tells of every step, which is of use only when one failed.
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}\n{told}{}", run::shown(&command), output.status);
    }
    let stat = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |number| number.trim_start_matches(':').trim()).to_owned()
    };
    let (executed, new) = (stat("number_of_executed_units"), stat("new_units_added"));
    println!("{target}: {executed} executions without a finding; {new} reached something new");
    Ok(())
}
