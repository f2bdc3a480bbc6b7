//! What is promised of a tunnel is promised of ws and of wss, towards the client and towards the backend: every test here runs
//! over all four, and over TLS an end in order is a close_notify and a FIN, never a FIN alone.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::Gateway;
use support::peer::{Peer, Sender};
use support::tls::{self, Authority};
use support::{GUARD, until};

/// A gateway with both doors, one of which is used, and its backend's connections, whose handshakes the test answers.
struct Stand {
    gateway: Gateway,
    backends: Receiver<Peer>,
    /// Of the door that is used.
    authority: Option<Authority>,
}

/// Runs a promise over ws and over wss, of the client and of the backend.
#[allow(clippy::print_stdout)] // a failed test shows over which it failed
fn over_all(timeouts: &str, promise: impl Fn(&Stand)) {
    for (secure, up) in [(false, false), (true, false), (false, true), (true, true)] {
        let name = |secure| if secure { "wss" } else { "ws" };
        println!("over {} and {}", name(secure), name(up));
        let (hand_over, backends) = channel();
        let script = move |peer| hand_over.send(peer).expect("the test waits");
        let authority = secure.then(Authority::new);
        let tls = authority.as_ref().map(Authority::line).unwrap_or_default();
        let of_backend = up.then(|| Authority::of(&["127.0.0.1"]));
        let backend = match &of_backend {
            Some(authority) => Backend::start(tls::speaking(authority.serving(), script)),
            None => Backend::start(script),
        };
        let tls_up = of_backend.as_ref().map(|authority| authority.line_up("")).unwrap_or_default();
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n\
             [[listener]]\nname = \"door\"\nbind = \"127.0.0.1:0\"\n{tls}\
             [upstream.b]\nendpoints = [\"{}\"]\n{tls_up}[[route]]\nupstream = \"b\"\n",
            backend.address()
        ));
        let at_rest = gateway.descriptors();
        let stand = Stand { gateway, backends, authority };
        promise(&stand);
        until("its descriptors are closed", || stand.gateway.descriptors() == at_rest);
        stand.gateway.stop();
        backend.finish();
    }
}

impl Stand {
    fn connect(&self) -> Peer {
        self.secure(Client::connect(self.gateway.address("door")))
    }

    fn secure(&self, peer: Peer) -> Peer {
        match &self.authority {
            Some(authority) => authority.secure(peer),
            None => peer,
        }
    }

    fn backend(&self) -> Peer {
        self.backends.recv_timeout(GUARD).expect("the gateway comes")
    }

    /// Both ends of a fresh tunnel.
    fn tunnel(&self) -> (Peer, Peer) {
        self.tunnel_on(self.connect())
    }

    fn tunnel_on(&self, mut client: Peer) -> (Peer, Peer) {
        client.send(opening_handshake("localhost", "/", ""));
        let mut server = self.backend();
        backend::accept_websocket(&mut server);
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        (client, server)
    }

    #[track_caller]
    fn expect_record(&self, by: &str, sent: usize, received: usize) -> Value {
        let record = self.gateway.record(|record| record["record"] == "tunnel");
        let said = [&record["ended_by"], &record["sent"], &record["received"], &record["status"]];
        assert_eq!(said, [&json!(by), &json!(sent), &json!(received), &json!(101)], "{record}");
        record
    }
}

/// Bytes that no compression, repetition or shift maps to themselves.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn send_in_background(mut sender: Sender, bytes: Vec<u8>) -> JoinHandle<()> {
    thread::spawn(move || sender.send(bytes))
}

#[track_caller]
fn expect_bytes(peer: &mut Peer, bytes: &[u8]) {
    assert!(peer.read_exact(bytes.len()) == bytes, "the bytes have changed");
}

#[test]
fn bytes_pass_both_ways_at_once_and_are_counted() {
    over_all("", |stand| {
        let (mut client, mut server) = stand.tunnel();
        let (there, back) = (noise(1, 3_000_001), noise(2, 1_234_567));
        let sending =
            [send_in_background(client.sender(), there.clone()), send_in_background(server.sender(), back.clone())];
        let reading = {
            let there = there.clone();
            thread::spawn(move || {
                expect_bytes(&mut server, &there);
                server
            })
        };
        expect_bytes(&mut client, &back);
        let mut server = reading.join().expect("all of it came");
        for one in sending {
            one.join().expect("all of it was taken");
        }
        // And one byte at a time.
        for byte in *b"small" {
            client.send([byte]);
            assert_eq!(server.read_exact(1), [byte]);
            server.send([byte]);
            assert_eq!(client.read_exact(1), [byte]);
        }
        client.finish_sending();
        server.expect_eof();
        server.finish_sending();
        client.expect_eof();
        stand.expect_record("ClientClosed", there.len() + 5, back.len() + 5);
    });
}

#[test]
fn bytes_behind_the_request_are_held_until_the_101() {
    for count in [1, 20_000, 200_000] {
        over_all("", |stand| {
            let early = noise(3, count);
            let mut client = stand.connect();
            let all = [opening_handshake("localhost", "/", "").as_bytes(), &early].concat();
            let sending = send_in_background(client.sender(), all);
            let mut server = stand.backend();
            let head = server.read_head();
            server.expect_silence(Duration::from_millis(50));
            let key = support::peer::header(&head, "sec-websocket-key").expect("a key");
            server.send(backend::switching(&backend::accept_of(key)));
            expect_bytes(&mut server, &early);
            sending.join().expect("all of it was taken");
            assert!(client.read_head().starts_with("HTTP/1.1 101 "));
            client.finish_sending();
            server.expect_eof();
            drop(server);
            client.expect_eof();
            stand.expect_record("ClientClosed", count, 0);
        });
    }
}

#[test]
fn bytes_glued_behind_the_101_come_first() {
    over_all("", |stand| {
        let glued = noise(4, 20_000);
        let mut client = stand.connect();
        client.send(opening_handshake("localhost", "/", ""));
        let mut server = stand.backend();
        let head = server.read_head();
        let key = support::peer::header(&head, "sec-websocket-key").expect("a key");
        let switching = backend::switching(&backend::accept_of(key));
        server.send([switching.as_bytes(), &glued].concat());
        server.send("then");
        server.finish_sending();
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        expect_bytes(&mut client, &glued);
        assert_eq!(client.read_to_end(), b"then");
        client.finish_sending();
        server.expect_eof();
        stand.expect_record("ServerClosed", 0, glued.len() + 4);
    });
}

#[test]
fn the_clients_end_is_passed_on_and_the_servers_bytes_still_flow() {
    over_all("", |stand| {
        let (mut client, mut server) = stand.tunnel();
        client.send("last words");
        client.finish_sending();
        assert_eq!(server.read_to_end(), b"last words");
        let rest = noise(5, 300_000);
        let sending = send_in_background(server.sender(), rest.clone());
        expect_bytes(&mut client, &rest);
        sending.join().expect("all of it was taken");
        server.finish_sending();
        client.expect_eof();
        stand.expect_record("ClientClosed", 10, rest.len());
    });
}

#[test]
fn the_servers_end_is_passed_on_and_the_clients_bytes_still_flow() {
    over_all("", |stand| {
        let (mut client, mut server) = stand.tunnel();
        server.send("last words");
        server.finish_sending();
        assert_eq!(client.read_to_end(), b"last words");
        let rest = noise(6, 300_000);
        let sending = send_in_background(client.sender(), rest.clone());
        expect_bytes(&mut server, &rest);
        sending.join().expect("all of it was taken");
        client.finish_sending();
        server.expect_eof();
        stand.expect_record("ServerClosed", rest.len(), 10);
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    over_all("", |stand| {
        let (mut client, mut server) = stand.tunnel();
        client.send("there");
        assert_eq!(server.read_exact(5), b"there");
        client.reset();
        assert_eq!(server.expect_reset(), b"");
        stand.expect_record("ClientReset", 5, 0);
        let (mut client, mut server) = stand.tunnel();
        server.send("back");
        assert_eq!(client.read_exact(4), b"back");
        server.reset();
        assert_eq!(client.expect_reset(), b"");
        stand.expect_record("ServerReset", 0, 4);
    });
}

#[test]
fn the_first_closes_code_is_in_the_record() {
    over_all("", |stand| {
        let (mut client, mut server) = stand.tunnel();
        let [close, echo] = [4001, 4002].map(|code| frame::close_payload(code, "so be it"));
        let [close, echo] = [frame::client(frame::CLOSE, true, close), frame::server(frame::CLOSE, true, echo)];
        client.send(&close);
        expect_bytes(&mut server, &close);
        server.send(&echo);
        server.finish_sending();
        assert_eq!(client.read_to_end(), echo);
        client.finish_sending();
        server.expect_eof();
        let record = stand.expect_record("ServerClosed", close.len(), echo.len());
        assert_eq!(record["close_code"], 4001);
    });
}

/// Sends `all` bytes in the background; gives how many have been taken so far.
fn pour(mut sender: Sender, all: usize) -> (Arc<AtomicU64>, JoinHandle<()>) {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let pouring = thread::spawn(move || {
        for block in blocks().iter().cycle().take(all / BLOCK) {
            sender.send(block);
            counter.fetch_add(BLOCK as u64, Ordering::Relaxed);
        }
    });
    (taken, pouring)
}

const BLOCK: usize = 16 * 1024;
/// More than all buffers of the kernel on the way take.
const ALL: usize = 24 * 1024 * 1024;

/// A number of them that shares no factor with the sizes of buffers.
fn blocks() -> Vec<Vec<u8>> {
    (0..61).map(|seed| noise(seed, BLOCK)).collect()
}

/// Waits until no more is taken, which is the case when for some time no more was.
fn until_stuck(taken: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    until("the sender is stuck", || {
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(400)
    });
    last
}

#[test]
fn a_slow_reader_bounds_the_gateways_memory_and_misses_no_byte() {
    over_all("", |stand| {
        let check = |from: Sender, to: &mut Peer| {
            let before = stand.gateway.anonymous();
            let (taken, pouring) = pour(from, ALL);
            let stuck = until_stuck(&taken);
            assert!(stuck < ALL as u64, "everything was taken though nobody reads");
            let grown = stand.gateway.anonymous().saturating_sub(before);
            println!("stuck after {stuck} bytes, the gateway has grown by {grown}");
            assert!(grown < 512 * 1024, "the gateway has grown by {grown} bytes");
            blocks().iter().cycle().take(ALL / BLOCK).for_each(|block| expect_bytes(to, block));
            pouring.join().expect("all of it was taken");
        };
        let (mut client, mut server) = stand.tunnel();
        client.stop_logging();
        server.stop_logging();
        check(server.sender(), &mut client);
        check(client.sender(), &mut server);
        client.finish_sending();
        server.expect_eof();
        server.finish_sending();
        client.expect_eof();
        stand.expect_record("ClientClosed", ALL, ALL);
    });
}

#[track_caller]
fn expect_lasted(record: &Value, least: f64) {
    assert!(record["lasted_ms"].as_f64().expect("a number") >= least, "it ended before its time: {record}");
}

#[test]
fn a_silent_tunnel_ends_when_it_has_been_idle_for_long() {
    over_all("idle = \"200ms\"", |stand| {
        let (mut client, mut server) = stand.tunnel();
        client.send("one");
        assert_eq!(server.read_exact(3), b"one");
        client.expect_eof();
        server.expect_eof();
        expect_lasted(&stand.expect_record("Idle", 3, 0), 200.0);
    });
}

#[test]
fn half_a_tunnel_that_is_silent_ends_by_half_close() {
    over_all("half_close = \"200ms\"", |stand| {
        let (mut client, mut server) = stand.tunnel();
        client.finish_sending();
        server.expect_eof();
        client.expect_eof();
        expect_lasted(&stand.expect_record("HalfClosed", 0, 0), 200.0);
        let (mut client, mut server) = stand.tunnel();
        server.finish_sending();
        client.expect_eof();
        server.expect_eof();
        expect_lasted(&stand.expect_record("HalfClosed", 0, 0), 200.0);
    });
}

/// A reset behind a direction that is stuck wakes nobody, so the clock must.
#[test]
fn a_tunnel_whose_bytes_nobody_takes_ends_as_stalled() {
    over_all("stall = \"300ms\"", |stand| {
        for client_reads in [false, true] {
            let (mut client, mut server) = stand.tunnel();
            let (from, to) = if client_reads { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let mut sender = from.sender();
            let pouring = thread::spawn(move || while sender.try_send(noise(7, BLOCK)).is_ok() {});
            let record = stand.gateway.record(|record| record["record"] == "tunnel");
            assert_eq!(record["ended_by"], "Stalled", "{record}");
            expect_lasted(&record, 300.0);
            pouring.join().expect("the sender is told");
            to.expect_reset();
        }
    });
}
