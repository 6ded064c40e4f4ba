//! One snapshot for all sizes of models with graphs inside nodes, and of caches that grow.

use crate::support;

use belljar::tensor::Data;
use belljar::{Error, Host, Isolation, Model, Policy, Tensor};
use support::onnx::{
    BOOL, Dim, FLOAT, Graph, INT64, Message, graph_attribute, int_attribute, node, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};

use super::{Folders, load};

fn model(graph: &Graph) -> (Folders, Host, Model) {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &graph.bytes(), &Policy::default()).unwrap();
    (folders, host, model)
}

fn floats(numbers: Vec<f32>) -> Tensor {
    let len = numbers.len();
    Tensor::new(numbers, &[len]).unwrap()
}

fn counted(len: usize) -> Vec<f32> {
    (0..len).map(|at| at as f32).collect()
}

fn run(model: &Model, inputs: &[(&str, Tensor)]) -> Result<Vec<f32>, Error> {
    let outputs = model.run(inputs)?.validate()?;
    match outputs.tensors()[0].1.data() {
        Data::F32(numbers) => Ok(numbers.clone()),
        other => panic!("{other:?}"),
    }
}

fn input(name: &'static str, symbol: &'static str) -> Message {
    value(name, FLOAT, &[Dim::Symbol(symbol)])
}

/// A cache, one new number, and a mask that is as long as both.
fn of_cache() -> Vec<Message> {
    vec![input("cache", "past"), value("new", FLOAT, &[Dim::Fixed(1)]), input("mask", "total")]
}

fn feed(past: usize, total: usize) -> Vec<(&'static str, Tensor)> {
    vec![
        ("cache", floats(counted(past))),
        ("new", floats(vec![past as f32])),
        ("mask", floats(vec![0.5; total])),
    ]
}

/// The nodes that make `name`, the cache with the new number, plus the mask.
fn joined(name: &str) -> Vec<Message> {
    let all = format!("{name}.all");
    vec![
        node("Concat", &["cache", "new"], &[&all], &[int_attribute("axis", 0)]),
        node("Add", &[&all, "mask"], &[name], &[]),
    ]
}

fn half_more(len: usize) -> Vec<f32> {
    counted(len).iter().map(|number| number + 0.5).collect()
}

#[test]
fn a_cache_that_grows_with_its_mask_needs_one_snapshot() {
    let graph = Graph {
        nodes: joined("y"),
        inputs: of_cache(),
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let (_folders, _host, model) = model(&graph);
    for past in [5, 6, 7, 2, 128] {
        assert_eq!(run(&model, &feed(past, past + 1)).unwrap(), half_more(past + 1), "{past}");
    }
    assert_eq!(model.calls().prepare, 1);
    // A mask of another length does not fit, whatever the plan is, and one of 1 is broadcast.
    assert_eq!(run(&model, &feed(5, 7)).unwrap_err().exit_code(), 4);
    assert_eq!(run(&model, &feed(5, 1)).unwrap(), half_more(6));
}

/// `y` of one branch is the masked cache, that of the other the mask times the new number.
fn merged() -> Graph {
    let graph = |nodes: Vec<Message>, output: &str| {
        let outputs = vec![value_of_any_shape(output, FLOAT)];
        graph_attribute(
            if output == "with" { "then_branch" } else { "else_branch" },
            Graph { nodes, outputs, ..Graph::default() }.message(),
        )
    };
    // The length of the mask goes through integers, as exporters write it.
    let mut with = joined("sum");
    with.push(node("Shape", &["mask"], &["length"], &[]));
    with.push(node("Reshape", &["sum", "length"], &["with"], &[]));
    let without = vec![node("Mul", &["mask", "new"], &["without"], &[])];
    let branches = [graph(with, "with"), graph(without, "without")];
    let mut inputs = of_cache();
    inputs.push(value("flag", BOOL, &[Dim::Fixed(1)]));
    Graph {
        nodes: vec![node("If", &["flag"], &["y"], &branches)],
        inputs,
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    }
}

fn flag(flag: bool) -> (&'static str, Tensor) {
    ("flag", Tensor::new(vec![flag], &[1]).unwrap())
}

#[test]
fn branches_share_one_snapshot_for_all_sizes() {
    let (_folders, _host, model) = model(&merged());
    for past in [5, 2, 9, 100] {
        let mut inputs = feed(past, past + 1);
        inputs.push(flag(true));
        assert_eq!(run(&model, &inputs).unwrap(), half_more(past + 1), "{past}");
        *inputs.last_mut().unwrap() = flag(false);
        assert_eq!(run(&model, &inputs).unwrap(), vec![past as f32 / 2.0; past + 1], "{past}");
    }
    assert_eq!(model.calls().prepare, 1);
}

/// The other branch adds three numbers to `x`.
fn sometimes_three() -> Graph {
    let branch = |name: &str, nodes, initializers, output| {
        let outputs = vec![value_of_any_shape(output, FLOAT)];
        let graph = Graph { nodes, initializers, outputs, ..Graph::default() };
        graph_attribute(name, graph.message())
    };
    let same = vec![node("Identity", &["x"], &["same"], &[])];
    let three = tensor_f32("three", &[3], &[10.0, 20.0, 30.0]);
    let more = vec![node("Add", &["x", "three"], &["more"], &[])];
    let branches = [
        branch("then_branch", same, Vec::new(), "same"),
        branch("else_branch", more, vec![three], "more"),
    ];
    Graph {
        nodes: vec![node("If", &["flag"], &["y"], &branches)],
        inputs: vec![input("x", "n"), value("flag", BOOL, &[Dim::Fixed(1)])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    }
}

#[test]
fn a_branch_that_does_not_fit_some_sizes_fails_only_there_and_when_taken() {
    let (_folders, _host, model) = model(&sometimes_three());
    let run = |n: usize, taken| run(&model, &[("x", floats(counted(n))), flag(taken)]);
    for n in [7, 4, 9, 3, 2] {
        assert_eq!(run(n, true).unwrap(), counted(n), "{n}");
    }
    assert_eq!(run(3, false).unwrap(), [10.0, 21.0, 32.0]);
    assert_eq!(run(1, false).unwrap(), [10.0, 20.0, 30.0]);
    for n in [7, 2, 5] {
        assert_eq!(run(n, false).unwrap_err().exit_code(), 4, "{n}");
        assert_eq!(run(n, true).unwrap(), counted(n), "{n}");
    }
}

/// Adds `x` to a sum in each iteration; the second output has the sum after each.
fn sums() -> Graph {
    let body = Graph {
        nodes: vec![
            node("Shape", &["x"], &["length"], &[]),
            node("Reshape", &["sum", "length"], &["flat"], &[]),
            node("Add", &["flat", "x"], &["next"], &[]),
            node("Identity", &["next"], &["each"], &[]),
            node("Identity", &["go"], &["on"], &[]),
        ],
        inputs: vec![
            value("i", INT64, &[]),
            value("go", BOOL, &[]),
            value_of_any_shape("sum", FLOAT),
        ],
        outputs: ["on", "next", "each"]
            .map(|name| value_of_any_shape(name, if name == "on" { BOOL } else { FLOAT }))
            .into(),
        ..Graph::default()
    };
    let body = graph_attribute("body", body.message());
    Graph {
        nodes: vec![
            node("Loop", &["count", "", "x"], &["last", "all"], &[body]),
            node("ReduceSum", &["all", "first"], &["y"], &[int_attribute("keepdims", 0)]),
        ],
        initializers: vec![tensor_i64("first", &[1], &[0])],
        inputs: vec![input("x", "n"), value("count", INT64, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT), value_of_any_shape("last", FLOAT)],
    }
}

#[test]
fn loops_share_one_snapshot_for_all_sizes_and_counts() {
    let (_folders, _host, model) = model(&sums());
    for (n, count) in [(5, 2i64), (3, 0), (11, 7), (2, 1), (64, 3)] {
        let count_input = Tensor::new(vec![count], &[]).unwrap();
        let sums = run(&model, &[("x", floats(counted(n))), ("count", count_input)]).unwrap();
        // 2 + 3 + … + (count + 1) times each number.
        let times = (count * (count + 3) / 2) as f32;
        let expected: Vec<f32> = counted(n).iter().map(|number| number * times).collect();
        assert_eq!(sums, expected, "{n} {count}");
    }
    assert_eq!(model.calls().prepare, 1);
}
