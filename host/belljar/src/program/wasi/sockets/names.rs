//! Resolves granted names to their reserved addresses, without sending any request.

use std::net::IpAddr;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network, SocketError, SocketResult};

use super::super::io::Ready;
use super::super::{Asked, WasiState};
use super::{refuse, wasi_ip};
use belljar_policy::Peer;
use belljar_text::Escaped;

/// Maximum length of a name.
const MAX_NAME: usize = 253;

/// The only address of a name.
struct Addresses(Option<IpAddr>);

impl ip_name_lookup::Host for WasiState {
    fn resolve_addresses(
        &mut self,
        _: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        let peer = match name.len() {
            0..=MAX_NAME => Peer::parse(&name).ok(),
            _ => None,
        };
        let address = peer.filter(|peer| self.peers.is_granted_somewhere(peer, None));
        let address = address.and_then(|peer| match peer {
            Peer::Name(name) => self.peers.address_of(&name).map(IpAddr::V4),
            Peer::Address(address) => Some(address),
        });
        let shown = Escaped::cut(&name, MAX_NAME).to_string();
        let (resource, allowed) = (shown.as_str(), address.is_some());
        let rule = format!("[[network]] host = \"{shown}\"");
        let asked = Asked { resource, access: "resolve", allowed, rule: &rule };
        self.outside.decided(&asked).map_err(SocketError::trap)?;
        match address {
            Some(address) => self.table.push(Addresses(Some(address))).map_err(SocketError::trap),
            None => refuse(ErrorCode::AccessDenied),
        }
    }
}

impl ip_name_lookup::HostResolveAddressStream for WasiState {
    fn resolve_next_address(
        &mut self,
        handle: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        let found = self.table.get_mut::<_, Addresses>(&handle).map_err(SocketError::trap)?;
        Ok(found.0.take().map(wasi_ip))
    }

    fn subscribe(
        &mut self,
        _: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.table.push(Ready::Now)
    }

    fn drop(&mut self, handle: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete::<_, Addresses>(&handle).map(drop)
    }
}
