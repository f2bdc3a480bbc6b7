//! What the clock ends: a silent tunnel, a stuck one, and one whose other half stays silent; each not before its time, and
//! never one in which bytes move.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::backend::{Backend, accept_websocket};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::{Gateway, Signal};
use support::pauses::in_time;
use support::peer::Peer;
use support::tunnels::Tunnels;

/// The timeout under test; the others are long.
const TIMEOUT: Duration = Duration::from_millis(300);
/// How often something happens where the timeout must not run out, and for how long.
const BEAT: Duration = Duration::from_millis(100);
const LIVELY: Duration = Duration::from_millis(1100);
/// More than the kernels of this machine hold between a sender and a reader that does not read.
const MOST: u64 = 100 << 20;

#[test]
fn a_silent_tunnel_ends_as_idle() {
    let mut tunnel = Tunnel::open("idle");
    let last = Instant::now();
    tunnel.client.send("hello");
    assert_eq!(tunnel.server.read_exact(5), b"hello");
    tunnel.server.send("hello to you");
    assert_eq!(tunnel.client.read_to_end(), b"hello to you");
    tunnel.server.expect_eof();
    assert!(last.elapsed() >= TIMEOUT, "{:?}", last.elapsed());
    assert_end(&tunnel.ended(), "Idle", 5, 12);
}

#[test]
fn idle_counts_from_the_last_byte_of_either_side() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n[timeouts]\nidle = \"300ms\"\n");
    for by_client in [true, false] {
        ends_after_the_last_byte(
            "Idle",
            || {
                let (client, server) = tunnels.open();
                if by_client { (client, server) } else { (server, client) }
            },
            &tunnels,
        );
    }
    tunnels.stop();
}

#[test]
fn half_close_counts_from_the_last_byte_of_the_side_that_goes_on() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n[timeouts]\nhalf_close = \"300ms\"\n");
    for client_ends in [true, false] {
        ends_after_the_last_byte(
            "HalfClosed",
            || {
                let (client, server) = tunnels.open();
                let (goes_on, ending) = if client_ends { (server, client) } else { (client, server) };
                ending.finish_sending();
                (goes_on, ending)
            },
            &tunnels,
        );
    }
    tunnels.stop();
}

/// `open` gives who sends the last byte, some time after the beginning, and who reads it.
fn ends_after_the_last_byte(by: &str, open: impl Fn() -> (Peer, Peer), tunnels: &Tunnels) {
    let (lasted, ended_by) = in_time(TIMEOUT, |pauses| {
        let (mut from, mut to) = open();
        pauses.next();
        thread::sleep(TIMEOUT / 3);
        let last = Instant::now();
        // Where a pause of this machine was too long for it, it has ended, and the attempt does not count.
        let _ = from.try_send(".");
        pauses.next();
        while to.skip_or_end(1) {}
        (last.elapsed(), tunnels.record()["ended_by"].clone())
    });
    assert!(lasted >= TIMEOUT, "it ended before its time: after {lasted:?}");
    assert_eq!(ended_by, by);
}

#[test]
fn pings_keep_a_tunnel_alive_that_is_idle_otherwise() {
    on_time(|| {
        let mut tunnel = Tunnel::open("idle");
        let ping = frame::client(frame::PING, true, "");
        let beats = beat(|| pass(tunnel.client.stream(), tunnel.server.stream(), &ping))?;
        tunnel.client.expect_eof();
        assert_end(&tunnel.ended(), "Idle", beats * ping.len(), 0);
        Some(())
    });
}

#[test]
fn bytes_of_one_direction_keep_both_alive() {
    on_time(|| {
        let mut tunnel = Tunnel::open("idle");
        let beats = beat(|| pass(tunnel.server.stream(), tunnel.client.stream(), b"."))?;
        tunnel.server.expect_eof();
        assert_end(&tunnel.ended(), "Idle", 0, beats);
        Some(())
    });
}

#[test]
fn a_server_that_is_silent_behind_the_clients_fin_is_left() {
    let mut tunnel = Tunnel::open("half_close");
    tunnel.client.send("bye");
    let fin = Instant::now();
    tunnel.client.finish_sending();
    assert_eq!(tunnel.server.read_to_end(), b"bye");
    tunnel.client.expect_eof();
    assert!(fin.elapsed() >= TIMEOUT, "{:?}", fin.elapsed());
    assert_end(&tunnel.ended(), "HalfClosed", 3, 0);
}

#[test]
fn a_client_that_is_silent_behind_the_servers_fin_is_left() {
    let mut tunnel = Tunnel::open("half_close");
    tunnel.server.send("bye");
    let fin = Instant::now();
    tunnel.server.finish_sending();
    assert_eq!(tunnel.client.read_to_end(), b"bye");
    tunnel.server.expect_eof();
    assert!(fin.elapsed() >= TIMEOUT, "{:?}", fin.elapsed());
    assert_end(&tunnel.ended(), "HalfClosed", 0, 3);
}

#[test]
fn a_half_that_still_flows_is_not_left() {
    on_time(|| {
        let mut tunnel = Tunnel::open("half_close");
        tunnel.client.finish_sending();
        tunnel.server.expect_eof();
        let beats = beat(|| pass(tunnel.server.stream(), tunnel.client.stream(), b"."))?;
        tunnel.server.finish_sending();
        tunnel.client.expect_eof();
        assert_end(&tunnel.ended(), "ClientClosed", 0, beats);
        Some(())
    });
}

#[test]
fn a_client_that_does_not_read_ends_as_stalled() {
    let tunnel = Tunnel::open("stall");
    let start = Instant::now();
    // A reset, for the kernel would keep for the client what it does not read.
    let sent = send_until_reset(&tunnel.server);
    assert!(start.elapsed() >= TIMEOUT, "{:?}", start.elapsed());
    let record = tunnel.ended();
    assert_eq!((&record["ended_by"], &record["sent"]), (&"Stalled".into(), &0.into()), "{record}");
    let received = record["received"].as_u64().expect("a number");
    assert!(received > 0 && received <= sent, "{sent} bytes were sent: {record}");
}

#[test]
fn a_server_that_does_not_read_ends_as_stalled() {
    let mut tunnel = Tunnel::open("stall");
    // What flows the other way does not excuse it.
    tunnel.server.send("hello");
    assert_eq!(tunnel.client.read_exact(5), b"hello");
    let start = Instant::now();
    let sent = send_until_reset(&tunnel.client);
    assert!(start.elapsed() >= TIMEOUT, "{:?}", start.elapsed());
    let record = tunnel.ended();
    assert_eq!((&record["ended_by"], &record["received"]), (&"Stalled".into(), &5.into()), "{record}");
    let arrived = record["sent"].as_u64().expect("a number");
    assert!(arrived > 0 && arrived <= sent, "{sent} bytes were sent: {record}");
}

/// While it is stuck in one direction, a tunnel is neither idle nor silent, whatever these are set to.
#[test]
fn a_stuck_tunnel_is_not_idle() {
    let tunnel = Tunnel::open_with("stall = \"300ms\"\nidle = \"100ms\"\nhalf_close = \"100ms\"");
    let start = Instant::now();
    send_until_reset(&tunnel.server);
    assert!(start.elapsed() >= TIMEOUT, "{:?}", start.elapsed());
    assert_eq!(tunnel.ended()["ended_by"], "Stalled");
}

/// The reset of a server whose bytes are held wakes nobody, for nobody reads there: the stall finds it.
#[test]
fn a_reset_behind_a_stuck_direction_is_found_by_the_stall() {
    let tunnel = Tunnel::open("stall");
    fill(&tunnel.server);
    tunnel.server.reset();
    assert_eq!(tunnel_of(&tunnel.gateway)["ended_by"], "Stalled");
    let mut client = tunnel.client;
    client.expect_reset();
}

/// What the clock and the orders end does not wait for a byte.
#[test]
fn the_end_of_a_drain_ends_an_idle_tunnel_too() {
    let mut tunnel = Tunnel::open_with("idle = \"1h\"\n[drain]\ndeadline = \"200ms\"");
    let signal = Instant::now();
    tunnel.gateway.signal(Signal::SIGTERM);
    tunnel.client.expect_eof();
    tunnel.server.expect_eof();
    assert!(signal.elapsed() >= Duration::from_millis(200), "{:?}", signal.elapsed());
    assert_end(&tunnel_of(&tunnel.gateway), "HardStop", 0, 0);
}

/// Both ends of a tunnel, and the gateway between them.
struct Tunnel {
    client: Peer,
    server: Peer,
    gateway: Gateway,
    /// Open descriptors of the gateway while it had no tunnel.
    descriptors: usize,
    backend: Backend,
}

impl Tunnel {
    /// With that timeout short.
    fn open(timeout: &str) -> Self {
        Self::open_with(&format!("{timeout} = \"{}ms\"", TIMEOUT.as_millis()))
    }

    fn open_with(timeouts: &str) -> Self {
        let (backend, peers) = handing_over();
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
             [upstream.backend]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"backend\"\n",
            backend.address()
        ));
        let descriptors = gateway.descriptors();
        let mut client = Client::connect_with(gateway.address("web"), |socket| {
            // A window that is small opens again in small steps.
            socket.set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
        });
        client.send(opening_handshake("localhost", "/", ""));
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        let server = peers.recv_timeout(support::GUARD).expect("the backend has answered");
        Self { client, server, gateway, descriptors, backend }
    }

    /// Waits for the end and gives its record; nothing of it is left open.
    fn ended(self) -> Value {
        let record = tunnel_of(&self.gateway);
        support::until("its sockets are closed", || self.gateway.descriptors() == self.descriptors);
        self.backend.finish();
        record
    }
}

/// A backend that answers the opening handshake and hands its end over to the test.
fn handing_over() -> (Backend, Receiver<Peer>) {
    let (give, given) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        accept_websocket(&mut peer);
        give.send(peer).expect("the test waits");
    });
    (backend, given)
}

/// Does something every [`BEAT`] for longer than the timeout, and gives how often. `None` where this machine was too slow
/// to keep to it: then the timeout was right to run out.
fn beat(mut once: impl FnMut() -> bool) -> Option<usize> {
    let start = Instant::now();
    let (mut last, mut beats) = (start, 0);
    while start.elapsed() < LIVELY {
        let begins = Instant::now();
        let done = once();
        if last.elapsed() >= TIMEOUT - BEAT / 4 {
            return None;
        }
        assert!(done, "the tunnel ended after {:?}, while bytes moved", start.elapsed());
        (last, beats) = (begins, beats + 1);
        thread::sleep(BEAT.saturating_sub(begins.elapsed()));
    }
    Some(beats)
}

/// Repeats a story until it was told without a pause of this machine.
fn on_time(mut story: impl FnMut() -> Option<()>) {
    support::until("this machine keeps time", || story().is_some());
}

/// Whether the bytes go through, from one end of a tunnel to the other.
fn pass(mut from: impl Write, mut to: impl Read, bytes: &[u8]) -> bool {
    let mut arrived = vec![0; bytes.len()];
    from.write_all(bytes).is_ok() && to.read_exact(&mut arrived).is_ok() && arrived == bytes
}

/// Sends until the connection is reset; gives how much the kernel took.
fn send_until_reset(peer: &Peer) -> u64 {
    let mut sent = 0;
    loop {
        match peer.stream().write(&[7; 65_536]) {
            Ok(taken) => sent += taken as u64,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return sent,
            Err(error) => panic!("expected a reset: {error}"),
        }
        assert!(sent < MOST, "somebody reads");
    }
}

/// Sends until nothing is taken any more.
fn fill(peer: &Peer) {
    peer.stream().set_nonblocking(true).expect("a stream that does not block");
    let (mut last, mut sent) = (Instant::now(), 0);
    while last.elapsed() < BEAT {
        match peer.stream().write(&[7; 65_536]) {
            Ok(taken) => (last, sent) = (Instant::now(), sent + taken as u64),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("sending failed: {error}"),
        }
        assert!(sent < MOST, "somebody reads");
    }
}

fn tunnel_of(gateway: &Gateway) -> Value {
    gateway.record(|record| record["record"] == "tunnel")
}

#[track_caller]
fn assert_end(record: &Value, by: &str, sent: usize, received: usize) {
    let told = (&record["ended_by"], &record["sent"], &record["received"]);
    assert_eq!(told, (&by.into(), &sent.into(), &received.into()), "{record}");
}
