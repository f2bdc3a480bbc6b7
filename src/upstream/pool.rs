//! Connections to backends that have answered and can be asked again: of each endpoint, on each worker, so that taking one
//! and putting one back meets no other core.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::endpoint::EndpointState;
use super::http1::Connection;
use crate::config;

/// How often idle connections are looked through for those that are dead or too old.
pub const SWEEP: Duration = Duration::from_secs(1);

/// One worker's idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<HashMap<EndpointKey, Vec<Idle>>>,
}

/// The endpoint whose connections they are: its state is one for all configurations.
type EndpointKey = usize;

#[derive(Debug)]
struct Idle {
    connection: Connection,
    until: Instant,
    // Keeps the key from being another endpoint's.
    _endpoint: Arc<EndpointState>,
}

impl Pool {
    /// The connection to that endpoint that was used last and is alive; older ones are more likely to be dead.
    pub fn take(&self, endpoint: &Arc<EndpointState>) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.lock();
        let of_endpoint = idle.get_mut(&key(endpoint))?;
        let usable = |idle: &Idle| idle.until > now && idle.connection.is_ready();
        let index = of_endpoint.iter().rposition(usable)?;
        Some(of_endpoint.remove(index).connection)
    }

    /// Keeps a connection whose answer has been read to its end.
    pub fn put(&self, connection: Connection, endpoint: &Arc<EndpointState>, settings: &config::Pool) {
        if connection.is_closed() {
            return connection.finish();
        }
        let until = Instant::now() + settings.idle_timeout;
        let mut idle = self.lock();
        let of_endpoint = idle.entry(key(endpoint)).or_default();
        if of_endpoint.len() >= settings.idle.get() {
            // The oldest: the others are likelier to be alive when they are needed.
            of_endpoint.remove(0);
        }
        of_endpoint.push(Idle { connection, until, _endpoint: Arc::clone(endpoint) });
    }

    /// Drops what is dead or too old.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, of_endpoint| {
            of_endpoint.retain(|idle| idle.until > now && !idle.connection.is_closed());
            !of_endpoint.is_empty()
        });
    }

    /// Drops all of them.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointKey, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(endpoint: &Arc<EndpointState>) -> EndpointKey {
    Arc::as_ptr(endpoint).addr()
}
