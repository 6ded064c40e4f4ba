//! The supervisor's connections: only to granted peers, at the checked addresses of granted kinds.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::silent_port::silent_port;
use super::{Names, peer};
use crate::program::wasi::{Broker, Denial, Refusal, Resolver};
use belljar_policy::{AddressKind, NetworkGrant, Peer, Protocol, Quotas};

const EVERY: &[AddressKind] = &AddressKind::GRANTABLE;

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Connects to what is granted.
fn connect(grant: &NetworkGrant, names: &Arc<Names>) -> Result<OwnedFd, Refusal> {
    let names: Arc<Names> = Arc::clone(names);
    let mut broker = Broker::with_resolver(vec![grant.clone()], &Quotas::default(), names);
    broker.connect(&grant.host, grant.port, grant.protocol)
}

#[track_caller]
fn refused(grant: &NetworkGrant, names: &Arc<Names>, why: &str) {
    let Refusal(said) = connect(grant, names).expect_err("it is refused");
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_granted_peer_is_reached() {
    let (listener, port) = listener();
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "features.test"] {
        let names = Names::new(&[&["127.0.0.1"]]);
        let mut ours = TcpStream::from(connect(&peer(host, port, EVERY), &names).unwrap());
        ours.write_all(b"hello").unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let mut text = [0; 5];
        theirs.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}

#[test]
fn datagrams_go_to_one_peer() {
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    let mut grant = peer("127.0.0.1", port, EVERY);
    grant.protocol = Protocol::Udp;
    let ours = UdpSocket::from(connect(&grant, &Names::new(&[])).unwrap());
    ours.send(b"hello").unwrap();
    let mut text = [0; 8];
    assert_eq!(theirs.recv(&mut text).unwrap(), 5);
    assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
}

#[test]
fn broker_refuses_peers_that_are_not_granted() {
    let (_listener, port) = listener();
    let grant = peer("127.0.0.1", port, EVERY);
    let mut broker = Broker::new(vec![grant], &Quotas::default());
    let other = |host: &str| Peer::parse(host).unwrap();
    for (host, port, protocol) in [
        (other("127.0.0.1"), port.wrapping_add(1), Protocol::Tcp),
        (other("127.0.0.1"), port, Protocol::Udp),
        (other("127.0.0.2"), port, Protocol::Tcp),
        (other("localhost"), port, Protocol::Tcp),
        (other("::1"), port, Protocol::Tcp),
    ] {
        let Refusal(said) = broker.connect(&host, port, protocol).expect_err("it is refused");
        assert!(said.contains("not granted"), "{said}");
    }
}

#[test]
fn a_name_reaches_only_kinds_of_addresses_that_are_granted() {
    let (_listener, port) = listener();
    let public = [AddressKind::Public];
    for (address, kind) in [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("10.0.0.1", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("0.0.0.0", "never"),
        ("::", "never"),
        ("255.255.255.255", "never"),
        ("224.0.0.1", "never"),
        ("64:ff9b::7f00:1", "never"),
        ("240.0.0.0", "never"),
    ] {
        let names = Names::new(&[&[address]]);
        refused(&peer("features.test", port, &public), &names, &format!("a {kind} address"));
    }
    // Even if every kind is granted.
    for address in ["0.0.0.0", "::", "224.0.0.1", "64:ff9b::7f00:1"] {
        let names = Names::new(&[&[address]]);
        refused(&peer("features.test", port, EVERY), &names, "a never address");
    }
    // Of several addresses, only an allowed one is used.
    let loopback = [AddressKind::Loopback];
    let names = Names::new(&[&["169.254.169.254", "10.0.0.1", "127.0.0.1"]]);
    let ours = TcpStream::from(connect(&peer("features.test", port, &loopback), &names).unwrap());
    assert_eq!(ours.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
}

#[test]
fn connection_uses_the_checked_address_if_the_name_changes() {
    let (_listener, port) = listener();
    let loopback = [AddressKind::Loopback];
    let names = Names::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let ours = TcpStream::from(connect(&peer("features.test", port, &loopback), &names).unwrap());
    assert_eq!(ours.peer_addr().unwrap().to_string(), format!("127.0.0.1:{port}"));
    assert_eq!(names.asked(), 1, "the address that was checked is the one that is used");
    refused(&peer("features.test", port, &loopback), &names, "a link-local address");
}

#[test]
fn connections_are_counted() {
    let (_listener, port) = listener();
    let grant = peer("127.0.0.1", port, EVERY);
    let mut quotas = Quotas::default();
    quotas.connections = 2;
    let mut broker = Broker::new(vec![grant.clone()], &quotas);
    let mut connect = || broker.connect(&grant.host, port, Protocol::Tcp);
    assert!(connect().is_ok() && connect().is_ok());
    let Refusal(said) = connect().expect_err("it is refused");
    assert!(said.contains("[quotas] connections"), "{said}");
}

#[test]
fn unreachable_peers_and_unknown_names_are_errors() {
    let (listener, port) = listener();
    drop(listener);
    refused(&peer("127.0.0.1", port, EVERY), &Names::new(&[]), "cannot connect to 127.0.0.1");
    refused(&peer("features.test", port, EVERY), &Names::new(&[]), "no such name");
    refused(&peer("features.test", port, EVERY), &Names::new(&[&[]]), "has no address");
}

#[test]
fn look_up_that_hangs_times_out() {
    struct Hangs;
    impl Resolver for Hangs {
        fn addresses(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            std::thread::sleep(Duration::from_secs(3));
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        }
    }
    let grant = peer("features.test", 1, EVERY);
    let mut broker =
        Broker::with_resolver(vec![grant.clone()], &Quotas::default(), Arc::new(Hangs));
    broker.look_up_time = Duration::from_millis(20);
    let Refusal(said) = broker.connect(&grant.host, 1, Protocol::Tcp).expect_err("it is refused");
    assert!(said.contains("took longer than 20ms"), "{said}");
}

#[test]
fn look_ups_and_connections_end_with_the_time_of_the_run() {
    struct Hangs;
    impl Resolver for Hangs {
        fn addresses(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            std::thread::sleep(Duration::from_secs(3));
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        }
    }
    let soon = || Instant::now() + Duration::from_millis(50);
    let grant = peer("features.test", 1, EVERY);
    let mut broker =
        Broker::with_resolver(vec![grant.clone()], &Quotas::default(), Arc::new(Hangs));
    // A name server that does not answer, in a run with one second left: not the usual five
    // seconds.
    let Err(Denial::Failed(said)) = broker.judge(&grant.host, 1, Protocol::Tcp, soon()) else {
        panic!("nothing is known of the name")
    };
    assert!(said.contains("took longer than") && said.contains("ms"), "{said}");
    // A run without time left does not connect.
    let (listener, port) = listener();
    let grant = peer("127.0.0.1", port, EVERY);
    let mut broker = Broker::new(vec![grant.clone()], &Quotas::default());
    let judged = broker.judge(&grant.host, port, Protocol::Tcp, soon()).unwrap();
    let Refusal(said) = judged.connect(Instant::now()).unwrap_err();
    assert_eq!(said, format!("cannot connect to 127.0.0.1 port {port}: the run has no time left"));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    // A peer that does not answer times out with the run, not after the usual ten seconds.
    let (_listener, _waiting, port) = silent_port();
    let grant = peer("127.0.0.1", port, EVERY);
    let mut broker = Broker::new(vec![grant.clone()], &Quotas::default());
    let judged = broker.judge(&grant.host, port, Protocol::Tcp, soon()).unwrap();
    let Refusal(said) = judged.connect(Instant::now() + Duration::from_millis(1900)).unwrap_err();
    assert!(said.contains(": no answer within 1."), "{said}");
}
