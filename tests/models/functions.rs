//! The accuracy of functions of one number, for every number of float16 and bfloat16 and for a
//! million of float32, with native kernels and in the sandbox, compared with 64-bit results for the
//! same numbers.

use crate::support;

mod reference;
mod several_nodes;

use std::collections::BTreeSet;
use std::sync::Mutex;

use belljar::policy::Kernels;
use belljar::tensor::{bf16, f16};
use belljar::{Host, Isolation, Policy, Tensor};
use belljar_operators::{F16, F64};
use reference::{acosh, asinh, atanh, celu, elu, erf, gelu, gelu_by_tanh, sigmoid, softplus, unit};
use support::onnx::{
    FLOAT, Graph, Message, fixed, float_attribute, import_of_microsoft, listed_name, node_of,
    string_attribute, tensor_f32, value, value_of_any_shape,
};

const FLOAT16: i64 = 10;
const DOUBLE: i64 = 11;
const BFLOAT16: i64 = 16;

/// A function: the operator, its attributes, its definition in 64 bits, and the allowed error in
/// units in the last place of a float32.
struct Function {
    operator: &'static str,
    attributes: &'static [Attribute],
    exact: fn(f64) -> f64,
    units: f64,
}

#[derive(Clone, Copy)]
enum Attribute {
    Float(&'static str, f32),
    Text(&'static str, &'static str),
}

use Attribute::{Float, Text};

const fn plain(operator: &'static str, exact: fn(f64) -> f64, units: f64) -> Function {
    Function { operator, attributes: &[], exact, units }
}

const fn with(
    operator: &'static str,
    attributes: &'static [Attribute],
    exact: fn(f64) -> f64,
    units: f64,
) -> Function {
    Function { operator, attributes, exact, units }
}

/// An attribute, rounded to 32 bits as the operator reads it.
fn single(value: f32) -> f64 {
    f64::from(value)
}

#[rustfmt::skip]
const FUNCTIONS: &[Function] = &[
    plain("Abs", f64::abs, 0.0),
    plain("Acos", f64::acos, 2.0),
    plain("Acosh", acosh, 4.0),
    plain("Asin", f64::asin, 2.0),
    plain("Asinh", asinh, 4.0),
    plain("Atan", f64::atan, 2.0),
    plain("Atanh", atanh, 4.0),
    plain("Ceil", f64::ceil, 0.0),
    with("Celu", &[Float("alpha", 0.3)], |x| celu(x, single(0.3)), 8.0),
    plain("Celu", |x| elu(x, 1.0), 4.0),
    plain("Cos", f64::cos, 2.0),
    plain("Cosh", f64::cosh, 2.0),
    plain("Elu", |x| elu(x, 1.0), 4.0),
    with("Elu", &[Float("alpha", 2.5)], |x| elu(x, 2.5), 4.0),
    plain("Erf", erf, 2.0),
    plain("Exp", f64::exp, 2.0),
    plain("Floor", f64::floor, 0.0),
    plain("Gelu", gelu, 12.0),
    with("Gelu", &[Text("approximate", "tanh")], gelu_by_tanh, 400.0),
    // By their definitions, these sums vanish at −2.5 and −3, where a float32 has no correct digit.
    plain("HardSigmoid", |x| (single(0.2) * x + 0.5).clamp(0.0, 1.0), f64::INFINITY),
    plain("HardSwish", |x| x * (x * single(1.0 / 6.0) + 0.5).clamp(0.0, 1.0), f64::INFINITY),
    plain("LeakyRelu", |x| if x < 0.0 { single(0.01) * x } else { x }, 1.0),
    plain("Log", f64::ln, 2.0),
    plain("Mish", |x| x * softplus(x).tanh(), 8.0),
    plain("Neg", |x| -x, 0.0),
    plain("Reciprocal", |x| 1.0 / x, 1.0),
    plain("Relu", |x| x.max(0.0), 0.0),
    plain("Round", f64::round_ties_even, 0.0),
    plain("Selu", |x| single(1.050_701) * elu(x, single(1.673_263_2)), 4.0),
    plain("Sigmoid", sigmoid, 4.0),
    plain("Sign", |x| if x == 0.0 { 0.0 } else { x.signum() }, 0.0),
    plain("Sin", f64::sin, 2.0),
    plain("Sinh", f64::sinh, 4.0),
    plain("Softplus", softplus, 4.0),
    plain("Softsign", |x| x / (1.0 + x.abs()), 5.0),
    plain("Sqrt", f64::sqrt, 0.5),
    plain("Swish", |x| x * sigmoid(x), 6.0),
    with("Swish", &[Float("alpha", 1.702)], |x| x * sigmoid(single(1.702) * x), 200.0),
    plain("Tan", f64::tan, 2.0),
    plain("Tanh", f64::tanh, 8.0),
    plain("ThresholdedRelu", |x| if x > 1.0 { x } else { 0.0 }, 0.0),
    plain("com.microsoft:Gelu", gelu, 12.0),
    plain("com.microsoft:QuickGelu", |x| x * sigmoid(single(1.702) * x), 200.0),
    with("com.microsoft:QuickGelu", &[Float("alpha", 1.0)], |x| x * sigmoid(x), 6.0),
];

/// Operators of one tensor that are not functions of one number; they are tested elsewhere.
const OTHERS: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "Bernoulli",
    "BitCast",
    "Cast",
    "Clip",
    "Concat",
    "ConcatFromSequence",
    "DepthToSpace",
    "Det",
    "Dropout",
    "Einsum",
    "EyeLike",
    "Flatten",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Hardmax",
    "Identity",
    "IsInf",
    "IsNaN",
    "LRN",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Multinomial",
    "NonZero",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Pad",
    "RandomNormalLike",
    "RandomUniformLike",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Scan",
    "SequenceConstruct",
    "SequenceLength",
    "SequenceMap",
    "Shape",
    "Shrink",
    "Size",
    "Slice",
    "Softmax",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sum",
    "Transpose",
    "TreeEnsemble",
    "Unique",
    "Unsqueeze",
    "com.microsoft:Inverse",
    "com.microsoft:UnfoldTensor",
    "com.microsoft:Unique",
];

#[test]
fn every_function_of_the_table_is_tested() {
    let tried: BTreeSet<&str> = FUNCTIONS.iter().map(|function| function.operator).collect();
    let others: BTreeSet<&str> = OTHERS.iter().copied().collect();
    let of_one = belljar_operators::all()
        .filter(|operator| operator.inputs.len() == 1 && operator.inputs[0].types.has(F16));
    let of_one: BTreeSet<String> =
        of_one.map(|operator| listed_name(operator.domain, operator.name)).collect();
    let missing: Vec<_> = of_one
        .iter()
        .filter(|name| !tried.contains(&***name) && !others.contains(&***name))
        .collect();
    assert!(missing.is_empty(), "neither tested nor listed as other operators: {missing:?}");
}

impl Function {
    fn what(&self) -> String {
        let attributes = self.attributes.iter().map(|attribute| match attribute {
            Float(name, value) => format!(" {name} {value}"),
            Text(name, value) => format!(" {name} {value}"),
        });
        format!("{}{}", self.operator, attributes.collect::<String>())
    }

    fn node(&self) -> Message {
        let attributes = self.attributes.iter().map(|attribute| match attribute {
            Float(name, value) => float_attribute(name, *value),
            Text(name, value) => string_attribute(name, value),
        });
        node_of(self.operator, &["x"], &["y"], &attributes.collect::<Vec<_>>())
    }

    /// Whether a result is accurate: a float32 within the allowed error, or a narrow float that is
    /// one of the two numbers around the exact value.
    fn near(&self, x: f64, found: f64, digits: i32, least: i32, largest: f64) -> bool {
        let exact = (self.exact)(x);
        if exact.is_nan() || found.is_nan() {
            return exact.is_nan() && found.is_nan();
        }
        let unit = unit(exact, digits, least);
        let allowed = if digits == 23 { (self.units + 0.5) * unit } else { unit };
        let beyond = exact.abs() + allowed >= largest && found.is_infinite();
        beyond && found.signum() == exact.signum() || (found - exact).abs() <= allowed
    }
}

/// A model of one node, in the newest operator set.
fn model(nodes: Vec<Message>, elements: i64, count: usize) -> Vec<u8> {
    let graph = Graph {
        nodes,
        inputs: vec![value("x", elements, &fixed(&[count as i64]))],
        outputs: vec![value_of_any_shape("y", elements)],
        ..Graph::default()
    };
    finished(&graph)
}

fn finished(graph: &Graph) -> Vec<u8> {
    let model = Message::new().int(1, 10).message(7, graph.message());
    let model = model.message(8, Message::new().int(2, belljar_operators::NEWEST));
    model.message(8, import_of_microsoft()).finish()
}

fn answer(host: &Host, model: &[u8], kernels: Kernels, x: Option<Tensor>) -> Tensor {
    let mut policy = Policy::default();
    policy.compute.kernels = kernels;
    let model = support::load_under(host, model, &policy).unwrap();
    let inputs: Vec<(&str, Tensor)> = x.into_iter().map(|x| ("x", x)).collect();
    let outputs = model.run(&inputs).and_then(|outputs| outputs.validate()).unwrap();
    outputs.get("y").unwrap().clone()
}

/// Runs a check of each function with both kinds of kernels, on two threads, and collects failures.
fn each(check: impl Fn(&Host, &Function, Kernels) -> Option<String> + Sync) {
    let jobs = FUNCTIONS.iter().flat_map(|function| {
        [Kernels::Native, Kernels::Sandbox].map(|kernels| (function, kernels))
    });
    let (queue, found) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let host =
                    support::builder(Isolation::Thread).snapshot_store(false).build().unwrap();
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((function, kernels)) = next else { break };
                    if let Some(why) = check(&host, function, kernels) {
                        found
                            .lock()
                            .unwrap()
                            .push(format!("{} {kernels:?}: {why}", function.what()));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    assert!(found.is_empty(), "{} are wrong:\n{}", found.len(), found.join("\n"));
}

/// The number of wrong results, and the worst one.
fn wrong(
    function: &Function,
    (digits, least, largest): (i32, i32, f64),
    numbers: impl Iterator<Item = (f64, f64)>,
) -> Option<String> {
    let off = |(x, found): &(f64, f64)| {
        let exact = (function.exact)(*x);
        (found - exact).abs() / unit(exact, digits, least)
    };
    let wrong: Vec<(f64, f64)> =
        numbers.filter(|(x, found)| !function.near(*x, *found, digits, least, largest)).collect();
    let worst = wrong.iter().max_by(|a, b| off(a).total_cmp(&off(b)))?;
    let exact = (function.exact)(worst.0);
    Some(format!("{} numbers; of {:e} it is {:e} for {exact:e}", wrong.len(), worst.0, worst.1))
}

/// All finite numbers of float16: 63,488; of bfloat16: 65,280.
#[test]
fn functions_are_accurate_for_every_number_of_a_narrow_float() {
    let codes = || 0..=u16::MAX;
    let halves: Vec<f16> = codes().map(f16::from_bits).filter(|x| x.is_finite()).collect();
    let brains: Vec<bf16> = codes().map(bf16::from_bits).filter(|x| x.is_finite()).collect();
    assert_eq!((halves.len(), brains.len()), (63_488, 65_280));
    each(|host, function, kernels| {
        let x = Tensor::new(halves.clone(), &[halves.len()]).unwrap();
        let made = model(vec![function.node()], FLOAT16, halves.len());
        let y = answer(host, &made, kernels, Some(x));
        let pairs = halves.iter().zip(y.as_slice::<f16>().unwrap());
        let pairs = pairs.map(|(x, y)| (x.to_f64(), y.to_f64()));
        if let Some(why) = wrong(function, (10, -24, 65504.0), pairs) {
            return Some(format!("float16: {why}"));
        }
        let x = Tensor::new(brains.clone(), &[brains.len()]).unwrap();
        let made = model(vec![function.node()], BFLOAT16, brains.len());
        let y = answer(host, &made, kernels, Some(x));
        let pairs = brains.iter().zip(y.as_slice::<bf16>().unwrap());
        let pairs = pairs.map(|(x, y)| (x.to_f64(), y.to_f64()));
        wrong(function, (7, -133, bf16::MAX.to_f64()), pairs).map(|why| format!("bfloat16: {why}"))
    });
}

/// Numbers of every magnitude of float32, and many between −20 and 20, where functions are not at
/// their limits.
fn singles() -> Vec<f32> {
    let every = (0..=u32::MAX).step_by(1 << 13).map(|bits| f32::from_bits(bits | bits >> 19));
    let near = (-(1 << 18)..1 << 18).map(|at| at as f32 * (20.0 / (1 << 18) as f32));
    every.filter(|x| x.is_finite()).chain(near).collect()
}

#[test]
fn functions_are_accurate_for_a_million_numbers_of_float32() {
    let x = singles();
    assert!(x.len() > 1_000_000);
    each(|host, function, kernels| {
        let given = Tensor::new(x.clone(), &[x.len()]).unwrap();
        let made = model(vec![function.node()], FLOAT, x.len());
        let y = answer(host, &made, kernels, Some(given));
        let pairs = x.iter().zip(y.as_slice::<f32>().unwrap());
        let pairs = pairs.map(|(x, y)| (f64::from(*x), f64::from(*y)));
        // Subnormal results, and those next to them, have an absolute tolerance.
        let pairs = pairs.filter(|(x, y)| {
            let exact = (function.exact)(*x);
            exact.abs() > 1e-36 || (y - exact).abs() > 1e-42 || exact.is_nan() != y.is_nan()
        });
        wrong(function, (23, -149, f64::from(f32::MAX)), pairs)
    });
}

/// Constant folding must be as accurate.
#[test]
fn functions_of_constants_are_accurate() {
    let x: Vec<f32> = singles().into_iter().step_by(1031).collect();
    each(|host, function, kernels| {
        let graph = Graph {
            nodes: vec![function.node()],
            initializers: vec![tensor_f32("x", &[x.len() as i64], &x)],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let y = answer(host, &finished(&graph), kernels, None);
        let pairs = x.iter().zip(y.as_slice::<f32>().unwrap());
        let pairs = pairs.map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let pairs = pairs.filter(|(x, y)| {
            let exact = (function.exact)(*x);
            exact.abs() > 1e-36 || (y - exact).abs() > 1e-42 || exact.is_nan() != y.is_nan()
        });
        wrong(function, (23, -149, f64::from(f32::MAX)), pairs)
    });
}

/// The reference is float64 too, so the tolerance is larger; a loss of precision near zero exceeds
/// it.
#[test]
fn functions_of_float64_keep_their_digits() {
    let near = (-300..=40).map(|tenth| 10f64.powf(f64::from(tenth) / 20.0));
    let far_out = [1e8, 1e20, 1e155, 8.9e307, 1.2e308, f64::MAX, f64::INFINITY];
    let x: Vec<f64> = near.chain(far_out).flat_map(|size| [-size, size]).collect();
    each(|host, function, kernels| {
        let takes = |operator: &&belljar_operators::Operator| {
            operator.name == function.operator && operator.inputs[0].types.has(F64)
        };
        belljar_operators::all().find(takes)?;
        let given = Tensor::new(x.clone(), &[x.len()]).unwrap();
        let made = model(vec![function.node()], DOUBLE, x.len());
        let y = answer(host, &made, kernels, Some(given));
        let pairs = x.iter().zip(y.as_slice::<f64>().unwrap()).map(|(x, y)| (*x, *y));
        // 256 units of float64.
        wrong(function, (44, -1074, f64::MAX), pairs)
    });
}
