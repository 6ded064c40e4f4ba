//! The store of prepared models: a run from it gives the same answer as a run without it, in any
//! number of processes. `forged` has files that Belljar did not write, or wrote for another
//! purpose.

mod bounds;
mod commands;
mod dims;
mod forged;
mod many;
mod open;
mod open_bodies;
mod random;

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belljar::policy::Kernels;
use belljar::tensor::Data;
use belljar::{
    Calls, Error, Event, Host, HostBuilder, InputShape, Isolation, Model, Policy, StoredKind,
    Tensor,
};
use support::ISOLATIONS;
use support::onnx::{Dim, FLOAT, Graph, node, tensor_f32, through_a_sequence, value};

/// Folders with a separate store, and a copy of the compiled code that all tests share.
struct Folders {
    root: tempfile::TempDir,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Seen {
    fn refused(&self) -> Vec<(PathBuf, String)> {
        let events = self.0.lock().unwrap();
        let refused = events.iter().filter_map(|event| match event {
            Event::SnapshotRefused { path, why } => Some((path.clone(), why.clone())),
            _ => None,
        });
        refused.collect()
    }

    fn not_stored(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let failed = events.iter().filter_map(|event| match event {
            Event::SnapshotNotStored { why, .. } => Some(why.clone()),
            _ => None,
        });
        failed.collect()
    }
}

impl Folders {
    fn new() -> Folders {
        // The code is compiled once, for all tests.
        for isolation in ISOLATIONS {
            support::host(isolation).warm_up(&Policy::default()).unwrap();
        }
        let root = tempfile::tempdir_in(support::cache_dir()).unwrap();
        let code = root.path().join("cache/code");
        fs::create_dir_all(&code).unwrap();
        fs::set_permissions(&code, fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(support::cache_dir().join("code")).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|extension| extension == "code") {
                fs::hard_link(entry.path(), code.join(entry.file_name())).unwrap();
            }
        }
        Folders { root }
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn snapshots(&self) -> PathBuf {
        self.cache().join("snapshots")
    }

    fn builder(&self, isolation: Isolation) -> (HostBuilder, Seen) {
        let seen = Seen::default();
        let to = seen.clone();
        let builder = support::builder(isolation)
            .cache_dir(self.cache())
            .snapshot_store(true)
            .on_event(move |event| to.0.lock().unwrap().push(event));
        (builder, seen)
    }

    fn host(&self, isolation: Isolation) -> (Host, Seen) {
        let (builder, seen) = self.builder(isolation);
        (builder.build().unwrap(), seen)
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.snapshots()) else { return Vec::new() };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<_> =
            files.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
        files.sort();
        files
    }

    fn snapshot(&self) -> PathBuf {
        let snapshots = self.files(".snapshot");
        assert_eq!(snapshots.len(), 1, "{snapshots:?}");
        snapshots[0].clone()
    }

    /// Runs the product with a new host, which is like a new process for the store.
    fn run(&self) -> (Calls, Seen) {
        let (host, seen) = self.host(Isolation::Thread);
        let model = load(&host, &product(2.0), &Policy::default()).unwrap();
        assert_eq!(answer(&model, 3), [14.0, 14.0, 14.0]);
        host.snapshot_store().finish();
        (model.calls(), seen)
    }

    /// A store with the product in it.
    fn filled() -> Folders {
        let folders = Folders::new();
        let (calls, seen) = folders.run();
        assert_eq!((calls.prepare, calls.adopt), (1, 1));
        assert!(seen.refused().is_empty() && seen.not_stored().is_empty());
        folders
    }

    /// Checks that a damaged file is not used, that the answer is correct, and that the next start
    /// uses the store again.
    #[track_caller]
    fn assert_recreated(&self, what: &str) {
        let (calls, seen) = self.run();
        let refused = seen.refused();
        assert!(!refused.is_empty(), "{what}: nothing was refused");
        assert!(calls.load >= 1, "{what}: {calls:?}");
        assert!(seen.not_stored().is_empty(), "{what}: {:?}", seen.not_stored());
        let (calls, seen) = self.run();
        assert!(seen.refused().is_empty(), "{what}: {:?}", seen.refused());
        assert_from_store(&calls);
    }
}

#[track_caller]
fn assert_from_store(calls: &Calls) {
    let Calls { load, describe, prepare, adopt, run, .. } = *calls;
    assert_eq!((load, describe, prepare, adopt), (0, 0, 0, 1), "{calls:?}");
    assert!(run >= 1);
}

/// `y = x · w` with `x` of `n` rows, and a matrix that spans several parts of a file. It is prepared
/// for each number of rows.
fn product(factor: f32) -> Vec<u8> {
    let dims = [Dim::Symbol("n"), Dim::Fixed(7)];
    let weights: Vec<f32> = (0..7 * 100_000)
        .map(|at| if at % 100_000 == 0 { factor } else { (at % 97) as f32 })
        .collect();
    let mut nodes = vec![node("MatMul", &["x", "w"], &["product"], &[])];
    nodes.extend(through_a_sequence("product", "y"));
    Graph {
        nodes,
        initializers: vec![tensor_f32("w", &[7, 100_000], &weights)],
        inputs: vec![value("x", FLOAT, &dims)],
        outputs: vec![value("y", FLOAT, &[Dim::Symbol("n"), Dim::Fixed(100_000)])],
    }
    .bytes()
}

fn load(host: &Host, bytes: &[u8], policy: &Policy) -> Result<Model, Error> {
    support::load_under(host, bytes, policy)
}

/// The first column of the product, for an input of `rows` rows of ones.
fn answer(model: &Model, rows: usize) -> Vec<f32> {
    let x = Tensor::new(vec![1.0f32; rows * 7], &[rows, 7]).unwrap();
    let outputs = model.run(&[("x", x)]).unwrap().validate().unwrap();
    let Data::F32(values) = outputs.tensors()[0].1.data() else { panic!("not f32") };
    values.chunks(100_000).map(|row| row[0]).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn head_len(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize
}

#[test]
fn a_run_from_the_store_neither_loads_nor_prepares() {
    let folders = Folders::filled();
    let (calls, seen) = folders.run();
    assert_from_store(&calls);
    assert!(seen.refused().is_empty());
    // The same in a worker, which did not create the snapshot.
    let (host, _) = folders.host(Isolation::Process);
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    assert_eq!(answer(&model, 3), [14.0, 14.0, 14.0]);
    assert_from_store(&model.calls());
}

#[test]
fn nothing_is_stored_by_default() {
    let folders = Folders::new();
    let (builder, _) = folders.builder(Isolation::Thread);
    let host = builder.snapshot_store(false).build().unwrap();
    answer(&load(&host, &product(2.0), &Policy::default()).unwrap(), 1);
    drop(host);
    assert!(!folders.snapshots().exists());
}

#[test]
fn runs_from_the_store_produce_the_same_bits() {
    let folders = Folders::new();
    let magika = || support::real_model("magika.onnx");
    let input = || {
        let bytes: Vec<i32> = (0..2048).map(|at| at * 7 % 257).collect();
        Tensor::new(bytes, &[1, 2048]).unwrap()
    };
    for (deterministic, kernels) in
        [(false, Kernels::Native), (false, Kernels::Sandbox), (true, Kernels::Sandbox)]
    {
        let mut policy = Policy::default();
        policy.compute.deterministic = deterministic;
        policy.compute.kernels = kernels;
        for isolation in ISOLATIONS {
            let (host, seen) = folders.host(isolation);
            let run = |host: &Host| {
                let model = host.load(magika(), &support::fitting(host, &policy)).unwrap();
                let outputs = model.run(&[("bytes", input())]).unwrap().validate().unwrap();
                host.snapshot_store().finish();
                let Data::F32(values) = outputs.tensors()[0].1.data() else { panic!("not f32") };
                let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
                (bits, model.calls())
            };
            let (fresh, calls) = {
                let (builder, _) = folders.builder(isolation);
                run(&builder.snapshot_store(false).build().unwrap())
            };
            assert_eq!((calls.load, calls.prepare), (1, 1));
            let (made, _) = run(&host);
            let (stored, calls) = run(&host);
            assert_from_store(&calls);
            assert!(fresh == made && made == stored, "{isolation:?} {deterministic} {kernels:?}");
            assert!(seen.refused().is_empty());
        }
    }
    // A snapshot depends on the three settings, but not on the isolation.
    assert_eq!(folders.files(".snapshot").len(), 3);
    assert_eq!(folders.files(".description").len(), 1);
}

fn belljar(folders: &Folders, arguments: &[&str]) -> std::process::Command {
    let mut command = support::belljar(arguments);
    command.env("BELLJAR_CACHE_DIR", folders.cache());
    command
}

/// The product on disk, for the command line.
fn product_file(folders: &Folders) -> String {
    let path = folders.root.path().join("product.onnx");
    fs::write(&path, product(2.0)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn concurrent_preparation_and_pruning_succeed() {
    let folders = Folders::new();
    let model = product_file(&folders);
    let x = folders.root.path().join("x.json");
    fs::write(&x, "[[1,1,1,1,1,1,1]]").unwrap();
    let x = format!("x={}", x.display());
    let run = ["run", &model, "--input", &x, "--format", "json"];
    for _ in 0..3 {
        let start = |arguments: &[&str]| {
            let mut command = belljar(&folders, arguments);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let runs: Vec<_> = (0..4).map(|_| start(&run)).collect();
        let prunes: Vec<_> = (0..4).map(|_| start(&["snapshots", "prune"])).collect();
        for child in runs {
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{errors}");
        }
        for child in prunes {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let output = belljar(&folders, &run).output().unwrap();
    assert!(output.status.success());
    // Regardless of the order, all files are complete.
    let output = belljar(&folders, &["snapshots", "verify"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    assert!(!folders.files("").iter().any(hidden));
    let output = belljar(&folders, &run).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["prepared"], "store");
}

#[test]
fn a_process_that_is_killed_while_it_stores_leaves_a_usable_store() {
    let folders = Folders::new();
    let model = product_file(&folders);
    for wait in [5, 20, 40, 60, 80, 100, 130, 160] {
        let arguments = ["prepare", &*model, "--input-shape", "x=2,7"];
        let mut command = belljar(&folders, &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, seen) = folders.run();
        assert!(seen.refused().is_empty(), "{:?}", seen.refused());
        for path in folders.files("") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn removing_a_stored_snapshot_does_not_affect_running_models() {
    let folders = Folders::filled();
    let (host, seen) = folders.host(Isolation::Process);
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    assert_eq!(answer(&model, 3), [14.0; 3]);
    for path in folders.files("") {
        // Overwrites the files too, in case they are still open.
        fs::write(&path, [0; 100]).unwrap();
        fs::remove_file(path).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(answer(&model, 3), [14.0; 3]));
        }
    });
    assert_eq!(model.calls().prepare, 0);
    assert!(seen.refused().is_empty());
}

#[test]
fn the_policy_applies_to_stored_snapshots() {
    let folders = Folders::filled();
    let (host, seen) = folders.host(Isolation::Thread);
    let stored = host.snapshot_store().list().unwrap();
    let memory = stored.iter().find(|stored| stored.kind == StoredKind::Snapshot).unwrap().memory;
    // A memory limit below the snapshot's size. (The minimum in a policy file is above it, but the
    // limit can be set lower in code.)
    let mut policy = Policy::default();
    policy.limits.memory = memory - 1;
    let x = || Tensor::new(vec![1.0f32; 21], &[3, 7]).unwrap();
    let model = load(&host, &product(2.0), &policy).unwrap();
    let err = model.run(&[("x", x())]).err().unwrap();
    assert_eq!(err.exit_code(), 5, "{err}");
    assert!(err.to_string().contains("limits.memory"), "{err}");
    // The pin, and the size of the file.
    let mut policy = Policy::default();
    policy.model.sha256 = Some([1; 32]);
    assert_eq!(load(&host, &product(2.0), &policy).err().unwrap().exit_code(), 3);
    let mut policy = Policy::default();
    policy.limits.model_size = 1000;
    assert_eq!(load(&host, &product(2.0), &policy).err().unwrap().exit_code(), 5);
    // Inputs with shapes that the model does not declare.
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    let wrong = Tensor::new(vec![1.0f32; 8], &[1, 8]).unwrap();
    assert_eq!(model.run(&[("x", wrong)]).err().unwrap().exit_code(), 4);
    assert_eq!(model.calls(), Calls::default());
    assert!(seen.refused().is_empty());
}

#[test]
fn a_model_can_be_prepared_for_shapes() {
    let folders = Folders::new();
    let (host, _) = folders.host(Isolation::Thread);
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    let shape = |name: &str, dims: &[u64]| InputShape { name: name.into(), dims: dims.to_vec() };
    model.prepare_for(&[shape("x", &[3, 7])]).unwrap();
    for wrong in [
        vec![],
        vec![shape("x", &[3, 8])],
        vec![shape("x", &[21])],
        vec![shape("y", &[3, 7])],
        vec![shape("x", &[3, 7]), shape("x", &[3, 7])],
    ] {
        let err = model.prepare_for(&wrong).err().unwrap();
        assert_eq!(err.exit_code(), 4, "{wrong:?}: {err}");
    }
    host.snapshot_store().finish();
    assert_from_store(&folders.run().0);
}
