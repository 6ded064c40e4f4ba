//! The worker's side: receives requests from its supervisor and runs the guest. The supervisor
//! enforces the deadline by killing the worker, so the guest runs without checks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, Module};

use super::code_cache::VerifiedCode;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::guest::GuestKind;
use super::instance::Template;
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::setup::{Setup, be_confined};
use super::snapshot::Snapshot;
use super::thread::HOST_STACK;
use super::{Call, Cost, Payload};
use belljar_confine::channel::{Channel, Received};
use belljar_confine::memory::{SealedBytes, SharedBuffer};
use belljar_confine::process::no_process;
use belljar_confine::setup::Plan;

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

/// Answers requests with a sandbox until the supervisor closes the connection.
pub(crate) fn serve(
    mut channel: Channel,
    setup: Setup,
    limits: SandboxLimits,
    guest: GuestKind,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
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
    if !be_confined(&mut channel, &setup.plan, &[])? {
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

pub(crate) fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
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
