//! Set-up for demo and tests: the guest, the models, the host, and the folders of models and
//! compiled code that both share.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::Repo;
use crate::run::{self, say};
use crate::{guest, models};

/// The host's command line, built for release.
pub(crate) fn belljar(repo: &Repo) -> PathBuf {
    repo.target().join("release/belljar")
}

/// The cargo that runs this program, as if started in the repository's root.
pub(crate) fn cargo(repo: &Repo) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    run::without_outer_cargo(&mut command);
    command.current_dir(repo.root());
    // xtask looks for results under `target`, even if the caller's cargo uses another folder.
    command.env("CARGO_TARGET_DIR", repo.target());
    command
}

/// Sets the folders of models and compiled code for belljar and the tests.
pub(crate) fn environment(repo: &Repo, command: &mut Command) {
    command.env("BELLJAR_MODELS", repo.target().join("models"));
    command.env("BELLJAR_CACHE_DIR", repo.target().join("cache"));
    command.env("BELLJAR_STATE_DIR", repo.target().join("state"));
}

/// Builds the guest, fetches the models, and builds the host for release.
pub(crate) fn build_host(repo: &Repo) -> Result<()> {
    guest::build(repo)?;
    models::fetch(repo)?;
    say("building the host (about 5 minutes on 2 cores the first time)");
    run::run(cargo(repo).args(["build", "--release", "--bin", "belljar"]))
        .context("building the host")
}

/// Compiles the guest for this machine into the shared cache, so that no test waits for it.
pub(crate) fn warm(repo: &Repo) -> Result<()> {
    say("compiling the guest for this machine (10 to 30 seconds the first time)");
    let mut command = Command::new(belljar(repo));
    command.current_dir(repo.root()).arg("warm").stdout(std::io::stderr());
    environment(repo, &mut command);
    run::run(&mut command)
}
