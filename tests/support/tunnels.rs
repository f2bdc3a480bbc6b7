//! Tunnels whose both ends the test holds, and bytes that tell their place.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use super::GUARD;
use super::backend::{self, Backend};
use super::client::{Client, opening_handshake};
use super::gateway::Gateway;
use super::peer::Peer;

/// A gateway with one backend, and the backend's ends of the tunnels that are opened.
#[derive(Debug)]
pub struct Tunnels {
    /// The gateway.
    pub gateway: Gateway,
    backend: Backend,
    ends: Receiver<Peer>,
}

impl Tunnels {
    /// Starts a gateway with these lines of configuration before its listener `web` and its route, the only one.
    #[track_caller]
    pub fn start(lines: &str) -> Self {
        Self::start_with(lines, "")
    }

    /// The same with more lines for the route.
    #[track_caller]
    pub fn start_with(lines: &str, route: &str) -> Self {
        let (hand_over, ends) = channel();
        let backend = Backend::start(move |mut peer| {
            peer.stop_logging();
            backend::accept_websocket(&mut peer);
            // A test that has failed meanwhile waits for nothing.
            let _ = hand_over.send(peer);
        });
        let gateway = Gateway::start(&format!(
            "{lines}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
             [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n{route}\n",
            backend.address()
        ));
        Self { gateway, backend, ends }
    }

    /// Opens a tunnel; gives the client's end and the server's.
    #[track_caller]
    pub fn open(&self) -> (Peer, Peer) {
        let (client, _) = Client::upgrade(self.gateway.address("web"), "/");
        (client, self.ends.recv_timeout(GUARD).expect("the backend's end of it"))
    }

    /// The same for a client whose receive buffer is small from the first byte.
    #[track_caller]
    pub fn open_with_buffer(&self, bytes: usize) -> (Peer, Peer) {
        let mut client = Client::connect_with(self.gateway.address("web"), |socket| {
            socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        });
        client.send(opening_handshake("localhost", "/", ""));
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "no 101: {head:?}");
        (client, self.ends.recv_timeout(GUARD).expect("the backend's end of it"))
    }

    /// Waits for the record of the next tunnel that has ended.
    #[track_caller]
    pub fn record(&self) -> Value {
        self.gateway.record(|record| record["record"] == "tunnel")
    }

    /// Waits for that record and asserts its end and its bytes each way.
    #[track_caller]
    pub fn expect_record(&self, ended_by: &str, sent: usize, received: usize) -> Value {
        let record = self.record();
        let told = (&record["ended_by"], &record["sent"], &record["received"]);
        assert_eq!(told, (&ended_by.into(), &sent.into(), &received.into()), "{record}");
        record
    }

    /// Ends the gateway, in order, and the backend.
    #[track_caller]
    pub fn stop(self) {
        self.gateway.stop();
        self.backend.finish();
    }
}

/// A prime, so that a byte lost, doubled or moved shows, however the stream is cut.
const PERIOD: usize = 65_521;

/// Endless bytes that tell their place; each seed has its own.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// The bytes of that seed.
    pub fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        let once: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        Self([&once[..], &once[..]].concat())
    }

    /// At most so many of the bytes from that place on.
    pub fn from(&self, place: usize, most: usize) -> &[u8] {
        &self.0[place % PERIOD..][..most.min(PERIOD)]
    }

    /// The bytes from there to there.
    pub fn range(&self, places: std::ops::Range<usize>) -> Vec<u8> {
        places.map(|place| self.0[place % PERIOD]).collect()
    }

    /// Sends them, in at most `count` bytes, until nothing has been taken for `patience`; says how many were.
    pub fn send_until_stuck(&self, peer: &Peer, count: usize, patience: Duration) -> usize {
        let mut stream = peer.stream();
        stream.set_write_timeout(Some(patience)).expect("a timeout");
        let mut sent = 0;
        while sent < count {
            match stream.write(self.from(sent, count - sent)) {
                Ok(taken) => sent += taken,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("nobody takes the bytes: {error}"),
            }
        }
        stream.set_write_timeout(Some(GUARD)).expect("the guard again");
        sent
    }

    /// Sends all from there to there.
    pub fn send(&self, peer: &Peer, places: std::ops::Range<usize>) {
        let mut place = places.start;
        while place < places.end {
            let bytes = self.from(place, places.end - place);
            peer.stream().write_all(bytes).expect("the other end takes what is sent");
            place += bytes.len();
        }
    }

    /// Asserts that just these come next. Only where nothing has been read ahead of them (but the heads, by whole).
    #[track_caller]
    pub fn expect(&self, peer: &Peer, places: std::ops::Range<usize>) {
        assert!(self.comes(peer, places.clone()), "the connection ended within {places:?}");
    }

    /// Whether just these come next; false where the connection ends before the last of them.
    #[track_caller]
    pub fn comes(&self, peer: &Peer, places: std::ops::Range<usize>) -> bool {
        let (mut stream, mut place) = (peer.stream(), places.start);
        let mut buffer = vec![0; 64 * 1024 - 16];
        while place < places.end {
            let most = buffer.len().min(places.end - place);
            let read = match stream.read(&mut buffer[..most]) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("reading failed at byte {place} of {places:?}: {error}"),
            };
            assert!(buffer[..read] == *self.from(place, read), "other bytes came at {place} of {places:?}");
            place += read;
        }
        true
    }
}
