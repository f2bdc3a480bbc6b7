//! Which route a request takes: the most specific, whatever the order of the file. Every table here is tried with the
//! routes as they stand and turned round.

mod support;

use support::client::{Client, opening_handshake};
use support::gateway::Gateway;

/// A gateway with two listeners and these routes; each answers with its name, and one without a name with "any".
fn gateways(routes: &[(&str, &str)]) -> [Gateway; 2] {
    let listeners = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
                     [[listener]]\nname = \"inner\"\nbind = \"127.0.0.1:0\"\n";
    let route = |(name, matches): &(&str, &str)| {
        format!("[[route]]\nname = \"{name}\"\n{matches}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
    };
    let mut routes: Vec<_> = routes.iter().map(route).collect();
    let forth = Gateway::start(&format!("{listeners}{}", routes.concat()));
    routes.reverse();
    [forth, Gateway::start(&format!("{listeners}{}", routes.concat()))]
}

/// The name of the route that answered, or the status; the record agrees.
fn ask(gateway: &Gateway, listener: &str, request: &str) -> String {
    let answer = Client::ask(gateway.address(listener), request);
    let record = gateway.record(|_| true);
    assert_eq!((&record["status"], &record["listener"]), (&answer.status.into(), &listener.into()), "{record}");
    if answer.status == 200 {
        assert_eq!(record["route"], answer.text(), "{record}");
        return answer.text().to_owned();
    }
    answer.status.to_string()
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn an_exact_host_then_the_longest_wildcard_then_no_host() {
    let both = gateways(&[
        ("any", ""),
        ("below", "host = \"*.example.com\""),
        ("deeper", "host = \"*.b.example.com\""),
        ("exact", "host = \"a.b.example.com\""),
        ("two", "host = [\"one.example\", \"*.two.example\"]"),
        ("long", "host = \"*.example.com\"\npath = \"/long/path\""),
    ]);
    for gateway in both {
        for (host, path, named) in [
            ("a.b.example.com", "/", "exact"),
            // A longer path of a less specific host does not win.
            ("a.b.example.com", "/long/path", "exact"),
            ("x.b.example.com", "/", "deeper"),
            ("x.b.example.com", "/long/path", "deeper"),
            ("x.a.b.example.com", "/", "deeper"),
            ("b.example.com", "/", "below"),
            ("c.example.com", "/long/path/x", "long"),
            ("c.example.com", "/long/paths", "below"),
            // A wildcard stands for one label at least.
            ("example.com", "/", "any"),
            ("xexample.com", "/", "any"),
            ("example.com.evil.example", "/", "any"),
            ("one.example", "/", "two"),
            ("x.one.example", "/", "any"),
            ("x.two.example", "/", "two"),
            ("two.example", "/", "any"),
        ] {
            assert_eq!(ask(&gateway, "web", &get(host, path)), named, "{host}{path}");
        }
        gateway.stop();
    }
}

#[test]
fn the_longest_path_by_whole_segments() {
    let both = gateways(&[
        ("one", "path = \"/a\""),
        ("three", "path = \"/a/b/c\""),
        ("two", "path = [\"/a/b/\", \"/x\"]"),
        ("case", "path = \"/A\""),
    ]);
    for gateway in both {
        for (path, named) in [
            ("/a", "one"),
            ("/a/", "one"),
            ("/a?/a/b", "one"),
            ("/a/bc", "one"),
            ("/a/b", "two"),
            ("/a/b/", "two"),
            ("/a/b/cd", "two"),
            ("/a/b/c/d/e", "three"),
            ("/a/b/c/../d", "two"),
            ("/x/y", "two"),
            ("/A/b", "case"),
            ("/ab", "404"),
            ("/", "404"),
            ("/X", "404"),
        ] {
            assert_eq!(ask(&gateway, "web", &get("h", path)), named, "{path}");
        }
        gateway.stop();
    }
}

#[test]
fn then_a_listener_then_a_scheme_then_methods_then_headers() {
    let both = gateways(&[
        ("any", "host = \"h\""),
        ("listener", "host = \"h\"\nlistener = \"inner\""),
        ("scheme", "host = \"h\"\npath = \"/scheme\"\nscheme = \"http\""),
        ("not-plain", "host = \"h\"\npath = \"/scheme/s\"\nscheme = \"https\""),
        ("under-scheme", "host = \"h\"\npath = \"/scheme\"\nmethods = [\"GET\"]"),
        ("methods", "host = \"h\"\npath = \"/m\"\nmethods = [\"POST\", \"PROPFIND\"]"),
        ("others", "host = \"h\"\npath = \"/m\"\nheaders = { x-version = \"3\" }"),
        ("headers", "host = \"h\"\npath = \"/m\"\nheaders = { X-Version = \"2\", x-there = true }"),
        ("path", "host = \"h\"\npath = \"/path\""),
    ]);
    let ask_with = |gateway: &Gateway, listener: &str, first: &str, more: &str| {
        ask(gateway, listener, &format!("{first} HTTP/1.1\r\nHost: h\r\n{more}\r\n"))
    };
    for gateway in both {
        for (listener, first, more, named) in [
            ("web", "GET /", "", "any"),
            ("inner", "GET /", "", "listener"),
            // A longer path comes before a listener.
            ("inner", "GET /path", "", "path"),
            ("web", "GET /scheme", "", "scheme"),
            ("web", "POST /scheme", "", "scheme"),
            ("web", "GET /scheme/s", "", "scheme"),
            ("web", "GET /m", "", "any"),
            ("web", "POST /m", "", "methods"),
            ("web", "PROPFIND /m", "", "methods"),
            ("web", "post /m", "", "any"),
            ("web", "GET /m", "X-Version: 2\r\nX-There:\r\n", "headers"),
            ("web", "GET /m", "x-version:  2 \r\nX-THERE: a\r\nX-There: b\r\n", "headers"),
            ("web", "GET /m", "X-Version: 2\r\n", "any"),
            ("web", "GET /m", "X-There: 1\r\n", "any"),
            ("web", "GET /m", "X-Version: 3\r\nX-There: 1\r\n", "others"),
            ("web", "GET /m", "X-Version: 2\r\nX-Version: 3\r\n", "any"),
            ("web", "GET /m", "X-Version: 20\r\nX-There: 1\r\n", "any"),
            ("web", "GET /m", "X-Version: 1\r\nX-Version: 2\r\nX-There: 1\r\n", "any"),
            ("web", "GET /m", "X-Version: 2\r\nX-Version: 2\r\nX-There: 1\r\n", "any"),
            // Methods come before headers.
            ("web", "POST /m", "X-Version: 2\r\nX-There: 1\r\n", "methods"),
        ] {
            assert_eq!(ask_with(&gateway, listener, first, more), named, "{listener} {first} {more:?}");
        }
        gateway.stop();
    }
}

/// A route whose other conditions do not hold is not there: the next best is taken.
#[test]
fn a_route_that_does_not_hold_leaves_the_request_to_the_next() {
    let both = gateways(&[
        ("root", "host = \"h\"\nlistener = \"inner\""),
        ("deep", "host = \"h\"\npath = \"/a/b\"\nmethods = \"PUT\""),
        ("wild", "host = \"*.h\""),
        ("named", "host = \"x.h\"\nheaders = { x = \"1\" }"),
    ]);
    for gateway in both {
        assert_eq!(ask(&gateway, "inner", &get("h", "/a/b")), "root");
        assert_eq!(ask(&gateway, "inner", &get("x.h", "/")), "wild");
        assert_eq!(ask(&gateway, "web", &get("h", "/a/b")), "404");
        assert_eq!(ask(&gateway, "web", &get("other", "/")), "404");
        gateway.stop();
    }
}

#[test]
fn no_route_is_a_404_also_of_an_upgrade_and_the_connection_goes_on() {
    let [gateway, other] = gateways(&[("here", "path = \"/here\"")]);
    other.stop();
    let mut client = Client::connect(gateway.address("web"));
    let wrong_version = opening_handshake("h", "/", "").replace("Version: 13", "Version: 1");
    for request in [get("h", "/"), opening_handshake("h", "/", ""), wrong_version, get("h", "/hereafter")] {
        client.send(request);
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text()), (404, "404 Not Found: no route\n"));
        let record = gateway.record(|_| true);
        assert_eq!((&record["cause"], &record["route"]), (&"no route".into(), &serde_json::Value::Null));
    }
    client.send(get("h", "/here"));
    assert_eq!(client.read_answer().text(), "here");
    drop(client);
    gateway.stop();
}

/// `plain = false`: 426 names what the route upgrades to (RFC 9110 section 15.5.22); where it upgrades to nothing, nothing
/// is there.
#[test]
fn a_route_without_plain_requests_asks_for_an_upgrade() {
    let route =
        |path: &str, upgrade: &str| format!("[[route]]\npath = \"{path}\"\nplain = false\n{upgrade}\nrespond = 200\n");
    let routes = [
        route("/ws", ""),
        route("/foo", "upgrade = [\"foo\"]"),
        route("/both", "upgrade = [\"foo\", \"WebSocket\"]"),
        route("/none", "upgrade = []"),
    ];
    let gateway = Gateway::start(&format!("[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{}", routes.concat()));
    let mut client = Client::connect(gateway.address("web"));
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n";
    let bare = "Upgrade: websocket\r\nUpgrade: foo\r\n";
    for more in ["", h2c, bare] {
        for (path, protocols, version) in
            [("/ws", "websocket", Some("13")), ("/foo", "foo", None), ("/both", "foo, websocket", Some("13"))]
        {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n"));
            let answer = client.read_answer();
            assert_eq!((answer.status, answer.header("upgrade")), (426, Some(protocols)), "{path} {more:?}");
            assert_eq!(answer.header("sec-websocket-version"), version, "{path} {more:?}");
            assert_eq!(answer.header("connection"), Some("upgrade"));
            assert_eq!(gateway.record(|_| true)["cause"], "only upgrades are served here");
        }
        client.send(format!("GET /none HTTP/1.1\r\nHost: h\r\n{more}\r\n"));
        assert_eq!(client.read_answer().status, 404, "{more:?}");
        assert_eq!(gateway.record(|_| true)["cause"], "no route");
    }
    client.send(opening_handshake("h", "/none", ""));
    assert_eq!(client.read_answer().status, 404);
    client.send(opening_handshake("h", "/ws", ""));
    assert_eq!(client.read_answer().status, 200, "it upgrades, and the route has its own answer");
    drop(client);
    gateway.stop();
}
