//! The command line as people and scripts use it: inputs, outputs, and each command.

use crate::support;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use belljar::Tensor;
use serde_json::Value;
use support::onnx::{Dim, FLOAT, Graph, fixed, node, relu, value};
use support::scratch::Scratch;
use support::{belljar, models, repository};

use super::running::{answer, assert_exit, run, run_with_input, stderr, stdout};

#[test]
fn inputs_are_read_from_npy_npz_json_and_standard_input() {
    let s = Scratch::new();
    let model = s.relu();
    let mut npz = std::io::Cursor::new(Vec::new());
    let tensor = Tensor::new(vec![-1.0f32, 2.0, 3.5, -4.0], &[2, 2]).unwrap();
    belljar::tensor::npz::write(&[("x".into(), tensor)], &mut npz).unwrap();
    let npz = npz.into_inner();
    let json = b"[[-1, 2], [3.5, -4]]";
    let named = br#"{"x": [[-1, 2], [3.5, -4]]}"#;
    let typed = br#"{"dtype": "f32", "shape": [2, 2], "data": [-1, 2, 3.5, -4]}"#;
    let npy = fs::read(s.x()).unwrap();
    for content in [&npy[..], &npz, json, named, typed] {
        let file = s.file("input", content);
        // A file of named tensors has the names of the inputs.
        let by_name = format!("x={file}");
        let mut ways = vec![vec!["--input", &*file]];
        if content != named {
            ways.push(vec!["--input", &by_name]);
        }
        for way in ways {
            let arguments = [&["run", &*model, "--format", "json", "--data"][..], &way].concat();
            let found = answer(&run(&arguments));
            assert_eq!(found["outputs"][0]["data"], serde_json::json!([0.0, 2.0, 3.5, 0.0]));
        }
        let arguments = ["run", &model, "--format", "json", "--data", "--input", "-"];
        let found = answer(&run_with_input(&arguments, content));
        assert_eq!(found["outputs"][0]["top"][0]["index"], serde_json::json!([1, 0]));
    }
}

#[test]
fn outputs_are_written_to_npz_json_and_folders() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let expected = Tensor::new(vec![0.0f32, 2.0, 3.5, 0.0], &[2, 2]).unwrap();
    for name in ["answer.npz", "answer.json", "folder/"] {
        let path = format!("{}/{name}", s.folder().display());
        let output = run(&["run", &model, "--input", &x, "--output", &path]);
        assert_exit(&output, 0, "");
        assert!(stdout(&output).contains("wrote "));
    }
    let npz = fs::File::open(s.path("answer.npz")).unwrap();
    let arrays = belljar::tensor::npz::read(npz, 1 << 20).unwrap();
    assert_eq!(arrays, [("y".to_owned(), expected.clone())]);
    let npy = fs::File::open(s.path("folder/y.npy")).unwrap();
    assert_eq!(belljar::tensor::npy::read(npy, 1 << 20).unwrap(), expected);
    let json: Value = serde_json::from_slice(&fs::read(s.path("answer.json")).unwrap()).unwrap();
    assert_eq!(json["y"]["data"], serde_json::json!([0.0, 2.0, 3.5, 0.0]));
}

#[test]
fn labels_name_the_classes() {
    let s = Scratch::new();
    let labels = s.file("labels.txt", "cat\ndog\x1b[31m\n");
    let arguments = ["run", &s.relu(), "--input", &s.x(), "--labels", &labels, "--top", "2"];
    let output = run(&arguments);
    assert_exit(&output, 0, "");
    assert!(stdout(&output).contains("[1, 0]  3.5  cat"), "{}", stdout(&output));
    assert!(!stdout(&output).contains('\x1b'));
    let found = answer(&run(&[&arguments[..], &["--format", "json"]].concat()));
    assert_eq!(found["outputs"][0]["top"][1]["label"], "dog\u{1b}[31m");
}

#[test]
fn untrusted_names_are_escaped_in_every_output() {
    let s = Scratch::new();
    let name = "../\x1b]0;owned\x07\u{202e}\r\n";
    let graph = Graph {
        nodes: vec![node("Relu", &["x"], &[name], &[])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol(name), Dim::Fixed(2)])],
        outputs: vec![value(name, FLOAT, &[Dim::Symbol(name), Dim::Fixed(2)])],
        ..Graph::default()
    };
    let model = s.file("hostile.onnx", graph.bytes());
    let (x, folder) = (s.x(), s.path("folder"));
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    for arguments in [
        &["inspect", &*model][..],
        &["inspect", &model, "--format", "json"],
        &["run", &model, "--input", &x],
        &["run", &model, "--input", &x, "--format", "json"],
        &["run", &model, "--input", &x, "--output", folder],
        &["new-policy", &model, "--random"],
    ] {
        let output = run(arguments);
        assert_exit(&output, 0, "");
        let text = stdout(&output);
        let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.chars().any(bad), "{arguments:?}: {text:?}");
    }
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files.len(), 1);
    assert!(files[0].to_str().unwrap().chars().all(|c| c.is_ascii_graphic()), "{files:?}");
}

/// The exact table: `BELLJAR_BLESS=1` updates tests/expectations/ops.txt.
#[test]
fn ops_prints_the_table_of_operators() {
    let text = stdout(&run(&["ops"]));
    let path = support::repository().join("tests/expectations/ops.txt");
    if std::env::var_os("BELLJAR_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "BELLJAR_BLESS=1 writes it anew");
    let all = answer(&run(&["ops", "--format", "json"]));
    let operators = all["operators"].as_array().unwrap();
    assert_eq!(operators.len(), text.lines().count());
    let resize = answer(&run(&["ops", "resize", "--format", "json"]));
    assert!(resize["operators"].as_array().unwrap().iter().all(|one| one["name"] == "Resize"));
    for name in ["DictVectorizer", "ai.onnx.ml:DictVectorizer", "AI.ONNX.ML:dictvectorizer"] {
        let found = answer(&run(&["ops", name, "--format", "json"]));
        assert_eq!(found["operators"][0]["name"], "DictVectorizer");
    }
    assert_exit(&run(&["ops", "Frobnicate"]), 2, "unsupported operator Frobnicate");
}

#[test]
fn new_policy_pins_the_model_and_lets_it_run() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let policy = s.path("new.toml");
    let policy = policy.to_str().unwrap();
    assert_exit(&run(&["new-policy", &model, "--input", &x, "--output", policy]), 0, "");
    assert_exit(&run(&["new-policy", &model, "--input", &x, "--output", policy]), 1, "--force");
    assert_exit(&run(&["run", &model, "--policy", policy, "--input", &x]), 0, "");
    let other = s.file("other.onnx", relu(&fixed(&[2, 3])).bytes());
    assert_exit(&run(&["run", &other, "--policy", policy, "--input", &x]), 3, "model.sha256");
    let magika = models().join("magika.onnx");
    let output = run(&["new-policy", magika.to_str().unwrap(), "--random"]);
    assert!(stdout(&output).contains("sha256 = \"fe2d2eb49c"), "{}", stdout(&output));
}

#[test]
fn broken_pipe_is_success() {
    let s = Scratch::new();
    let x = s.x();
    for arguments in [
        vec!["run", "MODEL", "--input", &*x, "--format", "json"],
        vec!["inspect", "MODEL"],
        vec!["--help"],
        vec!["man"],
        vec!["completions", "bash"],
        vec!["--version", "--verbose"],
    ] {
        let model = s.relu();
        let arguments: Vec<&str> =
            arguments.iter().map(|each| if *each == "MODEL" { &*model } else { each }).collect();
        let mut child =
            belljar(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), &*text), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn color_flag_and_no_color_are_respected() {
    let with = |arguments: &[&str], no_color: &str| {
        let mut command = belljar(arguments);
        stderr(&command.env("NO_COLOR", no_color).output().unwrap())
    };
    assert!(!with(&["run", "/nope"], "").contains('\x1b'), "not a terminal");
    assert!(with(&["run", "/nope", "--color", "always"], "").contains('\x1b'));
    assert!(!with(&["run", "/nope", "--color", "never"], "").contains('\x1b'));
}

#[test]
fn version_help_completions_and_manual() {
    let version = stdout(&run(&["--version"]));
    assert_eq!(version, format!("belljar {}\n", env!("CARGO_PKG_VERSION")));
    let info = belljar::GuestInfo::embedded();
    for arguments in [["--version", "--verbose"], ["--verbose", "--version"]] {
        let text = stdout(&run(&arguments));
        assert!(text.contains(info.sha256) && text.contains("rustc "), "{text}");
    }
    let help = stdout(&run(&["--help"]));
    for code in 0..=7 {
        assert!(help.contains(&format!("\n  {code}  ")), "exit code {code} is not in the help");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(stdout(&run(&["completions", shell])).contains("new-policy"), "{shell}");
    }
    let s = Scratch::new();
    let folder = s.path("man");
    assert_exit(&run(&["man", "--output", folder.to_str().unwrap()]), 0, "");
    let mut pages: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    pages.sort();
    assert!(pages.len() >= 7 && pages.iter().any(|page| page == "belljar-run.1"), "{pages:?}");
}

#[test]
fn confine_show_explains_filters() {
    let output = run(&["confine", "show"]);
    assert_exit(&output, 0, "");
    let roles =
        ["compile", "prepare", "run", "compile-program", "program", "granted-program", "thread"];
    for role in roles {
        assert!(stdout(&output).lines().any(|line| line.starts_with(role)), "{}", stdout(&output));
        let output = run(&["confine", "show", role]);
        assert_exit(&output, 0, "");
        let text = stdout(&output);
        for expected in [role, std::env::consts::ARCH, "clone3", "PROT_"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let json = answer(&run(&["confine", "show", role, "--format", "json"]));
        assert_eq!(json["role"], role);
        let rules = json["rules"].as_array().unwrap();
        for rule in rules {
            assert!(!rule["why"].as_str().unwrap().is_empty(), "{rule}");
            assert!(text.contains(rule["call"].as_str().unwrap()), "{rule} is not in\n{text}");
            for condition in rule["when"].as_array().unwrap() {
                assert!(text.contains(condition.as_str().unwrap()), "{rule} is not in\n{text}");
            }
        }
        let opens = rules.iter().any(|rule| rule["call"] == "openat");
        assert_eq!(opens, role == "thread", "who lists what is refused");
    }
    let shown = answer(&run(&["confine", "show", "--format", "json"]));
    assert_eq!(shown.as_array().unwrap().len(), roles.len());
    assert_exit(&run(&["confine", "show", "nobody"]), 2, "nobody");
}

/// Fault injection and escape attempts are only in test builds.
#[test]
#[cfg(not(feature = "test-hooks"))]
fn release_build_has_no_test_hooks() {
    let program = fs::read(support::BELLJAR).unwrap();
    let has = |text: &str| program.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("BELLJAR_CACHE_DIR"), "a check of this test");
    for hook in ["BELLJAR_TEST_FAULTS", "without_rule", "have memory executable by personality"] {
        assert!(!has(hook), "{hook}");
    }
}

#[test]
fn library_example_runs() {
    let example = Path::new(support::BELLJAR).with_file_name("examples").join("run");
    let path = models().join("pp_ocr_cls.onnx");
    let mut command = Command::new(example);
    command.env("BELLJAR_CACHE_DIR", support::cache_dir());
    command.env("BELLJAR_STATE_DIR", support::state_dir());
    let output = command.arg(path).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("f32 [1, 2]"), "{}", stdout(&output));
}
