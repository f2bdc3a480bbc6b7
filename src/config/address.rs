//! Addresses: what a listener binds and what an upstream's endpoints are.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use toml::de::DeValue;

use super::hosts::{bare_host, is_domain};
use super::report::{Refusal, quoted};
use super::values::text;
use super::{Bind, EndpointAddress};

const BIND: &str = "expected \"IP:port\", \"[IPv6]:port\" or \"*:port\"";
const ENDPOINT: &str = "expected \"IP:port\", \"[IPv6]:port\" or \"name:port\"";

/// `listener.bind`.
pub(super) fn bind(value: &DeValue<'_>) -> Result<Bind, Refusal> {
    if let DeValue::Integer(port) = value {
        return Err(Refusal::new("an address is missing", format!("write \"*:{port}\" for every address")));
    }
    let text = text(value, BIND)?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.ip() {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Err(mapped(ip, address.port())),
            _ => Ok(Bind::Address(address)),
        };
    }
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some(("*", Ok(port))) => Ok(Bind::Every(port)),
        Some(("", Ok(port))) => Err(not_a_bind(text, &format!("write \"*:{port}\" for every address"))),
        Some((host, Ok(_))) if is_domain(host) && host.parse::<IpAddr>().is_err() => {
            Err(not_a_bind(text, "a listener needs an IP address, not a name"))
        }
        _ => Err(not_a_bind(text, &missing_port(text).unwrap_or_else(|| BIND.to_owned()))),
    }
}

/// `metrics.bind`: one address, for who reads it knows where it is; `None` is "off".
pub(super) fn bind_or_off(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Refusal> {
    const EXPECTED: &str = "expected \"off\", \"IP:port\" or \"[IPv6]:port\"";
    match text(value, EXPECTED)? {
        "off" => Ok(None),
        text => match bind(value) {
            Ok(Bind::Address(address)) => Ok(Some(address)),
            Ok(Bind::Every(port)) => Err(not_a_bind(text, &format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\""))),
            // A word is nearer to "off" than to a host without its port.
            Err(refusal) if refusal.expected == BIND || is_domain(text) && text.parse::<IpAddr>().is_err() => {
                Err(Refusal::new(refusal.what, EXPECTED))
            }
            Err(refusal) => Err(refusal),
        },
    }
}

/// `admin.bind`: a Unix socket, which has an owner; `None` is "off".
pub(super) fn unix_or_off(value: &DeValue<'_>) -> Result<Option<PathBuf>, Refusal> {
    const EXPECTED: &str = "expected \"off\" or a Unix socket such as \"unix:/run/spliceway/admin.sock\"";
    let text = text(value, EXPECTED)?;
    let refuse = |what: String| Err(Refusal::new(what, EXPECTED));
    match text.strip_prefix("unix:") {
        _ if text == "off" => Ok(None),
        Some(path) if path.is_empty() || path.contains('\0') || path.ends_with('/') => {
            refuse(format!("{} is not the name of a socket", quoted(text)))
        }
        // What the kernel has room for, the zero at its end included (unix(7)).
        Some(path) if path.len() > 107 => refuse("the name of a socket has 107 bytes at most".to_owned()),
        Some(path) => Ok(Some(path.into())),
        None => refuse(format!("{} is not a Unix socket", quoted(text))),
    }
}

impl Bind {
    /// Whether both cannot be bound at once. Port 0 is a new port every time.
    pub fn overlaps(self, other: Self) -> bool {
        let ((ip, port), (other_ip, other_port)) = (self.parts(), other.parts());
        let same_place = match (ip, other_ip) {
            (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
            _ => true,
        };
        port != 0 && port == other_port && same_place
    }

    /// No address is every address.
    fn parts(self) -> (Option<IpAddr>, u16) {
        match self {
            Self::Address(address) => (Some(address.ip()), address.port()),
            Self::Every(port) => (None, port),
        }
    }
}

/// An item of `upstream.endpoints`.
pub(super) fn endpoint(value: &DeValue<'_>) -> Result<EndpointAddress, Refusal> {
    let text = text(value, ENDPOINT)?;
    let refuse = |expected: &str| Err(Refusal::new(format!("{} is not an endpoint", quoted(text)), expected));
    if let Some((_, behind)) = text.split_once("://") {
        let host = behind.split('/').next().unwrap_or_default();
        return refuse(&format!("an endpoint is an address alone: write {}", quoted(&with_port(host))));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { refuse("port 0 cannot be connected to") } else { Ok(address.into()) };
    }
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((_, Ok(0))) => refuse("port 0 cannot be connected to"),
        Some((host, Ok(port))) if is_domain(host) => Ok(EndpointAddress::Named(host.to_ascii_lowercase().into(), port)),
        _ => refuse(&missing_port(text).unwrap_or_else(|| ENDPOINT.to_owned())),
    }
}

impl From<SocketAddr> for EndpointAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

fn mapped(ip: Ipv6Addr, port: u16) -> Refusal {
    let ipv4 = ip.to_ipv4_mapped().map_or_else(String::new, |ip| format!(": write \"{ip}:{port}\""));
    Refusal::new("an IPv4 address in IPv6 form cannot be bound", format!("sockets of IPv6 take IPv6 alone{ipv4}"))
}

fn not_a_bind(text: &str, expected: &str) -> Refusal {
    Refusal::new(format!("{} is not an address to bind", quoted(text)), expected)
}

/// What to write when nothing but the port (or the brackets and the port) is missing.
fn missing_port(text: &str) -> Option<String> {
    let host = bare_host(text)?;
    Some(format!("the port is missing: write \"{host}:PORT\""))
}

fn with_port(host: &str) -> String {
    if host.contains(':') { host.to_owned() } else { format!("{host}:80") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> DeValue<'_> {
        DeValue::String(text.into())
    }

    #[test]
    fn binds() {
        for (text, expected) in [
            ("127.0.0.1:80", "Address(127.0.0.1:80)"),
            ("[::]:80", "Address([::]:80)"),
            ("*:443", "Every(443)"),
            ("0.0.0.0:0", "Address(0.0.0.0:0)"),
        ] {
            assert_eq!(format!("{:?}", bind(&string(text)).unwrap()), expected);
        }
        for (text, hint) in [
            (":80", "write \"*:80\""),
            ("localhost:80", "not a name"),
            ("127.0.0.1", "write \"127.0.0.1:PORT\""),
            ("::1", "write \"[::1]:PORT\""),
            ("[::ffff:127.0.0.1]:80", "write \"127.0.0.1:80\""),
            ("*:http", BIND),
            ("*:65536", BIND),
            ("", BIND),
        ] {
            let refusal = bind(&string(text)).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }

    #[test]
    fn metrics_are_bound_to_one_address_or_to_none() {
        assert_eq!(bind_or_off(&string("off")), Ok(None));
        assert_eq!(bind_or_off(&string("[::1]:9464")), Ok(Some("[::1]:9464".parse().unwrap())));
        for (text, hint) in [
            ("*:9464", "write \"0.0.0.0:9464\" or \"[::]:9464\""),
            ("localhost:9464", "a listener needs an IP address, not a name"),
            ("on", "expected \"off\", \"IP:port\""),
        ] {
            let refusal = bind_or_off(&string(text)).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }

    #[test]
    fn binds_overlap_on_the_same_port_of_the_same_family() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("*:80", "0.0.0.0:80", true),
            ("[::1]:80", "*:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("*:0", "*:0", false),
        ] {
            let (a_bind, b_bind) = (bind(&string(a)).unwrap(), bind(&string(b)).unwrap());
            assert_eq!(a_bind.overlaps(b_bind), expected, "{a} {b}");
            assert_eq!(b_bind.overlaps(a_bind), expected, "{b} {a}");
        }
    }

    #[test]
    fn endpoints() {
        let named = |name: &str, port| EndpointAddress::Named(name.into(), port);
        assert_eq!(endpoint(&string("Chat-2.internal:9000")), Ok(named("chat-2.internal", 9000)));
        assert_eq!(endpoint(&string("10.0.0.5:1")), Ok("10.0.0.5:1".parse::<SocketAddr>().unwrap().into()));
        assert_eq!(endpoint(&string("[::1]:1")), Ok("[::1]:1".parse::<SocketAddr>().unwrap().into()));
        for (text, hint) in [
            ("http://10.0.0.5:9000/x", "write \"10.0.0.5:9000\""),
            ("ws://chat", "write \"chat:80\""),
            ("chat", "write \"chat:PORT\""),
            ("10.0.0.5", "write \"10.0.0.5:PORT\""),
            ("::1", "write \"[::1]:PORT\""),
            ("chat:0", "port 0"),
            ("10.0.0.5:0", "port 0"),
            ("10.0.0.256:80", ENDPOINT),
            ("a b:80", ENDPOINT),
            ("unix:/run/app.sock", ENDPOINT),
        ] {
            let refusal = endpoint(&string(text)).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }
}
