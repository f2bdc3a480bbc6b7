//! Who sent a request, when proxies stand before the gateway: the address of records and limits.
//!
//! Every address but the nearest is hearsay. It is believed when it comes from a trusted proxy, and only as far to the
//! left as each one was added by a trusted proxy: what stands left of the first stranger, the stranger wrote.
//!
//! X-Forwarded-For is believed and not Forwarded where both are there. Nothing in a request tells which of them the
//! proxy has written and which it has only passed on, and nearly every proxy writes X-Forwarded-For and passes
//! Forwarded on as it came, from whomever. (Believing neither where they differ would hand everybody the proxy's own
//! address, that of an insider.) A trusted proxy that writes only Forwarded must remove X-Forwarded-For. X-Real-IP is
//! never believed: it does not tell who wrote it.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use super::chain::{Chain, is_trusted};

/// Whom a request comes from. IPv4-mapped IPv6 addresses are given as the IPv4 addresses that they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client of records and limits: the rightmost address that is not trusted; if all are, the leftmost.
    pub address: IpAddr,
    /// The nearest address: the socket's.
    pub peer: IpAddr,
    /// Whether `peer` is a proxy whose word about the client is taken.
    pub peer_is_trusted: bool,
}

impl Client {
    /// Finds the client from the nearest address and the head as it was received. `trusted` holds IPv4 networks as
    /// such, not mapped into IPv6.
    pub fn find(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        let peer_is_trusted = is_trusted(peer, trusted);
        let told = || Chain::believed(headers).client(headers, trusted).map(|hop| hop.address);
        let address = if peer_is_trusted { told().unwrap_or(peer) } else { peer };
        Self { address, peer, peer_is_trusted }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec()
    }

    fn find(peer: &str, lines: &[(&str, &[u8])]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        Client::find(peer.parse().unwrap(), &headers, &trusted())
    }

    #[track_caller]
    fn assert_found(name: &str, lines: &[&str], expected: &str) {
        let received: Vec<_> = lines.iter().map(|line| (name, line.as_bytes())).collect();
        let client = Client { address: expected.parse().unwrap(), peer: PROXY.parse().unwrap(), peer_is_trusted: true };
        assert_eq!(find(PROXY, &received), client, "{name}: {lines:?}");
    }

    #[test]
    fn a_stranger_is_the_client_whatever_it_says() {
        for (peer, address) in [("8.8.8.8", "8.8.8.8"), ("::ffff:8.8.8.8", "8.8.8.8"), ("2001:db8::1", "2001:db8::1")] {
            for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x_forwarded_for"] {
                let client = find(peer, &[(name, b"1.1.1.1"), (name, b"for=1.1.1.1")]);
                let address = address.parse().unwrap();
                assert_eq!(client, Client { address, peer: address, peer_is_trusted: false });
            }
        }
    }

    #[test]
    fn a_mapped_proxy_is_as_trusted_as_its_ipv4_address() {
        let client = find("::ffff:10.0.0.1", &[("x-forwarded-for", b"1.1.1.1")]);
        let (address, peer) = ("1.1.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!(client, Client { address, peer, peer_is_trusted: true });
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        for (lines, expected) in [
            (&[][..], PROXY),
            (&[""], PROXY),
            (&["1.1.1.1"], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1", "10.0.0.2,10.0.0.3"], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1", "10.0.0.2", ""], "1.1.1.1"),
            (&["6.6.6.6,\t[2001:db8::1]:443 ,[fd00::1]"], "2001:db8::1"),
            (&["1.1.1.1:50000, , 10.0.0.2,"], "1.1.1.1"),
            (&["::ffff:1.1.1.1, ::ffff:10.0.0.2"], "1.1.1.1"),
            // Everyone is trusted.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
            // What is no address ends the walk; the last good one counts.
            (&["1.1.1.1, unknown"], PROXY),
            (&["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["1.1.1.1, _hidden, 10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["1.1.1.1", "x", "10.0.0.2"], "10.0.0.2"),
            (&["1.1.1.1 10.0.0.2"], PROXY),
            (&["\"1.1.1.1\""], PROXY),
            (&["\"6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ] {
            assert_found("x-forwarded-for", lines, expected);
            assert_found("X-FORWARDED-FOR", lines, expected);
        }
    }

    #[test]
    fn forwarded_is_read_the_same_way() {
        for (lines, expected) in [
            (&[""][..], PROXY),
            (&["for=1.1.1.1"], "1.1.1.1"),
            (&["For=\"1.1.1.1:80\";proto=https;by=10.0.0.9"], "1.1.1.1"),
            (&["proto=http; FOR=1.1.1.1"], "1.1.1.1"),
            (&["for=6.6.6.6, for=1.1.1.1, for=10.0.0.2"], "1.1.1.1"),
            (&["for=6.6.6.6", "for=1.1.1.1", "for=\"[fd00::1]\""], "1.1.1.1"),
            (&["for=\"[2001:db8::1]:8\", for=10.0.0.2"], "2001:db8::1"),
            (&["for=[2001:db8::1]"], "2001:db8::1"),
            (&["for=10.0.0.3, for=10.0.0.2"], "10.0.0.3"),
            (&["for=1.1.1.1, for=unknown, for=10.0.0.2"], "10.0.0.2"),
            (&["for=1.1.1.1, for=_hidden"], PROXY),
            (&["for=1.1.1.1, proto=http, for=10.0.0.2"], "10.0.0.2"),
            (&["for=1.1.1.1;for=6.6.6.6, for=10.0.0.2"], "10.0.0.2"),
            (&["for=1.1.1.1;ext=\"a, for=6.6.6.6\", for=10.0.0.2"], "1.1.1.1"),
            (&["for=1.1.1.1;ext=\"a\\\", for=6.6.6.6\""], "1.1.1.1"),
            (&["for=6.6.6.6;ext=\", for=1.1.1.1"], "1.1.1.1"),
            (&["for=6.6.6.6;ext=\", for=\"[2001:db8::1]\""], "2001:db8::1"),
            (&["for=6.6.6.6;ext=\"\\, for=\"[2001:db8::1]\";proto=http"], "2001:db8::1"),
        ] {
            assert_found("forwarded", lines, expected);
        }
    }

    #[test]
    fn x_forwarded_for_is_believed_where_both_are_there() {
        for (x_forwarded_for, expected) in [(&b"1.1.1.1"[..], "1.1.1.1"), (b"unknown", PROXY), (b"", PROXY)] {
            let client = find(PROXY, &[("forwarded", b"for=6.6.6.6"), ("x-forwarded-for", x_forwarded_for)]);
            assert_eq!(client.address, expected.parse::<IpAddr>().unwrap());
        }
        assert_eq!(
            find(PROXY, &[("x-real-ip", b"6.6.6.6"), ("x_forwarded_for", b"6.6.6.6")]).address,
            find(PROXY, &[]).address
        );
    }

    #[test]
    fn a_long_chain_is_walked() {
        let chain = |last: &str| format!("1.1.1.1{}, {last}", ", 10.0.0.2".repeat(1000));
        assert_found("x-forwarded-for", &[&chain("10.0.0.3")], "1.1.1.1");
        assert_found("x-forwarded-for", &[&chain("2.2.2.2")], "2.2.2.2");
        let quotes = format!("{}, for=2.2.2.2", "\"\\".repeat(1000));
        assert_found("forwarded", &[&quotes], "2.2.2.2");
    }

    prop_compose! {
        /// Bytes of a header that a client behind the proxy has made up.
        fn forged()(bytes in prop_oneof![
            prop::collection::vec(prop_oneof![0x20..=0x7e_u8, 0x80..=0xff_u8], 0..60),
            r#"(for=|6\.6\.6\.6|"|\\|,|;| |\[::1\]|10\.0\.0\.9|unknown){0,12}"#.prop_map(String::into_bytes),
        ]) -> Vec<u8> { bytes }
    }

    proptest! {
        #[test]
        fn what_a_client_wrote_never_hides_what_a_proxy_added(
            forged in forged(),
            real in prop_oneof!["1\\.1\\.1\\.[1-9]", "2001:db8::[1-9]"],
            own_line: bool,
            forwarded: bool,
        ) {
            let (name, added) = match (forwarded, real.contains(':')) {
                (false, _) => ("x-forwarded-for", real.clone()),
                (true, false) => ("forwarded", format!("for={real}")),
                (true, true) => ("forwarded", format!("for=\"[{real}]\"")),
            };
            let client = if own_line {
                find(PROXY, &[(name, &forged), (name, added.as_bytes())])
            } else {
                find(PROXY, &[(name, &[&forged, &b", "[..], added.as_bytes()].concat())])
            };
            prop_assert_eq!(client.address, real.parse::<IpAddr>().unwrap());
        }
    }
}
