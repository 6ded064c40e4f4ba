//! `belljar policy`, word for word: what each tool says is in tests/expectations/policy, which
//! `BELLJAR_BLESS=1` writes anew.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{BELLJAR, repository};

const PIN: &str = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c";
const OTHER: &str = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3";

/// A folder of policies, in which the tools run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.mode("", 0o755);
        folder
    }

    fn mode(&self, name: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("PIN", PIN).replace("OTHER", OTHER);
        fs::write(self.0.path().join(name), text).unwrap();
        self.mode(name, 0o644);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// What a person sees, and the exit code.
    fn run(&self, line: &str) -> String {
        self.run_under(line, None)
    }

    fn run_under(&self, line: &str, ceiling: Option<&str>) -> String {
        let mut command = std::process::Command::new(BELLJAR);
        command.args(line.split(' ')).current_dir(self.0.path());
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
        let folder = self.0.path().canonicalize().unwrap();
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

const MODEL: &str = r#"version = 1
[model]
sha256 = "PIN"
[limits]
memory = "256 MiB"
run-time = "5 s"
"#;

/// Policies that cannot be used: each kind of mistake.
const BAD: &[(&str, &str)] = &[
    ("syntax", "version = 1\n[limits]\nmemory = 512 MiB\n"),
    ("no-version", "[limits]\nmemory = \"1 GiB\"\n"),
    ("later-version", "version = 2\n"),
    ("unknown-key", "version = 1\n[limits]\nmemroy = \"1 GiB\"\n"),
    ("unknown-table", "version = 1\n[netwrok]\n"),
    ("misplaced-key", "version = 1\nmemory = \"1 GiB\"\n"),
    ("no-unit", "version = 1\n[limits]\nmemory = \"512\"\n"),
    ("no-text", "version = 1\n[limits]\nmemory = 512\n"),
    ("unlimited", "version = 1\n[limits]\nrun-time = \"unlimited\"\n"),
    ("too-much", "version = 1\n[limits]\nmemory = \"5 GiB\"\n"),
    ("images", "version = 1\n[limits]\nimages = 65\n"),
    ("digest", "version = 1\n[model]\nsha256 = \"abc\"\n"),
    ("choice", "version = 1\nconfinement = \"none\"\n"),
    ("kernels", "version = 1\n[compute]\nkernels = \"gpu\"\n"),
    ("switch", "version = 1\n[compute]\ndeterministic = \"yes\"\n"),
    ("threads", "version = 1\n[compute]\nthreads = 65\n"),
    ("no-table", "version = 1\nlimits = 1\n"),
    ("no-list", "version = 1\n[filesystem]\nhost = \"a\"\n"),
    ("no-reason", "version = 1\n[program]\nclocks = true\n"),
    ("empty-reason", "version = 1\n[program]\nclocks = true\nreason = \" \"\n"),
    ("two-lines", "version = 1\n[program]\nreason = \"a\\nb\"\n"),
    ("variable", "version = 1\n[program]\nreason = \"r\"\nenvironment = { \"A=B\" = \"\" }\n"),
    ("no-program", "version = 1\n[[network]]\nhost = \"a\"\nport = 1\nreason = \"r\"\n"),
    ("both", "version = 1\n[program]\n[model]\nsha256 = \"PIN\"\n"),
    (
        "model-writes",
        "version = 1\n[[filesystem]]\nhost = \"a\"\nguest = \"/a\"\naccess = \"write\"\nreason = \"r\"\n",
    ),
    ("no-name", "version = 1\n[program]\n[[models]]\nsha256 = \"PIN\"\n"),
    (
        "same-name",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\n",
    ),
    ("parent", "version = 1\n[program]\n[[filesystem]]\nhost = \"../a\"\n"),
    ("empty-path", "version = 1\n[program]\n[[filesystem]]\nhost = \"\"\n"),
    ("relative-guest", "version = 1\n[program]\n[[filesystem]]\nguest = \"a\"\n"),
    ("slashes", "version = 1\n[program]\n[[filesystem]]\nguest = \"/a//b\"\n"),
    ("access", "version = 1\n[program]\n[[filesystem]]\naccess = \"execute\"\n"),
    (
        "nested",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"a\"\nguest = \"/a\"\nreason = \"r\"\n[[filesystem]]\nguest = \"/a/b\"\n",
    ),
    ("pattern", "version = 1\n[program]\n[[network]]\nhost = \"*.example.com\"\n"),
    ("address-and-port", "version = 1\n[program]\n[[network]]\nhost = \"example.com:80\"\n"),
    ("odd-address", "version = 1\n[program]\n[[network]]\nhost = \"0x7f.1\"\n"),
    ("no-machine", "version = 1\n[program]\n[[network]]\nhost = \"0.0.0.0\"\n"),
    (
        "loopback",
        "version = 1\n[program]\n[[network]]\nhost = \"::ffff:127.0.0.1\"\nport = 1\nreason = \"r\"\n",
    ),
    ("port", "version = 1\n[program]\n[[network]]\nport = 0\n"),
    ("reaches", "version = 1\n[program]\n[[network]]\nreaches = [\"all\"]\n"),
    ("reaches-nothing", "version = 1\n[program]\n[[network]]\nreaches = []\n"),
    ("quota", "version = 1\n[program]\n[quotas]\nconnections = 100000\n"),
    (
        "no-policy",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"PIN\"\npolicy = \"missing.toml\"\n",
    ),
    (
        "other-pin",
        "version = 1\n[program]\n[[models]]\nname = \"a\"\nsha256 = \"OTHER\"\npolicy = \"magika.toml\"\n",
    ),
    (
        "link",
        "version = 1\n[program]\n[[filesystem]]\nhost = \"link\"\nguest = \"/a\"\nreason = \"r\"\n",
    ),
    ("hostile", "version = 1\n\"\\u001b[31m\\u202e\" = 1\n"),
];

#[test]
fn check_says_what_is_wrong_and_where() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    std::os::unix::fs::symlink("/", folder.0.path().join("link")).unwrap();
    let mut found = String::new();
    for (name, text) in BAD {
        folder.write(&format!("{name}.toml"), text);
        found.push_str(&folder.run(&format!("policy check {name}.toml")));
    }
    folder.write("open.toml", MODEL);
    folder.mode("open.toml", 0o666);
    found.push_str(&folder.run("policy check open.toml"));
    found.push_str(&folder.run("policy check nothing-here.toml"));
    found
        .push_str(&folder.run("policy check magika.toml open.toml unknown-key.toml --format json"));
    assert_eq!(found.matches("exit code 3").count(), BAD.len() + 3);
    expect("check-errors.txt", &found);
}

#[test]
fn check_warns_of_what_is_broad() {
    let folder = Folder::new();
    fs::create_dir(folder.0.path().join("labels")).unwrap();
    folder.write("magika.toml", MODEL);
    folder.write("unpinned.toml", "version = 1\nconfinement = \"best-effort\"\n");
    folder.write("program.toml", PROGRAM);
    let file = |host: &str, guest: &str, access: &str| {
        format!(
            "[[filesystem]]\nhost = \"{host}\"\nguest = \"{guest}\"\naccess = \"{access}\"\n\
             reason = \"r\"\n"
        )
    };
    let files = [
        file("/etc", "/a", "read"),
        file("/proc", "/b", "read"),
        file(".", "/c", "write"),
        file("labels", "/d", "read"),
    ];
    folder.write("files.toml", &format!("version = 1\n[program]\n{}", files.concat()));
    let root = file("/", "/", "read");
    folder.write("root.toml", &format!("version = 1\n[program]\n{root}"));
    folder.write("bare.toml", &format!("version = 1\n[model]\nsha256 = \"PIN\"\n{}", files[3]));
    let peer = |host: &str, reaches: &str| {
        format!("[[network]]\nhost = \"{host}\"\nport = 1\nreaches = [{reaches}]\nreason = \"r\"\n")
    };
    let peers = [
        peer("a.example", "\"public\", \"private\", \"loopback\""),
        peer("localhost", "\"public\""),
        peer("169.254.169.254", "\"link-local\""),
    ];
    let text = format!("version = 1\n[program]\nsha256 = \"PIN\"\n{}", peers.concat());
    folder.write("peers.toml", &text);
    let most = "memory = \"4 GiB\"\nrun-time = \"24 h\"\nprepare-time = \"24 h\"\n";
    folder.write("most.toml", &format!("version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\n{most}"));
    let mut found = String::new();
    for name in ["magika", "unpinned", "program", "files", "root", "bare", "peers", "most"] {
        found.push_str(&folder.run(&format!("policy check {name}.toml")));
    }
    found.push_str(&folder.run("policy check --strict magika.toml"));
    found.push_str(&folder.run("policy check --strict magika.toml unpinned.toml"));
    expect("check-warnings.txt", &found);
}

#[test]
fn check_holds_policies_against_the_ceiling() {
    let folder = Folder::new();
    fs::create_dir(folder.0.path().join("labels")).unwrap();
    folder.write("magika.toml", MODEL);
    folder.write("unpinned.toml", "version = 1\n");
    folder.write("program.toml", PROGRAM);
    folder.write("narrow.toml", "version = 1\n[limits]\nmemory = \"128 MiB\"\n[program]\n");
    folder.write("none.toml", "version = 1\nrequire-pin = true\n");
    folder
        .write("refuse.toml", "version = 1\nexcess = \"refuse\"\n[limits]\nmemory = \"128 MiB\"\n");
    folder.write("broken.toml", "version = 1\n[limit]\n");
    folder.write("signers.toml", "version = 1\nsigners = [\"a\"]\n");
    let mut found = String::new();
    for ceiling in ["narrow.toml", "none.toml", "refuse.toml", "broken.toml", "signers.toml"] {
        let line = "policy check magika.toml unpinned.toml program.toml";
        found.push_str(&folder.run_under(line, Some(ceiling)));
    }
    expect("check-ceiling.txt", &found);
}

#[test]
fn explain_says_everything() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write("default.toml", "version = 1\n");
    folder.write(
        "exact.toml",
        "version = 1\nconfinement = \"best-effort\"\n[compute]\ndeterministic = true\n",
    );
    folder.write(
        "slow.toml",
        "version = 1\n[compute]\nkernels = \"sandbox\"\n[[filesystem]]\nhost = \"data\"\n\
         guest = \"/data\"\nreason = \"weights\"\n",
    );
    folder.write("threads.toml", "version = 1\n[compute]\nthreads = 4\n");
    folder.write("program.toml", PROGRAM);
    folder.write("quiet.toml", "version = 1\n[program]\n");
    // A stranger's policy is read all the same.
    folder.write(
        "strange.toml",
        "version = 1\n[program]\nclocks = true\nreason = \"\\u202e\\u001b\"\n",
    );
    let mut found = String::new();
    for name in ["magika", "default", "exact", "slow", "threads", "program", "quiet"] {
        found.push_str(&folder.run(&format!("policy explain {name}.toml")));
    }
    folder.mode("magika.toml", 0o666);
    found.push_str(&folder.run("policy explain magika.toml --format json"));
    found.push_str(&folder.run("policy explain strange.toml"));
    found.push_str(&folder.run("policy explain nothing-here.toml"));
    found.push_str(&folder.run("policy explain /dev/null"));
    expect("explain.txt", &found);
}

#[test]
fn diff_knows_a_gain_from_a_loss() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write(
        "tight.toml",
        "version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\nmemory = \"64 MiB\"\n",
    );
    let mut found = String::new();
    let mut number = 0;
    let mut both = |old: &str, new: &str| {
        number += 1;
        folder.write("a.toml", old);
        folder.write("b.toml", new);
        let _ = write!(found, "# {number}\n{}", folder.run("policy diff a.toml b.toml"));
        found.push_str(&folder.run("policy diff b.toml a.toml"));
    };
    both(MODEL, MODEL);
    both(MODEL, "version = 1\n");
    both(MODEL, &MODEL.replace("PIN", "OTHER"));
    let all = "version = 1\nconfinement = \"best-effort\"\n[limits]\nmemory = \"2 GiB\"\n\
        run-time = \"1 min\"\nprepare-time = \"3 min\"\nmodel-size = \"1 GiB\"\n\
        input-size = \"1 GiB\"\noutput-size = \"1 GiB\"\nlog-size = \"1 MiB\"\nstack = \"4 MiB\"\n\
        images = 8\n[compute]\nthreads = 2\n";
    both("version = 1\n[compute]\nkernels = \"sandbox\"\n", all);
    both("version = 1\n[compute]\ndeterministic = true\n", "version = 1\n");
    both("version = 1\n[program]\n", PROGRAM);
    both("version = 1\n", PROGRAM);
    both(PROGRAM, &PROGRAM.replace("LANG = \"C\"", "LANG = \"D\"").replace("stdout = true", ""));
    both(PROGRAM, &PROGRAM.replace("host = \"labels\"", "host = \".\""));
    both(PROGRAM, &PROGRAM.replace("guest = \"/labels\"", "guest = \"/classes\""));
    both(PROGRAM, &PROGRAM.replace("access = \"write\"", "access = \"read\""));
    both(
        PROGRAM,
        &PROGRAM.replace("port = 6379", "port = 6379\nreaches = [\"public\", \"loopback\"]"),
    );
    both(PROGRAM, &PROGRAM.replace("protocol = \"udp\"", ""));
    both(PROGRAM, &PROGRAM.replace("path = \"magika.onnx\"", ""));
    both(PROGRAM, &PROGRAM.replace("magika.toml", "tight.toml"));
    both(PROGRAM, &PROGRAM.replace("\"OTHER\"", "\"PIN\""));
    // A model is confined no less than its program: only together do they say less.
    let weak = "version = 1\nconfinement = \"best-effort\"";
    folder.write("weak.toml", &MODEL.replace("version = 1", weak));
    both(PROGRAM, &PROGRAM.replace("magika.toml", "weak.toml"));
    let program = PROGRAM.replace("version = 1", weak);
    both(&program, &program.replace("magika.toml", "weak.toml"));
    both(PROGRAM, &PROGRAM.replace("bytes-sent = \"1 GiB\"", "bytes-sent = \"2 GiB\"\nfiles-created = 1\nopen-handles = 65\nconnections = 17\nbytes-received = \"1 B\""));
    // Where a policy lies makes no difference.
    fs::create_dir(folder.0.path().join("elsewhere")).unwrap();
    folder.write("a.toml", PROGRAM);
    folder.write("elsewhere/b.toml", PROGRAM);
    folder.write("elsewhere/magika.toml", MODEL);
    found.push_str(&folder.run("policy diff a.toml elsewhere/b.toml"));
    folder.write("b.toml", &PROGRAM.replace("host = \"labels\"", "host = \"labels/de\""));
    found.push_str(&folder.run("policy diff a.toml b.toml --format json"));
    found.push_str(&folder.run("policy diff a.toml nothing-here.toml"));
    folder.write("b.toml", "version = 1\n[limit]\n");
    found.push_str(&folder.run("policy diff a.toml b.toml"));
    expect("diff.txt", &found);
}

#[test]
fn score_adds_up() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    folder.write("default.toml", "version = 1\n");
    folder.write("least.toml", "version = 1\n[model]\nsha256 = \"PIN\"\n[limits]\nmemory = \"64 MiB\"\nrun-time = \"1 s\"\n[compute]\nkernels = \"sandbox\"\n");
    folder.write("program.toml", PROGRAM);
    folder.write(
        "wild.toml",
        "version = 1\nconfinement = \"best-effort\"\n[compute]\nthreads = 4\n[program]\n\
         [[filesystem]]\nhost = \"/\"\nguest = \"/a\"\naccess = \"write\"\nreason = \"r\"\n\
         [[network]]\nhost = \"a.example\"\nport = 1\nreason = \"r\"\n\
         reaches = [\"public\", \"private\", \"loopback\", \"link-local\"]\n",
    );
    let mut found = String::new();
    for name in ["magika", "default", "least", "program", "wild"] {
        found.push_str(&folder.run(&format!("policy score {name}.toml")));
    }
    found.push_str(&folder.run("policy score magika.toml --max 2"));
    found.push_str(&folder.run("policy score magika.toml --max 1"));
    found.push_str(&folder.run("policy score magika.toml --format json"));
    expect("score.txt", &found);
}

#[test]
fn the_readme_has_every_weight() {
    let folder = Folder::new();
    folder.write("magika.toml", MODEL);
    let found = folder.run("policy score magika.toml --format json");
    let json = found.split_once('\n').unwrap().1.split("exit code").next().unwrap();
    let answer: serde_json::Value = serde_json::from_str(json).unwrap();
    let readme = fs::read_to_string(repository().join("policies/README.md")).unwrap();
    let weights = answer["weights"].as_array().unwrap();
    assert!(weights.len() > 20);
    for weight in weights {
        let key = weight["key"].as_str().unwrap();
        let row =
            format!("| `{key}` | {} | {} |", weight["points"], weight["what"].as_str().unwrap());
        assert!(readme.contains(&row), "{row}");
    }
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
    found.push_str(&folder.run("policy fmt wrong.toml"));
    expect("fmt.txt", &found);
    let mode = fs::metadata(folder.0.path().join("bad.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 3, "a file was left behind");
}

#[test]
fn the_schema_in_the_repository_is_the_one_that_is_printed() {
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
fn every_tool_teaches_by_example() {
    for tool in ["check", "explain", "diff", "score", "fmt", "schema"] {
        let output = std::process::Command::new(BELLJAR).args(["policy", tool, "--help"]).output();
        let help = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(
            help.contains("Examples:") && help.contains(&format!("belljar policy {tool}")),
            "{help}"
        );
    }
}
