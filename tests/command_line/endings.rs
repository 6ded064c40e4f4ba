//! How commands end on a signal, a closed output, a damaged key or a limit: they leave no files,
//! lose no results without an error, and print a message that says what to do.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use support::belljar;
use support::onnx::value_of_any_shape;
use support::onnx::{FLOAT, Graph, fixed, node, relu, tensor_i64, value};
use support::scratch::Scratch;

use super::inspect::inspected;
use super::running::{run, stderr};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A model with a large output, which takes a while to write.
fn large() -> Graph {
    Graph {
        nodes: vec![node("Expand", &["x", "size"], &["y"], &[])],
        initializers: vec![tensor_i64("size", &[2], &[32 << 20, 1])],
        inputs: vec![value("x", FLOAT, &fixed(&[1, 1]))],
        outputs: vec![value_of_any_shape("y", FLOAT)],
    }
}

#[test]
fn signal_during_output_leaves_no_temporary_file() {
    let s = Scratch::new();
    let (model, x) = (s.file("large.onnx", large().bytes()), s.file("x.json", "[[1]]"));
    let folder = s.path("out");
    fs::create_dir(&folder).unwrap();
    // The next process removes what a process ended by SIGKILL has left.
    let leftover = folder.join(".belljar-1-y.npz");
    fs::write(&leftover, "left over").unwrap();
    let answer = folder.join("y.npz");
    // A shell that starts the tests in the background may make them ignore signals.
    let plain = belljar(&["run", &model, "--input", &x, "--quiet", "--force", "--output"]);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::KILL] {
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP,QUIT").arg(plain.get_program());
        command.args(plain.get_args()).arg(&answer).current_dir(s.folder());
        plain.get_envs().for_each(|(name, value)| {
            command.env(name, value.unwrap());
        });
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let files = format!("/proc/{}/fd", child.id());
        let writes = || {
            let files = fs::read_dir(&files).ok()?;
            let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
            // Before it writes, the process opens the folder and the file that was left in it.
            let mut links = links.filter(|link| link.starts_with(&folder));
            links.find(|link| *link != folder && *link != leftover)
        };
        while writes().is_none() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = Pid::from_child(&child);
        let _ = kill_process(pid, signal);
        let status = child.wait().unwrap();
        assert!(status.signal() == Some(signal.as_raw()) || status.success(), "{status}");
        let left = names(&folder);
        if signal != Signal::KILL {
            assert!(left.iter().all(|name| name == "y.npz"), "{signal:?} left {left:?}");
        }
    }
    // Also after SIGKILL, with the next write.
    let x = s.x();
    let output = run(&["run", &s.relu(), "-i", &x, "-o", answer.to_str().unwrap(), "--force"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&folder), ["y.npz"]);
}

#[test]
fn result_that_cannot_be_printed_is_an_error() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    for arguments in [
        &["run", &*model, "--input", &x][..],
        &["run", &model, "--input", &x, "--format", "json"],
        &["inspect", &model],
        &["inspect", &model, "--format", "json"],
        &["ops"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
        &["man"],
        &["completions", "bash"],
        &[],
    ] {
        let mut command = belljar(arguments);
        // SAFETY: between fork and exec, the child makes one system call, on a descriptor that
        // nothing uses before the new program begins.
        unsafe {
            command.pre_exec(|| {
                rustix::io::close(1);
                Ok(())
            });
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "closed, {arguments:?}: {text}");
        assert!(text.contains("result could not be printed") && text.contains("hint"), "{text}");

        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = belljar(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "full, {arguments:?}: {text}");
        assert!(text.contains("result could not be printed"), "{text}");

        let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let output = belljar(arguments).stdout(null).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn inputs_over_the_limit_are_refused_before_a_run() {
    let s = Scratch::new();
    let model = s.file("wide.onnx", relu(&fixed(&[1024, 1024])).bytes());
    let policy = s.toml("policy.toml", "[limits]\ninput-size = \"1 MiB\"");
    let (code, found) = inspected(&[&model, "--policy", &policy]);
    let preparation = &found["preparation"];
    assert_eq!(
        (code, &preparation["verdict"], &preparation["exit_code"]),
        (0, &"refused".into(), &5.into())
    );
    assert!(preparation["error"].as_str().unwrap().contains("limits.input-size"), "{preparation}");
}

/// A separate state folder for a test, with the key of the shared cache.
fn with_state<'a>(command: &'a mut Command, state: &Path) -> &'a mut Command {
    command.env("BELLJAR_STATE_DIR", state)
}

#[test]
fn damaged_seal_key_is_replaced() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let state = support::own_state();
    let key = state.path().join("seal.key");
    let cache = tempfile::Builder::new().permissions(mode(0o700)).tempdir().unwrap();
    fs::write(&key, "").unwrap();
    let run = || {
        let mut command = belljar(&["run", &model, "--input", &x]);
        with_state(&mut command, state.path()).env("BELLJAR_CACHE_DIR", cache.path());
        command.output().unwrap()
    };
    let first = run();
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(!stderr(&first).contains("warning"), "{}", stderr(&first));
    assert_eq!(fs::read(&key).unwrap().len(), 32);
    // After that, everything is stored again.
    let second = run();
    assert!(second.status.success() && second.stderr.is_empty(), "{}", stderr(&second));
    // A missing folder is reported, with a hint.
    fs::remove_file(&key).unwrap();
    let third = run();
    assert!(third.status.success(), "{}", stderr(&third));
    for said in ["BELLJAR_STATE_DIR", "expected once", "otherwise find out"] {
        assert!(stderr(&third).contains(said), "{said}: {}", stderr(&third));
    }
}

fn mode(bits: u32) -> fs::Permissions {
    fs::Permissions::from_mode(bits)
}

#[test]
fn unusable_state_folder_is_reported_before_compiling() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let cache = tempfile::Builder::new().permissions(mode(0o700)).tempdir().unwrap();
    let state = support::own_state();
    let quarantine = state.path().join("quarantine");
    fs::create_dir(&quarantine).unwrap();
    fs::set_permissions(&quarantine, mode(0o777)).unwrap();
    for arguments in [
        &["run", &*model, "--input", &x][..],
        &["run", &model, "--input", &x, "--no-store"],
        &["inspect", &model],
        &["prepare", &model],
        &["bench", &model, "--random"],
        &["new-policy", &model],
        &["policy", "record", &model, "--input", &x],
    ] {
        let mut command = belljar(arguments);
        with_state(&mut command, state.path()).env("BELLJAR_CACHE_DIR", cache.path());
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(7), "{arguments:?}: {text}");
        assert!(text.contains("quarantine") && text.contains("chmod"), "{text}");
        assert!(!text.contains("compiling"), "{text}");
    }
    // Nor is a policy measured that cannot be written.
    let taken = s.file("taken.toml", "");
    for arguments in [&["new-policy"][..], &["policy", "record", "--input", &x]] {
        let arguments = [arguments, &["--output", &taken, &model]].concat();
        let mut command = belljar(&arguments);
        let output = with_state(&mut command, state.path()).output().unwrap();
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains("already exists"), "{text}");
    }
    // `warm` does not compile code that it cannot cache.
    let file = s.file("no-folder", "");
    let mut command = belljar(&["warm"]);
    let output = with_state(&mut command, file.as_ref())
        .env("BELLJAR_CACHE_DIR", cache.path())
        .output()
        .unwrap();
    assert!(!output.status.success() && !stderr(&output).contains("compiling"), "{output:?}");
}

#[test]
fn limit_error_names_the_policy_line() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let sets = s.toml("sets.toml", "[limits]\nrun-time = \"1 s\"\ninput-size = \"4 B\"");
    let without = s.toml("without.toml", "[limits]\nrun-time = \"1 s\"");
    let ceiling = s.toml("ceiling.toml", "[limits]\nmodel-size = \"4 B\"");
    let hint = |arguments: &[&str], ceiling: Option<&str>| {
        let mut command = belljar(arguments);
        if let Some(ceiling) = ceiling {
            command.env("BELLJAR_CEILING", ceiling);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        stderr(&output)
    };
    let text = hint(&["run", &model, "--input", &x, "--policy", &sets], None);
    assert!(text.contains("line 4 of ") && text.contains("sets.toml"), "{text}");
    let text = hint(&["run", &model, "--input", &x, "--policy", &without], Some(&ceiling));
    assert!(text.contains("the operator's ceiling lowers `limits.model-size`"), "{text}");
    let large = s.file("large.onnx", large().bytes());
    let one = s.file("one.json", "[[1]]");
    let tight = s.toml("tight.toml", "[limits]\noutput-size = \"1 MiB\"");
    let text = hint(&["run", &large, "--input", &one, "--policy", &tight], None);
    assert!(text.contains("line 3 of ") && text.contains("tight.toml"), "{text}");
    let huge = s.file("huge.onnx", {
        let mut graph = self::large();
        graph.initializers = vec![tensor_i64("size", &[2], &[300 << 20, 1])];
        graph.bytes()
    });
    let text = hint(&["run", &huge, "--input", &one, "--policy", &without], None);
    assert!(text.contains("without.toml does not set `limits."), "{text}");
    let text = hint(&["run", &huge, "--input", &one], None);
    assert!(text.contains("no policy was given") && text.contains("--policy FILE"), "{text}");
}

#[test]
fn error_for_missing_inputs_explains_the_input_flag() {
    let s = Scratch::new();
    let output = run(&["run", &s.relu()]);
    assert_eq!(output.status.code(), Some(4));
    let text = stderr(&output);
    assert!(text.contains("x: f32 [2, 2]") && text.contains("--input NAME=FILE"), "{text}");
}

#[test]
fn shortage_of_address_space_or_files_names_the_limit() {
    let s = Scratch::new();
    let (model, x) = (s.relu(), s.x());
    let under = |resource: Resource, most: u64| {
        let mut command = belljar(&["run", &model, "--input", &x]);
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        // SAFETY: between fork and exec, the child makes one system call.
        unsafe {
            command.pre_exec(move || Ok(rustix::process::setrlimit(resource, limit)?));
        }
        command.output().unwrap()
    };
    for (resource, flag, values) in [
        (Resource::As, "ulimit -v", [400 << 20, 600 << 20, 1 << 30, 2 << 30]),
        (Resource::Nofile, "ulimit -n", [8, 9, 12, 16]),
    ] {
        let mut failed = 0;
        for most in values {
            let output = under(resource, most);
            let text = stderr(&output);
            assert!(!text.contains("panicked"), "{most}: {text}");
            let code = output.status.code().unwrap_or_else(|| panic!("{most}: {text}"));
            if code != 0 {
                failed += 1;
                assert!(text.contains("belljar: error: ") && text.contains(flag), "{most}: {text}");
                assert!(!text.contains("name a folder you can write to"), "{most}: {text}");
            }
        }
        assert!(failed > 0, "{flag}");
    }
}
