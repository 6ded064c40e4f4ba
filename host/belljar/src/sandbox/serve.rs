//! The worker's side: receives requests from its supervisor and runs the guest. The supervisor
//! enforces the deadline by killing the worker, so the guest runs without checks.

use std::io;
use std::os::fd::OwnedFd;
#[cfg(feature = "test-hooks")]
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, Module};

use super::code_cache::VerifiedCode;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::guest::{GuestInfo, GuestKind};
use super::instance::Template;
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::snapshot::Snapshot;
use super::thread::HOST_STACK;
use super::{Call, Cost, Payload, compile, dirty_pages};
#[cfg(feature = "programs")]
use crate::program::{self, ProgramLimits};
#[cfg(feature = "test-hooks")]
use belljar_confine::breach::{self, Held};
use belljar_confine::channel::{Channel, Received};
use belljar_confine::layers::MissingLayer;
use belljar_confine::memory::{SealedBytes, SharedBuffer};
use belljar_confine::process::no_process;
use belljar_confine::role::Role;
use belljar_confine::setup::{Granted, Plan, confine};

/// The first message to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(super) plan: Plan,
    pub(super) variant: Variant,
    /// Digest of the supervisor's guest: a worker program of another build may have another guest.
    pub(super) guest: String,
    pub(super) work: Work,
}

#[cfg(feature = "programs")]
impl Setup {
    /// For work that does not use the guest.
    pub(crate) fn new(plan: Plan, work: Work) -> Setup {
        let guest = GuestInfo::embedded().sha256.to_owned();
        Setup { plan, variant: Variant::default(), guest, work }
    }
}

/// The work of a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Work {
    /// Only confine itself and end, to find out what this machine allows.
    Nothing,
    /// Compile the guest, and end.
    Compile(GuestKind),
    /// Be a sandbox. The code and the shared buffer come with the message.
    Sandbox(SandboxLimits),
    /// Be a sandbox of the profiling variant, which serves no requests. The code of that variant
    /// and the shared buffer come with the message.
    Profile(SandboxLimits),
    /// Compile a guest program, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    CompileProgram,
    /// Run a guest program once, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    Program {
        limits: ProgramLimits,
        /// Number of granted files and folders, each of which comes with a separate message.
        files: usize,
    },
    /// Make the system calls of an attacker who has taken over a worker of this role.
    #[cfg(feature = "test-hooks")]
    Breach(Box<belljar_confine::breach::Attempt>),
}

/// The answer to the set-up: the missing layers, or a missing layer that is required.
pub(super) type Ready = Result<Vec<MissingLayer>, MissingLayer>;

/// Every later message to a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    /// A random number that the response must repeat, so that a response prepared in advance cannot
    /// be mistaken for the response to this request.
    pub(super) number: u64,
    pub(super) call: Call,
    pub(super) source: Source,
}

/// The location of a call's payload.
#[derive(Serialize, Deserialize)]
pub(super) enum Source {
    Empty,
    /// At the start of the shared buffer, with this many bytes.
    Shared(u64),
    /// In sealed memory that comes with the message.
    Sealed,
    /// A snapshot that comes with the message.
    Snapshot,
}

/// A worker's answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Response {
    /// The number of the request.
    pub(super) number: u64,
    /// Length of the answer at the start of the shared buffer, and its cost.
    pub(super) result: Result<(u64, Cost), Failure>,
    pub(super) log: Vec<String>,
    /// Whether a snapshot comes with the message.
    pub(super) snapshot: bool,
}

/// Maximum number of bytes of log lines in one response; below the length of a message even if
/// every byte must be escaped.
const MAX_LOG: usize = 16 << 10;

/// Serves the supervisor at the other end of `socket` until it closes the connection.
pub(crate) fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut channel = Channel::lasting(socket);
    let Received::Message(setup, descriptors) = channel.receive::<Setup>(None)? else {
        return Ok(());
    };
    if setup.guest != GuestInfo::embedded().sha256 {
        return Err(io::Error::other("the worker and its supervisor are of different builds"));
    }
    let (limits, guest) = match setup.work {
        Work::Nothing => return be_confined(&mut channel, &setup.plan).map(drop),
        Work::Compile(guest) => {
            // Counting processors reads files, and an engine sets signal handlers, so both come
            // before the confinement.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let engine = Engines::new_engine(setup.variant, 1 << 20);
            return match be_confined(&mut channel, &setup.plan)? {
                true => {
                    let room = only(descriptors).map_err(io::Error::other)?;
                    compile::compile(&mut channel, guest, engine, &setup.plan, processors, room)
                }
                false => Ok(()),
            };
        }
        Work::Sandbox(limits) => (limits, GuestKind::Serving),
        Work::Profile(limits) => (limits, GuestKind::Profiling),
        #[cfg(feature = "programs")]
        Work::CompileProgram => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let engine = program::new_engine(1 << 20);
            return match be_confined(&mut channel, &setup.plan)? {
                true => program::compile(&mut channel, engine, &setup.plan, processors),
                false => Ok(()),
            };
        }
        #[cfg(feature = "programs")]
        Work::Program { limits, files } => {
            let engine = program::new_engine(limits.stack());
            let files = program::receive_files(&mut channel, files)?;
            let granted = program::granted(&files);
            return match be_confined_but(&mut channel, &setup.plan, &granted)? {
                true => {
                    drop(granted);
                    program::run(channel, engine, limits, setup.plan, files)
                }
                false => Ok(()),
            };
        }
        #[cfg(feature = "test-hooks")]
        Work::Breach(attempt) => {
            let Received::Message((), held) = channel.receive::<()>(None)? else {
                return Ok(());
            };
            let number = |at: usize| held.get(at).map_or(-1, AsRawFd::as_raw_fd).into();
            breach::hold(Held { folder: number(0), socket: number(1), room: number(2) });
            let granted = held.iter().take(usize::from(setup.plan.role == Role::GrantedProgram));
            let granted: Vec<_> =
                granted.map(|folder| Granted { descriptor: folder.as_fd(), write: true }).collect();
            return match be_confined_but(&mut channel, &setup.plan, &granted)? {
                true => {
                    // As before the hostile part of a worker's work.
                    setup.plan.narrow()?;
                    channel.send(&attempt.make(), &[])
                }
                false => Ok(()),
            };
        }
    };
    let mut descriptors = descriptors.into_iter();
    let (Some(code), Some(shared), room) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(io::Error::other("the set-up lacks the code or the buffer"));
    };
    let code = VerifiedCode::adopt(SealedBytes::adopt(code)?);
    let shared = Arc::new(SharedBuffer::adopt(shared)?);
    // After this, no memory of this process becomes executable.
    let loaded = load(&code, setup.variant, limits);
    drop(code);
    if !be_confined(&mut channel, &setup.plan)? {
        return Ok(());
    }
    let stack = usize::try_from(limits.stack + HOST_STACK).map_err(io::Error::other)?;
    let (hand_over, handed_over) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("belljar-sandbox".into())
        .stack_size(stack)
        .spawn(move || match handed_over.recv() {
            Ok(channel) => work(channel, &setup.plan, loaded, (limits, guest), &shared, room),
            Err(_) => Ok(()),
        });
    match thread {
        Ok(thread) => {
            hand_over.send(channel).map_err(io::Error::other)?;
            thread.join().map_err(|_| io::Error::other("the worker panicked"))?
        }
        Err(err) => refuse(channel, &err),
    }
}

/// Answers every request with the reason why there is no sandbox.
fn refuse(mut channel: Channel, err: &io::Error) -> io::Result<()> {
    let why = format!("a worker cannot start its sandbox's thread: {}", no_process(err));
    while let Received::Message(request, _) = channel.receive::<Request>(None)? {
        let result = Err(Failure::Host(why.clone()));
        let response =
            Response { number: request.number, result, log: Vec::new(), snapshot: false };
        channel.send(&response, &[])?;
    }
    Ok(())
}

fn load(
    code: &VerifiedCode,
    variant: Variant,
    limits: SandboxLimits,
) -> Result<(Engine, Module), Failure> {
    let host = |err: &dyn std::fmt::Display| Failure::Host(err.to_string());
    let engine = Engines::new_engine(variant, limits.stack).map_err(|err| host(&err))?;
    let module = code.load(&engine).map_err(|err| host(&err))?;
    Ok((engine, module))
}

/// Confines this process and reports the result to the supervisor. Returns whether to continue.
fn be_confined(channel: &mut Channel, plan: &Plan) -> io::Result<bool> {
    be_confined_but(channel, plan, &[])
}

/// Like [`be_confined`], except for granted files and folders.
fn be_confined_but(
    channel: &mut Channel,
    plan: &Plan,
    granted: &[Granted<'_>],
) -> io::Result<bool> {
    // No file can be opened afterwards. Only runs need the pagemap; without it, memory is reset in
    // another way.
    match plan.role {
        Role::Run => drop(dirty_pages::pagemap()),
        _ => dirty_pages::no_pagemap(),
    }
    let ready: Ready = confine(plan, granted);
    channel.send(&ready, &[])?;
    Ok(ready.is_ok())
}

fn work(
    mut channel: Channel,
    plan: &Plan,
    loaded: Result<(Engine, Module), Failure>,
    (limits, guest): (SandboxLimits, GuestKind),
    shared: &Arc<SharedBuffer>,
    room: Option<OwnedFd>,
) -> io::Result<()> {
    let template = loaded.and_then(|(engine, module)| match guest {
        GuestKind::Serving => Template::new(&engine, &module, limits),
        GuestKind::Profiling => Template::profiling(&engine, &module, limits),
    });
    let mut machine = template.map(|template| Machine::new(template).with_room(room));
    // The threads of kernels have been started, and no hostile input has arrived yet.
    plan.narrow()?;
    loop {
        let (request, descriptors) = match channel.receive::<Request>(None)? {
            Received::Message(request, descriptors) => (request, descriptors),
            Received::Closed | Received::Unread | Received::TimedOut => return Ok(()),
        };
        #[cfg(feature = "test-hooks")]
        belljar_confine::fault_injection::fail();
        let (number, prepares) = (request.number, request.call == Call::Prepare);
        let mut response = match &mut machine {
            Ok(machine) => {
                let result = carry_out(machine, request, descriptors, shared);
                Response { number, result, log: cut_log(machine.take_log()), snapshot: false }
            }
            Err(failure) => {
                Response { number, result: Err(failure.clone()), log: Vec::new(), snapshot: false }
            }
        };
        let snapshot = machine.as_ref().ok().and_then(Machine::snapshot).filter(|_| prepares);
        response.snapshot = snapshot.is_some();
        channel.send(&response, snapshot.map(|snapshot| snapshot.bytes()).as_slice())?;
        if let Ok(machine) = &mut machine {
            machine.recycle();
        }
    }
}

fn carry_out(
    machine: &mut Machine,
    request: Request,
    descriptors: Vec<OwnedFd>,
    shared: &Arc<SharedBuffer>,
) -> Result<(u64, Cost), Failure> {
    let host = |err: io::Error| Failure::Host(err.to_string());
    let payload = match request.source {
        Source::Empty => Payload::Empty,
        Source::Shared(len) => Payload::Shared(Arc::clone(shared), len.min(shared.len())),
        Source::Sealed => {
            Payload::Sealed(SealedBytes::adopt(only(descriptors)?).map_err(host)?.into())
        }
        Source::Snapshot => {
            Payload::Snapshot(Snapshot::adopt(only(descriptors)?).map_err(host)?.into())
        }
    };
    let (len, cost) = machine.call(request.call, &payload, None, |message| {
        shared.write(message).map_err(host)?;
        Ok(message.len() as u64)
    })?;
    Ok((len, cost))
}

fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    let first = descriptors.into_iter().next();
    first.ok_or_else(|| Failure::Host("the request lacks its memory file".into()))
}

/// Keeps the lines that fit into one message, and adds a line that counts the others.
fn cut_log(mut lines: Vec<String>) -> Vec<String> {
    let mut left = MAX_LOG;
    // Empty lines take space in the message, too.
    let fits = |line: &&String| {
        let len = line.len() + 16;
        let fits = len <= left;
        left = left.saturating_sub(len);
        fits
    };
    let kept = lines.iter().take_while(fits).count();
    if kept < lines.len() {
        let lost = lines.len() - kept;
        lines.truncate(kept);
        lines.push(format!("({lost} more lines: a response holds at most {MAX_LOG} bytes)"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_that_do_not_fit_a_message_are_counted() {
        let some = vec!["a line".to_owned(); 10];
        assert_eq!(cut_log(some.clone()), some);
        for line in ["", "a line of some length", &"x".repeat(8 << 10)] {
            let sent = cut_log(vec![line.to_owned(); 100_000]);
            let bytes: usize = sent.iter().map(|line| line.len() + 16).sum();
            assert!(bytes < MAX_LOG + 100, "{bytes}");
            let kept = sent.len() - 1;
            assert!(sent[kept].contains(&format!("({} more lines", 100_000 - kept)), "{sent:?}");
        }
    }
}
