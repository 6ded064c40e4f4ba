//! Missing kernel layers: under a strict policy nothing runs and no model is read; under best
//! effort it runs, and the missing layer is reported.
//!
//! A layer is disabled by a system call filter under which `belljar` is started, as a container may
//! do. Everything runs as the user who runs the tests and, if that is root, as an ordinary user
//! too.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use belljar::{
    Calls, Confinement, ErrorKind, Event, Host, Layer, ModelBytes, Policy, Tensor, WorkerProgram,
};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use serde_json::Value;
use support::onnx::{fixed, relu};
use support::users::{User, users};

/// What a filter disables.
struct DisabledLayer {
    what: &'static str,
    layer: Layer,
    errno: i32,
    /// Calls, each with the argument for which it fails.
    calls: Vec<(c_long, Option<SeccompCondition>)>,
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    Some(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value).unwrap())
}

fn equals(argument: u8, value: i32) -> Option<SeccompCondition> {
    condition(argument, SeccompCmpOp::Eq, value as u64)
}

/// Each of these disables a layer that a strict worker needs.
fn needed() -> Vec<DisabledLayer> {
    let filters = || {
        vec![(libc::SYS_seccomp, equals(0, 1)), (libc::SYS_prctl, equals(0, libc::PR_SET_SECCOMP))]
    };
    let landlock = vec![
        (libc::SYS_landlock_create_ruleset, None),
        (libc::SYS_landlock_add_rule, None),
        (libc::SYS_landlock_restrict_self, None),
    ];
    // Calls that only read a limit may succeed.
    let limits = vec![(libc::SYS_prlimit64, condition(2, SeccompCmpOp::Ne, 0))];
    let disabled = |what, layer, errno, calls| DisabledLayer { what, layer, errno, calls };
    vec![
        disabled("Landlock", Layer::Landlock, libc::ENOSYS, landlock),
        disabled("filters", Layer::Seccomp, libc::EINVAL, filters()),
        disabled("the right to filters", Layer::Seccomp, libc::EPERM, filters()),
        disabled("capset", Layer::Privileges, libc::EPERM, vec![(libc::SYS_capset, None)]),
        disabled(
            "no-new-privs",
            Layer::Privileges,
            libc::EINVAL,
            vec![(libc::SYS_prctl, equals(0, libc::PR_SET_NO_NEW_PRIVS))],
        ),
        disabled("setrlimit", Layer::ResourceLimits, libc::EPERM, limits),
    ]
}

/// Each of these disables namespaces, or an operation in them.
fn namespaces() -> Vec<DisabledLayer> {
    let all = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
    ];
    let flags = all.map(|flag| {
        (libc::SYS_clone, condition(0, SeccompCmpOp::MaskedEq(flag as u64), flag as u64))
    });
    let making = [&flags[..], &[(libc::SYS_unshare, None)]].concat();
    let disabled =
        |what, calls| DisabledLayer { what, layer: Layer::Namespaces, errno: libc::EPERM, calls };
    vec![disabled("namespaces", making), disabled("mounts", vec![(libc::SYS_mount, None)])]
}

impl DisabledLayer {
    fn filter(&self) -> BpfProgram {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (call, when) in &self.calls {
            let chain = rules.entry(*call).or_default();
            chain.extend(when.iter().map(|when| SeccompRule::new(vec![when.clone()]).unwrap()));
        }
        let fails = SeccompAction::Errno(self.errno as u32);
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, fails, arch).unwrap();
        filter.try_into().unwrap()
    }
}

/// A command of a user under a filter.
fn command(user: &User, program: &Path, disabled: Option<&DisabledLayer>) -> Command {
    let mut command = user.command(program);
    if let Some(filter) = disabled.map(DisabledLayer::filter) {
        // SAFETY: between fork and exec, the child makes two system calls with memory that was
        // prepared before.
        unsafe {
            command.pre_exec(move || {
                seccompiler::apply_filter(&filter)
                    .map_err(|_| std::io::ErrorKind::PermissionDenied.into())
            });
        }
    }
    command
}

fn belljar(user: &User, disabled: Option<&DisabledLayer>, arguments: &[&str]) -> Output {
    command(user, support::BELLJAR.as_ref(), disabled).args(arguments).output().unwrap()
}

fn describe(user: &User, disabled: &DisabledLayer) -> String {
    format!("{} without {}", user.who(), disabled.what)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, says: &[&str], about: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{about}: {text}");
    for says in says {
        assert!(text.contains(says), "{about}: {says:?} is not in {text:?}");
    }
}

struct Files {
    model: String,
    nonsense: String,
    x: String,
    best_effort: String,
}

impl Files {
    /// For one test, because tests run in parallel.
    fn of(user: &User, test: &str) -> Files {
        let name = |name| format!("{test}/{name}");
        Files {
            model: user.file(&name("relu.onnx"), relu(&fixed(&[2])).bytes()),
            nonsense: user.file(&name("nonsense.onnx"), "this is not a model"),
            x: user.file(&name("x.json"), "[-1, 2.5]"),
            best_effort: user
                .file(&name("policy.toml"), "version = 1\nconfinement = \"best-effort\"\n"),
        }
    }
}

#[test]
fn strict_policy_reads_no_model_without_a_layer_and_best_effort_runs() {
    for user in users().iter() {
        let files = Files::of(user, "strict");
        let strict = |model| ["run", model, "--input", &files.x, "--no-store"];
        for disabled in &needed() {
            let about = describe(user, disabled);
            let layer = disabled.layer.name();
            let best_effort =
                |model| [&strict(model)[..], &["--policy", &files.best_effort]].concat();
            let says = [layer, "doctor", "best-effort"];
            let output = belljar(user, Some(disabled), &strict(&files.model));
            assert_exit(&output, 7, &says, &about);
            assert!(output.stdout.is_empty(), "{about}");
            // If this had been read, it would have been refused as not a model (exit code 4).
            let output = belljar(user, Some(disabled), &strict(&files.nonsense));
            assert_exit(&output, 7, &says, &about);
            let output = belljar(user, Some(disabled), &best_effort(&files.nonsense));
            assert_exit(&output, 4, &["not an ONNX model"], &about);

            let output = belljar(user, Some(disabled), &best_effort(&files.model));
            assert_exit(&output, 0, &["warning", &format!("without {layer}")], &about);
            assert!(String::from_utf8_lossy(&output.stdout).contains("2.5"), "{about}");
            // Each layer is reported once, however many workers there were.
            assert_eq!(stderr(&output).matches(&format!("without {layer}")).count(), 1, "{about}");
        }
    }
}

#[test]
fn strict_policy_runs_without_namespaces_and_reports_it() {
    for user in users().iter() {
        let files = Files::of(user, "namespaces");
        for disabled in &namespaces() {
            let output = belljar(
                user,
                Some(disabled),
                &["run", &files.model, "--input", &files.x, "--no-store"],
            );
            assert_exit(&output, 0, &["warning", "without namespaces"], &describe(user, disabled));
        }
        let output = belljar(user, None, &["run", &files.model, "--input", &files.x, "--no-store"]);
        assert_exit(&output, 0, &[], "with everything");
    }
}

#[test]
fn doctor_reports_the_missing_layer() {
    for user in users().iter() {
        for disabled in needed().iter().chain(&namespaces()) {
            let about = describe(user, disabled);
            let output = belljar(user, Some(disabled), &["doctor", "--format", "json"]);
            let needed = disabled.layer.required();
            let says: &[&str] = if needed { &[disabled.layer.name()] } else { &[] };
            assert_exit(&output, if needed { 7 } else { 0 }, says, &about);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["strict"], !needed, "{about}");
            for worker in found["workers"].as_array().unwrap() {
                assert_eq!(worker["strict"], !needed, "{about}: {worker}");
                let missing = worker["missing"].as_array().unwrap();
                assert!(
                    missing.iter().any(|lacks| lacks["layer"] == disabled.layer.name()),
                    "{about}"
                );
            }
            // The same in the text output.
            let output = belljar(user, Some(disabled), &["doctor"]);
            assert_exit(&output, if needed { 7 } else { 0 }, says, &about);
            assert!(
                String::from_utf8_lossy(&output.stdout).contains(disabled.layer.name()),
                "{about}"
            );
        }
        let output = belljar(user, None, &["doctor", "--format", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_exit(&output, if found["strict"] == true { 0 } else { 7 }, &[], "with everything");
    }
}

#[test]
fn compiling_worker_is_refused_before_it_compiles() {
    for user in users().iter() {
        let files = Files::of(user, "compile");
        let empty = user.path("empty");
        fs::create_dir(&empty).unwrap();
        user.own(&empty);
        for disabled in &needed() {
            let mut command = command(user, support::BELLJAR.as_ref(), Some(disabled));
            command.args(["run", &files.model, "--input", &files.x]);
            let output = command.env("BELLJAR_CACHE_DIR", &empty).output().unwrap();
            let says = [disabled.layer.name(), "where the guest is compiled", "doctor"];
            assert_exit(&output, 7, &says, &describe(user, disabled));
            let made = fs::read_dir(empty.join("code")).unwrap().count();
            assert_eq!(made, 0, "{}", describe(user, disabled));
        }
    }
}

/// Checks the library from inside the filter, by starting this program again.
const INSIDE: &str = "BELLJAR_TEST_LAYER";

#[test]
fn library_calls_no_sandbox_and_reports_the_missing_layer() {
    let itself = std::env::current_exe().unwrap();
    for user in users().iter() {
        let files = Files::of(user, "library");
        // A stored description would spare the host from calling a worker.
        assert_exit(&belljar(user, None, &["prepare", &files.model]), 0, &[], "prepare");
        for disabled in needed().iter().chain(&namespaces()) {
            let mut command = command(user, &itself, Some(disabled));
            command
                .args(["--exact", "fail_closed::inside", "--nocapture"])
                .env(INSIDE, disabled.layer.name());
            let output = command.env("BELLJAR_TEST_MODEL", &files.model).output().unwrap();
            assert_exit(&output, 0, &[], &describe(user, disabled));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "{}: {text}", describe(user, disabled));
        }
    }
}

/// Run under a filter, by the test above.
#[test]
fn inside() {
    let Ok(layer) = std::env::var(INSIDE) else { return };
    let model = PathBuf::from(std::env::var_os("BELLJAR_TEST_MODEL").unwrap());
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let host = Host::builder()
        .worker_program(WorkerProgram::Path(support::BELLJAR.into()))
        .snapshot_store(true)
        .on_event(move |event| {
            match event {
                Event::LayerMissing { layer, .. } => log.lock().unwrap().push(layer.name()),
                // For investigating failures.
                other => eprintln!("{other:?}"),
            }
        })
        .build()
        .unwrap();
    let needed = layer != Layer::Namespaces.name();
    let load = |confinement| {
        let bytes = ModelBytes::open(&model, 1 << 20).unwrap();
        host.load(bytes, &Policy::default().with_confinement(confinement)).unwrap()
    };
    let x = || [("x", Tensor::new(vec![-1.0f32, 2.5], &[2]).unwrap())];

    let strict = load(Confinement::Strict);
    let answer = strict.run(&x());
    if needed {
        let err = answer.err().expect("a refusal");
        assert!(matches!(err.kind(), ErrorKind::Unprotected(_)), "{err}");
        assert_eq!(err.exit_code(), 7);
        assert!(err.to_string().contains(&layer), "{err}");
        assert_eq!(strict.calls(), Calls::default(), "a worker was asked something");
        assert_eq!(*events.lock().unwrap(), [""; 0]);
    } else {
        assert!(answer.is_ok());
    }

    let outputs = load(Confinement::BestEffort).run(&x()).unwrap().validate().unwrap();
    let expected = Tensor::new(vec![0.0f32, 2.5], &[2]).unwrap();
    assert_eq!(outputs.tensors()[0].1, expected);
    let reported = events.lock().unwrap();
    assert_eq!(reported.iter().filter(|reported| **reported == layer).count(), 1, "{reported:?}");
}
