//! `--dim NAME=N`, which fixes named dimensions of a model's inputs.

use crate::support;

use serde_json::{Value, json};
use support::onnx::{Dim, FLOAT, Graph, node, relu, value};
use support::scratch::Scratch;

use super::running::{answer, assert_exit, run, stderr, stdout};

fn text_model(s: &Scratch) -> String {
    s.file("text.onnx", relu(&[Dim::Symbol("batch"), Dim::Symbol("seq")]).bytes())
}

#[test]
fn run_takes_only_inputs_of_the_fixed_size() {
    let s = Scratch::new();
    let model = text_model(&s);
    let input = |columns: usize| {
        let rows = serde_json::to_string(&vec![vec![1.0; columns]; 2]).unwrap();
        format!("x={}", s.file(&format!("{columns}.json"), rows))
    };
    let with = |columns: usize, dims: &[&str]| {
        let input = input(columns);
        let dims = dims.iter().flat_map(|dim| ["--dim", dim]);
        let arguments = ["run", &model, "--format", "json", "--input", &input];
        run(&arguments.into_iter().chain(dims).collect::<Vec<_>>())
    };
    let found = answer(&with(3, &["seq=3", "batch=2"]));
    let dims = json!([{ "name": "seq", "size": 3 }, { "name": "batch", "size": 2 }]);
    assert_eq!(found["dims"], dims);
    assert_eq!(found["outputs"][0]["shape"], json!([2, 3]));
    assert_eq!(answer(&with(3, &[]))["dims"], json!([]));
    let refused = with(4, &["seq=3"]);
    assert_exit(&refused, 4, "input x: dimension 1, \"seq\", is 4, but it is fixed to 3");
    assert!(stderr(&refused).contains("--dim"), "{}", stderr(&refused));
    assert!(stdout(&refused).is_empty());
    // The same dimension twice.
    answer(&with(3, &["seq=3", "seq=3"]));
    assert_exit(&with(3, &["seq=3", "seq=4"]), 2, "\"seq\" cannot be both 3 and 4");
    // A size that the policy excludes, and one that it allows.
    let policy = s.file("policy.toml", "version = 1\n[inputs.x]\nshape = [2, \"1..3\"]\n");
    let under =
        |dim: &str| run(&["run", &model, "--input", &input(3), "--policy", &policy, "--dim", dim]);
    assert_exit(&under("seq=4"), 3, "the policy allows 1..3 in dimension 1 (`inputs.x.shape`)");
    assert_exit(&under("seq=3"), 0, "");
}

#[test]
fn names_and_sizes_that_are_not_valid_are_explained() {
    let s = Scratch::new();
    let model = text_model(&s);
    let with = |dim: &str| run(&["inspect", &model, "--dim", dim]);
    for wrong in ["seq", "seq=", "seq=-1", "seq=1.5", "seq=many", "seq= 1", "seq=3,4"] {
        assert_exit(&with(wrong), 2, "--dim seq");
    }
    assert_exit(&with("seq=99999999999999999999"), 2, "the size is too large");
    assert_exit(&with("seq=9223372036854775808"), 2, "the largest size is 9223372036854775807");
    let unnamed = with("=3");
    assert_exit(&unnamed, 2, "the name is empty");
    assert!(stderr(&unnamed).contains("--input-shape"), "{}", stderr(&unnamed));
    let known = "no input has a dimension named \"length\"; the names are \"batch\", \"seq\"";
    assert_exit(&with("length=3"), 2, known);
    assert_exit(&with("length\u{1b}[2J\n=3"), 2, "length\\u{1b}");
    assert_exit(&with("seq=9223372036854775807"), 0, "");
    let ugly = "a=b\u{1b}[2J";
    let odd = s.file("odd.onnx", relu(&[Dim::Symbol(ugly), Dim::Symbol("")]).bytes());
    let found = run(&["inspect", &odd, "--dim", &format!("{ugly}=3")]);
    assert_exit(&found, 0, "");
    assert!(!stdout(&found).contains('\u{1b}'), "{}", stdout(&found));
    assert!(stdout(&found).contains("a=b\\u{1b}[2J = 3"), "{}", stdout(&found));
    let fixed = s.file("fixed.onnx", relu(&[Dim::Fixed(2)]).bytes());
    assert_exit(&run(&["inspect", &fixed, "--dim", "n=2"]), 2, "none of its dimensions has a name");
    // The mistake is reported with --format json, too.
    let json = run(&["inspect", &model, "--dim", "length=3", "--format", "json"]);
    let found: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(found["error"]["exit_code"], 2, "{found}");
}

#[test]
fn inspect_bench_and_prepare_use_the_fixed_sizes() {
    let s = Scratch::new();
    let dims = [Dim::Symbol("n"), Dim::Symbol("m")];
    let graph = Graph {
        nodes: vec![node("Add", &["x", "y"], &["z"], &[])],
        inputs: vec![value("x", FLOAT, &dims), value("y", FLOAT, &dims[..1])],
        outputs: vec![value("z", FLOAT, &dims)],
        ..Graph::default()
    };
    let model = s.file("add.onnx", graph.bytes());
    let json = |arguments: &[&str]| answer(&run(&[arguments, &["--format", "json"]].concat()));
    let found = json(&["inspect", &model, "--dim", "n=5", "--dim", "m=5"]);
    assert_eq!(found["inputs"][0]["shape"], json!([5, 5]));
    assert_eq!(found["outputs"][0]["shape"], json!([5, 5]));
    assert_eq!(found["dims"][1], json!({ "name": "m", "size": 5 }));
    let preparation = &found["preparation"];
    assert_eq!(
        (&preparation["verdict"], &preparation["assumed"]),
        (&json!("prepared"), &json!(false))
    );
    let table = stdout(&run(&["inspect", &model, "--dim", "n=5"]));
    assert!(table.contains("fixed by --dim  n = 5") && table.contains("5×m"), "{table}");
    let shape = ["inspect", &model, "--dim", "n=5", "--input-shape", "x=4,5"];
    assert_exit(&run(&shape), 4, "input x: dimension 0, \"n\", is 4");

    for more in [&[][..], &["--profile"]] {
        let bench =
            ["bench", &model, "--random", "--iterations", "1", "--dim", "n=5", "--dim", "m=5"];
        let found = json(&[&bench[..], more].concat());
        assert_eq!(found["inputs"][0]["shape"], json!([5, 5]), "{found}");
        assert_eq!(found["inputs"][1]["shape"], json!([5]));
        assert_eq!(found["dims"][0], json!({ "name": "n", "size": 5 }));
    }
    let shape = ["bench", &model, "--random", "--dim", "n=5", "--dim", "m=5", "--shape", "x=4,5"];
    assert_exit(&run(&shape), 4, "--dim fixes this dimension");

    assert_exit(&run(&["prepare", &model]), 2, "--dim NAME=N");
    let found = json(&["prepare", &model, "--dim", "n=5", "--dim", "m=5"]);
    assert_eq!(found["snapshots"][0]["shapes"][0]["shape"], json!([5, 5]), "{found}");
}
