//! `cargo xtask test`: everything set up, then every test of the workspace.

use anyhow::{Context, Result};

use crate::Repo;
use crate::run::{self, say};
use crate::setup;

/// The tests that spoil worker processes, which no ordinary build lets them.
const WITH_HOOKS: [&str; 2] = ["assume_breach", "filter_rules"];

/// Runs the tests; their own output is passed through as it is.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    setup::warm(repo)?;
    // First, so that the program that is left in `target` is the ordinary one.
    say("running the tests that spoil worker processes");
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "-p", "belljar", "--features", "test-hooks"]);
    cargo.args(WITH_HOOKS.iter().flat_map(|test| ["--test", test]));
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("a test failed, or one did not compile")?;
    say("running the tests");
    // Those that take layers of the confinement away need a build that no release has. They come
    // first, and leave the program as it is used.
    let hooks = ["-p", "belljar", "--features", "test-hooks"];
    let needing_hooks = ["--test", "assume_breach", "--test", "filter_rules"];
    cargo_test(repo, &[&hooks[..], &needing_hooks].concat())?;
    cargo_test(repo, &["--workspace"])
}

fn cargo_test(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release"]).args(arguments);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("a test failed, or one did not compile")
}
