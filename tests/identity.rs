//! Who the client is. A backend believes X-Forwarded-*, Forwarded, X-Real-IP and X-Request-Id, so what it is told there
//! is the gateway's own word or a trusted proxy's, and nobody else's, in whichever spelling.
//!
//! 127.0.0.1 is the trusted proxy here and 127.0.0.2 the stranger. What the backend received is compared whole, so that
//! a header too many is seen as well as one that is missing; and all of it holds for a plain request and for an upgrade.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use support::backend::{Backend, accept_of, switching};
use support::client::{Client, KEY, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Peer, header, text};

const PROXY: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const TRUSTS: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
const ALL: &str = "[forwarded]\nx_forwarded = true\nforwarded = true\nx_real_ip = true\nvia = true";

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Upgrade,
}

const KINDS: [Kind; 2] = [Kind::Plain, Kind::Upgrade];

impl Kind {
    fn request(self, more: &str) -> String {
        match self {
            Self::Plain => format!("GET /a HTTP/1.1\r\nHost: a.example\r\n{more}\r\n"),
            Self::Upgrade => opening_handshake("a.example", "/a", more),
        }
    }

    /// The lines that the backend receives of it whatever is told of the client.
    fn own_lines(self) -> Vec<String> {
        let mut lines = vec!["host: a.example".to_owned()];
        if self == Self::Upgrade {
            lines.extend(["connection: upgrade".into(), "upgrade: websocket".into()]);
            lines.extend([format!("sec-websocket-key: {KEY}"), "sec-websocket-version: 13".into()]);
        }
        lines
    }
}

/// A gateway by the name of gw-1 before a backend that answers everything.
struct Pair {
    gateway: Gateway,
    backend: Backend,
}

/// What came of a request.
struct Seen {
    status: u16,
    /// The lines that the backend received, names in lower case, sorted by name.
    lines: Vec<String>,
    /// The value of its X-Request-Id, which is not among the lines.
    id: String,
    record: Value,
}

impl Pair {
    fn new(trust: &str, told: &str) -> Self {
        let backend = Backend::start(answer);
        let gateway = Gateway::start(&config(backend.address(), trust, "", told));
        Self { gateway, backend }
    }

    /// Sends a request with these lines from an address and gives what the backend was told.
    #[track_caller]
    fn ask(&self, from: Ipv4Addr, kind: Kind, more: &str) -> Seen {
        self.ask_listener("web", from, &kind.request(more))
    }

    #[track_caller]
    fn ask_listener(&self, listener: &str, from: Ipv4Addr, request: &str) -> Seen {
        let before = self.backend.connections();
        let (status, record) = ask(&self.gateway, listener, from, request);
        let received = self.backend.received();
        assert_eq!(received.len(), before + 1, "the backend was not asked just once: {record}");
        let head = text(&received[before]);
        let id = header(&head, "x-request-id").expect("each request has an id").to_owned();
        Seen { status, lines: lines(&head), id, record }
    }

    fn port(&self) -> u16 {
        self.gateway.address("web").port()
    }

    /// What the backend is told of a client that nobody told of.
    fn told_of(&self, client: Ipv4Addr) -> Vec<String> {
        vec![
            format!("x-forwarded-for: {client}"),
            "x-forwarded-proto: http".into(),
            "x-forwarded-host: a.example".into(),
            format!("x-forwarded-port: {}", self.port()),
            format!("forwarded: for={client};host=a.example;proto=http"),
            format!("x-real-ip: {client}"),
            "via: 1.1 gw-1".into(),
        ]
    }
}

fn config(endpoint: SocketAddr, trust: &str, listeners: &str, told: &str) -> String {
    format!(
        "[gateway]\nname = \"gw-1\"\n{trust}\n{told}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{listeners}\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"app\"\n\
         [[route]]\nname = \"own\"\npath = \"/own\"\nrespond = 403\n"
    )
}

/// A backend's script: one answer, then the end.
fn answer(mut peer: Peer) {
    let head = peer.read_head();
    match header(&head, "sec-websocket-key") {
        Some(key) => peer.send(switching(&accept_of(key))),
        None => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
    peer.finish_sending();
    peer.read_to_end();
}

/// Sends one request from that address; gives the answer's status and the record.
#[track_caller]
fn ask(gateway: &Gateway, listener: &str, from: Ipv4Addr, request: &str) -> (u16, Value) {
    let mut client = Client::connect_with(gateway.address(listener), |socket| {
        socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into()).expect("an address of the loopback");
    });
    client.send(request);
    let status = client.read_answer().status;
    client.finish_sending();
    client.expect_end();
    (status, gateway.record(|_| true))
}

/// The header lines of a head, but for the id's.
fn lines(head: &str) -> Vec<String> {
    let fields = head.trim_end().split("\r\n").skip(1).map(|line| line.split_once(": ").expect("a header"));
    let lines = fields.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()));
    sorted(lines.filter(|line| !line.starts_with("x-request-id: ")).collect())
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn together(some: Vec<String>, others: Vec<String>) -> Vec<String> {
    sorted([some, others].concat())
}

/// The lines that begin with one of these.
fn only(seen: &Seen, begins: &[&str]) -> Vec<String> {
    seen.lines.iter().filter(|line| begins.iter().any(|begin| line.starts_with(begin))).cloned().collect()
}

const FORGED: &str = "X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nx-forwarded_for: 6.6.6.6\r\n\
    X-FORWARDED-FOR: 6.6.6.7\r\nX.Forwarded.For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\n\
    X-Forwarded-Host: evil\r\nx_forwarded_host: evil\r\nX-Forwarded-Port: 443\r\nX_FORWARDED_PORT: 443\r\n\
    X-Forwarded-Prefix: /admin\r\nX-Forwarded-Client-Cert: Subject=admin\r\nX_Forwarded_User: admin\r\n\
    Forwarded: for=6.6.6.6;proto=https\r\nforwarded: for=6.6.6.7\r\nX-Real-IP: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\n\
    x-real_ip: 6.6.6.6\r\nX-Request-Id: forged\r\nX_Request_Id: forged\r\n";

#[test]
fn a_stranger_cannot_say_who_it_is() {
    let pair = Pair::new(TRUSTS, ALL);
    // Connection must not take away what the gateway says, either.
    let stripping = "Connection: x-forwarded-for, forwarded, x-real-ip, via, x-request-id\r\n";
    // A chain that ends with the stranger's own address is no truer.
    let with_its_own = "X-Forwarded-For: 6.6.6.6, 127.0.0.2\r\nForwarded: for=6.6.6.6, for=127.0.0.2\r\n";
    for kind in KINDS {
        for said in ["", with_its_own, FORGED, &format!("{FORGED}{FORGED}"), &format!("{FORGED}{stripping}")] {
            let seen = pair.ask(STRANGER, kind, said);
            assert_eq!(seen.lines, together(kind.own_lines(), pair.told_of(STRANGER)), "{kind:?} {said:?}");
            assert_ne!(seen.id, "forged");
            assert_eq!(seen.record["id"], seen.id.as_str());
            let client = seen.record["client"].as_str().expect("a client");
            assert!(client.starts_with("127.0.0.2:"), "the socket's own address, with its port: {client}");
        }
    }
    pair.gateway.stop();
}

#[test]
fn a_trusted_proxys_chains_are_appended_to_and_its_facts_kept() {
    let pair = Pair::new(TRUSTS, ALL);
    let said = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.7, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Prefix: /shop\r\n\
        Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.7;by=_lb, for=10.0.0.9\r\nX-Real-IP: 6.6.6.6\r\n\
        X_Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nX_Forwarded_Proto: http\r\nVia: 1.0 lb\r\n";
    let expected = [
        "x-forwarded-for: 6.6.6.6, 192.0.2.7, 10.0.0.9, 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: shop.example",
        "x-forwarded-port: 8443",
        "x-forwarded-prefix: /shop",
        "forwarded: for=6.6.6.6, for=192.0.2.7;by=_lb, for=10.0.0.9, for=127.0.0.1;host=a.example;proto=http",
        "x-real-ip: 192.0.2.7",
        "via: 1.0 lb",
        "via: 1.1 gw-1",
    ];
    for kind in KINDS {
        let seen = pair.ask(PROXY, kind, said);
        assert_eq!(seen.lines, together(kind.own_lines(), expected.map(str::to_owned).to_vec()), "{kind:?}");
        // The proxy's address has a port, the client's nobody told.
        assert_eq!(seen.record["client"], "192.0.2.7");
        // A proxy that says nothing is the client itself.
        let silent = pair.ask(PROXY, kind, "");
        assert_eq!(silent.lines, together(kind.own_lines(), pair.told_of(PROXY)), "{kind:?}");
        assert!(silent.record["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")));
        // The scheme of a WebSocket is one that backends know.
        let wss = pair.ask(PROXY, kind, "X-Forwarded-Proto: wss\r\n");
        assert_eq!(only(&wss, &["x-forwarded-proto"]), ["x-forwarded-proto: https"]);
        assert!(only(&wss, &["x-forwarded-port"]).is_empty(), "our port does not fit the proxy's scheme");
    }
    pair.gateway.stop();
}

#[test]
fn a_chain_that_does_not_name_the_client_is_begun_anew() {
    let pair = Pair::new(TRUSTS, ALL);
    let ours = "for=127.0.0.1;host=a.example;proto=http";
    for kind in KINDS {
        // The proxy writes X-Forwarded-For and has passed on a forged Forwarded.
        let seen = pair.ask(PROXY, kind, "X-Forwarded-For: 192.0.2.7\r\nForwarded: for=6.6.6.6;proto=https\r\n");
        assert_eq!(
            only(&seen, &["forwarded:", "x-forwarded-for:", "x-forwarded-proto:"]),
            [
                &format!("forwarded: for=192.0.2.7, {ours}"),
                "x-forwarded-for: 192.0.2.7, 127.0.0.1",
                "x-forwarded-proto: http"
            ]
        );
        assert_eq!(seen.record["client"], "192.0.2.7");
    }
    pair.gateway.stop();
}

#[test]
fn the_client_of_the_record_is_the_rightmost_address_that_is_not_trusted() {
    let pair = Pair::new(TRUSTS, "");
    for (said, client) in [
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n", "192.0.2.7"),
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.2.3\r\n", "192.0.2.7"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 2001:db8::7, 10.1.2.3\r\n", "2001:db8::7"),
        ("X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3"),
        ("Forwarded: for=6.6.6.6, for=\"[2001:db8::8]:4711\", for=10.0.0.2\r\n", "2001:db8::8"),
    ] {
        for kind in KINDS {
            assert_eq!(pair.ask(PROXY, kind, said).record["client"], client, "{kind:?} {said:?}");
        }
        // What the gateway answers itself is recorded for the same client, whether it is understood or not.
        for request in [
            format!("GET /own HTTP/1.1\r\nHost: a\r\n{said}\r\n"),
            format!("GET /%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{said}\r\n"),
        ] {
            let (status, record) = ask(&pair.gateway, "web", PROXY, &request);
            assert_eq!((record["client"].as_str(), &record["status"]), (Some(client), &status.into()));
            assert!([400, 403].contains(&status), "{record}");
        }
    }
    pair.gateway.stop();
}

#[test]
fn a_listeners_trusted_proxies_stand_instead_of_the_gateways() {
    let backend = Backend::start(answer);
    let listeners = "[[listener]]\nname = \"none\"\nbind = \"127.0.0.1:0\"\ntrusted_proxies = []\n\
        [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.2\"]\n";
    let gateway = Gateway::start(&config(backend.address(), "trusted_proxies = [\"127.0.0.1\"]", listeners, ""));
    let pair = Pair { gateway, backend };
    for kind in KINDS {
        for (listener, from, believed) in [
            ("web", PROXY, true),
            ("web", STRANGER, false),
            ("none", PROXY, false),
            ("none", STRANGER, false),
            ("other", PROXY, false),
            ("other", STRANGER, true),
        ] {
            let said = "X-Forwarded-For: 192.0.2.7\r\nX-Request-Id: theirs\r\n";
            let seen = pair.ask_listener(listener, from, &kind.request(said));
            let (chain, client) = match believed {
                true => (format!("192.0.2.7, {from}"), "192.0.2.7".to_owned()),
                false => (from.to_string(), format!("{from}:")),
            };
            assert_eq!(only(&seen, &["x-forwarded-for"]), [format!("x-forwarded-for: {chain}")], "{listener} {from}");
            assert!(seen.record["client"].as_str().expect("a client").starts_with(&client), "{}", seen.record);
            assert_eq!(seen.id == "theirs", believed, "{listener} {from}");
        }
    }
    pair.gateway.stop();
}

#[test]
fn what_is_switched_off_is_told_by_nobody() {
    let said = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /a\r\n\
        Forwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nX_Forwarded_For: 6.6.6.6\r\n";
    let switches = ["x_forwarded", "forwarded", "x_real_ip", "via"];
    let begins: [&[&str]; 4] = [&["x-forwarded", "x_forwarded"], &["forwarded:"], &["x-real-ip"], &["via:"]];
    for off in 0..switches.len() {
        let told = switches.iter().enumerate().map(|(index, switch)| format!("{switch} = {}\n", index != off));
        let pair = Pair::new(TRUSTS, &format!("[forwarded]\n{}", told.collect::<String>()));
        for kind in KINDS {
            for from in [PROXY, STRANGER] {
                let seen = pair.ask(from, kind, said);
                for (index, begins) in begins.iter().enumerate() {
                    let told = only(&seen, begins);
                    assert_eq!(told.is_empty(), index == off, "{} off, from {from}: {told:?}", switches[off]);
                }
            }
        }
        pair.gateway.stop();
    }
    let none = switches.map(|switch| format!("{switch} = false\n")).concat();
    let pair = Pair::new(TRUSTS, &format!("[forwarded]\n{none}"));
    for kind in KINDS {
        for from in [PROXY, STRANGER] {
            assert_eq!(pair.ask(from, kind, said).lines, sorted(kind.own_lines()), "{kind:?} {from}");
        }
    }
    // The client is known to the records all the same.
    assert_eq!(pair.ask(PROXY, Kind::Plain, said).record["client"], "192.0.2.7");
    pair.gateway.stop();
}

#[test]
fn via_tells_of_the_gateway_and_of_the_version_that_it_received() {
    let pair = Pair::new("", "");
    for (request, expected) in [
        ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", &["via: 1.1 gw-1"][..]),
        ("GET /a HTTP/1.0\r\nHost: a\r\n\r\n", &["via: 1.0 gw-1"]),
        ("GET /a HTTP/1.1\r\nHost: a\r\nVia: 1.1 gw-10, 1.0 x\r\n\r\n", &["via: 1.1 gw-1", "via: 1.1 gw-10, 1.0 x"]),
    ] {
        let seen = pair.ask_listener("web", STRANGER, request);
        assert_eq!((seen.status, only(&seen, &["via:"])), (200, expected.iter().map(ToString::to_string).collect()));
    }
    pair.gateway.stop();
}

#[test]
fn a_request_that_was_here_before_is_a_loop() {
    let pair = Pair::new("", "");
    for kind in KINDS {
        for via in ["Via: 1.1 gw-1\r\n", "Via: 1.0 other\r\nVia: 1.1 x, HTTP/1.1 GW-1 (us)\r\n"] {
            let (status, record) = ask(&pair.gateway, "web", STRANGER, &kind.request(via));
            assert_eq!((status, &record["status"]), (508, &508.into()), "{kind:?} {via:?}");
            assert_eq!(record["record"], "request");
            assert_eq!(record["cause"], "a loop: this gateway's own name came back in Via");
            assert_eq!(record["endpoint"], Value::Null);
        }
    }
    assert_eq!(pair.backend.connections(), 0, "the backend has seen what goes in circles");
    pair.gateway.stop();

    // Who does not tell Via cannot know its own.
    let silent = Pair::new("", "[forwarded]\nvia = false");
    for kind in KINDS {
        let seen = silent.ask(STRANGER, kind, "Via: 1.1 gw-1\r\n");
        assert_eq!(only(&seen, &["via:"]), ["via: 1.1 gw-1"]);
    }
    silent.gateway.stop();
}

/// The loop as it happens: the backend is a proxy whose way leads back here.
#[test]
fn a_loop_ends_at_its_second_round() {
    let back = Arc::new(OnceLock::<SocketAddr>::new());
    let backend = Backend::start({
        let back = Arc::clone(&back);
        move |mut peer| {
            let head = peer.read_head();
            let answer = Client::ask(*back.get().expect("the gateway is there"), head);
            peer.send(answer.head);
            peer.send(answer.body);
            peer.finish_sending();
            peer.read_to_end();
        }
    });
    let gateway = Gateway::start(&config(backend.address(), "", "", ""));
    back.set(gateway.address("web")).expect("only once");
    for (round, kind) in KINDS.into_iter().enumerate() {
        let answer = Client::ask(gateway.address("web"), kind.request(""));
        assert_eq!(answer.status, 508, "{answer:?}");
        let inner = gateway.record(|record| record["cause"].is_string());
        let outer = gateway.record(|_| true);
        assert_eq!((&inner["status"], &inner["endpoint"]), (&508.into(), &Value::Null));
        assert_eq!((&outer["status"], &outer["endpoint"]), (&508.into(), &backend.address().to_string().into()));
        assert_eq!(backend.connections(), round + 1, "one round, and no more");
    }
    gateway.stop();
    backend.finish();
}

#[test]
fn each_request_has_an_id_of_its_own() {
    let pair = Pair::new(TRUSTS, "");
    let mut ids = Vec::new();
    for kind in KINDS {
        for from in [STRANGER, PROXY] {
            for said in ["", "X-Request-Id: \r\n", "X-Request-Id: a\r\nX-Request-Id: a\r\n", "X-Request-Id: a b\r\n"] {
                let seen = pair.ask(from, kind, said);
                assert!(seen.id.len() == 32 && seen.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", seen.id);
                assert_eq!(seen.record["id"], seen.id.as_str());
                ids.push(seen.id);
            }
        }
        // A trusted proxy's is kept, so that its records and ours can be read together.
        let kept = pair.ask(PROXY, kind, "X-Request-ID: of-the-proxy/1\r\nX_Request_Id: forged\r\n");
        assert_eq!((kept.id.as_str(), &kept.record["id"]), ("of-the-proxy/1", &"of-the-proxy/1".into()));
        assert!(only(&kept, &["x_request"]).is_empty());
        let made = pair.ask(STRANGER, kind, "X-Request-ID: of-the-proxy/1\r\n");
        assert_ne!(made.id, "of-the-proxy/1");
        ids.push(made.id);
    }
    // On one connection, too, each request has its own.
    let mut client = Client::connect(pair.gateway.address("web"));
    for _ in 0..3 {
        client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_answer();
        ids.push(pair.gateway.record(|_| true)["id"].as_str().expect("an id").to_owned());
    }
    drop(client);
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id was given twice");
    pair.gateway.stop();
}
