//! Graphs that are unusual but valid, or nearly valid: nodes out of order, unnamed outputs,
//! functions of other operator sets, inputs with defaults, outputs that are declared by name only.

use belljar::Tensor;

use crate::structure::with_opset;
use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, fixed, float_attribute, graph_attribute, int_attribute,
    ints_attribute, node, tensor_f32, tensor_i64, value, value_of_any_shape,
};
use crate::{ones, refused, run};

fn x() -> [(&'static str, Tensor); 1] {
    [("x", ones(&[2]))]
}

fn neg(from: &str, to: &str) -> Message {
    node("Neg", &[from], &[to], &[])
}

fn graph(nodes: Vec<Message>, output: &str) -> Graph {
    Graph {
        nodes,
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape(output, FLOAT)],
        ..Graph::default()
    }
}

#[track_caller]
fn answers(bytes: &[u8], inputs: &[(&str, Tensor)], expected: &[f32]) {
    let outputs = run(bytes, inputs).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
}

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

#[test]
fn unnamed_outputs_are_omitted() {
    let square = || vec![1.0f32, 5.0, 3.0, 2.0];
    let image = || [("x", Tensor::new(square(), &[1, 1, 2, 2]).unwrap())];
    let of = |one: Message, initializers: Vec<Message>| {
        let graph = Graph {
            nodes: vec![one],
            initializers,
            inputs: vec![value("x", FLOAT, &fixed(&[1, 1, 2, 2]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        graph.bytes()
    };
    let window = [ints_attribute("kernel_shape", &[2, 2])];
    answers(&of(node("MaxPool", &["x"], &["y", ""], &window), vec![]), &image(), &[5.0]);
    let dropout = node("Dropout", &["x", "", ""], &["y", ""], &[]);
    answers(&of(dropout, vec![]), &image(), &square());
    let one = |name| tensor_f32(name, &[1], &[1.0]);
    let zero = |name| tensor_f32(name, &[1], &[0.0]);
    let normal = node(
        "BatchNormalization",
        &["x", "s", "b", "m", "v"],
        &["y", "", ""],
        &[float_attribute("epsilon", 0.0)],
    );
    answers(&of(normal, vec![one("s"), zero("b"), zero("m"), one("v")]), &image(), &square());
    let top = node("TopK", &["x", "k"], &["y", ""], &[]);
    answers(&of(top, vec![tensor_i64("k", &[1], &[1])]), &image(), &[5.0, 3.0]);
    // The number of outputs is the number of parts.
    let split = node("Split", &["x"], &["y", ""], &[int_attribute("axis", 3)]);
    answers(&of(split, vec![]), &image(), &[1.0, 3.0]);
    // An unnamed output before a named one.
    let split = node("Split", &["x"], &["", "y"], &[int_attribute("axis", 3)]);
    answers(&of(split, vec![]), &image(), &[5.0, 2.0]);
    let unique = node("Unique", &["x"], &["y", "", "", ""], &[]);
    answers(&of(unique, vec![]), &image(), &[1.0, 2.0, 3.0, 5.0]);
    // Any operator, and any number of unnamed outputs.
    answers(
        &of(node("Neg", &["x", "", ""], &["y", "", ""], &[]), vec![]),
        &image(),
        &[-1.0, -5.0, -3.0, -2.0],
    );
    // An unnamed output before the one that is read.
    let top = node("TopK", &["x", "k"], &["", "places"], &[]);
    let cast = node("Cast", &["places"], &["y"], &[int_attribute("to", FLOAT)]);
    let graph = Graph {
        nodes: vec![top, cast],
        initializers: vec![tensor_i64("k", &[1], &[1])],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 1, 2, 2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    answers(&graph.bytes(), &image(), &[1.0, 0.0]);
}

#[test]
fn a_recurrent_layer_without_its_last_outputs() {
    let initializers =
        vec![tensor_f32("w", &[1, 4, 1], &[0.5; 4]), tensor_f32("r", &[1, 4, 1], &[0.0; 4])];
    let lstm = |outputs: &[&str]| Graph {
        nodes: vec![node(
            "LSTM",
            &["x", "w", "r", "", "", ""],
            outputs,
            &[int_attribute("hidden_size", 1)],
        )],
        initializers: initializers.clone(),
        inputs: vec![value("x", FLOAT, &fixed(&[2, 1, 1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let inputs = [("x", ones(&[2, 1, 1]))];
    let all = run(&lstm(&["y", "h", "c"]).bytes(), &inputs).unwrap();
    for outputs in [&["y", "", ""][..], &["y", ""], &["y"]] {
        assert_eq!(run(&lstm(outputs).bytes(), &inputs).unwrap(), all);
    }
    let last = run(&lstm(&["", "y", ""]).bytes(), &inputs).unwrap();
    assert_eq!(last[0].1.as_slice::<f32>().unwrap()[0], all[0].1.as_slice::<f32>().unwrap()[1]);
}

#[test]
fn squeeze_without_axes_removes_all_dimensions_of_one() {
    for version in [1, 11, 12, 13, 21] {
        for (dims, kept) in
            [(&[1, 2, 1, 3][..], &[2, 3][..]), (&[1, 1], &[]), (&[2, 3], &[2, 3]), (&[], &[])]
        {
            let graph = Graph {
                nodes: vec![node("Squeeze", &["x"], &["y"], &[])],
                inputs: vec![value("x", FLOAT, &fixed(dims))],
                outputs: vec![value_of_any_shape("y", FLOAT)],
                ..Graph::default()
            };
            let dims: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
            let outputs = run(&with_opset(&graph, version), &[("x", ones(&dims))]).unwrap();
            assert_eq!(outputs[0].1.shape(), kept, "{version} {dims:?}");
        }
    }
    // With an unnamed input for the axes.
    let graph = Graph {
        nodes: vec![node("Squeeze", &["x", ""], &["y"], &[])],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    assert_eq!(run(&graph.bytes(), &[("x", ones(&[1, 2]))]).unwrap()[0].1.shape(), [2]);
}

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

#[test]
fn the_default_of_an_input_can_be_overridden() {
    let scaled = |elem_type: i64| Graph {
        nodes: vec![node("Mul", &["x", "scale"], &["y"], &[])],
        initializers: vec![tensor_f32("scale", &[1], &[0.5])],
        inputs: vec![value("x", FLOAT, &fixed(&[2])), value("scale", elem_type, &fixed(&[1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let scale = |values: &[f32]| ("scale", Tensor::new(values.to_vec(), &[values.len()]).unwrap());
    let bytes = scaled(FLOAT).bytes();
    answers(&bytes, &x(), &[0.5; 2]);
    answers(&bytes, &[("x", ones(&[2])), scale(&[2.0])], &[2.0; 2]);
    answers(&bytes, &[scale(&[-3.0]), ("x", ones(&[2]))], &[-3.0; 2]);
    answers(&bytes, &x(), &[0.5; 2]);
    refused(&bytes, &[("x", ones(&[2])), scale(&[2.0, 2.0])], "the model declares scale: f32 [1]");
    refused(&scaled(INT64).bytes(), &x(), "the input \"scale\" is int64, but its default is float");
    // All inputs have defaults.
    let mut all = scaled(FLOAT);
    all.initializers.push(tensor_f32("x", &[2], &[4.0, 6.0]));
    answers(&all.bytes(), &[], &[2.0, 3.0]);
    answers(&all.bytes(), &x(), &[0.5; 2]);
    // Two defaults are refused, whether the input is given or not.
    let mut two = scaled(FLOAT);
    two.initializers.push(tensor_f32("scale", &[1], &[0.25]));
    refused(&two.bytes(), &x(), "duplicate initializer");
    refused(&two.bytes(), &[("x", ones(&[2])), scale(&[2.0])], "duplicate initializer");
    // A default that determines a shape.
    let reshaped = Graph {
        nodes: vec![node("Reshape", &["x", "shape"], &["y"], &[])],
        initializers: vec![tensor_i64("shape", &[2], &[1, -1])],
        inputs: vec![value("x", FLOAT, &fixed(&[2])), value("shape", INT64, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    assert_eq!(run(&reshaped.bytes(), &x()).unwrap()[0].1.shape(), [1, 2]);
    let shape = ("shape", Tensor::new(vec![2i64, 1], &[2]).unwrap());
    let inputs = [("x", ones(&[2])), shape];
    assert_eq!(run(&reshaped.bytes(), &inputs).unwrap()[0].1.shape(), [2, 1]);
}

#[test]
fn a_condition_with_a_default_is_decided_by_it_or_by_the_caller() {
    let branch = |op: &str, name: &str| {
        let graph = Graph {
            nodes: vec![node(op, &["x"], &[name], &[])],
            outputs: vec![value_of_any_shape(name, FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let branches = [
        graph_attribute("then_branch", branch("Neg", "a")),
        graph_attribute("else_branch", branch("Abs", "b")),
    ];
    let graph = Graph {
        nodes: vec![node("If", &["c"], &["y"], &branches)],
        initializers: vec![Message::new().int(2, BOOL).bytes(8, "c").bytes(9, [1])],
        inputs: vec![value("x", FLOAT, &fixed(&[2])), value("c", BOOL, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    answers(&graph.bytes(), &x(), &[-1.0; 2]);
    for (yes, expected) in [(true, -1.0), (false, 1.0)] {
        let c = Tensor::new(vec![yes], &[]).unwrap();
        answers(&graph.bytes(), &[("x", ones(&[2])), ("c", c)], &[expected; 2]);
    }
}

#[test]
fn outputs_may_be_declared_by_name_only() {
    fn named(name: &str) -> Message {
        Message::new().bytes(1, name)
    }
    /// With an empty type.
    fn typeless(name: &str) -> Message {
        named(name).message(2, Message::new().message(1, Message::new()))
    }
    let mut graph =
        graph(vec![neg("x", "h"), node("Shape", &["h"], &["s"], &[]), neg("h", "y")], "y");
    graph.initializers = vec![tensor_f32("w", &[1], &[7.0])];
    for more in [named as fn(&str) -> Message, typeless] {
        let mut graph = graph.clone();
        for name in ["h", "s", "x", "w"] {
            graph.outputs.push(more(name));
        }
        let outputs = run(&graph.bytes(), &x()).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0; 2]);
        assert_eq!(outputs[1].1.as_slice::<f32>().unwrap(), [-1.0; 2]);
        assert_eq!(outputs[2].1.as_slice::<i64>().unwrap(), [2]);
        assert_eq!(outputs[3].1.as_slice::<f32>().unwrap(), [1.0; 2]);
        assert_eq!(outputs[4].1.as_slice::<f32>().unwrap(), [7.0]);
    }
    // The same value under several names.
    graph.nodes.push(node("Identity", &["h"], &["h1"], &[]));
    graph.nodes.push(node("Identity", &["h1"], &["h2"], &[]));
    graph.nodes.push(neg("x", "again"));
    for name in ["h", "h1", "h2", "again"] {
        graph.outputs.push(named(name));
    }
    let outputs = run(&graph.bytes(), &x()).unwrap();
    for (name, tensor) in &outputs[1..] {
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [-1.0; 2], "{name}");
    }
    let nowhere = |name: &str| {
        let mut graph = crate::support::onnx::relu(&fixed(&[2]));
        graph.outputs.push(named(name));
        graph.bytes()
    };
    refused(&nowhere("nowhere"), &x(), "no node of the graph makes the output \"nowhere\"");
    refused(&nowhere("y"), &x(), "duplicate output \"y\"");
}
