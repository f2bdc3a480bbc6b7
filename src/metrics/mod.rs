//! What the gateway tells of itself, summed up when somebody asks: the workers' cells, the interned state of routes and
//! endpoints, and a few figures of its own. Nothing here takes a lock that a worker waits for, and nothing walks over
//! connections or tunnels: however many are open, a scrape costs the same.
//!
//! Labels are bounded: names of the configuration, addresses of endpoints, variants of enums and classes of statuses.

pub mod http;
mod page;
mod process;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::cells::{Cell, Count};
use crate::config::{Listener, Name};
use crate::downstream::addr::ListenAddr;
use crate::proxy::Serving;
use crate::socket::Listening;
use crate::telemetry::Losses;
use crate::upstream::EndpointStates;
use crate::worker::Context;

/// Where the figures come from.
#[derive(Debug)]
pub struct Metrics {
    workers: Vec<Arc<Context>>,
    endpoints: Arc<EndpointStates>,
    losses: Losses,
    ready: AtomicBool,
    /// Where it listens, by the names of listeners; locked by the control thread and by who asks for the status.
    addresses: Mutex<Vec<(Name, ListenAddr)>>,
    /// Configurations that were to take the place of another.
    pub reloads: Reloads,
}

/// How reloads went.
#[derive(Debug)]
pub struct Reloads {
    applied: Count,
    refused: Count,
    /// When the configuration in force was taken: the bits of the seconds since the epoch, a float.
    last_applied: AtomicU64,
}

impl Metrics {
    /// Of these workers. Not ready yet.
    pub fn new(workers: Vec<Arc<Context>>, endpoints: Arc<EndpointStates>, losses: Losses) -> Self {
        let (ready, addresses) = (AtomicBool::new(false), Mutex::default());
        Self { workers, endpoints, losses, ready, addresses, reloads: Reloads::begun() }
    }

    /// Whether the gateway takes new work, from now on.
    pub fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether it does.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// It listens there, from now on.
    pub fn listens_on<'a>(&self, addresses: impl Iterator<Item = (&'a Arc<Listener>, &'a Arc<Listening>)>) {
        let addresses = addresses.map(|(listener, listening)| (listener.name.clone(), listening.address)).collect();
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<(Name, ListenAddr)> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration in force.
    pub fn serving(&self) -> Arc<Serving> {
        self.workers.first().expect("there is a worker").serving()
    }

    /// Connections of clients that are open, tunnels included.
    pub fn open_connections(&self) -> u64 {
        self.workers.iter().map(|worker| worker.registry.open()).sum()
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> + Clone {
        self.workers.iter().map(|worker| &*worker.cell)
    }

    fn sum(&self, of: impl Fn(&Cell) -> &Count) -> u64 {
        self.cells().map(|cell| of(cell).get()).sum()
    }
}

impl Reloads {
    fn begun() -> Self {
        let now = process::seconds(SystemTime::now()).to_bits();
        Self { applied: Count::default(), refused: Count::default(), last_applied: AtomicU64::new(now) }
    }

    /// One more, applied or refused.
    pub fn count(&self, applied: bool) {
        if applied {
            self.last_applied.store(process::seconds(SystemTime::now()).to_bits(), Ordering::Relaxed);
            self.applied.add(1);
        } else {
            self.refused.add(1);
        }
    }

    /// How many were applied, and how many refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.applied.get(), self.refused.get())
    }

    fn last_applied(&self) -> f64 {
        f64::from_bits(self.last_applied.load(Ordering::Relaxed))
    }
}
