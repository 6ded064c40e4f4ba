//! Combinations of nodes that an optimizer may rewrite: the result must be that of the separate
//! nodes.

use belljar::Tensor;
use belljar::policy::Kernels;
use belljar::tensor::f16;

use crate::support::load_under;
use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, fixed, int_attribute, node, string_attribute, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};
use crate::{HOST, policy, refused, run};

const FLOAT16: i64 = 10;
const DOUBLE: i64 = 11;

/// An initializer of 64-bit floats.
fn doubles(name: &str, dims: &[i64], values: &[f64]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dims = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    dims.int(2, DOUBLE).bytes(8, name).bytes(9, bytes)
}

/// The output of nodes that read `x` of this type.
fn answer(nodes: Vec<Message>, initializers: &[Message], elem_type: i64, x: Tensor) -> Tensor {
    let dims: Vec<i64> = x.shape().iter().map(|dim| *dim as i64).collect();
    let graph = Graph {
        nodes,
        initializers: initializers.to_vec(),
        inputs: vec![value("x", elem_type, &fixed(&dims))],
        outputs: vec![value_of_any_shape("y", elem_type)],
    };
    run(&graph.bytes(), &[("x", x)]).unwrap().remove(0).1
}

fn floats(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::new(values.to_vec(), shape).unwrap()
}

#[test]
fn products_of_broadcast_operands_are_exact() {
    // The shape to expand to, the equation, the shape of the other operand, and the result for 1,
    // 2, 3.
    let row = floats(&[1.0, 2.0, 3.0], &[1, 3]);
    let cases: [(&[i64], &str, &[i64], Tensor); 5] = [
        // Summed along the expanded axis.
        (&[4, 3], "kn,mk->mn", &[1, 4], floats(&[10.0, 20.0, 30.0], &[1, 3])),
        (&[2, 3], "ab,c->c", &[2], floats(&[12.0, 24.0], &[2])),
        // Only the expanded operand has the size of the result.
        (&[2, 3], "ab,c->abc", &[1], floats(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], &[2, 3, 1])),
        (&[2, 1, 3], "zab,c->zb", &[1], floats(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], &[2, 3])),
        // The other operand has the same size, so the expansion may be omitted.
        (&[2, 3], "ab,ac->abc", &[2, 1], floats(&[1.0, 2.0, 3.0, 2.0, 4.0, 6.0], &[2, 3, 1])),
    ];
    for (to, equation, other, expected) in cases {
        let count = other.iter().product::<i64>();
        let numbers: Vec<f32> = (1..=count).map(|number| number as f32).collect();
        let nodes = vec![
            node("Expand", &["x", "to"], &["repeated"], &[]),
            node("Einsum", &["repeated", "w"], &["y"], &[string_attribute("equation", equation)]),
        ];
        let initializers =
            [tensor_i64("to", &[to.len() as i64], to), tensor_f32("w", other, &numbers)];
        assert_eq!(answer(nodes, &initializers, FLOAT, row.clone()), expected, "{equation}");
    }
    let nodes = vec![
        node("Expand", &["x", "to"], &["repeated"], &[]),
        node("MatMul", &["w", "repeated"], &["y"], &[]),
    ];
    let initializers =
        [tensor_i64("to", &[2], &[4, 1]), tensor_f32("w", &[1, 4], &[1.0, 2.0, 3.0, 4.0])];
    let expected = floats(&[10.0, 20.0, 30.0], &[1, 3]);
    assert_eq!(answer(nodes, &initializers, FLOAT, row), expected);
}

#[test]
fn products_of_zero_and_infinity_are_nan() {
    let x = floats(&[f32::INFINITY, f32::NAN, 1.0, f32::NEG_INFINITY], &[4]);
    for (dims, zeros) in [(&[][..], &[0.0f32][..]), (&[1], &[-0.0]), (&[4], &[0.0; 4])] {
        for names in [["x", "zero"], ["zero", "x"]] {
            let initializers = [tensor_f32("zero", dims, zeros)];
            let nodes = vec![node("Mul", &names, &["y"], &[])];
            let y = answer(nodes, &initializers, FLOAT, x.clone());
            let y = y.as_slice::<f32>().unwrap();
            assert!(y[0].is_nan() && y[1].is_nan() && y[2] == 0.0 && y[3].is_nan(), "{y:?}");
        }
    }
}

#[test]
fn successive_factors_are_not_combined() {
    for (x, factor, expected) in [(1e30f32, 1e-30f32, 1e-30f32), (1e-30, 1e30, 1e30)] {
        let initializers = [tensor_f32("a", &[], &[factor]), tensor_f32("b", &[1], &[factor])];
        let nodes =
            vec![node("Mul", &["x", "a"], &["xa"], &[]), node("Mul", &["b", "xa"], &["y"], &[])];
        let y = answer(nodes, &initializers, FLOAT, floats(&[x], &[1]));
        let y = y.as_slice::<f32>().unwrap()[0];
        assert!((y / expected - 1.0).abs() < 1e-6, "{y} for {expected}");
    }
}

#[test]
fn float64_constants_are_not_rounded_to_float32() {
    let cases = [
        ("Add", 0.0, 1e-300, 1e-300),
        ("Sub", 0.0, 1e-300, -1e-300),
        ("Mul", 1e300, 1e-300, 1.0),
        ("Mul", 1.0, 1.0 + 1e-12, 1.0 + 1e-12),
        ("Div", 1.0, 1.0 - 1e-12, 1.0 / (1.0 - 1e-12)),
        ("Pow", 2.0, 2.0 + 1e-12, 2f64.powf(2.0 + 1e-12)),
        ("Pow", 1e-300, 0.5 + 1e-12, 1e-300f64.powf(0.5 + 1e-12)),
    ];
    for (op, x, constant, expected) in cases {
        let nodes = vec![node(op, &["x", "c"], &["y"], &[])];
        let x = Tensor::new(vec![x], &[1]).unwrap();
        let y = answer(nodes, &[doubles("c", &[1], &[constant])], DOUBLE, x);
        let y = y.as_slice::<f64>().unwrap()[0];
        assert!((y / expected - 1.0).abs() < 1e-14, "{op} {constant}: {y} for {expected}");
    }
}

#[test]
fn half_of_an_odd_number_is_not_an_integer() {
    // The numbers from 0; the odd ones are replaced by 10.
    let nodes = vec![
        node("Range", &["zero", "n", "one"], &["numbers"], &[]),
        node("Cast", &["numbers"], &["floats"], &[int_attribute("to", FLOAT)]),
        node("Mul", &["floats", "half"], &["halves"], &[]),
        node("Floor", &["halves"], &["whole"], &[]),
        node("Sub", &["halves", "whole"], &["rest"], &[]),
        node("Greater", &["rest", "none"], &["odd"], &[]),
        node("Where", &["odd", "ten", "floats"], &["y"], &[]),
    ];
    let graph = Graph {
        nodes,
        initializers: vec![
            tensor_i64("zero", &[], &[0]),
            tensor_i64("one", &[], &[1]),
            tensor_f32("half", &[], &[0.5]),
            tensor_f32("none", &[], &[0.0]),
            tensor_f32("ten", &[], &[10.0]),
        ],
        inputs: vec![value("n", INT64, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let n = Tensor::new(vec![5i64], &[]).unwrap();
    let outputs = run(&graph.bytes(), &[("n", n)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.0, 10.0, 2.0, 10.0, 4.0]);
}

#[test]
fn float16_functions_reach_their_limits() {
    let x = [f16::NEG_INFINITY, f16::from_f32(-20.0), f16::from_f32(20.0), f16::INFINITY];
    for (op, least) in [("Sigmoid", f16::ZERO), ("Tanh", f16::NEG_ONE)] {
        let x = Tensor::new(x.to_vec(), &[4]).unwrap();
        let y = answer(vec![node(op, &["x"], &["y"], &[])], &[], FLOAT16, x);
        assert_eq!(y.as_slice::<f16>().unwrap(), [least, least, f16::ONE, f16::ONE], "{op}");
    }
}

#[test]
fn softmax_of_an_empty_tensor_is_empty() {
    for op in ["Softmax", "LogSoftmax"] {
        for axis in [0, 1] {
            let attributes = [int_attribute("axis", axis)];
            let of = |from: &str| node(op, &[from], &["y"], &attributes);
            let nothing = Tensor::new(Vec::<f64>::new(), &[2, 0]).unwrap();
            assert_eq!(answer(vec![of("x")], &[], DOUBLE, nothing.clone()), nothing);
            // With a size that is only known at run time.
            let graph = Graph {
                nodes: vec![
                    node("Compress", &["x", "kept"], &["some"], &[int_attribute("axis", 1)]),
                    of("some"),
                ],
                inputs: vec![
                    value("x", DOUBLE, &fixed(&[2, 1])),
                    value("kept", BOOL, &fixed(&[1])),
                ],
                outputs: vec![value_of_any_shape("y", DOUBLE)],
                ..Graph::default()
            };
            let x = || Tensor::new(vec![1.0f64, 1.0], &[2, 1]).unwrap();
            for kept in [false, true] {
                let kept_tensor = Tensor::new(vec![kept], &[1]).unwrap();
                let inputs = [("x", x()), ("kept", kept_tensor)];
                let outputs = run(&graph.bytes(), &inputs).unwrap();
                assert_eq!(outputs[0].1.shape(), [2, usize::from(kept)], "{op}");
            }
        }
    }
}

#[test]
fn gather_nd_counts_negative_indices_from_the_end() {
    let graph = |constant: bool| Graph {
        nodes: vec![node("GatherND", &["x", "places"], &["y"], &[])],
        initializers: [tensor_i64("places", &[2, 2], &[-1, -3, 1, -1])]
            .into_iter()
            .filter(|_| constant)
            .collect(),
        inputs: [value("x", FLOAT, &fixed(&[2, 3])), value("places", INT64, &fixed(&[2, 2]))]
            .into_iter()
            .take(2 - usize::from(constant))
            .collect(),
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let x = || ("x", floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[2, 3]));
    let places = |places: [i64; 4]| ("places", Tensor::new(places.to_vec(), &[2, 2]).unwrap());
    let expected = floats(&[3.0, 5.0], &[2]);
    assert_eq!(run(&graph(true).bytes(), &[x()]).unwrap()[0].1, expected);
    let given = [x(), places([-1, -3, 1, -1])];
    assert_eq!(run(&graph(false).bytes(), &given).unwrap()[0].1, expected);
    for outside in [[0, 3, 0, 0], [0, 0, -3, 0], [0, -4, 0, 0], [i64::MIN, 0, 0, 0]] {
        refused(&graph(false).bytes(), &[x(), places(outside)], "the index");
    }
}

#[test]
fn booleans_are_compared() {
    let graph = Graph {
        nodes: vec![node("Equal", &["x", "yes"], &["y"], &[])],
        initializers: vec![Message::new().int(1, 1).int(2, BOOL).bytes(8, "yes").bytes(9, [1])],
        inputs: vec![value("x", BOOL, &fixed(&[2]))],
        outputs: vec![value_of_any_shape("y", BOOL)],
    };
    let x = Tensor::new(vec![true, false], &[2]).unwrap();
    let outputs = run(&graph.bytes(), &[("x", x.clone())]).unwrap();
    assert_eq!(outputs[0].1, x);
}

#[test]
fn strided_slices_stay_after_softmax_and_norms() {
    let numbers: Vec<f32> = (0..20).map(|at| (at * at % 7) as f32 - 2.0).collect();
    let list = |name: &str, value: i64| tensor_i64(name, &[1], &[value]);
    for op in ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"] {
        for along in [0, 1] {
            for (over, from, to, by) in
                [(1, 0, 5, 2), (1, 0, 5, 7), (1, -1, -100, -2), (0, 1, 4, 2), (0, -1, -100, -1)]
            {
                let bounds =
                    [list("from", from), list("to", to), list("over", over), list("by", by)];
                let all = |to: &str| node(op, &["x"], &[to], &[int_attribute("axis", along)]);
                let step = |of: &str| node("Slice", &[of, "from", "to", "over", "by"], &["y"], &[]);
                let x = floats(&numbers, &[4, 5]);
                let alone = answer(vec![all("y")], &[], FLOAT, x.clone());
                let expected = answer(vec![step("x")], &bounds, FLOAT, alone);
                let found = answer(vec![all("all"), step("all")], &bounds, FLOAT, x);
                assert_eq!(found.shape(), expected.shape());
                let pairs = found.as_slice::<f32>().unwrap().iter();
                for (found, expected) in pairs.zip(expected.as_slice::<f32>().unwrap()) {
                    let what = format!("{op} along {along}, each {by} over {over}");
                    assert!((found - expected).abs() < 1e-6, "{what}: {found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn the_mean_of_equal_numbers_is_exact() {
    for (number, count) in [(-1597.0, 112), (2.0, 490), (3.0, 49), (0.5, 7)] {
        let scale = [tensor_f32("scale", &[count], &vec![60000.0; count as usize])];
        let nodes = vec![node("LayerNormalization", &["x", "scale"], &["y"], &[])];
        let x = floats(&vec![number; count as usize], &[1, count as usize]);
        let y = answer(nodes, &scale, FLOAT, x);
        assert!(
            y.as_slice::<f32>().unwrap().iter().all(|y| *y == 0.0),
            "{count} of {number}: {y:?}"
        );
    }
}

#[test]
fn shape_and_size_of_run_time_sizes_are_computed() {
    let x = floats(&[0.0, 1.0, 2.0, 0.0, 3.0, 4.0], &[2, 3]);
    let from = [int_attribute("start", 1)];
    let cases: [(&str, &[Message], Tensor); 3] = [
        ("Shape", &[], Tensor::new(vec![2i64, 4], &[2]).unwrap()),
        ("Shape", &from, Tensor::new(vec![4i64], &[1]).unwrap()),
        ("Size", &[], Tensor::new(vec![8i64], &[]).unwrap()),
    ];
    for (op, attributes, expected) in cases {
        let graph = Graph {
            nodes: vec![
                node("NonZero", &["x"], &["places"], &[]),
                node(op, &["places"], &["y"], attributes),
            ],
            inputs: vec![value("x", FLOAT, &fixed(&[2, 3]))],
            outputs: vec![value_of_any_shape("y", INT64)],
            ..Graph::default()
        };
        assert_eq!(run(&graph.bytes(), &[("x", x.clone())]).unwrap()[0].1, expected, "{op}");
    }
}

#[test]
fn strided_slices_stay_after_a_convolution() {
    let numbers: Vec<f32> = (0..9).map(|at| (at * at % 7) as f32).collect();
    let list = |name: &str, value: i64| tensor_i64(name, &[1], &[value]);
    let padded = |auto_pad| [string_attribute("auto_pad", auto_pad)];
    for (from, to, by) in [(0, 9, 2), (1, 9, 2), (1, 8, 3), (2, 9, 4), (-1, -100, -2)] {
        for auto_pad in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
            let conv = |to: &str| node("Conv", &["x", "w"], &[to], &padded(auto_pad));
            let step = |of: &str| node("Slice", &[of, "from", "to", "over", "by"], &["y"], &[]);
            let kept = [
                tensor_f32("w", &[1, 1, 4], &[1.0, 2.0, 3.0, 5.0]),
                list("from", from),
                list("to", to),
                list("over", 2),
                list("by", by),
            ];
            let x = floats(&numbers, &[1, 1, 9]);
            for kernels in [Kernels::Native, Kernels::Sandbox] {
                let made = |nodes: Vec<Message>, x: Tensor| {
                    let dims: Vec<i64> = x.shape().iter().map(|dim| *dim as i64).collect();
                    let graph = Graph {
                        nodes,
                        initializers: kept.to_vec(),
                        inputs: vec![value("x", FLOAT, &fixed(&dims))],
                        outputs: vec![value_of_any_shape("y", FLOAT)],
                    };
                    let mut policy = policy();
                    policy.compute.kernels = kernels;
                    let model = load_under(&HOST, &graph.bytes(), &policy).unwrap();
                    let outputs = model.run(&[("x", x)]).and_then(|outputs| outputs.validate());
                    outputs.unwrap().into_tensors().remove(0).1
                };
                let expected = made(vec![step("x")], made(vec![conv("y")], x.clone()));
                let found = made(vec![conv("all"), step("all")], x.clone());
                assert_eq!(found, expected, "{auto_pad}, each {by} from {from}, {kernels:?}");
            }
        }
    }
}
