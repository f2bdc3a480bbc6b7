//! Heads that are meant to do harm: what is named in Connection, what comes glued behind a request, and requests that are
//! none. One reading for all: what is routed and judged is what the backend is sent, and no byte goes there early.

mod support;

use support::backend::Backend;
use support::client::{ACCEPT, Client, KEY, opening_handshake};
use support::frame;
use support::gateway::Gateway;
use support::mirror::{lines, mirror};
use support::peer::{header_lines, text};

fn gateway(backend: &Backend, more: &str) -> Gateway {
    let address = backend.address();
    Gateway::start(&format!(
        "[gateway]\nname = \"gw\"\n{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{address}\"]\n\
         [[route]]\nupstream = \"app\"\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/secret\"\nrespond = 403\n"
    ))
}

/// Everything that the gateway sets, checks by, or frames by, and itself.
const NAMED: &str = "Connection: Host, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Port, Forwarded\r\n\
    Connection: Via, X-Request-Id, Content-Length, Transfer-Encoding, Connection, Keep-Alive, Upgrade, x-own\r\n\
    connection: Sec-WebSocket-Key,Sec-WebSocket-Version,Sec-WebSocket-Protocol,Sec-WebSocket-Extensions\r\n";

/// What is told to a backend about the client, by a gateway with every header switched on.
fn told(port: u16) -> Vec<String> {
    vec![
        format!("forwarded: for=127.0.0.1;host=\"a.example:1\";proto=http"),
        "via: 1.1 gw".into(),
        "x-forwarded-for: 127.0.0.1".into(),
        "x-forwarded-host: a.example:1".into(),
        format!("x-forwarded-port: {port}"),
        "x-forwarded-proto: http".into(),
    ]
}

fn sorted(head: &[&str], mut headers: Vec<String>) -> Vec<String> {
    headers.sort();
    [head.iter().map(|&line| line.to_owned()).collect(), headers].concat()
}

#[test]
fn naming_a_header_in_connection_neither_strips_what_the_gateway_sets_nor_lets_through_what_it_removes() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    let address = gateway.address("web");
    let forged = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\
                  X-Own: mine\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nHTTP2-Settings: AAMA\r\nTE: trailers, gzip\r\n";
    let answer = Client::ask(
        address,
        format!("PUT /a HTTP/1.1\r\nHost: a.example:1\r\n{NAMED}{forged}Content-Length: 2\r\n\r\nhi"),
    );
    let (seen, body) = answer.text().split_once("\r\n\r\n").expect("a head");
    let own = ["connection: te", "content-length: 2", "host: a.example:1", "te: trailers"].map(str::to_owned);
    assert_eq!(lines(seen), sorted(&["PUT /a HTTP/1.1"], [told(address.port()), own.to_vec()].concat()));
    assert_eq!((answer.status, body, header_lines(seen, "x-request-id").len()), (200, "hi", 1));

    let chunks = "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let answer = Client::ask(address, format!("POST /a HTTP/1.1\r\nHost: a.example:1\r\n{NAMED}{chunks}"));
    let (seen, body) = answer.text().split_once("\r\n\r\n").expect("a head");
    let own = ["host: a.example:1", "transfer-encoding: chunked"].map(str::to_owned);
    assert_eq!(lines(seen), sorted(&["POST /a HTTP/1.1"], [told(address.port()), own.to_vec()].concat()));
    assert_eq!((answer.status, body), (200, "hi"));
    gateway.stop();
}

#[test]
fn naming_a_header_in_connection_changes_nothing_of_the_opening_handshake() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        // The same the other way round.
        peer.send(format!(
            "HTTP/1.1 101 Yes\r\nConnection: Upgrade, Sec-WebSocket-Accept, Sec-WebSocket-Protocol, X-Own, Connection\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\nX-Own: 1\r\n\
             Keep-Alive: 5\r\nX-Kept: 2\r\n\r\n{head}"
        ));
        peer.expect_eof();
    });
    let gateway = gateway(&backend, "");
    let address = gateway.address("web");
    let more =
        format!("{NAMED}Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x-a\r\nX-Own: 1\r\nCookie: c\r\n");
    let (mut client, head) = Client::upgrade_with(address, &opening_handshake("a.example:1", "/ws", &more));
    let answered = lines(&head).into_iter().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>();
    assert_eq!(
        answered,
        [
            "HTTP/1.1 101 Yes".to_owned(),
            "connection: upgrade".into(),
            format!("sec-websocket-accept: {ACCEPT}"),
            "sec-websocket-protocol: chat".into(),
            "upgrade: websocket".into(),
            "x-kept: 2".into(),
        ]
    );
    let own = [
        "connection: upgrade".to_owned(),
        "cookie: c".into(),
        "host: a.example:1".into(),
        "sec-websocket-extensions: x-a".into(),
        format!("sec-websocket-key: {KEY}"),
        "sec-websocket-protocol: chat".into(),
        "sec-websocket-version: 13".into(),
        "upgrade: websocket".into(),
    ];
    let seen = client.read_head();
    assert_eq!(lines(&seen), sorted(&["GET /ws HTTP/1.1"], [told(address.port()), own.to_vec()].concat()));
    client.finish_sending();
    client.expect_eof();
    gateway.stop();
    backend.finish();
}

/// h2c, the way in which HTTP/2 was smuggled past gateways: the request is a plain one, and the preface that a client
/// sends behind it, sure of its 101, is no request and goes nowhere.
#[test]
fn what_follows_a_request_that_offers_h2c_is_not_http_2() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    let offers = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: foo\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
    ];
    for offer in offers {
        for path in ["/a", "/here"] {
            let mut client = Client::connect(gateway.address("web"));
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{offer}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
            let answer = client.read_answer();
            assert_eq!((answer.status, answer.header("upgrade")), (200, None), "{offer:?}");
            let refusal = client.read_answer();
            assert_eq!((refusal.status, refusal.text()), (400, "400 Bad Request: this port speaks HTTP/1.1\n"));
            client.expect_eof();
            let [first, then] = [gateway.record(|_| true), gateway.record(|_| true)];
            assert_eq!(first["status"], 200);
            assert!(
                then["cause"].as_str().is_some_and(|cause| cause.starts_with("the head is not HTTP/1.1")),
                "{then}"
            );
        }
    }
    gateway.stop();
    for received in backend.finish() {
        let received = text(&received).to_ascii_lowercase();
        assert!(
            !received.contains("h2c") && !received.contains("http2") && !received.contains("pri *"),
            "{received:?}"
        );
    }
}

/// What hyper answers by itself has a record, with the status that was sent.
#[test]
fn what_is_no_http_1_1_is_answered_and_recorded_alike() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "[limits]\nhead_size = \"256KiB\"");
    let long = "x".repeat(70_000);
    for (request, status) in [
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/0.9\r\n\r\n", 400),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n", 400),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (&format!("GET /?{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
    ] {
        let excerpt = &request[..request.len().min(40)];
        let mut client = Client::connect(gateway.address("web"));
        client.send(request);
        let answer = client.read_answer();
        assert_eq!(answer.status, status, "{excerpt:?}: {answer:?}");
        client.expect_eof();
        let record = gateway.record(|_| true);
        assert_eq!(record["status"], status, "{excerpt:?}: {record}");
        assert!(record["cause"].is_string(), "{record}");
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}

/// The bound is exact, be it below or above the 16 KiB that are buffered in any case.
#[test]
fn a_requests_head_may_be_as_large_as_head_size() {
    for (configured, size) in [("1KiB", 1 << 10), ("16KiB", 16 << 10), ("32KiB", 32 << 10), ("256KiB", 256 << 10)] {
        let backend = Backend::start(mirror);
        let gateway = gateway(&backend, &format!("[limits]\nhead_size = \"{configured}\""));
        let bare = "GET /here HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        for (beyond, status) in [(0, 200), (1, 431)] {
            let much = "m".repeat(size + beyond - bare.len());
            let mut client = Client::connect(gateway.address("web"));
            client.send(bare.replace("X: ", &format!("X: {much}")));
            assert_eq!(client.read_answer().status, status, "{configured} and {beyond}");
            assert_eq!(gateway.record(|_| true)["status"], status);
        }
        gateway.stop();
    }
}

#[test]
fn a_head_that_comes_one_byte_at_a_time_is_a_head() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    let mut client = Client::connect(gateway.address("web"));
    let requests = ["\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), opening_handshake("a", "/ws", "")];
    for request in requests {
        for byte in request.bytes() {
            client.send([byte]);
        }
        let answer = if request.contains("/ws") { client.read_head() } else { client.read_answer().head };
        let status = if request.contains("/ws") { "101" } else { "200" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    assert!(client.read_head().starts_with("GET /ws HTTP/1.1\r\n"));
    drop(client);
    gateway.stop();
}

/// Answers come in the order of the requests, refusals among them, and each request is judged by itself.
#[test]
fn pipelined_requests_are_judged_one_by_one_and_answered_in_their_order() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let rows = [
        (get("/here"), 200),
        (get("/secret"), 403),
        (get("/a/..%2fsecret"), 400),
        (get("/a"), 200),
        (opening_handshake("a", "/ws", "").replace("Version: 13", "Version: 1337"), 426),
        (opening_handshake("a", "/ws", "").replace(KEY, "short"), 400),
        (opening_handshake("a", "/ws", "").replace("GET", "POST"), 405),
        (get("/echo"), 426),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), 204),
        ("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".into(), 200),
        ("POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".into(), 200),
        (opening_handshake("a", "/here", ""), 200),
        (get("/c"), 200),
    ];
    let all: String = rows.iter().map(|(request, _)| request.as_str()).collect();
    let mut client = Client::connect(gateway.address("web"));
    client.send(all + &opening_handshake("a", "/echo", ""));
    for (request, status) in &rows {
        let answer = client.read_answer();
        assert_eq!(answer.status, *status, "{request:?}: {answer:?}");
        let record = gateway.record(|_| true);
        assert_eq!((&record["status"], &record["record"]), (&(*status).into(), &"request".into()), "{request:?}");
    }
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    client.send(frame::client(frame::TEXT, true, "hello"));
    assert_eq!(frame::read(&mut client).text(), "hello");
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
    let received: String = backend.finish().iter().map(|bytes| text(bytes)).collect();
    let asked: Vec<_> = received.split("\r\n").filter(|line| line.ends_with(" HTTP/1.1")).collect();
    assert_eq!(asked, ["GET /a HTTP/1.1", "POST /b HTTP/1.1", "GET /c HTTP/1.1"]);
}

/// Frames of a client that takes its 101 for granted: behind a refusal they are no request.
#[test]
fn bytes_behind_a_refused_opening_handshake_reach_no_backend() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    let refused = opening_handshake("a", "/ws", "").replace("Version: 13", "Version: 8");
    let mut client = Client::connect(gateway.address("web"));
    client.send([refused.as_bytes(), &frame::client(frame::TEXT, true, "hello")].concat());
    assert_eq!(client.read_answer().status, 426);
    assert_eq!(client.read_answer().status, 400);
    client.expect_eof();
    let causes = [gateway.record(|_| true), gateway.record(|_| true)].map(|record| record["status"].clone());
    assert_eq!(causes, [426, 400]);
    assert_eq!(backend.connections(), 0);
    drop(client);

    // A request there is one, and judged like any other.
    let mut client = Client::connect(gateway.address("web"));
    client.send(refused + "GET /secret HTTP/1.1\r\nHost: a\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        [client.read_answer().status, client.read_answer().status, client.read_answer().status],
        [426, 403, 200]
    );
    drop(client);
    gateway.stop();
    assert!(text(&backend.finish()[0]).starts_with("GET /a HTTP/1.1\r\n"));
}

/// After these nobody can say where the next request begins, so there is none.
#[test]
fn what_follows_a_request_that_was_not_understood_is_not_read() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, "");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
    ] {
        let mut client = Client::connect(gateway.address("web"));
        client.send(request.to_owned() + "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_answer().status, status, "{request:?}");
        client.expect_eof();
        assert_eq!(gateway.record(|_| true)["status"], status, "{request:?}");
    }
    assert_eq!(gateway.stop().len(), 6);
    assert_eq!(backend.connections(), 0);
}
