//! How many connections one client has open. A client is an IPv4 address, or the /64 of an IPv6 address: who has one
//! address of a /64 has all 2^64 of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::addr::ClientAddr;

/// A budget of connections for each client. Clients without a connection take no memory.
#[derive(Debug)]
pub struct ClientBudget {
    limit: AtomicUsize,
    // One lock for all workers: it is taken at accept and at the end of a connection, and only where the limit is set.
    open: Mutex<HashMap<Client, usize>>,
}

/// Who counts as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    V6(u64),
}

/// One connection's place in its client's budget.
#[derive(Debug)]
pub struct PlaceOfClient {
    budget: Arc<ClientBudget>,
    client: Client,
}

impl ClientBudget {
    /// At most `limit` connections for each client.
    pub fn new(limit: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit.get()), open: Mutex::default() })
    }

    /// At most so many for each client from now on; who has more keeps them.
    pub fn resize(&self, limit: NonZeroUsize) {
        self.limit.store(limit.get(), Ordering::Relaxed);
    }

    /// A place, if the client has not used up its own.
    pub fn take(self: &Arc<Self>, client: ClientAddr) -> Option<PlaceOfClient> {
        let client = Client::from(client.0.ip());
        let mut open = self.lock();
        let count = open.entry(client).or_default();
        if *count >= self.limit.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        Some(PlaceOfClient { budget: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(four) => Self::V4(four.to_bits()),
            IpAddr::V6(six) => Self::V6((six.to_bits() >> 64) as u64),
        }
    }
}

impl Drop for PlaceOfClient {
    fn drop(&mut self) {
        let mut open = self.budget.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientAddr {
        ClientAddr((address.parse::<IpAddr>().unwrap(), 5000).into())
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_slash_64() {
        let budget = ClientBudget::new(NonZeroUsize::MIN);
        let table = [
            ("192.0.2.1", "192.0.2.1", false),
            ("192.0.2.1", "192.0.2.2", true),
            ("192.0.2.1", "::ffff:192.0.2.1", false),
            ("2001:db8::1", "2001:db8::ffff:1", false),
            ("2001:db8::1", "2001:db8:0:1::1", true),
        ];
        for (first, second, fits) in table {
            let place = budget.take(client(first)).unwrap();
            assert_eq!(budget.take(client(second)).is_some(), fits, "{first} and {second}");
            drop(place);
        }
        assert!(budget.lock().is_empty(), "who has left is forgotten");
    }

    #[test]
    fn a_place_comes_back() {
        let budget = ClientBudget::new(NonZeroUsize::new(2).unwrap());
        let first = budget.take(client("192.0.2.1")).unwrap();
        let _second = budget.take(client("192.0.2.1")).unwrap();
        assert!(budget.take(client("192.0.2.1")).is_none());
        drop(first);
        assert!(budget.take(client("192.0.2.1")).is_some());
    }
}
