//! Recurrent layers: batches, sequences of one feature, and closed gates.

use belljar::Tensor;

use crate::run;
use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, int_attribute, node, tensor_f32, value, value_of_any_shape,
};

/// Numbers between −1 and 1, always the same ones.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 37 + seed * 11) % 29) as f32 / 14.5 - 1.0).collect()
}

/// The output of a layer for `x`, whose dimensions are steps, sequences and width.
fn layer(
    op: &str,
    attributes: &[Message],
    initializers: &[Message],
    names: &[&str],
    x: (&[f32], [usize; 3]),
) -> Vec<f32> {
    let inputs: Vec<&str> = std::iter::once("x").chain(names.iter().copied()).collect();
    let graph = Graph {
        nodes: vec![node(op, &inputs, &["y"], attributes)],
        initializers: initializers.to_vec(),
        inputs: vec![value("x", FLOAT, &fixed(&x.1.map(|dim| dim as i64)))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let x = Tensor::new(x.0.to_vec(), &x.1).unwrap();
    run(&graph.bytes(), &[("x", x)]).unwrap().remove(0).1.as_slice::<f32>().unwrap().to_vec()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{what}: {found} for {expected}");
    }
}

#[test]
fn batched_sequences_equal_single_ones() {
    let (steps, sequences, width, hidden) = (4, 3, 2, 2);
    let x = numbers(steps * sequences * width, 1);
    for (op, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
        let wide = gates * hidden;
        let initializers = [
            tensor_f32("w", &[1, wide as i64, width as i64], &numbers(wide * width, 2)),
            tensor_f32("r", &[1, wide as i64, hidden as i64], &numbers(wide * hidden, 3)),
        ];
        let attributes = [int_attribute("hidden_size", hidden as i64)];
        let run = |x: &[f32], sequences| {
            layer(op, &attributes, &initializers, &["w", "r"], (x, [steps, sequences, width]))
        };
        let together = run(&x, sequences);
        for at in 0..sequences {
            let part = |all: &[f32], size: usize| -> Vec<f32> {
                all.chunks(size).skip(at).step_by(sequences).flatten().copied().collect()
            };
            near(&part(&together, hidden), &run(&part(&x, width), 1), op);
        }
    }
}

#[test]
fn one_feature_equals_two_features_with_a_zero() {
    let (steps, sequences, hidden) = (4, 5, 3);
    let x = numbers(steps * sequences, 1);
    let padded: Vec<f32> = x.iter().flat_map(|x| [*x, 0.0]).collect();
    for (op, gates, before) in [("GRU", 3, 1), ("GRU", 3, 0), ("LSTM", 4, 0), ("RNN", 1, 0)] {
        let wide = gates * hidden;
        let weights = numbers(wide, 2);
        let more: Vec<f32> = weights.iter().flat_map(|weight| [*weight, 1.0]).collect();
        let r = tensor_f32("r", &[1, wide as i64, hidden as i64], &numbers(wide * hidden, 3));
        let mut attributes = vec![int_attribute("hidden_size", hidden as i64)];
        if op == "GRU" {
            attributes.push(int_attribute("linear_before_reset", before));
        }
        let run = |weights: &[f32], x: &[f32], width: usize| {
            let w = tensor_f32("w", &[1, wide as i64, width as i64], weights);
            let x = (x, [steps, sequences, width]);
            layer(op, &attributes, &[w, r.clone()], &["w", "r"], x)
        };
        near(&run(&weights, &x, 1), &run(&more, &padded, 2), op);
    }
}

#[test]
fn closed_gates_pass_nothing() {
    let zeros = |name: &str, dims: &[i64]| {
        tensor_f32(name, dims, &vec![0.0; dims.iter().product::<i64>() as usize])
    };
    // A gate is the sigmoid of −50, which is 2e-22. The cell state is large.
    let mut initializers = vec![
        zeros("w", &[1, 4, 1]),
        zeros("r", &[1, 4, 1]),
        tensor_f32("b", &[1, 8], &[-50.0, 50.0, -50.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        zeros("h", &[1, 1, 1]),
        tensor_f32("c", &[1, 1, 1], &[1000.0]),
    ];
    let attributes = [int_attribute("hidden_size", 1)];
    let x = (&[0.0; 2][..], [2, 1, 1]);
    let y = layer("LSTM", &attributes, &initializers, &["w", "r", "b", "", "h", "c"], x);
    assert!(y.iter().all(|y| y.abs() < 1e-18), "{y:?}");

    initializers = vec![
        zeros("w", &[1, 3, 2]),
        zeros("r", &[1, 3, 1]),
        tensor_f32("b", &[1, 6], &[-50.0, 0.0, 0.5, 0.0, 0.0, 0.0]),
        tensor_f32("h", &[1, 1, 1], &[-7436.0]),
    ];
    for before in [0, 1] {
        let attributes = [attributes[0].clone(), int_attribute("linear_before_reset", before)];
        let x = (&[0.0; 4][..], [2, 1, 2]);
        let y = layer("GRU", &attributes, &initializers, &["w", "r", "b", "", "h"], x);
        near(&y, &[0.5f32.tanh(); 2], "GRU");
    }
}
