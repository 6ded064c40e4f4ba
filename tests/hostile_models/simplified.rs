//! What an optimiser may make of several nodes: what they answer one after the other, and nothing
//! that only looks like it.

use belljar::Tensor;
use belljar::tensor::f16;

use crate::support::onnx::{
    BOOL, FLOAT, Graph, INT64, Message, fixed, int_attribute, node, string_attribute, tensor_f32,
    tensor_i64, value, value_of_any_shape,
};
use crate::{refused, run};

const FLOAT16: i64 = 10;
const DOUBLE: i64 = 11;

/// One element, or a list of them, of an initializer of 64-bit floats.
fn doubles(name: &str, dims: &[i64], values: &[f64]) -> Message {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dims = dims.iter().fold(Message::new(), |tensor, dim| tensor.int(1, *dim));
    dims.int(2, DOUBLE).bytes(8, name).bytes(9, bytes)
}

/// What comes of nodes that read `x`, of a type.
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
fn what_is_repeated_before_a_product() {
    // The shape to repeat to, the equation, the other operand, and what comes of 1, 2, 3.
    let row = floats(&[1.0, 2.0, 3.0], &[1, 3]);
    let cases: [(&[i64], &str, &[i64], Tensor); 5] = [
        // Summed up along what is repeated.
        (&[4, 3], "kn,mk->mn", &[1, 4], floats(&[10.0, 20.0, 30.0], &[1, 3])),
        (&[2, 3], "ab,c->c", &[2], floats(&[12.0, 24.0], &[2])),
        // Nothing else says how wide the result is.
        (&[2, 3], "ab,c->abc", &[1], floats(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], &[2, 3, 1])),
        (&[2, 1, 3], "zab,c->zb", &[1], floats(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], &[2, 3])),
        // The other operand is as wide: what may be left out, and what comes of it.
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
fn zero_times_what_has_no_end_is_no_number() {
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
fn two_factors_are_not_one() {
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
fn constants_of_64_bits_are_not_rounded_to_32() {
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
fn half_of_an_odd_number_is_no_whole_one() {
    // The numbers from 0 on; which of them have a rest when they are halved?
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
fn functions_of_16_bits_go_all_the_way() {
    let x = [f16::NEG_INFINITY, f16::from_f32(-20.0), f16::from_f32(20.0), f16::INFINITY];
    for (op, least) in [("Sigmoid", f16::ZERO), ("Tanh", f16::NEG_ONE)] {
        let x = Tensor::new(x.to_vec(), &[4]).unwrap();
        let y = answer(vec![node(op, &["x"], &["y"], &[])], &[], FLOAT16, x);
        assert_eq!(y.as_slice::<f16>().unwrap(), [least, least, f16::ONE, f16::ONE], "{op}");
    }
}

#[test]
fn of_nothing_there_is_nothing() {
    for op in ["Softmax", "LogSoftmax"] {
        for axis in [0, 1] {
            let attributes = [int_attribute("axis", axis)];
            let of = |from: &str| node(op, &[from], &["y"], &attributes);
            let nothing = Tensor::new(Vec::<f64>::new(), &[2, 0]).unwrap();
            assert_eq!(answer(vec![of("x")], &[], DOUBLE, nothing.clone()), nothing);
            // Only known when it runs.
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
fn places_are_counted_from_the_end_as_well() {
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
fn truth_is_compared() {
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
