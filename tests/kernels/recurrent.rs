//! Recurrent layers, whose sums native kernels compute in float32, and the sandbox in float64.

use crate::compare::Net;
use crate::support::onnx::{int_attribute, string_attribute};

/// A layer of a kind on a sequence, with all of its optional inputs but the lengths and the
/// peepholes, or with the lengths too. Every output of the node is one of the model.
fn layer(op: &str, direction: &str, batch: i64, lengths: Option<&[i64]>, before: bool) -> Net {
    layer_of(7, op, direction, batch, lengths, before)
}

fn layer_of(
    steps: i64,
    op: &str,
    direction: &str,
    batch: i64,
    lengths: Option<&[i64]>,
    before: bool,
) -> Net {
    let (inputs, hidden) = (11, 19);
    let ways = if direction == "bidirectional" { 2 } else { 1 };
    let gates = match op {
        "RNN" => 1,
        "GRU" => 3,
        _ => 4,
    };
    let mut net = Net::new();
    let x = net.input(&[steps, batch, inputs]);
    let (w, r) = (
        net.constant(&[ways, gates * hidden, inputs]),
        net.constant(&[ways, gates * hidden, hidden]),
    );
    let bias = net.constant(&[ways, 2 * gates * hidden]);
    let lengths = match lengths {
        None => String::new(),
        Some(lengths) => {
            let lengths = net.integers(lengths);
            net.op("Cast", &[&lengths], &[int_attribute("to", 6)])
        }
    };
    let (h, c) = (net.input(&[ways, batch, hidden]), net.input(&[ways, batch, hidden]));
    let mut given = vec![&*x, &w, &r, &bias, &lengths, &h];
    if op == "LSTM" {
        given.push(&c);
    }
    let mut attributes =
        vec![string_attribute("direction", direction), int_attribute("hidden_size", hidden)];
    if op == "GRU" {
        attributes.push(int_attribute("linear_before_reset", before.into()));
    }
    let count = if op == "LSTM" { 3 } else { 2 };
    for output in net.op_with_outputs(op, &given, count, &attributes) {
        net.output(&output);
    }
    net
}

/// Without steps the states stay as they are, and without sequences there are none.
#[test]
fn empty_sequences_are_those_of_the_sandbox() {
    for op in ["RNN", "GRU", "LSTM"] {
        for direction in ["forward", "bidirectional"] {
            layer_of(0, op, direction, 2, None, false).agrees(&[]);
            layer_of(3, op, direction, 0, None, false).agrees(&[]);
        }
    }
}

/// The gates of long sequences are computed for some of their steps at a time.
#[test]
fn long_sequences_are_close_to_those_of_the_sandbox() {
    let (steps, hidden) = (2500, 128);
    for (direction, layout) in [("bidirectional", 0), ("forward", 1), ("reverse", 1)] {
        let mut net = Net::new();
        let ways = if direction == "bidirectional" { 2 } else { 1 };
        let dims = if layout == 0 { [steps, 2, 3] } else { [2, steps, 3] };
        let x = net.input(&dims);
        let numbers = net.numbers((ways * 3 * hidden * hidden) as usize);
        let numbers: Vec<f32> = numbers.iter().map(|number| number * 0.1).collect();
        let (w, r) = (
            net.constant(&[ways, 3 * hidden, 3]),
            net.constant_of(&[ways, 3 * hidden, hidden], &numbers),
        );
        let attributes = [
            string_attribute("direction", direction),
            int_attribute("hidden_size", hidden),
            int_attribute("layout", layout),
        ];
        let outputs = net.op_with_outputs("GRU", &[&x, &w, &r], 2, &attributes);
        outputs.iter().for_each(|output| net.output(output));
        net.agrees(&[]);
    }
}

#[test]
fn recurrent_layers_are_close_to_those_of_the_sandbox() {
    for op in ["RNN", "GRU", "LSTM"] {
        for direction in ["forward", "reverse", "bidirectional"] {
            for batch in [1, 3] {
                let befores = if op == "GRU" { &[false, true][..] } else { &[false] };
                for before in befores {
                    layer(op, direction, batch, None, *before).agrees(&[]);
                    let lengths = &[7, 2, 5][..batch as usize];
                    layer(op, direction, batch, Some(lengths), *before).agrees(&[]);
                }
            }
        }
    }
}
