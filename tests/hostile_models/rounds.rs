//! Loops and sequences: a loop runs the requested number of iterations at most, and sequences that
//! are unknown before the model runs, or malformed, are refused.

use belljar::Tensor;

use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, fixed, graph_attribute, int_attribute, node, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};
use crate::{ends, ones, refused, run};

fn truth(name: &str, value: bool) -> Message {
    Message::new().int(2, BOOL).bytes(8, name).bytes(9, [u8::from(value)])
}

/// A body that doubles `v`, has it as the scan output `s`, and continues while `go` is true.
fn doubling() -> Graph {
    Graph {
        nodes: vec![
            node("Identity", &["on"], &["go"], &[]),
            node("Add", &["v", "v"], &["w"], &[]),
            node("Identity", &["w"], &["s"], &[]),
        ],
        initializers: vec![],
        inputs: vec![
            value("i", INT64, &[]),
            value("on", BOOL, &[]),
            value("v", FLOAT, &fixed(&[2])),
        ],
        outputs: vec![
            value("go", BOOL, &[]),
            value("w", FLOAT, &fixed(&[2])),
            value("s", FLOAT, &fixed(&[2])),
        ],
    }
}

/// A model of one loop over `x`; the number of iterations and the condition are inputs.
fn repeated(body: &Graph, inputs: &[&str]) -> Vec<u8> {
    let body = graph_attribute("body", body.message());
    Graph {
        nodes: vec![node("Loop", inputs, &["y", "all"], &[body])],
        initializers: vec![],
        inputs: vec![
            value("n", INT64, &[]),
            value("c", BOOL, &[]),
            value("x", FLOAT, &fixed(&[2])),
        ],
        outputs: vec![value_of_any_shape("y", FLOAT), value_of_any_shape("all", FLOAT)],
    }
    .bytes()
}

fn given(rounds: i64, condition: bool) -> [(&'static str, Tensor); 3] {
    [("n", Tensor::scalar(rounds)), ("c", Tensor::scalar(condition)), ("x", ones(&[2]))]
}

#[test]
fn loop_runs_the_requested_number_of_iterations() {
    let model = repeated(&doubling(), &["n", "c", "x"]);
    for (rounds, condition, last) in
        [(3, true, 8.0), (0, true, 1.0), (-5, true, 1.0), (7, false, 1.0), (1, true, 2.0)]
    {
        let outputs = run(&model, &given(rounds, condition)).unwrap();
        let all = if condition { rounds.max(0) } else { 0 } as usize;
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [last, last], "{rounds}");
        assert_eq!(outputs[1].1.shape(), [all, 2], "{rounds}");
        let each: Vec<f32> = (1..=all as i32).flat_map(|round| [2f32.powi(round); 2]).collect();
        assert_eq!(outputs[1].1.as_slice::<f32>().unwrap(), each, "{rounds}");
    }
}

#[test]
fn a_condition_of_the_body_ends_the_loop() {
    let mut body = doubling();
    body.nodes[0] = node("ReduceMax", &["w"], &["most"], &[int_attribute("keepdims", 0)]);
    body.nodes.swap(0, 1);
    body.nodes.push(node("Less", &["most", "bound"], &["go"], &[]));
    body.initializers = vec![tensor_f32("bound", &[], &[100.0])];
    for inputs in [["", "c", "x"], ["n", "", "x"], ["", "", "x"]] {
        // What is not read is not given.
        let model = repeated(&body, &inputs);
        let outputs = run(&model, &given(1000, true)).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [128.0, 128.0], "{inputs:?}");
        assert_eq!(outputs[1].1.shape(), [7, 2]);
    }
}

#[test]
fn endless_loops_are_ended_by_the_limits() {
    let mut body = doubling();
    body.nodes.truncate(2);
    body.outputs.truncate(2);
    let graph = Graph {
        nodes: vec![node(
            "Loop",
            &["", "", "x"],
            &["y"],
            &[graph_attribute("body", body.message())],
        )],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let err = run(&graph.bytes(), &[("x", ones(&[2]))]).err().unwrap();
    assert_eq!(err.exit_code(), 5, "{err}");
    // Scan outputs are bounded as well.
    ends(&repeated(&doubling(), &["n", "c", "x"]), &given(i64::MAX, true));
}

/// The carried value becomes twice as long in each iteration.
#[test]
fn carried_values_may_grow_up_to_the_limits() {
    let mut longer = doubling();
    longer.nodes[1] = node("Concat", &["v", "v"], &["w"], &[int_attribute("axis", 0)]);
    longer.nodes[2] = node("ReduceSum", &["w"], &["s"], &[int_attribute("keepdims", 0)]);
    let model = repeated(&longer, &["n", "c", "x"]);
    for (rounds, length, sums) in [(0, 2, vec![]), (1, 4, vec![4.0]), (3, 16, vec![4.0, 8.0, 16.0])]
    {
        let outputs = run(&model, &given(rounds, true)).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), vec![1.0; length]);
        assert_eq!(outputs[1].1.as_slice::<f32>().unwrap(), sums);
    }
    let err = run(&model, &given(i64::MAX, true)).err().unwrap();
    assert_eq!(err.exit_code(), 5, "{err}");
    // Values of different sizes cannot be stacked.
    longer.nodes[2] = node("Identity", &["w"], &["s"], &[]);
    let model = repeated(&longer, &["n", "c", "x"]);
    refused(&model, &given(2, true), "different shapes");
}

#[test]
fn loop_bodies_that_change_types_or_do_not_fit_are_refused() {
    let inputs = ["n", "c", "x"];
    let mut other = doubling();
    other.nodes[1] = node("Cast", &["v"], &["w"], &[int_attribute("to", INT64)]);
    other.outputs = vec![
        value("go", BOOL, &[]),
        value_of_any_shape("w", INT64),
        value_of_any_shape("s", INT64),
    ];
    let graph = repeated(&other, &inputs);
    refused(&graph, &given(2, true), "changes the type of a carried value");
    let mut other = doubling();
    other.outputs.swap(0, 1);
    refused(&repeated(&other, &inputs), &given(2, true), "is not a bool");
    let mut other = doubling();
    other.inputs.pop();
    refused(&repeated(&other, &inputs), &given(2, true), "inputs, expected 3");
    let mut other = doubling();
    other.nodes.push(node("Frobnicate", &["v"], &["z"], &[]));
    refused(&repeated(&other, &inputs), &given(2, true), "Frobnicate");
}

/// A graph of these nodes on `x`, `z` and the position `at`.
fn listed(nodes: Vec<Message>, output: i64) -> Vec<u8> {
    Graph {
        nodes,
        initializers: vec![
            tensor_i64("zero", &[], &[0]),
            tensor_i64("last", &[], &[-1]),
            tensor_i64("five", &[], &[5]),
            truth("yes", true),
        ],
        inputs: vec![
            value("x", FLOAT, &fixed(&[2])),
            value("z", FLOAT, &fixed(&[2])),
            value("at", INT64, &[]),
        ],
        outputs: vec![value_of_any_shape("y", output)],
    }
    .bytes()
}

fn three(at: i64) -> [(&'static str, Tensor); 3] {
    let z = Tensor::new(vec![5.0f32, 6.0], &[2]).unwrap();
    [("x", ones(&[2])), ("z", z), ("at", Tensor::scalar(at))]
}

#[test]
fn operators_of_sequences_are_computed() {
    let made = node("SequenceConstruct", &["x", "z"], &["s"], &[]);
    let at = |position: &str| node("SequenceAt", &["s", position], &["y"], &[]);
    let model = listed(vec![made.clone(), at("last")], FLOAT);
    assert_eq!(run(&model, &three(0)).unwrap()[0].1.as_slice::<f32>().unwrap(), [5.0, 6.0]);
    // A position that is given at run time.
    let model = listed(vec![made.clone(), at("at")], FLOAT);
    for (position, first) in [(0, 1.0), (1, 5.0), (-1, 5.0), (-2, 1.0)] {
        let outputs = run(&model, &three(position)).unwrap();
        assert_eq!(outputs[0].1.shape(), [2]);
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap()[0], first, "{position}");
    }
    for position in [2, -3, i64::MAX, i64::MIN] {
        let err = run(&model, &three(position)).err().unwrap();
        assert!([4, 6].contains(&err.exit_code()), "{err}");
    }
    let length = |node: Message| {
        let length =
            Message::clone(&crate::support::onnx::node("SequenceLength", &["t"], &["y"], &[]));
        let model = listed(vec![made.clone(), node, length], INT64);
        run(&model, &three(0)).unwrap()[0].1.as_slice::<i64>().unwrap()[0]
    };
    assert_eq!(length(node("SequenceInsert", &["s", "x", "zero"], &["t"], &[])), 3);
    assert_eq!(length(node("SequenceErase", &["s"], &["t"], &[])), 1);
    assert_eq!(length(node("Identity", &["s"], &["t"], &[])), 2);
    let joined = node("ConcatFromSequence", &["s"], &["y"], &[int_attribute("axis", 0)]);
    let outputs = run(&listed(vec![made, joined], FLOAT), &three(0)).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0, 5.0, 6.0]);
}

#[test]
fn a_loop_carries_a_sequence_for_any_number_of_rounds() {
    let body = Graph {
        nodes: vec![
            node("Identity", &["on"], &["go"], &[]),
            node("Cast", &["i"], &["f"], &[int_attribute("to", FLOAT)]),
            node("Add", &["x", "f"], &["e"], &[]),
            node("SequenceInsert", &["s", "e"], &["t"], &[]),
        ],
        initializers: vec![],
        inputs: vec![value("i", INT64, &[]), value("on", BOOL, &[]), Message::new().bytes(1, "s")],
        outputs: vec![value("go", BOOL, &[]), Message::new().bytes(1, "t")],
    };
    let body = graph_attribute("body", body.message());
    let model = |rounds: &str| {
        listed(
            vec![
                node("SequenceEmpty", &[], &["none"], &[]),
                node("Loop", &[rounds, "yes", "none"], &["all"], std::slice::from_ref(&body)),
                node("ConcatFromSequence", &["all"], &["y"], &[int_attribute("axis", 0)]),
            ],
            FLOAT,
        )
    };
    let outputs = run(&model("five"), &three(0)).unwrap();
    let expected = [1., 1., 2., 2., 3., 3., 4., 4., 5., 5.];
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
    // A number of rounds that is given at run time.
    let outputs = run(&model("at"), &three(3)).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), &expected[..6]);
    refused(&model("zero"), &three(3), "a sequence without elements");
}

#[test]
fn unknown_or_invalid_sequences_are_refused() {
    let made = node("SequenceConstruct", &["x", "z"], &["s"], &[]);
    let says = |nodes: Vec<Message>, why: &str| refused(&listed(nodes, FLOAT), &three(0), why);
    let at = |list: &str, position: &str| node("SequenceAt", &[list, position], &["y"], &[]);
    says(vec![made.clone(), at("s", "five")], "the position 5 is out of range for a sequence of 2");
    says(vec![at("x", "zero")], "not a sequence that is known");
    // Nodes out of order are sorted.
    run(&listed(vec![at("s", "zero"), made.clone()], FLOAT), &three(0)).unwrap();
    says(vec![made.clone(), node("Neg", &["s"], &["y"], &[])], "reads a sequence");
    says(
        vec![made.clone(), node("Identity", &["s"], &["y"], &[])],
        "is a sequence, but the model does not declare it",
    );
    says(vec![node("SequenceConstruct", &["x", "s"], &["s"], &[]), at("s", "last")], "");
    let erased =
        vec![made.clone(), node("SequenceErase", &["s", "at"], &["t"], &[]), at("t", "zero")];
    let outputs = run(&listed(erased.clone(), FLOAT), &three(0)).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [5.0, 6.0]);
    let err = run(&listed(erased, FLOAT), &three(2)).err().unwrap().to_string();
    assert!(err.contains("the position 2 is out of range for a sequence of 2"), "{err}");
    says(
        vec![
            node("SequenceEmpty", &[], &["s"], &[]),
            node("SequenceErase", &["s"], &["t"], &[]),
            at("t", "zero"),
        ],
        "for a sequence of 0",
    );
    let split = vec![
        node("Neg", &["x"], &["n"], &[]),
        node("SplitToSequence", &["n"], &["s"], &[]),
        at("s", "zero"),
    ];
    let outputs = run(&listed(split, FLOAT), &three(0)).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [-1.0]);
    // The operators that replace these belong to the gate alone.
    let own = node("BelljarSequenceConstruct", &["x", "z"], &["y", "shapes"], &[]);
    says(vec![own.bytes(6, "packed")], "not implemented");
    // Duplicate names are refused, also if one of the values is a sequence.
    says(
        vec![
            made.clone(),
            node("SequenceAt", &["s", "last"], &["x"], &[]),
            node("Neg", &["x"], &["y"], &[]),
        ],
        "same value",
    );
    says(vec![made.clone(), made, at("s", "zero")], "same value");
    says(
        vec![
            node("Optional", &["x"], &["o"], &[]),
            node("OptionalGetElement", &["o"], &["y"], &[int_attribute("k", 1)]),
        ],
        "\"k\"",
    );
}

#[test]
fn the_length_of_sequences_is_limited() {
    // Each sequence contains all elements of the previous one.
    let mut nodes = vec![node("SequenceEmpty", &[], &["s0"], &[])];
    for n in 0..1100 {
        let (from, to) = (format!("s{n}"), format!("s{}", n + 1));
        nodes.push(node("SequenceInsert", &[&from, "x"], &[&to], &[]));
    }
    nodes.push(node("SequenceAt", &["s1100", "zero"], &["y"], &[]));
    refused(&listed(nodes, FLOAT), &three(0), "more than 1024 elements");
}
