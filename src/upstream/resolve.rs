//! Looks names up, at start and again every `upstream.resolve`, on the control thread. A name that fails is never fatal:
//! the addresses that it had stay, and the failure is said once until it changes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::sleep;

use super::{EndpointStates, Upstream};
use crate::config::EndpointAddress;

/// Keeps one upstream's names looked up, for ever.
pub async fn keep_resolved(upstream: Arc<Upstream>, states: Arc<EndpointStates>) {
    let mut names: Vec<_> = upstream.names().map(|(name, port)| KnownName::new(name, port)).collect();
    loop {
        for name in &mut names {
            let found = look_up(&name.name, name.port).await;
            name.learn(found, &upstream);
        }
        // Also when all failed: whoever waits for the first look-up learns that it has been.
        let found: Vec<_> = names.iter().flat_map(KnownName::endpoints).collect();
        upstream.resolved(&found, &states);
        sleep(upstream.config.resolve).await;
    }
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = tokio::net::lookup_host((name, port)).await?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// A name with what is known of it. Each fails by itself: one that is gone takes nothing from the others.
struct KnownName {
    name: Box<str>,
    port: u16,
    addresses: Vec<SocketAddr>,
    failing: bool,
}

impl KnownName {
    fn new(name: &str, port: u16) -> Self {
        Self { name: name.into(), port, addresses: Vec::new(), failing: false }
    }

    fn learn(&mut self, found: io::Result<Vec<SocketAddr>>, upstream: &Upstream) {
        let of = &upstream.config.name;
        match found {
            Ok(found) => {
                if self.failing || found != self.addresses {
                    tracing::info!(upstream = %of, name = %self.name, addresses = ?found, "a name was looked up");
                }
                self.addresses = found;
                self.failing = false;
            }
            Err(error) if !self.failing => {
                tracing::warn!(upstream = %of, name = %self.name, %error, "a name was not found");
                self.failing = true;
            }
            Err(_) => {}
        }
    }

    fn endpoints(&self) -> impl Iterator<Item = (EndpointAddress, SocketAddr)> {
        self.addresses.iter().map(|address| (EndpointAddress::Named(self.name.clone(), self.port), *address))
    }
}
