//! Connections to backends that have answered and can be asked again: of each endpoint, on each worker, so that taking one
//! and putting one back meets no other core.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, EndpointState};
use super::http1::Connection;
use super::tls::{Fingerprint, Tls};
use crate::config;

/// How often idle connections are looked through for those that are dead, too old, or too many.
pub const SWEEP: Duration = Duration::from_secs(1);

/// One worker's idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<HashMap<EndpointKey, Vec<Idle>>>,
    /// How many there are: a scrape takes no lock that a request waits for.
    count: AtomicUsize,
}

/// The endpoint whose connections they are, whose state is one for all configurations, and how they are secured, the name that
/// was verified included: a request goes over none that its own configuration would not have made.
type EndpointKey = (usize, Option<Fingerprint>);

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
    settings: config::Pool,
    // Keeps the key from being another endpoint's.
    _endpoint: Arc<EndpointState>,
}

impl Pool {
    /// The connection to that endpoint, secured so, that was used last and is alive; older ones are more likely to be dead.
    pub fn take(&self, endpoint: &Endpoint, tls: Option<&Tls>) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.lock();
        let secured = tls.map(|tls| tls.fingerprint(&endpoint.configured));
        let of_endpoint = idle.get_mut(&key(&endpoint.state, secured))?;
        let usable = |idle: &Idle| !idle.is_too_old(now) && idle.connection.is_ready();
        let index = of_endpoint.iter().rposition(usable)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(of_endpoint.remove(index).connection)
    }

    /// Keeps a connection whose answer has been read to its end. Those above the limit are kept till the next look: of more
    /// requests at once than that, each would open a connection only to close it.
    pub fn put(&self, connection: Connection, endpoint: &Arc<EndpointState>, settings: &config::Pool) {
        if connection.is_closed() {
            return connection.finish();
        }
        let (since, settings) = (Instant::now(), *settings);
        let key = key(endpoint, connection.tls());
        let idle = Idle { connection, since, settings, _endpoint: Arc::clone(endpoint) };
        self.lock().entry(key).or_default().push(idle);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections wait, those that have ended meanwhile until the next look.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what is dead, too old, or above the limit.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut kept = 0;
        self.lock().retain(|_, of_endpoint| {
            of_endpoint.retain(|idle| !idle.is_too_old(now) && !idle.connection.is_closed());
            of_endpoint.drain(..too_many(of_endpoint, now));
            kept += of_endpoint.len();
            !of_endpoint.is_empty()
        });
        // All of it is done by one thread, so nothing has come or gone since the lock was given back.
        self.count.store(kept, Ordering::Relaxed);
    }

    /// Drops all of them.
    pub fn clear(&self) {
        self.lock().clear();
        self.count.store(0, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointKey, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_too_old(&self, now: Instant) -> bool {
        self.since + self.settings.idle_timeout <= now
    }
}

/// How many there are above the limit, of those that were not used since the last look. The oldest come first: the others
/// are likelier to be alive when they are needed.
fn too_many(of_endpoint: &[Idle], now: Instant) -> usize {
    let most = of_endpoint.last().map_or(0, |newest| newest.settings.idle.get());
    let unused = of_endpoint.iter().take_while(|idle| idle.since + SWEEP <= now).count();
    unused.min(of_endpoint.len().saturating_sub(most))
}

fn key(endpoint: &Arc<EndpointState>, tls: Option<Fingerprint>) -> EndpointKey {
    (Arc::as_ptr(endpoint).addr(), tls)
}
