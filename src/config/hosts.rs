//! Hosts: of routes (RFC 9110 section 7.2 without the port), and the ones that are sent to backends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderValue;

use super::report::{Refusal, quoted};
use super::{HostHeader, HostPattern};

const HOST: &str =
    "expected a host such as \"chat.example.com\", \"*.example.com\", \"192.0.2.1\" or \"[2001:db8::1]\"";

impl HostPattern {
    /// Takes a host as it is written in a route. Lower case is ours to make; all else is refused with what to write.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let host = text.to_ascii_lowercase();
        if let Some(suffix) = host.strip_prefix("*.")
            && is_domain(suffix)
            && suffix.parse::<Ipv4Addr>().is_err()
        {
            return Ok(Self::Below(suffix.into()));
        }
        match bare_host(&host) {
            Some(bare) if host.parse::<Ipv6Addr>().is_err() => Ok(Self::Exact(bare.into())),
            _ => Err(Refusal::new(format!("{} is not a host", quoted(text)), instead(&host))),
        }
    }
}

/// `upstream.host_header`.
pub(super) fn host_header(text: &str) -> Result<HostHeader, Refusal> {
    let literal = |host: &str| {
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
        let sound = is_domain(name) || bare_ipv6(name).is_some_and(|_| name.starts_with('['));
        sound.then(|| HeaderValue::from_str(host).ok()).flatten()
    };
    match text {
        "client" => Ok(HostHeader::Client),
        "endpoint" => Ok(HostHeader::Endpoint),
        host => literal(host).map(HostHeader::Literal).ok_or_else(|| {
            let expected = "expected \"client\", \"endpoint\", or a host with or without a port";
            Refusal::new(format!("{} is not a host", quoted(host)), expected)
        }),
    }
}

/// `text` in the form in which a host without port is written, if it is one: an IPv6 address gets brackets.
pub(super) fn bare_host(text: &str) -> Option<String> {
    match bare_ipv6(text) {
        Some(address) => Some(format!("[{address}]")),
        None => is_domain(text).then(|| text.to_owned()),
    }
}

/// Whether `text` is an IPv4 address or a domain name: labels of letters, digits, "-" and "_" (which the DNS allows
/// and people use), the last one not all digits, so that "10.0.0.256" is not taken for a name.
pub(super) fn is_domain(text: &str) -> bool {
    let label = |l: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&l.len()) && l.bytes().all(inside) && !l.starts_with('-') && !l.ends_with('-')
    };
    let numeric = text.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && (!numeric || text.parse::<Ipv4Addr>().is_ok())
}

fn bare_ipv6(text: &str) -> Option<Ipv6Addr> {
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inside.parse().ok()
}

/// What to write instead of `host`.
fn instead(host: &str) -> String {
    if host.is_empty() || host == "*" {
        return "leave the key out for any host".to_owned();
    }
    if let Some((_, behind)) = host.split_once("://") {
        return format!("a host stands alone: write {}", quoted(behind.split(['/', ':']).next().unwrap_or_default()));
    }
    if let Some((before, _)) = host.split_once('/') {
        return format!("the path has a key of its own: write {}", quoted(before));
    }
    if let Ok(IpAddr::V6(address)) = host.parse() {
        return format!("write \"[{address}]\"");
    }
    if let Some((before, _)) = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        return format!("a host never has a port here (a route can name its listener): write {}", quoted(before));
    }
    if let Some(before) = host.strip_suffix('.').filter(|b| !b.is_empty()) {
        return format!("write it without the dot at its end: {}", quoted(before));
    }
    if let Some(suffix) = host.strip_prefix('.').filter(|s| is_domain(s)) {
        return format!("write \"*.{suffix}\", and \"{suffix}\" beside it where that is meant too");
    }
    match host {
        _ if !host.is_ascii() => "write its ASCII form, which begins with \"xn--\"".to_owned(),
        _ if host.contains('*') => "\"*\" stands for whole labels, and only as the first: \"*.example.com\"".to_owned(),
        _ => HOST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_routes() {
        let exact = |host: &str| HostPattern::Exact(host.into());
        for (text, expected) in [
            ("chat.example.com", exact("chat.example.com")),
            ("Chat.Example.COM", exact("chat.example.com")),
            ("localhost", exact("localhost")),
            ("192.0.2.1", exact("192.0.2.1")),
            ("[2001:DB8:0::1]", exact("[2001:db8::1]")),
            ("*.Example.com", HostPattern::Below("example.com".into())),
            ("_sip.example.com", exact("_sip.example.com")),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_told_what_to_write() {
        for (text, hint) in [
            ("", "leave the key out"),
            ("*", "leave the key out"),
            ("a.example:8080", "write \"a.example\""),
            ("[::1]:80", "write \"[::1]\""),
            ("::1", "write \"[::1]\""),
            ("a.example.", "\"a.example\""),
            (".a.example", "write \"*.a.example\""),
            ("a.*.example", "only as the first"),
            ("*a.example", "only as the first"),
            ("https://a.example/x", "write \"a.example\""),
            ("a.example/ws", "write \"a.example\""),
            ("bücher.example", "xn--"),
            ("10.0.0.256", HOST),
            ("a..example", HOST),
            ("-a.example", HOST),
            ("a b", HOST),
        ] {
            let refusal = HostPattern::parse(text).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }

    #[test]
    fn hosts_that_are_sent() {
        let literal = |host| Ok(HostHeader::Literal(HeaderValue::from_static(host)));
        assert_eq!(host_header("client"), Ok(HostHeader::Client));
        assert_eq!(host_header("endpoint"), Ok(HostHeader::Endpoint));
        for host in ["app.internal", "app.internal:8080", "[::1]", "[::1]:80", "10.0.0.1"] {
            assert_eq!(host_header(host), literal(host));
        }
        for text in ["", "a b", "http://a", "::1", "a:b", "a/b", "a\r\nb"] {
            assert!(host_header(text).is_err(), "{text:?}");
        }
    }
}
