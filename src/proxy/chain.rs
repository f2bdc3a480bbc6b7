//! The addresses that a request has come by, as they stand in X-Forwarded-For and in Forwarded (RFC 7239): how they are
//! read, and how Forwarded is written.

use std::io::Write;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

pub(super) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A header in which each proxy adds, at the right, the address that it was called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// X-Forwarded-For: addresses.
    XForwardedFor,
    /// Forwarded (RFC 7239): elements with parameters, of which `for` holds the address.
    Forwarded,
}

/// An address of a chain, and the element that it stands in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop<'a> {
    pub(super) address: IpAddr,
    pub(super) element: &'a [u8],
}

impl Chain {
    /// The chain that the client is read from.
    pub(super) fn believed(headers: &HeaderMap) -> Self {
        if headers.contains_key(&X_FORWARDED_FOR) { Self::XForwardedFor } else { Self::Forwarded }
    }

    pub(super) fn name(self) -> &'static HeaderName {
        match self {
            Self::XForwardedFor => &X_FORWARDED_FOR,
            Self::Forwarded => &header::FORWARDED,
        }
    }

    /// The client by this chain, given that a trusted proxy sent it. An element without an address (obfuscated,
    /// "unknown", garbage) ends the walk: nobody knows whether who stands there is trusted.
    pub(super) fn client<'a>(self, headers: &'a HeaderMap, trusted: &[IpNet]) -> Option<Hop<'a>> {
        let mut client = None;
        for element in self.backwards(headers) {
            let Some(address) = self.address(element) else { break };
            client = Some(Hop { address, element });
            if !is_trusted(address, trusted) {
                break;
            }
        }
        client
    }

    /// The elements of all lines, the last one first, without the empty ones (RFC 9110 section 5.6.1.2).
    fn backwards(self, headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
        let lines = headers.get_all(self.name()).into_iter().rev();
        lines.flat_map(|line| rsplit(line.as_bytes(), b',')).filter(|element| !element.is_empty())
    }

    /// Whether each line ends outside of quotes; one that does not would swallow what is appended to it.
    pub(super) fn is_closed(self, headers: &HeaderMap) -> bool {
        headers.get_all(self.name()).into_iter().all(|line| is_closed(line.as_bytes()))
    }

    fn address(self, element: &[u8]) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => address(element),
            Self::Forwarded => parameter(element, "for").and_then(address),
        }
    }
}

/// The one value of a parameter of an element of Forwarded, without its quotes. None that matters here needs an escape,
/// so one with an escape is none.
pub(super) fn parameter<'a>(element: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut values = rsplit(element, b';').filter_map(|pair| {
        let equals = pair.iter().position(|&b| b == b'=')?;
        pair[..equals].eq_ignore_ascii_case(name.as_bytes()).then_some(&pair[equals + 1..])
    });
    // RFC 7239 section 4: "Each parameter MUST NOT occur more than once per field-value."
    let value = values.next().filter(|_| values.next().is_none())?;
    match value {
        escaped if escaped.contains(&b'\\') => None,
        [b'"', quoted @ .., b'"'] => Some(quoted),
        token => Some(token),
    }
}

pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// Splits at the separators outside of quotes, from the right, since only the right end is a proxy's: a quote that a
/// client left open must not swallow what was added behind it.
fn rsplit(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    iter::from_fn(move || {
        let list = rest?;
        let cut = last_unquoted(list, separator);
        rest = cut.map(|at| &list[..at]);
        Some(list[cut.map_or(0, |at| at + 1)..].trim_ascii())
    })
}

fn last_unquoted(list: &[u8], separator: u8) -> Option<usize> {
    let mut quoted = false;
    for (at, &byte) in list.iter().enumerate().rev() {
        if byte == b'"' && !is_escaped(&list[..at]) {
            quoted = !quoted;
        }
        if byte == separator && !quoted {
            return Some(at);
        }
    }
    None
}

fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|&&b| b == b'\\').count() % 2 == 1
}

/// An address with or without a port, IPv6 with or without brackets: RFC 7239 section 6, and what stands in
/// X-Forwarded-For.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match node.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return address.parse::<Ipv6Addr>().ok().map(|address| address.to_canonical()),
        Some((address, rest)) => (address.parse::<Ipv6Addr>().ok()?.to_canonical(), rest.strip_prefix(':')?),
        None => node.split_once(':').and_then(|(a, port)| Some((a.parse::<Ipv4Addr>().ok()?.into(), port)))?,
    };
    is_port(port).then_some(address)
}

/// RFC 7239 section 6: a port may be obfuscated also where the address is not.
fn is_port(port: &str) -> bool {
    let obfuscated = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match port.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(obfuscated),
        None => (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn is_closed(line: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in line {
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && quoted && !escaped;
    }
    !quoted
}

/// An element of Forwarded. `by` is left out: the backend sees us, and Via names us.
pub(super) fn element(address: Option<IpAddr>, host: Option<&HeaderValue>, proto: Option<&HeaderValue>) -> Vec<u8> {
    let mut element = Vec::with_capacity(80);
    element.extend_from_slice(b"for=");
    match address {
        Some(v4 @ IpAddr::V4(_)) => write_address(&mut element, v4),
        // Writing to a Vec does not fail.
        Some(IpAddr::V6(address)) => write!(element, "\"[{address}]\"").unwrap_or_default(),
        None => element.extend_from_slice(b"unknown"),
    }
    for (name, value) in [(b";host=".as_slice(), host), (b";proto=", proto)] {
        if let Some(value) = value {
            element.extend_from_slice(name);
            quote(&mut element, value.as_bytes());
        }
    }
    element
}

/// Writes an address. Not by `Display`, where it is IPv4: that pads, and was one part in fifteen of a whole request.
pub(super) fn write_address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    to.push(b'.');
                }
                to.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(address) => write!(to, "{address}").unwrap_or_default(),
    }
}

/// Writes a token as it is and all else as a quoted string.
fn quote(element: &mut Vec<u8>, text: &[u8]) {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~');
    if !text.is_empty() && text.iter().all(plain) {
        return element.extend(text);
    }
    element.push(b'"');
    for &byte in text {
        element.extend((matches!(byte, b'"' | b'\\')).then_some(b'\\'));
        element.push(byte);
    }
    element.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_is_an_address_or_nothing() {
        for (node, expected) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:567", Some("1.2.3.4")),
            ("1.2.3.4:_hidden-1.x", Some("1.2.3.4")),
            ("::1", Some("::1")),
            ("[::1]", Some("::1")),
            ("[::1]:8", Some("::1")),
            ("[2001:DB8::0:1]:_p", Some("2001:db8::1")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("[::ffff:102:304]:80", Some("1.2.3.4")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("01.2.3.4", None),
            ("0x1.2.3.4", None),
            ("1.2.3.256", None),
            ("16909060", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:+80", None),
            ("1.2.3.4:123456", None),
            ("1.2.3.4:x", None),
            ("1.2.3.4:_", None),
            ("1.2.3.4 5.6.7.8", None),
            ("1.2.3.4/8", None),
            ("[1.2.3.4]", None),
            ("[::1", None),
            ("::1]", None),
            ("[::1]8", None),
            ("[::1]:", None),
            ("[[::1]]", None),
            ("fe80::1%eth0", None),
            ("[fe80::1%25eth0]", None),
            ("\u{ff11}.2.3.4", None),
        ] {
            assert_eq!(address(node.as_bytes()), expected.map(ip), "{node}");
        }
        assert_eq!(address(b"1.2.3.4\xff"), None);
    }

    #[test]
    fn a_parameter_has_one_value() {
        for (element, expected) in [
            ("for=a", Some("a")),
            ("FOR=a", Some("a")),
            ("for=\"a;b,c\"", Some("a;b,c")),
            ("by=x ; For=a ;proto=http", Some("a")),
            ("by=\";for=b\";for=a", Some("a")),
            ("for=", Some("")),
            ("for=\"\"", Some("")),
            ("for", None),
            ("by=a", None),
            ("xfor=a", None),
            ("for =a", None),
            ("\"for\"=a", None),
            ("for=a;for=b", None),
            ("for=a;For=a", None),
            (r#"for="\a""#, None),
            (r#"for="a\""#, None),
        ] {
            assert_eq!(parameter(element.as_bytes(), "for"), expected.map(str::as_bytes), "{element}");
        }
    }

    #[test]
    fn a_list_is_split_outside_of_quotes_backwards() {
        for (list, expected) in [
            ("a,b , c", &["c", "b", "a"][..]),
            (",a,", &["", "a", ""]),
            (r#"a;x="1,2",b"#, &["b", r#"a;x="1,2""#]),
            (r#"a;x="1\",2",b"#, &["b", r#"a;x="1\",2""#]),
            (r#"a;x="1\\",b"#, &["b", r#"a;x="1\\""#]),
            // Left open by a client; what a proxy has added stands apart all the same.
            (r#"a;x=",b"#, &["b", r#"a;x=""#]),
            (r#"a;x=","b""#, &[r#""b""#, r#"a;x=""#]),
            (r#"a;x="\,"b""#, &[r#""b""#, r#"a;x="\"#]),
        ] {
            let split: Vec<_> = rsplit(list.as_bytes(), b',').map(|element| str::from_utf8(element).unwrap()).collect();
            assert_eq!(split, expected, "{list}");
        }
    }

    #[test]
    fn a_line_is_closed_when_nothing_would_be_swallowed() {
        for (line, closed) in [
            ("", true),
            ("for=a", true),
            (r#"for="a""#, true),
            (r#"for="a\"""#, true),
            (r#"for="a\\""#, true),
            (r#"for=a\"#, true),
            (r#"for=""#, false),
            (r#"for="a\""#, false),
            (r#"for="a\"#, false),
            (r#"for="a", for="[b]"; x=""#, false),
            (r#"x="\, for="[::1]""#, false),
        ] {
            assert_eq!(is_closed(line.as_bytes()), closed, "{line}");
        }
    }

    #[test]
    fn an_element_is_quoted_where_it_must_be() {
        for (address, host, proto, expected) in [
            (Some("1.2.3.4"), Some("a.example"), Some("https"), "for=1.2.3.4;host=a.example;proto=https"),
            (Some("::1"), Some("a:80"), None, r#"for="[::1]";host="a:80""#),
            (Some("::1"), Some("[::1]"), None, r#"for="[::1]";host="[::1]""#),
            (None, None, Some("http"), "for=unknown;proto=http"),
            (Some("1.2.3.4"), Some(""), None, r#"for=1.2.3.4;host="""#),
            (Some("1.2.3.4"), Some(r#"a";for=6.6.6.6,\"#), None, r#"for=1.2.3.4;host="a\";for=6.6.6.6,\\""#),
        ] {
            let value = |text: Option<&str>| text.map(|text| HeaderValue::from_str(text).unwrap());
            let element = element(address.map(ip), value(host).as_ref(), value(proto).as_ref());
            assert_eq!(str::from_utf8(&element).unwrap(), expected);
            assert!(is_closed(&element));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_what_is_written_is_closed(bytes: Vec<u8>) {
            let _ = (address(&bytes), parameter(&bytes, "for"), rsplit(&bytes, b',').count());
            let mut quoted = Vec::new();
            quote(&mut quoted, &bytes);
            prop_assert!(is_closed(&quoted));
        }

        #[test]
        fn every_address_is_read_as_it_is_written(address: IpAddr) {
            let written = element(Some(address), None, None);
            prop_assert_eq!(Chain::Forwarded.address(&written), Some(address.to_canonical()));
        }

        #[test]
        fn an_address_is_written_as_it_is_displayed(address: IpAddr) {
            let mut written = Vec::new();
            write_address(&mut written, address);
            prop_assert_eq!(String::from_utf8(written).unwrap(), address.to_string());
        }
    }
}
