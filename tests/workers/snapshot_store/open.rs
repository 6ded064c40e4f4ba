//! One snapshot for all sizes of open dimensions.

use crate::support;

use std::fs;
use std::process::Stdio;

use belljar::tensor::Data;
use belljar::{Isolation, Model, Policy, Tensor};
use support::ISOLATIONS;
use support::onnx::{Dim, FLOAT, Graph, INT64, node, relu, value, value_of_any_shape};

use super::{Folders, belljar, load};

/// `y = Relu(x)` for the numbers from -1 on.
fn check(model: &Model, n: usize) {
    let numbers: Vec<f32> = (0..n).map(|at| at as f32 - 1.0).collect();
    let expected: Vec<f32> = numbers.iter().map(|x| x.max(0.0)).collect();
    let x = Tensor::new(numbers, &[n]).unwrap();
    let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
    assert_eq!(outputs.tensors()[0].1.data(), &Data::F32(expected));
}

#[test]
fn a_thousand_sizes_need_one_snapshot_in_any_process() {
    for isolation in ISOLATIONS {
        let folders = Folders::new();
        let (host, seen) = folders.host(isolation);
        let bytes = relu(&[Dim::Symbol("n")]).bytes();
        let model = load(&host, &bytes, &Policy::default()).unwrap();
        // The example, and then every size.
        check(&model, 7);
        (1..=1000).for_each(|n| check(&model, n));
        assert_eq!(model.calls().prepare, 1);
        host.snapshot_store().finish();
        assert_eq!(folders.files(".snapshot").len(), 1);
        assert!(seen.refused().is_empty() && seen.not_stored().is_empty());
        drop((model, host));

        // A dimension of 1 is open in the stored plan, although it would not be in a new one.
        let (host, _) = folders.host(isolation);
        let model = load(&host, &bytes, &Policy::default()).unwrap();
        for n in [1, 100_000, 3] {
            check(&model, n);
        }
        assert_eq!(model.calls().prepare, 0);
    }
}

#[test]
fn empty_inputs_are_prepared_separately() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &relu(&[Dim::Symbol("n")]).bytes(), &Policy::default()).unwrap();
    check(&model, 5);
    check(&model, 0);
    assert_eq!(model.calls().prepare, 2);
}

/// `y = x` after a slice that ends at the fifth row, whose length depends on the number of rows.
fn first_five() -> Graph {
    let int = |name: &str, value| support::onnx::tensor_i64(name, &[1], &[value]);
    Graph {
        nodes: vec![node("Slice", &["x", "start", "end"], &["y"], &[])],
        initializers: vec![int("start", 0), int("end", 5)],
        inputs: vec![value("x", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(2)])],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    }
}

#[test]
fn a_plan_is_not_used_beyond_the_sizes_it_holds_for() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &first_five().bytes(), &Policy::default()).unwrap();
    let rows = |n: usize| {
        let x = Tensor::new(vec![1.0f32; 2 * n], &[n, 2]).unwrap();
        let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
        outputs.tensors()[0].1.shape()[0]
    };
    // The end is clamped for fewer than five rows: each side has its plan.
    let found: Vec<usize> = [9, 3, 6, 2, 5, 4, 1, 70].into_iter().map(rows).collect();
    assert_eq!(found, [5, 3, 5, 2, 5, 4, 1, 5]);
    assert_eq!(model.calls().prepare, 2);
}

/// `y = Reshape(x, [-1, 2])`, which only even sizes have.
fn pairs() -> Graph {
    Graph {
        nodes: vec![node("Reshape", &["x", "shape"], &["y"], &[])],
        initializers: vec![support::onnx::tensor_i64("shape", &[2], &[-1, 2])],
        inputs: vec![value("x", INT64, &[Dim::Symbol("n")])],
        outputs: vec![value_of_any_shape("y", INT64)],
    }
}

#[test]
fn a_model_without_a_common_plan_is_prepared_for_each_shape() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &pairs().bytes(), &Policy::default()).unwrap();
    let run = |n: usize| {
        let x = Tensor::new((0..n as i64).collect::<Vec<_>>(), &[n]).unwrap();
        model.run(&[("x", x)]).and_then(|outputs| outputs.validate())
    };
    for n in [2, 6, 4] {
        assert_eq!(run(n).unwrap().tensors()[0].1.shape(), [n / 2, 2]);
    }
    assert_eq!(model.calls().prepare, 3);
    assert_eq!(run(5).unwrap_err().exit_code(), 4);
}

/// The shape of a pooling whose windows do not overlap: it grows by one for every 32 elements.
fn windows() -> Graph {
    let list = |name: &str| support::onnx::ints_attribute(name, &[32]);
    Graph {
        nodes: vec![
            node("LpPool", &["x"], &["pooled"], &[list("kernel_shape"), list("strides")]),
            node("Shape", &["pooled"], &["y"], &[]),
        ],
        inputs: vec![value("x", FLOAT, &[Dim::Fixed(1), Dim::Fixed(1), Dim::Symbol("n")])],
        outputs: vec![value_of_any_shape("y", INT64)],
        ..Graph::default()
    }
}

#[test]
fn sizes_that_only_a_shape_reads_are_those_of_the_run() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &windows().bytes(), &Policy::default()).unwrap();
    for n in [40, 64, 41, 63, 95, 96, 320, 33, 32] {
        let x = Tensor::new(vec![1.0f32; n], &[1, 1, n]).unwrap();
        let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
        let Data::I64(shape) = outputs.tensors()[0].1.data() else { panic!("not i64") };
        assert_eq!(*shape, [1, 1, n as i64 / 32], "{n}");
    }
}

#[test]
fn empty_batches_keep_their_other_sizes() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let dims = [Dim::Symbol("batch"), Dim::Symbol("n"), Dim::Fixed(4)];
    let graph = Graph {
        nodes: vec![node("MatMul", &["x", "w"], &["y"], &[])],
        initializers: vec![support::onnx::tensor_f32("w", &[4, 3], &[1.0; 12])],
        inputs: vec![value("x", FLOAT, &dims)],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    };
    let model = load(&host, &graph.bytes(), &Policy::default()).unwrap();
    for (batch, n) in [(0, 5), (0, 7), (2, 5), (0, 6), (2, 0), (3, 1), (1, 9)] {
        let x = Tensor::new(vec![1.0f32; batch * n * 4], &[batch, n, 4]).unwrap();
        let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
        let y = &outputs.tensors()[0].1;
        assert_eq!(y.shape(), [batch, n, 3]);
        assert!(y.as_slice::<f32>().unwrap().iter().all(|sum| *sum == 4.0));
    }
}

#[test]
fn deterministic_answers_do_not_depend_on_earlier_sizes() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let mut policy = Policy::default();
    policy.compute.deterministic = true;
    let model = load(&host, &relu(&[Dim::Symbol("n")]).bytes(), &policy).unwrap();
    [7, 3, 5].into_iter().for_each(|n| check(&model, n));
    assert_eq!(model.calls().prepare, 3);
}

#[test]
fn plans_for_different_ranges_are_stored_side_by_side() {
    let folders = Folders::new();
    for round in 0..3 {
        for n in [9usize, 3] {
            let (host, _) = folders.host(Isolation::Thread);
            let model = load(&host, &first_five().bytes(), &Policy::default()).unwrap();
            let x = Tensor::new(vec![1.0f32; 2 * n], &[n, 2]).unwrap();
            let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
            assert_eq!(outputs.tensors()[0].1.shape()[0], n.min(5));
            assert_eq!(model.calls().prepare, u64::from(round == 0));
            host.snapshot_store().finish();
        }
    }
    assert_eq!(folders.files(".snapshot").len(), 2);
}

#[test]
fn a_larger_run_than_the_first_is_bounded_by_the_memory_limit() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Process);
    let mut policy = Policy::default();
    policy.limits.memory = 64 << 20;
    policy.limits.input_size = 1 << 30;
    let model = load(&host, &relu(&[Dim::Symbol("n")]).bytes(), &policy).unwrap();
    check(&model, 10);
    let x = Tensor::new(vec![1.0f32; 30 << 20], &[30 << 20]).unwrap();
    let error = model.run(&[("x", x)]).err().unwrap();
    assert_eq!(error.exit_code(), 5, "{error}");
    check(&model, 10_000);
}

#[test]
fn listed_snapshots_show_the_sizes_that_they_accept() {
    let folders = Folders::new();
    let path = folders.root.path().join("relu.onnx");
    fs::write(&path, relu(&[Dim::Symbol("n")]).bytes()).unwrap();
    let run = |arguments: &[&str]| {
        let output = belljar(&folders, arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["prepare", path.to_str().unwrap(), "--input-shape", "x=7"]);
    let table = run(&["snapshots", "list"]);
    assert!(table.contains("x 1.."), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&["snapshots", "list", "--format", "json"])).unwrap();
    let shapes = json.as_array().unwrap().iter().find_map(|one| one["shapes"].get(0)).unwrap();
    assert_eq!(*shapes, serde_json::json!({ "name": "x", "shape": ["1.."] }));
    // Another size is there already.
    let table = run(&["prepare", path.to_str().unwrap(), "--input-shape", "x=1234"]);
    assert!(table.contains("in the store"), "{table}");
}
