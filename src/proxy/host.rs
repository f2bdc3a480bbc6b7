//! The host that a request is for: RFC 9110 section 7.2, with the syntax of RFC 3986 section 3.2.
//!
//! Narrower than RFC 3986: a registered name is letters, digits, `-`, `_`, `~` and dots between labels that are not
//! empty. Its `,`, `;`, `%41` and the like stand in no name that anybody resolves, and two parsers that disagree on them
//! are the way into the wrong virtual host.

use std::error::Error;
use std::fmt;
use std::net::Ipv6Addr;

use http::HeaderValue;

/// A host as routes compare it, and as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Lower case, without trailing dot and port; an IPv6 literal in brackets and in its one canonical spelling.
    pub name: Box<str>,
    /// The port that was sent with it. Routes do not look at it.
    pub port: Option<u16>,
    value: HeaderValue,
}

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostError {
    /// There is no Host line (RFC 9112 section 3.2).
    Missing,
    /// There is more than one Host line, be they equal (RFC 9112 section 3.2).
    Several,
    /// No name is left.
    Empty,
    /// `user@host`; RFC 9110 section 4.2.4 tells recipients to treat it as an error.
    UserInfo,
    /// An empty label: `a..b` or `.a`.
    Label,
    /// A character that stands in no host name; blanks and bytes beyond ASCII are among them.
    Character,
    /// Brackets with something else inside than an IPv6 address. Zones and IPvFuture have no meaning beyond one machine.
    Address,
    /// What follows the name is no `:` and decimal number up to 65535.
    Port,
}

impl Host {
    /// Reads a Host line, or the authority of an absolute-form target.
    pub fn parse(value: &HeaderValue) -> Result<Self, HostError> {
        let text = value.to_str().map_err(|_| HostError::Character)?;
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        // The colons of an IPv6 literal are behind its bracket, so the bracket is looked for first.
        let end = text.find(']').map(|bracket| bracket + 1).or_else(|| text.find(':')).unwrap_or(text.len());
        let (name, port) = text.split_at(end);
        Ok(Self { name: normalised(name)?, port: parse_port(port)?, value: value.clone() })
    }

    /// The host as the client spelled it, port included: what a backend is sent that is to see the client's Host.
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// `name`, without port, as [`Host::name`] spells it.
pub fn normalised(name: &str) -> Result<Box<str>, HostError> {
    if let Some(literal) = name.strip_prefix('[') {
        let address = literal.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return address.map(|address| format!("[{address}]").into()).ok_or(HostError::Address);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~')) {
        return Err(HostError::Character);
    }
    if name.split('.').any(str::is_empty) {
        return Err(HostError::Label);
    }
    Ok(name.to_ascii_lowercase().into())
}

/// RFC 3986 section 3.2.3: `*DIGIT`, so `host:` is a host without port.
fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(':').ok_or(HostError::Port)?;
    // `u16::from_str` alone would take "+80".
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    digits.parse().map(Some).map_err(|_| HostError::Port)
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no host",
            Self::Several => "more than one host",
            Self::Empty => "the host is empty",
            Self::UserInfo => "the host holds user information",
            Self::Label => "the host has an empty label",
            Self::Character => "the host holds an illegal character",
            Self::Address => "the host holds no IPv6 address in its brackets",
            Self::Port => "the host's port is no port",
        })
    }
}

impl Error for HostError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, Option<u16>), HostError> {
        let host = Host::parse(&HeaderValue::from_bytes(text.as_bytes()).unwrap())?;
        assert_eq!(host.value(), text);
        Ok((host.name.into(), host.port))
    }

    #[test]
    fn a_host_is_lower_case_without_dot_and_port() {
        for (text, name, port) in [
            ("example.com", "example.com", None),
            ("EXAMPLE.Com", "example.com", None),
            ("example.com.", "example.com", None),
            ("example.com.:8080", "example.com", Some(8080)),
            ("example.com:", "example.com", None),
            ("example.com:0080", "example.com", Some(80)),
            ("example.com:65535", "example.com", Some(65535)),
            ("under_score-d~.test", "under_score-d~.test", None),
            ("localhost", "localhost", None),
            ("192.0.2.1:80", "192.0.2.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:443", "[::1]", Some(443)),
            ("[2001:DB8:0:0:0::1]:1", "[2001:db8::1]", Some(1)),
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]", None),
        ] {
            assert_eq!(parse(text), Ok((name.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn a_malformed_host_is_refused_for_its_own_reason() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (":80", HostError::Empty),
            ("::1", HostError::Empty),
            ("user@example.com", HostError::UserInfo),
            ("user:pw@example.com", HostError::UserInfo),
            ("a/b@c", HostError::UserInfo),
            ("@", HostError::UserInfo),
            ("a..b", HostError::Label),
            (".example.com", HostError::Label),
            ("example.com..", HostError::Label),
            ("exam ple.com", HostError::Character),
            (" example.com", HostError::Character),
            ("example.com ", HostError::Character),
            ("example.com\t", HostError::Character),
            ("a,b", HostError::Character),
            ("a;b", HostError::Character),
            ("a/b", HostError::Character),
            ("a\\b", HostError::Character),
            ("a?b", HostError::Character),
            ("a#b", HostError::Character),
            ("a%41", HostError::Character),
            ("*.example.com", HostError::Character),
            ("http://a", HostError::Port),
            ("b\u{fc}cher.example", HostError::Character),
            ("a]:80", HostError::Character),
            ("[", HostError::Address),
            ("[]", HostError::Address),
            ("[::1", HostError::Address),
            ("[::g]", HostError::Address),
            ("[1.2.3.4]", HostError::Address),
            ("[fe80::1%25eth0]", HostError::Address),
            ("[v1.a]", HostError::Address),
            ("[[::1]]", HostError::Address),
            ("[::1]x", HostError::Port),
            ("[::1]80", HostError::Port),
            ("a:b", HostError::Port),
            ("a:+80", HostError::Port),
            ("a:-1", HostError::Port),
            ("a:65536", HostError::Port),
            ("a:80:80", HostError::Port),
            ("a: 80", HostError::Port),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }
}
