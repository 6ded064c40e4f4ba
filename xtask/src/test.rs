//! `cargo xtask test`: everything set up, then every test of the workspace.

use anyhow::{Context, Result};

use crate::Repo;
use crate::run::{self, say};
use crate::{conformance, programs, setup};

/// The tests that spoil worker processes, which no ordinary build lets them.
const WITH_HOOKS: [&str; 2] = ["assume_breach", "filter_rules"];

/// Runs the tests; their own output is passed through as it is.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    programs::build(repo)?;
    conformance::cases(repo)?;
    setup::warm(repo)?;
    // First, so that the program that is left in `target` is the ordinary one.
    say("running the tests that spoil worker processes");
    let hooks = ["-p", "belljar", "--features", "test-hooks"].into_iter();
    test(repo, hooks.chain(WITH_HOOKS.into_iter().flat_map(|test| ["--test", test])))?;
    say("running the tests");
    test(repo, ["--workspace"].into_iter())
}

fn test<'a>(repo: &Repo, arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release"]).args(arguments);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("a test failed, or one did not compile")
}
