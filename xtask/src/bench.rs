//! `cargo xtask bench`: builds Belljar and the other runtimes, then starts the comparison.
//!
//! `benches/` measures; this module only prepares what it needs.

mod against;
mod models;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Repo;
use crate::packages;
use crate::run::{self, say};
use crate::setup;

/// The packages of onnxruntime's peer, in the versions that made the tests' expectations.
pub(crate) const REQUIREMENTS: [&str; 2] = ["onnxruntime==1.32.0", "numpy==2.4.6"];

/// onnxruntime's build for WebAssembly, which node runs, and its digest in the registry.
pub(crate) const WEB: (&str, &str) = ("onnxruntime-web", "1.30.0");
pub(crate) const WEB_INTEGRITY: &str = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+\
                             CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==";

pub(crate) const USAGE: &str = "\
usage: cargo xtask bench [--model NAME]... [--table ID]... [--quick] [--json FILE] [--plot FILE]
       cargo xtask bench --against COMMIT|PROGRAM [--policy FILE] [--against-policy FILE]
                         [--model NAME]... [--quick]
       cargo xtask bench --lengths MODEL [--quick]
       cargo xtask bench --plans MODEL --inputs FILE.npz [--other FILE.npz] [--quick]
       cargo xtask bench --models [--kind KIND]... [NAME]... [--quick] [--json FILE]
       cargo xtask bench --from RESULTS.json --plot FILE

The first compares Belljar with native tract, onnxruntime and onnxruntime-web, prints tables and
writes figures as JSON. Tables: run, run-two-threads, rate, cold, workers, first, memory, sandboxes;
targets is run without the others. --quick takes few rounds; --plot draws the warm runs as SVG.

The second compares this build with another one, a `belljar` program or a commit, which it builds,
and fails with the names of the models that became slower. Both run each model in turns, in rounds
whose order alternates. A model is slower if the median over the rounds of new / old is above 1.05
and new is slower in three quarters of the rounds, and a repetition with as many rounds gives the
same result. --policy is the policy of this build, --against-policy that of the other.

The third runs a model of texts, whose inputs have the shape [1, N], at 200 random lengths from one
plan for all of them, and compares it with plans for single lengths, in turns.

The fourth runs a model on these inputs from a plan for all sizes of its open dimensions and from one
for the sizes of the inputs, in turns, and compares times, answers, kernels and loading, the last also
with onnxruntime. With --other, it then runs inputs of other sizes from the plan for all sizes, and
compares the first run with later ones, and the answer with that of a plan for these sizes.

The fifth makes the models of benches/models.toml, all or those of these kinds and names with their
float32 twins, and compares each with onnxruntime on one thread, in rounds whose order alternates:
ratios by model and by kind, narrow models against their twins, and the share of the time that is spent
in WebAssembly. BELLJAR=PROGRAM measures another build.

The last draws existing results.
";

/// Builds everything and measures; `arguments` are those of the command.
pub(crate) fn run(repo: &Repo, arguments: &[&str]) -> Result<()> {
    if arguments.iter().any(|argument| ["--help", "-h"].contains(argument)) {
        print!("{USAGE}");
        return Ok(());
    }
    if arguments.contains(&"--models") {
        return models::run(repo, arguments);
    }
    check(arguments)?;
    let mut bench = Command::new(repo.target().join("release/belljar-bench"));
    // Relative file names among the arguments are the caller's.
    bench.arg("--root").arg(repo.root());
    if arguments.contains(&"--from") {
        setup::build_host(repo)?;
        build(repo, "belljar-bench", "release")?;
        return run::run(bench.args(arguments)).context("drawing the plot");
    }
    let mut arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let against = arguments.iter().position(|argument| argument == "--against");
    if let Some(other) = against.and_then(|at| arguments.get_mut(at + 1)) {
        // Built before this build, as both are built in the same folder.
        *other = against::program(repo, other)?.display().to_string();
    }
    setup::build_host(repo)?;
    build(repo, "belljar-bench", "release")?;
    bench.arg("--belljar").arg(setup::belljar(repo));
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if given("--plans") {
        bench.arg("--python").arg(python(repo)?);
    } else if against.is_none() && !given("--lengths") {
        say("building native tract to compare with (about 4 minutes on 2 cores the first time)");
        build(repo, "tract-peer", "peer")?;
        bench.arg("--tract").arg(repo.target().join("peer/tract-peer"));
        bench.arg("--python").arg(python(repo)?);
        match web(repo)? {
            Some(folder) => {
                bench.args(["--node", &node(), "--web"]).arg(folder);
            }
            None => say("node or npm is not installed: skipping onnxruntime-web"),
        }
    }
    setup::warm(repo)?;
    run::run(bench.args(arguments)).context("the benchmark failed")
}

/// Refuses wrong arguments before minutes are spent on building.
fn check(arguments: &[&str]) -> Result<()> {
    const VALUES: [&str; 12] = [
        "--lengths",
        "--plans",
        "--inputs",
        "--other",
        "--model",
        "--table",
        "--json",
        "--plot",
        "--from",
        "--against",
        "--policy",
        "--against-policy",
    ];
    let mut given = arguments.iter();
    while let Some(argument) = given.next() {
        match *argument {
            "--quick" => {}
            flag if VALUES.contains(&flag) && given.next().is_some() => {}
            flag if VALUES.contains(&flag) => bail!("{flag} needs a value"),
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    let has = |flag: &str| arguments.contains(&flag);
    if !has("--against") && (has("--policy") || has("--against-policy")) {
        bail!("--policy and --against-policy belong to --against\n{USAGE}");
    }
    if has("--plans") != has("--inputs") {
        bail!("--plans and --inputs belong together\n{USAGE}");
    }
    if has("--other") && !has("--plans") {
        bail!("--other belongs to --plans\n{USAGE}");
    }
    if has("--from") && !has("--plot") {
        bail!("--from belongs to --plot\n{USAGE}");
    }
    Ok(())
}

/// The folder in which node finds onnxruntime-web; `None` without node and npm.
fn web(repo: &Repo) -> Result<Option<PathBuf>> {
    let folder = repo.target().join("bench/web");
    let (name, version) = WEB;
    if !run::in_path("node") || !run::in_path("npm") {
        return Ok(None);
    }
    if web_installed(&folder) {
        return Ok(Some(folder));
    }
    say(format!("fetching {name} {version} (seconds)"));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    // The lock has the digest of every package, and npm installs no other bytes.
    for file in ["package.json", "package-lock.json"] {
        let from = repo.root().join("benches/web").join(file);
        fs::copy(&from, folder.join(file)).with_context(|| format!("{}", from.display()))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--quiet"]);
    npm.current_dir(&folder).stdout(std::io::stderr());
    run::run(&mut npm).context("installing onnxruntime-web needs a package registry")?;
    if !web_installed(&folder) {
        bail!("the {name} {version} that npm installed does not have the pinned digest");
    }
    Ok(Some(folder))
}

/// Whether npm installed the pinned package: npm has checked the bytes against the digest that it
/// records.
fn web_installed(folder: &Path) -> bool {
    let read = || -> Option<serde_json::Value> {
        let text = fs::read_to_string(folder.join("node_modules/.package-lock.json")).ok()?;
        serde_json::from_str(&text).ok()
    };
    let package = |lock: &serde_json::Value| {
        let package = &lock["packages"][format!("node_modules/{}", WEB.0)];
        package["version"] == WEB.1 && package["integrity"] == WEB_INTEGRITY
    };
    read().is_some_and(|lock| package(&lock))
}

fn node() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join("node"));
    let found = found.find(|file| file.is_file());
    found.map_or_else(|| "node".to_owned(), |file| file.display().to_string())
}

/// One package at a time: features of one must not change how another's dependencies are built.
pub(super) fn build(repo: &Repo, package: &str, profile: &str) -> Result<()> {
    let manifest = repo.root().join("benches/Cargo.toml");
    let mut cargo = setup::cargo(repo);
    cargo.args(["build", "--locked", "--profile", profile, "-p", package, "--manifest-path"]);
    run::run(cargo.arg(manifest)).with_context(|| format!("building {package}"))
}

/// The Python of a virtual environment that has only the required packages.
fn python(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target().join("bench/venv");
    let python = folder.join("bin/python3");
    if !installed(&python) {
        say(format!("fetching {} (seconds)", REQUIREMENTS.join(" and ")));
        packages::install(&folder, &repo.root().join("benches/requirements.txt"))?;
    }
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
        assert!(check(&["--against", "main", "--policy", "p.toml", "--quick"]).is_ok());
        assert!(check(&["--from", "x.json", "--plot", "x.svg", "--table", "run"]).is_ok());
        assert!(check(&["--policy", "p.toml"]).is_err());
        assert!(check(&["--from", "x.json"]).is_err());
        assert!(check(&["--model"]).is_err());
        assert!(check(&["magika"]).is_err());
    }
}
