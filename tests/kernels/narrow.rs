//! Products and convolutions of narrow floats. All sums here are exact in float32, so the results
//! do not depend on the order of the terms, and each rounding must be where the sandbox rounds.

use crate::compare::Net;
use crate::support::onnx::{int_attribute, ints_attribute};

const FLOAT16: i64 = 10;
const BFLOAT16: i64 = 16;

/// Multiples of a sixteenth of an odd number, most of which bfloat16 and some of which float16
/// rounds when they are added up.
fn coarse(net: &mut Net, count: usize, unit: f32) -> Vec<f32> {
    net.numbers(count).into_iter().map(|number| (number * 16.0).round() * unit).collect()
}

fn cast(net: &mut Net, value: &str, to: i64) -> String {
    net.op("Cast", &[value], &[int_attribute("to", to)])
}

fn narrow_input(net: &mut Net, dims: &[i64], to: i64) -> String {
    let numbers = coarse(net, dims.iter().product::<i64>() as usize, 0.0625);
    let input = net.input_of(dims, numbers);
    cast(net, &input, to)
}

/// A constant of float32 that the model converts.
fn narrow_constant(net: &mut Net, dims: &[i64], to: i64) -> String {
    let numbers = coarse(net, dims.iter().product::<i64>() as usize, 0.4375);
    let constant = net.constant_of(dims, &numbers);
    cast(net, &constant, to)
}

/// A narrow output, widened.
fn output(net: &mut Net, value: &str) {
    let wide = cast(net, value, 1);
    net.output(&wide);
}

#[test]
fn products_round_narrow_results_as_the_sandbox_does() {
    for to in [FLOAT16, BFLOAT16] {
        for rows in [1, 3, 9, 50] {
            for (bias, relu) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut net = Net::new();
                let a = narrow_input(&mut net, &[2, rows, 37], to);
                let b = narrow_constant(&mut net, &[37, 70], to);
                let mut result = net.op("MatMul", &[&a, &b], &[]);
                if bias {
                    let bias = narrow_constant(&mut net, &[70], to);
                    result = net.op("Add", &[&result, &bias], &[]);
                }
                if relu {
                    result = net.op("Relu", &[&result], &[]);
                }
                output(&mut net, &result);
                net.agrees_exactly(&["NativeGemm"]);
            }
        }
        let mut net = Net::new();
        let a = narrow_input(&mut net, &[5, 40], to);
        let (b, c) =
            (narrow_constant(&mut net, &[30, 40], to), narrow_constant(&mut net, &[30], to));
        let result = net.op("Gemm", &[&a, &b, &c], &[int_attribute("transB", 1)]);
        let result = net.op("Relu", &[&result], &[]);
        output(&mut net, &result);
        net.agrees_exactly(&["NativeGemm"]);
    }
}

/// Weights of more than a million elements are not folded: the plan converts them.
#[test]
fn large_narrow_weights_stay_as_they_are() {
    for to in [FLOAT16, BFLOAT16] {
        for dims in [vec![2, 1100], vec![1, 2, 1100]] {
            let mut net = Net::new();
            let a = narrow_input(&mut net, &dims, to);
            let numbers = coarse(&mut net, 1100 * 1000, 0.4375);
            let b = net.narrow_constant_of(&[1100, 1000], &numbers, to);
            let result = net.op("MatMul", &[&a, &b], &[]);
            output(&mut net, &result);
            net.agrees_exactly(&["NativeGemm"]);
            let plan = net.plan();
            assert!(!plan.contains("Widen") && !plan.contains("NativeConvert"), "{plan}");
        }
    }
}

#[test]
fn convolutions_round_narrow_results_as_the_sandbox_does() {
    for to in [FLOAT16, BFLOAT16] {
        for (groups, each) in [(1, 12), (2, 6), (12, 1)] {
            for (added, clip) in [(false, false), (true, false), (false, true), (true, true)] {
                let mut net = Net::new();
                let x = narrow_input(&mut net, &[2, 12, 9, 11], to);
                let w = narrow_constant(&mut net, &[12, each, 3, 3], to);
                let b = narrow_constant(&mut net, &[12], to);
                let pads = ints_attribute("pads", &[1, 1, 1, 1]);
                let attributes = [pads, int_attribute("group", groups)];
                let mut result = net.op("Conv", &[&x, &w, &b], &attributes);
                if added {
                    result = net.op("Add", &[&result, &x], &[]);
                }
                if clip {
                    let low = net.constant_of(&[], &[-3.0]);
                    let high = net.constant_of(&[], &[6.0]);
                    let (low, high) = (cast(&mut net, &low, to), cast(&mut net, &high, to));
                    result = net.op("Clip", &[&result, &low, &high], &[]);
                } else {
                    result = net.op("Relu", &[&result], &[]);
                }
                output(&mut net, &result);
                net.agrees_exactly(&["NativeConv"]);
                // The only other one rounds the input.
                assert!(net.plan().contains("NativePointwise 1,"), "{}", net.plan());
            }
        }
    }
}

#[test]
fn narrow_inputs_and_outputs_are_converted_by_the_host() {
    for to in [FLOAT16, BFLOAT16] {
        let mut net = Net::new();
        let numbers = coarse(&mut net, 3 * 5 * 7, 0.0625);
        let x = net.narrow_input_of(&[3, 5, 7], &numbers, to);
        // A gather moves the narrow elements themselves.
        let at = net.integers(&[2, 0]);
        let some = net.op("Gather", &[&x, &at], &[int_attribute("axis", 0)]);
        let result = net.op("Mul", &[&some, &some], &[]);
        output(&mut net, &result);
        net.agrees_exactly(&["NativeConvert", "NativePointwise"]);
    }
}
