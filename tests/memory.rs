//! What an idle tunnel costs the gateway in memory, plain and over TLS, and what a connection costs that waits for its next
//! request.
//!
//! Measured is the proportional set size (smaps_rollup) of the binary that cargo built for the tests, with one worker,
//! while many of them are open that have each been used, less the same figure before, for each. Before that a few have
//! been opened, used and closed, so that code and tables that the process needs once are in both figures; only a few,
//! because the heap keeps what was freed, and those that take that again would look as if they cost nothing. The kernel's
//! memory for the sockets is in neither figure.
//!
//! One test, because a second gateway beside it would share its code with it and so change the figure.

mod support;

use std::sync::mpsc::{Receiver, channel};

use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::Peer;
use support::tls::Authority;
use support::{GUARD, raise_descriptors, until};

const WARM_UP: u64 = 20;

/// What is opened, how many of it, and the bytes that each may cost.
struct Case {
    name: &'static str,
    count: u64,
    bytes: u64,
    open: fn(&Stand) -> Vec<Peer>,
}

const CASES: [Case; 4] = [
    Case { name: "an idle tunnel", count: 2_000, bytes: 2_500, open: plain_tunnel },
    // rustls' connection and its buffers, which it keeps.
    Case { name: "an idle tunnel over TLS", count: 1_000, bytes: 13_000, open: tls_tunnel },
    // hyper's connection with the buffer that it reads heads into, which it keeps.
    Case { name: "an idle keep-alive connection", count: 1_000, bytes: 24_000, open: kept },
    // Both; no figure is promised for it, this is what it must not grow beyond.
    Case { name: "an idle keep-alive connection over TLS", count: 1_000, bytes: 28_000, open: kept_over_tls },
];

struct Stand {
    gateway: Gateway,
    backends: Receiver<Peer>,
    authority: Authority,
}

#[test]
fn what_is_idle_costs_no_more_than_this() {
    assert!(raise_descriptors() >= 6_000, "too few descriptors to test with");
    CASES.iter().for_each(measure);
}

#[allow(clippy::print_stdout)] // the figures are worth reading even where they are small enough
fn measure(case: &Case) {
    let (hand_over, backends) = channel();
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        hand_over.send(peer).expect("the test waits");
    });
    let authority = Authority::new();
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n",
        authority.line(),
        backend.address()
    ));
    let stand = Stand { gateway, backends, authority };
    let gateway = &stand.gateway;
    let at_rest = gateway.descriptors();
    let open = |count: u64| (0..count).flat_map(|_| (case.open)(&stand)).collect::<Vec<_>>();
    drop(open(WARM_UP));
    until("the first few are closed", || gateway.descriptors() == at_rest);
    let before = gateway.pss();
    // Those that follow take what these leave, and little more: nothing grows by being used.
    for turn in ["the first time", "the second time"] {
        let opened = open(case.count);
        let with_them = gateway.pss();
        let each = with_them.saturating_sub(before) / case.count;
        println!("{}: {each} bytes of PSS, {turn} ({before} before, {with_them} with {})", case.name, case.count);
        assert!(each < case.bytes, "{}: {each} bytes, {turn}", case.name);
        drop(opened);
        until("they are closed", || gateway.descriptors() == at_rest);
    }
    until("each has its record", || gateway.records().len() as u64 == 2 * case.count + WARM_UP);
    stand.gateway.stop();
    backend.finish();
}

fn plain_tunnel(stand: &Stand) -> Vec<Peer> {
    tunnel(stand, Client::connect(stand.gateway.address("web")))
}

fn tls_tunnel(stand: &Stand) -> Vec<Peer> {
    tunnel(stand, stand.authority.connect(stand.gateway.address("secure")))
}

/// Opens a tunnel, and moves a message through it, both ways.
fn tunnel(stand: &Stand, client: Peer) -> Vec<Peer> {
    let (mut client, _) = Client::upgrade_on(client, &opening_handshake("localhost", "/", ""));
    let mut server = stand.backends.recv_timeout(GUARD).expect("the backend's end of it");
    client.send([7; 131]);
    assert_eq!(server.read_exact(131), [7; 131]);
    server.send([8; 127]);
    assert_eq!(client.read_exact(127), [8; 127]);
    vec![client, server]
}

fn kept(stand: &Stand) -> Vec<Peer> {
    answered(Client::connect(stand.gateway.address("web")))
}

fn kept_over_tls(stand: &Stand) -> Vec<Peer> {
    answered(stand.authority.connect(stand.gateway.address("secure")))
}

/// A connection that has had one answer.
fn answered(mut client: Peer) -> Vec<Peer> {
    client.send("GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.read_answer().text(), "here");
    vec![client]
}
