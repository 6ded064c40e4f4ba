//! `cargo xtask bench --models`: makes the models of `benches/models.toml` and measures them by kind.
//!
//! `benches/models/make.py` makes them under `target/bench/models`, in a Python environment with
//! onnxruntime's tools, and `benches/` measures.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{USAGE, build};
use crate::Repo;
use crate::guest::hex_sha256;
use crate::packages;
use crate::run::{self, say};
use crate::{models, setup};

/// What a call of this command measures.
#[derive(Debug, Default, PartialEq)]
struct Request {
    kinds: Vec<String>,
    names: Vec<String>,
    quick: bool,
    json: Option<String>,
}

impl Request {
    fn parse(arguments: &[&str]) -> Result<Request> {
        let mut request = Request::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || match rest.next() {
                Some(value) => Ok((*value).to_owned()),
                None => bail!("{argument} needs a value"),
            };
            match *argument {
                "--models" => {}
                "--kind" => request.kinds.push(value()?),
                "--json" => request.json = Some(value()?),
                "--quick" => request.quick = true,
                flag if flag.starts_with('-') => bail!("unknown argument {flag:?}\n{USAGE}"),
                name => request.names.push(name.to_owned()),
            }
        }
        Ok(request)
    }
}

/// Makes the models, builds Belljar and the benchmark, and measures.
pub(super) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let request = Request::parse(arguments)?;
    models::fetch(repo)?;
    let folder = repo.target().join("bench/models");
    let python = environment(repo)?;
    let benches = repo.root().join("benches");
    say("making the models of benches/models.toml (minutes and 2 GB the first time)");
    let mut make = Command::new(&python);
    make.arg(benches.join("models/make.py")).arg(benches.join("models.toml")).arg(&folder);
    // After an option, the names would be too late for Python's parser.
    make.args(&request.names);
    make.arg("--models").arg(repo.target().join("models"));
    for kind in &request.kinds {
        make.args(["--kind", kind]);
    }
    make.env("PYTHONDONTWRITEBYTECODE", "1");
    run::run(make.stdout(std::io::stderr())).context("making the models")?;

    let belljar = match env::var_os("BELLJAR") {
        Some(program) => PathBuf::from(program),
        None => {
            setup::build_host(repo)?;
            setup::warm(repo)?;
            setup::belljar(repo)
        }
    };
    build(repo, "belljar-bench", "release")?;
    let mut bench = Command::new(repo.target().join("release/belljar-bench"));
    bench.arg("--root").arg(repo.root()).arg("--belljar").arg(belljar).arg("--python").arg(python);
    bench.arg("--models").arg(folder.join("index.json"));
    if request.quick {
        bench.arg("--quick");
    }
    if let Some(file) = &request.json {
        bench.args(["--json", file]);
    }
    run::run(&mut bench).context("the benchmark failed")
}

/// The Python of an environment with the packages that make the models, and onnxruntime as the peer.
fn environment(repo: &Repo) -> Result<PathBuf> {
    let file = repo.root().join("benches/models/requirements.txt");
    let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let folder = repo.target().join("bench/models-venv");
    let (python, note) = (folder.join("bin/python3"), folder.join("made-of.txt"));
    let digest = hex_sha256(&content);
    if !is_made_of(&note, &digest) {
        say("fetching the packages that make models (a minute)");
        packages::install(&folder, &file)?;
        fs::write(&note, &digest).with_context(|| format!("writing {}", note.display()))?;
    }
    Ok(python)
}

fn is_made_of(note: &Path, digest: &str) -> bool {
    fs::read_to_string(note).is_ok_and(|text| text == digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_names_choose_the_models() {
        let arguments = ["--models", "--kind", "qdq", "--kind", "cnn", "resnet50", "--quick"];
        let request = Request::parse(&arguments).expect("a request");
        assert_eq!(request.kinds, ["qdq", "cnn"]);
        assert_eq!(request.names, ["resnet50"]);
        assert!(request.quick && request.json.is_none());
        assert!(Request::parse(&["--models", "--kind"]).is_err());
        assert!(Request::parse(&["--models", "--table", "run"]).is_err());
    }
}
