//! `belljar run`: runs one model or guest program once.

use std::io::{BufWriter, Write, stdout};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::args::{Format, Run};
use super::failure::{Failure, shown};
use super::host::{Loaded, Store, load, note_too_large};
use super::inputs::{self, Pictures};
use super::outputs::{Labels, Printing, Target, type_of};
use super::table::Table;
use super::terminal::Terminal;
use super::{dims, json};
use belljar::{ShapeDifference, Tensor, Value};
use belljar_policy::{Cut, LoadedPolicy};

/// How long each step took.
struct Times {
    read: Duration,
    load: Duration,
    inputs: Duration,
    prepare: Duration,
    run: Duration,
    write: Duration,
}

impl Times {
    fn entries(&self) -> [(&'static str, &'static str, Duration); 6] {
        [
            ("read", "the model's bytes and their digest", self.read),
            ("load", "decoded and described in the sandbox, or from the store", self.load),
            ("inputs", "read from their files", self.inputs),
            ("prepare", "typed and optimised in the sandbox, or from the store", self.prepare),
            ("run", "tensors in, tensors out", self.run),
            ("write", "outputs to their files", self.write),
        ]
    }
}

pub(super) fn run(arguments: &Run, terminal: &Terminal) -> Result<(), Failure> {
    #[cfg(feature = "programs")]
    if super::program::is_program(&arguments.model.model) {
        return super::program::run(arguments, terminal);
    }
    if !arguments.arguments.is_empty() {
        return Err(Failure::usage("arguments after -- are for guest programs; this is a model"));
    }
    model(arguments, terminal).map_err(|failure| {
        if arguments.inputs.is_empty() && failure.is_of_input() {
            return failure.hint(
                "give each input with --input NAME=FILE; to try a model on random inputs, use \
                 `belljar bench --random`",
            );
        }
        failure.under(arguments.model.policy.as_deref())
    })
}

fn model(arguments: &Run, terminal: &Terminal) -> Result<(), Failure> {
    let labels = arguments.labels.as_deref().map(Labels::read).transpose()?;
    let target = arguments.output.as_deref().map(|path| Target::new(path, arguments.force));
    let target = target.transpose()?;
    let store = if arguments.no_store { Store::Unused } else { Store::Used };
    let loaded = load(&arguments.model, store, terminal)?;
    let model = &loaded.model;
    if let Some(target) = &target {
        let names = model.description().outputs.iter().map(|output| output.name.as_str());
        target.check(&names.collect::<Vec<_>>())?;
    }
    let start = Instant::now();
    let pictures = Pictures { model, arguments: &arguments.pictures };
    let reading = || inputs::read_values(&arguments.inputs, pictures);
    let (inputs, _) = reading().inspect_err(|err| {
        let (host, found, policy) = (&loaded.host, Some(model.digest()), model.policy());
        note_too_large(host, found, policy, "limits.input-size", err);
    })?;
    let inputs_time = start.elapsed();
    let mut bound = model.bind_values(&inputs)?;
    if let Some(seed) = arguments.seed {
        bound = bound.seed(seed);
    }
    let prepare = terminal.progress("preparing the model", || bound.prepare())?;
    let outputs = terminal.progress("running", || bound.run())?.validate()?;
    let cost = outputs.cost();
    let differences = outputs.shape_differences().to_vec();
    let outputs = outputs.into_values();
    let (tensors, others) = apart(&outputs);
    let printing =
        Printing { labels: labels.as_ref(), top: arguments.top.into(), data: arguments.data };
    printing.check(&tensors)?;

    let start = Instant::now();
    let written = match &target {
        Some(target) => target.write_values(&outputs, terminal)?,
        None => Vec::new(),
    };
    let times = Times {
        read: loaded.read_time,
        load: loaded.load_time,
        inputs: inputs_time,
        prepare: prepare + cost.prepare,
        run: cost.run,
        write: start.elapsed(),
    };
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        Format::Table => {
            if !tensors.is_empty() {
                printing.table(&tensors, &mut out).map_err(Failure::output)?;
            }
            for (name, value) in others {
                let value_type = type_of(model.description(), name);
                printing.other(name, value, value_type, &mut out).map_err(Failure::output)?;
            }
            for path in &written {
                writeln!(out, "\nwrote {}", shown(path)).map_err(Failure::output)?;
            }
        }
        Format::Json => {
            let outputs = Sequence(|| {
                outputs.iter().map(|output| printing.any_entry(output, model.description()))
            });
            let answer = answer(arguments, &loaded, outputs, &differences, &times);
            json::print(&answer, &mut out).map_err(Failure::output)?;
        }
    }
    out.flush().map_err(Failure::output)?;
    if arguments.time && arguments.format == Format::Table {
        print_times(&times);
    }
    // The result is printed: write new snapshots to disk now.
    loaded.host.snapshot_store().finish();
    // The worker is killed when this process exits; waiting for it would only take time.
    std::mem::forget(loaded);
    Ok(())
}

type Tensors<'v> = Vec<(String, &'v Tensor)>;
type Others<'v> = Vec<(&'v str, &'v Value)>;

/// The outputs that are tensors, and the others.
fn apart(outputs: &[(String, Value)]) -> (Tensors<'_>, Others<'_>) {
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    for (name, value) in outputs {
        match value.as_tensor() {
            Some(tensor) => tensors.push((name.clone(), tensor)),
            None => others.push((name.as_str(), value)),
        }
    }
    (tensors, others)
}

/// The whole result as JSON. It is serialised piece by piece, because outputs may be large.
#[derive(Serialize)]
struct Answer<O> {
    cuts: serde_json::Value,
    dims: serde_json::Value,
    model: serde_json::Value,
    outputs: O,
    policy: serde_json::Value,
    prepared: &'static str,
    shape_differences: Vec<serde_json::Value>,
    time: serde_json::Value,
}

fn answer<O: Serialize>(
    arguments: &Run,
    loaded: &Loaded,
    outputs: O,
    differences: &[ShapeDifference],
    times: &Times,
) -> Answer<O> {
    let times: serde_json::Map<_, _> = times
        .entries()
        .iter()
        .map(|(name, _, time)| (format!("{name}_ms"), json!(milliseconds(*time))))
        .collect();
    Answer {
        cuts: cuts_json(&loaded.cuts),
        dims: dims::to_json(&loaded.model),
        model: json!({
            "path": arguments.model.model.to_string_lossy(),
            "sha256": loaded.model.digest().to_string(),
            "bytes": loaded.size,
        }),
        outputs,
        policy: policy_json(loaded.policy.as_ref()),
        prepared: if loaded.model.calls().prepare > 0 { "now" } else { "store" },
        shape_differences: differences.iter().map(difference_json).collect(),
        time: times.into(),
    }
}

/// Serialises the items of an iterator as a list, with only one item in memory at a time.
pub(super) struct Sequence<F>(pub(super) F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Sequence<F> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0())
    }
}

/// The policy file, or null for the default policy.
pub(super) fn policy_json(policy: Option<&LoadedPolicy>) -> serde_json::Value {
    policy.map_or(serde_json::Value::Null, |loaded| {
        json!({
            "path": loaded.source.path.to_string_lossy(),
            "sha256": belljar::Digest::from(loaded.source.sha256).to_string(),
        })
    })
}

/// A shape that differs from the model's declaration.
fn difference_json(difference: &ShapeDifference) -> serde_json::Value {
    let elsewhere = difference.symbol.as_ref();
    json!({
        "kind": if difference.is_input { "input" } else { "output" },
        "name": difference.name,
        "declared": json::dims(&difference.declared),
        "found": difference.found,
        "elsewhere": elsewhere.map(|(symbol, size)| json!({ "symbol": symbol, "size": size })),
    })
}

/// What the ceilings reduced in the policy.
pub(super) fn cuts_json(cuts: &[Cut]) -> serde_json::Value {
    let cut = |cut: &Cut| json!({ "key": cut.key, "asked": cut.asked, "left": cut.left });
    cuts.iter().map(cut).collect()
}

fn print_times(times: &Times) {
    let mut table = Table::default().right(1);
    for (name, what, time) in times.entries() {
        table.row([name.to_owned(), format!("{:.2} ms", milliseconds(time)), what.to_owned()]);
    }
    // If standard error is closed, the times are not wanted.
    let _ = table.print(std::io::stderr().lock(), 0);
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
