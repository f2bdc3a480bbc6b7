//! What an idle tunnel costs the gateway in memory.
//!
//! Measured is the proportional set size (smaps_rollup) of the binary that cargo built for the tests, with one worker,
//! while 2,000 plain tunnels are open that have each moved a message both ways, less the same figure before, for each
//! tunnel. Before that a few tunnels have been opened, used and closed, so that code and tables that the process needs once
//! are in both figures; only a few, because the heap keeps what was freed, and tunnels that take that again would look as
//! if they cost nothing. The kernel's memory for the sockets is in neither figure.

mod support;

use std::sync::mpsc::{Receiver, channel};

use support::backend::{self, Backend};
use support::client::Client;
use support::gateway::Gateway;
use support::peer::Peer;
use support::{GUARD, raise_descriptors, until};

const TUNNELS: u64 = 2_000;
const WARM_UP: u64 = 20;
const BYTES: u64 = 2_500;

#[test]
fn an_idle_tunnel_costs_less_than_2500_bytes() {
    assert!(raise_descriptors() >= 3 * TUNNELS, "too few descriptors to test with");
    let (hand_over, backends) = channel();
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        hand_over.send(peer).expect("the test waits");
    });
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        backend.address()
    ));
    let at_rest = gateway.descriptors();
    drop(open(&gateway, &backends, WARM_UP));
    until("the first few are closed", || gateway.descriptors() == at_rest);
    let before = gateway.pss();
    let tunnels = open(&gateway, &backends, TUNNELS);
    let with_tunnels = gateway.pss();
    let each = with_tunnels.saturating_sub(before) / TUNNELS;
    println!("an idle tunnel: {each} bytes of PSS ({before} before, {with_tunnels} with {TUNNELS} tunnels)");
    assert!(each < BYTES, "{each} bytes an idle tunnel");
    // Those that follow take what these leave, and little more: nothing grows by being used.
    drop(tunnels);
    until("they are closed", || gateway.descriptors() == at_rest);
    let tunnels = open(&gateway, &backends, TUNNELS);
    let again = gateway.pss().saturating_sub(before) / TUNNELS;
    println!("the same a second time: {again} bytes");
    assert!(again < BYTES, "{again} bytes an idle tunnel, the second time");
    drop(tunnels);
    until("every tunnel has its record", || gateway.records().len() as u64 == 2 * TUNNELS + WARM_UP);
    gateway.stop();
    backend.finish();
}

/// Opens the tunnels, and moves a message through each, both ways.
fn open(gateway: &Gateway, backends: &Receiver<Peer>, count: u64) -> Vec<(Peer, Peer)> {
    let address = gateway.address("web");
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let (mut client, _) = Client::upgrade(address, "/");
        let mut server = backends.recv_timeout(GUARD).expect("the backend's end of it");
        client.send([7; 131]);
        assert_eq!(server.read_exact(131), [7; 131]);
        server.send([8; 127]);
        assert_eq!(client.read_exact(127), [8; 127]);
        tunnels.push((client, server));
    }
    tunnels
}
