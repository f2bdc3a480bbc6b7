//! What a tunnel takes it gives back: after 2,000 of them, opened, used and ended in every way that parties have, the
//! gateway has the descriptors, the registry and the memory that it had after the 2,000 before.

mod support;

use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use support::backend::{self, Backend};
use support::client::Client;
use support::gateway::{Gateway, Signal};
use support::peer::Peer;
use support::{GUARD, raise_descriptors, until};

const TUNNELS: usize = 2_000;
const ROUNDS: usize = 2;

#[test]
fn thousands_of_tunnels_leave_nothing_behind() {
    assert!(raise_descriptors() >= 5 * TUNNELS as u64 / 2, "too few descriptors to test with");
    let (hand_over, backends) = channel();
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        hand_over.send(peer).expect("the test waits");
    });
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 2\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        backend.address()
    ));
    let at_rest = gateway.descriptors();
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        open_use_and_end(&gateway, &backends, round);
        until("the descriptors are what they were", || gateway.descriptors() == at_rest);
        memory.push(gateway.anonymous());
    }
    println!("its own memory after 2,000 and 4,000 tunnels: {memory:?} bytes");
    // The first round is the warm-up. A hundred bytes a tunnel would show: its entry, its record, any part of it. Fewer are
    // no leak: the queue of the log touches a fresh slot of 32 bytes for each line until it has been round once.
    let grown = memory[1].saturating_sub(memory[0]);
    assert!(grown < 100 * TUNNELS as u64, "2,000 tunnels left {grown} bytes behind: {memory:?}");

    gateway.signal(Signal::SIGTERM);
    let draining = gateway.message(|message| message["message"] == "draining");
    assert_eq!(draining["open"], 0, "the registry is not empty");
    let ended = gateway.message(|message| message["message"] == "ended");
    assert_eq!((&ended["tunnels"], &ended["cut"]), (&Value::from(ROUNDS * TUNNELS), &Value::from(0)));
    let (status, records) = gateway.wait();
    assert_eq!((status.code(), records.len()), (Some(0), ROUNDS * TUNNELS), "not one record a tunnel");
    for by in ["ClientClosed", "ServerClosed", "ClientReset", "ServerReset"] {
        assert_eq!(records.iter().filter(|record| record["ended_by"] == by).count(), ROUNDS * TUNNELS / 4, "{by}");
    }
    assert!(records.iter().all(|record| record["sent"] == 5 && record["received"] == 6), "bytes were counted wrongly");
    backend.finish();
}

fn open_use_and_end(gateway: &Gateway, backends: &Receiver<Peer>, round: usize) {
    let mut tunnels = Vec::with_capacity(TUNNELS);
    for _ in 0..TUNNELS {
        let (client, _) = Client::upgrade(gateway.address("web"), "/");
        tunnels.push((client, backends.recv_timeout(GUARD).expect("the backend's end of it")));
    }
    assert!(gateway.descriptors() >= 2 * TUNNELS, "they are not all open at once");
    for (client, server) in &mut tunnels {
        client.send("there");
        assert_eq!(server.read_exact(5), b"there");
        server.send("and up");
        assert_eq!(client.read_exact(6), b"and up");
    }
    for (index, (mut client, mut server)) in tunnels.into_iter().enumerate() {
        match index % 4 {
            0 => end(&client, &mut server),
            1 => end(&server, &mut client),
            2 => {
                client.reset();
                server.expect_reset();
                continue;
            }
            _ => {
                server.reset();
                client.expect_reset();
                continue;
            }
        }
        let (mut first, second) = if index % 4 == 0 { (client, server) } else { (server, client) };
        drop(second);
        first.expect_eof();
    }
    until("every tunnel has its record", || gateway.records().len() == (round + 1) * TUNNELS);
}

/// Ends one way, and sees that the end arrives.
fn end(first: &Peer, second: &mut Peer) {
    first.finish_sending();
    second.expect_eof();
}
