//! TCP: a socket represents one connection, which is made when the program connects.

use std::sync::Arc;

use rustix::net::Shutdown;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::p2::bindings::sync::io::poll::Pollable;
use wasmtime_wasi::p2::bindings::sync::io::streams::{InputStream, OutputStream};
use wasmtime_wasi::p2::bindings::sync::sockets::tcp::{self, ShutdownType};
use wasmtime_wasi::p2::{Network, SocketError, SocketResult, TcpSocket};

use super::super::WasiState;
use super::super::io::Ready;
use super::super::streams::{Input, Output};
use super::{Connection, code, own_address, refuse, std_address};
use belljar_policy::Protocol;

struct Tcp {
    family: IpAddressFamily,
    /// The connection, and the address that the program connected to.
    connected: Option<(Arc<Connection>, IpSocketAddress)>,
    /// Whether its streams were passed to the program.
    taken: bool,
}

type Handle = Resource<TcpSocket>;

impl WasiState {
    fn tcp(&mut self, handle: &Handle) -> Result<&mut Tcp, SocketError> {
        self.table.get_mut(handle).map_err(SocketError::trap)
    }
}

impl tcp_create_socket::Host for WasiState {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Handle> {
        let socket = Tcp { family, connected: None, taken: false };
        self.table.push(socket).map_err(SocketError::trap)
    }
}

impl tcp::Host for WasiState {}

impl tcp::HostTcpSocket for WasiState {
    fn start_bind(
        &mut self,
        _: Handle,
        _: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.never(&std_address(address).to_string(), "bind")?;
        refuse(ErrorCode::AccessDenied)
    }

    fn finish_bind(&mut self, _: Handle) -> SocketResult<()> {
        refuse(ErrorCode::NotInProgress)
    }

    fn start_connect(
        &mut self,
        handle: Handle,
        _: Resource<Network>,
        address: IpSocketAddress,
    ) -> SocketResult<()> {
        let socket = self.tcp(&handle)?;
        if socket.connected.is_some() {
            return refuse(ErrorCode::InvalidState);
        }
        let same = match address {
            IpSocketAddress::Ipv4(_) => socket.family == IpAddressFamily::Ipv4,
            IpSocketAddress::Ipv6(_) => socket.family == IpAddressFamily::Ipv6,
        };
        if !same {
            return refuse(ErrorCode::InvalidArgument);
        }
        let connection = self.connect(std_address(address), Protocol::Tcp)?;
        self.tcp(&handle)?.connected = Some((connection, address));
        Ok(())
    }

    fn finish_connect(
        &mut self,
        handle: Handle,
    ) -> SocketResult<(Resource<InputStream>, Resource<OutputStream>)> {
        let socket = self.tcp(&handle)?;
        let connection = match &socket.connected {
            Some((connection, _)) if !socket.taken => Arc::clone(connection),
            _ => return refuse(ErrorCode::NotInProgress),
        };
        socket.taken = true;
        let input = self.table.push(Input::Socket(Arc::clone(&connection)));
        let output = self.table.push(Output::Socket(connection));
        Ok((input.map_err(SocketError::trap)?, output.map_err(SocketError::trap)?))
    }

    fn start_listen(&mut self, _: Handle) -> SocketResult<()> {
        self.never("tcp", "listen")?;
        refuse(ErrorCode::AccessDenied)
    }

    fn finish_listen(&mut self, _: Handle) -> SocketResult<()> {
        refuse(ErrorCode::NotInProgress)
    }

    fn accept(
        &mut self,
        _: Handle,
    ) -> SocketResult<(Handle, Resource<InputStream>, Resource<OutputStream>)> {
        refuse(ErrorCode::InvalidState)
    }

    fn local_address(&mut self, handle: Handle) -> SocketResult<IpSocketAddress> {
        let socket = self.tcp(&handle)?;
        match socket.connected {
            Some(_) => Ok(own_address(socket.family)),
            None => refuse(ErrorCode::InvalidState),
        }
    }

    fn remote_address(&mut self, handle: Handle) -> SocketResult<IpSocketAddress> {
        match &self.tcp(&handle)?.connected {
            Some((_, address)) => Ok(*address),
            None => refuse(ErrorCode::InvalidState),
        }
    }

    fn is_listening(&mut self, _: Handle) -> wasmtime::Result<bool> {
        Ok(false)
    }

    fn address_family(&mut self, handle: Handle) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get::<_, Tcp>(&handle)?.family)
    }

    fn set_listen_backlog_size(&mut self, _: Handle, _: u64) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn keep_alive_enabled(&mut self, _: Handle) -> SocketResult<bool> {
        Ok(false)
    }

    fn set_keep_alive_enabled(&mut self, _: Handle, _: bool) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn keep_alive_idle_time(&mut self, _: Handle) -> SocketResult<u64> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_keep_alive_idle_time(&mut self, _: Handle, _: u64) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn keep_alive_interval(&mut self, _: Handle) -> SocketResult<u64> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_keep_alive_interval(&mut self, _: Handle, _: u64) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn keep_alive_count(&mut self, _: Handle) -> SocketResult<u32> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_keep_alive_count(&mut self, _: Handle, _: u32) -> SocketResult<()> {
        refuse(ErrorCode::NotSupported)
    }

    fn hop_limit(&mut self, _: Handle) -> SocketResult<u8> {
        refuse(ErrorCode::NotSupported)
    }

    fn set_hop_limit(&mut self, _: Handle, _: u8) -> SocketResult<()> {
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

    /// Always ready, because a connection is made at once or fails.
    fn subscribe(&mut self, _: Handle) -> wasmtime::Result<Resource<Pollable>> {
        self.table.push(Ready::Now)
    }

    fn shutdown(&mut self, handle: Handle, how: ShutdownType) -> SocketResult<()> {
        let Some((connection, _)) = &self.tcp(&handle)?.connected else {
            return refuse(ErrorCode::InvalidState);
        };
        let how = match how {
            ShutdownType::Receive => Shutdown::Read,
            ShutdownType::Send => Shutdown::Write,
            ShutdownType::Both => Shutdown::Both,
        };
        match rustix::net::shutdown(&connection.fd, how) {
            Ok(()) => Ok(()),
            Err(errno) => refuse(code(errno)),
        }
    }

    fn drop(&mut self, handle: Handle) -> wasmtime::Result<()> {
        self.table.delete::<_, Tcp>(&handle).map(drop)
    }
}
