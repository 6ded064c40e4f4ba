//! Operators on quantized tensors: their integer arithmetic is exact, so native kernels and the
//! sandbox give the same bits.

use crate::compare::Net;
use crate::support::onnx::{UINT8, int_attribute, ints_attribute, string_attribute};

const INT8: i64 = 3;
const INT32: i64 = 6;

/// A number of float32.
fn number(net: &mut Net, value: f32) -> String {
    net.constant_of(&[], &[value])
}

/// A zero point of a type of bytes.
fn zero(net: &mut Net, value: f32, to: i64) -> String {
    let value = net.constant_of(&[], &[value]);
    net.op("Cast", &[&value], &[int_attribute("to", to)])
}

/// Random numbers that the model quantizes to bytes of a type.
fn quantized(net: &mut Net, dims: &[i64], to: i64) -> String {
    let input = net.input(dims);
    let (scale, zero) = (number(net, 0.009), zero(net, 3.0, to));
    net.op("QuantizeLinear", &[&input, &scale, &zero], &[])
}

/// An output of integers, as floats.
fn output(net: &mut Net, value: &str) {
    let floats = net.op("Cast", &[value], &[int_attribute("to", 1)]);
    net.output(&floats);
}

#[test]
fn products_of_bytes_are_those_of_the_sandbox() {
    for (a_type, b_type) in [(UINT8, INT8), (UINT8, UINT8), (INT8, INT8), (INT8, UINT8)] {
        for (rows, depth, columns) in [(1, 5, 3), (2, 37, 70), (9, 64, 48), (50, 130, 97)] {
            let mut net = Net::new();
            let a = quantized(&mut net, &[2, rows, depth], a_type);
            let b = net.bytes_of(&[depth, columns], b_type);
            let a_zero = zero(&mut net, 3.0, a_type);
            let sums = net.op("MatMulInteger", &[&a, &b, &a_zero], &[]);
            output(&mut net, &sums);
            // A right operand that is not constant, with a zero point for each column.
            let b = quantized(&mut net, &[2, depth, columns], b_type);
            let zeros = net.bytes_of(&[columns], b_type);
            let sums = net.op("MatMulInteger", &[&a, &b, &a_zero, &zeros], &[]);
            output(&mut net, &sums);
            net.agrees_exactly(&[]);
        }
    }
}

#[test]
fn products_of_bytes_are_rounded_and_scaled_as_in_the_sandbox() {
    for (to, rows) in [(UINT8, 1), (INT8, 7), (UINT8, 33)] {
        let mut net = Net::new();
        let a = quantized(&mut net, &[rows, 61], to);
        let b = net.bytes_of(&[61, 77], INT8);
        let (scale, a_zero, b_zero) =
            (number(&mut net, 0.03), zero(&mut net, 3.0, to), zero(&mut net, -2.0, INT8));
        let (y_scale, y_zero) = (number(&mut net, 1.9), zero(&mut net, 100.0, to));
        let inputs = [&*a, &scale, &a_zero, &b, &scale, &b_zero, &y_scale, &y_zero];
        let product = net.op("QLinearMatMul", &inputs, &[]);
        output(&mut net, &product);
        let sum = [&*product, &scale, &y_zero, &product, &y_scale, &a_zero, &scale, &a_zero];
        for name in ["QLinearAdd", "QLinearMul"] {
            let sum = net.op_of_microsoft(name, &sum, &[]);
            output(&mut net, &sum);
        }
        let x = net.input(&[3, rows, 61]);
        let (scales, bias) = (net.constant(&[77]), net.constant(&[77]));
        for bias in [None, Some(&bias)] {
            let mut inputs = vec![&*x, &b, &scales, &b_zero];
            inputs.extend(bias.map(String::as_str));
            let floats = net.op_of_microsoft("DynamicQuantizeMatMul", &inputs, &[]);
            net.output(&floats);
        }
        net.agrees_exactly(&[]);
    }
}

/// The shapes of an image and of weights, groups, strides and dilations.
type Windows = (&'static [i64], &'static [i64], i64, [i64; 2], [i64; 2]);

#[test]
fn convolutions_of_bytes_are_those_of_the_sandbox() {
    let windows: [Windows; 7] = [
        (&[2, 5, 9, 13], &[7, 5, 3, 3], 1, [1, 1], [1, 1]),
        (&[1, 6, 14, 11], &[8, 3, 3, 2], 2, [2, 2], [1, 1]),
        (&[1, 8, 12, 12], &[8, 1, 3, 3], 8, [1, 1], [1, 1]),
        (&[1, 8, 12, 12], &[8, 1, 5, 5], 8, [2, 1], [1, 2]),
        (&[2, 16, 7, 7], &[20, 16, 1, 1], 1, [1, 1], [1, 1]),
        (&[1, 3, 31, 30], &[9, 3, 7, 7], 1, [3, 2], [1, 1]),
        (&[2, 4, 40], &[6, 2, 5], 2, [2, 1], [3, 1]),
    ];
    for (image, weights, groups, strides, dilations) in windows {
        for (x_type, w_type) in [(UINT8, INT8), (INT8, UINT8), (UINT8, UINT8), (INT8, INT8)] {
            let mut net = Net::new();
            let x = quantized(&mut net, image, x_type);
            let w = net.bytes_of(weights, w_type);
            let rank = image.len() - 2;
            let attributes = [
                int_attribute("group", groups),
                ints_attribute("strides", &strides[..rank]),
                ints_attribute("dilations", &dilations[..rank]),
                string_attribute("auto_pad", "NOTSET"),
                ints_attribute("pads", &vec![1; 2 * rank]),
            ];
            let x_zero = zero(&mut net, 3.0, x_type);
            let sums = net.op("ConvInteger", &[&x, &w, &x_zero], &attributes);
            output(&mut net, &sums);
            let outputs = weights[0];
            let scales: Vec<f32> = net.numbers(outputs as usize);
            let scales: Vec<f32> = scales.iter().map(|scale| 0.01 + scale.abs() * 0.1).collect();
            let w_scale = net.constant_of(&[outputs], &scales);
            let w_zero = net.bytes_of(&[outputs], w_type);
            let bias: Vec<i64> = (0..outputs).map(|at| at * 700 - 1500).collect();
            let bias = net.integers(&bias);
            let bias = net.op("Cast", &[&bias], &[int_attribute("to", INT32)]);
            let (x_scale, y_scale) = (number(&mut net, 0.02), number(&mut net, 0.7));
            let y_zero = zero(&mut net, 17.0, x_type);
            let inputs = [&*x, &x_scale, &x_zero, &w, &w_scale, &w_zero, &y_scale, &y_zero, &bias];
            let rounded = net.op("QLinearConv", &inputs, &attributes);
            output(&mut net, &rounded);
            net.agrees_exactly(&[]);
        }
    }
}

#[test]
fn bytes_are_dequantized_as_in_the_sandbox() {
    for to in [UINT8, INT8] {
        let mut net = Net::new();
        let x = quantized(&mut net, &[3, 5, 77], to);
        let (scale, zero) = (number(&mut net, 0.37), zero(&mut net, -0.0, to));
        let numbers = net.op("DequantizeLinear", &[&x, &scale, &zero], &[]);
        let turned = net.op("Neg", &[&numbers], &[]);
        net.output(&turned);
        net.agrees_exactly(&["NativeDequantize"]);
    }
}
