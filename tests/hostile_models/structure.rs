//! Invalid graphs: cycles, undefined values, duplicate names, deep nesting, unknown versions,
//! malformed tensors.

use crate::support::onnx::{
    BOOL, Dim, FLOAT, Graph, MICROSOFT, Message, fixed, import_of_microsoft, int_attribute, node,
    relu, string_attribute, tensor_attribute, tensor_f32, tensor_i64, value, value_of_any_shape,
};
use crate::{ends, host_still_answers, one, ones, refused, run};

fn x() -> [(&'static str, belljar::Tensor); 1] {
    [("x", ones(&[2]))]
}

/// A model with this version of the ONNX operator set.
pub(crate) fn with_opset(graph: &Graph, version: i64) -> Vec<u8> {
    Message::new()
        .int(1, 8)
        .message(7, graph.message())
        .message(8, Message::new().int(2, version))
        .finish()
}

fn of(nodes: Vec<Message>, output: &str) -> Vec<u8> {
    Graph {
        nodes,
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape(output, FLOAT)],
        ..Graph::default()
    }
    .bytes()
}

#[test]
fn cycles_and_undefined_values_are_refused() {
    let neg = |from: &str, to: &str| node("Neg", &[from], &[to], &[]);
    refused(&of(vec![neg("y", "y")], "y"), &x(), "\"y\" (Neg) reads its own output");
    let cycle = "form a cycle, in which each reads an output of the previous one: \"b\" (Neg), \
                 \"a\" (Neg)";
    refused(&of(vec![neg("b", "a"), neg("a", "b")], "a"), &x(), cycle);
    refused(&of(vec![neg("nowhere", "y")], "y"), &x(), "no node, input or initializer makes");
    refused(&of(vec![neg("x", "y")], "z"), &x(), "no node of the graph makes the output");
    refused(&of(vec![neg("", "y")], "y"), &x(), "0 inputs, expected 1");
    refused(&of(vec![node("Neg", &["x"], &[], &[]), neg("x", "y")], "y"), &x(), "outputs");
    refused(&of(vec![node("Neg", &["x"], &[""], &[]), neg("x", "y")], "y"), &x(), "outputs");
    refused(&of(vec![node("Neg", &["x", "x"], &["y"], &[])], "y"), &x(), "2 inputs, expected 1");
    refused(&of(vec![node("Add", &["x"], &["y"], &[])], "y"), &x(), "1 inputs, expected 2");
    refused(&of(vec![node("Neg", &["x"], &["y", "z"], &[])], "y"), &x(), "2 outputs");
}

#[test]
fn duplicate_values_are_refused() {
    let neg = |from: &str, to: &str| node("Neg", &[from], &[to], &[]);
    refused(&of(vec![neg("x", "y"), neg("y", "y")], "y"), &x(), "same value");
    refused(&of(vec![neg("x", "x")], "x"), &x(), "same value");
    let mut graph = relu(&fixed(&[2]));
    graph.initializers = vec![tensor_f32("w", &[1], &[1.0]), tensor_f32("w", &[1], &[2.0])];
    refused(&graph.bytes(), &x(), "duplicate initializer");
    graph.initializers = vec![tensor_f32("y", &[1], &[1.0])];
    refused(&graph.bytes(), &x(), "same value");
    // Names of nodes need not be unique.
    let named = |from: &str, to: &str| {
        Message::new().bytes(1, from).bytes(2, to).bytes(3, "same").bytes(4, "Neg")
    };
    let outputs =
        run(&of(vec![named("x", "a"), named("a", "b"), named("b", "y")], "y"), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [-1.0, -1.0]);
}

#[test]
fn long_or_unprintable_names_are_handled() {
    let long = "n".repeat(1 << 20);
    let err = run(&of(vec![node("Neg", &["x"], &[&long], &[])], &long), &x()).err().unwrap();
    assert!(err.exit_code() == 4 && err.to_string().len() < 4096, "{err}");
    let nasty = "y\x1b[2J\u{202e}\r\nbelljar: all is well";
    let bytes = of(vec![node("Frob\x07nicate", &["x"], &[nasty], &[])], nasty);
    refused(&bytes, &x(), "is not implemented");
    let doc = relu(&fixed(&[2])).model().bytes(6, "d".repeat(4 << 20));
    let doc = (0..10_000).fold(doc, |model, n| {
        model.message(14, Message::new().bytes(1, n.to_string()).bytes(2, "\u{202e}\0"))
    });
    run(&doc.finish(), &x()).unwrap();
}

#[test]
fn symbolic_dimensions_are_not_parsed() {
    let formulas = [
        format!("{}n{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("n{}", "+n".repeat(20_000)),
        "n/0".into(),
        "9999999999999999999999".into(),
        "floor(".repeat(5_000),
        "\0\u{202e}".into(),
        String::new(),
    ];
    for formula in formulas {
        let dims = [Dim::Symbol(&formula)];
        let graph = Graph {
            nodes: vec![node("Relu", &["x"], &["y"], &[])],
            inputs: vec![value("x", FLOAT, &dims)],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let outputs = run(&graph.bytes(), &x()).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0]);
    }
}

#[test]
fn unknown_operator_sets_are_refused() {
    let graph = relu(&fixed(&[2]));
    for version in [0, -1, 29, 1000, i64::MAX, i64::MIN] {
        refused(&with_opset(&graph, version), &x(), "operator set");
    }
    let none = Message::new().int(1, 8).message(7, graph.message()).finish();
    refused(&none, &x(), "operator set");
    let twice = graph.model().message(8, Message::new().int(2, 13)).finish();
    refused(&twice, &x(), "duplicate import");
    let both = graph.model().message(8, Message::new().bytes(1, "ai.onnx").int(2, 13)).finish();
    refused(&both, &x(), "duplicate import");
    // A duplicate import of the same version, as written by skl2onnx, is accepted.
    let same = graph.model().message(8, Message::new().bytes(1, "ai.onnx").int(2, 17)).finish();
    run(&same, &x()).unwrap();
    let other = graph.model().message(8, Message::new().bytes(1, "com.evil").int(2, 1)).finish();
    run(&other, &x()).unwrap();
    for domain in ["com.microsoft.nchwc", "ai.onnx.training", "\u{202e}", "AI.ONNX"] {
        let node = node("Relu", &["x"], &["y"], &[]).bytes(7, domain);
        refused(&of(vec![node], "y"), &x(), "domain");
    }
}

#[test]
fn operators_of_onnxruntime_need_their_import_and_are_not_those_of_onnx() {
    let of_microsoft = |op: &str, attributes: &[Message]| Graph {
        nodes: vec![node(op, &["x"], &["y"], attributes).bytes(7, MICROSOFT)],
        ..relu(&fixed(&[2]))
    };
    let imported = |graph: &Graph| graph.model().message(8, import_of_microsoft()).finish();
    run(&imported(&of_microsoft("QuickGelu", &[])), &x()).unwrap();
    refused(&of_microsoft("QuickGelu", &[]).bytes(), &x(), "does not import");
    let foreign = of_microsoft("Relu", &[]);
    refused(&imported(&foreign), &x(), "com.microsoft:Relu (opset 1): the operator is not");
    let search = of_microsoft("BeamSearch", &[]);
    refused(&imported(&search), &x(), "export the model that it contains");
    let blocked = node("Conv", &["x"], &["y"], &[]).bytes(7, "com.microsoft.nchwc");
    refused(&of(vec![blocked], "y"), &x(), "ORT_ENABLE_EXTENDED");
    // An attribute that only ONNX's operator has.
    let by_tanh = of_microsoft("Gelu", &[string_attribute("approximate", "tanh")]);
    refused(&imported(&by_tanh), &x(), "approximate");
    let second = Message::new().bytes(1, MICROSOFT).int(2, 2);
    let version_2 = of_microsoft("Gelu", &[]).model().message(8, second).finish();
    refused(&version_2, &x(), "version 2 of the operator set");
}

#[test]
fn unsupported_parts_of_a_model_are_refused() {
    let function = Message::new().bytes(1, "Relu").bytes(4, "x").bytes(5, "y");
    let recursive = function.clone().message(7, node("Relu", &["x"], &["y"], &[]));
    for function in [function, recursive] {
        refused(&relu(&fixed(&[2])).model().message(25, function).finish(), &x(), "the function");
    }
    let training = relu(&fixed(&[2])).model().message(20, Message::new());
    refused(&training.finish(), &x(), "training");
    let annotated = relu(&fixed(&[2])).message().message(14, Message::new().bytes(1, "x"));
    let model =
        Message::new().int(1, 8).message(7, annotated).message(8, Message::new().int(2, 17));
    refused(&model.finish(), &x(), "quantization annotations");
    let sparse = relu(&fixed(&[2])).message().message(15, Message::new());
    let model = Message::new().int(1, 8).message(7, sparse).message(8, Message::new().int(2, 17));
    refused(&model.finish(), &x(), "sparse");
}

#[test]
fn malformed_tensors_are_refused() {
    let add = |w: Message| one("Add", &[2], &[w], &["w"], &[]);
    let shape = || Message::new().int(1, 2).int(2, FLOAT).bytes(8, "w");
    refused(&add(shape().bytes(9, [0; 7])), &x(), "bytes of data");
    refused(&add(shape().bytes(9, [0; 4096])), &x(), "bytes of data");
    refused(&add(shape().bytes(9, [0; 8]).float(4, 1.0)), &x(), "both raw data and a data field");
    refused(&add(shape().int(7, 1).int(7, 2)), &x(), "a field of another element type");
    refused(&add(shape().int(14, 1)), &x(), "another file");
    let entry = Message::new().bytes(1, "location").bytes(2, "/etc/passwd");
    refused(&add(shape().bytes(9, [0; 8]).message(13, entry)), &x(), "another file");
    refused(
        &add(shape().bytes(9, [0; 8]).message(3, Message::new().int(1, 0))),
        &x(),
        "part of a larger",
    );
    let typed =
        |elem_type: i64| Message::new().int(1, 2).int(2, elem_type).bytes(8, "w").bytes(9, [0; 8]);
    for elem_type in [0, 14, 15, 27, 28, 99, -1] {
        refused(&add(typed(elem_type)), &x(), "has the element type");
    }
    // Elements of at most 16 bits need fewer bytes.
    for elem_type in [16, 17, 22, 23, 24, 25] {
        refused(&add(typed(elem_type)), &x(), "bytes of data");
    }
    let text = Message::new().int(1, 1).int(2, 8).bytes(8, "w").bytes(9, [0; 8]);
    refused(&add(text), &x(), "raw bytes");
    // Tensors in constant nodes are checked too.
    let constant = node("Constant", &[], &["w"], &[tensor_attribute("value", shape())]);
    refused(
        &of(vec![constant, node("Add", &["x", "w"], &["y"], &[])], "y"),
        &x(),
        "elements of data",
    );
}

/// `y = x + w`, where `w` is a sparse initializer of this shape.
fn with_sparse(values: &[f32], dims: &[i64], indices: &[i64], shape: &[i64]) -> Vec<u8> {
    let sparse = Message::new()
        .message(1, tensor_f32("w", &[values.len() as i64], values))
        .message(2, tensor_i64("", dims, indices));
    let sparse = shape.iter().fold(sparse, |sparse, dim| sparse.int(3, *dim));
    let graph = Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let graph = graph.message().message(15, sparse);
    Message::new().int(1, 8).message(7, graph).message(8, Message::new().int(2, 17)).finish()
}

#[test]
fn sparse_initializers_are_dense_or_refused() {
    let flat = with_sparse(&[5.0, 7.0], &[2], &[1, 4], &[3, 2]);
    let by_dimension = with_sparse(&[5.0, 7.0], &[2, 2], &[0, 1, 2, 0], &[3, 2]);
    for model in [flat, by_dimension] {
        let outputs = run(&model, &x()).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 6.0, 1.0, 1.0, 8.0, 1.0]);
    }
    let none = run(&with_sparse(&[], &[0], &[], &[2]), &x()).unwrap();
    assert_eq!(none[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0]);
    let two = |indices: [i64; 2]| with_sparse(&[5.0, 7.0], &[2], &indices, &[3, 2]);
    refused(&two([4, 1]), &x(), "do not ascend");
    refused(&two([1, 1]), &x(), "do not ascend");
    refused(&two([1, 6]), &x(), "the index 6");
    refused(&two([-1, 1]), &x(), "the index -1");
    refused(&with_sparse(&[5.0], &[1, 2], &[0, 2], &[3, 2]), &x(), "the index 2");
    refused(&with_sparse(&[5.0], &[1, 3], &[0, 0, 0], &[3, 2]), &x(), "has indices of the");
    refused(&with_sparse(&[5.0], &[2], &[0, 1], &[2]), &x(), "has indices of the");
    refused(&with_sparse(&[5.0], &[1], &[0], &[-2]), &x(), "invalid dimensions");
    // Few bytes in the file, more than the sandbox may have.
    ends(&with_sparse(&[5.0], &[1], &[0], &[1 << 28]), &x());
}

fn graph_attribute(name: &str, graph: &Graph) -> Message {
    Message::new().bytes(1, name).message(6, graph.message()).int(20, 5)
}

#[test]
fn nested_bodies_are_computed_up_to_a_depth() {
    let nested = |depth: usize| {
        let leaf = |name: &str| Graph {
            nodes: vec![node("Neg", &["x"], &[name], &[])],
            outputs: vec![value_of_any_shape(name, FLOAT)],
            ..Graph::default()
        };
        let mut body = leaf("leaf");
        for level in 0..depth {
            let name = format!("level{level}");
            let branches = [
                graph_attribute("then_branch", &body),
                graph_attribute("else_branch", &leaf(&format!("other{level}"))),
            ];
            body = Graph {
                nodes: vec![node("If", &["c"], &[&name], &branches)],
                outputs: vec![value_of_any_shape(&name, FLOAT)],
                ..Graph::default()
            };
        }
        body.inputs = vec![value("x", FLOAT, &fixed(&[2])), value("c", BOOL, &[])];
        body.bytes()
    };
    let given =
        |yes: bool| [("x", ones(&[2])), ("c", belljar::Tensor::new(vec![yes], &[]).unwrap())];
    for depth in [1, 3] {
        for yes in [true, false] {
            let outputs = run(&nested(depth), &given(yes)).unwrap();
            assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [-1.0, -1.0], "{depth} {yes}");
        }
    }
    refused(&nested(12), &given(true), "nested deeper");
    ends(&nested(500), &given(true));
}

#[test]
fn a_branch_that_is_never_taken_is_not_checked() {
    let branch = |op: &str, output: &str| Graph {
        nodes: vec![node(op, &["x"], &[output], &[])],
        outputs: vec![value_of_any_shape(output, FLOAT)],
        ..Graph::default()
    };
    let choose = |yes: u8| {
        let branches = [
            graph_attribute("then_branch", &branch("Neg", "a")),
            graph_attribute("else_branch", &branch("Frobnicate", "b")),
        ];
        let condition = Message::new().int(2, BOOL).bytes(9, [yes]);
        let graph = Graph {
            nodes: vec![
                node("Constant", &[], &["c"], &[tensor_attribute("value", condition)]),
                node("If", &["c"], &["y"], &branches),
            ],
            inputs: vec![value("x", FLOAT, &fixed(&[2]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        graph.bytes()
    };
    let outputs = run(&choose(1), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [-1.0, -1.0]);
    refused(&choose(0), &x(), "Frobnicate");
}

#[test]
fn mismatched_bodies_are_refused() {
    let branch = |output: &str, op: &str, elem_type: i64| Graph {
        nodes: vec![node(op, &["x"], &[output], &[])],
        outputs: vec![value_of_any_shape(output, elem_type)],
        ..Graph::default()
    };
    let choose = |then: &Graph, other: &Graph, outputs: &[&str]| {
        let branches =
            [graph_attribute("then_branch", then), graph_attribute("else_branch", other)];
        let graph = Graph {
            nodes: vec![node("If", &["c"], outputs, &branches)],
            inputs: vec![value("x", FLOAT, &fixed(&[2])), value("c", BOOL, &[])],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        graph.bytes()
    };
    let given = [("x", ones(&[2])), ("c", belljar::Tensor::new(vec![true], &[]).unwrap())];
    let neg = branch("a", "Neg", FLOAT);
    refused(&choose(&neg, &branch("b", "IsNaN", BOOL), &["y"]), &given, "different types");
    refused(&choose(&neg, &neg, &["y", "z"]), &given, "it has 2 outputs, but its body makes 1");
    refused(&choose(&neg, &branch("x", "Abs", FLOAT), &["y"]), &given, "same value");
    let mut with_input = neg.clone();
    with_input.inputs = vec![value("i", FLOAT, &[])];
    refused(&choose(&with_input, &neg, &["y"]), &given, "1 inputs, expected 0");
    let empty = Graph { outputs: vec![value_of_any_shape("x", FLOAT)], ..Graph::default() };
    refused(&choose(&empty, &neg, &["y"]), &given, "no node of its graph");
    let scan = |inputs: i64| {
        let body = Graph {
            nodes: vec![node("Neg", &["i"], &["o"], &[])],
            inputs: vec![value_of_any_shape("i", FLOAT)],
            outputs: vec![value_of_any_shape("o", FLOAT)],
            ..Graph::default()
        };
        let attributes = [graph_attribute("body", &body), int_attribute("num_scan_inputs", inputs)];
        one("Scan", &[2, 2], &[], &[], &attributes)
    };
    for inputs in [0, 2, 1000, -1, i64::MAX] {
        ends(&scan(inputs), &[("x", ones(&[2, 2]))]);
    }
    host_still_answers();
}

#[test]
fn graphs_without_nodes_are_answered() {
    let pass = Graph {
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value("x", FLOAT, &fixed(&[2]))],
        ..Graph::default()
    };
    let outputs = run(&pass.bytes(), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0]);
    let untyped = Graph {
        inputs: vec![Message::new().bytes(1, "x")],
        outputs: vec![value("x", FLOAT, &fixed(&[2]))],
        ..Graph::default()
    };
    ends(&untyped.bytes(), &x());
    for dim in [-1, i64::MIN, 1 << 40, i64::MAX] {
        let graph = relu(&fixed(&[dim]));
        match run(&graph.bytes(), &x()) {
            // Some negative sizes mean an unknown dimension.
            Ok(_) => assert!(dim < 0),
            Err(err) => assert_eq!(err.exit_code(), 4, "{err}"),
        }
    }
}
