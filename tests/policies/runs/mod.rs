//! Unused grants according to a log of decisions, and policies recorded from runs of models and of
//! guest programs (`programs`).

mod programs;
mod sizes;

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;

use belljar::Policy;
use belljar::policy::Sizes;
use support::scratch::Scratch;
use support::{belljar, models, repository};

/// A program built by `cargo xtask programs`.
fn program_file(name: &str) -> String {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    assert!(path.is_file(), "{}: run `cargo xtask programs`", path.display());
    path.to_str().unwrap().to_owned()
}

/// The service that the program `labels` uses; it requires a score of 0.5.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            std::thread::spawn(move || {
                let _ = stream.read_line(&mut String::new());
                let _ = stream.get_mut().write_all(b"0.5\n");
            });
        }
    });
    port
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = belljar(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn only_unused_grants_are_reported() {
    let (port, folder) = (service(), Scratch::shared());
    folder.make("labels");
    let labels = repository().join("policies/labels/labels.txt");
    folder.file("labels/labels.txt", fs::read_to_string(labels).unwrap());
    folder.make("history");
    let shipped = fs::read_to_string(repository().join("policies/labels.toml")).unwrap();
    let fitting = shipped
        .replace("features.internal.example", "127.0.0.1")
        .replace("7878", &port.to_string())
        .replace("private", "loopback");
    let policy = folder.file("policy.toml", &fitting);
    let scores = format!("scores={}", folder.file("scores.json", "[0.1, 0.7, 0.2]"));
    let (program, log) = (program_file("labels"), folder.at("decisions.jsonl"));
    let runs = || {
        let inputs = ["--input", &scores, "--input", "customer=text:anybody"];
        let rules = ["run", &program, "--policy", &policy, "--decisions", &log];
        let (code, _, errors) = run(&[&rules[..], &inputs].concat());
        assert_eq!(code, Some(0), "{errors}");
    };
    let unused = || {
        let arguments = ["policy", "check", &policy, "--unused", &log, "--format", "json"];
        let (code, answer, errors) = run(&arguments);
        assert_eq!(code, Some(0), "{errors}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let findings = answer["files"][0]["findings"].as_array().unwrap().clone();
        let messages = findings.iter().map(|found| found["message"].as_str().unwrap().to_owned());
        messages.filter(|message| !message.contains("any program")).collect::<Vec<_>>()
    };
    runs();
    assert_eq!(unused(), [""; 0], "each grant of the shipped policy is used");

    // One superfluous grant of each kind.
    let grant = |table: &str| format!("{fitting}\n{table}\n");
    let cases = [
        (
            grant("[[filesystem]]\nhost = \"history\"\nguest = \"/history\"\nreason = \"r\""),
            "never used: /history",
        ),
        (
            grant("[[network]]\nhost = \"features.example\"\nport = 80\nreason = \"r\""),
            "never used: features.example port 80",
        ),
        (
            grant(&format!("[[models]]\nname = \"spare\"\nsha256 = \"{}\"", "ab".repeat(32))),
            "never used: the model spare",
        ),
        (fitting.replace("access = \"read\"", "access = \"write\""), "never written to: /labels"),
        (fitting.replace("stdout = true", "arguments = true"), "never used: program.arguments"),
    ];
    for (text, expected) in cases {
        fs::write(folder.path("policy.toml"), &text).unwrap();
        // The log has only runs under another policy.
        let nothing = "the log of decisions contains no run under this policy";
        assert_eq!(unused(), [nothing], "{expected}");
        runs();
        assert_eq!(unused(), [expected], "{}", folder.read("decisions.jsonl"));
    }
}

/// The output of `policy record`, and the policy that it wrote.
fn recorded(folder: &Scratch, model: &str, more: &[&str]) -> (Option<i32>, String, Policy, String) {
    let output = folder.at("recorded.toml");
    let arguments = ["policy", "record", model, "--output", &output, "--force"];
    let (code, printed, errors) = run(&[&arguments[..], more].concat());
    assert_eq!(printed, "", "{errors}");
    let text = folder.read("recorded.toml");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(!errors.chars().any(|c| c.is_control() && c != '\n'), "{errors:?}");
    folder.mode("recorded.toml", 0o644);
    let policy = Policy::load(&folder.path("recorded.toml")).unwrap().policy;
    let (formatted, _, _) = run(&["policy", "fmt", "--check", &output]);
    assert_eq!(formatted, Some(0), "not in the order of the format:\n{text}");
    (code, errors, policy, text)
}

fn without_hashes(text: &str, from: &str) -> String {
    let open = text.replace(&format!("# {from}"), from);
    assert_ne!(open, text, "{from} does not stand there as a comment");
    open
}

fn does(lines: &[&str]) -> String {
    format!("do=text:{}", lines.join("\n"))
}

#[test]
fn recorded_policy_of_a_model_has_shapes_types_and_limits() {
    let folder = Scratch::shared();
    let model = models().join("magika.onnx");
    let model = model.to_str().unwrap();
    let (code, errors, policy, text) = recorded(&folder, model, &["--random"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(policy.program.is_none() && policy.model.sha256.is_some(), "{text}");
    let [input] = &policy.inputs[..] else { panic!("{text}") };
    assert_eq!((input.name.as_str(), input.dtype.unwrap().name()), ("bytes", "i32"));
    assert_eq!(input.shape, Some(vec![Sizes::exactly(1), Sizes::exactly(2048)]));
    assert_eq!(
        policy.outputs[0].shape,
        Some(vec![Sizes::exactly(1), Sizes::exactly(214)]),
        "{text}"
    );
    assert!(policy.limits.memory < 1 << 30, "{text}");
    let recorded_policy = folder.at("recorded.toml");
    let zeros = |rows: usize| vec![vec![0; 2048]; rows];
    let input = |rows| {
        let text = serde_json::to_string(&zeros(rows)).unwrap();
        format!("bytes={}", folder.file("in.json", &text))
    };
    let arguments = ["run", model, "--policy", &recorded_policy, "--input"];
    let found = run(&[&arguments[..], &[&input(1)]].concat());
    assert_eq!(found.0, Some(0), "{}", found.2);
    let found = run(&[&arguments[..], &[&input(2)]].concat());
    assert_eq!(found.0, Some(4), "{}", found.2);
    assert!(found.2.contains("shape"), "{}", found.2);
    // A size that the policy of --within leaves open stays open, and limits do not grow.
    let wide = folder.file(
        "wide.toml",
        "version = 1\n[inputs.bytes]\nshape = [\"?\", 2048]\nmin = 0\n[limits]\n\
         memory = \"100 MiB\"\n[compute]\nkernels = \"sandbox\"\n",
    );
    let (code, errors, policy, text) = recorded(&folder, model, &["--random", "--within", &wide]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert_eq!(policy.inputs[0].shape, Some(vec![Sizes::Any, Sizes::exactly(2048)]), "{text}");
    assert!(policy.inputs[0].min.is_some() && policy.limits.memory <= 100 << 20, "{text}");
    assert!(!policy.compute.native_kernels());
}

/// An endless recording that has created its scratch folder, and the folder it is in.
fn endless_recording(folder: &Scratch, wrapper: &[&str]) -> (std::process::Child, PathBuf) {
    let temporary = folder.path("temporary");
    let _ = fs::remove_dir_all(&temporary);
    folder.make("temporary");
    let program = program_file("misbehaves");
    let written = folder.make("written");
    let grants = format!(
        "version = 1\n[program]\n[[filesystem]]\nhost = \"{written}\"\nguest = \"/out\"\n\
         access = \"write\"\nreason = \"a copy is made of it\"\n"
    );
    let within = folder.file("within.toml", &grants);
    let arguments = ["policy", "record", &program, "--input", "do=text:loop", "--within", &within];
    let plain = belljar(&arguments);
    let mut command = match wrapper {
        [] => plain,
        [program, more @ ..] => {
            let mut command = std::process::Command::new(program);
            command.args(more).arg(plain.get_program()).args(plain.get_args());
            plain.get_envs().for_each(|(name, value)| {
                command.env(name, value.unwrap());
            });
            command
        }
    };
    let command = command.env("TMPDIR", &temporary).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let has_copy = || {
        let folders = fs::read_dir(&temporary).unwrap();
        folders.flatten().any(|folder| folder.path().join("copy0").exists())
    };
    for _ in 0..2000 {
        if has_copy() {
            // The program runs in a process until its time limit.
            std::thread::sleep(std::time::Duration::from_millis(300));
            return (child, temporary);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Leave neither a running process nor a zombie.
    let ended = child.kill().and_then(|()| child.wait());
    panic!("no folder was made by the process that then {ended:?}");
}

#[test]
fn recording_ended_by_a_signal_leaves_no_folder() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::process::ExitStatusExt as _;

    let folder = Scratch::shared();
    // A shell that starts the tests in the background may make them ignore signals.
    let as_usual = ["env", "--default-signal=INT,TERM,HUP,QUIT"];
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let (mut child, temporary) = endless_recording(&folder, &as_usual);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{signal:?}");
    }
    // Signals that its parent made it ignore do not end it.
    let script = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""];
    let (mut child, temporary) = endless_recording(&folder, &script);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(child.try_wait().unwrap(), None);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    // After SIGKILL, the next recording removes the folder.
    let (mut child, temporary) = endless_recording(&folder, &as_usual);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
    let (model, program) = (folder.path("other.toml"), program_file("misbehaves"));
    let arguments = ["policy", "record", &*program, "--input", "do=text:nothing", "--output"];
    let mut command = belljar(&[&arguments[..], &[model.to_str().unwrap()]].concat());
    command.env("TMPDIR", &temporary).output().unwrap();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}
