//! The peers of a recorded policy, each with the risk of connecting to it.

use std::fmt::Write as _;

use super::{MAX_COMMENTS, Recorded, Writer};
use belljar_policy::write::quoted;
use belljar_policy::{AddressKind, NetworkGrant, Peer, Protocol, address_kind};
use belljar_text::Escaped;

impl Writer<'_> {
    fn peer(&self, grant: &NetworkGrant) -> String {
        let reaches = grant.reaches.iter().map(|kind| quoted(kind.name()));
        format!(
            "[[network]]\nhost = {}\nport = {}\nprotocol = \"{}\"\nreaches = [{}]\nreason = {}\n",
            quoted(&grant.host.to_string()),
            grant.port,
            grant.protocol.name(),
            reaches.collect::<Vec<_>>().join(", "),
            self.reason("connected to")
        )
    }

    pub(super) fn peers(&mut self) {
        let Recorded { base, used, asked, .. } = self.recorded;
        let granted = |(host, port, protocol): &(String, u16, Protocol)| {
            base.network.iter().find(|grant| {
                (grant.host.to_string(), grant.port, grant.protocol)
                    == (host.clone(), *port, *protocol)
            })
        };
        for (peer, _) in used.peers.iter().filter(|(_, allowed)| **allowed) {
            let Some(grant) = granted(peer) else { continue };
            let entry = self.peer(grant);
            match grant.reaches == [AddressKind::Loopback] {
                true => {
                    let _ = write!(self.out, "\n{entry}");
                }
                false => {
                    let why = risk(&grant.reaches);
                    self.aside(&format!("The program connected to this peer: {why}"), &entry, true);
                }
            }
        }
        let counts = !self.answered();
        let refused = asked.peers.keys().filter(|peer| granted(peer).is_none());
        for (host, port, protocol) in refused.take(MAX_COMMENTS) {
            let Ok(peer) = Peer::parse(host) else {
                let host = Escaped::cut(host, 100);
                let _ = writeln!(
                    self.out,
                    "\n# The program requested {host} port {port}, which no policy can grant."
                );
                continue;
            };
            let kind = match &peer {
                Peer::Address(address) => address_kind(*address),
                Peer::Name(name) if name == "localhost" || name.ends_with(".localhost") => {
                    AddressKind::Loopback
                }
                Peer::Name(_) => AddressKind::Public,
            };
            if kind == AddressKind::Never || *port == 0 {
                let _ = writeln!(
                    self.out,
                    "\n# The program requested {peer} port {port}, which no policy can grant."
                );
                continue;
            }
            let (port, protocol) = (*port, *protocol);
            let why = risk(&[kind]);
            let mut grant = NetworkGrant::new(peer, port, protocol, "");
            grant.reaches = vec![kind];
            let entry = self.peer(&grant);
            let sentence = format!("The program tried to connect to this peer: {why}");
            self.aside(&sentence, &entry, counts);
        }
        let connected = |name: &str| asked.peers.keys().any(|(host, ..)| host == name);
        for peer in asked.refused_names().filter(|peer| !connected(&peer.to_string())) {
            let sentence = "The program looked up this name, and did not connect.";
            let entry = format!(
                "[[network]]\nhost = {}\nport = …\nreason = {}\n",
                quoted(&peer.to_string()),
                self.reason("looked up")
            );
            self.aside(sentence, &entry, counts);
        }
    }
}

/// Why a peer is risky.
fn risk(reaches: &[AddressKind]) -> &'static str {
    if reaches.contains(&AddressKind::LinkLocal) {
        "cloud machines get their credentials from link-local addresses."
    } else if reaches.contains(&AddressKind::Private) {
        "a machine of the local network, which may trust other machines in it."
    } else if reaches.contains(&AddressKind::Public) {
        "a machine on the internet, which can keep any data sent to it."
    } else {
        "a service on this machine."
    }
}
