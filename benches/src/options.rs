//! The arguments. `cargo xtask bench` builds what is needed and gives them all; a person types them
//! only to compare builds that xtask does not know.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: belljar-bench --root DIR --belljar FILE --tract FILE --python FILE [--json FILE] [--quick]
                     [--model NAME]... [--cli FILE]

`cargo xtask bench` gives all of these.";

/// What to compare, and how long.
pub(crate) struct Options {
    /// The repository: models and expectations are looked for in it, results are put into it.
    pub(crate) root: PathBuf,
    /// The `belljar` program, of the same build as the library this program is linked to.
    pub(crate) belljar: PathBuf,
    /// The command line that is started cold; `belljar` unless an older build is looked at.
    pub(crate) cli: PathBuf,
    /// The program `tract-peer`.
    pub(crate) tract: PathBuf,
    /// A Python that can import onnxruntime.
    pub(crate) python: PathBuf,
    /// Where the results go as JSON.
    pub(crate) json: PathBuf,
    /// Fewer rounds: to see that everything runs.
    pub(crate) quick: bool,
    /// Only these models; all if empty.
    pub(crate) models: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut arguments = arguments;
        let (mut root, mut belljar, mut tract, mut python) = (None, None, None, None);
        let (mut cli, mut json, mut quick, mut models) = (None, None, false, Vec::new());
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--root" => root = Some(path(&value()?)?),
                "--belljar" => belljar = Some(path(&value()?)?),
                "--tract" => tract = Some(path(&value()?)?),
                "--python" => python = Some(path(&value()?)?),
                "--cli" => cli = Some(path(&value()?)?),
                "--json" => json = Some(path(&value()?)?),
                "--model" => models.push(value()?),
                "--quick" => quick = true,
                _ => bail!("unknown argument {flag:?}\n{USAGE}"),
            }
        }
        let root = root.context(USAGE)?;
        let belljar = belljar.context(USAGE)?;
        Ok(Options {
            cli: cli.unwrap_or_else(|| belljar.clone()),
            belljar,
            tract: tract.context(USAGE)?,
            python: python.context(USAGE)?,
            json: json.unwrap_or_else(|| root.join("target/bench/results.json")),
            root,
            quick,
            models,
        })
    }

    /// Rounds, in each of which every peer has its turn.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { 3.min(full) } else { full }
    }
}

/// Absolute, as other processes get it; symbolic links stay, or a Python of a virtual environment
/// would become the one outside.
fn path(text: &str) -> Result<PathBuf> {
    std::path::absolute(text).with_context(|| text.to_owned())
}
