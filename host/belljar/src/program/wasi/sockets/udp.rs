//! UDP: a socket exchanges datagrams with one granted peer only.
//!
//! In WASI 0.2, programs bind a socket before they use it. Binding to the unspecified address and
//! port 0 succeeds without any effect; any other address is refused.

use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sync::io::poll::Pollable;
use wasmtime_wasi::p2::bindings::sync::sockets::udp::{
    self, IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p2::bindings::sync::sockets::udp_create_socket;
use wasmtime_wasi::p2::{Network, SocketError, SocketResult, UdpSocket};

use super::super::WasiState;
use super::super::io::Ready;
use super::{Connection, code, own_address, refuse, std_address};
use belljar_policy::Protocol;

/// Maximum number of datagrams in one call, and maximum size of a datagram.
const MAX_DATAGRAMS: u64 = 16;
const MAX_DATAGRAM: usize = 64 << 10;

struct Udp {
    family: IpAddressFamily,
    bound: bool,
    peer: Option<Peer>,
}

/// A handle of a connection, held by each of its two streams.
#[derive(Clone)]
struct Peer {
    connection: Arc<Connection>,
    address: IpSocketAddress,
}

struct Incoming(Peer);
struct Outgoing(Peer);

type Handle = Resource<UdpSocket>;

impl WasiState {
    fn udp(&mut self, handle: &Handle) -> Result<&mut Udp, SocketError> {
        self.table.get_mut(handle).map_err(SocketError::trap)
    }
}

impl udp_create_socket::Host for WasiState {
    fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Handle> {
        let socket = Udp { family, bound: false, peer: None };
        self.table.push(socket).map_err(SocketError::trap)
    }
}

impl udp::Host for WasiState {}

impl udp::HostUdpSocket for WasiState {
    fn start_bind(
        &mut self,
        handle: Handle,
        _: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        let address = std_address(address);
        if !address.ip().is_unspecified() || address.port() != 0 {
            self.never(&address.to_string(), "bind")?;
            return refuse(ErrorCode::AccessDenied);
        }
        self.udp(&handle)?.bound = true;
        Ok(())
    }

    fn finish_bind(&mut self, handle: Handle) -> SocketResult<()> {
        match self.udp(&handle)?.bound {
            true => Ok(()),
            false => refuse(ErrorCode::NotInProgress),
        }
    }

    fn stream(
        &mut self,
        handle: Handle,
        address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let socket = self.udp(&handle)?;
        if !socket.bound || socket.peer.is_some() {
            return refuse(ErrorCode::InvalidState);
        }
        let Some(address) = address else {
            self.never("udp", "send to any address")?;
            return refuse(ErrorCode::AccessDenied);
        };
        let connection = self.connect(std_address(address), Protocol::Udp)?;
        let peer = Peer { connection, address };
        self.udp(&handle)?.peer = Some(peer.clone());
        let incoming = self.table.push(Incoming(peer.clone()));
        let outgoing = self.table.push(Outgoing(peer));
        Ok((incoming.map_err(SocketError::trap)?, outgoing.map_err(SocketError::trap)?))
    }

    fn local_address(&mut self, handle: Handle) -> SocketResult<IpSocketAddress> {
        let socket = self.udp(&handle)?;
        match socket.bound {
            true => Ok(own_address(socket.family)),
            false => refuse(ErrorCode::InvalidState),
        }
    }

    fn remote_address(&mut self, handle: Handle) -> SocketResult<IpSocketAddress> {
        match &self.udp(&handle)?.peer {
            Some(peer) => Ok(peer.address),
            None => refuse(ErrorCode::InvalidState),
        }
    }

    fn address_family(&mut self, handle: Handle) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get::<_, Udp>(&handle)?.family)
    }

    fn unicast_hop_limit(&mut self, _: Handle) -> SocketResult<u8> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_unicast_hop_limit(&mut self, _: Handle, _: u8) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn receive_buffer_size(&mut self, _: Handle) -> SocketResult<u64> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_receive_buffer_size(&mut self, _: Handle, _: u64) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn send_buffer_size(&mut self, _: Handle) -> SocketResult<u64> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_send_buffer_size(&mut self, _: Handle, _: u64) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn subscribe(&mut self, _: Handle) -> wasmtime::Result<Resource<Pollable>> {
        self.table.push(Ready::Now)
    }

    fn drop(&mut self, handle: Handle) -> wasmtime::Result<()> {
        self.table.delete::<_, Udp>(&handle).map(drop)
    }
}

impl udp::HostIncomingDatagramStream for WasiState {
    fn receive(
        &mut self,
        handle: Resource<IncomingDatagramStream>,
        most: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let Incoming(peer) = self.table.get(&handle).map_err(SocketError::trap)?;
        let peer = peer.clone();
        let mut datagrams = Vec::new();
        for _ in 0..most.min(MAX_DATAGRAMS) {
            // A datagram is received as a whole or not at all.
            if !matches!(self.budget.receivable(MAX_DATAGRAM), Ok(MAX_DATAGRAM)) {
                match datagrams.is_empty() {
                    true => return refuse(ErrorCode::AccessDenied),
                    false => break,
                }
            }
            let mut data = vec![0; MAX_DATAGRAM];
            match rustix::net::recv(&peer.connection.fd, &mut data[..], RecvFlags::DONTWAIT) {
                Ok((received, _)) => {
                    self.budget.received(received);
                    data.truncate(received);
                    data.shrink_to_fit();
                    datagrams.push(IncomingDatagram { data, remote_address: peer.address });
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) if datagrams.is_empty() => return refuse(code(errno)),
                Err(_) => break,
            }
        }
        Ok(datagrams)
    }

    fn subscribe(
        &mut self,
        handle: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<Resource<Pollable>> {
        let Incoming(peer) = self.table.get(&handle)?;
        let ready = Ready::ToRead(Arc::clone(&peer.connection));
        self.table.push(ready)
    }

    fn drop(&mut self, handle: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Incoming>(&handle).map(drop)
    }
}

impl udp::HostOutgoingDatagramStream for WasiState {
    fn check_send(&mut self, handle: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        self.table.get::<_, Outgoing>(&handle).map_err(SocketError::trap)?;
        Ok(MAX_DATAGRAMS)
    }

    fn send(
        &mut self,
        handle: Resource<OutgoingDatagramStream>,
        datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let Outgoing(peer) = self.table.get(&handle).map_err(SocketError::trap)?;
        let peer = peer.clone();
        let mut sent = 0;
        for datagram in datagrams.into_iter().take(MAX_DATAGRAMS as usize) {
            let to = datagram.remote_address.map(std_address);
            if to.is_some_and(|to| to != std_address(peer.address)) {
                return refuse(ErrorCode::InvalidArgument);
            }
            // Empty datagrams are valid.
            let cost = datagram.data.len().max(1);
            match self.budget.sendable(cost) {
                Ok(permitted) if permitted == cost => {}
                Ok(_) | Err(_) if sent > 0 => break,
                Ok(_) | Err(_) => return refuse(ErrorCode::AccessDenied),
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&peer.connection.fd, &datagram.data, flags) {
                Ok(_) => {
                    self.budget.sent(cost);
                    sent += 1;
                }
                Err(Errno::AGAIN) if sent == 0 => {
                    let waited = peer.connection.wait(PollFlags::OUT);
                    waited.map_err(|errno| SocketError::from(code(errno)))?;
                    break;
                }
                Err(Errno::AGAIN) => break,
                Err(errno) if sent == 0 => return refuse(code(errno)),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn subscribe(
        &mut self,
        handle: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<Resource<Pollable>> {
        let Outgoing(peer) = self.table.get(&handle)?;
        let ready = Ready::ToWrite(Arc::clone(&peer.connection));
        self.table.push(ready)
    }

    fn drop(&mut self, handle: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Outgoing>(&handle).map(drop)
    }
}
