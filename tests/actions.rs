//! What a route does without a backend: fixed answers, redirects, and the services of the gateway itself.

mod support;

use support::client::{Client, opening_handshake};
use support::gateway::Gateway;

fn gateway() -> Gateway {
    Gateway::start(
        r#"
        [gateway]
        workers = 1
        [[listener]]
        name = "web"
        bind = "127.0.0.1:0"
        [[route]]
        path = "/no"
        respond = { status = 403, body = "no\n" }
        [[route]]
        path = "/json"
        respond = { status = 200, body = "{}", content_type = "application/json" }
        [[route]]
        path = "/empty"
        respond = 204
        [[route]]
        path = "/to"
        redirect = "https://{host}{uri}"
        [[route]]
        path = "/all"
        redirect = { to = "{scheme}://b{path}?was={query}&from={client.address}&{{id}}", status = 302 }
        [[route]]
        path = "/page"
        service = "test-page"
        [[route]]
        path = "/health"
        service = "health"
        [[route]]
        path = "/echo"
        service = "echo"
        "#,
    )
}

#[test]
fn respond_gives_its_bytes() {
    let gateway = gateway();
    let web = gateway.address("web");
    let no = Client::get(web, "/no/matter/what");
    assert_eq!((no.status, no.text(), no.header("content-type")), (403, "no\n", Some("text/plain; charset=utf-8")));
    let json = Client::get(web, "/json");
    assert_eq!((json.status, json.text(), json.header("content-type")), (200, "{}", Some("application/json")));
    let empty = Client::get(web, "/empty");
    assert_eq!((empty.status, empty.text(), empty.header("content-type")), (204, "", None));
    gateway.stop();
}

#[test]
fn redirect_fills_in_its_target() {
    let gateway = gateway();
    let ask = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: Example.COM:8080\r\n\r\n");
        let answer = Client::ask(gateway.address("web"), request);
        (answer.status, answer.header("location").unwrap_or_default().to_owned())
    };
    assert_eq!(ask("/to/a%20b/../c?d=%2f"), (308, "https://example.com/to/c?d=%2f".into()));
    assert_eq!(ask("/to"), (308, "https://example.com/to".into()));
    assert_eq!(ask("/all/x?y"), (302, "http://b/all/x?was=y&from=127.0.0.1&{id}".into()));
    // A WebSocket client is sent on like any other.
    let answer = Client::ask(gateway.address("web"), opening_handshake("a.example", "/to", ""));
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://a.example/to")));
    gateway.stop();
}

#[test]
fn services_answer() {
    let gateway = gateway();
    let web = gateway.address("web");
    let page = Client::get(web, "/page");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    let health = Client::get(web, "/health");
    assert_eq!((health.status, health.text(), health.header("cache-control")), (200, "ok\n", Some("no-store")));
    let echo = Client::get(web, "/echo");
    assert_eq!((echo.status, echo.header("upgrade")), (426, Some("websocket")));
    gateway.stop();
}

#[test]
fn head_is_answered_like_get_but_for_the_body() {
    let gateway = gateway();
    for path in ["/no", "/json", "/to", "/page", "/health", "/echo", "/nowhere"] {
        let got = Client::get(gateway.address("web"), path);
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        let head = client.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", got.status)), "{path}: {head}");
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        assert_eq!(length.unwrap_or_else(|| "0".into()), got.body.len().to_string(), "{path}: {head}");
        client.expect_eof();
        let record = gateway.record(|record| record["method"] == "HEAD");
        assert_ne!(record["cause"], "the client left before the answer was sent whole", "{record}");
    }
    gateway.stop();
}
