//! Graphs that are unusual but valid, or nearly valid: unnamed outputs, inputs with defaults,
//! outputs that are declared by name only, nodes out of order (`order`), functions of other
//! operator sets (`functions`).

mod functions;
mod order;

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
