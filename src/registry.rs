//! One entry from accept to end: what drain, list, close and reload walk over.
//!
//! Each worker has its own registry, so that accept and end take a lock that nobody else holds; only a walk from outside
//! ever meets it. An order is stored in the entry and its task is woken: a task sees orders at its next poll, in the same
//! place as everything else that can end it. A channel a connection was rejected: it costs ten times the memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use tokio::sync::Notify;

use crate::config::Name;
use crate::downstream::addr::ClientAddr;
use crate::upstream::endpoint::EndpointState;

/// All that is open on one worker.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    left: AtomicU64,
    emptied: Notify,
}

/// One connection, later one tunnel.
#[derive(Debug)]
pub struct Entry {
    /// Who it is.
    pub client: ClientAddr,
    kind: AtomicU8,
    order: AtomicU8,
    task: Mutex<Option<Waker>>,
    tunnel: OnceLock<Belongs>,
}

/// What a tunnel belongs to: by name and interned state, so that it outlives the configuration that it began with.
#[derive(Debug)]
pub struct Belongs {
    /// Its route.
    pub route: Name,
    /// The endpoint that it uses; None where its server is the gateway itself.
    pub endpoint: Option<Arc<EndpointState>>,
    /// Which configuration of this process it began with.
    pub generation: u64,
}

/// What an entry is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A connection that speaks HTTP.
    Connection,
    /// A tunnel.
    Tunnel,
    /// A connection that has had all its answers, and waits for its client's end.
    Closing,
}

/// What is asked of an entry, from mild to hard; a harder one replaces a milder, never the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Nothing.
    Go,
    /// End when what is under way is done; a tunnel lives on.
    Drain,
    /// Of a tunnel: end now, for its route has changed.
    RouteChanged,
    /// Of a tunnel: end now, for its route is gone.
    RouteRemoved,
    /// Of a tunnel: end now, for its endpoint is gone.
    EndpointRemoved,
    /// End now.
    HardStop,
}

/// An entry's stay in the registry; its end takes it out.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    number: u64,
}

impl Registry {
    /// Enters a connection that was just accepted.
    pub fn enter(self: &Arc<Self>, client: ClientAddr) -> Registration {
        let entry = Arc::new(Entry {
            client,
            kind: AtomicU8::new(Kind::Connection as u8),
            order: AtomicU8::new(Order::Go as u8),
            task: Mutex::new(None),
            tunnel: OnceLock::new(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&entry));
        Registration { registry: Arc::clone(self), entry, number }
    }

    /// Gives everything that is open an order. Returns how many there were of the kinds that still do something.
    pub fn order(&self, order: Order) -> Open {
        let entries: Vec<_> = self.lock().values().cloned().collect();
        let mut open = Open::default();
        for entry in &entries {
            match entry.kind() {
                Kind::Connection => open.connections += 1,
                Kind::Tunnel => open.tunnels += 1,
                Kind::Closing => {}
            }
            entry.give(order);
        }
        open
    }

    /// The tunnels for which `wanted` has something, with it. The registry is locked only while the entries are copied out.
    pub fn tunnels_of<T>(&self, wanted: impl Fn(&Belongs) -> Option<T>) -> Vec<(Weak<Entry>, T)> {
        let entries: Vec<_> = self.lock().values().cloned().collect();
        let with_fate = |entry: &Arc<Entry>| Some((Arc::downgrade(entry), wanted(entry.tunnel.get()?)?));
        entries.iter().filter_map(with_fate).collect()
    }

    /// The same as [`Registry::len`] but for what comes and goes meanwhile, without the lock that a worker may wait for.
    pub fn open(&self) -> u64 {
        let left = self.left.load(Ordering::Acquire);
        self.next.load(Ordering::Relaxed) - left
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nothing is open.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    // A panic while the map is held cannot leave it half changed: insert and remove are its only changes.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much was open.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Connections that speak HTTP.
    pub connections: usize,
    /// Tunnels.
    pub tunnels: usize,
}

impl Entry {
    /// What it is at the moment.
    pub fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Relaxed) {
            0 => Kind::Connection,
            1 => Kind::Tunnel,
            _ => Kind::Closing,
        }
    }

    /// From now on nothing is lost when it is cut.
    pub fn closes(&self) {
        self.kind.store(Kind::Closing as u8, Ordering::Relaxed);
    }

    /// The hardest order so far.
    pub fn ordered(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Go,
            1 => Order::Drain,
            2 => Order::RouteChanged,
            3 => Order::RouteRemoved,
            4 => Order::EndpointRemoved,
            _ => Order::HardStop,
        }
    }

    /// Names the task to wake for an order. Whoever calls this looks at [`Entry::ordered`] afterwards, not before: an
    /// order that comes in between wakes nobody.
    pub fn wake_by(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *task {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Gives it an order, unless it has a harder one.
    pub fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        // The waker stays: a tunnel names its task once in its life, and an order to drain is followed by one to end.
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = task {
            waker.wake();
        }
    }
}

impl Registration {
    /// The entry.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// From now on the entry is a tunnel, of another task.
    pub fn becomes_tunnel(&self, belongs: Belongs) {
        self.entry.tunnel.set(belongs).expect("a connection becomes a tunnel once");
        self.entry.kind.store(Kind::Tunnel as u8, Ordering::Relaxed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        entries.remove(&self.number);
        self.registry.left.fetch_add(1, Ordering::Release);
        if entries.is_empty() {
            // The table of a day's peak would stay for the life of the process otherwise.
            entries.shrink_to(64);
            self.registry.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    fn belongs(route: &str) -> Belongs {
        Belongs { route: Name::new(route).unwrap(), endpoint: None, generation: 1 }
    }

    fn client() -> ClientAddr {
        ClientAddr(([192, 0, 2, 1], 5000).into())
    }

    #[test]
    fn an_entry_leaves_with_its_registration() {
        let registry = Arc::new(Registry::default());
        let first = registry.enter(client());
        let second = registry.enter(client());
        second.becomes_tunnel(belongs("a"));
        assert_eq!(registry.order(Order::Drain), Open { connections: 1, tunnels: 1 });
        first.entry().closes();
        assert_eq!(registry.order(Order::Drain), Open { connections: 0, tunnels: 1 });
        drop(first);
        assert_eq!(registry.len(), 1);
        drop(second);
        assert!(registry.is_empty());
    }

    #[test]
    fn every_order_wakes_a_task_that_named_itself_once() {
        struct Woken(AtomicU64);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let registry = Arc::new(Registry::default());
        let seat = registry.enter(client());
        let woken = Arc::new(Woken(AtomicU64::new(0)));
        seat.entry().wake_by(&Waker::from(Arc::clone(&woken)));
        registry.order(Order::Drain);
        registry.order(Order::HardStop);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_walk_finds_tunnels_by_what_they_belong_to_and_no_connections() {
        let registry = Arc::new(Registry::default());
        let (_connection, one, other) = (registry.enter(client()), registry.enter(client()), registry.enter(client()));
        one.becomes_tunnel(belongs("a"));
        other.becomes_tunnel(belongs("b"));
        let walk = || registry.tunnels_of(|of| (of.route.as_str() == "a").then_some(Order::RouteChanged));
        let found = walk();
        assert_eq!(found.len(), 1);
        found[0].0.upgrade().unwrap().give(found[0].1);
        assert_eq!((one.entry().ordered(), other.entry().ordered()), (Order::RouteChanged, Order::Go));
        drop(one);
        assert!(found[0].0.upgrade().is_none() && walk().is_empty());
    }

    #[test]
    fn a_milder_order_does_not_replace_a_harder_one() {
        let registry = Arc::new(Registry::default());
        let seat = registry.enter(client());
        registry.order(Order::HardStop);
        registry.order(Order::Drain);
        assert_eq!(seat.entry().ordered(), Order::HardStop);
    }
}
