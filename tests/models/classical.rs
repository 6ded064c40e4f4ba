//! Classical models that skl2onnx converted from scikit-learn: trees, linear models, support
//! vectors, pipelines of columns, texts. The models and onnxruntime's answers are stored as JSON by
//! tests/expectations/classical/make.py.

use crate::support;

use belljar::{Isolation, Tensor};
use serde_json::Value;
use support::onnx::{
    Dim, Message, float_attribute, floats_attribute, int_attribute, ints_attribute,
    string_attribute, strings_attribute, tensor_attribute, value, value_of_any_shape,
};
use support::{host, load, repository};

const FLOAT: i64 = 1;
const INT64: i64 = 7;
const STRING: i64 = 8;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn texts<'v>(value: &'v Value, key: &str) -> Vec<&'v str> {
    list(value, key).iter().map(|text| text.as_str().unwrap()).collect()
}

fn ints(value: &Value, key: &str) -> Vec<i64> {
    list(value, key).iter().map(|number| number.as_i64().unwrap()).collect()
}

/// Numbers of 32 bits, null for a NaN.
fn floats(value: &Value, key: &str) -> Vec<f32> {
    list(value, key).iter().map(|number| number.as_f64().map_or(f32::NAN, |n| n as f32)).collect()
}

/// The fields of a tensor, without its name.
fn tensor(described: &Value) -> Message {
    let mut tensor = Message::new();
    for dim in ints(described, "dims") {
        tensor = tensor.int(1, dim);
    }
    let dtype = described["type"].as_i64().unwrap();
    tensor = tensor.int(2, dtype);
    match dtype {
        FLOAT => {
            let bytes = floats(described, "values").into_iter().flat_map(f32::to_le_bytes);
            tensor.bytes(9, bytes.collect::<Vec<u8>>())
        }
        INT64 => {
            let bytes = ints(described, "values").into_iter().flat_map(i64::to_le_bytes);
            tensor.bytes(9, bytes.collect::<Vec<u8>>())
        }
        STRING => texts(described, "values").into_iter().fold(tensor, |t, text| t.bytes(6, text)),
        6 => {
            ints(described, "values").into_iter().fold(tensor, |tensor, value| tensor.int(5, value))
        }
        other => panic!("a tensor of type {other}"),
    }
}

fn attribute(described: &Value) -> Message {
    let (name, value) = (text(described, "name"), &described["value"]);
    match text(described, "kind") {
        "float" => float_attribute(name, value.as_f64().map_or(f32::NAN, |value| value as f32)),
        "int" => int_attribute(name, value.as_i64().unwrap()),
        "string" => string_attribute(name, value.as_str().unwrap()),
        "floats" => floats_attribute(name, &floats(described, "value")),
        "ints" => ints_attribute(name, &ints(described, "value")),
        "strings" => strings_attribute(name, &texts(described, "value")),
        "tensor" => tensor_attribute(name, tensor(value)),
        other => panic!("an attribute of kind {other}"),
    }
}

fn node(described: &Value) -> Message {
    let attributes: Vec<Message> = list(described, "attributes").iter().map(attribute).collect();
    let (inputs, outputs) = (texts(described, "inputs"), texts(described, "outputs"));
    support::onnx::node(text(described, "op"), &inputs, &outputs, &attributes)
        .bytes(7, text(described, "domain"))
}

fn model(described: &Value) -> Vec<u8> {
    let input = |input: &Value| {
        let dims: Vec<Dim<'_>> = list(input, "dims")
            .iter()
            .map(|dim| dim.as_i64().map_or(Dim::Symbol("n"), Dim::Fixed))
            .collect();
        value(text(input, "name"), input["type"].as_i64().unwrap(), &dims)
    };
    let output =
        |output: &Value| value_of_any_shape(text(output, "name"), output["type"].as_i64().unwrap());
    let named = |described: &Value| tensor(described).bytes(8, text(described, "name"));
    let graph = Message::new()
        .messages(1, list(described, "nodes").iter().map(node))
        .bytes(2, "graph")
        .messages(5, list(described, "initializers").iter().map(named))
        .messages(11, list(described, "inputs").iter().map(input))
        .messages(12, list(described, "outputs").iter().map(output));
    let opsets = list(described, "opsets").iter().map(|opset| {
        Message::new().bytes(1, opset[0].as_str().unwrap()).int(2, opset[1].as_i64().unwrap())
    });
    Message::new()
        .int(1, described["ir_version"].as_i64().unwrap())
        .message(7, graph)
        .messages(8, opsets)
        .finish()
}

fn given(described: &Value) -> (String, Tensor) {
    let shape: Vec<usize> = ints(described, "dims").into_iter().map(|dim| dim as usize).collect();
    let tensor = match described["type"].as_i64().unwrap() {
        FLOAT => Tensor::new(floats(described, "values"), &shape),
        INT64 => Tensor::new(ints(described, "values"), &shape),
        STRING => {
            let owned: Vec<String> =
                texts(described, "values").into_iter().map(str::to_owned).collect();
            Tensor::new(owned, &shape)
        }
        other => panic!("a tensor of type {other}"),
    };
    (text(described, "name").to_owned(), tensor.unwrap())
}

fn assert_same(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let (Some(found), Some(expected)) = (found.as_slice::<f32>(), expected.as_slice::<f32>())
    else {
        assert_eq!(found.as_slice::<i64>(), expected.as_slice::<i64>(), "{what}");
        assert_eq!(found.as_slice::<String>(), expected.as_slice::<String>(), "{what}");
        return;
    };
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= 2e-6 + 2e-5 * expected.abs();
        assert!(near, "{what}: element {at} is {found}, onnxruntime says {expected}");
    }
}

/// The models, by their names.
fn models() -> Vec<(String, Value)> {
    let folder = repository().join("tests/expectations/classical");
    let mut models = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let described = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            models.push((path.file_stem().unwrap().to_str().unwrap().to_owned(), described));
        }
    }
    models.sort_by(|a, b| a.0.cmp(&b.0));
    models
}

#[test]
fn classical_models_give_onnxruntimes_answers() {
    let models = models();
    assert_eq!(models.len(), 22);
    let host = host(Isolation::Thread);
    for (name, described) in &models {
        let model = load(&host, &model(&described["model"])).unwrap();
        let inputs: Vec<(String, Tensor)> = list(described, "inputs").iter().map(given).collect();
        let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
        let outputs = outputs.unwrap_or_else(|err| panic!("{name}: {err}"));
        let expected = list(described, "outputs");
        assert_eq!(outputs.tensors().len(), expected.len(), "{name}");
        for expected in expected {
            let (output, expected) = given(expected);
            assert_same(&format!("{name}, {output}"), outputs.get(&output).unwrap(), &expected);
        }
    }
}

/// In a worker process, as models run by default.
#[test]
fn a_pipeline_with_texts_runs_in_a_worker_process() {
    let models = models();
    let (_, described) = models.iter().find(|(name, _)| name == "columns").unwrap();
    let model = load(&host(Isolation::Process), &model(&described["model"])).unwrap();
    let inputs: Vec<(String, Tensor)> = list(described, "inputs").iter().map(given).collect();
    let outputs = model.run(&inputs).unwrap().validate().unwrap();
    for expected in list(described, "outputs") {
        let (output, expected) = given(expected);
        assert_same(&output, outputs.get(&output).unwrap(), &expected);
    }
}
