//! Grants of a policy work through the confined process of a guest program, and allow nothing else.
//! The program `attacks` runs a script, line by line; `host/belljar/src/program/wasi` tests each
//! interface separately.

mod mounts;

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use belljar::{Event, Host, Isolation, ModelBytes, Policy, Program, Tensor, Value};
use support::users::{User, users};
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

/// Runs the operation before each `=>`, and checks its result.
#[track_caller]
fn check(program: &Program, script: &str) {
    check_by(script, |orders| {
        text(&program.run(&[("do", Value::from(orders))]).unwrap()).to_owned()
    });
}

#[track_caller]
fn check_by(script: &str, run: impl FnOnce(&str) -> String) {
    let lines = script.lines().map(|line| line.trim().split_once(" => ").unwrap());
    let (orders, expected): (Vec<_>, Vec<_>) = lines.unzip();
    let found = run(&orders.join("\n"));
    let found: Vec<_> = found.lines().collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((order, found), expected) in orders.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{order}");
    }
}

/// The same through the command line, as this user, with writable folders.
#[track_caller]
fn check_as(user: &User, granted: &[(&Path, &str)], script: &str) {
    let grants = granted.iter().map(|(folder, guest)| grant(folder, guest, "write"));
    let tables = format!("version = 1\n[program]\n{}", grants.collect::<String>());
    let policy = user.file("policy.toml", tables);
    let program = repository().join("target/guest/programs/attacks.wasm");
    let answers = user.path("answers");
    check_by(script, |orders| {
        let input = format!("do=text:{orders}");
        let output = format!("{}/", answers.display());
        let mut command = user.command(support::BELLJAR.as_ref());
        command.args(["run", program.to_str().unwrap(), "--policy", &policy]);
        let ended = command.args(["--input", &input, "--output", &output]).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {said}", user.who());
        let answer = fs::read_dir(&answers).unwrap().next().unwrap().unwrap();
        fs::read_to_string(answer.path()).unwrap()
    });
    fs::remove_dir_all(answers).unwrap();
}

/// A folder that a program's process can use: if Belljar runs as root, the process runs as another
/// user.
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
fn read_grant_of_a_folder_allows_only_reading() {
    let (granted, other) = (folder(), folder());
    fs::write(granted.path().join("labels.txt"), "cat").unwrap();
    fs::write(other.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(other.path().join("secret"), granted.path().join("link")).unwrap();
    let host = host(Isolation::Process);
    let program = program(&host, "attacks", &policy(&grant(granted.path(), "/data", "read")));
    // Each run has a separate process.
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
fn write_grant_of_a_folder_is_limited_by_its_quota() {
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

/// Processes started by root are confined differently.
#[test]
fn write_grants_are_the_same_for_root_and_ordinary_users() {
    for user in users().iter() {
        let (granted, more) = (folder(), folder());
        fs::write(granted.path().join("there"), "there").unwrap();
        open_to_all(&granted.path().join("there"));
        std::os::unix::fs::symlink("there", granted.path().join("link")).unwrap();
        check_as(
            user,
            &[(granted.path(), "/data"), (more.path(), "/more")],
            "open a /data there read => ok
             read a 0 5 => there
             open b /data new write create => ok
             write b 0 text => 4
             mkdir /data sub => ok
             rename /data new /data sub/moved => ok
             open s /data sub mutate folder => ok
             rename s moved s again => ok
             rename /data sub /data other => ok
             unlink s again => error busy
             unlink /data other/again => ok
             rmdir /data other => ok
             open d /more new write create => ok
             mkdir /more sub => ok
             rename /more new /more sub/moved => ok
             rename /data there /more there => error cross-device
             unlink /data there => ok
             open c /data link read => error loop
             mkdir /data ../outside => error not-permitted
             unlink /data ../there => error not-permitted",
        );
        assert_eq!(fs::read_dir(granted.path()).unwrap().count(), 1);
        assert!(more.path().join("sub/moved").exists());
    }
}

/// A service that echoes bytes in capitals.
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
fn only_granted_peers_are_reached() {
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
    // One program cannot use the files and peers of another.
    let granted = folder();
    let files = program(&host, "attacks", &policy(&grant(granted.path(), "/data", "read")));
    check(&files, &format!("folders => /data\nconnect a 127.0.0.1 {port} => error access-denied"));
    check(&reaching, "open a /data . folder => error not held");
}

/// Printed lines, and whether they went to standard error.
type Lines = Arc<Mutex<Vec<(bool, String)>>>;

/// A host, and the lines that programs print.
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
fn printed_output_is_bounded_and_needs_a_grant() {
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
fn clocks_arguments_and_environment_are_available_if_granted() {
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
fn program_that_waits_forever_is_ended() {
    let tables = "[program]\nclocks = true\nreason = \"test\"\n[limits]\nrun-time = \"300 ms\"";
    let program = program(&host(Isolation::Process), "attacks", &policy(tables));
    let waits = [("do", Value::from("sleep 1000000000000000"))];
    let err = program.run(&waits).unwrap_err();
    assert_eq!(err.exit_code(), 5, "{err}");
    check(&program, "sleep 1000 => ok");
}

#[test]
fn program_that_exits_returns_no_outputs() {
    let program = program(&host(Isolation::Process), "attacks", &policy(""));
    let err = program.run(&[("do", Value::from("exit"))]).unwrap_err();
    assert_eq!(err.exit_code(), 6, "{err}");
    assert!(err.to_string().contains("ended itself"), "{err}");
}

/// The example program with files and a service, under its shipped policy.
#[test]
fn labels_program_works_under_its_policy() {
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
    // If Belljar runs as root, its process still cannot read files that only root can read.
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
