//! What the gateway tells of itself, summed up when somebody asks: the workers' cells, the interned state of routes and
//! endpoints, and a few figures of its own. Nothing here takes a lock that a worker waits for, and nothing walks over
//! connections or tunnels: however many are open, a scrape costs the same.
//!
//! Labels are bounded: names of the configuration, addresses of endpoints, variants of enums and classes of statuses.

pub mod http;
mod page;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use crate::cells::{Cell, Count};
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
        Self { workers, endpoints, losses, ready: AtomicBool::new(false), reloads: Reloads::begun() }
    }

    /// Whether the gateway takes new work, from now on.
    pub fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
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

    fn last_applied(&self) -> f64 {
        f64::from_bits(self.last_applied.load(Ordering::Relaxed))
    }
}
