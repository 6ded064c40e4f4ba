//! Messages between a supervisor and its worker: JSON of bounded length, with descriptors, over a
//! socket pair that keeps message boundaries. Each side treats the other's messages as hostile.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message in bytes. Errors and log lines are cut well below it; tensors go through shared
/// memory.
pub const MAX_MESSAGE: usize = 128 << 10;

/// Maximum number of descriptors in one message.
const MAX_DESCRIPTORS: usize = 3;

/// The descriptor number of a worker's end, which its seccomp filter refers to.
pub(super) const CHANNEL: i32 = 3;

/// One end of a socket pair.
pub struct Channel {
    socket: End,
    buffer: Vec<u8>,
}

enum End {
    Owned(OwnedFd),
    /// Open until the process ends.
    Lasting(BorrowedFd<'static>),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Owned(socket) => socket.as_fd(),
            End::Lasting(socket) => *socket,
        }
    }
}

/// How waiting for a message ended.
pub enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// The other end is closed, after it read everything that was sent to it.
    Closed,
    /// The other end is closed, and did not read everything that was sent to it.
    Unread,
    /// No message arrived in time.
    TimedOut,
}

impl Channel {
    /// Both ends of a new socket pair: one to keep, one to give to a worker.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let kind = SocketType::SEQPACKET;
        let (here, there) =
            rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::new(here), there))
    }

    pub fn new(socket: OwnedFd) -> Channel {
        Channel { socket: End::Owned(socket), buffer: vec![0; MAX_MESSAGE] }
    }

    /// A worker's end. It is never closed: its descriptor number could then be reused for another
    /// socket, and the seccomp filter only checks the number.
    pub fn lasting(socket: OwnedFd) -> Channel {
        let socket: &'static OwnedFd = Box::leak(Box::new(socket));
        Channel { socket: End::Lasting(socket.as_fd()), buffer: vec![0; MAX_MESSAGE] }
    }

    /// Sends one message, with descriptors. A closed other end is an error, not a signal. This
    /// never blocks: it fails if the socket buffer is full because the other side does not read.
    pub fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_with(message, descriptors, SendFlags::DONTWAIT)
    }

    /// Like [`Channel::send`], but blocks while the socket buffer is full. For workers: their
    /// supervisor ends one that is blocked for too long.
    #[cfg(feature = "programs")]
    pub fn send_patiently(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, &[], SendFlags::empty())
    }

    fn send_with(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::other(format!(
                "cannot send a message of {} bytes with {} descriptors: the maximums are \
                 {MAX_MESSAGE} and {MAX_DESCRIPTORS}",
                bytes.len(),
                descriptors.len()
            )));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let iov = [IoSlice::new(&bytes)];
        let flags = SendFlags::NOSIGNAL | flags;
        loop {
            match rustix::net::sendmsg(self.socket.as_fd(), &iov, &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Waits for one message, for at most `timeout`.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<Received<T>> {
        if let Some(timeout) = timeout
            && !self.wait(timeout)?
        {
            return Ok(Received::TimedOut);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut self.buffer)];
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(self.socket.as_fd(), &mut iov, &mut ancillary, flags) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                // Linux returns this when the other end was closed with unread data in it.
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Unread),
                Err(err) => return Err(err.into()),
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other(format!(
                "it sent a message that is too long: more than {MAX_MESSAGE} bytes or \
                 {MAX_DESCRIPTORS} descriptors"
            )));
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        let bytes = self.buffer.get(..received.bytes).unwrap_or_default();
        Ok(Received::Message(serde_json::from_slice(bytes)?, descriptors))
    }

    /// Whether a message, or the end of the connection, can be received now.
    pub fn has_news(&self) -> bool {
        self.wait(Duration::ZERO).unwrap_or(true)
    }

    /// Whether something can be received before `timeout` has passed.
    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// Whether sending failed because the other end is gone.
pub fn is_gone(err: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(err.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_cross() {
        let (mut here, there) = Channel::pair().unwrap();
        let mut there = Channel::new(there);
        let extra = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        here.send(&("hello", 1), &[extra.as_fd()]).unwrap();
        let Received::Message((text, number), fds) =
            there.receive::<(String, u8)>(Some(Duration::from_secs(5))).unwrap()
        else {
            panic!("nothing was received")
        };
        assert_eq!((text.as_str(), number, fds.len()), ("hello", 1, 1));
    }

    #[test]
    fn receive_distinguishes_timeout_invalid_message_and_close() {
        let (mut here, there) = Channel::pair().unwrap();
        let soon = Some(Duration::from_millis(1));
        assert!(matches!(here.receive::<String>(soon), Ok(Received::TimedOut)));
        rustix::io::write(&there, b"{not json").unwrap();
        assert!(here.receive::<String>(None).is_err());
        drop(there);
        assert!(here.has_news());
        assert!(matches!(here.receive::<String>(None), Ok(Received::Closed)));
        assert!(here.send(&"anyone?", &[]).is_err_and(|err| is_gone(&err)));
    }

    #[test]
    fn receive_distinguishes_close_before_and_after_reading() {
        for reads in [false, true] {
            let (mut here, there) = Channel::pair().unwrap();
            assert!(!here.has_news());
            here.send(&"order", &[]).unwrap();
            let mut there = Channel::new(there);
            if reads {
                assert!(matches!(there.receive::<String>(None), Ok(Received::Message(..))));
            }
            drop(there);
            let received = here.receive::<String>(None).unwrap();
            assert_eq!(matches!(received, Received::Closed), reads);
            assert_eq!(matches!(received, Received::Unread), !reads);
        }
    }

    #[test]
    fn send_fails_instead_of_blocking_when_the_other_side_does_not_read() {
        let (mut here, there) = Channel::pair().unwrap();
        let err = (0..10_000).find_map(|_| here.send(&"order", &[]).err());
        assert_eq!(err.unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(there);
    }

    #[test]
    fn an_oversized_message_is_refused() {
        let (mut here, there) = Channel::pair().unwrap();
        assert!(here.send(&"x".repeat(MAX_MESSAGE), &[]).is_err());
        rustix::net::sockopt::set_socket_send_buffer_size(&there, 4 * MAX_MESSAGE).unwrap();
        rustix::io::write(&there, &vec![b'1'; MAX_MESSAGE + 1]).unwrap();
        assert!(here.receive::<u64>(None).is_err());
    }
}
