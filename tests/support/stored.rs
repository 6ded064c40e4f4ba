//! Models and tensors that tests/expectations/stored.py wrote as JSON.

use belljar::Tensor;
use serde_json::Value;

use super::onnx::{
    self, BOOL, Dim, FLOAT, INT64, Message, STRING, float_attribute, floats_attribute,
    graph_attribute, int_attribute, ints_attribute, string_attribute, strings_attribute,
    tensor_attribute, value_of_any_shape,
};

pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

pub(crate) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
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
    list(value, key).iter().map(float).collect()
}

fn float(value: &Value) -> f32 {
    value.as_f64().map_or(f32::NAN, |number| number as f32)
}

/// The elements of a tensor: listed, as pairs of an element and how often it follows, or as noise.
fn elements(described: &Value) -> Vec<Value> {
    match described.get("repeated") {
        Some(_) => {
            let pairs = list(described, "repeated").iter();
            let count = |pair: &Value| usize::try_from(pair[1].as_u64().unwrap()).unwrap();
            pairs.flat_map(|pair| std::iter::repeat_n(pair[0].clone(), count(pair))).collect()
        }
        None => list(described, "values").to_vec(),
    }
}

/// The function `noise` of tests/expectations/stored.py.
fn noise(described: &Value) -> Vec<f32> {
    let count: i64 = ints(described, "dims").iter().product();
    let (formula, factor) = (&described["noise"], 0x9E37_79B1u32);
    let seed = u32::try_from(formula["seed"].as_u64().unwrap()).unwrap();
    let scale = formula["scale"].as_f64().unwrap();
    let each = (0..u32::try_from(count).unwrap()).map(|at| {
        let mut state = at.wrapping_add(seed.wrapping_mul(factor));
        for (shift, factor) in [(16, 0x21F0_AAADu32), (15, 0x735A_2D97)] {
            state = (state ^ state >> shift).wrapping_mul(factor);
        }
        state ^= state >> 15;
        let units = f64::from(state >> 8) - f64::from(1 << 23);
        (units / f64::from(1 << 23) * scale) as f32
    });
    each.collect()
}

fn all_floats(described: &Value) -> Vec<f32> {
    match described.get("noise") {
        Some(_) => noise(described),
        None => elements(described).iter().map(float).collect(),
    }
}

fn all_ints(described: &Value) -> Vec<i64> {
    let int = |value: &Value| value.as_i64().or(value.as_bool().map(i64::from)).unwrap();
    elements(described).iter().map(int).collect()
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
            let bytes = all_floats(described).into_iter().flat_map(f32::to_le_bytes);
            tensor.bytes(9, bytes.collect::<Vec<u8>>())
        }
        INT64 => {
            let bytes = all_ints(described).into_iter().flat_map(i64::to_le_bytes);
            tensor.bytes(9, bytes.collect::<Vec<u8>>())
        }
        STRING => texts(described, "values").into_iter().fold(tensor, |t, text| t.bytes(6, text)),
        6 | BOOL => {
            all_ints(described).into_iter().fold(tensor, |tensor, value| tensor.int(5, value))
        }
        other => panic!("a tensor of type {other}"),
    }
}

fn attribute(described: &Value) -> Message {
    let (name, value) = (text(described, "name"), &described["value"]);
    match text(described, "kind") {
        "float" => float_attribute(name, float(value)),
        "int" => int_attribute(name, value.as_i64().unwrap()),
        "string" => string_attribute(name, value.as_str().unwrap()),
        "floats" => floats_attribute(name, &floats(described, "value")),
        "ints" => ints_attribute(name, &ints(described, "value")),
        "strings" => strings_attribute(name, &texts(described, "value")),
        "tensor" => tensor_attribute(name, tensor(value)),
        "graph" => graph_attribute(name, graph(value)),
        other => panic!("an attribute of kind {other}"),
    }
}

fn node(described: &Value) -> Message {
    let attributes = described["attributes"].as_array().into_iter().flatten().map(attribute);
    let attributes: Vec<Message> = attributes.collect();
    let (inputs, outputs) = (texts(described, "inputs"), texts(described, "outputs"));
    onnx::node(text(described, "op"), &inputs, &outputs, &attributes)
        .bytes(7, described["domain"].as_str().unwrap_or_default())
}

/// An input. Those of bodies may declare no shape, or no type.
fn input(described: &Value) -> Message {
    let (name, dtype) = (text(described, "name"), described["type"].as_i64());
    let dim = |dim: &'_ Value| match (dim.as_i64(), dim.as_str()) {
        (Some(size), _) => Dim::Fixed(size),
        (None, name) => Dim::Symbol(name.unwrap_or("n").to_owned().leak()),
    };
    match (dtype, described["dims"].as_array()) {
        (Some(dtype), Some(dims)) => {
            onnx::value(name, dtype, &dims.iter().map(dim).collect::<Vec<_>>())
        }
        (Some(dtype), None) => value_of_any_shape(name, dtype),
        (None, _) => Message::new().bytes(1, name),
    }
}

fn output(described: &Value) -> Message {
    let name = text(described, "name");
    match described["type"].as_i64() {
        Some(dtype) => value_of_any_shape(name, dtype),
        None => Message::new().bytes(1, name),
    }
}

fn graph(described: &Value) -> Message {
    let named = |described: &Value| tensor(described).bytes(8, text(described, "name"));
    Message::new()
        .messages(1, list(described, "nodes").iter().map(node))
        .bytes(2, "graph")
        .messages(5, list(described, "initializers").iter().map(named))
        .messages(11, list(described, "inputs").iter().map(input))
        .messages(12, list(described, "outputs").iter().map(output))
}

/// The ONNX file of a model.
pub(crate) fn model(described: &Value) -> Vec<u8> {
    let opsets = list(described, "opsets").iter().map(|opset| {
        Message::new().bytes(1, opset[0].as_str().unwrap()).int(2, opset[1].as_i64().unwrap())
    });
    Message::new()
        .int(1, described["ir_version"].as_i64().unwrap())
        .message(7, graph(described))
        .messages(8, opsets)
        .finish()
}

/// A tensor with its name.
pub(crate) fn given(described: &Value) -> (String, Tensor) {
    let shape: Vec<usize> = ints(described, "dims").into_iter().map(|dim| dim as usize).collect();
    let tensor = match described["type"].as_i64().unwrap() {
        FLOAT => Tensor::new(all_floats(described), &shape),
        INT64 => Tensor::new(all_ints(described), &shape),
        BOOL => {
            let bits: Vec<bool> = all_ints(described).into_iter().map(|bit| bit != 0).collect();
            Tensor::new(bits, &shape)
        }
        STRING => {
            let owned: Vec<String> =
                texts(described, "values").into_iter().map(str::to_owned).collect();
            Tensor::new(owned, &shape)
        }
        other => panic!("a tensor of type {other}"),
    };
    (text(described, "name").to_owned(), tensor.unwrap())
}

/// Compares two tensors; floats up to a fraction of each.
pub(crate) fn assert_same(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let (Some(found), Some(expected)) = (found.as_slice::<f32>(), expected.as_slice::<f32>())
    else {
        assert_eq!(found.as_slice::<i64>(), expected.as_slice::<i64>(), "{what}");
        assert_eq!(found.as_slice::<bool>(), expected.as_slice::<bool>(), "{what}");
        assert_eq!(found.as_slice::<String>(), expected.as_slice::<String>(), "{what}");
        return;
    };
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= 0.1 * tolerance + tolerance * expected.abs();
        assert!(near, "{what}: element {at} is {found}, onnxruntime says {expected}");
    }
}

/// The entries of a folder in tests/expectations, by their names.
pub(crate) fn entries(folder: &str) -> Vec<(String, Value)> {
    let folder = super::repository().join("tests/expectations").join(folder);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let described = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            entries.push((path.file_stem().unwrap().to_str().unwrap().to_owned(), described));
        }
    }
    entries.sort_by(|a: &(String, Value), b| a.0.cmp(&b.0));
    entries
}
