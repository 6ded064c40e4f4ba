//! Reductions, softmax and permutations: every set of axes, and every order of dimensions.

use crate::compare::Net;
use crate::support::onnx::{int_attribute, ints_attribute};

const DIMS: [i64; 4] = [2, 5, 3, 19];

fn reduction(op: &str, dims: &[i64], axes: &[i64], keep: i64) -> Net {
    let mut net = Net::new();
    let input = net.input(dims);
    let keep = int_attribute("keepdims", keep);
    // Up to operator set 17, only ReduceSum has its axes as an input.
    let result = if op == "ReduceSum" {
        let axes = net.integers(axes);
        net.op(op, &[&input, &axes], &[keep])
    } else {
        net.op(op, &[&input], &[keep, ints_attribute("axes", axes)])
    };
    net.output(&result);
    net
}

fn subsets() -> impl Iterator<Item = Vec<i64>> {
    (1..16).map(|set: i64| (0..4).filter(|axis| set & (1 << axis) != 0).collect())
}

#[test]
fn sums_and_means() {
    for op in ["ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2"] {
        for (axes, keep) in subsets().zip([0, 1].into_iter().cycle()) {
            reduction(op, &DIMS, &axes, keep).agrees(&[]);
            reduction(op, &[2, 1, 3, 19], &axes, 1 - keep).agrees(&[]);
        }
    }
    for axes in [&[3][..], &[1, 2], &[0, 1, 2, 3]] {
        reduction("ReduceSum", &DIMS, axes, 0).agrees(&["NativeReduce"]);
        reduction("ReduceMean", &DIMS, axes, 1).agrees(&["NativeReduce"]);
    }
}

#[test]
fn maxima_and_minima() {
    for op in ["ReduceMax", "ReduceMin"] {
        for keep in [0, 1] {
            for axes in subsets() {
                reduction(op, &DIMS, &axes, keep).agrees_exactly(&[]);
            }
            reduction(op, &DIMS, &[2, 3], keep).agrees_exactly(&["NativeReduce"]);
        }
    }
}

#[test]
fn long_reductions() {
    for op in ["ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceMax"] {
        for axes in [&[0, 1][..], &[1], &[0]] {
            reduction(op, &[37, 1111], axes, 0).agrees(&[]);
        }
    }
}

#[test]
fn softmax() {
    for dims in [&DIMS[..], &[2, 5, 1, 1], &[3, 100], &[1]] {
        for axis in 0..dims.len() as i64 {
            for axis in [axis, axis - dims.len() as i64] {
                let mut net = Net::new();
                let input = net.input(dims);
                let result = net.op("Softmax", &[&input], &[int_attribute("axis", axis)]);
                net.output(&result);
                net.agrees(&["NativeReduce"]);
            }
        }
    }
}

/// Softmax of large numbers, whose exponentials exceed the range of `f32`.
#[test]
fn softmax_of_large_numbers() {
    let mut net = Net::new();
    let numbers = (0..64).map(|at| (at * 37 % 64) as f32 * 20.0 - 600.0).collect();
    let input = net.input_of(&[4, 16], numbers);
    let result = net.op("Softmax", &[&input], &[]);
    net.output(&result);
    net.agrees(&["NativeReduce"]);
}

#[test]
fn permutations() {
    for dims in [DIMS, [1, 4, 1, 3], [17, 2, 16, 1]] {
        for number in 0..256i64 {
            let order: Vec<i64> = (0..4).map(|at| number >> (2 * at) & 3).collect();
            if (0..4).any(|axis| !order.contains(&axis)) {
                continue;
            }
            let mut net = Net::new();
            let input = net.input(&dims);
            let moved = net.op("Transpose", &[&input], &[ints_attribute("perm", &order)]);
            net.output(&moved);
            net.agrees_exactly(&[]);
        }
    }
    let mut net = Net::new();
    let input = net.input(&DIMS);
    let moved = net.op("Transpose", &[&input], &[ints_attribute("perm", &[0, 2, 3, 1])]);
    net.output(&moved);
    net.agrees_exactly(&["NativePermute"]);
}
