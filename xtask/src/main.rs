//! `cargo xtask …`: sets the repository up, builds the guest, and runs the demo, tests and checks.
//!
//! Progress goes to standard error, results to standard output. Never part of what is released.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod aarch64;
mod bench;
mod conformance;
mod corpus;
mod demo;
mod fuzz;
mod guest;
#[path = "../../guest-models/programs/file-type/src/features.rs"]
mod magika;
mod models;
mod npy;
mod packages;
mod programs;
mod protobuf;
mod python;
mod release_check;
mod run;
mod setup;
#[path = "../../guest-models/sources_digest.rs"]
mod sources_digest;
mod test;
mod toolchain;
mod weights;
mod wrapper;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  guest           build the WebAssembly guest into target/guest
                  with --tests also the operators' unit tests as a module
  programs        build the guest programs into target/guest/programs; with --all also the one in
                  Python, which takes a minute and a package from an index
  models          fetch the real models for tests and demo into target/models
  demo            set up, build, and let a sandboxed model name the kinds of some files
  test            set up, build, and run all tests
  bench           set up, build, and time Belljar beside other runtimes, or beside another build
                  of itself; `cargo xtask bench --help` says more
  conformance     run ONNX's own test cases through the sandbox, and write how each ends into
                  tests/conformance
  corpus FOLDER   write the hostile models of the tests as files, for others to use
  fuzz [TARGET …] [--runs N] [--seed N] [--sanitizer address]
                  hand the decoders, the native kernels, tensor files, policies and operations on
                  granted files what libFuzzer comes up with
  graphs [--count N] [--seed N]
                  run random graphs on whose nodes onnxruntime and ONNX's reference agree
  check-aarch64   type-check the host for 64-bit Arm Linux
  release-check   test the kernels on an emulated Arm machine; build and run the guest program in
                  Python; run 50,000 mutated models, 40,000 random graphs, and a million executions
                  of each fuzz target, of the native kernels under the address sanitizer; run all
                  tests by both build routes of the guest, and build each route's guest a second time
                  elsewhere and compare the bytes; two hours and a half on 2 cores. With names it
                  runs these parts alone: emulation, python, large-programs, mutated-models, graphs,
                  fuzz, rustup, distribution

The guest is built by the toolchain at hand where rustup has the wasm32 target, otherwise by the
distribution's compiler; BELLJAR_GUEST_ROUTE=rustup|distribution forces one of the two.
";

/// The repository that this program was built from.
pub(crate) struct Repo {
    root: PathBuf,
    target: PathBuf,
}

impl Repo {
    fn find() -> Result<Repo> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = own.canonicalize().with_context(|| format!("looking for {}", own.display()))?;
        let root = own.parent().context("xtask has no parent folder")?.to_owned();
        if !root.join("guest-models").is_dir() {
            bail!("{} has moved since xtask was built: run `cargo xtask` again", root.display());
        }
        let target = root.join("target");
        Ok(Repo { root, target })
    }

    /// The repository's root folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for everything that is made and not committed.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }
}

fn main() -> ExitCode {
    if env::var_os(wrapper::VARIABLE).is_some() {
        return match wrapper::run(env::args_os().skip(1).collect()) {
            Ok(code) => code,
            Err(error) => failed(&error),
        };
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match names.as_slice() {
        ["guest"] => with_repo(|repo| guest::build(repo).map(drop)),
        ["guest", "--tests"] => with_repo(guest::operator_tests),
        ["programs"] => with_repo(programs::build),
        ["programs", "--all"] => {
            with_repo(|repo| programs::build(repo).and_then(|()| python::build(repo)))
        }
        ["models"] => with_repo(models::fetch),
        ["demo"] => with_repo(demo::run),
        ["test"] => with_repo(test::run),
        ["bench", arguments @ ..] => with_repo(|repo| bench::run(repo, arguments)),
        ["conformance"] => with_repo(conformance::run),
        ["corpus", folder] => with_repo(|repo| corpus::make(repo, Path::new(folder))),
        ["fuzz", arguments @ ..] => with_repo(|repo| fuzz::run(repo, arguments)),
        ["graphs", arguments @ ..] => with_repo(|repo| {
            let [count, seed] = numbers(arguments, [("--count", 5_000), ("--seed", 1)])?;
            conformance::graphs(repo, count, seed)
        }),
        ["check-aarch64"] => with_repo(aarch64::check),
        ["release-check", parts @ ..] => with_repo(|repo| release_check::check(repo, parts)),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// The numbers behind these options, or what they are where nothing is said.
fn numbers<const N: usize>(arguments: &[&str], options: [(&str, u64); N]) -> Result<[u64; N]> {
    let mut numbers = options.map(|(_, number)| number);
    for pair in arguments.chunks(2) {
        let place = options.iter().position(|(name, _)| *name == pair[0]);
        let Some(place) = place else { bail!("{} is no option here", pair[0]) };
        let Some(number) = pair.get(1) else { bail!("{} needs a number", pair[0]) };
        numbers[place] = number.parse().with_context(|| format!("{} {number}", pair[0]))?;
    }
    Ok(numbers)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: error: {error:#}");
    ExitCode::FAILURE
}

fn with_repo(task: impl FnOnce(&Repo) -> Result<()>) -> Result<()> {
    task(&Repo::find()?)
}
