//! Invalid indices, axes, sizes and numbers at run time: every operator that reads them answers or
//! refuses them, and none panics or reads out of bounds.

use belljar::Tensor;

use crate::support::onnx::{
    FLOAT, Graph, INT64, Message, fixed, float_attribute, int_attribute, ints_attribute, node,
    string_attribute, tensor_f32, tensor_i64, value, value_of_any_shape,
};
use crate::{HOST, ones, policy};

const INT32: i64 = 6;

/// An input of a node: its kind, and its valid shape.
pub(crate) enum In {
    /// Ones.
    Floats(&'static [usize]),
    /// Untrusted integers.
    Ints(&'static [usize]),
    Short(&'static [usize]),
    /// Untrusted floats.
    Wild(&'static [usize]),
    None,
}
use In::{Floats, Ints, None as Left, Short, Wild};

const INVALID_INTS: [i64; 12] =
    [0, 1, -1, 2, 3, -3, -4, 1 << 31, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];
const WILD: [f32; 9] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0, -0.0, 1e-40, f32::MAX];
/// The valid shape (`None`), and others.
const SHAPES: [Option<&[usize]>; 6] =
    [None, Some(&[]), Some(&[0]), Some(&[1]), Some(&[5]), Some(&[2, 0, 3])];

/// Runs one node with each of its untrusted inputs in each shape and with each value.
pub(crate) fn survives(op: &str, opset: i64, inputs: &[In], attributes: &[Message]) {
    let untrusted: Vec<usize> = (0..inputs.len())
        .filter(|at| matches!(inputs[*at], Ints(_) | Short(_) | Wild(_)))
        .collect();
    for wild in &untrusted {
        for shape in SHAPES {
            let shape_of = |at: usize| {
                let (Floats(right) | Ints(right) | Short(right) | Wild(right)) = inputs[at] else {
                    return None;
                };
                Some(if at == *wild { shape.unwrap_or(right) } else { right })
            };
            let names: Vec<String> = (0..inputs.len())
                .map(|at| shape_of(at).map_or(String::new(), |_| format!("i{at}")))
                .collect();
            let declared = |at: usize| {
                let dims: Vec<i64> = shape_of(at)?.iter().map(|dim| *dim as i64).collect();
                let dtype = match inputs[at] {
                    Ints(_) => INT64,
                    Short(_) => INT32,
                    _ => FLOAT,
                };
                Some(value(&names[at], dtype, &fixed(&dims)))
            };
            let read: Vec<&str> = names.iter().map(String::as_str).collect();
            let graph = Graph {
                nodes: vec![node(op, &read, &["y"], attributes)],
                inputs: (0..inputs.len()).filter_map(declared).collect(),
                outputs: vec![value_of_any_shape("y", out_type(op))],
                ..Graph::default()
            };
            let bytes = crate::structure::with_opset(&graph, opset);
            let model = match crate::support::load_under(&HOST, &bytes, &policy()) {
                Ok(model) => model,
                Err(err) => {
                    sound(op, &format!("{shape:?} loading"), &err);
                    continue;
                }
            };
            let values =
                if matches!(inputs[*wild], Wild(_)) { WILD.len() } else { INVALID_INTS.len() };
            for which in 0..values {
                let tensors: Vec<(&str, Tensor)> = (0..inputs.len())
                    .filter_map(|at| {
                        let shape = shape_of(at)?;
                        let count: usize = shape.iter().product();
                        // The other untrusted inputs have plausible values.
                        let number =
                            if at == *wild { INVALID_INTS[which % INVALID_INTS.len()] } else { 1 };
                        let tensor = match inputs[at] {
                            Ints(_) => Tensor::new(vec![number; count], shape),
                            Short(_) => Tensor::new(vec![number as i32; count], shape),
                            Wild(_) if at == *wild => {
                                Tensor::new(vec![WILD[which % WILD.len()]; count], shape)
                            }
                            _ => return Some((&*names[at], ones(shape))),
                        };
                        Some((&*names[at], tensor.unwrap()))
                    })
                    .collect();
                if let Err(err) = model.run(&tensors).and_then(|outputs| outputs.validate()) {
                    sound(op, &format!("{shape:?} value {which}"), &err);
                }
            }
        }
    }
}

fn out_type(op: &str) -> i64 {
    match op {
        "Range" | "NonMaxSuppression" => INT64,
        _ => FLOAT,
    }
}

std::thread_local! {
    static FOUND: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Notes an error that no model may cause.
pub(crate) fn sound(op: &str, what: &str, err: &belljar::Error) {
    let text = err.to_string();
    let good = [4, 5, 6].contains(&err.exit_code()) && !text.contains("panicked");
    let trapped = text.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "trap");
    if !good || trapped {
        FOUND.with_borrow_mut(|found| found.push(format!("{op} {what}: {text}")));
    }
}

/// Asserts that no failures were found; called at the end of each test.
#[track_caller]
pub(crate) fn nothing_found() {
    let found = FOUND.take();
    assert!(found.is_empty(), "{} cases:\n{}", found.len(), found.join("\n"));
}

#[test]
fn gather_and_slice_survive_invalid_run_time_values() {
    survives("Gather", 17, &[Floats(&[2, 3]), Ints(&[2])], &[int_attribute("axis", 1)]);
    survives("Gather", 17, &[Floats(&[2, 3]), Short(&[2])], &[]);
    survives("GatherElements", 17, &[Floats(&[2, 3]), Ints(&[2, 3])], &[int_attribute("axis", 1)]);
    survives("GatherElements", 17, &[Floats(&[2, 3]), Ints(&[3, 1])], &[int_attribute("axis", 1)]);
    survives("GatherND", 17, &[Floats(&[2, 3]), Ints(&[1, 2])], &[]);
    survives("GatherND", 17, &[Floats(&[2, 3]), Ints(&[2, 1])], &[int_attribute("batch_dims", 1)]);
    survives("GatherND", 17, &[Floats(&[2, 3]), Ints(&[5, 1])], &[int_attribute("batch_dims", 1)]);
    survives("TopK", 17, &[Floats(&[2, 3]), Ints(&[1])], &[]);
    survives("Trilu", 17, &[Floats(&[2, 3]), Ints(&[])], &[]);
    survives("Slice", 17, &[Floats(&[2, 3]), Ints(&[2]), Ints(&[2]), Ints(&[2]), Ints(&[2])], &[]);
    survives("Slice", 17, &[Floats(&[2, 3]), Ints(&[1]), Ints(&[1])], &[]);
    survives("Split", 17, &[Floats(&[2, 3]), Ints(&[1])], &[]);
    nothing_found();
}

#[test]
fn scatter_survives_invalid_run_time_values() {
    for reduction in ["none", "add", "mul", "max", "min"] {
        let attributes = [string_attribute("reduction", reduction)];
        let axis = [int_attribute("axis", 1), string_attribute("reduction", reduction)];
        let elements = [Floats(&[2, 3]), Ints(&[2, 1]), Floats(&[2, 1])];
        survives("ScatterElements", 18, &elements, &axis);
        let wide = [Floats(&[2, 3]), Ints(&[4, 1]), Floats(&[4, 1])];
        survives("ScatterElements", 18, &wide, &axis);
        let places = [Floats(&[2, 3]), Ints(&[1, 2]), Floats(&[1])];
        survives("ScatterND", 18, &places, &attributes);
        let rows = [Floats(&[2, 3]), Ints(&[2, 1]), Floats(&[2, 3])];
        survives("ScatterND", 18, &rows, &attributes);
    }
    survives("Scatter", 10, &[Floats(&[2, 3]), Ints(&[2, 1]), Floats(&[2, 1])], &[]);
    survives("OneHot", 17, &[Ints(&[2]), Ints(&[]), Floats(&[2])], &[]);
    nothing_found();
}

#[test]
fn shape_operators_survive_invalid_run_time_values() {
    for op in ["Tile", "Expand", "Reshape", "Squeeze", "Unsqueeze", "ReduceSum"] {
        survives(op, 17, &[Floats(&[2, 3]), Ints(&[2])], &[]);
    }
    survives("ReduceMax", 18, &[Floats(&[2, 3]), Ints(&[2])], &[]);
    survives("ConstantOfShape", 17, &[Ints(&[2])], &[]);
    survives("CumSum", 17, &[Floats(&[2, 3]), Ints(&[])], &[]);
    survives("Pad", 18, &[Floats(&[2, 3]), Ints(&[4])], &[]);
    survives("Pad", 18, &[Floats(&[2, 3]), Ints(&[2]), Floats(&[]), Ints(&[1])], &[]);
    survives("Resize", 18, &[Floats(&[1, 1, 2, 3]), Left, Left, Ints(&[4])], &[]);
    survives("Range", 17, &[Ints(&[]), Ints(&[]), Ints(&[])], &[]);
    nothing_found();
}

#[test]
fn signal_operators_survive_invalid_run_time_values() {
    survives("DFT", 17, &[Floats(&[1, 4, 1]), Ints(&[])], &[]);
    survives("DFT", 20, &[Floats(&[1, 4, 1]), Ints(&[]), Ints(&[])], &[]);
    survives("STFT", 17, &[Floats(&[1, 8, 1]), Ints(&[]), Left, Ints(&[])], &[]);
    survives("STFT", 17, &[Floats(&[1, 8, 1]), Ints(&[]), Floats(&[4])], &[]);
    for op in ["HannWindow", "HammingWindow", "BlackmanWindow"] {
        survives(op, 17, &[Ints(&[])], &[]);
    }
    survives("MelWeightMatrix", 17, &[Ints(&[]), Ints(&[]), Ints(&[]), Wild(&[]), Wild(&[])], &[]);
    let recurrent = [Floats(&[2, 1, 3]), Floats(&[1, 4, 3]), Floats(&[1, 4, 1]), Left, Short(&[1])];
    survives("LSTM", 17, &recurrent, &[int_attribute("hidden_size", 1)]);
    nothing_found();
}

#[test]
fn float_operators_survive_nan_and_infinity() {
    for mode in ["bilinear", "nearest", "bicubic"] {
        for padding in ["zeros", "border", "reflection"] {
            let mode = [string_attribute("mode", mode), string_attribute("padding_mode", padding)];
            survives("GridSample", 17, &[Floats(&[1, 1, 2, 3]), Wild(&[1, 2, 2, 2])], &mode);
        }
    }
    survives(
        "NonMaxSuppression",
        17,
        &[Wild(&[1, 4, 4]), Wild(&[1, 1, 4]), Ints(&[1]), Wild(&[1]), Wild(&[1])],
        &[],
    );
    for op in ["Clip", "Pow", "Mod", "Div"] {
        let attributes = [int_attribute("fmod", 1)];
        let attributes = if op == "Mod" { &attributes[..] } else { &[] };
        survives(op, 17, &[Floats(&[2, 3]), Wild(&[])], attributes);
    }
    for op in ["Erf", "Round", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Hardmax"] {
        survives(op, 17, &[Wild(&[2, 3])], &[]);
    }
    survives("Elu", 17, &[Wild(&[2, 3])], &[float_attribute("alpha", 3e38)]);
    nothing_found();
}

#[test]
fn own_operators_survive_invalid_run_time_values() {
    let list = |name: &str, values: &[i64]| crate::support::onnx::ints_attribute(name, values);
    let reduction = |name: &str| string_attribute("reduction", name);
    for op in ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"] {
        for how in ["none", "sum", "mean"] {
            let ignored = [reduction(how), int_attribute("ignore_index", -1)];
            survives(op, 13, &[Wild(&[2, 3]), Ints(&[2])], &[reduction(how)]);
            survives(op, 13, &[Wild(&[2, 3, 2]), Ints(&[2, 2]), Wild(&[3])], &ignored);
        }
    }
    survives("CumProd", 26, &[Wild(&[2, 3]), Ints(&[])], &[]);
    survives("Det", 22, &[Wild(&[2, 3, 3])], &[]);
    survives("AffineGrid", 20, &[Wild(&[1, 2, 3]), Ints(&[4])], &[]);
    survives(
        "AffineGrid",
        20,
        &[Wild(&[1, 3, 4]), Ints(&[5])],
        &[int_attribute("align_corners", 1)],
    );
    survives("CenterCropPad", 18, &[Floats(&[2, 3]), Ints(&[2])], &[]);
    survives("CenterCropPad", 18, &[Floats(&[2, 3]), Short(&[1])], &[list("axes", &[-1])]);
    survives("ReverseSequence", 10, &[Floats(&[4, 2]), Ints(&[2])], &[]);
    survives("TensorScatter", 24, &[Floats(&[2, 4, 3]), Floats(&[2, 1, 3]), Ints(&[2])], &[]);
    let circular = [string_attribute("mode", "circular")];
    survives("TensorScatter", 24, &[Floats(&[2, 4, 3]), Floats(&[2, 3, 3]), Ints(&[2])], &circular);
    survives("Upsample", 9, &[Floats(&[1, 1, 2, 3]), Wild(&[4])], &[]);
    for axis in [&[][..], &[int_attribute("axis", 0)], &[int_attribute("axis", -1)]] {
        survives("Unique", 11, &[Wild(&[2, 3])], axis);
    }
    let kernel = list("kernel_shape", &[2, 2]);
    for pads in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        let auto = string_attribute("auto_pad", pads);
        survives("LpPool", 18, &[Wild(&[1, 1, 4, 4])], &[kernel.clone(), auto]);
    }
    survives("MaxUnpool", 11, &[Floats(&[1, 1, 2, 2]), Ints(&[1, 1, 2, 2])], &[kernel]);
    survives("Col2Im", 18, &[Floats(&[1, 4, 4]), Ints(&[2]), Ints(&[2])], &[]);
    nothing_found();
}

/// Their results in unclear cases.
#[test]
fn own_operators_follow_the_specification() {
    use crate::support::onnx::{tensor_f32, tensor_i64};
    let answers = |op: &str,
                   opset: i64,
                   x: &[f32],
                   dims: &[i64],
                   more: &[Message],
                   names: &[&str],
                   attributes: &[Message]| {
        let inputs: Vec<&str> = std::iter::once("x").chain(names.iter().copied()).collect();
        let graph = Graph {
            nodes: vec![node(op, &inputs, &["y"], attributes)],
            initializers: more.to_vec(),
            inputs: vec![value("x", FLOAT, &fixed(dims))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        let shape: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
        let x = Tensor::new(x.to_vec(), &shape).unwrap();
        let bytes = crate::structure::with_opset(&graph, opset);
        crate::run(&bytes, &[("x", x)])
            .map(|outputs| outputs[0].1.as_slice::<f32>().unwrap().to_vec())
    };
    let nan = f32::NAN;
    // A reduction keeps NaN, and counts indices from the end.
    for (how, expected) in [("max", [1.0, nan, 7.0]), ("min", [1.0, nan, 3.0])] {
        let more = [tensor_i64("i", &[3, 1], &[1, -1, 0]), tensor_f32("u", &[3], &[2.0, 7.0, 1.0])];
        let attributes = [string_attribute("reduction", how)];
        let found =
            answers("ScatterND", 18, &[1.0, nan, 3.0], &[3], &more, &["i", "u"], &attributes);
        let found = found.unwrap();
        assert!(
            found.iter().zip(expected).all(|(a, b)| *a == b || a.is_nan() && b.is_nan()),
            "{found:?}"
        );
        let attributes = [string_attribute("reduction", how)];
        let more = [tensor_i64("i", &[2], &[0, 0]), tensor_f32("u", &[2], &[nan, 9.0])];
        let found =
            answers("ScatterElements", 18, &[1.0, 2.0], &[2], &more, &["i", "u"], &attributes)
                .unwrap();
        assert!(found[0].is_nan() && found[1] == 2.0, "{how}: {found:?}");
    }
    // The mean of ignored labels only is NaN.
    let labels = [tensor_i64("l", &[2], &[-1, -1])];
    let ignored = [int_attribute("ignore_index", -1)];
    let loss = |labels: &[Message], attributes: &[Message]| {
        answers("NegativeLogLikelihoodLoss", 13, &[1.0; 4], &[2, 2], labels, &["l"], attributes)
    };
    assert!(loss(&labels, &ignored).unwrap()[0].is_nan());
    assert!(loss(&labels, &[]).is_err());
    assert!(loss(&[tensor_i64("l", &[2], &[0, 2])], &[]).is_err());
    // One more element is padded at the end.
    let size = [tensor_i64("s", &[1], &[4])];
    let found = answers("CenterCropPad", 18, &[1.0], &[1], &size, &["s"], &[]).unwrap();
    assert_eq!(found, [0.0, 1.0, 0.0, 0.0]);
    let size = [tensor_i64("s", &[1], &[1])];
    let found = answers("CenterCropPad", 18, &[1.0, 2.0, 3.0, 4.0], &[4], &size, &["s"], &[]);
    assert_eq!(found.unwrap(), [2.0]);
    assert!(answers("Unique", 11, &[1.0, nan], &[2], &[], &[], &[]).is_err());
    assert_eq!(answers("Unique", 11, &[3.0, 1.0, 3.0], &[3], &[], &[], &[]).unwrap(), [1.0, 3.0]);
    let halves = [tensor_f32("s", &[1], &[1.5])];
    assert!(answers("Upsample", 9, &[1.0, 2.0], &[2], &halves, &["s"], &[]).is_err());
    // A singular matrix, and one with swapped rows.
    let det = |x: &[f32]| answers("Det", 22, x, &[2, 2], &[], &[], &[]).unwrap();
    assert_eq!((det(&[1.0, 2.0, 2.0, 4.0]), det(&[0.0, 1.0, 1.0, 0.0])), (vec![0.0], vec![-1.0]));
    assert!(answers("Det", 22, &[1.0; 6], &[2, 3], &[], &[], &[]).is_err());
}

#[test]
fn sizes_of_tensors_without_elements_add_up_when_they_are_known_in_runs_only() {
    // The size of the slice follows from its steps; the constant keeps it from being simplified.
    let graph = Graph {
        nodes: vec![
            node("Slice", &["x", "start", "end", "axes", "steps"], &["part"], &[]),
            node("Min", &["part", "most"], &["least"], &[]),
            node("Concat", &["least", "b"], &["y"], &[int_attribute("axis", 2)]),
        ],
        initializers: vec![
            tensor_i64("start", &[1], &[0]),
            tensor_i64("end", &[1], &[0]),
            tensor_i64("axes", &[1], &[1]),
            tensor_f32("most", &[5], &[1.0; 5]),
        ],
        inputs: vec![
            value("x", FLOAT, &fixed(&[2, 3, 5])),
            value("steps", INT64, &fixed(&[1])),
            value("b", FLOAT, &fixed(&[2, 0, 3])),
        ],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let steps = Tensor::new(vec![1i64], &[1]).unwrap();
    let inputs = [("x", ones(&[2, 3, 5])), ("steps", steps), ("b", ones(&[2, 0, 3]))];
    let outputs = crate::run(&graph.bytes(), &inputs).unwrap();
    assert_eq!(outputs[0].1.shape(), [2, 0, 8]);
}

#[test]
fn batches_whose_size_is_known_in_runs_only_are_broadcast() {
    let one_then = |op: &str, attributes: &[Message]| Graph {
        nodes: vec![
            node("Reshape", &["x", "shape"], &["a"], &[]),
            node(op, &["a", "b"], &["left"], attributes),
            node("Transpose", &["b"], &["c"], &[ints_attribute("perm", &[0, 2, 1])]),
            node("Reshape", &["x", "other"], &["d"], &[]),
            node(op, &["c", "d"], &["right"], attributes),
        ],
        inputs: vec![
            value("x", FLOAT, &fixed(&[5])),
            value("shape", INT64, &fixed(&[3])),
            value("other", INT64, &fixed(&[3])),
            value("b", FLOAT, &fixed(&[2, 5, 2])),
        ],
        outputs: vec![value_of_any_shape("left", FLOAT), value_of_any_shape("right", FLOAT)],
        ..Graph::default()
    };
    let shape = |dims: [i64; 3]| Tensor::new(dims.to_vec(), &[3]).unwrap();
    let inputs = [
        ("x", ones(&[5])),
        ("shape", shape([1, 1, 5])),
        ("other", shape([1, 5, 1])),
        ("b", ones(&[2, 5, 2])),
    ];
    let einsum = string_attribute("equation", "...ij,...jk->...ik");
    for graph in [one_then("MatMul", &[]), one_then("Einsum", &[einsum])] {
        let outputs = crate::run(&graph.bytes(), &inputs).unwrap();
        for ((_, found), shape) in outputs.iter().zip([[2, 1, 2], [2, 2, 1]]) {
            assert_eq!(found.shape(), shape);
            assert_eq!(found.as_slice::<f32>(), Some(&[5f32; 4][..]));
        }
    }
}
