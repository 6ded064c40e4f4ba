//! Invalid files and hostile models: each ends in a clear error.

use crate::support;

use belljar::text::Escaped;
use belljar::{ErrorKind, Isolation, Policy, Tensor};
use support::onnx::{
    Dim, FLOAT, Graph, INT64, Message, fixed, node, relu, string_attribute, tensor_f32, tensor_i64,
    value,
};
use support::{ISOLATIONS, host, load, models};

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

/// Loads and runs a model, and returns the exit code and the error.
fn outcome(host: &belljar::Host, bytes: &[u8]) -> (u8, String) {
    let result = load(host, bytes)
        .and_then(|model| model.run(&[("x", ones(&[2]))]))
        .and_then(|outputs| outputs.validate());
    match result {
        Ok(_) => (0, String::new()),
        Err(err) => (err.exit_code(), err.to_string()),
    }
}

/// A small deterministic generator, so that every failure can be reproduced.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn random_bytes_are_refused_as_a_model() {
    let host = host(Isolation::Thread);
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for len in [0usize, 1, 2, 16, 100, 4096, 100_000] {
        let bytes: Vec<u8> = (0..len).map(|_| random(&mut seed) as u8).collect();
        let (code, text) = outcome(&host, &bytes);
        assert_eq!(code, 4, "{len} bytes: {text}");
    }
}

#[test]
fn a_truncated_model_is_refused() {
    let bytes = relu(&fixed(&[2])).bytes();
    let host = host(Isolation::Thread);
    assert_eq!(outcome(&host, &bytes).0, 0);
    // Without its last bytes, the import of the operator set, the model is complete but of an
    // unknown operator set; everything shorter is incomplete.
    for len in 0..bytes.len() - 6 {
        let (code, text) = outcome(&host, &bytes[..len]);
        assert_eq!(code, 4, "{len} bytes: {text}");
    }
}

#[test]
fn a_truncated_or_damaged_real_model_never_harms_the_host() {
    let bytes = std::fs::read(models().join("silero_vad_openvino_16k.onnx")).unwrap();
    let host = host(Isolation::Thread);
    let mut seed = 88_172_645_463_325_252;
    for round in 0..24 {
        let mut bytes = bytes.clone();
        if round % 2 == 0 {
            bytes.truncate(random(&mut seed) as usize % bytes.len());
        } else {
            for _ in 0..16 {
                let at = random(&mut seed) as usize % bytes.len();
                bytes[at] = random(&mut seed) as u8;
            }
        }
        match load(&host, &bytes) {
            Ok(model) => {
                let inputs = [("input", ones(&[1, 576])), ("state", ones(&[2, 1, 128]))];
                let result = model.run(&inputs).and_then(|outputs| outputs.validate());
                if let Err(err) = result {
                    assert!([4, 5, 6].contains(&err.exit_code()), "round {round}: {err}");
                }
            }
            Err(err) => assert!([4, 5].contains(&err.exit_code()), "round {round}: {err}"),
        }
    }
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    let name = "x\x1b]0;owned\x07\u{202e}\r\nbelljar: all is well";
    let graph = Graph {
        nodes: vec![node("Relu", &[name], &["y"], &[])],
        inputs: vec![value(name, FLOAT, &fixed(&[2]))],
        outputs: vec![value("y", FLOAT, &fixed(&[2]))],
        ..Graph::default()
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = load(&host, &graph.bytes()).unwrap();
        assert_eq!(model.description().inputs[0].name, name, "the name is unchanged");
        let err = model.run(&[("y", ones(&[2]))]).err().unwrap().to_string();
        assert!(err.contains("owned"), "{err}");
        assert!(!err.chars().any(|c| c.is_control() || c == '\u{202e}'), "{err:?}");
        let shown = Escaped::new(&model.description().inputs[0].name).to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[test]
fn long_texts_of_a_model_are_truncated() {
    let long = "é".repeat(3 << 20);
    let model = relu(&fixed(&[2]))
        .model()
        .bytes(6, &long)
        .message(14, Message::new().bytes(1, "key").bytes(2, &long))
        .finish();
    let host = host(Isolation::Process);
    let model = load(&host, &model).unwrap();
    let description = model.description();
    assert!(description.truncated);
    assert!(description.doc_string.len() <= 4096 && description.doc_string.starts_with('é'));
    assert!(description.metadata[0].1.len() <= 4096);
}

#[test]
fn models_over_the_limits_of_names_ranks_and_inputs_are_refused() {
    let host = host(Isolation::Thread);
    let long = "n".repeat(5000);
    let many: Vec<String> = (0..1025).map(|n| format!("x{n}")).collect();
    let dims = fixed(&[1; 33]);
    let graphs = [
        ("a long name", Graph { inputs: vec![value(&long, FLOAT, &[])], ..relu(&fixed(&[2])) }),
        ("a high rank", Graph { inputs: vec![value("x", FLOAT, &dims)], ..relu(&fixed(&[2])) }),
        (
            "many inputs",
            Graph {
                inputs: many.iter().map(|name| value(name, FLOAT, &fixed(&[1]))).collect(),
                ..relu(&fixed(&[2]))
            },
        ),
        (
            "a duplicate input",
            Graph { inputs: vec![value("x", FLOAT, &[]), value("x", FLOAT, &[])], ..relu(&[]) },
        ),
        ("no outputs", Graph { outputs: vec![], ..relu(&fixed(&[2])) }),
        (
            "an output that no node makes",
            Graph { outputs: vec![value("z", FLOAT, &[])], ..relu(&fixed(&[2])) },
        ),
    ];
    for (what, graph) in graphs {
        let (code, text) = outcome(&host, &graph.bytes());
        assert_eq!(code, 4, "{what}: {text}");
    }
}

#[test]
fn unknown_domains_functions_named_like_operators_and_duplicate_values_are_refused() {
    let host = host(Isolation::Thread);
    let mut graph = relu(&fixed(&[2]));
    graph.nodes = vec![node("Relu", &["x"], &["y"], &[]).bytes(7, "com.evil")];
    let (code, text) = outcome(&host, &graph.bytes());
    assert!(code == 4 && text.contains("com.evil"), "{code} {text}");

    let function = Message::new().bytes(1, "Relu").bytes(4, "x").bytes(5, "y");
    let model = relu(&fixed(&[2])).model().message(25, function).finish();
    let (code, text) = outcome(&host, &model);
    assert!(code == 4 && text.contains("the function"), "{code} {text}");

    let mut graph = relu(&fixed(&[2]));
    graph.nodes.push(node("Neg", &["x"], &["y"], &[]));
    let (code, text) = outcome(&host, &graph.bytes());
    assert!(code == 4 && text.contains("same value"), "{code} {text}");
}

#[test]
fn external_data_is_refused_and_described() {
    let entry = |key: &str, value: &str| Message::new().bytes(1, key).bytes(2, value);
    let weight = tensor_f32("w", &[2], &[])
        .message(13, entry("location", "../../etc/passwd"))
        .message(13, entry("offset", "0"))
        .int(14, 1);
    let graph = Graph {
        nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
        initializers: vec![weight],
        ..relu(&fixed(&[2]))
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = load(&host, &graph.bytes()).unwrap();
        let external = &model.description().external_data;
        assert_eq!(external.len(), 1);
        assert_eq!(external[0].location, "../../etc/passwd");
        let (code, text) = outcome(&host, &graph.bytes());
        assert!(code == 4 && text.contains("another file"), "{code} {text}");
    }
}

#[test]
fn an_index_out_of_range_is_refused_without_a_panic() {
    // An index that is within another dimension, but not within its own.
    let graph = Graph {
        nodes: vec![
            node(
                "ScatterND",
                &["data", "indices", "updates"],
                &["changed"],
                &[string_attribute("reduction", "add")],
            ),
            node("Add", &["x", "changed"], &["y"], &[]),
        ],
        initializers: vec![
            tensor_f32("data", &[2, 8], &[0.0; 16]),
            tensor_i64("indices", &[1, 2], &[7, 0]),
            tensor_f32("updates", &[1], &[1.0]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[2, 1]))],
        outputs: vec![value("y", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(8)])],
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let model = load(&host, &graph.bytes()).unwrap();
        let err = model.run(&[("x", ones(&[2, 1]))]).err().unwrap();
        assert_eq!(err.exit_code(), 4, "{err}");
        assert!(err.to_string().contains("the index 7"), "{err}");
        assert!(!err.to_string().contains("panicked"), "{err}");
        assert_eq!(outcome(&host, &relu(&fixed(&[2])).bytes()).0, 0, "the host continues");
    }
}

#[test]
fn a_pinned_policy_refuses_another_model() {
    let host = host(Isolation::Thread);
    let mut policy = Policy::default();
    policy.model.sha256 = Some([7; 32]);
    let bytes = relu(&fixed(&[2])).bytes();
    let err = support::load_under(&host, &bytes, &policy).err().unwrap();
    assert!(matches!(err.kind(), ErrorKind::Pin { .. }), "{err}");
    assert_eq!(err.exit_code(), 3);
    assert!(
        err.to_string().starts_with("test.onnx: ") && err.to_string().contains("0707"),
        "{err}"
    );
}

#[test]
fn inputs_that_do_not_match_the_model_are_refused() {
    let host = host(Isolation::Thread);
    let model = load(&host, &relu(&fixed(&[2])).bytes()).unwrap();
    let wrong: [Vec<(&str, Tensor)>; 6] = [
        vec![],
        vec![("z", ones(&[2]))],
        vec![("x", ones(&[3]))],
        vec![("x", ones(&[2, 1]))],
        vec![("x", Tensor::new(vec![1.0f64; 2], &[2]).unwrap())],
        vec![("x", ones(&[2])), ("x", ones(&[2]))],
    ];
    for inputs in wrong {
        let err = model.run(&inputs).err().unwrap();
        assert!(matches!(err.kind(), ErrorKind::Input { .. }), "{err}");
        assert_eq!(err.exit_code(), 4);
    }
}

#[test]
fn outputs_that_break_the_declaration_are_withheld() {
    let host = host(Isolation::Thread);
    let mut graph = relu(&fixed(&[2]));
    graph.outputs = vec![value("y", INT64, &fixed(&[2]))];
    let (code, text) = outcome(&host, &graph.bytes());
    assert!(code == 4 && text.contains("is declared as"), "{code} {text}");
    // A different shape only, which this policy refuses.
    graph.outputs = vec![value("y", FLOAT, &fixed(&[3]))];
    let declared_shapes = belljar::policy::DeclaredShapes::Strict;
    let policy = Policy::default().with_declared_shapes(declared_shapes);
    let model = support::load_under(&host, &graph.bytes(), &policy).unwrap();
    let err = model.run(&[("x", ones(&[2]))]).unwrap().validate().unwrap_err();
    let (code, text) = (err.exit_code(), err.to_string());
    assert!(code == 4 && text.contains("violates the model's declaration"), "{code} {text}");
}
