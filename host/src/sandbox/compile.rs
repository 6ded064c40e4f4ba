//! Compiling the guest to native code, in a worker process that never sees a model, or in this one.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use wasmtime::Engine;

use super::code_cache::CodeCacheError;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::guest::{CODE, GuestInfo};
use super::serve::{Setup, Work};
use super::worker::Worker;
use crate::confine::channel::{Channel, Received};
use crate::confine::layers::{Confinement, MissingLayer};
use crate::confine::memory::{SealedBytes, SealedWriter};
use crate::confine::process::WorkerProgram;
use crate::confine::role::Role;
use crate::confine::setup::ProcessLimits;

/// Longest that compiling may take. It takes some ten seconds on two processors.
const LONGEST: Duration = Duration::from_secs(900);

/// Memory that compiling may take, in bytes. It takes some hundreds of megabytes.
const MEMORY: u64 = 4 << 30;

/// Longest compiled code, in bytes. The guest's is a tenth of this.
pub(super) const MAX_CODE: u64 = 512 << 20;

/// Where the guest is compiled.
pub(crate) enum Compiler {
    /// In this process.
    Here,
    /// In a worker process of this program.
    Worker(WorkerProgram),
}

/// How the compile worker ends: with the code, which comes with the message, or with a reason.
type Outcome = Result<(), String>;

impl Compiler {
    /// The guest's native code. `told` is given the layers that a worker lacks, if that is allowed.
    pub(super) fn compile(
        &self,
        variant: Variant,
        confinement: Confinement,
        told: impl FnOnce(Vec<MissingLayer>),
    ) -> Result<SealedBytes, CodeCacheError> {
        let program = match self {
            Compiler::Here => {
                let engine = Engines::new_engine(variant, 1 << 20);
                let engine = engine.map_err(CodeCacheError::compiler)?;
                let code = engine.precompile_module(CODE).map_err(CodeCacheError::compiler)?;
                let mut writer = SealedWriter::new("belljar-code")?;
                writer.write(&code)?;
                return Ok(writer.seal()?);
            }
            Compiler::Worker(program) => program,
        };
        let failed = |why: &dyn std::fmt::Display| {
            CodeCacheError::Compiler(format!("the worker that compiles it: {why}"))
        };
        let mut worker = Worker::spawn(program).map_err(|err| failed(&err))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = ProcessLimits {
            data: MEMORY,
            file: MAX_CODE,
            cpu: LONGEST.as_secs() * processors as u64,
            threads: processors as u64 + 2,
            handles: 0,
        };
        let plan = worker.process.plan(Role::Compile, confinement, limits);
        let guest = GuestInfo::embedded().sha256.to_owned();
        let setup = Setup { plan, variant, guest, work: Work::Compile };
        worker.set_up(&setup, &[]).map_err(|err| failed(&err))?;
        let missing =
            worker.await_ready(confinement, LONGEST).map_err(|failure| match failure {
                Failure::Unprotected(missing) => CodeCacheError::Unprotected(missing),
                other => failed(&other),
            })?;
        told(missing);
        let Worker { mut process, mut channel } = worker;
        let code = match channel.receive::<Outcome>(Some(LONGEST))? {
            Received::Message(Ok(()), code) => {
                let code = code.into_iter().next();
                SealedBytes::take_over(code.ok_or_else(|| failed(&"it gave no code"))?)?
            }
            Received::Message(Err(why), _) => return Err(CodeCacheError::Compiler(why)),
            Received::TimedOut => return Err(failed(&"it takes too long")),
            Received::Closed | Received::Unread => return Err(failed(&process.ended())),
        };
        match code.len() {
            1..=MAX_CODE => Ok(code),
            len => Err(failed(&format!("it gave {len} bytes of code"))),
        }
    }
}

/// The worker's part, after it was confined.
pub(super) fn compile(
    channel: &mut Channel,
    engine: wasmtime::Result<Engine>,
    processors: usize,
) -> io::Result<()> {
    #[cfg(feature = "test-hooks")]
    crate::confine::spoil::fail();
    let code = compiled(engine, processors);
    let outcome: Outcome = code.as_ref().map(drop).map_err(Clone::clone);
    channel.send(&outcome, code.as_ref().map(|code| code.as_fd()).ok().as_slice())
}

fn compiled(engine: wasmtime::Result<Engine>, processors: usize) -> Result<SealedBytes, String> {
    let engine = engine.map_err(|err| format!("{err:#}"))?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(processors).build_global();
    threads.map_err(|err| err.to_string())?;
    let code = engine.precompile_module(what()).map_err(|err| format!("{err:#}"))?;
    let sealed = || {
        let mut writer = SealedWriter::new("belljar-code")?;
        writer.write(&code)?;
        writer.seal_for_handover()
    };
    sealed().map_err(|err: io::Error| err.to_string())
}

/// What a worker compiles: the guest, but in tests of what comes after it.
fn what() -> &'static [u8] {
    #[cfg(feature = "test-hooks")]
    if crate::confine::spoil::is_quick() {
        return b"\0asm\x01\0\0\0";
    }
    CODE
}
