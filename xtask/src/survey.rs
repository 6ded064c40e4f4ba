//! `cargo xtask survey`: makes the models that real tools write, runs each in Belljar and in
//! onnxruntime, and writes the results by tool into `docs/models.md`.
//!
//! `tests/survey` makes, runs and compares; this module prepares the Python environments that it
//! needs under `target/survey`. What exists is kept, so that a survey goes on where it stopped.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::packages;
use crate::run::{self, say};
use crate::setup;

/// The Python environments, in the order in which they make models: later ones need the models and
/// the packages of earlier ones.
const ENVIRONMENTS: [&str; 3] = ["packages", "optimum", "main"];

/// What a call of this command does.
struct Request {
    make: bool,
    run: bool,
    table: bool,
    only: String,
    again: bool,
    quick: bool,
}

impl Request {
    fn parse(arguments: &[&str]) -> Result<Request> {
        let mut request = Request {
            make: true,
            run: true,
            table: true,
            only: String::new(),
            again: false,
            quick: false,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "make" => (request.run, request.table) = (false, false),
                "run" => (request.make, request.table) = (false, false),
                "table" => (request.make, request.run) = (false, false),
                "--again" => request.again = true,
                "--quick" => request.quick = true,
                "--only" => {
                    let prefix = rest.next().context("--only needs the first letters of rows")?;
                    request.only = (*prefix).to_owned();
                    // A part of the rows would replace the table of all.
                    request.table = false;
                }
                other => bail!(
                    "unknown argument {other}: \
                     `cargo xtask survey [make|run|table] [--only PREFIX] [--again] [--quick]`"
                ),
            }
        }
        Ok(request)
    }
}

/// Makes, runs and lists what `arguments` ask for.
pub(crate) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let request = Request::parse(arguments)?;
    let folder = repo.target().join("survey");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    environments(repo, &folder)?;
    if request.make {
        for name in ENVIRONMENTS {
            let mut script = script(repo, &folder, name, "make");
            script.args(["--env", name, "--only", &request.only]);
            run::run(script.stdout(std::io::stderr())).context("making the models")?;
        }
    }
    if request.run {
        let belljar = program(repo)?;
        let mut script = script(repo, &folder, "main", "run");
        script.arg("--belljar").arg(belljar).args(["--only", &request.only]);
        if request.again {
            script.arg("--again");
        }
        if request.quick {
            script.arg("--quick");
        }
        run::run(script.stdout(std::io::stderr())).context("running the models")?;
    }
    if request.table {
        let mut script = script(repo, &folder, "main", "table");
        run::run(script.arg(repo.root().join("docs/models.md"))).context("writing the table")?;
    }
    Ok(())
}

/// The program to judge: `BELLJAR`, or this repository's, which is built.
fn program(repo: &Repo) -> Result<PathBuf> {
    if let Some(program) = env::var_os("BELLJAR") {
        return Ok(program.into());
    }
    setup::build_host(repo)?;
    Ok(setup::belljar(repo))
}

fn script(repo: &Repo, folder: &Path, environment: &str, action: &str) -> Command {
    let mut command = Command::new(python(folder, environment));
    command.arg(repo.root().join("tests/survey/survey.py")).arg(action).arg(folder);
    // One thread, as the runs that are compared have. The tools keep their settings in the folder.
    command.env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    for variable in ["YOLO_CONFIG_DIR", "MPLCONFIGDIR", "HF_HOME"] {
        command.env(variable, folder.join("settings"));
    }
    command
}

fn python(folder: &Path, environment: &str) -> PathBuf {
    folder.join(environment).join("bin/python3")
}

/// Installs the environments that are missing or were made from other requirements.
fn environments(repo: &Repo, folder: &Path) -> Result<()> {
    for name in ["main", "optimum", "packages"] {
        let file = repo.root().join("tests/survey/requirements").join(format!("{name}.txt"));
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let digest = crate::guest::hex_sha256(&content);
        let note = folder.join(format!("{name}.made-of.txt"));
        if fs::read_to_string(&note).is_ok_and(|text| text == digest) {
            continue;
        }
        say(format!("survey: installing the environment {name}"));
        let environment = folder.join(name);
        packages::install_without_dependencies(&environment, &file)?;
        match name {
            "main" => stand_ins(repo, folder)?,
            // transformers 4 is found first, torch and the others in the main environment.
            "optimum" => {
                let path = format!("{}\n", site_packages(folder, "main")?.display());
                fs::write(site_packages(folder, name)?.join("main.pth"), path)?;
            }
            _ => {}
        }
        fs::write(note, digest).context("recording what the environment was made of")?;
    }
    Ok(())
}

/// Puts empty libraries in the place of CUDA's, with which torch is linked.
fn stand_ins(repo: &Repo, folder: &Path) -> Result<()> {
    let torch = site_packages(folder, "main")?.join("torch");
    let mut script = Command::new(python(folder, "main"));
    script.arg(repo.root().join("tests/survey/stand_ins.py")).arg(torch);
    run::run(&mut script).context("making stand-ins for CUDA, which needs cc and nm")
}

/// The folder of an environment's packages.
fn site_packages(folder: &Path, environment: &str) -> Result<PathBuf> {
    let lib = folder.join(environment).join("lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    let found = entries.flatten().map(|entry| entry.path().join("site-packages"));
    found.into_iter().find(|path| path.is_dir()).context("the environment has no site-packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_rows_leaves_the_table_alone() {
        let all = Request::parse(&[]).expect("valid");
        assert!(all.make && all.run && all.table && !all.again);
        let some = Request::parse(&["--only", "sk_"]).expect("valid");
        assert!(some.make && some.run && !some.table);
        assert_eq!(some.only, "sk_");
        let one = Request::parse(&["table"]).expect("valid");
        assert!(!one.make && !one.run && one.table);
        assert!(Request::parse(&["--only"]).is_err());
        assert!(Request::parse(&["--other"]).is_err());
    }
}
