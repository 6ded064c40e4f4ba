//! float16 and bfloat16 are summed in float32: tests every operator that sums, with numbers whose
//! sums float16 cannot represent, with native kernels and in the sandbox, against 64-bit results
//! for the same inputs.

use crate::support;

mod cases;
mod chains;
mod draw;

use std::collections::BTreeSet;
use std::sync::Mutex;

use belljar::policy::Kernels;
use belljar::tensor::{bf16, f16};
use belljar::{Host, Isolation, Policy, Tensor};
use belljar_operators::{BF16, F16, F32, Operator};
use cases::{ADDING, Case, Input};
use draw::{Draw, Kind, Type};
use support::onnx::{
    Graph, Message, fixed, import_of_microsoft, listed_name, node, node_of, tensor_i64, value,
    value_of_any_shape,
};

/// The newest operator set, which has every operator that was not replaced by another.
const OPSET: i64 = belljar_operators::NEWEST;

/// Operators that take narrow floats and do not sum: each result comes from a few numbers, or is
/// moved, chosen, compared or converted.
const NOT_ADDING: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Bernoulli",
    "BitCast",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "CenterCropPad",
    "Clip",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "Cos",
    "Cosh",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "Loop",
    "Max",
    "MaxPool",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    // It adds probabilities in 64 bits.
    "Multinomial",
    "Neg",
    "NonZero",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "PRelu",
    "Pad",
    "Pow",
    // Its products are of integers; only the scales are floats.
    "QLinearMatMul",
    "QuantizeLinear",
    "RandomNormalLike",
    "RandomUniformLike",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMin",
    "Relu",
    "Reshape",
    "ReverseSequence",
    "Round",
    "Scan",
    "Scatter",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Sqrt",
    "Squeeze",
    "Sub",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    // Its sums are of float64.
    "TreeEnsemble",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
    "com.microsoft:BiasGelu",
    "com.microsoft:DequantizeLinear",
    "com.microsoft:ExpandDims",
    "com.microsoft:FastGelu",
    "com.microsoft:GatherBlockQuantized",
    "com.microsoft:GatherND",
    "com.microsoft:Gelu",
    // Its sums are of float64.
    "com.microsoft:Inverse",
    // These are sums of integers.
    "com.microsoft:MatMulIntegerToFloat",
    "com.microsoft:Pad",
    "com.microsoft:QuantizeLinear",
    "com.microsoft:QuickGelu",
    "com.microsoft:Trilu",
    "com.microsoft:UnfoldTensor",
    "com.microsoft:Unique",
];

fn takes_narrow(operator: &Operator) -> bool {
    operator.inputs.iter().any(|input| input.types.has(F16) || input.types.has(BF16))
}

#[test]
fn every_operator_with_narrow_floats_is_listed_as_summing_or_not() {
    let in_table: BTreeSet<String> = belljar_operators::all()
        .filter(|operator| takes_narrow(operator))
        .map(|operator| listed_name(operator.domain, operator.name))
        .collect();
    let adding: BTreeSet<&str> = ADDING.iter().map(|(name, _)| *name).collect();
    let others: BTreeSet<&str> = NOT_ADDING.iter().copied().collect();
    let on_both: Vec<_> = adding.intersection(&others).collect();
    assert!(on_both.is_empty(), "on both lists: {on_both:?}");
    let listed: BTreeSet<String> = adding.union(&others).map(|name| (*name).to_owned()).collect();
    let missing: Vec<_> = in_table.difference(&listed).collect();
    assert!(missing.is_empty(), "on neither list: {missing:?}; a case in cases.rs if it adds up");
    let gone: Vec<_> = listed.difference(&in_table).collect();
    assert!(gone.is_empty(), "on a list, and take no narrow floats: {gone:?}");
    assert_eq!(NOT_ADDING.len(), others.len(), "duplicate operator");
}

#[test]
fn operators_with_one_narrow_float_take_both_and_float32() {
    for operator in belljar_operators::all() {
        for (at, input) in operator.inputs.iter().enumerate() {
            let [half, brain, single] = [F16, BF16, F32].map(|types| input.types.has(types));
            // Versions before bfloat16, and operators that only use bits or order.
            let exempt = operator.until < 13 || ["OneHot", "Upsample"].contains(&operator.name);
            let (name, since) = (operator.name, operator.since);
            assert!(!half || single, "{name} {since}: input {at} is float16 and not float32");
            assert!(exempt || half == brain, "{name} {since}: input {at} is one narrow float only");
        }
    }
}

/// An approximation with an absolute error loses all digits where the result is as small as the
/// argument.
#[test]
fn the_error_function_keeps_the_digits_of_small_numbers() {
    let x = [6e-8f32, -1e-6, 3e-5, 0.001, -0.02, 0.3, 0.75, 0.99, -1.5, 3.0];
    let exact = [
        6.770275e-8,
        -1.128379e-6,
        3.385138e-5,
        1.128379e-3,
        -2.256457e-2,
        0.328627,
        0.711156,
        0.838508,
        -0.966105,
        0.999978,
    ];
    let graph = Graph {
        nodes: vec![node("Erf", &["x"], &["y"], &[])],
        inputs: vec![value("x", 1, &fixed(&[10]))],
        outputs: vec![value_of_any_shape("y", 1)],
        ..Graph::default()
    };
    let host = support::host(Isolation::Thread);
    for kernels in [Kernels::Native, Kernels::Sandbox] {
        let mut policy = Policy::default();
        policy.compute.kernels = kernels;
        let model = support::load_under(&host, &graph.bytes(), &policy).unwrap();
        let x = Tensor::new(x.to_vec(), &[10]).unwrap();
        let outputs = model.run(&[("x", x)]).and_then(|outputs| outputs.validate()).unwrap();
        let found = outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec();
        for (found, expected) in found.iter().zip(exact) {
            assert!(
                (found - expected).abs() <= 2e-6 * expected.abs(),
                "{found:e} for {expected:e}"
            );
        }
    }
}

/// An initializer of narrow floats.
fn narrow_tensor(name: &str, narrow: Type, dims: &[i64], values: &[f64]) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    let raw: Vec<u8> = values.iter().flat_map(|value| narrow.code(*value).to_le_bytes()).collect();
    tensor.int(2, narrow.onnx()).bytes(8, name).bytes(9, raw)
}

fn tensor(narrow: Type, dims: &[i64], values: &[f64]) -> Tensor {
    let dims: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
    let codes = values.iter().map(|value| narrow.code(*value));
    match narrow {
        Type::F16 => Tensor::new(codes.map(f16::from_bits).collect::<Vec<f16>>(), &dims),
        Type::Bf16 => Tensor::new(codes.map(bf16::from_bits).collect::<Vec<bf16>>(), &dims),
    }
    .unwrap()
}

fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    if let Some(floats) = tensor.as_slice::<f16>() {
        return Some(floats.iter().map(|value| value.to_f64()).collect());
    }
    Some(tensor.as_slice::<bf16>()?.iter().map(|value| value.to_f64()).collect())
}

/// The suffixes of the names of the outputs of this operator.
fn outputs_of(operator: &str) -> Vec<&'static str> {
    match operator {
        "CausalConvWithState"
        | "LinearAttention"
        | "com.microsoft:CausalConvWithState"
        | "com.microsoft:LinearAttention" => vec!["", "-state"],
        _ => vec![""],
    }
}

/// A model with a node for each kind of numbers, and its inputs.
fn model(operator: &str, cases: &[(Kind, Case)], narrow: Type) -> (Vec<u8>, Vec<(String, Tensor)>) {
    let (mut graph, mut inputs) = (Graph::default(), Vec::new());
    for (kind, case) in cases {
        let mut names = Vec::new();
        for (at, input) in case.inputs.iter().enumerate() {
            let name = format!("{kind:?}{at}");
            match input {
                Input::Given(dims, values) => {
                    graph.inputs.push(value(&name, narrow.onnx(), &fixed(dims)));
                    inputs.push((name.clone(), tensor(narrow, dims, values)));
                }
                Input::Kept(dims, values) => {
                    graph.initializers.push(narrow_tensor(&name, narrow, dims, values));
                }
                Input::Ints(dims, values) => {
                    graph.initializers.push(tensor_i64(&name, dims, values));
                }
                Input::Bytes(elements, dims, bytes) => {
                    let dims = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
                    let tensor = dims.int(2, *elements).bytes(8, &name).bytes(9, bytes);
                    graph.initializers.push(tensor);
                }
                Input::Missing => {
                    names.push(String::new());
                    continue;
                }
            }
            names.push(name);
        }
        let made: Vec<String> =
            outputs_of(operator).iter().map(|end| format!("{kind:?}{end}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let named: Vec<&str> = made.iter().map(String::as_str).collect();
        graph.nodes.push(node_of(operator, &names, &named, &case.attributes));
        graph.outputs.push(value_of_any_shape(&format!("{kind:?}"), narrow.onnx()));
    }
    let model = Message::new().int(1, 10).message(7, graph.message());
    let model = model.message(8, Message::new().int(2, OPSET)).message(8, import_of_microsoft());
    (model.finish(), inputs)
}

/// The first wrong number of a result: each may be off by two units in the last place of the
/// largest term.
fn wrong(narrow: Type, case: &Case, found: &Tensor) -> Option<String> {
    let Some(found) = numbers(found) else { return Some(format!("{:?}", found.dtype())) };
    if found.len() != case.expected.len() {
        return Some(format!("{} numbers for {}", found.len(), case.expected.len()));
    }
    let finite = case.expected.iter().filter(|value| narrow.round(**value).is_finite());
    let largest = finite.fold(case.term, |most, value| most.max(value.abs()));
    let allowed = 2.0 * narrow.unit(largest);
    found.iter().zip(&case.expected).enumerate().find_map(|(at, (found, expected))| {
        let near = (found - expected).abs() <= allowed || *found == narrow.round(*expected);
        (!near).then(|| format!("[{at}] is {found:e} for {expected:e}, allowed is {allowed:e}"))
    })
}

fn check(host: &Host, at: usize, narrow: Type, kernels: Kernels) -> Vec<String> {
    let (operator, made) = ADDING[at];
    let cases: Vec<(Kind, Case)> =
        Kind::ALL.iter().map(|kind| (*kind, made(Draw { kind: *kind, narrow }))).collect();
    let (bytes, inputs) = model(operator, &cases, narrow);
    let what = format!("case {at}, {operator} of {narrow:?}, {kernels:?}");
    let mut policy = Policy::default();
    policy.compute.kernels = kernels;
    let outputs = match support::load_under(host, &bytes, &policy)
        .and_then(|model| model.run(&inputs)?.validate())
    {
        Ok(outputs) => outputs,
        Err(err) => return vec![format!("{what}: {err}")],
    };
    let differs = |(kind, case): &(Kind, Case)| {
        let Some(found) = outputs.get(&format!("{kind:?}")) else {
            return Some("no output".into());
        };
        wrong(narrow, case, found).map(|why| format!("{what}, {kind:?}: {why}"))
    };
    cases.iter().filter_map(differs).collect()
}

#[test]
fn sums_of_narrow_floats_are_those_of_64_bits_rounded() {
    let mut jobs = Vec::new();
    for at in 0..ADDING.len() {
        for narrow in Type::BOTH {
            jobs.extend([Kernels::Native, Kernels::Sandbox].map(|kernels| (at, narrow, kernels)));
        }
    }
    let (queue, found) = (Mutex::new(jobs.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let host =
                    support::builder(Isolation::Thread).snapshot_store(false).build().unwrap();
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((at, narrow, kernels)) = next else { break };
                    let wrong = check(&host, at, narrow, kernels);
                    found.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    assert!(found.is_empty(), "{} are wrong:\n{}", found.len(), found.join("\n"));
}
