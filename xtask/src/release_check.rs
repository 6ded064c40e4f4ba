//! Checks before a release that are too slow for CI: the native kernels are right on 64-bit Arm
//! too, the test suite passes with the guest of either build route, the guest is reproducible, the
//! guest program in Python gives the right answers, and tens of thousands of mutated models and
//! millions of fuzzed inputs cause no failure.
//!
//! For each route the guest is built a second time in a folder of another name and depth, reusing
//! nothing of the first build; the bytes must be the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::aarch64;
use crate::fuzz;
use crate::guest;
use crate::python;
use crate::run::{self, say};
use crate::toolchain::{ROUTE_VARIABLE, Route};
use crate::{conformance, setup};

/// Folders of a crate that hold results, not sources.
const NOT_SOURCES: [&str; 2] = ["target", ".git"];

/// A folder that is removed when the check ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A temporary folder that remains does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The number of mutated models that are run, and the first seed.
const MUTATED: (&str, &str) = ("50000", "1000000");

/// The number of random graphs that are run, half of them of narrow floats.
const GRAPHS: u64 = 40_000;

/// The number of executions of each fuzz target.
const EXECUTIONS: u64 = 1_000_000;

type Part = fn(&Repo) -> Result<()>;

/// The parts, in the order in which they run. The distribution's route comes last, as the other
/// parts use it if both work.
const PARTS: [(&str, Part); 8] = [
    ("emulation", aarch64::emulate),
    ("python", python::check),
    ("large-programs", large_programs),
    ("mutated-models", mutated_models),
    ("graphs", |repo| conformance::graphs(repo, GRAPHS, 1)),
    ("fuzz", |repo| fuzz::all(repo, EXECUTIONS)),
    ("rustup", |repo| route(repo, Route::Rustup)),
    ("distribution", |repo| route(repo, Route::Distribution)),
];

/// Runs the parts that are named, or all of them.
pub(crate) fn check(repo: &Repo, wanted: &[&str]) -> Result<()> {
    if let Some(other) = wanted.iter().find(|name| PARTS.iter().all(|(part, _)| part != *name)) {
        let parts: Vec<&str> = PARTS.iter().map(|(part, _)| *part).collect();
        bail!("unknown part {other}; use some of {}", parts.join(", "));
    }
    for (part, run) in PARTS {
        if wanted.is_empty() || wanted.contains(&part) {
            run(repo).with_context(|| format!("release-check, part {part}"))?;
            say(format!("release-check: {part} passed"));
        }
    }
    Ok(())
}

/// Runs all tests with the guest of a route, and builds that guest again in another folder.
fn route(repo: &Repo, route: Route) -> Result<()> {
    tests(repo, route)?;
    reproduce(repo, route)
}

/// Runs the whole test suite with the guest and the guest programs of this route.
fn tests(repo: &Repo, route: Route) -> Result<()> {
    say(format!("release-check: all tests by the {route} route (15 to 25 minutes on 2 cores)"));
    let mut cargo = setup::cargo(repo);
    cargo.args(["xtask", "test"]).env(ROUTE_VARIABLE, route.to_string());
    run::run(&mut cargo).with_context(|| format!("running the tests by the {route} route"))
}

/// Builds the guest of this route, which the tests have just used, again in another folder.
fn reproduce(repo: &Repo, route: Route) -> Result<()> {
    let here = guest::recorded(repo, route)?;
    let name = format!("belljar-release-check-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let copy = scratch.0.join("a folder/of another/depth");
    let guest_models = copy.join("models");
    copy_folder(&repo.root().join("guest-models"), &guest_models)?;

    say(format!(
        "release-check: building the guest again from nothing by the {route} route (5 to 8 minutes \
         on 2 cores)"
    ));
    let wasm = guest::compile(&guest_models, &copy.join("made"), route)?;
    let elsewhere = guest::hex_sha256(&wasm);
    println!("guest, {route} route, this folder:    {here}");
    println!("guest, {route} route, another folder: {elsewhere}");
    if elsewhere != here {
        let kept = repo.target().join("guest/onnx_runner.other.wasm");
        fs::write(&kept, &wasm).with_context(|| format!("writing {}", kept.display()))?;
        bail!("the guest is not reproducible: the second build is in {}", kept.display());
    }
    println!("the guest of the {route} route is reproducible: same bytes from another folder");
    Ok(())
}

/// Runs the tests that are ignored by default because they take much memory.
fn large_programs(repo: &Repo) -> Result<()> {
    say("release-check: programs that take much memory to compile (a minute)");
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "--workspace", "--test", "programs", "--", "--ignored"]);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("compiling large programs")
}

fn mutated_models(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    conformance::cases(repo)?;
    setup::warm(repo)?;
    say(format!("release-check: {} mutated models (4 to 8 minutes)", MUTATED.0));
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "--workspace", "--test", "model_fuzz", "--", "--nocapture"]);
    cargo.env("BELLJAR_FUZZ_RUNS", MUTATED.0).env("BELLJAR_FUZZ_FROM", MUTATED.1);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("running mutated models")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let path = entry.path();
        if NOT_SOURCES.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let target = to.join(entry.file_name());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
