//! The operator's ceiling in the command line and the library: cuts are reported, refused policies
//! do not run, and nothing bypasses it.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use belljar::policy::Cut;
use belljar::{ErrorKind, Event, Isolation, ModelBytes, Policy};
use serde_json::Value;
use support::onnx::{fixed, relu};
use support::scratch::Scratch;
use support::{BELLJAR, belljar, builder};

/// Every command that uses a policy.
fn commands(model: &str) -> [Vec<String>; 4] {
    let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    [
        line(&["run", model, "--input", "x=-"]),
        line(&["prepare", model]),
        line(&["inspect", model]),
        line(&["bench", model, "--random", "--iterations", "1"]),
    ]
}

fn under(ceiling: &str, arguments: &[String], more: &[&str]) -> Output {
    use std::io::Write;
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let mut command = belljar(&arguments);
    command.env("BELLJAR_CEILING", ceiling);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that is refused does not read its standard input.
    let _ = child.stdin.take().unwrap().write_all(b"[[1, 2], [3, 4]]");
    child.wait_with_output().unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{says:?} is not in {text:?}");
}

#[test]
fn every_command_applies_the_ceiling_and_reports_cuts() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    let policy = s.toml("policy.toml", "[limits]\nmemory = \"512 MiB\"");
    for arguments in commands(&s.relu()) {
        let output = under(&ceiling, &arguments, &["--policy", &policy]);
        assert_exit(&output, 0, "limits.memory = 512 MiB is more than the ceiling allows: 256 MiB");
        let reported = String::from_utf8_lossy(&output.stderr).matches("is more than").count();
        assert_eq!(reported, 1, "{arguments:?}");
        // The default policy is cut, too.
        assert_exit(&under(&ceiling, &arguments, &[]), 0, "limits.memory = 1 GiB is more than");
        let output = under(&ceiling, &arguments, &["--policy", &policy, "--strict-policy"]);
        assert_exit(&output, 3, "limits.memory = 512 MiB is more than");
    }
    let refuse = s.toml("refuse.toml", "excess = \"refuse\"\n[limits]\nmemory = \"256 MiB\"");
    let within = s.toml("within.toml", "[limits]\nmemory = \"256 MiB\"");
    for arguments in commands(&s.relu()) {
        assert_exit(&under(&refuse, &arguments, &["--policy", &policy]), 3, "is refused");
        assert_exit(&under(&refuse, &arguments, &["--policy", &within]), 0, "");
    }
}

#[test]
fn cut_limit_is_enforced() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "[limits]\ninput-size = \"8 B\"\nmodel-size = \"1 MiB\"");
    let policy = s.toml("policy.toml", "[limits]\ninput-size = \"1 MiB\"");
    let [run, ..] = commands(&s.relu());
    assert_exit(&under(&ceiling, &run, &["--policy", &policy]), 5, "limits.input-size");
    let ceiling = s.toml("ceiling.toml", "[limits]\nmodel-size = \"8 B\"");
    assert_exit(&under(&ceiling, &run, &[]), 5, "limits.model-size");
    // Threads provide less than strict confinement, which the ceiling requires.
    let ceiling = s.toml("ceiling.toml", "confinement = \"strict\"");
    assert_exit(&under(&ceiling, &run, &["--isolation", "thread"]), 7, "confinement");
    assert_exit(&under(&ceiling, &run, &[]), 0, "");
}

#[test]
fn ceiling_requires_pins() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "require-pin = true");
    let model = s.relu();
    let unpinned = s.toml("unpinned.toml", "");
    for arguments in commands(&model) {
        assert_exit(&under(&ceiling, &arguments, &[]), 3, "pin their model");
        assert_exit(&under(&ceiling, &arguments, &["--policy", &unpinned]), 3, "pin their model");
    }
    let new = ["new-policy", &model, "--random"].map(str::to_owned);
    let output = under(&ceiling, &new, &[]);
    assert_exit(&output, 0, "");
    let pinned = s.file("pinned.toml", &output.stdout);
    let [run, ..] = commands(&model);
    assert_exit(&under(&ceiling, &run, &["--policy", &pinned]), 0, "");
}

/// Otherwise a program's pin would be accepted for any model.
#[test]
fn policy_for_a_program_does_not_run_a_model() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "require-pin = true\n[program]");
    let pinned = format!("[program]\nsha256 = \"{}\"", "ab".repeat(32));
    let policy = s.toml("policy.toml", &pinned);
    for arguments in commands(&s.relu()) {
        let output = under(&ceiling, &arguments, &["--policy", &policy]);
        assert_exit(&output, 3, "it is for a guest program");
    }
}

#[test]
fn json_output_lists_cuts() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    let [run, ..] = commands(&s.relu());
    let output = under(&ceiling, &run, &["--format", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["cuts"][0]["key"], "limits.memory");
    assert_eq!(answer["cuts"][0]["asked"], "1 GiB");
    assert_eq!(answer["cuts"][0]["left"], "256 MiB");
}

#[test]
fn nothing_runs_under_an_invalid_ceiling() {
    let s = Scratch::new();
    let model = s.relu();
    let broken = s.toml("broken.toml", "[limits]\nmemroy = \"1 GiB\"");
    let signers = s.toml("signers.toml", "signers = [\"a key\"]");
    let open = s.toml("open.toml", "");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    let missing = s.path("missing.toml").to_str().unwrap().to_owned();
    let folder = s.folder().to_str().unwrap().to_owned();
    for (ceiling, says) in [
        (&broken, "did you mean `memory`?"),
        (&signers, "does not verify signatures"),
        (&open, "is not trusted"),
        (&missing, "cannot be read"),
        (&folder, "a regular file"),
    ] {
        for arguments in commands(&model) {
            let output = under(ceiling, &arguments, &[]);
            assert_exit(&output, 3, says);
            assert_exit(&output, 3, "the operator's ceiling cannot be used");
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn ceiling_applies_to_embedding_programs() {
    let s = Scratch::new();
    let ceiling = s.toml("ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    let reported: Arc<Mutex<Vec<Cut>>> = Arc::default();
    let listener = {
        let reported = Arc::clone(&reported);
        move |event| {
            if let Event::PolicyCut(cut) = event {
                reported.lock().unwrap().push(cut);
            }
        }
    };
    let host = builder(Isolation::Process).ceiling(&ceiling).on_event(listener).build().unwrap();
    let bytes = || ModelBytes::read(&relu(&fixed(&[2, 2])).bytes()[..], 1 << 20).unwrap();
    let model = host.load(bytes(), &Policy::default()).unwrap();
    assert_eq!(model.policy().limits.memory, 256 << 20);
    assert_eq!(reported.lock().unwrap().len(), 1);
    let effective = host.effective(&Policy::default()).unwrap();
    host.load(bytes(), &effective).unwrap();
    assert_eq!(reported.lock().unwrap().len(), 2, "a policy within the ceiling reports no cut");

    let strict = builder(Isolation::Process).ceiling(&ceiling).refuse_excess(true).build().unwrap();
    let error = strict.load(bytes(), &Policy::default()).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Refused(_)), "{error}");
    assert_eq!(error.exit_code(), 3);
    assert_eq!(strict.warm_up(&Policy::default()).unwrap_err().exit_code(), 3);

    let broken = s.toml("broken.toml", "nonsense = 1");
    let error = builder(Isolation::Process).ceiling(&broken).build().map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Ceiling(_)), "{error}");
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn roots_ceiling_applies_to_ordinary_users() {
    use std::os::unix::process::CommandExt;
    let s = Scratch::new();
    let policy = s.toml("policy.toml", "");
    let ceiling = s.toml("ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    if std::os::unix::fs::chown(&ceiling, Some(0), None).is_err() {
        println!("skipped: only root can become somebody else");
        return;
    }
    fs::set_permissions(s.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let check = || {
        let mut command = Command::new(BELLJAR);
        command.args(["policy", "check", &policy]).env("BELLJAR_CEILING", &ceiling);
        command.current_dir("/").uid(65534).gid(65534).output().unwrap()
    };
    let reported = "limits.memory = 1 GiB is more than the ceiling allows: 256 MiB";
    let output = check();
    assert_exit(&output, 0, "");
    assert!(String::from_utf8_lossy(&output.stdout).contains(reported));
    // An unreadable ceiling still applies.
    fs::set_permissions(&ceiling, fs::Permissions::from_mode(0o600)).unwrap();
    assert_exit(&check(), 3, "cannot be read");
    fs::set_permissions(&ceiling, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&ceiling, Some(4321), None).unwrap();
    assert_exit(&check(), 3, "belongs to uid 4321");
}

/// Runs `belljar` with this folder as `/etc`, in a new mount namespace.
fn with_etc(etc: &str, arguments: &[String]) -> Command {
    let script = "mount --bind \"$1\" /etc && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", etc, BELLJAR]).args(arguments);
    command
        .env("BELLJAR_CACHE_DIR", support::cache_dir())
        .env("BELLJAR_STATE_DIR", support::state_dir())
        .stdin(Stdio::null());
    command
}

#[test]
fn machine_ceiling_applies_in_addition_to_named_ceilings() {
    let works = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: only root can put a folder in the place of /etc");
        return;
    }
    let s = Scratch::new();
    fs::create_dir(s.path("etc")).unwrap();
    fs::create_dir(s.path("etc/belljar")).unwrap();
    let etc = s.path("etc").to_str().unwrap().to_owned();
    let model = s.relu();
    let inspect = ["inspect".to_owned(), model];
    let loose = s.toml("loose.toml", "[limits]\nmemory = \"4 GiB\"");
    let run = |more: &[(&str, &str)]| {
        let mut command = with_etc(&etc, &inspect);
        command.envs(more.iter().copied());
        command.output().unwrap()
    };
    // Without a ceiling there, none applies.
    let output = run(&[]);
    assert_exit(&output, 0, "");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("ceiling"));

    s.toml("etc/belljar/ceiling.toml", "[limits]\nmemory = \"256 MiB\"");
    let cut = "limits.memory = 1 GiB is more than the ceiling allows: 256 MiB";
    assert_exit(&run(&[]), 0, cut);
    for value in [loose.as_str(), ""] {
        assert_exit(&run(&[("BELLJAR_CEILING", value)]), 0, cut);
    }
    let broken = s.toml("broken.toml", "nonsense = 1");
    assert_exit(&run(&[("BELLJAR_CEILING", &broken)]), 3, "nonsense");

    // Anything in its place that is not a valid ceiling stops everything.
    let at = s.path("etc/belljar/ceiling.toml");
    fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap();
    assert_exit(&run(&[]), 3, "is not trusted");
    assert_exit(&run(&[("BELLJAR_CEILING", &loose)]), 3, "is not trusted");
    fs::remove_file(&at).unwrap();
    std::os::unix::fs::symlink("nowhere", &at).unwrap();
    assert_exit(&run(&[]), 3, "cannot be read");
    fs::remove_file(&at).unwrap();
    fs::create_dir(&at).unwrap();
    assert_exit(&run(&[]), 3, "a regular file");
}
