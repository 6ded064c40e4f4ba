//! `belljar bench`: its figures and its errors. Measured times are never asserted.

use crate::support;

use std::fs;
use std::io::Read;
use std::process::{Output, Stdio};

use serde_json::Value;
use support::belljar;
use support::onnx::{
    Dim, FLOAT, Graph, UINT8, fixed, int_attribute, node, relu, tensor, tensor_f32, tensor_i64,
    value, value_of_any_shape,
};
use support::scratch::Scratch;

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

/// Checks that all documented figures exist and are consistent.
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
    assert_eq!(found["measured"]["alone"], iterations);
    assert_eq!(found["measured"]["sustained"], iterations);
    assert_eq!(found["concurrency"], concurrency);
    assert_eq!(found["isolation"], isolation);
    assert_eq!(found["workers"], if isolation == "process" { concurrency } else { 0 });
    assert!(["written-pages", "new-mapping"].map(Value::from).contains(&found["reset_method"]));
}

#[test]
fn json_has_all_documented_figures() {
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
fn each_client_has_its_own_sandbox() {
    let s = Scratch::new();
    let model = s.relu();
    for isolation in ["process", "thread"] {
        let arguments =
            [&*model, "--random", "-n", "30", "--concurrency", "3", "--isolation", isolation];
        check(&json(&arguments), 30, 3, isolation);
    }
}

#[test]
fn one_request_is_enough() {
    let s = Scratch::new();
    check(&json(&[&s.relu(), "--random", "--iterations", "1"]), 1, 1, "process");
}

#[test]
fn table_output_has_no_other_messages() {
    let s = Scratch::new();
    for quiet in [&["--quiet"][..], &[]] {
        let model = s.relu();
        let output = bench(&[&[&*model, "--random", "-n", "5"], quiet].concat());
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let table = String::from_utf8(output.stdout).unwrap();
        for expected in ["p50", "p99", "warm run (ms)", "reset after run", "rate", "memory", "%"] {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
    }
}

/// This does not depend on timing: with a time limit that ends at once, only the first request is
/// sent.
#[test]
fn requests_that_would_exceed_the_time_limit_are_not_sent() {
    let s = Scratch::new();
    let model = s.relu();
    for more in [&[][..], &["--iterations", "50"], &["--concurrency", "8"]] {
        let arguments =
            [&[&*model, "--random", "--format", "json", "--max-time", "1 ms"], more].concat();
        let output = bench(&arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        assert!(errors.contains("time limit of 1 ms ended the measurement after 0 of"), "{errors}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["measured"], serde_json::json!({ "alone": 0, "sustained": 0 }));
        for none in ["/warm_ms", "/reset_ms", "/sustained/per_second", "/sustained/latency_ms"] {
            assert!(found.pointer(none).unwrap().is_null(), "{none}: {found}");
        }
        assert!(number(&found, "/start/first_run_ms") > 0.0);
        assert!(number(&found, "/linear_memory_bytes") > 0.0);
    }
    let output = bench(&[&model, "--random", "--max-time", "1 ms"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("first run"));
    refused(&[&model, "--random", "--max-time", "soon"], 2, "--max-time");
}

#[test]
fn random_inputs_have_the_requested_shape() {
    let s = Scratch::new();
    let open = s.file("open.onnx", relu(&[Dim::Symbol("n"), Dim::Fixed(2)]).bytes());
    let found = json(&[&open, "--random", "--shape", "x=7,2", "-n", "2"]);
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([7, 2]));
    let found = json(&[&open, "--random", "-n", "2"]);
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([1, 2]));
}

#[test]
fn invalid_measurements_fail_with_documented_exit_codes() {
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
    refused(&[&model, "--random", "--shape", "other=1"], 2, "has no input");
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
fn policy_applies_during_measurement() {
    use std::os::unix::fs::PermissionsExt;

    let s = Scratch::new();
    let policy = s.file("policy.toml", "version = 1\n[compute]\ndeterministic = true");
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let found = json(&[&s.relu(), "--random", "-n", "3", "--policy", &policy]);
    assert_eq!(found["share"]["kernels"], 0.0);
    assert_eq!(found["policy"]["path"], policy);
}

#[test]
fn broken_pipe_is_success() {
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

/// A convolution with an activation, a product, a softmax, and an operator without a native kernel.
/// Each node has the name of its output.
fn mixed() -> Vec<u8> {
    use support::onnx::{FLOAT, Graph, fixed, ints_attribute, node, tensor_f32, value};
    let dims = fixed(&[1, 4, 8, 8]);
    let weights: Vec<f32> = (0..72).map(|at| at as f32 / 72.0 - 0.4).collect();
    let right: Vec<f32> = (0..64).map(|at| (at % 7) as f32 / 10.0 - 0.3).collect();
    let attributes =
        [ints_attribute("kernel_shape", &[3, 3]), ints_attribute("pads", &[1, 1, 1, 1])];
    Graph {
        nodes: vec![
            node("Conv", &["x", "w"], &["conv"], &attributes),
            node("Relu", &["conv"], &["relu"], &[]),
            node("MatMul", &["relu", "b"], &["product"], &[]),
            node("Softmax", &["product"], &["softmax"], &[]),
            node("Sin", &["softmax"], &["sine"], &[]),
        ],
        initializers: vec![
            tensor_f32("w", &[4, 2, 3, 3], &weights),
            tensor_f32("b", &[8, 8], &right),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 2, 8, 8]))],
        outputs: vec![value("sine", FLOAT, &dims)],
    }
    .bytes()
}

/// The profiled nodes, by name.
#[track_caller]
fn profiled<'a>(found: &'a Value, name: &str) -> &'a Value {
    let nodes = found["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("no {name} in {found}"))
}

#[test]
fn profile_lists_nodes_kernels_shapes_and_operations() {
    let s = Scratch::new();
    let model = s.file("mixed.onnx", mixed());
    let found = json(&[&model, "--random", "--profile", "-n", "7", "--quiet"]);
    assert_eq!((&found["measured"], &found["iterations"]), (&7.into(), &7.into()));
    assert_eq!(found["same_answer"], true, "the clock does not change outputs");
    let expected = [
        ("conv", "Conv", "native Conv", Some(4 * 8 * 8 * 2 * 9)),
        ("product", "MatMul", "native Gemm", Some(4 * 8 * 8 * 8)),
        ("softmax", "Softmax", "native Softmax", None),
        ("sine", "Sin", "WebAssembly", None),
    ];
    let nodes = found["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
    assert_eq!(names, expected.map(|(name, ..)| name), "in execution order");
    for (name, operator, kernel, multiply_adds) in expected {
        let node = profiled(&found, name);
        assert_eq!(node["operator"], operator, "{node}");
        assert_eq!(node["kernel"], kernel, "{node}");
        assert_eq!(node["multiply_adds"], Value::from(multiply_adds), "{node}");
        assert_eq!(node["gflops"].is_number(), multiply_adds.is_some(), "{node}");
        assert_eq!(node["outputs"], serde_json::json!([{ "dtype": "f32", "shape": [1, 4, 8, 8] }]));
        assert_eq!(node["calls"], 7);
        let native = kernel.starts_with("native");
        assert_eq!(number(node, "/kernel_ms") > 0.0, native, "{node}");
    }
    let computes = serde_json::json!([
        { "node": "conv", "operator": "Conv" },
        { "node": "relu", "operator": "Relu" },
    ]);
    assert_eq!(profiled(&found, "conv")["computes"], computes);
    for list in ["nodes", "operators"] {
        let all = found[list].as_array().unwrap();
        let sum = |key: &str| all.iter().map(|one| number(one, key)).sum::<f64>();
        let shares = sum("/share") + number(&found, "/outside/share");
        assert!((shares - 1.0).abs() < 1e-4, "{list}: {shares}");
        let times = sum("/total_ms") + number(&found, "/outside/total_ms");
        assert!((times - number(&found, "/total_ms")).abs() < 1e-4, "{list}: {times}");
        assert!(all.iter().all(|one| number(one, "/kernel_ms") <= number(one, "/total_ms")));
    }
    assert!(number(&found, "/clock/reading_ns") > 0.0);
}

#[test]
fn profile_without_native_kernels_shows_webassembly() {
    let s = Scratch::new();
    let model = s.file("mixed.onnx", mixed());
    let policy = s.toml("policy.toml", "[compute]\nkernels = \"sandbox\"");
    let more = ["--random", "--profile", "-n", "2", "--quiet", "--policy", &policy];
    let found = json(&[&[&*model][..], &more].concat());
    for node in found["nodes"].as_array().unwrap() {
        assert_eq!((&node["kernel"], number(node, "/kernel_ms")), (&"WebAssembly".into(), 0.0));
    }
    for operator in ["Conv", "MatMul", "Softmax", "Sin"] {
        let named = |one: &Value| one["operator"] == operator;
        assert!(found["operators"].as_array().unwrap().iter().any(named), "{operator}: {found}");
    }
    assert_eq!(found["same_answer"], true);
}

/// Operators of the guest that ask the host for parts of their work.
#[test]
fn profile_shows_the_kernels_of_integer_products_and_recurrent_layers() {
    let s = Scratch::new();
    let bytes: Vec<u8> = (0..64 * 64).map(|at| (at * 7 % 251) as u8).collect();
    let weights = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>();
        tensor_f32(name, dims, &(0..count).map(|at| (at % 13) as f32 * 0.01).collect::<Vec<_>>())
    };
    let graph = Graph {
        nodes: vec![
            node("DynamicQuantizeLinear", &["x"], &["bytes", "scale", "zero"], &[]),
            node("MatMulInteger", &["bytes", "weights", "zero"], &["sums"], &[]),
            node("Cast", &["sums"], &["numbers"], &[int_attribute("to", FLOAT)]),
            node("Unsqueeze", &["numbers", "one"], &["sequence"], &[]),
            node("GRU", &["sequence", "w", "r"], &["y"], &[int_attribute("hidden_size", 16)]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[5, 64]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
        initializers: vec![
            tensor("weights", UINT8, &[64, 64], &bytes),
            tensor_i64("one", &[1], &[1]),
            weights("w", &[1, 48, 64]),
            weights("r", &[1, 48, 16]),
        ],
    };
    let model = s.file("quantized.onnx", graph.bytes());
    let found = json(&[&model, "--random", "--profile", "-n", "2", "--quiet"]);
    for (operator, kernel) in [
        ("DynamicQuantizeLinear", "native Quantize"),
        ("MatMulInteger", "native IntegerGemm"),
        ("GRU", "native"),
    ] {
        let all = found["operators"].as_array().unwrap();
        let row = all.iter().find(|row| row["operator"] == operator);
        let row = row.unwrap_or_else(|| panic!("{operator} is not in {found}"));
        assert!(row["kernel"].as_str().unwrap().contains(kernel), "{operator}: {row}");
    }
    assert_eq!(found["same_answer"], true);
}

#[test]
fn profile_table_has_operators_and_nodes() {
    let s = Scratch::new();
    let model = s.file("mixed.onnx", mixed());
    let output = bench(&[&model, "--random", "--profile", "-n", "3", "--quiet"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in
        ["3 profiled runs", "outside of operators", "100.0", "GFLOP/s", "Conv+Relu", "1×4×8×8"]
    {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
}

#[test]
fn trace_is_a_timeline_of_the_first_runs() {
    let s = Scratch::new();
    let (model, trace) = (s.file("mixed.onnx", mixed()), s.at("trace.json"));
    let arguments =
        [&*model, "--random", "--profile", "-n", "12", "--quiet", "--trace", trace.as_str()];
    assert_eq!(bench(&arguments).status.code(), Some(0));
    let found: Value = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
    let events = found["traceEvents"].as_array().unwrap();
    let shown: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(shown.len(), 10 * (1 + 4), "ten runs with four nodes each");
    let start = |event: &Value| number(event, "/ts");
    assert!(shown.iter().map(|event| start(event)).is_sorted());
    let mut end = 0.0;
    for run in shown.chunks(5) {
        assert_eq!(run[0]["cat"], "run");
        assert!(start(run[0]) >= end, "runs do not overlap");
        end = start(run[0]) + number(run[0], "/dur");
        let names: Vec<&str> = run[1..].iter().filter_map(|event| event["name"].as_str()).collect();
        assert_eq!(names, ["conv", "product", "softmax", "sine"]);
        for node in &run[1..] {
            // Times are rounded.
            assert!(start(node) + number(node, "/dur") <= end + 0.01, "{node} in {}", run[0]);
        }
    }
    refused(&arguments, 1, "already exists");
    let forced = bench(&[&arguments[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0));
}

#[test]
fn invalid_profile_requests_are_refused() {
    let s = Scratch::new();
    let model = s.relu();
    let profile = [&*model, "--random", "--profile"];
    refused(&[&profile[..], &["--isolation", "thread"]].concat(), 2, "only in a worker process");
    refused(&[&profile[..], &["--concurrency", "2"]].concat(), 2, "--concurrency");
    refused(&[&model, "--random", "--trace", "trace.json"], 2, "--profile");
    refused(&[&profile[..], &["--force"]].concat(), 2, "--trace");
    refused(&[&model, "--profile", "--quiet"], 4, "not given");
    let slow = s.file("slow.onnx", support::onnx::slow(512, 400).bytes());
    let policy = s.toml("policy.toml", "[limits]\nrun-time = \"100 ms\"");
    let slow = [&*slow, "--random", "--profile", "--quiet", "--policy", &policy];
    refused(&slow, 5, "limits.run-time");
}

#[test]
fn profiled_runs_are_logged_as_decisions() {
    let s = Scratch::new();
    let (model, log) = (s.relu(), s.at("decisions.jsonl"));
    let arguments = [&*model, "--random", "--profile", "-n", "3", "--quiet", "--decisions", &log];
    assert_eq!(bench(&arguments).status.code(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let runs = lines.filter(|line| line["access"] == "run" && line["verdict"] == "allowed").count();
    assert!(runs >= 3, "{log}");
}
