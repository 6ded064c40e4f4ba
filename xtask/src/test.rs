//! `cargo xtask test`: sets up, then runs every test of the workspace, and of the operators, which
//! are a separate workspace.

use anyhow::{Context, Result};

use crate::Repo;
use crate::run::{self, say};
use crate::{conformance, guest, programs, setup};

/// Runs the tests; their output is passed through.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    programs::build(repo)?;
    conformance::cases(repo)?;
    setup::warm(repo)?;
    forget_quarantine(repo)?;
    // First, so that the program that remains in `target` is the ordinary one.
    // These inject faults into worker processes, which an ordinary build does not allow.
    say("running the tests of breached workers");
    let hooks = ["-p", "belljar-cli", "--features", "test-hooks", "--test", "breach"];
    test(repo, hooks.into_iter())?;
    say("running the operators' own tests (3 minutes the first time)");
    operators(repo)?;
    guest::operator_tests(repo)?;
    say("running the tests");
    test(repo, ["--workspace"].into_iter())
}

/// Empties the quarantine of earlier test runs, which kill workers on purpose.
fn forget_quarantine(repo: &Repo) -> Result<()> {
    match std::fs::remove_dir_all(repo.target().join("state/quarantine")) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).context("removing the quarantine of earlier tests")
        }
        _ => Ok(()),
    }
}

/// Runs the unit tests of the guest's operators, built for this machine.
fn operators(repo: &Repo) -> Result<()> {
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--locked", "--manifest-path", "guest-models/onnx-ops/Cargo.toml"]);
    cargo.arg("--target-dir").arg(repo.target().join("onnx-ops"));
    run::run(&mut cargo).context("the tests of the operators failed or did not compile")
}

fn test<'a>(repo: &Repo, arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release"]).args(arguments);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("the tests failed or did not compile")
}
