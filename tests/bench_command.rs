//! `belljar bench`: that it measures what it says, and refuses what cannot be measured. How long
//! anything took is never asserted.

mod support;

use std::fs;
use std::io::Read;
use std::process::{Output, Stdio};

use belljar::Tensor;
use belljar::tensor::npy;
use serde_json::Value;
use support::belljar;
use support::onnx::{Dim, fixed, relu};

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn relu(&self) -> String {
        self.file("relu.onnx", relu(&fixed(&[2, 2])).bytes())
    }

    fn x(&self) -> String {
        let mut bytes = Vec::new();
        let tensor = Tensor::new(vec![-1.0f32, 2.0, 3.5, -4.0], &[2, 2]).unwrap();
        npy::write(&tensor, &mut bytes).unwrap();
        self.file("x.npy", bytes)
    }
}

fn bench(arguments: &[&str]) -> Output {
    let arguments = [&["bench"], arguments].concat();
    belljar(&arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--format", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.is_empty(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).unwrap_or_else(|| panic!("no {path} in {value}"));
    found.as_f64().unwrap_or_else(|| panic!("{path} is {found}"))
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, says: &str) {
    let output = bench(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(says), "{says:?} is not in {text:?}");
    assert!(output.stdout.is_empty());
}

/// Everything that is documented is there, and fits together.
#[track_caller]
fn check(found: &Value, iterations: u64, concurrency: u64, isolation: &str) {
    for times in ["/warm_ms", "/instantiate_us", "/reset_ms", "/sustained/latency_ms"] {
        let at = |key: &str| number(found, &format!("{times}/{key}"));
        let rising = ["min", "p50", "p90", "p95", "p99", "max"].map(at);
        assert!(rising.is_sorted(), "{times}: {rising:?}");
        let mean = at("mean");
        // Means are rounded, as all figures are.
        assert!(rising[0] - 0.001 <= mean && mean <= rising[5] + 0.001, "{times}: {mean}");
        assert!(rising[0] >= 0.0, "{times}: {rising:?}");
    }
    assert!(number(found, "/warm_ms/min") > 0.0);
    let parts: f64 = ["kernels", "guest", "crossing", "reset"]
        .map(|part| number(found, &format!("/share/{part}")))
        .iter()
        .sum();
    assert!((parts - 1.0).abs() < 0.01, "{}", found["share"]);
    let start: f64 = ["code_ms", "read_ms", "load_ms", "prepare_ms", "first_run_ms"]
        .map(|part| number(found, &format!("/start/{part}")))
        .iter()
        .sum();
    assert!(start > 0.0 && start <= number(found, "/start_ms") + 0.01, "{}", found["start"]);
    assert!(number(found, "/sustained/per_second") > 0.0);
    let (rss, linear) = (number(found, "/rss_bytes"), number(found, "/linear_memory_bytes"));
    assert!(rss > linear.min(4e6) && linear > 0.0, "{rss} {linear}");
    if let Some(pss) = found["pss_bytes"].as_f64() {
        assert!(pss <= rss, "{pss} {rss}");
    }
    assert_eq!(found["iterations"], iterations);
    assert_eq!(found["concurrency"], concurrency);
    assert_eq!(found["isolation"], isolation);
    assert_eq!(found["workers"], if isolation == "process" { concurrency } else { 0 });
    assert!(["written-pages", "new-mapping"].map(Value::from).contains(&found["reset_method"]));
}

#[test]
fn the_json_has_every_documented_figure() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    for isolation in ["process", "thread"] {
        let input = format!("x={x}");
        let arguments =
            [&*model, "--input", &input, "--iterations", "20", "--isolation", isolation];
        let found = json(&arguments);
        check(&found, 20, 1, isolation);
        assert_eq!(found["inputs"][0]["shape"], serde_json::json!([2, 2]));
        assert_eq!(found["policy"], Value::Null);
        assert_eq!(found["model"]["sha256"].as_str().map(str::len), Some(64));
    }
}

#[test]
fn several_clients_have_a_sandbox_each() {
    let s = Scratch::new();
    let model = s.relu();
    for isolation in ["process", "thread"] {
        let arguments =
            [&*model, "--random", "-n", "30", "--concurrency", "3", "--isolation", isolation];
        check(&json(&arguments), 30, 3, isolation);
    }
}

#[test]
fn the_fewest_requests_are_one() {
    let s = Scratch::new();
    check(&json(&[&s.relu(), "--random", "--iterations", "1"]), 1, 1, "process");
}

#[test]
fn the_table_is_for_people_and_nothing_is_said_beside_it() {
    let s = Scratch::new();
    for quiet in [&["--quiet"][..], &[]] {
        let model = s.relu();
        let output = bench(&[&[&*model, "--random", "-n", "5"], quiet].concat());
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let table = String::from_utf8(output.stdout).unwrap();
        for expected in ["p50", "p99", "warm run (ms)", "reset after a run", "rate", "memory", "%"]
        {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
    }
}

#[test]
fn made_up_inputs_have_the_shape_that_was_asked_for() {
    let s = Scratch::new();
    let open = s.file("open.onnx", relu(&[Dim::Symbol("n"), Dim::Fixed(2)]).bytes());
    let found = json(&[&open, "--random", "--shape", "x=7,2", "-n", "2"]);
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([7, 2]));
    let found = json(&[&open, "--random", "-n", "2"]);
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([1, 2]));
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_documented_codes() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let model = s.relu();
    for (flag, value) in [
        ("--iterations", "0"),
        ("--iterations", "-1"),
        ("--iterations", "many"),
        ("--iterations", "1000001"),
        ("--concurrency", "0"),
        ("--concurrency", "257"),
        ("--concurrency", "1.5"),
        ("--format", "xml"),
    ] {
        refused(&[&model, "--random", &format!("{flag}={value}")], 2, flag);
    }
    refused(&[&model, "--shape", "x=1"], 2, "--random");
    refused(&[&model, "--random", "--shape", "x"], 2, "--shape");
    refused(&["/does/not/exist.onnx", "--random"], 2, "exist.onnx");
    refused(&[&model], 4, "not given");
    let policy =
        s.file("policy.toml", format!("version = 1\n[model]\nsha256 = \"{}\"", "ab".repeat(32)));
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&[&model, "--random", "--policy", &policy], 3, "model.sha256");
    let slow = s.file("slow.onnx", support::onnx::slow(512, 400).bytes());
    fs::write(&policy, "version = 1\n[limits]\nrun-time = \"100 ms\"").unwrap();
    refused(&[&slow, "--random", "--policy", &policy], 5, "limits.run-time");
}

#[test]
fn the_policy_holds_while_it_is_measured() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let policy = s.file("policy.toml", "version = 1\n[compute]\ndeterministic = true");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let found = json(&[&s.relu(), "--random", "-n", "3", "--policy", &policy]);
    assert_eq!(found["share"]["kernels"], 0.0);
    assert_eq!(found["policy"]["path"], policy);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let s = Scratch::new();
    let model = s.relu();
    for format in ["table", "json"] {
        let mut child = belljar(&["bench", &model, "--random", "-n", "2", "--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((child.wait().unwrap().code(), &*text), (Some(0), ""));
    }
}
