//! Operations on the network.

use std::collections::BTreeMap;

use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::{Outcome, number};

#[derive(Default)]
pub struct Sockets {
    tcp: BTreeMap<String, (InputStream, OutputStream, TcpSocket)>,
    udp: BTreeMap<String, (IncomingDatagramStream, OutgoingDatagramStream, UdpSocket)>,
}

fn code(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn stream(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}

pub fn act(sockets: &mut Sockets, words: &[&str]) -> Option<Outcome> {
    Some(match words {
        ["resolve", name] => resolve(name).map(|found| found.to_string()),
        ["connect", name, host, port] => connect(sockets, name, host, port),
        ["connect-many", count, host, port] => connect_many(sockets, count, host, port),
        ["send", name, text] => sockets.tcp.get(*name).ok_or("not held".to_owned()).and_then(|s| {
            s.1.blocking_write_and_flush(text.as_bytes()).map(|()| "ok".to_owned()).map_err(stream)
        }),
        ["receive", name] => sockets.tcp.get(*name).ok_or("not held".to_owned()).and_then(|s| {
            let found = s.0.blocking_read(1 << 40).map_err(stream)?;
            Ok(String::from_utf8_lossy(&found).into_owned())
        }),
        ["own-address", name] => sockets
            .tcp
            .get(*name)
            .ok_or("not held".to_owned())
            .and_then(|s| s.2.local_address().map(|found| format!("{found:?}")).map_err(code)),
        ["bind", host, port] => bind(host, port),
        ["listen"] => create_tcp_socket(IpAddressFamily::Ipv4)
            .and_then(|socket| socket.start_listen())
            .map(|()| "ok".to_owned())
            .map_err(code),
        ["udp", name, host, port] => udp(sockets, name, Some((host, port))),
        ["udp-anywhere", name] => udp(sockets, name, None),
        ["udp-send", name, text] => {
            sockets.udp.get(*name).ok_or("not held".to_owned()).and_then(|s| {
                let data = text.as_bytes().to_vec();
                s.1.check_send().map_err(code)?;
                let sent = s.1.send(&[OutgoingDatagram { data, remote_address: None }]);
                sent.map(|sent| sent.to_string()).map_err(code)
            })
        }
        ["udp-receive", name] => {
            sockets.udp.get(*name).ok_or("not held".to_owned()).and_then(|s| {
                s.0.subscribe().block();
                let found = s.0.receive(1).map_err(code)?;
                Ok(found.iter().map(|d| String::from_utf8_lossy(&d.data)).collect())
            })
        }
        _ => return None,
    })
}

/// An address in the types of the interface.
struct Address(IpAddress);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddress::Ipv4((a, b, c, d)) => write!(f, "{a}.{b}.{c}.{d}"),
            IpAddress::Ipv6((a, b, c, d, e, g, h, i)) => {
                std::net::Ipv6Addr::new(a, b, c, d, e, g, h, i).fmt(f)
            }
        }
    }
}

fn resolve(name: &str) -> Result<Address, String> {
    let found = resolve_addresses(&instance_network(), name).map_err(code)?;
    found.subscribe().block();
    let address = found.resolve_next_address().map_err(code)?;
    address.map(Address).ok_or_else(|| "no address".to_owned())
}

/// A literal address, or the address that a name resolves to.
fn address(host: &str, port: &str) -> Result<(IpAddressFamily, IpSocketAddress), String> {
    let port = number(port)? as u16;
    let ip = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            IpAddress::Ipv4((a, b, c, d))
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            IpAddress::Ipv6((a, b, c, d, e, f, g, h))
        }
        Err(_) => resolve(host)?.0,
    };
    Ok(match ip {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
        ),
    })
}

fn connect(sockets: &mut Sockets, name: &str, host: &str, port: &str) -> Outcome {
    let (family, address) = address(host, port)?;
    let socket = create_tcp_socket(family).map_err(code)?;
    socket.start_connect(&instance_network(), address).map_err(code)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect().map_err(code)?;
    sockets.tcp.insert(name.to_owned(), (input, output, socket));
    Ok("ok".to_owned())
}

/// Connects many times, and returns how often that succeeded.
fn connect_many(sockets: &mut Sockets, count: &str, host: &str, port: &str) -> Outcome {
    for at in 0..number(count)? {
        if let Err(found) = connect(sockets, "many", host, port) {
            return Ok(format!("{at} then {found}"));
        }
    }
    Ok(count.to_owned())
}

fn bind(host: &str, port: &str) -> Outcome {
    let (family, address) = address(host, port)?;
    let socket = create_tcp_socket(family).map_err(code)?;
    socket.start_bind(&instance_network(), address).map_err(code)?;
    socket.finish_bind().map(|()| "ok".to_owned()).map_err(code)
}

fn udp(sockets: &mut Sockets, name: &str, to: Option<(&str, &str)>) -> Outcome {
    let to = to.map(|(host, port)| address(host, port)).transpose()?;
    let socket = create_udp_socket(IpAddressFamily::Ipv4).map_err(code)?;
    let any = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (0, 0, 0, 0) });
    socket.start_bind(&instance_network(), any).map_err(code)?;
    socket.finish_bind().map_err(code)?;
    let (incoming, outgoing) = socket.stream(to.map(|(_, address)| address)).map_err(code)?;
    sockets.udp.insert(name.to_owned(), (incoming, outgoing, socket));
    Ok("ok".to_owned())
}
