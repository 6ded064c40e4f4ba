//! Models with shapes, axes or conditions that are only known at run time. Each is answered, or
//! refused with the node's name, its operator and what to do.

use belljar::Tensor;

use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, MICROSOFT, Message, STRING, fixed, graph_attribute,
    import_of_microsoft, int_attribute, ints_attribute, node, tensor_f32, tensor_i64, value,
    value_of_any_shape,
};
use crate::{ones, run};

/// Asserts that the error names this node and operator, and returns it.
#[track_caller]
fn refused_at(bytes: &[u8], inputs: &[(&str, Tensor)], node: &str, operator: &str) -> String {
    let err = run(bytes, inputs).expect_err(operator).to_string();
    let named = format!("node {node:?}: {operator}");
    assert!(err.contains(&named), "{err:?} does not name the node: {named}");
    err
}

/// An operator that makes `y` of `x` of this shape and integers `k` from the run, followed by nodes
/// that need the size of `y`.
fn with_k(
    op: &str,
    dims: &[i64],
    count: i64,
    attributes: &[Message],
    behind: &[Message],
    output: &str,
) -> Vec<u8> {
    let mut nodes = vec![node(op, &["x", "k"], &["y"], attributes)];
    nodes.extend(behind.iter().cloned());
    let graph = Graph {
        nodes,
        initializers: vec![
            tensor_f32("kernel", &[1, 1, 1, 1], &[1.0]),
            tensor_f32("row", &[1, 4], &[1.0; 4]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(dims)), value("k", INT64, &fixed(&[count]))],
        outputs: vec![value_of_any_shape(output, FLOAT)],
    };
    graph.bytes()
}

/// An operator, the shapes of its two inputs, and its attributes.
type Case<'c> = (&'c str, &'c [i64], &'c [i64], Vec<Message>);

#[test]
fn sizes_that_follow_from_values_are_computed_or_refused_with_a_message() {
    let operators: [Case<'_>; 8] = [
        ("Reshape", &[2, 2], &[4, 1], vec![]),
        ("Expand", &[1, 2], &[3, 2], vec![]),
        ("Tile", &[2, 2], &[1, 2], vec![]),
        ("TopK", &[2, 4], &[2], vec![]),
        ("Unsqueeze", &[2], &[0], vec![]),
        ("ReduceSum", &[2, 2], &[1], vec![]),
        ("Pad", &[2, 2], &[0, 1, 0, 1], vec![]),
        ("Split", &[4, 2], &[4], vec![]),
    ];
    // Nodes that need the size of their input.
    let behind: [(&str, Vec<Message>, &str); 7] = [
        ("", vec![], "y"),
        ("Flatten", vec![node("Flatten", &["y"], &["z"], &[])], "z"),
        ("MatMul", vec![node("MatMul", &["y", "row"], &["z"], &[])], "z"),
        ("Softmax", vec![node("Softmax", &["y"], &["z"], &[])], "z"),
        ("Split", vec![node("Split", &["y"], &["z", "w"], &[])], "z"),
        ("Conv", vec![node("Conv", &["y", "kernel"], &["z"], &[])], "z"),
        ("Concat", vec![node("Concat", &["y", "row"], &["z"], &[int_attribute("axis", 0)])], "z"),
    ];
    for (op, dims, k, attributes) in &operators {
        for (after, nodes, output) in &behind {
            let bytes = with_k(op, dims, k.len() as i64, attributes, nodes, output);
            let dims: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
            let k = Tensor::new(k.to_vec(), &[k.len()]).unwrap();
            let Err(err) = run(&bytes, &[("x", ones(&dims)), ("k", k)]) else { continue };
            let err = err.to_string();
            if *op == "TopK" && err.contains("outputs") {
                continue;
            }
            let of =
                |name: &str, operator: &str| err.contains(&format!("node {name:?}: {operator}"));
            let named = of("y", op) || of("z", after) || err.contains("output \"z\"");
            assert!(named, "{op}, {after}: {err}");
            if err.contains("only known when") {
                assert!(err.contains("[inputs.k] value"), "{op}, {after}: {err}");
            }
        }
    }
}

#[test]
fn a_size_that_follows_from_values_is_split() {
    let k = || ("k", Tensor::new(vec![2i64], &[1]).unwrap());
    let filled = Graph {
        nodes: vec![
            node("ConstantOfShape", &["k"], &["zeros"], &[]),
            node("Split", &["zeros"], &["y", "z"], &[]),
        ],
        inputs: vec![value("k", INT64, &fixed(&[1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    assert_eq!(run(&filled.bytes(), &[k()]).unwrap()[0].1.shape(), [1]);
    // Branches of different sizes: the size depends on the condition.
    let branch = |name: &str, axis: i64| {
        let graph = Graph {
            nodes: vec![node("Concat", &["x", "x"], &[name], &[int_attribute("axis", axis)])],
            outputs: vec![value_of_any_shape(name, FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let branches = [
        graph_attribute("then_branch", branch("a", 0)),
        graph_attribute("else_branch", branch("b", 1)),
    ];
    let chosen = Graph {
        nodes: vec![node("If", &["c"], &["y"], &branches)],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 2])), value("c", BOOL, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let c = Tensor::new(vec![true], &[]).unwrap();
    if let Err(err) = run(&chosen.bytes(), &[("x", ones(&[1, 2])), ("c", c)]) {
        let err = err.to_string();
        assert!(err.contains("node \"y\": If: its branches"), "{err}");
        assert!(err.contains("[inputs.c] value"), "{err}");
    }
    let nodes = vec![
        node("NonZero", &["x"], &["places"], &[]),
        node("Cast", &["places"], &["numbers"], &[int_attribute("to", FLOAT)]),
        node("Split", &["numbers"], &["y", "z"], &[int_attribute("axis", 1)]),
    ];
    let graph = Graph {
        nodes,
        inputs: vec![value("x", FLOAT, &fixed(&[4]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let outputs = run(&graph.bytes(), &[("x", ones(&[4]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.0, 1.0]);
}

#[test]
fn errors_of_shapes_name_the_node_and_operator() {
    let of = |op: &str, other: &[i64], attributes: &[Message]| {
        let graph = Graph {
            nodes: vec![node(op, &["x", "w"], &["y"], attributes)],
            initializers: vec![],
            inputs: vec![value("x", FLOAT, &fixed(&[2, 3])), value("w", FLOAT, &fixed(other))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        graph.bytes()
    };
    let axis = [int_attribute("axis", 0)];
    let cases: [(&str, &[i64], &[Message]); 9] = [
        ("Add", &[2, 4], &[]),
        ("Mul", &[5], &[]),
        ("MatMul", &[2, 4], &[]),
        ("MatMul", &[4], &[]),
        ("Gemm", &[2, 4], &[]),
        ("Concat", &[2, 4], &axis),
        ("Conv", &[2, 4], &[]),
        ("PRelu", &[2, 4], &[]),
        ("Max", &[2, 4], &[]),
    ];
    for (op, other, attributes) in cases {
        let dims: Vec<usize> = other.iter().map(|dim| *dim as usize).collect();
        let inputs = [("x", ones(&[2, 3])), ("w", ones(&dims))];
        refused_at(&of(op, other, attributes), &inputs, "y", op);
    }
    // In a body or a function of another version, the inner node is named.
    let branch = |name: &str| {
        let graph = Graph {
            nodes: vec![node("Add", &["x", "w"], &[name], &[])],
            outputs: vec![value_of_any_shape(name, FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let branches =
        [graph_attribute("then_branch", branch("a")), graph_attribute("else_branch", branch("b"))];
    let graph = Graph {
        nodes: vec![node("If", &["c"], &["y"], &branches)],
        inputs: vec![
            value("x", FLOAT, &fixed(&[2, 3])),
            value("w", FLOAT, &fixed(&[2, 4])),
            value("c", BOOL, &[]),
        ],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let c = Tensor::new(vec![true], &[]).unwrap();
    let inputs = [("x", ones(&[2, 3])), ("w", ones(&[2, 4])), ("c", c)];
    refused_at(&graph.bytes(), &inputs, "a", "Add");
    let function = Message::new()
        .bytes(1, "F")
        .bytes(4, "a")
        .bytes(4, "b")
        .bytes(5, "c")
        .message(7, node("Add", &["a", "b"], &["c"], &[]))
        .message(9, Message::new().int(2, 11))
        .bytes(10, "own");
    let graph = Graph {
        nodes: vec![node("F", &["x", "w"], &["y"], &[]).bytes(7, "own")],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 3])), value("w", FLOAT, &fixed(&[2, 4]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let err = run(&graph.model().message(25, function).finish(), &inputs[..2]).err().unwrap();
    assert!(err.to_string().contains(": Add: "), "{err}");
}

#[test]
fn errors_of_values_name_the_node_and_operator() {
    let gather = Graph {
        nodes: vec![node("Gather", &["x", "k"], &["y"], &[])],
        inputs: vec![value("x", FLOAT, &fixed(&[3])), value("k", INT64, &fixed(&[1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let k = |value: i64| ("k", Tensor::new(vec![value], &[1]).unwrap());
    refused_at(&gather.bytes(), &[("x", ones(&[3])), k(7)], "y", "Gather");
    let divided = Graph {
        nodes: vec![node("Div", &["n", "k"], &["y"], &[])],
        initializers: vec![tensor_i64("n", &[1], &[8])],
        inputs: vec![value("k", INT64, &fixed(&[1]))],
        outputs: vec![value_of_any_shape("y", INT64)],
    };
    refused_at(&divided.bytes(), &[k(0)], "y", "Div");
    // Sizes that are only compared at run time.
    let late = Graph {
        nodes: vec![
            node("NonZero", &["x"], &["p"], &[]),
            node("Cast", &["p"], &["f"], &[int_attribute("to", FLOAT)]),
            node("Add", &["f", "w"], &["y"], &[]),
        ],
        initializers: vec![tensor_f32("w", &[1, 5], &[1.0; 5])],
        inputs: vec![value("x", FLOAT, &fixed(&[3]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    refused_at(&late.bytes(), &[("x", ones(&[3]))], "y", "Add");
    // A carried value whose rows do not match those of the outer value after it has grown.
    let body = Graph {
        nodes: vec![
            node("Identity", &["c"], &["on"], &[]),
            node("Concat", &["v", "v"], &["twice"], &[int_attribute("axis", 0)]),
            node("Concat", &["v", "v"], &["again"], &[int_attribute("axis", 0)]),
            node("Add", &["again", "w"], &["added"], &[]),
            node("Concat", &["twice", "added"], &["next"], &[int_attribute("axis", 0)]),
        ],
        initializers: vec![tensor_f32("w", &[6], &[1.0; 6])],
        inputs: vec![value("i", INT64, &[]), value("c", BOOL, &[]), value_of_any_shape("v", FLOAT)],
        outputs: vec![value("on", BOOL, &[]), value_of_any_shape("next", FLOAT)],
    };
    let grows = Graph {
        nodes: vec![node(
            "Loop",
            &["k", "", "x"],
            &["y"],
            &[graph_attribute("body", body.message())],
        )],
        inputs: vec![value("x", FLOAT, &fixed(&[3])), value("k", INT64, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let rounds = ("k", Tensor::new(vec![2i64], &[]).unwrap());
    refused_at(&grows.bytes(), &[("x", ones(&[3])), rounds], "y", "Loop");
}

/// `run` compares each outcome with `inspect`, which has to list the node.
#[test]
fn nodes_that_may_refuse_values_are_listed_also_without_elements_and_dimensions() {
    let refused = |domain: &str, op: &str, types: &[i64], inputs: &[(&str, Tensor)]| {
        let dims = |tensor: &Tensor| tensor.shape().iter().map(|dim| *dim as i64).collect();
        let dims: Vec<Vec<i64>> = inputs.iter().map(|(_, tensor)| dims(tensor)).collect();
        let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let shown = inputs.iter().zip(types).zip(&dims);
        let attributes = match op {
            "Cast" => vec![int_attribute("to", FLOAT)],
            "NGramRepeatBlock" => vec![int_attribute("ngram_size", 1)],
            _ => vec![],
        };
        let graph = Graph {
            nodes: vec![node(op, &names, &["y"], &attributes).bytes(7, domain)],
            inputs: shown.map(|(((name, _), of), dims)| value(name, *of, &fixed(dims))).collect(),
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let bytes = graph.model().message(8, import_of_microsoft()).finish();
        let shown = if domain.is_empty() { op.to_owned() } else { format!("{domain}:{op}") };
        refused_at(&bytes, inputs, "y", &shown);
    };
    let scalar = || Tensor::new(vec![1.0f32], &[]).unwrap();
    let integers = |values: Vec<i64>, dims: &[usize]| Tensor::new(values, dims).unwrap();
    let empty = || Tensor::new(Vec::<f32>::new(), &[1, 0]).unwrap();
    let text = Tensor::new(vec!["seven".to_owned()], &[1]).unwrap();
    let two = || integers(vec![1, 1], &[2]);
    refused("", "Cast", &[STRING], &[("x", text)]);
    refused("", "CenterCropPad", &[FLOAT, INT64], &[("x", scalar()), ("k", two())]);
    refused(MICROSOFT, "Pad", &[FLOAT, INT64], &[("x", scalar()), ("k", two())]);
    let tokens = integers(vec![1, 1], &[1, 2]);
    refused(MICROSOFT, "NGramRepeatBlock", &[INT64, FLOAT], &[("t", tokens), ("x", empty())]);
}

#[test]
fn errors_of_axes_name_the_node_and_operator() {
    let cases: [(&str, &[i64]); 4] =
        [("ReduceMax", &[5]), ("ReduceMean", &[-4]), ("ReduceL2", &[0, 0]), ("ReduceMin", &[7])];
    for (op, axes) in cases {
        let graph = Graph {
            nodes: vec![node(op, &["x"], &["y"], &[ints_attribute("axes", axes)])],
            inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        refused_at(&graph.bytes(), &[("x", ones(&[2, 3]))], "y", op);
    }
}
