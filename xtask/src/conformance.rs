//! `cargo xtask conformance`: runs ONNX's own test cases through the sandbox, and writes the tables
//! of their outcomes, and of the element types that are refused, into `tests/conformance/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Repo;
use crate::packages;
use crate::run::{self, say};
use crate::setup;

/// The packages that make the cases, and onnxruntime, whose outcomes are listed too.
pub(crate) const REQUIREMENTS: [&str; 3] = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6"];

/// Makes the cases, runs them, and writes their outcomes.
pub(crate) fn run(repo: &Repo) -> Result<()> {
    cases(repo)?;
    let results = outcomes(repo, &folder(repo))?;
    let to = repo.root().join("tests/conformance");
    fs::write(to.join("classes.txt"), classes(&results))?;
    fs::write(to.join("RESULTS.md"), table(&results))?;
    fs::write(to.join("TYPES.md"), types(repo)?)?;
    let [own, narrow, microsoft] = by_origin(&results);
    println!("{}", summary(own));
    println!("with narrow floats: {}", summary(narrow));
    println!("operators of com.microsoft: {}", summary(microsoft));
    Ok(())
}

/// The element types that ONNX allows and Belljar refuses, with the reasons. Fails if there is none
/// for a type.
fn types(repo: &Repo) -> Result<Vec<u8>> {
    let mut belljar = Command::new(setup::belljar(repo));
    let listed = belljar.args(["ops", "--format", "json"]).output().context("listing operators")?;
    let operators = folder(repo).join("ops.json");
    fs::write(&operators, listed.stdout).context("writing the list of operators")?;
    let script = repo.root().join("tests/conformance/element_types.py");
    let mut compare = Command::new(python(repo)?);
    let compared = compare.arg(script).arg(operators).output().context("comparing types")?;
    let why = String::from_utf8_lossy(&compared.stderr);
    ensure!(compared.status.success(), "tests/conformance/element_types.py: {why}");
    Ok(compared.stdout)
}

/// Runs the cases of a folder, and returns the outcome of each.
fn outcomes(repo: &Repo, cases: &Path) -> Result<Vec<Value>> {
    setup::build_host(repo)?;
    setup::warm(repo)?;
    let results = cases.join("results.json");
    let mut cargo = setup::cargo(repo);
    cargo.args(["test", "--release", "--workspace", "--test", "conformance"]);
    cargo.env("BELLJAR_CONFORMANCE", cases).env("BELLJAR_CONFORMANCE_RESULTS", &results);
    setup::environment(repo, &mut cargo);
    run::run(cargo.stdout(std::io::stderr())).context("running the cases")?;
    let text = fs::read_to_string(&results).context("reading the results")?;
    serde_json::from_str(&text).context("reading the results")
}

/// Makes this many random graphs of nodes on which onnxruntime and ONNX's reference agree, starting
/// with this seed, and runs them: each must give the same answer, or be refused.
pub(crate) fn graphs(repo: &Repo, count: u64, seed: u64) -> Result<()> {
    let folder = repo.target().join("graphs");
    let python = python(repo)?;
    say(format!("graphs: making {count} (two minutes for each 10,000)"));
    if folder.exists() {
        fs::remove_dir_all(&folder).context("removing old graphs")?;
    }
    fs::create_dir_all(&folder)?;
    let mut script = Command::new(python);
    script.arg(repo.root().join("tests/model_fuzz/graphs.py")).arg(&folder);
    script.args(["--count", &count.to_string(), "--seed", &seed.to_string()]);
    run::run(script.stdout(std::io::stderr())).context("making the graphs")?;
    let results = outcomes(repo, &folder)?;
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut failures = 0;
    for result in &results {
        let class = text(result, "class");
        *counts.entry(class).or_default() += 1;
        if !["pass", "refused"].contains(&class) {
            failures += 1;
            let (name, why) = (text(result, "name"), text(result, "why"));
            println!("{name}: {class}: {}: {why}", operators(result).join(", "));
        }
    }
    let of = |class: &str| counts.get(class).copied().unwrap_or(0);
    println!("{} random graphs: {} pass, {} refused", results.len(), of("pass"), of("refused"));
    let at = folder.display();
    ensure!(failures == 0, "{failures} graphs neither passed nor were refused; they are in {at}");
    Ok(())
}

fn folder(repo: &Repo) -> PathBuf {
    repo.target().join("conformance")
}

/// Makes the cases unless they exist and were made by the current script and packages.
pub(crate) fn cases(repo: &Repo) -> Result<()> {
    let folder = folder(repo);
    let script = repo.root().join("tests/conformance/cases.py");
    let archive = repo.root().join("tests/expectations/microsoft/cases.tar.gz");
    let digest = |path: &Path| {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok::<_, anyhow::Error>(crate::guest::hex_sha256(&content))
    };
    let origin = format!("{} {} {}", REQUIREMENTS.join(" "), digest(&script)?, digest(&archive)?);
    let note = folder.join("made-of.txt");
    if fs::read_to_string(&note).is_ok_and(|text| text == origin) {
        say("conformance: the cases are up to date");
        return Ok(());
    }
    let python = python(repo)?;
    say("conformance: making the cases (about two minutes)");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("removing old cases")?;
    }
    fs::create_dir_all(&folder)?;
    run::run(Command::new(python).arg(script).arg(&folder).stdout(std::io::stderr()))?;
    fs::write(note, origin).context("recording the origin of the cases")
}

/// The Python of a virtual environment that has only the required packages.
fn python(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target().join("conformance-venv");
    let python = folder.join("bin/python3");
    if !installed(&python) {
        say(format!("fetching {} (seconds)", REQUIREMENTS.join(", ")));
        packages::install(&folder, &repo.root().join("tests/conformance/requirements.txt"))?;
    }
    Ok(python)
}

fn installed(python: &Path) -> bool {
    let script = "import importlib.metadata as m; \
                  print(*(f'{n}=={m.version(n)}' for n in ('onnx', 'onnxruntime', 'numpy')))";
    let found = run::ask(Command::new(python).args(["-c", script]), Duration::from_secs(20));
    found.is_some_and(|found| found.split_whitespace().eq(REQUIREMENTS))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// One line for each case: kind, name, outcome.
fn classes(results: &[Value]) -> String {
    let line = |result: &Value| format!("{} {}\n", text(result, "name"), text(result, "class"));
    results.iter().map(line).collect()
}

/// The numbers of cases by outcome, and of those that onnxruntime passes.
#[derive(Default)]
struct Counts {
    cases: usize,
    by_class: BTreeMap<String, usize>,
    peer: usize,
}

const CLASSES: [&str; 6] = ["pass", "random", "refused", "wrong", "crash", "limit"];

impl Counts {
    fn add(&mut self, result: &Value) {
        self.cases += 1;
        *self.by_class.entry(text(result, "class").to_owned()).or_default() += 1;
        self.peer += usize::from(text(result, "onnxruntime") == "pass");
    }

    fn line(&self, name: &str) -> String {
        let of = |class: &&str| self.by_class.get(*class).copied().unwrap_or(0).to_string();
        let counts: Vec<String> = CLASSES.iter().map(of).collect();
        format!("| {name} | {} | {} | {} |\n", self.cases, counts.join(" | "), self.peer)
    }
}

fn grouped(results: &[&Value], key: impl Fn(&Value) -> Vec<String>) -> BTreeMap<String, Counts> {
    let mut groups: BTreeMap<String, Counts> = BTreeMap::new();
    for result in results {
        for group in key(result) {
            groups.entry(group).or_default().add(result);
        }
    }
    groups
}

fn kind(result: &Value) -> Vec<String> {
    text(result, "name").split(' ').next().map(str::to_owned).into_iter().collect()
}

fn operators(result: &Value) -> Vec<String> {
    let names = result["operators"].as_array();
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// ONNX's own cases, those with narrow floats that were made from them, and those of onnxruntime's
/// operators.
fn by_origin(results: &[Value]) -> [Vec<&Value>; 3] {
    let of = |wanted: &[&str], others: bool| {
        let is_wanted = |result: &&Value| {
            let is_one = wanted.iter().any(|kind| text(result, "name").starts_with(kind));
            is_one != others
        };
        results.iter().filter(is_wanted).collect()
    };
    [of(&["narrow ", "microsoft "], true), of(&["narrow "], false), of(&["microsoft "], false)]
}

fn summary<'v>(results: impl IntoIterator<Item = &'v Value>) -> String {
    let mut all = Counts::default();
    results.into_iter().for_each(|result| all.add(result));
    let of = |class: &&str| format!("{} {class}", all.by_class.get(*class).unwrap_or(&0));
    let counts: Vec<String> = CLASSES.iter().map(of).collect();
    format!("{} cases: {}; onnxruntime passes {}", all.cases, counts.join(", "), all.peer)
}

const HEAD: &str = "| | cases | pass | random | refused | wrong | crash | limit | onnxruntime passes |\n\
                    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";

fn table(results: &[Value]) -> String {
    let [own, narrow, microsoft] = by_origin(results);
    let mut page = format!(
        "# ONNX's own test cases\n\n\
         Made by `cargo xtask conformance`; do not edit. The test cases of the Python package \
         {}, each run through the sandbox with all of its inputs given at run time, and compared \
         with the case's own tolerances. The last column is {} on the same cases.\n\n\
         *Random* is an answer of random numbers with the right shapes, element types and \
         distribution; the numbers of the case are those of another generator. *Refused* is a clear \
         error instead of an answer (exit code 4). *Wrong*, *crash* and *limit* are zero, and \
         `tests/conformance/main.rs` checks the outcome of every case (`classes.txt`).\n\n{}.\n\n## By kind\n\n{HEAD}",
        REQUIREMENTS[0].replace("==", " "),
        REQUIREMENTS[1].replace("==", " "),
        summary(own.iter().copied()),
    );
    for (name, counts) in grouped(&own, kind) {
        page.push_str(&counts.line(&name));
    }
    page.push_str("\n## By operator\n\nA case counts for each operator that its model has.\n\n");
    page.push_str(HEAD);
    for (name, counts) in grouped(&own, operators) {
        page.push_str(&counts.line(&name));
    }
    page.push_str(&format!(
        "\n## With narrow floats\n\n\
         The cases of operators that add up, with large and tiny float16 and bfloat16 numbers. The \
         expected answer is that of ONNX's reference implementation for the same numbers in 64 \
         bits, if it computes in them, rounded once; an answer may differ by two units in the last \
         place of the largest number. onnxruntime has few operators for bfloat16, and sums float16 \
         in float16 in some.\n\n{}.\n\n{HEAD}",
        summary(narrow.iter().copied()),
    ));
    for (name, counts) in grouped(&narrow, operators) {
        page.push_str(&counts.line(&name));
    }
    page.push_str(&format!(
        "\n## Operators of com.microsoft\n\n\
         Cases that `tests/expectations/microsoft/make.py` drew, and on which onnxruntime and a \
         plain definition of the operator agree.\n\n{}.\n\n{HEAD}",
        summary(microsoft.iter().copied()),
    ));
    for (name, counts) in grouped(&microsoft, operators) {
        page.push_str(&counts.line(&name));
    }
    page
}
