//! What a connection holds from accept to its end, and then its tunnel: the place that it takes in every budget, and its
//! entry in the registry. It moves; whoever drops it last has ended the connection.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::addr::ClientAddr;
use super::per_client::{ClientBudget, PlaceOfClient};
use crate::config::ClientLimits;
use crate::registry::Registration;

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
#[must_use = "a seat that is dropped at once gives its place back"]
pub struct Seat {
    /// The entry that drain and close walk over.
    pub registration: Registration,
    _permits: Option<Permits>,
    _of_client: PlacesOfClient,
}

impl Seat {
    /// Joins the permits taken before accept with what is known after it. There are none where a drain empties the accept
    /// queue over full budgets.
    pub fn new(registration: Registration, permits: Option<Permits>, of_client: PlacesOfClient) -> Self {
        Self { registration, _permits: permits, _of_client: of_client }
    }
}

/// One place in the gateway's budget of connections, and one in the listener's own where it has one.
#[derive(Debug)]
pub struct Permits {
    _gateway: OwnedSemaphorePermit,
    _listener: Option<OwnedSemaphorePermit>,
}

/// One client's places: in the gateway's budget for each client, and in the listener's own, where they are set. Boxed: most
/// gateways set neither, and every tunnel would carry the room for both.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "one pointer in every tunnel instead of two or three words")]
pub struct PlacesOfClient {
    _places: Option<Box<Vec<PlaceOfClient>>>,
}

impl PlacesOfClient {
    /// Of a connection that is in nobody's budget.
    pub fn none() -> Self {
        Self { _places: None }
    }
}

/// The budgets that a connection of one listener needs a place in.
#[derive(Debug, Clone)]
pub struct ConnectionBudget {
    gateway: Arc<Semaphore>,
    listener: Option<Arc<Semaphore>>,
    gateway_per_client: Option<Arc<ClientBudget>>,
    listener_per_client: Option<Arc<ClientBudget>>,
}

impl ConnectionBudget {
    /// The gateway's budgets, and the listener's own beside them.
    pub fn new(
        gateway: Arc<Semaphore>,
        gateway_per_client: Option<Arc<ClientBudget>>,
        listener: &ClientLimits,
    ) -> Self {
        let connections = |n: NonZeroUsize| Arc::new(Semaphore::new(n.get().min(Semaphore::MAX_PERMITS)));
        Self {
            gateway,
            gateway_per_client,
            listener: listener.connections.map(connections),
            listener_per_client: listener.connections_per_client.map(ClientBudget::new),
        }
    }

    /// This client's places; None when it has as many as it may.
    pub fn take_for(&self, client: ClientAddr) -> Option<PlacesOfClient> {
        let budgets = [&self.listener_per_client, &self.gateway_per_client];
        let places: Vec<_> = budgets.into_iter().flatten().map(|budget| budget.take(client)).collect::<Option<_>>()?;
        Some(PlacesOfClient { _places: (!places.is_empty()).then(|| Box::new(places)) })
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
