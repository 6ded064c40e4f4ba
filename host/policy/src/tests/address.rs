use std::net::IpAddr;

use super::super::address::AddressKind::{self, *};
use super::super::address::{Peer, address_kind, canonical_address};
use proptest::prelude::*;

#[test]
fn wrapped_addresses_are_classified_by_destination() {
    let table: &[(&str, AddressKind)] = &[
        ("8.8.8.8", Public),
        ("1.0.0.0", Public),
        ("203.0.114.1", Public),
        ("223.255.255.255", Public),
        // RFC 1918, to the edges.
        ("9.255.255.255", Public),
        ("10.0.0.0", Private),
        ("10.255.255.255", Private),
        ("11.0.0.0", Public),
        ("172.15.255.255", Public),
        ("172.16.0.0", Private),
        ("172.31.255.255", Private),
        ("172.32.0.0", Public),
        ("192.167.255.255", Public),
        ("192.168.0.0", Private),
        ("192.168.255.255", Private),
        ("192.169.0.0", Public),
        // CGNAT.
        ("100.63.255.255", Public),
        ("100.64.0.0", Private),
        ("100.100.100.200", Private),
        ("100.127.255.255", Private),
        ("100.128.0.0", Public),
        ("127.0.0.1", Loopback),
        ("127.255.255.255", Loopback),
        ("126.255.255.255", Public),
        ("128.0.0.0", Public),
        ("169.254.169.254", LinkLocal),
        ("169.253.255.255", Public),
        ("169.255.0.0", Public),
        ("168.63.129.16", LinkLocal),
        ("168.63.129.17", Public),
        ("0.0.0.0", Never),
        ("0.255.255.255", Never),
        ("192.0.0.8", Never),
        ("192.0.0.192", Never),
        ("192.0.1.1", Public),
        ("192.0.2.1", Never),
        ("192.88.99.1", Never),
        ("198.17.255.255", Public),
        ("198.18.0.1", Never),
        ("198.19.255.255", Never),
        ("198.20.0.0", Public),
        ("198.51.100.7", Never),
        ("203.0.113.7", Never),
        ("224.0.0.1", Never),
        ("239.255.255.250", Never),
        ("240.0.0.1", Never),
        ("255.255.255.255", Never),
        ("::", Never),
        ("::1", Loopback),
        ("::2", Never),
        // IPv4 that is mapped into IPv6 is IPv4 to the kernel.
        ("::ffff:8.8.8.8", Public),
        ("::ffff:127.0.0.1", Loopback),
        ("::ffff:0.0.0.0", Never),
        ("::ffff:a9fe:a9fe", LinkLocal),
        ("::ffff:10.1.2.3", Private),
        ("::ffff:100.64.0.1", Private),
        // Other ways to wrap an IPv4 address.
        ("::127.0.0.1", Never),
        ("::8.8.8.8", Never),
        ("::ffff:0:127.0.0.1", Never),
        ("64:ff9b::8.8.8.8", Public),
        ("64:ff9b::127.0.0.1", Never),
        ("64:ff9b::10.0.0.1", Never),
        ("64:ff9b::169.254.169.254", Never),
        ("64:ff9b::0.0.0.0", Never),
        ("64:ff9b:0:0:0:1:808:808", Never),
        ("64:ff9b:1::808:808", Never),
        ("2002:7f00:1::", Never),
        ("2002:808:808::1", Never),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Never),
        ("2001:10::1", Never),
        ("2001:20::1", Never),
        ("2001:1ff:ffff::1", Never),
        ("2001:200::1", Public),
        ("2001:db8::1", Never),
        ("2001:4860:4860::8888", Public),
        ("2000::1", Public),
        ("3ffe::1", Public),
        ("3fff::1", Never),
        ("3fff:fff::1", Never),
        ("3fff:1000::1", Public),
        ("1fff::1", Never),
        ("4000::1", Never),
        ("5f00::1", Never),
        ("100::1", Never),
        ("fbff::1", Never),
        ("fc00::1", Private),
        ("fd00:ec2::254", Private),
        ("fdff:ffff::1", Private),
        ("fe00::1", Never),
        ("fe7f::1", Never),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", Private),
        ("feff::1", Private),
        ("ff02::1", Never),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Never),
    ];
    for (text, kind) in table {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(address_kind(address), *kind, "{text}");
    }
}

#[test]
fn names_and_addresses() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    for (text, peer) in [
        ("features.example.com", "features.example.com"),
        ("Features.EXAMPLE.com", "features.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("a", "a"),
        ("1and1.com", "1and1.com"),
        ("0x.example", "0x.example"),
        (&longest, &longest),
        ("203.0.114.7", "203.0.114.7"),
        ("::ffff:203.0.114.7", "203.0.114.7"),
        ("2A00:0:0::7", "2a00::7"),
        ("::1", "::1"),
    ] {
        assert_eq!(Peer::parse(text).map(|peer| peer.to_string()).as_deref(), Ok(peer), "{text}");
    }
    let long = format!("{longest}a");
    let part = format!("{label}a.example");
    for (text, why) in [
        ("", "empty"),
        ("bücher.example", "not ASCII"),
        ("exаmple.com", "not ASCII"),
        ("*.example.com", "a pattern"),
        ("example.com.", "ends with a dot"),
        (".example.com", "has a label that is empty"),
        ("a..b", "has a label that is empty"),
        ("-a.example", "hyphen"),
        ("a-.example", "hyphen"),
        ("a_b.example", "a character other than"),
        ("a b.example", "a character other than"),
        ("a\0.example", "a character other than"),
        ("a\n.example", "a character other than"),
        ("a\\b", "a character other than"),
        ("https://example.com", "not a plain name or address"),
        ("user@example.com", "not a plain name or address"),
        ("example.com:443", "not a plain name or address"),
        ("[::1]", "not a plain name or address"),
        ("fe80::1%eth0", "an address with a zone"),
        ("127.1", "not a valid IPv4 address"),
        ("2130706433", "not a valid IPv4 address"),
        ("0177.0.0.1", "not a valid IPv4 address"),
        ("0x7f.0.0.1", "not a valid IPv4 address"),
        ("0x7f000001", "not a valid IPv4 address"),
        ("0x", "not a valid IPv4 address"),
        ("127.0.0.0x1", "not a valid IPv4 address"),
        ("256.1.1.1", "not a valid IPv4 address"),
        ("a.example.1", "not a valid IPv4 address"),
        ("0.0.0.0", "an address that cannot be granted"),
        ("::", "an address that cannot be granted"),
        ("255.255.255.255", "an address that cannot be granted"),
        ("::ffff:0.0.0.0", "an address that cannot be granted"),
        ("ff02::1", "an address that cannot be granted"),
        (&long, "longer than 253"),
        (&part, "longer than 63"),
    ] {
        let error = Peer::parse(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn the_form_of_an_address_does_not_change_its_kind(bytes: [u8; 4]) {
        let plain = IpAddr::from(bytes);
        let IpAddr::V4(v4) = plain else { unreachable!() };
        let mapped = IpAddr::from(v4.to_ipv6_mapped());
        prop_assert_eq!(address_kind(plain), address_kind(mapped));
        prop_assert_eq!(canonical_address(mapped), plain);
    }

    #[test]
    fn parsed_peers_parse_to_themselves(text in "[0-9a-fxX:.%*-]{0,30}|[ -~]{0,30}") {
        if let Ok(peer) = Peer::parse(&text) {
            prop_assert_eq!(Peer::parse(&peer.to_string()), Ok(peer));
        }
    }
}
