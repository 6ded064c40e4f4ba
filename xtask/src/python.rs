//! The guest program in Python, with the interface of the others and an interpreter in the
//! component. It is built only on request, as it takes a minute and a package from an index.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Repo;
use crate::packages;
use crate::programs;
use crate::run::{self, say};
use crate::setup;

/// The package that makes a component of Python code, in the version that was tested.
pub(crate) const COMPONENTIZE: &str = "componentize-py==0.25.1";

/// The program: its folder below `guest-models/programs`, its module there, and its world.
const PROGRAM: (&str, &str) = ("file-type-python", "file_type");

/// The path where tests look for the component.
fn component(repo: &Repo) -> PathBuf {
    programs::folder(repo).join(PROGRAM.0).with_extension("wasm")
}

/// Builds the component, unless it is newer than its sources.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    let (name, module) = PROGRAM;
    let (made, sources) = (component(repo), repo.root().join("guest-models/programs").join(name));
    let wit = repo.root().join("guest-models/wit");
    if is_newer(&made, &[&sources, &wit, &wit.join("deps")])? {
        return Ok(());
    }
    let tool = tool(repo)?;
    say("the guest program in Python (about a minute)");
    // The program's world goes into the same folder as the interface's worlds.
    let folder = repo.target().join("guest-build/python/wit");
    let deps = folder.join("deps");
    fs::create_dir_all(&deps).with_context(|| format!("creating {}", deps.display()))?;
    for (from, to) in [(wit.clone(), folder.clone()), (wit.join("deps"), deps)] {
        copy_files(&from, &to)?;
    }
    fs::copy(sources.join("world.wit"), folder.join("world.wit"))?;
    fs::create_dir_all(programs::folder(repo))?;
    let unfinished = made.with_extension("part");
    let mut componentize = Command::new(tool);
    componentize.arg("-d").arg(&folder).args(["-w", name, "componentize", "-p"]).arg(&sources);
    componentize.arg(module).arg("-o").arg(&unfinished).stdout(std::io::stderr());
    // The interpreter must not write compiled files into the sources.
    componentize.env("PYTHONDONTWRITEBYTECODE", "1");
    run::run(&mut componentize).context("making a component of the Python program")?;
    fs::rename(&unfinished, &made).with_context(|| format!("writing {}", made.display()))
}

/// Builds the program, and runs the test that compares its answers with onnxruntime's. The variable
/// makes the test fail if the program is missing.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    programs::build(repo)?;
    build(repo)?;
    setup::warm(repo)?;
    say("release-check: the guest program in Python gives onnxruntime's answers");
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "--workspace", "--test", "programs", "in_python"]);
    setup::environment(repo, &mut cargo);
    cargo.env("BELLJAR_PYTHON_PROGRAM", "required");
    run::run(&mut cargo).context("testing the guest program in Python")
}

/// Installs `componentize-py` in a separate folder, and returns its path.
fn tool(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target().join("guest-build/python/venv");
    let (python, tool) = (folder.join("bin/python3"), folder.join("bin/componentize-py"));
    let script = "import importlib.metadata as m; print(m.version('componentize-py'))";
    let found = run::ask(Command::new(&python).args(["-c", script]), Duration::from_secs(20));
    let wanted = COMPONENTIZE.split("==").nth(1).unwrap_or_default();
    if found.is_some_and(|found| found.trim() == wanted) {
        return Ok(tool);
    }
    say(format!("fetching {COMPONENTIZE} (seconds)"));
    let program = repo.root().join("guest-models/programs").join(PROGRAM.0);
    packages::install(&folder, &program.join("requirements.txt"))?;
    Ok(tool)
}

/// Whether a file exists and is newer than every file of these folders.
fn is_newer(made: &Path, folders: &[&Path]) -> Result<bool> {
    let Ok(made) = made.metadata().and_then(|made| made.modified()) else { return Ok(false) };
    for folder in folders {
        let entries = fs::read_dir(folder);
        for entry in entries.with_context(|| format!("reading {}", folder.display()))? {
            let found = entry?.metadata()?;
            if found.is_file() && found.modified()? >= made {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
