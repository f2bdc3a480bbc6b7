//! What a connection holds from accept to its end, and then its tunnel: the place that it takes in every budget, and its
//! entry in the registry. It moves; whoever drops it last has ended the connection.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::addr::ClientAddr;
use super::per_client::{ClientBudget, PlaceOfClient};
use crate::config::{self, ClientLimits, Name};
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

/// One place in the gateway's budget of connections, and one in the listener's own.
#[derive(Debug)]
pub struct Permits {
    _gateway: OwnedSemaphorePermit,
    _listener: OwnedSemaphorePermit,
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

/// A budget that a new configuration can make larger or smaller; "off" is as many as there can be.
#[derive(Debug)]
pub struct Budget {
    places: Arc<Semaphore>,
    size: usize,
}

impl Budget {
    /// So many places; None is "off".
    pub fn new(size: Option<NonZeroUsize>) -> Self {
        let size = Self::number(size);
        Self { places: Arc::new(Semaphore::new(size)), size }
    }

    /// The places, to take one.
    pub fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// So many places from now on. Who has one keeps it: where more are taken than there are to be, the future takes those
    /// that come back, before anybody else, until it is so.
    pub fn resize(&mut self, size: Option<NonZeroUsize>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let old = std::mem::replace(&mut self.size, Self::number(size));
        self.places.add_permits(self.size.saturating_sub(old));
        let surplus = old.saturating_sub(self.size);
        // No more are taken than there are descriptors.
        let taken = u32::try_from(surplus - self.places.forget_permits(surplus)).unwrap_or(u32::MAX);
        let places = Arc::clone(&self.places);
        let take = async move {
            places.acquire_many(taken).await.expect("budgets are never closed").forget();
        };
        (taken > 0).then_some(take)
    }

    fn number(size: Option<NonZeroUsize>) -> usize {
        size.map_or(Semaphore::MAX_PERMITS, |size| size.get().min(Semaphore::MAX_PERMITS))
    }
}

/// Every budget of connections, the gateway's and each listener's, by name: they outlive a configuration, and so does what
/// is taken of them.
#[derive(Debug)]
pub struct Budgets {
    gateway: Budget,
    per_client: Option<Arc<ClientBudget>>,
    listeners: HashMap<Name, OfListener>,
}

#[derive(Debug)]
struct OfListener {
    connections: Budget,
    per_client: Option<Arc<ClientBudget>>,
}

/// What becomes smaller in its own time: see [`Budget::resize`].
type Shrinking = Vec<Pin<Box<dyn Future<Output = ()> + Send>>>;

impl Budgets {
    /// So many connections in all, and of each client; no listener has a budget yet.
    pub fn new(connections: NonZeroUsize, per_client: Option<NonZeroUsize>) -> Self {
        let per_client = per_client.map(ClientBudget::new);
        Self { gateway: Budget::new(Some(connections)), per_client, listeners: HashMap::new() }
    }

    /// The sizes that a configuration has. Listeners that are gone lose their budgets: who still has a place there gives it
    /// back to nobody.
    pub fn resize<'l>(
        &mut self,
        connections: NonZeroUsize,
        per_client: Option<NonZeroUsize>,
        listeners: impl Iterator<Item = &'l config::Listener>,
    ) -> Shrinking {
        let mut shrinking = Shrinking::new();
        shrinking.extend(boxed(self.gateway.resize(Some(connections))));
        resize_per_client(&mut self.per_client, per_client);
        let mut gone = std::mem::take(&mut self.listeners);
        for listener in listeners {
            let mut own = gone.remove(&listener.name).unwrap_or_else(|| OfListener::new(&listener.limits));
            shrinking.extend(boxed(own.connections.resize(listener.limits.connections)));
            resize_per_client(&mut own.per_client, listener.limits.connections_per_client);
            self.listeners.insert(listener.name.clone(), own);
        }
        shrinking
    }

    /// The budgets of a connection that comes in by this listener.
    pub fn of(&mut self, listener: &config::Listener) -> ConnectionBudget {
        let own = self.listeners.entry(listener.name.clone()).or_insert_with(|| OfListener::new(&listener.limits));
        ConnectionBudget {
            gateway: Arc::clone(self.gateway.places()),
            listener: Arc::clone(own.connections.places()),
            gateway_per_client: self.per_client.clone(),
            listener_per_client: own.per_client.clone(),
        }
    }
}

impl OfListener {
    fn new(limits: &ClientLimits) -> Self {
        let per_client = limits.connections_per_client.map(ClientBudget::new);
        Self { connections: Budget::new(limits.connections), per_client }
    }
}

fn boxed(
    shrinking: Option<impl Future<Output = ()> + Send + 'static>,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    shrinking.map(|future| -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(future) })
}

/// A budget that is new counts the connections that come from now on: who came before is in nobody's count.
fn resize_per_client(budget: &mut Option<Arc<ClientBudget>>, limit: Option<NonZeroUsize>) {
    if let (Some(known), Some(limit)) = (&*budget, limit) {
        known.resize(limit);
    } else {
        *budget = limit.map(ClientBudget::new);
    }
}

/// The budgets that a connection of one listener needs a place in.
#[derive(Debug, Clone)]
pub struct ConnectionBudget {
    gateway: Arc<Semaphore>,
    listener: Arc<Semaphore>,
    gateway_per_client: Option<Arc<ClientBudget>>,
    listener_per_client: Option<Arc<ClientBudget>>,
}

impl ConnectionBudget {
    /// This client's places; None when it has as many as it may.
    pub fn take_for(&self, client: ClientAddr) -> Option<PlacesOfClient> {
        let budgets = [&self.listener_per_client, &self.gateway_per_client];
        let places: Vec<_> = budgets.into_iter().flatten().map(|budget| budget.take(client)).collect::<Option<_>>()?;
        Some(PlacesOfClient { _places: (!places.is_empty()).then(|| Box::new(places)) })
    }

    /// A place in both, if both have one now.
    pub fn try_take(&self) -> Option<Permits> {
        let listener = Arc::clone(&self.listener).try_acquire_owned().ok()?;
        let gateway = Arc::clone(&self.gateway).try_acquire_owned().ok()?;
        Some(Permits { _gateway: gateway, _listener: listener })
    }

    /// A place in both, when there is one: the listener's first, so that a full listener holds nothing of the others'.
    pub async fn take(&self) -> Permits {
        let listener = acquire(&self.listener).await;
        Permits { _gateway: acquire(&self.gateway).await, _listener: listener }
    }
}

async fn acquire(budget: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(budget).acquire_owned().await.expect("budgets are never closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(places: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(places)
    }

    #[test]
    fn a_budget_grows_and_shrinks_between_numbers_and_off() {
        let mut budget = Budget::new(size(2));
        let places = Arc::clone(budget.places());
        for (to, free) in [(size(5), 5), (size(1), 1), (None, Semaphore::MAX_PERMITS), (size(3), 3)] {
            assert!(budget.resize(to).is_none());
            assert_eq!(places.available_permits(), free);
        }
    }

    #[tokio::test]
    async fn who_has_a_place_keeps_it_and_fewer_are_given_until_as_many_are_back() {
        let mut budget = Budget::new(None);
        let places = Arc::clone(budget.places());
        let mut taken: Vec<_> = (0..3).map(|_| Arc::clone(&places).try_acquire_owned().unwrap()).collect();
        let mut shrinking = Box::pin(budget.resize(size(1)).expect("two too many are taken"));
        assert!(still_waits(&mut shrinking), "two are still out");
        taken.pop();
        taken.pop();
        shrinking.await;
        assert_eq!(places.available_permits(), 0);
        taken.pop();
        assert_eq!(places.available_permits(), 1);
    }

    /// Whether it still waits.
    fn still_waits(future: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut cx).is_pending()
    }
}
