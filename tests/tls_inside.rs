//! TLS takes bytes that it cannot pass on to the kernel, and says that it has written them. They are under way all the
//! same: they arrive though nobody sends any more, and so does the end behind them.
//!
//! The server sends a little at a time to a client that does not read, until the kernels of both sides hold less than was
//! sent and the gateway has none of it left to read: then the rest is inside TLS. From then on the server is silent, and
//! nothing but the client's reading moves the gateway.

mod support;

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fs, thread};

use rustls::{SupportedProtocolVersion, version};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::Peer;
use support::tls::{Authority, secure};
use support::{GUARD, until};
use tokio_rustls::rustls;

/// One TLS record, so that none of it is ever held outside of TLS.
const STEP: usize = 8_192;
const MOST: usize = 64 << 20;

#[test]
fn what_is_inside_tls_arrives_though_the_server_is_silent() {
    for version in [&version::TLS12, &version::TLS13] {
        told(
            version,
            |_| {},
            |client, server| {
                // Not an end either: it flows on, both ways.
                server.send("more");
                assert_eq!(client.read_exact(4), b"more");
                client.send("answer");
                assert_eq!(server.read_exact(6), b"answer");
            },
        );
    }
}

#[test]
fn what_is_inside_tls_arrives_before_the_end_behind_it() {
    told(&version::TLS13, Peer::finish_sending, |client, _| client.expect_eof());
}

/// `then` is what the server does once something is inside; `after` what there is to see when the client has read all.
fn told(version: &'static SupportedProtocolVersion, then: fn(&Peer), after: fn(&mut Peer, &mut Peer)) {
    let (hand_over, ends) = channel();
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        hand_over.send(peer).expect("the test waits");
    });
    let authority = Authority::new();
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{}\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        authority.line(),
        backend.address()
    ));
    let client = Client::connect_with(gateway.address("web"), |socket| {
        socket.set_recv_buffer_size(16 * 1024).expect("SO_RCVBUF");
    });
    let client = secure(client, &authority.trusted_with(version).into()).expect("the gateway speaks TLS");
    let (mut client, _) = Client::upgrade_on(client, &opening_handshake("localhost", "/", ""));
    let mut server = ends.recv_timeout(GUARD).expect("the backend's end of it");
    // The first block tells how long a record is.
    server.send(block(0));
    let came = || queued(client.local(), client.remote()).receives;
    until("it has come", || came() >= STEP);
    let (record, mut sent) = (came(), STEP);
    while !is_inside(&client, &server, sent / STEP * record) {
        server.send(block(sent));
        sent += STEP;
        assert!(sent < MOST, "the kernels take it all");
    }
    then(&server);
    for place in (0..sent).step_by(STEP) {
        assert!(client.read_exact(STEP) == block(place), "other bytes came at {place} of {sent}");
    }
    after(&mut client, &mut server);
    drop((client, server));
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
    backend.finish();
}

/// Whether the gateway has read all, which is so many bytes as TLS, and keeps some of it to itself, not only for a moment.
fn is_inside(client: &Peer, server: &Peer, bytes: usize) -> bool {
    until("the gateway has read all", || {
        queued(server.local(), server.remote()).sends == 0 && queued(server.remote(), server.local()).receives == 0
    });
    let is = || {
        // In this order: what moves from the one to the other meanwhile is counted twice, and not left out.
        let under_way = queued(client.remote(), client.local()).sends;
        under_way + queued(client.local(), client.remote()).receives < bytes
    };
    is() && {
        thread::sleep(Duration::from_millis(20));
        is()
    }
}

struct Queued {
    sends: usize,
    receives: usize,
}

/// What the kernel holds for a connection at one of its ends.
fn queued(local: SocketAddr, remote: SocketAddr) -> Queued {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let line = table.lines().find(|line| line.contains(&format!(": {} {} ", hex(local), hex(remote))));
    let line = line.unwrap_or_else(|| panic!("no connection from {local} to {remote}:\n{table}"));
    let queues = line.split_whitespace().nth(4).and_then(|queues| queues.split_once(':')).expect("its queues");
    let number = |text| usize::from_str_radix(text, 16).expect("a number");
    Queued { sends: number(queues.0), receives: number(queues.1) }
}

/// An address as that table has it: the four bytes as a number of this machine.
fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("an IPv4 address: {address}") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// What is sent at that place: no two blocks are alike.
fn block(place: usize) -> [u8; STEP] {
    let mut block = [7; STEP];
    block[..8].copy_from_slice(&(place as u64).to_be_bytes());
    block
}
