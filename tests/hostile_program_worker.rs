//! Hostile processes of guest programs: every attack on the supervisor ends in a single clear error
//! and gains nothing, and the host keeps working.
//!
//! This program is its own worker, so it has its own `main` instead of the usual harness.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use belljar::{
    Confinement, Error, ErrorKind, Event, Host, HostBuilder, Isolation, ModelBytes, Policy,
    Program, Value, WorkerProgram,
};
use support::hostile_program::{program, serve};
use support::{builder, own_state};

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == "__belljar-worker") {
        return serve();
    }
    let tests: [(&str, fn()); 2] = [
        ("every_attack_by_a_programs_process_ends_in_one_clear_error", every_attack),
        ("a_program_that_keeps_killing_its_process_is_put_into_quarantine", quarantined),
    ];
    support::run_tests(&tests);
}

fn host_builder(state: &tempfile::TempDir) -> HostBuilder {
    let this = std::env::current_exe().unwrap();
    let builder = builder(Isolation::Process).worker_program(WorkerProgram::Path(this));
    let builder = builder.restart_back_off(Duration::ZERO, Duration::ZERO);
    builder.state_dir(state.path()).quarantine_after(None)
}

fn load(host: &Host, bytes: &[u8]) -> Result<Program, Error> {
    let text = "version = 1\n[program]\n[limits]\noutput-size = \"1 MiB\"\n";
    let mut policy = Policy::parse(text, "test").unwrap();
    // The supervisor notices that these processes are not confined, and a strict policy would
    // refuse them.
    policy.confinement = Confinement::BestEffort;
    let does =
        |behaviour: &str| bytes.windows(behaviour.len()).any(|found| found == behaviour.as_bytes());
    let late =
        ["hang", "speaks-without-end", "asks-without-end", "looks-without-end", "does-not-listen"];
    let late = late.into_iter().any(does);
    let seconds = |seconds| Duration::from_secs(seconds);
    policy.limits.run_time = if late { Duration::from_millis(300) } else { seconds(20) };
    policy.limits.prepare_time = if does("hang") { seconds(1) } else { seconds(20) };
    host.load_program(ModelBytes::read(bytes, u64::MAX).unwrap().labelled("evil.wasm"), &policy)
}

fn ask(program: &Program) -> Result<(), Error> {
    let outputs = program.run(&[("x", Value::from("x"))])?;
    assert_eq!(outputs, [("y".to_owned(), Value::from("good"))]);
    Ok(())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The message that a process receives, its attack, the exit code, and a fragment of the error
/// message.
const ATTACKS: &[(&str, &str, u8, &str)] = &[
    ("compile", "exit", 6, "exit code 3"),
    ("compile", "crash", 6, "SIGSEGV"),
    ("compile", "close", 6, "closed its channel, kept running"),
    ("compile", "garbage", 6, "violated the protocol"),
    ("compile", "other", 6, "violated the protocol"),
    ("compile", "long", 6, "too long"),
    ("compile", "descriptors", 6, "too long"),
    ("compile", "hang", 5, "limits.prepare-time"),
    ("compile", "no-code", 6, "it sent no compiled code"),
    ("compile", "empty", 6, "0 bytes of code"),
    ("compile", "pipe", 6, "violated the protocol"),
    ("compile", "huge", 6, "bytes of code"),
    ("compile", "writable", 6, "violated the protocol"),
    ("compile", "refuses", 4, "here I am"),
    ("load", "exit", 6, "exit code 3"),
    ("load", "crash", 6, "SIGSEGV"),
    ("load", "close", 6, "closed its channel, kept running"),
    ("load", "garbage", 6, "violated the protocol"),
    ("load", "other", 6, "violated the protocol"),
    ("load", "long", 6, "too long"),
    ("load", "descriptors", 6, "too long"),
    ("load", "hang", 5, "limits.prepare-time"),
    ("load", "refuses", 4, "here I am"),
    ("load", "fails", 6, "here I am"),
    ("load", "answers", 6, "an unexpected message"),
    ("run", "exit", 6, "exit code 3"),
    ("run", "crash", 6, "SIGSEGV"),
    ("run", "close", 6, "closed its channel, kept running"),
    ("run", "garbage", 6, "violated the protocol"),
    ("run", "other", 6, "violated the protocol"),
    ("run", "long", 6, "too long"),
    ("run", "descriptors", 6, "too long"),
    ("run", "hang", 5, "limits.run-time"),
    ("run", "gives-up", 4, "here I am"),
    ("run", "fails", 6, "here I am"),
    ("run", "claims-to-be-lost", 6, "violated the protocol"),
    ("run", "longer-than-its-buffer", 6, "do not fit the shared memory"),
    ("run", "no-message", 6, "violated the protocol"),
    ("run", "twice", 6, "violated the protocol"),
    ("run", "no-kind", 6, "violated the protocol"),
    ("run", "no-text", 6, "violated the protocol"),
    ("run", "too-much", 5, "limits.output-size"),
    ("run", "loads-twice", 6, "twice that it is loaded"),
    ("run", "asks-for-a-model", 3, "add [[models]]"),
    ("run", "brings-a-model", 3, "add [[models]]"),
    ("run", "brings-too-much", 6, "does not fit the shared memory"),
    ("run", "runs-no-model", 4, "here I am"),
    ("run", "connects", 1, "not granted in [[network]]"),
    ("run", "connects-to-metadata", 1, "not granted in [[network]]"),
    ("run", "connects-by-name", 1, "not granted in [[network]]"),
    ("run", "connects-to-no-name", 1, "not granted in [[network]]"),
    ("run", "looks-outside", 4, "here I am"),
    ("run", "looks-without-end", 5, "limits.run-time"),
    ("run", "prints", 4, "here I am"),
    ("run", "claims-grants", 1, "not granted in [[network]]"),
    ("run", "decides-without-end", 6, "100000 different decisions"),
    ("run", "speaks-without-end", 5, "limits.run-time"),
    ("run", "asks-without-end", 5, "limits.run-time"),
    ("run", "does-not-listen", 6, "does not read its requests"),
];

fn every_attack() {
    let state = own_state();
    let printed = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&printed);
    let listener = move |event| {
        if let Event::Printed { line, .. } = event {
            heard.lock().unwrap().push(line);
        }
    };
    let host = host_builder(&state).on_event(listener).build().unwrap();
    let good = load(&host, &program("", "")).unwrap();
    ask(&good).unwrap();
    let before = descriptors();
    for (order, behaviour, code, words) in ATTACKS {
        let result = load(&host, &program(order, behaviour)).and_then(|evil| {
            let result = ask(&evil);
            // The next run uses a new process.
            let again = ask(&evil).map_err(|err| err.exit_code());
            assert_eq!(again, result.as_ref().copied().map_err(Error::exit_code), "{behaviour}");
            result
        });
        let err = result.expect_err(&format!("{behaviour} at {order} was not noticed"));
        let text = err.to_string();
        assert!(text.contains(words), "{behaviour} at {order}: {text}");
        assert_eq!(err.exit_code(), *code, "{behaviour} at {order}: {text}");
        assert!(text.starts_with("evil.wasm: "), "{text}");
        assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
        assert!(text.len() < 2000, "{text}");
        ask(&good).unwrap();
    }
    assert_eq!(descriptors(), before);
    // Printing was not granted, so only the count of suppressed lines is printed.
    let printed = printed.lock().unwrap();
    assert!(printed.iter().all(|line| line.contains("more lines were not printed")), "{printed:?}");
}

fn quarantined() {
    let state = own_state();
    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let listener = move |event| match event {
        Event::Quarantined(quarantined) => heard.lock().unwrap().push(quarantined),
        Event::QuarantineNotStored { why } => panic!("{why}"),
        _ => {}
    };
    let build = || host_builder(&state).quarantine_after(Some(3));
    let host = build().on_event(listener).build().unwrap();
    let good = load(&host, &program("", "")).unwrap();
    let bytes = program("run", "crash");
    let evil = load(&host, &bytes).unwrap();
    for death in 1..=3 {
        let err = ask(&evil).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
        assert_eq!(events.lock().unwrap().len(), usize::from(death == 3));
    }
    let is_refused = |result: Result<(), Error>| {
        let err = result.expect_err("it was accepted");
        assert!(matches!(err.kind(), ErrorKind::Quarantined(_)), "{err}");
        assert_eq!(err.exit_code(), 6);
        assert!(err.to_string().contains("belljar quarantine release"), "{err}");
    };
    is_refused(ask(&evil));
    is_refused(load(&host, &bytes).map(drop));
    // Another host, which stands for another process. It checks the quarantine before it records
    // any permission.
    let log = state.path().join("decisions");
    let second = build().decisions(&log).build().unwrap();
    is_refused(load(&second, &bytes).map(drop));
    let written = std::fs::read_to_string(&log).unwrap();
    assert!(written.contains("\"rule\":\"quarantine\""), "{written}");
    assert!(!written.contains("allowed"), "{written}");
    // A program that kills its compile worker counts too.
    let other = program("compile", "crash");
    for _ in 0..3 {
        let err = load(&host, &other).map(drop).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
    }
    is_refused(load(&host, &other).map(drop));
    ask(&good).unwrap();
    assert_eq!(host.quarantined().unwrap().len(), 2);
    assert!(host.release(evil.digest()).unwrap());
    let err = ask(&evil).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
}
