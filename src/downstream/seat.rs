//! What a connection holds from accept to its end, and then its tunnel: the place that it takes in every budget, and its
//! entry in the registry. It moves; whoever drops it last has ended the connection.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::registry::Registration;

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
#[must_use = "a seat that is dropped at once gives its place back"]
pub struct Seat {
    /// The entry that drain and close walk over.
    pub registration: Registration,
    _permits: Option<Permits>,
}

impl Seat {
    /// Joins the permits taken before accept with the entry made after it. There are none where a drain empties the accept
    /// queue over full budgets.
    pub fn new(registration: Registration, permits: Option<Permits>) -> Self {
        Self { registration, _permits: permits }
    }
}

/// One place in the gateway's budget of connections, and one in the listener's own where it has one.
#[derive(Debug)]
pub struct Permits {
    _gateway: OwnedSemaphorePermit,
    _listener: Option<OwnedSemaphorePermit>,
}

/// The budgets that a connection of one listener needs a place in.
#[derive(Debug, Clone)]
pub struct ConnectionBudget {
    gateway: Arc<Semaphore>,
    listener: Option<Arc<Semaphore>>,
}

impl ConnectionBudget {
    /// The gateway's budget, and the listener's own beside it.
    pub fn new(gateway: Arc<Semaphore>, listener: Option<NonZeroUsize>) -> Self {
        let listener = listener.map(|n| Arc::new(Semaphore::new(n.get().min(Semaphore::MAX_PERMITS))));
        Self { gateway, listener }
    }

    /// A place in both, if both have one now.
    pub fn try_take(&self) -> Option<Permits> {
        let listener = match &self.listener {
            Some(budget) => Some(Arc::clone(budget).try_acquire_owned().ok()?),
            None => None,
        };
        let gateway = Arc::clone(&self.gateway).try_acquire_owned().ok()?;
        Some(Permits { _gateway: gateway, _listener: listener })
    }

    /// A place in both, when there is one: the listener's first, so that a full listener holds nothing of the others'.
    pub async fn take(&self) -> Permits {
        let listener = match &self.listener {
            Some(budget) => Some(acquire(budget).await),
            None => None,
        };
        Permits { _gateway: acquire(&self.gateway).await, _listener: listener }
    }
}

async fn acquire(budget: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(budget).acquire_owned().await.expect("budgets are never closed")
}
