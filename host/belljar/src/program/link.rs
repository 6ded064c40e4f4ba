//! The connection of a running program to its supervisor: messages from its confined process, with
//! bytes in a shared buffer.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::Clock;
use super::protocol::{Answered, Ask, Code, Denied, Reply, Report, cut};
use super::wasi::{Asked, AtName, Below, Outside, Refusal, Stream};
use belljar_confine::channel::{Channel, Received};
use belljar_confine::memory::SharedBuffer;
use belljar_policy::{Peer, Protocol};

/// A request, with its bytes.
#[derive(Clone, Copy)]
pub(super) enum AskWith<'a> {
    Named(&'a str),
    Brought(&'a [u8]),
    Compute(u32, &'a [u8]),
    Connect(&'a Peer, u16, Protocol),
    Look(&'a Below),
}

/// The response to a request.
pub(super) enum Got {
    Model(u32),
    Computed(Vec<u8>),
    Connected(OwnedFd),
    Seen(AtName),
}

/// The connection of a run to its supervisor, shared by clones.
#[derive(Clone)]
pub(super) struct Link {
    far: Arc<Mutex<Far>>,
    clock: Clock,
}

struct Far {
    channel: Channel,
    shared: SharedBuffer,
    /// Hashes of allowed decisions that are already logged.
    noted: BTreeSet<[u8; 32]>,
}

impl Link {
    pub(super) fn new(channel: Channel, shared: SharedBuffer, clock: &Clock) -> Link {
        let far = Far { channel, shared, noted: BTreeSet::new() };
        Link { far: Arc::new(Mutex::new(far)), clock: clock.clone() }
    }

    /// Sends a request, with the program's clock paused. An error ends the run.
    pub(super) fn ask(&self, ask: AskWith<'_>) -> io::Result<Result<Got, Denied>> {
        self.clock.pausing(|| match self.asked(ask) {
            Ok((got, credit)) => (Ok(got), credit),
            Err(err) => (Err(err), Default::default()),
        })
    }

    fn asked(&self, ask: AskWith<'_>) -> io::Result<(Result<Got, Denied>, std::time::Duration)> {
        let Far { channel, shared, .. } = &mut *self.far();
        let put = |bytes: &[u8]| match shared.write(bytes) {
            Ok(()) => Ok(bytes.len() as u64),
            Err(_) => Err(Denied::new(Code::TooLarge, "it is larger than the `limits` allow")),
        };
        let asked = match ask {
            // Names in a policy are shorter.
            AskWith::Named(name) => Ok(Ask::Named(cut(name))),
            AskWith::Brought(bytes) => put(bytes).map(Ask::Brought),
            AskWith::Compute(model, bytes) => put(bytes).map(|len| Ask::Compute(model, len)),
            AskWith::Connect(host, port, protocol) => {
                Ok(Ask::Connect(host.clone(), port, protocol))
            }
            AskWith::Look(at) => Ok(Ask::Look(at.clone())),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(denied) => return Ok((Err(denied), Default::default())),
        };
        channel.send_patiently(&Report::Asks(asked))?;
        let received = channel.receive::<Reply>(None)?;
        let Received::Message(Reply { answer, credit }, descriptors) = received else {
            return Err(io::Error::other("the supervisor has ended"));
        };
        let got = match answer {
            Answered::Model(number) => Ok(Got::Model(number)),
            Answered::Computed(len) => Ok(Got::Computed(shared.read(len)?)),
            Answered::Connected => {
                let connection = descriptors.into_iter().next();
                Ok(Got::Connected(connection.ok_or(io::ErrorKind::UnexpectedEof)?))
            }
            Answered::Seen(seen) => Ok(Got::Seen(seen)),
            Answered::Refused(denied) => Err(denied),
            Answered::Noted => {
                return Err(io::Error::other("unexpected response from the supervisor"));
            }
        };
        Ok((got, credit))
    }

    /// Writes the outputs to the buffer.
    pub(super) fn put(&self, outputs: &[u8]) -> io::Result<()> {
        self.far().shared.write(outputs)
    }

    pub(super) fn report(&self, report: &Report) -> io::Result<()> {
        self.far().channel.send_patiently(report)
    }

    fn far(&self) -> MutexGuard<'_, Far> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outside for Link {
    fn connect(&mut self, host: &Peer, port: u16, protocol: Protocol) -> Result<OwnedFd, Refusal> {
        match self.ask(AskWith::Connect(host, port, protocol)) {
            Ok(Ok(Got::Connected(connection))) => Ok(connection),
            Ok(Ok(_)) => Err(Refusal("unexpected response from the supervisor".into())),
            Ok(Err(denied)) => Err(Refusal(denied.text)),
            Err(err) => Err(Refusal(err.to_string())),
        }
    }

    fn print(&mut self, stream: Stream, line: &str) {
        // If the supervisor cannot be reached, it has ended, and this process ends too.
        let _ = self.report(&Report::Prints(stream, cut(line)));
    }

    fn look(&mut self, at: &Below) -> io::Result<AtName> {
        match self.ask(AskWith::Look(at))? {
            Ok(Got::Seen(seen)) => Ok(seen),
            _ => Err(io::Error::other("unexpected response from the supervisor")),
        }
    }

    fn decided(&mut self, asked: &Asked<'_>) -> io::Result<()> {
        let Asked { resource, access, allowed, rule } = *asked;
        let Far { channel, noted, .. } = &mut *self.far();
        // Lengths separate the texts, so that different decisions have different hashes.
        let mut hasher = blake3::Hasher::new();
        for text in [resource, access, rule] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        // A repeated entry is not logged again, and a refusal does not wait for the log.
        let waits = allowed && noted.insert(*hasher.finalize().as_bytes());
        channel.send_patiently(&Report::Decided {
            resource: cut(resource),
            access: cut(access),
            allowed,
            rule: cut(rule),
            waits,
        })?;
        if !waits {
            return Ok(());
        }
        match channel.receive::<Reply>(None)? {
            Received::Message(Reply { answer: Answered::Noted, .. }, _) => Ok(()),
            _ => Err(io::Error::other("the decision log cannot be written")),
        }
    }
}
