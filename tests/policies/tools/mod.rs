//! The exact output of `belljar policy`: it is stored in tests/expectations/policy, which
//! `BELLJAR_BLESS=1` updates.

mod check;
mod compare;

use crate::support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::scratch::Scratch;
use support::{BELLJAR, repository};

const PIN: &str = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c";
const OTHER: &str = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3";

/// A folder of policies in which the tools run.
struct Folder(Scratch);

impl Folder {
    fn new() -> Folder {
        Folder(Scratch::shared())
    }

    fn mode(&self, name: &str, mode: u32) {
        self.0.mode(name, mode);
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("PIN63", &PIN[1..]).replace("PIN", PIN).replace("OTHER", OTHER);
        let text = text.replace("LONG300", &"a".repeat(300)).replace("LONG5000", &"a".repeat(5000));
        let text = text.replace("LONGHEX", &"0".repeat(63));
        self.0.file(name, text);
    }

    fn read(&self, name: &str) -> String {
        self.0.read(name)
    }

    /// The visible output, and the exit code.
    fn run(&self, line: &str) -> String {
        self.run_under(line, None)
    }

    fn run_under(&self, line: &str, ceiling: Option<&str>) -> String {
        let mut command = std::process::Command::new(BELLJAR);
        command.args(line.split(' ')).current_dir(self.0.folder());
        command.env("HOME", "/nonexistent").env_remove("BELLJAR_CEILING");
        for variable in
            ["BELLJAR_STATE_DIR", "BELLJAR_CACHE_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"]
        {
            command.env_remove(variable);
        }
        if let Some(ceiling) = ceiling {
            command.env("BELLJAR_CEILING", ceiling);
        }
        let output = command.output().unwrap();
        let folder = self.0.folder().canonicalize().unwrap();
        let shown = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.replace(folder.to_str().unwrap(), "FOLDER")
        };
        let before = ceiling.map_or_else(String::new, |name| format!("BELLJAR_CEILING={name} "));
        let mut text = format!("$ {before}belljar {line}\n{}", shown(&output.stdout));
        let errors = shown(&output.stderr);
        for line in errors.lines() {
            let _ = writeln!(text, "! {line}");
        }
        let code = output.status.code().unwrap();
        let _ = writeln!(text, "exit code {code}\n");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        text
    }
}

#[track_caller]
fn expect(name: &str, found: &str) {
    let path = repository().join("tests/expectations/policy").join(name);
    if std::env::var_os("BELLJAR_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected != found {
        let differs = |(a, b): &(&str, &str)| a != b;
        let first = expected.lines().zip(found.lines()).find(differs);
        panic!("{name} is out of date ({first:?}); BELLJAR_BLESS=1 writes it anew:\n{found}");
    }
}

const PROGRAM: &str = r#"version = 1
[program]
sha256 = "PIN"
stdout = true
stderr = true
clocks = true
randomness = true
arguments = true
environment = { LANG = "C", API_TOKEN = "x" }
reason = "stamps its answers"
[[models]]
name = "magika"
path = "magika.onnx"
sha256 = "PIN"
policy = "magika.toml"
[[models]]
name = "vad"
sha256 = "OTHER"
[[filesystem]]
host = "labels"
guest = "/labels"
reason = "names of the classes"
[[filesystem]]
host = "/srv/belljar-test/answers"
guest = "/answers"
access = "write"
reason = "answers of the day"
[[network]]
host = "features.example.com"
port = 6379
reason = "features of a user"
[[network]]
host = "10.0.0.7"
port = 53
protocol = "udp"
reaches = ["private"]
reason = "names"
[quotas]
bytes-sent = "1 GiB"
bytes-written = "1 GiB"
"#;

/// A program whose model keeps its weights in an external file.
const SPLIT: &str = r#"version = 1
[program]
sha256 = "PIN"
[[models]]
name = "split"
path = "split.onnx"
sha256 = "OTHER"
policy = "split-model.toml"
[[network]]
host = "features.example.com"
port = 6379
reason = "features of a user"
"#;

const SPLIT_MODEL: &str = r#"version = 1
[[filesystem]]
host = "weights"
guest = "/weights"
reason = "weights of the larger layers"
"#;

const MODEL: &str = r#"version = 1
[model]
sha256 = "PIN"
[limits]
memory = "256 MiB"
run-time = "5 s"
"#;

/// All value rules.
const VALUES: &str = r#"version = 1
[model]
sha256 = "PIN"
[inputs.image]
dtype = "f32"
shape = ["?", 3, 224, 224]
min = -1
max = 1.5
max-norm = 400.0
[inputs.rate]
value = 16000
[inputs.mode]
allowed = [0, 1, 2]
finite = false
[outputs.scores]
min = 0
max = 1
top-k = 5
decimals = 3
"#;

#[test]
fn every_tool_knows_rules_for_values() {
    let folder = Folder::new();
    folder.write("values.toml", VALUES);
    folder.write("none.toml", "version = 1\n[model]\nsha256 = \"PIN\"\n");
    folder.write("unrounded.toml", &VALUES.replace("top-k = 5\ndecimals = 3\n", ""));
    folder.write(
        "wider.toml",
        &VALUES.replace("max = 1.5", "max = 2").replace("top-k = 5", "top-k = 6"),
    );
    folder.write("fewer.toml", VALUES.split("[outputs").next().unwrap());
    folder.write("escaped.toml", "version = 1\n[outputs.\"\\u001b[31m\\u202e\"]\nmin = 0\n");
    let mut found = String::new();
    for line in ["check", "explain", "score"] {
        found.push_str(&folder.run(&format!("policy {line} values.toml")));
        found.push_str(&folder.run(&format!("policy {line} escaped.toml")));
    }
    for other in ["none", "unrounded", "wider", "fewer", "escaped"] {
        found.push_str(&folder.run(&format!("policy diff values.toml {other}.toml")));
        found.push_str(&folder.run(&format!("policy diff {other}.toml values.toml")));
        found.push_str(&folder.run(&format!("policy score {other}.toml")));
    }
    expect("values.txt", &found);
}

#[test]
fn every_tool_knows_pinned_files_and_declared_shapes() {
    let folder = Folder::new();
    fs::create_dir(folder.0.folder().join("sub")).unwrap();
    fs::write(folder.0.folder().join("w.bin"), "w").unwrap();
    let policy = |shapes: &str, host: &str, pin: &str| {
        format!(
            "version = 1\ndeclared-shapes = \"{shapes}\"\n[model]\nsha256 = \"PIN\"\n[[filesystem]]\n\
             host = \"{host}\"\nguest = \"/w.bin\"\n{pin}reason = \"weights\"\n"
        )
    };
    folder.write("open.toml", &policy("report", "w.bin", ""));
    folder.write("pinned.toml", &policy("strict", "w.bin", "sha256 = \"PIN\"\n"));
    folder.write("other.toml", &policy("strict", "w.bin", "sha256 = \"OTHER\"\n"));
    folder.write("folder.toml", &policy("strict", "sub", "sha256 = \"PIN\"\n"));
    folder.write("wrong.toml", &policy("loose", "w.bin", ""));
    let program = policy("strict", "w.bin", "sha256 = \"PIN\"\n").replace("[model]", "[program]");
    folder.write("program.toml", &program);
    let mut found = String::new();
    for name in ["open", "pinned", "folder", "wrong", "program"] {
        found.push_str(&folder.run(&format!("policy check {name}.toml")));
    }
    for name in ["open", "pinned"] {
        found.push_str(&folder.run(&format!("policy explain {name}.toml")));
        found.push_str(&folder.run(&format!("policy score {name}.toml")));
    }
    for (old, new) in [("open", "pinned"), ("pinned", "open"), ("pinned", "other")] {
        found.push_str(&folder.run(&format!("policy diff {old}.toml {new}.toml")));
    }
    folder.write("pins.toml", "version = 1\nrequire-pin = true\n[[filesystem]]\npath = \"/\"\n");
    folder.write(
        "shapes.toml",
        "version = 1\ndeclared-shapes = \"strict\"\n[[filesystem]]\npath = \"/\"\n",
    );
    for ceiling in ["pins.toml", "shapes.toml"] {
        for name in ["open", "pinned"] {
            found.push_str(&folder.run_under(&format!("policy check {name}.toml"), Some(ceiling)));
        }
    }
    expect("pins.txt", &found);
}

#[test]
fn fmt_orders_files_and_keeps_their_modes() {
    let folder = Folder::new();
    folder.write("good.toml", "version = 1\n\n[limits]\nstack = \"1 MiB\"\n");
    folder.write(
        "bad.toml",
        "# Mine.\nversion=1\n[compute]\nthreads=2\n[limits]\nstack = \"1 MiB\"\n",
    );
    folder.write("wrong.toml", "version = 2\n");
    folder.mode("bad.toml", 0o640);
    let mut found = folder.run("policy fmt --check good.toml");
    found.push_str(&folder.run("policy fmt --check good.toml bad.toml"));
    assert!(folder.read("bad.toml").contains("version=1"));
    found.push_str(&folder.run("policy fmt good.toml bad.toml"));
    found.push_str(&folder.read("bad.toml"));
    found.push_str(&folder.run("policy fmt --check good.toml bad.toml"));
    folder.write("worse.toml", "version=1\n[compute]\nthreads=2\n");
    folder.write("bare.toml", "version = 1\n\n[program]\n\n# Mine.\n[limits]\nstack = \"1 MiB\"\n");
    folder.write("wurst.toml", "version=1\n");
    found.push_str(&folder.run("policy fmt --check bare.toml worse.toml wurst.toml"));
    found.push_str(&folder.run("policy fmt wrong.toml"));
    expect("fmt.txt", &found);
    let mode = fs::metadata(folder.0.folder().join("bad.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(fs::read_dir(folder.0.folder()).unwrap().count(), 6, "a file was left behind");
}

#[test]
fn schema_in_the_repository_matches_the_printed_one() {
    let output = std::process::Command::new(BELLJAR).args(["policy", "schema"]).output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = repository().join("policies/policy.schema.json");
    if std::env::var_os("BELLJAR_BLESS").is_some() {
        fs::write(&path, &printed).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == printed,
        "policies/policy.schema.json is out of date; BELLJAR_BLESS=1 writes it"
    );
    let output =
        std::process::Command::new(BELLJAR).args(["policy", "schema", "--ceiling"]).output();
    let schema: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(schema["properties"]["excess"]["enum"][1], "refuse");
}

#[test]
fn every_tool_shows_an_example() {
    for tool in ["check", "explain", "diff", "score", "fmt", "record", "schema"] {
        let output = std::process::Command::new(BELLJAR).args(["policy", tool, "--help"]).output();
        let help = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(
            help.contains("Examples:") && help.contains(&format!("belljar policy {tool}")),
            "{help}"
        );
    }
}
