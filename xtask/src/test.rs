//! `cargo xtask test`: everything set up, then every test of the workspace.

use anyhow::{Context, Result};

use crate::Repo;
use crate::run::{self, say};
use crate::setup;

/// Runs the tests; their own output is passed through as it is.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    setup::warm(repo)?;
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
