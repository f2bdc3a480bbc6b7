//! What a route does where no backend is asked: respond, redirect and the services, each asked by GET, HEAD, POST and by
//! an upgrade; and what each leaves of the connection.

mod support;

use std::fs;

use support::client::{ACCEPT, Client, opening_handshake};
use support::frame;
use support::gateway::Gateway;
use support::peer::{Answer, Peer, header};

fn gateway(routes: &str) -> Gateway {
    Gateway::start(&format!("[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{routes}"))
}

/// Everything but the health check, so that it can follow any of them.
const ROUTES: &str = r#"
[[route]]
path = "/health"
service = "health"
[[route]]
path = "/page"
service = "test-page"
[[route]]
path = "/echo"
service = "echo"
[[route]]
path = "/text"
respond = { status = 418, body = "short and stout\n" }
[[route]]
path = "/typed"
respond = { status = 200, body = "{}", content_type = "application/json" }
[[route]]
path = "/empty"
respond = 403
[[route]]
path = "/gone"
respond = { status = 204 }
[[route]]
path = "/to"
redirect = "https://{host}{uri}"
"#;

/// Asks, and asserts that the connection goes on and that the record says the same.
fn ask(gateway: &Gateway, client: &mut Peer, request: &str) -> Answer {
    client.send(request);
    let answer = client.read_answer();
    let record = gateway.record(|_| true);
    let told = (&record["status"], &record["received"], &record["endpoint"], &record["cause"]);
    let cause = if answer.status == 426 { "only upgrades are served here".into() } else { serde_json::Value::Null };
    assert_eq!(told, (&answer.status.into(), &answer.body.len().into(), &serde_json::Value::Null, &cause), "{record}");
    answer
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.example:8080\r\n\r\n")
}

#[test]
fn a_fixed_answer_has_its_status_its_body_and_its_type() {
    let gateway = gateway(ROUTES);
    let mut client = Client::connect(gateway.address("web"));
    for (path, status, content_type, body) in [
        ("/text", 418, Some("text/plain; charset=utf-8"), "short and stout\n"),
        ("/text/below?it", 418, Some("text/plain; charset=utf-8"), "short and stout\n"),
        ("/typed", 200, Some("application/json"), "{}"),
        ("/empty", 403, None, ""),
        ("/gone", 204, None, ""),
    ] {
        for method in ["GET", "OPTIONS", "DELETE", "PROPFIND"] {
            let answer = ask(&gateway, &mut client, &request(method, path));
            assert_eq!((answer.status, answer.text()), (status, body), "{method} {path}");
            assert_eq!(answer.header("content-type"), content_type);
            let length = (status != 204).then(|| body.len().to_string());
            assert_eq!(answer.header("content-length"), length.as_deref(), "{method} {path}");
        }
    }
    drop(client);
    gateway.stop();
}

#[test]
fn the_body_of_a_fixed_answer_may_stand_in_a_file() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 255) as u8).collect();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("body-{}", std::process::id()));
    fs::write(&file, &bytes).expect("the target folder can be written");
    let gateway = gateway(&format!("[[route]]\nrespond = {{ status = 200, body_file = {file:?} }}\n"));
    // It was read with the configuration: nothing that happens to it later makes an answer fail.
    fs::remove_file(&file).expect("it is there");
    let mut client = Client::connect(gateway.address("web"));
    for _ in 0..2 {
        assert_eq!(ask(&gateway, &mut client, &request("GET", "/")).body, bytes);
    }
    drop(client);
    gateway.stop();
}

#[test]
fn a_redirect_fills_its_template() {
    let route = |path: &str, redirect: &str| format!("[[route]]\npath = \"{path}\"\nredirect = {redirect}\n");
    let routes = [
        route("/uri", "\"https://{host}{uri}\""),
        route("/parts", "{ to = \"{scheme}://to.example{path}#{query}\", status = 301 }"),
        route("/here", "{ to = \"/there?id={id}&from={client.address}\", status = 307 }"),
        route("/braces", "{ to = \"/{{{host}}}\", status = 302 }"),
    ];
    let gateway = gateway(&routes.concat());
    let mut client = Client::connect(gateway.address("web"));
    for (target, host, status, location) in [
        ("/uri", "a.example", 308, "https://a.example/uri"),
        ("/uri/%61/../b?c=%64&e", "A.Example.:8080", 308, "https://a.example/uri/b?c=%64&e"),
        ("/uri?", "[2001:DB8::1]:80", 308, "https://[2001:db8::1]/uri?"),
        ("http://other.example/uri", "a.example", 308, "https://other.example/uri"),
        ("/uri/\"", "a", 308, "https://a/uri/\""),
        ("/uri/\u{e9}?\u{e9}", "a", 308, "https://a/uri/\u{c3}\u{a9}?\u{c3}\u{a9}"),
        ("/uri/%0d%0aSet-Cookie:x", "a", 308, "https://a/uri/%0d%0aSet-Cookie:x"),
        ("/parts/x?y", "a", 301, "http://to.example/parts/x#y"),
        ("/parts", "a", 301, "http://to.example/parts#"),
        ("/braces", "a", 302, "/{a}"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{target}");
        assert_eq!((answer.header("content-length"), answer.text()), (Some("0"), ""));
        assert_eq!(gateway.record(|_| true)["status"], status);
    }
    client.send(request("POST", "/here"));
    let answer = client.read_answer();
    let record = gateway.record(|_| true);
    let location = format!("/there?id={}&from=127.0.0.1", record["id"].as_str().expect("an id"));
    assert_eq!((answer.status, answer.header("location")), (307, Some(&*location)));
    drop(client);
    gateway.stop();
}

#[test]
fn the_services_answer_plain_requests() {
    let gateway = gateway(ROUTES);
    let mut client = Client::connect(gateway.address("web"));
    for method in ["GET", "POST", "OPTIONS"] {
        let page = ask(&gateway, &mut client, &request(method, "/page"));
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(page.text().starts_with("<!doctype html>") && page.text().contains("WebSocket rocks"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));

        let health = ask(&gateway, &mut client, &request(method, "/health"));
        assert_eq!((health.status, health.text()), (200, "ok\n"));
        assert_eq!(health.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(health.header("cache-control"), Some("no-store"));

        let echo = ask(&gateway, &mut client, &request(method, "/echo"));
        assert_eq!((echo.status, echo.header("upgrade")), (426, Some("websocket")));
        assert_eq!((echo.header("sec-websocket-version"), echo.header("connection")), (Some("13"), Some("upgrade")));
    }
    drop(client);
    gateway.stop();
}

/// The head of a HEAD's answer is that of a GET's, the length of what there is included (a length of nothing may be left
/// unsaid: RFC 9110 section 9.3.2), and what follows it is the next answer.
#[test]
fn a_head_is_answered_as_a_get_without_its_body() {
    let gateway = gateway(ROUTES);
    let mut client = Client::connect(gateway.address("web"));
    for path in ["/text", "/typed", "/empty", "/gone", "/to", "/page", "/health", "/echo", "/nowhere", "/a%2f..%2ftext"]
    {
        client.send(request("GET", path));
        let get = client.read_answer();
        client.send(request("HEAD", path));
        let head = client.read_head();
        let lines = |head: &str| -> Vec<String> {
            let mut lines: Vec<_> =
                head.split("\r\n").filter(|line| !line.starts_with("date: ") && *line != "content-length: 0").collect();
            lines.sort_unstable();
            lines.into_iter().map(str::to_owned).collect()
        };
        assert_eq!(lines(&head), lines(&get.head), "{path}");
        let [one, other] = [gateway.record(|_| true), gateway.record(|_| true)];
        assert_eq!((&one["status"], &one["cause"]), (&other["status"], &other["cause"]), "{path}");
        assert_eq!((&other["method"], &other["received"]), (&"HEAD".into(), &0.into()), "{path}");
    }
    client.send("HEAD /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client.expect_eof();
    drop(client);
    gateway.stop();
}

/// Nobody asks for these bodies: they are read past, or the connection ends; they are never the next request.
#[test]
fn a_body_that_nobody_wants_is_never_the_next_request() {
    let hidden = request("GET", "/text/hidden");
    let gateway = gateway(ROUTES);
    for path in ["/text", "/to", "/page", "/health", "/echo", "/nowhere"] {
        for (framing, body) in [
            (format!("Content-Length: {}\r\n", hidden.len()), hidden.clone()),
            ("Transfer-Encoding: chunked\r\n".into(), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len())),
            ("Content-Length: 1000000\r\n".into(), hidden.repeat(3)),
        ] {
            let mut client = Client::connect(gateway.address("web"));
            client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n{body}"));
            let first = client.read_answer();
            let _ = client.try_send(request("GET", "/typed"));
            if client.read_line_or_end().is_some_and(|line| line != "HTTP/1.1 200 OK") {
                panic!("{path} {framing:?}: not the next request was answered after {first:?}");
            }
        }
    }
    let records = gateway.stop();
    assert!(records.iter().all(|record| record["path"] != "/text/hidden"), "{records:#?}");
}

/// An upgrade is judged by the route's list whatever the action is, and only the echo agrees to one.
#[test]
fn an_upgrade_is_agreed_to_by_the_echo_alone() {
    let gateway = gateway(ROUTES);
    let mut client = Client::connect(gateway.address("web"));
    for (path, status) in [("/text", 418), ("/gone", 204), ("/to", 308), ("/page", 200), ("/health", 200)] {
        let answer = ask(&gateway, &mut client, &opening_handshake("a", path, ""));
        assert_eq!((answer.status, answer.header("upgrade")), (status, None), "{path}");
        let wrong = opening_handshake("a", path, "").replace("Version: 13", "Version: 1337");
        client.send(wrong);
        assert_eq!(client.read_answer().status, 426, "{path}");
        assert_eq!(gateway.record(|_| true)["cause"], "Sec-WebSocket-Version is not 13");
    }
    // On the same connection, behind all of these.
    let offers = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    client.send(opening_handshake("a", "/echo", offers));
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head:?}");
    assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(header(&head, "sec-websocket-accept"), Some(ACCEPT));
    assert_eq!((header(&head, "sec-websocket-protocol"), header(&head, "sec-websocket-extensions")), (None, None));
    client.send(frame::client(frame::TEXT, true, "hello"));
    assert_eq!(frame::read(&mut client).text(), "hello");
    client.send(frame::client(frame::CLOSE, true, frame::close_payload(1000, "")));
    assert_eq!(frame::read(&mut client).close_code(), Some(1000));
    client.finish_sending();
    client.expect_eof();
    assert_eq!(gateway.record(|_| true)["record"], "tunnel");
    gateway.stop();
}

/// A route's list may let other protocols in. The echo speaks none of them.
#[test]
fn the_echo_speaks_websocket_and_nothing_else() {
    let gateway = gateway("[[route]]\nservice = \"echo\"\nupgrade = [\"foo\", \"websocket\"]\n");
    let mut client = Client::connect(gateway.address("web"));
    for asks in ["Connection: Upgrade\r\nUpgrade: foo\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let answer = ask(&gateway, &mut client, &format!("GET / HTTP/1.1\r\nHost: a\r\n{asks}\r\n"));
        assert_eq!((answer.status, answer.header("upgrade")), (426, Some("websocket")), "{asks:?}");
    }
    drop(client);
    gateway.stop();
}
