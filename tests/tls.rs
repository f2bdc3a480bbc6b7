//! TLS towards clients: who is served, by which versions, and who is shut out, when, and with what last words.

mod support;

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, HandshakeKind, ProtocolVersion, version};
use serde_json::{Value, json};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};
use support::peer::{Peer, header_lines};
use support::tls::{Authority, begin, secure};
use support::until;
use tokio_rustls::rustls;

const HERE: &str = "GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A plain and a secure listener with the same routes.
fn gateway(authority: &Authority, more: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n{more}\n\
         [[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n",
        authority.line()
    ))
}

fn connect(gateway: &Gateway) -> Peer {
    Client::connect(gateway.address("secure"))
}

#[track_caller]
fn expect_here(peer: &mut Peer) {
    peer.send(HERE);
    let answer = peer.read_answer();
    assert_eq!((answer.status, answer.text()), (200, "here"), "{answer:?}");
}

/// Ends the gateway and asserts that its records are so many requests.
fn stop_with(gateway: Gateway, requests: usize) {
    let records = gateway.stop();
    assert_eq!(records.len(), requests, "{records:#?}");
}

#[test]
fn both_versions_are_spoken_and_connections_kept() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "");
    for (version, number) in [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut client = secure(connect(&gateway), &Arc::new(authority.trusted_with(version))).expect("it is spoken");
        {
            let connection = client.tls().connection();
            assert_eq!(connection.protocol_version(), Some(number));
            assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        }
        (0..3).for_each(|_| expect_here(&mut client));
        // Several requests in one TLS record, and one request in many.
        client.send(HERE.repeat(2));
        (0..2).for_each(|_| assert_eq!(client.read_answer().text(), "here"));
        HERE.bytes().for_each(|byte| client.send([byte]));
        assert_eq!(client.read_answer().text(), "here");
        // The client's end is answered by ours.
        client.finish_sending();
        client.expect_eof();
    }
    stop_with(gateway, 12);
}

#[test]
fn a_client_that_names_no_protocol_is_served_and_one_that_offers_only_others_is_refused() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "");
    let offering = |protocols: &[&str]| {
        let mut config = authority.trusted();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        secure(connect(&gateway), &Arc::new(config))
    };
    expect_here(&mut offering(&[]).expect("it is served"));
    let mut client = offering(&["h2", "http/1.1"]).expect("one of them is spoken");
    assert_eq!(client.tls().connection().alpn_protocol(), Some(&b"http/1.1"[..]));
    expect_here(&mut client);
    let mut client = offering(&["http/1.0"]).expect("as curl --http1.0 offers it");
    assert_eq!(client.tls().connection().alpn_protocol(), Some(&b"http/1.0"[..]));
    expect_here(&mut client);
    let refused = offering(&["h2"]).expect_err("nothing in common");
    let alert = refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).cloned();
    assert_eq!(alert, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)), "{refused}");
    stop_with(gateway, 3);
}

#[test]
fn routes_and_backends_know_that_a_request_came_by_https() {
    // A connection for each: the second request may come to the worker that had the first.
    let backend = Backend::start(backend::respond("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"));
    let authority = Authority::new();
    let gateway = gateway(
        &authority,
        &format!(
            "[upstream.b]\nendpoints = [\"{}\"]\n\
             [[route]]\nscheme = \"https\"\npath = \"/scheme\"\nrespond = {{ status = 200, body = \"secure\" }}\n\
             [[route]]\nscheme = \"http\"\npath = \"/scheme\"\nrespond = {{ status = 200, body = \"plain\" }}\n\
             [[route]]\npath = \"/b\"\nupstream = \"b\"\n",
            backend.address()
        ),
    );
    let mut doors = [authority.connect(gateway.address("secure")), Client::connect(gateway.address("plain"))];
    for (client, expected) in doors.iter_mut().zip(["secure", "plain"]) {
        client.send("GET /scheme HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.read_answer().text(), expected);
        client.send("GET /b HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: gopher\r\n\r\n");
        assert_eq!(client.read_answer().status, 204);
    }
    drop(doors);
    stop_with(gateway, 4);
    let asked: Vec<_> = backend.finish().iter().map(|bytes| support::peer::text(bytes)).collect();
    let told: Vec<_> = asked.iter().map(|head| header_lines(head, "x-forwarded-proto")).collect();
    assert_eq!(told, [["https"], ["http"]]);
}

#[test]
fn plain_http_on_the_port_of_tls_is_told_so_in_words() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "");
    // The body that nobody reads must not reset the words away.
    let long = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    // RFC 9112 section 2.2: a server takes an empty line before a request line.
    for request in [HERE, "G", &long, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "\n"] {
        let mut client = connect(&gateway);
        client.send(request);
        client.finish_sending();
        let answer = support::peer::text(&client.read_to_end());
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer:?}");
        assert!(answer.ends_with("\r\n\r\n400 Bad Request: this port speaks TLS; ask it by https://\n"), "{answer:?}");
        let record = gateway.record(|record| record["listener"] == "secure");
        assert_eq!((&record["status"], &record["cause"]), (&json!(400), &json!("plain HTTP on a listener with TLS")));
    }
    stop_with(gateway, 5);
}

/// One deadline from accept: a slow TLS handshake buys no time for the head.
#[test]
fn the_time_for_a_first_head_counts_from_accept() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "[timeouts]\nrequest_head = \"1s\"\n");
    let began = Instant::now();
    let early = connect(&gateway);
    thread::sleep(Duration::from_millis(500));
    let mut late = authority.connect(gateway.address("secure"));
    let mut early = authority.secure(early);
    early.send("GET");
    late.expect_eof();
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    // What was accepted first has ended first, though its TLS handshake was over last: no read has to wait for it.
    early.stream().set_nonblocking(true).unwrap();
    assert_eq!(early.read_answer().status, 408);
    early.expect_eof();
    let record = gateway.record(|_| true);
    assert_eq!(record["cause"], "the head was not whole within timeouts.request_head");
    assert!(record["took_ms"].as_f64() >= Some(1000.0), "{record}");
    stop_with(gateway, 1);
}

/// It has been told all there is to tell: a drain waits for its end no longer than anybody wishes, and cuts nothing.
#[test]
fn a_plain_client_of_the_port_of_tls_that_lingers_is_not_cut_by_the_second_signal() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "[drain]\ndeadline = \"10m\"\n");
    let mut client = connect(&gateway);
    client.send("G");
    let answer = support::peer::text(&client.read_to_end());
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer:?}");
    gateway.signal(Signal::SIGTERM);
    let draining = gateway.message(|message| message["message"] == "draining");
    gateway.signal(Signal::SIGTERM);
    let ended = gateway.message(|message| message["message"] == "ended");
    assert_eq!((&draining["open"], &ended["cut"]), (&json!(1), &json!(0)), "{ended}");
    let (status, records) = gateway.wait();
    assert_eq!((status.code(), records.len()), (Some(0), 1));
    drop(client);
}

#[test]
fn what_is_neither_tls_nor_http_is_shut_out_without_a_record() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "");
    let at_rest = gateway.descriptors();
    let fatal_alert = |bytes: &[u8]| matches!(bytes, [21, 3, _, 0, 2, 2, _]);
    // A handshake record of noise, one that is longer than any may be, SSH's greeting in other letters, and zeros.
    let noise = [&[22, 3, 1, 0, 4][..], b"\xff\xff\xff\xff"].concat();
    for garbage in [&noise[..], b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x00\x02", &[0; 512]] {
        let mut client = connect(&gateway);
        client.send(garbage);
        let answer = client.read_to_end();
        assert!(answer.is_empty() || fatal_alert(&answer), "no alert and no mere end: {answer:?} to {garbage:?}");
    }
    until("their descriptors are closed", || gateway.descriptors() == at_rest);
    expect_here(&mut authority.connect(gateway.address("secure")));
    stop_with(gateway, 1);
}

/// From the first byte that the kernel has taken to the last of the handshake there is one deadline; bytes do not move it.
#[test]
fn a_handshake_that_is_not_done_in_time_ends_then_and_holds_up_nobody() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "[timeouts]\ntls_handshake = \"300ms\"\n");
    let at_rest = gateway.descriptors();
    let hello = client_hello(&authority);
    let begun = Instant::now();
    let mute = connect(&gateway);
    let slow = connect(&gateway);
    let late = connect(&gateway);
    let waiting = [mute, slow, late].into_iter().enumerate().map(|(index, mut peer)| {
        let hello = hello.clone();
        thread::spawn(move || {
            match index {
                0 => {}
                1 => drip(&mut peer, &hello),
                // All of its own part, and then nothing: the server's flight is there to be read, and no answer comes.
                _ => {
                    peer.send(hello);
                    peer.read_exact(5);
                }
            }
            end_of(&peer);
            begun.elapsed()
        })
    });
    let waiting: Vec<_> = waiting.collect();
    expect_here(&mut authority.connect(gateway.address("secure")));
    for (one, name) in waiting.into_iter().zip(["mute", "slow", "late"]) {
        let lasted = one.join().expect("it ended");
        assert!(lasted >= Duration::from_millis(300), "the {name} one ended before its time: {lasted:?}");
    }
    until("their descriptors are closed", || gateway.descriptors() == at_rest);
    stop_with(gateway, 1);
}

fn client_hello(authority: &Authority) -> Vec<u8> {
    let mut hello = Vec::new();
    begin(&Arc::new(authority.trusted())).write_tls(&mut hello).expect("a vector takes all");
    hello
}

/// A byte every 20 ms, until the other end has gone: were they to move the deadline, all of them would be sent.
fn drip(peer: &mut Peer, bytes: &[u8]) {
    assert!(bytes.len() > 200, "too few to tell");
    for byte in bytes {
        if peer.try_send([*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("bytes move the deadline");
}

/// Reads to the end, whichever; a RST where bytes were on their way is one.
fn end_of(peer: &Peer) {
    let mut stream = peer.stream();
    let mut scrap = [0; 4096];
    loop {
        match stream.read(&mut scrap) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no end: {error}"),
        }
    }
}

#[test]
fn a_client_that_leaves_within_the_handshake_leaves_nothing_behind() {
    const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
    let authority = Authority::new();
    let gateway = gateway(&authority, "[timeouts]\ntls_handshake = \"10m\"\n");
    let at_rest = gateway.descriptors();
    let hello = client_hello(&authority);
    for part in [0, 1, hello.len() / 2, hello.len()] {
        for way in ["FIN", "RST", "close_notify"] {
            let mut client = connect(&gateway);
            client.send(&hello[..part]);
            if way == "close_notify" {
                client.send(CLOSE_NOTIFY);
            }
            match way {
                "RST" => client.reset(),
                _ => {
                    client.finish_sending();
                    end_of(&client);
                }
            }
            until("its descriptor is closed", || gateway.descriptors() == at_rest);
        }
    }
    expect_here(&mut authority.connect(gateway.address("secure")));
    stop_with(gateway, 1);
}

#[test]
fn a_session_is_resumed_by_its_ticket_whichever_worker_it_comes_to() {
    let authority = Authority::new();
    for version in [&version::TLS12, &version::TLS13] {
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 2\n[[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
             [[route]]\nrespond = {{ status = 200, body = \"here\" }}\n",
            authority.line()
        ));
        let config = Arc::new(authority.trusted_with(version));
        let kinds: Vec<_> = (0..20)
            .map(|_| {
                let mut client = secure(connect(&gateway), &config).expect("it is served");
                // The tickets of TLS 1.3 come with the first answer.
                expect_here(&mut client);
                let kind = client.tls().connection().handshake_kind();
                kind.expect("the handshake is done")
            })
            .collect();
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
        stop_with(gateway, 20);
    }
}

#[test]
fn a_drain_gives_a_handshake_no_more_time_than_a_first_request() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "[timeouts]\ntls_handshake = \"10m\"\n[drain]\ndeadline = \"10m\"\n");
    let at_rest = gateway.descriptors();
    let mut mute = connect(&gateway);
    // One that has its handshake yet to do may do it, and has its request served.
    let late = connect(&gateway);
    until("both are accepted", || gateway.descriptors() == at_rest + 2);
    gateway.signal(Signal::SIGTERM);
    let draining = gateway.message(|message| message["message"] == "draining");
    let mut late = authority.secure(late);
    expect_here(&mut late);
    late.expect_eof();
    mute.expect_eof();
    let ended = gateway.message(|message| message["message"] == "ended");
    assert_eq!((&draining["open"], &ended["cut"]), (&json!(2), &json!(0)), "{ended}");
    let (status, records) = gateway.wait();
    assert_eq!((status.code(), records.len()), (Some(0), 1));
}

#[test]
fn the_echo_speaks_over_tls_and_says_its_end() {
    let authority = Authority::new();
    let gateway = gateway(&authority, "[timeouts]\nidle = \"200ms\"\n");
    let address = gateway.address("secure");
    let echo = || Client::upgrade_on(authority.connect(address), &opening_handshake("localhost", "/echo", "")).0;
    let mut client = echo();
    client.send(support::frame::client(support::frame::TEXT, true, "hello"));
    assert_eq!(support::frame::read(&mut client).text(), "hello");
    client.send(support::frame::client(support::frame::CLOSE, true, support::frame::close_payload(1000, "")));
    assert_eq!(support::frame::read(&mut client).close_code(), Some(1000));
    client.expect_eof();
    client.finish_sending();
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!((&record["ended_by"], &record["close_code"]), (&json!("ClientClosed"), &json!(1000)), "{record}");
    // One that is silent is ended in order, too.
    echo().expect_eof();
    let record: Value = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!(record["ended_by"], "Idle", "{record}");
    stop_with(gateway, 2);
}
