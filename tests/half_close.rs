//! A FIN is passed on as a FIN, one direction at a time, and what flows the other way still arrives.

mod support;

use std::sync::{Mutex, mpsc};
use std::thread;

use serde_json::Value;
use support::backend::{Backend, accept_websocket};
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::Peer;

/// More than a tunnel reads in one go.
const MANY: usize = 300_000;
/// Less than the gateway's kernel takes for a reader that does not read, and more than goes into that reader's window.
const HELD: usize = 100_000;
const WINDOW: usize = 32 * 1024;

#[test]
fn what_the_server_sends_after_the_clients_fin_arrives() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        assert_eq!(peer.read_to_end(), b"question");
        peer.send(pattern(MANY));
        peer.finish_sending();
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.send("question");
    client.finish_sending();
    assert!(client.read_to_end() == pattern(MANY), "the bytes are not those that were sent");
    assert_end(&gateway, "ClientClosed", 8, MANY);
}

#[test]
fn what_the_client_sends_after_the_servers_fin_arrives() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.send("question");
        peer.finish_sending();
        assert!(peer.read_to_end() == pattern(MANY), "the bytes are not those that were sent");
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    assert_eq!(client.read_to_end(), b"question");
    client.send(pattern(MANY));
    client.finish_sending();
    assert_end(&gateway, "ServerClosed", MANY, 8);
    backend.finish();
}

/// A FIN of one side ends nothing of the other: the tunnel goes on in both senses until the second FIN.
#[test]
fn a_fin_is_passed_on_before_the_other_direction_has_ended() {
    let (seen, is_seen) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        accept_websocket(&mut peer);
        peer.expect_eof();
        seen.send(()).expect("the test waits");
        for _ in 0..3 {
            peer.send("more");
        }
        peer.finish_sending();
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.finish_sending();
    is_seen.recv_timeout(support::GUARD).expect("the FIN arrives while nothing has come back");
    assert_eq!(client.read_to_end(), b"moremoremore");
    assert_end(&gateway, "ClientClosed", 0, 12);
}

#[test]
fn bytes_and_the_fin_behind_them_may_come_at_once() {
    for length in [1, 65_536, 65_537, 4 * 65_536, MANY] {
        let backend = Backend::start(move |mut peer| {
            accept_websocket(&mut peer);
            assert!(peer.read_to_end() == pattern(length), "the bytes are not those that were sent");
            peer.send(pattern(length));
            peer.finish_sending();
        });
        let gateway = gateway(&backend);
        let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
        gateway
            .standing_still(|| {
                let mut sender = client.sender();
                // The kernel may not take all of it before the gateway reads again, hence a thread.
                thread::spawn(move || {
                    sender.send(pattern(length));
                    sender.finish_sending();
                })
            })
            .join()
            .expect("all is sent");
        assert!(client.read_to_end() == pattern(length), "the bytes are not those that were sent");
        assert_end(&gateway, "ClientClosed", length, length);
        backend.finish();
    }
}

/// The gateway meets both ends, with bytes before each, in one look.
#[test]
fn both_sides_may_end_at_once() {
    let (start, started) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel::<()>();
    let started = Mutex::new(started);
    let backend = Backend::start(move |mut peer| {
        accept_websocket(&mut peer);
        started.lock().expect("one script").recv().expect("the test says when");
        peer.send("from the server");
        peer.finish_sending();
        end.send(()).expect("the test waits");
        assert_eq!(peer.read_to_end(), b"from the client");
    });
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    gateway.standing_still(|| {
        client.send("from the client");
        client.finish_sending();
        start.send(()).expect("the script waits");
        ended.recv_timeout(support::GUARD).expect("the server has ended");
    });
    assert_eq!(client.read_to_end(), b"from the server");
    let record = tunnel_of(&gateway);
    assert!(["ClientClosed", "ServerClosed"].contains(&record["ended_by"].as_str().expect("a word")), "{record}");
    assert_eq!((&record["sent"], &record["received"]), (&15.into(), &15.into()));
    backend.finish();
}

#[test]
fn early_bytes_and_a_fin_right_behind_the_request_are_a_half_close() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        assert_eq!(peer.read_to_end(), b"early");
        peer.send("late");
        peer.finish_sending();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(format!("{}early", opening_handshake("localhost", "/", "")));
    client.finish_sending();
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read_to_end(), b"late");
    assert_end(&gateway, "ClientClosed", 5, 4);
    backend.finish();
}

/// Nobody waits for a slow reader when both directions have ended: the kernel has the rest, and closing a socket must not
/// take it away. The same towards the client and towards the server.
#[test]
fn what_the_kernel_still_holds_when_the_tunnel_is_over_arrives() {
    let backend = Backend::start(|mut peer| {
        accept_websocket(&mut peer);
        peer.expect_eof();
        peer.send(pattern(HELD));
        peer.finish_sending();
    });
    let gateway = gateway(&backend);
    let descriptors = gateway.descriptors();
    let mut client = narrow(&gateway);
    client.finish_sending();
    assert_end(&gateway, "ClientClosed", 0, HELD);
    support::until("both sockets are closed", || gateway.descriptors() == descriptors);
    assert!(client.read_to_end() == pattern(HELD), "the bytes are not those that were sent");
}

#[test]
fn what_the_kernel_still_holds_for_the_server_arrives_too() {
    let (ended, has_ended) = mpsc::channel::<()>();
    let has_ended = Mutex::new(has_ended);
    let backend = Backend::start(move |mut peer| {
        peer.set_receive_buffer(WINDOW);
        accept_websocket(&mut peer);
        peer.finish_sending();
        has_ended.lock().expect("one script").recv().expect("the test says when");
        assert!(peer.read_to_end() == pattern(HELD), "the bytes are not those that were sent");
    });
    let gateway = gateway(&backend);
    let descriptors = gateway.descriptors();
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    client.expect_eof();
    client.send(pattern(HELD));
    client.finish_sending();
    assert_end(&gateway, "ServerClosed", HELD, 0);
    support::until("both sockets are closed", || gateway.descriptors() == descriptors);
    ended.send(()).expect("the script waits");
    backend.finish();
}

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.backend]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"backend\"\n",
        backend.address()
    ))
}

/// A client whose window holds but a part of it.
fn narrow(gateway: &Gateway) -> Peer {
    let mut client = Client::connect_with(gateway.address("web"), |socket| {
        socket.set_recv_buffer_size(WINDOW).expect("SO_RCVBUF");
    });
    client.send(opening_handshake("localhost", "/", ""));
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    client
}

fn tunnel_of(gateway: &Gateway) -> Value {
    gateway.record(|record| record["record"] == "tunnel")
}

#[track_caller]
fn assert_end(gateway: &Gateway, by: &str, sent: usize, received: usize) {
    let record = tunnel_of(gateway);
    let told = (&record["ended_by"], &record["sent"], &record["received"], &record["cause"]);
    assert_eq!(told, (&by.into(), &sent.into(), &received.into(), &Value::Null), "{record}");
}

/// Bytes of which no two places within a page are alike.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}
