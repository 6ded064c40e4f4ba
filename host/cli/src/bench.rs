//! `belljar bench`: measures the latency, start-up time, memory and throughput of a model.
//!
//! One part sends single requests, to measure how long a client waits. The other part sends
//! requests without a pause, to measure the sustained rate, which includes the memory reset after
//! each request.

mod profile;
mod report;
mod resident;
mod time;

use std::io::{self, BufWriter, Write, stdout};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use super::args::{Bench, Format};
use super::failure::Failure;
use super::host::{Store, host_for, load_on, rules};
use super::terminal::Terminal;
use super::{json, random_inputs};
use belljar::{Error, ErrorKind, Model, RunCost};
use belljar_confine::process::no_process;
use belljar_policy::units::{format_duration, parse_duration};
use belljar_tensor::Tensor;
use belljar_text::Escaped;

use report::Report;
use resident::Resident;
use time::{Deadline, Progress};

/// Default number of measured requests in each part, and default maximum time of both parts.
const ITERATIONS: u32 = 100;
const MAX_TIME: Duration = Duration::from_secs(30);

/// Warm-up runs of each client. The first maps the memory, the second faults it in, and a few more
/// fill the caches.
const WARM_UP: u32 = 5;

/// The pause before each single request is this plus twice the time of a reset, so that the reset
/// is complete.
const REST: Duration = Duration::from_millis(1);

type Inputs = [(String, Tensor)];

/// The times from the model file to the first answer.
#[derive(Clone, Copy)]
struct Start {
    whole: Duration,
    code: Duration,
    read: Duration,
    load: Duration,
    prepare: Duration,
    first: Sample,
}

/// One measured request.
#[derive(Clone, Copy)]
struct Sample {
    /// From the caller's tensors to checked output tensors.
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
    if arguments.profile {
        return profile::profile(arguments, terminal);
    }
    let clients = usize::from(arguments.concurrency);
    let iterations = arguments.iterations.unwrap_or(ITERATIONS);
    let max_time = max_time(arguments)?;
    // The guest is compiled once for this machine, so that is not part of the measured start.
    let compiling = host_for(&arguments.model, Store::Unused, 1, terminal)?;
    let rules = rules(&compiling, &arguments.model, terminal)?;
    terminal.progress("starting", || compiling.warm_up(&rules.0))?;
    drop(compiling);

    let begun = Instant::now();
    let deadline = Deadline::after(max_time);
    let host = host_for(&arguments.model, Store::Unused, clients, terminal)?;
    let loaded = load_on(&host, rules, &arguments.model, Store::Unused, terminal)?;
    let to_loaded = begun.elapsed();
    let model = &loaded.model;
    let (inputs, _) = random_inputs::read_or_random(&arguments.inputs, model)?;
    let begun = Instant::now();
    let prepare = terminal.progress("preparing the model", || model.prepare(&inputs))?;
    let first = one(model, &inputs)?;
    let start = Start {
        whole: to_loaded + begun.elapsed(),
        code: to_loaded.saturating_sub(loaded.read_time + loaded.load_time),
        read: loaded.read_time,
        load: loaded.load_time,
        prepare,
        first,
    };

    let mut progress = Progress::new(terminal, "one request at a time", iterations);
    let alone = alone(model, &inputs, iterations, deadline.part(2), first, &mut progress)?;
    drop(progress);
    let latency = alone.last().unwrap_or(&first).latency;
    let mut progress = Progress::new(terminal, "requests without a pause", iterations);
    let sustained = {
        // Start each sandbox and let it serve one request before measuring.
        model.warm_up(&inputs, clients.min(deadline.part(4).count(first.latency)))?;
        let warm_up = WARM_UP.saturating_mul(u32::from(arguments.concurrency));
        let part = deadline.part(4);
        sustained(model, &inputs, warm_up, clients, (part, latency), &mut |_| {})?;
        let at = &mut |count| progress.at(count);
        sustained(model, &inputs, iterations, clients, (deadline, latency), at)?
    };
    drop(progress);
    let counts = [alone.len(), sustained.latencies.len()];
    if let Some(time) = max_time.filter(|_| counts.iter().any(|n| *n < iterations as usize)) {
        let ([alone, sustained], time) = (counts, format_duration(time));
        terminal.warn(&format!(
            "the time limit of {time} ended the measurement after {alone} of {iterations} single \
             requests and {sustained} of {iterations} without a pause; raise --max-time, or set \
             --iterations"
        ));
    }
    // The last resets may still be running, and they touch memory.
    std::thread::sleep(rest(alone.iter().map(|sample| sample.cost.reset).max()));
    let report = Report {
        arguments,
        iterations,
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

/// The maximum time of both parts.
fn max_time(arguments: &Bench) -> Result<Option<Duration>, Failure> {
    match (&arguments.max_time, arguments.iterations) {
        (None, Some(_)) => Ok(None),
        (None, None) => Ok(Some(MAX_TIME)),
        (Some(text), _) => parse_duration(text).map(Some).map_err(|err| {
            let text = format!("--max-time {}: {err}", Escaped::new(text));
            Failure::usage(text).hint("give a duration such as \"30 s\"")
        }),
    }
}

/// Sends single requests, each after the reset of the previous one. Stops if the next request,
/// taking as long as the previous one, would end after the deadline.
fn alone(
    model: &Model,
    inputs: &Inputs,
    count: u32,
    deadline: Deadline,
    first: Sample,
    progress: &mut Progress<'_>,
) -> Result<Vec<Sample>, Error> {
    // The time of a reset is reported with the next answer, so the last reported one is used.
    let (mut reset, mut latency) = (Duration::ZERO, first.latency);
    let warm = deadline.part(4);
    for _ in 0..WARM_UP {
        if !warm.has_time_for(latency) {
            break;
        }
        let sample = one(model, inputs)?;
        (reset, latency) = (sample.cost.reset, sample.latency);
    }
    let mut samples = Vec::new();
    for _ in 0..count {
        let pause = rest(Some(reset));
        if !deadline.has_time_for(latency + pause) {
            break;
        }
        std::thread::sleep(pause);
        let sample = one(model, inputs)?;
        (reset, latency) = (sample.cost.reset, sample.latency);
        samples.push(sample);
        progress.at(samples.len());
    }
    Ok(samples)
}

/// Sends `count` requests in total, from clients that start at the same time. Stops if the next
/// request, taking as long as the longest so far or as `expected`, would end after the deadline.
fn sustained(
    model: &Model,
    inputs: &Inputs,
    count: u32,
    clients: usize,
    (deadline, expected): (Deadline, Duration),
    at: &mut (dyn FnMut(usize) + Send),
) -> Result<Sustained, Error> {
    // Held until all clients have started.
    let begin = RwLock::new(());
    let left = AtomicU32::new(count);
    let longest = AtomicU64::new(nanos(expected));
    let at = Mutex::new(at);
    let client = || {
        drop(begin.read());
        let mut latencies = Vec::new();
        let take = |left: u32| left.checked_sub(1);
        while deadline.has_time_for(Duration::from_nanos(longest.load(Ordering::Relaxed)))
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        {
            match one(model, inputs) {
                Ok(sample) => {
                    latencies.push(sample.latency);
                    longest.fetch_max(nanos(sample.latency), Ordering::Relaxed);
                    let done = count.saturating_sub(left.load(Ordering::Relaxed));
                    // Showing progress must not make one client wait for another.
                    if let Ok(mut at) = at.try_lock() {
                        at(done as usize);
                    }
                }
                Err(err) => {
                    // Stops the other clients.
                    left.store(0, Ordering::Relaxed);
                    return Err(err);
                }
            }
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let waits = begin.write();
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, client);
        let clients: io::Result<Vec<_>> = (0..clients).map(spawn).collect();
        let clients = clients.map_err(|err| {
            // Lets the clients that have started end at once.
            left.store(0, Ordering::Relaxed);
            let why = format!("cannot start a thread for a client: {}", no_process(&err));
            Error::new(ErrorKind::Host(why))
        })?;
        drop(waits);
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
