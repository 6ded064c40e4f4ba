//! Each exit code, and the message that belongs to it.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use belljar::Tensor;
use support::belljar;
use support::onnx::{FLOAT, Graph, fixed, node, tensor_f32, value};
use support::scratch::Scratch;

use super::running::{assert_exit, run, stderr, stdout};
use super::workers::Busy;

#[test]
fn exit_code_0_success() {
    let s = Scratch::new();
    let output = run(&["run", &s.relu(), "--input", &format!("x={}", s.x())]);
    assert_exit(&output, 0, "");
    let table = stdout(&output);
    for expected in ["output", "y", "f32", "2×2", "1.375", "[1, 0]", "3.5"] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn exit_code_1_other_errors() {
    let s = Scratch::new();
    let taken = s.file("taken.npz", "mine");
    let output = run(&["run", &s.relu(), "--input", &s.x(), "--output", &taken]);
    assert_exit(&output, 1, "taken.npz");
    assert!(stderr(&output).contains("--force"));
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
}

#[test]
fn exit_code_2_usage_errors() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let truncated = s.file("cut.npy", &fs::read(&x).unwrap()[..100]);
    let pickle = s.file("pickle.npy", {
        let header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16 + 1).to_le_bytes());
        bytes.extend(header.bytes().chain(*b"\n"));
        bytes
    });
    let ragged = s.file("ragged.json", "[[1, 2], [3]]");
    let labels = s.file("labels.txt", "a\nb\nc\n");
    let folder = s.folder().to_str().unwrap().to_owned();
    let bad_policy = s.policy("[limits]\nmemroy = \"1 GiB\"");
    let cases: [(&[&str], &str); 17] = [
        (&["run"], "MODEL"),
        (&["run", &model, "--nonsense"], "--nonsense"),
        (&["frobnicate"], "frobnicate"),
        (&["run", "/does/not/exist.onnx"], "exist.onnx"),
        (&["run", "-"], "standard input"),
        (&["run", &folder], "not a regular file"),
        (&["run", "/dev/zero"], "not a regular file"),
        (&["run", &model, "--input", "x=/does/not/exist"], "exist"),
        (&["run", &model, "--input", &truncated], "cut.npy"),
        (&["run", &model, "--input", &pickle], "pickle"),
        (&["run", &model, "--input", &ragged], "ragged.json"),
        (&["run", &model, "--input", "=x"], "NAME=FILE"),
        (&["run", &model, "--input", "x=-", "--input", "z=-"], "only one input"),
        (&["run", &model, "--input", &x, "--labels", &labels], "3 lines"),
        (&["run", &model, "--input", &x, "--output", "answer.txt"], "cannot infer the format"),
        (&["run", &model, "--input", &x, "--policy", &bad_policy], "memory"),
        (&["run", &model, "--input", &x, "--policy", "/does/not/exist.toml"], "exist.toml"),
    ];
    for (arguments, says) in cases {
        assert_exit(&run(arguments), 2, says);
    }
}

#[test]
fn exit_code_3_refused_by_policy() {
    let s = Scratch::new();
    let pinned = s.policy(&format!("[model]\nsha256 = \"{}\"", "ab".repeat(32)));
    let output = run(&["run", &s.relu(), "--input", &s.x(), "--policy", &pinned]);
    assert_exit(&output, 3, "model.sha256");

    let open = s.policy("");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    let output = run(&["run", &s.relu(), "--input", &s.x(), "--policy", &open]);
    assert_exit(&output, 3, "not trusted");
}

#[test]
fn policy_next_to_the_model_is_not_used() {
    let s = Scratch::new();
    s.policy(&format!("[model]\nsha256 = \"{}\"", "ab".repeat(32)));
    s.file("relu.policy.toml", "nonsense");
    s.file("relu.toml", "nonsense");
    let mut command = belljar(&["run", &s.relu(), "--input", &s.x()]);
    assert_exit(&command.current_dir(s.folder()).output().unwrap(), 0, "");
}

#[test]
fn exit_code_4_invalid_model_or_input() {
    let s = Scratch::new();
    let model = s.relu();
    let wrong = s.npy("wrong.npy", &Tensor::new(vec![1.0f64; 4], &[2, 2]).unwrap());
    let cases: [(&[&str], &str); 5] = [
        (
            &["run", &s.file("text.onnx", "this is not a model"), "--input", "x=-"],
            "not an ONNX model",
        ),
        (&["inspect", &s.file("empty.onnx", "")], "no graph"),
        (&["run", &model], "not given"),
        (&["run", &model, "--input", &wrong], "the model declares x: f32 [2, 2]"),
        (&["run", &model, "--input", &format!("z={}", s.x())], "no such input"),
    ];
    for (arguments, says) in cases {
        assert_exit(&run(arguments), 4, says);
    }
}

#[test]
fn exit_code_5_exceeded_limits() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let big = s.npy("big.npy", &Tensor::new(vec![0.0f32; 1000], &[1000]).unwrap());
    let slow = s.file("slow.onnx", support::onnx::slow(512, 400).bytes());
    let square = s.npy("square.npy", &Tensor::new(vec![0.0f32; 512 * 512], &[512, 512]).unwrap());
    let cases: [(&str, &[&str], &str); 3] = [
        ("model-size = \"10 B\"", &["run", &model, "--input", &x], "limits.model-size"),
        ("input-size = \"100 B\"", &["run", &model, "--input", &big], "limits.input-size"),
        ("run-time = \"100 ms\"", &["run", &slow, "--input", &square], "limits.run-time"),
    ];
    for (limit, arguments, says) in cases {
        for (isolation, confinement) in [("process", "strict"), ("thread", "best-effort")] {
            let text = format!("confinement = \"{confinement}\"\n[limits]\n{limit}");
            let policy = s.policy(&text);
            let more = ["--policy", &policy, "--isolation", isolation];
            let arguments: Vec<&str> = arguments.iter().copied().chain(more).collect();
            assert_exit(&run(&arguments), 5, says);
        }
    }
}

#[test]
fn exit_code_4_position_outside_of_the_tables() {
    let s = Scratch::new();
    let graph = Graph {
        nodes: vec![node("RotaryEmbedding", &["x", "cos", "sin", "positions"], &["y"], &[])],
        initializers: vec![
            tensor_f32("x", &[1, 1, 2, 4], &[1.0; 8]),
            tensor_f32("cos", &[3, 2], &[1.0; 6]),
            tensor_f32("sin", &[3, 2], &[0.0; 6]),
        ],
        inputs: vec![value("positions", support::onnx::INT64, &fixed(&[1, 2]))],
        outputs: vec![value("y", FLOAT, &fixed(&[1, 1, 2, 4]))],
    };
    let opset = support::onnx::Message::new().int(2, 23);
    let model =
        support::onnx::Message::new().int(1, 10).message(7, graph.message()).message(8, opset);
    let model = s.file("rotary.onnx", model.finish());
    let zeros = s.npy("positions.npy", &Tensor::new(vec![9i64; 2], &[1, 2]).unwrap());
    for isolation in ["process", "thread"] {
        let output = run(&["run", &model, "--input", &zeros, "--isolation", isolation]);
        assert_exit(&output, 4, "the position 9");
    }
}

/// No model is known that makes the sandbox trap, so this test kills the worker.
#[test]
fn exit_code_6_worker_died_during_a_run() {
    let mut busy = Busy::start();
    busy.wait_until_at_work();
    let worker = rustix::process::Pid::from_raw(busy.worker.cast_signed()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    assert_eq!(busy.supervisor.wait().unwrap().code(), Some(6));
}

#[test]
fn exit_code_7_missing_protection() {
    let s = Scratch::new();
    let (cache, state) = (s.path("cache"), s.path("state"));
    fs::create_dir_all(cache.join("code")).unwrap();
    fs::set_permissions(cache.join("code"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = belljar(&["run", &s.relu(), "--input", &s.x()])
        .env("BELLJAR_CACHE_DIR", &cache)
        .env("BELLJAR_STATE_DIR", &state)
        .output()
        .unwrap();
    assert_exit(&output, 7, "chmod");
}
