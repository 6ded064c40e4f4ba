//! `belljar bench --profile`: measures the time of a run by operator and by node.

mod report;
mod trace;

use std::io::{BufWriter, Write, stdout};

use belljar_abi::ProfiledNode;
use belljar_abi::kernel::Kernel;

use super::time::{Deadline, Progress};
use super::{ITERATIONS, WARM_UP, max_time};
use crate::args::{Bench, Format, IsolationArg};
use crate::failure::Failure;
use crate::host::{Store, host_for, load_on, rules};
use crate::outputs::check_free;
use crate::terminal::Terminal;
use crate::{json, random_inputs};
use belljar::internals::ProfiledRun;

use report::Report;

/// Maximum number of runs in a trace. One is often enough, and viewers are slow with many.
const TRACED: usize = 10;

/// What was measured of one node of the plan, over all runs.
struct Node {
    /// The node in the first run.
    first: ProfiledNode,
    calls: u64,
    /// Total time and time in native kernels, in nanoseconds, without reading the clock.
    time: u64,
    kernels: u64,
}

/// What was measured over all runs. Times are in nanoseconds, without reading the clock.
#[derive(Default)]
struct Profile {
    runs: u32,
    /// In execution order.
    nodes: Vec<Node>,
    /// From the beginning of each run to its end.
    time: u64,
    /// The part of that time outside all nodes.
    outside: u64,
    /// The time of all clock readings.
    clock: u64,
    /// The longest time of one clock reading, which is measured before each run.
    reading: u64,
    /// Whether every output was the same as without a clock.
    same_answer: bool,
    /// The first runs, for a trace.
    traced: Vec<ProfiledRun>,
}

impl Profile {
    fn add(&mut self, run: ProfiledRun, trace: bool) -> Result<(), Failure> {
        if self.runs == 0 {
            let node =
                |node: &ProfiledNode| Node { first: node.clone(), calls: 0, time: 0, kernels: 0 };
            self.nodes = run.nodes.iter().map(node).collect();
            self.same_answer = true;
        }
        let same = |(node, ran): (&Node, &ProfiledNode)| {
            node.first.name == ran.name && node.first.operator == ran.operator
        };
        if self.nodes.len() != run.nodes.len() || !self.nodes.iter().zip(&run.nodes).all(same) {
            return Err(Failure::failed(
                "two profiled runs of the same inputs executed different nodes; this is a bug in \
                 Belljar, please report it",
            ));
        }
        let mut measured = 0_u64;
        let mut inside = 0_u64;
        for (node, ran) in self.nodes.iter_mut().zip(&run.nodes) {
            let took = ran.ended.saturating_sub(ran.began);
            let time = took.saturating_sub(run.reading);
            measured = measured.saturating_add(took);
            inside = inside.saturating_add(time);
            node.calls += 1;
            node.time = node.time.saturating_add(time);
            node.kernels = node.kernels.saturating_add(ran.kernels.min(time));
        }
        let whole = run.ended.saturating_sub(run.began);
        // Between the nodes there is one reading before each node, and one at the end.
        let between = run.reading.saturating_mul(run.nodes.len() as u64 + 1);
        let outside = whole.saturating_sub(measured).saturating_sub(between);
        self.outside = self.outside.saturating_add(outside);
        self.time = self.time.saturating_add(outside).saturating_add(inside);
        self.clock = self.clock.saturating_add(whole.saturating_sub(outside + inside));
        self.reading = self.reading.max(run.reading);
        self.same_answer &= run.same_answer;
        self.runs += 1;
        if trace && self.traced.len() < TRACED {
            self.traced.push(run);
        }
        Ok(())
    }
}

/// Name parts of operators that multiply matrices.
const PRODUCTS: [&str; 4] = ["Conv", "MatMul", "Gemm", "Einsum"];

/// The name and operator to show for a node: of the model's nodes that are fused into it, the
/// product or convolution if it is most of the work, or else the first. A node that is not in the
/// model has the name that the plan gave it.
fn display_name(node: &ProfiledNode) -> (&str, &str) {
    let product = || {
        let mut computes = node.computes.iter().filter(|_| node.multiply_adds.is_some());
        computes.find(|one| PRODUCTS.iter().any(|product| one.operator.contains(product)))
    };
    match product().or(node.computes.first()) {
        Some(one) => (&one.name, &one.operator),
        None => (&node.name, &node.operator),
    }
}

/// What computed a node: a kernel of the host, by its name, or WebAssembly.
fn kernel(node: &ProfiledNode) -> String {
    match (Kernel::name_of(node.native), node.operators, node.tiles) {
        (Some(name), 1, 0) => format!("native {name}"),
        (_, 0, 0) => "WebAssembly".into(),
        (_, 0, _) => "WebAssembly, native tiles".into(),
        _ => "WebAssembly, native operators".into(),
    }
}

pub(super) fn profile(arguments: &Bench, terminal: &Terminal) -> Result<(), Failure> {
    if arguments.model.isolation == IsolationArg::Thread {
        let text = "--profile cannot be used with --isolation thread: the guest with a clock runs \
                    only in a worker process";
        return Err(Failure::usage(text).hint("remove --isolation"));
    }
    if let Some(path) = &arguments.trace {
        check_free(path, arguments.force)?;
    }
    let iterations = arguments.iterations.unwrap_or(ITERATIONS);
    let max_time = max_time(arguments)?;
    let host = host_for(&arguments.model, Store::Unused, 1, terminal)?;
    let rules = rules(&host, &arguments.model, terminal)?;
    let loaded = load_on(&host, rules, &arguments.model, Store::Unused, terminal)?;
    let (inputs, _) = random_inputs::read_or_random(&arguments.inputs, &loaded.model)?;
    let mut profiler =
        terminal.progress("preparing the profile", || loaded.model.profiler(&inputs))?;

    let deadline = Deadline::after(max_time);
    let warm = deadline.part(4);
    let mut profile = Profile::default();
    let mut longest = std::time::Duration::ZERO;
    for _ in 0..WARM_UP {
        if !warm.has_time_for(longest) {
            break;
        }
        let begun = std::time::Instant::now();
        profiler.run()?;
        longest = longest.max(begun.elapsed());
    }
    let mut progress = Progress::new(terminal, "profiled runs", iterations);
    for count in 1..=iterations {
        // A profile needs at least one run.
        if count > 1 && !deadline.has_time_for(longest) {
            break;
        }
        let begun = std::time::Instant::now();
        let run = profiler.run()?;
        longest = longest.max(begun.elapsed());
        profile.add(run, arguments.trace.is_some())?;
        progress.at(count as usize);
    }
    drop(progress);
    if !profile.same_answer {
        terminal.warn(
            "the outputs of profiled runs differ from those of a run without a clock: either this \
             model's outputs differ from run to run, or this is a bug in Belljar; please report it",
        );
    }
    if let Some(path) = &arguments.trace {
        trace::write(path, arguments.force, &profile)?;
    }
    let report = Report { arguments, iterations, loaded: &loaded, inputs: &inputs, profile };
    let mut out = BufWriter::new(stdout().lock());
    match arguments.format {
        Format::Table => report.table(&mut out),
        Format::Json => json::print(&report.json(), &mut out),
    }
    .and_then(|()| out.flush())
    .map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use belljar_abi::ModelNode;

    use super::*;

    fn node(name: &str, began: u64, ended: u64) -> ProfiledNode {
        ProfiledNode { name: name.into(), began, ended, ..ProfiledNode::default() }
    }

    fn run(nodes: Vec<ProfiledNode>, reading: u64) -> ProfiledRun {
        ProfiledRun { nodes, began: 100, ended: 200, reading, same_answer: true }
    }

    #[test]
    fn times_add_up_without_the_clock() {
        let mut profile = Profile::default();
        let nodes = || vec![node("a", 110, 130), node("b", 140, 190)];
        profile.add(run(nodes(), 3), false).unwrap();
        profile.add(run(nodes(), 3), false).unwrap();
        let times: Vec<u64> = profile.nodes.iter().map(|node| node.time).collect();
        assert_eq!(times, [34, 94]);
        // 100 in each run, less five readings of 3.
        assert_eq!((profile.time, profile.clock), (2 * 85, 2 * 15));
        assert_eq!(profile.outside, 2 * (100 - 20 - 50 - 3 * 3));
        // A clock too coarse for the measured time must not cause negative times.
        profile.add(run(nodes(), 1000), false).unwrap();
        assert_eq!(profile.time, 2 * 85);
        assert!(profile.add(run(vec![node("a", 1, 2)], 0), false).is_err());
    }

    #[test]
    fn a_node_is_known_by_the_product_in_it() {
        let one =
            |name: &str, operator: &str| ModelNode { name: name.into(), operator: operator.into() };
        let mut node = node("last", 0, 0);
        node.operator = "NativeConv".into();
        assert_eq!(display_name(&node), ("last", "NativeConv"));
        node.computes = vec![one("bn", "BatchNormalization"), one("conv", "Conv")];
        assert_eq!(display_name(&node), ("bn", "BatchNormalization"));
        node.multiply_adds = Some(1);
        assert_eq!(display_name(&node), ("conv", "Conv"));
    }

    #[test]
    fn a_kernel_has_the_name_of_its_request() {
        let node = |native, operators, tiles| ProfiledNode {
            native,
            operators,
            tiles,
            ..ProfiledNode::default()
        };
        assert_eq!(kernel(&node(5, 1, 0)), "native Softmax");
        assert_eq!(kernel(&node(0, 0, 0)), "WebAssembly");
        assert_eq!(kernel(&node(0, 0, 9)), "WebAssembly, native tiles");
        assert_eq!(kernel(&node(2, 7, 0)), "WebAssembly, native operators");
        assert_eq!(kernel(&node(99, 1, 0)), "WebAssembly, native operators");
    }
}
