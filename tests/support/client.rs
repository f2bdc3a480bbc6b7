//! The client's side: connecting, and the opening handshake in literal bytes.

use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::GUARD;
use super::peer::{Answer, Peer, header};

/// Makes [`Peer`]s that reach out.
#[derive(Debug)]
pub struct Client;

/// The key of RFC 6455 section 1.3 ...
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// ... and the Sec-WebSocket-Accept that it must be answered with.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect_timeout(&address, GUARD).expect("somebody listens there"))
    }

    /// Connects a socket that `prepare` has seen first: for a receive buffer that bounds the window from the first byte,
    /// or an address of one's own.
    pub fn connect_with(address: SocketAddr, prepare: impl FnOnce(&Socket)) -> Peer {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        prepare(&socket);
        socket.connect_timeout(&address.into(), GUARD).expect("somebody listens there");
        Peer::new(socket.into())
    }

    /// Connects, sends the opening handshake for `path`, and asserts a correct 101. What follows the head is unread.
    pub fn upgrade(address: SocketAddr, path: &str) -> (Peer, String) {
        Self::upgrade_with(address, &opening_handshake("localhost", path, ""))
    }

    /// The same with an opening handshake as it is given; its key must be [`KEY`].
    pub fn upgrade_with(address: SocketAddr, handshake: &str) -> (Peer, String) {
        Self::upgrade_on(Self::connect(address), handshake)
    }

    /// The same on a connection that is there.
    pub fn upgrade_on(mut peer: Peer, handshake: &str) -> (Peer, String) {
        peer.send(handshake);
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "no 101: {head:?}");
        assert_eq!(header(&head, "sec-websocket-accept"), Some(ACCEPT), "{head:?}");
        (peer, head)
    }

    /// Connects, sends the bytes, reads one answer with its body.
    pub fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
        let mut peer = Self::connect(address);
        peer.send(request);
        peer.read_answer()
    }

    /// `GET` of a path on a connection of its own.
    pub fn get(address: SocketAddr, path: &str) -> Answer {
        Self::ask(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }
}

/// A correct opening handshake with [`KEY`]; `more` is further header lines, each with its CR LF.
pub fn opening_handshake(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}
