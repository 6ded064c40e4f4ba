//! `cargo xtask bench`: builds Belljar and what it is compared with, then starts the comparison.
//!
//! Everything that is measured, and how, is in `benches/`; here is only what must be there first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::run::{self, say};
use crate::setup;

/// What onnxruntime's peer needs, in the versions that made the tests' expectations.
const REQUIREMENTS: [&str; 2] = ["onnxruntime==1.32.0", "numpy==2.4.6"];

/// Builds everything and measures; `arguments` are those of the command.
pub(crate) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    check(arguments)?;
    setup::build_host(repo)?;
    say("building native tract to compare with (about 4 minutes on 2 cores the first time)");
    build(repo, "tract-peer", "peer")?;
    build(repo, "belljar-bench", "release")?;
    let python = python(repo)?;

    let mut bench = Command::new(repo.target().join("release/belljar-bench"));
    // Relative file names among the arguments are the caller's.
    bench.arg("--root").arg(repo.root()).arg("--belljar").arg(setup::belljar(repo));
    bench.arg("--tract").arg(repo.target().join("peer/tract-peer")).arg("--python").arg(python);
    bench.args(arguments);
    run::run(&mut bench).context("the benchmark did not come to its end")
}

/// Refuses wrong arguments before minutes are spent on building.
fn check(arguments: &[&str]) -> Result<()> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "--quick" => {}
            "--model" | "--json" if arguments.next().is_some() => {}
            "--model" | "--json" => bail!("{argument} needs a value"),
            _ => bail!(
                "unknown argument {argument:?}; \
                 usage: cargo xtask bench [--model NAME]... [--quick] [--json FILE]"
            ),
        }
    }
    Ok(())
}

/// One package at a time: features of one must not change how another's dependencies are built.
fn build(repo: &Repo, package: &str, profile: &str) -> Result<()> {
    let manifest = repo.root().join("benches/Cargo.toml");
    let mut cargo = setup::cargo(repo);
    cargo.args(["build", "--locked", "--profile", profile, "-p", package, "--manifest-path"]);
    run::run(cargo.arg(manifest)).with_context(|| format!("building {package}"))
}

/// A Python of its own, with the required packages and nothing else.
fn python(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target().join("bench/venv");
    let python = folder.join("bin/python3");
    if installed(&python) {
        return Ok(python);
    }
    say(format!("fetching {} (seconds)", REQUIREMENTS.join(" and ")));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&folder).stdout(std::io::stderr());
    run::run(&mut venv).context("this needs python3 with its module venv")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.arg("--only-binary=:all:").args(REQUIREMENTS).stdout(std::io::stderr());
    run::run(&mut pip).context("installing onnxruntime needs a package index")?;
    Ok(python)
}

fn installed(python: &Path) -> bool {
    let script = "import importlib.metadata as m; \
                  print(*(f'{n}=={m.version(n)}' for n in ('onnxruntime', 'numpy')))";
    let found = run::ask(Command::new(python).args(["-c", script]), Duration::from_secs(20));
    found.is_some_and(|found| found.split_whitespace().eq(REQUIREMENTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arguments_are_refused() {
        assert!(check(&["--model", "magika", "--quick", "--json", "x.json"]).is_ok());
        assert!(check(&["--model"]).is_err());
        assert!(check(&["magika"]).is_err());
    }
}
