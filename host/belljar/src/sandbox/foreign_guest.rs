//! Runs a guest other than the one of this build in a worker. Only in test builds. The worker is
//! the usual one, with all layers of confinement.

use std::sync::Arc;
use std::time::Duration;

use super::code_cache::VerifiedCode;
use super::engine::{Engines, Variant};
use super::limits::SandboxLimits;
use super::snapshot::Snapshot;
use super::worker::{Job, Worker, WorkerSandbox};
use super::{Call, CallLimit, Payload, Sandbox, TimeKey};
use belljar_confine::layers::Confinement;
use belljar_confine::memory::SealedWriter;
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;

/// Time limit of a call.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Linear memory of the guest at its start, in bytes.
const MEMORY: usize = 64 << 10;

/// A sandbox of the role `run` in a confined worker, with a guest that the test provides.
pub struct ForeignGuest(WorkerSandbox);

impl ForeignGuest {
    /// Starts a worker with a guest: a module with a page of memory, and the exports `memory`,
    /// `belljar_alloc` and `belljar_run`.
    ///
    /// # Errors
    /// If the module cannot be compiled, or the worker cannot be started with every layer.
    pub fn start(
        program: &WorkerProgram,
        module: &[u8],
        threads: u32,
    ) -> Result<ForeignGuest, String> {
        let limits = SandboxLimits {
            memory: 256 << 20,
            stack: 1 << 20,
            log: 1 << 10,
            answer: 1 << 20,
            native_kernels: true,
            threads,
        };
        let variant = Variant::default();
        let engine = Engines::new_engine(variant, limits.stack).map_err(|err| err.to_string())?;
        let code = engine.precompile_module(module).map_err(|err| format!("{err:#}"))?;
        let sealed = |bytes: &[u8]| {
            let mut writer = SealedWriter::new("belljar-code")?;
            writer.write(bytes)?;
            writer.seal()
        };
        let code = sealed(&code).map_err(|err| err.to_string())?;
        let snapshot = Snapshot::capture(&vec![0; MEMORY]).map_err(|err| err.to_string())?;
        let job = Job {
            role: Role::Run,
            confinement: Confinement::Strict,
            variant,
            limits,
            inputs: 1 << 20,
            time: Duration::from_secs(600),
        };
        let failed = |failure| format!("{failure:?}");
        let worker = Worker::spawn(program).map_err(failed)?;
        let sandbox = WorkerSandbox::start(worker, &VerifiedCode::adopt(code), job);
        let mut guest = ForeignGuest(sandbox.map_err(failed)?);
        guest.call(Call::Adopt, Payload::Snapshot(Arc::new(snapshot)))?;
        match guest.0.take_missing() {
            missing if missing.is_empty() => Ok(guest),
            missing => Err(format!("missing: {missing:?}")),
        }
    }

    /// Runs the guest on an input, and returns its answer.
    ///
    /// # Errors
    /// If the guest traps. The worker has then ended.
    pub fn run(&mut self, input: Vec<u8>) -> Result<Vec<u8>, String> {
        self.call(Call::Run, Payload::Bytes(input))
    }

    fn call(&mut self, call: Call, payload: Payload) -> Result<Vec<u8>, String> {
        let limit = CallLimit { time: MAX_TIME, key: TimeKey::Run };
        match self.0.call(call, payload, limit) {
            Ok(answer) => Ok(answer.message),
            Err(failure) => Err(format!("{failure:?}")),
        }
    }
}
