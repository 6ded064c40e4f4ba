//! Sequences, maps and optionals on the command line: JSON and .npz, in and out, and how commands
//! show them.

use crate::support;

use std::fs;
use std::process::Output;

use belljar::Tensor;
use belljar::tensor::npz;
use serde_json::{Value, json};
use support::onnx::{
    Dim, FLOAT, Graph, INT64, STRING, classical_node, map_type, maps_type, node, optional_type,
    sequence_type, strings_attribute, tensor_type, value, value_of_any_shape, value_of_type,
};
use support::scratch::Scratch;

use super::running::{run, stderr as errors};

#[track_caller]
fn assert_exit(output: &Output, code: i32, says: &[&str]) {
    let text = errors(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for says in says {
        assert!(text.contains(says), "{says:?} is not in {text:?}");
    }
}

/// A model that copies inputs of every type to outputs.
fn copies(s: &Scratch) -> String {
    let types = [
        ("s", sequence_type(FLOAT)),
        ("m", map_type(STRING, FLOAT)),
        ("n", map_type(INT64, STRING)),
        ("o", optional_type(tensor_type(FLOAT))),
        ("p", optional_type(sequence_type(INT64))),
        ("t", tensor_type(FLOAT)),
        ("r", maps_type(STRING, INT64)),
    ];
    let of = |prefix: &str| {
        let each = types.iter();
        each.map(|(name, of)| value_of_type(&format!("{prefix}{name}"), of.clone())).collect()
    };
    let copy = |(name, _): &(&str, _)| node("Identity", &[name], &[&format!("copy_{name}")], &[]);
    let graph = Graph {
        nodes: types.iter().map(copy).collect(),
        inputs: of(""),
        outputs: of("copy_"),
        ..Graph::default()
    };
    s.file("copies.onnx", graph.bytes())
}

fn given() -> Value {
    json!({
        "s": [[1.5, 2.5], [[1]], 7],
        "m": { "a": 0.25, "b": "NaN" },
        "n": { "-3": "x", "9": "" },
        "p": [[1, 2], []],
        "t": [1, 2, 3],
        "r": [{ "a": 1, "b": 2 }, {}],
    })
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn values_of_every_type_are_read_and_written_as_json() {
    let s = Scratch::new();
    let (model, input) = (copies(&s), s.file("in.json", given().to_string()));
    let answer = s.at("out.json");
    assert_exit(&run(&["run", &model, "--input", &input, "--output", &answer]), 0, &[]);
    let answer = read(&answer);
    assert_eq!(answer["copy_m"], given()["m"]);
    assert_eq!(answer["copy_n"], given()["n"]);
    assert_eq!(answer["copy_r"], given()["r"]);
    assert_eq!(answer["copy_o"], Value::Null);
    let tensor = |dtype: &str, shape: &[usize], data: Value| json!({ "dtype": dtype, "shape": shape, "data": data });
    let sequence = [
        tensor("f32", &[2], json!([1.5, 2.5])),
        tensor("f32", &[1, 1], json!([1.0])),
        tensor("f32", &[], json!([7.0])),
    ];
    assert_eq!(answer["copy_s"], json!(sequence));
    let pair = [tensor("i64", &[2], json!([1, 2])), tensor("i64", &[0], json!([]))];
    assert_eq!(answer["copy_p"], json!(pair));
    // What was written can be read again.
    let mut again = serde_json::Map::new();
    for (name, value) in answer.as_object().unwrap() {
        again.insert(name.strip_prefix("copy_").unwrap().to_owned(), value.clone());
    }
    let input = s.file("again.json", Value::from(again).to_string());
    let second = s.at("second.json");
    assert_exit(&run(&["run", &model, "--input", &input, "--output", &second]), 0, &[]);
    assert_eq!(read(&second), answer);
}

#[test]
fn values_of_every_type_are_read_and_written_as_arrays() {
    let s = Scratch::new();
    let (model, input) = (copies(&s), s.file("in.json", given().to_string()));
    let archive = s.at("out.npz");
    assert_exit(&run(&["run", &model, "--input", &input, "--output", &archive]), 0, &[]);
    let arrays = npz::read(fs::File::open(&archive).unwrap(), 1 << 20).unwrap();
    let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "copy_s.0",
        "copy_s.1",
        "copy_s.2",
        "copy_s.length",
        "copy_m.keys",
        "copy_m.values",
        "copy_n.keys",
        "copy_n.values",
        "copy_p.0",
        "copy_p.1",
        "copy_p.length",
        "copy_t",
        "copy_r.keys",
        "copy_r.values",
        "copy_r.lengths",
    ];
    assert_eq!(names, expected);
    let strip =
        |(name, tensor): (String, Tensor)| (name.strip_prefix("copy_").unwrap().to_owned(), tensor);
    let arrays: Vec<(String, Tensor)> = arrays.into_iter().map(strip).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    npz::write(&arrays, &mut bytes).unwrap();
    let input = s.file("again.npz", bytes.into_inner());
    let (first, second) = (s.at("first.json"), s.at("second.json"));
    let from_json = s.at("in.json");
    assert_exit(&run(&["run", &model, "--input", &from_json, "--output", &first]), 0, &[]);
    assert_exit(&run(&["run", &model, "--input", &input, "--output", &second]), 0, &[]);
    assert_eq!(read(&first), read(&second));
    let folder = s.at("arrays/");
    assert_exit(&run(&["run", &model, "--input", &input, "--output", &folder]), 0, &[]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), expected.len());
    // A sequence whose arrays do not match its length.
    let fewer: Vec<_> = arrays.into_iter().filter(|(name, _)| name != "s.1").collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    npz::write(&fewer, &mut bytes).unwrap();
    let input = s.file("fewer.npz", bytes.into_inner());
    assert_exit(&run(&["run", &model, "--input", &input]), 2, &["s.length"]);
}

#[test]
fn models_with_sequences_and_maps_are_prepared_into_the_store() {
    let s = Scratch::new();
    let of = |name: &str, of| value_of_type(name, of);
    let graph = Graph {
        nodes: vec![node("Identity", &["s"], &["y"], &[]), node("Identity", &["m"], &["z"], &[])],
        inputs: vec![of("s", sequence_type(FLOAT)), of("m", map_type(STRING, FLOAT))],
        outputs: vec![of("y", sequence_type(FLOAT)), of("z", map_type(STRING, FLOAT))],
        ..Graph::default()
    };
    let model = s.file("values.onnx", graph.bytes());
    let shapes = ["--input-shape", "s=3,4", "--input-shape", "m=2"];
    let prepare = || {
        let output =
            support::belljar(&[&["prepare", &*model], &shapes[..]].concat()).output().unwrap();
        assert_exit(&output, 0, &[]);
        String::from_utf8(output.stdout).unwrap()
    };
    // The store may have it from an earlier run of this test.
    prepare();
    let second = prepare();
    assert!(second.contains("already in the store"), "{second}");
}

#[test]
fn malformed_values_are_refused_with_their_positions() {
    let s = Scratch::new();
    let model = copies(&s);
    let check = |key: &str, value: Value, says: &[&str]| {
        let mut all = given();
        all[key] = value;
        let input = s.file("in.json", all.to_string());
        assert_exit(&run(&["run", &model, "--input", &input]), 2, says);
    };
    check("s", json!(3), &["\"s\"", "a sequence is an array"]);
    check("s", json!([1, "x"]), &["\"s\"[1]"]);
    check("m", json!([1]), &["\"m\"", "a map is an object"]);
    check("m", json!({ "a": [1] }), &["\"m\".\"a\"", "a number or a text"]);
    check("n", json!({ "x": "a" }), &["\"n\".\"x\"", "not a 64-bit integer"]);
    check("n", json!({ "01": "a" }), &["not a 64-bit integer"]);
    check("r", json!([{ "a": 1 }, { "a": 0.5 }]), &["\"r\"[1].\"a\""]);
    let twice = given().to_string().replace("\"b\":\"NaN\"", "\"a\":1");
    let input = s.file("in.json", twice);
    assert_exit(&run(&["run", &model, "--input", &input]), 2, &["two of its keys are the same"]);
}

/// A classifier as converters export it.
fn classifier(s: &Scratch) -> String {
    let keys = strings_attribute("classlabels_strings", &["cat", "dog"]);
    let graph = Graph {
        nodes: vec![classical_node("ZipMap", &["x"], &["scores"], &[keys])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(2)])],
        outputs: vec![value_of_type("scores", maps_type(STRING, FLOAT))],
        ..Graph::default()
    };
    s.file("classifier.onnx", graph.classical(1))
}

#[test]
fn maps_of_scores_are_printed_with_the_largest_first() {
    let s = Scratch::new();
    let model = classifier(&s);
    let x = s.npy("x.npy", &Tensor::new(vec![0.25f32, 0.75, 1.0, 0.0], &[2, 2]).unwrap());
    let output = run(&["run", &model, "--input", &x]);
    assert_exit(&output, 0, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("scores: seq(map(string, float)), 2 elements"), "{text}");
    assert!(text.contains("dog 0.75, cat 0.25"), "{text}");
    let output = run(&["run", &model, "--input", &x, "--format", "json"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "name": "scores",
        "type": "seq(map(string, float))",
        "value": [{ "cat": 0.25, "dog": 0.75 }, { "cat": 1.0, "dog": 0.0 }],
    });
    assert_eq!(found["outputs"], json!([expected]));
}

#[test]
fn inspect_shows_types_as_onnx_writes_them_and_prepares_for_them() {
    let s = Scratch::new();
    let model = copies(&s);
    let output = run(&["inspect", &model]);
    assert_exit(&output, 0, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    for shown in [
        "seq(tensor(float))",
        "map(string, float)",
        "map(int64, string)",
        "optional(tensor(float))",
        "optional(seq(tensor(int64)))",
        "seq(map(string, int64))",
    ] {
        assert!(text.contains(shown), "{shown} is not in {text}");
    }
    let output = run(&["inspect", &model, "--format", "json"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["inputs"][0]["dtype"], "seq(tensor(float))");
    assert_eq!(found["preparation"]["prepared"], true);
}

#[test]
fn commands_that_take_tensors_only_say_so() {
    let s = Scratch::new();
    let graph = Graph {
        nodes: vec![node("SequenceLength", &["s"], &["n"], &[])],
        inputs: vec![value_of_type("s", sequence_type(FLOAT))],
        outputs: vec![value_of_any_shape("n", INT64)],
        ..Graph::default()
    };
    let model = s.file("length.onnx", graph.bytes());
    let input = s.file("s.json", "[[1, 2], [3]]");
    let named = format!("s={input}");
    let output = run(&["bench", &model, "--input", &named]);
    assert_exit(&output, 2, &["this command takes tensors only", "`belljar run`"]);
    let output = run(&["run", &model, "--input", &named, "--format", "json", "--data"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["outputs"][0]["data"], json!([2]));
}
