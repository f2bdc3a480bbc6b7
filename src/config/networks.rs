//! Networks: whose word about a client is taken.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeValue;

use super::report::{Refusal, quoted};
use super::values::text;

const NETWORK: &str = "expected a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one address";

/// A network, or one address, which is a network of its own.
///
/// Bits behind the prefix are refused rather than cut: who writes "10.1.2.3/8" means either the one address or all of
/// "10.0.0.0/8", and to trust the wrong one is not ours to choose.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Refusal> {
    let text = text(value, NETWORK)?;
    let network =
        parse(text).ok_or_else(|| Refusal::new(format!("{} is not a network", quoted(text)), instead(text)))?;
    if let Some(ipv4) = mapped(network) {
        let expected = format!("clients of IPv4 are known by IPv4 addresses: write \"{ipv4}\"");
        return Err(Refusal::new("an IPv4 network in IPv6 form is nobody's", expected));
    }
    if network.trunc() != network {
        let expected =
            format!("write \"{}\" for the network, or \"{}\" for the one address", network.trunc(), network.addr());
        return Err(Refusal::new(format!("{} has bits behind its prefix", quoted(text)), expected));
    }
    Ok(network)
}

fn parse(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
}

/// The IPv4 network that is meant by one of "::ffff:0:0/96".
fn mapped(network: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(network) = network else { return None };
    let prefix = network.prefix_len().checked_sub(96)?;
    Ipv4Net::new(network.addr().to_ipv4_mapped()?, prefix).ok().map(|n| n.trunc())
}

/// What to write instead of `text`.
fn instead(text: &str) -> String {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return format!("a network has no port: write \"{}\"", address.ip());
    }
    let bare = text.replace(['[', ']'], "");
    if bare != text && parse(&bare).is_some() {
        return format!("write it without brackets: \"{bare}\"");
    }
    let masked = text
        .split_once('/')
        .and_then(|(address, mask)| IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok());
    masked.map_or_else(|| NETWORK.to_owned(), |network| format!("write \"{}\"", network.trunc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<IpNet, Refusal> {
        network(&DeValue::String(text.into()))
    }

    #[test]
    fn networks_and_single_addresses() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("::1", "::1/128"),
            ("::1/128", "::1/128"),
            ("::/0", "::/0"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
        ] {
            assert_eq!(read(text).unwrap().to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_what_to_write() {
        for (text, hint) in [
            ("10.1.2.3/8", "write \"10.0.0.0/8\" for the network, or \"10.1.2.3\""),
            ("2001:db8::1/32", "write \"2001:db8::/32\" for the network"),
            ("0.0.0.1/0", "write \"0.0.0.0/0\""),
            ("::ffff:10.1.2.3/104", "write \"10.0.0.0/8\""),
            ("::ffff:10.1.2.3", "write \"10.1.2.3/32\""),
            ("::ffff:0:0/96", "write \"0.0.0.0/0\""),
            ("[::1]", "write it without brackets: \"::1\""),
            ("[2001:db8::]/32", "brackets: \"2001:db8::/32\""),
            ("[::1]:80", "write \"::1\""),
            ("10.0.0.1:80", "write \"10.0.0.1\""),
            ("10.0.0.0/255.0.0.0", "write \"10.0.0.0/8\""),
            ("10.0.0.0/255.0.255.0", NETWORK),
            ("10.0.0.0/33", NETWORK),
            ("10.0.0.0/", NETWORK),
            ("10.0/8", NETWORK),
            ("fe80::1%eth0", NETWORK),
            ("localhost", NETWORK),
            ("", NETWORK),
        ] {
            let refusal = read(text).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }
}
