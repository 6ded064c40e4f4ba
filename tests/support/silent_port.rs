//! A port that never answers connections.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A port whose backlog is full: new connections get no answer.
pub(crate) fn silent_port() -> (TcpListener, Vec<TcpStream>, u16) {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any = "127.0.0.1:0".parse::<std::net::SocketAddrV4>().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the listener's backlog has no end");
    }
    (listener, waiting, address.port())
}
