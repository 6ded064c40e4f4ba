//! Products with weights that are quantized in blocks.

use crate::compare::Net;
use crate::support::onnx::int_attribute;

impl Net {
    /// A product with random weights of `bits` bits in blocks.
    fn matmul_n_bits(
        &mut self,
        a: &str,
        [depth, columns]: [i64; 2],
        [bits, block]: [i64; 2],
        zeros: bool,
        bias: bool,
    ) -> String {
        let blocks = (depth + block - 1) / block;
        let b = self.bytes(&[columns, blocks, block * bits / 8]);
        let scales = self.constant(&[columns * blocks]);
        let zeros = match zeros {
            true => self.bytes(&[columns * ((blocks * bits + 7) / 8)]),
            false => String::new(),
        };
        let mut inputs = vec![a.to_owned(), b, scales, zeros];
        if bias {
            inputs.extend([String::new(), self.constant(&[columns])]);
        }
        let attributes = [
            int_attribute("K", depth),
            int_attribute("N", columns),
            int_attribute("bits", bits),
            int_attribute("block_size", block),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.op_of_microsoft("MatMulNBits", &inputs, &attributes)
    }
}

#[test]
fn products_with_blocks_of_2_4_and_8_bits() {
    for bits in [2, 4, 8] {
        for (rows, sizes, block) in
            [(1, [64, 40], 16), (3, [200, 100], 32), (9, [130, 50], 128), (5, [900, 60], 32)]
        {
            for (zeros, bias) in [(false, false), (true, false), (true, true)] {
                let mut net = Net::new();
                let a = net.input(&[2, rows, sizes[0]]);
                let result = net.matmul_n_bits(&a, sizes, [bits, block], zeros, bias);
                let small = net.constant_of(&[], &[1.0 / 1024.0]);
                let result = net.op("Mul", &[&result, &small], &[]);
                net.output(&result);
                net.agrees(&["NativeGemm"]);
                assert!(!net.plan().contains("MatMulNBits"), "{}", net.plan());
            }
        }
    }
}

#[test]
fn a_bias_and_relu_after_a_product_with_blocks_are_part_of_it() {
    let mut net = Net::new();
    let a = net.input(&[7, 64]);
    let result = net.matmul_n_bits(&a, [64, 50], [4, 32], true, false);
    let bias = net.constant(&[50]);
    let result = net.op("Add", &[&result, &bias], &[]);
    let result = net.op("Relu", &[&result], &[]);
    net.output(&result);
    net.agrees(&["NativeGemm"]);
    assert!(!net.plan().contains("NativePointwise"), "{}", net.plan());
}

/// The blocks of DequantizeLinear are along the dimension that the product sums.
#[test]
fn large_weights_dequantized_in_blocks_stay_quantized() {
    let (depth, columns, block) = (1200, 1000, 48);
    for (elem_type, zeros, transposed) in [
        (22, false, false),
        (21, true, false),
        (21, false, true),
        (22, true, true),
        (3, true, false),
    ] {
        let mut net = Net::of_version(21);
        let a = net.input(&[2, 3, depth]);
        let turned = |[steps, columns]: [i64; 2]| match transposed {
            true => ([columns, steps], 1),
            false => ([steps, columns], 0),
        };
        let (dims, axis) = turned([depth, columns]);
        let (of_blocks, _) = turned([depth / block, columns]);
        let weights = net.bytes_of(&dims, elem_type);
        let scales = net.constant(&of_blocks);
        let zeros = if zeros { net.bytes_of(&of_blocks, elem_type) } else { String::new() };
        let attributes = [int_attribute("axis", axis), int_attribute("block_size", block)];
        let wide = net.op("DequantizeLinear", &[&weights, &scales, &zeros], &attributes);
        let result = if transposed {
            let turned = net.op("Transpose", &[&wide], &[]);
            net.op("MatMul", &[&a, &turned], &[])
        } else {
            net.op("MatMul", &[&a, &wide], &[])
        };
        let small = net.constant_of(&[], &[1.0 / 4096.0]);
        let result = net.op("Mul", &[&result, &small], &[]);
        net.output(&result);
        net.agrees(&["NativeGemm"]);
        assert!(!net.plan().contains("Dequantize"), "{}", net.plan());
    }
}

/// Weights of more than a million elements are not folded.
#[test]
fn large_dequantized_weights_stay_quantized() {
    let (depth, columns) = (1200, 1000);
    for (signed, zeros, transposed) in
        [(true, false, false), (false, true, false), (false, false, true), (true, true, true)]
    {
        let mut net = Net::new();
        let a = net.input(&[2, 3, depth]);
        let (dims, axis) = if transposed { ([columns, depth], 0) } else { ([depth, columns], 1) };
        let dtype = if signed { 3 } else { 2 };
        let weights = net.bytes_of(&dims, dtype);
        let scales = net.constant(&[columns]);
        let zeros = if zeros { net.bytes_of(&[columns], dtype) } else { String::new() };
        let wide = net.op(
            "DequantizeLinear",
            &[&weights, &scales, &zeros],
            &[int_attribute("axis", axis)],
        );
        let result = if transposed {
            let turned = net.op("Transpose", &[&wide], &[]);
            net.op("MatMul", &[&a, &turned], &[])
        } else {
            net.op("MatMul", &[&a, &wide], &[])
        };
        let small = net.constant_of(&[], &[1.0 / 4096.0]);
        let result = net.op("Mul", &[&result, &small], &[]);
        net.output(&result);
        net.agrees(&["NativeGemm"]);
        assert!(!net.plan().contains("Dequantize"), "{}", net.plan());
    }
}
