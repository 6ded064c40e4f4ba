//! Input and output files: inputs in every format, names of outputs, and messages about files of
//! the wrong type.

use crate::support;

use std::fs;
use std::io::Write;
use std::process::Output;

use belljar::Tensor;
use belljar::tensor::npz;
use serde_json::{Value, json};
use support::onnx::{
    Dim, FLOAT, Graph, INT64, STRING, fixed, node, relu, tensor_f32, tensor_i64, value,
    value_of_any_shape,
};
use support::scratch::Scratch;

use super::running::{run, stderr as errors};

impl Scratch {
    fn npz(&self, name: &str, arrays: &[(&str, Tensor)]) -> String {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let arrays = arrays.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone()));
        npz::write(&arrays.collect::<Vec<_>>(), &mut bytes).unwrap();
        self.file(name, bytes.into_inner())
    }

    /// A model that copies each of its inputs to an output with another name.
    fn copies(&self, name: &str, pairs: &[(&str, &str)], rank: usize) -> String {
        let dims = vec![Dim::Symbol("n"); 1].into_iter().chain([Dim::Symbol("m")]);
        let dims: Vec<Dim<'_>> = dims.take(rank).collect();
        let graph = Graph {
            nodes: pairs.iter().map(|(x, y)| node("Identity", &[x], &[y], &[])).collect(),
            inputs: pairs.iter().map(|(x, _)| value(x, FLOAT, &dims)).collect(),
            outputs: pairs.iter().map(|(_, y)| value(y, FLOAT, &dims)).collect(),
            ..Graph::default()
        };
        self.file(name, graph.bytes())
    }
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, says: &[&str]) {
    let text = errors(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for says in says {
        assert!(text.contains(says), "{says:?} is not in {text:?}");
    }
}

/// The elements and the shape of the first output of a model for this input.
#[track_caller]
fn answer(model: &str, input: &str) -> (Value, Value) {
    let output = run(&["run", model, "--input", input, "--format", "json", "--data"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    (found["outputs"][0]["data"].clone(), found["outputs"][0]["shape"].clone())
}

#[test]
fn outputs_keep_their_names_in_archives() {
    let s = Scratch::new();
    let x = s.npy("x.npy", &Tensor::new(vec![1f32, 2.0], &[2]).unwrap());
    let long = "n".repeat(4000);
    for names in [
        &["Identity:0"][..],
        &["out:0", "out_0"],
        &["a/b", "a b", "a\\b", "a.npy", "é", "A", "a_b"],
        &[&long],
        &["./x", "c:x", "StatefulPartitionedCall:1"],
    ] {
        let graph = Graph {
            nodes: names.iter().map(|name| node("Relu", &["x"], &[name], &[])).collect(),
            inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
            outputs: names.iter().map(|y| value(y, FLOAT, &[Dim::Symbol("n")])).collect(),
            ..Graph::default()
        };
        let model = s.file("model.onnx", graph.bytes());
        let archive = s.at("answer.npz");
        let output = run(&["run", &model, "--input", &x, "--output", &archive, "--force"]);
        assert_exit(&output, 0, &[]);
        assert!(output.stderr.is_empty(), "{}", errors(&output));
        let arrays = npz::read(fs::File::open(&archive).unwrap(), 1 << 20).unwrap();
        let found: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, names);
    }
    // A name that would lead out of the folder is changed, with a warning.
    let graph = Graph {
        nodes: vec![node("Relu", &["x"], &["../../up"], &[])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
        outputs: vec![value("../../up", FLOAT, &[Dim::Symbol("n")])],
        ..Graph::default()
    };
    let model = s.file("model.onnx", graph.bytes());
    let archive = s.at("up.npz");
    let output = run(&["run", &model, "--input", &x, "--output", &archive]);
    assert_exit(&output, 0, &["output \"../../up\" is renamed to \"______up\" in"]);
    let arrays = npz::read(fs::File::open(&archive).unwrap(), 1 << 20).unwrap();
    assert_eq!(arrays[0].0, "______up");
}

#[test]
fn outputs_with_colliding_names_are_refused_before_the_run() {
    let s = Scratch::new();
    let model = |names: &[&str]| {
        let graph = Graph {
            nodes: names.iter().map(|name| node("Relu", &["x"], &[name], &[])).collect(),
            inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
            outputs: names.iter().map(|y| value(y, FLOAT, &[Dim::Symbol("n")])).collect(),
            ..Graph::default()
        };
        s.file("twins.onnx", graph.bytes())
    };
    let (folder, archive) = (s.at("folder/"), s.at("a.npz"));
    // Without an input there is no run; the collision is reported before that.
    for (names, place) in [
        (&["out:0", "out_0"][..], &folder),
        (&["a", "A"], &folder),
        (&["a", "a.npy"], &archive),
        (&["../a", "___a"], &archive),
    ] {
        let output = run(&["run", &model(names), "--output", place]);
        assert_exit(&output, 2, &["two outputs would have the same name", names[0], names[1]]);
    }
    let output = run(&["run", &model(&["a", "b"]), "--output", &folder]);
    assert_exit(&output, 4, &["not given"]);
    // As are existing files and unknown formats.
    fs::write(&archive, "mine").unwrap();
    assert_exit(&run(&["run", &model(&["a"]), "--output", &archive]), 1, &["--force"]);
    assert_exit(
        &run(&["run", &model(&["a"]), "--output", "a.txt"]),
        2,
        &["cannot infer the format"],
    );
    fs::create_dir(s.path("folder")).unwrap();
    fs::write(s.path("folder/a.npy"), "mine").unwrap();
    assert_exit(&run(&["run", &model(&["a"]), "--output", &folder]), 1, &["a.npy", "--force"]);
}

#[test]
fn files_that_are_not_models_are_identified_with_a_hint() {
    let s = Scratch::new();
    let pytorch = {
        let mut archive = zip_of("archive/data.pkl", b"\x80\x02}q\0.");
        archive.extend([0; 100]);
        archive
    };
    for (name, bytes, says) in [
        (
            "pointer.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n".to_vec(),
            &["Git LFS", "git lfs pull"][..],
        ),
        ("page.onnx", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>".to_vec(), &["HTML"]),
        ("model.onnx.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), &["gzip", "gzip -d"]),
        ("model.ort", b"\x24\0\0\0ORTM\0\0\0\0\0\0".to_vec(), &[".ort", "made from"]),
        ("model.zip", zip_of("model.onnx", b"x"), &["zip", "Unpack"]),
        ("model.pt", pytorch, &["PyTorch", "torch.onnx.export"]),
        ("model.pkl", b"\x80\x04\x95\x10\0\0\0\0\0\0\0.".to_vec(), &["pickle", "skl2onnx"]),
        ("model.tflite", b"\x1c\0\0\0TFL3\0\0".to_vec(), &["TensorFlow Lite", "tf2onnx"]),
        ("a.safetensors", b"\x0a\0\0\0\0\0\0\0{\"a\":1}   ".to_vec(), &["safetensors"]),
        ("config.json", b"{\"architectures\": []}".to_vec(), &["JSON"]),
        ("empty.onnx", Vec::new(), &["empty", "download"]),
    ] {
        let file = s.file(name, bytes);
        for command in ["run", "inspect"] {
            let output = run(&[command, &file]);
            assert_exit(&output, 4, says);
            assert_exit(&output, 4, &[name]);
        }
    }
    // The same for files given as tensors.
    let model = s.file("relu.onnx", relu(&fixed(&[2])).bytes());
    for (bytes, says) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..], "Git LFS"),
        (b"<html>", "HTML"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0.", "pickle"),
        (b"\xff\xfe[\x001\x00]\x00", "UTF-16"),
    ] {
        let file = s.file("input", bytes);
        assert_exit(&run(&["run", &model, "--input", &file]), 2, &[says, "hint"]);
    }
}

/// The local header of a zip archive with one stored entry.
fn zip_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([0; 4]);
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(name.bytes());
    bytes.extend(content);
    bytes
}

#[test]
fn input_of_another_type_gets_a_conversion_hint() {
    let s = Scratch::new();
    let model = s.file("relu.onnx", relu(&fixed(&[2])).bytes());
    let wrong = s.npy("wrong.npy", &Tensor::new(vec![1f64, 2.0], &[2]).unwrap());
    let says = ["f64", "the model declares x: f32 [2]", "`.astype(np.float32)`"];
    assert_exit(&run(&["run", &model, "--input", &wrong]), 4, &says);
    let graph = Graph {
        nodes: vec![node("Identity", &["x"], &["y"], &[])],
        inputs: vec![value("x", INT64, &fixed(&[2]))],
        outputs: vec![value("y", INT64, &fixed(&[2]))],
        ..Graph::default()
    };
    let model = s.file("ids.onnx", graph.bytes());
    let wrong = s.npy("wrong.npy", &Tensor::new(vec![1i32, 2], &[2]).unwrap());
    assert_exit(&run(&["run", &model, "--input", &wrong]), 4, &["`.astype(np.int64)`"]);
    // The hint is not given for a correct type with a wrong shape.
    let wrong = s.npy("wrong.npy", &Tensor::new(vec![1i64], &[1]).unwrap());
    let output = run(&["run", &model, "--input", &wrong]);
    assert_exit(&output, 4, &["the model declares x: i64 [2]"]);
    assert!(!errors(&output).contains("astype"), "{}", errors(&output));
}

#[test]
fn unnamed_arrays_are_inputs_in_order() {
    let s = Scratch::new();
    let model = s.copies("two.onnx", &[("first", "a"), ("second", "b")], 1);
    let tensor = |value: f32| Tensor::new(vec![value], &[1]).unwrap();
    let both = s.npz("both.npz", &[("arr_1", tensor(2.0)), ("arr_0", tensor(1.0))]);
    let output = run(&["run", &model, "--input", &both, "--format", "json", "--data"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let data = |at: usize| (&found["outputs"][at]["name"], &found["outputs"][at]["data"]);
    assert_eq!(data(0), (&json!("a"), &json!([1.0])));
    assert_eq!(data(1), (&json!("b"), &json!([2.0])));
    let one = s.npz("one.npz", &[("arr_0", tensor(1.0))]);
    let says = ["without names (arr_0)", "first, second", "np.savez"];
    assert_exit(&run(&["run", &model, "--input", &one]), 2, &says);
    let gap = s.npz("gap.npz", &[("arr_0", tensor(1.0)), ("arr_2", tensor(1.0))]);
    assert_exit(&run(&["run", &model, "--input", &gap]), 2, &["arr_0, arr_2"]);
    let single = s.file("relu.onnx", relu(&fixed(&[1])).bytes());
    assert_eq!(answer(&single, &one).0, json!([1.0]));
    assert_eq!(answer(&single, &format!("x={one}")).0, json!([1.0]));
    // A model's input may really have this name.
    let odd = s.copies("odd.onnx", &[("arr_1", "b"), ("arr_0", "a")], 1);
    let output = run(&["run", &odd, "--input", &both, "--format", "json", "--data"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["outputs"][0]["data"], json!([2.0]));
}

#[test]
fn onnx_tensor_files_are_inputs() {
    let s = Scratch::new();
    let model = s.copies("two.onnx", &[("first", "a"), ("second", "b")], 1);
    let first = s.file("input_0.pb", tensor_f32("first", &[2], &[1.0, 2.0]).finish());
    let second = s.file("input_1.pb", tensor_f32("", &[2], &[3.0, 4.0]).finish());
    let by_name = format!("second={second}");
    let arguments = ["run", &model, "--input", &first, "--input", &by_name];
    let output = run(&[&arguments[..], &["--format", "json", "--data"]].concat());
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["outputs"][0]["data"], json!([1.0, 2.0]));
    assert_eq!(found["outputs"][1]["data"], json!([3.0, 4.0]));
    assert_exit(
        &run(&["run", &model, "--input", &second]),
        2,
        &["the name of the input is required"],
    );
    let wrong = s.file("wrong.pb", tensor_i64("first", &[1], &[1]).finish());
    let output = run(&["run", &model, "--input", &wrong, "--input", &by_name]);
    assert_exit(&output, 4, &["`.astype(np.float32)`"]);
    let cut = s.file("cut.pb", &fs::read(&first).unwrap()[..20]);
    assert_exit(&run(&["run", &model, "--input", &cut]), 2, &["cut.pb", "ends within"]);
    let elsewhere = tensor_f32("first", &[2], &[]).int(14, 1);
    let elsewhere = s.file("elsewhere.pb", elsewhere.finish());
    assert_exit(&run(&["run", &model, "--input", &elsewhere]), 2, &["elsewhere.pb"]);
}

#[test]
fn csv_tables_are_inputs() {
    let s = Scratch::new();
    let model = s.copies("x.onnx", &[("x", "y")], 2);
    let expected = (json!([1.0, 2.5, -3.0, 4.0]), json!([2, 2]));
    for (name, text) in [
        ("plain.csv", "1,2.5\n-3,4\n"),
        ("no-end", "1, 2.5\n-3, 4"),
        ("windows.csv", "\u{feff}1,2.5\r\n-3,4\r\n"),
        ("header.csv", "width,height\n1,2.5\n-3,4\n"),
        ("quoted.csv", "\"width, in m\",\"height \"\"h\"\"\"\n\"1\",\"2.5\"\n-3,4\n\n"),
        ("european.csv", "a;b\n1;2.5\n-3;4\n"),
        ("tabs.tsv", "1\t2.5\n-3\t4\n"),
        ("savetxt.txt", "# a b\n1.000000000000000000e+00 2.5e0\n-3.0e+00  +4.\n"),
    ] {
        let file = s.file(name, text);
        assert_eq!(answer(&model, &file), expected, "{name}");
        assert_eq!(answer(&model, &format!("x={file}")), expected, "{name}");
    }
    let single = s.file("single.csv", "7\n");
    assert_eq!(answer(&model, &single), (json!([7.0]), json!([1, 1])));
    let special = s.file("special.csv", "nan,inf\n-Infinity,NaN\n");
    assert_eq!(answer(&model, &special).0, json!(["NaN", "Infinity", "-Infinity", "NaN"]));
    let vector = s.copies("vector.onnx", &[("x", "y")], 1);
    for text in ["1,2\n", "1\n2\n"] {
        let file = s.file("vector.csv", text);
        assert_eq!(answer(&vector, &file), (json!([1.0, 2.0]), json!([2])), "{text:?}");
    }
    for (text, says) in [
        ("1,2\n3\n", "line 2 has 1 fields"),
        ("1,2\n3,x\n", "line 2, column 2: \"x\" is not a number"),
        ("a,b\n1,2\n\n3,\n", "line 4, column 2: the field is empty"),
        ("1,x\n3,4\n", "line 1, column 2: \"x\" is not a number"),
        ("x,1\n3,4\n", "line 1, column 2: a value in the header line"),
        ("a,b\n", "no rows"),
        ("a,b\nc,d\n", "line 2, column 1: \"c\" is not a number"),
        ("1,\"2\n", "unclosed quote"),
        ("1,2\n1e999,2\n", "line 2, column 1: a number beyond f64"),
        ("true,false\n", "is not a number"),
        ("1,\u{0}2\n3,4", "is not a number"),
    ] {
        let file = s.file("bad.csv", text);
        assert_exit(&run(&["run", &model, "--input", &file]), 2, &["bad.csv", says]);
    }
}

#[test]
fn csv_columns_are_inputs_by_name() {
    let s = Scratch::new();
    let graph = Graph {
        nodes: vec![
            node("Identity", &["age"], &["a"], &[]),
            node("Identity", &["sex"], &["b"], &[]),
        ],
        inputs: vec![
            value("age", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(1)]),
            value("sex", STRING, &[Dim::Symbol("n"), Dim::Fixed(1)]),
        ],
        outputs: vec![value_of_any_shape("a", FLOAT), value_of_any_shape("b", STRING)],
        ..Graph::default()
    };
    let model = s.file("people.onnx", graph.bytes());
    let table = s.file("people.csv", "\u{feff}sex,age\nfemale,29\n\"a, b\nc\",0.9167\n");
    let output = run(&["run", &model, "--input", &table, "--format", "json", "--data"]);
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["outputs"][0]["data"], json!([29.0, 0.9167]));
    assert_eq!(found["outputs"][0]["shape"], json!([2, 1]));
    assert_eq!(found["outputs"][1]["data"], json!(["female", "a, b\nc"]));
    for (text, code, says) in [
        ("sex\nfemale\n", 2, "missing column \"age\""),
        ("sex,age,fare\nfemale,29,7\n", 4, "no such input"),
        ("sex,age,age\nfemale,29,7\n", 2, "two columns are named \"age\""),
        ("sex,age\nfemale,old\n", 2, "line 2, column 2: \"old\" is not a number"),
        ("sex,age\nfemale\n", 2, "line 2 has 1 fields"),
    ] {
        let file = s.file("bad.csv", text);
        assert_exit(&run(&["run", &model, "--input", &file]), code, &[says]);
    }
}

#[test]
fn python_2_files_and_byte_order_marks_are_accepted() {
    let s = Scratch::new();
    let model = s.copies("x.onnx", &[("x", "y")], 2);
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }        \n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend([1f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
    let old = s.file("old.npy", bytes);
    assert_eq!(answer(&model, &old), (json!([1.0, 2.0]), json!([2, 1])));
    for text in
        ["\u{feff}[[1], [2]]", "\u{feff}{\"x\": [[1], [2]]}", "\u{feff} {\"data\": [[1], [2]]}"]
    {
        let file = s.file("mark.json", text);
        assert_eq!(answer(&model, &file), (json!([1.0, 2.0]), json!([2, 1])), "{text}");
    }
}

#[test]
fn label_files_are_bounded_and_may_begin_with_a_byte_order_mark() {
    let s = Scratch::new();
    let model = s.copies("x.onnx", &[("x", "y")], 1);
    let x = s.npy("x.npy", &Tensor::new(vec![1f32, 2.0], &[2]).unwrap());
    let labels = s.file("labels.txt", "\u{feff}cat\r\ndog\r\n");
    let base = ["run", &model, "--input", &x, "--format", "json", "--labels"];
    let output = run(&[&base[..], &[&labels]].concat());
    assert_exit(&output, 0, &[]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["outputs"][0]["top"][1]["label"], "cat");
    let long = s.path("long.txt");
    let mut file = fs::File::create(&long).unwrap();
    (0..17).for_each(|_| file.write_all(&[b'\n'; 1 << 20]).unwrap());
    let output = run(&[&base[..], &[long.to_str().unwrap()]].concat());
    assert_exit(&output, 2, &["longer than 16777216 bytes"]);
    assert_exit(&run(&["run", &model, "--input", &x, "--top", "10001"]), 2, &["10000"]);
}
