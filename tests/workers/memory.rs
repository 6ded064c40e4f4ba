//! How much memory preparing a model takes.

use belljar::{Isolation, Policy, Tensor};

use crate::support;
use crate::support::onnx::{
    Dim, FLOAT, Graph, Message, UINT8, int_attribute, ints_attribute, node, tensor, tensor_f32,
    value, value_of_any_shape,
};

/// Weights with numbers that follow from their name and place.
fn weights(name: &str, dims: &[i64]) -> Message {
    let count = dims.iter().product::<i64>() as u32;
    let seed = name.bytes().fold(0u32, |seed, byte| seed.wrapping_mul(31) + u32::from(byte));
    let number = |at: u32| {
        let mixed = (at ^ seed).wrapping_mul(0x9e37_79b9);
        ((mixed >> 16) as f32 / 65_536.0 - 0.5) / 16.0
    };
    tensor_f32(name, dims, &(0..count).map(number).collect::<Vec<_>>())
}

/// A network like VGG11, in which one weight is most of the model: 62 MiB, of which 40 are the
/// first of three products.
fn like_vgg(batch: Dim<'_>) -> Vec<u8> {
    let conv = [ints_attribute("kernel_shape", &[3, 3]), ints_attribute("pads", &[1, 1, 1, 1])];
    let pool = [ints_attribute("kernel_shape", &[2, 2]), ints_attribute("strides", &[2, 2])];
    let transposed = [int_attribute("transB", 1)];
    let graph = Graph {
        nodes: vec![
            node("Conv", &["x", "w0", "b0"], &["c0"], &conv),
            node("Relu", &["c0"], &["r0"], &[]),
            node("Conv", &["r0", "w1", "b1"], &["c1"], &conv),
            node("Relu", &["c1"], &["r1"], &[]),
            node("MaxPool", &["r1"], &["p"], &pool),
            node("Flatten", &["p"], &["f"], &[]),
            node("Gemm", &["f", "w2", "b2"], &["c2"], &transposed),
            node("Relu", &["c2"], &["r2"], &[]),
            node("Gemm", &["r2", "w3", "b3"], &["c3"], &transposed),
            node("Relu", &["c3"], &["r3"], &[]),
            node("Gemm", &["r3", "w4", "b4"], &["y"], &transposed),
        ],
        initializers: vec![
            weights("w0", &[64, 3, 3, 3]),
            weights("b0", &[64]),
            weights("w1", &[128, 64, 3, 3]),
            weights("b1", &[128]),
            weights("w2", &[1280, 8192]),
            weights("b2", &[1280]),
            weights("w3", &[3072, 1280]),
            weights("b3", &[3072]),
            weights("w4", &[520, 3072]),
            weights("b4", &[520]),
        ],
        inputs: vec![value("x", FLOAT, &[batch, Dim::Fixed(3), Dim::Fixed(16), Dim::Fixed(16)])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    graph.bytes()
}

/// Six products with weights of a byte for each element, 12 MiB each.
fn products_of_bytes() -> Vec<u8> {
    let dims = [3072, 4096];
    let byte = |seed: u32, at: u32| ((at ^ seed).wrapping_mul(0x9e37_79b9) >> 24) as u8;
    let mut nodes = vec![node("DynamicQuantizeLinear", &["x"], &["q", "scale", "zero"], &[])];
    let mut initializers = vec![];
    for at in 0..6u32 {
        let (weights, sums) = (format!("w{at}"), format!("s{at}"));
        let bytes: Vec<u8> = (0..3072 * 4096).map(|place| byte(at, place)).collect();
        initializers.push(tensor(&weights, UINT8, &dims, &bytes));
        nodes.push(node("MatMulInteger", &["q", &weights, "zero"], &[&sums], &[]));
    }
    let all = ["s0", "s1", "s2", "s3", "s4", "s5"];
    nodes.push(node("Concat", &all, &["all"], &[int_attribute("axis", 1)]));
    nodes.push(node("Cast", &["all"], &["y"], &[int_attribute("to", FLOAT)]));
    let graph = Graph {
        nodes,
        initializers,
        inputs: vec![value("x", FLOAT, &[Dim::Fixed(1), Dim::Fixed(3072)])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    graph.bytes()
}

/// The packed weights replace those of the model one after the other.
#[test]
fn integer_weights_are_packed_in_the_memory_of_the_model_and_one_of_them() {
    let host = support::builder(Isolation::Process).snapshot_store(false).build().unwrap();
    let bytes = products_of_bytes();
    assert!(bytes.len() > 71 << 20);
    let answer = |limit: u64| {
        let model = support::load_under(&host, &bytes, &with_memory(limit)).unwrap();
        let x: Vec<f32> = (0..3072).map(|at| (at % 23) as f32 / 8.0 - 1.0).collect();
        let x = Tensor::new(x, &[1, 3072]).unwrap();
        let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
        outputs.tensors()[0].1.as_slice::<f32>().unwrap().to_vec()
    };
    let expected = answer(1 << 30);
    assert!(expected.iter().any(|number| *number != 0.0));
    assert!(answer(128 << 20) == expected, "the answers have the same bits");
}

fn with_memory(bytes: u64) -> Policy {
    let mut policy = Policy::default();
    policy.limits.memory = bytes;
    policy
}

/// Preparing holds the weights once, and the largest of them twice.
#[test]
fn a_model_is_prepared_in_the_memory_of_its_weights_and_the_largest_of_them() {
    let host = support::builder(Isolation::Process).snapshot_store(false).build().unwrap();
    for batch in [Dim::Fixed(1), Dim::Symbol("n")] {
        let bytes = like_vgg(batch);
        assert!(bytes.len() > 61 << 20);
        let count = 3 * 16 * 16;
        let x: Vec<f32> = (0..count).map(|at| (at % 23) as f32 / 8.0 - 1.0).collect();
        let answer = |limit: u64| {
            let model = support::load_under(&host, &bytes, &with_memory(limit)).unwrap();
            let x = Tensor::new(x.clone(), &[1, 3, 16, 16]).unwrap();
            let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
            outputs.tensors()[0].1.as_slice::<f32>().unwrap().to_vec()
        };
        let expected = answer(1 << 30);
        assert!(expected.iter().any(|number| *number != 0.0));
        assert!(answer(128 << 20) == expected, "the answers have the same bits");
    }
}
