//! Compiling the guest to native code, in a worker process that never sees a model, or in this one.

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
use super::serve::{Setup, Work};
use super::worker::Worker;
use belljar_confine::channel::{Channel, Received};
use belljar_confine::file_size;
use belljar_confine::layers::{Confinement, MissingLayer};
use belljar_confine::memory::{SealedBytes, SealedWriter};
use belljar_confine::process::WorkerProgram;
use belljar_confine::role::Role;
use belljar_confine::setup::{Plan, ProcessLimits};

/// Longest that compiling may take. It takes some ten seconds on two processors.
pub(super) const LONGEST: Duration = Duration::from_secs(900);

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
        guest: GuestKind,
        variant: Variant,
        confinement: Confinement,
        told: impl FnOnce(Vec<MissingLayer>),
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
            CodeCacheError::Compiler(format!("the worker that compiles it: {why}"))
        };
        let mut worker = Worker::spawn(program).map_err(|err| failed(&err))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = ProcessLimits {
            data: MEMORY,
            reserved: 0,
            file: MAX_CODE,
            cpu: LONGEST.as_secs() * processors as u64,
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
            worker.await_ready(confinement, LONGEST).map_err(|failure| match failure {
                Failure::Unprotected(missing) => CodeCacheError::Unprotected(missing),
                other => failed(&other),
            })?;
        told(missing);
        let Worker { mut process, mut channel } = worker;
        let code = match channel.receive::<Outcome>(Some(LONGEST))? {
            Received::Message(Ok(()), code) => {
                let code = code.into_iter().next();
                SealedBytes::take_over(code.ok_or_else(|| failed(&"it sent no code"))?)?
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

/// Compiles on threads of this process, as far as it may have any more.
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

/// The threads among which a worker divides what it compiles. They are started before its filter
/// takes the right to start threads away, and they end with its process, even after a panic: its role
/// has no system call to end a thread.
pub(crate) struct CompilerThreads(Option<ManuallyDrop<rayon::ThreadPool>>);

impl CompilerThreads {
    /// Starts so many threads, or as many as the limits on processes allow; the calling thread works
    /// alone if there are none. Every thread runs when this returns.
    pub(crate) fn start(threads: usize) -> io::Result<CompilerThreads> {
        let mut started = 0_usize;
        let (ready, running) = std::sync::mpsc::channel();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.spawn_handler(|thread| {
            let ready = ready.clone();
            let run = move || {
                // The receiver is still there: it waits for one message of each thread.
                let _ = ready.send(());
                thread.run();
            };
            match std::thread::Builder::new().spawn(run) {
                Ok(_) => started += 1,
                // What one thread does not do, another one takes over.
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

    /// Does this work on the threads.
    pub(crate) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

/// The worker's part, after it was confined. The code goes into a file that the supervisor has made.
pub(super) fn compile(
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
    let outcome: Outcome = code.as_ref().map(drop).map_err(Clone::clone);
    channel.send(&outcome, code.as_ref().map(|code| code.as_fd()).ok().as_slice())
}

fn compiled(
    guest: GuestKind,
    engine: wasmtime::Result<Engine>,
    threads: CompilerThreads,
    room: OwnedFd,
) -> Result<SealedBytes, String> {
    let engine = engine.map_err(|err| format!("{err:#}"))?;
    let code = what(guest).map_err(|err| err.to_string())?;
    let code = threads.run(|| engine.precompile_module(&code)).map_err(|err| format!("{err:#}"))?;
    let mut writer = SealedWriter::into_room(room);
    let written = writer.write(&code).and_then(|()| writer.hand_over());
    written.map_err(|err| err.to_string())
}

/// What a worker compiles: the guest, but in tests of what comes after it.
fn what(guest: GuestKind) -> Result<Cow<'static, [u8]>, NotChanged> {
    #[cfg(feature = "test-hooks")]
    if belljar_confine::fault_injection::is_quick() {
        return Ok(Cow::Borrowed(b"\0asm\x01\0\0\0"));
    }
    guest.code()
}
