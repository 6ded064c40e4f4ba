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
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "--workspace"]);
    setup::environment(repo, &mut cargo);
    run::run(&mut cargo).context("a test failed, or one did not compile")
}
