//! Policies and runs that were written down: which grants no run has used.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use support::{belljar, repository};

/// A program that `cargo xtask programs` has built.
fn program_file(name: &str) -> String {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    assert!(path.is_file(), "{}: run `cargo xtask programs`", path.display());
    path.to_str().unwrap().to_owned()
}

/// What the program `labels` asks: a service that needs a score of 0.5.
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

/// A folder that a program's process may use: where Belljar runs as root, that is another user's.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.mode("", 0o755);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn make(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.mode(name, 0o755);
        self.at(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.mode(name, 0o644);
        self.at(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = belljar(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_grant_that_no_run_has_used_is_named_and_no_other() {
    let (port, folder) = (service(), Folder::new());
    folder.make("labels");
    let labels = repository().join("policies/labels/labels.txt");
    folder.write("labels/labels.txt", &fs::read_to_string(labels).unwrap());
    folder.make("history");
    let shipped = fs::read_to_string(repository().join("policies/labels.toml")).unwrap();
    let fitting = shipped
        .replace("features.internal.example", "127.0.0.1")
        .replace("7878", &port.to_string())
        .replace("private", "loopback");
    let policy = folder.write("policy.toml", &fitting);
    let scores = format!("scores={}", folder.write("scores.json", "[0.1, 0.7, 0.2]"));
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

    // One grant too many, of each kind, alone.
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
        (
            fitting.replace("access = \"read\"", "access = \"write\""),
            "never written to: /labels",
        ),
        (fitting.replace("stdout = true", "arguments = true"), "never used: program.arguments"),
    ];
    for (text, expected) in cases {
        fs::write(folder.path("policy.toml"), &text).unwrap();
        // The log is of runs under another policy.
        let nothing = "no run under this policy is in the log of decisions";
        assert_eq!(unused(), [nothing], "{expected}");
        runs();
        assert_eq!(unused(), [expected], "{}", folder.read("decisions.jsonl"));
    }
}
