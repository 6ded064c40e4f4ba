//! The worker's side: takes orders from its supervisor and runs the guest. Here the deadline is
//! the supervisor's kill, so the guest runs without checks.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, Module};

use super::code_cache::VerifiedCode;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::image::Image;
use super::instance::Template;
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::thread::HOST_STACK;
use super::written::pagemap;
use super::{Call, Cost, Payload};
use crate::confine::channel::{Channel, Received};
use crate::confine::heap;
#[cfg(feature = "test-hooks")]
use crate::confine::hooks;
use crate::confine::memory::{SealedBytes, SharedBuffer};
use crate::confine::role::Role;
#[cfg(not(feature = "test-hooks"))]
use crate::confine::seccomp;

/// The first message to a worker; it comes with the code and the shared buffer.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) variant: Variant,
    pub(super) limits: SandboxLimits,
    #[cfg(feature = "test-hooks")]
    pub(super) hooks: hooks::Hooks,
}

/// Every later message to a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) call: Call,
    pub(super) source: Source,
}

/// Where the payload of a call is.
#[derive(Serialize, Deserialize)]
pub(super) enum Source {
    Empty,
    /// At the start of the shared buffer, with this many bytes.
    Shared(u64),
    /// In sealed memory that comes with the message.
    Sealed,
    /// An image that comes with the message.
    Image,
}

/// A worker's answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Length of the answer at the start of the shared buffer, and what it cost.
    pub(super) result: Result<(u64, Cost), Failure>,
    pub(super) log: Vec<String>,
    /// Whether an image comes with the message.
    pub(super) image: bool,
}

/// Most bytes of log lines that travel with one answer; below the length of a message even when
/// every byte must be escaped.
const MAX_LOG: usize = 16 << 10;

/// Serves the supervisor at the other end of `socket` until it goes away.
pub(crate) fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut channel = Channel::new(socket);
    let Received::Message(setup, descriptors) = channel.receive::<Setup>(None)? else {
        return Ok(());
    };
    let [code, shared] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("the set-up comes with two descriptors"))?;
    let code = VerifiedCode::adopt(SealedBytes::adopt(code)?);
    let shared = SharedBuffer::adopt(shared)?;
    #[cfg(feature = "test-hooks")]
    setup.hooks.arm();
    let ready = get_ready(&setup, &code);
    drop(code);
    let stack = usize::try_from(setup.limits.stack + HOST_STACK).map_err(io::Error::other)?;
    std::thread::Builder::new()
        .name("belljar-sandbox".into())
        .stack_size(stack)
        .spawn(move || work(channel, ready, &shared))?
        .join()
        .map_err(|_| io::Error::other("the worker panicked"))?
}

/// What a sandbox is made of, once the process is confined.
struct Ready {
    engine: Engine,
    module: Module,
    limits: SandboxLimits,
}

/// Loads the code, which makes executable memory, and then confines the process, which forbids it.
/// Whoever cannot be confined gets no model.
fn get_ready(setup: &Setup, code: &VerifiedCode) -> Result<Ready, Failure> {
    let host = |err: &dyn std::fmt::Display| Failure::Host(err.to_string());
    let engine =
        Engines::new_engine(setup.variant, setup.limits.stack).map_err(|err| host(&err))?;
    let module = code.load(&engine).map_err(|err| host(&err))?;
    confine(Role::Prepare)
        .map_err(|err| Failure::Host(format!("the worker could not be confined: {err}")))?;
    Ok(Ready { engine, module, limits: setup.limits })
}

/// Gives up what the role does not need.
fn confine(role: Role) -> io::Result<()> {
    heap::keep_one();
    // Without it memory is made pristine in another way.
    let _ = pagemap();
    rustix::thread::set_no_new_privs(true)?;
    #[cfg(feature = "test-hooks")]
    return hooks::install(role);
    #[cfg(not(feature = "test-hooks"))]
    seccomp::install(role)
}

fn work(
    mut channel: Channel,
    ready: Result<Ready, Failure>,
    shared: &SharedBuffer,
) -> io::Result<()> {
    let mut machine = ready.and_then(|ready| {
        Ok(Machine::new(Template::new(&ready.engine, &ready.module, ready.limits)?))
    });
    loop {
        let (order, descriptors) = match channel.receive::<Order>(None)? {
            Received::Message(order, descriptors) => (order, descriptors),
            Received::Closed | Received::TimedOut => return Ok(()),
        };
        #[cfg(feature = "test-hooks")]
        hooks::fail();
        let prepares = order.call == Call::Prepare;
        let mut outcome = match &mut machine {
            Ok(machine) => {
                let result = carry_out(machine, order, descriptors, shared);
                Outcome { result, log: cut_log(machine.take_log()), image: false }
            }
            Err(failure) => Outcome { result: Err(failure.clone()), log: Vec::new(), image: false },
        };
        let image = machine.as_ref().ok().and_then(Machine::image).filter(|_| prepares);
        outcome.image = image.is_some();
        channel.send(&outcome, image.map(|image| image.bytes()).as_slice())?;
        if let Ok(machine) = &mut machine {
            machine.recycle();
        }
    }
}

fn carry_out(
    machine: &mut Machine,
    order: Order,
    descriptors: Vec<OwnedFd>,
    shared: &SharedBuffer,
) -> Result<(u64, Cost), Failure> {
    let host = |err: io::Error| Failure::Host(err.to_string());
    let payload = match order.source {
        Source::Empty => Payload::Empty,
        Source::Shared(len) => {
            let len = usize::try_from(len.min(shared.len())).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len];
            shared.read_into(&mut bytes).map_err(host)?;
            Payload::Bytes(bytes)
        }
        Source::Sealed => {
            Payload::Sealed(SealedBytes::adopt(only(descriptors)?).map_err(host)?.into())
        }
        Source::Image => Payload::Image(Image::adopt(only(descriptors)?).map_err(host)?.into()),
    };
    let (len, cost) = machine.call(order.call, &payload, None, |message| {
        shared.write(message).map_err(host)?;
        Ok(message.len() as u64)
    })?;
    Ok((len, cost))
}

fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    let first = descriptors.into_iter().next();
    first.ok_or_else(|| Failure::Host("no memory came with the order".into()))
}

fn cut_log(mut lines: Vec<String>) -> Vec<String> {
    let mut left = MAX_LOG;
    let fits = |line: &&String| {
        let fits = line.len() <= left;
        left = left.saturating_sub(line.len());
        fits
    };
    let kept = lines.iter().take_while(fits).count();
    lines.truncate(kept);
    lines
}
