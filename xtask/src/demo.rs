//! The demo: a real model, sandboxed, names the kinds of some files.
//!
//! Each file goes through a `belljar run` of its own, as an operator would type it: the model gets
//! its input and gives its answer, and nothing else exists for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;

use crate::Repo;
use crate::guest;
use crate::magika;
use crate::npy::npy;
use crate::run::{self, say};
use crate::setup;

/// Files under `tests/samples` and magika's name for what they are.
const SAMPLES: [(&str, &str); 28] = [
    ("ring_buffer.rs", "rust"),
    ("tide_table.py", "python"),
    ("line_count.c", "c"),
    ("tuner.cpp", "cpp"),
    ("SeedCatalogue.java", "java"),
    ("queue.go", "go"),
    ("search_box.js", "javascript"),
    ("opening_hours.html", "html"),
    ("museum.css", "css"),
    ("library.sql", "sql"),
    ("station.json", "json"),
    ("pipeline.yaml", "yaml"),
    ("collection.xml", "xml"),
    ("readings.csv", "csv"),
    ("walking_guide.md", "markdown"),
    ("backup.sh", "shell"),
    ("kiosk.toml", "toml"),
    ("Dockerfile", "dockerfile"),
    ("Makefile", "makefile"),
    ("bell_tones.tex", "latex"),
    ("bell.png", "png"),
    ("bell.gif", "gif"),
    ("bell.wav", "wav"),
    ("ticket.pdf", "pdf"),
    ("walk.zip", "zip"),
    ("readings.csv.gz", "gzip"),
    ("site.tar", "tar"),
    ("library.sqlite", "sqlite"),
];

/// Sets up, builds, and runs every sample; an error if one is named wrongly.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    let begun = Instant::now();
    let files = files(repo);
    let policy = PrivateCopy::of(&repo.root().join("policies/magika.toml"))?;
    say(format!("demo: {} files, each in a sandbox of its own", files.len()));

    println!("{:<20} {:<12} {:>6}", "file", "kind", "score");
    let mut right = 0;
    for (path, expected) in &files {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let answer = ask(repo, path, &policy.policy).with_context(|| path.display().to_string())?;
        let verdict = if answer.label == *expected {
            right += 1;
            "as expected".to_owned()
        } else {
            format!("WRONG: it is {expected}")
        };
        println!("{name:<20} {:<12} {:>6.4}  {verdict}", answer.label, answer.score);
    }
    say(format!("demo: {:.1} s", begun.elapsed().as_secs_f64()));
    println!(
        "{right} of {} files named correctly, each inside its own WebAssembly sandbox",
        files.len()
    );
    if right != files.len() {
        bail!("named wrongly: {} of {} files", files.len() - right, files.len());
    }
    Ok(())
}

/// The committed samples, and three files that set-up has made anyway.
fn files(repo: &Repo) -> Vec<(PathBuf, &'static str)> {
    let samples = repo.root().join("tests/samples");
    let mut files: Vec<_> =
        SAMPLES.iter().map(|&(name, label)| (samples.join(name), label)).collect();
    files.push((setup::belljar(repo), "elf"));
    files.push((guest::module_path(repo), "wasm"));
    files.push((repo.target().join("models/silero_vad.onnx"), "onnx"));
    files
}

struct Answer {
    label: String,
    score: f64,
}

/// A copy of a policy in a folder closed to others. Where new files are writable by one's group,
/// as on many a system, a clone's are too, and belljar rightly refuses such a policy.
struct PrivateCopy {
    folder: PathBuf,
    policy: PathBuf,
}

impl PrivateCopy {
    fn of(policy: &Path) -> Result<PrivateCopy> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let folder = std::env::temp_dir().join(format!("belljar-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let copy = PrivateCopy { policy: folder.join("policy.toml"), folder };
        fs::copy(policy, &copy.policy).with_context(|| policy.display().to_string())?;
        fs::set_permissions(&copy.policy, fs::Permissions::from_mode(0o600))?;
        Ok(copy)
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // Left over, it does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ask(repo: &Repo, path: &PathBuf, policy: &Path) -> Result<Answer> {
    let content = fs::read(path)?;
    let input = npy(&magika::features(&content).map_err(Error::msg)?);
    let mut belljar = Command::new(setup::belljar(repo));
    // Relative paths, so that a message shows what a person would type.
    belljar.current_dir(repo.root());
    belljar.args(["run", "target/models/magika.onnx", "--policy"]).arg(policy);
    belljar.args(["--input", "bytes=-", "--labels", "target/models/magika.labels.txt"]);
    belljar.args(["--format", "json"]);
    setup::environment(repo, &mut belljar);
    let printed = run::with_input(&mut belljar, input)?;
    best(&printed)
}

/// The entry with the highest value among the first output's `top`.
fn best(printed: &[u8]) -> Result<Answer> {
    let result: Value =
        serde_json::from_slice(printed).context("belljar did not print JSON on standard output")?;
    let top = result.pointer("/outputs/0/top").and_then(Value::as_array);
    let top = top.context("no `outputs[0].top` in what belljar printed")?;
    let answers = top.iter().filter_map(|entry| {
        let label = entry.get("label")?.as_str()?.to_owned();
        Some(Answer { label, score: entry.get("value")?.as_f64()? })
    });
    answers
        .max_by(|a, b| a.score.total_cmp(&b.score))
        .context("no entry of `outputs[0].top` has a label and a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_entry_is_found() {
        let printed = br#"{"outputs":[{"name":"target_label","top":[
            {"index":[0,5],"value":0.2,"label":"c"},
            {"index":[0,6],"value":0.7,"label":"rust"}]}]}"#;
        let answer = best(printed).expect("an answer");
        assert_eq!((answer.label.as_str(), answer.score), ("rust", 0.7));
        assert!(best(b"{}").is_err());
        assert!(best(br#"{"outputs":[{"top":[]}]}"#).is_err());
    }

    #[test]
    fn every_sample_is_there_and_long_enough() {
        let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples");
        for (name, _) in SAMPLES {
            let content = fs::read(samples.join(name)).expect(name);
            assert!(magika::features(&content).is_ok(), "{name}");
        }
    }
}
