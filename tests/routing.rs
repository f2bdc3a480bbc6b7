//! Which route a request takes: the most specific that matches, wherever it stands in the file.

mod support;

use support::client::Client;
use support::gateway::Gateway;

/// A route that answers with its name.
fn route(name: &str, conditions: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\n{conditions}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
}

const ROUTES: [(&str, &str); 14] = [
    ("any", ""),
    ("under-a", "path = \"/a\""),
    ("under-a-b", "path = \"/a/b/\""),
    ("host", "host = \"example.com\""),
    ("host-a", "host = [\"example.com\", \"example.org\"]\npath = \"/a\""),
    ("below", "host = \"*.example.com\""),
    ("deep-below", "host = \"*.deep.example.com\""),
    ("literal", "host = \"[::1]\""),
    ("listener", "path = \"/l\"\nlistener = \"other\""),
    ("any-listener", "path = \"/l\""),
    ("posts", "path = \"/m\"\nmethods = [\"POST\", \"PUT\"]"),
    ("two", "path = \"/h\"\nheaders = { \"X-Version\" = \"2\" }"),
    ("three", "path = \"/h\"\nheaders = { \"X-Version\" = \"3\" }"),
    ("plain-scheme", "path = \"/s\"\nscheme = \"http\""),
];

fn gateway(routes: &[(&str, &str)]) -> Gateway {
    let listeners = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
                     [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\n";
    let routes: String = routes.iter().map(|(name, conditions)| route(name, conditions)).collect();
    Gateway::start(&format!("[gateway]\nworkers = 1\n{listeners}{routes}"))
}

#[test]
fn the_most_specific_route_wins_whatever_its_place_in_the_file() {
    let table = [
        ("web", "GET /", "nowhere.example", "any"),
        ("web", "GET /a", "nowhere.example", "under-a"),
        ("web", "GET /a/", "nowhere.example", "under-a"),
        ("web", "GET /ab", "nowhere.example", "any"),
        ("web", "GET /A", "nowhere.example", "any"),
        ("web", "GET /a/b", "nowhere.example", "under-a-b"),
        ("web", "GET /a/b/c?d", "nowhere.example", "under-a-b"),
        ("web", "GET /a/bc", "nowhere.example", "under-a"),
        ("web", "GET /", "EXAMPLE.com.:8080", "host"),
        ("web", "GET /a/b", "example.com", "host-a"),
        ("web", "GET /a", "example.org", "host-a"),
        ("web", "GET /", "example.org", "any"),
        ("web", "GET /", "www.example.com", "below"),
        ("web", "GET /", "a.deep.example.com", "deep-below"),
        ("web", "GET /", "deep.example.com", "below"),
        ("web", "GET /", "notexample.com", "any"),
        ("web", "GET /", "[::1]:80", "literal"),
        ("web", "GET /l", "a", "any-listener"),
        ("other", "GET /l", "a", "listener"),
        ("web", "GET /m", "a", "any"),
        ("web", "PUT /m", "a", "posts"),
        ("web", "GET /h", "a\r\nX-Version: 2", "two"),
        ("web", "GET /h", "a\r\nx-version: 3", "three"),
        ("web", "GET /h", "a\r\nX-Version: 2\r\nX-Version: 3", "any"),
        ("web", "GET /h", "a\r\nX-Version: 4", "any"),
        ("web", "GET /s", "a", "plain-scheme"),
    ];
    let mut reversed = ROUTES;
    reversed.reverse();
    for routes in [ROUTES, reversed] {
        let gateway = gateway(&routes);
        for (listener, line, host, name) in table {
            let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = Client::ask(gateway.address(listener), request);
            assert_eq!((answer.status, answer.text()), (200, name), "{line} at {host} by {listener}");
            assert_eq!(gateway.record(|_| true)["route"], name);
        }
        gateway.stop();
    }
}

#[test]
fn where_no_route_matches_there_is_nothing() {
    let gateway = gateway(&[("only", "host = \"a.example\"\npath = \"/x\"\nmethods = [\"GET\"]\nlistener = \"web\"")]);
    for (listener, request) in [
        ("web", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("web", "GET /x HTTP/1.1\r\nHost: b.example\r\n\r\n"),
        ("web", "POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"),
        ("other", "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"),
    ] {
        assert_eq!(Client::ask(gateway.address(listener), request).status, 404, "{request:?}");
        let record = gateway.record(|_| true);
        assert!(record.get("route").is_none() && record["cause"].is_string(), "{record}");
    }
    gateway.stop();
}

/// 426 names what the route upgrades to (RFC 9110 section 15.5.22); where it upgrades to nothing, nothing is there.
#[test]
fn a_route_for_upgrades_alone_says_to_which() {
    let gateway = gateway(&[
        ("sockets", "path = \"/ws\"\nplain = false"),
        ("foo", "path = \"/foo\"\nplain = false\nupgrade = [\"foo\"]"),
        ("both", "path = \"/both\"\nplain = false\nupgrade = [\"foo\", \"WebSocket\"]"),
        ("nothing", "path = \"/none\"\nplain = false\nupgrade = []"),
    ]);
    for (path, protocols, version) in
        [("/ws", "websocket", Some("13")), ("/foo", "foo", None), ("/both", "foo, websocket", Some("13"))]
    {
        let refused = Client::get(gateway.address("web"), path);
        assert_eq!((refused.status, refused.header("upgrade")), (426, Some(protocols)), "{path}");
        assert_eq!(refused.header("sec-websocket-version"), version, "{path}");
    }
    assert_eq!(Client::get(gateway.address("web"), "/none").status, 404);
    gateway.stop();
}
