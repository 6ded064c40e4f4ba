//! Tests of what a worker must report before it receives a model, with a process that only pretends
//! to be a worker.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::sandbox::TimeKey;
use belljar_confine::layers::Layer;

/// The result of a first call to an unconfined worker that reports these missing layers, and
/// how many requests it received.
fn first_call(
    reported: Vec<MissingLayer>,
    confinement: Confinement,
) -> (Result<Answer, Failure>, Vec<MissingLayer>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("worker");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (channel, theirs) = Channel::pair().unwrap();
    let process = WorkerProcess::spawn(&WorkerProgram::Path(program), theirs.try_clone().unwrap());
    let worker = Worker { process: process.unwrap(), channel };
    let limits = SandboxLimits {
        memory: 1 << 20,
        stack: 1 << 20,
        log: 0,
        answer: 1 << 20,
        native_kernels: false,
        threads: 1,
    };
    let (role, variant) = (Role::Prepare, Variant::default());
    let time = Duration::from_secs(60);
    let job = Job { role, confinement, variant, limits, inputs: 1 << 20, time };
    let sealed = || {
        let mut writer = SealedWriter::new("test").unwrap();
        writer.write(b"bytes").unwrap();
        writer.seal().unwrap()
    };
    let code = VerifiedCode::adopt(sealed());
    let mut sandbox = WorkerSandbox::start(worker, &code, job).unwrap();
    let worker = std::thread::spawn(move || {
        let mut channel = Channel::new(theirs);
        let Ok(Received::Message(_, _)) = channel.receive::<Setup>(None) else {
            panic!("there is no set-up")
        };
        channel.send(&Ready::Ok(reported), &[]).unwrap();
        let mut requests = 0;
        while let Ok(Received::Message(request, _)) = channel.receive::<Request>(None) {
            requests += 1;
            let result = Ok((0, super::super::Cost::default()));
            let response =
                Response { number: request.number, result, log: Vec::new(), snapshot: false };
            channel.send(&response, &[]).unwrap();
        }
        requests
    });
    let limit = CallLimit { time, key: TimeKey::Prepare };
    let answer = sandbox.call(Call::Load, Payload::Sealed(Arc::new(sealed())), limit);
    let missing = sandbox.take_missing();
    drop(sandbox);
    (answer, missing, worker.join().unwrap())
}

#[test]
fn a_worker_that_reports_a_missing_required_layer_receives_no_model() {
    for layer in Layer::ALL.into_iter().filter(|layer| layer.required()) {
        let lacks = vec![MissingLayer::new(layer, "as reported")];
        let (answer, _, requests) = first_call(lacks.clone(), Confinement::Strict);
        assert_eq!(answer.unwrap_err(), Failure::Unprotected(lacks[0].clone()));
        assert_eq!(requests, 0);
    }
}

#[test]
fn a_worker_that_is_less_confined_than_it_reports_receives_no_model() {
    let (answer, _, requests) = first_call(Vec::new(), Confinement::Strict);
    let Failure::Unprotected(lacks) = answer.unwrap_err() else { panic!("not refused") };
    assert!(lacks.why.contains("according to /proc"), "{lacks}");
    assert_eq!(requests, 0);
}

#[test]
fn best_effort_confinement_reports_layers_missing_in_proc() {
    let (answer, missing, requests) = first_call(Vec::new(), Confinement::BestEffort);
    answer.unwrap();
    let layers: Vec<Layer> = missing.iter().map(|lacks| lacks.layer).collect();
    assert_eq!(layers, [Layer::Privileges, Layer::Seccomp]);
    assert_eq!(requests, 1);
}
