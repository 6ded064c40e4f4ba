//! A model of texts at many lengths: from one plan for all of them, and from a plan for each length,
//! in turns. Preparing the plans is not counted.
//!
//! The model's inputs are token numbers, masks and types of the shape [1, N], by their names.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use belljar::policy::{Sizes, ValueRule};
use belljar::{Host, Model, ModelBytes, Policy, Tensor, WorkerProgram};

use crate::memory::children;
use crate::options::Options;
use crate::peers::belljar::Folders;
use crate::{MIB, say};

/// The lengths of requests: 1 to this.
const LONGEST: usize = 128;

/// Requests from the plan for all lengths.
const REQUESTS: usize = 200;

/// Lengths that are compared with a plan of their own, and rounds of each.
const COMPARED: usize = 12;
const ROUNDS: usize = 15;

pub(crate) fn measure(options: &Options, file: &Path) -> Result<()> {
    let (requests, rounds) = if options.quick { (20, 3) } else { (REQUESTS, ROUNDS) };
    let folders = Folders::of(&options.root);
    let host = Host::builder()
        .worker_program(WorkerProgram::Path(options.belljar.clone()))
        .cache_dir(&folders.cache)
        .state_dir(&folders.state)
        .snapshot_store(false)
        .build()
        .context("the host")?;
    let bytes = || ModelBytes::open(file, u64::MAX).context("the model");
    let open = host.load(bytes()?, &policy(&[], 1))?;
    let mut random = Random(seed());
    say(format!("seed {}", random.0));
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let mut seen = [false; LONGEST + 1];
    // The example, whose preparation is not counted; and one run of another length.
    for length in [17, 41] {
        run(&open, length)?;
    }
    let after_one = resident()?;
    for _ in 0..requests {
        let length = 1 + random.below(LONGEST);
        let took = run(&open, length)?;
        // The same length once more.
        if !seen[length] {
            seen[length] = true;
            first.push(millis(took) - millis(run(&open, length)?));
        } else {
            again.push(millis(took));
        }
    }
    let after_all = resident()?;
    let prepared = open.calls().prepare;
    let lengths: Vec<usize> = (0..COMPARED).map(|_| 1 + random.below(LONGEST)).collect();
    let mut ratios = Vec::new();
    println!("{:>8}  {:>10}  {:>10}  {:>6}", "length", "all (ms)", "own (ms)", "ratio");
    let (mut all_total, mut own_total) = (0.0, 0.0);
    for length in lengths {
        let names: Vec<String> = open.description().inputs.iter().map(|i| i.name.clone()).collect();
        let own = host.load(bytes()?, &policy(&names, length))?;
        run(&own, length)?;
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            all.push(millis(run(&open, length)?));
            one.push(millis(run(&own, length)?));
        }
        let (all, one) = (median(&mut all), median(&mut one));
        println!("{length:>8}  {all:>10.2}  {one:>10.2}  {:>6.3}", all / one);
        ratios.push(all / one);
        all_total += all;
        own_total += one;
    }
    println!("total of medians: {:.3} of plans for each length", all_total / own_total);
    println!("median ratio: {:.3}", median(&mut ratios));
    println!("first-seen length, more than repeated: median {:.2} ms", median(&mut first));
    println!("preparations of the plan for all lengths: {prepared}");
    println!(
        "resident after two lengths {:.0} MiB, after {requests} requests {:.0} MiB: {:.2}",
        after_one as f64 / MIB,
        after_all as f64 / MIB,
        after_all as f64 / after_one as f64
    );
    ensure!(prepared == 1, "the model was prepared {prepared} times");
    Ok(())
}

/// A policy with enough memory; if inputs are named, with their exact shape.
fn policy(inputs: &[String], length: usize) -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = 2 << 30;
    for name in inputs {
        let mut rule = ValueRule::new(name);
        rule.shape = Some(vec![Sizes::exactly(1), Sizes::exactly(length as u64)]);
        policy.inputs.push(rule);
    }
    policy
}

fn run(model: &Model, length: usize) -> Result<Duration> {
    let inputs = model.description().inputs.iter().map(|input| {
        let number = |at: usize| match &*input.name {
            name if name.contains("mask") => 1i64,
            name if name.contains("type") => 0,
            _ => 100 + (at as i64 * 7919) % 20_000,
        };
        let numbers: Vec<i64> = (0..length).map(number).collect();
        Ok((input.name.clone(), Tensor::new(numbers, &[1, length])?))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    model.run(&inputs)?.validate()?;
    Ok(began.elapsed())
}

/// The memory of this process and its workers, in which shared pages count once. Files in memory,
/// such as snapshots, count whole, whether a process has mapped their pages or not.
fn resident() -> Result<u64> {
    let this = std::process::id();
    let processes = std::iter::once(this).chain(children(this));
    let mut sum = 0;
    let mut files = BTreeMap::new();
    for process in processes {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")) else {
            continue;
        };
        for field in ["Pss_Anon:", "Pss_File:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
            let kib: u64 = kib.with_context(|| format!("smaps_rollup has no {field}"))?;
            sum += kib << 10;
        }
        for open in std::fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
            let in_memory = |path: &Path| path.to_string_lossy().starts_with("/memfd:");
            if std::fs::read_link(open.path()).is_ok_and(|path| in_memory(&path))
                && let Ok(file) = std::fs::metadata(open.path())
            {
                files.insert((file.dev(), file.ino()), file.blocks() * 512);
            }
        }
    }
    Ok(sum + files.values().sum::<u64>())
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number that is different in each run, so that nothing can be made for it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64 | 1)
}

/// An xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
