//! Who reads a little now and then is slow, and not stuck: a tunnel ends as Stalled only where nothing moves at all.
//!
//! The kernel calls a socket writable only when a third of what it holds for it is gone, and that can be megabytes: a slow
//! reader is at work on them long before. (The reader's own kernel tells nobody of room that is less than a sixteenth of
//! its buffer, hence buffers of their size here.)
//!
//! A pause of the test's own that is too long voids the attempt.

mod support;

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::GUARD;
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::Gateway;
use support::pauses::in_time;
use support::peer::Peer;
use support::tls::Authority;

/// The stall.
const LIMIT: Duration = Duration::from_millis(600);
/// What is read at once, and how often: for several times the limit.
const LITTLE: usize = 64 * 1024;
const STEPS: usize = 36;
const STEP: Duration = Duration::from_millis(50);

struct Stand {
    authority: Authority,
    gateway: Gateway,
    backend: Backend,
    ends: Receiver<Peer>,
}

impl Stand {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(timeouts: &str) -> Self {
        let (hand_over, ends) = channel();
        let backend = Backend::start(move |mut peer| {
            peer.stop_logging();
            backend::accept_websocket(&mut peer);
            hand_over.send(peer).expect("the test waits");
        });
        let authority = Authority::new();
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n[timeouts]\nstall = \"{}ms\"\n{timeouts}\n\
             [[listener]]\nname = \"ws\"\nbind = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"wss\"\nbind = \"127.0.0.1:0\"\n{}\
             [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n\
             [[route]]\npath = \"/echo\"\nservice = \"echo\"\n",
            LIMIT.as_millis(),
            authority.line(),
            backend.address()
        ));
        Self { authority, gateway, backend, ends }
    }

    fn client(&self, listener: &str, path: &str) -> Peer {
        let client = Client::connect_with(self.gateway.address(listener), |socket| {
            socket.set_recv_buffer_size(2 * LITTLE).expect("SO_RCVBUF");
        });
        let client = if listener == "wss" { self.authority.secure(client) } else { client };
        Client::upgrade_on(client, &opening_handshake("localhost", path, "")).0
    }

    fn tunnel(&self, listener: &str) -> (Peer, Peer) {
        let client = self.client(listener, "/");
        let server = self.ends.recv_timeout(GUARD).expect("the backend's end of it");
        server.set_receive_buffer(2 * LITTLE);
        (client, server)
    }

    fn record(&self) -> Value {
        self.gateway.record(|record| record["record"] == "tunnel")
    }

    fn stop(self) {
        self.gateway.stop();
        self.backend.finish();
    }
}

#[test]
fn a_client_that_reads_a_little_in_time_is_left_alone() {
    left_alone("ws", Stand::tunnel, &[7; 64 * 1024]);
}

#[test]
fn a_server_that_reads_a_little_in_time_is_left_alone() {
    let turned = |stand: &Stand, listener: &str| {
        let (client, server) = stand.tunnel(listener);
        (server, client)
    };
    left_alone("ws", turned, &[7; 64 * 1024]);
}

#[test]
fn a_client_over_tls_that_reads_a_little_in_time_is_left_alone() {
    left_alone("wss", Stand::tunnel, &[7; 64 * 1024]);
}

#[test]
fn a_client_of_the_echo_that_reads_a_little_in_time_is_left_alone() {
    left_alone("ws", echo, &frame::client(frame::BINARY, true, [7; 60_000]));
}

/// Messages that fit into what TLS holds, so that not a write is refused but the flush behind it.
#[test]
fn a_client_of_the_echo_over_tls_that_reads_a_little_in_time_is_left_alone() {
    left_alone("wss", echo, &frame::client(frame::BINARY, true, [7; 4_000]));
}

/// What TLS holds waits like other bytes. Stuck is not idle, though nothing moves for much longer than that.
#[test]
fn who_stops_reading_over_tls_is_stalled_and_not_idle() {
    let stand = Stand::start_with("idle = \"100ms\"");
    for (open, message) in [
        (Stand::tunnel as fn(&Stand, &str) -> (Peer, Peer), vec![7; 16 * 1024]),
        (echo, frame::client(frame::BINARY, true, [7; 4_000])),
    ] {
        let began = Instant::now();
        let (stopped, mut sender) = open(&stand, "wss");
        // The less goes in, the sooner it is stuck.
        sender.set_send_buffer(LITTLE);
        while sender.try_send(&message).is_ok() {}
        assert!(began.elapsed() >= LIMIT, "it ended before its time");
        assert_eq!(stand.record()["ended_by"], "Stalled");
        drop(stopped);
    }
    stand.stop();
}

/// The client's end, twice: who sends to the echo is who reads.
fn echo(stand: &Stand, listener: &str) -> (Peer, Peer) {
    let client = stand.client(listener, "/echo");
    let again = Peer::new(client.stream().try_clone().expect("a second handle"));
    let again = if listener == "wss" { again.secured(client.tls().clone()) } else { again };
    (client, again)
}

/// `open` gives the slow reader and the one who sends to it, until nothing moves.
fn left_alone(listener: &str, open: impl Fn(&Stand, &str) -> (Peer, Peer), message: &[u8]) {
    let stand = Stand::start();
    // Half the limit, for a buffer that was made smaller under what it held may need several readings before there is room.
    let ended_by = in_time(LIMIT / 2, |pauses| {
        let (mut slow, mut sender) = open(&stand, listener);
        let sent = send_until_stuck(&mut sender, message);
        let mut read = 0;
        pauses.next();
        for _ in 0..STEPS {
            thread::sleep(STEP);
            read += LITTLE;
            if !slow.skip_or_end(LITTLE) {
                break;
            }
            pauses.next();
        }
        assert!(sent > read, "the sender was not stuck for all this time: {sent} bytes were taken");
        drop((sender, slow));
        stand.record()["ended_by"].clone()
    });
    assert_ne!(ended_by, "Stalled");
    stand.stop();
}

/// Sends the same again and again until it is not taken; says how many bytes were.
fn send_until_stuck(sender: &mut Peer, message: &[u8]) -> usize {
    sender.stream().set_write_timeout(Some(LIMIT / 10)).expect("a timeout");
    let mut sent = 0;
    while sent < 1 << 30 && sender.try_send(message).is_ok() {
        sent += message.len();
    }
    sent
}
