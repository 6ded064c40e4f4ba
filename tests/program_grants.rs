//! What a policy grants to a guest program reaches it through its confined process, and no wider. The
//! program `attacks` does what it is told, line by line; `host/src/program/wasi` has the same attacks
//! on each interface alone.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use belljar::{Event, Host, Isolation, ModelBytes, Policy, Program, Tensor, Value};
use support::{builder, host, repository};

fn program(host: &Host, name: &str, policy: &Policy) -> Program {
    let path = repository().join("target/guest/programs").join(name).with_extension("wasm");
    let bytes = ModelBytes::open(&path, 1 << 30)
        .unwrap_or_else(|err| panic!("{}: {err}; run `cargo xtask programs`", path.display()));
    host.load_program(bytes, policy).unwrap()
}

fn policy(tables: &str) -> Policy {
    let program = if tables.contains("[program]") { "" } else { "[program]\n" };
    Policy::parse(&format!("version = 1\n{program}{tables}\n"), "test.toml").unwrap()
}

fn text(outputs: &[(String, Value)]) -> &str {
    match outputs {
        [(_, Value::Text(text))] => text,
        other => panic!("{other:?}"),
    }
}

/// Does each line before its `=>`, and sees what comes of it.
#[track_caller]
fn check(program: &Program, script: &str) {
    let lines = script.lines().map(|line| line.trim().split_once(" => ").unwrap());
    let (orders, expected): (Vec<_>, Vec<_>) = lines.unzip();
    let outputs = program.run(&[("do", Value::from(orders.join("\n").as_str()))]).unwrap();
    let found: Vec<_> = text(&outputs).lines().collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((order, found), expected) in orders.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{order}");
    }
}

/// A folder that a program's process may use: where Belljar runs as root, that is another user's.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    folder
}

fn open_to_all(path: &Path) {
    let mode = if path.is_dir() { 0o777 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn grant(folder: &Path, guest: &str, access: &str) -> String {
    let host = folder.canonicalize().unwrap();
    format!(
        "[[filesystem]]\nhost = {:?}\nguest = {guest:?}\naccess = {access:?}\nreason = \"test\"\n",
        host.to_str().unwrap()
    )
}

#[test]
fn a_folder_granted_for_reading_is_read_and_nothing_else() {
    let (granted, other) = (folder(), folder());
    fs::write(granted.path().join("labels.txt"), "cat").unwrap();
    fs::write(other.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(other.path().join("secret"), granted.path().join("link")).unwrap();
    let host = host(Isolation::Process);
    let program = program(&host, "attacks", &policy(&grant(granted.path(), "/data", "read")));
    // Each run is a process of its own.
    for _ in 0..2 {
        check(
            &program,
            "folders => /data
             open a /data labels.txt read => ok
             read-stream a => cat
             read a 1 10 => at
             open b /data none read => error no-entry
             open b /data link read => error loop
             open b /data ../secret read => error not-permitted
             open b / etc/passwd read => error not held
             open b /data labels.txt write => error read-only
             open b /data new write create => error read-only
             mkdir /data sub => error read-only",
        );
    }
    assert!(!granted.path().join("new").exists());
}

#[test]
fn a_folder_granted_for_writing_is_written_within_its_quota() {
    let granted = folder();
    let tables =
        format!("{}[quotas]\nbytes-written = \"1 KiB\"\n", grant(granted.path(), "/out", "write"));
    let host = host(Isolation::Process);
    let program = program(&host, "attacks", &policy(&tables));
    check(
        &program,
        "mkdir /out sub => ok
         open a /out sub/answer write create => ok
         write-stream a hello => ok
         open b /out big write create => ok
         fill b 10000 => 1000 then quota
         open c /out ../x write create => error not-permitted",
    );
    assert_eq!(fs::read_to_string(granted.path().join("sub/answer")).unwrap(), "hello");
    assert_eq!(fs::metadata(granted.path().join("big")).unwrap().len(), 1000);
    assert_eq!(fs::read_dir(granted.path()).unwrap().count(), 2);
}

/// A service that answers what it hears, in capitals.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    let _ = stream.write_all(&bytes[..len].to_ascii_uppercase());
                }
            });
        }
    });
    port
}

#[test]
fn a_granted_peer_is_reached_and_no_other() {
    let (port, other) = (service(), service());
    let tables = format!(
        "[[network]]\nhost = \"127.0.0.1\"\nport = {port}\nreaches = [\"loopback\"]\n\
         reason = \"test\"\n[quotas]\nconnections = 1\n"
    );
    let host = host(Isolation::Process);
    let reaching = program(&host, "attacks", &policy(&tables));
    for _ in 0..2 {
        check(
            &reaching,
            &format!(
                "connect a 127.0.0.1 {port} => ok
                 send a hello => ok
                 receive a => HELLO
                 connect b 127.0.0.1 {other} => error access-denied
                 connect b 127.0.0.2 {port} => error access-denied
                 udp b 127.0.0.1 {port} => error access-denied
                 resolve localhost => error access-denied
                 bind 127.0.0.1 0 => error access-denied"
            ),
        );
    }
    let without = program(&host, "attacks", &policy(""));
    check(&without, &format!("connect a 127.0.0.1 {port} => error access-denied"));
    // Files and peers of one program are not the other's.
    let granted = folder();
    let files = program(&host, "attacks", &policy(&grant(granted.path(), "/data", "read")));
    check(&files, &format!("folders => /data\nconnect a 127.0.0.1 {port} => error access-denied"));
    check(&reaching, "open a /data . folder => error not held");
}

/// Lines that were printed, and whether they were errors.
type Lines = Arc<Mutex<Vec<(bool, String)>>>;

/// A host, and what programs print there.
fn listening() -> (Host, Lines) {
    let lines = Lines::default();
    let heard = Arc::clone(&lines);
    let listener = move |event| {
        if let Event::Printed { error, line, .. } = event {
            heard.lock().unwrap().push((error, line));
        }
    };
    (builder(Isolation::Process).on_event(listener).build().unwrap(), lines)
}

#[test]
fn what_a_program_prints_is_bounded_and_only_what_is_granted() {
    let (host, lines) = listening();
    let script = "print one\\ntwo\\n => ok\nprint-error bad\\n => ok\nprint three => ok";
    check(&program(&host, "attacks", &policy("")), script);
    assert!(lines.lock().unwrap().is_empty());
    let granted = policy("[program]\nstdout = true\n[quotas]\nbytes-written = \"1 KiB\"");
    let printing = program(&host, "attacks", &granted);
    check(&printing, script);
    let out = |text: &str| (false, text.to_owned());
    assert_eq!(*lines.lock().unwrap(), [out("one"), out("two"), out("three")]);
    lines.lock().unwrap().clear();
    let flood = ["print a\\sline\\x[2J\\n"; 5000].join("\n");
    printing.run(&[("do", Value::from(flood.as_str()))]).unwrap();
    let lines = lines.lock().unwrap();
    assert!(lines.len() < 100, "{}", lines.len());
    assert!(lines.iter().all(|(_, line)| !line.contains('\u{1b}')), "{lines:?}");
}

#[test]
fn clocks_arguments_and_the_environment_are_there_when_granted() {
    let host = host(Isolation::Process);
    let without = program(&host, "attacks", &policy(""));
    let given = ["-v".to_owned()];
    let run = |program: &Program, order: &str| {
        let outputs = program.run_with_arguments(&[("do", Value::from(order))], &given).unwrap();
        text(&outputs).trim_end().to_owned()
    };
    assert_eq!(run(&without, "arguments"), "");
    assert_eq!(run(&without, "environment"), "");
    assert_eq!(run(&without, "wall-clock"), "0");
    assert_eq!(run(&without, "random"), run(&without, "random"));
    let tables = "[program]\nclocks = true\narguments = true\nrandomness = true\n\
                  environment = { LANG = \"C\" }\nreason = \"test\"";
    let with = program(&host, "attacks", &policy(tables));
    assert!(run(&with, "arguments").contains("-v"));
    assert_eq!(run(&with, "environment"), "LANG=C");
    assert!(run(&with, "wall-clock").parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(run(&with, "sleep 1000000"), "ok");
    assert_ne!(run(&with, "random"), run(&with, "random"));
}

#[test]
fn a_program_that_waits_for_ever_is_ended() {
    let tables = "[program]\nclocks = true\nreason = \"test\"\n[limits]\nrun-time = \"300 ms\"";
    let program = program(&host(Isolation::Process), "attacks", &policy(tables));
    let waits = [("do", Value::from("sleep 1000000000000000"))];
    let err = program.run(&waits).unwrap_err();
    assert_eq!(err.exit_code(), 5, "{err}");
    check(&program, "sleep 1000 => ok");
}

#[test]
fn a_program_that_ends_itself_has_no_answer() {
    let program = program(&host(Isolation::Process), "attacks", &policy(""));
    let err = program.run(&[("do", Value::from("exit"))]).unwrap_err();
    assert_eq!(err.exit_code(), 6, "{err}");
    assert!(err.to_string().contains("ended itself"), "{err}");
}

/// The example with files and a service, under the policy that comes with it.
#[test]
fn the_program_labels_works_under_its_policy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 64];
            let len = stream.read(&mut bytes).unwrap();
            let enough = if &bytes[..len] == b"strict\n" { "0.9\n" } else { "0.5\n" };
            stream.write_all(enough.as_bytes()).unwrap();
        }
    });
    let policies = repository().join("policies");
    // As root, what belongs to root alone is not its process's.
    let place = folder();
    fs::create_dir(place.path().join("labels")).unwrap();
    fs::copy(policies.join("labels/labels.txt"), place.path().join("labels/labels.txt")).unwrap();
    open_to_all(&place.path().join("labels"));
    open_to_all(&place.path().join("labels/labels.txt"));
    let written = fs::read_to_string(policies.join("labels.toml")).unwrap();
    let ours = written
        .replace("7878", &port.to_string())
        .replace("private", "loopback")
        .replace("features.internal.example", "localhost");
    let mut policy = Policy::parse(&ours, "labels.toml").unwrap();
    policy.resolve_in(&place.path().canonicalize().unwrap());
    let (host, lines) = listening();
    let labels = program(&host, "labels", &policy);
    let label = |customer: &str| {
        let scores = Tensor::new(vec![0.1f32, 0.7, 0.2], &[3]).unwrap();
        let inputs = [("scores", scores.into()), ("customer", Value::from(customer))];
        labels.run(&inputs).map(|outputs| text(&outputs).to_owned())
    };
    let wanted = fs::read_to_string(policies.join("labels/labels.txt")).unwrap();
    assert_eq!(label("usual").unwrap(), wanted.lines().nth(1).unwrap());
    assert_eq!(label("strict").unwrap(), "unsure");
    assert!(lines.lock().unwrap().iter().all(|(error, _)| !error));
    assert_eq!(lines.lock().unwrap().len(), 2);
}
