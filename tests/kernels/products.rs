//! Matrix products.

use proptest::prelude::*;

use crate::compare::{Net, cases};
use crate::support::onnx::{float_attribute, int_attribute, ints_attribute};

/// The origin of an operand.
#[derive(Clone, Copy, Debug)]
enum From {
    Input,
    Constant,
    /// An input whose last two dimensions are transposed.
    Transposed,
}

fn operand(net: &mut Net, dims: &[i64], from: From) -> String {
    match from {
        From::Constant => net.constant(dims),
        From::Transposed if dims.len() >= 2 => {
            let mut order: Vec<i64> = (0..dims.len() as i64).collect();
            let mut before = dims.to_vec();
            let last = dims.len() - 1;
            order.swap(last, last - 1);
            before.swap(last, last - 1);
            let input = net.input(&before);
            net.op("Transpose", &[&input], &[ints_attribute("perm", &order)])
        }
        _ => net.input(dims),
    }
}

fn from() -> impl Strategy<Value = From> {
    prop::sample::select(vec![From::Input, From::Constant, From::Transposed])
}

fn product(left: &[i64], right: &[i64], from: [From; 2], bias: Option<&[i64]>, relu: bool) -> Net {
    let mut net = Net::new();
    let a = operand(&mut net, left, from[0]);
    let b = operand(&mut net, right, from[1]);
    let mut result = net.op("MatMul", &[&a, &b], &[]);
    if let Some(dims) = bias {
        let bias = net.constant(dims);
        result = net.op("Add", &[&result, &bias], &[]);
    }
    if relu {
        result = net.op("Relu", &[&result], &[]);
    }
    // A product of constants would be evaluated while preparing.
    let one = net.input(&[1]);
    result = net.op("Mul", &[&result, &one], &[]);
    net.output(&result);
    net
}

#[test]
fn products_of_all_ranks() {
    // tract does not support the product of two vectors.
    let shapes: &[(&[i64], &[i64])] = &[
        (&[7], &[7, 3]),
        (&[5, 7], &[7]),
        (&[5, 7], &[7, 50]),
        (&[1, 7], &[7, 1]),
        (&[9, 1], &[1, 9]),
        (&[2, 5, 7], &[7, 3]),
        (&[2, 5, 7], &[2, 7, 3]),
        (&[2, 5, 7], &[1, 7, 3]),
        (&[5, 7], &[2, 7, 3]),
        (&[7], &[2, 7, 3]),
        (&[2, 5, 7], &[7]),
        (&[2, 3, 5, 7], &[2, 3, 7, 4]),
        (&[2, 3, 5, 7], &[3, 7, 4]),
        (&[2, 1, 5, 7], &[1, 3, 7, 4]),
        (&[2, 3, 5, 7], &[2, 1, 7, 4]),
        (&[3, 5, 7], &[2, 3, 7, 4]),
    ];
    for (left, right) in shapes {
        for a in [From::Input, From::Constant, From::Transposed] {
            for b in [From::Input, From::Constant, From::Transposed] {
                product(left, right, [a, b], None, false).agrees(&[]);
            }
        }
    }
    for from in [From::Input, From::Constant, From::Transposed] {
        product(&[5, 7], &[7, 50], [From::Input, from], None, false).agrees(&["NativeGemm"]);
        product(&[2, 5, 7], &[2, 7, 6], [from, From::Input], None, true).agrees(&["NativeGemm"]);
    }
}

/// All orders of the numbers below `count`.
fn orders(count: i64) -> Vec<Vec<i64>> {
    let mut orders = vec![vec![]];
    for next in 0..count {
        orders = orders
            .iter()
            .flat_map(|order| {
                (0..=order.len()).map(|at| {
                    let mut longer = order.clone();
                    longer.insert(at, next);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// The kernel writes rows and columns last. A product whose output is transposed, as that of every
/// attention is, takes a permutation in addition.
#[test]
fn products_whose_output_is_transposed() {
    for order in orders(4) {
        for (left, right) in [(&[2, 3, 5, 7], &[2, 3, 7, 4]), (&[1, 3, 5, 7], &[1, 3, 7, 1])] {
            for [a, b] in [[From::Input, From::Input], [From::Transposed, From::Constant]] {
                let mut net = Net::new();
                let a = operand(&mut net, left, a);
                let b = operand(&mut net, right, b);
                let product = net.op("MatMul", &[&a, &b], &[]);
                let perm = ints_attribute("perm", &order);
                let result = net.op("Transpose", &[&product], &[perm]);
                let result = net.op("Relu", &[&result], &[]);
                net.output(&result);
                net.agrees(&[]);
            }
        }
    }
    let mut net = Net::new();
    let a = net.input(&[1, 3, 5, 5]);
    let heads = net.input(&[1, 5, 3, 8]);
    let b = net.op("Transpose", &[&heads], &[ints_attribute("perm", &[0, 2, 1, 3])]);
    let product = net.op("MatMul", &[&a, &b], &[]);
    let result = net.op("Transpose", &[&product], &[ints_attribute("perm", &[0, 2, 1, 3])]);
    net.output(&result);
    net.agrees(&["NativeGemm", "NativePermute"]);
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn any_product(
        (m, k, n) in (1..40i64, 1..70i64, 1..130i64),
        batch in prop::collection::vec((1..4i64, 0..3u8), 0..3),
        missing in 0..3usize,
        from in [from(), from()],
        bias in prop::option::of(0..5u8),
        relu in any::<bool>(),
    ) {
        // Dimensions of both operands, or broadcast for the left or the right one.
        let along = |one| batch.iter().map(move |(dim, side)| if *side == one { 1 } else { *dim });
        let left: Vec<i64> = along(1).chain([m, k]).collect();
        let right: Vec<i64> = along(2).chain([k, n]).collect();
        let right = &right[missing.min(batch.len())..];
        let bias = bias.map(|bias| match bias {
            0 => vec![],
            1 => vec![n],
            2 => vec![1, n],
            3 => vec![m, 1],
            _ => vec![m, n],
        });
        product(&left, right, from, bias.as_deref(), relu).agrees(&[]);
    }
}

#[test]
fn gemm() {
    let (m, k, n) = (6, 5, 20);
    let summands: &[Option<&[i64]>] = &[
        None,
        Some(&[]),
        Some(&[1]),
        Some(&[n]),
        Some(&[1, n]),
        Some(&[m, 1]),
        Some(&[m, n]),
        Some(&[1, 1]),
    ];
    for (transpose_a, transpose_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (alpha, beta) in [(1.0, 1.0), (0.5, -2.0), (1.0, 0.0)] {
            for summand in summands {
                for constant in [true, false] {
                    let mut net = Net::new();
                    let dims = if transpose_a == 1 { [k, m] } else { [m, k] };
                    let a = net.input(&dims);
                    let dims = if transpose_b == 1 { [n, k] } else { [k, n] };
                    let b = if constant { net.constant(&dims) } else { net.input(&dims) };
                    let c = summand.map(|dims| match constant {
                        true => net.constant(dims),
                        false => net.input(dims),
                    });
                    let inputs: Vec<&str> = [&*a, &*b].into_iter().chain(c.as_deref()).collect();
                    let attributes = [
                        int_attribute("transA", transpose_a),
                        int_attribute("transB", transpose_b),
                        float_attribute("alpha", alpha),
                        float_attribute("beta", beta),
                    ];
                    let result = net.op("Gemm", &inputs, &attributes);
                    let result = net.op("Relu", &[&result], &[]);
                    net.output(&result);
                    net.agrees(&["NativeGemm"]);
                }
            }
        }
    }
}

/// A product with two readers, and one that is also an output.
#[test]
fn products_with_several_readers() {
    for answered in [true, false] {
        let mut net = Net::new();
        let (a, b, bias) = (net.input(&[4, 6]), net.constant(&[6, 10]), net.constant(&[10]));
        let product = net.op("MatMul", &[&a, &b], &[]);
        let sum = net.op("Add", &[&product, &bias], &[]);
        if answered {
            net.output(&product);
        } else {
            let other = net.op("Neg", &[&product], &[]);
            net.output(&other);
        }
        let bounded = net.op("Relu", &[&sum], &[]);
        net.output(&bounded);
        let twice = net.op("Mul", &[&sum, &bounded], &[]);
        net.output(&twice);
        net.agrees(&["NativeGemm"]);
    }
}
