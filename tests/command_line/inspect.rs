//! `belljar inspect`: what it reports about valid, refused and malformed models.

use crate::support;

use serde_json::Value;
use support::models;
use support::onnx::Message;
use support::onnx::{Dim, FLOAT, Graph, INT64, fixed, node, relu, tensor_f32, value};
use support::scratch::Scratch;

use super::running::{answer, assert_exit, run, stderr, stdout};

#[test]
fn inspect_describes_the_model() {
    let path = models().join("silero_vad.onnx");
    let arguments = ["inspect", path.to_str().unwrap(), "--format", "json"];
    let found = answer(&run(&arguments));
    assert_eq!(found["producer_name"], "spox");
    assert_eq!(found["inputs"][2]["name"], "sr");
    assert_eq!(found["inputs"][2]["shape"], serde_json::json!([]));
    assert_eq!(found["operators"][0]["op_type"], "Constant");
    assert_eq!(found["nodes"], 689);
    let table = stdout(&run(&["inspect", path.to_str().unwrap()]));
    for expected in ["spox", "ai.onnx 16", "LSTM 4", "scalar"] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    assert!(!table.contains("unsupported operators"), "{table}");
}

#[test]
fn inspect_lists_unsupported_operators() {
    let s = Scratch::new();
    let mut graph = support::onnx::relu(&support::onnx::fixed(&[2]));
    let odd = support::onnx::int_attribute("odd", 1);
    graph.nodes = vec![
        support::onnx::node("Relu", &["x"], &["a"], &[odd]),
        support::onnx::node("Frobnicate", &["a"], &["b"], &[]),
        support::onnx::node("Neg", &["b"], &["y"], &[]),
    ];
    let model = s.file("odd.onnx", graph.bytes());
    let table = stdout(&run(&["inspect", &model]));
    for expected in ["unsupported", "the attribute \"odd\" is not", "the operator is not"] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    let found = answer(&run(&["inspect", &model, "--format", "json"]));
    for operator in found["operators"].as_array().unwrap() {
        let good = operator["op_type"] == "Neg";
        assert_eq!(operator["refused"].is_null(), good, "{operator}");
    }
    let preparation = &found["preparation"];
    assert_eq!(
        (&preparation["verdict"], &preparation["exit_code"]),
        (&"refused".into(), &4.into())
    );
    assert!(preparation["error"].as_str().unwrap().contains("\"odd\""), "{preparation}");
}

#[test]
fn inspect_checks_whether_a_model_can_be_prepared() {
    use support::onnx::{BOOL, UINT8, graph_attribute, int_attribute, tensor, tensor_i64};
    let s = Scratch::new();
    let verdict = |arguments: &[&str]| {
        let arguments = [&["inspect"], arguments, &["--format", "json"]].concat();
        let found = answer(&run(&arguments));
        let preparation = found["preparation"].clone();
        (preparation["verdict"].as_str().unwrap().to_owned(), preparation)
    };
    // All shapes are declared, and preparation does not depend on values.
    let model = s.file("fixed.onnx", relu(&fixed(&[2, 3])).bytes());
    let (found, preparation) = verdict(&[&model]);
    assert_eq!(found, "prepared");
    assert_eq!(preparation["undecided"].as_array().unwrap().len(), 0);
    assert_eq!(preparation["assumed"], false);
    assert!(stdout(&run(&["inspect", &model])).contains("prepared for x 2×3"));
    assert_exit(&run(&["inspect", &model, "--input-shape", "x=2,4"]), 4, "does not fit");
    assert_exit(&run(&["inspect", &model, "--input-shape", "z=2"]), 2, "has no input z");
    assert_exit(&run(&["inspect", &model, "--input-shape", "x"]), 2, "expected a shape");
    assert!(
        answer(&run(&["inspect", &model, "--no-prepare", "--format", "json"]))["preparation"]
            .is_null()
    );

    // Some shapes work, others are refused.
    let sum = Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![tensor_f32("w", &[3], &[1.0; 3])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n"), Dim::Symbol("m")])],
        outputs: vec![support::onnx::value_of_any_shape("y", FLOAT)],
    };
    let model = s.file("open.onnx", sum.bytes());
    assert_eq!(verdict(&[&model]).0, "open");
    assert_eq!(verdict(&[&model, "--shape", "x=5,3"]).0, "prepared");
    let (found, preparation) = verdict(&[&model, "--input-shape", "x=5,4"]);
    assert_eq!((&*found, &preparation["exit_code"]), ("refused", &4.into()));
    assert!(preparation["error"].as_str().unwrap().contains("node \"y\": Add"), "{preparation}");

    // Which nodes may fail during a run, depending on values.
    let gather = Graph {
        nodes: vec![
            node("Neg", &["x"], &["n"], &[]),
            node("Gather", &["n", "places"], &["taken"], &[int_attribute("axis", 0)]),
            node("NonZero", &["taken"], &["y"], &[]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[4])), value("places", INT64, &fixed(&[2]))],
        outputs: vec![support::onnx::value_of_any_shape("y", INT64)],
        ..Graph::default()
    };
    let model = s.file("values.onnx", gather.bytes());
    let (found, preparation) = verdict(&[&model]);
    assert_eq!(found, "prepared");
    let undecided: Vec<[&str; 3]> = preparation["undecided"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| ["node", "operator", "missing"].map(|key| one[key].as_str().unwrap()))
        .collect();
    assert_eq!(undecided, [["taken", "Gather", "values"], ["y", "NonZero", "sizes"]]);

    // Arithmetic on bytes accepts all of them.
    let byte = |name: &str, value: u8| tensor(name, UINT8, &[], &[value]);
    let bytes = Graph {
        nodes: vec![
            node("DynamicQuantizeLinear", &["x"], &["q", "scale", "zero"], &[]),
            node("MatMulInteger", &["q", "w", "zero"], &["sums"], &[]),
            node("ConvInteger", &["q", "k", "zero"], &["more"], &[]),
            node("Cast", &["sums"], &["numbers"], &[int_attribute("to", FLOAT)]),
            node("QuantizeLinear", &["numbers", "s", "z"], &["again"], &[]),
            node("DequantizeLinear", &["again", "s", "z"], &["y"], &[]),
            node("Cast", &["more"], &["y2"], &[int_attribute("to", FLOAT)]),
        ],
        initializers: vec![
            tensor("w", UINT8, &[4, 3], &[7; 12]),
            tensor("k", UINT8, &[2, 3, 2], &[5; 12]),
            tensor_f32("s", &[], &[0.5]),
            byte("z", 3),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 3, 4]))],
        outputs: ["y", "y2"].map(|name| support::onnx::value_of_any_shape(name, FLOAT)).to_vec(),
    };
    let model = s.file("bytes.onnx", bytes.bytes());
    let (found, preparation) = verdict(&[&model]);
    assert_eq!(found, "prepared");
    assert_eq!(preparation["undecided"].as_array().unwrap().len(), 0, "{preparation}");

    // Nodes that are prepared in each run, since branches differ in their number of dimensions.
    let branch = |op: &str, inputs: &[&str]| Graph {
        nodes: vec![node(op, inputs, &["b"], &[])],
        outputs: vec![support::onnx::value_of_any_shape("b", FLOAT)],
        ..Graph::default()
    };
    let branches = [
        graph_attribute("then_branch", branch("Identity", &["x"]).message()),
        graph_attribute("else_branch", branch("Reshape", &["x", "square"]).message()),
    ];
    let late = Graph {
        nodes: vec![
            node("If", &["c"], &["either"], &branches),
            node("Neg", &["either"], &["n"], &[]),
            node("Abs", &["n"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("square", &[2], &[2, 2])],
        inputs: vec![value("x", FLOAT, &fixed(&[4])), value("c", BOOL, &[])],
        outputs: vec![support::onnx::value_of_any_shape("y", FLOAT)],
    };
    let model = s.file("late.onnx", late.bytes());
    let (_, preparation) = verdict(&[&model]);
    let undecided = preparation["undecided"].as_array().unwrap();
    for name in ["n", "y"] {
        assert!(undecided.iter().any(|one| one["node"] == name), "{name}: {preparation}");
    }

    // A policy with too little memory: the constant alone takes 64 MiB.
    let large = Graph {
        nodes: vec![
            node("ConstantOfShape", &["s"], &["c"], &[]),
            node("Add", &["x", "c"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("s", &[2], &[4096, 4096])],
        inputs: vec![value("x", FLOAT, &fixed(&[1]))],
        outputs: vec![support::onnx::value_of_any_shape("y", FLOAT)],
    };
    let model = s.file("large.onnx", large.bytes());
    let policy = s.file("tight.toml", "version = 1\n[limits]\nmemory = \"32 MiB\"\n");
    let (found, preparation) = verdict(&[&model, "--policy", &policy]);
    assert_eq!((&*found, &preparation["exit_code"]), ("refused", &5.into()), "{preparation}");
}

/// The JSON of `inspect`, which must have this exit code.
#[track_caller]
pub(super) fn inspected(arguments: &[&str]) -> (i32, Value) {
    let output = run(&[&["inspect"], arguments, &["--format", "json"]].concat());
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|err| panic!("{arguments:?}: {err}: {}", stderr(&output)));
    assert!(found.is_object(), "{found}");
    (output.status.code().unwrap(), found)
}

#[test]
fn inspect_and_run_agree_on_malformed_models() {
    let s = Scratch::new();
    let x = s.x();
    let dims = fixed(&[2, 2]);
    let (input, output) = (value("x", FLOAT, &dims), value("y", FLOAT, &dims));
    let negated = |from: &str, to: &str| node("Neg", &[from], &[to], &[]);
    let graph = |nodes: Vec<Message>, inputs: &[&Message], outputs: &[&Message]| Graph {
        nodes,
        inputs: inputs.iter().map(|one| (*one).clone()).collect(),
        outputs: outputs.iter().map(|one| (*one).clone()).collect(),
        ..Graph::default()
    };
    let plain = || vec![negated("x", "y")];
    let untyped = value("y", 0, &dims);
    let untyped_differently = value("y", 0, &fixed(&[7]));
    let typed = |name: &str, elem_type| value(name, elem_type, &dims);
    let mut two_weights = graph(vec![node("Add", &["x", "w"], &["y"], &[])], &[&input], &[&output]);
    two_weights.initializers = vec![tensor_f32("w", &[1], &[1.0]), tensor_f32("w", &[1], &[2.0])];
    let models = [
        ("plain", graph(plain(), &[&input], &[&output])),
        ("two inputs of a name", graph(plain(), &[&input, &input], &[&output])),
        (
            "two inputs of a name and other types",
            graph(plain(), &[&input, &typed("x", INT64)], &[&output]),
        ),
        ("two outputs of a name", graph(plain(), &[&input], &[&output, &output])),
        ("an output that nothing makes", graph(vec![negated("x", "q")], &[&input], &[&output])),
        ("no outputs", graph(plain(), &[&input], &[])),
        ("no nodes", graph(vec![], &[&input], &[&output])),
        ("an output without a name", graph(plain(), &[&input], &[&typed("", FLOAT)])),
        ("an input without a name", graph(plain(), &[&input, &typed("", FLOAT)], &[&output])),
        ("an output without a type", graph(plain(), &[&input], &[&untyped])),
        ("an output of another shape", graph(plain(), &[&input], &[&untyped_differently])),
        ("an output of another type", graph(plain(), &[&input], &[&typed("y", INT64)])),
        ("an output of an unknown type", graph(plain(), &[&input], &[&typed("y", 99)])),
        ("an input without a type", graph(plain(), &[&typed("x", 0)], &[&output])),
        ("an input of an unknown type", graph(plain(), &[&typed("x", 99)], &[&output])),
        ("an input of complex numbers", graph(plain(), &[&typed("x", 14)], &[&output])),
        ("an unused input without a type", graph(plain(), &[&input, &typed("z", 0)], &[&output])),
        (
            "two makers of a value",
            graph(vec![negated("x", "y"), negated("x", "y")], &[&input], &[&output]),
        ),
        ("a value that nothing makes", graph(vec![negated("q", "y")], &[&input], &[&output])),
        ("two weights of a name", two_weights),
        (
            "an open size",
            graph(plain(), &[&value("x", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(2)])], &[&output]),
        ),
    ];
    let z = s.file("z.json", "[[1, 2], [3, 4]]");
    let z = format!("z={z}");
    for (what, graph) in models {
        let model = s.file("model.onnx", graph.bytes());
        let x = format!("x={x}");
        let mut arguments = vec!["run", &*model, "--no-store", "--input", &*x];
        if what == "an unused input without a type" {
            arguments.extend(["--input", &*z]);
        }
        let ended = run(&arguments);
        let (code, said) = (ended.status.code().unwrap(), stderr(&ended));
        for shape in [&[][..], &["--shape", "x=2,2"]] {
            let (inspect_code, found) = inspected(&[&[&*model], shape].concat());
            let preparation = &found["preparation"];
            let verdict = preparation["verdict"].as_str().unwrap_or("none");
            let about = format!("{what} {shape:?}: {found}\nrun: {code} {said}");
            match code {
                0 => {
                    assert!(["prepared", "open"].contains(&verdict), "{about}");
                    assert_eq!((inspect_code, preparation["prepared"].as_bool()), (0, Some(true)));
                }
                code => {
                    assert_eq!(verdict, "refused", "{about}");
                    assert_eq!(preparation["exit_code"], code, "{about}");
                    let error = preparation["error"].as_str().unwrap();
                    assert!(said.contains(error) || what.starts_with("an input"), "{about}");
                    let undescribed = found["error"].is_object();
                    assert_eq!(inspect_code, if undescribed { code } else { 0 }, "{about}");
                }
            }
            let text = run(&[&["inspect", &*model], shape].concat());
            assert_eq!(text.status.code(), Some(inspect_code), "{about}");
        }
    }
}

#[test]
fn inspect_prints_json_even_on_failure() {
    let s = Scratch::new();
    let text = s.file("text.onnx", "no model");
    let model = s.relu();
    let policy = s.toml("policy.toml", "[limits]\nmodel-size = \"4 B\"");
    let pinned = s.toml("pinned.toml", &format!("[model]\nsha256 = \"{}\"", "0".repeat(64)));
    let missing = s.at("missing.onnx");
    for (arguments, code, refused) in [
        (&[&*missing][..], 2, false),
        (&[s.folder().to_str().unwrap()], 2, false),
        (&[&text], 4, true),
        (&[&model, "--policy", &policy], 5, true),
        (&[&model, "--policy", &pinned], 3, false),
        (&[&model, "--policy", &missing], 2, false),
        (&[&model, "--shape", "z=1"], 2, false),
        (&[&model, "--shape", "x=2,9"], 4, false),
    ] {
        let (found_code, found) = inspected(arguments);
        assert_eq!(found_code, code, "{found}");
        assert_eq!(found["error"]["exit_code"], code, "{found}");
        let error = found["error"]["text"].as_str().unwrap();
        let text = run(&[&["inspect"], arguments].concat());
        assert_eq!(text.status.code(), Some(code));
        assert!(stderr(&text).contains(error), "{error}: {}", stderr(&text));
        let verdict = &found["preparation"]["verdict"];
        assert_eq!(verdict == "refused", refused, "{found}");
    }
}
