//! Towards backends: named groups of endpoints, which of them is next, the connection to it, and one exchange over it.

pub mod balance;
pub mod connect;
pub mod dial;
pub mod endpoint;
pub mod http1;
pub mod pool;
pub mod resolve;
pub mod sessions;
pub mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use self::endpoint::{Endpoint, EndpointGuard, EndpointState};
use crate::config::{self, EndpointAddress, Name};

/// A named group of endpoints, as one configuration has it.
#[derive(Debug)]
pub struct Upstream {
    /// Its configuration.
    pub config: Arc<config::Upstream>,
    resolution: watch::Sender<Resolution>,
    turn: AtomicUsize,
}

/// The endpoints that are known at the moment.
#[derive(Debug, Default, Clone)]
struct Resolution {
    endpoints: Arc<[Arc<Endpoint>]>,
    /// Every name has been looked up at least once, found or not.
    looked_up: bool,
}

/// What outlives every configuration, interned by (upstream, address).
#[derive(Debug, Default)]
pub struct EndpointStates(Mutex<HashMap<(Name, SocketAddr), Arc<EndpointState>>>);

impl EndpointStates {
    /// The state of that endpoint, made when it is met for the first time.
    pub fn of(&self, upstream: &Name, address: SocketAddr) -> Arc<EndpointState> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(states.entry((upstream.clone(), address)).or_default())
    }

    /// Forgets those that nothing uses or is configured to use.
    pub fn forget_unused(&self) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| Arc::strong_count(state) > 1);
    }

    /// The tunnels to each that are open now. Those that nothing uses or is configured to use are left out: a name may have
    /// had thousands of addresses.
    pub fn tunnels(&self) -> Vec<(Name, SocketAddr, usize)> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnels = |((upstream, address), state): (&(Name, SocketAddr), &Arc<EndpointState>)| {
            (upstream.clone(), *address, state.tunnels())
        };
        states.iter().filter(|(_, state)| Arc::strong_count(state) > 1).map(tunnels).collect()
    }

    /// Uses of all endpoints together.
    pub fn in_use(&self) -> usize {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.values().map(|state| state.in_use()).sum()
    }
}

/// The states of the endpoints that were there before and are not now.
pub fn departed(before: &[Arc<Endpoint>], now: &[Arc<Endpoint>]) -> Vec<Arc<EndpointState>> {
    let is_gone = |state: &&Arc<EndpointState>| now.iter().all(|endpoint| !Arc::ptr_eq(&endpoint.state, state));
    before.iter().map(|endpoint| &endpoint.state).filter(is_gone).cloned().collect()
}

impl Upstream {
    /// An upstream whose addresses are known at once where they are numbers; names wait for [`Upstream::resolved`].
    pub fn new(config: Arc<config::Upstream>, states: &EndpointStates) -> Self {
        let upstream = Self { config, resolution: watch::Sender::default(), turn: AtomicUsize::new(0) };
        let addresses = upstream.numbers();
        upstream.set(addresses, states, upstream.names().next().is_none());
        upstream
    }

    /// What takes its place when its configuration has changed: names that it had keep the addresses that were found for
    /// them until they are looked up again.
    pub fn followed_by(&self, config: Arc<config::Upstream>, states: &EndpointStates) -> Self {
        let next = Self::new(config, states);
        let known = self.resolution.borrow().clone();
        let stays = |endpoint: &&Arc<Endpoint>| next.config.endpoints.contains(&endpoint.configured);
        let found = known.endpoints.iter().filter(stays).map(|e| (e.configured.clone(), e.address)).collect::<Vec<_>>();
        let is_known = |name: &EndpointAddress| self.config.endpoints.contains(name);
        let looked_up = known.looked_up && next.config.endpoints.iter().filter(|e| e.is_name()).all(is_known);
        next.resolved(&found, looked_up || next.names().next().is_none(), states);
        next
    }

    /// The endpoints that are known at the moment.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.resolution.borrow().endpoints)
    }

    /// The names among its addresses.
    pub fn names(&self) -> impl Iterator<Item = (&str, u16)> {
        self.config.endpoints.iter().filter_map(|endpoint| match endpoint {
            EndpointAddress::Named(name, port) => Some((&**name, *port)),
            EndpointAddress::Socket(_) => None,
        })
    }

    /// Takes the addresses that its names have now; `looked_up` says that each has been looked up at least once. Endpoints
    /// that stay keep their state, and so their count. Gives those that have left.
    pub fn resolved(
        &self,
        found: &[(EndpointAddress, SocketAddr)],
        looked_up: bool,
        states: &EndpointStates,
    ) -> Vec<Arc<EndpointState>> {
        let mut addresses = self.numbers();
        for (configured, address) in found {
            if addresses.iter().all(|(_, known)| known != address) {
                addresses.push((configured.clone(), *address));
            }
        }
        let before = self.endpoints();
        self.set(addresses, states, looked_up);
        departed(&before, &self.endpoints())
    }

    /// The endpoint for the next tunnel or request, other than those tried before; None when there is no other. Waits
    /// while names are being looked up for the first time; the caller bounds that.
    pub async fn pick(&self, tried: &[SocketAddr]) -> Option<EndpointGuard> {
        let mut resolution = self.resolution.subscribe();
        loop {
            let now = resolution.borrow_and_update().clone();
            let picked = self.pick_from(&now.endpoints, tried);
            if picked.is_some() || now.looked_up || resolution.changed().await.is_err() {
                return picked;
            }
        }
    }

    fn pick_from(&self, endpoints: &[Arc<Endpoint>], tried: &[SocketAddr]) -> Option<EndpointGuard> {
        // A copy of the counts: other workers change them while they are compared.
        let uses: Vec<_> = endpoints
            .iter()
            .map(|endpoint| (!tried.contains(&endpoint.address)).then(|| endpoint.state.in_use()))
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        balance::least_used(&uses, turn).map(|index| EndpointGuard::new(Arc::clone(&endpoints[index])))
    }

    fn numbers(&self) -> Vec<(EndpointAddress, SocketAddr)> {
        let numbers = self.config.endpoints.iter().filter_map(|endpoint| match endpoint {
            EndpointAddress::Socket(address) => Some((endpoint.clone(), *address)),
            EndpointAddress::Named(..) => None,
        });
        numbers.collect()
    }

    fn set(&self, addresses: Vec<(EndpointAddress, SocketAddr)>, states: &EndpointStates, looked_up: bool) {
        let endpoints = addresses.into_iter().map(|(configured, address)| {
            let state = states.of(&self.config.name, address);
            Arc::new(Endpoint { address, configured, state })
        });
        let endpoints = endpoints.collect();
        self.resolution.send_replace(Resolution { endpoints, looked_up });
    }
}
