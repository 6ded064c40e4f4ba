//! Numbers at the limits of their types: the result follows the specification, or is refused.

use belljar::Tensor;
use belljar::policy::Kernels;

use crate::support::onnx::{
    FLOAT, Graph, INT64, fixed, int_attribute, ints_attribute, node, string_attribute, tensor_f32,
    value, value_of_any_shape,
};
use crate::{HOST, one, ones, policy, run};

const INT32: i64 = 6;
const DOUBLE: i64 = 11;
const UINT32: i64 = 12;

/// A model of one node on tensors of this type.
fn on(
    op: &str,
    elem_type: i64,
    inputs: &[&str],
    to: i64,
    attributes: &[crate::support::onnx::Message],
) -> Vec<u8> {
    Graph {
        nodes: vec![node(op, inputs, &["y"], attributes)],
        inputs: inputs.iter().map(|name| value(name, elem_type, &fixed(&[4]))).collect(),
        outputs: vec![value_of_any_shape("y", to)],
        ..Graph::default()
    }
    .bytes()
}

#[test]
fn large_integers_keep_64_bits() {
    let cast = on("Cast", DOUBLE, &["x"], INT64, &[int_attribute("to", INT64)]);
    let x = Tensor::new(vec![2f64.powi(40), -2f64.powi(40), 4294967297.0, 1.0], &[4]).unwrap();
    let outputs = run(&cast, &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [1 << 40, -1 << 40, (1 << 32) + 1, 1]);
    let sum = on("ReduceSum", INT64, &["x"], INT64, &[]);
    let x = Tensor::new(vec![1i64 << 40, 1 << 40, -5, 0], &[4]).unwrap();
    let outputs = run(&sum, &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [(1 << 41) - 5]);
}

#[test]
fn integer_divisions_by_zero_are_refused() {
    for op in ["Div", "Mod"] {
        let model = on(op, INT32, &["x", "z"], INT32, &[]);
        let x = Tensor::new(vec![7i32, -7, i32::MIN, 1], &[4]).unwrap();
        let by = |by: i32| Tensor::new(vec![2i32, 2, -1, by], &[4]).unwrap();
        let outputs = run(&model, &[("x", x.clone()), ("z", by(1))]).unwrap();
        let expected = if op == "Div" { [3, -3, i32::MIN, 1] } else { [1, 1, 0, 0] };
        assert_eq!(outputs[0].1.as_slice::<i32>().unwrap(), expected, "{op}");
        let err = run(&model, &[("x", x), ("z", by(0))]).err().unwrap();
        assert!([4, 6].contains(&err.exit_code()), "{err}");
        assert!(err.to_string().contains("division by zero"), "{err}");
    }
    let floats = on("Div", FLOAT, &["x", "z"], FLOAT, &[]);
    let x = Tensor::new(vec![49.0f32, 1e-39, 1.0, -1.0], &[4]).unwrap();
    let z = Tensor::new(vec![49.0f32, 1e-39, 0.0, 0.0], &[4]).unwrap();
    let outputs = run(&floats, &[("x", x), ("z", z)]).unwrap();
    // Division, not a product with a rounded inverse.
    assert_eq!(
        outputs[0].1.as_slice::<f32>().unwrap(),
        [1.0, 1.0, f32::INFINITY, f32::NEG_INFINITY]
    );
}

#[test]
fn bits_that_are_shifted_out_are_lost() {
    for (direction, expected) in [("LEFT", [2, 0, 0, 1 << 31]), ("RIGHT", [0, 0, 0, 0])] {
        let shift = on(
            "BitShift",
            UINT32,
            &["x", "z"],
            UINT32,
            &[string_attribute("direction", direction)],
        );
        let x = Tensor::new(vec![1u32, 1, 3, 1], &[4]).unwrap();
        let z = Tensor::new(vec![1u32, 32, u32::MAX, 31], &[4]).unwrap();
        let outputs = run(&shift, &[("x", x), ("z", z)]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<u32>().unwrap(), expected, "{direction}");
    }
}

#[test]
fn nan_is_never_dropped() {
    const NAN: f32 = f32::NAN;
    let x = || Tensor::new(vec![NAN, 2.0, -3.0, f32::NEG_INFINITY], &[1, 1, 1, 4]).unwrap();
    let bounds = [tensor_f32("low", &[], &[-1.0]), tensor_f32("high", &[], &[1.0])];
    let other = [tensor_f32("other", &[1, 1, 1, 4], &[0.0, NAN, 0.0, 0.0])];
    let window = [ints_attribute("kernel_shape", &[1, 2])];
    let dims = [1, 1, 1, 4];
    let cases = [
        ("Relu", one("Relu", &dims, &[], &[], &[]), vec![NAN, 2.0, 0.0, 0.0]),
        ("Clip", one("Clip", &dims, &bounds, &["low", "high"], &[]), vec![NAN, 1.0, -1.0, -1.0]),
        ("Max", one("Max", &dims, &other, &["other"], &[]), vec![NAN, NAN, 0.0, 0.0]),
        (
            "Min",
            one("Min", &dims, &other, &["other"], &[]),
            vec![NAN, NAN, -3.0, f32::NEG_INFINITY],
        ),
        ("ReduceMax", one("ReduceMax", &dims, &[], &[], &[]), vec![NAN]),
        ("ReduceMin", one("ReduceMin", &dims, &[], &[], &[]), vec![NAN]),
        ("GlobalMaxPool", one("GlobalMaxPool", &dims, &[], &[], &[]), vec![NAN]),
        ("HardSigmoid", one("HardSigmoid", &dims, &[], &[], &[]), vec![NAN, 0.9, 0.0, 0.0]),
        ("MaxPool", one("MaxPool", &dims, &[], &[], &window), vec![NAN, 2.0, -3.0]),
    ];
    for (name, bytes, expected) in cases {
        for kernels in [Kernels::Native, Kernels::Sandbox] {
            let mut policy = policy();
            policy.compute.kernels = kernels;
            let model = crate::support::load_under(&HOST, &bytes, &policy).unwrap();
            let outputs = model.run(&[("x", x())]).unwrap().validate().unwrap();
            let found = outputs.tensors()[0].1.as_slice::<f32>().unwrap();
            let same =
                |a: &f32, b: &f32| a == b || (a - b).abs() < 1e-6 || a.is_nan() && b.is_nan();
            let right = found.len() == expected.len()
                && found.iter().zip(&expected).all(|(a, b)| same(a, b));
            assert!(right, "{name}, {kernels:?}: {found:?} for {expected:?}");
        }
    }
}

#[test]
fn reductions_of_empty_tensors_are_neutral_elements() {
    let none = Tensor::new(Vec::<f32>::new(), &[2, 0]).unwrap();
    for (op, expected) in [
        ("ReduceSum", 0.0),
        ("ReduceProd", 1.0),
        ("ReduceMax", f32::NEG_INFINITY),
        ("ReduceMin", f32::INFINITY),
    ] {
        let axes = [ints_attribute("axes", &[1])];
        let bytes = match op {
            "ReduceSum" => crate::with_ints(op, &[2, 0], &[1], &[]),
            _ => one(op, &[2, 0], &[], &[], &axes),
        };
        let outputs = run(&bytes, &[("x", none.clone())]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [expected; 2], "{op}");
    }
}

#[test]
fn functions_do_not_overflow_in_intermediate_results() {
    let x = || Tensor::new(vec![1000.0f32, -1000.0, 0.0, 88.0], &[4]).unwrap();
    let outputs = run(&one("Softplus", &[4], &[], &[], &[]), &[("x", x())]).unwrap();
    let found = outputs[0].1.as_slice::<f32>().unwrap();
    assert!(
        found[0] == 1000.0 && found[1] == 0.0 && (found[2] - std::f32::consts::LN_2).abs() < 1e-6,
        "{found:?}"
    );
    let outputs =
        run(&one("LogSoftmax", &[4], &[], &[], &[int_attribute("axis", 0)]), &[("x", x())])
            .unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.0, -2000.0, -1000.0, -912.0]);
    let outputs = run(&one("ReduceLogSumExp", &[4], &[], &[], &[]), &[("x", x())]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1000.0]);
}

#[test]
fn constant_of_shape_defaults_to_float32_zeros() {
    let graph = Graph {
        nodes: vec![
            node("Shape", &["x"], &["shape"], &[]),
            node("ConstantOfShape", &["shape"], &["zeros"], &[]),
            node("Add", &["x", "zeros"], &["y"], &[]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
        outputs: vec![value("y", FLOAT, &fixed(&[2, 3]))],
        ..Graph::default()
    };
    let outputs = run(&graph.bytes(), &[("x", ones(&[2, 3]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0; 6]);
}

#[test]
fn products_with_zero_and_squares_of_roots_keep_nan() {
    let x = || Tensor::new(vec![f32::NAN, f32::INFINITY, -4.0, 4.0], &[4]).unwrap();
    let zero = tensor_f32("zero", &[], &[0.0]);
    let outputs = run(&one("Mul", &[4], &[zero], &["zero"], &[]), &[("x", x())]).unwrap();
    let found = outputs[0].1.as_slice::<f32>().unwrap();
    assert!(found[0].is_nan() && found[1].is_nan() && found[2..] == [0.0, 0.0], "{found:?}");
    let graph = Graph {
        nodes: vec![node("Sqrt", &["x"], &["r"], &[]), node("Mul", &["r", "r"], &["y"], &[])],
        inputs: vec![value("x", FLOAT, &fixed(&[4]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let outputs = run(&graph.bytes(), &[("x", x())]).unwrap();
    let found = outputs[0].1.as_slice::<f32>().unwrap();
    assert!(found[0].is_nan() && found[2].is_nan() && found[3] == 4.0, "{found:?}");
}

/// Inputs over the limits of the host's kernels are computed in the sandbox.
#[test]
fn signals_longer_than_the_kernels_limit_are_pooled() {
    let ints = |name, values: &[i64]| ints_attribute(name, values);
    let attributes =
        [ints("kernel_shape", &[200]), ints("pads", &[100, 100]), ints("strides", &[10])];
    let bytes = one("MaxPool", &[1, 1, 70_000], &[], &[], &attributes);
    let outputs = run(&bytes, &[("x", crate::ones(&[1, 1, 70_000]))]).unwrap();
    assert_eq!(outputs[0].1.shape(), [1, 1, 7001]);
    assert!(outputs[0].1.as_slice::<f32>().unwrap().iter().all(|value| *value == 1.0));
}

/// A difference of large squares would lose all precision.
#[test]
fn normalization_is_accurate_far_from_zero() {
    let x = || Tensor::new(vec![4097.0f32, 4098.0, 4097.0, 4098.0], &[1, 1, 2, 2]).unwrap();
    for axes in [&[0, 2, 3][..], &[-1, -2], &[3]] {
        let attribute = [ints_attribute("axes", axes)];
        let bytes = one("MeanVarianceNormalization", &[1, 1, 2, 2], &[], &[], &attribute);
        let outputs = run(&bytes, &[("x", x())]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [-1.0, 1.0, -1.0, 1.0], "{axes:?}");
    }
    for axes in [&[4][..], &[-5], &[1, 1], &[3, -1], &[]] {
        let attribute = [ints_attribute("axes", axes)];
        let bytes = one("MeanVarianceNormalization", &[1, 1, 2, 2], &[], &[], &attribute);
        crate::ends(&bytes, &[("x", x())]);
    }
    let matrix = one("MeanVarianceNormalization", &[2, 2], &[], &[], &[]);
    crate::ends(&matrix, &[("x", crate::ones(&[2, 2]))]);
}

/// tract does not check the sizes, and would read out of bounds.
#[test]
fn recurrent_weights_must_match_the_input() {
    let weights = |w: i64, r: i64| {
        [
            tensor_f32("w", &[1, 2, w], &vec![1.0; 2 * w as usize]),
            tensor_f32("r", &[1, 2, r], &vec![1.0; 2 * r as usize]),
        ]
    };
    let layer = |w, r| one("RNN", &[1, 1, 3], &weights(w, r), &["w", "r"], &[]);
    let x = || [("x", crate::ones(&[1, 1, 3]))];
    run(&layer(3, 2), &x()).unwrap();
    crate::refused(&layer(2, 2), &x(), "expected [");
    crate::refused(&layer(4, 2), &x(), "expected [");
    crate::refused(&layer(3, 3), &x(), "the model is refused");
}

/// tract's optimizer would compute a square in 32-bit floats, which saturate at the largest
/// integer.
#[test]
fn squares_of_integers_wrap_around() {
    let square = |elem_type| {
        Graph {
            nodes: vec![node("Mul", &["x", "x"], &["y"], &[])],
            inputs: vec![value("x", elem_type, &fixed(&[2]))],
            outputs: vec![value_of_any_shape("y", elem_type)],
            ..Graph::default()
        }
        .bytes()
    };
    let x = Tensor::new(vec![100i8, -3], &[2]).unwrap();
    let outputs = run(&square(3), &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i8>().unwrap(), [16, 9]);
    let x = Tensor::new(vec![40_001i32, 46_341], &[2]).unwrap();
    let outputs = run(&square(INT32), &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i32>().unwrap(), [1_600_080_001, -2_147_479_015]);
    let x = Tensor::new(vec![94_906_267i64, -3], &[2]).unwrap();
    let outputs = run(&square(INT64), &[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [94_906_267 * 94_906_267, 9]);
}

/// Without a maximum, ONNX selects no boxes and tract selects all.
#[test]
fn non_max_suppression_without_a_maximum_chooses_no_boxes() {
    use crate::support::onnx::tensor_i64;
    let model = |names: &[&str], most: i64| {
        let boxes = [0.0, 0.0, 1.0, 1.0, 5.0, 5.0, 6.0, 6.0];
        Graph {
            nodes: vec![node("NonMaxSuppression", names, &["y"], &[])],
            initializers: vec![
                tensor_f32("boxes", &[1, 2, 4], &boxes),
                tensor_i64("most", &[1], &[most]),
            ],
            inputs: vec![value("scores", FLOAT, &fixed(&[1, 1, 2]))],
            outputs: vec![value_of_any_shape("y", INT64)],
        }
        .bytes()
    };
    let x = || [("scores", ones(&[1, 1, 2]))];
    let named = ["boxes", "scores", "most"];
    assert_eq!(run(&model(&named, 1), &x()).unwrap()[0].1.shape(), [1, 3]);
    assert_eq!(run(&model(&named, 0), &x()).unwrap()[0].1.shape(), [0, 3]);
    assert_eq!(run(&model(&named[..2], 0), &x()).unwrap()[0].1.shape(), [0, 3]);
}

/// The padding value is only used in the mode `constant`; tract would use it in others too.
#[test]
fn pad_ignores_its_value_unless_the_mode_is_constant() {
    use crate::support::onnx::tensor_i64;
    let padded = |mode: &str, names: &[&str]| {
        let graph = Graph {
            nodes: vec![node("Pad", names, &["y"], &[string_attribute("mode", mode)])],
            initializers: vec![
                tensor_i64("pads", &[2], &[2, 1]),
                tensor_f32("value", &[], &[9.0]),
                tensor_i64("axes", &[1], &[-1]),
            ],
            inputs: vec![value("x", FLOAT, &fixed(&[3]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        let bytes = crate::structure::with_opset(&graph, 19);
        let x = Tensor::new(vec![1f32, 2.0, 3.0], &[3]).unwrap();
        run(&bytes, &[("x", x)]).unwrap()[0].1.as_slice::<f32>().unwrap().to_vec()
    };
    for (mode, expected) in [
        ("constant", [9.0, 9.0, 1.0, 2.0, 3.0, 9.0]),
        ("reflect", [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]),
        ("edge", [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
        ("wrap", [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]),
    ] {
        assert_eq!(padded(mode, &["x", "pads", "value"]), expected, "{mode}");
        assert_eq!(padded(mode, &["x", "pads", "value", "axes"]), expected, "{mode}");
        if mode != "constant" {
            assert_eq!(padded(mode, &["x", "pads"]), expected, "{mode}");
            assert_eq!(padded(mode, &["x", "pads", "", "axes"]), expected, "{mode}");
        }
    }
}

/// The dimensions to remove are only known at run time.
#[test]
fn squeeze_without_axes_reads_the_sizes_of_the_run() {
    let graph = Graph {
        nodes: vec![
            node("ConstantOfShape", &["sizes"], &["z"], &[]),
            node("Squeeze", &["z"], &["y"], &[]),
        ],
        inputs: vec![value("sizes", INT64, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    for (sizes, squeezed) in [([1i64, 3], vec![3]), ([2, 3], vec![2, 3]), ([1, 1], vec![])] {
        let sizes = Tensor::new(sizes.to_vec(), &[2]).unwrap();
        assert_eq!(run(&graph.bytes(), &[("sizes", sizes)]).unwrap()[0].1.shape(), squeezed);
    }
}

/// ONNX allows only one of them, and implementations disagree on which one wins.
#[test]
fn pads_with_auto_pad_are_refused() {
    let kernel = ints_attribute("kernel_shape", &[2]);
    let pool = |auto: &str, pads: &[i64]| {
        let attributes =
            [kernel.clone(), string_attribute("auto_pad", auto), ints_attribute("pads", pads)];
        one("MaxPool", &[1, 1, 3], &[], &[], &attributes)
    };
    let x = || [("x", ones(&[1, 1, 3]))];
    for (auto, pads) in [("SAME_UPPER", [0, 0]), ("SAME_LOWER", [0, 0]), ("VALID", [0, 1])] {
        crate::refused(&pool(auto, &pads), &x(), "both \"pads\" and \"auto_pad\"");
    }
    for (auto, pads, size) in [("NOTSET", [0, 1], 3), ("VALID", [0, 0], 2)] {
        assert_eq!(run(&pool(auto, &pads), &x()).unwrap()[0].1.shape(), [1, 1, size]);
    }
}
