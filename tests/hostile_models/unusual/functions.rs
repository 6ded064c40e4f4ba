//! Functions and bodies that import another version of the ONNX operator set than their model.

use belljar::Tensor;

use crate::structure::with_opset;
use crate::support::onnx::{
    BOOL, FLOAT, Graph, Message, fixed, float_attribute, graph_attribute, int_attribute,
    ints_attribute, node, value, value_of_any_shape,
};
use crate::{refused, run};

use super::{answers, neg, x};

/// A function of the domain `own` that imports this version of the ONNX operator set.
fn function(version: i64, nodes: &[Message]) -> Message {
    Message::new()
        .bytes(1, "F")
        .bytes(4, "a")
        .bytes(5, "b")
        .messages(7, nodes.iter().cloned())
        .message(9, Message::new().int(2, version))
        .bytes(10, "own")
}

/// A model with this version of the ONNX operator set that calls a function on `x` of this shape.
fn calling(version: i64, function: Message, dims: &[i64], attributes: &[Message]) -> Vec<u8> {
    let graph = Graph {
        nodes: vec![node("F", &["x"], &["y"], attributes).bytes(7, "own")],
        inputs: vec![value("x", FLOAT, &fixed(dims))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    Message::new()
        .int(1, 9)
        .message(7, graph.message())
        .message(8, Message::new().int(2, version))
        .message(8, Message::new().bytes(1, "own").int(2, 1))
        .message(25, function)
        .finish()
}

#[test]
fn a_function_is_computed_in_the_version_that_it_imports() {
    let dims = [2, 1, 2];
    let inputs = [("x", Tensor::new(vec![0.0f32, 1.0, 2.0, 4.0], &[2, 1, 2]).unwrap())];
    // Before version 13 Softmax is over all dimensions from the axis on, 1 by default; since then
    // over one, the last by default.
    let softmax = |version| function(version, &[node("Softmax", &["a"], &["b"], &[])]);
    // Squeeze has its axes in an attribute before version 13, and in an input since then.
    let old = function(11, &[node("Squeeze", &["a"], &["b"], &[ints_attribute("axes", &[1])])]);
    let new = function(
        13,
        &[
            node("Constant", &[], &["one"], &[ints_attribute("value_ints", &[1])]),
            node("Squeeze", &["a", "one"], &["b"], &[]),
        ],
    );
    for of_model in [11, 13, 17, 20] {
        for (function, shape) in [(&old, &[2, 2][..]), (&new, &[2, 2])] {
            let bytes = calling(of_model, function.clone(), &dims, &[]);
            assert_eq!(run(&bytes, &inputs).unwrap()[0].1.shape(), shape, "{of_model}");
        }
        for of_function in [11, 13, 18] {
            let axis = if of_function < 13 { 1 } else { 2 };
            let plain = Graph {
                nodes: vec![node("Softmax", &["x"], &["y"], &[int_attribute("axis", axis)])],
                inputs: vec![value("x", FLOAT, &fixed(&dims))],
                outputs: vec![value_of_any_shape("y", FLOAT)],
                ..Graph::default()
            };
            let expected = run(&with_opset(&plain, of_function), &inputs).unwrap();
            let found = run(&calling(of_model, softmax(of_function), &dims, &[]), &inputs).unwrap();
            assert_eq!(found, expected, "a function of {of_function} in a model of {of_model}");
        }
    }
    // The doc string of a node is not a version.
    let noted = node("Softmax", &["a"], &["b"], &[]).bytes(6, "11");
    let plain = run(&calling(17, softmax(17), &dims, &[]), &inputs).unwrap();
    let documented = run(&calling(17, function(17, &[noted]), &dims, &[]), &inputs).unwrap();
    assert_eq!(documented, plain);
    // ReduceSum as a function of 11 has its axes in an attribute; the model's own has an input.
    let sum = function(
        11,
        &[node(
            "ReduceSum",
            &["a"],
            &["b"],
            &[ints_attribute("axes", &[0]), int_attribute("keepdims", 0)],
        )],
    );
    answers(&calling(17, sum, &dims, &[]), &inputs, &[2.0, 5.0]);
    // An operator that the function's version does not have is refused.
    let gelu = function(13, &[node("Gelu", &["a"], &["b"], &[])]);
    refused(
        &calling(20, gelu, &dims, &[]),
        &inputs,
        "Gelu (opset 13): the operator is only implemented",
    );
    let gelu = function(20, &[node("Gelu", &["a"], &["b"], &[])]);
    run(&calling(13, gelu, &dims, &[]), &inputs).unwrap();
}

#[test]
fn bodies_and_functions_within_a_function_keep_their_versions() {
    let x = [("x", Tensor::new(vec![3.0f32, 4.0], &[1, 2]).unwrap())];
    // A body of a function of version 11 sums by an attribute.
    let branch = |name: &str| {
        let graph = Graph {
            nodes: vec![node("ReduceSum", &["a"], &[name], &[ints_attribute("axes", &[1])])],
            outputs: vec![value_of_any_shape(name, FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let choose = function(
        11,
        &[
            node("ReduceMax", &["a"], &["most"], &[int_attribute("keepdims", 0)]),
            node("Cast", &["most"], &["c"], &[int_attribute("to", BOOL)]),
            node(
                "If",
                &["c"],
                &["b"],
                &[
                    graph_attribute("then_branch", branch("t")),
                    graph_attribute("else_branch", branch("e")),
                ],
            ),
        ],
    );
    answers(&calling(17, choose, &[1, 2], &[]), &x, &[7.0]);
    // A function that calls another one of another version.
    let inner = Message::new()
        .bytes(1, "G")
        .bytes(4, "a")
        .bytes(5, "b")
        .message(7, node("ReduceSum", &["a"], &["b"], &[ints_attribute("axes", &[1])]))
        .message(9, Message::new().int(2, 11))
        .bytes(10, "own");
    let outer = function(
        18,
        &[
            node("G", &["a"], &["g"], &[]).bytes(7, "own"),
            node("Constant", &[], &["axes"], &[ints_attribute("value_ints", &[0])]),
            node("ReduceMean", &["g", "axes"], &["b"], &[]),
        ],
    );
    let graph = Graph {
        nodes: vec![node("F", &["x"], &["y"], &[]).bytes(7, "own")],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let bytes = Message::new()
        .int(1, 9)
        .message(7, graph.message())
        // A model with only calls need not import the ONNX operator set.
        .message(8, Message::new().bytes(1, "own").int(2, 1))
        .message(25, outer)
        .message(25, inner)
        .finish();
    answers(&bytes, &x, &[7.0]);
}

#[test]
fn attributes_of_functions_have_their_defaults() {
    let alpha = Message::new().bytes(1, "alpha").int(20, 1).bytes(21, "slope");
    let plain = || {
        function(
            17,
            &[neg("a", "n"), node("LeakyRelu", &["n"], &["b"], std::slice::from_ref(&alpha))],
        )
        .message(11, float_attribute("slope", 0.25))
    };
    answers(&calling(17, plain(), &[2], &[]), &x(), &[-0.25; 2]);
    answers(&calling(17, plain(), &[2], &[float_attribute("slope", 0.5)]), &x(), &[-0.5; 2]);
    // In another version of the operators as well.
    answers(&calling(20, plain(), &[2], &[]), &x(), &[-0.25; 2]);
    let wrong = [int_attribute("slope", 1)];
    refused(&calling(17, plain(), &[2], &wrong), &x(), "has another type");
    // A default by way of a second function.
    let inner = Message::new()
        .bytes(1, "G")
        .bytes(4, "a")
        .bytes(5, "b")
        .message(7, node("LeakyRelu", &["a"], &["b"], std::slice::from_ref(&alpha)))
        .message(9, Message::new().int(2, 17))
        .bytes(10, "own")
        .message(11, float_attribute("slope", 0.125));
    let passes = Message::new().bytes(1, "slope").int(20, 1).bytes(21, "tilt");
    let outer = |attributes: &[Message]| {
        function(17, &[neg("a", "n"), node("G", &["n"], &["b"], attributes).bytes(7, "own")])
            .bytes(6, "tilt")
    };
    let with = |outer: Message, attributes: &[Message]| {
        let bytes = calling(17, outer, &[2], attributes);
        [bytes, Message::new().message(25, inner.clone()).finish()].concat()
    };
    answers(&with(outer(&[]), &[]), &x(), &[-0.125; 2]);
    // Without the attribute in the call, the inner function uses its own default.
    answers(&with(outer(std::slice::from_ref(&passes)), &[]), &x(), &[-0.125; 2]);
    answers(&with(outer(&[passes]), &[float_attribute("tilt", 0.5)]), &x(), &[-0.5; 2]);
}
