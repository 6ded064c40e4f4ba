//! NaN and infinity. The reference is ONNX, which follows numpy: a maximum or minimum is NaN if one
//! of the numbers is.

use belljar::policy::Kernels;

use crate::compare::{Net, policy};
use crate::support::onnx::ints_attribute;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// The name of each case, its model with the inputs `x` and `y`, and the expected output.
fn cases() -> Vec<(&'static str, Net, Vec<f32>)> {
    let x = [NAN, -INF, INF, -0.5, NAN, 2.0, -3.0, 0.25];
    let y = [1.0, NAN, 0.5, -INF, NAN, 1.0, INF, -INF];
    let mut found = Vec::new();
    let mut case = |name, make: &dyn Fn(&mut Net, &str, &str) -> String, expected: Vec<f32>| {
        let mut net = Net::new();
        let (a, b) = (net.input_of(&[1, 1, 2, 4], x.into()), net.input_of(&[1, 1, 2, 4], y.into()));
        let result = make(&mut net, &a, &b);
        net.output(&result);
        found.push((name, net, expected));
    };
    let binary = |op: &'static str| move |net: &mut Net, a: &str, b: &str| net.op(op, &[a, b], &[]);
    let unary = |op: &'static str| move |net: &mut Net, a: &str, _: &str| net.op(op, &[a], &[]);
    let clip = |net: &mut Net, a: &str, _: &str| {
        let (low, high) = (net.constant_of(&[], &[-1.0]), net.constant_of(&[], &[1.0]));
        net.op("Clip", &[a, &low, &high], &[])
    };
    case("Max", &binary("Max"), vec![NAN, NAN, INF, -0.5, NAN, 2.0, INF, 0.25]);
    case(
        "Max of the other",
        &|net, a, b| net.op("Max", &[b, a], &[]),
        vec![NAN, NAN, INF, -0.5, NAN, 2.0, INF, 0.25],
    );
    case("Min", &binary("Min"), vec![NAN, NAN, 0.5, -INF, NAN, 1.0, -3.0, -INF]);
    case(
        "Min of the other",
        &|net, a, b| net.op("Min", &[b, a], &[]),
        vec![NAN, NAN, 0.5, -INF, NAN, 1.0, -3.0, -INF],
    );
    case("Add", &binary("Add"), vec![NAN, NAN, INF, -INF, NAN, 3.0, INF, -INF]);
    case("Sub", &binary("Sub"), vec![NAN, NAN, INF, INF, NAN, 1.0, -INF, INF]);
    case("Mul", &binary("Mul"), vec![NAN, NAN, INF, INF, NAN, 2.0, -INF, -INF]);
    case("Div", &binary("Div"), vec![NAN, NAN, INF, 0.0, NAN, 2.0, 0.0, 0.0]);
    case("Relu", &unary("Relu"), vec![NAN, 0.0, INF, 0.0, NAN, 2.0, 0.0, 0.25]);
    case("Clip", &clip, vec![NAN, -1.0, 1.0, -0.5, NAN, 1.0, -1.0, 0.25]);
    case("Abs", &unary("Abs"), vec![NAN, INF, INF, 0.5, NAN, 2.0, 3.0, 0.25]);
    case("Neg", &unary("Neg"), vec![NAN, INF, -INF, 0.5, NAN, -2.0, 3.0, -0.25]);
    let each = |function: fn(f32) -> f32| x.iter().map(|x| function(*x)).collect::<Vec<f32>>();
    case("Exp", &unary("Exp"), each(f32::exp));
    case("Tanh", &unary("Tanh"), each(f32::tanh));
    case("Sigmoid", &unary("Sigmoid"), each(|x| 1.0 / (1.0 + (-x).exp())));
    case("Sqrt", &unary("Sqrt"), each(f32::sqrt));
    case("Reciprocal", &unary("Reciprocal"), each(f32::recip));
    let window = [ints_attribute("kernel_shape", &[1, 2]), ints_attribute("strides", &[1, 2])];
    let pool = |op: &'static str| {
        let window = window.clone();
        move |net: &mut Net, a: &str, _: &str| net.op(op, &[a], &window)
    };
    case("MaxPool", &pool("MaxPool"), vec![NAN, INF, NAN, 0.25]);
    case("AveragePool", &pool("AveragePool"), vec![NAN, INF, NAN, -1.375]);
    let reduce = |op: &'static str, axis: i64| {
        move |net: &mut Net, a: &str, _: &str| net.op(op, &[a], &[ints_attribute("axes", &[axis])])
    };
    case("ReduceMax of rows", &reduce("ReduceMax", 3), vec![NAN, NAN]);
    case("ReduceMax of columns", &reduce("ReduceMax", 2), vec![NAN, 2.0, INF, 0.25]);
    case("ReduceMin of rows", &reduce("ReduceMin", 3), vec![NAN, NAN]);
    case("ReduceMin of columns", &reduce("ReduceMin", 2), vec![NAN, -INF, -3.0, -0.5]);
    let conv = |net: &mut Net, a: &str, _: &str| {
        let weights = net.constant_of(&[1, 1, 1, 1], &[2.0]);
        let result = net.op("Conv", &[a, &weights], &[]);
        net.op("Relu", &[&result], &[])
    };
    case("Conv and Relu", &conv, vec![NAN, 0.0, INF, 0.0, NAN, 4.0, 0.0, 0.5]);
    let bounded = |net: &mut Net, a: &str, b: &str| {
        let weights = net.constant_of(&[1, 1, 1, 1], &[2.0]);
        let result = net.op("Conv", &[a, &weights], &[]);
        clip(net, &result, b)
    };
    case("Conv and Clip", &bounded, vec![NAN, -1.0, 1.0, -1.0, NAN, 1.0, -1.0, 0.5]);
    let before = |net: &mut Net, a: &str, _: &str| {
        let (factor, summand) =
            (net.constant_of(&[1, 1, 1, 1], &[3.0]), net.constant_of(&[1, 1, 1, 1], &[1.0]));
        let scaled = net.op("Mul", &[a, &factor], &[]);
        let shifted = net.op("Add", &[&scaled, &summand], &[]);
        let bounded = net.op("Relu", &[&shifted], &[]);
        let weights = net.constant_of(&[1, 1, 1, 1], &[2.0]);
        net.op("Conv", &[&bounded, &weights], &[])
    };
    case("Relu and Conv", &before, vec![NAN, 0.0, INF, 0.0, NAN, 14.0, 0.0, 3.5]);
    let product = |net: &mut Net, a: &str, _: &str| {
        let ones = net.constant_of(&[4, 4], &[1.0; 16]);
        let result = net.op("MatMul", &[a, &ones], &[]);
        net.op("Relu", &[&result], &[])
    };
    case("MatMul and Relu", &product, [[NAN; 4], [NAN; 4]].concat());
    case("Softmax", &|net, a, _| net.op("Softmax", &[a], &[]), vec![NAN; 8]);
    found
}

fn right(answer: &[f32], expected: &[f32]) -> bool {
    answer.len() == expected.len()
        && answer.iter().zip(expected).all(|(a, b)| {
            a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-5 + 1e-4 * b.abs()
        })
}

#[test]
fn special_numbers() {
    for (name, net, expected) in cases() {
        for kernels in [Kernels::Native, Kernels::Sandbox] {
            let answer = net.run(&policy(kernels)).unwrap();
            let found = answer.outputs[0].1.as_slice::<f32>().unwrap();
            let plan = answer.plan;
            assert!(right(found, &expected), "{name}, {plan}: {found:?} for {expected:?}");
        }
    }
}
