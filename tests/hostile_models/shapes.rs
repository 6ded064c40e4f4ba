//! Shapes: the result has the shape of the specification, or the model is refused.

use belljar::Tensor;

use crate::support::onnx::{
    FLOAT, Graph, INT64, Message, fixed, int_attribute, ints_attribute, node, string_attribute,
    tensor_f32, value, value_of_any_shape,
};
use crate::{one, ones, refused, run, with_ints};

const UINT8: i64 = 2;
const INT32: i64 = 6;

fn counted(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    Tensor::new((0..count).map(|at| at as f32).collect::<Vec<_>>(), shape).unwrap()
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|dim| *dim as i64).collect()
}

/// A model of one node that reads `x`, in an operator set.
fn old(op: &str, opset: i64, shape: &[usize], more: &[Message], attributes: &[Message]) -> Vec<u8> {
    let names: Vec<&str> = ["x", "w"].into_iter().take(1 + more.len()).collect();
    let graph = Graph {
        nodes: vec![node(op, &names, &["y"], attributes)],
        initializers: more.to_vec(),
        inputs: vec![value("x", FLOAT, &fixed(&dims(shape)))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    crate::structure::with_opset(&graph, opset)
}

#[test]
fn squeeze_takes_axes_in_any_order() {
    let x = || [("x", counted(&[1, 2, 1, 3, 1]))];
    for axes in [&[4, 0, 2][..], &[2, 4, 0], &[-1, 0, -3], &[0, 2, 4]] {
        let by_input = with_ints("Squeeze", &[1, 2, 1, 3, 1], axes, &[]);
        let attribute = [ints_attribute("axes", axes)];
        for model in [by_input, old("Squeeze", 11, &[1, 2, 1, 3, 1], &[], &attribute)] {
            let outputs = run(&model, &x()).unwrap();
            assert_eq!(outputs[0].1, counted(&[2, 3]), "{axes:?}");
        }
    }
    for axes in [&[2, 1][..], &[1], &[-2, 0]] {
        refused(&with_ints("Squeeze", &[1, 2, 1, 3, 1], axes, &[]), &x(), "not 1");
    }
}

#[test]
fn einsum_results_follow_their_equations() {
    let einsum = |equation: &str, shapes: &[&[usize]]| {
        let names = &["a", "b"][..shapes.len()];
        let graph = Graph {
            nodes: vec![node("Einsum", names, &["y"], &[string_attribute("equation", equation)])],
            inputs: names
                .iter()
                .zip(shapes)
                .map(|(name, shape)| value(name, FLOAT, &fixed(&dims(shape))))
                .collect(),
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let tensors = names.iter().zip(shapes).map(|(name, shape)| (*name, counted(shape)));
        (graph.bytes(), tensors.collect::<Vec<_>>())
    };
    // The sum of all elements is 0 + 1 + … + n - 1.
    type Shapes<'a> = &'a [&'a [usize]];
    let answers: [(&str, Shapes, &[usize], &[f32]); 9] = [
        ("a,b->", &[&[3], &[4]], &[], &[18.0]),
        ("ae, bc -> ", &[&[2, 2], &[2, 2]], &[], &[36.0]),
        ("ab,ab", &[&[2, 2], &[2, 2]], &[], &[14.0]),
        ("ab->", &[&[2, 2]], &[], &[6.0]),
        ("aa->", &[&[2, 2]], &[], &[3.0]),
        ("ba", &[&[2, 3]], &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("b,a", &[&[2], &[3]], &[3, 2], &[0.0, 0.0, 0.0, 1.0, 0.0, 2.0]),
        ("...a,...ab", &[&[2, 2], &[2, 2, 1]], &[2, 1], &[1.0, 13.0]),
        ("...a,ba->...b", &[&[2, 2], &[2, 2]], &[2, 2], &[1.0, 3.0, 3.0, 13.0]),
    ];
    for (equation, shapes, shape, values) in answers {
        let (model, tensors) = einsum(equation, shapes);
        let outputs = run(&model, &tensors).unwrap_or_else(|err| panic!("{equation}: {err}"));
        assert_eq!(outputs[0].1, Tensor::new(values.to_vec(), shape).unwrap(), "{equation}");
    }
    let refusals: [(&str, Shapes, &str); 3] = [
        (",->", &[&[], &[]], "without letters"),
        ("...a,...b->...", &[&[2], &[3]], "an ellipsis that stands for no dimension"),
        ("...a->a", &[&[2, 3]], "the equation"),
    ];
    for (equation, shapes, why) in refusals {
        let (model, tensors) = einsum(equation, shapes);
        refused(&model, &tensors, why);
    }
}

#[test]
fn matmul_integer_takes_vectors() {
    let product = |a: &[usize], b: &[usize]| {
        let inputs =
            [("a", a), ("b", b)].map(|(name, shape)| value(name, UINT8, &fixed(&dims(shape))));
        let bytes = Graph {
            nodes: vec![node("MatMulInteger", &["a", "b"], &["y"], &[])],
            inputs: inputs.to_vec(),
            outputs: vec![value_of_any_shape("y", INT32)],
            ..Graph::default()
        }
        .bytes();
        let twos = |shape: &[usize]| Tensor::new(vec![2u8; shape.iter().product()], shape).unwrap();
        (bytes, [("a", twos(a)), ("b", twos(b))])
    };
    let rows: [(&[usize], &[usize], &[usize]); 4] = [
        (&[1, 3], &[3, 2], &[1, 2]),
        (&[3], &[3, 2], &[2]),
        (&[2, 3], &[3], &[2]),
        (&[3], &[3], &[]),
    ];
    for (a, b, shape) in rows {
        let (model, inputs) = product(a, b);
        let expected = vec![12i32; shape.iter().product()];
        let outputs = run(&model, &inputs).unwrap();
        assert_eq!(outputs[0].1, Tensor::new(expected, shape).unwrap());
    }
    let (model, inputs) = product(&[3], &[2]);
    refused(&model, &inputs, "cannot be multiplied");
}

/// tract does not terminate on such a product unless both dimensions are known to be 1.
#[test]
fn matmul_along_a_dimension_of_one_known_at_run_time_terminates() {
    let graph = Graph {
        nodes: vec![
            node("Expand", &["x", "to"], &["wide"], &[]),
            node("MatMul", &["wide", "w"], &["y"], &[]),
        ],
        initializers: vec![tensor_f32("w", &[1, 2], &[2.0, 3.0])],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 1, 1])), value("to", INT64, &fixed(&[3]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let to = |last: i64| {
        [("x", ones(&[2, 1, 1])), ("to", Tensor::new(vec![2i64, 2, last], &[3]).unwrap())]
    };
    let outputs = run(&graph.bytes(), &to(1)).unwrap();
    assert_eq!(outputs[0].1, Tensor::new([2.0f32, 3.0].repeat(4), &[2, 2, 2]).unwrap());
    let err = run(&graph.bytes(), &to(3)).expect_err("three columns and one row");
    assert!([4, 6].contains(&err.exit_code()), "{err}");
    assert!(!err.to_string().contains("panicked"), "{err}");
}

/// As in onnxruntime, because version 10 does not specify which of two elements is the nearest.
#[test]
fn resize_10_matches_onnxruntime() {
    let scaled = |scale: f32| old("Resize", 10, &[4], &[tensor_f32("w", &[1], &[scale])], &[]);
    let x = || [("x", counted(&[4]))];
    let answers: [(f32, &[f32]); 4] = [
        (1.0, &[0.0, 1.0, 2.0, 3.0]),
        (3.0, &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]),
        (0.5, &[0.0, 2.0]),
        (0.25, &[0.0]),
    ];
    for (scale, values) in answers {
        let outputs = run(&scaled(scale), &x()).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), values, "{scale}");
    }
    for scale in [0.6, 1.5, 2.3, 0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused(&scaled(scale), &x(), "a scale of");
    }
}

#[test]
fn auto_pad_refuses_strides_larger_than_the_kernel() {
    for auto in ["SAME_UPPER", "SAME_LOWER"] {
        let pooled = |op: &str, stride: i64| {
            let attributes = [
                ints_attribute("kernel_shape", &[2]),
                ints_attribute("strides", &[stride]),
                string_attribute("auto_pad", auto),
            ];
            one(op, &[1, 1, 6], &[], &[], &attributes)
        };
        for op in ["LpPool", "MaxPool", "AveragePool"] {
            let outputs = run(&pooled(op, 2), &[("x", ones(&[1, 1, 6]))]).unwrap();
            assert_eq!(outputs[0].1.shape(), [1, 1, 3], "{op}");
            refused(&pooled(op, 3), &[("x", ones(&[1, 1, 6]))], "strides larger than the kernel");
        }
    }
    let counted_twice = [int_attribute("p", 1), ints_attribute("kernel_shape", &[2])];
    let sums = one("LpPool", &[1, 1, 4], &[], &[], &counted_twice);
    let outputs = run(&sums, &[("x", counted(&[1, 1, 4]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 3.0, 5.0]);
}

/// tract divides by the number of elements, which may be zero.
#[test]
fn reductions_of_sizes_known_at_run_time_are_exact() {
    let answers: [(&str, f32, f32); 5] = [
        ("ReduceSum", 0.0, 6.0),
        ("ReduceL1", 0.0, 6.0),
        ("ReduceL2", 0.0, 14f32.sqrt()),
        ("ReduceSumSquare", 0.0, 14.0),
        ("ReduceLogSum", f32::NEG_INFINITY, 6f32.ln()),
    ];
    for (op, of_nothing, of_four) in answers {
        let names = ["from", "to", "by"];
        let graph = Graph {
            nodes: vec![
                node("Range", &names, &["line"], &[]),
                node(op, &["line"], &["y"], &[int_attribute("keepdims", 0)]),
            ],
            inputs: names.iter().map(|name| value(name, FLOAT, &fixed(&[]))).collect(),
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        for (to, expected) in [(0.0, of_nothing), (4.0, of_four)] {
            let numbers = [0.0f32, to, 1.0].map(|number| Tensor::new(vec![number], &[]).unwrap());
            let inputs: Vec<_> = names.into_iter().zip(numbers).collect();
            let outputs = run(&graph.bytes(), &inputs).unwrap();
            assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [expected], "{op} to {to}");
        }
    }
}
