//! TLS towards backends: whom a request is sent to, by which name, over which connection, and who gets none of it, with the
//! reason in the record. That tunnels are the same over it is for `wss.rs`.

mod support;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::{Connection, HandshakeKind, ServerConfig, SupportedProtocolVersion, version};
use serde_json::{Value, json};
use support::GUARD;
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Folder, Gateway, run_to_end_with};
use support::peer::{Peer, header};
use support::tls::{self, Authority};
use tokio_rustls::rustls;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// The address that most backends of these tests are known by.
fn of_loopback() -> Authority {
    Authority::of(&["127.0.0.1"])
}

fn config(endpoints: &[String], upstream: &str, more: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nupstream = \"b\"\n[upstream.b]\nendpoints = {endpoints:?}\n{upstream}\n"
    )
}

fn gateway(backend: &Backend, upstream: &str) -> Gateway {
    Gateway::start(&config(&[backend.address().to_string()], upstream, ""))
}

fn ask(gateway: &Gateway) -> support::peer::Answer {
    Client::ask(gateway.address("web"), GET)
}

/// Answers every request that comes, with its body; an upgrade by a tunnel that echoes.
fn serve(mut peer: Peer) {
    while let Some(head) = peer.next_head() {
        if let Some(key) = header(&head, "sec-websocket-key") {
            peer.send(backend::switching(&backend::accept_of(key)));
            loop {
                match peer.read_some() {
                    end if end.is_empty() => return peer.finish_sending(),
                    bytes => peer.send(bytes),
                }
            }
        }
        let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
        let body = peer.read_exact(length);
        peer.send([format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), &body].concat());
    }
}

/// The same, once the test has been told what the TLS handshake came to.
fn telling<T: Send + 'static>(
    tell: Sender<T>,
    what: impl Fn(&Connection) -> T + Send + Sync + 'static,
) -> impl Fn(Peer) + Send + Sync {
    move |peer| {
        tell.send(what(&peer.tls().connection())).expect("the test waits");
        serve(peer);
    }
}

fn cause(record: &Value) -> &str {
    record["cause"].as_str().unwrap_or_default()
}

/// A plain request and an upgrade come to a 502 for that reason, and the backend has not seen a byte of them.
#[track_caller]
fn expect_refused(gateway: &Gateway, backend: &Backend, reason: &str) {
    for request in [GET.to_owned(), opening_handshake("localhost", "/", "")] {
        let answer = Client::ask(gateway.address("web"), request);
        assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n"), "{answer:?}");
        let record = gateway.record(|_| true);
        assert!(cause(&record).contains(reason), "{record}, and not {reason:?}");
        assert_eq!(record["endpoint"], backend.address().to_string(), "{record}");
    }
    let came = backend.received().concat();
    assert!(came.is_empty(), "it has seen {:?}", support::peer::text(&came));
}

#[test]
fn requests_and_upgrades_go_by_tls_from_either_door_and_connections_are_kept() {
    for version in VERSIONS {
        let (authority, of_backend) = (Authority::new(), of_loopback());
        let (tell, told) = channel();
        let what =
            |connection: &Connection| (connection.alpn_protocol().map(<[u8]>::to_vec), connection.protocol_version());
        let backend = Backend::start(tls::speaking(of_backend.serving_with(version), telling(tell, what)));
        let secure = format!("[[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}", authority.line());
        let file = config(&[backend.address().to_string()], &of_backend.line_up(""), "");
        let gateway = Gateway::start(&format!("{secure}{file}"));
        let doors = || [Client::connect(gateway.address("web")), authority.connect(gateway.address("secure"))];
        for mut client in doors() {
            for _ in 0..3 {
                client.send(GET);
                assert_eq!(client.read_answer().status, 200);
            }
            let body = "x".repeat(300_000);
            client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            assert_eq!(client.read_answer().text(), body);
        }
        assert_eq!(backend.connections(), 1, "one is enough for all that is no upgrade");
        for client in doors() {
            let (mut client, _) = Client::upgrade_on(client, &opening_handshake("localhost", "/", ""));
            client.send("there and back");
            assert_eq!(client.read_exact(14), b"there and back");
            client.finish_sending();
            client.expect_eof();
            assert_eq!(gateway.record(|record| record["record"] == "tunnel")["ended_by"], "ClientClosed");
        }
        gateway.stop();
        let received = backend.finish();
        assert_eq!(received.len(), 3);
        let shaken: Vec<_> = told.iter().collect();
        assert!(shaken.iter().all(|one| *one == (Some(b"http/1.1".to_vec()), Some(version.version))), "{shaken:?}");
        // What a backend is told of the client's scheme is the client's.
        let asked = received.iter().map(|bytes| support::peer::text(bytes)).collect::<String>();
        let told: Vec<_> = asked.lines().filter_map(|line| line.strip_prefix("x-forwarded-proto: ")).collect();
        assert_eq!(told, ["http", "http", "http", "http", "https", "https", "https", "https", "http", "https"]);
    }
}

#[test]
fn a_session_is_resumed_by_the_next_connection() {
    for version in VERSIONS {
        let of_backend = of_loopback();
        let (tell, told) = channel();
        let backend =
            Backend::start(tls::speaking(of_backend.serving_with(version), telling(tell, |one| one.handshake_kind())));
        let gateway = gateway(&backend, &format!("{}pool = \"off\"\n", of_backend.line_up("")));
        (0..4).for_each(|_| assert_eq!(ask(&gateway).status, 200));
        gateway.stop();
        backend.finish();
        let kinds: Vec<_> = told.iter().map(|kind| kind.expect("it is over")).collect();
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
}

/// A backend whose certificate ends then, and which has another from `renewed` on, and yet knows the sessions of before; with a
/// gateway that has resumed one.
struct Renewing {
    gateway: Gateway,
    backend: Backend,
    renewed: Arc<AtomicBool>,
    _files: (Folder, [Authority; 2]),
}

impl Renewing {
    fn start(version: &'static SupportedProtocolVersion, expires: SystemTime) -> Self {
        let authorities = [Authority::until(&["127.0.0.1"], expires), of_loopback()];
        let folder = Folder::new();
        let both = authorities.each_ref().map(|one| fs::read(one.certificate()).expect("the certificate")).concat();
        let ca = folder.put("ca.pem", both);
        let [before, mut after] = authorities.each_ref().map(|one| one.serving_with(version));
        (after.session_storage, after.ticketer) = (Arc::clone(&before.session_storage), Arc::clone(&before.ticketer));
        let (tell, told) = channel();
        let kind = |connection: &Connection| connection.handshake_kind();
        let scripts = [before, after].map(|config| {
            let tell = tell.clone();
            tls::speaking(config, move |peer| {
                // Only the first two are asked for.
                let _ = tell.send(kind(&peer.tls().connection()));
                serve(peer);
            })
        });
        let renewed = Arc::new(AtomicBool::new(false));
        let is_renewed = Arc::clone(&renewed);
        let backend = Backend::start(move |peer| scripts[usize::from(is_renewed.load(Ordering::SeqCst))](peer));
        let gateway = gateway(&backend, &format!("tls = {{ ca = {ca:?} }}\npool = \"off\"\n"));
        (0..2).for_each(|_| assert_eq!(ask(&gateway).status, 200));
        let kinds: Vec<_> = told.iter().take(2).collect();
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
        Self { gateway, backend, renewed, _files: (folder, authorities) }
    }
}

/// Who resumes a session verifies no certificate again: a session once outlived the certificate that it was begun with.
#[test]
fn a_certificate_that_expires_while_its_sessions_are_resumed_is_refused_and_a_new_one_is_taken() {
    let expires = SystemTime::now() + Duration::from_secs(4);
    let stands: Vec<_> =
        VERSIONS.map(|version| [(); 2].map(|()| Renewing::start(version, expires))).into_iter().collect();
    // X.509 counts whole seconds.
    thread::sleep(expires.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1));
    for [early, late] in stands {
        early.renewed.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(ask(&late.gateway).status, 502);
            let record = late.gateway.record(|record| record["status"] == 502);
            assert_eq!(cause(&record), "the backend's certificate has expired");
        }
        late.renewed.store(true, Ordering::SeqCst);
        for Renewing { gateway, backend, .. } in [early, late] {
            (0..2).for_each(|_| assert_eq!(ask(&gateway).status, 200));
            gateway.stop();
            backend.finish();
        }
    }
}

/// A script that notes by which name it was asked for (SNI), and serves.
fn noting_names(config: ServerConfig, names: Sender<Option<String>>) -> impl Fn(Peer) + Send + Sync {
    let what = |connection: &Connection| match connection {
        Connection::Server(connection) => connection.server_name().map(str::to_owned),
        Connection::Client(_) => unreachable!("it is a backend"),
    };
    tls::speaking(config, telling(names, what))
}

#[test]
fn a_backend_is_asked_for_by_the_name_of_its_endpoint_or_by_the_one_that_is_written() {
    let port = |backend: &Backend| backend.address().port();
    type Endpoint = fn(u16) -> String;
    let table: [(&[&str], Endpoint, &str, Option<&str>); 5] = [
        // RFC 6066 section 3: addresses are no names.
        (&["127.0.0.1"], |port| format!("127.0.0.1:{port}"), "", None),
        (&["localhost"], |port| format!("localhost:{port}"), "", Some("localhost")),
        (
            &["chat.internal"],
            |port| format!("127.0.0.1:{port}"),
            ", server_name = \"chat.internal\"",
            Some("chat.internal"),
        ),
        (
            &["*.chat.internal"],
            |port| format!("localhost:{port}"),
            ", server_name = \"A.Chat.Internal\"",
            Some("a.chat.internal"),
        ),
        (&["192.0.2.7"], |port| format!("localhost:{port}"), ", server_name = \"192.0.2.7\"", None),
    ];
    for (names, endpoint, written, expected) in table {
        let of_backend = Authority::of(names);
        let (tell, told) = channel();
        let backend = Backend::start(noting_names(of_backend.serving(), tell));
        let gateway = Gateway::start(&config(&[endpoint(port(&backend))], &of_backend.line_up(written), ""));
        assert_eq!(ask(&gateway).status, 200, "{names:?}: {:?}", gateway.records());
        gateway.stop();
        backend.finish();
        assert_eq!(told.recv().expect("it was asked").as_deref(), expected);
    }
}

#[test]
fn a_certificate_is_shown_to_who_asks_for_it() {
    for version in VERSIONS {
        let (of_backend, client) = (of_loopback(), Authority::of_client());
        let shown = format!(", certificate = {:?}, key = {:?}", client.certificate(), client.key());
        let start = || Backend::start(tls::speaking(of_backend.serving_only(&client, version), serve));
        let backend = start();
        let with = gateway(&backend, &of_backend.line_up(&shown));
        assert_eq!(ask(&with).status, 200);
        with.stop();
        backend.finish();
        let backend = start();
        let without = gateway(&backend, &of_backend.line_up(""));
        // By TLS 1.3 its refusal comes where the answer should.
        let reason = if version.version == rustls::ProtocolVersion::TLSv1_3 {
            "the backend ended TLS with the alert CertificateRequired"
        } else {
            "the TLS handshake with the backend failed: "
        };
        expect_refused(&without, &backend, reason);
        without.stop();
        backend.finish();
    }
}

#[test]
fn a_certificate_that_proves_nothing_is_a_502_that_says_why() {
    let here: &[&str] = &["127.0.0.1"];
    let right = of_loopback();
    let table = [
        (Authority::of_years(here, 2019..2020), None, "the backend's certificate has expired", "CertificateOutOfDate"),
        (
            Authority::of_years(here, 3999..4000),
            None,
            "the backend's certificate is not valid yet",
            "CertificateOutOfDate",
        ),
        (
            Authority::of(&["127.0.0.2", "chat.internal"]),
            None,
            "the backend's certificate is not for 127.0.0.1",
            "CertificateOfOther",
        ),
        (
            of_loopback(),
            Some(&right),
            "the backend's certificate was issued by nobody who is trusted",
            "CertificateForeign",
        ),
        (Authority::of_client(), None, "the backend's certificate cannot be accepted: ", "CertificateBad"),
    ];
    for (of_backend, trusted, reason, counted) in &table {
        for version in VERSIONS {
            let backend = Backend::start(tls::speaking(of_backend.serving_with(version), serve));
            let (endpoint, tls) = (backend.address().to_string(), trusted.unwrap_or(of_backend).line_up(""));
            let gateway = Gateway::start(&config(&[endpoint], &tls, "[metrics]\nbind = \"127.0.0.1:0\"\n"));
            expect_refused(&gateway, &backend, reason);
            assert_eq!(backend.connections(), 2);
            let line = gateway.message(|message| message["message"] == "metrics are served");
            let address = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
            let metrics = Client::get(address, "/metrics");
            let expected = format!("spliceway_rejections_total{{cause=\"{counted}\"}} 2\n");
            assert!(metrics.text().contains(&expected), "{}", metrics.text());
            gateway.stop();
            backend.finish();
        }
    }
}

/// Bytes where the TLS handshake should be are no bytes of an answer, whatever comes behind them.
#[test]
fn what_a_backend_says_in_clear_is_refused() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let of_backend = of_loopback();
    let serving = Arc::new(of_backend.serving());
    let refused = |script: Box<dyn Fn(Peer) + Send + Sync>, reason: &str| {
        let backend = Backend::start(script);
        let gateway = gateway(&backend, &of_backend.line_up(""));
        expect_refused(&gateway, &backend, reason);
        gateway.stop();
        backend.finish();
    };
    let not_tls = "what the backend sent first is not TLS";
    // Before it has heard anything, and then as if nothing had been; and as an answer to what it takes for a request.
    let early = move |peer: Peer| {
        peer.stream().write_all(ANSWER.as_bytes()).expect("it is taken");
        assert!(tls::accept(&peer, &serving).is_err(), "the gateway goes on");
    };
    refused(Box::new(early), not_tls);
    let plain = |peer: Peer| {
        let hello = peer.stream().peek(&mut [0; 6]).expect("the gateway begins");
        assert!(hello > 0);
        peer.stream().write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nevil").expect("it is taken");
        drain(&peer);
    };
    refused(Box::new(plain), not_tls);
    // A record of bytes in clear; and an end instead of an answer.
    let in_clear = |peer: Peer| {
        peer.stream().write_all(b"\x17\x03\x03\x00\x04evil").expect("it is taken");
        drain(&peer);
    };
    refused(Box::new(in_clear), "the TLS handshake with the backend failed: ");
    let mute = |peer: Peer| {
        peer.finish_sending();
        drain(&peer);
    };
    refused(Box::new(mute), "the TLS handshake with the backend failed: ");
}

/// Reads what comes, which is nobody's business, until the other end leaves.
fn drain(peer: &Peer) {
    use std::io::Read;
    while matches!(peer.stream().read(&mut [0; 4096]), Ok(1..)) {}
}

#[test]
fn who_does_not_prove_itself_is_passed_over_for_the_next() {
    let right = of_loopback();
    let backends = [
        Backend::start(tls::speaking(of_loopback().serving(), serve)),
        Backend::start(tls::speaking(right.serving(), serve)),
    ];
    let endpoints = backends.each_ref().map(|one| one.address().to_string());
    let gateway = Gateway::start(&config(&endpoints, &format!("{}pool = \"off\"\n", right.line_up("")), ""));
    for _ in 0..4 {
        assert_eq!(ask(&gateway).status, 200);
        let (client, _) = Client::upgrade(gateway.address("web"), "/");
        drop(client);
    }
    assert!(backends[0].connections() > 0, "it has its turns");
    assert_eq!(backends[0].received().concat(), b"");
    gateway.stop();
}

#[test]
fn a_handshake_has_the_time_that_connecting_has() {
    let of_backend = of_loopback();
    let backend = Backend::start(|peer| drain(&peer));
    let timeouts = "[timeouts]\nconnect = \"300ms\"\nresponse_head = \"10m\"\nupgrade = \"10m\"\n";
    let gateway = Gateway::start(&config(&[backend.address().to_string()], &of_backend.line_up(""), timeouts));
    for request in [GET.to_owned(), opening_handshake("localhost", "/", "")] {
        assert_eq!(Client::ask(gateway.address("web"), request).status, 504);
        let record = gateway.record(|_| true);
        assert_eq!(cause(&record), "no TLS handshake within timeouts.connect");
        assert!(record["took_ms"].as_f64().is_some_and(|took| took >= 300.0), "before its time: {record}");
    }
    gateway.stop();
    backend.finish();
}

/// As for a client's: a FIN alone is passed on, and is no end in order.
#[test]
fn a_server_that_ends_without_close_notify_is_recorded_as_truncated() {
    for version in VERSIONS {
        let of_backend = of_loopback();
        let (hand_over, servers) = channel();
        let script = move |mut peer: Peer| {
            backend::accept_websocket(&mut peer);
            hand_over.send(peer).expect("the test waits");
        };
        let backend = Backend::start(tls::speaking(of_backend.serving_with(version), script));
        let gateway = gateway(&backend, &of_backend.line_up(""));
        let expect_end = |truncates: bool, by: &str| {
            let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
            let mut server: Peer = servers.recv_timeout(GUARD).expect("the server's end of it");
            server.send("last wor");
            if truncates {
                server.truncate()
            } else {
                server.tls().say_end(server.stream())
            }
            assert_eq!(client.read_to_end(), b"last wor");
            client.send([7; 300_000]);
            client.finish_sending();
            assert!(server.read_to_end() == [7; 300_000], "the bytes have changed");
            let record = gateway.record(|record| record["record"] == "tunnel");
            let said = [&record["ended_by"], &record["sent"], &record["received"]];
            assert_eq!(said, [&json!(by), &json!(300_000), &json!(8)], "{record}");
        };
        expect_end(true, "ServerTruncated");
        // RFC 8446 section 6.1: a close_notify ends it by itself.
        expect_end(false, "ServerClosed");
        gateway.stop();
        backend.finish();
    }
}

/// RFC 9112 section 9.8. With Content-Length it is whole, close_notify or not.
#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_by_a_close_notify() {
    let of_backend = of_loopback();
    let script = |mut peer: Peer| {
        let head = peer.read_head();
        let length = if head.starts_with("GET /length") { "Content-Length: 5\r\n" } else { "" };
        peer.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{length}\r\nwhole"));
        if head.starts_with("GET /end") {
            peer.finish_sending()
        } else {
            peer.truncate()
        }
        drain(&peer);
    };
    let backend = Backend::start(tls::speaking(of_backend.serving(), script));
    let gateway = gateway(&backend, &of_backend.line_up(""));
    let ask = |path: &str| Client::get(gateway.address("web"), path);
    assert_eq!(ask("/end").text(), "whole");
    assert_eq!(ask("/length").text(), "whole");
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = Vec::new();
    while let Ok(bytes) = client.try_read_some() {
        match bytes.is_empty() {
            true => break,
            false => body.extend(bytes),
        }
    }
    assert!(!body.ends_with(b"0\r\n\r\n"), "it looks whole");
    let record = gateway.record(|record| record["path"] == "/cut");
    assert!(cause(&record).starts_with("the backend broke off within the body: "), "{record}");
    gateway.stop();
    backend.finish();
}

#[test]
fn whoever_answers_is_taken_where_nothing_is_verified() {
    for version in VERSIONS {
        let of_backend = Authority::of_years(&["elsewhere"], 2019..2020);
        let backend = Backend::start(tls::speaking(of_backend.serving_with(version), serve));
        let gateway = gateway(&backend, "tls = { verify = \"none-insecure\" }\n");
        let warned = gateway.message(|message| message["level"] == "WARN");
        let text = warned["message"].as_str().expect("a text");
        assert!(text.ends_with("whoever answers is taken for a backend of b: nothing is verified"), "{text}");
        assert_eq!(ask(&gateway).status, 200);
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn the_systems_authorities_are_trusted_where_no_others_are_named() {
    let of_backend = of_loopback();
    let authorities = of_backend.certificate().to_str().expect("a path");
    for tls in ["tls = true", "tls = {}", "tls = { ca = \"system\" }"] {
        let backend = Backend::start(tls::speaking(of_backend.serving(), serve));
        let file = config(&[backend.address().to_string()], tls, "");
        let gateway = Gateway::start_with(&file, &[("SSL_CERT_FILE", authorities), ("SSL_CERT_DIR", "")]);
        assert_eq!(ask(&gateway).status, 200);
        gateway.stop();
        backend.finish();
    }
    // And where the system has none, nobody could be verified.
    let folder = Folder::new();
    let (empty, file) = (folder.put("empty.pem", ""), config(&["127.0.0.1:9".to_owned()], "tls = true", ""));
    let file = folder.put("gateway.toml", file);
    let arguments = ["check", file.to_str().expect("a path")];
    let output =
        run_to_end_with(&arguments, &[("SSL_CERT_FILE", empty.to_str().expect("a path")), ("SSL_CERT_DIR", "")]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("error: `upstream.b.tls.ca`: the system trusts no authority: "), "{told}");
}

/// A backend that speaks both, as the gateway begins.
fn of_both_tongues(config: ServerConfig) -> Backend {
    let by_tls = tls::speaking(config, serve);
    Backend::start(move |peer| {
        let mut first = [0];
        match peer.stream().peek(&mut first) {
            Ok(1) if first[0] == 22 => by_tls(peer),
            _ => serve(peer),
        }
    })
}

#[test]
fn a_reload_that_changes_tls_is_felt_by_the_next_request() {
    let (of_backend, client) = (of_loopback(), Authority::of_client());
    let backend = of_both_tongues(of_backend.serving());
    let file = |tls: &str| config(&[backend.address().to_string()], tls, "");
    let shown = format!(", certificate = {:?}, key = {:?}", client.certificate(), client.key());
    let gateway = Gateway::start(&file(""));
    let connections_with = |tls: &str| {
        gateway.reload(&file(tls));
        (0..2).for_each(|_| assert_eq!(ask(&gateway).status, 200, "{tls}"));
        backend.connections()
    };
    let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/");
    assert_eq!(connections_with(""), 2);
    assert_eq!(connections_with(&of_backend.line_up("")), 3, "no request goes on in clear");
    assert_eq!(connections_with(&of_backend.line_up("")), 3, "nothing has changed");
    assert_eq!(connections_with(&of_backend.line_up(&shown)), 4, "another certificate is shown");
    assert_eq!(connections_with("tls = { verify = \"none-insecure\" }\n"), 5);
    // Back to what was before: connections that were made by it are still kept, and are good for it.
    assert_eq!(connections_with(&of_backend.line_up("")), 5);
    assert_eq!(connections_with("tls = false\n"), 5);
    let of_other = of_loopback();
    gateway.reload(&file(&of_other.line_up("")));
    assert_eq!(ask(&gateway).status, 502, "a connection that was made before proves nothing to who trusts others");
    // A tunnel outlives it all.
    tunnel.send("still");
    assert_eq!(tunnel.read_exact(5), b"still");
    drop(tunnel);
    gateway.stop();
}

/// What `openssl req -x509` makes is an authority's, and WebPKI takes no such for a server's. Who names the very certificate
/// means it all the same.
#[test]
fn a_certificate_that_is_named_itself_is_trusted_for_its_names_and_its_time() {
    for (names, years, expected) in [
        ("127.0.0.1", 2019..4000, None),
        ("127.0.0.2", 2019..4000, Some("the backend's certificate is not for 127.0.0.1")),
        ("127.0.0.1", 2019..2020, Some("the backend's certificate has expired")),
        ("127.0.0.1", 3999..4000, Some("the backend's certificate is not valid yet")),
    ] {
        let itself = Authority::of_itself(&[names], years);
        let backend = Backend::start(tls::speaking(itself.serving(), serve));
        let gateway = gateway(&backend, &itself.line_up(""));
        match expected {
            None => assert_eq!(ask(&gateway).status, 200, "{:?}", gateway.records()),
            Some(cause) => expect_refused(&gateway, &backend, cause),
        }
        gateway.stop();
    }
    // Another of the same name is not the one that is named.
    let [itself, other] = [(); 2].map(|()| Authority::of_itself(&["127.0.0.1"], 2019..4000));
    let backend = Backend::start(tls::speaking(other.serving(), serve));
    let gateway = gateway(&backend, &itself.line_up(""));
    expect_refused(&gateway, &backend, "the backend's certificate cannot be accepted: CaUsedAsEndEntity");
    gateway.stop();
}

/// The endpoint is known by an address, and the backend's certificate is for that alone.
#[test]
fn a_connection_that_was_made_to_one_name_is_not_kept_for_another() {
    let of_backend = of_loopback();
    let backend = Backend::start(tls::speaking(of_backend.serving(), serve));
    let file = |endpoint: &str| config(&[endpoint.to_owned()], &of_backend.line_up(""), "");
    let gateway = Gateway::start(&file(&backend.address().to_string()));
    assert_eq!(ask(&gateway).status, 200);
    let before = backend.received().concat();
    gateway.reload(&file(&format!("localhost:{}", backend.address().port())));
    for _ in 0..3 {
        assert_eq!(ask(&gateway).status, 502);
    }
    assert_eq!(backend.received().concat(), before, "it has seen nothing of these");
    gateway.reload(&file(&backend.address().to_string()));
    assert_eq!(ask(&gateway).status, 200);
    gateway.stop();
}

#[test]
fn a_file_that_has_changed_is_a_change_and_one_that_has_not_is_none() {
    let [one, other] = [of_loopback(), of_loopback()];
    let backend = Backend::start(tls::speaking(one.serving(), serve));
    let folder = Folder::new();
    let put = |authority: &Authority| {
        folder.put("ca.pem", fs::read(authority.certificate()).expect("the certificate"));
    };
    put(&one);
    let ca = folder.put("gateway.toml", "").with_file_name("ca.pem");
    let file = config(&[backend.address().to_string()], &format!("tls = {{ ca = {ca:?} }}\n"), "");
    let gateway = Gateway::start(&file);
    assert_eq!(ask(&gateway).status, 200);
    assert_eq!(gateway.reload(&file)["changes"], 0);
    put(&other);
    assert_eq!(gateway.reload(&file)["changes"], 1);
    let told = gateway.message(|message| message["kind"] == "upstream");
    assert_eq!((&told["name"], &told["message"]), (&json!("b"), &json!("changed")));
    expect_refused_by_name(&gateway);
    put(&one);
    assert_eq!(gateway.reload(&file)["changes"], 1);
    assert_eq!(ask(&gateway).status, 200);
    gateway.stop();
    backend.finish();
}

fn expect_refused_by_name(gateway: &Gateway) {
    assert_eq!(ask(gateway).status, 502);
    let record = gateway.record(|record| record["status"] == 502);
    assert_eq!(cause(&record), "the backend's certificate was issued by nobody who is trusted");
}

/// A request that waits for its answer while the TLS of its upstream changes gets it over the connection that it was sent on.
#[test]
fn who_is_under_way_in_a_reload_is_answered() {
    let of_backend = of_loopback();
    let (go, wait) = channel();
    let wait = std::sync::Mutex::new(wait);
    let script = move |mut peer: Peer| {
        while peer.next_head().is_some() {
            wait.lock().expect("no script has failed").recv_timeout(GUARD).expect("the test says so");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        }
    };
    let backend = Backend::start(tls::speaking(of_backend.serving(), script));
    let file = |tls: &str| config(&[backend.address().to_string()], tls, "");
    let gateway = Gateway::start(&file(&of_backend.line_up("")));
    let address: SocketAddr = gateway.address("web");
    let asking = thread::spawn(move || Client::ask(address, GET));
    support::until("it was asked", || !backend.received().concat().is_empty());
    gateway.reload(&file("tls = { verify = \"none-insecure\" }\n"));
    go.send(()).expect("it waits");
    assert_eq!(asking.join().expect("it is answered").text(), "late");
    // And what it came over is none for those that come by the new setting.
    go.send(()).expect("it waits");
    assert_eq!(ask(&gateway).text(), "late");
    assert_eq!(backend.connections(), 2);
    gateway.stop();
    backend.finish();
}

/// Where a client leaves while the gateway shakes hands for it, nothing stays open at the backend.
#[test]
fn a_client_that_leaves_takes_the_handshake_with_it() {
    let of_backend = of_loopback();
    let backend = Backend::start(|peer| drain(&peer));
    let file = config(&[backend.address().to_string()], &of_backend.line_up(""), "[timeouts]\nconnect = \"10m\"\n");
    let gateway = Gateway::start(&file);
    let at_rest = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("localhost", "/", ""));
    support::until("the backend is connected to", || backend.connections() == 1);
    thread::sleep(Duration::from_millis(50));
    drop(client);
    support::until("its descriptors are closed", || gateway.descriptors() == at_rest);
    assert_eq!(cause(&gateway.record(|_| true)), "the client left before the answer");
    gateway.stop();
    backend.finish();
}

/// Names of files belong to the folder of the configuration.
#[test]
fn files_are_found_beside_the_configuration() {
    let (of_backend, client) = (of_loopback(), Authority::of_client());
    let backend = Backend::start(tls::speaking(of_backend.serving_only(&client, &version::TLS13), serve));
    let folder = Folder::new();
    let copy = |name: &str, from: &Path| folder.put(name, fs::read(from).expect("it is there"));
    copy("ca.pem", of_backend.certificate());
    copy("client.pem", client.certificate());
    copy("client.key", client.key());
    let tls = "[upstream.b.tls]\nca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n";
    let text = config(&[backend.address().to_string()], tls, "[log]\nformat = \"json\"\n");
    let file = folder.put("gateway.toml", text);
    let gateway = Gateway::launch(&["run", file.to_str().expect("a path")], &[]);
    gateway.message(|message| message["message"] == "serving");
    assert_eq!(ask(&gateway).status, 200);
    gateway.stop();
    backend.finish();
}
