//! Looks names up, at start and again every `upstream.resolve`, on the control thread. A name that fails is never fatal:
//! the addresses that it had stay, and the failure is said once until it changes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::endpoint::{Endpoint, EndpointState};
use super::{EndpointStates, Upstream};
use crate::config::{EndpointAddress, Name};

/// A name, by its place in the upstream's list, and what a look-up of it came to.
type Found = (usize, io::Result<Vec<SocketAddr>>);

/// Endpoints that have left their name, and the upstream whose they were.
pub type Departed = (Arc<Upstream>, Vec<Arc<EndpointState>>);

/// Keeps one upstream's names looked up, for ever. Each name has its own rhythm: one whose look-up takes long holds up
/// none of the others. Who has left is told to `departures`: there may be tunnels to it.
pub async fn keep_resolved(
    upstream: Arc<Upstream>,
    states: Arc<EndpointStates>,
    departures: mpsc::UnboundedSender<Departed>,
) {
    let known = upstream.endpoints();
    let mut names: Vec<_> = upstream.names().map(|(name, port)| KnownName::new(name, port, &known)).collect();
    let (tell, mut told) = mpsc::channel(1);
    let mut look_ups = JoinSet::new();
    for (index, name) in names.iter().enumerate() {
        look_ups.spawn(keep_looking_up(index, name.name.clone(), name.port, upstream.config.resolve, tell.clone()));
    }
    while let Some((index, found)) = told.recv().await {
        let news = names[index].learn(found);
        // Also when it failed: whoever waits for the first look-ups learns that they have been.
        let found: Vec<_> = names.iter().flat_map(KnownName::endpoints).collect();
        let departed = upstream.resolved(&found, names.iter().all(|name| name.looked_up), &states);
        if !departed.is_empty() {
            // Nobody hears it any more when the gateway ends.
            let _ = departures.send((Arc::clone(&upstream), departed));
        }
        // Said when it holds: the next request goes there.
        if let Some(news) = news {
            names[index].tell(&news, &upstream.config.name);
        }
    }
}

async fn keep_looking_up(index: usize, name: Box<str>, port: u16, every: Duration, tell: mpsc::Sender<Found>) {
    while tell.send((index, look_up(&name, port).await)).await.is_ok() {
        sleep(every).await;
    }
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = tokio::net::lookup_host((name, port)).await?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// What is worth a line: a change.
enum News {
    Found,
    NotFound(io::Error),
}

/// A name with what is known of it. Each fails by itself: one that is gone takes nothing from the others.
struct KnownName {
    name: Box<str>,
    port: u16,
    addresses: Vec<SocketAddr>,
    looked_up: bool,
    failing: bool,
}

impl KnownName {
    /// A name that an upstream before had, too, begins with the addresses that were found there.
    fn new(name: &str, port: u16, known: &[Arc<Endpoint>]) -> Self {
        let configured = EndpointAddress::Named(name.into(), port);
        let addresses: Vec<_> = known.iter().filter(|e| e.configured == configured).map(|e| e.address).collect();
        Self { name: name.into(), port, looked_up: !addresses.is_empty(), addresses, failing: false }
    }

    /// Takes what was found; gives what is new about it.
    fn learn(&mut self, found: io::Result<Vec<SocketAddr>>) -> Option<News> {
        self.looked_up = true;
        match found {
            Ok(found) => {
                let is_news = self.failing || found != self.addresses;
                self.addresses = found;
                self.failing = false;
                is_news.then_some(News::Found)
            }
            Err(error) => (!std::mem::replace(&mut self.failing, true)).then_some(News::NotFound(error)),
        }
    }

    fn tell(&self, news: &News, of: &Name) {
        match news {
            News::Found => {
                tracing::info!(upstream = %of, name = %self.name, addresses = ?self.addresses, "a name was looked up");
            }
            News::NotFound(error) => {
                tracing::warn!(upstream = %of, name = %self.name, %error, "a name was not found");
            }
        }
    }

    fn endpoints(&self) -> impl Iterator<Item = (EndpointAddress, SocketAddr)> {
        self.addresses.iter().map(|address| (EndpointAddress::Named(self.name.clone(), self.port), *address))
    }
}
