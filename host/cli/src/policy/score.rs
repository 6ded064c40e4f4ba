//! `belljar policy score`: a number for how much a policy exposes, with its parts.
//!
//! The weights are chosen, not measured: they only show which of two policies to review first.
//! [`WEIGHTS`] defines them; policies/README.md must list the same weights.

use std::io::stdout;
use std::path::Path;

use serde_json::{Value, json};

use super::super::args::TextFormat;
use super::super::failure::Failure;
use super::super::json;
use super::super::table::Table;
use super::review;
use belljar_policy::{
    Access, AddressKind, Confinement, FileGrant, LoadedPolicy, NetworkGrant, Peer, Policy,
    ValueRule, quota_bounds,
};
use belljar_text::Escaped;

/// A criterion and its points.
#[derive(Clone, Copy)]
struct Weight {
    key: &'static str,
    points: u32,
    what: &'static str,
}

const fn weight(key: &'static str, points: u32, what: &'static str) -> Weight {
    Weight { key, points, what }
}

const UNPINNED: Weight = weight("unpinned", 20, "any model or program is accepted");
const BEST_EFFORT: Weight = weight("best-effort", 15, "kernel protection layers may be missing");
const NATIVE: Weight = weight("native-kernels", 2, "native code works on the sandbox's memory");
const ANY_INPUT: Weight =
    weight("any-input", 1, "a model without a program: no rule for the values of its inputs");
const ANY_OUTPUT: Weight =
    weight("any-output", 1, "a model without a program: no rule for the values of its outputs");
const WHOLE_OUTPUT: Weight = weight(
    "whole-output",
    1,
    "a model without a program: no output is rounded or reduced to its \
                               greatest values",
);
const MEMORY: Weight = weight("memory", 1, "for each doubling of memory beyond 256 MiB");
const TIME: Weight = weight("time", 1, "for each doubling of the time of a run beyond 10 s");
const THREADS: Weight = weight("threads", 1, "for each doubling of threads beyond one");
const PROGRAM: Weight = weight("program", 10, "a guest program runs");
const PRINTS: Weight = weight("prints", 1, "for each of standard output and standard error");
const CLOCKS: Weight = weight("clocks", 3, "it can read clocks, and so measure time");
const RANDOMNESS: Weight = weight("randomness", 1, "it gets random numbers");
const ARGUMENTS: Weight = weight("arguments", 1, "it gets arguments");
const ENVIRONMENT: Weight = weight("environment", 1, "for each variable");
const MODEL: Weight = weight("model", 1, "for each model it may load");
const READ: Weight = weight("read", 5, "for each file or folder it may read");
const UNPINNED_FILE: Weight = weight(
    "unpinned-file",
    5,
    "for each of these with data of a model, if its content is not pinned by `sha256`",
);
const WRITE: Weight = weight("write", 15, "for each file or folder it may write");
const BROAD: Weight = weight("broad", 20, "for each of these that is / or is directly below it");
const PEER: Weight = weight("peer", 10, "for each peer");
const UDP: Weight = weight("udp", 2, "for each peer by UDP");
const BY_NAME: Weight =
    weight("by-name", 3, "for each peer given by name, which can resolve to any address");
const INSIDE: Weight = weight("inside", 10, "for each kind of private and loopback addresses");
const LINK_LOCAL: Weight = weight("link-local", 20, "for link-local addresses");
const SENT: Weight = weight("sent", 1, "for each doubling of what it may send beyond 16 MiB");
const WRITTEN: Weight =
    weight("written", 1, "for each doubling of what it may write beyond 64 MiB");
const WAY_OUT: Weight =
    weight("way-out", 15, "it reads files and has network access, so it can send them out");

/// Every weight, in order.
const WEIGHTS: &[Weight] = &[
    UNPINNED,
    BEST_EFFORT,
    NATIVE,
    ANY_INPUT,
    ANY_OUTPUT,
    WHOLE_OUTPUT,
    MEMORY,
    TIME,
    THREADS,
    PROGRAM,
    PRINTS,
    CLOCKS,
    RANDOMNESS,
    ARGUMENTS,
    ENVIRONMENT,
    MODEL,
    READ,
    UNPINNED_FILE,
    WRITE,
    BROAD,
    PEER,
    UDP,
    BY_NAME,
    INSIDE,
    LINK_LOCAL,
    SENT,
    WRITTEN,
    WAY_OUT,
];

/// One part of a score.
struct Part {
    key: &'static str,
    points: u32,
    what: String,
}

pub(super) fn score(file: &Path, max: Option<u32>, format: TextFormat) -> Result<(), Failure> {
    let parts = parts(&review(file)?);
    let score = parts.iter().fold(0_u32, |sum, part| sum.saturating_add(part.points));
    match format {
        TextFormat::Text => {
            let mut table = Table::default().right(0);
            for Part { key, points, what } in &parts {
                table.row([points.to_string(), (*key).to_owned(), what.clone()]);
            }
            table.row([score.to_string(), "total".to_owned(), String::new()]);
            table.print(stdout().lock(), 0).map_err(Failure::output)?;
        }
        TextFormat::Json => {
            let part =
                |part: &Part| json!({ "key": part.key, "points": part.points, "what": part.what });
            let weight = |weight: &Weight| json!({ "key": weight.key, "points": weight.points, "what": weight.what });
            let answer = json!({
                "score": score,
                "max": max,
                "parts": parts.iter().map(part).collect::<Value>(),
                "weights": WEIGHTS.iter().map(weight).collect::<Value>(),
            });
            json::print(&answer, stdout().lock()).map_err(Failure::output)?;
        }
    }
    match max {
        Some(max) if score > max => {
            Err(Failure::refused(format!("the score {score} exceeds the maximum {max}")))
        }
        _ => Ok(()),
    }
}

/// Collects parts.
#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, weight: Weight, times: u32, what: impl Into<String>) {
        if times > 0 {
            let points = weight.points.saturating_mul(times);
            self.0.push(Part { key: weight.key, points, what: what.into() });
        }
    }

    fn once(&mut self, weight: Weight, applies: bool) {
        self.add(weight, u32::from(applies), weight.what);
    }
}

/// How often `from` must be doubled to reach `to`.
fn doublings(from: u128, to: u128) -> u32 {
    let mut count = 0;
    let mut reached = from.max(1);
    while reached < to {
        reached = reached.saturating_mul(2);
        count += 1;
    }
    count
}

fn parts(loaded: &LoadedPolicy) -> Vec<Part> {
    let policy = &loaded.policy;
    let mut to = Parts::default();
    let pin = match &policy.program {
        Some(program) => program.sha256,
        None => policy.model.sha256,
    };
    to.once(UNPINNED, pin.is_none());
    to.once(BEST_EFFORT, policy.confinement == Confinement::BestEffort);
    to.once(NATIVE, policy.compute.native_kernels());
    values(policy, &mut to);
    let limits = &policy.limits;
    to.add(MEMORY, doublings(256 << 20, limits.memory.into()), MEMORY.what);
    to.add(TIME, doublings(10_000_000_000, limits.run_time.as_nanos()), TIME.what);
    to.add(THREADS, doublings(1, policy.compute.threads.into()), THREADS.what);
    program(policy, &mut to);
    for grant in &policy.filesystem {
        file("it", grant, loaded, policy.program.is_none(), &mut to);
    }
    for model in &policy.models {
        let name = format!("the model {}", Escaped::cut(&model.name, 60));
        model.files().iter().for_each(|grant| file(&name, grant, loaded, true, &mut to));
    }
    for grant in &policy.network {
        peer(grant, &mut to);
    }
    together(policy, &mut to);
    to.0
}

/// Scores missing value rules. A policy does not contain the model's declared inputs and outputs,
/// so a single rule counts as evidence that its author considered the values.
fn values(policy: &Policy, to: &mut Parts) {
    if policy.program.is_some() {
        return;
    }
    to.once(ANY_INPUT, policy.inputs.is_empty());
    to.once(ANY_OUTPUT, policy.outputs.is_empty());
    let told_less = |rule: &ValueRule| rule.decimals.is_some() || rule.top_k.is_some();
    to.once(WHOLE_OUTPUT, !policy.outputs.iter().any(told_less));
}

fn program(policy: &Policy, to: &mut Parts) {
    let Some(program) = &policy.program else { return };
    to.once(PROGRAM, true);
    to.add(PRINTS, u32::from(program.stdout) + u32::from(program.stderr), PRINTS.what);
    to.once(CLOCKS, program.clocks);
    to.once(RANDOMNESS, program.randomness);
    to.once(ARGUMENTS, program.arguments);
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    to.add(ENVIRONMENT, count(program.environment.len()), ENVIRONMENT.what);
    to.add(MODEL, count(policy.models.len()), MODEL.what);
}

fn file(who: &str, grant: &FileGrant, loaded: &LoadedPolicy, of_model: bool, to: &mut Parts) {
    let path = loaded.shown_path(&grant.host);
    match grant.access {
        Access::Read => to.add(READ, 1, format!("{who} may read {path}")),
        Access::Write => to.add(WRITE, 1, format!("{who} may write {path}")),
    }
    if of_model && grant.sha256.is_none() {
        to.add(UNPINNED_FILE, 1, format!("{path} may have any content"));
    }
    if grant.host.components().count() <= 2 {
        to.add(BROAD, 1, format!("{path} is broad"));
    }
}

fn peer(grant: &NetworkGrant, to: &mut Parts) {
    let host = Escaped::cut(&grant.host.to_string(), 60).to_string();
    let (port, protocol) = (grant.port, grant.protocol.name());
    to.add(PEER, 1, format!("it may talk to {host} port {port}"));
    if protocol == "udp" {
        to.add(UDP, 1, format!("{host} by UDP"));
    }
    if matches!(grant.host, Peer::Name(_)) {
        to.add(BY_NAME, 1, format!("{host} is a name"));
    }
    for kind in &grant.reaches {
        match kind {
            AddressKind::Private | AddressKind::Loopback => {
                to.add(INSIDE, 1, format!("{host} may have a {kind} address"));
            }
            AddressKind::LinkLocal => {
                to.add(LINK_LOCAL, 1, format!("{host} may have a link-local address"));
            }
            AddressKind::Public | AddressKind::Never => {}
        }
    }
}

fn together(policy: &Policy, to: &mut Parts) {
    let writes = policy.filesystem.iter().any(|grant| grant.access == Access::Write);
    let network = !policy.network.is_empty();
    if network {
        let from = quota_bounds::BYTES_SENT.default.into();
        to.add(SENT, doublings(from, policy.quotas.bytes_sent.into()), SENT.what);
    }
    if writes {
        let from = quota_bounds::BYTES_WRITTEN.default.into();
        to.add(WRITTEN, doublings(from, policy.quotas.bytes_written.into()), WRITTEN.what);
    }
    let models_read = policy.models.iter().any(|model| !model.files().is_empty());
    to.once(WAY_OUT, network && (models_read || !policy.filesystem.is_empty()));
}
