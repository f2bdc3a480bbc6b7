//! A connection to one endpoint: TCP, and TLS over it where the upstream has it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::endpoint::Endpoint;
use super::tls::{Tls, TlsFailure};
use crate::config::Tcp;
use crate::socket;
use crate::tunnel::io::TunnelIo;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The network or the endpoint said no.
    Failed(io::Error),
    /// Nobody answered before the deadline.
    TimedOut,
    /// It was no TLS that was spoken, or not with whom it should. Boxed: every request would be as large.
    Tls(Box<TlsFailure>),
    /// The TLS handshake was not over before the deadline.
    TlsTimedOut,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "cannot connect: {error}"),
            Self::TimedOut => f.write_str("no connection within timeouts.connect"),
            Self::Tls(failure) => failure.fmt(f),
            Self::TlsTimedOut => f.write_str("no TLS handshake within timeouts.connect"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Connects before the deadline. Dropping the future gives the attempt up.
pub async fn connect(address: SocketAddr, tcp: &Tcp, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let socket = prepare(address, tcp).map_err(ConnectError::Failed)?;
    match timeout_at(deadline, socket.connect(address)).await {
        Ok(connected) => connected.map_err(ConnectError::Failed),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

/// Goes on by TLS, before the same deadline. Nothing of a request is sent before the backend has proven who it is, and what it
/// sends in clear is read by nobody.
pub async fn secure(
    stream: TcpStream,
    tls: &Tls,
    endpoint: &Endpoint,
    tcp: &Tcp,
    deadline: Instant,
) -> Result<TunnelIo, ConnectError> {
    match shake_hands(stream, tls, endpoint, deadline).await {
        // Its sessions are forgotten: another connection tells whether it has another certificate.
        Err(ConnectError::Tls(failure)) if matches!(*failure, TlsFailure::Outlived) => {
            let stream = connect(endpoint.address, tcp, deadline).await?;
            shake_hands(stream, tls, endpoint, deadline).await
        }
        shaken => shaken,
    }
}

async fn shake_hands(
    stream: TcpStream,
    tls: &Tls,
    endpoint: &Endpoint,
    deadline: Instant,
) -> Result<TunnelIo, ConnectError> {
    match timeout_at(deadline, tls.connect(stream, endpoint)).await {
        Ok(connected) => connected.map_err(|failure| ConnectError::Tls(Box::new(failure))),
        Err(_) => Err(ConnectError::TlsTimedOut),
    }
}

fn prepare(address: SocketAddr, tcp: &Tcp) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::set_options(&SockRef::from(&socket), tcp)?;
    Ok(socket)
}
