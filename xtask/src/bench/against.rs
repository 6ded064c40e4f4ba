//! The other build of Belljar that this one is compared with: an existing program, or a commit that
//! is checked out and built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::guest;
use crate::run::{self, say};
use crate::setup;
use crate::sources_digest::sources_digest;

/// The program that `named` is, or that is built from it in a separate folder.
pub(super) fn program(repo: &Repo, named: &str) -> Result<PathBuf> {
    if Path::new(named).is_file() {
        return std::path::absolute(named).context("finding the path of the other program");
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.root()).args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
    git.arg(format!("{named}^{{commit}}"));
    let Some(commit) = run::ask(&mut git, Duration::from_secs(20)) else {
        bail!("{named:?} is neither a file nor a commit; name a `belljar` program or a commit");
    };
    let commit = commit.trim();
    let folder = repo.target().join("bench/against").join(commit);
    let program = folder.join("belljar");
    if program.is_file() {
        return Ok(program);
    }
    say(format!("building {named} ({commit})"));
    let sources = folder.join("sources");
    if !sources.join("Cargo.toml").is_file() {
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let mut git = Command::new("git");
        git.arg("-C").arg(repo.root()).args(["worktree", "add", "--force", "--detach"]);
        run::run(git.arg(&sources).arg(commit).stdout(std::io::stderr()))?;
    }
    let built = build(repo, &sources).and_then(|()| {
        // The next build would overwrite it.
        fs::copy(setup::belljar(repo), &program).context("keeping the other program").map(drop)
    });
    // Removed even after a failure: a worktree left under `target` would be forgotten.
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.root()).args(["worktree", "remove", "--force"]).arg(&sources);
    run::run(git.stdout(std::io::stderr()))?;
    built?;
    Ok(program)
}

/// Builds its guest with its own xtask, unless the sources are the same as ours; and its host in
/// this repository's target folder, as both share most dependencies.
fn build(repo: &Repo, sources: &Path) -> Result<()> {
    let digest = |root: &Path| sources_digest(&root.join("guest-models")).map(|(digest, _)| digest);
    let folder = if digest(sources)? == digest(repo.root())? {
        guest::build(repo)?;
        repo.target().join("guest")
    } else {
        let mut guest = setup::cargo(repo);
        guest.current_dir(sources).env_remove("CARGO_TARGET_DIR").args(["xtask", "guest"]);
        run::run(&mut guest).context("building the guest of the other commit")?;
        sources.join("target/guest")
    };
    let mut host = setup::cargo(repo);
    host.current_dir(sources).env("BELLJAR_GUEST_DIR", folder);
    run::run(host.args(["build", "--release", "--bin", "belljar"]))
        .context("building the other commit")
}
