//! `cargo xtask corpus FOLDER`: writes the hostile models of the tests as files, with the expected
//! outcome of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Repo;
use crate::run;
use crate::setup;

const README: &str = "\
# Hostile ONNX models

Small ONNX files that are meant to harm the program that runs them: bombs that ask for memory or
time, cycles, nested graphs, invalid attributes and shapes, numbers that do not fit 32 bits, weights
in other files, files that are cut or are not models. Some are harmless but easily computed wrongly.

`corpus.json` is a list of objects:

- `model`: the file.
- `kind`: the kind of attack, which is the first word of the file's name.
- `inputs`: names of the model's inputs, and the .npy file for each.
- `expected`: \"answer\" (the specification defines one, and a runner should give it or refuse
  clearly) or \"error\" (it defines none, or none fits into 256 MiB of memory and 10 seconds).
- `belljar`: Belljar's outcome: the exit code of `belljar run` (0 answered, 4 refused, 5 a limit, 6
  the sandbox), and the message.

A runner passes a file if its process answers as specified or reports an error, within a minute and
a gigabyte, without a crash, a signal, or a hang. Run untrusted files in a disposable process.

Made by `cargo xtask corpus` from the tests in `tests/hostile_models`. The files are reproducible.
";

/// Writes the files.
pub(crate) fn make(repo: &Repo, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let to = to.canonicalize()?;
    if fs::read_dir(&to)?.next().is_some() {
        bail!("{} is not empty: name a new folder", to.display());
    }
    setup::build_host(repo)?;
    setup::warm(repo)?;
    let mut cargo = setup::cargo(repo);
    // A file is named after the test's thread, which has the test's name only if there are several.
    cargo.args(["test", "--release", "--workspace", "--test", "hostile_models", "--"]);
    cargo.arg("--test-threads=2").env("BELLJAR_CORPUS", &to);
    setup::environment(repo, &mut cargo);
    run::run(cargo.stdout(std::io::stderr())).context("running the tests that write the models")?;

    let mut entries = BTreeMap::new();
    for file in fs::read_dir(&to)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let entry: Value = serde_json::from_slice(&fs::read(&path)?)?;
        fs::remove_file(&path)?;
        let name = entry["model"].as_str().context("an entry has no model")?.to_owned();
        entries.insert(name, entry);
    }
    let entries: Vec<Value> = entries.into_values().collect();
    fs::write(to.join("corpus.json"), serde_json::to_vec_pretty(&entries)?)?;
    fs::write(to.join("README.md"), README)?;
    println!("{} models in {}", entries.len(), to.display());
    Ok(())
}
