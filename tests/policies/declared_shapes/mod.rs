//! Wrongly declared shapes: the output is returned as computed, the difference is reported once,
//! and only a strict policy refuses it. The rank and sizes of inputs are always enforced.

mod inner;

use crate::support;

use std::sync::{Arc, Mutex};

use belljar::policy::DeclaredShapes;
use belljar::{Error, ErrorKind, Event, Host, Isolation, Model, Policy, ShapeDifference, Tensor};
use support::onnx::{Dim, FLOAT, Graph, INT64, fixed, int_attribute, node, relu, value};
use support::{ISOLATIONS, builder, host, load, load_under};

/// The shape differences that a host has reported.
type Reported = Arc<Mutex<Vec<ShapeDifference>>>;

fn listening(isolation: Isolation) -> (Host, Reported) {
    let reported = Reported::default();
    let to = Arc::clone(&reported);
    let listener = move |event| {
        if let Event::ShapeDiffers { model, difference } = event {
            assert_eq!(model, "test.onnx");
            to.lock().unwrap().push(difference);
        }
    };
    (builder(isolation).on_event(listener).build().unwrap(), reported)
}

fn strict() -> Policy {
    Policy::default().with_declared_shapes(DeclaredShapes::Strict)
}

/// 0, 1, 2, … in this shape.
fn counting(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::new((0..count).map(|number| number as f32).collect::<Vec<_>>(), shape).unwrap()
}

type Named = Vec<(&'static str, Tensor)>;

fn run_model(model: &Model, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, Error> {
    Ok(model.run(inputs)?.validate()?.into_tensors())
}

/// A model with a wrong declaration.
struct Case {
    name: &'static str,
    graph: Graph,
    inputs: Named,
    /// Its outputs.
    answer: Named,
    /// The inputs and outputs whose shape differs.
    differs: &'static [&'static str],
}

fn declared_wrongly() -> Vec<Case> {
    let n = Dim::Symbol("n");
    let x = |dims: &[Dim<'_>]| vec![value("x", FLOAT, dims)];
    let y = |dims: &[Dim<'_>]| vec![value("y", FLOAT, dims)];
    let relu = |from: &[Dim<'_>], to: &[Dim<'_>]| Graph { outputs: y(to), ..relu(from) };
    let same = |shape: &[usize]| (vec![("x", counting(shape))], vec![("y", counting(shape))]);
    let case = |name, graph, (inputs, answer): (Named, Named)| Case {
        name,
        graph,
        inputs,
        answer,
        differs: &["y"],
    };
    let twice = |shape: &[usize]| {
        let once = counting(shape);
        let once = once.as_slice::<f32>().unwrap();
        Tensor::new([once, once].concat(), &[2 * shape[0], shape[1]]).unwrap()
    };
    let concat = |axis| node("Concat", &["x", "x"], &["y"], &[int_attribute("axis", axis)]);
    let sum = |keep| node("ReduceSum", &["x"], &["y"], &[int_attribute("keepdims", keep)]);
    let labels = |count: usize| Tensor::new(vec![2i64; count], &[count]).unwrap();
    let argmax = [int_attribute("axis", 1), int_attribute("keepdims", 0)];
    vec![
        case("a fixed size", relu(&[n], &fixed(&[800])), same(&[3])),
        case("a fixed size for a fixed input", relu(&fixed(&[2]), &fixed(&[3])), same(&[2])),
        case("a size of 0", relu(&[n], &fixed(&[0])), same(&[2])),
        case("nothing where there is a size", relu(&[n], &fixed(&[4])), same(&[0])),
        case("fewer dimensions", relu(&[n, n, n], &[Dim::Fixed(1), n]), same(&[1, 1, 1])),
        case("more dimensions", relu(&[n], &[n, n]), same(&[2])),
        case("a number for a list of one", relu(&[n], &[]), same(&[1])),
        case(
            "a list of one for a number",
            Graph {
                nodes: vec![sum(0)],
                inputs: x(&[n]),
                outputs: y(&fixed(&[1])),
                ..Graph::default()
            },
            (vec![("x", counting(&[4]))], vec![("y", Tensor::scalar(6f32))]),
        ),
        case(
            "a symbol of the inputs for another size",
            Graph {
                nodes: vec![concat(0)],
                inputs: x(&[n, Dim::Fixed(2)]),
                outputs: y(&[n, Dim::Fixed(2)]),
                ..Graph::default()
            },
            (vec![("x", counting(&[3, 2]))], vec![("y", twice(&[3, 2]))]),
        ),
        case(
            "one symbol for two sizes of an output",
            relu(&[n, Dim::Symbol("m")], &[Dim::Symbol("k"), Dim::Symbol("k")]),
            same(&[2, 3]),
        ),
        Case {
            name: "one label declared, as many as there are rows",
            graph: Graph {
                nodes: vec![
                    node("ArgMax", &["x"], &["label"], &argmax),
                    node("Relu", &["x"], &["y"], &[]),
                ],
                inputs: x(&[n, Dim::Fixed(3)]),
                outputs: vec![
                    value("label", INT64, &fixed(&[1])),
                    value("y", FLOAT, &[n, Dim::Fixed(3)]),
                ],
                ..Graph::default()
            },
            inputs: vec![("x", counting(&[4, 3]))],
            answer: vec![("label", labels(4)), ("y", counting(&[4, 3]))],
            differs: &["label"],
        },
        Case {
            name: "one symbol for two sizes of the inputs, as CLIP has it",
            graph: Graph {
                nodes: vec![
                    node("Relu", &["text"], &["y"], &[]),
                    node("Relu", &["image"], &["z"], &[]),
                ],
                inputs: vec![
                    value("text", FLOAT, &[n, Dim::Fixed(2)]),
                    value("image", FLOAT, &[n, Dim::Fixed(3)]),
                ],
                outputs: vec![
                    value("y", FLOAT, &[n, Dim::Fixed(2)]),
                    value("z", FLOAT, &[n, Dim::Fixed(3)]),
                ],
                ..Graph::default()
            },
            inputs: vec![("text", counting(&[4, 2])), ("image", counting(&[1, 3]))],
            answer: vec![("y", counting(&[4, 2])), ("z", counting(&[1, 3]))],
            differs: &["image"],
        },
    ]
}

#[test]
fn wrongly_declared_shape_is_returned_as_computed_and_reported_once() {
    for isolation in ISOLATIONS {
        for Case { name, graph, inputs, answer, differs } in declared_wrongly() {
            let (host, reported) = listening(isolation);
            let model = load(&host, &graph.bytes()).unwrap_or_else(|err| panic!("{name}: {err}"));
            // Also by a clone, which is the same loaded model.
            for model in [&model, &model.clone(), &model] {
                let outputs = model.run(&inputs).and_then(|outputs| outputs.validate());
                let outputs = outputs.unwrap_or_else(|err| panic!("{name}: {err}"));
                let found: Vec<&str> =
                    outputs.shape_differences().iter().map(|one| &*one.name).collect();
                assert_eq!(found, differs, "{name}");
                let found: Named = answer
                    .iter()
                    .map(|(name, _)| (*name, outputs.get(name).unwrap().clone()))
                    .collect();
                assert_eq!(found, answer, "{name}");
            }
            let names: Vec<String> =
                reported.lock().unwrap().drain(..).map(|one| one.name).collect();
            assert_eq!(names, differs, "{name}: once for each loaded model");
            // Loading the model again reports again.
            let model = load(&host, &graph.bytes()).unwrap();
            run_model(&model, &inputs).unwrap();
            assert_eq!(reported.lock().unwrap().len(), differs.len(), "{name}");
        }
    }
}

#[test]
fn a_strict_policy_refuses_every_shape_that_differs() {
    let (host, reported) = listening(Isolation::Thread);
    for Case { name, graph, inputs, differs, .. } in declared_wrongly() {
        let model = load_under(&host, &graph.bytes(), &strict()).unwrap();
        let before = model.calls().run;
        let err = run_model(&model, &inputs).map(drop).expect_err(name);
        let text = err.to_string();
        assert_eq!(err.exit_code(), 4, "{name}: {text}");
        assert!(text.contains("declare") && text.contains(differs[0]), "{name}: {text}");
        if matches!(err.kind(), ErrorKind::Input { .. }) {
            assert_eq!(model.calls().run, before, "{name}: it reached a sandbox");
        }
    }
    assert_eq!(*reported.lock().unwrap(), [], "refused outputs are not reported");
    // Correctly declared outputs are returned.
    let model = load_under(&host, &relu(&fixed(&[2])).bytes(), &strict()).unwrap();
    assert_eq!(run_model(&model, &[("x", counting(&[2]))]).unwrap()[0].1, counting(&[2]));
}

#[test]
fn differences_are_described_with_both_shapes() {
    let (host, reported) = listening(Isolation::Thread);
    let graph =
        Graph { outputs: vec![value("y", FLOAT, &fixed(&[800, 2]))], ..relu(&fixed(&[4, 2])) };
    let model = load(&host, &graph.bytes()).unwrap();
    run_model(&model, &[("x", counting(&[4, 2]))]).unwrap();
    let reported = reported.lock().unwrap();
    let text = "output y has the shape [4, 2], but the model declares [800, 2]";
    assert_eq!(reported[0].to_string(), text);
    assert!(!reported[0].is_input && reported[0].symbol.is_none());
    assert_eq!(reported[0].declared, [belljar::Dim::Fixed(800), belljar::Dim::Fixed(2)]);
}

#[test]
fn inputs_names_types_and_sizes_are_enforced_as_before() {
    for policy in [Policy::default(), strict()] {
        let host = host(Isolation::Thread);
        let n = Dim::Symbol("n");
        let model = load_under(&host, &relu(&[n, Dim::Fixed(2)]).bytes(), &policy).unwrap();
        for shape in [&[2, 3][..], &[2], &[2, 2, 1], &[]] {
            let err = run_model(&model, &[("x", counting(shape))]).map(drop).unwrap_err();
            assert!(matches!(err.kind(), ErrorKind::Input { .. }), "{err}");
        }
        // The element type of an output.
        let mut graph = relu(&fixed(&[2]));
        graph.outputs = vec![value("y", INT64, &fixed(&[2]))];
        let model = load_under(&host, &graph.bytes(), &policy);
        let err = model.and_then(|model| run_model(&model, &[("x", counting(&[2]))])).unwrap_err();
        assert_eq!(err.exit_code(), 4, "{err}");
        // The size of all outputs, whatever their declared shapes.
        let mut graph = relu(&fixed(&[100]));
        graph.outputs = vec![value("y", FLOAT, &fixed(&[1]))];
        let mut small = policy.clone();
        small.limits.output_size = 399;
        let model = load_under(&host, &graph.bytes(), &small).unwrap();
        let err = run_model(&model, &[("x", counting(&[100]))]).map(drop).unwrap_err();
        assert_eq!(err.exit_code(), 5, "{err}");
    }
}

#[test]
fn policy_shape_is_enforced_instead_of_the_models() {
    let host = host(Isolation::Thread);
    let graph = Graph { outputs: vec![value("y", FLOAT, &fixed(&[3]))], ..relu(&fixed(&[2])) };
    let under = |rules: &str| {
        let policy = Policy::parse(&format!("version = 1\n{rules}"), "p").unwrap();
        let model = load_under(&host, &graph.bytes(), &policy)?;
        run_model(&model, &[("x", counting(&[2]))])
    };
    for rules in [
        "",
        "[outputs.y]\nmin = 0\n",
        "[outputs.y]\nshape = [2]\n",
        "[outputs.y]\nshape = [\"?\"]\n",
    ] {
        under(rules).unwrap_or_else(|err| panic!("{rules}: {err}"));
    }
    for rules in ["[outputs.y]\nshape = [3]\n", "[outputs.y]\nshape = [\"?\", 2]\n"] {
        let err = under(rules).map(drop).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Withheld { .. }), "{rules}: {err}");
        assert!(err.to_string().contains("`outputs.y.shape`"), "{err}");
    }
    // With both, the rule contradicts the enforced declaration.
    let err =
        under("declared-shapes = \"strict\"\n[outputs.y]\nshape = [2]\n").map(drop).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Rule { .. }), "{err}");
    // A rule of an input that contradicts the model is still an error.
    let err = under("[inputs.x]\nshape = [3]\n").map(drop).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Rule { .. }), "{err}");
}

#[test]
fn the_command_line_reports_it_on_standard_error_and_in_json() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = place.path().canonicalize().unwrap().join(name);
        std::fs::write(&path, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let graph = Graph {
        outputs: vec![value("y", FLOAT, &[Dim::Fixed(5), Dim::Symbol("n")])],
        ..relu(&fixed(&[2]))
    };
    let model = write("m.onnx", &graph.bytes());
    let input = write("x.json", b"[1, -1]");
    let strict = write("strict.toml", b"version = 1\ndeclared-shapes = \"strict\"\n");
    let policy = write("report.toml", b"version = 1\ndeclared-shapes = \"report\"\n");
    let run = |more: &[&str], ceiling: Option<&str>| {
        let arguments = [&["run", &model, "--input", &input, "--no-store"], more].concat();
        let mut command = support::belljar(&arguments);
        command.envs(ceiling.map(|ceiling| ("BELLJAR_CEILING", ceiling)));
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let says = "output y has the shape [2], but the model declares [5, n]";
    let (code, out, err) = run(&[], None);
    assert_eq!((code, err.matches(says).count()), (0, 1), "{out}{err}");
    assert!(err.contains("belljar: warning: m.onnx: ") && err.contains("declared-shapes"), "{err}");
    let (code, _, err) = run(&["--quiet"], None);
    assert_eq!((code, &*err), (0, ""));
    let (code, out, _) = run(&["--format", "json", "--data", "--quiet"], None);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    let difference = serde_json::json!({
        "kind": "output", "name": "y", "declared": [5, "n"], "found": [2], "elsewhere": null,
    });
    assert_eq!(answer["shape_differences"], serde_json::json!([difference]));
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([1.0, 0.0]));
    let (code, out, err) = run(&["--policy", &strict], None);
    assert_eq!((code, &*out), (4, ""), "{err}");
    assert!(err.contains("it is f32 [2], but the model declares y: f32 [5, n]"), "{err}");
    // A ceiling can require strict shapes.
    let (code, _, err) = run(&["--policy", &policy], Some(&strict));
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("declared-shapes = \"report\" is more than the ceiling allows"), "{err}");
    let (code, _, err) = run(&["--policy", &policy, "--strict-policy"], Some(&strict));
    assert_eq!(code, 3, "{err}");
}
