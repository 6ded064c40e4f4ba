//! Classifies internet addresses and checks host names.
//!
//! Anyone who controls the zone of a granted name can point it anywhere, so every address is
//! classified when it is used, after forms that hide another address (IPv4 inside IPv6) are
//! unwrapped. An address that is not known to be safe is [`AddressKind::Never`].
//!
//! Sources: the IANA registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890 and its
//! successors), RFC 6052 and RFC 8215 for NAT64, RFC 6598 for CGNAT, RFC 1123 for names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressKind {
    /// A machine on the internet.
    Public,
    /// A machine of this organisation or provider: RFC 1918, CGNAT, unique local addresses.
    Private,
    /// This machine.
    Loopback,
    /// This network segment, where clouds serve a machine's credentials (169.254.169.254 and
    /// others).
    LinkLocal,
    /// Never granted: unspecified (which reaches this machine), multicast, broadcast, reserved, for
    /// documentation, or wrapped so that the destination is unknown.
    Never,
}

impl AddressKind {
    /// The kinds that a policy can grant, in the order of the format.
    pub const GRANTABLE: [AddressKind; 4] =
        [AddressKind::Public, AddressKind::Private, AddressKind::Loopback, AddressKind::LinkLocal];

    /// The kind's name in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AddressKind::Public => "public",
            AddressKind::Private => "private",
            AddressKind::Loopback => "loopback",
            AddressKind::LinkLocal => "link-local",
            AddressKind::Never => "never",
        }
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address to which this machine's kernel really connects: IPv4 in the mapped form of IPv6
/// (`::ffff:a.b.c.d`) is IPv4.
#[must_use]
pub fn canonical_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The kind of an address, in whatever form it is written.
#[must_use]
pub fn address_kind(address: IpAddr) -> AddressKind {
    match canonical_address(address) {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(address: Ipv4Addr) -> AddressKind {
    use AddressKind::*;
    match address.octets() {
        [10, ..] | [192, 168, ..] => Private,
        [172, second, ..] if second & 0xf0 == 16 => Private,
        // CGNAT, which contains the metadata service of one cloud.
        [100, second, ..] if second & 0xc0 == 64 => Private,
        [127, ..] => Loopback,
        [169, 254, ..] => LinkLocal,
        // A public address at which one cloud serves every machine locally.
        [168, 63, 129, 16] => LinkLocal,
        // "This network": Linux takes 0.0.0.0 for this machine.
        [0, ..] => Never,
        // Protocol assignments, which contain one cloud's metadata service.
        [192, 0, 0, _] => Never,
        // Documentation, the relays of 6to4, and benchmarks.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => Never,
        [198, 18 | 19, ..] => Never,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => Never,
        _ => Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> AddressKind {
    use AddressKind::*;
    if address == Ipv6Addr::LOCALHOST {
        return Loopback;
    }
    match address.segments() {
        [first, ..] if first & 0xfe00 == 0xfc00 => Private,
        // Site-local, which RFC 3879 deprecated but networks still route.
        [first, ..] if first & 0xffc0 == 0xfec0 => Private,
        [first, ..] if first & 0xffc0 == 0xfe80 => LinkLocal,
        // NAT64: the translator connects to the IPv4 address inside, from its own place in the
        // network. Only public addresses may be inside (RFC 6052, 3.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            match kind_v4(Ipv4Addr::new(a, b, c, d)) {
                Public => Public,
                _ => Never,
            }
        }
        // Protocol assignments (Teredo and ORCHID are among them), documentation, 6to4.
        [0x2001, second, ..] if second < 0x200 => Never,
        [0x2001, 0xdb8, ..] | [0x2002, ..] => Never,
        [0x3fff, second, ..] if second < 0x1000 => Never,
        // All of global unicast.
        [first, ..] if first & 0xe000 == 0x2000 => Public,
        _ => Never,
    }
}

/// A host that a policy names: checked, and normalised for comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// A DNS name in lower case, without a trailing dot.
    Name(String),
    /// An address; IPv4 is never in an IPv6 form.
    Address(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Name(name) => f.write_str(name),
            Peer::Address(address) => address.fmt(f),
        }
    }
}

impl Peer {
    /// Parses a name or an address. `Err` is what is wrong with the text.
    pub fn parse(text: &str) -> Result<Peer, &'static str> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return match address_kind(address) {
                AddressKind::Never => Err("an address that cannot be granted"),
                _ => Ok(Peer::Address(canonical_address(address))),
            };
        }
        check_name(text)?;
        Ok(Peer::Name(text.to_ascii_lowercase()))
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("empty");
    }
    if !name.is_ascii() {
        return Err("not ASCII; write an international name in its encoded form (xn--…)");
    }
    if name.contains('*') {
        return Err("a pattern; name each host in full");
    }
    if name.contains('%') {
        return Err("an address with a zone, whose meaning depends on the machine");
    }
    if name.contains([':', '[', ']', '/', '@']) {
        return Err("not a plain name or address; write the port under `port`, and IPv6 without \
                    brackets");
    }
    if name.len() > 253 {
        return Err("longer than 253 characters, the maximum length of a name");
    }
    if name.ends_with('.') {
        return Err("ends with a dot; write the name without it");
    }
    let mut last = "";
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("has a label that is empty or longer than 63 characters");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("has a label that begins or ends with a hyphen");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err("contains a character other than letters, digits, hyphens and dots");
        }
        last = label;
    }
    // Resolvers accept 127.1, 0x7f.1 and 2130706433 as addresses.
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric {
        return Err("not a valid IPv4 address; write four numbers from 0 to 255 without leading \
                    zeros");
    }
    Ok(())
}
