//! Many sizes and values against one model, and a size far above the usual: memory and disk stay
//! flat. Each test has a process of its own, whose workers it measures.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use belljar::{Host, Isolation, Model, Policy, Tensor};
use support::onnx::{
    BOOL, Dim, FLOAT, Graph, graph_attribute, node, relu, through_a_sequence, value,
    value_of_any_shape,
};

use super::{Folders, load};

/// The memory of this process and its workers in bytes, in which shared pages count once. Files in
/// memory count whole.
fn memory() -> u64 {
    let this = std::process::id();
    let children = fs::read_dir("/proc/self/task").unwrap().flatten().flat_map(|task| {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let numbers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        numbers.collect::<Vec<u32>>()
    });
    let (mut sum, mut files) = (0, BTreeMap::new());
    for process in std::iter::once(this).chain(children.collect::<Vec<_>>()) {
        let rollup = format!("/proc/{process}/smaps_rollup");
        let Ok(text) = fs::read_to_string(rollup) else { continue };
        for field in ["Pss_Anon:", "Pss_File:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            sum += line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        }
        for open in fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten() {
            let target = fs::read_link(open.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("/memfd:")
                && let Ok(file) = fs::metadata(open.path())
            {
                files.insert((file.dev(), file.ino()), file.blocks() * 512);
            }
        }
    }
    sum + files.values().sum::<u64>()
}

/// The bytes of all files in the store.
fn disk(host: &Host, folders: &Folders) -> u64 {
    host.snapshot_store().finish();
    let files = fs::read_dir(folders.snapshots()).into_iter().flatten().flatten();
    files.map(|file| file.metadata().unwrap().blocks() * 512).sum()
}

/// An xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound) as usize
    }
}

/// Twice the input or its first row, which a value decides.
fn by_a_value() -> Graph {
    let branch = |name: &str, nodes| {
        let outputs = vec![value_of_any_shape("chosen", FLOAT)];
        graph_attribute(name, Graph { nodes, outputs, ..Graph::default() }.message())
    };
    let branches = [
        branch("then_branch", vec![node("Add", &["x", "x"], &["chosen"], &[])]),
        branch("else_branch", vec![node("ReduceSum", &["x"], &["chosen"], &[])]),
    ];
    Graph {
        nodes: vec![node("If", &["flag"], &["y"], &branches)],
        inputs: vec![
            value("x", FLOAT, &[Dim::Symbol("n"), Dim::Symbol("m")]),
            value("flag", BOOL, &[Dim::Fixed(1)]),
        ],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    }
}

fn ask(model: &Model, shape: [usize; 2], twice: bool) {
    let count = shape[0] * shape[1];
    let numbers: Vec<f32> = (0..count).map(|at| (at % 100) as f32).collect();
    let expected: Vec<f32> = match twice {
        true => numbers.iter().map(|x| 2.0 * x).collect(),
        false => vec![numbers.iter().sum()],
    };
    let x = Tensor::new(numbers, &shape).unwrap();
    let flag = Tensor::new(vec![twice], &[1]).unwrap();
    let outputs = model.run(&[("x", x), ("flag", flag)]).unwrap().validate().unwrap();
    assert_eq!(outputs.tensors()[0].1.as_slice::<f32>(), Some(&*expected), "{shape:?} {twice}");
}

#[test]
fn ten_thousand_sizes_and_values_leave_memory_and_disk_flat() {
    if !support::alone(
        "snapshot_store::many::ten_thousand_sizes_and_values_leave_memory_and_disk_flat",
    ) {
        return;
    }
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Process);
    let model = load(&host, &by_a_value().bytes(), &Policy::default()).unwrap();
    let mut random = Random(0x5eed);
    let mut requests = |count: usize| {
        for _ in 0..count {
            let shape = [random.below(120), random.below(120)];
            ask(&model, shape, random.below(2) == 0);
        }
    };
    // The largest, so that later requests write to no memory for the first time.
    ask(&model, [120, 120], true);
    requests(1000);
    let (memory_before, disk_before) = (memory(), disk(&host, &folders));
    requests(9000);
    let (memory_after, disk_after) = (memory(), disk(&host, &folders));
    assert!(memory_after <= memory_before * 11 / 10, "{memory_before} to {memory_after} bytes");
    // Plans for empty sizes may be added.
    assert!(disk_after <= disk_before * 2, "{disk_before} to {disk_after} bytes");
    // Empty sizes are prepared one by one, and evicted ones again.
    let prepared = model.calls().prepare;
    assert!(prepared <= 600, "{prepared} preparations");
}

#[test]
fn shapes_that_are_prepared_one_by_one_leave_memory_and_disk_flat() {
    if !support::alone(
        "snapshot_store::many::shapes_that_are_prepared_one_by_one_leave_memory_and_disk_flat",
    ) {
        return;
    }
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Process);
    // Models with sequences have no plan for several sizes.
    let mut graph = relu(&[Dim::Symbol("n")]);
    let mut nodes = through_a_sequence("x", "s");
    nodes.push(node("Relu", &["s"], &["y"], &[]));
    graph.nodes = nodes;
    let mut policy = Policy::default();
    policy.limits.snapshots = 3;
    let model = load(&host, &graph.bytes(), &policy).unwrap();
    let mut at = 2;
    let mut requests = |count: usize| {
        for _ in 0..count {
            at += 1;
            let x = Tensor::new(vec![-1.0f32; at], &[at]).unwrap();
            let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
            assert_eq!(outputs.tensors()[0].1.as_slice::<f32>(), Some(&*vec![0.0; at]));
        }
    };
    requests(20);
    let (memory_before, disk_before) = (memory(), disk(&host, &folders));
    requests(80);
    let (memory_after, disk_after) = (memory(), disk(&host, &folders));
    assert_eq!(model.calls().prepare, 100);
    assert!(memory_after <= memory_before * 11 / 10, "{memory_before} to {memory_after} bytes");
    assert!(disk_after <= disk_before * 11 / 10, "{disk_before} to {disk_after} bytes");
}

#[test]
fn memory_returns_to_the_usual_after_one_huge_request() {
    if !support::alone("snapshot_store::many::memory_returns_to_the_usual_after_one_huge_request") {
        return;
    }
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Process);
    let model = load(&host, &by_a_value().bytes(), &Policy::default()).unwrap();
    let usual = || (0..20).for_each(|at| ask(&model, [100, 10 + at], true));
    usual();
    let before = memory();
    // 96 MiB of input, and as much of output.
    ask(&model, [24 << 10, 1 << 10], true);
    let (began, mut after) = (Instant::now(), memory());
    while after > before * 12 / 10 && began.elapsed() < Duration::from_secs(10) {
        usual();
        after = memory();
    }
    assert!(after <= before * 12 / 10, "{before} to {after} bytes");
}
