//! The bounds on what the store keeps, and on what it writes.

use crate::support;

use std::fs::{self, File};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use belljar::{Event, Isolation, Policy, Tensor};
use support::onnx::{Dim, node, relu, through_a_sequence};

use super::{Folders, answer, belljar, load, product};

#[test]
fn the_store_stays_within_its_size_and_removes_least_recently_used_files() {
    let folders = Folders::filled();
    let size = fs::metadata(folders.snapshot()).unwrap().len();
    let first = folders.snapshot();
    let policy = Policy::default();
    let (builder, seen) = folders.builder(Isolation::Thread);
    // Enough space for two snapshots and the descriptions.
    let host = builder.snapshot_store_size(size * 5 / 2).build().unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    let model = load(&host, &product(2.0), &policy).unwrap();
    answer(&model, 2);
    host.snapshot_store().finish();
    let second = folders.files(".snapshot").into_iter().find(|path| *path != first).unwrap();
    for path in folders.files(".snapshot") {
        File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    }
    // Using the first makes it the most recently used one.
    folders.run();
    answer(&model, 4);
    host.snapshot_store().finish();
    assert!(first.exists() && !second.exists());
    assert_eq!(folders.files(".snapshot").len(), 2);
    assert!(seen.not_stored().is_empty());

    // A snapshot that does not fit is not stored, and the others are kept.
    let (builder, seen) = folders.builder(Isolation::Thread);
    let host = builder.snapshot_store_size(100_000).build().unwrap();
    answer(&load(&host, &product(3.0), &policy).unwrap(), 4);
    host.snapshot_store().finish();
    let why = seen.not_stored();
    assert!(why.len() == 1 && why[0].contains("BELLJAR_STORE_SIZE"), "{why:?}");
}

#[test]
fn a_policy_bounds_the_snapshots_of_its_model() {
    let folders = Folders::new();
    let mut policy = Policy::default();
    policy.limits.snapshots = 2;
    let (host, seen) = folders.host(Isolation::Thread);
    let model = load(&host, &product(2.0), &policy).unwrap();
    for rows in 1..=5 {
        assert_eq!(answer(&model, rows), vec![14.0; rows]);
        host.snapshot_store().finish();
    }
    assert_eq!(folders.files(".snapshot").len(), 2);
    // Snapshots of other models are not counted.
    let other = load(&host, &product(3.0), &policy).unwrap();
    answer(&other, 1);
    host.snapshot_store().finish();
    assert_eq!(folders.files(".snapshot").len(), 3);
    // The two most recent snapshots are kept.
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &product(2.0), &policy).unwrap();
    answer(&model, 5);
    answer(&model, 4);
    assert_eq!(model.calls().prepare, 0);
    answer(&model, 1);
    assert_eq!(model.calls().prepare, 1);
    assert!(seen.refused().is_empty());
}

/// A model that is prepared for each shape.
fn by_shape() -> Vec<u8> {
    let mut graph = relu(&[Dim::Symbol("n")]);
    graph.nodes = vec![node("Relu", &["x"], &["positive"], &[])];
    graph.nodes.extend(through_a_sequence("positive", "y"));
    graph.bytes()
}

/// Clients choose the shapes of inputs, so the writes for a thousand shapes must be bounded.
#[test]
fn a_thousand_shapes_write_no_more_than_the_bound() {
    let folders = Folders::new();
    let (builder, seen) = folders.builder(Isolation::Thread);
    let written = Arc::new(Mutex::new(Vec::new()));
    let (to, events) = (Arc::clone(&written), seen.clone());
    let builder = builder.on_event(move |event| {
        if let Event::SnapshotStored { path } = &event {
            to.lock().unwrap().push(fs::metadata(path).map_or(0, |file| file.len()));
        }
        events.0.lock().unwrap().push(event);
    });
    let host = builder.build().unwrap();
    let bytes = by_shape();
    let model = load(&host, &bytes, &Policy::default()).unwrap();
    for n in 1..=1000 {
        let x = Tensor::new(vec![-1.0f32; n], &[n]).unwrap();
        let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
        assert_eq!(outputs.tensors()[0].1.shape(), [n]);
        // Waits, so that no snapshot is skipped because of the length of the queue.
        host.snapshot_store().finish();
    }
    assert_eq!(model.calls().prepare, 1000);
    let written = std::mem::take(&mut *written.lock().unwrap());
    // The description, four times the number of kept snapshots, and one more for each 15 minutes.
    let max = 1 + 4 * 4 + 4;
    assert!((1 + 4 * 4..=max).contains(&written.len()), "{}", written.len());
    let (bytes, largest) = (written.iter().sum::<u64>(), written.iter().max().unwrap());
    assert!(bytes <= max as u64 * largest, "{bytes}");
    println!("{bytes} bytes in {} files for 1000 shapes", written.len());
    let why = seen.not_stored();
    assert_eq!(why.len() + written.len(), 1001);
    assert!(why.iter().all(|why| why.contains("limits.snapshots")), "{why:?}");
    assert_eq!(folders.files(".snapshot").len(), 4);
    drop((model, host));

    // The bound also applies to another process, and to the command line.
    let (host, seen) = folders.host(Isolation::Thread);
    let model = load(&host, &by_shape(), &Policy::default()).unwrap();
    for n in 2000..2030 {
        let x = Tensor::new(vec![-1.0f32; n], &[n]).unwrap();
        model.run(&[("x", x)]).unwrap().validate().unwrap();
        host.snapshot_store().finish();
    }
    assert!(seen.not_stored().len() >= 26, "{:?}", seen.not_stored());
    // An explicit `belljar prepare` is not bounded.
    let path = folders.root.path().join("relu.onnx");
    fs::write(&path, by_shape()).unwrap();
    let arguments = ["prepare", path.to_str().unwrap(), "--input-shape", "x=77"];
    let output = belljar(&folders, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
