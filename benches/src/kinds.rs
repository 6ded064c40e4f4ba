//! The models of `benches/models.toml`, which `benches/models/make.py` has made: Belljar and
//! onnxruntime in turns, on one thread, by model and by kind.
//!
//! Belljar is measured by its own `belljar bench`, so that any build can be measured, and the peer in
//! its process. Both take turns within a round, in an order that alternates; a ratio is formed within a
//! round.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use belljar::Tensor;
use belljar::tensor::npz;
use serde_json::{Value, json};

use crate::against::{self, Build};
use crate::inputs::Case;
use crate::machine::Machine;
use crate::measure::{Samples, median, millis, turns};
use crate::options::Options;
use crate::peers::Peer;
use crate::peers::belljar::Folders;
use crate::peers::process::{ProcessPeer, Program};
use crate::report::{digits, geometric_mean, line, rule};
use crate::{say, write, write_figures};

/// Rounds.
const ROUNDS: usize = 9;

/// The number of runs of `belljar bench` in a round: the first ones find caches full of other data.
const MIN_RUNS: usize = 3;
const MAX_RUNS: usize = 100;

/// Some of the models need more memory than the default policy grants.
const POLICY: &str = "version = 1\n\n[limits]\nmemory = \"3 GiB\"\n";

/// The largest outputs that are compared.
const MAX_OUTPUT_BYTES: u64 = 256 << 20;

/// Kinds of models with products of 8-bit integers. Without VNNI, onnxruntime computes them with
/// instructions that saturate, and gives inexact sums, unless a setting forbids it.
const QUANTISED: [&str; 4] = ["int8-dynamic", "qdq", "qoperator", "int4"];
const EXACT: &str = "session.x64quantprecision=1";

/// Version of the JSON: raised when a key changes its meaning or is removed.
const FORMAT: u32 = 1;

/// A line of the index that `make.py` writes.
struct Listed {
    kind: String,
    twin: Option<String>,
    case: Case,
}

/// The figures of a model.
struct Measured {
    name: String,
    kind: String,
    twin: Option<String>,
    /// Why there are no figures.
    error: Option<String>,
    belljar: Samples,
    onnxruntime: Samples,
    /// onnxruntime with inexact sums of 8-bit products, where that is not its exact mode.
    inexact: Samples,
    /// The fractions of a run in native kernels, in WebAssembly, and outside of both.
    share: [f64; 3],
    /// The largest difference of an output, relative to its largest number.
    difference: Option<f64>,
}

/// Measures each model, writes the figures, and prints tables. A model that does not run is reported,
/// and fails the command once all others are measured.
pub(crate) fn measure(options: &Options, index: &Path) -> Result<()> {
    let mut machine = Machine::look();
    let policy = options.root.join("target/bench/models.policy.toml");
    write(&policy, POLICY.to_owned())?;
    let build = Build { program: &options.belljar, policy: Some(&policy) };
    let text = fs::read(index).with_context(|| index.display().to_string())?;
    let entries = serde_json::from_slice::<Vec<Value>>(&text).context("the index of models")?;
    let (mut all, mut version) = (Vec::new(), String::new());
    for (at, entry) in entries.iter().enumerate() {
        let listed = read(entry)?;
        let mut found = Measured::of(&listed);
        let result = model(options, &build, &listed.case, &mut found, &mut version);
        let outcome = match &result {
            Ok(()) => {
                format!("{} ms, {:.2} × onnxruntime", digits(found.belljar.median()), found.ratio())
            }
            Err(error) => format!("not measured: {error:#}"),
        };
        say(format!("{} of {}: {}: {outcome}", at + 1, entries.len(), found.name));
        found.error = result.err().map(|error| format!("{error:#}"));
        all.push(found);
    }
    machine.look_again();
    write_figures(&options.json, &figures(&all, &machine, options, &version))?;
    print!("{}", markdown(&all, options.quick));
    let failed: Vec<&str> =
        all.iter().filter(|one| one.error.is_some()).map(|one| one.name.as_str()).collect();
    ensure!(failed.is_empty(), "models that were not measured: {}", failed.join(", "));
    Ok(())
}

fn read(entry: &Value) -> Result<Listed> {
    let text = |value: &Value, key: &str| -> Result<String> {
        let text = value[key].as_str().with_context(|| format!("no {key:?} in {value}"))?;
        Ok(text.to_owned())
    };
    let name = text(entry, "name")?;
    let inputs = entry["inputs"].as_array().context("no inputs")?.iter();
    let files: Vec<(String, PathBuf)> = inputs
        .map(|input| Ok((text(input, "name")?, text(input, "file")?.into())))
        .collect::<Result<_>>()?;
    let case = Case::of_files(&name, text(entry, "model")?.as_ref(), &files)
        .with_context(|| format!("the inputs of {name}"))?;
    let twin = entry["twin"].as_str().map(str::to_owned);
    Ok(Listed { kind: text(entry, "kind")?, twin, case })
}

/// Compares the outputs and measures the rounds of a model.
fn model(
    options: &Options,
    build: &Build<'_>,
    case: &Case,
    found: &mut Measured,
    version: &mut String,
) -> Result<()> {
    let folders = Folders::of(&options.root);
    let script = options.root.join("benches/peers/onnxruntime_peer.py");
    let plain = Program::new("onnxruntime", &[&options.python, &script]);
    let mut peers = vec![ProcessPeer::new(plain.clone())];
    if QUANTISED.contains(&found.kind.as_str()) && !Machine::has_vnni() {
        let exact = plain.with_setting("onnxruntime, exact", EXACT);
        peers.insert(0, ProcessPeer::new(exact));
    }
    let mut runs = Vec::new();
    for peer in &mut peers {
        peer.load(case)?;
        peer.run(1)?;
        runs.push(turns(peer.run(1)?.into_iter().sum()));
    }
    if let Some(peer) = peers.first_mut() {
        found.difference = difference(&outputs(options, build, case, &folders)?, peer)?;
        *version = peer.version().to_owned();
    }
    let first = build.bench(case, &folders, MIN_RUNS)?;
    let once = Duration::from_secs_f64(against::median(&first)? / 1e3);
    let iterations = turns(once).clamp(MIN_RUNS, MAX_RUNS);
    let mut shares: [Vec<f64>; 3] = Default::default();
    for round in 0..options.rounds(ROUNDS) {
        let ours = |found: &mut Measured, shares: &mut [Vec<f64>; 3]| -> Result<()> {
            let printed = build.bench(case, &folders, iterations)?;
            found.belljar.0.push(against::median(&printed)?);
            for (list, part) in shares.iter_mut().zip(share(&printed)) {
                list.push(part);
            }
            Ok(())
        };
        if round % 2 == 0 {
            ours(found, &mut shares)?;
        }
        let figures = [&mut found.onnxruntime, &mut found.inexact];
        for ((peer, count), samples) in peers.iter_mut().zip(&runs).zip(figures) {
            let times: Vec<f64> = peer.run(*count)?.into_iter().map(millis).collect();
            samples.0.push(median(&times));
        }
        if round % 2 == 1 {
            ours(found, &mut shares)?;
        }
    }
    found.share = shares.map(|list| median(&list));
    Ok(())
}

/// The fractions of a run in native kernels, in other WebAssembly, and outside of the sandbox.
/// `belljar bench` counts the reset of memory, too, which comes after the answer.
fn share(printed: &Value) -> [f64; 3] {
    let part = |name: &str| printed["share"][name].as_f64().unwrap_or(0.0);
    let parts = ["kernels", "guest", "crossing"].map(part);
    let whole: f64 = parts.iter().sum();
    parts.map(|part| part / whole)
}

/// Belljar's outputs, in the order in which the model declares them.
fn outputs(
    options: &Options,
    build: &Build<'_>,
    case: &Case,
    folders: &Folders,
) -> Result<Vec<(String, Tensor)>> {
    let file = options.root.join("target/bench/models.outputs.npz");
    let mut command = build.command("run", case, folders);
    command.arg("--output").arg(&file).arg("--force");
    build.finish(command, case)?;
    let read = fs::File::open(&file).with_context(|| file.display().to_string())?;
    npz::read(read, MAX_OUTPUT_BYTES).context("the outputs")
}

/// The largest difference of an output from the peer's, relative to the largest number of the output.
/// `None` if no output has numbers that can be compared.
fn difference(ours: &[(String, Tensor)], peer: &mut ProcessPeer) -> Result<Option<f64>> {
    let its = peer.outputs()?;
    let (found, expected) = (ours.len(), its.len());
    ensure!(found == expected, "{found} outputs, onnxruntime has {expected}");
    let mut largest = None;
    for ((name, ours), its) in ours.iter().zip(&its) {
        let Some(ours) = numbers(ours) else { continue };
        let (found, expected) = (ours.len(), its.len());
        ensure!(found == expected, "{name} has {found} elements, onnxruntime's {expected}");
        largest = Some(f64::max(largest.unwrap_or(0.0), apart(&ours, its)));
    }
    Ok(largest)
}

fn apart(ours: &[f32], its: &[f32]) -> f64 {
    let scale = its.iter().fold(0.0, |most: f32, number| most.max(number.abs()));
    let most = ours.iter().zip(its).fold(0.0, |most: f32, (one, other)| {
        let off = (one - other).abs();
        if off.is_nan() { f32::INFINITY } else { most.max(off) }
    });
    // Outputs of zeros only have no scale.
    f64::from(if scale > 0.0 { most / scale } else { most })
}

fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    if let Some(integers) = tensor.as_slice::<i64>() {
        return Some(integers.iter().map(|number| *number as f32).collect());
    }
    tensor.as_slice::<f32>().map(<[f32]>::to_vec)
}

impl Measured {
    fn of(listed: &Listed) -> Measured {
        Measured {
            name: listed.case.name.clone(),
            kind: listed.kind.clone(),
            twin: listed.twin.clone(),
            error: None,
            belljar: Samples::default(),
            onnxruntime: Samples::default(),
            inexact: Samples::default(),
            share: [f64::NAN; 3],
            difference: None,
        }
    }

    fn ratio(&self) -> f64 {
        self.belljar.ratio(&self.onnxruntime)
    }

    fn json(&self, all: &[Measured]) -> Value {
        let [kernels, guest, crossing] = self.share;
        json!({
            "name": self.name,
            "kind": self.kind,
            "error": self.error,
            "belljar_ms": self.belljar.0,
            "onnxruntime_ms": self.onnxruntime.0,
            "onnxruntime_inexact_ms": self.inexact.0,
            "ratio": finite(self.ratio()),
            "ratio_inexact": finite(self.belljar.ratio(&self.inexact)),
            "twin": self.twin,
            "ratio_twin": finite(to_twin(self, all)),
            "share": { "kernels": finite(kernels), "guest": finite(guest), "crossing": finite(crossing) },
            "difference": self.difference.filter(|number| number.is_finite()),
        })
    }
}

/// The time of a narrow model divided by that of its float32 twin; NaN without a twin. They are
/// different models, which had their turns at different times.
fn to_twin(one: &Measured, all: &[Measured]) -> f64 {
    let twin = one.twin.as_ref().and_then(|name| all.iter().find(|other| other.name == *name));
    twin.map_or(f64::NAN, |twin| one.belljar.median() / twin.belljar.median())
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

/// The models that were measured, by kind, the slowest kind first.
fn by_kind(all: &[Measured]) -> Vec<(&str, Vec<&Measured>, f64)> {
    let mut kinds: BTreeMap<&str, Vec<&Measured>> = BTreeMap::new();
    for one in all.iter().filter(|one| one.error.is_none()) {
        kinds.entry(&one.kind).or_default().push(one);
    }
    let mean = |models: &[&Measured]| {
        geometric_mean(&models.iter().map(|one| one.ratio()).collect::<Vec<_>>())
    };
    let mut kinds: Vec<_> = kinds
        .into_iter()
        .map(|(kind, mut models)| {
            models.sort_by(|one, other| other.ratio().total_cmp(&one.ratio()));
            let mean = mean(&models);
            (kind, models, mean)
        })
        .collect();
    kinds.sort_by(|one, other| other.2.total_cmp(&one.2));
    kinds
}

fn figures(all: &[Measured], machine: &Machine, options: &Options, version: &str) -> Value {
    let kinds = by_kind(all);
    let kinds = kinds.iter().map(|(kind, models, mean)| {
        let worst = models.first();
        json!({
            "kind": kind,
            "models": models.len(),
            "mean": mean,
            "worst": worst.map(|one| &one.name),
            "worst_ratio": worst.map(|one| one.ratio()),
        })
    });
    json!({
        "format": FORMAT,
        "quick": options.quick,
        "time": machine.time,
        "machine": machine.json(),
        "vnni": Machine::has_vnni(),
        "onnxruntime": version,
        "kinds": kinds.collect::<Vec<_>>(),
        "models": all.iter().map(|one| one.json(all)).collect::<Vec<_>>(),
    })
}

fn markdown(all: &[Measured], quick: bool) -> String {
    let ratio = |number: f64| match number.is_finite() {
        true => format!("{number:.2}"),
        false => String::new(),
    };
    let mut text = String::from(
        "# Belljar and onnxruntime, by kind of model\n\nOne thread; medians of alternating rounds.\n",
    );
    if quick {
        text += "Measured with `--quick`: too few rounds to quote.\n";
    }
    if !Machine::has_vnni() {
        text += "onnxruntime ran quantised models in its exact mode; `inexact` is the ratio to the other.\n";
    }
    text.push('\n');
    let head = ["kind", "models", "geometric mean", "worst", "ratio of the worst"];
    text += &line(head.map(str::to_owned).into_iter());
    text += &rule(head.len() - 1);
    let kinds = by_kind(all);
    for (kind, models, mean) in &kinds {
        let worst = models.first();
        let cells = [
            (*kind).to_owned(),
            models.len().to_string(),
            ratio(*mean),
            worst.map_or_else(String::new, |one| one.name.clone()),
            ratio(worst.map_or(f64::NAN, |one| one.ratio())),
        ];
        text += &line(cells.into_iter());
    }
    for (kind, models, _) in &kinds {
        text += &format!("\n## {kind}\n\n");
        let head = [
            "model",
            "Belljar (ms)",
            "onnxruntime (ms)",
            "ratio",
            "inexact",
            "÷ twin",
            "in WebAssembly",
            "difference",
        ];
        text += &line(head.map(str::to_owned).into_iter());
        text += &rule(head.len() - 1);
        for one in models {
            let cells = [
                one.name.clone(),
                digits(one.belljar.median()),
                digits(one.onnxruntime.median()),
                ratio(one.ratio()),
                ratio(one.belljar.ratio(&one.inexact)),
                ratio(to_twin(one, all)),
                format!("{:.0} %", 100.0 * one.share[1]),
                one.difference.map_or_else(String::new, |off| format!("{off:.1e}")),
            ];
            text += &line(cells.into_iter());
        }
    }
    let failed: Vec<&Measured> = all.iter().filter(|one| one.error.is_some()).collect();
    if !failed.is_empty() {
        text += "\n## Not measured\n\n";
        for one in failed {
            let error = one.error.as_deref().unwrap_or_default().replace('\n', " ");
            text += &format!("- {}: {error}\n", one.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, kind: &str, ours: &[f64], its: &[f64]) -> Measured {
        Measured {
            name: name.to_owned(),
            kind: kind.to_owned(),
            twin: None,
            error: None,
            belljar: Samples(ours.to_vec()),
            onnxruntime: Samples(its.to_vec()),
            inexact: Samples::default(),
            share: [0.25, 0.5, 0.25],
            difference: Some(0.0),
        }
    }

    #[test]
    fn kinds_and_their_models_are_listed_from_the_slowest() {
        let mut failed = measured("d", "qdq", &[], &[]);
        failed.error = Some("refused".to_owned());
        let all = [
            measured("a", "cnn", &[2.0, 2.0], &[1.0, 1.0]),
            measured("b", "qdq", &[2.0], &[1.0]),
            measured("c", "qdq", &[8.0], &[1.0]),
            failed,
        ];
        let kinds = by_kind(&all);
        let names: Vec<_> =
            kinds.iter().map(|(kind, models, mean)| (*kind, models.len(), *mean)).collect();
        assert_eq!(names[1], ("cnn", 1, 2.0));
        assert_eq!((names[0].0, names[0].1), ("qdq", 2));
        assert!((names[0].2 - 4.0).abs() < 1e-12);
        assert_eq!(kinds[0].1[0].name, "c");
        let text = markdown(&all, false);
        assert!(text.contains("| qdq | 2 | 4.00 | c | 8.00 |"), "{text}");
        assert!(text.contains("- d: refused"), "{text}");
    }

    #[test]
    fn a_narrow_model_is_compared_with_its_twin() {
        let mut narrow = measured("half", "float16", &[6.0], &[1.0]);
        narrow.twin = Some("full".to_owned());
        let all = [measured("full", "cnn", &[4.0], &[1.0]), narrow];
        assert_eq!(to_twin(&all[1], &all), 1.5);
        assert!(to_twin(&all[0], &all).is_nan());
        assert_eq!(all[1].json(&all)["ratio_twin"], 1.5);
        assert_eq!(all[0].json(&all)["ratio_twin"], Value::Null);
    }

    #[test]
    fn the_share_of_a_run_does_not_count_the_reset() {
        let printed =
            json!({ "share": { "kernels": 0.2, "guest": 0.4, "crossing": 0.2, "reset": 0.2 } });
        let [kernels, guest, crossing] = share(&printed);
        assert!((kernels - 0.25).abs() < 1e-12 && (guest - 0.5).abs() < 1e-12);
        assert!((crossing - 0.25).abs() < 1e-12);
    }

    #[test]
    fn the_difference_is_relative_to_the_largest_number() {
        assert_eq!(apart(&[1.0, 9.0], &[1.0, 10.0]), f64::from(0.1f32));
        assert_eq!(apart(&[0.5], &[0.0]), 0.5);
        assert!(apart(&[f32::NAN], &[1.0]).is_infinite());
    }
}
