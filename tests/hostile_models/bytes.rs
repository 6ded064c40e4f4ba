//! Files that are not models, that are truncated, or whose data is in other files.

use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, node, relu, tensor_f32, value, value_of_any_shape,
};
use crate::{ends, host_still_answers, ones, run};

fn x() -> [(&'static str, belljar::Tensor); 1] {
    [("x", ones(&[2]))]
}

/// A model that adds an initializer to `x`.
fn sum_with(weights: Message) -> Message {
    Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![weights],
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    }
    .model()
}

#[test]
fn invalid_protobuf_is_refused() {
    for bytes in [
        &b""[..],
        b"\0",
        b"not a model\n",
        b"PK\x03\x04 or an archive",
        b"\x89HDF\r\n\x1a\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        // A graph of 2^63 bytes, and one that is shorter than its content.
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x3a\x01\x0a\x00",
        // A number of eleven bytes, and a field without a number.
        b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x02\x00",
        // Groups that are opened a few thousand times and never closed.
        &[0x3b; 5000],
    ] {
        ends(bytes, &x());
    }
    ends(&vec![0; 1 << 20], &x());
    ends(&b"\x3a\x02\x0a\x00".repeat(100_000), &x());
}

/// A truncated model is refused.
#[test]
fn truncated_models_are_refused() {
    let bytes = sum_with(tensor_f32("w", &[2], &[1.0, 2.0])).finish();
    for length in (0..bytes.len()).step_by(7) {
        let ended = run(&bytes[..length], &x());
        let err = ended.expect_err("a truncated model was answered");
        assert_eq!(err.exit_code(), 4, "{length}: {err}");
    }
    let outputs = run(&bytes, &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [2.0, 3.0]);
}

/// A model with one inverted byte may be valid or not.
#[test]
fn models_with_one_changed_byte_are_refused_or_answered() {
    let bytes = relu(&fixed(&[2])).bytes();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        if let Err(err) = run(&bytes, &x()) {
            assert!(err.exit_code() == 4 && !err.to_string().contains("panicked"), "{at}: {err}");
        }
    }
    host_still_answers();
}

#[test]
fn deeply_nested_graphs_end_in_an_error() {
    // Each attribute of a node holds a graph with one node.
    for depth in [20, 200, 20_000] {
        let mut graph = Message::new();
        for _ in 0..depth {
            let attribute = Message::new().bytes(1, "then_branch").message(6, graph).int(20, 5);
            graph = Message::new().message(1, node("If", &["c"], &["y"], &[attribute]));
        }
        let model = Message::new().int(1, 8).message(7, graph);
        ends(&model.message(8, Message::new().int(2, 17)).finish(), &x());
    }
}

#[test]
fn external_data_without_a_grant_is_refused() {
    let long = "w".repeat(1 << 16);
    for location in [
        "weights.bin",
        "../weights.bin",
        "/etc/passwd",
        "/proc/self/mem",
        "/dev/zero",
        "weights.bin/",
        "a/../../weights.bin",
        "",
        ".",
        "we\0ights",
        "\u{202e}nib.sthgiew",
        &long,
    ] {
        for (offset, length) in
            [("0", "8"), ("-1", "8"), ("18446744073709551615", "8"), ("0", "1e9"), ("", "")]
        {
            let entry = |key: &str, value: &str| Message::new().bytes(1, key).bytes(2, value);
            let weights = Message::new()
                .int(1, 2)
                .int(2, FLOAT)
                .bytes(8, "w")
                .message(13, entry("location", location))
                .message(13, entry("offset", offset))
                .message(13, entry("length", length))
                .int(14, 1);
            ends(&sum_with(weights).finish(), &x());
        }
    }
}
