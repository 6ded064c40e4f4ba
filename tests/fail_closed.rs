//! What happens where the kernel lacks a layer: a strict policy is served by nobody, and nobody has
//! read the model; one of best effort is, and says what is missing.
//!
//! A layer is taken away by a filter of system calls that `belljar` is started under, as a
//! container's might. Everything is done as the user who runs the tests and, if that is root, as an
//! ordinary one too.

mod support;

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

/// What a filter takes away.
struct Away {
    what: &'static str,
    layer: Layer,
    errno: i32,
    /// Calls, each with an argument that must hold if it is to fail.
    calls: Vec<(c_long, Option<SeccompCondition>)>,
}

fn when(place: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    Some(SeccompCondition::new(place, SeccompCmpArgLen::Qword, operator, value).unwrap())
}

fn is(place: u8, value: i32) -> Option<SeccompCondition> {
    when(place, SeccompCmpOp::Eq, value as u64)
}

/// Each of these takes away a layer that a strict worker needs.
fn needed() -> Vec<Away> {
    let filters =
        || vec![(libc::SYS_seccomp, is(0, 1)), (libc::SYS_prctl, is(0, libc::PR_SET_SECCOMP))];
    let landlock = vec![
        (libc::SYS_landlock_create_ruleset, None),
        (libc::SYS_landlock_add_rule, None),
        (libc::SYS_landlock_restrict_self, None),
    ];
    // Whoever only asks for a limit may go on.
    let limits = vec![(libc::SYS_prlimit64, when(2, SeccompCmpOp::Ne, 0))];
    let away = |what, layer, errno, calls| Away { what, layer, errno, calls };
    vec![
        away("Landlock", Layer::Landlock, libc::ENOSYS, landlock),
        away("filters", Layer::Seccomp, libc::EINVAL, filters()),
        away("the right to filters", Layer::Seccomp, libc::EPERM, filters()),
        away("capset", Layer::Privileges, libc::EPERM, vec![(libc::SYS_capset, None)]),
        away(
            "no-new-privs",
            Layer::Privileges,
            libc::EINVAL,
            vec![(libc::SYS_prctl, is(0, libc::PR_SET_NO_NEW_PRIVS))],
        ),
        away("setrlimit", Layer::ResourceLimits, libc::EPERM, limits),
    ]
}

/// Each of these takes away namespaces, or what is done in them.
fn namespaces() -> Vec<Away> {
    let all = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
    ];
    let flags = all
        .map(|flag| (libc::SYS_clone, when(0, SeccompCmpOp::MaskedEq(flag as u64), flag as u64)));
    let making = [&flags[..], &[(libc::SYS_unshare, None)]].concat();
    let away = |what, calls| Away { what, layer: Layer::Namespaces, errno: libc::EPERM, calls };
    vec![away("namespaces", making), away("mounts", vec![(libc::SYS_mount, None)])]
}

impl Away {
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

/// A program of a user's, under a filter.
fn command(user: &User, program: &Path, away: Option<&Away>) -> Command {
    let mut command = user.command(program);
    if let Some(filter) = away.map(Away::filter) {
        // SAFETY: between fork and exec, the child makes two system calls with what was laid out
        // before.
        unsafe {
            command.pre_exec(move || {
                seccompiler::apply_filter(&filter)
                    .map_err(|_| std::io::ErrorKind::PermissionDenied.into())
            });
        }
    }
    command
}

fn belljar(user: &User, away: Option<&Away>, arguments: &[&str]) -> Output {
    command(user, support::BELLJAR.as_ref(), away).args(arguments).output().unwrap()
}

fn who(user: &User, away: &Away) -> String {
    format!("{} without {}", user.who(), away.what)
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
    /// Of one test: others write theirs at the same time.
    fn of(user: &User, test: &str) -> Files {
        let name = |name| format!("{test}/{name}");
        Files {
            model: user.file(&name("relu.onnx"), relu(&fixed(&[2])).bytes()),
            nonsense: user.file(&name("nonsense.onnx"), "this is no model"),
            x: user.file(&name("x.json"), "[-1, 2.5]"),
            best_effort: user
                .file(&name("policy.toml"), "version = 1\nconfinement = \"best-effort\"\n"),
        }
    }
}

#[test]
fn without_a_layer_no_model_is_read_and_best_effort_answers() {
    for user in users().iter() {
        let files = Files::of(user, "strict");
        let strict = |model| ["run", model, "--input", &files.x, "--no-store"];
        for away in &needed() {
            let about = who(user, away);
            let layer = away.layer.name();
            let best_effort =
                |model| [&strict(model)[..], &["--policy", &files.best_effort]].concat();
            let says = [layer, "doctor", "best-effort"];
            let output = belljar(user, Some(away), &strict(&files.model));
            assert_exit(&output, 7, &says, &about);
            assert!(output.stdout.is_empty(), "{about}");
            // Whoever had read this one would have refused it as no model (exit code 4).
            let output = belljar(user, Some(away), &strict(&files.nonsense));
            assert_exit(&output, 7, &says, &about);
            let output = belljar(user, Some(away), &best_effort(&files.nonsense));
            assert_exit(&output, 4, &["not an ONNX model"], &about);

            let output = belljar(user, Some(away), &best_effort(&files.model));
            assert_exit(&output, 0, &["warning", &format!("without {layer}")], &about);
            assert!(String::from_utf8_lossy(&output.stdout).contains("2.5"), "{about}");
            // Each layer once, however many workers there were.
            assert_eq!(stderr(&output).matches(&format!("without {layer}")).count(), 1, "{about}");
        }
    }
}

#[test]
fn without_namespaces_a_strict_policy_is_served_and_told() {
    for user in users().iter() {
        let files = Files::of(user, "namespaces");
        for away in &namespaces() {
            let output = belljar(
                user,
                Some(away),
                &["run", &files.model, "--input", &files.x, "--no-store"],
            );
            assert_exit(&output, 0, &["warning", "without namespaces"], &who(user, away));
        }
        let output = belljar(user, None, &["run", &files.model, "--input", &files.x, "--no-store"]);
        assert_exit(&output, 0, &[], "with everything");
    }
}

#[test]
fn doctor_says_which_layer_is_missing() {
    for user in users().iter() {
        for away in needed().iter().chain(&namespaces()) {
            let about = who(user, away);
            let output = belljar(user, Some(away), &["doctor", "--format", "json"]);
            let needed = away.layer.required();
            let says: &[&str] = if needed { &[away.layer.name()] } else { &[] };
            assert_exit(&output, if needed { 7 } else { 0 }, says, &about);
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["strict"], !needed, "{about}");
            for worker in found["workers"].as_array().unwrap() {
                assert_eq!(worker["strict"], !needed, "{about}: {worker}");
                let missing = worker["missing"].as_array().unwrap();
                assert!(missing.iter().any(|lacks| lacks["layer"] == away.layer.name()), "{about}");
            }
            // For people it is the same.
            let output = belljar(user, Some(away), &["doctor"]);
            assert_exit(&output, if needed { 7 } else { 0 }, says, &about);
            assert!(String::from_utf8_lossy(&output.stdout).contains(away.layer.name()), "{about}");
        }
        let output = belljar(user, None, &["doctor", "--format", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_exit(&output, if found["strict"] == true { 0 } else { 7 }, &[], "with everything");
    }
}

#[test]
fn a_worker_that_compiles_is_refused_before_it_does() {
    for user in users().iter() {
        let files = Files::of(user, "compile");
        let empty = user.path("empty");
        fs::create_dir(&empty).unwrap();
        user.own(&empty);
        for away in &needed() {
            let mut command = command(user, support::BELLJAR.as_ref(), Some(away));
            command.args(["run", &files.model, "--input", &files.x]);
            let output = command.env("BELLJAR_CACHE_DIR", &empty).output().unwrap();
            let says = [away.layer.name(), "where the guest is compiled", "doctor"];
            assert_exit(&output, 7, &says, &who(user, away));
            let made = fs::read_dir(empty.join("code")).unwrap().count();
            assert_eq!(made, 0, "{}", who(user, away));
        }
    }
}

/// What the library does is looked at from inside the filter: by this very program.
const INSIDE: &str = "BELLJAR_TEST_LAYER";

#[test]
fn the_library_asks_a_sandbox_nothing_and_tells_what_is_missing() {
    let itself = std::env::current_exe().unwrap();
    for user in users().iter() {
        let files = Files::of(user, "library");
        // What is stored spares the host from asking a worker what the model is.
        assert_exit(&belljar(user, None, &["prepare", &files.model]), 0, &[], "prepare");
        for away in needed().iter().chain(&namespaces()) {
            let mut command = command(user, &itself, Some(away));
            command.args(["--exact", "inside", "--nocapture"]).env(INSIDE, away.layer.name());
            let output = command.env("BELLJAR_TEST_MODEL", &files.model).output().unwrap();
            assert_exit(&output, 0, &[], &who(user, away));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed"), "{}: {text}", who(user, away));
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
                // For whoever looks into a failure.
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
    let told = events.lock().unwrap();
    assert_eq!(told.iter().filter(|told| **told == layer).count(), 1, "{told:?}");
}
