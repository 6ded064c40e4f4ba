//! Workers that mean harm: whatever one does to its supervisor ends in one clear error, and the
//! host goes on.
//!
//! This program is its own worker, so it has its own `main` instead of the usual harness.

mod support;

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use belljar::policy::DeclaredShapes;
use belljar::{
    Confinement, Error, ErrorKind, Event, Host, HostBuilder, Isolation, Model, ModelBytes, Policy,
    Tensor, WorkerProgram,
};
use support::hostile_worker::{Behaviour, MIXED_UP, model, serve};
use support::{builder, own_state};

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == "__belljar-worker") {
        return serve();
    }
    let tests: [(&str, fn()); 8] = [
        ("every_attack_by_a_worker_ends_in_one_clear_error", every_attack),
        ("a_second_answer_is_not_taken_for_the_next_one", second_answers),
        ("a_request_that_no_worker_receives_is_retried_a_few_times", never_taken),
        ("a_worker_never_sees_two_models", two_models),
        ("a_model_that_keeps_killing_workers_is_put_into_quarantine", quarantined),
        ("a_slow_model_is_not_put_into_quarantine", slow_model),
        ("workers_that_keep_dying_are_started_with_increasing_delays", backing_off),
        ("a_program_that_cannot_be_a_worker_is_an_error", no_worker),
    ];
    support::run_tests(&tests);
}

/// A host that counts no deaths and has no delay after them.
fn host(state: &tempfile::TempDir) -> Host {
    let builder = host_builder(state).quarantine_after(None);
    builder.restart_back_off(Duration::ZERO, Duration::ZERO).build().unwrap()
}

fn host_builder(state: &tempfile::TempDir) -> HostBuilder {
    let this = std::env::current_exe().unwrap();
    let builder = builder(Isolation::Process).worker_program(WorkerProgram::Path(this));
    builder.state_dir(state.path()).idle_sandboxes(4).idle_time(None)
}

fn load(host: &Host, bytes: &[u8]) -> Result<Model, Error> {
    // The supervisor notices that these workers are not confined, and a strict policy would refuse
    // them.
    let mut policy = Policy::default().with_confinement(Confinement::BestEffort);
    // One of the attacks is an output of another shape, which only this setting refuses.
    policy.declared_shapes = DeclaredShapes::Strict;
    policy.limits.run_time = Duration::from_secs(5);
    policy.limits.prepare_time = Duration::from_secs(5);
    if bytes.windows(5).any(|word| word == b" Hang") {
        policy.limits.run_time = Duration::from_millis(100);
        policy.limits.prepare_time = Duration::from_millis(500);
    }
    host.load(ModelBytes::read(bytes, u64::MAX).unwrap().labelled("evil.onnx"), &policy)
}

fn ask(model: &Model, numbers: [f32; 4]) -> Result<(), Error> {
    let input = Tensor::new(numbers.to_vec(), &[4]).unwrap();
    let outputs = model.run(&[("x", input)])?.validate()?;
    assert_eq!(outputs.get("y").unwrap().as_slice::<f32>().unwrap(), numbers);
    Ok(())
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

/// The exit code and a fragment of the error message for an attack during a call.
fn expected(call: &str, behaviour: Behaviour) -> Option<(u8, &'static str)> {
    let (prepares, runs) = (call == "Prepare", call == "Run");
    Some(match behaviour {
        Behaviour::Exit => (6, "exit code 3"),
        Behaviour::CloseAndLive => (6, "closed its channel, kept running"),
        Behaviour::Crash => (6, "SIGSEGV: it crashed"),
        Behaviour::PanicMessage if runs => (6, "panicked"),
        Behaviour::PanicMessage => (4, "panicked"),
        Behaviour::Garbage | Behaviour::NoMessage | Behaviour::ClaimsToBeLost => {
            (6, "violated the protocol")
        }
        Behaviour::TooLong | Behaviour::FullOfDescriptors => (6, "too long"),
        Behaviour::LongerThanItsBuffer => (6, "exceeds the size limit"),
        Behaviour::OtherNumber => (6, "to another request"),
        Behaviour::ExtraDescriptors => (6, "unexpected descriptors"),
        Behaviour::UnwantedSnapshot if !prepares => (6, "unexpected descriptors"),
        Behaviour::MissingSnapshot => (6, "unexpected descriptors"),
        Behaviour::SnapshotIsAPipe
        | Behaviour::SnapshotOfOddSize
        | Behaviour::SnapshotStillWritable
            if prepares =>
        {
            (6, "its snapshot is invalid")
        }
        Behaviour::SnapshotTooLarge if prepares => (6, "exceed the sandbox's memory"),
        Behaviour::Hang => (5, if runs { "limits.run-time" } else { "limits.prepare-time" }),
        Behaviour::NotAMessage => (6, "malformed"),
        Behaviour::OtherName | Behaviour::OtherType | Behaviour::OtherShape if runs => {
            (4, "output")
        }
        _ => return None,
    })
}

fn every_attack() {
    let state = own_state();
    let host = host(&state);
    let good = load(&host, &model("Nothing", Behaviour::Good, 0)).unwrap();
    ask(&good, [0.0, 1.0, 2.0, 3.0]).unwrap();
    let before = (descriptors(), children());
    let mut tried = 0;
    for call in ["Load", "Describe", "Prepare", "Run"] {
        for behaviour in Behaviour::ALL {
            let Some((code, words)) = expected(call, behaviour) else { continue };
            let result = load(&host, &model(call, behaviour, 0)).and_then(|model| {
                let result = ask(&model, [0.0; 4]);
                // The next request of the same model has the same result.
                let again = ask(&model, [0.0; 4]).map_err(|err| err.exit_code());
                assert_eq!(
                    again,
                    result.as_ref().copied().map_err(Error::exit_code),
                    "{behaviour:?}"
                );
                result
            });
            let err = result.expect_err(&format!("{behaviour:?} at {call} was not noticed"));
            let text = err.to_string();
            assert!(text.contains(words), "{behaviour:?} at {call}: {text}");
            assert_eq!(err.exit_code(), code, "{behaviour:?} at {call}: {text}");
            assert!(text.starts_with("evil.onnx: "), "{text}");
            assert!(text.chars().all(|c| !c.is_control()) && text.len() < 1000, "{text:?}");
            ask(&good, [0.0, tried as f32, 5.0, 6.0]).unwrap();
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    assert_eq!((descriptors(), children()), before);
}

fn second_answers() {
    let state = own_state();
    let host = host(&state);
    for behaviour in [Behaviour::Twice, Behaviour::TwiceLater] {
        let model = load(&host, &model("Run", behaviour, 0)).unwrap();
        let mut answered = 0;
        for request in 0..40 {
            // `ask` compares the numbers.
            match ask(&model, [0.0, request as f32, 1.0, 2.0]) {
                Ok(()) => answered += 1,
                Err(err) => assert!(err.to_string().contains("to another request"), "{err}"),
            }
        }
        assert!(answered >= 20, "{behaviour:?}: {answered}");
    }
}

fn never_taken() {
    let state = own_state();
    let host = host(&state);
    let model = load(&host, &model("Run", Behaviour::DeadBeforeReading, 0)).unwrap();
    let err = ask(&model, [0.0; 4]).unwrap_err();
    assert!(err.to_string().contains("before it took this request"), "{err}");
    assert_eq!(err.exit_code(), 6);
    assert_eq!(model.calls().run, 4);
}

fn two_models() {
    let state = own_state();
    let host = host(&state);
    host.warm_up(&Policy::default()).unwrap();
    let models: Vec<_> = (1..=6u16)
        .map(|mark| (mark, load(&host, &model("Nothing", Behaviour::Good, mark)).unwrap()))
        .collect();
    std::thread::scope(|scope| {
        for client in 0..4usize {
            let models = &models;
            scope.spawn(move || {
                for request in 0..60 {
                    let (mark, model) = &models[(client + request * 5) % models.len()];
                    ask(model, [f32::from(*mark), client as f32, request as f32, 0.0]).unwrap();
                }
            });
        }
    });
    // A worker that sees a second model exits with this code.
    let err = ask(&models[0].1, [2.0, 0.0, 0.0, 0.0]).unwrap_err();
    assert!(err.to_string().contains(&format!("exit code {MIXED_UP}")), "{err}");
}

/// The exit code and output of `belljar` with the state folder of a test.
fn command(state: &tempfile::TempDir, arguments: &[&str]) -> (i32, String) {
    let output = support::belljar(arguments).env("BELLJAR_STATE_DIR", state.path()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn quarantined() {
    let state = own_state();
    let events = Arc::new(Mutex::new(Vec::new()));
    let host = |count: u32| {
        let events = Arc::clone(&events);
        let listener = move |event| match event {
            Event::Quarantined(quarantined) => events.lock().unwrap().push(quarantined),
            Event::QuarantineNotStored { why } => panic!("{why}"),
            _ => {}
        };
        let builder = host_builder(&state).quarantine_after(Some(count)).on_event(listener);
        builder.restart_back_off(Duration::ZERO, Duration::ZERO).build().unwrap()
    };
    let bytes = model("Run", Behaviour::Crash, 0);
    let first = host(5);
    let evil = load(&first, &bytes).unwrap();
    let good = load(&first, &model("Nothing", Behaviour::Good, 0)).unwrap();
    for death in 1..=5 {
        let err = ask(&evil, [0.0; 4]).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
        assert_eq!(events.lock().unwrap().len(), usize::from(death == 5));
    }
    let is_refused = |result: Result<(), Error>| {
        let err = result.expect_err("it was accepted");
        assert!(matches!(err.kind(), ErrorKind::Quarantined(_)), "{err}");
        assert_eq!(err.exit_code(), 6);
        assert!(err.to_string().contains("belljar quarantine release"), "{err}");
        assert!(err.to_string().contains("SIGSEGV"), "{err}");
    };
    let runs = evil.calls().run;
    is_refused(ask(&evil, [0.0; 4]));
    is_refused(evil.prepare(&[("x", Tensor::new(vec![0f32; 4], &[4]).unwrap())]).map(drop));
    is_refused(load(&first, &bytes).map(drop));
    // Another host, which stands for another process, refuses the same bytes without a worker.
    let second = host(100);
    is_refused(load(&second, &bytes).map(drop));
    assert_eq!(evil.calls().run, runs);
    // Other models are not affected.
    ask(&good, [0.0, 1.0, 2.0, 3.0]).unwrap();

    // The command line reports the quarantine, and can release the model.
    let file = state.path().join("evil.onnx");
    fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let (code, text) = command(&state, &["inspect", file]);
    assert!(code == 6 && text.contains("in quarantine"), "{code}: {text}");
    let (code, text) = command(&state, &["quarantine", "list"]);
    assert!(code == 0 && text.contains("evil.onnx") && text.contains("SIGSEGV"), "{text}");
    let digest = evil.digest().to_string();
    let (code, text) = command(&state, &["quarantine", "list", "--format", "json"]);
    assert!(code == 0 && text.contains(&digest), "{text}");
    assert_eq!(command(&state, &["quarantine", "release", "nonsense"]).0, 2);
    for name in [file, "evil.onnx", &digest[..8], &digest] {
        let (code, text) = command(&state, &["quarantine", "release", name]);
        assert!(code == 0 && text.contains("released"), "{name}: {text}");
        let (_, text) = command(&state, &["quarantine", "list"]);
        assert!(text.contains("no models are in quarantine"), "{text}");
        // The process that runs it has learnt of the release; so it gets another five.
        let again = host(1);
        let err = ask(&load(&again, &bytes).unwrap(), [0.0; 4]).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
        is_refused(load(&again, &bytes).map(drop));
    }
    assert_eq!(first.quarantined().unwrap().len(), 1);
    assert!(first.release(evil.digest()).unwrap());
    assert!(first.quarantined().unwrap().is_empty());
    let err = ask(&evil, [0.0; 4]).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
}

fn slow_model() {
    let state = own_state();
    let host = host_builder(&state).quarantine_after(Some(2)).build().unwrap();
    let slow = load(&host, &model("Run", Behaviour::Hang, 0)).unwrap();
    // WebAssembly has contained a guest that panics.
    let panics = load(&host, &model("Run", Behaviour::PanicMessage, 0)).unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&slow, [0.0; 4]).unwrap_err().exit_code(), 5);
        let err = ask(&panics, [0.0; 4]).unwrap_err();
        assert!(err.to_string().contains("panicked"), "{err}");
    }
    assert!(host.quarantined().unwrap().is_empty());
}

fn backing_off() {
    let state = own_state();
    let hour = Duration::from_secs(3600);
    let host = host_builder(&state).quarantine_after(None).restart_back_off(hour, hour);
    let host = host.build().unwrap();
    let evil = load(&host, &model("Run", Behaviour::Crash, 0)).unwrap();
    let good = load(&host, &model("Nothing", Behaviour::Good, 0)).unwrap();
    let err = ask(&evil, [0.0; 4]).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Worker(_)), "{err}");
    let runs = evil.calls().run;
    for _ in 0..10 {
        let err = ask(&evil, [0.0; 4]).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::BackOff { deaths: 1, .. }), "{err}");
        assert!(err.to_string().contains("send the request again then"), "{err}");
        ask(&good, [0.0, 1.0, 2.0, 3.0]).unwrap();
    }
    assert_eq!(evil.calls().run, runs);
}

fn no_worker() {
    let state = own_state();
    let program = WorkerProgram::Path("/bin/true".into());
    let builder = builder(Isolation::Process).worker_program(program).state_dir(state.path());
    let host = builder.build().unwrap();
    let err = load(&host, &model("Nothing", Behaviour::Good, 0)).err().unwrap();
    assert!(err.to_string().contains("become_worker_if_asked"), "{err}");
    assert_eq!(err.exit_code(), 1);
}
