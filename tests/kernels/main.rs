//! Compares native kernels with the sandbox's own: every kind of operator that the host computes,
//! in small models that run in both ways.

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod compare;
mod convolutions;
mod guest_scan;
mod guest_spans;
mod integers;
mod narrow;
mod operators_in_webassembly;
mod pointwise;
mod poolings;
mod products;
mod recurrent;
mod reductions;
mod samples;
mod special;

use std::time::Duration;

use belljar::policy::Kernels;
use belljar::{ErrorKind, Limit};
use compare::{Net, policy, same};
use support::onnx::ints_attribute;

/// A model with every kind of operator, large enough to be divided among threads.
fn mixed() -> Net {
    let mut net = Net::new();
    let image = net.input(&[2, 13, 40, 37]);
    let (weights, bias) = (net.constant(&[29, 13, 3, 3]), net.constant(&[29]));
    let pads = ints_attribute("pads", &[1, 1, 1, 1]);
    let conv = net.op("Conv", &[&image, &weights, &bias], &[pads]);
    let conv = net.op("Relu", &[&conv], &[]);
    let window = [ints_attribute("kernel_shape", &[3, 3]), ints_attribute("strides", &[2, 2])];
    let greatest = net.op("MaxPool", &[&conv], &window);
    let means = net.op("AveragePool", &[&greatest], &window);
    let moved = net.op("Transpose", &[&means], &[ints_attribute("perm", &[0, 2, 1, 3])]);
    let matrix = net.constant(&[8, 70]);
    let product = net.op("MatMul", &[&moved, &matrix], &[]);
    let likely = net.op("Softmax", &[&product], &[]);
    let last = net.op("Transpose", &[&greatest], &[ints_attribute("perm", &[0, 2, 3, 1])]);
    let row = net.input(&[1, 1, 29, 1]);
    let product_of_inputs = net.input(&[2, 9, 70, 31]);
    let product = net.op("MatMul", &[&product, &product_of_inputs], &[]);
    let sum = net.op("Add", &[&product, &row], &[]);
    let bent = net.op("Tanh", &[&sum], &[]);
    let result = net.op("Mul", &[&bent, &row], &[]);
    let total = net.op("ReduceSum", &[&result], &[]);
    for value in [&greatest, &last, &likely, &result, &total] {
        net.output(value);
    }
    net
}

/// Makes sure that the other tests do compare native kernels with the sandbox's own.
#[test]
fn native_kernels_are_used_where_expected() {
    let operators = [
        "NativeConv",
        "NativePool",
        "NativePermute",
        "NativeGemm",
        "NativeReduce",
        "NativePointwise",
    ];
    mixed().agrees(&operators);
    let native = policy(Kernels::Native);
    let mut deterministic = native.clone();
    deterministic.compute.deterministic = true;
    for (policy, expected) in
        [(native, true), (policy(Kernels::Sandbox), false), (deterministic, false)]
    {
        let plan = mixed().run(&policy).unwrap().plan;
        assert!(!plan.is_empty());
        for operator in operators {
            assert_eq!(plan.contains(operator), expected, "{operator} in {plan}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let net = mixed();
    let one = net.run(&policy(Kernels::Native)).unwrap();
    for threads in [2, 3, 7] {
        let mut policy = policy(Kernels::Native);
        policy.compute.threads = threads;
        for _ in 0..3 {
            let several = net.run(&policy).unwrap();
            same(&several.outputs, &one.outputs, true);
        }
    }
}

/// Operators that take seconds end at the time limit.
#[test]
fn long_kernels_end_at_the_time_limit() {
    let product = {
        let mut net = Net::new();
        let (a, b) = (net.input(&[3072, 6144]), net.input(&[6144, 3072]));
        let product = net.op("MatMul", &[&a, &b], &[]);
        let total = net.op("ReduceSum", &[&product], &[]);
        net.output(&total);
        ("NativeGemm", net)
    };
    let convolution = {
        let mut net = Net::new();
        let (image, weights) = (net.input(&[1, 64, 300, 300]), net.constant(&[256, 64, 7, 7]));
        let images = net.op("Conv", &[&image, &weights], &[]);
        let total = net.op("ReduceSum", &[&images], &[]);
        net.output(&total);
        ("NativeConv", net)
    };
    for (operator, net) in [product, convolution] {
        for threads in [1, 3] {
            let mut policy = policy(Kernels::Native);
            policy.compute.threads = threads;
            policy.limits.memory = 2 << 30;
            policy.limits.run_time = Duration::from_millis(50);
            let Err(err) = net.run(&policy) else { panic!("{operator} finished") };
            let kind = err.kind();
            assert!(matches!(kind, ErrorKind::Limit(Limit::RunTime { .. })), "{operator}: {err:?}");
            assert_eq!(err.exit_code(), 5);
        }
    }
}
