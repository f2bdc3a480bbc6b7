//! What the gateway tells of itself: each figure moves by exactly what was done and no other moves, whoever asks is bounded,
//! and readiness turns before anything else of the drain.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Folder, Gateway, Signal, run_to_end};
use support::peer::Peer;
use support::tls::{Authority, secure};
use support::tree::Tree;
use support::until;
use tokio_rustls::rustls::version;

/// Samples by their names and labels, as they stand on the page.
type Page = BTreeMap<String, f64>;

fn metrics_address(gateway: &Gateway) -> SocketAddr {
    let messages = gateway.messages();
    let line = messages.iter().find(|message| message["message"] == "metrics are served").expect("its line");
    line["address"].as_str().expect("an address").parse().expect("an address")
}

fn text(gateway: &Gateway) -> String {
    let answer = Client::get(metrics_address(gateway), "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = answer.text().to_owned();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

fn page(gateway: &Gateway) -> Page {
    let text = text(gateway);
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// What is not the same on two pages, and by how much: but for the process's own figures, and how long things took.
fn moved(before: &Page, after: &Page) -> Vec<(String, f64)> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let is_told = |name: &&&String| {
        let time = ["_bucket", "_sum"].iter().any(|part| name.contains(&format!("_duration_seconds{part}")));
        !name.starts_with("process_") && !time
    };
    let value = |page: &Page, name: &String| page.get(name).copied().unwrap_or_default();
    let by = names.iter().filter(is_told).map(|name| ((*name).clone(), value(after, name) - value(before, name)));
    by.filter(|(_, by)| *by != 0.0).collect()
}

#[track_caller]
fn assert_moved(before: &Page, after: &Page, expected: &[(&str, f64)]) {
    let mut expected: Vec<_> = expected.iter().map(|(name, by)| (format!("spliceway_{name}"), *by)).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(moved(before, after), expected);
}

/// One worker, so that what a pool keeps does not depend on who accepts.
fn start(backend: Option<&Backend>, more: &str) -> Gateway {
    let upstream = backend.map_or_else(String::new, |backend| {
        format!(
            "[upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nname = \"app\"\npath = \"/app\"\nupstream = \"app\"\n",
            backend.address()
        )
    });
    Gateway::start(&format!("{}{upstream}", base(more)))
}

fn base(more: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n[metrics]\nbind = \"127.0.0.1:0\"\n{more}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"here\"\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\nname = \"echo\"\npath = \"/echo\"\nservice = \"echo\"\n"
    )
}

/// Does something on a connection of its own that ends with it, waits for the record, and says what has moved.
fn by(gateway: &Gateway, act: impl FnOnce(&mut Peer)) -> (Page, Page) {
    let before = page(gateway);
    let mut client = Client::connect(gateway.address("web"));
    act(&mut client);
    gateway.record(|_| true);
    drop(client);
    let open = |page: &Page| page["spliceway_connections"];
    until("the connection has ended", || open(&page(gateway)) == open(&before));
    let after = page(gateway);
    (before, after)
}

#[test]
fn a_request_moves_its_own_figures_and_no_other() {
    let gateway = start(None, "");
    let (before, after) = by(&gateway, |client| {
        client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_answer().text(), "here");
    });
    assert_moved(
        &before,
        &after,
        &[
            ("connections_accepted_total", 1.0),
            ("requests_total{route=\"here\",result=\"2xx\"}", 1.0),
            ("received_bytes_total{route=\"here\",of=\"request\"}", 4.0),
        ],
    );
    gateway.stop();
}

#[test]
fn a_tunnel_moves_its_own_figures_when_it_begins_and_when_it_ends() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = start(Some(&backend), "");
    let endpoint = format!("endpoint_tunnels{{upstream=\"app\",endpoint=\"{}\"}}", backend.address());
    let before = page(&gateway);
    assert_eq!(before[&format!("spliceway_{endpoint}")], 0.0);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/app");
    client.send("12345");
    assert_eq!(client.read_exact(5), b"12345");
    let open = page(&gateway);
    let begun = [
        ("connections_accepted_total", 1.0),
        ("connections", 1.0),
        ("backend_connections_opened_total", 1.0),
        ("handshakes_total{route=\"app\",result=\"1xx\"}", 1.0),
        ("handshake_duration_seconds_count", 1.0),
        ("tunnels{route=\"app\"}", 1.0),
        (endpoint.as_str(), 1.0),
    ];
    assert_moved(&before, &open, &begun);
    client.finish_sending();
    client.expect_eof();
    gateway.record(|record| record["ended_by"] == "ClientClosed");
    until("the seat is given back", || page(&gateway)["spliceway_connections"] == 0.0);
    let ended = [
        ("connections", -1.0),
        ("tunnel_ends_total{ended_by=\"ClientClosed\"}", 1.0),
        ("tunnel_duration_seconds_count", 1.0),
        ("tunnels{route=\"app\"}", -1.0),
        (endpoint.as_str(), -1.0),
        ("sent_bytes_total{route=\"app\",of=\"tunnel\"}", 5.0),
        ("received_bytes_total{route=\"app\",of=\"tunnel\"}", 5.0),
    ];
    assert_moved(&open, &page(&gateway), &ended);
    gateway.stop();
    backend.finish();
}

#[test]
fn an_endpoint_that_is_gone_is_told_until_its_last_tunnel_has_ended() {
    let [old, new] = [(); 2].map(|()| Backend::start(backend::websocket_echo));
    let config = |backend: &Backend| {
        format!(
            "{}[upstream.app]\nendpoints = [\"{}\"]\non_removed = \"keep\"\n\
             [[route]]\nname = \"app\"\npath = \"/app\"\nupstream = \"app\"\n",
            base(""),
            backend.address()
        )
    };
    let gateway = Gateway::start(&config(&old));
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/app");
    gateway.reload(&config(&new));
    let name = |backend: &Backend| {
        format!("spliceway_endpoint_tunnels{{upstream=\"app\",endpoint=\"{}\"}}", backend.address())
    };
    let told = || {
        let page = page(&gateway);
        [&old, &new].map(|backend| page.get(&name(backend)).copied())
    };
    assert_eq!(told(), [Some(1.0), Some(0.0)]);
    client.finish_sending();
    client.expect_eof();
    until("the old one is told no more", || told() == [None, Some(0.0)]);
    gateway.stop();
}

#[test]
fn a_rejection_moves_its_cause_and_the_class_of_its_status() {
    let gateway = start(None, "");
    let handshake_without_key = opening_handshake("a", "/echo", "").replace("Sec-WebSocket-Key", "X-Key");
    let table = [
        (
            "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
            "NoRoute",
            "requests_total{route=\"(none)\",result=\"4xx\"}",
            "(none)",
        ),
        (
            "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
            "PlainRefused",
            "requests_total{route=\"echo\",result=\"4xx\"}",
            "echo",
        ),
        (&handshake_without_key, "OpeningHandshake", "handshakes_total{route=\"echo\",result=\"4xx\"}", "echo"),
        ("GET /here HTTP/1.1\r\n\r\n", "Target", "requests_total{route=\"(none)\",result=\"4xx\"}", "(none)"),
        (
            "POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "Framing",
            "requests_total{route=\"(none)\",result=\"5xx\"}",
            "(none)",
        ),
        ("\u{1}\r\n\r\n", "MalformedHead", "requests_total{route=\"(none)\",result=\"4xx\"}", ""),
    ];
    for (request, cause, class, route) in table {
        let mut received = 0.0;
        let (before, after) = by(&gateway, |client| {
            client.send(request);
            received = client.read_answer().body.len() as f64;
        });
        let (cause, bytes) = (
            format!("rejections_total{{cause=\"{cause}\"}}"),
            format!("received_bytes_total{{route=\"{route}\",of=\"request\"}}"),
        );
        let mut expected = vec![("connections_accepted_total", 1.0), (cause.as_str(), 1.0), (class, 1.0)];
        // Of what hyper answers by itself there is no body.
        expected.extend((received > 0.0).then_some((bytes.as_str(), received)));
        assert_moved(&before, &after, &expected);
    }
    gateway.stop();
}

#[test]
fn a_request_that_gets_no_answer_is_counted_as_such() {
    let backend = Backend::start(backend::silent_to_end);
    let gateway = start(Some(&backend), "");
    let (before, after) = by(&gateway, |client| {
        client.send("POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        until("it is there", || backend.received().iter().any(|received| received.ends_with(b"abc")));
        client.finish_sending();
    });
    let expected = [
        ("connections_accepted_total", 1.0),
        ("backend_connections_opened_total", 1.0),
        ("requests_total{route=\"app\",result=\"none\"}", 1.0),
        ("sent_bytes_total{route=\"app\",of=\"request\"}", 3.0),
    ];
    assert_moved(&before, &after, &expected);
    gateway.stop();
    backend.finish();
}

/// Of two endpoints one is down: all clients are served, and yet it shows.
#[test]
fn an_endpoint_that_fails_is_counted_although_another_answers() {
    let backend = Backend::start(|mut peer| {
        while peer.next_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    // Bound, and not listening: nobody else gets it.
    let down = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    down.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let refusing = down.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");
    let gateway = Gateway::start(&format!(
        "{}[upstream.app]\nendpoints = [\"{refusing}\", \"{}\"]\npool = \"off\"\n\
         [[route]]\nname = \"app\"\npath = \"/app\"\nupstream = \"app\"\n",
        base(""),
        backend.address()
    ));
    for _ in 0..4 {
        assert_eq!(Client::get(gateway.address("web"), "/app").text(), "ok");
    }
    let page = page(&gateway);
    let failed: Vec<_> = page.iter().filter(|(name, _)| name.contains("attempts_failed")).collect();
    let [(name, times)] = failed[..] else { panic!("{failed:?}") };
    assert_eq!(name, "spliceway_backend_attempts_failed_total{cause=\"ConnectFailed\"}");
    // Once for each request that was sent there first.
    assert!((1.0..=4.0).contains(times), "{times}");
    assert_eq!(page["spliceway_rejections_total{cause=\"ConnectFailed\"}"], 0.0);
    gateway.stop();
}

/// An opening handshake that comes to no route is one all the same; anything else is a request.
#[test]
fn what_comes_to_no_route_is_counted_as_what_it_asked_for() {
    let gateway = start(None, "");
    for (request, expected) in [
        (opening_handshake("a", "/nowhere", ""), "handshakes"),
        (opening_handshake("a", "/%zz", ""), "handshakes"),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(), "requests"),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "requests"),
    ] {
        let (before, after) = by(&gateway, |client| {
            client.send(&request);
            client.read_answer();
        });
        let counted = format!("spliceway_{expected}_total{{route=\"(none)\",result=\"4xx\"}}");
        let all = moved(&before, &after);
        let counted_by: Vec<_> = all.iter().filter(|(name, _)| name.contains(",result=")).collect();
        assert_eq!(counted_by.len(), 1, "{all:?}");
        assert_eq!(*counted_by[0], (counted, 1.0), "{request}");
    }
    gateway.stop();
}

#[test]
fn the_pool_tells_what_is_opened_kept_used_again_and_asked_anew() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    // Each answers twice, and leaves where it is asked for the third time.
    let backend = Backend::start(|mut peer| {
        for _ in 0..2 {
            let Some(_) = peer.next_head() else { return };
            peer.send(ANSWER);
        }
        peer.next_head();
    });
    let gateway = start(Some(&backend), "");
    let names = ["opened_total", "reused_total", "idle"].map(|name| format!("spliceway_backend_connections_{name}"));
    let figures = || {
        let page = page(&gateway);
        let retried = page["spliceway_backend_retries_total"];
        (names.each_ref().map(|name| page[name]), retried)
    };
    assert_eq!(figures(), ([0.0, 0.0, 0.0], 0.0));
    for expected in [([1.0, 0.0, 1.0], 0.0), ([1.0, 1.0, 1.0], 0.0), ([2.0, 2.0, 1.0], 1.0)] {
        assert_eq!(Client::get(gateway.address("web"), "/app").text(), "ok");
        gateway.record(|_| true);
        until("it is kept", || figures() == expected);
    }
    gateway.stop();
    backend.finish();
}

#[test]
fn a_client_that_has_as_many_connections_as_it_may_is_counted_as_refused() {
    let gateway = start(None, "[limits]\nconnections_per_client = 1\n");
    let before = page(&gateway);
    let kept = Client::connect(gateway.address("web"));
    until("it is accepted", || page(&gateway)["spliceway_connections"] == 1.0);
    Client::connect(gateway.address("web")).expect_end();
    let expected = [("connections_accepted_total", 1.0), ("connections", 1.0), ("connections_refused_total", 1.0)];
    assert_moved(&before, &page(&gateway), &expected);
    drop(kept);
    gateway.stop();
}

#[test]
fn a_reload_is_counted_a_route_keeps_its_figures_and_one_that_is_gone_has_none() {
    let config = base("");
    let gateway = Gateway::start(&config);
    for path in ["/here", "/echo"] {
        Client::get(gateway.address("web"), path);
        gateway.record(|_| true);
    }
    let first = page(&gateway);
    let without_echo = config.split("[[route]]\nname = \"echo\"").next().expect("the rest");
    gateway.reload(without_echo);
    until("nobody holds the old configuration", || !page(&gateway).contains_key("spliceway_tunnels{route=\"echo\"}"));
    let second = page(&gateway);
    assert!(second.keys().all(|name| !name.contains("\"echo\"")), "{second:#?}");
    let here = "spliceway_requests_total{route=\"here\",result=\"2xx\"}";
    assert_eq!((first[here], second[here]), (1.0, 1.0));
    let [applied, refused] =
        ["applied", "refused"].map(|result| format!("spliceway_config_reloads_total{{result=\"{result}\"}}"));
    let last = "spliceway_config_last_applied_timestamp_seconds";
    assert_eq!((first[&applied], second[&applied], second[&refused]), (0.0, 1.0, 0.0));
    assert!(first[last] < second[last] && second[last] <= now(), "{} {}", first[last], second[last]);
    gateway.reload_in_vain("[[listener]]\n");
    until("it is counted", || page(&gateway)[&refused] == 1.0);
    let third = page(&gateway);
    assert_eq!((third[&applied], third[last]), (second[&applied], second[last]));
    gateway.stop();
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs_f64()
}

#[test]
fn the_process_tells_what_the_kernel_tells_of_it() {
    let gateway = start(None, "");
    let (pid, page) = (gateway.pid(), page(&gateway));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line of it");
    let most: f64 = most.split_whitespace().next().expect("the soft limit").parse().expect("a number");
    assert_eq!(page["process_max_fds"], most);
    // The scrape's own connection is one more.
    until("the scraper's connection has ended", || {
        page_of(&gateway, "process_open_fds") - 1.0 == gateway.descriptors() as f64
    });
    let resident = page["process_resident_memory_bytes"];
    assert!(resident > 1e6 && resident < 1e9, "{resident}");
    assert!(page["process_cpu_seconds_total"] > 0.0);
    let age = now() - page["process_start_time_seconds"];
    assert!((-1.0..support::GUARD.as_secs_f64()).contains(&age), "{age}");
    assert_eq!(page[&format!("spliceway_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);
    gateway.stop();
}

fn page_of(gateway: &Gateway, name: &str) -> f64 {
    page(gateway)[name]
}

#[test]
fn a_tls_handshake_is_counted_by_its_version_and_by_what_it_came_to() {
    let authority = Authority::new();
    let gateway = Gateway::start(&format!(
        "[metrics]\nbind = \"127.0.0.1:0\"\n[timeouts]\ntls_handshake = \"300ms\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{}[[route]]\nrespond = 204\n",
        authority.line()
    ));
    let web = gateway.address("web");
    let counted = |version: &str, result: &str| {
        page_of(&gateway, &format!("spliceway_tls_handshakes_total{{version=\"{version}\",result=\"{result}\"}}"))
    };
    for (version, label) in [(&version::TLS12, "1.2"), (&version::TLS13, "1.3"), (&version::TLS13, "1.3")] {
        let before = counted(label, "Done");
        let mut client =
            secure(Client::connect(web), &Arc::new(authority.trusted_with(version))).expect("it is spoken");
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.read_answer().status, 204);
        assert_eq!(counted(label, "Done"), before + 1.0);
    }
    assert!(secure(Client::connect(web), &Arc::new(Authority::new().trusted())).is_err());
    until("a client that trusts somebody else is counted", || counted("(none)", "Failed") == 1.0);
    let mute = Client::connect(web);
    until("one that says nothing is counted", || counted("(none)", "TimedOut") == 1.0);
    assert_eq!(Client::get(web, "/").status, 400);
    until("plain HTTP is counted", || counted("(none)", "PlainHttp") == 1.0);
    drop(mute);
    let told: f64 = ["1.2", "1.3"].iter().map(|version| counted(version, "Done")).sum();
    assert_eq!(
        (told, counted("(none)", "Failed"), page_of(&gateway, "spliceway_connections_accepted_total")),
        (3.0, 1.0, 6.0)
    );
    gateway.stop();
}

/// The certificates of the tests are valid from one New Year to another.
#[test]
fn until_when_a_certificate_is_valid_is_told_in_seconds_since_the_epoch() {
    let tree = Tree::new();
    let file = |name: &str| tree.path("tests/config/valid/certs").join(name).display().to_string();
    let [chain, key] = ["chain.pem", "key.pem"].map(file);
    let gateway = Gateway::start(&format!(
        "[metrics]\nbind = \"127.0.0.1:0\"\n[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{pair}, {pair}] }}\n[[route]]\nupstream = \"b\"\n\
         [upstream.b]\nendpoints = [\"127.0.0.1:1\"]\ntls = {pair}\n",
        pair = format!("{{ certificate = {chain:?}, key = {key:?} }}")
    ));
    let page = page(&gateway);
    let told: Vec<_> = page.iter().filter(|(name, _)| name.contains("certificate_expiry")).collect();
    // 4000-01-01T00:00:00Z; a file that is named twice is one series, for a page with two of the same is none.
    let of =
        |what: &str, by: &str| format!("spliceway_{what}_expiry_timestamp_seconds{{{by},certificate=\"{chain}\"}}");
    let names = [of("backend_certificate", "upstream=\"b\""), of("certificate", "listener=\"secure\"")];
    assert_eq!(told, names.each_ref().map(|name| (name, &64_060_588_800.0)));
    gateway.stop();
}

#[test]
fn lines_of_the_log_that_are_lost_are_counted() {
    // A log that cannot be read does not tell where it listens: nobody else is given these while they are held.
    let [web, metrics] = [(); 2].map(|()| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");
        (socket, address)
    });
    let folder = Folder::new();
    let file = folder.put(
        "gateway.toml",
        format!(
            "[log]\nlevel = \"warn\"\nfile = \"/dev/full\"\n[metrics]\nbind = \"{}\"\n\
             [[listener]]\nbind = \"{}\"\n[[route]]\nrespond = 204\n",
            metrics.1, web.1
        ),
    );
    let gateway = Gateway::launch(&["run", file.to_str().expect("text")], &[]);
    until("it listens", || std::net::TcpStream::connect(metrics.1).is_ok());
    for _ in 0..3 {
        assert_eq!(Client::get(web.1, "/").status, 204);
    }
    let line = "spliceway_log_lines_lost_total{cause=\"write\"} 3\n";
    until("three records are lost", || Client::get(metrics.1, "/metrics").text().contains(line));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

/// A row of the document's tables: name, type, labels, unit.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let text = fs::read_to_string("docs/metrics.md").expect("it is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.starts_with("spliceway_") || row.starts_with("process_")).map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").filter(|label| !label.is_empty()).map(|label| label.replace('`', ""));
        (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), labels.collect(), cells[3].to_owned()))
    });
    rows.collect()
}

/// A gateway that has something to tell of everything.
fn with_everything(backend: &Backend, authority: &Authority) -> Gateway {
    let config = base(&format!("[upstream.app]\nendpoints = [\"{}\"]\n", backend.address()));
    Gateway::start(&format!(
        "{config}[[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
         [[route]]\nname = \"app\"\npath = \"/app\"\nupstream = \"app\"\n\
         [[route]]\nname = \"down\"\npath = \"/down\"\nupstream = \"down\"\n\
         [upstream.down]\nendpoints = [\"127.0.0.1:1\"]\ntls = {{ certificate = {:?}, key = {:?} }}\n",
        authority.line(),
        authority.certificate(),
        authority.key()
    ))
}

#[test]
fn the_document_lists_every_metric_as_it_is_and_no_other() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = with_everything(&backend, &Authority::new());
    // What is told only where there was some of it.
    assert_eq!(Client::get(gateway.address("web"), "/down").status, 502);
    Client::ask(gateway.address("web"), "POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na");
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/app");
    client.send("a");
    assert_eq!(client.read_exact(1), b"a");
    client.finish_sending();
    client.expect_eof();
    gateway.record(|record| record["record"] == "tunnel");
    let text = text(&gateway);
    let words = |begins: &'static str| text.lines().filter_map(move |line| line.strip_prefix(begins)?.split_once(' '));
    let units: BTreeMap<_, _> = words("# UNIT ").collect();
    let helps: BTreeMap<_, _> = words("# HELP ").collect();
    let mut told = BTreeMap::new();
    for (name, kind) in words("# TYPE ") {
        assert!(helps[name].len() > 10, "{name}");
        let suffix = if kind == "counter" { "_total" } else { "" };
        let samples = text.lines().filter_map(|line| line.strip_prefix(name).filter(|rest| !rest.starts_with("# ")));
        let labels = samples
            .filter_map(|rest| Some(rest.split_once('{')?.1.split_once('}')?.0))
            .flat_map(|labels| labels.split(','));
        let labels = labels.filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned());
        let labels: BTreeSet<_> = labels.filter(|label| label != "le").collect();
        let unit = units.get(name).map_or("", |unit| *unit).to_owned();
        assert!(told.insert(format!("{name}{suffix}"), (kind.to_owned(), labels, unit)).is_none(), "{name} twice");
    }
    assert!(told.len() >= 27, "{}", told.len());
    let documented = documented();
    assert_eq!(documented.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
    assert_eq!(documented, told);
    let document = fs::read_to_string("docs/metrics.md").expect("it is there");
    let values = text
        .lines()
        .filter(|line| ["cause=", "ended_by=", "result=\"", "of="].iter().any(|label| line.contains(label)));
    for line in values {
        for (label, value) in
            line.split_once('{').expect("labels").1.split(',').filter_map(|label| label.split_once("=\""))
        {
            let value = value.split('"').next().expect("its text");
            if !["route", "upstream", "endpoint", "listener", "version"].contains(&label) {
                assert!(document.contains(&format!("`{value}`")), "{label}={value}");
            }
        }
    }
    let causes = document.split("| cause | meaning |").nth(1).expect("its table").lines().skip(2);
    for row in causes.take_while(|row| row.starts_with("| `")) {
        let cause = row.split('`').nth(1).expect("a cause");
        assert!(text.contains(&format!("_total{{cause=\"{cause}\"}} ")), "no {cause}");
    }
    gateway.stop();
    backend.finish();
}

#[test]
fn health_and_metrics_are_read_only_and_have_three_paths() {
    let gateway = start(None, "");
    let address = metrics_address(&gateway);
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ok\n")] {
        let answer = Client::get(address, path);
        assert_eq!((answer.status, answer.text()), (200, text), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /here HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        ("GET /readyz?full=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 405),
        ("DELETE /readyz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("OPTIONS /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ] {
        let mut client = Client::connect(address);
        client.send(request);
        let answer = client.read_answer();
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("GET"), "{request}");
        // One request each.
        client.expect_eof();
    }
    assert!(Client::get(gateway.address("web"), "/metrics").status == 404, "no listener of clients has it");
    gateway.stop();
}

#[test]
fn readiness_turns_before_accepting_stops_and_health_stays_to_the_end() {
    for _ in 0..3 {
        let gateway = start(None, "[drain]\ndeadline = \"10m\"\n");
        let (web, metrics) = (gateway.address("web"), metrics_address(&gateway));
        let (mut tunnel, _) = Client::upgrade(web, "/echo");
        assert_eq!(Client::get(metrics, "/readyz").status, 200);
        gateway.signal(Signal::SIGTERM);
        // Whoever finds the gateway closed must have been able to know it.
        until("accepting has stopped", || std::net::TcpStream::connect(web).is_err());
        let ready = Client::get(metrics, "/readyz");
        assert_eq!((ready.status, ready.text()), (503, "not ready\n"));
        assert_eq!(Client::get(metrics, "/healthz").status, 200);
        assert_eq!(page_of(&gateway, "spliceway_tunnels{route=\"echo\"}"), 1.0);
        tunnel.finish_sending();
        tunnel.expect_end();
        assert_eq!(gateway.wait().0.code(), Some(0));
    }
}

/// The drain's own first words come after readiness: who has read them finds it false.
#[test]
fn readiness_is_false_when_the_drain_says_its_first_word() {
    for _ in 0..5 {
        let gateway = start(None, "[drain]\ndeadline = \"10m\"\n");
        let metrics = metrics_address(&gateway);
        let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
        gateway.signal(Signal::SIGTERM);
        gateway.message(|message| message["message"] == "draining");
        assert_eq!(Client::get(metrics, "/readyz").status, 503);
        tunnel.finish_sending();
        tunnel.expect_end();
        assert_eq!(gateway.wait().0.code(), Some(0));
    }
}

#[test]
fn who_says_nothing_or_never_ends_holds_up_nobody_and_is_closed() {
    let gateway = start(None, "");
    let address = metrics_address(&gateway);
    let idle = gateway.descriptors();
    let mut mute = Client::connect(address);
    let mut slow = Client::connect(address);
    slow.send("GET /metrics HTTP/1.1\r\nHost:");
    // It asks and never reads: the answer waits in the kernel, or is cut.
    let mut deaf = Client::connect(address);
    deaf.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut endless = Client::connect(address);
    let _ = endless.try_send(format!("GET /metrics HTTP/1.1\r\nX: {}\r\n", "x".repeat(64 * 1024)));
    assert!(endless.read_line().starts_with("HTTP/1.1 431 "));
    for _ in 0..10 {
        assert_eq!(Client::get(address, "/readyz").status, 200);
        assert_eq!(Client::get(gateway.address("web"), "/here").text(), "here");
    }
    let asked = Instant::now();
    mute.expect_end();
    slow.expect_end();
    assert!(asked.elapsed() > Duration::from_secs(5), "closed before the deadline: {:?}", asked.elapsed());
    drop((mute, slow, deaf, endless));
    until("all of theirs is given back", || gateway.descriptors() <= idle);
    gateway.stop();
}

#[test]
fn a_flood_is_bounded_the_oldest_go_first_and_no_client_feels_it() {
    let gateway = start(None, "");
    let address = metrics_address(&gateway);
    let idle = gateway.descriptors();
    let mut flood: Vec<_> = (0..200).map(|_| Client::connect(address)).collect();
    // Behind all of them, and answered before any of their deadlines: the oldest have made room.
    assert_eq!(Client::get(address, "/readyz").status, 200);
    assert!(gateway.descriptors() <= idle + 32 + 1, "{} of {idle}", gateway.descriptors());
    flood[..160].iter_mut().for_each(Peer::expect_end);
    let scrapers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                (0..20).for_each(|_| {
                    // One that has to wait for its page may be pushed out by others.
                    let mut client = Client::connect(address);
                    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
                    assert!(client.read_answer().text().ends_with("# EOF\n"));
                })
            })
        })
        .collect();
    let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
    for _ in 0..50 {
        assert_eq!(Client::get(gateway.address("web"), "/here").text(), "here");
    }
    scrapers.into_iter().for_each(|scraper| scraper.join().expect("each has its page"));
    tunnel.finish_sending();
    tunnel.expect_end();
    drop(flood);
    gateway.stop();
}

#[test]
fn an_address_that_cannot_be_bound_is_named_and_nothing_is_served() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let folder = Folder::new();
    let file = folder.put(
        "gateway.toml",
        format!("[metrics]\nbind = \"{address}\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = 204\n"),
    );
    let output = run_to_end(&["run", file.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).expect("text");
    let expected =
        format!("spliceway: metrics.bind: cannot listen on {address}: the address is in use by another process\n");
    assert_eq!(told, expected);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("serving"));
}

/// How often a thread of the gateway has gone to sleep: each time, something had woken it.
fn sleeps(gateway: &Gateway, thread: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("it runs");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let value =
        |status: &str, key: &str| Some(status.lines().find_map(|line| line.strip_prefix(key))?.trim().to_owned());
    let mut of_it = statuses.filter(|status| value(status, "Name:").as_deref() == Some(thread));
    let status = of_it.next().expect("a thread of that name");
    assert!(of_it.next().is_none(), "there is one worker");
    value(&status, "voluntary_ctxt_switches:").and_then(|count| count.parse().ok()).expect("its count (proc(5))")
}

/// However many tunnels are open, a scrape is the same page, no worker does anything for it, and bytes flow meanwhile.
#[test]
fn a_scrape_with_many_tunnels_open_counts_them_and_wakes_no_worker() {
    const TUNNELS: usize = 1_000;
    const SCRAPES: u64 = 50;
    support::raise_descriptors();
    let gateway = start(None, "");
    let size = text(&gateway).lines().count();
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| Client::upgrade(gateway.address("web"), "/echo").0).collect();
    let with_tunnels = text(&gateway);
    // The classes of the handshake's answer and nothing for each tunnel.
    assert!(with_tunnels.lines().count() <= size + 1, "{with_tunnels}");
    assert_eq!(page_of(&gateway, "spliceway_tunnels{route=\"echo\"}"), TUNNELS as f64);
    assert_eq!(page_of(&gateway, "spliceway_connections"), TUNNELS as f64);
    let address = metrics_address(&gateway);
    let scrape = move || (0..SCRAPES).for_each(|_| assert_eq!(Client::get(address, "/metrics").status, 200));
    let (before, begun) = (sleeps(&gateway, "worker-0"), Instant::now());
    scrape();
    let (woken, seconds) = (sleeps(&gateway, "worker-0") - before, begun.elapsed().as_secs() + 1);
    // By itself it wakes once a second, to look after its pool. A few more are for the last tunnels that were opened.
    println!("{woken} times in {seconds} seconds");
    assert!(woken <= seconds + SCRAPES / 5, "woken {woken} times by {SCRAPES} scrapes in {seconds} seconds");
    let scraper = std::thread::spawn(scrape);
    // A masked text frame of two bytes, and the same unmasked from the server.
    for tunnel in &mut tunnels {
        tunnel.send(b"\x81\x82\0\0\0\0hi");
        assert_eq!(tunnel.read_exact(4), b"\x81\x02hi");
    }
    scraper.join().expect("each scrape has its page");
    drop(tunnels);
    until("all have ended", || page_of(&gateway, "spliceway_tunnels{route=\"echo\"}") == 0.0);
    gateway.stop();
}
