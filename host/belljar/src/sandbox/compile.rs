//! Compiles the guest to native code, in a worker process that must never see a model, or in this
//! process.

use std::borrow::Cow;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use belljar_abi::clock::NotChanged;
use wasmtime::Engine;

use super::code_cache::CodeCacheError;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::guest::{GuestInfo, GuestKind};
use super::setup::{Setup, Work};
use super::worker::Worker;
use belljar_confine::channel::{Channel, Received};
use belljar_confine::file_size;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::memory::{SealedBytes, SealedWriter};
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;
use belljar_confine::setup::{Plan, ProcessLimits};

/// Time limit for compiling. It takes about ten seconds on two processors.
pub(super) const MAX_TIME: Duration = Duration::from_secs(900);

/// Memory limit for compiling, in bytes. It uses some hundreds of megabytes.
const MEMORY: u64 = 4 << 30;

/// Maximum size of compiled code, in bytes. The guest's is a tenth of this.
pub(super) const MAX_CODE: u64 = 512 << 20;

/// Where the guest is compiled.
pub(crate) enum Compiler {
    /// In this process.
    Here,
    /// In a worker process of this program.
    Worker(WorkerProgram),
}

/// The result of the compile worker: the code comes with the message, or there is an error.
type CompileResult = Result<(), String>;

impl Compiler {
    /// The guest's native code. `report` receives the layers that the worker lacks, if the
    /// confinement permits that.
    pub(super) fn compile(
        &self,
        guest: GuestKind,
        variant: Variant,
        confinement: Confinement,
        report: impl FnOnce(Vec<MissingLayer>),
    ) -> Result<SealedBytes, CodeCacheError> {
        let program = match self {
            Compiler::Here => {
                let code = compiled_here(guest, variant).map_err(CodeCacheError::compiler)?;
                file_size::check(code.len() as u64)?;
                let mut writer = SealedWriter::new("belljar-code")?;
                writer.write(&code)?;
                return Ok(writer.seal()?);
            }
            Compiler::Worker(program) => program,
        };
        let failed = |why: &dyn std::fmt::Display| {
            CodeCacheError::Compiler(format!("the compile worker failed: {why}"))
        };
        let mut worker = Worker::spawn(program).map_err(|err| failed(&err))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = ProcessLimits {
            data: MEMORY,
            reserved: 0,
            file: MAX_CODE,
            cpu: MAX_TIME.as_secs() * processors as u64,
            threads: processors as u64 + 2,
            handles: 0,
        };
        let plan = worker.process.plan(Role::Compile, confinement, limits);
        let work = Work::Compile(guest);
        let guest = GuestInfo::embedded().sha256.to_owned();
        let setup = Setup { plan, variant, guest, work };
        let room = SealedWriter::room("belljar-code")?;
        worker.set_up(&setup, &[room.as_fd()]).map_err(|err| failed(&err))?;
        drop(room);
        let missing =
            worker.await_ready(confinement, MAX_TIME).map_err(|failure| match failure {
                Failure::Unprotected(missing) => CodeCacheError::Unprotected(missing),
                other => failed(&other),
            })?;
        report(missing);
        let Worker { mut process, mut channel } = worker;
        let code = match channel.receive::<CompileResult>(Some(MAX_TIME))? {
            Received::Message(Ok(()), code) => {
                let code = code.into_iter().next();
                SealedBytes::take_over(code.ok_or_else(|| failed(&"it sent no compiled code"))?)?
            }
            Received::Message(Err(why), _) => return Err(CodeCacheError::Compiler(why)),
            Received::TimedOut => return Err(failed(&format!("it took longer than {MAX_TIME:?}"))),
            Received::Closed | Received::Unread => return Err(failed(&process.ended())),
        };
        match code.len() {
            1..=MAX_CODE => Ok(code),
            len => Err(failed(&format!("its code has an invalid size of {len} bytes"))),
        }
    }
}

/// Compiles on several threads of this process, or on one if no more can be started.
fn compiled_here(guest: GuestKind, variant: Variant) -> wasmtime::Result<Vec<u8>> {
    let code = guest.code()?;
    match rayon::ThreadPoolBuilder::new().build() {
        Ok(pool) => {
            let engine = Engines::new_engine(variant, 1 << 20)?;
            pool.install(|| engine.precompile_module(&code))
        }
        Err(_) => Engines::new_serial_engine(variant)?.precompile_module(&code),
    }
}

/// The threads on which a worker compiles. They are started before its filter forbids starting
/// threads, and they end with its process, even after a panic: its role may not end single threads.
pub(crate) struct CompilerThreads(Option<ManuallyDrop<rayon::ThreadPool>>);

impl CompilerThreads {
    /// Starts this many threads, or as many as the process limit allows. If none can be started,
    /// the calling thread works alone. Every thread is running when this returns.
    pub(crate) fn start(threads: usize) -> io::Result<CompilerThreads> {
        let mut started = 0_usize;
        let (ready, running) = std::sync::mpsc::channel();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.spawn_handler(|thread| {
            let ready = ready.clone();
            let run = move || {
                // The receiver still exists: it waits for one message from each thread.
                let _ = ready.send(());
                thread.run();
            };
            match std::thread::Builder::new().spawn(run) {
                Ok(_) => started += 1,
                // The other threads take over the work of one that cannot be started.
                Err(_) if started > 0 => {}
                Err(err) => return Err(err),
            }
            Ok(())
        });
        let pool = pool.build();
        if let Ok(pool) = pool {
            for _ in 0..started {
                running.recv().map_err(io::Error::other)?;
            }
            return Ok(CompilerThreads(Some(ManuallyDrop::new(pool))));
        }
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        alone.build_global().map_err(io::Error::other)?;
        Ok(CompilerThreads(None))
    }

    /// Runs this work on the threads.
    pub(crate) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// The worker's side, after it is confined. It writes the code to a file that the supervisor
/// created.
pub(crate) fn compile(
    channel: &mut Channel,
    guest: GuestKind,
    engine: wasmtime::Result<Engine>,
    plan: &Plan,
    processors: usize,
    room: OwnedFd,
) -> io::Result<()> {
    let threads = CompilerThreads::start(processors)?;
    plan.narrow()?;
    #[cfg(feature = "test-hooks")]
    belljar_confine::fault_injection::fail();
    let code = compiled(guest, engine, threads, room);
    let result: CompileResult = code.as_ref().map(drop).map_err(Clone::clone);
    channel.send(&result, code.as_ref().map(|code| code.as_fd()).ok().as_slice())
}

fn compiled(
    guest: GuestKind,
    engine: wasmtime::Result<Engine>,
    threads: CompilerThreads,
    room: OwnedFd,
) -> Result<SealedBytes, String> {
    let engine = engine.map_err(|err| format!("{err:#}"))?;
    let code = source(guest).map_err(|err| err.to_string())?;
    let code = threads.run(|| engine.precompile_module(&code)).map_err(|err| format!("{err:#}"))?;
    let mut writer = SealedWriter::into_room(room);
    let written = writer.write(&code).and_then(|()| writer.hand_over());
    written.map_err(|err| err.to_string())
}

/// The module that a worker compiles: the guest, or an empty module in tests that do not run it.
fn source(guest: GuestKind) -> Result<Cow<'static, [u8]>, NotChanged> {
    #[cfg(feature = "test-hooks")]
    if belljar_confine::fault_injection::is_quick() {
        return Ok(Cow::Borrowed(b"\0asm\x01\0\0\0"));
    }
    guest.code()
}
