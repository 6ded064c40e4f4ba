//! A request to the service. The standard library has no sockets on this target, so the WASI
//! interfaces are called directly.

use std::env;

use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// Maximum length of the answer, in bytes.
const MAX_ANSWER: usize = 64;

/// The threshold of the score for this customer.
pub fn ask(customer: &str) -> Result<f32, String> {
    let variable = |name| env::var(name).map_err(|err| format!("the variable {name}: {err}"));
    let (host, port) = (variable("SERVICE")?, variable("PORT")?);
    let number = port.parse().map_err(|err| format!("the variable PORT: {err}"))?;
    let (_socket, input, output) =
        connect(&host, number).map_err(|code| format!("{host} port {port}: {}", code.name()))?;
    let answer = talk(customer, &input, &output).map_err(|err| format!("{host}: {err}"))?;
    answer.trim().parse().map_err(|err| format!("{host} answered {answer:?}: {err}"))
}

fn connect(host: &str, port: u16) -> Result<(TcpSocket, InputStream, OutputStream), ErrorCode> {
    let network = instance_network();
    let addresses = resolve_addresses(&network, host)?;
    addresses.subscribe().block();
    let address = addresses.resolve_next_address()?.ok_or(ErrorCode::NameUnresolvable)?;
    let (family, address) = match address {
        IpAddress::Ipv4(address) => {
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }))
        }
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 }),
        ),
    };
    let socket = create_tcp_socket(family)?;
    socket.start_connect(&network, address)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect()?;
    Ok((socket, input, output))
}

fn talk(customer: &str, input: &InputStream, output: &OutputStream) -> Result<String, String> {
    let failed = |err: StreamError| err.to_string();
    let question: String = customer.chars().filter(|c| !c.is_control()).take(200).collect();
    output.blocking_write_and_flush(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < MAX_ANSWER {
        answer.extend(input.blocking_read(MAX_ANSWER as u64).map_err(failed)?);
    }
    String::from_utf8(answer).map_err(|err| err.to_string())
}
