//! Counters, one cell a worker: each is written by one thread and read by any, so counting never waits and cores do not
//! fight over a line of cache.

use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's counters.
#[derive(Debug, Default)]
#[repr(align(128))] // two lines of cache: the prefetcher fetches them in pairs
pub struct Cell {
    /// Connections accepted.
    pub connections: Count,
    /// Connections closed at once: their client had as many as it may.
    pub refused: Count,
    /// Requests understood far enough to have a record.
    pub requests: Count,
    /// Tunnels begun.
    pub tunnels: Count,
    /// Connections and tunnels that the end of the gateway cut.
    pub cut: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
