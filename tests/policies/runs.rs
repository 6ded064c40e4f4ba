//! Unused grants according to a log of decisions, and policies recorded from runs.

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;

use belljar::Policy;
use belljar::policy::{Access, Peer, Sizes};
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

#[test]
fn recording_labels_reveals_its_grants_step_by_step() {
    let (port, folder) = (service(), Scratch::shared());
    folder.make("wide/labels");
    let labels = repository().join("policies/labels/labels.txt");
    folder.file("wide/labels/labels.txt", fs::read_to_string(labels).unwrap());
    folder.file("wide/labels/other.txt", "not read");
    let scores = format!("scores={}", folder.file("scores.json", "[0.1, 0.7, 0.2]"));
    let inputs = ["--input", &scores, "--input", "customer=text:anybody"];
    let program = program_file("labels");

    // Without grants, it reports the first missing grant.
    let (code, errors, policy, text) = recorded(&folder, &program, &inputs);
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("/labels/labels.txt") && errors.contains("--within"), "{errors}");
    assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
    assert!(text.contains("# guest = \"/labels/labels.txt\""), "{text}");

    // Within a wide policy, whose grants are unneeded or risky, except the folder of labels.
    let wide = folder.file(
        "wide.toml",
        format!(
            "version = 1\n[program]\nclocks = true\nrandomness = true\nstdout = true\n\
             environment = {{ SERVICE = \"localhost\", PORT = \"{port}\" }}\nreason = \"r\"\n\
             [[filesystem]]\nhost = \"wide\"\nguest = \"/wide\"\nreason = \"r\"\n\
             [[filesystem]]\nhost = \"wide/labels\"\nguest = \"/labels\"\nreason = \"r\"\n\
             [[network]]\nhost = \"localhost\"\nport = {port}\nreaches = [\"loopback\"]\n\
             reason = \"r\"\n\
             [[network]]\nhost = \"features.example\"\nport = 80\nreason = \"r\"\n"
        ),
    );
    let more = [&["--within", &wide][..], &inputs].concat();
    let (code, errors, policy, text) = recorded(&folder, &program, &more);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("1 grant is commented out"), "{errors}");
    let granted = policy.program.as_ref().unwrap();
    assert!(granted.sha256.is_some() && granted.stdout && !granted.stderr, "{text}");
    assert!(!granted.clocks && !granted.randomness && granted.environment.is_empty(), "{text}");
    let [file] = &policy.filesystem[..] else { panic!("{text}") };
    assert_eq!(file.host, folder.path("wide/labels/labels.txt"));
    assert_eq!((file.guest.as_str(), file.access), ("/labels/labels.txt", Access::Read));
    assert!(file.reason.starts_with("recorded: "), "{text}");
    let [peer] = &policy.network[..] else { panic!("{text}") };
    assert_eq!((&peer.host, peer.port), (&Peer::parse("localhost").unwrap(), port));
    assert_eq!(policy.quotas.connections, 2);
    assert!(policy.quotas.bytes_sent <= 4096 && policy.quotas.files_created == 0, "{text}");
    assert!(policy.limits.memory < 64 << 20, "{text}");
    // With the commented grant accepted, the policy is sufficient.
    let enough = folder.file("enough.toml", without_hashes(&text, "environment ="));
    let ran = [&["run", &program, "--policy", &enough][..], &inputs].concat();
    let (code, answer, errors) = run(&ran);
    assert_eq!(code, Some(0), "{errors}");
    assert!(answer.contains("dog"), "{answer}");
}

#[test]
fn only_used_models_and_files_are_recorded() {
    let folder = Scratch::shared();
    let scores = |program: &str, policy: &str, inputs: &[&str]| {
        let arguments = ["run", program, "--policy", policy, "--format", "json", "--data"];
        let (code, answer, errors) = run(&[&arguments[..], inputs].concat());
        assert_eq!(code, Some(0), "{errors}");
        let mut answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["outputs"].take()
    };
    let photo = repository().join("tests/expectations/classify/photo.jpg");
    let photo = format!("image={}", photo.display());
    for (name, model, input) in
        [("file-type", "magika", "file=README.md"), ("classify", "squeezenet", &photo)]
    {
        let policies = repository().join("policies");
        let shipped = fs::read_to_string(policies.join(name).with_extension("toml")).unwrap();
        let wide = format!(
            "{shipped}\n[[models]]\nname = \"spare\"\nsha256 = \"{}\"\n\
             [[filesystem]]\nhost = \".\"\nguest = \"/data\"\nreason = \"r\"\n",
            "ab".repeat(32)
        );
        let wide = folder.file("wide.toml", &wide);
        let own = fs::read_to_string(policies.join(model).with_extension("toml")).unwrap();
        folder.file(&format!("{model}.toml"), &own);
        let file = format!("{model}.onnx");
        fs::copy(models().join(&file), folder.path(&file)).unwrap();
        folder.mode(&file, 0o644);
        let program = program_file(name);
        let inputs = ["--input", input];
        let more = ["--within", &wide, "--input", input];
        let (code, errors, policy, text) = recorded(&folder, &program, &more);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
        assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
        let [granted] = &policy.models[..] else { panic!("{text}") };
        assert_eq!(granted.path.as_deref(), Some(folder.path(&file).as_path()));
        assert!(granted.rules.is_some(), "{text}");
        let narrow = folder.at("recorded.toml");
        assert_eq!(scores(&program, &narrow, &inputs), scores(&program, &wide, &inputs));
        // Without the grant, the request for the name becomes a comment.
        let (code, _, policy, text) = recorded(&folder, &program, &inputs);
        assert_eq!(code, Some(3), "{text}");
        assert!(policy.models.is_empty() && text.contains("# [[models]]"), "{text}");
    }
}

fn does(lines: &[&str]) -> String {
    format!("do=text:{}", lines.join("\n"))
}

#[test]
fn requests_of_a_hostile_program_are_never_granted() {
    let folder = Scratch::shared();
    let script = does(&[
        "open a / etc/shadow read",
        "open a / proc/self/environ read",
        "open b / out/deep/answer create write",
        "open c / a\\x[2J\\n# read",
        "open c / \"\\n[[filesystem]]\\nhost=\"/\" read",
        "connect d 169.254.169.254 80",
        "connect d 127.0.0.1 22",
        "connect d evil.example 443",
        "connect d 0.0.0.0 80",
        "udp e 8.8.8.8 53",
        "resolve \\x]0;title\\n.example",
        "resolve localhost",
        "connect d localhost 0",
        "symlink / /etc/shadow mine",
        "bind 127.0.0.1 0",
        "wall-clock",
        "random",
        "arguments",
        "environment",
    ]);
    let more = ["--input", &script];
    let (code, errors, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{errors}{text}");
    assert!(policy.filesystem.is_empty() && policy.network.is_empty(), "{text}");
    assert!(policy.models.is_empty(), "{text}");
    let granted = policy.program.unwrap();
    let none =
        [granted.stdout, granted.stderr, granted.clocks, granted.randomness, granted.arguments];
    assert_eq!(none, [false; 5], "it answered without: {text}");
    assert!(granted.environment.is_empty());
    for aside in [
        "# guest = \"/etc/shadow\"\n",
        "# guest = \"/proc/self/environ\"\n",
        "# guest = \"/out/deep\"\n# access = \"write\"\n",
        "# host = \"169.254.169.254\"\n",
        "# host = \"127.0.0.1\"\n",
        "# host = \"evil.example\"\n",
        "# host = \"8.8.8.8\"\n# port = 53\n# protocol = \"udp\"\n",
        "cloud machines get their credentials",
        "0.0.0.0 port 80, which no policy can grant",
        "links are never created",
        "bind 127.0.0.1:0",
    ] {
        assert!(text.contains(aside), "{aside:?}: {text}");
    }
    // Uncommenting every line does not give a valid policy by accident.
    let open: String =
        text.lines().map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    assert!(Policy::parse(&open, "test").is_err());
    let live = text.lines().filter(|line| line.starts_with("[[") || line.starts_with("host"));
    assert_eq!(live.count(), 0, "{text}");
}

#[test]
fn recording_changes_no_files_and_grants_only_used_ones() {
    let folder = Scratch::shared();
    for name in ["in", "in/sub", "out"] {
        folder.make(name);
    }
    folder.mode("out", 0o777);
    for name in ["in/one", "in/two", "in/sub/three", "out/old"] {
        folder.file(name, name);
    }
    folder.file("secret", "secret");
    std::os::unix::fs::symlink("../secret", folder.path("in/link")).unwrap();
    fs::hard_link(folder.path("secret"), folder.path("in/other-name")).unwrap();
    let file = |host: &str, guest: &str, access: &str| {
        format!(
            "[[filesystem]]\nhost = \"{host}\"\nguest = \"{guest}\"\naccess = \"{access}\"\n\
             reason = \"r\"\n"
        )
    };
    let wide = [
        file("in", "/in", "read"),
        file("out", "/out", "write"),
        file("/etc/hostname", "/host/name", "read"),
    ];
    let wide = folder.file("wide.toml", format!("version = 1\n[program]\n{}", wide.concat()));
    let script = does(&[
        "open a /in one read",
        "read a 0 9",
        "open b /in sub/three read",
        "open c /in link read",
        "open c /in other-name read",
        "open c /in missing read",
        "open c /in ../secret read",
        "open d /out old read write",
        "write d 0 changed",
        "open e /out new create write",
        "unlink /out old",
        "open g /host name read",
    ]);
    let more = ["--within", &wide, "--input", &script];
    let (code, errors, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{errors}");
    let found: Vec<_> = policy.filesystem.iter().map(|grant| grant.host.clone()).collect();
    assert_eq!(found, [folder.path("in/one"), folder.path("in/sub/three")], "{text}");
    assert!(policy.filesystem.iter().all(|grant| grant.access == Access::Read));
    assert!(text.contains("# host = \"out\"\n# guest = \"/out\"\n# access = \"write\""), "{text}");
    assert!(text.contains("# host = \"/etc/hostname\""), "{text}");
    assert!(text.contains("this system file"), "{text}");
    assert!(text.contains("read /in/link: symbolic links"), "{text}");
    assert!(text.contains("read /in/other-name: files with several hard links"), "{text}");
    // Its changes were made to a copy.
    assert_eq!(folder.read("out/old"), "out/old");
    assert!(!folder.path("out/new").exists());
    let left = fs::read_dir(std::env::temp_dir()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("belljar-record-")
    });
    // Other tests may be recording at the same time.
    assert!(left.count() < 8);

    // Listing a folder does not grant the whole folder.
    let script = does(&["list /in", "open a /in one read"]);
    let more = ["--within", &wide, "--input", &script];
    let (code, _, policy, text) = recorded(&folder, &program_file("attacks"), &more);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(policy.filesystem.len(), 1, "{text}");
    assert!(text.contains("listed this folder"), "{text}");

    // A folder that is too large to copy is refused, and the program does not run.
    folder.make("all");
    fs::File::create(folder.path("all/big")).unwrap().set_len(300 << 20).unwrap();
    let all = format!("version = 1\n[program]\n{}", file("all", "/all", "write"));
    folder.file("large.toml", &all);
    let large = folder.at("large.toml");
    let (code, _, errors) = run(&[
        "policy",
        "record",
        &program_file("attacks"),
        "--within",
        &large,
        "--input",
        &script,
    ]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("too large to copy"), "{errors}");
}

#[test]
fn ceiling_applies_while_a_policy_is_recorded() {
    let folder = Scratch::shared();
    folder.make("secret");
    folder.mode("secret", 0o777);
    folder.file("secret/key", "secret");
    let wide = folder.file(
        "wide.toml",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"secret\"\nguest = \"/data\"\n\
         access = \"write\"\nreason = \"r\"\n",
    );
    // Programs, and scratch folders for them, but not that folder.
    let temporary = std::env::temp_dir().canonicalize().unwrap();
    let ceiling = folder.file(
        "ceiling.toml",
        format!(
            "version = 1\n[program]\n[[filesystem]]\npath = \"{}/belljar-elsewhere\"\n",
            temporary.display()
        ),
    );
    let script = does(&["folders", "open a /data key read", "read a 0 9"]);
    let attacks = program_file("attacks");
    let output = folder.at("recorded.toml");
    let arguments = ["policy", "record", &attacks, "--within", &wide, "--output", &output];
    let found = belljar(&[&arguments[..], &["--input", &script]].concat())
        .env("BELLJAR_CEILING", &ceiling)
        .output()
        .unwrap();
    let errors = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(0), "{errors}");
    assert!(errors.contains("secret"), "the cut is not reported: {errors}");
    let text = folder.read("recorded.toml");
    assert!(!text.contains("/data") && !text.contains("host ="), "{text}");
}

#[test]
fn arguments_and_clocks_are_recorded_if_needed() {
    let folder = Scratch::shared();
    let attacks = program_file("attacks");
    let script = does(&["arguments"]);
    let more = ["--input", &script, "--", "-v"];
    let (code, errors, policy, text) = recorded(&folder, &attacks, &more);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(policy.program.unwrap().arguments, "{text}");
    let (code, _, policy, text) = recorded(&folder, &attacks, &["--input", &script]);
    assert_eq!(code, Some(0));
    assert!(!policy.program.unwrap().arguments && text.contains("# arguments = true"), "{text}");
    // Flags for models do not apply to programs, and the reverse.
    let model = models().join("magika.onnx");
    for wrong in [
        vec!["policy", "record", &attacks, "--random"],
        vec!["policy", "record", model.to_str().unwrap(), "--random", "--", "-v"],
    ] {
        assert_eq!(run(&wrong).0, Some(2));
    }
    // A policy for a model cannot be used for a program.
    let bare = folder.file("bare.toml", "version = 1\n");
    let found = run(&["policy", "record", &attacks, "--within", &bare, "--input", &script]);
    assert_eq!(found.0, Some(3), "{}", found.2);
    // A policy that others can write to is refused, and no file is replaced.
    folder.mode("bare.toml", 0o666);
    let found = run(&["policy", "record", &attacks, "--within", &bare, "--input", &script]);
    assert_eq!(found.0, Some(3), "{}", found.2);
    let there = folder.at("recorded.toml");
    let found = run(&["policy", "record", &attacks, "--input", &script, "--output", &there]);
    assert_eq!(found.0, Some(1), "{}", found.2);
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
