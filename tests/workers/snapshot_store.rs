//! The store of prepared models: a file that Belljar did not write, or wrote for another purpose,
//! is never used; the answer is still correct, and an event reports the file.

use crate::support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use belljar::policy::Kernels;
use belljar::tensor::Data;
use belljar::{
    Calls, Error, Event, Host, HostBuilder, InputShape, Isolation, Model, Policy, StoredKind,
    StoredModel, Tensor,
};
use support::ISOLATIONS;
use support::onnx::{Dim, FLOAT, Graph, fixed, node, relu, tensor_f32, value};

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

/// `y = x · w` with `x` of `n` rows, and a matrix that spans several parts of a file.
fn product(factor: f32) -> Vec<u8> {
    let dims = [Dim::Symbol("n"), Dim::Fixed(7)];
    let weights: Vec<f32> = (0..7 * 100_000)
        .map(|at| if at % 100_000 == 0 { factor } else { (at % 97) as f32 })
        .collect();
    Graph {
        nodes: vec![node("MatMul", &["x", "w"], &["y"], &[])],
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

#[test]
fn every_region_of_a_snapshot_is_sealed() {
    let folders = Folders::filled();
    let mut seen = 0;
    // A recreated snapshot may be a page longer or shorter than the previous one.
    while let Some((what, at)) = regions(&fs::read(folders.snapshot()).unwrap()).get(seen) {
        flip(&folders.snapshot(), *at);
        folders.assert_recreated(what);
        seen += 1;
    }
    assert_eq!(seen, 12);
}

/// The name and offset of a byte in every region of a snapshot's file.
fn regions(file: &[u8]) -> [(&'static str, usize); 12] {
    assert!(file.len() > 1 << 20);
    let head = head_len(file);
    let about = u32::from_le_bytes(file[40..44].try_into().unwrap()) as usize;
    let parts = (file.len() - 36 - head).div_ceil(256 << 10);
    [
        ("the seal", 0),
        ("the end of the seal", 31),
        ("the length of the head", 32),
        ("the length of the head, far off", 35),
        ("the format", 36),
        ("the label", 36 + 20),
        ("the table", 44 + about + 4),
        ("the first hash of a part", 36 + head - 32 * parts),
        ("a hash of a part", 36 + head - 1),
        ("the first page", 36 + head),
        ("a page in the middle", (36 + head + file.len()) / 2),
        ("the last byte", file.len() - 1),
    ]
}

#[test]
fn every_region_of_a_description_is_sealed() {
    let folders = Folders::filled();
    let file = folders.files(".description")[0].clone();
    let len = fs::read(&file).unwrap().len();
    for at in [0, 33, 36, 60, len / 2, len - 1] {
        flip(&file, at);
        folders.assert_recreated(&format!("byte {at} of the description"));
    }
}

#[test]
fn truncated_and_extended_files_are_refused() {
    let folders = Folders::filled();
    let good = fs::read(folders.snapshot()).unwrap();
    for len in [0, 1, 31, 32, 35, 36, 100, good.len() / 2, good.len() - 1] {
        fs::write(folders.snapshot(), &good[..len]).unwrap();
        folders.assert_recreated(&format!("cut to {len}"));
    }
    let mut longer = File::options().append(true).open(folders.snapshot()).unwrap();
    longer.write_all(&[0]).unwrap();
    folders.assert_recreated("lengthened");
    // Sparse, and larger than any snapshot.
    File::options().write(true).open(folders.snapshot()).unwrap().set_len(1 << 40).unwrap();
    folders.assert_recreated("a terabyte");
}

#[test]
fn valid_snapshots_under_other_names_are_refused() {
    let folders = Folders::filled();
    let (host, _) = folders.host(Isolation::Thread);
    let own = folders.snapshot();
    // Another model of the same shapes, whose snapshot would run without an error.
    assert_eq!(answer(&load(&host, &product(5.0), &Policy::default()).unwrap(), 3), [35.0; 3]);
    host.snapshot_store().finish();
    let other = folders.files(".snapshot").into_iter().find(|path| *path != own).unwrap();
    fs::copy(&other, &own).unwrap();
    folders.assert_recreated("another model's snapshot");

    // The same model for another shape.
    let model = load(&host, &product(2.0), &Policy::default()).unwrap();
    assert_eq!(answer(&model, 2).len(), 2);
    host.snapshot_store().finish();
    fs::remove_file(&other).unwrap();
    let two = folders.files(".snapshot").into_iter().find(|path| *path != own).unwrap();
    fs::copy(&two, &own).unwrap();
    folders.assert_recreated("a snapshot for another shape");

    // A snapshot in place of the description.
    fs::copy(&own, &folders.files(".description")[0]).unwrap();
    folders.assert_recreated("a snapshot as a description");
}

#[test]
fn snapshots_sealed_with_another_secret_are_refused() {
    let folders = Folders::filled();
    let state = folders.root.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(state.join("seal.key"), [9; 32]).unwrap();
    fs::set_permissions(state.join("seal.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let (builder, seen) = folders.builder(Isolation::Thread);
    // The code is sealed with the old secret too, so it is compiled again.
    let host = builder.state_dir(&state).build().unwrap();
    let list = host.snapshot_store().list().unwrap();
    assert!(list.len() == 2 && list.iter().all(|stored| stored.broken.is_some()), "{list:?}");
    assert!(seen.refused().is_empty());
}

#[test]
fn files_that_are_not_private_are_refused() {
    type Damage = fn(&Path, &Path);
    let damage: [(&str, Damage); 6] = [
        ("others may read it", |file, _| {
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("a symlink to a good snapshot", |file, aside| {
            fs::rename(file, aside).unwrap();
            symlink(aside, file).unwrap();
        }),
        ("a hard link", |file, aside| {
            let _ = fs::remove_file(aside);
            fs::hard_link(file, aside).unwrap();
        }),
        ("a FIFO", |file, _| {
            fs::remove_file(file).unwrap();
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
            rustix::fs::mknodat(rustix::fs::CWD, file, kind, mode, 0).unwrap();
        }),
        ("a socket", |file, _| {
            fs::remove_file(file).unwrap();
            // The path is too long for a socket's address.
            let before = tempfile::tempdir().unwrap();
            let short = before.path().join("s");
            drop(std::os::unix::net::UnixListener::bind(&short).unwrap());
            fs::rename(short, file).unwrap();
        }),
        ("owned by another user", |file, _| {
            // Only root can change the owner, so only root can be attacked this way.
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(file, Some(12_345), Some(12_345)).unwrap();
            } else {
                fs::set_permissions(file, fs::Permissions::from_mode(0o606)).unwrap();
            }
        }),
    ];
    let folders = Folders::filled();
    for (what, damage) in damage {
        damage(&folders.snapshot(), &folders.root.path().join("aside"));
        folders.assert_recreated(what);
        let metadata = fs::symlink_metadata(folders.snapshot()).unwrap();
        assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o600, "{what}");
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }
}

#[test]
fn a_folder_that_is_open_to_others_is_not_used() {
    type Damage = fn(&Path, &Path);
    let damage: [(&str, Damage); 3] = [
        ("group may write", |folder, _| {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o770)).unwrap();
        }),
        ("a symlink", |folder, aside| {
            fs::rename(folder, aside).unwrap();
            symlink(aside, folder).unwrap();
        }),
        ("a file", |folder, _| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "x").unwrap();
        }),
    ];
    for (what, damage) in damage {
        let folders = Folders::filled();
        damage(&folders.snapshots(), &folders.root.path().join("aside"));
        let (calls, seen) = folders.run();
        assert_eq!((calls.load, calls.prepare, calls.adopt), (1, 1, 1), "{what}");
        assert!(!seen.refused().is_empty() && !seen.not_stored().is_empty(), "{what}");
        let (host, _) = folders.host(Isolation::Thread);
        assert!(host.snapshot_store().list().is_err(), "{what}");
    }
}

#[test]
fn leftovers_of_dead_writers_are_never_read_and_are_removed() {
    let folders = Folders::filled();
    let bytes = fs::read(folders.snapshot()).unwrap();
    let half = folders.snapshots().join(".4711-0123456789abcdef");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    // A file that is being written.
    let live = folders.snapshots().join(".1-00");
    let writer = File::create(&live).unwrap();
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (calls, _) = folders.run();
    assert_from_store(&calls);
    // The next write removes leftovers.
    fs::remove_file(folders.snapshot()).unwrap();
    folders.run();
    assert!(!half.exists(), "the leftover was not removed");
    assert!(live.exists(), "a file that is being written was removed");
    // Unlocked rather than closed: a child that another test has just forked may still hold it.
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::Unlock).unwrap();
    folders.host(Isolation::Thread).0.snapshot_store().remove_leftovers().unwrap();
    assert!(!live.exists());
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
    let bytes = relu(&[Dim::Symbol("n")]).bytes();
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
    let model = load(&host, &relu(&[Dim::Symbol("n")]).bytes(), &Policy::default()).unwrap();
    for n in 2000..2030 {
        let x = Tensor::new(vec![-1.0f32; n], &[n]).unwrap();
        model.run(&[("x", x)]).unwrap().validate().unwrap();
        host.snapshot_store().finish();
    }
    assert!(seen.not_stored().len() >= 26, "{:?}", seen.not_stored());
    // An explicit `belljar prepare` is not bounded.
    let path = folders.root.path().join("relu.onnx");
    fs::write(&path, relu(&[Dim::Symbol("n")]).bytes()).unwrap();
    let arguments = ["prepare", path.to_str().unwrap(), "--input-shape", "x=77"];
    let output = belljar(&folders, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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

fn list(folders: &Folders) -> Vec<StoredModel> {
    folders.host(Isolation::Thread).0.snapshot_store().list().unwrap()
}

#[test]
fn the_command_line_prepares_lists_prunes_and_verifies() {
    let folders = Folders::new();
    let model = product_file(&folders);
    let run = |arguments: &[&str]| {
        let output = belljar(&folders, arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    // A symbolic dimension needs a shape, and the message explains how to set one.
    let (code, _, errors) = run(&["prepare", &model]);
    assert!(code == 2 && errors.contains("--input-shape x="), "{errors}");
    let (code, _, errors) = run(&["prepare", &model, "--input-shape", "z=1,7"]);
    assert!(code == 2 && errors.contains("no input z"), "{errors}");
    let (code, _, errors) = run(&["prepare", &model, "--input-shape", "x=1,8"]);
    assert!(code == 4 && errors.contains('x'), "{errors}");
    let shapes: Vec<String> = (1..=5).map(|rows| format!("x={rows},7")).collect();
    let many: Vec<&str> = shapes.iter().flat_map(|shape| ["--input-shape", shape]).collect();
    let (code, _, errors) = run(&[&["prepare", &*model][..], &many].concat());
    assert!(code == 2 && errors.contains("limits.snapshots"), "{errors}");

    let two = ["prepare", &model, "--input-shape", "x=1,7", "--input-shape", "x=2,7"];
    let (code, table, errors) = run(&two);
    assert!(code == 0 && table.matches("prepared").count() == 2, "{table}{errors}");
    let (code, table, _) = run(&two);
    assert!(code == 0 && table.matches("in the store").count() == 2, "{table}");
    let (_, json, _) = run(&[&two[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["snapshots"][1]["was_stored"], true);

    let (code, table, _) = run(&["snapshots", "list"]);
    assert!(code == 0 && table.contains("product.onnx") && table.contains("x 2×7"), "{table}");
    let (_, json, _) = run(&["snapshots", "list", "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap().as_array().unwrap().len(),
        3
    );
    let (code, table, _) = run(&["snapshots", "verify"]);
    assert!(code == 0 && table.contains("3 files"), "{table}");

    // Damaged data that listing does not read.
    let bad = folders.files(".snapshot")[0].clone();
    flip(&bad, fs::read(&bad).unwrap().len() - 1);
    for arguments in [&["snapshots", "verify"][..], &["snapshots", "verify", "--remove"]] {
        let (code, table, errors) = run(arguments);
        assert!(code == 1 && table.contains("seal"), "{table}");
        assert!(errors.contains(bad.to_str().unwrap()), "{errors}");
    }
    assert!(!bad.exists());
    assert_eq!(run(&["snapshots", "verify"]).0, 0);

    let (code, table, _) = run(&["snapshots", "prune", "--older-than", "1 h"]);
    assert!(code == 0 && table.contains("nothing"), "{table}");
    assert_eq!(run(&["snapshots", "prune", "--model", "another.onnx"]).0, 0);
    assert_eq!(list(&folders).len(), 2);
    assert_eq!(run(&["snapshots", "prune", "--max-size", "100 KiB"]).0, 0);
    assert!(folders.files(".snapshot").is_empty());
    assert_eq!(run(&["snapshots", "prune", "--older-than", "soon"]).0, 2);
    assert_eq!(run(&["snapshots", "prune", "--model", "product.onnx"]).0, 0);
    assert!(folders.files("").is_empty());

    // With `--no-store` nothing is kept.
    let x = folders.root.path().join("x.json");
    fs::write(&x, "[[1,1,1,1,1,1,1]]").unwrap();
    let input = format!("x={}", x.display());
    assert_eq!(run(&["run", &model, "--input", &input, "--no-store"]).0, 0);
    assert!(folders.files("").is_empty());
    // A folder that others can write to.
    fs::set_permissions(folders.snapshots(), fs::Permissions::from_mode(0o777)).unwrap();
    for arguments in [&["snapshots", "list"][..], &["snapshots", "verify"], &two[..]] {
        let (code, _, errors) = run(arguments);
        assert!(code == 7 && errors.contains("chmod"), "{errors}");
    }
    assert_eq!(run(&["run", &model, "--input", &input, "--quiet"]).0, 0);
}

#[test]
fn hostile_labels_are_escaped_in_lists() {
    let folders = Folders::new();
    let path = folders.root.path().join("a\u{1b}[2J\u{202e}\nb.onnx");
    fs::write(&path, relu(&fixed(&[2])).bytes()).unwrap();
    let output = belljar(&folders, &["prepare", path.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for arguments in [&["snapshots", "list"][..], &["snapshots", "prune"]] {
        let output = belljar(&folders, arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("b.onnx"), "{text}");
        assert!(
            !text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
}
