//! Shared by the tests: a host, the real models, and a builder for models that no exporter writes.
#![allow(dead_code)] // Each test binary uses a part.

pub(crate) mod compare;
pub(crate) mod hostile_program;
pub(crate) mod hostile_worker;
pub(crate) mod inspected;
pub(crate) mod onnx;
pub(crate) mod open_sizes;
pub(crate) mod pictures;
pub(crate) mod plain;
pub(crate) mod protobuf;
pub(crate) mod scratch;
pub(crate) mod silent_port;
pub(crate) mod stored;
pub(crate) mod users;

use std::path::{Path, PathBuf};

use belljar::{
    Confinement, Host, HostBuilder, Isolation, Model, ModelBytes, Policy, WorkerProgram,
};

/// The program under test.
pub(crate) const BELLJAR: &str = env!("CARGO_BIN_EXE_belljar");

/// The isolations that the command line offers.
pub(crate) const ISOLATIONS: [Isolation; 2] = [Isolation::Process, Isolation::Thread];

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn folder(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| repository().join(default), PathBuf::from)
}

/// The folder of the real models, which `cargo xtask models` makes.
pub(crate) fn models() -> PathBuf {
    folder("BELLJAR_MODELS", "target/models")
}

/// The cache that all tests share, so that the guest is compiled once.
pub(crate) fn cache_dir() -> PathBuf {
    folder("BELLJAR_CACHE_DIR", "target/cache")
}

pub(crate) fn state_dir() -> PathBuf {
    folder("BELLJAR_STATE_DIR", "target/state")
}

/// A separate state folder for one test, so that its quarantine does not affect others. It contains
/// the secret that sealed the shared cache.
pub(crate) fn own_state() -> tempfile::TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let own = tempfile::Builder::new().permissions(mode).tempdir().unwrap();
    let shared = state_dir().join("seal.key");
    // Copying keeps the mode.
    std::fs::copy(&shared, own.path().join("seal.key"))
        .unwrap_or_else(|err| panic!("{}: {err}; run `belljar warm`", shared.display()));
    own
}

/// A host whose workers are the `belljar` program.
pub(crate) fn builder(isolation: Isolation) -> HostBuilder {
    Host::builder()
        .isolation(isolation)
        .worker_program(WorkerProgram::Path(BELLJAR.into()))
        .cache_dir(cache_dir())
        .state_dir(state_dir())
}

pub(crate) fn host(isolation: Isolation) -> Host {
    builder(isolation).build().unwrap()
}

/// The bytes of one of the real models.
pub(crate) fn real_model(file: &str) -> ModelBytes {
    let path = models().join(file);
    ModelBytes::open(&path, 1 << 30)
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo xtask models`", path.display()))
}

/// The policy, made best-effort for a host on threads, which serves no strict policy.
pub(crate) fn fitting(host: &Host, policy: &Policy) -> Policy {
    let confinement = match host.isolation() {
        Isolation::Process => policy.confinement,
        _ => Confinement::BestEffort,
    };
    policy.clone().with_confinement(confinement)
}

/// A model from bytes, under the default policy.
pub(crate) fn load(host: &Host, bytes: &[u8]) -> Result<Model, belljar::Error> {
    load_under(host, bytes, &Policy::default())
}

pub(crate) fn load_under(
    host: &Host,
    bytes: &[u8],
    policy: &Policy,
) -> Result<Model, belljar::Error> {
    let bytes = ModelBytes::read(bytes, u64::MAX).unwrap().labelled("test.onnx");
    host.load(bytes, &fitting(host, policy))
}

/// `belljar` with the shared cache.
pub(crate) fn belljar(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(BELLJAR);
    command
        .args(arguments)
        .env("BELLJAR_CACHE_DIR", cache_dir())
        .env("BELLJAR_STATE_DIR", state_dir())
        .current_dir(repository());
    command
}

/// Resident memory of this process in bytes, its open descriptors, and its threads.
pub(crate) fn footprint() -> (u64, usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    (kib << 10, count("/proc/self/fd"), count("/proc/self/task"))
}

/// Whether this process runs only one test. If not, runs the test of this name in such a process
/// and returns false.
pub(crate) fn alone(test: &str) -> bool {
    const VARIABLE: &str = "BELLJAR_TEST_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    false
}

/// Runs tests as Rust's own harness does, for test programs with their own `main`, which a host
/// starts as workers.
pub(crate) fn run_tests(tests: &[(&str, fn())]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            println!("test {name} ...");
            test();
            println!("test {name} ... ok");
        }
    }
}
