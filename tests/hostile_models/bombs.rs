//! Small files that ask for much memory or time.

use crate::support::onnx::{
    FLOAT, Graph, INT64, Message, fixed, int_attribute, ints_attribute, node, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};
use crate::{ends, host_still_answers, one, ones, refused, run, with_ints};

const MILLION: i64 = 1 << 20;

fn constant_of_shape(shape: &[i64]) -> Vec<u8> {
    Graph {
        nodes: vec![
            node("ConstantOfShape", &["shape"], &["big"], &[]),
            node("ReduceSum", &["big"], &["sum"], &[int_attribute("keepdims", 0)]),
            node("Add", &["x", "sum"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("shape", &[shape.len() as i64], shape)],
        inputs: vec![value("x", FLOAT, &fixed(&[1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    }
    .bytes()
}

#[test]
fn huge_constant_shapes_end_in_an_error() {
    ends(&constant_of_shape(&[MILLION, MILLION]), &[("x", ones(&[1]))]);
    ends(&constant_of_shape(&[1 << 30]), &[("x", ones(&[1]))]);
    // The product is 0 in 32 bits.
    ends(&constant_of_shape(&[65536, 65536]), &[("x", ones(&[1]))]);
    for shape in [[1 << 40, 1], [(1 << 32) + 1, 1], [-1, 4], [i64::MIN, 1], [i64::MAX, i64::MAX]] {
        ends(&constant_of_shape(&shape), &[("x", ones(&[1]))]);
    }
}

#[test]
fn huge_expansions_end_in_an_error() {
    for shape in [&[1 << 31, 1 << 31][..], &[MILLION, MILLION], &[1 << 40], &[65536, 65536, 65536]]
    {
        ends(&with_ints("Expand", &[1], shape, &[]), &[("x", ones(&[1]))]);
    }
    // A value that would wrap to 2 in 32 bits.
    refused(&with_ints("Expand", &[1], &[(1 << 32) + 2], &[]), &[("x", ones(&[1]))], "the size");
    refused(&with_ints("Reshape", &[2], &[(1 << 32) + 2], &[]), &[("x", ones(&[2]))], "the size");
    refused(&with_ints("Tile", &[1], &[(1 << 32) + 2], &[]), &[("x", ones(&[1]))], "the number");
}

#[test]
fn huge_tiles_end_in_an_error() {
    ends(&with_ints("Tile", &[1, 1], &[MILLION, MILLION], &[]), &[("x", ones(&[1, 1]))]);
    ends(&with_ints("Tile", &[1], &[-3], &[]), &[("x", ones(&[1]))]);
    let mut graph = Graph {
        initializers: vec![tensor_i64("times", &[1], &[1000])],
        inputs: vec![value("x", FLOAT, &fixed(&[1]))],
        ..Graph::default()
    };
    let mut from = "x".to_owned();
    for step in 0..10 {
        let to = format!("t{step}");
        graph.nodes.push(node("Tile", &[&from, "times"], &[&to], &[]));
        from = to;
    }
    graph.outputs = vec![value_of_any_shape(&from, FLOAT)];
    ends(&graph.bytes(), &[("x", ones(&[1]))]);
}

#[test]
fn chains_of_doubling_nodes_end_in_an_error() {
    for op in ["Concat", "MatMul"] {
        let mut graph =
            Graph { inputs: vec![value("x", FLOAT, &fixed(&[64, 64]))], ..Graph::default() };
        let mut from = "x".to_owned();
        for step in 0..40 {
            let to = format!("c{step}");
            let attributes = match op {
                "Concat" => vec![int_attribute("axis", 0)],
                _ => vec![],
            };
            graph.nodes.push(node(op, &[&from, &from], &[&to], &attributes));
            from = to;
        }
        graph.outputs = vec![value_of_any_shape(&from, FLOAT)];
        // A chain of products of one size does not grow; only its numbers overflow.
        match op {
            "Concat" => ends(&graph.bytes(), &[("x", ones(&[64, 64]))]),
            _ => {
                let outputs = run(&graph.bytes(), &[("x", ones(&[64, 64]))]).unwrap();
                assert_eq!(outputs[0].1.as_slice::<f32>().unwrap()[0], f32::INFINITY);
            }
        }
    }
}

#[test]
fn outputs_much_larger_than_inputs_end_in_an_error() {
    for (op, a, b) in [("MatMul", [65536, 1], [1, 65536]), ("Add", [MILLION, 1], [1, MILLION])] {
        let graph = Graph {
            nodes: vec![node(op, &["x", "z"], &["y"], &[])],
            inputs: vec![value("x", FLOAT, &fixed(&a)), value("z", FLOAT, &fixed(&b))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let given = |dims: [i64; 2]| ones(&dims.map(|dim| dim as usize));
        ends(&graph.bytes(), &[("x", given(a)), ("z", given(b))]);
    }
}

#[test]
fn huge_ranges_end_in_an_error() {
    for (start, limit, delta) in
        [(0, 1 << 40, 1), (0, 10, 0), (i64::MIN, i64::MAX, 1), (0, 1 << 30, 1)]
    {
        let graph = Graph {
            nodes: vec![
                node("Range", &["start", "limit", "delta"], &["r"], &[]),
                node("Cast", &["r"], &["f"], &[int_attribute("to", FLOAT)]),
                node("Add", &["x", "f"], &["y"], &[]),
            ],
            initializers: vec![
                tensor_i64("start", &[], &[start]),
                tensor_i64("limit", &[], &[limit]),
                tensor_i64("delta", &[], &[delta]),
            ],
            inputs: vec![value("x", FLOAT, &fixed(&[1]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        ends(&graph.bytes(), &[("x", ones(&[1]))]);
    }
}

#[test]
fn windows_larger_than_any_image_are_refused() {
    let weights = tensor_f32("w", &[1, 1, 3, 3], &[1.0; 9]);
    let conv = |attribute| {
        one("Conv", &[1, 1, 8, 8], std::slice::from_ref(&weights), &["w"], &[attribute])
    };
    let x = [("x", ones(&[1, 1, 8, 8]))];
    let big = 1i64 << 40;
    for (name, values) in [
        ("pads", vec![big, big, big, big]),
        ("pads", vec![0, 0, -1, 0]),
        ("dilations", vec![big, 1]),
        ("dilations", vec![0, 1]),
        ("strides", vec![0, 1]),
        ("strides", vec![-1, 1]),
        ("strides", vec![big, big]),
        ("kernel_shape", vec![big, big]),
        ("kernel_shape", vec![0, 0]),
    ] {
        refused(&conv(ints_attribute(name, &values)), &x, name);
    }
    for group in [0, -1, 7, 1 << 40] {
        ends(&conv(int_attribute("group", group)), &x);
    }
    // The largest pads that are accepted exceed the limits.
    ends(&conv(ints_attribute("pads", &[65536, 65536, 65536, 65536])), &x);
}

#[test]
fn huge_pads_and_resizes_end_in_an_error() {
    ends(&with_ints("Pad", &[1], &[1 << 30, 1 << 30], &[]), &[("x", ones(&[1]))]);
    ends(&with_ints("Pad", &[1], &[1 << 40, 0], &[]), &[("x", ones(&[1]))]);
    ends(&with_ints("Pad", &[4], &[-5, 0], &[]), &[("x", ones(&[4]))]);
    ends(&with_ints("Pad", &[4], &[i64::MIN, i64::MAX], &[]), &[("x", ones(&[4]))]);
    ends(&with_ints("Pad", &[4], &[0, 0, 0], &[]), &[("x", ones(&[4]))]);
    for scale in [1e9, -1.0, 0.0, f32::NAN, f32::INFINITY] {
        let scales = tensor_f32("scales", &[4], &[1.0, 1.0, scale, scale]);
        let model = one("Resize", &[1, 1, 2, 2], &[scales], &["", "scales"], &[]);
        ends(&model, &[("x", ones(&[1, 1, 2, 2]))]);
    }
}

#[test]
fn huge_one_hot_depths_and_top_ks_end_in_an_error() {
    for depth in [1 << 40, 1 << 31, -1, i64::MIN] {
        let graph = Graph {
            nodes: vec![node("OneHot", &["i", "depth", "values"], &["y"], &[])],
            initializers: vec![
                tensor_i64("depth", &[], &[depth]),
                tensor_f32("values", &[2], &[0.0, 1.0]),
            ],
            inputs: vec![value("i", INT64, &fixed(&[2]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        let i = belljar::Tensor::new(vec![0i64, 1], &[2]).unwrap();
        ends(&graph.bytes(), &[("i", i)]);
    }
    for k in [1 << 40, 5, -1, (1 << 32) + 1] {
        let graph = Graph {
            nodes: vec![node("TopK", &["x", "k"], &["y", "i"], &[])],
            initializers: vec![tensor_i64("k", &[1], &[k])],
            inputs: vec![value("x", FLOAT, &fixed(&[4]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        ends(&graph.bytes(), &[("x", ones(&[4]))]);
    }
}

#[test]
fn tensors_without_their_data_are_refused() {
    let claimed = |dims: &[i64]| {
        let tensor = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
        let tensor = tensor.int(2, FLOAT).bytes(8, "w");
        one("Add", &[1], &[tensor], &["w"], &[])
    };
    let x = [("x", ones(&[1]))];
    refused(&claimed(&[1 << 30]), &x, "elements of data");
    refused(&claimed(&[1 << 40]), &x, "dimensions");
    refused(&claimed(&[1 << 30, 1 << 30]), &x, "too many elements");
    refused(&claimed(&[65536, 65536]), &x, "elements");
    refused(&claimed(&[-1]), &x, "dimensions");
    refused(&claimed(&[1; 33]), &x, "dimensions");
    refused(&claimed(&[i64::MIN, i64::MAX]), &x, "dimensions");
}

#[test]
fn too_many_nodes_are_refused() {
    let chain = |nodes: usize| {
        let mut graph = Graph { inputs: vec![value("x", FLOAT, &fixed(&[2]))], ..Graph::default() };
        let mut from = "x".to_owned();
        for step in 0..nodes {
            let to = format!("v{step}");
            graph.nodes.push(node("Neg", &[&from], &[&to], &[]));
            from = to;
        }
        graph.outputs = vec![value_of_any_shape(&from, FLOAT)];
        graph.bytes()
    };
    let outputs = run(&chain(1000), &[("x", ones(&[2]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 1.0]);
    refused(&chain(50_000), &[("x", ones(&[2]))], "nodes");
    host_still_answers();
}

/// In a separate process, so that other tests do not affect the numbers.
#[test]
fn bombs_leave_no_memory_or_descriptors_behind() {
    use crate::support::{ISOLATIONS, alone, footprint, host};
    if !alone("bombs::bombs_leave_no_memory_or_descriptors_behind") {
        return;
    }
    let x = [("x", ones(&[1]))];
    let bombs = [
        constant_of_shape(&[1 << 30]),
        constant_of_shape(&[1 << 25]),
        with_ints("Expand", &[1], &[1 << 40], &[]),
        with_ints("Tile", &[1], &[1 << 26], &[]),
        with_ints("Pad", &[1], &[1 << 30, 1 << 30], &[]),
    ];
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let round = || {
            for bomb in &bombs {
                // It does not matter whether it is refused or the answer is too large.
                let _ = crate::within(&host, bomb, &x);
            }
            footprint()
        };
        let first = round();
        round();
        let last = round();
        let grown = last.0.saturating_sub(first.0);
        assert!(grown < 8 << 20, "{isolation:?}: two rounds added {grown} bytes");
        assert!(last.1 <= first.1 && last.2 <= first.2, "{isolation:?}: {first:?} to {last:?}");
    }
}
