//! One model with one set of inputs: from a plan for all sizes of its open dimensions and from a plan
//! for the sizes of these inputs alone, in turns; and how long it takes to load it, in turns with
//! onnxruntime.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use belljar::policy::{Sizes, ValueRule};
use belljar::tensor::npz;
use belljar::{Host, HostBuilder, Model, ModelBytes, Policy, Tensor, WorkerProgram};

use crate::lengths::{median, millis};
use crate::options::Options;
use crate::peers::belljar::Folders;

/// Rounds of runs, in which both plans take turns, and of loads.
const ROUNDS: usize = 41;
const LOADS: usize = 7;

/// The largest inputs that are read.
const MAX_INPUT_BYTES: u64 = 256 << 20;

pub(crate) struct Wanted {
    pub(crate) model: std::path::PathBuf,
    pub(crate) inputs: std::path::PathBuf,
    /// Inputs of other sizes, which the model gets afterwards.
    pub(crate) other: Option<std::path::PathBuf>,
}

type Inputs = Vec<(String, Tensor)>;

pub(crate) fn measure(options: &Options, wanted: &Wanted) -> Result<()> {
    let inputs = read(&wanted.inputs)?;
    let host = builder(options).snapshot_store(false).build().context("the host")?;
    runs(options, &host, &wanted.model, &inputs)?;
    if let Some(other) = &wanted.other {
        other_sizes(options, &host, &wanted.model, &inputs, &read(other)?)?;
    }
    loads(options, &host, wanted, &inputs)
}

fn read(file: &Path) -> Result<Inputs> {
    let from = File::open(file).with_context(|| file.display().to_string())?;
    npz::read(from, MAX_INPUT_BYTES).with_context(|| file.display().to_string())
}

/// Measures the first run of other sizes by a plan for all sizes, against repeated ones, and compares
/// its answer with that of a plan for these sizes.
fn other_sizes(
    options: &Options,
    host: &Host,
    file: &Path,
    inputs: &Inputs,
    other: &Inputs,
) -> Result<()> {
    let bytes = || ModelBytes::open(file, u64::MAX).context("the model");
    let (mut first, mut repeated) = (vec![], vec![]);
    let mut prepared = 0;
    let exact = answer(&host.load(bytes()?, &policy(other))?, other)?;
    for _ in 0..options.rounds(LOADS) {
        let model = host.load(bytes()?, &policy(&[]))?;
        answer(&model, inputs)?;
        answer(&model, inputs)?;
        let before = model.calls().prepare;
        let began = Instant::now();
        let found = answer(&model, other)?;
        first.push(millis(began.elapsed()));
        prepared = prepared.max(model.calls().prepare - before);
        ensure!(same(&found, &exact), "other sizes give another answer than a plan for them");
        let began = Instant::now();
        answer(&model, other)?;
        repeated.push(millis(began.elapsed()));
    }
    let [first, repeated] = [first, repeated].map(|mut times| median(&mut times));
    println!(
        "other sizes: first run {first:.2} ms, repeated {repeated:.2} ms: {:+.2} ms; preparations for \
         them: {prepared}; the answer of a plan for them",
        first - repeated
    );
    Ok(())
}

fn builder(options: &Options) -> HostBuilder {
    let folders = Folders::of(&options.root);
    Host::builder()
        .worker_program(WorkerProgram::Path(options.belljar.clone()))
        .cache_dir(&folders.cache)
        .state_dir(&folders.state)
}

/// Compares the runs, their answers, resets and kernels.
fn runs(options: &Options, host: &Host, file: &Path, inputs: &Inputs) -> Result<()> {
    let bytes = || ModelBytes::open(file, u64::MAX).context("the model");
    let (open, exact) = (host.load(bytes()?, &policy(&[]))?, host.load(bytes()?, &policy(inputs))?);
    let models = [&open, &exact];
    let answers = models.map(|model| answer(model, inputs));
    let [first, second] = answers;
    ensure!(same(&first?, &second?), "the two plans give different answers");
    let kernels = models.map(|model| kernels(model, inputs));
    let [first, second] = kernels;
    let (first, second) = (first?, second?);
    let (mut times, mut resets) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..options.rounds(ROUNDS) {
        for at in [round % 2, 1 - round % 2] {
            // The first run finds the processor's caches full of the other plan's data.
            answer(models[at], inputs)?;
            let began = Instant::now();
            let outputs = models[at].run(inputs)?;
            times[at].push(millis(began.elapsed()));
            resets[at].push(millis(outputs.validate()?.cost().reset));
        }
    }
    let [all, own] = times.each_mut().map(|times| median(times));
    let [all_reset, own_reset] = resets.each_mut().map(|times| median(times));
    println!("run: plan for all sizes {all:.3} ms, for these {own:.3} ms: {:.3}", all / own);
    println!("reset: {all_reset:.3} ms and {own_reset:.3} ms: {:.3}", all_reset / own_reset);
    println!("the same answers; {} kernels", if first == second { "the same" } else { "other" });
    for (count, name) in differing(&first, &second) {
        println!("  {count:+} {name}");
    }
    Ok(())
}

/// Compares load and preparation, for all sizes and for these, with and without stored snapshots,
/// and with the creation of onnxruntime's session.
fn loads(options: &Options, host: &Host, wanted: &Wanted, inputs: &Inputs) -> Result<()> {
    let folder = options.root.join("target/bench/loads");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let keeps = builder(options).state_dir(&folder).snapshot_store(true).build()?;
    // A host does its one-time work with its first model.
    load(host, &wanted.model, &policy(&[]), inputs)?;
    load(&keeps, &wanted.model, &policy(&[]), inputs)?;
    let (mut all, mut own, mut stored, mut peer) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.rounds(LOADS) {
        all.push(millis(load(host, &wanted.model, &policy(&[]), inputs)?));
        own.push(millis(load(host, &wanted.model, &policy(inputs), inputs)?));
        stored.push(millis(load(&keeps, &wanted.model, &policy(&[]), inputs)?));
        peer.push(session(&options.python, &wanted.model)?);
    }
    let [all, own, stored, peer] = [all, own, stored, peer].map(|mut times| median(&mut times));
    println!(
        "load: for all sizes {all:.0} ms, for these {own:.0} ms, stored {stored:.0} ms; onnxruntime \
         {peer:.0} ms: {:.2}, {:.2}, {:.2}",
        all / peer,
        own / peer,
        stored / peer
    );
    Ok(())
}

fn load(host: &Host, file: &Path, policy: &Policy, inputs: &Inputs) -> Result<Duration> {
    let began = Instant::now();
    let model = host.load(ModelBytes::open(file, u64::MAX)?, policy)?;
    model.prepare(inputs)?;
    Ok(began.elapsed())
}

/// The milliseconds that onnxruntime takes to create a session, with its other defaults, on one
/// thread.
fn session(python: &Path, model: &Path) -> Result<f64> {
    const SCRIPT: &str = "\
import sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
start = time.perf_counter()
ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
print((time.perf_counter() - start) * 1e3)
";
    let output = Command::new(python).args(["-c", SCRIPT]).arg(model).output()?;
    if !output.status.success() {
        bail!("onnxruntime: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout).trim().parse().context("onnxruntime's time")
}

/// A policy with enough memory; with inputs, for their exact shapes.
fn policy(inputs: &[(String, Tensor)]) -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = 2 << 30;
    for (name, tensor) in inputs {
        let mut rule = ValueRule::new(name);
        rule.finite = false;
        let sizes = tensor.shape().iter().map(|size| Sizes::exactly(*size as u64));
        rule.shape = Some(sizes.collect());
        policy.inputs.push(rule);
    }
    policy
}

fn answer(model: &Model, inputs: &Inputs) -> Result<Inputs> {
    Ok(model.run(inputs)?.validate()?.into_tensors())
}

/// Whether all outputs have the same bits.
fn same(one: &Inputs, other: &Inputs) -> bool {
    let equal = |((name, one), (other_name, other)): (&(String, Tensor), &(String, Tensor))| {
        let alike = (name, one.dtype(), one.shape()) == (other_name, other.dtype(), other.shape());
        alike && one.to_wire() == other.to_wire()
    };
    one.len() == other.len() && one.iter().zip(other).all(equal)
}

/// The operators of a run in alphabetical order, each with the number of its native kernel.
fn kernels(model: &Model, inputs: &Inputs) -> Result<Vec<String>> {
    let run = model.profiler(inputs)?.run()?;
    let nodes = run.nodes.iter().filter(|node| node.operators > 0 || node.tiles > 0);
    let mut names: Vec<String> =
        nodes.map(|node| format!("{} (kernel {})", node.operator, node.native)).collect();
    names.sort();
    Ok(names)
}

/// The names that are in one list more often than in the other, and by how many.
fn differing(one: &[String], other: &[String]) -> Vec<(i64, String)> {
    let mut names: Vec<&String> = one.iter().chain(other).collect();
    names.sort();
    names.dedup();
    let count = |list: &[String], name: &String| list.iter().filter(|n| *n == name).count() as i64;
    let each = names.into_iter().map(|name| (count(one, name) - count(other, name), name.clone()));
    each.filter(|(more, _)| *more != 0).collect()
}
