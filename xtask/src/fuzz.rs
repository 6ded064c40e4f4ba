//! Coverage-guided fuzzing by libFuzzer with the current compiler. The address sanitizer comes with
//! every compiler, but stable ones accept its flag only with `RUSTC_BOOTSTRAP`.
//!
//! New inputs stay under `target/fuzz`; a small selection of them is committed under
//! `tests/fuzz/corpus`.

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::guest;
use crate::run::{self, say};
use crate::setup;

const TARGETS: [&str; 6] = ["host_side", "guest_side", "kernels", "tensors", "policy", "files"];

/// The target that works on real files, and needs a part of wasmtime. It gets a tenth of the
/// executions of the others.
const SLOW: &str = "files";

/// The default number of executions of each target: a minute for all.
const RUNS: u64 = 20_000;

/// Flags that instrument code for libFuzzer's coverage, the same as cargo-fuzz's.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// The only target with `unsafe` code behind it.
const UNSAFE: &str = "kernels";

/// What a run detects in addition to panics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sanitizer {
    None,
    /// Accesses outside of allocations, or after they were freed.
    Address,
}

/// How each target is run.
#[derive(Clone, Copy)]
struct Options {
    runs: u64,
    seed: Option<u64>,
    sanitizer: Sanitizer,
}

impl Options {
    fn runs_of(self, target: &str) -> u64 {
        if target == SLOW { self.runs.div_ceil(10) } else { self.runs }
    }
}

/// Runs `[TARGET …] [--runs N] [--seed N] [--sanitizer address]`. A target that does not compile or
/// has no corpus is an error.
pub(crate) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let mut options = Options { runs: RUNS, seed: None, sanitizer: Sanitizer::None };
    let mut wanted = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let number = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            number.parse().with_context(|| format!("{argument} {number}"))
        };
        match *argument {
            "--runs" => options.runs = number()?,
            "--seed" => options.seed = Some(number()?),
            "--sanitizer" => match arguments.next() {
                Some(&"address") => options.sanitizer = Sanitizer::Address,
                Some(other) => bail!("unknown sanitizer {other}; use `address`"),
                None => bail!("--sanitizer needs a value; use `address`"),
            },
            target if TARGETS.contains(&target) => wanted.push(target),
            other => bail!("unknown target {other}; use one of {}", TARGETS.join(", ")),
        }
    }
    if wanted.is_empty() {
        wanted.extend(TARGETS);
    }
    targets(repo, &wanted, options)
}

/// Runs every target for so many executions; the one with `unsafe` code under the address
/// sanitizer.
pub(crate) fn all(repo: &Repo, runs: u64) -> Result<()> {
    let options = Options { runs, seed: None, sanitizer: Sanitizer::None };
    let safe: Vec<&str> = TARGETS.into_iter().filter(|target| *target != UNSAFE).collect();
    targets(repo, &safe, options)?;
    targets(repo, &[UNSAFE], Options { sanitizer: Sanitizer::Address, ..options })
}

fn targets(repo: &Repo, wanted: &[&str], options: Options) -> Result<()> {
    let built = build(repo, wanted, options.sanitizer)?;
    let how = match options.sanitizer {
        Sanitizer::None => "",
        Sanitizer::Address => " under the address sanitizer",
    };
    // Each target uses one core.
    let waiting = Mutex::new(wanted.iter().rev());
    let next = || waiting.lock().ok()?.next();
    let fuzz_in_turn = || -> Result<()> {
        while let Some(target) = next() {
            say(format!("fuzzing {target}{how}: {} executions", options.runs_of(target)));
            one(repo, &built, target, options).with_context(|| format!("fuzzing {target}"))?;
        }
        Ok(())
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(fuzz_in_turn)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Builds the targets, and returns their folder.
fn build(repo: &Repo, wanted: &[&str], sanitizer: Sanitizer) -> Result<PathBuf> {
    say("building the fuzz targets (1 minute the first time, 3 with `files`)");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Separate folders, since changed flags would recompile everything.
    let (folder, flags) = match sanitizer {
        Sanitizer::None => ("fuzz/build", COVERAGE.to_owned()),
        Sanitizer::Address => ("fuzz/build-address", format!("{COVERAGE} -Zsanitizer=address")),
    };
    let made = repo.target().join(folder);
    let mut cargo = setup::cargo(repo);
    cargo.args(["build", "--release", "--locked", "--target", &triple]);
    cargo.arg("--manifest-path").arg(repo.root().join("tests/fuzz/Cargo.toml"));
    if wanted.contains(&SLOW) {
        guest::build(repo)?;
        cargo.args(["--features", "files"]);
    }
    for target in wanted {
        cargo.args(["--bin", target]);
    }
    cargo.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", &made);
    if sanitizer == Sanitizer::Address {
        // The flag is not yet stable.
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    run::run(&mut cargo).context("building the fuzz targets, which needs a C++ compiler")?;
    Ok(made.join(triple).join("release"))
}

fn one(repo: &Repo, built: &std::path::Path, target: &str, options: Options) -> Result<()> {
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
    command.args([
        format!("-runs={}", options.runs_of(target)),
        "-timeout=20".into(),
        "-rss_limit_mb=2048".into(),
    ]);
    command.arg("-print_final_stats=1");
    if let Some(seed) = options.seed {
        command.arg(format!("-seed={seed}"));
    }
    let output =
        command.output().with_context(|| format!("starting `{}`", run::shown(&command)))?;
    // libFuzzer logs every step, which is shown only after a failure.
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}\n{log}{}", run::shown(&command), output.status);
    }
    let stat = |name: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |number| number.trim_start_matches(':').trim()).to_owned()
    };
    let (executed, new) = (stat("number_of_executed_units"), stat("new_units_added"));
    println!("{target}: {executed} executions without a finding; {new} inputs reached new code");
    Ok(())
}
