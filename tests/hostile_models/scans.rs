//! Unusual bodies of `Scan`, axes that count from the end, and a convolution with longer sums than
//! a kernel of the host accepts.

use belljar::Tensor;

use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, graph_attribute, int_attribute, ints_attribute, node, tensor_f32,
    value, value_of_any_shape,
};
use crate::{ones, refused, run};

/// A body with these nodes and initializers, with the inputs `s` (a state, if `states`) and `a`.
fn body(states: bool, nodes: Vec<Message>, constants: Vec<Message>, outputs: &[&str]) -> Message {
    let read: &[&str] = if states { &["s", "a"] } else { &["a"] };
    let graph = Graph {
        nodes,
        initializers: constants,
        inputs: read.iter().map(|name| value_of_any_shape(name, FLOAT)).collect(),
        outputs: outputs.iter().map(|name| value_of_any_shape(name, FLOAT)).collect(),
    };
    graph.message()
}

/// The outputs of a Scan over `x` with this body and the initial state 2, 2.
fn scanned(states: bool, body: Message, outputs: &[&str]) -> Vec<Vec<f32>> {
    let mut inputs = vec![("x", Tensor::new(vec![1f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap())];
    if states {
        inputs.insert(0, ("first", Tensor::new(vec![2f32, 2.0], &[2]).unwrap()));
    }
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    let attributes = [graph_attribute("body", body), int_attribute("num_scan_inputs", 1)];
    let graph = Graph {
        nodes: vec![node("Scan", &names, outputs, &attributes)],
        initializers: vec![],
        inputs: inputs
            .iter()
            .map(|(name, tensor)| {
                let dims: Vec<i64> = tensor.shape().iter().map(|dim| *dim as i64).collect();
                value(name, FLOAT, &fixed(&dims))
            })
            .collect(),
        outputs: outputs.iter().map(|name| value_of_any_shape(name, FLOAT)).collect(),
    };
    let answers = run(&graph.bytes(), &inputs).unwrap();
    answers.iter().map(|(_, tensor)| tensor.as_slice::<f32>().unwrap().to_vec()).collect()
}

#[test]
fn scan_states_may_be_unchanged_replaced_or_constant() {
    let add = || node("Add", &["a", "s"], &["o"], &[]);
    let passed_on = body(true, vec![add()], vec![], &["s", "o"]);
    let answer = scanned(true, passed_on, &["last", "y"]);
    assert_eq!(answer, [vec![2.0, 2.0], vec![3.0, 4.0, 5.0, 6.0]]);
    let replaced = body(true, vec![node("Neg", &["a"], &["n"], &[])], vec![], &["n"]);
    assert_eq!(scanned(true, replaced, &["last"]), [vec![-3.0, -4.0]]);
    let constant = vec![tensor_f32("n", &[2], &[7.0, 8.0])];
    let constant = body(true, vec![add()], constant, &["n", "o"]);
    let answer = scanned(true, constant, &["last", "y"]);
    assert_eq!(answer, [vec![7.0, 8.0], vec![3.0, 4.0, 10.0, 12.0]]);
    let taken = body(true, vec![], vec![], &["a", "s"]);
    assert_eq!(scanned(true, taken, &["last", "y"]), [vec![3.0, 4.0], vec![2.0, 2.0, 1.0, 2.0]]);
}

#[test]
fn scan_outputs_may_be_constant_or_equal() {
    let constant = body(false, vec![], vec![tensor_f32("o", &[], &[9.0])], &["o"]);
    assert_eq!(scanned(false, constant, &["y"]), [vec![9.0, 9.0]]);
    let same = body(false, vec![], vec![], &["a", "a"]);
    let all = vec![1.0, 2.0, 3.0, 4.0];
    assert_eq!(scanned(false, same, &["y", "z"]), [all.clone(), all]);
}

#[test]
fn an_error_of_a_scan_names_the_node() {
    let longer = node("Concat", &["s", "a"], &["n"], &[int_attribute("axis", 0)]);
    let changes = body(true, vec![longer], vec![], &["n"]);
    let attributes = [graph_attribute("body", changes), int_attribute("num_scan_inputs", 1)];
    let graph = |attributes: &[Message]| Graph {
        nodes: vec![node("Scan", &["x", "x"], &["y"], attributes)],
        initializers: vec![],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    refused(&graph(&attributes).bytes(), &[("x", ones(&[2, 2]))], "node \"y\": Scan");
    let kept = body(true, vec![], vec![], &["s"]);
    let attributes = [
        graph_attribute("body", kept),
        int_attribute("num_scan_inputs", 1),
        ints_attribute("scan_input_axes", &[-3]),
    ];
    refused(&graph(&attributes).bytes(), &[("x", ones(&[2, 2]))], "axis -3");
}

#[test]
fn a_convolution_with_a_million_weights_from_an_input_is_computed() {
    let taps = (1 << 20) + 5;
    let graph = Graph {
        nodes: vec![node("Conv", &["x", "w"], &["y"], &[])],
        initializers: vec![],
        inputs: vec![
            value("x", FLOAT, &fixed(&[1, 1, taps + 8])),
            value("w", FLOAT, &fixed(&[1, 1, taps])),
        ],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let inputs = [("x", ones(&[1, 1, taps as usize + 8])), ("w", ones(&[1, 1, taps as usize]))];
    let answer = run(&graph.bytes(), &inputs).unwrap().remove(0).1;
    assert_eq!(answer.as_slice::<f32>().unwrap(), [taps as f32; 9]);
}
