//! Is it an upgrade? Every request here is judged before a backend hears of it: refused, made plain, or let through with
//! the one token that was agreed to. The backend agrees to everything it is asked, so what keeps a tunnel from opening is
//! the gateway.

mod support;

use serde_json::Value;
use support::backend::Backend;
use support::client::{ACCEPT, Client, KEY};
use support::gateway::Gateway;
use support::mirror::{lines, mirror};
use support::peer::{Peer, header, text};

fn gateway(backend: &Backend) -> Gateway {
    let address = backend.address();
    Gateway::start(&format!(
        "[forwarded]\nx_forwarded = false\nforwarded = false\nvia = false\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{address}\"]\n\
         [[route]]\nupstream = \"app\"\n\
         [[route]]\npath = \"/foo\"\nupstream = \"app\"\nupgrade = [\"WebSocket\", \"Foo/2\"]\n\
         [[route]]\npath = \"/never\"\nupstream = \"app\"\nupgrade = []\n"
    ))
}

const ASKS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const PROOF: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// A head of these header lines, behind Host.
fn head(first: &str, more: &str) -> String {
    format!("{first}\r\nHost: a\r\n{more}\r\n")
}

/// What a plain request that follows on the connection is answered with.
fn assert_goes_on(client: &mut Peer, why: &str) {
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.read_answer();
    assert_eq!(answer.status, 200, "after {why:?}: {answer:?}");
    assert_eq!(lines(answer.text()), ["GET /next HTTP/1.1", "host: a"]);
}

fn assert_record(gateway: &Gateway, status: u16, cause: &str) -> Value {
    let record = gateway.record(|record| record["path"] != "/next");
    assert_eq!((&record["record"], &record["status"]), (&"request".into(), &status.into()), "{record}");
    assert_eq!(record["cause"], cause, "{record}");
    assert_eq!(record["endpoint"], Value::Null, "{record}");
    record
}

#[test]
fn a_request_without_one_sound_host_is_refused_before_everything_else() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    for host in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host:\r\n",
        "Host: \r\n",
        "Host: user@a\r\n",
        "Host: user:word@a:80\r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: a/b\r\n",
        "Host: a:80x\r\n",
        "Host: [::1\r\n",
        "Host: http://a\r\n",
    ] {
        // Each with something behind it that would be refused by another status, or go through.
        for (first, more) in [
            ("GET / HTTP/1.1", format!("{ASKS}{PROOF}")),
            ("GET / HTTP/1.1", ASKS.into()),
            ("POST / HTTP/1.1", format!("{ASKS}{PROOF}")),
            ("GET /%zz HTTP/1.1", String::new()),
            ("GET http://a/ HTTP/1.1", format!("{ASKS}{PROOF}")),
            ("CONNECT a:443 HTTP/1.1", String::new()),
            ("TRACE / HTTP/1.1", String::new()),
            ("OPTIONS * HTTP/1.1", String::new()),
            ("GET / HTTP/1.0", String::new()),
        ] {
            let mut client = Client::connect(gateway.address("web"));
            client.send(format!("{first}\r\n{host}{more}\r\n"));
            let answer = client.read_answer();
            assert_eq!(answer.status, 400, "{first} {host:?}: {answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            client.expect_eof();
            assert_record(&gateway, 400, if host.is_empty() { "no Host" } else { "malformed Host" });
        }
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}

#[test]
fn connect_and_trace_are_refused_whatever_they_ask_for() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    for (first, cause) in [
        ("CONNECT a:443 HTTP/1.1", "CONNECT is not served"),
        ("CONNECT a HTTP/1.1", "CONNECT is not served"),
        ("CONNECT / HTTP/1.1", "CONNECT is not served"),
        ("CONNECT http://a/ HTTP/1.1", "CONNECT is not served"),
        ("CONNECT /foo HTTP/1.0", "CONNECT is not served"),
        ("TRACE / HTTP/1.1", "TRACE is not served"),
        ("TRACE /foo HTTP/1.1", "TRACE is not served"),
    ] {
        for more in ["", "Connection: Upgrade\r\nUpgrade: foo/2\r\n", &format!("{ASKS}{PROOF}")] {
            let mut client = Client::connect(gateway.address("web"));
            // What a client would send through the tunnel that it takes for granted.
            client.send(head(first, more) + "GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n");
            let answer = client.read_answer();
            assert_eq!(answer.status, 405, "{first}: {answer:?}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            client.expect_eof();
            assert_record(&gateway, 405, cause);
        }
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}

/// What is no request to upgrade, or none to a protocol that this route lets in: header lines, and those of them that a
/// backend gets to see.
fn plain_requests() -> Vec<(&'static str, String, Vec<&'static str>)> {
    let key = ["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13"];
    let mut requests = vec![
        ("GET / HTTP/1.0", format!("{ASKS}{PROOF}"), key.to_vec()),
        ("GET /never HTTP/1.1", format!("{ASKS}{PROOF}"), key.to_vec()),
        ("GET / HTTP/1.1", format!("Upgrade: websocket\r\n{PROOF}"), key.to_vec()),
        ("GET / HTTP/1.1", format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{PROOF}"), key.to_vec()),
        ("GET / HTTP/1.1", format!("Connection: Upgrade\r\n{PROOF}"), key.to_vec()),
        ("GET / HTTP/1.1", format!("Connection: Upgrade\r\nUpgrade:\r\n{PROOF}"), key.to_vec()),
        // Neither is the token "upgrade".
        ("GET / HTTP/1.1", format!("Connection: Upgrades, x-upgrade\r\nUpgrade: websocket\r\n{PROOF}"), key.to_vec()),
        ("GET / HTTP/1.1", format!("Connection: \"upgrade\"\r\nUpgrade: websocket\r\n{PROOF}"), key.to_vec()),
        ("POST / HTTP/1.0", format!("{ASKS}{PROOF}"), key.to_vec()),
    ];
    for token in ["h2c", "H2C", "TLS/1.0", "foo", "foo/2", "web socket", "websocket/13", "websockets", ",", "h2c, foo"]
    {
        let more = format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {token}\r\nHTTP2-Settings: AAMAAABk\r\n");
        requests.push(("GET / HTTP/1.1", more, vec![]));
    }
    // Not only the named one goes, and an answer to it must not be taken for the preface of HTTP/2.
    requests.push(("GET / HTTP/1.1", "HTTP2-Settings: AAMAAABk\r\nAccept: */*\r\n".into(), vec!["accept: */*"]));
    requests.push(("OPTIONS / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n".into(), vec![]));
    requests
}

#[test]
fn what_asks_for_no_upgrade_that_is_allowed_here_arrives_as_a_plain_request() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    for (first, more, arrives) in plain_requests() {
        let mut client = Client::connect(gateway.address("web"));
        client.send(head(first, &more));
        let answer = client.read_answer();
        assert_eq!(answer.status, 200, "{first} {more:?}: {answer:?}");
        let first_line = first.replace("HTTP/1.0", "HTTP/1.1");
        let expected = [vec![&*first_line, "host: a"], arrives].concat();
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        expected[1..].sort();
        assert_eq!(lines(answer.text()), expected, "{first} {more:?}");
        let record = gateway.record(|record| record["path"] != "/next");
        assert_eq!((&record["record"], &record["status"]), (&"request".into(), &200.into()), "{record}");
        if first.ends_with("1.1") {
            assert_goes_on(&mut client, &more);
        }
    }
    gateway.stop();
}

#[test]
fn a_plain_request_never_becomes_a_tunnel_whatever_the_backend_answers() {
    for token in ["websocket", "h2c", "foo"] {
        let backend = Backend::start(move |mut peer| {
            let head = peer.read_head();
            peer.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\nfirst bytes"
            ));
            assert_eq!(header(&head, "upgrade"), None, "{head:?}");
            peer.expect_end();
        });
        let gateway = gateway(&backend);
        for (first, more, _) in plain_requests() {
            let mut client = Client::connect(gateway.address("web"));
            client.send(head(first, &more));
            let answer = client.read_answer();
            assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n"), "{first} {more:?}: {answer:?}");
            let record = gateway.record(|_| true);
            assert_eq!(record["cause"], "the backend answered 101 to a request that is no upgrade");
        }
        gateway.stop();
        backend.finish();
    }
}

/// curl --http2 sends h2c with every request, those with a body too: it is a plain one, body and all.
#[test]
fn the_body_of_a_request_that_offers_h2c_arrives() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    let more = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nContent-Length: 5\r\n";
    let answer = Client::ask(gateway.address("web"), head("POST /x HTTP/1.1", more) + "hello");
    let (seen, body) = answer.text().split_once("\r\n\r\n").expect("a head");
    assert_eq!((answer.status, body), (200, "hello"));
    assert_eq!(lines(seen), ["POST /x HTTP/1.1", "content-length: 5", "host: a"]);
    gateway.stop();
}

/// Opens a tunnel and gives the lines of the head that the backend saw; bytes pass both ways.
fn tunnel(gateway: &Gateway, request: &str) -> (Vec<String>, String) {
    let mut client = Client::connect(gateway.address("web"));
    client.send(request);
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{request:?}: {head:?}");
    let seen = lines(&client.read_head());
    client.send("ping");
    assert_eq!(client.read_exact(4), b"ping");
    client.finish_sending();
    client.expect_eof();
    let record = gateway.record(|_| true);
    let told = (&record["record"], &record["status"], &record["sent"]);
    assert_eq!(told, (&"tunnel".into(), &101.into(), &4.into()), "{record}");
    (seen, head)
}

#[test]
fn of_several_tokens_the_allowed_one_alone_is_forwarded() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    for (asks, token) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "websocket"),
        ("Connection: upgrade\r\nUpgrade: WEBSOCKET\r\n", "WEBSOCKET"),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", "websocket"),
        ("Connection: keep-alive\r\nConnection: x, UPGRADE\r\nUpgrade: websocket\r\n", "websocket"),
        ("Connection: close, Upgrade\r\nUpgrade: websocket\r\n", "websocket"),
        ("Upgrade: websocket\r\nConnection: close\r\nConnection: upgrade\r\n", "websocket"),
        ("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", "websocket"),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c,websocket\r\nHTTP2-Settings: AAMA\r\n", "websocket"),
        ("Connection: Upgrade\r\nUpgrade: foo, ,TLS/1.0\r\nUpgrade: h2c, WebSocket ,x\r\n", "WebSocket"),
        ("Connection: Upgrade\r\nUpgrade: websocket, websocket\r\n", "websocket"),
    ] {
        let (seen, answer) = tunnel(&gateway, &head("GET /ws HTTP/1.1", &format!("{asks}{PROOF}")));
        let key = format!("sec-websocket-key: {KEY}");
        let upgrade = format!("upgrade: {token}");
        let expected =
            ["GET /ws HTTP/1.1", "connection: upgrade", "host: a", &key, "sec-websocket-version: 13", &upgrade];
        assert_eq!(seen, expected, "{asks:?}");
        assert_eq!(header(&answer, "upgrade"), Some(token));
        assert_eq!(header(&answer, "sec-websocket-accept"), Some(ACCEPT));
    }
    gateway.stop();
}

#[test]
fn an_opening_handshake_that_is_not_sound_is_refused_and_the_connection_goes_on() {
    let key = |value: &str| format!("{ASKS}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {value}\r\n");
    let version = |lines: &str| format!("{ASKS}Sec-WebSocket-Key: {KEY}\r\n{lines}");
    let whole = format!("{ASKS}{PROOF}");
    let mut rows = vec![];
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "get", "PROPFIND"] {
        rows.push((method, whole.clone(), 405, "an upgrade to WebSocket is a GET"));
    }
    for lines in [
        "",
        "Sec-WebSocket-Version:\r\n",
        "Sec-WebSocket-Version: 1337\r\n",
        "Sec-WebSocket-Version: 8\r\n",
        "Sec-WebSocket-Version: 013\r\n",
        "Sec-WebSocket-Version: 13, 13\r\n",
        "Sec-WebSocket-Version: 13, 8\r\n",
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Version: 13\r\n",
    ] {
        rows.push(("GET", version(lines), 426, "Sec-WebSocket-Version is not 13"));
    }
    for value in [
        "",
        "short",
        "dGhlIHNhbXBsZSBub25jZQ",      // no padding
        "dGhlIHNhbXBsZSBub25jZQ=",     // half of it
        "dGhlIHNhbXBsZSBub25j",        // 15 bytes
        "dGhlIHNhbXBsZSBub25jZSE=",    // 17
        "dGhlIHNhbXBsZSBub25jZQ==, x", // a list
        "dGhlIHNhbXBsZSBub25jZQ!!",
        "dGhlIHNhbXBsZSBub25j-_==", // base64 for URLs
        "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        rows.push(("GET", key(value), 400, "Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    rows.push((
        "GET",
        format!("{ASKS}Sec-WebSocket-Version: 13\r\n"),
        400,
        "Sec-WebSocket-Key is not 16 bytes in base64",
    ));

    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    for (method, more, status, cause) in rows {
        client.send(head(&format!("{method} /ws HTTP/1.1"), &more));
        let seen = client.read_head();
        assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {more:?}: {seen:?}");
        if method != "HEAD" {
            client.read_exact(header(&seen, "content-length").expect("a length").parse().expect("a number"));
        }
        let allow = (status == 405).then_some("GET");
        let versions = (status == 426).then_some("13");
        assert_eq!((header(&seen, "allow"), header(&seen, "sec-websocket-version")), (allow, versions), "{seen:?}");
        assert_eq!(header(&seen, "upgrade"), (status == 426).then_some("websocket"), "{seen:?}");
        assert_record(&gateway, status, cause);
        assert_eq!(backend.connections(), 0, "{method} {more:?}");
    }
    assert_goes_on(&mut client, "all of them");
    assert_eq!(gateway.stop().iter().filter(|record| record["endpoint"].is_string()).count(), 1);
    assert_eq!(backend.finish().len(), 1);
}

#[test]
fn an_upgrade_request_with_a_body_is_refused_and_the_body_is_no_request() {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    let (length, chunk) = (HIDDEN.len(), format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()));
    let foo = "Connection: Upgrade\r\nUpgrade: foo/2\r\n";
    for (first, asks) in [("GET /ws HTTP/1.1", format!("{ASKS}{PROOF}")), ("POST /foo HTTP/1.1", foo.into())] {
        for (framing, body) in [
            (format!("Content-Length: {length}\r\n"), HIDDEN),
            ("Content-Length: 100000\r\n".into(), HIDDEN),
            ("Transfer-Encoding: chunked\r\n".into(), &chunk),
            ("Transfer-Encoding: chunked\r\n".into(), "0\r\n\r\n"),
        ] {
            let mut client = Client::connect(gateway.address("web"));
            client.send(head(first, &format!("{asks}{framing}")) + body);
            assert_eq!(client.read_answer().status, 400, "{first} {framing:?}");
            assert_record(&gateway, 400, "an upgrade request has no body");
            // Whether the connection goes on depends on how much of the body has come, and its end may eat what is sent.
            let _ = client.try_send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
            if let Some(line) = client.read_line_or_end() {
                assert_eq!(line, "HTTP/1.1 200 OK", "{first} {framing:?}");
                let head = line + "\r\n" + &client.read_head();
                client.read_exact(header(&head, "content-length").expect("a length").parse().expect("a number"));
            }
        }
    }
    gateway.stop();
    for received in backend.finish() {
        let received = text(&received);
        assert!(received.starts_with("GET /next ") && !received.contains("hidden"), "{received:?}");
    }
}

#[test]
fn a_body_that_is_said_to_be_empty_is_none() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    let (seen, _) = tunnel(&gateway, &head("GET /ws HTTP/1.1", &format!("{ASKS}{PROOF}Content-Length: 0\r\n")));
    assert_eq!(seen[0], "GET /ws HTTP/1.1");
    gateway.stop();
}

#[test]
fn another_listed_token_is_forwarded_with_any_method() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend);
    for (method, token) in [
        ("GET", "foo/2"),
        ("GET", "h2c, FOO/2, websocket"),
        ("POST", "Foo/2"),
        ("PUT", "foo/2"),
        ("DELETE", "foo/2"),
        ("OPTIONS", "foo/2"),
        ("HEAD", "foo/2"),
        ("PROPFIND", "foo/2"),
    ] {
        // Nothing of WebSocket is asked of another protocol.
        let more = format!("Connection: Upgrade\r\nUpgrade: {token}\r\n");
        let (seen, answer) = tunnel(&gateway, &head(&format!("{method} /foo HTTP/1.1"), &more));
        let token = token.split(", ").find(|token| token.eq_ignore_ascii_case("foo/2")).expect("it is there");
        assert_eq!(seen[1..3], ["connection: upgrade", "host: a"], "{method}");
        assert_eq!(seen[0], format!("{method} /foo HTTP/1.1"));
        assert_eq!(seen.last(), Some(&format!("upgrade: {token}")));
        assert_eq!((header(&answer, "upgrade"), header(&answer, "sec-websocket-accept")), (Some(token), None));
    }
    // The client's order decides, and what it prefers must be sound.
    let asks = "Connection: Upgrade\r\nUpgrade: websocket, foo/2\r\n";
    let answer = Client::ask(gateway.address("web"), head("POST /foo HTTP/1.1", asks));
    assert_eq!(answer.status, 405);
    let seen = backend.connections();
    assert_record(&gateway, 405, "an upgrade to WebSocket is a GET");
    gateway.stop();
    assert_eq!(backend.finish().len(), seen);
}
