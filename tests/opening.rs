//! Is it an upgrade? Every row of the two tables: what a client may send and what it gets for it, and what a backend may
//! answer and what becomes of that. What is refused is refused before a backend hears of it.

mod support;

use support::backend::{self, Backend, accept_of, switching};
use support::client::{Client, KEY, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Answer, Peer, header, header_lines, text};

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\nupgrade = \"200ms\"\n[limits]\nhead_size = \"8KiB\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\nretry = {{ attempts = 0 }}\n\
         [[route]]\nname = \"all\"\nupstream = \"app\"\nupgrade = [\"websocket\", \"foo\"]\n\
         [[route]]\nname = \"plain\"\npath = \"/plain\"\nupstream = \"app\"\nupgrade = []\n",
        backend.address()
    ))
}

/// A request with these header lines and all that makes a WebSocket handshake but what they are about.
fn request(line: &str, lines: &str) -> String {
    let mut request = format!("{line}\r\n{lines}");
    for (name, value) in [
        ("Host", "a.example"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ] {
        let is_there = lines.lines().any(|line| line.to_ascii_lowercase().starts_with(&name.to_ascii_lowercase()));
        if !is_there {
            request += &format!("{name}: {value}\r\n");
        }
    }
    request + "\r\n"
}

const GET: &str = "GET /ws HTTP/1.1";

#[test]
fn what_is_no_sound_opening_handshake_is_refused_and_no_backend_hears_of_it() {
    let table = [
        // Host comes first, whatever else is wrong.
        (400, GET, "Host:\r\nSec-WebSocket-Version: 7\r\n"),
        (400, GET, "Host: a\r\nHost: a\r\n"),
        (400, GET, "Host: user@a\r\n"),
        (400, GET, "Host: a b\r\n"),
        (400, "GET http://user:pass@a/ws HTTP/1.1", ""),
        // CONNECT and TRACE are nobody's.
        (405, "CONNECT a.example:443 HTTP/1.1", ""),
        (405, "TRACE /ws HTTP/1.1", ""),
        // WebSocket is asked for by GET, without a body.
        (405, "POST /ws HTTP/1.1", ""),
        (405, "HEAD /ws HTTP/1.1", ""),
        (400, GET, "Content-Length: 5\r\n"),
        (400, GET, "Transfer-Encoding: chunked\r\n"),
        // In version 13, said once.
        (426, GET, "Sec-WebSocket-Version: 8\r\n"),
        (426, GET, "Sec-WebSocket-Version: 1337\r\n"),
        (426, GET, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n"),
        (426, GET, "Sec-WebSocket-Version:\r\n"),
        // With a key of 16 bytes, said once.
        (400, GET, "Sec-WebSocket-Key: c2hvcnQ=\r\n"),
        (400, GET, "Sec-WebSocket-Key:\r\n"),
        (400, GET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        (400, GET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ!!\r\n"),
        // Another protocol: any method, no body.
        (400, "POST /ws HTTP/1.1", "Upgrade: foo\r\nContent-Length: 3\r\n"),
    ];
    let backend = Backend::start(backend::respond("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    let gateway = gateway(&backend);
    for (status, line, lines) in table {
        let mut client = Client::connect(gateway.address("web"));
        client.send(request(line, lines));
        let head = client.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {lines:?}: {head}");
        if status == 426 {
            assert_eq!(header(&head, "sec-websocket-version"), Some("13"), "{head}");
            assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
        }
        if line.starts_with("POST") && status == 405 {
            assert_eq!(header(&head, "allow"), Some("GET"), "{head}");
        }
        let record = gateway.record(|record| record["status"] == status);
        assert!(record["cause"].is_string() && record.get("endpoint").is_none(), "{record}");
    }
    for missing in ["Sec-WebSocket-Version", "Sec-WebSocket-Key", "Host"] {
        let asked = request(GET, "");
        let without: String = asked.split_inclusive("\r\n").filter(|line| !line.starts_with(missing)).collect();
        let expected = if missing == "Sec-WebSocket-Version" { 426 } else { 400 };
        assert_eq!(Client::ask(gateway.address("web"), without).status, expected, "without {missing}");
    }
    assert_eq!(backend.connections(), 0, "no backend has heard of it");
    gateway.stop();
}

#[test]
fn what_does_not_ask_for_an_allowed_upgrade_is_a_plain_request_without_its_upgrade_headers() {
    let table = [
        ("GET /ws HTTP/1.0", ""),
        (GET, "Connection: keep-alive\r\n"),
        (GET, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
        (GET, "Upgrade: TLS/1.0\r\n"),
        (GET, "Upgrade: bar, h2c\r\n"),
        ("GET /plain HTTP/1.1", ""),
    ];
    for (line, lines) in table {
        let backend = Backend::start(backend::respond("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"));
        let gateway = gateway(&backend);
        let answer = Client::ask(gateway.address("web"), request(line, lines));
        assert_eq!((answer.status, answer.text()), (200, "fine"), "{line} {lines:?}");
        assert!(gateway.record(|_| true).get("cause").is_none());
        gateway.stop();
        let asked = text(&backend.finish()[0]);
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(header(&asked, gone), None, "{line} {lines:?}: {asked}");
        }
    }
}

#[test]
fn of_several_tokens_the_allowed_one_is_asked_for_and_only_that() {
    let table = [
        ("Upgrade: h2c, websocket\r\n", "websocket"),
        ("Upgrade: WebSocket, h2c\r\nConnection: keep-alive, UPGRADE\r\nHTTP2-Settings: x\r\n", "WebSocket"),
        ("Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: close\r\nConnection: upgrade\r\n", "websocket"),
    ];
    for (lines, token) in table {
        let backend = Backend::start(backend::websocket_echo);
        let gateway = gateway(&backend);
        let (mut client, _) = Client::upgrade_with(gateway.address("web"), &request(GET, lines));
        client.send("through");
        assert_eq!(client.read_exact(7), b"through");
        drop(client);
        gateway.record(|record| record["status"] == 101);
        gateway.stop();
        let asked = text(&backend.finish()[0]);
        assert_eq!(header_lines(&asked, "upgrade"), [token], "{asked}");
        assert_eq!(header(&asked, "http2-settings"), None, "{asked}");
    }
}

#[test]
fn another_listed_token_upgrades_by_any_method() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n");
        let asked = peer.read_exact(4);
        peer.send(asked);
        peer.expect_end();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(b"POST /foo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: FOO\r\n\r\n\x00\xff\x88\x01");
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read_exact(4), b"\x00\xff\x88\x01");
    drop(client);
    gateway.stop();
}

/// A backend that answers an upgrade request with this, where `ACCEPT` stands for the right key's answer, and then says how
/// its connection ended.
fn answering(answer: &'static str) -> Backend {
    Backend::start(move |mut peer: Peer| {
        let head = peer.read_head();
        let accept = header(&head, "sec-websocket-key").map(accept_of).unwrap_or_default();
        peer.send(answer.replace("ACCEPT", &accept));
        peer.expect_end();
    })
}

fn ask_upgrade(gateway: &Gateway) -> Answer {
    let more = "Sec-WebSocket-Protocol: v1, v2\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    Client::ask(gateway.address("web"), opening_handshake("a.example", "/ws", more))
}

#[test]
fn a_101_that_is_not_the_one_that_was_asked_for_is_a_502_and_its_connection_is_dropped() {
    let head = "HTTP/1.1 101 Switching Protocols\r\n";
    let table = [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp=\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Accept: ACCEPT\r\n",
        "Upgrade: foo\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n",
        "Upgrade: websocket, foo\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n",
        "Connection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: v3\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: x\r\n",
        "",
    ];
    for lines in table {
        let answer: &'static str = format!("{head}{lines}\r\n").leak();
        let backend = answering(answer);
        let gateway = gateway(&backend);
        assert_eq!(ask_upgrade(&gateway).status, 502, "{lines:?}");
        let record = gateway.record(|record| record["status"] == 502);
        assert!(record["record"] == "request" && record["cause"].is_string(), "{record}");
        // Its script has seen the end of its connection.
        backend.finish();
        gateway.stop();
    }
}

#[test]
fn a_101_to_a_plain_request_is_a_502() {
    let backend = answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let gateway = gateway(&backend);
    assert_eq!(Client::get(gateway.address("web"), "/").status, 502);
    backend.finish();
    gateway.stop();
}

#[test]
fn any_other_answer_is_passed_on_whole_and_the_connection_goes_on_as_http() {
    let answers = [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nX-Why: no\r\n\r\nno\n", 403, "no\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", 200, "fine"),
        ("HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
        ("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n", 426, ""),
    ];
    for (raw, status, body) in answers {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(raw);
            peer.expect_end();
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send(opening_handshake("a.example", "/ws", ""));
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text()), (status, body), "{raw:?}");
        assert_eq!(answer.header("upgrade"), None, "{answer:?}");
        // Never a tunnel: the next request is routed and checked like any other.
        client.send("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n");
        assert_eq!(client.read_answer().status, 400);
        gateway.stop();
        assert_eq!(backend.finish().len(), 1);
    }
}

#[test]
fn a_backend_that_does_not_answer_is_a_504_and_one_that_breaks_off_a_502() {
    let scripts: [(u16, fn(Peer)); 6] = [
        (504, |mut peer| {
            peer.read_head();
            peer.expect_end();
        }),
        (504, |mut peer| {
            peer.read_head();
            peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs");
            peer.expect_end();
        }),
        (502, |mut peer| {
            peer.read_head();
            peer.send("HELLO 101 what\r\n\r\n");
            peer.expect_end();
        }),
        (502, |mut peer| {
            peer.read_head();
            // The gateway need not take all of it.
            let _ = peer.try_send(format!("HTTP/1.1 101 Switching Protocols\r\nX: {}\r\n\r\n", "y".repeat(16 << 10)));
            peer.expect_end();
        }),
        (502, |mut peer| {
            peer.read_head();
            peer.finish_sending();
            peer.expect_end();
        }),
        (502, |mut peer| {
            peer.read_head();
            peer.reset();
        }),
    ];
    for (index, (status, script)) in scripts.into_iter().enumerate() {
        let backend = Backend::start(script);
        let gateway = gateway(&backend);
        assert_eq!(ask_upgrade(&gateway).status, status, "script {index}");
        let record = gateway.record(|record| record["status"] == status);
        assert!(status != 504 || record["took_ms"].as_f64() >= Some(200.0), "{record}");
        backend.finish();
        gateway.stop();
    }
}

#[test]
fn the_right_101_is_passed_on_after_a_103_and_however_slowly_it_comes() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let accept = accept_of(header(&head, "sec-websocket-key").expect("a key"));
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        for byte in switching(&accept).bytes() {
            peer.send([byte]);
        }
        peer.send("first");
        peer.expect_end();
    });
    let gateway = gateway(&backend);
    let (mut client, head) = Client::upgrade(gateway.address("web"), "/ws");
    assert!(head.starts_with("HTTP/1.1 101 ") && header(&head, "link").is_none(), "{head}");
    assert_eq!(client.read_exact(5), b"first");
    drop(client);
    gateway.stop();
}
