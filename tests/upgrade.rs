//! An upgrade is forwarded: the backend is asked, its 101 relayed, and from then on the bytes of both sides pass.
//!
//! Bytes that come before their time are the story here: behind the request (a client in a hurry) they are held until
//! the 101, and are the next request after any other answer; behind the backend's 101 they are the tunnel's first.

mod support;

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use support::backend::{self, Backend, Full, accept_of, switching};
use support::client::{ACCEPT, Client, KEY, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Peer, header, header_lines};

fn gateway(endpoint: SocketAddr, timeouts: &str) -> Gateway {
    Gateway::start(&format!(
        "[timeouts]\n{timeouts}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"app\"\n"
    ))
}

/// `count` bytes that tell their place.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}

#[test]
fn the_101_is_relayed_with_its_headers_as_they_are() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let accept = accept_of(header(&head, "sec-websocket-key").expect("a key"));
        peer.send(format!(
            "HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Keep-Alive: timeout=5\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: v2.chat\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-MiXed: \tyes \r\nDate: Sun, 22 Nov 2026 00:00:00 GMT\r\n\r\n"
        ));
        peer.expect_eof();
    });
    let gateway = gateway(backend.address(), "");
    let more = "Sec-WebSocket-Protocol: v1.chat, v2.chat\r\nX-MiXed: too\r\n";
    let (client, head) =
        Client::upgrade_with(gateway.address("web"), &opening_handshake("a.example", "/ws?x=%41", more));
    let mut lines: Vec<_> = head.trim_end().split("\r\n").map(str::to_owned).collect();
    lines[1..].sort_by_key(|line| line.to_ascii_lowercase());
    assert_eq!(
        lines,
        [
            "HTTP/1.1 101 Web Socket Protocol Handshake".to_owned(),
            "Connection: upgrade".into(),
            "Date: Sun, 22 Nov 2026 00:00:00 GMT".into(),
            format!("Sec-WebSocket-Accept: {ACCEPT}"),
            "Sec-WebSocket-Protocol: v2.chat".into(),
            "Set-Cookie: a=1".into(),
            "Set-Cookie: b=2".into(),
            "Upgrade: WebSocket".into(),
            "X-MiXed: yes".into(),
        ]
    );
    drop(client);
    gateway.record(|record| record["record"] == "tunnel" && record["status"] == 101);
    gateway.stop();
    let received = backend.finish();
    let asked = support::peer::text(&received[0]);
    assert!(asked.starts_with("GET /ws?x=%41 HTTP/1.1\r\n"), "{asked}");
    assert_eq!(header(&asked, "host"), Some("a.example"));
    assert_eq!(header(&asked, "connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(header(&asked, "upgrade"), Some("websocket"));
    assert_eq!(header(&asked, "sec-websocket-key"), Some(KEY));
    assert_eq!(header(&asked, "sec-websocket-version"), Some("13"));
    assert_eq!(header_lines(&asked, "sec-websocket-protocol"), ["v1.chat, v2.chat"]);
    assert!(asked.contains("\r\nX-MiXed: too\r\n"), "{asked}");
}

#[test]
fn the_bytes_of_a_tunnel_pass_both_ways_and_are_counted() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(backend.address(), "");
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/ws");
    for count in [1, 5_000, 70_000] {
        client.send(pattern(count));
        assert_eq!(client.read_exact(count), pattern(count));
    }
    client.finish_sending();
    client.expect_eof();
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!((&record["sent"], &record["received"]), (&75_001.into(), &75_001.into()));
    assert_eq!((&record["ended_by"], &record["status"]), (&"ClientClosed".into(), &101.into()));
    assert_eq!(gateway.stop().len(), 1);
}

#[test]
fn early_bytes_are_held_until_the_101_and_then_come_first() {
    // 10 KB do not fit the buffer that hyper reads the head with: what it has not read stays with the kernel.
    for count in [1, 10 * 1024, 100 * 1024] {
        let backend = Backend::start(move |mut peer| {
            let head = peer.read_head();
            peer.expect_silence(Duration::from_millis(100));
            peer.send(switching(&accept_of(header(&head, "sec-websocket-key").expect("a key"))));
            assert_eq!(peer.read_exact(count), pattern(count));
            assert_eq!(peer.read_exact(4), b"late");
            peer.send("bye");
        });
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        client.send([opening_handshake("a", "/ws", "").into_bytes(), pattern(count)].concat());
        let head = client.read_head();
        assert_eq!(header(&head, "sec-websocket-accept"), Some(ACCEPT), "{head:?}");
        client.send("late");
        assert_eq!(client.read_exact(3), b"bye");
        client.expect_eof();
        drop(client);
        let record = gateway.record(|record| record["record"] == "tunnel");
        assert_eq!((&record["sent"], &record["received"]), (&(count + 4).into(), &3.into()));
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn bytes_glued_behind_the_101_arrive_first() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let accept = accept_of(header(&head, "sec-websocket-key").expect("a key"));
        peer.send([switching(&accept).into_bytes(), pattern(20_000)].concat());
        assert_eq!(peer.read_exact(5), b"early");
        peer.send("then");
        peer.finish_sending();
        peer.expect_eof();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/ws", "") + "early");
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read_exact(20_000), pattern(20_000));
    assert_eq!(client.read_to_end(), b"then");
    drop(client);
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!((&record["sent"], &record["received"]), (&5.into(), &20_004.into()));
    assert_eq!(record["ended_by"], "ServerClosed");
    gateway.stop();
    backend.finish();
}

#[test]
fn bytes_glued_behind_the_101_of_a_backend_that_is_gone_arrive_too() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let accept = accept_of(header(&head, "sec-websocket-key").expect("a key"));
        peer.send([switching(&accept).into_bytes(), pattern(20_000)].concat());
        peer.finish_sending();
        peer.read_to_end();
    });
    let gateway = gateway(backend.address(), "");
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/ws");
    assert_eq!(client.read_to_end(), pattern(20_000));
    drop(client);
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!((&record["received"], &record["ended_by"]), (&20_000.into(), &"ServerClosed".into()));
    gateway.stop();
}

#[test]
fn another_answer_is_passed_on_whole_and_early_bytes_are_the_next_request() {
    let refusals = [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Why: a\r\nX-Why: b\r\n\r\nnot you", 403, "not you"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n", 200, "plain"),
        (
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo\r\nConnection: upgrade, close\r\n\r\nto the end",
            426,
            "to the end",
        ),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", 302, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ];
    for (refusal, status, body) in refusals {
        let backend = Backend::start(move |mut peer| {
            let head = peer.read_head();
            peer.send(if head.starts_with("GET /ws ") {
                refusal
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
            });
            peer.finish_sending();
            peer.expect_eof();
        });
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        client.send(opening_handshake("a", "/ws", "") + "GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text()), (status, body), "{answer:?}");
        assert_eq!(answer.headers("upgrade"), [""; 0], "an answer that is no 101 switches nothing: {answer:?}");
        if status == 403 {
            assert_eq!(answer.headers("x-why"), ["a", "b"]);
        }
        assert_eq!(client.read_answer().text(), "next", "after {refusal:?}");
        client.finish_sending();
        client.expect_eof();
        let records = gateway.stop();
        let told: Vec<_> = records.iter().map(|one| (&one["record"], &one["path"], &one["status"])).collect();
        let request = &"request".into();
        assert_eq!(told, [(request, &"/ws".into(), &status.into()), (request, &"/next".into(), &200.into())]);
        let received = backend.finish();
        assert_eq!(received.len(), 2);
        assert!(received[1].starts_with(b"GET /next HTTP/1.1\r\n"));
        assert!(received[0].ends_with(b"\r\n\r\n"), "nothing was sent behind the request");
    }
}

#[test]
fn a_client_that_leaves_during_the_exchange_takes_the_backends_connection_along() {
    for reset in [false, true] {
        let backend = Backend::start(|mut peer| {
            peer.read_head();
            peer.expect_end();
        });
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        client.send(opening_handshake("a", "/ws", ""));
        support::until("the backend was asked", || backend.received().first().is_some_and(|one| !one.is_empty()));
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        let record = gateway.record(|record| record["path"] == "/ws");
        assert_eq!((&record["record"], &record["status"]), (&"request".into(), &serde_json::Value::Null));
        assert_eq!(record["cause"], "the client left before the answer");
        assert_eq!(record["endpoint"], backend.address().to_string());
        backend.finish();
        assert_eq!(gateway.stop().len(), 1);
    }
}

#[test]
fn a_client_that_leaves_during_the_dial_takes_the_dial_along() {
    let full = Full::start();
    let gateway = gateway(full.address(), "");
    let idle = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/ws", ""));
    support::until("the dial has begun", || gateway.descriptors() == idle + 2);
    drop(client);
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!((&record["record"], &record["status"]), (&"request".into(), &serde_json::Value::Null));
    assert_eq!(record["cause"], "the client left before the answer");
    support::until("both sockets are closed", || gateway.descriptors() == idle);
    assert_eq!(full.accepted_besides(), 0, "nothing was opened at the backend");
    assert_eq!(gateway.stop().len(), 1);
}

/// With bytes behind the request nobody looks at the client's socket any more, lest they would be read without an end:
/// the deadlines are what ends it.
#[test]
fn a_client_that_leaves_with_early_bytes_is_bounded_by_connect() {
    let full = Full::start();
    let gateway = gateway(full.address(), "connect = \"200ms\"");
    let idle = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/ws", "") + "early");
    support::until("the dial has begun", || gateway.descriptors() == idle + 2);
    client.reset();
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!((&record["status"], &record["cause"]), (&504.into(), &"no connection within timeouts.connect".into()));
    assert!(record["took_ms"].as_f64().expect("a number") >= 200.0, "{record}");
    support::until("both sockets are closed", || gateway.descriptors() == idle);
    assert_eq!(full.accepted_besides(), 0);
    assert_eq!(gateway.stop().len(), 1);
}

#[test]
fn a_client_that_leaves_with_early_bytes_is_bounded_by_upgrade() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "upgrade = \"200ms\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/ws", "") + "early");
    support::until("the backend was asked", || backend.received().first().is_some_and(|one| !one.is_empty()));
    client.reset();
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!(record["cause"], "the backend did not answer within timeouts.upgrade");
    assert_eq!(record["status"], 504);
    assert!(record["took_ms"].as_f64().expect("a number") >= 200.0, "{record}");
    assert!(backend.finish()[0].ends_with(b"\r\n\r\n"), "the early bytes went nowhere");
    gateway.stop();
}

#[test]
fn a_backend_that_does_not_answer_is_a_504_and_the_connection_goes_on() {
    let backend = Backend::start(|mut peer| {
        if peer.read_head().starts_with("GET /ws ") {
            peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"); // a head that never ends
            peer.expect_end();
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
            peer.expect_end();
        }
    });
    let gateway = gateway(backend.address(), "upgrade = \"200ms\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/ws", ""));
    assert_eq!(client.read_answer().status, 504);
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!(record["cause"], "the backend did not answer within timeouts.upgrade");
    assert!(record["took_ms"].as_f64().expect("a number") >= 200.0, "{record}");
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_answer().text(), "next");
    drop(client);
    gateway.stop();
    backend.finish();
}

/// A 101 that leaves slowly: its head is large, the client's window and segments small, and the client reads nothing.
fn start_a_101_that_does_not_leave(stall: &str) -> (Gateway, Backend, Peer) {
    let (agreed, has_agreed) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let more = format!("X-Much: {}\r\n", "m".repeat(8_000)).repeat(90);
        peer.send(switching(ACCEPT).replace("\r\n\r\n", &format!("\r\n{more}\r\n")));
        agreed.send(()).expect("the test waits for it");
        peer.expect_end();
    });
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\nstall = \"{stall}\"\n[limits]\nhead_size = \"1MiB\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n\
         [[route]]\nupstream = \"app\"\n\
         [[route]]\npath = \"/here\"\nrespond = 204\n",
        backend.address()
    ));
    let mut client = Client::connect_with(gateway.address("web"), |socket| {
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        socket.set_tcp_mss(536).expect("TCP_MAXSEG");
    });
    client.send(opening_handshake("a", "/ws", ""));
    has_agreed.recv_timeout(support::GUARD).expect("the backend has agreed");
    // The one worker answers this after it has taken the backend's 101, which came before.
    assert_eq!(Client::get(gateway.address("web"), "/here").status, 204);
    (gateway, backend, client)
}

#[test]
fn a_client_that_leaves_before_its_101_has_left_is_no_tunnel() {
    let (gateway, backend, client) = start_a_101_that_does_not_leave("60s");
    client.reset();
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!((&record["record"], &record["status"]), (&"request".into(), &101.into()));
    assert_eq!(record["cause"], "the client left before the 101");
    backend.finish();
    assert_eq!(gateway.stop().len(), 2);
}

#[test]
fn a_101_that_the_client_does_not_read_is_given_up_after_stall() {
    let (gateway, backend, client) = start_a_101_that_does_not_leave("200ms");
    let record = gateway.record(|record| record["path"] == "/ws");
    assert_eq!((&record["record"], &record["status"]), (&"request".into(), &101.into()));
    assert_eq!(record["cause"], "the client read nothing for timeouts.stall");
    assert!(record["took_ms"].as_f64().expect("a number") >= 200.0, "{record}");
    backend.finish();
    drop(client);
    assert_eq!(gateway.stop().len(), 2);
}
