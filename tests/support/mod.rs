//! What the integration tests stand on: the real binary as a child process, scripted backends and clients over raw
//! sockets, and instruments that count.
//!
//! Everything blocks: plain sockets and threads, literal bytes, port 0. No test asserts that something happens *soon*;
//! [`GUARD`] only turns what would hang into a failure.

// Each test takes this module whole and uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod alloc;
pub mod backend;
pub mod client;
pub mod frame;
pub mod gateway;
pub mod mirror;
pub mod network;
pub mod pauses;
pub mod peer;
pub mod process;
pub mod skip;
pub mod syscalls;
pub mod tls;
pub mod tree;
pub mod tunnels;

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything in here waits before it says that the test hangs. Not a promise about the gateway's speed.
pub const GUARD: Duration = Duration::from_secs(60);

/// Waits until `holds` does, for what announces itself to nobody, like the number of a process's descriptors.
/// What comes as a line of the gateway is waited for with `Gateway::record` and `Gateway::message`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < GUARD, "waited {GUARD:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Raises this process's limit of open descriptors as far as it goes, for tests with thousands of connections; gives it.
/// A gateway that is started later inherits it.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may reach the hard one");
    limit.maximum.unwrap_or(u64::MAX)
}

/// A panic's message, as far as it is text.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
