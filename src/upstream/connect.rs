//! A TCP connection to one endpoint.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::config::Tcp;
use crate::socket;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The network or the endpoint said no.
    Failed(io::Error),
    /// Nobody answered before the deadline.
    TimedOut,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "cannot connect: {error}"),
            Self::TimedOut => f.write_str("no connection within timeouts.connect"),
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

fn prepare(address: SocketAddr, tcp: &Tcp) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::set_options(&SockRef::from(&socket), tcp)?;
    Ok(socket)
}
