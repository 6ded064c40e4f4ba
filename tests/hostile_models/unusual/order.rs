//! Nodes that are out of order, also in bodies, and cycles.

use belljar::Tensor;

use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, fixed, graph_attribute, node, tensor_f32, tensor_i64,
    value, value_of_any_shape,
};
use crate::{ones, refused, run};

use super::{answers, graph, neg, x};

#[test]
fn nodes_out_of_order_are_sorted() {
    answers(&graph(vec![neg("later", "y"), neg("x", "later")], "y").bytes(), &x(), &[1.0; 2]);
    // A long chain, backwards.
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("v{at}") };
    let chain = (1..=501).rev().map(|at| neg(&name(at - 1), &name(at))).collect();
    answers(&graph(chain, "v501").bytes(), &x(), &[-1.0; 2]);
    // A constant after its reader.
    let two = crate::support::onnx::tensor_attribute("value", tensor_f32("", &[], &[2.0]));
    let nodes =
        vec![node("Mul", &["x", "two"], &["y"], &[]), node("Constant", &[], &["two"], &[two])];
    answers(&graph(nodes, "y").bytes(), &x(), &[2.0; 2]);
}

/// A body with two nodes out of order that make `name` from `from`.
fn backwards(from: &str, name: &str) -> Message {
    let inner = format!("{name}_inner");
    let graph = Graph {
        nodes: vec![neg(&inner, name), neg(from, &inner)],
        outputs: vec![value_of_any_shape(name, FLOAT)],
        ..Graph::default()
    };
    graph.message()
}

#[test]
fn bodies_out_of_order_are_sorted_with_their_outer_values() {
    let branches = [
        graph_attribute("then_branch", backwards("later", "a")),
        graph_attribute("else_branch", backwards("x", "b")),
    ];
    // The body reads a value that is made after its node.
    let nodes = vec![neg("made", "y"), node("If", &["c"], &["made"], &branches), neg("x", "later")];
    let mut choice = graph(nodes, "y");
    choice.inputs.push(value("c", BOOL, &[]));
    for (yes, expected) in [(true, 1.0), (false, -1.0)] {
        let c = Tensor::new(vec![yes], &[]).unwrap();
        answers(&choice.bytes(), &[("x", ones(&[2])), ("c", c)], &[expected; 2]);
    }
    // A nested body reads it.
    let inner = [
        graph_attribute("then_branch", backwards("later", "i")),
        graph_attribute("else_branch", backwards("x", "j")),
    ];
    let outer = Graph {
        nodes: vec![neg("chosen", "a"), node("If", &["c"], &["chosen"], &inner)],
        outputs: vec![value_of_any_shape("a", FLOAT)],
        ..Graph::default()
    };
    let branches = [
        graph_attribute("then_branch", outer.message()),
        graph_attribute("else_branch", backwards("x", "b")),
    ];
    let nodes = vec![node("If", &["c"], &["y"], &branches), neg("x", "later")];
    let mut choice = graph(nodes, "y");
    choice.inputs.push(value("c", BOOL, &[]));
    let c = Tensor::new(vec![true], &[]).unwrap();
    answers(&choice.bytes(), &[("x", ones(&[2])), ("c", c)], &[1.0; 2]);
}

#[test]
fn a_loop_out_of_order_is_sorted() {
    let body = Graph {
        nodes: vec![
            node("Identity", &["c"], &["on"], &[]),
            node("Add", &["doubled", "step"], &["next"], &[]),
            node("Add", &["v", "v"], &["doubled"], &[]),
        ],
        inputs: vec![
            value("i", INT64, &[]),
            value("c", BOOL, &[]),
            value("v", FLOAT, &fixed(&[2])),
        ],
        outputs: vec![value("on", BOOL, &[]), value("next", FLOAT, &fixed(&[2]))],
        ..Graph::default()
    };
    let nodes = vec![
        node("Loop", &["three", "", "x"], &["y"], &[graph_attribute("body", body.message())]),
        neg("x", "step"),
    ];
    let mut graph = graph(nodes, "y");
    graph.initializers = vec![tensor_i64("three", &[], &[3])];
    answers(&graph.bytes(), &x(), &[1.0; 2]);
}

#[test]
fn a_cycle_is_refused_with_the_names_of_its_nodes() {
    let cycle = |count: usize| {
        let mut nodes = vec![neg("x", "start"), neg("v0", "y")];
        nodes.extend((0..count).map(|at| {
            let (from, to) = (format!("v{}", (at + 1) % count), format!("v{at}"));
            node("Add", &[&from, "start"], &[&to], &[])
        }));
        graph(nodes, "y").bytes()
    };
    refused(&cycle(1), &x(), "node \"v0\" (Add) reads its own output");
    let err = run(&cycle(3), &x()).err().unwrap().to_string();
    for name in ["\"v0\" (Add)", "\"v1\" (Add)", "\"v2\" (Add)", "form a cycle"] {
        assert!(err.contains(name), "{err}");
    }
    assert!(!err.contains("start"), "{err}");
    refused(&cycle(5_000), &x(), "5000 nodes form a cycle");
    // Through a body.
    let branches = [
        graph_attribute("then_branch", backwards("late", "a")),
        graph_attribute("else_branch", backwards("x", "b")),
    ];
    let nodes = vec![node("If", &["c"], &["y"], &branches), neg("y", "late")];
    let mut graph = graph(nodes, "y");
    graph.inputs.push(value("c", BOOL, &[]));
    let inputs = [("x", ones(&[2])), ("c", Tensor::new(vec![true], &[]).unwrap())];
    refused(&graph.bytes(), &inputs, "\"late\" (Neg), \"y\" (If)");
}

#[test]
fn a_large_graph_out_of_order_is_sorted_in_time() {
    // Each node reads two later ones.
    let count = 15_000;
    let name = |at: usize| if at + 2 >= count { "x".to_owned() } else { format!("v{at}") };
    let nodes = (0..count - 2)
        .map(|at| {
            let (a, b, to) = (name(at + 1), name(at + 2), format!("v{at}"));
            node("Min", &[&a, &b], &[&to], &[])
        })
        .collect();
    // It may be refused or answered, but it must end.
    let _ = run(&graph(nodes, "v0").bytes(), &x());
}
