//! Grants of a policy work through the confined process of a guest program, and allow nothing else.
//! The program `attacks` runs a script, line by line; `host/belljar/src/program/wasi` tests each interface
//! separately.

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use belljar::{Event, Host, Isolation, Layer, ModelBytes, Policy, Program, Tensor, Value};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
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

/// Set in the process with a separate mount namespace: whether its workers have namespaces.
const MOUNTS: &str = "BELLJAR_TEST_MOUNTS";

/// The kernel refuses to remove a mount point only in the caller's own mount namespace, and a
/// program's process is not in that of its supervisor.
#[test]
fn mounts_below_a_grant_are_kept() {
    if let Some(namespaces) = std::env::var_os(MOUNTS) {
        return attack_mounts(namespaces == "true");
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root mounts something");
        return;
    }
    for namespaces in [true, false] {
        let no_namespaces = without_namespaces();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "grants::mounts_below_a_grant_are_kept", "--nocapture"]);
        command.env(MOUNTS, namespaces.to_string());
        // SAFETY: between fork and exec, the child only makes system calls with prepared arguments.
        unsafe {
            command.pre_exec(move || {
                if libc::unshare(libc::CLONE_NEWNS) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                match namespaces {
                    true => Ok(()),
                    false => seccompiler::apply_filter(&no_namespaces)
                        .map_err(|_| std::io::ErrorKind::PermissionDenied.into()),
                }
            });
        }
        match command.status() {
            Ok(status) => assert!(status.success(), "with namespaces: {namespaces}: {status}"),
            Err(err) => eprintln!("not tried: no mounts of its own: {err}"),
        }
    }
}

/// A filter that refuses to create namespaces.
fn without_namespaces() -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
    let masked = |flag: i32| {
        let operator = SeccompCmpOp::MaskedEq(flag as u64);
        let has = SeccompCondition::new(0, SeccompCmpArgLen::Qword, operator, flag as u64);
        seccompiler::SeccompRule::new(vec![has.unwrap()]).unwrap()
    };
    let rules = [libc::CLONE_NEWNS, libc::CLONE_NEWUSER].map(masked).to_vec();
    let rules = [(libc::SYS_clone, rules), (libc::SYS_unshare, Vec::new())].into_iter().collect();
    let fails = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = seccompiler::SeccompFilter::new(rules, SeccompAction::Allow, fails, arch).unwrap();
    filter.try_into().unwrap()
}

/// Mounts a file system and a file below a granted folder, which a program's process sees in one
/// run and not in the other, and lets the program remove, move and replace them in all ways.
fn attack_mounts(namespaces: bool) {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let granted = folder();
    let at = |name: &str| granted.path().join(name);
    for name in ["mnt", "empty", "sub", "sub/mnt"] {
        fs::create_dir(at(name)).unwrap();
        open_to_all(&at(name));
    }
    for name in ["pin", "file", "source"] {
        fs::write(at(name), name).unwrap();
        open_to_all(&at(name));
    }
    let lacks = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lacks);
    let place = granted.path().to_owned();
    let listener = move |event| match event {
        Event::LayerMissing { layer, .. } => heard.lock().unwrap().push(layer),
        Event::Printed { .. } => LATE.into_iter().for_each(|name| mount(&place, name)),
        _ => {}
    };
    let host = builder(Isolation::Process).on_event(listener).build().unwrap();
    let tables = format!("[program]\nstdout = true\n{}", grant(granted.path(), "/data", "write"));
    let program = program(&host, "attacks", &policy(&tables));
    assert_eq!(lacks.lock().unwrap().contains(&Layer::Namespaces), !namespaces);
    // The process of the first run is started before anything is mounted.
    for name in ["mnt", "sub/mnt", "pin"] {
        mount(granted.path(), name);
    }
    for _ in 0..2 {
        check(
            &program,
            "rmdir /data mnt => error busy
             rmdir /data mnt/ => error busy
             rmdir /data ./sub/mnt => error busy
             unlink /data mnt => error busy
             unlink /data pin => error busy
             rename /data mnt /data moved => error busy
             rename /data pin /data moved => error busy
             rename /data empty /data mnt => error busy
             rename /data file /data pin => error busy
             rename /data file /data mnt => error busy
             rename /data pin /data file => error busy
             rename /data mnt /data mnt => error busy
             mkdir /data mnt => error exist
             open a /data pin write truncate => error cross-device
             open a /data pin write create => error cross-device
             open a /data mnt folder => error cross-device
             open a /data mnt/kept read => error cross-device
             unlink /data mnt/kept => error cross-device
             times-at /data mnt => error cross-device
             open s /data sub mutate folder => ok
             rmdir s mnt => error busy
             rename s mnt /data moved => error busy
             rename /data empty s mnt => error busy",
        );
        for name in ["mnt", "sub/mnt"] {
            assert_eq!(fs::read_to_string(at(name).join("kept")).unwrap(), "kept", "{name}");
        }
        assert_eq!(fs::read_to_string(at("pin")).unwrap(), "source");
    }
    for user in users().iter() {
        check_as(
            user,
            &[(granted.path(), "/data")],
            "rmdir /data mnt => error busy
             unlink /data pin => error busy
             rename /data mnt /data moved => error busy
             rename /data empty /data sub/mnt => error busy
             open a /data mnt/kept read => error cross-device",
        );
    }
    // Other names can be changed as usual, and moving a folder moves the mounts in it.
    check(
        &program,
        "rename /data empty /data other => ok
         rmdir /data other => ok
         unlink /data file => ok
         rename /data sub /data moved => ok
         rmdir /data moved => error not-empty",
    );
    assert_eq!(fs::read_to_string(at("moved/mnt/kept")).unwrap(), "kept");
    attack_late_mounts(&program, granted.path(), namespaces);
    for name in ["mnt", "moved/mnt", "pin"].into_iter().chain(LATE) {
        rustix::mount::unmount(at(name), UnmountFlags::DETACH).unwrap();
    }
    assert_eq!(fs::read_to_string(at("pin")).unwrap(), "pin");
}

/// Mounts that are made while a program runs, when it prints a line.
const LATE: [&str; 4] = ["late", "deep/late", "late-pin", "cover"];

/// Mounts a file system on a folder, or the file `source` on another file.
fn mount(granted: &Path, name: &str) {
    let place = granted.join(name);
    if place.is_file() {
        return rustix::mount::mount_bind(granted.join("source"), place).unwrap();
    }
    let (flags, options) = (MountFlags::empty(), c"mode=0777");
    rustix::mount::mount("none", &place, "tmpfs", flags, options).unwrap();
    fs::write(place.join("kept"), "kept").unwrap();
}

/// The same with mounts that are made after the program's process was started: with namespaces,
/// only its supervisor can see them.
fn attack_late_mounts(program: &Program, granted: &Path, namespaces: bool) {
    let at = |name: &str| granted.join(name);
    for name in ["late", "deep", "deep/late", "cover", "cover/inner", "spare"] {
        fs::create_dir(at(name)).unwrap();
        open_to_all(&at(name));
    }
    for name in ["late-pin", "spare-file"] {
        fs::write(at(name), name).unwrap();
        open_to_all(&at(name));
    }
    let on_the_way = if namespaces { "busy" } else { "cross-device" };
    check(
        program,
        &format!(
            "open s /data deep mutate folder => ok
             print now\\n => ok
             rmdir /data late => error busy
             rmdir /data deep/late => error busy
             rmdir s late => error busy
             unlink /data late-pin => error busy
             rename /data late /data gone => error busy
             rename /data late-pin /data gone => error busy
             rename /data spare /data late => error busy
             rename /data spare-file /data late-pin => error busy
             rename s late /data gone => error busy
             rename /data spare s late => error busy
             rmdir /data cover/inner => error {on_the_way}
             rename /data spare /data other => ok
             rename /data deep /data moved-deep => ok
             rmdir s late => error busy
             rename /data moved-deep /data deep => ok
             rmdir s late => error busy
             rmdir /data other => ok"
        ),
    );
    for name in ["late", "deep/late", "cover"] {
        assert_eq!(fs::read_to_string(at(name).join("kept")).unwrap(), "kept", "{name}");
    }
    assert_eq!(fs::read_to_string(at("late-pin")).unwrap(), "source");
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
