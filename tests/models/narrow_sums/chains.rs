//! Chains of nodes whose result changes if a rounding between two of them is omitted.

use belljar::Tensor;
use belljar::policy::Kernels;
use belljar::{Isolation, Policy};

use crate::narrow_sums::draw::Type;
use crate::narrow_sums::{narrow_tensor, numbers, support, tensor};
use crate::support::onnx::{
    BOOL, Dim, FLOAT, Graph, INT64, Message, fixed, graph_attribute, int_attribute, node,
    tensor_f32, tensor_i64, value, value_of_any_shape,
};

/// A number of this type whose successor is larger by two.
fn large(narrow: Type) -> f64 {
    match narrow {
        Type::F16 => 2048.0,
        Type::Bf16 => 256.0,
    }
}

/// Nodes over the input `x` of four numbers and constants, with the four expected results.
struct Row {
    what: &'static str,
    nodes: Vec<Message>,
    expected: [f64; 4],
}

fn row(what: &'static str, nodes: Vec<Message>, expected: [f64; 4]) -> Row {
    Row { what, nodes, expected }
}

fn rows(narrow: Type) -> Vec<Row> {
    let op = |name: &str, inputs: &[&str], to: &str| node(name, inputs, &[to], &[]);
    let cast = |from: &str, to: &str, number: i64| {
        node("Cast", &[from], &[to], &[int_attribute("to", number)])
    };
    let big = large(narrow);
    let least = if narrow == Type::F16 { 2f64.powi(-24) } else { 2f64.powi(-133) };
    let branch = |nodes: Vec<Message>| {
        let outputs = vec![value_of_any_shape("made", narrow.onnx())];
        graph_attribute("then_branch", Graph { nodes, outputs, ..Graph::default() }.message())
    };
    let other = graph_attribute(
        "else_branch",
        Graph {
            nodes: vec![op("Identity", &["x"], "made")],
            outputs: vec![value_of_any_shape("made", narrow.onnx())],
            ..Graph::default()
        }
        .message(),
    );
    let body = Graph {
        nodes: vec![op("Identity", &["go"], "on"), op("Add", &["before", "one"], "after")],
        inputs: vec![
            value("round", INT64, &[]),
            value("go", BOOL, &[]),
            value("before", narrow.onnx(), &[Dim::Fixed(4)]),
        ],
        outputs: vec![value("on", BOOL, &[]), value_of_any_shape("after", narrow.onnx())],
        ..Graph::default()
    };
    // `x` has the large number four times, `one` is 1, and `big` is the large number.
    vec![
        row(
            "two additions, and a subtraction",
            vec![
                op("Add", &["x", "one"], "a"),
                op("Add", &["a", "one"], "b"),
                op("Sub", &["b", "x"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "the same with constants alone",
            vec![
                op("Add", &["big", "one"], "a"),
                op("Add", &["a", "one"], "b"),
                op("Sub", &["b", "big"], "c"),
                op("Add", &["x", "c"], "y"),
            ],
            [big; 4],
        ),
        row(
            "a product of matrices and a bias",
            vec![
                op("MatMul", &["x", "sum"], "a"),
                op("Add", &["a", "one"], "b"),
                op("Sub", &["b", "scores"], "c"),
                op("Mul", &["c", "ones"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "a convolution, and what could go into its weights",
            vec![
                op("Reshape", &["x", "image"], "i"),
                op("Conv", &["i", "filter"], "a"),
                op("Add", &["a", "one"], "b"),
                op("BatchNormalization", &["b", "one", "one", "zero", "one"], "c"),
                op("Sub", &["c", "big"], "d"),
                op("Reshape", &["d", "flat"], "y"),
            ],
            // The normalisation divides by a little more than one.
            [0.0; 4],
        ),
        row(
            "numbers that vanish, and would come back",
            vec![
                op("Mul", &["ones", "least"], "a"),
                op("Mul", &["a", "half"], "b"),
                op("Mul", &["b", "four"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "numbers that are beyond the type, and would come back",
            vec![
                op("Mul", &["x", "most"], "a"),
                op("Mul", &["a", "half"], "b"),
                op("Mul", &["b", "least"], "y"),
            ],
            [f64::INFINITY; 4],
        ),
        row(
            "a way through float32 and back",
            vec![
                cast("x", "s", FLOAT),
                op("Add", &["s", "single"], "a"),
                cast("a", "b", narrow.onnx()),
                cast("b", "c", FLOAT),
                cast("x", "d", FLOAT),
                op("Sub", &["c", "d"], "e"),
                cast("e", "y", narrow.onnx()),
            ],
            [0.0; 4],
        ),
        row(
            "elements that are moved in between",
            vec![
                op("Add", &["x", "one"], "a"),
                op("Reshape", &["a", "image"], "b"),
                node("Transpose", &["b"], &["c"], &[]),
                node("Concat", &["c", "c"], &["d"], &[int_attribute("axis", 0)]),
                op("Slice", &["d", "from", "to"], "e"),
                op("Reshape", &["e", "flat"], "f"),
                op("Add", &["f", "one"], "g"),
                op("Sub", &["g", "x"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "a branch that reads what is around it",
            vec![
                op("Add", &["x", "one"], "a"),
                node(
                    "If",
                    &["way"],
                    &["b"],
                    &[branch(vec![op("Add", &["a", "one"], "made")]), other],
                ),
                op("Sub", &["b", "x"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "a loop that adds one at a time",
            vec![
                node(
                    "Loop",
                    &["rounds", "", "x"],
                    &["a"],
                    &[graph_attribute("body", body.message())],
                ),
                op("Sub", &["a", "x"], "y"),
            ],
            [0.0; 4],
        ),
        row(
            "the least number, which is kept",
            vec![
                op("Mul", &["ones", "least"], "a"),
                op("Relu", &["a"], "b"),
                op("Mul", &["b", "four"], "y"),
            ],
            [4.0 * least; 4],
        ),
    ]
}

/// A model of one chain, with the constants that chains read.
fn model(row: &Row, narrow: Type) -> Vec<u8> {
    let big = large(narrow);
    let least = if narrow == Type::F16 { 2f64.powi(-24) } else { 2f64.powi(-133) };
    let most = if narrow == Type::F16 { 60000.0 } else { 2f64.powi(127) };
    let constant =
        |name: &str, dims: &[i64], values: &[f64]| narrow_tensor(name, narrow, dims, values);
    // Sums of x that float32 can represent, and the narrow type cannot.
    let sum: Vec<f64> = vec![0.25; 16];
    let graph = Graph {
        nodes: row.nodes.clone(),
        initializers: vec![
            constant("one", &[1], &[1.0]),
            constant("zero", &[1], &[0.0]),
            constant("big", &[1], &[big]),
            constant("half", &[1], &[0.5]),
            constant("four", &[1], &[4.0]),
            constant("least", &[1], &[least]),
            constant("most", &[1], &[most]),
            constant("ones", &[4], &[1.0; 4]),
            constant("sum", &[4, 4], &sum),
            constant("scores", &[4], &[big; 4]),
            constant("filter", &[1, 1, 1, 1], &[1.0]),
            tensor_f32("single", &[1], &[1.0]),
            tensor_i64("image", &[4], &[1, 1, 2, 2]),
            tensor_i64("flat", &[1], &[4]),
            tensor_i64("from", &[1], &[0]),
            tensor_i64("to", &[1], &[2]),
            tensor_i64("rounds", &[], &[3]),
        ],
        inputs: vec![value("x", narrow.onnx(), &fixed(&[4])), value("way", BOOL, &[])],
        outputs: vec![value_of_any_shape("y", narrow.onnx())],
    };
    graph.bytes()
}

#[test]
fn every_node_of_narrow_floats_rounds_its_result() {
    let host = support::host(Isolation::Thread);
    for narrow in Type::BOTH {
        for row in rows(narrow) {
            for kernels in [Kernels::Native, Kernels::Sandbox] {
                let mut policy = Policy::default();
                policy.compute.kernels = kernels;
                let what = format!("{} of {narrow:?}, {kernels:?}", row.what);
                let model = support::load_under(&host, &model(&row, narrow), &policy)
                    .unwrap_or_else(|err| panic!("{what}: {err}"));
                let x = tensor(narrow, &[4], &[large(narrow); 4]);
                let outputs = model
                    .run(&[("x", x), ("way", Tensor::scalar(true))])
                    .and_then(|outputs| outputs.validate())
                    .unwrap_or_else(|err| panic!("{what}: {err}"));
                let found = numbers(outputs.get("y").unwrap()).unwrap();
                assert_eq!(found, row.expected, "{what}");
            }
        }
    }
}
