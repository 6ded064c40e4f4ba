//! The decision log: every decision is logged, and what cannot be logged is not allowed.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use belljar::{Isolation, ModelBytes, Policy, Tensor};
use serde_json::Value;
use support::onnx::{fixed, relu};
use support::scratch::Scratch;
use support::{belljar, builder};

impl Scratch {
    /// The lines that a run has added.
    fn decided(&self, ceiling: &str, more: &[&str]) -> (Output, Vec<Value>) {
        let log = self.path("decisions.jsonl");
        let _ = fs::remove_file(&log);
        let model = self.file("relu.onnx", relu(&fixed(&[2, 2])).bytes());
        let input = self.file("x.json", "[[1, 2], [3, 4]]");
        let log = log.to_str().unwrap();
        let mut arguments = vec!["run", &model, "--input", &input, "--decisions", log];
        arguments.extend(more);
        let mut command = belljar(&arguments);
        if !ceiling.is_empty() {
            command.env("BELLJAR_CEILING", ceiling);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (output, lines)
    }
}

fn short(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    format!("{} {} {}: {}", text("verdict"), text("resource"), text("access"), text("rule"))
}

#[test]
fn every_decision_of_a_run_is_logged() {
    let s = Scratch::new();
    let (output, lines) = s.decided("", &[]);
    assert_eq!(output.status.code(), Some(0));
    let logged: Vec<String> = lines.iter().map(short).collect();
    assert_eq!(logged, ["allowed model load: no pin", "allowed model run: limits"]);
    for line in &lines {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        let expected = ["access", "model", "policy", "resource", "rule", "time", "verdict"];
        assert_eq!(keys, expected);
        assert_eq!(line["model"].as_str().unwrap().len(), 64);
        assert!(line["policy"].is_null());
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    let policy = s.toml("policy.toml", &format!("[model]\nsha256 = \"{}\"", "ab".repeat(32)));
    let (output, lines) = s.decided("", &["--policy", &policy]);
    assert_eq!(output.status.code(), Some(3));
    let logged: Vec<String> = lines.iter().map(short).collect();
    assert_eq!(logged, ["refused model load: model.sha256"]);
    assert_eq!(lines[0]["policy"].as_str().unwrap().len(), 64);

    let policy = s.toml("policy.toml", "[limits]\ninput-size = \"8 B\"");
    let (output, lines) = s.decided("", &["--policy", &policy]);
    assert_eq!(output.status.code(), Some(5));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["verdict"], &last["resource"]),
        (&"refused".into(), &"limits.input-size".into())
    );

    let policy = s.toml("policy.toml", "[limits]\nmodel-size = \"8 B\"");
    let (output, lines) = s.decided("", &["--policy", &policy]);
    assert_eq!(output.status.code(), Some(5));
    assert!(short(&lines[0]).starts_with("refused limits.model-size use more: "), "{lines:?}");
    assert_eq!(lines.len(), 1);

    let policy =
        s.toml("policy.toml", "[limits]\nrun-time = \"1 ms\"\n[compute]\nkernels = \"sandbox\"");
    let slow = support::onnx::slow(256, 400).bytes();
    let host = builder(Isolation::Process).decisions(s.path("slow.jsonl")).build().unwrap();
    let policy = Policy::load(policy.as_ref()).unwrap().policy;
    let model = host.load(ModelBytes::read(&slow[..], 1 << 20).unwrap(), &policy).unwrap();
    let x = Tensor::new(vec![0.0f32; 256 * 256], &[256, 256]).unwrap();
    assert_eq!(model.run(&[("x", x)]).map(drop).unwrap_err().exit_code(), 5);
    let text = fs::read_to_string(s.path("slow.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(short(&last).starts_with("refused limits.run-time use more: "), "{last}");

    let policy = s.toml("policy.toml", "");
    let (output, lines) = s.decided("", &["--policy", &policy, "--isolation", "thread"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(short(&lines[0]).starts_with("refused confinement do without: "), "{lines:?}");
}

#[test]
fn cuts_and_refusals_of_a_ceiling_are_logged() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    let (output, lines) = s.decided(&ceiling, &[]);
    assert_eq!(output.status.code(), Some(0));
    let logged: Vec<String> = lines.iter().map(short).collect();
    assert_eq!(logged[0], "cut limits.memory 1 GiB: ceiling: 256 MiB");
    assert_eq!(logged.len(), 3, "{logged:?}");
    let (output, lines) = s.decided(&ceiling, &["--strict-policy"]);
    assert_eq!(output.status.code(), Some(3));
    let logged: Vec<String> = lines.iter().map(short).collect();
    assert!(logged[0].starts_with("refused policy use: limits.memory = 1 GiB"), "{logged:?}");
    assert_eq!(logged.len(), 1);
}

#[test]
fn run_fails_if_its_decision_cannot_be_logged() {
    let s = Scratch::new();
    let model = s.file("relu.onnx", relu(&fixed(&[2, 2])).bytes());
    let input = s.file("x.json", "[[1, 2], [3, 4]]");
    for (log, says) in [
        ("/dev/full", "cannot write to the decision log"),
        ("/does/not/exist/log", "cannot open the decision log"),
    ] {
        let arguments = ["run", &model, "--input", &input, "--decisions", log];
        let output = belljar(&arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(says) && output.stdout.is_empty(), "{text}");
    }
}

#[test]
fn library_logs_the_same_lines_from_any_thread() {
    let s = Scratch::new();
    let log = s.path("log.jsonl");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let bytes = ModelBytes::read(&relu(&fixed(&[2, 2])).bytes()[..], 1 << 20).unwrap();
    let model = host.load(bytes, &Policy::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let x = Tensor::new(vec![1.0f32; 4], &[2, 2]).unwrap();
                    model.run(&[("x", x)]).unwrap().validate().unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 21);
    let digest = model.digest().to_string();
    assert!(lines.iter().all(|line| line["model"] == digest.as_str()));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
}
