//! Exactly one line for each request and each tunnel, whatever became of it, and what the line says.

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::backend::{self, Backend, accept_of, switching};
use support::client::{ACCEPT, Client, opening_handshake};
use support::frame;
use support::gateway::{Gateway, Signal};
use support::peer::{Peer, header};

/// What can be met, each with a path of its own.
const ROUTES: &str = r#"
[[route]]
name = "app"
upstream = "app"
[[route]]
name = "dead"
path = "/dead"
upstream = "dead"
[[route]]
name = "short"
path = "/short"
upstream = "app"
[route.timeouts]
idle = "200ms"
half_close = "200ms"
stall = "200ms"
upgrade = "200ms"
response_head = "200ms"
[[route]]
name = "half"
path = "/half"
upstream = "app"
[route.timeouts]
half_close = "200ms"
[[route]]
name = "tunnels-only"
path = "/tunnels-only"
upstream = "app"
plain = false
[[route]]
name = "fixed"
path = "/fixed"
respond = { status = 200, body = "fixed" }
[[route]]
name = "old"
path = "/old"
redirect = "https://{host}{uri}"
[[route]]
name = "echo"
path = "/echo"
service = "echo"
[[route]]
name = "page"
path = "/page"
service = "test-page"
[[route]]
name = "health"
path = "/health"
service = "health"
[[route]]
name = "host"
host = "only.example"
path = "/host"
respond = 204
"#;

fn config(backend: SocketAddr, log: &str) -> String {
    // Nobody listens at the first port of all.
    format!(
        "[gateway]\nname = \"gw-7\"\nworkers = 1\n{log}\n[timeouts]\nrequest_head = \"300ms\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{backend}\"]\nretry = {{ attempts = 0 }}\n\
         [upstream.dead]\nendpoints = [\"127.0.0.1:1\"]\n{ROUTES}"
    )
}

/// Does what the last segment of the path says.
fn by_path(mut peer: Peer) {
    let head = peer.read_head();
    let path = head.split([' ', '?']).nth(1).expect("a path");
    let key = header(&head, "sec-websocket-key").map(accept_of);
    let agree = |peer: &mut Peer| peer.send(switching(&key.clone().expect("an upgrade")));
    match path.rsplit('/').next().expect("a segment") {
        "ok" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        "chunks" => peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        "upload" => {
            peer.read_exact(5);
            peer.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        }
        "half" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        "nothing" => peer.send("HTTP/1.1 204 No Content\r\n\r\n"),
        "refuse" => peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
        "switch" => peer.send(switching(ACCEPT)),
        "wrong" => peer.send(switching("AAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
        "garbage" => peer.send("SSH-2.0-OpenSSH\r\n\r\n"),
        "leave" => {}
        "endless" => {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while peer
                .try_send(b"400\r\n".iter().copied().chain([b'x'; 0x400]).chain(*b"\r\n").collect::<Vec<_>>())
                .is_ok()
            {}
            return;
        }
        "silent" => return backend::silent_to_end(peer),
        "wait" => {
            agree(&mut peer);
            return backend::silent_to_end(peer);
        }
        "echo" => {
            agree(&mut peer);
            while let Ok(bytes) = peer.try_read_some() {
                if bytes.is_empty() || peer.try_send(bytes).is_err() {
                    break;
                }
            }
        }
        "bye" => {
            agree(&mut peer);
            peer.send(frame::server(frame::CLOSE, true, frame::close_payload(1001, "")));
        }
        "reset" => {
            agree(&mut peer);
            peer.read_some();
            return peer.reset();
        }
        other => panic!("{other:?} is in no table"),
    }
    peer.finish_sending();
    backend::silent_to_end(peer);
}

/// A request of this method and path; what follows is its body.
fn request(method: &str, path: &str, lines: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

fn socket(path: &str) -> String {
    opening_handshake("a.example", path, "")
}

/// Gives the client if it has to stay until there is a record.
type Deed = Box<dyn Fn(SocketAddr, &str) -> Option<Peer>>;

/// Sends bytes and reads until the gateway ends it or the answer is whole.
fn asks(bytes: impl Fn(&str) -> String + 'static) -> Deed {
    Box::new(move |web, path| {
        let mut client = Client::connect(web);
        client.send(bytes(path));
        let head = client.read_head();
        if !head.starts_with("HTTP/1.1 200") {
            client.finish_sending();
        }
        backend::silent_to_end(client);
        None
    })
}

fn gets() -> Deed {
    Box::new(|web, path| {
        Client::ask(web, request("GET", path, ""));
        None
    })
}

fn tunnels(then: impl Fn(Peer) + 'static) -> Deed {
    Box::new(move |web, path| {
        then(Client::upgrade_with(web, &socket(path)).0);
        None
    })
}

/// Sends, and leaves while nothing is answered.
fn leaves(bytes: fn(&str) -> String, how: fn(Peer)) -> Deed {
    Box::new(move |web, path| {
        let mut client = Client::connect(web);
        client.send(bytes(path));
        client.expect_silence(Duration::from_millis(50)); // had it not reached the backend by then, its record would tell
        how(client);
        None
    })
}

fn told(status: u16, cause: &str) -> Value {
    json!({ "record": "request", "status": status, "cause": cause })
}

fn fine(status: u16) -> Value {
    json!({ "record": "request", "status": status })
}

fn ended(by: &str) -> Value {
    json!({ "record": "tunnel", "status": 101, "ended_by": by })
}

/// Path, deed, and what the record says: a cause by its beginning, and no cause where none is written here.
#[rustfmt::skip]
fn answered() -> Vec<(&'static str, Deed, Value)> {
    vec![
        // Answered here.
        ("/fixed/1", gets(), fine(200)),
        ("/fixed/2", asks(|path| request("HEAD", path, "Connection: close\r\n")), fine(200)),
        ("/old/1", gets(), fine(308)),
        ("/page", gets(), fine(200)),
        ("/health", gets(), fine(200)),
        ("/fixed/options", asks(|path| request("OPTIONS", path, "Connection: close\r\n")), fine(200)),
        // Forwarded.
        ("/1/ok", gets(), fine(200)),
        ("/2/chunks", gets(), fine(200)),
        ("/3/nothing", gets(), fine(204)),
        ("/4/upload", asks(|path| request("POST", path, "Content-Length: 5\r\n") + "12345"), json!({ "record": "request", "status": 201, "sent": 5 })),
        ("/5/upload", asks(|path| request("PUT", path, "Transfer-Encoding: chunked\r\n") + "5\r\n12345\r\n0\r\n\r\n"), json!({ "record": "request", "status": 201, "sent": 5 })),
        ("/6/refuse", gets(), json!({ "record": "request", "status": 403, "received": 2 })),
        ("/7/refuse", asks(socket), json!({ "record": "request", "status": 403, "received": 2 })),
        ("/8/ok", asks(|path| socket(path).replace("websocket", "h2c").replace("Upgrade\r\n", "upgrade, close\r\n")), fine(200)),
    ]
}

#[rustfmt::skip]
fn rejected() -> Vec<(&'static str, Deed, Value)> {
    let post = |lines: &'static str| move |path: &str| request("POST", path, lines);
    vec![
        ("/tunnels-only/1", gets(), told(426, "only upgrades are served here")),
        ("/host/1/refuse", asks(|path| request("GET", path, "")), fine(403)), // the other host's route
        ("/%zz", asks(|path| request("GET", path, "")), told(400, "")),
        ("/x%2f..%2ffixed", asks(|path| request("GET", path, "")), told(400, "")),
        ("/9/ok", asks(|path| request("GET", path, "Host: b\r\n")), told(400, "")),
        ("/10/ok", asks(|path| request("TRACE", path, "")), told(405, "")),
        ("/11/ok", asks(|path| socket(path).replace("GET", "POST")), told(405, "")),
        ("/12/ok", asks(|path| socket(path).replace("Version: 13", "Version: 8")), told(426, "")),
        ("/13/ok", asks(|path| socket(path).replace("==", "")), told(400, "")),
        ("/14/ok", asks(|path| request("POST", path, "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"), told(501, "")),
        ("/15/echo", asks(|path| opening_handshake("a", path, "Content-Length: 1\r\n") + "x"), told(400, "")),
        ("/echo/plain", gets(), told(426, "")),
        // Failed behind the gateway.
        ("/dead/1", gets(), told(502, "cannot connect: ")),
        ("/dead/2", asks(socket), told(502, "cannot connect: ")),
        ("/16/leave", gets(), told(502, "the backend closed before its answer was whole")),
        ("/17/leave", asks(socket), told(502, "the backend closed before its answer was whole")),
        ("/18/garbage", gets(), told(502, "the backend's answer is not HTTP: ")),
        ("/19/switch", gets(), told(502, "the backend answered 101 to a request that is no upgrade")),
        ("/20/wrong", asks(socket), told(502, "the backend's 101: ")),
        ("/short/silent", gets(), told(504, "the backend did not answer within timeouts.response_head")),
        ("/short/2/silent", asks(socket), told(504, "the backend did not answer within timeouts.upgrade")),
        ("/short/3/silent", asks(post("Content-Length: 5\r\n")), told(408, "the client sent nothing of its body for timeouts.stall")),
        ("/21/half", Box::new(|web, path| {
            let mut client = Client::connect(web);
            client.send(request("GET", path, ""));
            backend::silent_to_end(client);
            None
        }), told(200, "the backend broke off within the body: ")),
    ]
}

#[rustfmt::skip]
fn left_by_the_client() -> Vec<(&'static str, Deed, Value)> {
    let left = || json!({ "record": "request", "cause": "the client left before the answer" });
    vec![
        ("/22/silent", leaves(|path| request("GET", path, ""), drop), left()),
        ("/23/silent", leaves(|path| request("GET", path, ""), Peer::reset), left()),
        ("/24/silent", leaves(socket, drop), left()),
        ("/25/silent", leaves(socket, Peer::reset), left()),
        ("/26/silent", leaves(|path| request("POST", path, "Content-Length: 5\r\n") + "1", drop), told(400, "the client left within the body")),
        // The end right behind the request: hyper may drop its handling before it has begun.
        ("/28/silent", Box::new(|web, path| {
            let mut client = Client::connect(web);
            client.send(request("GET", path, ""));
            client.finish_sending();
            backend::silent_to_end(client);
            None
        }), left()),
        ("/27/endless", Box::new(|web, path| {
            let mut client = Client::connect(web);
            client.send(request("GET", path, ""));
            client.read_exact(10_000);
            None
        }), told(200, "the client left before the answer was sent whole")),
    ]
}

/// Ended each way.
#[rustfmt::skip]
fn tunnelled() -> Vec<(&'static str, Deed, Value)> {
    vec![
        ("/30/echo", tunnels(|mut client| { client.send("four"); client.read_exact(4); client.finish_sending(); client.expect_eof(); }),
            json!({ "record": "tunnel", "status": 101, "ended_by": "ClientClosed", "sent": 4, "received": 4 })),
        ("/31/bye", tunnels(|mut client| { client.read_to_end(); }), json!({ "record": "tunnel", "status": 101, "ended_by": "ServerClosed", "close_code": 1001 })),
        ("/32/wait", tunnels(drop), ended("ClientClosed")),
        ("/33/wait", tunnels(|mut client| { client.send("x"); client.reset(); }), ended("ClientReset")),
        ("/34/reset", tunnels(|mut client| { client.send("x"); client.expect_reset(); }), ended("ServerReset")),
        ("/short/wait", tunnels(|mut client| client.expect_end()), ended("Idle")),
        ("/half/echo", tunnels(|mut client| { client.finish_sending(); client.expect_eof(); }), ended("ClientClosed")),
        ("/half/bye", Box::new(|web, path| {
            let (mut client, _) = Client::upgrade_with(web, &socket(path));
            client.read_to_end();
            Some(client)
        }), json!({ "record": "tunnel", "status": 101, "ended_by": "HalfClosed", "close_code": 1001 })),
        ("/echo/1", tunnels(|mut client| {
            client.send(frame::client(frame::CLOSE, true, frame::close_payload(1000, "")));
            assert_eq!(frame::read(&mut client).close_code(), Some(1000));
            client.finish_sending();
            client.expect_eof();
        }), json!({ "record": "tunnel", "status": 101, "close_code": 1000 })),
        ("/echo/2", tunnels(|mut client| {
            client.send(frame::server(frame::TEXT, true, "not masked"));
            backend::silent_to_end(client);
        }), ended("Malformed")),
    ]
}

/// What hyper or the clock answers before there is a request; these have no path.
fn without_a_head() -> Vec<(String, Value)> {
    let many = "X: y\r\n".repeat(200);
    vec![
        ("no http at all\r\n\r\n".into(), told(400, "the head is not HTTP/1.1: ")),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".into(), told(400, "the head is not HTTP/1.1: ")),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), told(431, "the head is larger than ")),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(70_000)), told(431, "the head is larger than ")),
        ("GET / HTTP/1.1\r\nHost: a".into(), told(408, "the head was not whole within timeouts.request_head")),
        // Behind a whole request, in the same bytes.
        (request("GET", "/fixed/before", "") + "no http at all\r\n\r\n", told(400, "the head is not HTTP/1.1: ")),
    ]
}

#[track_caller]
fn assert_says(record: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        match (key.as_str(), value.as_str()) {
            ("cause", Some(begin)) => {
                assert!(record["cause"].as_str().is_some_and(|cause| cause.starts_with(begin)), "{expected} {record}");
            }
            _ => assert_eq!(&record[key], value, "{expected} {record}"),
        }
    }
    for key in ["cause", "status", "ended_by"] {
        assert_eq!(
            record.get(key).is_some(),
            expected.get(key).is_some() || (key == "ended_by" && record["record"] == "tunnel"),
            "{key}: {expected} {record}"
        );
    }
}

#[test]
fn each_request_and_each_tunnel_has_exactly_one_record() {
    let backend = Backend::start(by_path);
    let gateway = Gateway::start(&config(backend.address(), "[log]\nformat = \"json\""));
    let web = gateway.address("web");
    let table: Vec<_> = [answered(), rejected(), left_by_the_client(), tunnelled()].into_iter().flatten().collect();
    for (path, deed, expected) in &table {
        let kept = deed(web, path);
        let record = gateway.record(|record| record["path"] == *path);
        assert_says(&record, expected);
        drop(kept);
    }
    for (bytes, expected) in without_a_head() {
        let mut client = Client::connect(web);
        client.send(bytes);
        backend::silent_to_end(client);
        assert_says(&gateway.record(|record| record.get("path").is_none()), &expected);
    }
    gateway.record(|record| record["path"] == "/fixed/before");
    // What says nothing is no request, and has none.
    for leave in [drop::<Peer>, Peer::reset] {
        leave(Client::connect(web));
    }
    let mut mute = Client::connect(web);
    mute.expect_eof();
    // A head that was begun: it is told, but nobody was answered.
    let mut client = Client::connect(web);
    client.send("GET /begun HT");
    client.finish_sending();
    backend::silent_to_end(client);
    let record = gateway.record(|record| record["cause"] == "the client left within a head");
    assert_eq!(record.get("status"), None, "{record}");

    let records = gateway.stop();
    let ids: HashSet<_> = records.iter().map(|record| record["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), records.len(), "ids differ");
    let paths: Vec<_> = records.iter().filter_map(|record| record["path"].as_str()).collect();
    for (path, ..) in &table {
        assert_eq!(paths.iter().filter(|other| *other == path).count(), 1, "{path}");
    }
    assert_eq!(records.len(), table.len() + without_a_head().len() + 2, "and no others: {records:#?}");
    assert!(records.len() > 50);
    drop(mute);
    backend.finish();
}

#[test]
fn a_record_says_who_what_where_and_how_long() {
    let backend = Backend::start(by_path);
    let endpoint = backend.address().to_string();
    let gateway = Gateway::start(&config(backend.address(), "[log]\nformat = \"json\""));
    let web = gateway.address("web");

    let mut client = Client::connect(web);
    let address = client.local().to_string();
    client.send(
        request("POST", "/1/upload?secret=x", "Content-Length: 5\r\n").replace("a.example", "A.Example:81") + "12345",
    );
    assert_eq!(client.read_answer().status, 201);
    let record = gateway.record(|_| true);
    let object = record.as_object().expect("an object");
    let keys: HashSet<_> = object.keys().map(String::as_str).collect();
    let expected =
        "timestamp record id gateway client listener route endpoint method host path status sent received took_ms";
    assert_eq!(keys, expected.split(' ').collect());
    for (key, value) in [
        ("record", "request"),
        ("gateway", "gw-7"),
        ("client", &address),
        ("listener", "web"),
        ("route", "app"),
        ("endpoint", &endpoint),
        ("method", "POST"),
        ("host", "a.example"),
        ("path", "/1/upload"), // without the query: it may hold what is nobody else's
    ] {
        assert_eq!(record[key], value, "{key}: {record}");
    }
    assert_eq!((&record["status"], &record["sent"], &record["received"]), (&json!(201), &json!(5), &json!(0)));
    assert!(record["took_ms"].as_f64() > Some(0.0), "{record}");
    let id = record["id"].as_str().expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let time = record["timestamp"].as_str().expect("a time");
    assert!(time.len() == "2026-11-22T20:31:00.123Z".len() && time.ends_with('Z'), "{time}");

    let (mut client, _) = Client::upgrade_with(web, &socket("/2/echo"));
    client.expect_silence(Duration::from_millis(100)); // so that the times can be told apart
    let bye = frame::client(frame::CLOSE, true, frame::close_payload(4000, "so long"));
    client.send(&bye);
    client.read_exact(bye.len());
    client.finish_sending();
    client.expect_eof();
    let record = gateway.record(|record| record["record"] == "tunnel");
    let keys: HashSet<_> = record.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = "timestamp record id gateway client listener route endpoint method host path status sent received \
                    ended_by close_code handshake_ms lasted_ms";
    assert_eq!(keys, expected.split_whitespace().collect());
    assert_eq!((&record["ended_by"], &record["close_code"]), (&json!("ClientClosed"), &json!(4000)));
    assert_eq!((&record["sent"], &record["received"]), (&json!(bye.len()), &json!(bye.len())));
    assert!(record["lasted_ms"].as_f64() >= Some(100.0), "{record}");
    assert!(record["handshake_ms"].as_f64() > Some(0.0), "{record}");
    gateway.stop();
}

#[test]
fn what_the_gateways_end_cuts_says_so() {
    let backend = Backend::start(by_path);
    let log = "[log]\nformat = \"json\"\n[drain]\ndeadline = \"200ms\"";
    let gateway = Gateway::start(&config(backend.address(), log));
    let web = gateway.address("web");
    let mut waiting = Client::connect(web);
    waiting.send(request("GET", "/1/silent", ""));
    let mut reading = Client::connect(web);
    reading.send(request("GET", "/2/endless", ""));
    reading.read_head();
    let (tunnel, _) = Client::upgrade_with(web, &socket("/3/wait"));
    support::until("all three are there", || backend.received().iter().filter(|one| !one.is_empty()).count() == 3);
    gateway.signal(Signal::SIGTERM);
    let (status, records) = gateway.wait();
    assert_eq!(status.code(), Some(2), "something was cut");
    assert_eq!(records.len(), 3, "{records:#?}");
    let of = |path: &str| records.iter().find(|record| record["path"] == path).expect("a record");
    assert_says(of("/1/silent"), &json!({ "record": "request", "cause": "the gateway ended before it did" }));
    assert_says(of("/2/endless"), &told(200, "the gateway ended before it did"));
    assert_says(of("/3/wait"), &ended("HardStop"));
    drop((waiting, reading, tunnel));
}

#[test]
fn records_can_be_tunnels_failures_or_off() {
    for (which, expected) in [
        ("all", &["/fixed", "/1/ok", "/1/refuse", "/nowhere/%zz", "/1/leave", "/1/echo", "/1/reset"][..]),
        ("tunnels", &["/1/echo", "/1/reset"]),
        ("failures", &["/nowhere/%zz", "/1/leave", "/1/reset"]),
        ("off", &[]),
    ] {
        let backend = Backend::start(by_path);
        let log = format!("[log]\nformat = \"json\"\nrecords = \"{which}\"");
        let gateway = Gateway::start(&config(backend.address(), &log));
        let web = gateway.address("web");
        for path in ["/fixed", "/1/ok", "/1/refuse", "/nowhere/%zz", "/1/leave"] {
            Client::ask(web, request("GET", path, "Connection: close\r\n"));
        }
        let (mut client, _) = Client::upgrade_with(web, &socket("/1/echo"));
        client.finish_sending();
        client.expect_eof();
        drop(client);
        let (mut client, _) = Client::upgrade_with(web, &socket("/1/reset"));
        client.send("x");
        client.expect_reset();
        drop(client);
        let mut paths: Vec<_> =
            gateway.stop().iter().map(|one| one["path"].as_str().expect("a path").to_owned()).collect();
        let mut expected = expected.to_vec();
        paths.sort_unstable();
        expected.sort_unstable();
        assert_eq!(paths, expected, "records = {which}");
    }
}
