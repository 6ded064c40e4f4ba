//! Value rules of a policy: an input that violates its rule does not reach the model, an output
//! that violates its rule is withheld, an input whose value the policy fixes can be omitted, and
//! outputs are cut and rounded.

use crate::support;

use belljar::{ErrorKind, Host, InputShape, Isolation, Model, Policy, Tensor};
use support::onnx::{
    Dim, FLOAT, Graph, INT64, fixed, graph_attribute, node, relu, tensor_i64, value,
    value_of_any_shape,
};
use support::{ISOLATIONS, host, load_under};

fn under(host: &Host, bytes: &[u8], rules: &str) -> Result<Model, belljar::Error> {
    let policy = Policy::parse(&format!("version = 1\n{rules}"), "p").unwrap();
    load_under(host, bytes, &policy)
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::new(values.to_vec(), &[values.len()]).unwrap()
}

/// `y = Relu(x)` on four numbers.
fn run(host: &Host, rules: &str, x: &[f32]) -> Result<Vec<f32>, belljar::Error> {
    let model = under(host, &relu(&fixed(&[4])).bytes(), rules)?;
    let outputs = model.run(&[("x", floats(x))])?.validate()?;
    Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
}

#[test]
fn inputs_that_violate_a_rule_are_refused() {
    const NAN: f32 = f32::NAN;
    let cases: [(&str, [f32; 4], [f32; 4], &str); 7] = [
        ("", [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, NAN, 4.0], "element [2] is not finite"),
        ("finite = false", [1.0, NAN, f32::INFINITY, 0.0], [0.0; 4], ""),
        ("min = 0", [0.0, 1.0, 2.0, 3.0], [0.0, -0.5, 1.0, 7.0], "element [1] is below"),
        ("max = 0.1", [0.1, 0.0, -9.0, 0.0], [0.1, 0.0, 0.0, 0.11], "element [3] is above"),
        ("max-norm = 2", [1.0; 4], [1.0, 1.0, 1.0, 1.1], "its norm is above"),
        ("max-norm = 2", [1.0; 4], [f32::MAX; 4], "its norm is above"),
        (
            "allowed = [0, 0.1, 7]",
            [0.1, 7.0, 0.0, 0.1],
            [7.5, 0.0, 0.0, 0.0],
            "element [0] is not one",
        ),
    ];
    for isolation in ISOLATIONS {
        let host = host(isolation);
        for (rule, good, bad, why) in &cases {
            let rules = format!("[inputs.x]\n{rule}\n");
            run(&host, &rules, good).unwrap_or_else(|err| panic!("{rule}: {err}"));
            if why.is_empty() {
                continue;
            }
            let err = run(&host, &rules, bad).expect_err(rule);
            let text = err.to_string();
            assert_eq!(err.exit_code(), 4, "{text}");
            assert!(matches!(err.kind(), ErrorKind::Input { name, .. } if name == "x"), "{text}");
            assert!(text.contains(why) && text.contains("`inputs.x."), "{rule}: {text}");
            assert!(
                !text.contains("7.5") && !text.contains("-0.5"),
                "a value is disclosed: {text}"
            );
        }
    }
}

#[test]
fn input_that_violates_a_rule_never_reaches_a_sandbox() {
    let host = host(Isolation::Thread);
    let model = under(&host, &relu(&fixed(&[4])).bytes(), "[inputs.x]\nmax = 1\n").unwrap();
    let before = model.calls();
    model.run(&[("x", floats(&[0.0, 0.0, 0.0, 2.0]))]).err().unwrap();
    model.prepare(&[("x", floats(&[0.0, 0.0, 0.0, 2.0]))]).err().unwrap();
    assert_eq!((model.calls().run, model.calls().prepare), (before.run, before.prepare));
}

#[test]
fn outputs_that_violate_a_rule_are_withheld() {
    let cases: [(&str, [f32; 4], &str); 5] = [
        ("", [1.0, f32::NAN, 3.0, 4.0], "element [1] is not finite"),
        ("", [1.0, 2.0, 3.0, f32::INFINITY], "element [3] is not finite"),
        ("max = 5", [1.0, 2.0, 6.25, 4.0], "element [2] is above"),
        ("min = 0.5", [1.0, 2.0, -6.0, 4.0], "element [2] is below"),
        ("allowed = [0, 1]", [1.0, 1.0, 1.0, 6.25], "element [3] is not one"),
    ];
    for isolation in ISOLATIONS {
        let host = host(isolation);
        for (rule, x, why) in &cases {
            let err = run(&host, &format!("[outputs.y]\n{rule}\n"), x).expect_err(rule);
            let text = err.to_string();
            assert_eq!(err.exit_code(), 3, "{text}");
            assert!(matches!(err.kind(), ErrorKind::Withheld { .. }), "{text}");
            assert!(text.contains(why) && text.contains("withheld"), "{rule}: {text}");
            assert!(!text.contains("6.25"), "a value is disclosed: {text}");
        }
        // NaN is returned without a rule, and under a rule that allows it.
        assert!(run(&host, "", &[f32::NAN, 0.0, 0.0, 0.0]).unwrap()[0].is_nan());
        let open = "[outputs.y]\nfinite = false\nmin = 0\n";
        assert!(run(&host, open, &[f32::NAN, 0.0, 0.0, 0.0]).unwrap()[0].is_nan());
    }
}

#[test]
fn outputs_are_cut_and_rounded() {
    let host = host(Isolation::Thread);
    let least = f32::NEG_INFINITY;
    let x = [0.126, 3.0, 3.0, 0.25];
    assert_eq!(run(&host, "[outputs.y]\ndecimals = 2\n", &x).unwrap(), [0.13, 3.0, 3.0, 0.25]);
    assert_eq!(run(&host, "[outputs.y]\ndecimals = 0\n", &x).unwrap(), [0.0, 3.0, 3.0, 0.0]);
    assert_eq!(run(&host, "[outputs.y]\ntop-k = 1\n", &x).unwrap(), [least, 3.0, least, least]);
    assert_eq!(run(&host, "[outputs.y]\ntop-k = 3\n", &x).unwrap(), [least, 3.0, 3.0, 0.25]);
    let both = "[outputs.y]\ntop-k = 3\ndecimals = 1\nmax = 3\n";
    assert_eq!(run(&host, both, &x).unwrap(), [least, 3.0, 3.0, 0.3]);
    assert_eq!(run(&host, "[outputs.y]\ntop-k = 9\n", &x).unwrap(), x);
}

#[test]
fn rules_that_do_not_fit_the_model_are_refused() {
    let host = host(Isolation::Thread);
    for (rules, why) in [
        ("[inputs.z]\nmin = 0\n", "no such input"),
        ("[outputs.x]\nmin = 0\n", "no such output"),
        ("[inputs.x]\ndtype = \"i64\"\n", "`inputs.x.dtype`"),
        ("[inputs.x]\nshape = [5]\n", "`inputs.x.shape`"),
        ("[inputs.x]\nshape = [4, 1]\n", "`inputs.x.shape`"),
        ("[inputs.x]\nallowed = [true]\n", "`inputs.x.allowed`"),
        ("[inputs.x]\nvalue = 1\n", "`inputs.x.value`"),
    ] {
        let err = run(&host, rules, &[0.0; 4]).expect_err(rules);
        let text = err.to_string();
        assert!(err.exit_code() == 3 && text.contains(why), "{rules}: {text}");
    }
    run(&host, "[inputs.x]\ndtype = \"f32\"\nshape = [\"?\"]\n", &[0.0; 4]).unwrap();
}

/// A shape outside of the policy's bounds is refused before anything is prepared for it.
#[test]
fn open_dimensions_are_bounded_by_the_policy() {
    let host = host(Isolation::Process);
    let bytes = relu(&[Dim::Symbol("rows"), Dim::Fixed(2)]).bytes();
    let rules = "[inputs.x]\nshape = [\"2..3\", 2]\n[outputs.y]\nshape = [\"0..3\", \"1..2\"]\n";
    let model = under(&host, &bytes, rules).unwrap();
    let rows = |rows: usize| Tensor::new(vec![1f32; 2 * rows], &[rows, 2]).unwrap();
    for inside in [2, 3] {
        model.run(&[("x", rows(inside))]).unwrap().validate().unwrap();
    }
    let calls = model.calls();
    for outside in [0, 1, 4, 100] {
        let input = [("x", rows(outside))];
        let shape = InputShape { name: "x".into(), dims: vec![outside as u64, 2] };
        for err in [
            model.run(&input).map(drop).unwrap_err(),
            model.prepare(&input).map(drop).unwrap_err(),
            model.prepare_for(&[shape]).map(drop).unwrap_err(),
        ] {
            let text = err.to_string();
            assert_eq!(err.exit_code(), 4, "{text}");
            assert!(text.contains("allows [2..3, 2] (`inputs.x.shape`)"), "{text}");
        }
    }
    assert_eq!(model.calls(), calls, "a shape outside of the bounds reached a sandbox");
    // A range that excludes the model's own fixed size can never be met.
    let err = under(&host, &bytes, "[inputs.x]\nshape = [\"?\", \"3..9\"]\n").err().unwrap();
    assert!(err.exit_code() == 3 && err.to_string().contains("`inputs.x.shape`"), "{err}");
}

/// `y = x + 1` if the scalar `way` is 16, and otherwise an invalid branch.
fn chosen() -> Vec<u8> {
    let branch = |nodes: Vec<support::onnx::Message>| {
        let graph = Graph {
            nodes,
            initializers: vec![tensor_i64("odd", &[2], &[7, 7])],
            outputs: vec![value_of_any_shape("made", FLOAT)],
            ..Graph::default()
        };
        graph.message()
    };
    let then = branch(vec![node("Add", &["x", "one"], &["made"], &[])]);
    // Seven by seven from four elements.
    let other = branch(vec![node("Reshape", &["x", "odd"], &["made"], &[])]);
    let graph = Graph {
        nodes: vec![
            node("Equal", &["way", "sixteen"], &["is"], &[]),
            node(
                "If",
                &["is"],
                &["y"],
                &[graph_attribute("then_branch", then), graph_attribute("else_branch", other)],
            ),
        ],
        initializers: vec![
            tensor_i64("sixteen", &[], &[16]),
            support::onnx::tensor_f32("one", &[], &[1.0]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[4])), value("way", INT64, &[])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    graph.bytes()
}

#[test]
fn input_fixed_by_the_policy_decides_what_is_analysed() {
    let way = |way: i64| Tensor::scalar(way);
    let x = || floats(&[0.0, 1.0, 2.0, 3.0]);
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let bytes = chosen();
        // Without a rule, the other branch is refused when it is taken.
        let open = under(&host, &bytes, "").unwrap();
        let outputs = open.run(&[("x", x()), ("way", way(16))]).unwrap().validate().unwrap();
        assert_eq!(outputs.get("y").unwrap().as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let err = open.run(&[("x", x()), ("way", way(8))]).err().unwrap();
        let text = err.to_string();
        let named = ["\"y\": If", "Reshape"].iter().all(|part| text.contains(part));
        assert!(err.exit_code() == 4 && named, "{text}");
        let model = under(&host, &bytes, "[inputs.way]\nvalue = 16\n").unwrap();
        let answer = |inputs: &[(&str, Tensor)]| -> Result<Vec<f32>, belljar::Error> {
            let outputs = model.run(inputs)?.validate()?;
            Ok(outputs.get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
        };
        let expected = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(answer(&[("x", x())]).unwrap(), expected);
        assert_eq!(answer(&[("x", x()), ("way", way(16))]).unwrap(), expected);
        let err = answer(&[("x", x()), ("way", way(8))]).err().unwrap();
        assert!(err.exit_code() == 4 && err.to_string().contains("`inputs.way.value`"), "{err}");
        // The same model with another fixed value is prepared separately.
        let other = under(&host, &bytes, "[inputs.way]\nvalue = 8\n").unwrap();
        assert_eq!(other.run(&[("x", x())]).err().unwrap().exit_code(), 4);
        assert_eq!(answer(&[("x", x())]).unwrap(), expected);
    }
}

#[test]
fn policy_for_a_program_cannot_have_value_rules() {
    let text = "version = 1\n[program]\n[inputs.x]\nmin = 0\n";
    assert!(
        Policy::parse(text, "p").unwrap_err().to_string().contains("value rules apply to models")
    );
    for (text, why) in [
        ("[inputs.x]\nmin = 2\nmax = 1\n", "so no value would pass"),
        ("[inputs.x]\nmin = nan\n", "finite"),
        ("[inputs.x]\nmin = true\n", "not a number"),
        ("[inputs.x]\nmax-norm = -1\n", "negative"),
        ("[inputs.x]\nshape = [-1]\n", "size"),
        ("[inputs.x]\nshape = [\"3..2\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"1...3\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"..3\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"1..\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"+1..3\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"1..99999999999999999999\"]\n", "not a range of sizes"),
        ("[inputs.x]\nshape = [\"3\"]\n", "not a range of sizes"),
        ("[inputs.x]\nallowed = []\n", "0 values"),
        ("[inputs.x]\ntop-k = 1\n", "top-k"),
        ("[outputs.x]\nvalue = 1\n", "value"),
        ("[outputs.x]\ndecimals = 16\n", "from 0 to 15"),
        ("[outputs.x]\ntop-k = 0\n", "from 1"),
        ("[inputs]\nx = 1\n", "not a table"),
    ] {
        let err = Policy::parse(&format!("version = 1\n{text}"), "p").expect_err(text);
        assert!(err.to_string().contains(why), "{text}: {err}");
    }
}
