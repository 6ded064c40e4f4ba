//! The confined processes of a program: one compiles it, one runs it. All their input is untrusted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use wasmtime::Engine;

use super::clock::Clock;
use super::execute::Loaded;
use super::link::Link;
use super::protocol::{About, FileMessage, NotLoaded, Report, Request, Unanswered, cut};
use super::wasi::OpenedGrant;
use super::{code, engine};
use crate::sandbox::{CompilerThreads, Failure, ProgramLimits};
use belljar_confine::channel::{Channel, Received};
use belljar_confine::memory::{SealedBytes, SealedWriter, SharedBuffer};
use belljar_confine::setup::{Granted, Plan};
use belljar_policy::Access;

/// Native stack that a run needs in addition to that of the WebAssembly code, in bytes.
pub(super) const HOST_STACK: u64 = 2 << 20;

/// Created before the process is confined, because creating an engine sets up signal handlers.
pub(crate) fn new_engine(stack: u64) -> wasmtime::Result<Engine> {
    engine::engine(stack)
}

/// The result of compiling: the code, which comes with the message, or why the program is refused.
pub(super) type Compiled = Result<(), String>;

/// Compiles one program, and exits.
pub(crate) fn compile(
    channel: &mut Channel,
    engine: wasmtime::Result<Engine>,
    plan: &Plan,
    processors: usize,
) -> io::Result<()> {
    let threads = CompilerThreads::start(processors)?;
    plan.narrow()?;
    let Received::Message((), descriptors) = channel.receive::<()>(None)? else { return Ok(()) };
    #[cfg(feature = "test-hooks")]
    belljar_confine::fault_injection::fail();
    let engine = engine.map_err(io::Error::other)?;
    let [program, room] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("expected two descriptors with the request"))?;
    let program = bytes(program)?;
    let code = match threads.run(|| engine.precompile_component(&program)) {
        Ok(code) => code,
        Err(err) => {
            return channel.send(&Compiled::Err(cut(&format!("{err:#}"))), &[]);
        }
    };
    let mut writer = SealedWriter::into_room(room);
    writer.write(&code)?;
    channel.send(&Compiled::Ok(()), &[writer.hand_over()?.as_fd()])
}

/// Receives the grants from the supervisor, before any byte of the program.
pub(crate) fn receive_files(channel: &mut Channel, count: usize) -> io::Result<Vec<OpenedGrant>> {
    let mut files = Vec::new();
    for _ in 0..count {
        let Received::Message(FileMessage { guest, write }, descriptors) =
            channel.receive::<FileMessage>(None)?
        else {
            return Err(io::Error::other("the supervisor has ended"));
        };
        let access = if write { Access::Write } else { Access::Read };
        files.push(OpenedGrant { descriptor: only(descriptors)?, guest, access });
    }
    Ok(files)
}

/// The grants as Landlock rules.
pub(crate) fn granted(files: &[OpenedGrant]) -> Vec<Granted<'_>> {
    let write = |access| access == Access::Write;
    files
        .iter()
        .map(|file| Granted { descriptor: file.descriptor.as_fd(), write: write(file.access) })
        .collect()
}

/// Runs one program once, and exits.
pub(crate) fn run(
    mut channel: Channel,
    engine: wasmtime::Result<Engine>,
    limits: ProgramLimits,
    plan: Plan,
    files: Vec<OpenedGrant>,
) -> io::Result<()> {
    let engine = engine.map_err(io::Error::other)?;
    let Received::Message(Request::Load, descriptors) = channel.receive::<Request>(None)? else {
        return Ok(());
    };
    let [program, shared] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("expected two descriptors with the request"))?;
    let shared = SharedBuffer::adopt(shared)?;
    let program = bytes(program)?;
    let component = code::load(&engine, &program);
    drop(program);
    let clock = Clock::new(&engine)?;
    let stack = usize::try_from(limits.stack + HOST_STACK).map_err(io::Error::other)?;
    std::thread::Builder::new()
        .name("belljar-program".into())
        .stack_size(stack)
        .spawn(move || {
            // No code of the program has run yet. From here on, no memory can become executable, and
            // no thread can be started.
            plan.narrow()?;
            let loaded = match component {
                Ok(component) => Loaded::new(&engine, &component),
                Err(err) => Err(NotLoaded::Failed(Failure::Protocol(cut(&format!("{err:#}"))))),
            };
            channel.send(&Report::Loaded(loaded.as_ref().map(drop).map_err(Clone::clone)), &[])?;
            match loaded {
                Ok(loaded) => serve(channel, &loaded, &limits, &clock, shared, files),
                Err(_) => Ok(()),
            }
        })?
        .join()
        .map_err(|_| io::Error::other("the worker panicked"))?
}

fn serve(
    mut channel: Channel,
    loaded: &Loaded,
    limits: &ProgramLimits,
    clock: &Clock,
    shared: SharedBuffer,
    files: Vec<OpenedGrant>,
) -> io::Result<()> {
    let (len, descriptors) = match channel.receive::<Request>(None)? {
        Received::Message(Request::Run(len), descriptors) => (len, descriptors),
        _ => return Ok(()),
    };
    #[cfg(feature = "test-hooks")]
    belljar_confine::fault_injection::fail();
    let about: About = serde_json::from_slice(&bytes(only(descriptors)?)?)?;
    let inputs = shared.read(len)?;
    clock.start(limits.time);
    let link = Link::new(channel, shared, clock);
    let outputs = loaded.run(limits, about, files, &inputs, &link, clock);
    let report = outputs.and_then(|(message, spent)| match link.put(&message) {
        Ok(()) => Ok((message.len() as u64, spent)),
        Err(err) => Err(Unanswered::Failed(Failure::Host(err.to_string()))),
    });
    link.report(&Report::Answers(report))
}

fn only(descriptors: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    let first = descriptors.into_iter().next();
    first.ok_or_else(|| io::Error::other("no memory came with the request"))
}

fn bytes(descriptor: OwnedFd) -> io::Result<Vec<u8>> {
    let sealed = SealedBytes::adopt(descriptor)?;
    let mut bytes = vec![0; usize::try_from(sealed.len()).map_err(io::Error::other)?];
    sealed.read_into(&mut bytes)?;
    Ok(bytes)
}
