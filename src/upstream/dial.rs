//! From an upstream to a connection: the next endpoint, a connect, and where that fails another endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::connect::{ConnectError, connect};
use super::endpoint::EndpointGuard;
use crate::config::Tcp;

/// The attempts of one request at one upstream.
#[derive(Debug)]
pub struct Dial<'a> {
    upstream: &'a Upstream,
    tcp: &'a Tcp,
    timeout: Duration,
    tried: Vec<SocketAddr>,
}

/// What an attempt came to.
#[derive(Debug)]
pub enum Dialled {
    /// A connection, and the use of the endpoint that it is to.
    Connected(TcpStream, EndpointGuard),
    /// This endpoint could not be reached; another may be.
    Failed(EndpointGuard, ConnectError),
    /// Every endpoint that may be tried has been, or none is known.
    Exhausted,
}

impl<'a> Dial<'a> {
    /// `timeout` bounds each attempt: address look-up and connect.
    pub fn new(upstream: &'a Upstream, tcp: &'a Tcp, timeout: Duration) -> Self {
        Self { upstream, tcp, timeout, tried: Vec::new() }
    }

    /// Tries the next endpoint. Dropping the future gives it up.
    pub async fn next(&mut self) -> Dialled {
        let attempts = 1 + self.upstream.config.retry_attempts as usize;
        if self.tried.len() >= attempts {
            return Dialled::Exhausted;
        }
        let deadline = Instant::now() + self.timeout;
        let Ok(Some(guard)) = timeout_at(deadline, self.upstream.pick(&self.tried)).await else {
            return Dialled::Exhausted;
        };
        let address = guard.endpoint().address;
        self.tried.push(address);
        match connect(address, self.tcp, deadline).await {
            Ok(stream) => Dialled::Connected(stream, guard),
            Err(error) => Dialled::Failed(guard, error),
        }
    }
}
