//! The worker's side: takes orders from its supervisor and runs the guest. Here the deadline is
//! the supervisor's kill, so the guest runs without checks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, Module};

use super::code_cache::VerifiedCode;
use super::engine::{Engines, Variant};
use super::failure::Failure;
use super::guest::GuestInfo;
use super::image::Image;
use super::instance::Template;
use super::limits::SandboxLimits;
use super::machine::Machine;
use super::thread::HOST_STACK;
use super::{Call, Cost, Payload, compile, written};
use crate::confine::channel::{Channel, Received};
use crate::confine::layers::MissingLayer;
use crate::confine::memory::{SealedBytes, SharedBuffer};
use crate::confine::setup::{Granted, Plan, confine};
#[cfg(feature = "programs")]
use crate::program::{self, ProgramLimits};

/// The first message to a worker.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(super) plan: Plan,
    pub(super) variant: Variant,
    /// Digest of the guest that the supervisor has: another program's worker has another one.
    pub(super) guest: String,
    pub(super) work: Work,
}

#[cfg(feature = "programs")]
impl Setup {
    /// For work that is not about the guest.
    pub(crate) fn new(plan: Plan, work: Work) -> Setup {
        let guest = GuestInfo::embedded().sha256.to_owned();
        Setup { plan, variant: Variant::default(), guest, work }
    }
}

/// What a worker is to do.
#[derive(Serialize, Deserialize)]
pub(crate) enum Work {
    /// Nothing but to be confined, and to end: for who asks what this machine allows.
    Nothing,
    /// Compile the guest, and end.
    Compile,
    /// Be a sandbox. The code and the shared buffer come with the message.
    Sandbox(SandboxLimits),
    /// Compile a guest program, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    CompileProgram,
    /// Run a guest program once, which comes once the worker is confined, and end.
    #[cfg(feature = "programs")]
    Program {
        limits: ProgramLimits,
        /// Files and folders that it is granted, each of which comes with a message of its own.
        files: usize,
    },
    /// Do what an attacker would who has taken over a worker of this role.
    #[cfg(feature = "test-hooks")]
    Breach(crate::confine::breach::Attempt),
}

/// The answer to it: the layers that are missing, or the one without which it must not go on.
pub(super) type Ready = Result<Vec<MissingLayer>, MissingLayer>;

/// Every later message to a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// Nobody can guess it before the order was read. The answer repeats it: so none can be taken
    /// for the answer to another order.
    pub(super) number: u64,
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
    /// The number of the order.
    pub(super) number: u64,
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
    if setup.guest != GuestInfo::embedded().sha256 {
        return Err(io::Error::other("the worker is another build than its supervisor"));
    }
    let limits = match setup.work {
        Work::Nothing => return be_confined(&mut channel, &setup.plan).map(drop),
        Work::Compile => {
            // Who counts processors reads files, and an engine handles signals.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let engine = Engines::new_engine(setup.variant, 1 << 20);
            return match be_confined(&mut channel, &setup.plan)? {
                true => compile::compile(&mut channel, engine, processors),
                false => Ok(()),
            };
        }
        Work::Sandbox(limits) => limits,
        #[cfg(feature = "programs")]
        Work::CompileProgram => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let engine = program::new_engine(1 << 20);
            return match be_confined(&mut channel, &setup.plan)? {
                true => program::compile(&mut channel, engine, processors),
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
                    program::run(channel, engine, limits, setup.plan.role, files)
                }
                false => Ok(()),
            };
        }
        #[cfg(feature = "test-hooks")]
        Work::Breach(attempt) => {
            return match be_confined(&mut channel, &setup.plan)? {
                true => {
                    // As when the hostile part of its work begins.
                    setup.plan.narrow()?;
                    channel.send(&attempt.make(), &[])
                }
                false => Ok(()),
            };
        }
    };
    let [code, shared] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("the set-up comes with two descriptors"))?;
    let code = VerifiedCode::adopt(SealedBytes::adopt(code)?);
    let shared = Arc::new(SharedBuffer::adopt(shared)?);
    // The last memory of this process that becomes executable.
    let loaded = load(&code, setup.variant, limits);
    drop(code);
    if !be_confined(&mut channel, &setup.plan)? {
        return Ok(());
    }
    let stack = usize::try_from(limits.stack + HOST_STACK).map_err(io::Error::other)?;
    std::thread::Builder::new()
        .name("belljar-sandbox".into())
        .stack_size(stack)
        .spawn(move || work(channel, loaded, limits, &shared))?
        .join()
        .map_err(|_| io::Error::other("the worker panicked"))?
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

/// Puts on the confinement and tells the supervisor. Answers whether to go on.
fn be_confined(channel: &mut Channel, plan: &Plan) -> io::Result<bool> {
    be_confined_but(channel, plan, &[])
}

/// As [`be_confined`], but for files and folders that are granted.
fn be_confined_but(
    channel: &mut Channel,
    plan: &Plan,
    granted: &[Granted<'_>],
) -> io::Result<bool> {
    // Afterwards no file can be opened. Without this one memory is made pristine in another way.
    let _ = written::pagemap();
    let ready: Ready = confine(plan, granted);
    channel.send(&ready, &[])?;
    Ok(ready.is_ok())
}

fn work(
    mut channel: Channel,
    loaded: Result<(Engine, Module), Failure>,
    limits: SandboxLimits,
    shared: &Arc<SharedBuffer>,
) -> io::Result<()> {
    let mut machine = loaded
        .and_then(|(engine, module)| Ok(Machine::new(Template::new(&engine, &module, limits)?)));
    loop {
        let (order, descriptors) = match channel.receive::<Order>(None)? {
            Received::Message(order, descriptors) => (order, descriptors),
            Received::Closed | Received::Unread | Received::TimedOut => return Ok(()),
        };
        #[cfg(feature = "test-hooks")]
        crate::confine::spoil::fail();
        let (number, prepares) = (order.number, order.call == Call::Prepare);
        let mut outcome = match &mut machine {
            Ok(machine) => {
                let result = carry_out(machine, order, descriptors, shared);
                Outcome { number, result, log: cut_log(machine.take_log()), image: false }
            }
            Err(failure) => {
                Outcome { number, result: Err(failure.clone()), log: Vec::new(), image: false }
            }
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
    shared: &Arc<SharedBuffer>,
) -> Result<(u64, Cost), Failure> {
    let host = |err: io::Error| Failure::Host(err.to_string());
    let payload = match order.source {
        Source::Empty => Payload::Empty,
        Source::Shared(len) => Payload::Shared(Arc::clone(shared), len.min(shared.len())),
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

/// Keeps what fits one message, and says so where that is not all.
fn cut_log(mut lines: Vec<String>) -> Vec<String> {
    let mut left = MAX_LOG;
    // Empty lines take room in the message, too.
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
        lines.push(format!("({lost} more lines: a worker sends {MAX_LOG} bytes of them)"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_a_message_is_counted() {
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
