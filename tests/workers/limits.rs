//! Every limit is enforced and named in its error, and the host still serves the next request.

use crate::support;

use std::time::Duration;

use belljar::{Error, ErrorKind, Host, Isolation, Limit, Policy, Tensor};
use support::onnx::{
    Dim, FLOAT, Graph, Message, fixed, halved, int_attribute, ints_attribute, node, relu, slow,
    tensor_attribute, tensor_f32, tensor_i64, value,
};
use support::{ISOLATIONS, host, load_under};

fn policy(change: impl FnOnce(&mut belljar::policy::Limits)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy.limits);
    policy
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

fn run(host: &Host, bytes: &[u8], policy: &Policy, input: Tensor) -> Result<(), Error> {
    load_under(host, bytes, policy)?.run(&[("x", input)])?.validate().map(drop)
}

#[track_caller]
fn assert_limit(result: Result<(), Error>, expected: impl Fn(&Limit) -> bool, key: &str) {
    let err = result.expect_err("the limit was not hit");
    assert!(matches!(err.kind(), ErrorKind::Limit(limit) if expected(limit)), "{err:?}");
    assert_eq!(err.exit_code(), 5);
    assert!(err.to_string().contains(key), "{err}");
}

#[track_caller]
fn assert_fit(host: &Host) {
    run(host, &relu(&fixed(&[2])).bytes(), &Policy::default(), ones(&[2])).unwrap();
}

#[test]
fn memory() {
    // 8192 numbers in, 67 million out of the product in the middle.
    let big = Graph {
        nodes: vec![
            node("Transpose", &["x"], &["t"], &[]),
            node("MatMul", &["x", "t"], &["m"], &[]),
            node("ReduceSum", &["m"], &["y"], &[int_attribute("keepdims", 0)]),
        ],
        inputs: vec![value("x", FLOAT, &fixed(&[8192, 1]))],
        outputs: vec![value("y", FLOAT, &[])],
        ..Graph::default()
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.memory = 64 << 20);
        let result = run(&host, &big.bytes(), &policy, ones(&[8192, 1]));
        assert_limit(result, |limit| matches!(limit, Limit::Memory { .. }), "limits.memory");
        assert_fit(&host);
    }
}

#[test]
fn memory_while_preparing() {
    // tract evaluates constants while preparing.
    let fill = tensor_attribute("value", tensor_f32("", &[1], &[1.0]));
    let big = Graph {
        nodes: vec![
            node("ConstantOfShape", &["shape"], &["c"], &[fill]),
            node("Sin", &["c"], &["s"], &[]),
            node("Add", &["s", "x"], &["y"], &[]),
        ],
        initializers: vec![tensor_i64("shape", &[2], &[8192, 8192])],
        inputs: vec![value("x", FLOAT, &fixed(&[1]))],
        outputs: vec![value("y", FLOAT, &fixed(&[8192, 8192]))],
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.memory = 128 << 20);
        let result = load_under(&host, &big.bytes(), &policy)
            .and_then(|model| model.prepare(&[("x", ones(&[1]))]))
            .map(drop);
        assert_limit(result, |limit| matches!(limit, Limit::Memory { .. }), "limits.memory");
        assert_fit(&host);
    }
}

#[test]
fn memory_of_the_model_itself() {
    let model = relu(&fixed(&[2])).model().bytes(6, vec![b'd'; 40 << 20]).finish();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.memory = 48 << 20);
        let result = run(&host, &model, &policy, ones(&[2]));
        assert_limit(result, |limit| matches!(limit, Limit::Memory { .. }), "limits.memory");
        assert_fit(&host);
    }
}

/// Applies this operator to ones of this shape, with constant weights of ones, and reduces the
/// result to its maximum.
fn greatest(shape: &[i64], op: &str, weights: Option<&[i64]>, attributes: &[Message]) -> Vec<u8> {
    let mut initializers = vec![tensor_i64("shape", &[shape.len() as i64], shape)];
    let mut inputs = vec!["ones"];
    if let Some(dims) = weights {
        let count = dims.iter().product::<i64>() as usize;
        initializers.push(tensor_f32("weights", dims, &vec![1.0; count]));
        inputs.push("weights");
    }
    let one = [1, 1, 1, 1];
    Graph {
        nodes: vec![
            node("Expand", &["x", "shape"], &["ones"], &[]),
            node(op, &inputs, &["all"], attributes),
            node("ReduceMax", &["all"], &["y"], &[int_attribute("keepdims", 0)]),
        ],
        initializers,
        inputs: vec![value("x", FLOAT, &fixed(&one))],
        outputs: vec![value("y", FLOAT, &[])],
    }
    .bytes()
}

/// Windows on images of one column or of very wide rows. The kernels' lists for them once exceeded
/// the scratch memory limit and crashed the worker. Now the sandbox computes what exceeds a
/// kernel's limit.
#[test]
fn windows_beyond_the_scratch_memory_limit_are_computed_in_the_sandbox() {
    let far = [ints_attribute("kernel_shape", &[128, 2]), ints_attribute("dilations", &[65536, 1])];
    let rows = greatest(&[1, 1, 8_383_073, 2], "Conv", Some(&[1, 1, 128, 2]), &far);
    let window = |height, width| {
        [ints_attribute("kernel_shape", &[height, width]), ints_attribute("strides", &[1, width])]
    };
    let columns = greatest(&[1, 1, 64, 65536], "MaxPool", None, &window(4, 65536));
    let planes = greatest(&[1, 4, 64, 65536], "MaxPool", None, &window(4, 65536));
    let host = host(Isolation::Process);
    for (model, expected, threads) in
        [(&rows, 256.0, 1), (&columns, 1.0, 1), (&planes, 1.0, 4), (&rows, 256.0, 4)]
    {
        let mut policy = policy(|limits| limits.run_time = Duration::from_secs(120));
        policy.compute.threads = threads;
        let model = load_under(&host, model, &policy).unwrap();
        let outputs = model.run(&[("x", ones(&[1, 1, 1, 1]))]).unwrap().validate().unwrap();
        assert_eq!(outputs.get("y").unwrap().as_slice::<f32>().unwrap(), &[expected]);
    }
}

/// Scratch memory of kernels, on all threads, counts against the memory limit together with the
/// sandbox's own memory.
#[test]
fn scratch_memory_of_native_kernels_counts_against_the_memory_limit() {
    const SIZE: i64 = 1000;
    let window = [ints_attribute("kernel_shape", &[2, 2])];
    let model = greatest(&[1, 4, SIZE, SIZE], "MaxPool", None, &window);
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let run = |memory: u64, threads: u32| -> Result<u64, Error> {
            let mut policy = policy(|limits| limits.memory = memory);
            policy.compute.threads = threads;
            let model = load_under(&host, &model, &policy)?;
            let outputs = model.run(&[("x", ones(&[1, 1, 1, 1]))])?.validate()?;
            Ok(outputs.cost().memory)
        };
        // Each thread needs 8 MB for a plane and its results.
        let needed = run(1 << 30, 1).unwrap();
        let plane = 8 * (SIZE * SIZE) as u64;
        for threads in [1, 4] {
            let enough = needed + u64::from(threads) * (plane + (1 << 20));
            run(enough, threads).unwrap();
            let refused = run(needed + u64::from(threads) * plane * 3 / 4, threads);
            let is_expected = |limit: &Limit| matches!(limit, Limit::Memory { .. });
            assert_limit(refused.map(drop), is_expected, "limits.memory");
            assert_fit(&host);
        }
    }
}

#[test]
fn run_time() {
    let model = slow(1024, 200).bytes();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.run_time = Duration::from_millis(200));
        let result = run(&host, &model, &policy, ones(&[1024, 1024]));
        assert_limit(result, |limit| matches!(limit, Limit::RunTime { .. }), "limits.run-time");
        assert_fit(&host);
    }
}

#[test]
fn prepare_time() {
    // The shortest possible limit, and more work than any machine can do in that time.
    let mut graph = relu(&fixed(&[2]));
    graph.nodes = (0..20_000)
        .map(|n| {
            let from = if n == 0 { "x".to_owned() } else { format!("v{n}") };
            let to = if n == 19_999 { "y".to_owned() } else { format!("v{}", n + 1) };
            node("Sin", &[&from], &[&to], &[])
        })
        .collect();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.prepare_time = Duration::from_millis(100));
        let result = run(&host, &graph.bytes(), &policy, ones(&[2]));
        let is_expected = |limit: &Limit| matches!(limit, Limit::PrepareTime { .. });
        assert_limit(result, is_expected, "limits.prepare-time");
        assert_fit(&host);
    }
}

#[test]
fn stack() {
    let model = halved(2000).bytes();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let result = run(&host, &model, &Policy::default(), ones(&[2]));
        assert_limit(result, |limit| matches!(limit, Limit::Stack { .. }), "limits.stack");
        assert_fit(&host);
        // With a larger WebAssembly stack, the runner's own stack is exhausted first.
        let policy = policy(|limits| limits.stack = 16 << 20);
        let result = run(&host, &model, &policy, ones(&[2]));
        assert_limit(result, |limit| matches!(limit, Limit::GuestStack { .. }), "own stack");
        assert_fit(&host);
    }
}

#[test]
fn model_size() {
    let model = relu(&fixed(&[2])).bytes();
    let len = model.len() as u64;
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let result = run(&host, &model, &policy(|limits| limits.model_size = len - 1), ones(&[2]));
        assert_limit(result, |limit| matches!(limit, Limit::ModelSize { .. }), "limits.model-size");
        run(&host, &model, &policy(|limits| limits.model_size = len), ones(&[2])).unwrap();
    }
}

#[test]
fn input_size() {
    let model = relu(&[Dim::Symbol("n")]).bytes();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.input_size = 4000);
        run(&host, &model, &policy, ones(&[1000])).unwrap();
        let result = run(&host, &model, &policy, ones(&[1001]));
        assert_limit(result, |limit| matches!(limit, Limit::InputSize { .. }), "limits.input-size");
        assert_fit(&host);
    }
}

#[test]
fn output_size() {
    let graph = Graph {
        nodes: vec![node("Concat", &["x", "x"], &["y"], &[int_attribute("axis", 0)])],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n")])],
        outputs: vec![value("y", FLOAT, &[Dim::Symbol("m")])],
        ..Graph::default()
    };
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.output_size = 8000);
        run(&host, &graph.bytes(), &policy, ones(&[1000])).unwrap();
        for len in [1001, 20 << 20] {
            let result = run(&host, &graph.bytes(), &policy, ones(&[len]));
            let is_expected = |limit: &Limit| matches!(limit, Limit::OutputSize { .. });
            assert_limit(result, is_expected, "limits.output-size");
            assert_fit(&host);
        }
    }
}

#[test]
fn the_log_is_bounded() {
    use std::sync::{Arc, Mutex};
    // A future operator set version makes tract log a warning.
    let model = support::onnx::Message::new()
        .int(1, 8)
        .message(7, relu(&fixed(&[2])).message())
        .message(8, support::onnx::Message::new().int(2, 19))
        .finish();
    for (log_size, expected) in [(65_536, "tract is only tested"), (1, "limits.log-size")] {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        let host = support::builder(Isolation::Thread)
            .on_event(move |event| {
                if let belljar::Event::Log { line, .. } = event {
                    seen.lock().unwrap().push(line);
                }
            })
            .build()
            .unwrap();
        run(&host, &model, &policy(|limits| limits.log_size = log_size), ones(&[2])).unwrap();
        let lines = lines.lock().unwrap();
        assert!(lines.iter().any(|line| line.contains(expected)), "{lines:?}");
    }
}

#[test]
fn a_failed_run_leaves_the_model_usable() {
    let model = slow(512, 60).bytes();
    for isolation in ISOLATIONS {
        let host = host(isolation);
        let policy = policy(|limits| limits.run_time = Duration::from_millis(50));
        let model = load_under(&host, &model, &policy).unwrap();
        for _ in 0..3 {
            let result = model.run(&[("x", ones(&[512, 512]))]).map(drop);
            assert_limit(result, |limit| matches!(limit, Limit::RunTime { .. }), "limits.run-time");
        }
    }
}
