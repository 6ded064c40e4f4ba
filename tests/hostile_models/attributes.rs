//! Attributes that are invalid, unknown or not implemented.

use crate::support::onnx::{
    FLOAT, Graph, INT64, Message, fixed, float_attribute, int_attribute, ints_attribute, node,
    string_attribute, tensor_f32, tensor_i64, value, value_of_any_shape,
};
use crate::{ends, one, ones, refused, run, with_ints};

fn x(dims: &[usize]) -> [(&'static str, belljar::Tensor); 1] {
    [("x", ones(dims))]
}

#[test]
fn unknown_attributes_and_operators_are_named() {
    let relu = |attributes: &[Message]| one("Relu", &[2], &[], &[], attributes);
    refused(
        &relu(&[int_attribute("leak", 1)]),
        &x(&[2]),
        "the attribute \"leak\" is not implemented",
    );
    let text = run(&relu(&[int_attribute("leak", 1)]), &x(&[2])).err().unwrap().to_string();
    assert!(text.contains("node \"y\": Relu (opset 17): "), "{text}");
    refused(
        &one("Frobnicate", &[2], &[], &[], &[]),
        &x(&[2]),
        "Frobnicate (opset 17): the operator",
    );
    refused(&one("Gelu", &[2], &[], &[], &[]), &x(&[2]), "operator set 20 and newer");
    let reverse = int_attribute("reverse", 7);
    refused(&with_ints("CumSum", &[2], &[0], &[reverse]), &x(&[2]), "\"reverse\" has the value 7");
    let alpha = float_attribute("alpha", f32::NAN);
    refused(&one("LeakyRelu", &[2], &[], &[], &[alpha]), &x(&[2]), "\"alpha\" has the value NaN");
    let alpha = int_attribute("alpha", 1);
    refused(&one("LeakyRelu", &[2], &[], &[], &[alpha]), &x(&[2]), "\"alpha\" is not a number");
}

#[test]
fn duplicate_or_invalid_attributes_are_refused() {
    let twice = [float_attribute("alpha", 0.5), float_attribute("alpha", 0.25)];
    refused(&one("LeakyRelu", &[2], &[], &[], &twice), &x(&[2]), "duplicate attribute");
    let many: Vec<Message> = (0..1000).map(|n| int_attribute(&format!("a{n}"), 1)).collect();
    refused(&one("Relu", &[2], &[], &[], &many), &x(&[2]), "1000 attributes");
    let of_function = float_attribute("alpha", 0.5).bytes(21, "beta");
    refused(&one("LeakyRelu", &[2], &[], &[], &[of_function]), &x(&[2]), "function");
    let no_type = Message::new().bytes(1, "alpha").float(2, 0.5);
    refused(&one("LeakyRelu", &[2], &[], &[], &[no_type]), &x(&[2]), "is not a number");
}

/// tract reads the channel dimension of these without checking that it exists.
#[test]
fn inputs_without_channels_are_refused() {
    let params = |names: &[&str]| {
        names.iter().map(|name| tensor_f32(name, &[3], &[1.0, 2.0, 3.0])).collect::<Vec<_>>()
    };
    for dims in [&[][..], &[3]] {
        let usizes: Vec<usize> = dims.iter().map(|dim| *dim as usize).collect();
        let names = ["scale", "bias", "mean", "var"];
        ends(&one("BatchNormalization", dims, &params(&names), &names, &[]), &x(&usizes));
        let names = ["scale", "bias"];
        ends(&one("InstanceNormalization", dims, &params(&names), &names, &[]), &x(&usizes));
        let slopes = tensor_f32("w", dims, &vec![1.0; dims.iter().product::<i64>() as usize]);
        for op in ["Conv", "ConvTranspose"] {
            ends(&one(op, dims, std::slice::from_ref(&slopes), &["w"], &[]), &x(&usizes));
        }
        let kernel = [ints_attribute("kernel_shape", &[])];
        for op in ["MaxPool", "AveragePool", "LpPool"] {
            ends(&one(op, dims, &[], &[], &kernel), &x(&usizes));
        }
        for op in ["GlobalAveragePool", "GlobalMaxPool"] {
            ends(&one(op, dims, &[], &[], &[]), &x(&usizes));
        }
        for op in ["DepthToSpace", "SpaceToDepth"] {
            ends(&one(op, dims, &[], &[], &[int_attribute("blocksize", 1)]), &x(&usizes));
        }
        ends(&one("LRN", dims, &[], &[], &[int_attribute("size", 1)]), &x(&usizes));
    }
    // The input is also one of the parameters.
    let graph = Graph {
        nodes: vec![node("BatchNormalization", &["s", "s", "b", "m", "v"], &["y"], &[])],
        inputs: ["s", "b", "m", "v"].map(|name| value(name, FLOAT, &fixed(&[3]))).to_vec(),
        outputs: vec![value_of_any_shape("y", FLOAT)],
        ..Graph::default()
    };
    let inputs = ["s", "b", "m", "v"].map(|name| (name, ones(&[3])));
    refused(&graph.bytes(), &inputs, "expected a batch with channels");
}

#[test]
fn axes_out_of_range_are_refused() {
    let axis = |axis| [int_attribute("axis", axis)];
    for op in ["Softmax", "LogSoftmax", "Hardmax", "Flatten", "Concat", "ArgMax"] {
        for at in [2, 31, 99, -3, -99, i64::MIN, i64::MAX] {
            // Flattening after the last dimension is valid.
            if op != "Flatten" || at != 2 {
                ends(&one(op, &[2, 3], &[], &[], &axis(at)), &x(&[2, 3]));
            }
        }
    }
    for axes in [&[2][..], &[-3], &[99], &[0, 0], &[0, -2], &[i64::MIN]] {
        ends(&with_ints("ReduceSum", &[2, 3], axes, &[]), &x(&[2, 3]));
        ends(&one("ReduceMax", &[2, 3], &[], &[], &[ints_attribute("axes", axes)]), &x(&[2, 3]));
        ends(&with_ints("Squeeze", &[1, 1], axes, &[]), &x(&[1, 1]));
    }
    for axes in [&[4][..], &[0, 0], &[99], &[i64::MAX]] {
        ends(&with_ints("Unsqueeze", &[2, 3], axes, &[]), &x(&[2, 3]));
    }
    // As attributes, as in old versions.
    let old = |op: &str, axes: &[i64]| {
        let graph = Graph {
            nodes: vec![node(op, &["x"], &["y"], &[ints_attribute("axes", axes)])],
            inputs: vec![value("x", FLOAT, &fixed(&[1, 3, 1, 1]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        crate::structure::with_opset(&graph, 11)
    };
    for axes in [&[3, 3][..], &[3, -1], &[2, 3, 2], &[4], &[-5], &[i64::MIN]] {
        ends(&old("Squeeze", axes), &x(&[1, 3, 1, 1]));
    }
    for axes in [&[0, 0][..], &[1, -5], &[6, 0], &[i64::MAX, 0]] {
        ends(&old("Unsqueeze", axes), &x(&[1, 3, 1, 1]));
    }
    let axis = tensor_i64("axis", &[], &[99]);
    ends(&one("CumSum", &[2], &[axis], &["axis"], &[]), &x(&[2]));
}

#[test]
fn invalid_permutations_are_refused() {
    for perm in
        [&[0, 0, 0][..], &[0, 1], &[3, 1, 2], &[0, 1, 2, 3], &[-1, 0, 1], &[1 << 40, 0, 1], &[]]
    {
        let perm = ints_attribute("perm", perm);
        let err =
            run(&one("Transpose", &[2, 3, 4], &[], &[], &[perm]), &x(&[2, 3, 4])).err().unwrap();
        assert_eq!(err.exit_code(), 4, "{err}");
    }
}

#[test]
fn zero_steps_and_blocks_are_refused() {
    let slice = |starts: &[i64], ends: &[i64], steps: &[i64]| {
        let list = |name: &str, values: &[i64]| tensor_i64(name, &[values.len() as i64], values);
        let axes: Vec<i64> = (0..starts.len() as i64).collect();
        let lists =
            [list("starts", starts), list("ends", ends), list("axes", &axes), list("steps", steps)];
        one("Slice", &[8], &lists, &["starts", "ends", "axes", "steps"], &[])
    };
    refused(&slice(&[0], &[8], &[0]), &x(&[8]), "a step must not be 0");
    refused(&slice(&[0], &[8, 8], &[1]), &x(&[8]), "different lengths");
    refused(&slice(&[7], &[i64::MAX], &[-1]), &x(&[8]), "with a step of -1");
    // Bounds out of range are clamped.
    let far = i64::MAX;
    for (start, end, step, length) in [
        (0, far, 1, 8),
        (far, 0, -1, 7),
        (-1, -far, -1, 8),
        (-1, i64::MIN, -1, 8),
        (far, far, 1, 0),
        (0, far, far, 1),
        (0, (1 << 32) + 2, 1, 8),
        (-9, -20, -1, 1),
        (0, i64::MIN, 1, 0),
        (5, 2, 1, 0),
    ] {
        let outputs = run(&slice(&[start], &[end], &[step]), &x(&[8])).unwrap();
        assert_eq!(outputs[0].1.shape(), [length], "{start}..{end} by {step}");
    }
    for op in ["SpaceToDepth", "DepthToSpace"] {
        for block in [0, -1, 3, 1 << 40] {
            ends(
                &one(op, &[1, 4, 4, 4], &[], &[], &[int_attribute("blocksize", block)]),
                &x(&[1, 4, 4, 4]),
            );
        }
    }
    let pool = |name: &str, values: &[i64]| {
        let kernel = ints_attribute("kernel_shape", &[2, 2]);
        one("MaxPool", &[1, 1, 4, 4], &[], &[], &[kernel, ints_attribute(name, values)])
    };
    refused(&pool("strides", &[0, 0]), &x(&[1, 1, 4, 4]), "\"strides\" has the value [0, 0]");
    refused(&pool("dilations", &[0, 1]), &x(&[1, 1, 4, 4]), "\"dilations\"");
    refused(&pool("strides", &[1, 1, 1]), &x(&[1, 1, 4, 4]), "numbers for 3 dimensions");
}

#[test]
fn split_sizes_must_add_up() {
    let split = |parts: &[i64]| {
        let list = tensor_i64("parts", &[parts.len() as i64], parts);
        let graph = Graph {
            nodes: vec![node("Split", &["x", "parts"], &["y", "z"], &[])],
            initializers: vec![list],
            inputs: vec![value("x", FLOAT, &fixed(&[6]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        graph.bytes()
    };
    assert_eq!(run(&split(&[2, 4]), &x(&[6])).unwrap()[0].1.shape(), [2]);
    for parts in
        [&[2, 3][..], &[2, 5], &[8, -2], &[6], &[2, 2, 2], &[1 << 40, 2], &[i64::MAX, i64::MAX]]
    {
        refused(&split(parts), &x(&[6]), "parts");
    }
}

#[test]
fn unimplemented_attributes_of_layers_are_refused() {
    let tensors = [tensor_f32("w", &[1, 4, 3], &[0.1; 12]), tensor_f32("r", &[1, 4, 1], &[0.1; 4])];
    let lstm = |attributes: &[Message]| {
        let graph = Graph {
            nodes: vec![node("LSTM", &["x", "w", "r"], &["y"], attributes)],
            initializers: tensors.to_vec(),
            inputs: vec![value("x", FLOAT, &fixed(&[2, 1, 3]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
        };
        graph.bytes()
    };
    let hidden = int_attribute("hidden_size", 1);
    run(&lstm(std::slice::from_ref(&hidden)), &x(&[2, 1, 3])).unwrap();
    let to = |direction: &str| lstm(&[hidden.clone(), string_attribute("direction", direction)]);
    refused(&to("foward"), &x(&[2, 1, 3]), "\"direction\" has the value");
    assert_eq!(run(&to("reverse"), &x(&[2, 1, 3])).unwrap()[0].1.shape(), [2, 1, 1, 1]);
    // Weights of one direction do not match two.
    refused(&to("bidirectional"), &x(&[2, 1, 3]), "input 1 has the shape");
    refused(&lstm(&[float_attribute("clip", f32::NAN)]), &x(&[2, 1, 3]), "\"clip\"");
    refused(&lstm(&[int_attribute("layout", 2)]), &x(&[2, 1, 3]), "\"layout\"");
    refused(&lstm(&[int_attribute("input_forget", 2)]), &x(&[2, 1, 3]), "\"input_forget\"");
    let opset = |version: i64, op: &str, attributes: &[Message]| {
        let graph = Graph {
            nodes: vec![node(op, &["x"], &["y"], attributes)],
            inputs: vec![value("x", FLOAT, &fixed(&[1, 4, 2, 2]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        crate::structure::with_opset(&graph, version)
    };
    let swish = opset(24, "Swish", &[float_attribute("alpha", f32::NAN)]);
    refused(&swish, &x(&[1, 4, 2, 2]), "\"alpha\" has the value NaN");
    let block = int_attribute("blocksize", 2);
    let crd = opset(27, "SpaceToDepth", &[block, string_attribute("mode", "CRD")]);
    refused(&crd, &x(&[1, 4, 2, 2]), "\"mode\"");
    refused(&opset(1, "GlobalLpPool", &[]), &x(&[1, 4, 2, 2]), "GlobalLpPool");
}

#[test]
fn indices_out_of_range_are_refused() {
    let gather = |op: &str, axis: i64, dims: &[i64], indices: &[i64]| {
        let list = tensor_i64("ints", dims, indices);
        one(op, &[2, 3], &[list], &["ints"], &[int_attribute("axis", axis)])
    };
    // An index after the end of the last axis would be an element of the next row.
    for index in [3, -4, 1 << 32, i64::MAX, i64::MIN] {
        refused(&gather("Gather", 1, &[1], &[index]), &x(&[2, 3]), "the index");
        ends(&gather("GatherElements", 1, &[2, 1], &[index, index]), &x(&[2, 3]));
    }
    for index in [2, -3, 1 << 32, i64::MIN] {
        ends(&with_ints("GatherND", &[2, 3], &[index], &[]), &x(&[2, 3]));
    }
    run(&with_ints("GatherND", &[2, 3], &[-2], &[]), &x(&[2, 3])).unwrap();
    let at_run_time = |op: &str, index: i64| {
        let graph = Graph {
            nodes: vec![node(op, &["x", "i"], &["y"], &[int_attribute("axis", 1)])],
            inputs: vec![value("x", FLOAT, &fixed(&[2, 3])), value("i", INT64, &fixed(&[1, 1]))],
            outputs: vec![value_of_any_shape("y", FLOAT)],
            ..Graph::default()
        };
        let index = belljar::Tensor::new(vec![index], &[1, 1]).unwrap();
        run(&graph.bytes(), &[("x", ones(&[2, 3])), ("i", index)])
    };
    for op in ["Gather", "GatherElements"] {
        at_run_time(op, 2).unwrap();
        at_run_time(op, -3).unwrap();
        for index in [3, -4, 1 << 32, i64::MIN] {
            let err = at_run_time(op, index).err().unwrap();
            assert!(err.to_string().contains("the index"), "{err}");
        }
    }
}

#[test]
fn invalid_equations_and_types_are_refused() {
    for equation in ["((", "ij,jk->zz", "ii->i...", "", "ij->ijk", "->", ",,,,", "é"] {
        let equation = string_attribute("equation", equation);
        ends(&one("Einsum", &[2, 3], &[], &[], &[equation]), &x(&[2, 3]));
    }
    ends(
        &one("Einsum", &[2, 3], &[], &[], &[string_attribute("equation", &"ij,".repeat(100_000))]),
        &x(&[2, 3]),
    );
    for to in [0, 27, 14, 99, -1, i64::MAX] {
        refused(&one("Cast", &[2], &[], &[], &[int_attribute("to", to)]), &x(&[2]), "\"to\"");
    }
    refused(&one("And", &[2], &[], &["x"], &[]), &x(&[2]), "is float; implemented is bool");
    refused(
        &with_ints("Add", &[2], &[1, 2], &[]),
        &x(&[2]),
        "is int64, but another input is float",
    );
}
