//! A sandbox on a thread of this process. The compiled code checks its deadline itself.
//!
//! The sandbox needs its own thread because the policy sets the stack size of WebAssembly code, and
//! the size of the caller's stack is unknown.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::{Engine, Module};

use super::dirty_pages::pagemap;
use super::engine::Engines;
use super::failure::Failure;
use super::instance::{Deadline, Template};
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::{Answer, Call, CallLimit, Payload, Sandbox};
use belljar_confine::layers::{Layer, MissingLayer};
use belljar_confine::process::no_process;
use belljar_confine::seccomp;

/// Stack for the host's functions that call, and are called by, WebAssembly code, in bytes.
pub(super) const HOST_STACK: u64 = 1 << 20;

struct Job {
    call: Call,
    payload: Payload,
    limit: CallLimit,
}

type Response = (Result<Answer, Failure>, Vec<String>);

/// Whether a sandbox's thread has a seccomp filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadFilter {
    Installed,
    None,
}

/// A sandbox on its own thread.
pub(crate) struct ThreadSandbox {
    jobs: Option<SyncSender<Job>>,
    responses: Receiver<Response>,
    thread: Option<JoinHandle<()>>,
    log: Vec<String>,
}

impl ThreadSandbox {
    pub(crate) fn new(
        engines: &Arc<Engines>,
        engine: &Engine,
        module: &Module,
        limits: SandboxLimits,
        filter: ThreadFilter,
    ) -> Result<ThreadSandbox, Failure> {
        let (jobs, incoming) = sync_channel::<Job>(1);
        let (outgoing, responses) = sync_channel::<Response>(1);
        let (engines, engine, module) = (Arc::clone(engines), engine.clone(), module.clone());
        let (started, starts) = sync_channel(1);
        let stack = usize::try_from(limits.stack + HOST_STACK).unwrap_or(usize::MAX);
        let thread = std::thread::Builder::new()
            .name("belljar-sandbox".into())
            .stack_size(stack)
            .spawn(move || {
                let mut machine = match start(&engine, &module, limits, filter) {
                    Ok(machine) => machine,
                    Err(failure) => return drop(started.send(Err(failure))),
                };
                if started.send(Ok(())).is_err() {
                    return;
                }
                for job in incoming {
                    if outgoing.send(work(&engines, &mut machine, &job)).is_err() {
                        return;
                    }
                    machine.recycle();
                }
            })
            .map_err(|err| {
                Failure::Host(format!("cannot start the sandbox's thread: {}", no_process(&err)))
            })?;
        let ended = |_| Failure::Host("the sandbox's thread has ended".into());
        starts.recv().map_err(ended)??;
        let log = Vec::new();
        Ok(ThreadSandbox { jobs: Some(jobs), responses, thread: Some(thread), log })
    }
}

/// Confines this thread, as far as that is possible inside an embedding program, and creates its
/// sandbox. It also starts the threads of native kernels, which inherit its filter.
fn start(
    engine: &Engine,
    module: &Module,
    limits: SandboxLimits,
    filter: ThreadFilter,
) -> Result<Machine, Failure> {
    // Without the pagemap, memory is reset in another way.
    let _ = pagemap();
    if filter == ThreadFilter::Installed {
        seccomp::install_on_thread()
            .map_err(|err| Failure::Unprotected(MissingLayer::new(Layer::Seccomp, err)))?;
    }
    Ok(Machine::new(Template::new(engine, module, limits)?))
}

fn work(engines: &Engines, machine: &mut Machine, job: &Job) -> Response {
    let (_running, ticks) = match engines.start_clock(job.limit.time) {
        Ok(clock) => clock,
        Err(err) => {
            let why = format!("cannot start the deadline clock's thread: {}", no_process(&err));
            return (Err(Failure::Host(why)), Vec::new());
        }
    };
    // A deadline beyond the clock's range is replaced by one that is never reached.
    let now = Instant::now();
    let until = now.checked_add(job.limit.time).unwrap_or(now + Duration::from_secs(1 << 30));
    let deadline = Deadline { ticks, until, exceeded: job.limit.exceeded() };
    let copy = |message: &[u8]| Ok(message.to_vec());
    let answer = machine.call(job.call, &job.payload, Some(&deadline), copy);
    let snapshot = machine.snapshot().filter(|_| job.call == Call::Prepare).cloned();
    (answer.map(|(message, cost)| Answer { message, cost, snapshot }), machine.take_log())
}

impl Sandbox for ThreadSandbox {
    fn call(&mut self, call: Call, payload: Payload, limit: CallLimit) -> Result<Answer, Failure> {
        let ended = || Failure::Host("the sandbox's thread has ended".into());
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job { call, payload, limit }).map_err(|_| ended())?;
        let (answer, log) = self.responses.recv().map_err(|_| ended())?;
        self.log.extend(log);
        answer
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

impl Drop for ThreadSandbox {
    fn drop(&mut self) {
        // Closing the queue ends the thread.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported to the caller that waited for it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use belljar_abi::{DType, InputShape, TensorView, encode_run, encode_shapes};

    use super::super::machine::onnx;
    use super::super::{TimeKey, Variant};
    use super::*;

    #[test]
    fn a_sandbox_starts_from_the_snapshot_of_another() {
        let variant = Variant { epochs: true, deterministic: false };
        let engine = Engines::new_engine(variant, 2 << 20).unwrap();
        let module = Module::new(&engine, super::super::guest::CODE).unwrap();
        let limits = SandboxLimits {
            memory: 1 << 30,
            stack: 2 << 20,
            log: 1 << 16,
            answer: 1 << 20,
            native_kernels: true,
            threads: 1,
        };
        let engines = Arc::new(Engines::default());
        let sandbox = || {
            ThreadSandbox::new(&engines, &engine, &module, limits, ThreadFilter::Installed).unwrap()
        };
        let limit = CallLimit { time: Duration::from_secs(60), key: TimeKey::Run };
        let run = |sandbox: &mut ThreadSandbox, values: [f32; 2]| {
            let data: &[u8] = bytemuck::cast_slice(&values);
            let view = TensorView { name: "x", dtype: DType::F32, dims: vec![2], data };
            let payload = Payload::Bytes(encode_run(0, &[view]));
            sandbox.call(Call::Run, payload, limit).unwrap().message
        };

        let mut first = sandbox();
        let model = onnx::relu(&onnx::fixed(&[2])).bytes();
        first.call(Call::Load, Payload::Bytes(model), limit).unwrap();
        let shape = InputShape { name: "x".into(), dims: vec![2] };
        let payload = Payload::Bytes(encode_shapes(&[shape], &[], &[]));
        let snapshot = first.call(Call::Prepare, payload, limit).unwrap().snapshot.unwrap();
        let mut second = sandbox();
        second.call(Call::Adopt, Payload::Snapshot(Arc::clone(&snapshot)), limit).unwrap();
        // It never received the model, and computes the same outputs as the first.
        for values in [[-1.0, 2.0], [3.0, -4.0]] {
            assert_eq!(run(&mut second, values), run(&mut first, values));
        }
        // A sandbox that has loaded a model rejects a snapshot.
        assert!(first.call(Call::Adopt, Payload::Snapshot(snapshot), limit).is_err());
        assert!(first.call(Call::Adopt, Payload::Empty, limit).is_err());
    }
}
