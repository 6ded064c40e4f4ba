//! Wrongly declared shapes of values inside a graph, and in the bodies of scans, loops and
//! branches.

use crate::support;

use belljar::{Error, Isolation, Tensor};
use support::onnx::{
    BOOL, Dim, FLOAT, Graph, INT64, Message, fixed, graph_attribute, int_attribute, ints_attribute,
    node, tensor_f32, tensor_i64, value, value_of_any_shape,
};
use support::{host, load};

use super::{counting, run_model};

/// The output of a model with these value declarations in its graph (field 13).
fn with_value_info(graph: &Graph, info: Vec<Message>, x: &Tensor) -> Result<Tensor, Error> {
    let graph = graph.message().messages(13, info);
    let model = Message::new().int(1, 8).message(7, graph).message(8, Message::new().int(2, 17));
    let model = load(&host(Isolation::Thread), &model.finish())?;
    Ok(run_model(&model, &[("x", x.clone())])?.remove(0).1)
}

#[test]
fn declared_shapes_of_intermediate_values_are_ignored() {
    let graph = Graph {
        nodes: vec![
            node("Add", &["x", "x"], &["h"], &[]),
            node("Reshape", &["h", "shape"], &["r"], &[]),
            node("Relu", &["r"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("shape", &[2], &[-1, 2])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let wanted = Tensor::new(vec![0f32, 2.0, 4.0, 6.0, 8.0, 10.0], &[3, 2]).unwrap();
    let symbol = Dim::Symbol("n");
    for info in [
        vec![],
        vec![value("h", FLOAT, &fixed(&[7])), value("r", FLOAT, &fixed(&[9, 9, 9]))],
        vec![value("h", FLOAT, &[]), value("r", FLOAT, &[symbol])],
        vec![value("h", INT64, &fixed(&[6])), value("r", BOOL, &fixed(&[3, 2]))],
        vec![value("h", FLOAT, &fixed(&[-5])), value("r", FLOAT, &[Dim::Symbol("2*/")])],
        vec![value("x", FLOAT, &fixed(&[2])), value("y", FLOAT, &fixed(&[2]))],
        vec![value("shape", INT64, &fixed(&[5])), value("nothing", FLOAT, &fixed(&[1]))],
        vec![value("h", FLOAT, &fixed(&[7])), value("h", FLOAT, &fixed(&[8]))],
    ] {
        assert_eq!(with_value_info(&graph, info, &counting(&[6])).unwrap(), wanted);
    }
}

/// `y = sum of the rows so far` by a scan over `x`, with these declarations of its state and rows.
fn running_sum(state: &[Dim<'_>], row: &[Dim<'_>], made: &[Dim<'_>]) -> Graph {
    let body = Graph {
        nodes: vec![node("Add", &["s", "e"], &["t"], &[]), node("Identity", &["t"], &["o"], &[])],
        inputs: vec![value("s", FLOAT, state), value("e", FLOAT, row)],
        outputs: vec![value("t", FLOAT, state), value("o", FLOAT, made)],
        ..Graph::default()
    };
    let attributes = [graph_attribute("body", body.message()), int_attribute("num_scan_inputs", 1)];
    Graph {
        nodes: vec![node("Scan", &["zero", "x"], &["last", "y"], &attributes)],
        initializers: vec![tensor_f32("zero", &[2], &[0.0, 0.0])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(2)])],
        outputs: vec![value_of_any_shape("last", FLOAT), value_of_any_shape("y", FLOAT)],
    }
}

#[test]
fn declared_shapes_in_scan_bodies_are_ignored() {
    let host = host(Isolation::Thread);
    let n = Dim::Symbol("n");
    for (state, row, made) in [
        (fixed(&[2]), fixed(&[2]), fixed(&[2])),
        (fixed(&[5]), fixed(&[7]), fixed(&[9])),
        (fixed(&[]), fixed(&[1, 1]), fixed(&[])),
        (vec![n], vec![n, n], vec![n, n, n]),
        (fixed(&[2]), fixed(&[3]), fixed(&[3, 2])),
    ] {
        let model = load(&host, &running_sum(&state, &row, &made).bytes()).unwrap();
        let answer = run_model(&model, &[("x", counting(&[3, 2]))]).unwrap();
        let y = Tensor::new(vec![0f32, 1.0, 2.0, 4.0, 6.0, 9.0], &[3, 2]).unwrap();
        assert_eq!(answer[1].1, y);
        assert_eq!(answer[0].1, Tensor::new(vec![6f32, 9.0], &[2]).unwrap());
    }
}

#[test]
fn negative_scan_axes_use_the_real_rank() {
    let host = host(Isolation::Thread);
    let columns = |row: &[Dim<'_>], made: &[Dim<'_>], axes: &[(&str, i64)]| {
        let body = Graph {
            nodes: vec![node("Neg", &["e"], &["o"], &[])],
            inputs: vec![value("e", FLOAT, row)],
            outputs: vec![value("o", FLOAT, made)],
            ..Graph::default()
        };
        let mut attributes =
            vec![graph_attribute("body", body.message()), int_attribute("num_scan_inputs", 1)];
        attributes.extend(axes.iter().map(|(name, axis)| ints_attribute(name, &[*axis])));
        let graph = Graph {
            nodes: vec![node("Scan", &["x"], &["y"], &attributes)],
            inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let model = load(&host, &graph.bytes())?;
        Ok::<_, Error>(run_model(&model, &[("x", counting(&[2, 3]))])?.remove(0).1)
    };
    let [from, to] = ["scan_input_axes", "scan_output_axes"];
    let same = Tensor::new(vec![0f32, -1.0, -2.0, -3.0, -4.0, -5.0], &[2, 3]).unwrap();
    let turned = Tensor::new(vec![0f32, -3.0, -1.0, -4.0, -2.0, -5.0], &[3, 2]).unwrap();
    // Columns in and columns out, one of them with a wrong declared size.
    for made in [fixed(&[2]), fixed(&[9])] {
        let found = columns(&fixed(&[7]), &made, &[(from, -1), (to, -1)]).unwrap();
        assert_eq!(found, same);
        let found = columns(&fixed(&[7]), &made, &[(from, 1), (to, -1)]).unwrap();
        assert_eq!(found, same);
        let found = columns(&fixed(&[7]), &made, &[(from, -1), (to, 0)]).unwrap();
        assert_eq!(found, turned);
    }
    // A declared rank may also be wrong.
    for (row, made, axes, expected) in [
        (fixed(&[2]), fixed(&[]), [(from, 1), (to, -1)], &same),
        (fixed(&[2]), fixed(&[1, 2]), [(from, 1), (to, -1)], &same),
        (fixed(&[2]), fixed(&[1, 2]), [(from, 1), (to, -2)], &turned),
        (fixed(&[]), fixed(&[2]), [(from, -1), (to, 0)], &turned),
        (fixed(&[1, 2]), fixed(&[2]), [(from, -2), (to, 0)], &same),
    ] {
        assert_eq!(columns(&row, &made, &axes).unwrap(), *expected);
    }
}

#[test]
fn declared_shapes_in_other_bodies_are_ignored() {
    let host = host(Isolation::Thread);
    let wrong = fixed(&[9, 9]);
    let branch = |op: &str, name: &str| Graph {
        nodes: vec![node(op, &["x"], &[name], &[])],
        outputs: vec![value(name, FLOAT, &wrong)],
        ..Graph::default()
    };
    let round = Graph {
        nodes: vec![
            node("Add", &["v", "v"], &["w"], &[]),
            node("Identity", &["go"], &["on"], &[]),
            node("Identity", &["w"], &["each"], &[]),
        ],
        inputs: vec![
            value("i", INT64, &fixed(&[])),
            value("go", BOOL, &fixed(&[])),
            value("v", FLOAT, &wrong),
        ],
        outputs: vec![
            value("on", BOOL, &fixed(&[])),
            value("w", FLOAT, &wrong),
            value("each", FLOAT, &wrong),
        ],
        ..Graph::default()
    };
    let branches = [
        graph_attribute("then_branch", branch("Relu", "a").message()),
        graph_attribute("else_branch", branch("Neg", "b").message()),
    ];
    let graph = Graph {
        nodes: vec![
            node("ReduceSum", &["x"], &["sum"], &[int_attribute("keepdims", 0)]),
            node("Greater", &["sum", "zero"], &["positive"], &[]),
            node("If", &["positive"], &["h"], &branches),
            node(
                "Loop",
                &["times", "", "h"],
                &["y", "all"],
                &[graph_attribute("body", round.message())],
            ),
        ],
        initializers: vec![tensor_f32("zero", &[], &[0.0]), tensor_i64("times", &[], &[2])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
        outputs: vec![value("y", FLOAT, &wrong), value("all", FLOAT, &wrong)],
    };
    let model = load(&host, &graph.bytes()).unwrap();
    let answer = run_model(&model, &[("x", counting(&[3]))]).unwrap();
    assert_eq!(answer[0].1, Tensor::new(vec![0f32, 4.0, 8.0], &[3]).unwrap());
    let all = Tensor::new(vec![0f32, 2.0, 4.0, 0.0, 4.0, 8.0], &[2, 3]).unwrap();
    assert_eq!(answer[1].1, all);
}
