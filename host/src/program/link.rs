//! How a running program reaches its supervisor: by messages from its confined process, with bytes in
//! a buffer that both share.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::Clock;
use super::protocol::{Answered, Ask, Code, Denied, Reply, Told, cut};
use super::wasi::{Asked, Outside, Refusal, Stream};
use crate::confine::channel::{Channel, Received};
use crate::confine::memory::SharedBuffer;
use crate::policy::{Peer, Protocol};

/// A question, with its bytes.
#[derive(Clone, Copy)]
pub(super) enum AskWith<'a> {
    Named(&'a str),
    Brought(&'a [u8]),
    Compute(u32, &'a [u8]),
    Connect(&'a Peer, u16, Protocol),
}

/// What was asked for.
pub(super) enum Got {
    Model(u32),
    Computed(Vec<u8>),
    Connected(OwnedFd),
}

/// A run's way to its supervisor; clones lead to the same.
#[derive(Clone)]
pub(super) struct Link {
    far: Arc<Mutex<(Channel, SharedBuffer)>>,
    clock: Clock,
}

impl Link {
    pub(super) fn new(channel: Channel, shared: SharedBuffer, clock: &Clock) -> Link {
        Link { far: Arc::new(Mutex::new((channel, shared))), clock: clock.clone() }
    }

    /// Has something done, while the program's clock stands still. An error ends the run.
    pub(super) fn ask(&self, ask: AskWith<'_>) -> io::Result<Result<Got, Denied>> {
        self.clock.pausing(|| match self.asked(ask) {
            Ok((got, credit)) => (Ok(got), credit),
            Err(err) => (Err(err), Default::default()),
        })
    }

    fn asked(&self, ask: AskWith<'_>) -> io::Result<(Result<Got, Denied>, std::time::Duration)> {
        let (channel, shared) = &mut *self.far();
        let put = |bytes: &[u8]| match shared.write(bytes) {
            Ok(()) => Ok(bytes.len() as u64),
            Err(_) => Err(Denied::new(Code::TooLarge, "it is larger than `limits` allow")),
        };
        let asked = match ask {
            // No name in a policy is longer.
            AskWith::Named(name) => Ok(Ask::Named(cut(name))),
            AskWith::Brought(bytes) => put(bytes).map(Ask::Brought),
            AskWith::Compute(model, bytes) => put(bytes).map(|len| Ask::Compute(model, len)),
            AskWith::Connect(host, port, protocol) => {
                Ok(Ask::Connect(host.clone(), port, protocol))
            }
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(denied) => return Ok((Err(denied), Default::default())),
        };
        channel.send_patiently(&Told::Asks(asked))?;
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
            Answered::Refused(denied) => Err(denied),
        };
        Ok((got, credit))
    }

    /// Puts the outputs into the buffer.
    pub(super) fn put(&self, outputs: &[u8]) -> io::Result<()> {
        self.far().1.write(outputs)
    }

    pub(super) fn tell(&self, told: &Told) -> io::Result<()> {
        self.far().0.send_patiently(told)
    }

    fn far(&self) -> MutexGuard<'_, (Channel, SharedBuffer)> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outside for Link {
    fn connect(&mut self, host: &Peer, port: u16, protocol: Protocol) -> Result<OwnedFd, Refusal> {
        match self.ask(AskWith::Connect(host, port, protocol)) {
            Ok(Ok(Got::Connected(connection))) => Ok(connection),
            Ok(Ok(_)) => Err(Refusal("an answer to another question".into())),
            Ok(Err(denied)) => Err(Refusal(denied.text)),
            Err(err) => Err(Refusal(err.to_string())),
        }
    }

    fn print(&mut self, stream: Stream, line: &str) {
        // A supervisor that cannot be reached has ended, and so does this process.
        let _ = self.tell(&Told::Prints(stream, cut(line)));
    }

    fn decided(&mut self, asked: &Asked<'_>) {
        let _ = self.tell(&Told::Decided {
            resource: cut(asked.resource),
            access: cut(asked.access),
            allowed: asked.allowed,
            rule: cut(asked.rule),
        });
    }
}
