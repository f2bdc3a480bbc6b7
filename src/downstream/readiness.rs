//! The one place with `unsafe`: tokio's AsyncFd cannot check that a descriptor stays what it is, so its caller must promise.
//!
//! Why AsyncFd: accepting takes a place in the budgets first, and a place only when a connection waits. tokio's TcpListener
//! has no readiness, only accept.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a listening socket for connections.
pub(super) fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open for as long as it lives and always the same descriptor; the AsyncFd owns it, and hands out
    // shared references only, by which it can be neither closed nor replaced.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}
