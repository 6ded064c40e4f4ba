//! The log of decisions during a run: it is bounded, and what cannot be logged does not happen.

use crate::support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use belljar::{Digest, Isolation};
use support::builder;

use super::{
    Folder, SHORT, TIME, assert_out_of_time, does, entry, grant, lines, outcomes, peer, program,
};

#[test]
fn connection_refused_by_reaches_is_not_logged_as_allowed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = Folder::new();
    let log = folder.path("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let tables =
        [peer("localhost", port, "\"public\""), peer("127.0.0.1", port, "\"loopback\"")].concat();
    let program = program(&host, "attacks", &folder.policy(&tables));
    let found = outcomes(
        &program,
        &format!("connect a localhost {port}\nconnect b 127.0.0.1 {port}\nconnect c ::1 {port}"),
    );
    assert_eq!(found, ["error connection-refused", "ok", "error access-denied"]);
    let connects: Vec<_> =
        lines(&log).into_iter().filter(|[_, _, access, _]| access == "connect").collect();
    let verdicts: Vec<_> =
        connects.iter().map(|[verdict, resource, ..]| (&**verdict, resource.clone())).collect();
    let expected = [
        ("refused", format!("localhost port {port}")),
        ("allowed", format!("127.0.0.1 port {port}")),
        ("refused", format!("::1 port {port}")),
    ];
    assert_eq!(verdicts, expected);
    assert!(connects[0][3].starts_with("`reaches` does not list \"loopback\""), "{connects:?}");
    // Only the granted connection was made.
    drop(program);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_ok());
    assert!(listener.accept().is_err());
}

/// A log that accepts a number of lines, and then fails.
fn failing_log(folder: &Folder, lines: usize) -> std::path::PathBuf {
    let path = folder.path(&format!("log-{lines}"));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let (kind, at) = (rustix::fs::FileType::Fifo, rustix::fs::CWD);
    rustix::fs::mknodat(at, &path, kind, mode, 0).unwrap();
    let reader = path.clone();
    std::thread::spawn(move || {
        let mut log = BufReader::with_capacity(1, fs::File::open(reader).unwrap());
        for _ in 0..lines {
            log.read_line(&mut String::new()).unwrap();
        }
    });
    path
}

#[test]
fn operations_that_cannot_be_logged_do_not_happen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = Folder::new();
    folder.open_folder("out");
    folder.write("out/old", "old");
    fs::set_permissions(folder.path("out/old"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(folder.path("out/sub")).unwrap();
    let tables =
        [grant(&folder.path("out"), "/out"), peer("127.0.0.1", port, "\"loopback\"")].concat();
    let policy = folder.policy(&format!("stdout = true\n{tables}"));
    for act in [
        format!("connect a 127.0.0.1 {port}\nsend a secret"),
        "open a /out new write create".to_owned(),
        "open a /out old write truncate".to_owned(),
        "open a /out old read".to_owned(),
        "mkdir /out made".to_owned(),
        "rmdir /out sub".to_owned(),
        "unlink /out old".to_owned(),
        "rename /out old /out moved".to_owned(),
        "times-at /out old".to_owned(),
        "list /out".to_owned(),
        "print secret".to_owned(),
    ] {
        // The only line is for loading the program.
        let log = failing_log(&folder, 1);
        let host = builder(Isolation::Process).decisions(&log).build().unwrap();
        let program = program(&host, "attacks", &policy);
        // The reader has closed the pipe, or is about to.
        let before = fs::metadata(folder.path("out/old")).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let err = does(&program, &act).expect_err(&act);
        assert_eq!(err.exit_code(), 1, "{act}: {err}");
        assert!(err.to_string().contains("cannot write to the decision log"), "{act}: {err}");
        let after = fs::metadata(folder.path("out/old")).unwrap();
        assert_eq!(after.modified().unwrap(), before, "{act}");
        assert_eq!(fs::read(folder.path("out/old")).unwrap(), b"old", "{act}");
        let mut names: Vec<_> = fs::read_dir(folder.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["old", "sub"], "{act}");
        fs::remove_file(log).unwrap();
    }
    // The connection was not made.
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn blocked_log_or_listener_does_not_block_a_run() {
    let folder = Folder::new();
    let log = folder.path("log");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let (kind, at) = (rustix::fs::FileType::Fifo, rustix::fs::CWD);
    rustix::fs::mknodat(at, &log, kind, mode, 0).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    let pipe = rustix::fs::open(&log, flags, mode).unwrap();
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let policy = folder.policy(&format!("stdout = true\n{SHORT}"));
    let attacks = program(&host, "attacks", &policy);
    while rustix::io::write(&pipe, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&pipe, b"x").is_ok() {}
    assert_out_of_time(does(&attacks, "print line\\n"), TIME);
    drop(attacks);
    drop(pipe);

    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let listener = move |event| {
        if let belljar::Event::Printed { .. } = event {
            let _ = wait.lock().unwrap().recv();
        }
    };
    let host = builder(Isolation::Process).on_event(listener).build().unwrap();
    let attacks = program(&host, "attacks", &policy);
    assert_out_of_time(does(&attacks, "print line\\n"), TIME);
    drop(go);
}

#[test]
fn log_size_of_a_run_is_bounded() {
    let folder = Folder::new();
    folder.open_folder("out");
    let log = folder.path("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let program = program(&host, "attacks", &folder.policy(&grant(&folder.path("out"), "/out")));
    // Each character of these names takes 12 bytes in the log.
    let long = ["\u{1f600}".repeat(60), "\u{1f601}".repeat(60)].join("/").repeat(7);
    for script in
        [format!("stat-many 10000000 /out {long}"), format!("stat-many 10000000 /out /../{long}")]
    {
        let err = does(&program, &script).unwrap_err();
        assert_eq!(err.exit_code(), 6, "{err}");
        assert!(err.to_string().contains("to the decision log"), "{err}");
        let written = log.metadata().unwrap().len();
        assert!((1 << 20..16 << 20).contains(&written), "{written}");
        let last = lines(&log).pop().unwrap();
        assert_eq!(last[..3], ["refused", "decisions", "use more"], "{last:?}");
        fs::write(&log, "").unwrap();
    }
    // The next run has the same limit.
    assert_eq!(outcomes(&program, "stat-many 10 /out x"), ["10"]);
}

#[test]
fn repeated_decision_has_one_log_line_per_run() {
    let folder = Folder::new();
    folder.open_folder("out");
    fs::copy(support::models().join("magika.onnx"), folder.path("magika.onnx")).unwrap();
    let magika = Digest::of(&fs::read(folder.path("magika.onnx")).unwrap());
    let tables = [grant(&folder.path("out"), "/out"), entry("magika", magika, "magika.onnx")];
    let policy = folder.policy(&tables.concat());
    let log = folder.path("decisions");
    let host = builder(Isolation::Process).decisions(&log).build().unwrap();
    let attacks = program(&host, "attacks", &policy);
    let again = "stat-at /out x\nstat-at /out ..\n".repeat(1000);
    assert_eq!(outcomes(&attacks, &again).len(), 2000);
    let found = lines(&log);
    let stats = found.iter().filter(|[_, _, access, _]| access == "read").count();
    assert_eq!(stats, 2, "{found:?}");
    let counted = |found: &[[String; 4]], says: &str| {
        let line = found.iter().find(|[_, resource, ..]| resource == "decisions");
        let line = line.unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!(line[..3], ["allowed", "decisions", "repeat"]);
        assert!(line[3].starts_with(says), "{line:?}");
    };
    counted(&found, "1998 decisions");
    // Runs of a model are also logged as decisions.
    fs::write(&log, "").unwrap();
    let misbehaves = program(&host, "misbehaves", &policy);
    does(&misbehaves, "compute-times 20").unwrap();
    let found = lines(&log);
    let runs =
        found.iter().filter(|[_, resource, access, _]| resource == "model" && access == "run");
    assert_eq!(runs.count(), 1, "{found:?}");
    counted(&found, "19 decisions");
    // Another run has its own lines.
    does(&misbehaves, "compute-times 1").unwrap();
    let runs = lines(&log)
        .into_iter()
        .filter(|[_, resource, access, _]| resource == "model" && access == "run");
    assert_eq!(runs.count(), 2);
}
