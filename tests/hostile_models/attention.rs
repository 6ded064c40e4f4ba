//! Attention, recurrent layers, spectra, regions and quantized products with invalid run-time
//! values, and their results in unclear cases.

use belljar::Tensor;

use crate::run_time::In::{Floats, Ints, None as Left, Short, Wild};
use crate::run_time::{nothing_found, survives};
use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, float_attribute, graph_attribute, int_attribute, ints_attribute,
    node, string_attribute, tensor_f32, tensor_i64, value, value_of_any_shape,
};

#[test]
fn attention_survives_invalid_run_time_values() {
    let q = || Wild(&[1, 2, 3, 4]);
    survives("Attention", 24, &[q(), q(), q(), Wild(&[3, 3])], &[]);
    survives("Attention", 23, &[q(), q(), q(), Wild(&[1])], &[int_attribute("is_causal", 1)]);
    let past = [q(), q(), q(), Left, Wild(&[1, 2, 5, 4]), Wild(&[1, 2, 5, 4])];
    survives("Attention", 25, &past, &[int_attribute("left_window_size", 1)]);
    let lengths = [q(), q(), q(), Left, Left, Left, Ints(&[1])];
    survives("Attention", 24, &lengths, &[int_attribute("is_causal", 1)]);
    let capped = [float_attribute("softcap", 1e-30), float_attribute("scale", 3e38)];
    survives("Attention", 24, &[q(), q(), q()], &capped);
    let packed = || Wild(&[1, 3, 4]);
    let heads = [int_attribute("q_num_heads", 2), int_attribute("kv_num_heads", 1)];
    survives("Attention", 23, &[packed(), packed(), packed(), Wild(&[3, 3])], &heads);
    for rule in ["linear", "gated", "delta", "gated_delta"] {
        let rule = [heads[0].clone(), heads[1].clone(), string_attribute("update_rule", rule)];
        let (half, state) = (|| Wild(&[1, 3, 2]), || Wild(&[1, 1, 2, 2]));
        let inputs = [packed(), half(), half(), state(), half(), Wild(&[1, 3, 1])];
        survives("LinearAttention", 27, &inputs, &rule);
        survives("LinearAttention", 27, &inputs[..3], &rule);
        let corrected = [packed(), half(), half(), Left, Left, Wild(&[1, 3, 1])];
        survives("LinearAttention", 27, &corrected, &rule);
    }
    let conv = [Wild(&[1, 2, 5]), Wild(&[2, 1, 3]), Wild(&[2]), Wild(&[1, 2, 2])];
    survives("CausalConvWithState", 27, &conv, &[string_attribute("activation", "silu")]);
    let positions = [Floats(&[1, 1, 2, 4]), Floats(&[3, 2]), Floats(&[3, 2]), Ints(&[1, 2])];
    survives("RotaryEmbedding", 23, &positions, &[]);
    survives("SwiGLU", 28, &[Wild(&[2, 3]), Wild(&[2, 3])], &[float_attribute("alpha", 3e38)]);
    nothing_found();
}

#[test]
fn recurrent_layers_survive_invalid_run_time_values() {
    for (op, gates, batch_first) in
        [("RNN", &[2, 1, 3], 0), ("GRU", &[2, 3, 3], 1), ("LSTM", &[2, 4, 3], 0)]
    {
        let hidden: &'static [usize] = match op {
            "RNN" => &[2, 1, 1],
            "GRU" => &[2, 3, 1],
            _ => &[2, 4, 1],
        };
        let attributes = [
            string_attribute("direction", "bidirectional"),
            int_attribute("layout", batch_first),
            int_attribute("hidden_size", 1),
        ];
        let inputs = [Wild(&[2, 2, 3]), Wild(gates), Wild(hidden), Left, Short(&[2])];
        survives(op, 14, &inputs, &attributes);
        survives(op, 14, &inputs[..3], &attributes);
    }
    nothing_found();
}

#[test]
fn spectra_regions_and_images_survive_invalid_run_time_values() {
    survives("DFT", 20, &[Wild(&[1, 4, 3, 2]), Ints(&[]), Ints(&[])], &[]);
    let both = [int_attribute("inverse", 1), int_attribute("onesided", 1)];
    survives("DFT", 20, &[Wild(&[1, 4, 2]), Ints(&[])], &both);
    survives("DFT", 17, &[Wild(&[1, 4, 1]), Ints(&[])], &[int_attribute("onesided", 1)]);
    survives("STFT", 17, &[Wild(&[1, 8, 1]), Ints(&[]), Wild(&[4]), Ints(&[])], &[]);
    let regions = [Wild(&[1, 2, 4, 4]), Wild(&[2, 4]), Ints(&[2])];
    for mode in ["avg", "max"] {
        survives("RoiAlign", 16, &regions, &[string_attribute("mode", mode)]);
        survives("RoiAlign", 10, &regions, &[string_attribute("mode", mode)]);
    }
    let deformed = [
        Wild(&[1, 1, 3, 3]),
        Wild(&[1, 1, 2, 2]),
        Wild(&[1, 8, 2, 2]),
        Wild(&[1]),
        Wild(&[1, 4, 2, 2]),
    ];
    survives("DeformConv", 19, &deformed, &[]);
    let filter = [string_attribute("mode", "cubic"), int_attribute("antialias", 1)];
    survives("Resize", 18, &[Wild(&[1, 1, 4, 4]), Left, Wild(&[4])], &filter);
    survives("Resize", 18, &[Wild(&[1, 1, 4, 4]), Left, Left, Ints(&[4])], &filter);
    let crop = [
        string_attribute("mode", "linear"),
        string_attribute("coordinate_transformation_mode", "tf_crop_and_resize"),
    ];
    survives("Resize", 13, &[Wild(&[1, 1, 4, 4]), Wild(&[8]), Left, Ints(&[4])], &crop);
    for (scales, sizes) in [(Wild(&[0]), Left), (Wild(&[4]), Ints(&[4])), (Wild(&[0]), Ints(&[4]))]
    {
        survives("Resize", 13, &[Floats(&[1, 1, 2, 3]), Left, scales, sizes], &[]);
    }
    survives("Pad", 19, &[Floats(&[2, 3]), Ints(&[4])], &[string_attribute("mode", "wrap")]);
    survives("OneHot", 11, &[Wild(&[2]), Wild(&[]), Floats(&[2])], &[]);
    survives("Range", 27, &[Wild(&[]), Wild(&[]), Wild(&[])], &[]);
    let trained = [int_attribute("training_mode", 1)];
    let batch = [Wild(&[2, 3, 2]), Wild(&[3]), Wild(&[3]), Wild(&[3]), Wild(&[3])];
    survives("BatchNormalization", 15, &batch, &trained);
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "PRelu"] {
        survives(op, 6, &[Floats(&[2, 3]), Wild(&[2, 3])], &[]);
    }
    for op in ["Add", "Div", "Pow"] {
        let said = [int_attribute("broadcast", 1), int_attribute("axis", 1)];
        survives(op, 6, &[Floats(&[2, 3]), Wild(&[3])], &said);
    }
    nothing_found();
}

/// One node that reads `x` and constants.
fn answers(
    op: &str,
    opset: i64,
    x: (&[f32], &[i64]),
    more: &[Message],
    names: &[&str],
    attributes: &[Message],
) -> Result<Vec<f32>, belljar::Error> {
    let graph = Graph {
        nodes: vec![node(op, &[&["x"], names].concat(), &["y"], attributes)],
        initializers: more.to_vec(),
        inputs: vec![value("x", FLOAT, &fixed(x.1))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let shape: Vec<usize> = x.1.iter().map(|dim| *dim as usize).collect();
    let x = Tensor::new(x.0.to_vec(), &shape).unwrap();
    let bytes = crate::structure::with_opset(&graph, opset);
    crate::run(&bytes, &[("x", x)]).map(|outputs| outputs[0].1.as_slice::<f32>().unwrap().to_vec())
}

/// A query that may attend to no key gives zeros, whatever the values are.
#[test]
fn fully_masked_attention_is_zero() {
    let attend = |mask: [f32; 4], values: [f32; 2], attributes: &[Message]| {
        let more = [
            tensor_f32("k", &[1, 1, 2, 1], &[1.0, 1.0]),
            tensor_f32("v", &[1, 1, 2, 1], &values),
            tensor_f32("m", &[2, 2], &mask),
        ];
        let x: (&[f32], &[i64]) = (&[1.0, 1.0], &[1, 1, 2, 1]);
        answers("Attention", 24, x, &more, &["k", "v", "m"], attributes).unwrap()
    };
    let hidden = f32::NEG_INFINITY;
    assert_eq!(attend([hidden, hidden, 0.0, 0.0], [1.0, 3.0], &[]), [0.0, 2.0]);
    assert_eq!(attend([hidden, hidden, 0.0, 0.0], [f32::NAN, 3.0], &[])[0], 0.0);
    // The causal rule hides the key of the first query that the mask leaves.
    let causal = [int_attribute("is_causal", 1)];
    assert_eq!(attend([hidden, 0.0, 0.0, hidden], [1.0, 3.0], &causal), [0.0, 1.0]);
}

/// The specification is unclear on these, and implementations disagree.
#[test]
fn attention_that_implementations_compute_differently_is_refused() {
    let more = || {
        vec![
            tensor_f32("k", &[1, 1, 3, 1], &[1.0; 3]),
            tensor_f32("v", &[1, 1, 3, 1], &[1.0; 3]),
            tensor_f32("m", &[1, 1], &[0.0]),
        ]
    };
    let x: (&[f32], &[i64]) = (&[1.0], &[1, 1, 1, 1]);
    // A mask of one column could apply to all keys or to the first one.
    let err = answers("Attention", 24, x, &more(), &["k", "v", "m"], &[]).unwrap_err();
    assert_eq!(err.exit_code(), 4, "{err}");
    assert!(answers("Attention", 23, x, &more(), &["k", "v"], &[]).is_ok());
    let err = answers("Attention", 23, x, &more(), &["k", "v"], &[float_attribute("scale", 0.0)]);
    assert_eq!(err.unwrap_err().exit_code(), 4);
}

/// The default axis is the last but one, whatever the rank.
#[test]
fn dft_uses_the_last_axis_but_one_by_default() {
    let x: (&[f32], &[i64]) = (&[1.0, 2.0, 3.0, 4.0], &[1, 2, 2, 1]);
    let found = answers("DFT", 20, x, &[], &[], &[]).unwrap();
    assert_eq!(found, [3.0, 0.0, -1.0, 0.0, 7.0, 0.0, -1.0, 0.0]);
    // A length cuts the signal, or fills it up with zeros.
    let x: (&[f32], &[i64]) = (&[1.0, 2.0, 3.0, 4.0], &[1, 4, 1]);
    let length = |length: i64| [tensor_i64("n", &[], &[length])];
    assert_eq!(answers("DFT", 17, x, &length(1), &["n"], &[]).unwrap(), [1.0, 0.0]);
    let found = answers("DFT", 17, x, &length(5), &["n"], &[]).unwrap();
    assert!((found[0] - 10.0).abs() < 1e-6 && found.len() == 10, "{found:?}");
}

/// Before operator set 7 operands are only broadcast with the attribute `broadcast`.
#[test]
fn arithmetic_before_opset_7_broadcasts_only_with_its_attribute() {
    let x: (&[f32], &[i64]) = (&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    let second = [tensor_f32("b", &[2], &[10.0, 20.0])];
    assert!(answers("Add", 6, x, &second, &["b"], &[]).is_err());
    assert!(answers("Add", 7, x, &second, &["b"], &[]).is_ok());
    let said = |axis: i64| [int_attribute("broadcast", 1), int_attribute("axis", axis)];
    let add = |axis: i64| answers("Add", 6, x, &second, &["b"], &said(axis));
    assert_eq!(add(0).unwrap(), [11.0, 12.0, 23.0, 24.0]);
    assert_eq!(add(1).unwrap(), [11.0, 22.0, 13.0, 24.0]);
    assert!(add(2).is_err());
    // Slopes belong to channels up to version 6, and to the last dimension since then.
    let slopes = [tensor_f32("b", &[2], &[0.5, 0.25])];
    let x: (&[f32], &[i64]) = (&[-4.0; 4], &[1, 2, 2]);
    let prelu = |opset: i64| answers("PRelu", opset, x, &slopes, &["b"], &[]).unwrap();
    assert_eq!(prelu(6), [-2.0, -2.0, -1.0, -1.0]);
    assert_eq!(prelu(7), [-2.0, -1.0, -2.0, -1.0]);
}

/// Indices out of range give off values; negative ones count from the end since operator set 11.
#[test]
fn one_hot_of_an_index_out_of_range_is_off() {
    let x: (&[f32], &[i64]) = (&[-1.0, 1.9, 3.0], &[3]);
    let more = [tensor_i64("d", &[], &[2]), tensor_f32("v", &[2], &[0.0, 1.0])];
    let found = |opset: i64| answers("OneHot", opset, x, &more, &["d", "v"], &[]).unwrap();
    assert_eq!(found(11), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(found(9), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
}

/// The mode `wrap` repeats the tensor as often as needed.
#[test]
fn pad_wraps_as_often_as_needed() {
    let x: (&[f32], &[i64]) = (&[1.0, 2.0], &[2]);
    let pads = [tensor_i64("p", &[2], &[3, 2])];
    let wrap = [string_attribute("mode", "wrap")];
    let found = answers("Pad", 19, x, &pads, &["p"], &wrap).unwrap();
    assert_eq!(found, [2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    assert!(answers("Pad", 18, x, &pads, &["p"], &wrap).is_err());
    let said = [ints_attribute("pads", &[1, 1]), string_attribute("mode", "reflect")];
    assert_eq!(answers("Pad", 6, x, &[], &[], &said).unwrap(), [2.0, 1.0, 2.0, 1.0]);
    let said = [ints_attribute("pads", &[2, 0]), string_attribute("mode", "reflect")];
    assert!(answers("Pad", 6, x, &[], &[], &said).is_err());
}

/// Two FlexAttention nodes over two keys, the second of which reads the result of the first.
fn flex(attributes: &[Message], heads: i64, imports: &str) -> Result<Vec<f32>, belljar::Error> {
    // The type of an intermediate value must be given.
    let attributes = [attributes, &[int_attribute("softmax_precision", 1)]].concat();
    let flex = |inputs: &[&str], output: &str| {
        node("FlexAttention", inputs, &[output], &attributes).bytes(7, "ai.onnx.preview")
    };
    let graph = Graph {
        nodes: vec![flex(&["x", "k", "v"], "once"), flex(&["once", "k", "v"], "y")],
        initializers: vec![
            tensor_f32("k", &[1, heads, 2, 1], &vec![0.0; 2 * heads as usize]),
            tensor_f32("v", &[1, heads, 2, 1], &[1.0, 3.0].repeat(heads as usize)),
            tensor_f32("around", &[2], &[0.0, -1000.0]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 2, 1, 1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let import = Message::new().bytes(1, imports).int(2, 1);
    let mut bytes = crate::structure::with_opset(&graph, 26);
    bytes.extend(Message::new().message(8, import).finish());
    let x = Tensor::new(vec![1.0f32; 2], &[1, 2, 1, 1]).unwrap();
    crate::run(&bytes, &[("x", x)]).map(|outputs| outputs[0].1.as_slice::<f32>().unwrap().to_vec())
}

/// A graph of one node that changes scores or weights.
fn changing(name: &str, op: &str, by: &str) -> Message {
    let body = Graph {
        nodes: vec![node(op, &["in", by], &["out"], &[])],
        initializers: vec![tensor_f32("two", &[1], &[2.0])],
        inputs: vec![value_of_any_shape("in", FLOAT)],
        outputs: vec![value_of_any_shape("out", FLOAT)],
    };
    graph_attribute(name, body.message())
}

#[test]
fn flex_attention_is_lowered_or_refused() {
    let preview = "ai.onnx.preview";
    assert_eq!(flex(&[], 2, preview).unwrap(), [2.0, 2.0]);
    assert_eq!(flex(&[], 1, preview).unwrap(), [2.0, 2.0]);
    let (hidden, twice) =
        (changing("score_mod", "Add", "around"), changing("prob_mod", "Mul", "two"));
    assert_eq!(flex(std::slice::from_ref(&hidden), 2, preview).unwrap(), [1.0, 1.0]);
    assert_eq!(flex(&[hidden, twice.clone()], 1, preview).unwrap(), [2.0, 2.0]);
    let refused = |attributes: &[Message], heads: i64, imports: &str| {
        let err = flex(attributes, heads, imports).unwrap_err();
        assert_eq!(err.exit_code(), 4, "{err}");
        assert!(!err.to_string().contains("panicked"), "{err}");
    };
    refused(&[], 3, preview);
    refused(&[], 2, "ai.onnx.other");
    refused(&[float_attribute("scale", -1.0)], 2, preview);
    refused(&[int_attribute("softmax_precision", 7)], 2, preview);
    refused(&[int_attribute("is_causal", 1)], 2, preview);
    refused(&[twice.clone(), twice], 2, preview);
    refused(&[changing("score_mod", "Add", "nowhere")], 2, preview);
    refused(&[changing("score_mod", "Frobnicate", "two")], 2, preview);
    refused(&[string_attribute("score_mod", "Add")], 2, preview);
}
