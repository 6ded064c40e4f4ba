//! The other build of Belljar that this one is compared with: a program as it is, or a commit that
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

/// The program that `named` is or that is built from it, in a place of its own.
pub(super) fn program(repo: &Repo, named: &str) -> Result<PathBuf> {
    if Path::new(named).is_file() {
        return std::path::absolute(named).context("where the other program is");
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.root()).args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
    git.arg(format!("{named}^{{commit}}"));
    let Some(commit) = run::ask(&mut git, Duration::from_secs(20)) else {
        bail!("{named:?} is neither a program nor a commit");
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
        // The next build would take its place.
        fs::copy(setup::belljar(repo), &program).context("keeping the other program").map(drop)
    });
    // Whether it was built or not: nobody looks for a checkout in there.
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.root()).args(["worktree", "remove", "--force"]).arg(&sources);
    run::run(git.stdout(std::io::stderr()))?;
    built?;
    Ok(program)
}

/// Its guest with its own tools, unless it is the same as ours; its host where this one is built, as
/// both have most of their dependencies in common.
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
