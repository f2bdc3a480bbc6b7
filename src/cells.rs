//! Counters, one cell a worker: each is written by one thread and read by any, so counting never waits and cores do not
//! fight over a line of cache. Whoever wants a sum (a scrape, the last line of the log) adds the cells up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::StatusCode;

use crate::config::Name;
use crate::downstream::secure::Shaken;
use crate::rejection::Cause;
use crate::tunnel::EndedBy;

/// One worker's counters.
#[derive(Debug, Default)]
#[repr(align(128))] // two lines of cache: the prefetcher fetches them in pairs
pub struct Cell {
    /// Which worker's, from 0.
    pub worker: usize,
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
    /// What came to no route.
    pub unrouted: RouteCell,
    /// Answers that the gateway gave instead, by [`Cause`].
    pub rejections: Counts<{ Cause::ALL.len() }>,
    /// Tunnels that have ended, by [`EndedBy`].
    pub ends: Counts<{ EndedBy::ALL.len() }>,
    /// TLS handshakes, by [`Shaken`].
    pub tls: Counts<{ Shaken::ALL.len() }>,
    /// From the head of an upgrade request to the moment its 101 has left.
    pub handshakes: Histogram<{ HANDSHAKES.len() }>,
    /// From the 101 to the end of the tunnel.
    pub lives: Histogram<{ LIVES.len() }>,
    /// Connections to backends that were made.
    pub opened: Count,
    /// Requests sent over a connection that was kept.
    pub reused: Count,
    /// Requests sent again over a fresh connection, for the one that was kept had ended.
    pub retried: Count,
    /// Tries at an endpoint that came to nothing, by [`Cause`]; another endpoint may have answered the request.
    pub failed: Counts<{ Cause::ALL.len() }>,
}

/// One worker's counters of one route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCell {
    /// Requests that asked for no upgrade, by [`class`] of their answer.
    pub requests: Counts<{ CLASSES.len() }>,
    /// Opening handshakes, by [`class`] of their answer.
    pub handshakes: Counts<{ CLASSES.len() }>,
    /// Tunnels begun.
    pub opened: Count,
    /// Tunnels that have ended.
    pub ended: Count,
    /// Bytes of bodies.
    pub of_requests: Moved,
    /// Bytes of tunnels.
    pub of_tunnels: Moved,
}

/// Bytes both ways.
#[derive(Debug, Default)]
pub struct Moved {
    /// Client to server.
    pub sent: Count,
    /// Server to client.
    pub received: Count,
}

/// Classes of answers as they are labelled; the last is no answer at all.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// The place of an answer's class among [`CLASSES`].
pub fn class(status: Option<StatusCode>) -> usize {
    let none = CLASSES.len() - 1;
    status.map_or(none, |status| usize::from(status.as_u16() / 100).saturating_sub(1).min(none))
}

/// Upper bounds of the classes of an opening handshake's time: from a backend beside us to `timeouts.upgrade`.
pub const HANDSHAKES: [Duration; 12] = milliseconds([1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 15_000]);

/// The same of a tunnel's life: from a client that fails at once to a week.
pub const LIVES: [Duration; 10] = milliseconds([
    1_000,
    10_000,
    60_000,
    300_000,
    1_800_000,
    3_600_000,
    14_400_000,
    43_200_000,
    86_400_000,
    604_800_000,
]);

const fn milliseconds<const N: usize>(milliseconds: [u64; N]) -> [Duration; N] {
    let mut bounds = [Duration::ZERO; N];
    let mut index = 0;
    while index < N {
        bounds[index] = Duration::from_millis(milliseconds[index]);
        index += 1;
    }
    bounds
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

/// One number for each of some kinds.
#[derive(Debug)]
pub struct Counts<const N: usize>([Count; N]);

impl<const N: usize> Counts<N> {
    /// One more of that kind.
    pub fn add(&self, kind: usize) {
        self.0[kind].add(1);
    }

    /// So many by now, of each.
    pub fn get(&self) -> [u64; N] {
        std::array::from_fn(|kind| self.0[kind].get())
    }
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

/// How long something took, how often.
#[derive(Debug, Default)]
pub struct Histogram<const N: usize> {
    within: Counts<N>,
    beyond: Count,
    microseconds: Count,
}

/// A histogram as it is told: how many there were within each bound and not within the one before, how many beyond all, and
/// the sum in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<const N: usize> {
    /// Within each bound.
    pub within: [u64; N],
    /// Beyond the last.
    pub beyond: u64,
    /// All together.
    pub microseconds: u64,
}

impl<const N: usize> Histogram<N> {
    /// It took so long; `bounds` are always the same.
    pub fn observe(&self, bounds: &[Duration; N], took: Duration) {
        match bounds.iter().position(|bound| took <= *bound) {
            Some(index) => self.within.add(index),
            None => self.beyond.add(1),
        }
        self.microseconds.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it came to by now.
    pub fn get(&self) -> Observed<N> {
        Observed { within: self.within.get(), beyond: self.beyond.get(), microseconds: self.microseconds.get() }
    }
}

/// The counters of one route, whatever configurations have it: a cell a worker, made when the worker meets it first.
#[derive(Debug)]
pub struct RouteState {
    /// Its name.
    pub name: Name,
    cells: Box<[OnceLock<Box<RouteCell>>]>,
}

impl RouteState {
    /// The cell of that worker.
    pub fn cell(&self, worker: usize) -> &RouteCell {
        self.cells[worker].get_or_init(Box::default)
    }

    /// All cells that there are.
    pub fn cells(&self) -> impl Iterator<Item = &RouteCell> + Clone {
        self.cells.iter().filter_map(|cell| cell.get().map(|cell| &**cell))
    }
}

/// What outlives every configuration, interned by the route's name. A route that no configuration has is gone as soon as its
/// last request and its last tunnel have ended.
#[derive(Debug)]
pub struct RouteStates {
    workers: usize,
    // Locked when a configuration is made and at a scrape: no worker ever does.
    states: Mutex<HashMap<Name, Weak<RouteState>>>,
}

impl RouteStates {
    /// None yet; each will have so many cells.
    pub fn new(workers: usize) -> Self {
        Self { workers, states: Mutex::default() }
    }

    /// The states of these routes, each made when it is met for the first time.
    pub fn of<'n>(&self, routes: impl Iterator<Item = &'n Name>) -> HashMap<Name, Arc<RouteState>> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| state.strong_count() > 0);
        let mut of = |name: &Name| match states.get(name).and_then(Weak::upgrade) {
            Some(known) => known,
            None => {
                let cells = (0..self.workers).map(|_| OnceLock::new()).collect();
                let state = Arc::new(RouteState { name: name.clone(), cells });
                states.insert(name.clone(), Arc::downgrade(&state));
                state
            }
        };
        routes.map(|name| (name.clone(), of(name))).collect()
    }

    /// All that are in use, in the order of their names.
    pub fn all(&self) -> Vec<Arc<RouteState>> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = states.values().filter_map(Weak::upgrade).collect();
        drop(states);
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Makes an enum of kinds that are counted: its numbers are places in [`Counts`], and its names are labels.
macro_rules! counted {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Each of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
    };
}
pub(crate) use counted;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_class_of_its_first_digit() {
        for (status, expected) in [(101, "1xx"), (200, "2xx"), (308, "3xx"), (431, "4xx"), (599, "5xx"), (999, "none")]
        {
            assert_eq!(CLASSES[class(StatusCode::from_u16(status).ok())], expected, "{status}");
        }
        assert_eq!(CLASSES[class(None)], "none");
    }

    #[test]
    fn a_time_is_in_the_first_class_that_it_does_not_exceed() {
        let bounds = milliseconds([1, 10]);
        let histogram = Histogram::default();
        for microseconds in [0, 1_000, 1_001, 10_000, 10_001, 5_000_000] {
            histogram.observe(&bounds, Duration::from_micros(microseconds));
        }
        assert_eq!(histogram.get(), Observed { within: [2, 2], beyond: 2, microseconds: 5_022_002 });
    }

    #[test]
    fn bounds_grow() {
        assert!(HANDSHAKES.is_sorted_by(|a, b| a < b) && LIVES.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_route_keeps_its_counts_as_long_as_it_is_in_use_and_no_longer() {
        let states = RouteStates::new(2);
        let [a, b] = ["a", "b"].map(|name| Name::new(name).unwrap());
        let first = states.of([&a, &b].into_iter());
        first[&a].cell(1).opened.add(3);
        let second = states.of([&a].into_iter());
        drop(first);
        let names = |states: &RouteStates| states.all().iter().map(|s| s.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&states), ["a"]);
        assert_eq!(second[&a].cells().map(|cell| cell.opened.get()).sum::<u64>(), 3);
        let tunnel = Arc::clone(&second[&a]);
        drop(second);
        assert_eq!(names(&states), ["a"], "a tunnel of it is open");
        drop(tunnel);
        assert!(names(&states).is_empty());
        assert_eq!(states.of([&a].into_iter())[&a].cells().count(), 0, "it begins anew");
    }
}
