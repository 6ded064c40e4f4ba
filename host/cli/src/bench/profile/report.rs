//! A profile as tables and as JSON. The keys are documented in the command's help.

use std::collections::BTreeMap;
use std::io::{self, Write};

use belljar_abi::ProfiledNode;
use serde_json::{Value, json};

use super::super::Inputs;
use super::super::report::{digits, inputs_json};
use super::{Node, Profile, display_name, kernel};
use crate::args::Bench;
use crate::dims;
use crate::host::Loaded;
use crate::run::policy_json;
use crate::table::{Table, shape};
use belljar_text::Escaped;

/// Maximum number of nodes in the table.
const SHOWN: usize = 30;

pub(super) struct Report<'a> {
    pub(super) arguments: &'a Bench,
    pub(super) iterations: u32,
    pub(super) loaded: &'a Loaded,
    pub(super) inputs: &'a Inputs,
    pub(super) profile: Profile,
}

/// The measurements of all nodes with the same operator and kernel.
#[derive(Default)]
struct Operator {
    nodes: u64,
    calls: u64,
    time: u64,
    kernels: u64,
    /// `None` if it is unknown for one of them.
    multiply_adds: Option<u64>,
}

impl Operator {
    /// By operator and kernel; the longest time first.
    fn all(nodes: &[Node]) -> Vec<((&str, String), Operator)> {
        let mut found: BTreeMap<(&str, String), Operator> = BTreeMap::new();
        for node in nodes {
            let (_, operator) = display_name(&node.first);
            let sum = found.entry((operator, kernel(&node.first))).or_default();
            let known = if sum.nodes == 0 { Some(0) } else { sum.multiply_adds };
            let more = multiply_adds(node);
            sum.multiply_adds =
                known.zip(more).map(|(sum, more): (u64, u64)| sum.saturating_add(more));
            sum.nodes += 1;
            sum.calls += node.calls;
            sum.time = sum.time.saturating_add(node.time);
            sum.kernels = sum.kernels.saturating_add(node.kernels);
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(_, operator)| std::cmp::Reverse(operator.time));
        found
    }
}

/// Number of multiply-adds in all calls of a node, if known.
fn multiply_adds(node: &Node) -> Option<u64> {
    Some(node.first.multiply_adds?.saturating_mul(node.calls))
}

/// 10⁹ multiplications and additions per second.
fn gflops(multiply_adds: Option<u64>, nanoseconds: u64) -> Option<f64> {
    let known = multiply_adds.filter(|_| nanoseconds > 0)?;
    Some(rounded(2.0 * known as f64 / nanoseconds as f64, 1e3))
}

fn rounded(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

fn ms(nanoseconds: u64) -> f64 {
    rounded(nanoseconds as f64 / 1e6, 1e6)
}

/// The shapes of a node's outputs.
fn shapes(node: &ProfiledNode) -> String {
    let shapes = node.outputs.iter().map(|(_, dims)| {
        let dims: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
        shape(&dims)
    });
    shapes.collect::<Vec<_>>().join(", ")
}

impl Report<'_> {
    fn share(&self, nanoseconds: u64) -> f64 {
        rounded(nanoseconds as f64 / self.profile.time.max(1) as f64, 1e6)
    }

    /// Nanoseconds of one run.
    fn of_one_run(&self, nanoseconds: u64) -> f64 {
        nanoseconds as f64 / f64::from(self.profile.runs.max(1))
    }

    pub(super) fn json(&self) -> Value {
        let profile = &self.profile;
        let operators = Operator::all(&profile.nodes).into_iter().map(|((name, kernel), sum)| {
            json!({
                "operator": name,
                "kernel": kernel,
                "nodes": sum.nodes,
                "calls": sum.calls,
                "total_ms": ms(sum.time),
                "kernel_ms": ms(sum.kernels),
                "share": self.share(sum.time),
                "gflops": gflops(sum.multiply_adds, sum.time),
            })
        });
        let nodes = profile.nodes.iter().map(|node| {
            let first = &node.first;
            let (name, operator) = display_name(first);
            let computes = first
                .computes
                .iter()
                .map(|one| json!({ "node": one.name, "operator": one.operator }));
            let outputs = first.outputs.iter().map(|(dtype, dims)| {
                json!({ "dtype": dtype.map(|dtype| dtype.to_string()), "shape": dims })
            });
            json!({
                "node": name,
                "operator": operator,
                "computes": computes.collect::<Vec<_>>(),
                "plan": { "node": first.name, "operator": first.operator },
                "kernel": kernel(first),
                "outputs": outputs.collect::<Vec<_>>(),
                "calls": node.calls,
                "total_ms": ms(node.time),
                "kernel_ms": ms(node.kernels),
                "share": self.share(node.time),
                "multiply_adds": first.multiply_adds,
                "gflops": gflops(multiply_adds(node), node.time),
            })
        });
        json!({
            "model": {
                "path": self.arguments.model.model.to_string_lossy(),
                "sha256": self.loaded.model.digest().to_string(),
                "bytes": self.loaded.size,
            },
            "policy": policy_json(self.loaded.policy.as_ref()),
            "dims": dims::to_json(&self.loaded.model),
            "inputs": inputs_json(self.inputs),
            "iterations": self.iterations,
            "measured": profile.runs,
            "run_ms": rounded(self.of_one_run(profile.time) / 1e6, 1e6),
            "total_ms": ms(profile.time),
            "operators": operators.collect::<Vec<_>>(),
            "nodes": nodes.collect::<Vec<_>>(),
            "outside": { "total_ms": ms(profile.outside), "share": self.share(profile.outside) },
            "clock": { "reading_ns": profile.reading, "subtracted_ms": ms(profile.clock) },
            "same_answer": profile.same_answer,
        })
    }

    pub(super) fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let profile = &self.profile;
        let run = digits(self.of_one_run(profile.time) / 1e6);
        let (runs, reading) = (profile.runs, profile.reading);
        writeln!(
            out,
            "{runs} profiled runs, {run} ms each on average, without the {reading} ns of each \
             clock \
             reading\n"
        )?;
        let figures = |calls: Option<u64>, time: u64, multiply_adds: Option<u64>| {
            [
                calls.map_or_else(String::new, |calls| calls.to_string()),
                digits(ms(time)),
                format!("{:.1}", self.share(time) * 100.0),
                gflops(multiply_adds, time).map_or_else(String::new, digits),
            ]
        };
        let head = ["operator", "computed by", "nodes", "calls", "total (ms)", "%", "GFLOP/s"];
        let mut table = (2..head.len()).fold(Table::new(&head), Table::right);
        for ((name, kernel), sum) in Operator::all(&profile.nodes) {
            let what = [Escaped::cut(name, 40).to_string(), kernel, sum.nodes.to_string()];
            let figures = figures(Some(sum.calls), sum.time, sum.multiply_adds);
            table.row(what.into_iter().chain(figures));
        }
        for (what, time) in [("outside of operators", profile.outside), ("all", profile.time)] {
            let what = [what.to_owned(), String::new(), String::new()];
            table.row(what.into_iter().chain(figures(None, time, None)));
        }
        table.print(&mut *out, 0)?;
        writeln!(out)?;

        let head =
            ["node", "operators", "output", "computed by", "calls", "total (ms)", "%", "GFLOP/s"];
        let mut table = (4..head.len()).fold(Table::new(&head), Table::right);
        let mut nodes: Vec<&Node> = profile.nodes.iter().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(node.time));
        for node in nodes.iter().take(SHOWN) {
            let first = &node.first;
            let (name, operator) = display_name(first);
            let all: Vec<&str> = match &*first.computes {
                [] => vec![operator],
                computes => computes.iter().map(|one| &*one.operator).collect(),
            };
            let what = [
                Escaped::cut(name, 40).to_string(),
                Escaped::cut(&all.join("+"), 40).to_string(),
                Escaped::cut(&shapes(first), 40).to_string(),
                kernel(first),
            ];
            let figures = figures(Some(node.calls), node.time, multiply_adds(node));
            table.row(what.into_iter().chain(figures));
        }
        table.print(&mut *out, 0)?;
        if nodes.len() > SHOWN {
            let more = nodes.len() - SHOWN;
            writeln!(out, "and {more} more nodes with less time; --format json lists all")?;
        }
        Ok(())
    }
}
