//! `cargo xtask …`: sets the repository up, builds the guest, and runs the demo, tests and checks.
//!
//! Progress goes to standard error, results to standard output. xtask is never part of a release.

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
mod survey;
mod test;
mod toolchain;
mod weights;
mod wrapper;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  guest           build the WebAssembly guest, the module that runs inside sandboxes, into
                  target/guest; with --tests also the operators' unit tests as a module
  programs        build the guest programs into target/guest/programs; with --all also the one in
                  Python, which takes a minute and a package from an index
  models          fetch the real models for tests and demo into target/models
  demo            set up, build, and identify some files with a sandboxed model
  test            set up, build, and run all tests
  bench           set up, build, and compare Belljar's speed with other runtimes, on many models by
                  kind (--models), or with another build of itself; see `cargo xtask bench --help`
  conformance     run ONNX's own test cases through the sandbox, and write the outcome of each
                  into tests/conformance
  survey [make|run|table] [--only PREFIX] [--again] [--quick]
                  make the models that real tools write, run each in Belljar and in onnxruntime, and
                  write the table of docs/models.md; it takes hours and 6 GB, and goes on where it
                  stopped. --quick compares answers without timing them; --again runs what has a
                  result, too. BELLJAR=PROGRAM runs another build
  corpus FOLDER   write the hostile models of the tests as files, for others to use
  fuzz [TARGET …] [--runs N] [--seed N] [--sanitizer address]
                  fuzz the decoders, the native kernels, tensor files, policies and operations on
                  granted files with libFuzzer
  graphs [--count N] [--seed N]
                  run random graphs of nodes on which onnxruntime and ONNX's reference agree
  check-aarch64   type-check the host for 64-bit Arm Linux
  release-check   test the kernels on an emulated Arm machine; build and run the guest program in
                  Python; run 50,000 mutated models, 40,000 random graphs, and a million executions
                  of each fuzz target (the native kernels under the address sanitizer); run all
                  tests by both build routes of the guest, and build each route's guest again in
                  another folder and compare the bytes. It takes two and a half hours on 2 cores.
                  With names it runs only these parts: emulation, python, large-programs,
                  mutated-models, graphs, fuzz, rustup, distribution

The guest is built by the current toolchain if it has the wasm32 target, else by the distribution's
compiler if it is installed, else by the one of the two to which xtask can add what is missing.
BELLJAR_GUEST_ROUTE=rustup|distribution forces one of the two.
";

/// The repository that this program was built from.
pub(crate) struct Repo {
    root: PathBuf,
    target: PathBuf,
}

impl Repo {
    fn find() -> Result<Repo> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = own.canonicalize().with_context(|| format!("cannot find {}", own.display()))?;
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

    /// The folder for all build products.
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
        ["survey", arguments @ ..] => with_repo(|repo| survey::run(repo, arguments)),
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

/// The numbers after these options, or their defaults.
fn numbers<const N: usize>(arguments: &[&str], options: [(&str, u64); N]) -> Result<[u64; N]> {
    let mut numbers = options.map(|(_, number)| number);
    for pair in arguments.chunks(2) {
        let at = options.iter().position(|(name, _)| *name == pair[0]);
        let Some(at) = at else {
            let names = options.map(|(name, _)| name).join(" and ");
            bail!("unknown option {}; the options are {names}", pair[0])
        };
        let Some(number) = pair.get(1) else { bail!("{} needs a number", pair[0]) };
        numbers[at] = number.parse().with_context(|| format!("{} {number}", pair[0]))?;
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
