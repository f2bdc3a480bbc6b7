//! What a request is for: its host, and its path, which has two readings. What is matched is what is forwarded, byte for
//! byte; a path that others could read as leading elsewhere is refused before a backend hears of it.

mod support;

use support::backend::Backend;
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::mirror::mirror;
use support::peer::{Peer, header};

fn gateway(backend: &Backend, routes: &str) -> Gateway {
    let address = backend.address();
    Gateway::start(&format!(
        "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"{address}\"]\n{routes}"
    ))
}

fn route(name: &str, matches: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\n{matches}\nupstream = \"app\"\n")
}

/// The target and the Host that the backend saw, and the route that the record names.
fn ask(gateway: &Gateway, client: &mut Peer, request: &str) -> (String, String, String) {
    client.send(request);
    let answer = client.read_answer();
    assert_eq!(answer.status, 200, "{request:?}: {answer:?}");
    let seen = answer.text();
    let target = seen.split(' ').nth(1).expect("a target").to_owned();
    let record = gateway.record(|_| true);
    let route = record["route"].as_str().expect("a route").to_owned();
    (target, header(seen, "host").expect("a host").to_owned(), route)
}

/// One answer of that status and cause, and whether the connection ends.
fn refuse(gateway: &Gateway, request: &[u8], status: u16, cause: &str, ends: bool) {
    let mut client = Client::connect(gateway.address("web"));
    client.send(request);
    let answer = client.read_answer();
    let request = support::peer::text(request);
    assert_eq!(
        (answer.status, answer.header("connection") == Some("close")),
        (status, ends),
        "{request:?}: {answer:?}"
    );
    let record = gateway.record(|_| true);
    assert_eq!((&record["status"], &record["cause"]), (&status.into(), &cause.into()), "{request:?}");
    if ends {
        client.expect_eof();
    } else {
        client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_answer().status, 200, "after {request:?}");
        gateway.record(|record| record["path"] == "/next");
    }
}

#[test]
fn a_host_is_matched_without_case_dot_and_port_and_forwarded_as_it_is_spelled() {
    let backend = Backend::start(mirror);
    let routes = [
        route("named", "host = \"a.example\""),
        route("below", "host = \"*.a.example\""),
        route("number", "host = \"192.0.2.1\""),
        route("literal", "host = \"[2001:db8::1]\""),
        route("any", ""),
    ];
    let gateway = gateway(&backend, &routes.concat());
    let mut client = Client::connect(gateway.address("web"));
    for (host, named) in [
        ("a.example", "named"),
        ("A.Example", "named"),
        ("a.example.", "named"),
        ("a.example:80", "named"),
        ("A.EXAMPLE.:65535", "named"),
        ("a.example:", "named"),
        ("b.a.example", "below"),
        ("c.B.A.example.:1", "below"),
        ("ba.example", "any"),
        ("a.example.org", "any"),
        ("under_score", "any"),
        ("192.0.2.1:8080", "number"),
        ("192.0.2.11", "any"),
        ("[2001:db8::1]", "literal"),
        ("[2001:DB8:0:0::1]:80", "literal"),
        ("[2001:db8::2]", "any"),
    ] {
        let seen = ask(&gateway, &mut client, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(seen, ("/".to_owned(), host.to_owned(), named.to_owned()));
    }
    drop(client);
    gateway.stop();
}

#[test]
fn the_authority_of_an_absolute_target_replaces_host() {
    let backend = Backend::start(mirror);
    let routes = [route("inner", "host = \"inner.example\""), route("outer", "host = \"outer.example\"")];
    let gateway = gateway(&backend, &routes.concat());
    let mut client = Client::connect(gateway.address("web"));
    for (target, forwarded, host) in [
        ("http://inner.example/a?b", "/a?b", "inner.example"),
        ("https://inner.example/a", "/a", "inner.example"),
        ("ws://inner.example/a", "/a", "inner.example"),
        ("WSS://Inner.Example.:8080/a", "/a", "Inner.Example.:8080"),
        ("http://inner.example", "/", "inner.example"),
        ("http://inner.example?b", "/?b", "inner.example"),
        ("http://inner.example/x/../%61//b", "/a//b", "inner.example"),
        ("http://inner.example/http://outer.example/", "/http://outer.example/", "inner.example"),
    ] {
        let seen = ask(&gateway, &mut client, &format!("GET {target} HTTP/1.1\r\nHost: outer.example\r\n\r\n"));
        assert_eq!(seen, (forwarded.to_owned(), host.to_owned(), "inner".to_owned()), "{target}");
    }
    // What looks like an authority in a path is a path.
    let seen = ask(&gateway, &mut client, "GET //inner.example/a HTTP/1.1\r\nHost: outer.example\r\n\r\n");
    assert_eq!(seen, ("//inner.example/a".to_owned(), "outer.example".to_owned(), "outer".to_owned()));
    drop(client);
    let upgrade = opening_handshake("outer.example", "http://inner.example/ws", "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(upgrade);
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    let seen = client.read_head();
    assert!(seen.starts_with("GET /ws HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("inner.example"));
    drop(client);
    gateway.stop();
}

#[test]
fn a_target_of_no_form_that_is_served_is_refused() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, &route("any", ""));
    let authority = "malformed authority in the target";
    for (first, status, cause) in [
        ("GET a.example:443", 405, "the target is an authority"),
        ("GET a.example", 405, "the target is an authority"),
        ("OPTIONS a.example:80", 405, "the target is an authority"),
        ("GET *", 400, "the target * is for OPTIONS only"),
        ("POST *", 400, "the target * is for OPTIONS only"),
        ("options *", 400, "the target * is for OPTIONS only"),
        ("GET ftp://a.example/", 400, "the target's scheme is not served"),
        ("GET file://a/etc/passwd", 400, "the target's scheme is not served"),
        ("GET httpx://a.example/", 400, "the target's scheme is not served"),
        ("GET http://user@a.example/", 400, authority),
        ("GET http://user:word@a.example/", 400, authority),
        ("GET http://a..example/", 400, authority),
        ("GET http://a,b/", 400, authority),
        ("GET http://[::g]/", 400, authority),
        ("GET http://a.example:99999/", 400, authority),
        ("GET http://:80/", 400, authority),
    ] {
        let request = format!("{first} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        refuse(&gateway, request.as_bytes(), status, cause, true);
    }
    for first in ["GET a b", "GET  /", "GET \t/", "GET http:///a", "GET //a b", "GET /a\x7fb", "GET /\x01", "GET /\0"] {
        refuse_unread(&gateway, &format!("{first} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}

/// What is no request line at all: hyper answers it, and the record is the connection's.
fn refuse_unread(gateway: &Gateway, request: &str) {
    let answer = Client::ask(gateway.address("web"), request);
    assert_eq!(answer.status, 400, "{request:?}");
    let record = gateway.record(|_| true);
    assert_eq!(record["status"], 400);
    assert!(record["cause"].as_str().is_some_and(|cause| cause.starts_with("the head is not HTTP/1.1")), "{record}");
}

#[test]
fn options_of_the_server_itself_are_answered_here() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, &route("any", ""));
    let mut client = Client::connect(gateway.address("web"));
    for more in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Content-Length: 0\r\n"] {
        client.send(format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.header("content-length")), (204, None), "{answer:?}");
        let record = gateway.record(|_| true);
        let told = (&record["method"], &record["path"], &record["status"], &record["route"]);
        assert_eq!(told, (&"OPTIONS".into(), &"*".into(), &204.into(), &serde_json::Value::Null));
    }
    assert_eq!(backend.connections(), 0);
    let seen = ask(&gateway, &mut client, "OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(seen, ("/x".to_owned(), "a".to_owned(), "any".to_owned()));
    drop(client);
    gateway.stop();
}

#[test]
fn the_strict_reading_is_forwarded_and_all_else_stays_byte_for_byte() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, &route("any", ""));
    let mut client = Client::connect(gateway.address("web"));
    for (sent, forwarded) in [
        ("/", "/"),
        ("/a/b?c=d&e", "/a/b?c=d&e"),
        // Unreserved characters are decoded ...
        ("/%61%2Db%2e%5F%7e%30", "/a-b._~0"),
        // ... and dot segments removed, spelled out or not.
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e/b/%2E%2e/c", "/a/c"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/...", "/..."),
        ("/.well-known/a", "/.well-known/a"),
        // All else is left alone.
        ("/a%2fb%2Fc", "/a%2fb%2Fc"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/group%2Fproject/-/raw", "/group%2Fproject/-/raw"),
        ("/@scope%2fpackage", "/@scope%2fpackage"),
        ("/a//b///", "/a//b///"),
        ("/a;v=1/b;", "/a;v=1/b;"),
        ("/a\\b", "/a\\b"),
        ("/%C3%A9%20%3f%25%2541", "/%C3%A9%20%3f%25%2541"),
        ("/a\"b^{|}[c]/\u{e9}", "/a\"b^{|}[c]/\u{e9}"),
        ("/a+b=c:d@e!$&'()*,", "/a+b=c:d@e!$&'()*,"),
        // A query is never looked into.
        ("/a?/../%61//;\\%zz%00?", "/a?/../%61//;\\%zz%00?"),
        ("/a?", "/a?"),
        ("/%61/..?%62", "/?%62"),
    ] {
        let (target, ..) = ask(&gateway, &mut client, &format!("GET {sent} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(target, forwarded, "{sent}");
    }
    drop(client);
    gateway.stop();
}

#[test]
fn a_path_that_others_may_read_as_leading_to_another_route_is_refused() {
    let backend = Backend::start(mirror);
    let routes = [
        route("open", ""),
        "[[route]]\nname = \"secret\"\npath = \"/secret\"\nrespond = { status = 403, body = \"no\" }\n".to_owned(),
        route("api", "path = \"/api\""),
    ];
    let gateway = gateway(&backend, &routes.concat());
    let ambiguous = "the path can be read in two ways that take different routes";
    for path in [
        "/api/..%2fsecret",
        "/api%2f..%2fsecret",
        "/api/..%5csecret",
        "/api\\..\\secret",
        "/api/..;/secret",
        "/api/..;x=y/secret",
        "/api/..%3b/secret",
        "//secret",
        "/;/secret",
        "/secret;x",
        "/secret%2fa",
        "/%2fsecret",
        "/x/%2e%2e%2fsecret",
        "/secret/..%2f",
        "/api/..%2f..%2fsecret/..;/..;/api",
    ] {
        for request in [format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), opening_handshake("a", path, "")] {
            refuse(&gateway, request.as_bytes(), 400, ambiguous, false);
        }
    }
    // By the strict reading alone it is clear where these lead.
    for path in ["/api/../secret", "/api/%2e%2e/secret", "/%73ecret", "/secret/a%2fb"] {
        assert_eq!(Client::get(gateway.address("web"), path).status, 403, "{path}");
    }
    let mut client = Client::connect(gateway.address("web"));
    for (path, named) in [("/api/a%2fb", "api"), ("/secrets%2f", "open"), ("/x/..%2fy", "open"), ("/api//;a", "api")] {
        let record = |record: &serde_json::Value| record["path"] == path;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.read_answer().status, 200, "{path}");
        assert_eq!(gateway.record(record)["route"], named);
    }
    drop(client);
    gateway.stop();
    for received in backend.finish() {
        assert!(!support::peer::text(&received).contains("/secret/"), "the backend saw what was refused");
    }
}

#[test]
fn a_nul_or_a_percent_that_is_no_escape_is_refused() {
    let backend = Backend::start(mirror);
    let gateway = gateway(&backend, &route("any", ""));
    for path in ["/%00", "/a%00.html", "/a/%2e%00"] {
        refuse(&gateway, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 400, "malformed path", true);
    }
    for path in ["/%", "/%4", "/%zz", "/%u0041", "/100%", "/%%41", "/a%2/b", "/% 1?"] {
        if path.contains(' ') {
            refuse_unread(&gateway, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        } else {
            refuse(&gateway, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 400, "malformed path", true);
        }
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}
