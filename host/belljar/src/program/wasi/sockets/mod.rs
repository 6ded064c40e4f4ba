//! `wasi:sockets` without sockets: the supervisor checks and makes every connection, and passes it
//! to this process, which must not bind, listen or resolve names.
//!
//! A granted name is mapped to a reserved address (240.0.0.0/4), which no machine has. The
//! supervisor resolves the name when the connection is made, so a look-up sends no message.

mod names;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    self, ErrorCode, IpAddress, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasmtime_wasi::p2::{Network, SocketError, SocketResult, StreamError};

use super::budget::{Budget, Exhausted, Held};
use super::io::wait_for;
use super::streams::{MAX_PIECE, failed};
use super::{Asked, WasiState};
use belljar_policy::{NetworkGrant, Peer, Protocol, canonical_address, key_rule, peer_rule};

/// A connection to a granted peer.
pub(super) struct Connection {
    fd: OwnedFd,
    _held: Held,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Connection {
    /// Waits until the connection can be read or written.
    pub(super) fn wait(&self, flags: PollFlags) -> Result<(), Errno> {
        wait_for(&mut [PollFd::from_borrowed_fd(self.as_fd(), flags)], None)
    }

    /// Receives at most `len` bytes; an empty result if no bytes are available yet.
    pub(super) fn receive(&self, len: usize, budget: &mut Budget) -> Result<Vec<u8>, StreamError> {
        let len = budget.receivable(len).map_err(|_| failed(ErrorCode::AccessDenied))?;
        let mut bytes = vec![0; len];
        match rustix::net::recv(&self.fd, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(StreamError::Closed),
            Ok((received, _)) => {
                budget.received(received);
                bytes.truncate(received);
                Ok(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(failed(code(errno))),
        }
    }

    /// How many bytes may be sent now: 0 while the peer accepts none.
    pub(super) fn sendable(&self, budget: &Budget) -> Result<usize, StreamError> {
        let permitted = budget.sendable(MAX_PIECE).map_err(|_| failed(ErrorCode::AccessDenied))?;
        let mut fds = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::OUT)];
        wait_for(&mut fds, Some(std::time::Duration::ZERO)).map_err(|errno| failed(code(errno)))?;
        match fds.iter().all(|fd| fd.revents().is_empty()) {
            true => Ok(0),
            false => Ok(permitted),
        }
    }

    /// Sends everything, and waits while the peer accepts no bytes. Sends nothing if the quota does
    /// not allow all of it.
    pub(super) fn send_all(&self, bytes: &[u8], budget: &mut Budget) -> Result<(), StreamError> {
        if bytes.is_empty() {
            return Ok(());
        }
        match budget.sendable(bytes.len()) {
            Ok(permitted) if permitted == bytes.len() => {}
            Ok(_) | Err(_) => return Err(failed(ErrorCode::AccessDenied)),
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.fd, rest, flags) {
                Ok(sent) => {
                    budget.sent(sent);
                    rest = rest.get(sent..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::OUT).map_err(|errno| failed(code(errno)))?;
                }
                Err(Errno::PIPE) => return Err(StreamError::Closed),
                Err(errno) => return Err(failed(code(errno))),
            }
        }
        Ok(())
    }
}

/// The granted peers of a run, and the reserved addresses of their names.
pub(super) struct Peers {
    grants: Vec<NetworkGrant>,
    names: Vec<String>,
}

impl Peers {
    pub(super) fn new(grants: Vec<NetworkGrant>) -> Peers {
        let mut names: Vec<String> = Vec::new();
        for grant in &grants {
            if let Peer::Name(name) = &grant.host
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        Peers { grants, names }
    }

    /// The reserved address of a granted name.
    fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let at = self.names.iter().position(|granted| granted == name)?;
        let [_, _, high, low] = u32::try_from(at).ok()?.to_be_bytes();
        Some(Ipv4Addr::new(240, 0, high, low))
    }

    /// The peer of an address.
    fn peer(&self, address: IpAddr) -> Peer {
        let name = self.names.iter().find(|name| {
            self.address_of(name).is_some_and(|stands_for| address == IpAddr::V4(stands_for))
        });
        match name {
            Some(name) => Peer::Name(name.clone()),
            None => Peer::Address(canonical_address(address)),
        }
    }

    fn is_granted(&self, host: &Peer, port: u16, protocol: Protocol) -> bool {
        port != 0
            && self
                .grants
                .iter()
                .any(|grant| (&grant.host, grant.port, grant.protocol) == (host, port, protocol))
    }

    fn is_granted_somewhere(&self, host: &Peer, protocol: Option<Protocol>) -> bool {
        self.grants.iter().any(|grant| {
            grant.host == *host && protocol.is_none_or(|protocol| protocol == grant.protocol)
        })
    }
}

impl WasiState {
    /// Connects to the peer of an address, if it is granted. The supervisor logs the decision,
    /// because only it knows the resolved address.
    fn connect(
        &mut self,
        address: SocketAddr,
        protocol: Protocol,
    ) -> SocketResult<Arc<Connection>> {
        let (host, port) = (self.peers.peer(address.ip()), address.port());
        let (code, rule) = match self.peers.is_granted(&host, port, protocol) {
            false => (ErrorCode::AccessDenied, peer_rule(&host, port, protocol)),
            true => {
                match self.budget.hold().and_then(|held| self.budget.connect().map(|()| held)) {
                    Err(Exhausted(key)) => (ErrorCode::NewSocketLimit, key_rule("quotas", key)),
                    Ok(held) => {
                        return match self.outside.connect(&host, port, protocol) {
                            Ok(fd) => Ok(Arc::new(Connection { fd, _held: held })),
                            Err(_) => refuse(ErrorCode::ConnectionRefused),
                        };
                    }
                }
            }
        };
        let (resource, access) = (format!("{host} port {port}"), "connect");
        let asked = Asked { resource: &resource, access, allowed: false, rule: &rule };
        self.outside.decided(&asked).map_err(SocketError::trap)?;
        refuse(code)
    }

    /// Logs a request that no policy can grant.
    fn never(&mut self, resource: &str, access: &str) -> SocketResult<()> {
        let rule = "programs can only connect, and only to peers in [[network]]";
        let asked = Asked { resource, access, allowed: false, rule };
        self.outside.decided(&asked).map_err(SocketError::trap)
    }
}

impl network::Host for WasiState {
    fn convert_error_code(&mut self, err: SocketError) -> wasmtime::Result<ErrorCode> {
        err.downcast()
    }

    fn network_error_code(
        &mut self,
        err: Resource<network::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let err = self.table.get::<_, wasmtime::Error>(&err)?;
        Ok(err.downcast_ref::<ErrorCode>().copied())
    }
}

/// The handle of the network in WASI; here it grants nothing.
struct NoNetwork;

impl network::HostNetwork for WasiState {
    fn drop(&mut self, handle: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete::<_, NoNetwork>(&handle).map(drop)
    }
}

impl wasmtime_wasi::p2::bindings::sockets::instance_network::Host for WasiState {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        self.table.push(NoNetwork)
    }
}

fn std_address(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(address) => {
            let (a, b, c, d) = address.address;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), address.port)
        }
        IpSocketAddress::Ipv6(address) => {
            let (a, b, c, d, e, f, g, h) = address.address;
            let v6 = std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h);
            SocketAddr::new(IpAddr::V6(v6), address.port)
        }
    }
}

fn wasi_ip(address: IpAddr) -> IpAddress {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            IpAddress::Ipv4((a, b, c, d))
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments();
            IpAddress::Ipv6((a, b, c, d, e, f, g, h))
        }
    }
}

/// The local address of every connection, as programs see it: they must not learn the host's
/// address.
fn own_address(family: network::IpAddressFamily) -> IpSocketAddress {
    match family {
        network::IpAddressFamily::Ipv4 => {
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (0, 0, 0, 0) })
        }
        network::IpAddressFamily::Ipv6 => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port: 0,
            flow_info: 0,
            address: (0, 0, 0, 0, 0, 0, 0, 0),
            scope_id: 0,
        }),
    }
}

fn refuse<V>(code: ErrorCode) -> SocketResult<V> {
    Err(code.into())
}

fn code(errno: Errno) -> ErrorCode {
    match errno {
        Errno::CONNREFUSED => ErrorCode::ConnectionRefused,
        Errno::CONNRESET | Errno::PIPE => ErrorCode::ConnectionReset,
        Errno::CONNABORTED => ErrorCode::ConnectionAborted,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN => ErrorCode::RemoteUnreachable,
        Errno::TIMEDOUT => ErrorCode::Timeout,
        Errno::MSGSIZE => ErrorCode::DatagramTooLarge,
        Errno::NOBUFS | Errno::NOMEM => ErrorCode::OutOfMemory,
        _ => ErrorCode::Unknown,
    }
}
