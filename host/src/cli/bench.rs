//! `belljar bench`: what a model costs here, as its clients will see it.
//!
//! A request on its own, and requests without a pause, are two questions: the first is how long a
//! client waits, the second what the machine sustains when the reset of memory after each request
//! has to be paid for too. Each has a part of its own.

mod report;
mod resident;

use std::io::{BufWriter, Write, stdout};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::args::{Bench, Format};
use super::failure::Failure;
use super::host::{Store, host_for, load_on, rules};
use super::terminal::Terminal;
use super::{json, made_up};
use crate::tensor::Tensor;
use crate::{Error, Model, RunCost};

use report::Report;
use resident::Resident;

/// Runs of each client that are not counted: the first maps the memory, the second faults it in,
/// and caches have settled a few runs later.
const WARM_UP: u32 = 5;

/// Rest beside twice the time of a reset before the next request, so that it finds pristine memory.
const REST: Duration = Duration::from_millis(1);

type Inputs = [(String, Tensor)];

/// From the model's file to the first answer.
#[derive(Clone, Copy, Default)]
struct Start {
    whole: Duration,
    code: Duration,
    read: Duration,
    load: Duration,
    prepare: Duration,
    first_run: Duration,
}

/// One measured request.
#[derive(Clone, Copy)]
struct Sample {
    /// From the caller's tensors to tensors that were checked.
    latency: Duration,
    cost: RunCost,
}

/// Requests without a pause.
struct Sustained {
    latencies: Vec<Duration>,
    /// From the first request to the last answer.
    whole: Duration,
}

pub(super) fn bench(arguments: &Bench, terminal: &Terminal) -> Result<(), Failure> {
    let clients = usize::from(arguments.concurrency);
    // Compiling the guest, once for this machine, is no part of any start that is measured.
    let compiling = host_for(&arguments.model, Store::Unused, 1, terminal)?;
    let rules = rules(&compiling, &arguments.model, terminal)?;
    terminal.progress("starting", || compiling.warm_up(&rules.0))?;
    drop(compiling);

    let begun = Instant::now();
    let host = host_for(&arguments.model, Store::Unused, clients, terminal)?;
    let loaded = load_on(&host, rules, &arguments.model, Store::Unused, terminal)?;
    let to_loaded = begun.elapsed();
    let model = &loaded.model;
    let inputs = made_up::read_or_make_up(&arguments.inputs, model.description(), model.policy())?;
    let begun = Instant::now();
    let prepare = terminal.progress("preparing the model", || model.prepare(&inputs))?;
    let first = one(model, &inputs)?;
    let start = Start {
        whole: to_loaded + begun.elapsed(),
        code: to_loaded.saturating_sub(loaded.read_time + loaded.load_time),
        read: loaded.read_time,
        load: loaded.load_time,
        prepare,
        first_run: first.latency,
    };

    let iterations = arguments.iterations;
    let alone = terminal.progress("one request at a time", || alone(model, &inputs, iterations))?;
    let sustained = terminal.progress("requests without a pause", || {
        model.warm_up(&inputs, clients)?;
        sustained(
            model,
            &inputs,
            WARM_UP.saturating_mul(u32::from(arguments.concurrency)),
            clients,
        )?;
        sustained(model, &inputs, iterations, clients)
    })?;
    // The last resets are still under way, in which memory is touched.
    std::thread::sleep(rest(alone.iter().map(|sample| sample.cost.reset).max()));
    let report = Report {
        arguments,
        loaded: &loaded,
        inputs: &inputs,
        warm_up: WARM_UP,
        start,
        resident: Resident::look(arguments.model.isolation),
        alone,
        sustained,
    };
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        Format::Table => report.table(&mut out),
        Format::Json => json::print(&report.json(), &mut out),
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

fn rest(reset: Option<Duration>) -> Duration {
    REST + reset.unwrap_or_default() * 2
}

fn one(model: &Model, inputs: &Inputs) -> Result<Sample, Error> {
    let start = Instant::now();
    let outputs = model.run(inputs)?.validate()?;
    Ok(Sample { latency: start.elapsed(), cost: outputs.cost() })
}

/// Requests one at a time, each when the reset after the one before is over.
fn alone(model: &Model, inputs: &Inputs, count: u32) -> Result<Vec<Sample>, Error> {
    // What a reset took is told with the next answer, so the last one that was told must do.
    let mut reset = Duration::ZERO;
    for _ in 0..WARM_UP {
        reset = one(model, inputs)?.cost.reset;
    }
    let mut samples = Vec::new();
    for _ in 0..count {
        std::thread::sleep(rest(Some(reset)));
        let sample = one(model, inputs)?;
        reset = sample.cost.reset;
        samples.push(sample);
    }
    Ok(samples)
}

/// `count` requests in all, from clients that all start at once.
fn sustained(
    model: &Model,
    inputs: &Inputs,
    count: u32,
    clients: usize,
) -> Result<Sustained, Error> {
    let begin = Barrier::new(clients.saturating_add(1));
    let left = AtomicU32::new(count);
    let client = || {
        begin.wait();
        let mut latencies = Vec::new();
        let take = |left: u32| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            match one(model, inputs) {
                Ok(sample) => latencies.push(sample.latency),
                Err(err) => {
                    // The others need not go on.
                    left.store(0, Ordering::Relaxed);
                    return Err(err);
                }
            }
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        begin.wait();
        let start = Instant::now();
        let results: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        let whole = start.elapsed();
        let mut latencies = Vec::new();
        for result in results {
            latencies.extend(result?);
        }
        Ok(Sustained { latencies, whole })
    })
}
