//! From an upstream to a connection: the next endpoint, a connect, and where that fails another endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::connect::{ConnectError, connect, secure};
use super::endpoint::EndpointGuard;
use crate::config::Tcp;
use crate::tunnel::io::TunnelIo;

/// The attempts of one request at one upstream.
#[derive(Debug)]
pub struct Dial<'a> {
    upstream: &'a Upstream,
    tcp: &'a Tcp,
    timeout: Duration,
    deadline: Instant,
    tried: Vec<SocketAddr>,
}

impl<'a> Dial<'a> {
    /// `timeout` bounds each attempt: address look-up, connect, and the TLS handshake where there is one.
    pub fn new(upstream: &'a Upstream, tcp: &'a Tcp, timeout: Duration) -> Self {
        Self { upstream, tcp, timeout, deadline: Instant::now() + timeout, tried: Vec::new() }
    }

    /// The next endpoint; None when every endpoint that may be tried has been, or none is known.
    pub async fn next(&mut self) -> Option<EndpointGuard> {
        let attempts = 1 + self.upstream.config.retry_attempts as usize;
        if self.tried.len() >= attempts {
            return None;
        }
        self.deadline = Instant::now() + self.timeout;
        let guard = timeout_at(self.deadline, self.upstream.pick(&self.tried)).await.ok().flatten()?;
        self.tried.push(guard.endpoint().address);
        Some(guard)
    }

    /// Connects to it, in the time that its look-up has left.
    pub async fn connect(&self, endpoint: &EndpointGuard) -> Result<TunnelIo, ConnectError> {
        let endpoint = endpoint.endpoint();
        let stream = connect(endpoint.address, self.tcp, self.deadline).await?;
        match &self.upstream.config.tls {
            None => Ok(TunnelIo::Tcp(stream)),
            // Boxed: the handshake is large, and every request that is served would be as large.
            Some(tls) => Box::pin(secure(stream, tls, endpoint, self.tcp, self.deadline)).await,
        }
    }

    /// Connects to it once more, since a connection that was kept turned out to be dead.
    pub async fn connect_again(&mut self, endpoint: &EndpointGuard) -> Result<TunnelIo, ConnectError> {
        self.deadline = Instant::now() + self.timeout;
        self.connect(endpoint).await
    }
}
