//! One address of an upstream, and the uses of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;

use crate::config::{EndpointAddress, Scheme};

/// One address that tunnels and requests can go to.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// How the configuration names it.
    pub configured: EndpointAddress,
    /// What outlives configurations.
    pub state: Arc<EndpointState>,
}

/// What is known of an (upstream, address), whatever configuration brought it up.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_use: AtomicUsize,
    tunnels: AtomicUsize,
}

impl Endpoint {
    /// The endpoint as a Host header names it: with its port, unless that is the scheme's own (RFC 9110 section 7.2).
    pub fn host(&self, scheme: Scheme) -> HeaderValue {
        let own = scheme.port();
        let text = match &self.configured {
            EndpointAddress::Named(name, port) if *port == own => name.to_string(),
            EndpointAddress::Named(name, port) => format!("{name}:{port}"),
            EndpointAddress::Socket(address) if address.port() == own => match address {
                SocketAddr::V4(four) => four.ip().to_string(),
                SocketAddr::V6(six) => format!("[{}]", six.ip()),
            },
            EndpointAddress::Socket(address) => address.to_string(),
        };
        HeaderValue::try_from(text).expect("resolve has refused names that are no host names")
    }
}

impl EndpointState {
    /// Tunnels to it that are open now, over all workers.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn tunnel_began(&self) {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn tunnel_ended(&self) {
        self.tunnels.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tunnels and requests that use it now, over all workers.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

/// One use of an endpoint: it counts for as long as it lives.
#[derive(Debug)]
#[must_use = "an endpoint counts as used while its guard lives"]
pub struct EndpointGuard(Arc<Endpoint>);

impl EndpointGuard {
    /// Begins a use.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.state.in_use.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    /// What outlives configurations of it.
    pub fn state(&self) -> &Arc<EndpointState> {
        &self.0.state
    }
}

impl Drop for EndpointGuard {
    fn drop(&mut self) {
        self.0.state.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_port_unless_that_goes_without_saying() {
        let named = |port| EndpointAddress::Named("chat.internal".into(), port);
        let socket = |text: &str| EndpointAddress::Socket(text.parse().unwrap());
        for (configured, scheme, expected) in [
            (named(80), Scheme::Http, "chat.internal"),
            (named(80), Scheme::Https, "chat.internal:80"),
            (named(443), Scheme::Http, "chat.internal:443"),
            (named(443), Scheme::Https, "chat.internal"),
            (socket("10.0.0.5:80"), Scheme::Http, "10.0.0.5"),
            (socket("10.0.0.5:443"), Scheme::Https, "10.0.0.5"),
            (socket("[::1]:443"), Scheme::Https, "[::1]"),
            (socket("[::1]:443"), Scheme::Http, "[::1]:443"),
        ] {
            let address = "127.0.0.1:1".parse().unwrap();
            let endpoint = Endpoint { address, configured, state: Arc::default() };
            assert_eq!(endpoint.host(scheme), expected);
        }
    }
}
