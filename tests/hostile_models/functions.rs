//! Functions that a model defines: calls are inlined, and recursive, exploding or invalid functions
//! are refused.

use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, float_attribute, graph_attribute, node, tensor_f32, value,
    value_of_any_shape,
};
use crate::{ends, ones, refused, run};

const OWN: &str = "own";

/// A function of this domain: name, inputs, outputs, attributes, nodes.
fn function(
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[&str],
    nodes: &[Message],
) -> Message {
    let mut function = Message::new().bytes(1, name);
    for (field, names) in [(4, inputs), (5, outputs), (6, attributes)] {
        for name in names {
            function = function.bytes(field, name);
        }
    }
    let function = function.messages(7, nodes.iter().cloned());
    function.message(9, Message::new().int(2, 17)).bytes(10, OWN)
}

fn call(name: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    node(name, inputs, outputs, attributes).bytes(7, OWN)
}

/// A model on `x` of two numbers, with these nodes, which make `y`, and these functions.
fn model(nodes: &[Message], functions: &[Message]) -> Vec<u8> {
    let graph = Graph {
        nodes: nodes.to_vec(),
        initializers: vec![tensor_f32("two", &[], &[2.0])],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    graph.model().messages(25, functions.iter().cloned()).finish()
}

#[track_caller]
fn answers(bytes: &[u8], expected: [f32; 2]) {
    let outputs = run(bytes, &[("x", ones(&[2]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
}

/// `out = in * factor + in`, with an inner value that has the same name as a value of the model.
fn scaled() -> Message {
    let nodes =
        [node("Mul", &["in", "factor"], &["x"], &[]), node("Add", &["x", "in"], &["out"], &[])];
    function("Scaled", &["in", "factor"], &["out"], &[], &nodes)
}

#[test]
fn function_calls_are_inlined() {
    let once = [call("Scaled", &["x", "two"], &["y"], &[])];
    answers(&model(&once, &[scaled()]), [3.0; 2]);
    let twice =
        [call("Scaled", &["x", "two"], &["a"], &[]), call("Scaled", &["a", "two"], &["y"], &[])];
    answers(&model(&twice, &[scaled()]), [9.0; 2]);
    let outer = function(
        "Outer",
        &["v", "f"],
        &["w"],
        &[],
        &[call("Scaled", &["v", "f"], &["t"], &[]), call("Scaled", &["t", "f"], &["w"], &[])],
    );
    answers(&model(&[call("Outer", &["x", "two"], &["y"], &[])], &[outer, scaled()]), [9.0; 2]);
    // An output that is an input, and an unused output.
    let both = function("Both", &["a"], &["a", "b"], &[], &[node("Neg", &["a"], &["b"], &[])]);
    answers(&model(&[call("Both", &["x"], &["y"], &[])], std::slice::from_ref(&both)), [1.0; 2]);
    answers(&model(&[call("Both", &["x"], &["", "y"], &[])], &[both]), [-1.0; 2]);
}

#[test]
fn function_attributes_come_from_the_call() {
    let alpha = Message::new().bytes(1, "alpha").int(20, 1).bytes(21, "slope");
    let nodes = [node("Neg", &["in"], &["n"], &[]), node("LeakyRelu", &["n"], &["out"], &[alpha])];
    let leaky = function("Leaky", &["in"], &["out"], &["slope"], &nodes);
    let with = |attributes: &[Message]| {
        model(&[call("Leaky", &["x"], &["y"], attributes)], std::slice::from_ref(&leaky))
    };
    answers(&with(&[float_attribute("slope", 0.5)]), [-0.5; 2]);
    // ONNX's default, if the call does not set the attribute.
    answers(&with(&[]), [-0.01; 2]);
    let x = [("x", ones(&[2]))];
    refused(&with(&[float_attribute("tilt", 0.5)]), &x, "no attribute \"tilt\"");
    let slope = float_attribute("slope", 0.5);
    refused(&with(&[slope.clone(), slope]), &x, "duplicate attribute");
    let unknown = Message::new().bytes(1, "alpha").int(20, 1).bytes(21, "other");
    let nodes = [node("LeakyRelu", &["in"], &["out"], &[unknown])];
    let unknown = function("Leaky", &["in"], &["out"], &["slope"], &nodes);
    refused(
        &model(&[call("Leaky", &["x"], &["y"], &[])], &[unknown]),
        &x,
        "refers to the attribute \"other\"",
    );
}

#[test]
fn names_in_inlined_bodies_are_unique() {
    let branch = |op: &str| {
        let graph = Graph {
            nodes: vec![node(op, &["in"], &["made"], &[])],
            outputs: vec![value_of_any_shape("made", FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let nodes = [
        node("ReduceSum", &["in"], &["sum"], &[]),
        node("Cast", &["sum"], &["truth"], &[crate::support::onnx::int_attribute("to", 9)]),
        node("Squeeze", &["truth"], &["c"], &[]),
        node(
            "If",
            &["c"],
            &["out"],
            &[
                graph_attribute("then_branch", branch("Neg")),
                graph_attribute("else_branch", branch("Abs")),
            ],
        ),
    ];
    let choose = function("Choose", &["in"], &["out"], &[], &nodes);
    let calls = [call("Choose", &["x"], &["made"], &[]), call("Choose", &["made"], &["y"], &[])];
    answers(&model(&calls, &[choose]), [1.0; 2]);
}

#[test]
fn recursive_and_exploding_functions_are_refused() {
    let x = [("x", ones(&[2]))];
    let itself = function("F", &["a"], &["b"], &[], &[call("F", &["a"], &["b"], &[])]);
    refused(&model(&[call("F", &["x"], &["y"], &[])], &[itself]), &x, "calls itself");
    let there = function("F", &["a"], &["b"], &[], &[call("G", &["a"], &["b"], &[])]);
    let back = function("G", &["a"], &["b"], &[], &[call("F", &["a"], &["b"], &[])]);
    refused(&model(&[call("F", &["x"], &["y"], &[])], &[there, back]), &x, "calls itself");
    // Each function calls the previous one eight times.
    let layer = |level: usize| {
        let inner = match level {
            0 => "Neg".to_owned(),
            level => format!("F{}", level - 1),
        };
        let nodes: Vec<Message> = (0..8)
            .map(|at| {
                let (from, to) = (format!("v{at}"), format!("v{}", at + 1));
                let one = node(&inner, &[&from], &[&to], &[]);
                if level == 0 { one } else { one.bytes(7, OWN) }
            })
            .collect();
        function(&format!("F{level}"), &["v0"], &["v8"], &[], &nodes)
    };
    let bomb = |levels: usize| {
        let functions: Vec<Message> = (0..levels).map(layer).collect();
        let last = format!("F{}", levels - 1);
        model(&[call(&last, &["x"], &["y"], &[])], &functions)
    };
    answers(&bomb(2), [1.0; 2]);
    refused(&bomb(12), &x, "nodes");
    ends(&bomb(40), &x);
    // Constants that are copied with every call.
    let tensor = tensor_f32("", &[1 << 18], &vec![0.5; 1 << 18]);
    let constant = crate::support::onnx::tensor_attribute("value", tensor);
    let nodes = [node("Constant", &[], &["c"], &[constant]), node("Identity", &["a"], &["b"], &[])];
    let large = function("Large", &["a"], &["b"], &[], &nodes);
    let calls: Vec<Message> = (0..100)
        .map(|at| {
            let (from, to) = (format!("v{at}"), format!("v{}", at + 1));
            let from = if at == 0 { "x" } else { &from };
            call("Large", &[from], &[if at == 99 { "y" } else { &to }], &[])
        })
        .collect();
    refused(&model(&calls, &[large]), &x, "64 MiB");
}

#[test]
fn invalid_functions_are_refused() {
    let x = [("x", ones(&[2]))];
    let neg = [node("Neg", &["a"], &["b"], &[])];
    let plain = function("F", &["a"], &["b"], &[], &neg);
    let with = |functions: &[Message]| model(&[call("F", &["x"], &["y"], &[])], functions);
    answers(&with(std::slice::from_ref(&plain)), [-1.0; 2]);
    refused(&with(&[plain.clone(), plain.clone()]), &x, "duplicate function");
    let newer = Message::new().bytes(1, "F").bytes(4, "a").bytes(5, "b");
    let newer = newer.messages(7, neg.clone()).bytes(10, OWN);
    let other = newer.clone().message(9, Message::new().int(2, 13));
    answers(&with(&[other]), [-1.0; 2]);
    for version in [0, 29, -1, i64::MAX] {
        let unknown = newer.clone().message(9, Message::new().int(2, version));
        refused(&with(&[unknown]), &x, "is not implemented; use 1 to 28");
    }
    let twice = plain.clone().message(9, Message::new().int(2, 13));
    refused(&with(&[twice]), &x, "duplicate import");
    // A function in the ONNX domain.
    let relu = Message::new().bytes(1, "Relu").bytes(4, "a").bytes(5, "b").messages(7, neg.clone());
    let graph = [node("Relu", &["x"], &["y"], &[])];
    refused(&model(&graph, &[relu]), &x, "in the ONNX domain");
    refused(&with(&[plain.clone().bytes(13, "second")]), &x, "overloads");
    // An unused default has no effect.
    answers(&with(&[plain.clone().message(11, float_attribute("alpha", 0.5))]), [-1.0; 2]);
    let alpha = || float_attribute("alpha", 0.5);
    refused(
        &with(&[plain.clone().message(11, alpha()).message(11, alpha())]),
        &x,
        "duplicate attribute",
    );
    refused(&with(&[plain.message(11, alpha()).bytes(6, "alpha")]), &x, "duplicate attribute");
    let two = function("F", &["a", "a"], &["b"], &[], &neg);
    refused(&with(&[two]), &x, "the same name");
    let more =
        model(&[call("F", &["x", "x"], &["y"], &[])], &[function("F", &["a"], &["b"], &[], &neg)]);
    refused(&more, &x, "more inputs");
    let lost = function("F", &["a"], &["b"], &[], &[node("Neg", &["nowhere"], &["b"], &[])]);
    refused(&with(&[lost]), &x, "no node, input or initializer makes");
}
