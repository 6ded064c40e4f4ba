//! What must hold before a release and is too slow for every day: the native kernels are right on
//! 64-bit Arm too, the guest is reproducible, the guest program in Python answers as it should, and
//! tens of thousands of mutated models and millions of inputs to whatever reads them end well.
//!
//! The guest is built a second time, from nothing, in a folder of another name and depth; the bytes must
//! be the same. Nothing of the first build is reused.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::aarch64;
use crate::fuzz;
use crate::guest;
use crate::python;
use crate::run::{self, say};
use crate::{conformance, setup};

/// Folders of a crate that hold results, not sources.
const NOT_SOURCES: [&str; 2] = ["target", ".git"];

/// A folder that is removed when the check ends, whichever way.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing useful can be done about a temporary folder that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Mutated models that are run, from which number on.
const MUTATED: (&str, &str) = ("50000", "1000000");

/// Random graphs that are run.
const GRAPHS: u64 = 20_000;

/// Executions of each fuzz target.
const EXECUTIONS: u64 = 1_000_000;

/// Tests the kernels under emulation, the program in Python, and what fuzzers come up with; builds the
/// guest here and elsewhere and compares.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    aarch64::emulate(repo)?;
    python::check(repo)?;
    large_programs(repo)?;
    mutated_models(repo)?;
    conformance::graphs(repo, GRAPHS, 1)?;
    fuzz::all(repo, EXECUTIONS)?;
    let here = guest::build(repo)?;
    let name = format!("belljar-release-check-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let copy = scratch.0.join("a folder/of another/depth");
    let guest_models = copy.join("models");
    copy_folder(&repo.root().join("guest-models"), &guest_models)?;

    say("release-check: building the guest again from nothing (5 to 8 minutes on 2 cores)");
    let wasm = guest::compile(&guest_models, &copy.join("made"), here.route)?;
    let elsewhere = guest::hex_sha256(&wasm);
    println!("guest, this folder:    {}", here.sha256);
    println!("guest, another folder: {elsewhere}");
    if elsewhere != here.sha256 {
        let kept = repo.target().join("guest/onnx_runner.other.wasm");
        fs::write(&kept, &wasm).with_context(|| format!("writing {}", kept.display()))?;
        bail!("the guest is not reproducible: compare it with {}", kept.display());
    }
    println!("the guest is reproducible: same bytes from another folder");
    Ok(())
}

/// What the tests leave out because it takes much memory.
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
    run::run(&mut cargo).context("a mutated model ended badly")
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
