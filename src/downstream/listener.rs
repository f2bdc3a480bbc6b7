//! Accepting: one loop for each socket of a worker. It does nothing slow: a place in the budgets first, then the connection,
//! and its task at once. The loop lives as long as its address is configured, whatever else about its listener changes.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use super::addr::{ClientAddr, ListenAddr};
use super::connection::Accepted;
use super::readiness;
use super::seat::{ConnectionBudget, Permits, PlacesOfClient, Seat};
use crate::config;
use crate::socket;
use crate::turns;
use crate::worker::{self, Stage};

/// How long accepting pauses when the machine has nothing left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// How long who has begun to connect when the door was closed may take: a round trip for most; who is farther is reset. Longer
/// would keep each reload that takes an address out, and each end of the gateway, as long.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// One socket of one worker, and what comes in by it.
#[derive(Debug)]
pub struct Listener {
    /// Its policy, as it is at the moment; no more of it means that its address is configured no longer.
    pub policy: watch::Receiver<Policy>,
    /// Its address.
    pub address: ListenAddr,
    /// The socket; the gateway owns it, this is a duplicate.
    pub socket: OwnedFd,
}

/// How the connections that come to an address are treated.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The listener that has the address.
    pub config: Arc<config::Listener>,
    /// Where a connection needs a place.
    pub budget: ConnectionBudget,
}

impl Listener {
    /// Accepts until the drain begins or the address is configured no longer, then what still waits in the queue, and closes.
    pub async fn run(self, worker: Arc<worker::Context>) {
        let Self { mut policy, address, socket } = self;
        let now = policy.borrow_and_update().clone();
        let socket = match readiness::watch(socket) {
            Ok(socket) => socket,
            Err(error) => {
                return tracing::error!(listener = %now.config.name, %error, "the listening socket cannot be watched");
            }
        };
        let mut queue = Queue { policy: now, address, socket, worker, full: false };
        let mut stage = queue.worker.stage.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage != Stage::Serving) => break,
                changed = policy.changed() => match changed {
                    Ok(()) => queue.policy = policy.borrow_and_update().clone(),
                    Err(_) => break,
                },
                () = queue.serve_next() => {}
            }
        }
        // Nobody begins to connect any more: the control thread has closed the door.
        queue.serve_rest();
        sleep(IN_FLIGHT).await;
        queue.serve_rest();
    }
}

struct Queue {
    policy: Policy,
    address: ListenAddr,
    socket: AsyncFd<OwnedFd>,
    worker: Arc<worker::Context>,
    full: bool,
}

impl Queue {
    /// One connection, or one error. Dropping the future loses nothing: between accept and task it does not wait.
    async fn serve_next(&mut self) {
        match self.accept().await {
            Ok((stream, client, permits)) => self.serve(stream, client, Some(permits)),
            Err(error) => self.survive(&error).await,
        }
    }

    /// The place comes first, and before it a connection to need it: who held places while nothing waits would starve the
    /// other sockets.
    async fn accept(&mut self) -> io::Result<(TcpStream, ClientAddr, Permits)> {
        loop {
            let mut ready = self.socket.readable().await?;
            turns::turn().await;
            let permits = match self.policy.budget.try_take() {
                Some(permits) => permits,
                // Readiness outlives the last accept: only now that there is no place is it worth asking the kernel.
                None if !socket::has_waiting(ready.get_inner()) => {
                    ready.clear_ready();
                    continue;
                }
                None => {
                    if !std::mem::replace(&mut self.full, true) {
                        let listener = &self.policy.config.name;
                        tracing::warn!(%listener, "the limit of connections is reached; accepting pauses");
                    }
                    self.policy.budget.take().await
                }
            };
            if let Ok(accepted) = ready.try_io(|socket| socket::accept(socket.get_ref())) {
                self.full = false;
                return accepted.map(|(stream, client)| (stream, client, permits));
            }
        }
    }

    fn serve(&self, stream: TcpStream, client: ClientAddr, permits: Option<Permits>) {
        let Some(of_client) = self.places_of(client) else {
            self.worker.cell.refused.add(1);
            return tracing::debug!(%client, "limits.connections_per_client is reached: closed at once");
        };
        self.worker.cell.connections.add(1);
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => {
                let seat = Seat::new(self.worker.registry.enter(client), permits, of_client);
                let listener = Arc::clone(&self.policy.config);
                worker::spawn_connection(
                    Accepted { stream, client, local: self.address, since: Instant::now(), seat, listener },
                    Arc::clone(&self.worker),
                );
            }
            Err(error) => tracing::error!(%client, %error, "an accepted connection cannot be watched"),
        }
    }

    /// A trusted proxy brings many clients by one address: it has no budget of its own.
    fn places_of(&self, client: ClientAddr) -> Option<PlacesOfClient> {
        let address = client.0.ip().to_canonical();
        let is_proxy = self.policy.config.trusted_proxies.iter().any(|network| network.contains(&address));
        if is_proxy { Some(PlacesOfClient::none()) } else { self.policy.budget.take_for(client) }
    }

    /// The error of one connection is that connection's; one of the machine pauses accepting. Neither ends it.
    async fn survive(&self, error: &io::Error) {
        if is_of_one_connection(error) {
            return tracing::debug!(listener = %self.policy.config.name, %error, "a connection was gone before it was accepted");
        }
        tracing::error!(listener = %self.policy.config.name, %error, "accepting failed; it pauses for a second");
        sleep(EXHAUSTED_PAUSE).await;
    }

    /// Clients whose connect has already succeeded are served, too. Where the budgets are full they are served over them:
    /// the queue is all that can still come, and to close it would reset every one of them.
    fn serve_rest(&self) {
        loop {
            match socket::accept(self.socket.get_ref()) {
                Ok((stream, client)) => self.serve(stream, client, self.policy.budget.try_take()),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    return tracing::error!(listener = %self.policy.config.name, %error, "what waits to be accepted is reset");
                }
            }
        }
    }
}

/// accept(2) hands out the errors of a connection that waited in the queue.
fn is_of_one_connection(error: &io::Error) -> bool {
    let of_one = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    of_one.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_machine_pause_accepting() {
        let table = [
            (Errno::CONNABORTED, true),
            (Errno::PROTO, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOBUFS, false),
            (Errno::NOMEM, false),
        ];
        for (errno, of_one) in table {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(is_of_one_connection(&error), of_one, "{error}");
        }
    }
}
