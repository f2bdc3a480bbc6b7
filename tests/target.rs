//! What a request is for: one Host, one target, and one reading of its path by gateway and backend alike.

mod support;

use support::backend::{self, Backend};
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{header, text};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\npool = \"off\"\n\
         [[route]]\nname = \"open\"\nupstream = \"app\"\n\
         [[route]]\nname = \"secret\"\npath = \"/secret\"\nrespond = {{ status = 403, body = \"no\" }}\n",
        backend.address()
    ))
}

#[test]
fn what_is_forwarded_is_what_was_matched_byte_for_byte() {
    let table = [
        ("/", "/"),
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%20b/%C3%A9?x=%00%zz", "/a%20b/%C3%A9?x=%00%zz"),
        ("/%61%2D%7e", "/a-~"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2E/c", "/c"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/.", "/a/b/"),
        ("/a//b/", "/a//b/"),
        ("/%252e%252e/secret", "/%252e%252e/secret"),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/?a=/../b", "/?a=/../b"),
    ];
    for (asked, forwarded) in table {
        let backend = Backend::start(backend::respond(OK));
        let gateway = gateway(&backend);
        let request = format!("GET {asked} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(Client::ask(gateway.address("web"), request).status, 200, "{asked}");
        gateway.stop();
        let received = text(&backend.finish()[0]);
        assert_eq!(received.lines().next(), Some(&*format!("GET {forwarded} HTTP/1.1")), "{asked}");
    }
}

#[test]
fn a_path_that_another_reading_would_route_elsewhere_is_refused() {
    let backend = Backend::start(backend::respond(OK));
    let gateway = gateway(&backend);
    let ambiguous = [
        "/x%2f..%2fsecret",
        "/x/..%2Fsecret",
        "/%2e%2e%2fsecret",
        "//secret",
        "/secret;a=b",
        "/x/..;/secret",
        "/%5Csecret",
        "/x%5c..%5csecret",
        "/secret/..%2f",
    ];
    for path in ambiguous {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(Client::ask(gateway.address("web"), request).status, 400, "{path}");
        let record = gateway.record(|record| record["status"] == 400);
        assert_eq!((record.get("route"), &record["path"]), (None, &path.into()), "{record}");
    }
    for path in ["/a%00b", "/a%", "/a%4", "/a%zz"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(Client::ask(gateway.address("web"), request).status, 400, "{path}");
    }
    for path in ["/secret", "/secret/", "/x/../secret", "/%73ecret/a", "/secret?a", "/./secret"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(Client::ask(gateway.address("web"), request).status, 403, "{path}");
    }
    assert_eq!(backend.connections(), 0);
    gateway.stop();
}

#[test]
fn an_absolute_target_replaces_host_and_goes_on_in_origin_form() {
    for scheme in ["http", "https", "ws", "wss", "HTTP"] {
        let backend = Backend::start(backend::respond(OK));
        let gateway = gateway(&backend);
        let request = format!("GET {scheme}://right.example:81/a?b HTTP/1.1\r\nHost: wrong.example\r\n\r\n");
        assert_eq!(Client::ask(gateway.address("web"), request).status, 200, "{scheme}");
        assert_eq!(gateway.record(|_| true)["host"], "right.example");
        gateway.stop();
        let received = text(&backend.finish()[0]);
        assert!(received.starts_with("GET /a?b HTTP/1.1\r\n"), "{received}");
        assert_eq!(header(&received, "host"), Some("right.example:81"));
    }
}

#[test]
fn what_is_no_target_of_ours_is_refused() {
    let table = [
        (405, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
        (405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (405, "GET a.example:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"),
        (204, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    let backend = Backend::start(backend::respond(OK));
    let gateway = gateway(&backend);
    for (status, request) in table {
        assert_eq!(Client::ask(gateway.address("web"), request).status, status, "{request:?}");
        assert_eq!(gateway.record(|_| true)["status"], status, "{request:?}");
    }
    assert_eq!(backend.connections(), 0, "no backend has heard of it");
    gateway.stop();
}
