//! The sizes of open dimensions that `policy record` and `new-policy` write: what was seen is
//! accepted, and anything larger is refused.

use belljar::Policy;
use belljar::policy::Sizes;

use super::{recorded, run};
use crate::support::onnx::{Dim, FLOAT, Graph, node, value};
use crate::support::scratch::Scratch;

/// `z = x + y` for `x` of `[batch, n, 2]` and `y` of `[n, 2]`.
fn model(folder: &Scratch) -> String {
    let dims = [Dim::Symbol("batch"), Dim::Symbol("n"), Dim::Fixed(2)];
    let graph = Graph {
        nodes: vec![node("Add", &["x", "y"], &["z"], &[])],
        inputs: vec![value("x", FLOAT, &dims), value("y", FLOAT, &dims[1..])],
        outputs: vec![value("z", FLOAT, &dims)],
        ..Graph::default()
    };
    folder.file("add.onnx", graph.bytes())
}

/// The arguments for inputs with these sizes.
fn inputs(folder: &Scratch, batch: usize, n: usize) -> [String; 4] {
    let y = vec![[0.5; 2]; n];
    let x = serde_json::to_string(&vec![y.clone(); batch]).unwrap();
    let x = folder.file(&format!("x{batch}-{n}.json"), x);
    let y = folder.file(&format!("y{n}.json"), serde_json::to_string(&y).unwrap());
    let named = |name: &str, path: &str| format!("{name}={path}");
    ["--input".into(), named("x", &x), "--input".into(), named("y", &y)]
}

/// Checks which sizes a policy accepts, and that the others are refused because of its shapes.
fn check(folder: &Scratch, policy: &str, accepted: &[[usize; 2]], refused: &[[usize; 2]]) {
    let model = folder.at("add.onnx");
    for (sizes, code) in [(accepted, 0), (refused, 4)] {
        for [batch, n] in sizes {
            let inputs = inputs(folder, *batch, *n);
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let (found, _, errors) =
                run(&[&["run", &model, "--no-store", "--policy", policy], &inputs[..]].concat());
            assert_eq!(found, Some(code), "{batch} {n}: {errors}");
            assert!(code == 0 || errors.contains(".shape`"), "{batch} {n}: {errors}");
        }
    }
}

fn texts(shape: &Option<Vec<Sizes>>) -> Vec<String> {
    shape.iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn recording_several_runs_writes_the_range_of_sizes() {
    let folder = Scratch::shared();
    let model = model(&folder);
    let runs = [inputs(&folder, 1, 3), inputs(&folder, 1, 9), inputs(&folder, 1, 5)].concat();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    let (code, errors, policy, text) = recorded(&folder, &model, &runs);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("recorded from 3 runs"), "{text}");
    let [x, y] = &policy.inputs[..] else { panic!("{text}") };
    assert_eq!(texts(&x.shape), ["1", "3..9", "2"], "{text}");
    assert_eq!(texts(&y.shape), ["3..9", "2"], "{text}");
    assert_eq!(texts(&policy.outputs[0].shape), ["1", "3..9", "2"], "{text}");
    let recorded_policy = folder.at("recorded.toml");
    let accepted = [[1, 3], [1, 9], [1, 5], [1, 4]];
    check(&folder, &recorded_policy, &accepted, &[[1, 10], [1, 2], [2, 9]]);

    // Generated inputs of several shapes, and one input that is the same in all runs.
    let shapes = ["--random", "--shape", "x=1,4,2", "--shape", "x=8,4,2", "--shape", "y=4,2"];
    let (code, errors, policy, text) = recorded(&folder, &model, &shapes);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert_eq!(texts(&policy.inputs[0].shape), ["1..8", "4", "2"], "{text}");
    assert_eq!(texts(&policy.inputs[1].shape), ["4", "2"], "{text}");

    // Numbers of files that cannot be runs.
    let odd = [inputs(&folder, 1, 3), inputs(&folder, 1, 9)].concat();
    let odd: Vec<&str> = odd.iter().map(String::as_str).chain(["--input", runs[1]]).collect();
    let (code, _, errors) = run(&[&["policy", "record", &model], &odd[..]].concat());
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("2 files for input y, but 3 for another"), "{errors}");
    // Other commands have one run.
    let (code, _, errors) = run(&[&["bench", &model], &odd[..]].concat());
    assert!(code == Some(4) && errors.contains("given twice"), "{errors}");
}

/// A new policy, which is written to `name`.
fn new_policy(folder: &Scratch, name: &str, more: &[&str]) -> (Policy, String) {
    let output = folder.at(name);
    let model = folder.at("add.onnx");
    let arguments = ["new-policy", &model, "--output", &output, "--force"];
    let (code, _, errors) = run(&[&arguments[..], more].concat());
    assert_eq!(code, Some(0), "{errors}");
    let text = folder.read(name);
    (Policy::load(&folder.path(name)).unwrap().policy, text)
}

#[test]
fn a_new_policy_accepts_what_was_measured_and_smaller_inputs_but_no_larger_ones() {
    let folder = Scratch::shared();
    model(&folder);
    let once = inputs(&folder, 2, 6);
    let once: Vec<&str> = once.iter().map(String::as_str).collect();
    let (policy, text) = new_policy(&folder, "once.toml", &once);
    assert_eq!(texts(&policy.inputs[0].shape), ["1..2", "1..6", "2"], "{text}");
    assert_eq!(texts(&policy.inputs[1].shape), ["1..6", "2"], "{text}");
    assert!(
        policy.outputs.is_empty() && text.contains("# The sizes of the measured run."),
        "{text}"
    );
    let path = folder.at("once.toml");
    check(&folder, &path, &[[2, 6], [1, 1], [1, 6], [2, 3]], &[[2, 7], [3, 6]]);

    let several = [inputs(&folder, 1, 3), inputs(&folder, 1, 7)].concat();
    let several: Vec<&str> = several.iter().map(String::as_str).collect();
    let (policy, text) = new_policy(&folder, "several.toml", &several);
    assert_eq!(texts(&policy.inputs[0].shape), ["1", "3..7", "2"], "{text}");
    check(&folder, &folder.at("several.toml"), &[[1, 3], [1, 5], [1, 7]], &[[1, 8], [1, 2]]);

    // Generated inputs without --shape have sizes that nobody chose.
    let (policy, text) = new_policy(&folder, "random.toml", &["--random"]);
    assert!(policy.inputs.is_empty(), "{text}");
    let shape = ["--random", "--shape", "x=4,5,2", "--shape", "y=5,2"];
    let (policy, text) = new_policy(&folder, "shaped.toml", &shape);
    assert_eq!(texts(&policy.inputs[0].shape), ["1..4", "1..5", "2"], "{text}");

    // Rules of --policy stay: a shape as it is, and others with the sizes.
    let rules = "version = 1\n[inputs.x]\nmin = -1\n[inputs.y]\nshape = [\"?\", 2]\n";
    let rules = folder.file("rules.toml", rules);
    let with = [&["--policy", &rules], &once[..]].concat();
    let (policy, text) = new_policy(&folder, "kept.toml", &with);
    let [x, y] = &policy.inputs[..] else { panic!("{text}") };
    assert_eq!(texts(&x.shape), ["1..2", "1..6", "2"], "{text}");
    assert!(x.min.is_some(), "{text}");
    assert_eq!(texts(&y.shape), ["?", "2"], "{text}");
}
