//! Network access with and without grants, through the supervisor.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};

use super::{Bench, Names, peer};
use belljar_policy::{AddressKind, Protocol};

const LOOPBACK: &[AddressKind] = &[AddressKind::Loopback];

/// A service that echoes each connection's bytes in capitals, until it receives `end`.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if &bytes[..len] == b"end" {
                        return;
                    }
                    let _ = stream.write_all(&bytes[..len].to_ascii_uppercase());
                }
            });
        }
    });
    port
}

#[test]
fn peers_without_a_grant_are_refused() {
    let port = service();
    let mut bench = Bench::new();
    bench.check(&format!(
        "resolve localhost => error access-denied
         resolve features.test => error access-denied
         resolve 127.0.0.1 => error access-denied
         connect a 127.0.0.1 {port} => error access-denied
         connect a ::1 {port} => error access-denied
         connect a 169.254.169.254 80 => error access-denied
         connect a 0.0.0.0 {port} => error access-denied
         connect a 240.0.0.0 {port} => error access-denied
         udp a 127.0.0.1 53 => error access-denied
         udp-anywhere a => error access-denied
         bind 127.0.0.1 0 => error access-denied
         bind 0.0.0.0 0 => error access-denied
         listen => error access-denied"
    ));
    bench.refused(
        "connect 169.254.169.254 port 80: [[network]] host = \"169.254.169.254\", port = 80, \
         protocol = \"tcp\"",
    );
    bench.refused("resolve features.test: [[network]] host = \"features.test\"");
    assert!(bench.seen.lock().unwrap().connects.is_empty(), "the supervisor got a request");
}

#[test]
fn a_granted_name_is_reached_at_its_port() {
    let port = service();
    let names = Names::new(&[&["127.0.0.1"]]);
    let mut bench = Bench::new().network(peer("features.test", port, LOOPBACK), &names);
    let other = port.wrapping_add(1);
    bench.check(&format!(
        "resolve features.test => 240.0.0.0
         resolve FEATURES.test => 240.0.0.0
         connect a features.test {port} => ok
         send a hello => ok
         receive a => HELLO
         own-address a => IpSocketAddress::Ipv4(Ipv4SocketAddress {{ port: 0, address: (0, 0, 0, 0) }})
         send a end => ok
         receive a => error closed
         connect b features.test {other} => error access-denied
         connect b 127.0.0.1 {port} => error access-denied
         connect b ::ffff:127.0.0.1 {port} => error access-denied
         connect b 240.0.0.1 {port} => error access-denied
         udp b features.test {port} => error access-denied
         resolve features.test. => error access-denied
         resolve x.features.test => error access-denied
         resolve features.test\\0 => error access-denied
         resolve \\L => error access-denied
         resolve \\e => error access-denied"
    ));
    assert_eq!(names.asked(), 1, "a look-up in the program does not resolve the name");
    assert_eq!(bench.seen.lock().unwrap().connects, [format!("features.test {port} tcp")]);
}

#[test]
fn granted_address_is_reached_in_each_notation() {
    let port = service();
    let names = Names::new(&[]);
    let grant = |names| Bench::new().network(peer("127.0.0.1", port, LOOPBACK), names);
    grant(&names).check(&format!(
        "resolve 127.0.0.1 => 127.0.0.1
         connect a 127.0.0.1 {port} => ok
         send a hello => ok
         receive a => HELLO
         connect a ::ffff:127.0.0.1 {port} => ok
         connect a 127.0.0.2 {port} => error access-denied
         connect a ::1 {port} => error access-denied
         connect a localhost {port} => error access-denied"
    ));
}

#[test]
fn granted_name_that_resolves_to_another_kind_of_address_is_refused() {
    let port = service();
    for address in ["127.0.0.1", "169.254.169.254", "10.0.0.1"] {
        let names = Names::new(&[&[address]]);
        let public = peer("features.test", port, &[AddressKind::Public]);
        Bench::new().network(public, &names).check(&format!(
            "resolve features.test => 240.0.0.0
             connect a features.test {port} => error connection-refused"
        ));
    }
}

#[test]
fn quotas_of_the_network_hold() {
    let port = service();
    let bench = || {
        let mut bench = Bench::new();
        bench.quotas.connections = 3;
        bench.quotas.bytes_sent = 8;
        bench.quotas.bytes_received = 7;
        bench.network(peer("127.0.0.1", port, LOOPBACK), &Names::new(&[]))
    };
    let mut counted = bench();
    counted.check(&format!("connect-many 10 127.0.0.1 {port} => 3 then new-socket-limit"));
    counted.refused(&format!("connect 127.0.0.1 port {port}: [quotas] connections"));
    let mut sent = bench();
    let found = sent.run(&format!(
        "connect a 127.0.0.1 {port}\nsend a 1234567\nsend a 12\nsend a x\nsend a y\nreceive a"
    ));
    assert_eq!(found[..2], ["ok", "ok"]);
    assert!(found[2].starts_with("error "), "two bytes where one is left: {found:?}");
    assert_eq!(found[3], "ok");
    assert!(found[4].starts_with("error "), "{found:?}");
    let mut received = bench();
    let found = received.run(&format!(
        "connect a 127.0.0.1 {port}\nsend a 12345678\nreceive a\nreceive a\nreceive a\nreceive a\n\
         receive a\nreceive a\nreceive a\nreceive a"
    ));
    let bytes: usize =
        found[2..].iter().filter(|line| !line.starts_with("error")).map(String::len).sum();
    assert_eq!(bytes, 7, "{found:?}");
}

#[test]
fn connections_count_as_handles() {
    let port = service();
    let mut bench = Bench::new();
    bench.quotas.open_handles = 0;
    let mut bench = bench.network(peer("127.0.0.1", port, LOOPBACK), &Names::new(&[]));
    bench.check(&format!("connect a 127.0.0.1 {port} => error new-socket-limit"));
}

#[test]
fn datagrams_go_to_a_granted_peer() {
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut bytes = [0; 100];
        let (len, from) = theirs.recv_from(&mut bytes).unwrap();
        theirs.send_to(&bytes[..len].to_ascii_uppercase(), from).unwrap();
    });
    let mut grant = peer("features.test", port, LOOPBACK);
    grant.protocol = Protocol::Udp;
    let mut bench = Bench::new().network(grant, &Names::new(&[&["127.0.0.1"]]));
    let other = port.wrapping_add(1);
    bench.check(&format!(
        "udp a features.test {port} => ok
         udp-send a hello => 1
         udp-receive a => HELLO
         udp b features.test {other} => error access-denied
         udp-anywhere b => error access-denied
         connect b features.test {port} => error access-denied"
    ));
}
