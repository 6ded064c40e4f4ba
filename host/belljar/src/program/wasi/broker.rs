//! The supervisor's side of the network: opens the connections that a policy grants, and passes the
//! connected sockets to the program's process.
//!
//! A name is resolved once, each of its addresses is checked, and the connection is made to an
//! address that passed: the owner of the name cannot change the address between the check and its
//! use. Grants are checked here again, because the requests of a program's process must not be
//! trusted.
//!
//! There are two steps, so that the verdict can be logged between them: [`Broker::judge`] decides
//! whether a connection is allowed and to which addresses, and [`Judged::connect`] makes it. Both
//! end when the run has no time left.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::Refusal;
use super::io::wait_for;
use belljar_policy::{
    NetworkGrant, Peer, Protocol, Quotas, address_kind, canonical_address, key_rule, peer_rule,
};

/// Maximum time for resolving a name, and for connecting to its addresses.
const LOOK_UP_TIME: Duration = Duration::from_secs(5);
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Maximum number of addresses of a name that are tried.
const MAX_TRIED: usize = 4;

/// Maximum number of concurrent look-ups in this process: a look-up that hangs keeps its thread
/// until the C library gives up.
const MAX_LOOK_UPS: usize = 8;

static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

/// Resolves names to addresses.
pub(crate) trait Resolver: Send + Sync + 'static {
    /// All addresses of a name.
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of this machine: `getaddrinfo`.
pub(crate) struct SystemResolver;

impl Resolver for SystemResolver {
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }
}

/// Opens the connections of one run.
pub(crate) struct Broker {
    grants: Vec<NetworkGrant>,
    connections: u32,
    resolver: Arc<dyn Resolver>,
    /// Maximum time for resolving a name.
    pub(super) look_up_time: Duration,
}

impl Broker {
    pub(crate) fn new(grants: Vec<NetworkGrant>, quotas: &Quotas) -> Broker {
        Broker::with_resolver(grants, quotas, Arc::new(SystemResolver))
    }

    pub(crate) fn with_resolver(
        grants: Vec<NetworkGrant>,
        quotas: &Quotas,
        resolver: Arc<dyn Resolver>,
    ) -> Broker {
        let look_up_time = LOOK_UP_TIME;
        Broker { grants, connections: quotas.connections, resolver, look_up_time }
    }

    /// Decides whether a connection to a peer is allowed, and to which addresses; resolves its name
    /// before `until`.
    pub(crate) fn judge(
        &mut self,
        host: &Peer,
        port: u16,
        protocol: Protocol,
        until: Instant,
    ) -> Result<Judged, Denial> {
        let asked = |grant: &&NetworkGrant| {
            (&grant.host, grant.port, grant.protocol) == (host, port, protocol)
        };
        // Only `policy record` uses grants with port 0, which allow resolving a name, but no
        // connection.
        let Some(grant) = self.grants.iter().find(asked).filter(|_| port != 0) else {
            return Err(Denial::NotGranted(format!(
                "{host} port {port} over {} is not granted in [[network]]",
                protocol.name()
            )));
        };
        self.connections = self.connections.checked_sub(1).ok_or_else(|| Denial::Refused {
            rule: key_rule("quotas", "connections"),
            why: "the quota [quotas] connections is exhausted".to_owned(),
        })?;
        let left = until.saturating_duration_since(Instant::now());
        let found = match host {
            Peer::Address(address) => vec![*address],
            Peer::Name(name) => look_up(name, &self.resolver, self.look_up_time.min(left))
                .map_err(|Refusal(why)| Denial::Failed(why))?,
        };
        let mut refused = None;
        let mut good: Vec<SocketAddr> = Vec::new();
        for address in found.into_iter().map(canonical_address) {
            let with_port = SocketAddr::new(address, port);
            match grant.reaches(address) {
                true if !good.contains(&with_port) => good.push(with_port),
                true => {}
                false => refused = Some(address),
            }
        }
        match (good.is_empty(), refused) {
            (false, _) => Ok(Judged { host: host.clone(), port, protocol, addresses: good }),
            (true, Some(address)) => {
                let kind = address_kind(address);
                let rule = peer_rule(host, port, protocol);
                Err(Denial::Refused {
                    rule: format!("`reaches` does not list \"{kind}\" in {rule}"),
                    why: format!(
                        "{host} resolves to {address}, a {kind} address, which `reaches` of its \
                         [[network]] entry does not list"
                    ),
                })
            }
            (true, None) => Err(Denial::Failed(format!("{host} has no address"))),
        }
    }

    /// Both steps, for tests.
    #[cfg(test)]
    pub(crate) fn connect(
        &mut self,
        host: &Peer,
        port: u16,
        protocol: Protocol,
    ) -> Result<OwnedFd, Refusal> {
        let until = Instant::now() + LOOK_UP_TIME + CONNECT_TIME;
        match self.judge(host, port, protocol, until) {
            Ok(judged) => judged.connect(until),
            Err(Denial::NotGranted(why) | Denial::Refused { why, .. } | Denial::Failed(why)) => {
                Err(Refusal(why))
            }
        }
    }
}

/// An allowed connection that is not made yet.
#[derive(Debug)]
pub(crate) struct Judged {
    host: Peer,
    port: u16,
    protocol: Protocol,
    /// Addresses of granted kinds.
    addresses: Vec<SocketAddr>,
}

/// Why a connection is not made.
#[derive(Debug)]
pub(crate) enum Denial {
    /// No entry of the policy matches. An uncompromised process does not make such a request.
    NotGranted(String),
    /// A rule of an entry refuses it.
    Refused {
        /// The rule.
        rule: String,
        why: String,
    },
    /// The policy grants it, but it failed before connecting.
    Failed(String),
}

impl Judged {
    /// Connects before `until`.
    pub(crate) fn connect(self, until: Instant) -> Result<OwnedFd, Refusal> {
        let Judged { host, port, protocol, addresses } = self;
        let start = Instant::now();
        let longest = CONNECT_TIME.min(until.saturating_duration_since(start));
        let until = start + longest;
        let mut last = Errno::TIMEDOUT;
        for address in addresses.into_iter().take(MAX_TRIED) {
            if Instant::now() >= until {
                break;
            }
            match open(address, protocol, until) {
                Ok(connected) => return Ok(connected),
                Err(errno) => last = errno,
            }
        }
        let why = match last {
            Errno::TIMEDOUT if longest.is_zero() => "the run has no time left".to_owned(),
            Errno::TIMEDOUT => format!("no answer within {longest:?}"),
            errno => errno.to_string(),
        };
        Err(Refusal(format!("cannot connect to {host} port {port}: {why}")))
    }
}

/// All addresses of a name, resolved on a separate thread, because `getaddrinfo` has no timeout.
fn look_up(
    name: &str,
    resolver: &Arc<dyn Resolver>,
    longest: Duration,
) -> Result<Vec<IpAddr>, Refusal> {
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            LOOK_UPS.fetch_sub(1, Ordering::Relaxed);
        }
    }

    let before = LOOK_UPS.fetch_add(1, Ordering::Relaxed);
    let counted = Counted;
    if before >= MAX_LOOK_UPS {
        return Err(Refusal(format!("cannot resolve {name}: too many look-ups are pending")));
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let (resolver, asked) = (Arc::clone(resolver), name.to_owned());
    let look = move || {
        let found = resolver.addresses(&asked);
        drop(counted);
        // The receiver is gone if the look-up took too long.
        let _ = sender.send(found);
    };
    let spawned = std::thread::Builder::new().name("look-up".to_owned()).spawn(look);
    spawned.map_err(|err| Refusal(format!("cannot resolve {name}: {err}")))?;
    match receiver.recv_timeout(longest) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(err)) => Err(Refusal(format!("cannot resolve {name}: {err}"))),
        Err(_) => Err(Refusal(format!("resolving {name} took longer than {longest:?}"))),
    }
}

/// A socket that is connected to this address.
fn open(address: SocketAddr, protocol: Protocol, until: Instant) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(number))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
                wait_for(&mut fds, Some(left))?;
                if fds.iter().any(|fd| !fd.revents().is_empty()) {
                    break;
                }
                if left.is_zero() {
                    return Err(Errno::TIMEDOUT);
                }
            }
            rustix::net::sockopt::socket_error(&socket)??;
        }
        Err(errno) => return Err(errno),
    }
    // A connection to a local port without a listener can connect to itself.
    if Some(rustix::net::getsockname(&socket)?) == rustix::net::getpeername(&socket)? {
        return Err(Errno::CONNREFUSED);
    }
    Ok(socket)
}
