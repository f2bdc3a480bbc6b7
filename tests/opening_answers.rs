//! What a backend may answer to an upgrade request. Only the 101 that was asked for opens a tunnel; another 101 is a 502
//! and the end of that backend's connection; every other status is an answer like any, and the client's connection goes on
//! as HTTP: its next request is routed and checked, whatever the backend believes.

mod support;

use std::time::Duration;

use support::backend::{Backend, switching};
use support::client::{ACCEPT, Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Answer, Peer, header, text};

fn gateway(backend: &Backend, more: &str) -> Gateway {
    let address = backend.address();
    Gateway::start(&format!(
        "{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{address}\"]\n\
         [[route]]\npath = \"/ws\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/foo\"\nupstream = \"app\"\nupgrade = [\"foo\"]\n\
         [[route]]\npath = \"/plain\"\nrespond = {{ status = 200, body = \"plain\" }}\n"
    ))
}

const OFFERS: &str = "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: last\r\n\
                      Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover, x-a;b=\"c, d\"\r\n";
const FOO: &str = "POST /foo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n";

/// Asks on a connection on which then two more requests are answered: one that is checked, and one that is routed.
fn ask(gateway: &Gateway, request: &str, why: &str) -> Answer {
    let mut client = Client::connect(gateway.address("web"));
    client.send(request);
    let answer = client.read_answer();
    client.send(opening_handshake("a", "/ws", "").replace("Version: 13", "Version: 12"));
    assert_eq!(client.read_answer().status, 426, "after {why:?}");
    client.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_answer().status, 404, "after {why:?}");
    client.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_answer().text(), "plain", "after {why:?}");
    answer
}

/// A backend that answers so, asserts that the gateway then drops the connection, and has seen one request and no more.
fn refused(answer: impl Into<Vec<u8>>, request: &str, cause: &str) {
    let answer = answer.into();
    let why = text(&answer[..answer.len().min(300)]);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        // The gateway may have read enough.
        let _ = peer.try_send(&answer);
        peer.expect_end();
    });
    let gateway = gateway(&backend, "");
    let seen = ask(&gateway, request, &why);
    assert_eq!((seen.status, seen.text()), (502, "502 Bad Gateway\n"), "{why:?}");
    let record = gateway.record(|record| record["endpoint"].is_string());
    assert_eq!((&record["record"], &record["status"]), (&"request".into(), &502.into()), "{why:?}: {record}");
    assert!(record["cause"].as_str().is_some_and(|told| told.starts_with(cause)), "{why:?}: {record}");
    gateway.stop();
    let received = backend.finish();
    assert_eq!(received.len(), 1, "{why:?}");
    assert!(received[0].ends_with(b"\r\n\r\n"));
}

#[test]
fn the_101_that_was_asked_for_opens_a_tunnel() {
    for lines in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "upgrade: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n",
        "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\nKeep-Alive: timeout=5\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: superchat\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: last\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: x-a, permessage-deflate; a=\",\"\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade, Sec-WebSocket-Accept\r\nSec-WebSocket-Extensions:\r\n",
    ] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 101 Yes\r\n{lines}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"));
            assert_eq!(peer.read_exact(4), b"ping");
            peer.send("pong");
            peer.expect_eof();
        });
        let gateway = gateway(&backend, "");
        let (mut client, head) = Client::upgrade_with(gateway.address("web"), &opening_handshake("a", "/ws", OFFERS));
        assert_eq!(header(&head, "connection"), Some("upgrade"), "{head:?}");
        for name in ["sec-websocket-protocol", "sec-websocket-extensions"] {
            let sent = format!("X: x\r\n{lines}");
            assert_eq!(header(&head, name), header(&sent, name), "{head:?}");
        }
        client.send("ping");
        assert_eq!(client.read_exact(4), b"pong");
        client.finish_sending();
        client.expect_eof();
        let record = gateway.record(|_| true);
        assert_eq!((&record["record"], &record["ended_by"]), (&"tunnel".into(), &"ClientClosed".into()), "{lines:?}");
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn another_101_is_a_502_and_the_end_of_the_backends_connection() {
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let right = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    let swapped = ACCEPT.replace('s', "S");
    for (lines, cause) in [
        (String::new(), "names another protocol"),
        (accept.clone(), "names another protocol"),
        (format!("Connection: Upgrade\r\n{accept}"), "names another protocol"),
        (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{accept}"), "names another protocol"),
        (format!("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n{accept}"), "names another protocol"),
        (format!("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n{accept}"), "names another protocol"),
        (format!("Upgrade: websocket\r\n{accept}"), "has no Connection: upgrade"),
        (format!("Upgrade: websocket\r\nConnection: close\r\n{accept}"), "has no Connection: upgrade"),
        (format!("Upgrade: websocket\r\nConnection: Upgrades\r\n{accept}"), "has no Connection: upgrade"),
        (right.into(), "has no right Sec-WebSocket-Accept"),
        (format!("{right}Sec-WebSocket-Accept:\r\n"), "has no right Sec-WebSocket-Accept"),
        (format!("{right}Sec-WebSocket-Accept: {swapped}\r\n"), "has no right Sec-WebSocket-Accept"),
        (format!("{right}Sec-WebSocket-Accept: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "has no right Sec-WebSocket-Accept"),
        (format!("{right}{accept}{accept}"), "has no right Sec-WebSocket-Accept"),
        (format!("{right}{accept}Sec-WebSocket-Extensions: x-b\r\n"), "names an extension that was not offered"),
        (
            format!("{right}{accept}Sec-WebSocket-Extensions: permessage-deflate, server_no_context_takeover\r\n"),
            "names an extension that was not offered",
        ),
        // "d" is a part of a quoted value in the offer and no name.
        (format!("{right}{accept}Sec-WebSocket-Extensions: d\r\n"), "names an extension that was not offered"),
        (format!("{right}{accept}Sec-WebSocket-Protocol: other\r\n"), "names a subprotocol that was not offered"),
        (format!("{right}{accept}Sec-WebSocket-Protocol: Chat\r\n"), "names a subprotocol that was not offered"),
        (format!("{right}{accept}Sec-WebSocket-Protocol: chat, last\r\n"), "names a subprotocol that was not offered"),
        (
            format!("{right}{accept}Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n"),
            "names a subprotocol that was not offered",
        ),
        (format!("{right}{accept}Sec-WebSocket-Protocol:\r\n"), "names a subprotocol that was not offered"),
    ] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\nfirst bytes");
        refused(answer, &opening_handshake("a", "/ws", OFFERS), &format!("the backend's 101: the 101 {cause}"));
    }
}

#[test]
fn what_was_not_offered_at_all_is_not_agreed_to_either() {
    for (line, cause) in [
        ("Sec-WebSocket-Extensions: permessage-deflate", "names an extension that was not offered"),
        ("Sec-WebSocket-Protocol: chat", "names a subprotocol that was not offered"),
    ] {
        let answer = switching(ACCEPT).replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
        refused(answer, &opening_handshake("a", "/ws", ""), &format!("the backend's 101: the 101 {cause}"));
    }
}

#[test]
fn another_protocol_is_agreed_to_by_its_own_token() {
    let agree = |token: &str| format!("HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\r\nfirst");
    for token in ["websocket", "bar", "foo, websocket", "foo/2"] {
        refused(agree(token), FOO, "the backend's 101: the 101 names another protocol");
    }
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        peer.send(agree("FOO"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend, "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(FOO);
    assert_eq!(header(&client.read_head(), "upgrade"), Some("FOO"));
    assert_eq!(client.read_exact(5), b"first");
    client.finish_sending();
    client.expect_eof();
    assert_eq!(gateway.record(|_| true)["record"], "tunnel");
    gateway.stop();
    backend.finish();
}

/// Each other status: with its headers and its body, however that is framed, and no tunnel for those who would like one.
#[test]
fn any_other_status_is_passed_on_whole_and_the_connection_goes_on() {
    let smuggled = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    for (status, lines, body, seen) in [
        (200, "Content-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n", "hello", "hello"),
        (200, "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n", "hello", "hello"),
        (200, "Transfer-Encoding: chunked\r\n", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello"),
        (202, "", "to the end", "to the end"),
        (204, "", "", ""),
        (301, "Location: /else\r\nContent-Length: 0\r\n", "", ""),
        (304, "ETag: \"a\"\r\n", "", ""),
        (400, "Content-Length: 0\r\n", smuggled, ""),
        (401, "WWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 2\r\n", "no", "no"),
        (403, "Connection: close\r\nContent-Length: 2\r\n", "no", "no"),
        (404, "Content-Length: 2\r\n", "no", "no"),
        (426, "Sec-WebSocket-Version: 13, 8\r\nContent-Length: 0\r\n", "", ""),
        (500, "Content-Length: 4\r\n", "oops", "oops"),
        (503, "Retry-After: 9\r\nContent-Length: 0\r\n", "", ""),
        (599, "Content-Length: 0\r\n", "", ""),
    ] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 {status} Reason\r\n{lines}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n{body}"));
            peer.finish_sending();
            peer.expect_end();
        });
        let gateway = gateway(&backend, "");
        let answer = ask(&gateway, &opening_handshake("a", "/ws", ""), lines);
        assert_eq!((answer.status, answer.text()), (status, seen), "{answer:?}");
        assert!(answer.head.starts_with(&format!("HTTP/1.1 {status} Reason\r\n")), "{answer:?}");
        let sent = format!("X: x\r\n{lines}");
        for name in ["x-a", "location", "etag", "www-authenticate", "sec-websocket-version", "retry-after"] {
            assert_eq!(answer.headers(name), support::peer::header_lines(&sent, name), "{answer:?}");
        }
        assert_eq!((answer.header("upgrade"), answer.header("connection")), (None, None), "{answer:?}");
        let record = gateway.record(|record| record["endpoint"].is_string());
        assert_eq!((&record["record"], &record["status"]), (&"request".into(), &status.into()), "{record}");
        assert_eq!((&record["cause"], &record["received"]), (&serde_json::Value::Null, &seen.len().into()));
        gateway.stop();
        assert_eq!(backend.finish().len(), 1);
    }
}

#[test]
fn silence_until_the_deadline_is_a_504() {
    for begin in ["", "HTTP/1.1 1", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(begin);
            peer.expect_end();
        });
        let gateway = gateway(&backend, "[timeouts]\nupgrade = \"200ms\"");
        assert_eq!(ask(&gateway, &opening_handshake("a", "/ws", ""), begin).status, 504, "{begin:?}");
        let record = gateway.record(|record| record["endpoint"].is_string());
        assert_eq!(record["cause"], "the backend did not answer within timeouts.upgrade");
        assert!(record["took_ms"].as_f64().expect("a number") >= 200.0, "{record}");
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn a_broken_head_is_a_502() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "\x16\x03\x01\x02\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 abc Switching\r\n\r\n",
        "HTTP/1.1 10 Switching\r\n\r\n",
        "HTTP/1.1 1010 Switching\r\n\r\n",
        "HTTP/2 101 Switching\r\n\r\n",
        "HTTP/3.1 101 Switching\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nno colon\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade : websocket\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n: empty\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nX: a\r\n folded\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nX: a\rb\r\n\r\n",
    ] {
        refused(answer, &opening_handshake("a", "/ws", ""), "the backend's answer is not HTTP");
    }
}

/// The end of the backend's connection: by FIN or RST, before its answer, within it, and before the first byte.
#[test]
fn an_end_before_the_answer_is_whole_is_a_502() {
    for begin in ["", "HTTP/1.1 1", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"] {
        for reset in [false, true] {
            let backend = Backend::start(move |mut peer| {
                peer.read_head();
                peer.send(begin);
                end(peer, reset);
            });
            let gateway = gateway(&backend, "");
            let answer = ask(&gateway, &opening_handshake("a", "/ws", ""), begin);
            assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n"), "{begin:?}");
            let record = gateway.record(|record| record["endpoint"].is_string());
            let cause = record["cause"].as_str().expect("a cause");
            let told =
                if reset { "the exchange with the backend failed" } else { "the backend closed before its answer" };
            assert!(cause.starts_with(told), "{begin:?}, reset: {reset}: {record}");
            gateway.stop();
            assert_eq!(backend.finish().len(), 1, "one endpoint is asked once");
        }
    }
}

fn end(mut peer: Peer, reset: bool) {
    if reset {
        peer.reset();
    } else {
        peer.finish_sending();
        peer.expect_end();
    }
}

#[test]
fn a_silent_backend_is_not_given_up_before_the_deadline() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        std::thread::sleep(Duration::from_millis(300)); // the time of the backend's own
        peer.send(switching(ACCEPT));
        peer.expect_eof();
    });
    let gateway = gateway(&backend, "[timeouts]\nupgrade = \"30s\"\nresponse_head = \"100ms\"\nstall = \"100ms\"");
    let (client, _) = Client::upgrade(gateway.address("web"), "/ws");
    drop(client);
    gateway.stop();
    backend.finish();
}
