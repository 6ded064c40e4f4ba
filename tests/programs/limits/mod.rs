//! Work that a supervisor does for a guest program is limited by the program's run: by its time,
//! and by the number of lines in the decision log (`log`).
//!
//! If the code under test would never end, a test fails after a minute.

mod log;

use crate::support;

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use belljar::{
    Digest, Error, ErrorKind, Host, Isolation, Limit, ModelBytes, Policy, Program, Value,
};
use support::scratch::Scratch;
use support::silent_port::silent_port;
use support::{builder, host, onnx, repository};

const MINUTE: Duration = Duration::from_secs(60);

fn program(host: &Host, name: &str, policy: &Policy) -> Program {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    let bytes = ModelBytes::open(&path, 1 << 30)
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo xtask programs`", path.display()));
    host.load_program(bytes.labelled("test.wasm"), policy).unwrap()
}

/// A folder with a policy and the files that it names.
struct Folder(Scratch);

impl Folder {
    fn new() -> Folder {
        Folder(Scratch::shared())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Digest {
        self.0.file(name, &content);
        Digest::of(content.as_ref())
    }

    /// A folder that a program's process can write to.
    fn open_folder(&self, name: &str) {
        self.0.make(name);
        self.0.mode(name, 0o777);
    }

    fn policy(&self, tables: &str) -> Policy {
        self.write("policy.toml", format!("version = 1\n[program]\n{tables}\n"));
        Policy::load(&self.path("policy.toml")).unwrap().policy
    }

    /// A model whose run takes hours, and its entry, with a policy that allows this.
    fn slow_model(&self) -> String {
        let digest = self.write("slow.onnx", onnx::slow(2048, 1000).bytes());
        self.write(
            "slow.toml",
            "version = 1\n[limits]\nrun-time = \"24 h\"\n[compute]\nkernels = \"sandbox\"\n",
        );
        format!(
            "[[models]]\nname = \"slow\"\nsha256 = \"{digest}\"\npath = \"slow.onnx\"\n\
             policy = \"slow.toml\"\n"
        )
    }
}

fn entry(name: &str, digest: Digest, path: &str) -> String {
    let path = if path.is_empty() { String::new() } else { format!("path = {path:?}\n") };
    format!("[[models]]\nname = {name:?}\nsha256 = \"{digest}\"\n{path}")
}

fn grant(folder: &Path, guest: &str) -> String {
    let host = folder.to_str().unwrap();
    format!(
        "[[filesystem]]\nhost = {host:?}\nguest = {guest:?}\naccess = \"write\"\nreason = \"r\"\n"
    )
}

fn peer(host: &str, port: u16, reaches: &str) -> String {
    format!("[[network]]\nhost = {host:?}\nport = {port}\nreaches = [{reaches}]\nreason = \"r\"\n")
}

/// Runs a program that must end or be ended.
#[track_caller]
fn run(program: &Program, inputs: &[(&str, Value)]) -> Result<Vec<(String, Value)>, Error> {
    let (sender, receiver) = channel();
    let program = program.clone();
    let inputs: Vec<_> =
        inputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    std::thread::spawn(move || sender.send(program.run(&inputs)));
    receiver.recv_timeout(MINUTE).expect("it is not ended")
}

#[track_caller]
fn does(program: &Program, order: &str) -> Result<Vec<(String, Value)>, Error> {
    run(program, &[("do", Value::from(order))])
}

/// The result of each line of a script.
#[track_caller]
fn outcomes(program: &Program, script: &str) -> Vec<String> {
    let outputs = does(program, script).unwrap();
    let [(_, Value::Text(text))] = &outputs[..] else { panic!("{outputs:?}") };
    text.lines().map(str::to_owned).collect()
}

/// Checks that the time limit of the program's own policy ended the run.
#[track_caller]
fn assert_out_of_time(outcome: Result<Vec<(String, Value)>, Error>, time: Duration) {
    let err = outcome.expect_err("it was not ended");
    let limit = Limit::RunTime { limit: time };
    assert!(matches!(err.kind(), ErrorKind::Limit(found) if *found == limit), "{err}");
    assert_eq!(err.exit_code(), 5);
    assert!(err.to_string().starts_with("test.wasm: "), "{err}");
}

const SHORT: &str = "[limits]\nrun-time = \"500 ms\"\n";
const TIME: Duration = Duration::from_millis(500);

/// The lines of a log: verdict, resource, access and rule of each.
fn lines(log: &Path) -> Vec<[String; 4]> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            ["verdict", "resource", "access", "rule"].map(|key| line[key].as_str().unwrap().into())
        })
        .collect()
}

#[test]
fn program_that_repeatedly_loads_a_broken_model_is_ended() {
    let folder = Folder::new();
    let garbage = b"this is not a model";
    let broken = folder.write("broken.onnx", garbage);
    let tables = [
        SHORT,
        &entry("broken", broken, "broken.onnx"),
        &entry("another", Digest::of(b"other bytes"), "broken.onnx"),
        &entry("missing", Digest::of(b"nothing"), "missing.onnx"),
        &entry("brought", broken, ""),
    ];
    let log = folder.path("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let program = program(&host, "misbehaves", &folder.policy(&tables.concat()));
    for name in ["broken", "another", "missing", "brought", "ungranted"] {
        assert_out_of_time(does(&program, &format!("model-for-ever {name}")), TIME);
    }
    let brings = ["bring-for-ever"]
        .map(|order| [("do", Value::from(order)), ("model", Value::Bytes(garbage.to_vec()))]);
    assert_out_of_time(run(&program, &brings[0]), TIME);
    // Each load was tried once per run, and the error is that of the first attempt.
    let tried = fs::read_to_string(&log).unwrap();
    let loads = |digest: Digest| {
        let digest = digest.to_string();
        tried.lines().filter(|line| line.contains(&digest) && line.contains("\"load\"")).count()
    };
    assert_eq!(loads(broken), 3, "{tried}");
    let err = does(&program, "model broken").unwrap_err();
    assert!(err.to_string().contains("model broken"), "{err}");
    let err = does(&program, "model another").unwrap_err();
    assert_eq!(err.exit_code(), 3, "{err}");
    assert!(err.to_string().contains("not the model that was approved"), "{err}");
    does(&program, "bytes 1").unwrap();
}

#[test]
fn repeated_load_of_a_broken_model_returns_the_same_error() {
    let folder = Folder::new();
    let broken = folder.write("broken.onnx", b"this is not a model");
    let program = program(
        &host(Isolation::Process),
        "misbehaves",
        &folder.policy(&entry("broken", broken, "broken.onnx")),
    );
    let first = does(&program, "model broken").unwrap_err().to_string();
    let again = does(&program, "model-twice broken").unwrap_err().to_string();
    assert_eq!(first, again);
}

#[test]
fn model_run_is_ended_at_the_programs_deadline() {
    let folder = Folder::new();
    let program = program(
        &host(Isolation::Process),
        "misbehaves",
        &folder.policy(&format!("{SHORT}{}", folder.slow_model())),
    );
    // The program waits for the run, ignores its outputs, or requests it repeatedly.
    assert_out_of_time(does(&program, "compute-x slow 2048,2048"), TIME);
    assert_out_of_time(does(&program, "compute-x-for-ever slow 2048,2048"), TIME);
    does(&program, "bytes 1").unwrap();
}

#[test]
fn preparing_for_many_shapes_counts_as_the_programs_time() {
    let folder = Folder::new();
    let digest = folder.write("relu.onnx", onnx::relu(&[onnx::Dim::Symbol("n")]).bytes());
    let tables = format!("{SHORT}{}", entry("relu", digest, "relu.onnx"));
    let program = program(&host(Isolation::Process), "misbehaves", &folder.policy(&tables));
    assert_out_of_time(does(&program, "compute-x-growing relu"), TIME);
    // A model that cannot be prepared does not get extra time for each attempt.
    let err = does(&program, "compute-x relu 2,2").unwrap_err();
    assert_eq!(err.exit_code(), 4, "{err}");
    assert_out_of_time(does(&program, "compute-x-for-ever relu 2,2"), TIME);
}

#[test]
fn unresponsive_peer_takes_at_most_the_programs_time() {
    let (_listener, _waiting, port) = silent_port();
    let folder = Folder::new();
    let tables = format!("{SHORT}{}", peer("127.0.0.1", port, "\"loopback\""));
    let program = program(&host(Isolation::Process), "attacks", &folder.policy(&tables));
    // The peer does not respond until the test is over: the run is ended by its own time limit.
    assert_out_of_time(does(&program, &format!("connect a 127.0.0.1 {port}")), TIME);
    assert_eq!(
        connecting(port),
        0,
        "nobody waits for the program, but its supervisor still connects"
    );
    // The same with a peer that accepts the connection, sends nothing and keeps it open.
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let (sender, taken) = channel();
    std::thread::spawn(move || sender.send(open.accept().unwrap().0));
    let tables = format!("{SHORT}{}", peer("127.0.0.1", port, "\"loopback\""));
    let program = self::program(&host(Isolation::Process), "attacks", &folder.policy(&tables));
    let waits = format!("connect a 127.0.0.1 {port}\nreceive a");
    assert_out_of_time(does(&program, &waits), TIME);
    // This side is still open, and detects that the other side is closed.
    let mut held = taken.recv_timeout(MINUTE).unwrap();
    held.set_read_timeout(Some(MINUTE)).unwrap();
    assert_eq!(held.read(&mut [0]).unwrap(), 0);
}

/// How many local sockets wait for a response from this local port.
fn connecting(port: u16) -> usize {
    const SYN_SENT: &str = "02";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let peer = format!("0100007F:{port:04X}");
    let sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets.filter(|line| line.get(2) == Some(&&*peer) && line.get(3) == Some(&SYN_SENT)).count()
}

#[test]
fn program_that_writes_or_prints_forever_is_ended() {
    let folder = Folder::new();
    folder.open_folder("out");
    let tables = format!(
        "stdout = true\n{SHORT}[quotas]\nbytes-written = \"1024 GiB\"\n{}",
        grant(&folder.path("out"), "/out")
    );
    let program = program(&host(Isolation::Process), "attacks", &folder.policy(&tables));
    let prints = "print line\\n\n".repeat(400_000);
    assert_out_of_time(does(&program, &prints), TIME);
    // A file of one block, written again and again.
    let writes = format!("open a /out file write create\n{}", "write a 0 xxxx\n".repeat(400_000));
    assert_out_of_time(does(&program, &writes), TIME);
}

#[test]
fn each_name_of_a_model_is_loaded_once() {
    let folder = Folder::new();
    let digest = folder.write("broken.onnx", b"this is not a model");
    let names: Vec<_> = (0..64).map(|at| format!("m{at}")).collect();
    let entries: String = names.iter().map(|name| entry(name, digest, "broken.onnx")).collect();
    let log = folder.path("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let policy = folder.policy(&format!("[limits]\nrun-time = \"20 s\"\n{entries}"));
    let program = program(&host, "misbehaves", &policy);
    does(&program, &format!("models-twice {}", names.join(" "))).unwrap();
    // The same decision about the same model has one line, even with several names in the policy.
    let loads =
        lines(&log).iter().filter(|[_, what, how, _]| what == "model" && how == "load").count();
    assert_eq!(loads, 1);
    let mut text = String::new();
    fs::File::open(&log).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.lines().any(|line| line.contains("decisions of this run")), "{text}");
    assert!(text.contains("\"63 decisions"), "{text}");
}
