//! Small element types within a model: packed tensors, and their operators. Conversions that ONNX
//! does not define are refused, and so are operators that would compute with codes as numbers.

use belljar::Tensor;
use belljar::tensor::{Data, bf16};

use crate::support::onnx::{
    FLOAT, Graph, Message, fixed, int_attribute, node, string_attribute, tensor_f32, tensor_i64,
    value, value_of_any_shape,
};
use crate::{ones, refused, run};

const BOOL: i64 = 9;
const BF16: i64 = 16;
const F8E4M3FN: i64 = 17;
const U4: i64 = 21;
const I4: i64 = 22;
const F4E2M1: i64 = 23;
const F8E8M0: i64 = 24;
const U2: i64 = 25;

/// A tensor `w` of this type and size, from raw bytes.
fn raw(elem_type: i64, size: i64, bytes: &[u8]) -> Message {
    Message::new().int(1, size).int(2, elem_type).bytes(8, "w").bytes(9, bytes)
}

/// The same from a list of numbers.
fn numbers(elem_type: i64, size: i64, numbers: &[i64]) -> Message {
    let tensor = Message::new().int(1, size).int(2, elem_type).bytes(8, "w");
    numbers.iter().fold(tensor, |tensor, number| tensor.int(5, *number))
}

/// A model in operator set 25 of these nodes on `x`.
fn model(nodes: Vec<Message>, initializers: Vec<Message>, output: i64) -> Vec<u8> {
    let graph = Graph {
        nodes,
        initializers,
        inputs: vec![value("x", FLOAT, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", output)],
    };
    crate::structure::with_opset(&graph, 25)
}

/// A model that converts `w` to `f32`.
fn read(w: Message) -> Vec<u8> {
    let cast = node("Cast", &["w"], &["y"], &[int_attribute("to", FLOAT)]);
    model(vec![cast], vec![w], FLOAT)
}

fn x() -> [(&'static str, Tensor); 1] {
    [("x", ones(&[2]))]
}

#[test]
fn packed_elements_are_read_from_the_lowest_bits() {
    for (w, expected) in [
        (raw(I4, 3, &[0xf1, 0x08]), &[1.0f32, -1.0, -8.0][..]),
        (raw(U4, 2, &[0xf1]), &[1.0, 15.0]),
        (raw(U2, 5, &[0b11_10_01_00, 0b01]), &[0.0, 1.0, 2.0, 3.0, 1.0]),
        (raw(F4E2M1, 3, &[0x72, 0x09]), &[1.0, 6.0, -0.5]),
        (raw(F8E4M3FN, 2, &[0x7e, 0xb8]), &[448.0, -1.0]),
        (raw(BF16, 1, &[0x80, 0xbf]), &[-1.0]),
        (numbers(I4, 3, &[0xf1, 8]), &[1.0, -1.0, -8.0]),
        (numbers(BF16, 1, &[0xbf80]), &[-1.0]),
        (numbers(F8E8M0, 2, &[127, 130]), &[1.0, 8.0]),
        (raw(I4, 0, &[]), &[]),
    ] {
        let outputs = run(&read(w), &x()).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
    }
}

#[test]
fn malformed_packed_tensors_are_refused() {
    for (w, why) in [
        (raw(I4, 3, &[0x21, 0x13]), "after its last element"),
        (raw(U2, 1, &[0b100]), "after its last element"),
        (raw(I4, 3, &[0x21]), "bytes of data"),
        (raw(I4, 3, &[0x21, 3, 0]), "bytes of data"),
        (raw(F8E4M3FN, 2, &[1]), "bytes of data"),
        (raw(BF16, 2, &[1, 2, 3]), "bytes of data"),
        (raw(I4, i64::MAX, &[1]), "dimensions"),
        (numbers(I4, 2, &[256]), "not valid codes"),
        (numbers(BF16, 1, &[70_000]), "not valid codes"),
        (numbers(I4, 4, &[1]), "bytes of data"),
        (raw(27, 1, &[1]), "float6e2m3"),
        (numbers(I4, 2, &[1]).bytes(9, [1]), "both raw data"),
        // Data in the field of another element type.
        (Message::new().int(1, 1).int(2, I4).bytes(8, "w").float(4, 1.0), "field"),
    ] {
        refused(&read(w), &x(), why);
    }
}

#[test]
fn operators_that_compute_refuse_small_types() {
    let w = || raw(F8E4M3FN, 2, &[0x38, 0x38]);
    for (nodes, why) in [
        (vec![node("Add", &["w", "w"], &["y"], &[])], "float8e4m3fn; implemented is"),
        (vec![node("MatMul", &["w", "w"], &["y"], &[])], "float8e4m3fn; implemented is"),
        (vec![node("Relu", &["w"], &["y"], &[])], "float8e4m3fn; implemented is"),
        (vec![node("Add", &["w", "x"], &["y"], &[])], "implemented is"),
        (vec![node("Concat", &["w", "x"], &["y"], &[int_attribute("axis", 0)])], "another input"),
        (vec![node("BelljarCast", &["w"], &["y"], &[])], "BelljarCast"),
    ] {
        refused(&model(nodes, vec![w()], F8E4M3FN), &x(), why);
    }
    // A conversion to strings is refused.
    let text = vec![node("Cast", &["w"], &["y"], &[int_attribute("to", 8)])];
    refused(&model(text, vec![w()], 8), &x(), "is not implemented");
    // A declaration of another type does not change the type.
    let identity = vec![node("Identity", &["w"], &["y"], &[])];
    refused(&model(identity, vec![w()], 2), &x(), "is declared as uint8");
}

#[test]
fn small_types_are_moved_and_returned() {
    let nodes = vec![
        node("Concat", &["w", "w"], &["c"], &[int_attribute("axis", 0)]),
        node("Identity", &["c"], &["y"], &[]),
    ];
    let outputs = run(&model(nodes, vec![raw(I4, 2, &[0x8f])], I4), &x()).unwrap();
    let Data::Coded(coded) = outputs[0].1.data() else { panic!("{outputs:?}") };
    assert_eq!(coded.values().collect::<Vec<f64>>(), [-1.0, -8.0, -1.0, -8.0]);
}

#[test]
fn bfloat16_is_rounded_once() {
    let to = |from: &str, to: &str| node("Cast", &[from], &[to], &[int_attribute("to", BF16)]);
    let nodes = vec![to("x", "a"), to("w", "b"), node("Add", &["a", "b"], &["y"], &[])];
    // 1 + 2^-8 is halfway between two neighbours, of which 1 is even; a little more is not halfway.
    for (w, expected) in [(2f32.powi(-8), 1.0), (2f32.powi(-8) * 1.01, 1.0078125), (3e38, 3e38)] {
        let bytes = model(nodes.clone(), vec![tensor_f32("w", &[2], &[w, w])], BF16);
        let outputs = run(&bytes, &x()).unwrap();
        let expected = [bf16::from_f32(expected); 2];
        assert_eq!(outputs[0].1.as_slice::<bf16>().unwrap(), expected, "{w}");
    }
}

#[test]
fn conversions_that_onnx_does_not_define_are_refused() {
    let cast = |to: i64, more: &[Message]| {
        let attributes: Vec<Message> =
            std::iter::once(int_attribute("to", to)).chain(more.iter().cloned()).collect();
        model(vec![node("Cast", &["x"], &["y"], &attributes)], vec![], to)
    };
    let negative = [("x", Tensor::new(vec![1.0f32, -1.0], &[2]).unwrap())];
    let err = run(&cast(F8E8M0, &[]), &negative).err().unwrap();
    assert!([4, 6].contains(&err.exit_code()) && err.to_string().contains("negative"), "{err}");
    assert!(run(&cast(F8E8M0, &[]), &x()).is_ok());
    refused(&cast(F8E8M0, &[string_attribute("round_mode", "even")]), &x(), "\"even\"");
    // A zero point of a float type.
    let quantize = node("QuantizeLinear", &["x", "s", "w"], &["y"], &[]);
    let scale = tensor_f32("s", &[], &[2.0]);
    let with = |zero: u8| {
        let zero = Message::new().int(2, F8E4M3FN).bytes(8, "w").bytes(9, [zero]);
        model(vec![quantize.clone()], vec![scale.clone(), zero], F8E4M3FN)
    };
    assert!(run(&with(0), &x()).is_ok());
    let err = run(&with(0x38), &x()).err().unwrap();
    assert!(err.to_string().contains("a zero point of floats"), "{err}");
    // Two contradicting types, and invalid blocks.
    let say = |attributes: &[Message]| {
        let zero = Message::new().int(2, U4).bytes(8, "w").bytes(9, [0]);
        let node = node("QuantizeLinear", &["x", "s", "w"], &["y"], attributes);
        model(vec![node], vec![scale.clone(), zero], U4)
    };
    refused(&say(&[int_attribute("output_dtype", I4)]), &x(), "\"output_dtype\" is int4");
    refused(&say(&[int_attribute("block_size", 2), int_attribute("axis", 0)]), &x(), "blocks");
    refused(&say(&[int_attribute("block_size", -1)]), &x(), "block_size");
}

#[test]
fn float8_is_tested_for_nan_and_passes_dropout() {
    let w = || raw(F8E4M3FN, 2, &[0x7f, 0x38]);
    let nan = vec![node("IsNaN", &["w"], &["y"], &[])];
    let outputs = run(&model(nan, vec![w()], BOOL), &x()).unwrap();
    assert_eq!(outputs[0].1.as_slice::<bool>().unwrap(), [true, false]);
    let dropout = vec![node("Dropout", &["w"], &["y"], &[])];
    let outputs = run(&model(dropout, vec![w()], F8E4M3FN), &x()).unwrap();
    let Data::Coded(coded) = outputs[0].1.data() else { panic!("{outputs:?}") };
    assert_eq!(coded.values().nth(1), Some(1.0));
}

#[test]
fn window_of_bfloat16_is_rounded_once() {
    let hann = node("HannWindow", &["w"], &["y"], &[int_attribute("output_datatype", BF16)]);
    let bytes = model(vec![hann], vec![tensor_i64("w", &[], &[5])], BF16);
    let outputs = run(&bytes, &x()).unwrap();
    let angle = |at: u8| std::f64::consts::TAU * f64::from(at) / 5.0;
    let exact = (0..5).map(|at| 0.5 - 0.5 * angle(at).cos());
    let expected: Vec<bf16> = exact.map(|value| bf16::from_f32(value as f32)).collect();
    assert_eq!(outputs[0].1.as_slice::<bf16>().unwrap(), expected);
}
