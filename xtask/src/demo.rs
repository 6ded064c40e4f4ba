//! The demo: a sandboxed real model identifies some files.
//!
//! Then guest programs use a model, a file and a service that their policies grant; without one of
//! the grants they are refused with the missing line.
//!
//! Each file is a separate `belljar run`, as an operator would type it.

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;

use crate::Repo;
use crate::guest;
use crate::magika;
use crate::npy::npy;
use crate::programs;
use crate::run::{self, say};
use crate::setup;

/// Files under `tests/samples` and magika's label for each.
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

/// The class of the stored photo according to onnxruntime.
const PHOTO: u64 = 26;

/// Samples that the guest program identifies too.
const FOR_PROGRAM: [&str; 6] =
    ["ring_buffer.rs", "tide_table.py", "walking_guide.md", "bell.png", "ticket.pdf", "walk.zip"];

/// Sets up, builds, and runs every sample; an error if one gets a wrong label.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    setup::build_host(repo)?;
    let begun = Instant::now();
    let files = files(repo);
    let policies = repo.root().join("policies");
    let policy = PrivateCopy::of("model", &policies.join("magika.toml"), &[])?;
    say(format!("demo: {} files, each in a separate sandbox", files.len()));

    println!("{:<20} {:<12} {:>6}", "file", "kind", "score");
    let mut right = 0;
    for (path, expected) in &files {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let answer = ask(repo, path, &policy.policy).with_context(|| path.display().to_string())?;
        let verdict = if answer.label == *expected {
            right += 1;
            "as expected".to_owned()
        } else {
            format!("WRONG: expected {expected}")
        };
        println!("{name:<20} {:<12} {:>6.4}  {verdict}", answer.label, answer.score);
    }
    say(format!("demo: {:.1} s", begun.elapsed().as_secs_f64()));
    println!(
        "{right} of {} files named correctly, each inside its own WebAssembly sandbox",
        files.len()
    );
    if right != files.len() {
        bail!("{} of {} files got a wrong label", files.len() - right, files.len());
    }
    as_program(repo, &policies)?;
    classified(repo, &policies)?;
    labelled(repo, &policies)
}

/// Identifies files with a guest program, which prepares the input itself and reaches the model by
/// `wasi:nn`.
fn as_program(repo: &Repo, policies: &Path) -> Result<()> {
    programs::build(repo)?;
    let model = repo.target().join("models/magika.onnx");
    let files = [policies.join("magika.toml"), model];
    let policy = PrivateCopy::of("program", &policies.join("file-type.toml"), &files)?;
    say("demo: a guest program that uses the model, in a separate confined process");
    for name in FOR_PROGRAM {
        let expected = SAMPLES.iter().find(|(sample, _)| *sample == name).map(|(_, kind)| *kind);
        let path = repo.root().join("tests/samples").join(name);
        let mut file = std::ffi::OsString::from("file=bytes:");
        file.push(&path);
        let mut belljar = Command::new(setup::belljar(repo));
        belljar.current_dir(repo.root());
        belljar.args(["run", "target/guest/programs/file-type.wasm", "--policy"]);
        belljar.arg(&policy.policy).arg("--input").arg(file);
        belljar.args(["--labels", "target/models/magika.labels.txt", "--format", "json"]);
        setup::environment(repo, &mut belljar);
        let answer = best(&run::with_input(&mut belljar, Vec::new())?, "scores")?;
        println!("{name:<20} {:<12} {:>6.4}", answer.label, answer.score);
        if expected != Some(&*answer.label) {
            bail!("{name}: the guest program found {}, expected {expected:?}", answer.label);
        }
    }
    println!("{} files named correctly by a guest program", FOR_PROGRAM.len());
    Ok(())
}

/// Classifies a photo with a program that decodes it and runs SqueezeNet; and again without its
/// grant.
fn classified(repo: &Repo, policies: &Path) -> Result<()> {
    let model = repo.target().join("models/squeezenet.onnx");
    let files = [policies.join("squeezenet.toml"), model];
    let policy = PrivateCopy::of("classify", &policies.join("classify.toml"), &files)?;
    say("demo: a guest program that decodes an image and runs a model");
    let photo = "image=tests/expectations/classify/photo.jpg";
    let mut belljar = program(repo, "classify", &policy);
    belljar.args(["--input", photo, "--format", "json"]);
    let printed = run::with_input(&mut belljar, Vec::new())?;
    let class = largest(&printed, "scores")?;
    println!("photo.jpg: class {class}");
    if class != PHOTO {
        bail!("photo.jpg: found class {class}, expected onnxruntime's class {PHOTO}");
    }
    policy.change(&[("name = \"classifier\"", "name = \"another\"")])?;
    let mut belljar = program(repo, "classify", &policy);
    belljar.args(["--input", photo]);
    refused(&mut belljar, "add [[models]] with name = \"classifier\"")
}

/// Finds a label in a granted file, if a service on this machine accepts the score; and again
/// without the grant to connect to the service.
fn labelled(repo: &Repo, policies: &Path) -> Result<()> {
    let port = service()?;
    let policy = PrivateCopy::of("labels", &policies.join("labels.toml"), &[])?;
    policy.put_folder(&policies.join("labels"))?;
    policy.change(&[
        ("features.internal.example", "127.0.0.1"),
        ("7878", &port.to_string()),
        ("private", "loopback"),
    ])?;
    fs::write(policy.folder.join("scores.json"), "[0.1, 0.7, 0.2]")?;
    let mut scores = std::ffi::OsString::from("scores=");
    scores.push(policy.folder.join("scores.json"));
    say("demo: a guest program with a file and a service");
    for (customer, expected) in [("usual", "dog"), ("strict", "unsure")] {
        let mut belljar = program(repo, "labels", &policy);
        belljar.arg("--input").arg(&scores);
        belljar.arg("--input").arg(format!("customer=text:{customer}"));
        belljar.args(["--format", "json"]);
        let printed = run::with_input(&mut belljar, Vec::new())?;
        let result: Value = serde_json::from_slice(&printed)?;
        let label = result["outputs"][0]["text"].as_str().context("no label")?;
        println!("{customer}: {label}");
        if label != expected {
            bail!("{customer}: found {label}, expected {expected}");
        }
    }
    policy.change(&[(&format!("port = {port}\n"), "port = 1\n")])?;
    let mut belljar = program(repo, "labels", &policy);
    belljar.arg("--input").arg(&scores).args(["--input", "customer=text:usual"]);
    refused(&mut belljar, "[[network]]")
}

/// A run of a program under a policy.
fn program(repo: &Repo, name: &str, policy: &PrivateCopy) -> Command {
    let mut belljar = Command::new(setup::belljar(repo));
    belljar.current_dir(repo.root());
    belljar.arg("run").arg(format!("target/guest/programs/{name}.wasm"));
    belljar.arg("--policy").arg(&policy.policy);
    setup::environment(repo, &mut belljar);
    belljar
}

/// Checks that the policy refuses a run, and that the message names the missing line.
fn refused(belljar: &mut Command, missing: &str) -> Result<()> {
    let output = belljar.output()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = message.lines().next().unwrap_or_default();
    println!("without one grant: {first}");
    if output.status.code() != Some(3) || !message.contains(missing) {
        bail!("expected exit code 3 and {missing:?}, found {}: {message}", output.status);
    }
    Ok(())
}

/// A service of features on a port of this machine: `strict` customers need a score of 0.9.
fn service() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = std::io::BufReader::new(stream);
            let mut customer = String::new();
            // A client that disconnects early gets no answer.
            let _ = stream.read_line(&mut customer);
            let enough = if customer == "strict\n" { "0.9\n" } else { "0.5\n" };
            let _ = stream.get_mut().write_all(enough.as_bytes());
        }
    });
    Ok(port)
}

/// The class of the highest value of an output.
fn largest(printed: &[u8], output: &str) -> Result<u64> {
    let result: Value = serde_json::from_slice(printed)?;
    let outputs = result["outputs"].as_array().context("no `outputs`")?;
    let found = outputs.iter().find(|found| found["name"] == output);
    let top = found.and_then(|found| found["top"].as_array()?.first().cloned());
    // All axes but that of the classes have size 1, so the class is the largest index.
    let class = |top: Value| top["index"].as_array()?.iter().filter_map(Value::as_u64).max();
    top.and_then(class).with_context(|| format!("no `top` of {output} in what belljar printed"))
}

/// The committed samples, and three files that the set-up makes.
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

/// A copy of a policy in a folder closed to other users. On systems where new files are writable by
/// the group, a clone's policies are too, and belljar refuses such a policy.
struct PrivateCopy {
    folder: PathBuf,
    policy: PathBuf,
}

impl PrivateCopy {
    /// `files` are files that the policy names, which are copied into its folder.
    fn of(name: &str, policy: &Path, files: &[PathBuf]) -> Result<PrivateCopy> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let name = format!("belljar-demo-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let copy = PrivateCopy { policy: folder.join("policy.toml"), folder };
        let put = |from: &Path, to: &Path| -> Result<()> {
            fs::copy(from, to).with_context(|| from.display().to_string())?;
            Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o600))?)
        };
        put(policy, &copy.policy)?;
        for file in files {
            put(file, &copy.folder.join(file.file_name().context("the file has no name")?))?;
        }
        Ok(copy)
    }
}

impl PrivateCopy {
    /// Changes the policy's text.
    fn change(&self, changes: &[(&str, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(&self.policy)?;
        for (from, to) in changes {
            if !text.contains(from) {
                bail!("{from:?} is not in the policy");
            }
            text = text.replace(from, to);
        }
        Ok(fs::write(&self.policy, text)?)
    }

    /// Copies a folder of files into the policy's folder, readable by other users: if belljar runs
    /// as root, a program's process runs as another user.
    fn put_folder(&self, from: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let to = self.folder.join(from.file_name().context("the folder has no name")?);
        fs::create_dir(&to)?;
        open(&to, 0o755)?;
        for entry in fs::read_dir(from)? {
            let path = to.join(entry.as_ref().map(|entry| entry.file_name()).unwrap_or_default());
            fs::copy(entry?.path(), &path)?;
            open(&path, 0o644)?;
        }
        Ok(())
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // A temporary folder that remains does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ask(repo: &Repo, path: &PathBuf, policy: &Path) -> Result<Answer> {
    let content = fs::read(path)?;
    let input = npy(&magika::features(&content).map_err(Error::msg)?);
    let mut belljar = Command::new(setup::belljar(repo));
    // Relative paths, so that messages show what an operator would type.
    belljar.current_dir(repo.root());
    belljar.args(["run", "target/models/magika.onnx", "--policy"]).arg(policy);
    belljar.args(["--input", "bytes=-", "--labels", "target/models/magika.labels.txt"]);
    belljar.args(["--format", "json"]);
    setup::environment(repo, &mut belljar);
    let printed = run::with_input(&mut belljar, input)?;
    best(&printed, "target_label")
}

/// The entry with the highest value among this output's `top`.
fn best(printed: &[u8], output: &str) -> Result<Answer> {
    let result: Value =
        serde_json::from_slice(printed).context("belljar did not print JSON on standard output")?;
    let outputs = result["outputs"].as_array().context("no `outputs` in what belljar printed")?;
    let found = outputs.iter().find(|found| found["name"] == output);
    let top = found.and_then(|found| found["top"].as_array());
    let top = top.with_context(|| format!("no `top` of {output} in what belljar printed"))?;
    let answers = top.iter().filter_map(|entry| {
        let label = entry.get("label")?.as_str()?.to_owned();
        Some(Answer { label, score: entry.get("value")?.as_f64()? })
    });
    answers
        .max_by(|a, b| a.score.total_cmp(&b.score))
        .context("no entry of `top` has a label and a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_finds_the_label_with_the_highest_value() {
        let printed = br#"{"outputs":[{"name":"target_label","top":[
            {"index":[0,5],"value":0.2,"label":"c"},
            {"index":[0,6],"value":0.7,"label":"rust"}]}]}"#;
        let answer = best(printed, "target_label").expect("an answer");
        assert_eq!((answer.label.as_str(), answer.score), ("rust", 0.7));
        assert!(best(printed, "scores").is_err());
        assert!(best(b"{}", "x").is_err());
        assert!(best(br#"{"outputs":[{"name":"x","top":[]}]}"#, "x").is_err());
    }

    #[test]
    fn every_sample_exists_and_has_features() {
        let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples");
        for (name, _) in SAMPLES {
            let content = fs::read(samples.join(name)).expect(name);
            assert!(magika::features(&content).is_ok(), "{name}");
        }
    }
}
