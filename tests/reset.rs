//! A RST is passed on as a RST, from each side, and what came before it is delivered before it.

mod support;

use std::io::{ErrorKind, Write};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use support::backend::{Backend, accept_websocket};
use support::client::Client;
use support::gateway::Gateway;
use support::network;
use support::peer::Peer;
use support::tunnels::Tunnels;

#[test]
fn a_reset_of_the_client_arrives_as_a_reset() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.send("hello");
        assert_eq!(peer.expect_reset(), b"before");
    });
    let gateway = gateway(&backend);
    let descriptors = gateway.descriptors();
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.send("before");
    assert_eq!(client.read_exact(5), b"hello");
    client.reset();
    assert_end(&gateway, "ClientReset", 6, 5);
    support::until("both sockets are closed", || gateway.descriptors() == descriptors);
    backend.finish();
}

#[test]
fn a_reset_of_the_server_arrives_as_a_reset() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        assert_eq!(peer.read_exact(5), b"hello");
        peer.send("before");
        peer.reset();
    });
    let gateway = gateway(&backend);
    let descriptors = gateway.descriptors();
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.send("hello");
    assert_eq!(client.expect_reset(), b"before");
    assert_end(&gateway, "ServerReset", 5, 6);
    support::until("both sockets are closed", || gateway.descriptors() == descriptors);
}

#[test]
fn a_reset_of_the_server_behind_the_clients_fin_is_still_a_reset() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.expect_eof();
        peer.send("before");
        peer.reset();
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.finish_sending();
    assert_eq!(client.expect_reset(), b"before");
    assert_end(&gateway, "ServerReset", 0, 6);
}

#[test]
fn a_reset_of_the_client_behind_the_servers_fin_is_still_a_reset() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.finish_sending();
        assert_eq!(peer.expect_reset(), b"before");
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.expect_eof();
    client.send("before");
    client.reset();
    assert_end(&gateway, "ClientReset", 6, 0);
    backend.finish();
}

/// After its own FIN a party has nothing to say and may still refuse to hear: who writes to it learns that.
#[test]
fn a_reset_behind_a_partys_own_fin_is_met_by_what_is_written_to_it() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    for by in ["ServerReset", "ClientReset"] {
        let (client, server) = tunnels.open();
        let (leaving, mut other) = if by == "ServerReset" { (server, client) } else { (client, server) };
        leaving.finish_sending();
        other.expect_eof();
        leaving.reset();
        support::until("writing to it fails", || other.try_send("more").is_err());
        assert_eq!(tunnels.record()["ended_by"], by);
    }
    tunnels.stop();
}

/// Where nobody writes, it is found when the silence has lasted; and passed on as what it was.
#[test]
fn a_reset_behind_a_partys_own_fin_is_found_by_the_clock_and_is_no_end() {
    for timeouts in ["half_close = \"300ms\"", "idle = \"300ms\""] {
        let tunnels = Tunnels::start(&format!("[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n"));
        for by in ["ServerReset", "ClientReset"] {
            let (client, server) = tunnels.open();
            let (leaving, mut other) = if by == "ServerReset" { (server, client) } else { (client, server) };
            leaving.finish_sending();
            other.expect_eof();
            leaving.reset();
            // It has read the FIN already.
            support::until("it is reset", || other.stream().take_error().expect("SO_ERROR").is_some());
            tunnels.expect_record(by, 0, 0);
        }
        tunnels.stop();
    }
}

/// A tunnel that is cut gives everything back, and its neighbours do not notice.
#[test]
fn a_reset_ends_one_tunnel_and_no_other() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let (mut client, mut server) = tunnels.open();
    let with_one = tunnels.gateway.descriptors();
    for _ in 0..10 {
        let (other_client, mut other_server) = tunnels.open();
        other_client.reset();
        other_server.expect_reset();
        let (mut other_client, other_server) = tunnels.open();
        other_server.reset();
        other_client.expect_reset();
    }
    support::until("the descriptors are given back", || tunnels.gateway.descriptors() <= with_one);
    client.expect_silence(Duration::from_millis(50));
    client.send("still");
    assert_eq!(server.read_exact(5), b"still");
    server.send("here");
    assert_eq!(client.read_exact(4), b"here");
    drop((client, server));
    support::until("every record is written", || tunnels.gateway.records().len() == 21);
    tunnels.stop();
}

/// A server that closes with bytes unread is a server that resets: so does the kernel.
#[test]
fn a_server_that_closes_without_having_read_all_resets() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.send("go");
        peer.stream().peek(&mut [0]).expect("something unread");
        peer.send("last words");
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    assert_eq!(client.read_exact(2), b"go");
    client.send("nobody reads this");
    assert_eq!(client.expect_reset(), b"last words");
    assert_end(&gateway, "ServerReset", 17, 12);
}

/// The gateway finds bytes of the client and the reset of the server in one look. It writes first; the kernel tells a
/// reset once, to that write, and says to the read that follows that the stream has ended. Passed on as a FIN, that would
/// make of a broken stream a whole one.
#[test]
fn a_reset_that_a_write_meets_first_is_no_end() {
    for words in ["", "last words"] {
        let (reset, has_reset) = mpsc::channel();
        let (order, ordered) = mpsc::channel::<()>();
        let ordered = Mutex::new(ordered);
        let backend = Backend::start(move |mut peer| {
            accept_websocket(&mut peer);
            ordered.lock().expect("one script").recv().expect("the test says when");
            peer.send(words);
            peer.reset();
            reset.send(()).expect("the test waits");
        });
        let gateway = gateway(&backend);
        let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
        gateway.standing_still(|| {
            client.send("nobody reads this");
            order.send(()).expect("the script waits");
            has_reset.recv_timeout(support::GUARD).expect("the script resets");
            // A busy kernel delivers it when it comes to it.
            support::until("the reset has come", || network::connections_to(backend.address()) == 0);
        });
        assert_eq!(client.expect_reset(), words.as_bytes());
        assert_end(&gateway, "ServerReset", 0, words.len());
    }
}

/// The same from the other side: the server's bytes meet the reset of the client.
#[test]
fn bytes_of_the_server_that_meet_a_client_that_has_reset_do_not_hide_it() {
    let (order, ordered) = mpsc::channel::<()>();
    let ordered = Mutex::new(ordered);
    let (sent, is_sent) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        accept_websocket(&mut peer);
        ordered.lock().expect("one script").recv().expect("the test says when");
        peer.send("nobody reads this");
        sent.send(()).expect("the test waits");
        assert_eq!(peer.expect_reset(), b"last words");
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    gateway.standing_still(|| {
        client.send("last words");
        client.reset();
        order.send(()).expect("the script waits");
        is_sent.recv_timeout(support::GUARD).expect("the script sends");
    });
    assert_end(&gateway, "ClientReset", 10, 0);
    backend.finish();
}

/// Both sides send until neither takes more; then one resets. Whatever was under way, it ends, and as a reset.
#[test]
fn a_reset_ends_a_tunnel_that_is_full_in_both_directions() {
    for by in ["ClientReset", "ServerReset"] {
        let (give, given) = mpsc::channel();
        let backend = Backend::start(move |mut peer| {
            accept_websocket(&mut peer);
            give.send(peer).expect("the test waits");
        });
        let gateway = gateway(&backend);
        let (client, _) = Client::upgrade(gateway.address("web"), "/");
        let server = given.recv_timeout(support::GUARD).expect("the backend has answered");
        // Nobody reads before both are full: who does would let the other one send for ever.
        thread::scope(|scope| {
            scope.spawn(|| fill(&client));
            scope.spawn(|| fill(&server));
        });
        let (resets, mut other) = if by == "ClientReset" { (client, server) } else { (server, client) };
        resets.reset();
        other.expect_reset();
        let record = gateway.record(|record| record["record"] == "tunnel");
        assert_eq!((&record["ended_by"], &record["cause"]), (&by.into(), &().into()), "{record}");
        backend.finish();
    }
}

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.backend]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"backend\"\n",
        backend.address()
    ))
}

/// Sends until nothing is taken any more.
fn fill(peer: &Peer) {
    peer.stream().set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut sent = 0;
    loop {
        match peer.stream().write(&[7; 65_536]) {
            Ok(taken) => sent += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("sending failed: {error}"),
        }
        assert!(sent < 100 << 20, "somebody reads");
    }
}

#[track_caller]
fn assert_end(gateway: &Gateway, by: &str, sent: usize, received: usize) {
    let record = gateway.record(|record| record["record"] == "tunnel");
    let told = (&record["ended_by"], &record["sent"], &record["received"], &record["cause"]);
    assert_eq!(told, (&by.into(), &sent.into(), &received.into(), &().into()), "{record}");
}
