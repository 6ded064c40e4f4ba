//! `cargo xtask corpus FOLDER`: the hostile models of the tests as files, with what is expected of
//! whoever runs them.

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
time, cycles, graphs within graphs, attributes and shapes that make no sense, numbers that do not
fit 32 bits, weights that lie elsewhere, files that are cut or no model at all. Some are harmless
and only easily computed wrongly.

`corpus.json` is a list of objects:

- `model`: the file.
- `kind`: what it is about; the first word of the file's name, the next words say more.
- `inputs`: names of the model's inputs, and the .npy file for each.
- `expected`: \"answer\" (the specification has one, and a runner should give it or refuse clearly)
  or \"error\" (there is none, or none in 256 MiB of memory and 10 seconds).
- `belljar`: how Belljar ends: the exit code of `belljar run` (0 answered, 4 refused, 5 a limit, 6
  the sandbox), and the message.

A runner passes a file if its process answers or ends in an error of its own making, within a
minute and a gigabyte, without a crash, a signal, or a hang; and if what it answers is what the
specification says. Run files you do not trust in a process you can spare.

Made by `cargo xtask corpus`, from the tests in `tests/hostile_models`; the same files each time.
";

/// Makes the files.
pub(crate) fn make(repo: &Repo, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let to = to.canonicalize()?;
    if fs::read_dir(&to)?.next().is_some() {
        bail!("{} is not empty: name a new folder", to.display());
    }
    setup::build_host(repo)?;
    setup::warm(repo)?;
    let mut cargo = setup::cargo(repo);
    // Files are named after the threads that tests run on.
    cargo.args(["test", "--release", "--workspace", "--test", "hostile_models", "--"]);
    cargo.arg("--test-threads=2").env("BELLJAR_CORPUS", &to);
    setup::environment(repo, &mut cargo);
    run::run(cargo.stdout(std::io::stderr())).context("the models could not be made")?;

    let mut entries = BTreeMap::new();
    for file in fs::read_dir(&to)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let entry: Value = serde_json::from_slice(&fs::read(&path)?)?;
        fs::remove_file(&path)?;
        let name = entry["model"].as_str().context("an entry without a model")?.to_owned();
        entries.insert(name, entry);
    }
    let entries: Vec<Value> = entries.into_values().collect();
    fs::write(to.join("corpus.json"), serde_json::to_vec_pretty(&entries)?)?;
    fs::write(to.join("README.md"), README)?;
    println!("{} models in {}", entries.len(), to.display());
    Ok(())
}
