//! Requests that two readers could read differently: each is refused and its connection closed, or it is passed on in
//! words that leave no second reading. Behind each one a second request is hidden, and no backend ever hears of it.

mod support;

use std::fmt::Write as _;

use support::backend::Backend;
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{Peer, header, text};

/// What every request here drags behind it.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\npool = \"off\"\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ))
}

/// Takes one request with its body, answers, and waits for the end.
fn take_one(mut peer: Peer) {
    let Some(head) = peer.next_head() else { return };
    if header(&head, "transfer-encoding").is_some() {
        loop {
            let line = peer.read_line_or_end();
            match line.as_deref() {
                None => return,
                Some("0") => break,
                Some(_) => {}
            }
        }
    } else if let Some(length) = header(&head, "content-length") {
        peer.read_exact(length.parse().expect("a number"));
    }
    // The gateway may have gone meanwhile.
    let _ = peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    peer.read_to_end();
}

/// Asks, asserts that exactly one answer comes and then the end of the connection, and gives the answer's status.
fn refused(gateway: &Gateway, request: &[u8]) -> u16 {
    let mut client = Client::connect(gateway.address("web"));
    client.send([request, HIDDEN.as_bytes()].concat());
    let answer = client.read_answer();
    let excerpt = text(&request[..request.len().min(200)]);
    assert_ne!(answer.status, 200, "{excerpt:?}");
    client.expect_eof();
    let record = gateway.record(|record| record["status"] == answer.status);
    assert!(record["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{excerpt:?}: {record}");
    answer.status
}

fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").into_bytes()
}

#[test]
fn a_head_with_two_readings_is_refused_and_no_backend_hears_of_it() {
    let backend = Backend::start(take_one);
    let gateway = gateway(&backend);
    for (lines, status) in [
        ("Content-Length: 4\r\nContent-Length: 5\r\n", 400),
        ("Content-Length: 4, 5\r\n", 400),
        ("Content-Length: 5, 5\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length: -5\r\n", 400),
        ("Content-Length: 0x5\r\n", 400),
        ("Content-Length: 5 5\r\n", 400),
        ("Content-Length:\r\n", 400),
        ("Content-Length: 18446744073709551616\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Transfer-Encoding: chunked;q=1\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding:\x0bchunked\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
        ("Transfer-Encoding: chun\r\n ked\r\n", 400),
        ("Transfer_Encoding\x00: chunked\r\n", 400),
        ("X: a\x00b\r\n", 400),
        ("X: a\rb\r\n", 400),
        ("X: a\r\r\n", 400),
        ("X: a\rContent-Length: 5\r\n", 400),
        ("X: a\r\n b\r\n", 400),
        ("X: a\r\n\tb\r\n", 400),
        (" X: a\r\n", 400),
        (": a\r\n", 400),
        ("X : a\r\n", 400),
        ("X\t: a\r\n", 400),
        ("X\r\n", 400),
        ("X(: a\r\n", 400),
    ] {
        assert_eq!(refused(&gateway, &with(lines)), status, "{lines:?}");
    }
    for (request, status) in [
        ("POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /a\rb HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1 x\r\nHost: localhost\r\n\r\n", 400),
        ("GET /\r\nHost: localhost\r\n\r\n", 400),
        ("G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("\0GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ] {
        assert_eq!(refused(&gateway, request.as_bytes()), status, "{request:?}");
    }
    assert_eq!(backend.connections(), 0);
    gateway.stop();
}

#[test]
fn what_is_too_large_is_refused_and_no_backend_hears_of_it() {
    let backend = Backend::start(take_one);
    let gateway = gateway(&backend);
    let many = (0..5_000).fold(String::new(), |mut lines, n| {
        let _ = write!(lines, "X-{n}: a\r\n");
        lines
    });
    let long = "x".repeat(100 << 10);
    for (request, status) in [
        (with(&format!("X: {}\r\n", &long[..70 << 10])), 431),
        (with(&format!("{}: a\r\n", &long[..70 << 10])), 431),
        (with(&many), 431),
        // So many that their number counts and not their size.
        (with(&"X: a\r\n".repeat(101)), 431),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(), 431),
    ] {
        assert_eq!(refused(&gateway, &request), status, "{:?}", text(&request[..100]));
    }
    assert_eq!(backend.connections(), 0);
    gateway.stop();
}

#[test]
fn a_body_with_two_readings_is_never_ended_towards_the_backend() {
    for body in [
        // Bare LF where a line of chunks must end.
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5;x\nhello\r\n0\r\n\r\n",
        "5;x=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        // A chunk that is longer or shorter than it says.
        "5\r\nhello!\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        // No size at all.
        "\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "x\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        // Trailers that are none.
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
        "5\r\nhello\r\n0\r\n: a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\rX: a\r\n\r\n",
    ] {
        let backend = Backend::start(take_one);
        let gateway = gateway(&backend);
        let request = [&with("Transfer-Encoding: chunked\r\n")[..], body.as_bytes()].concat();
        assert_eq!(refused(&gateway, &request), 400, "{body:?}");
        gateway.stop();
        for received in backend.finish().iter().map(|bytes| text(bytes)) {
            assert!(!received.contains("hidden") && !received.contains("\r\n0\r\n"), "{body:?}: {received:?}");
        }
    }
}

#[test]
fn chunk_extensions_and_trailers_without_end_are_refused() {
    for (begin, unit) in [("5;x=", "y"), ("5\r\nhello\r\n0\r\nX: ", "y"), ("5\r\nhello\r\n0\r\n", "X: y\r\n")] {
        let backend = Backend::start(take_one);
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send(with("Transfer-Encoding: chunked\r\n"));
        client.send(begin);
        // It need not take all of it.
        let mut sender = client.sender();
        let sending = std::thread::spawn({
            let unit = unit.repeat(1024);
            move || while sender.try_send(&unit).is_ok() {}
        });
        assert_eq!(client.read_answer().status, 400, "{begin:?}");
        client.stream().shutdown(std::net::Shutdown::Both).ok();
        sending.join().expect("it ends with the connection");
        gateway.stop();
        let received = text(&backend.finish()[0]);
        assert!(received.len() < 64 << 10 && !received.contains("\r\n0\r\n"), "{received:?}");
    }
}

/// The bytes that backends are sent for requests that are odd, but can be read in one way only.
#[test]
fn what_is_passed_on_has_one_reading() {
    let backend = Backend::start(take_one);
    let gateway = gateway(&backend);
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\n";
    let five = "Content-Length: 5\r\n";
    for (request, framing, body) in [
        (format!("{post}{five}{five}\r\nhello"), ("content-length", "5"), "hello"),
        (format!("{post}Content-Length: 5\t \r\n\r\nhello"), ("content-length", "5"), "hello"),
        (
            format!("{post}Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ("transfer-encoding", "chunked"),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        // Extensions of chunks end here, and so do zeros in front.
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\n0005;x=\"y\"\r\nhello\r\n000;z\r\n\r\n"),
            ("transfer-encoding", "chunked"),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        // Bare LF in a head.
        ("POST / HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello".to_owned(), ("content-length", "5"), "hello"),
        // Empty lines before the request.
        (format!("\r\n\r\n{post}{five}\r\nhello"), ("content-length", "5"), "hello"),
        // Connection names the framing.
        (format!("{post}Connection: content-length\r\n{five}\r\nhello"), ("content-length", "5"), "hello"),
        (
            format!("{post}Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            ("transfer-encoding", "chunked"),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let before = backend.connections();
        // With the next request right behind it.
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{request}GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!([client.read_answer().status, client.read_answer().status], [200, 200], "{request:?}");
        drop(client);
        let received: Vec<_> = backend.received()[before..].iter().map(|bytes| text(bytes)).collect();
        let [first, next] = &received[..] else { panic!("{request:?}: {received:?}") };
        let (head, seen) = first.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{first:?}");
        assert!(head.replace("\r\n", "").chars().all(|c| !c.is_ascii_control()), "{first:?}");
        assert_eq!(header(head, "host"), Some("localhost"));
        let other = if framing.0 == "content-length" { "transfer-encoding" } else { "content-length" };
        assert_eq!((header(head, framing.0), header(head, other)), (Some(framing.1), None), "{request:?}");
        assert_eq!(seen, body, "{request:?}");
        assert!(next.starts_with("GET /next HTTP/1.1\r\n"), "{next:?}");
    }
    gateway.stop();
}

#[test]
fn an_answer_with_two_readings_is_a_502() {
    let long = "x".repeat(70 << 10);
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nhello");
    for answer in [
        head("Content-Length: 5\r\nContent-Length: 6\r\n"),
        head("Content-Length: 5, 6\r\n"),
        head("Content-Length: +5\r\n"),
        head("Content-Length: 5x\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding: chunked, chunked\r\n"),
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: xchunked\r\n"),
        head("Transfer-Encoding: identity\r\n"),
        head("Transfer-Encoding : chunked\r\n"),
        head("Content-Length: 5\r\nX: a\0b\r\n"),
        head("Content-Length: 5\r\nX: a\rb\r\n"),
        head("Content-Length: 5\r\nX: a\r\n b\r\n"),
        head("Content-Length: 5\r\n: a\r\n"),
        head("Content-Length: 5\r\nX\r\n"),
        head(&format!("Content-Length: 5\r\nX: {long}\r\n")),
        head(&format!("Content-Length: 5\r\n{}", "X: a\r\n".repeat(5_000))),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
        "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(),
        "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello".into(),
        "HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello".into(),
        "hello".into(),
        String::new(),
    ] {
        let excerpt = answer[..answer.len().min(200)].to_owned();
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            let _ = peer.try_send(&answer);
            let _ = peer.stream().shutdown(std::net::Shutdown::Write);
            peer.expect_end();
        });
        let gateway = gateway(&backend);
        let at_rest = gateway.descriptors();
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answered = client.read_answer();
        assert_eq!((answered.status, answered.text()), (502, "502 Bad Gateway\n"), "{excerpt:?}");
        let record = gateway.record(|record| record["status"] == 502);
        assert!(record["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{record}");
        support::until("the backend's connection is closed", || gateway.descriptors() == at_rest + 1);
        drop(client);
        gateway.stop();
    }
}

#[test]
fn an_answer_whose_body_has_two_readings_is_broken_off() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n+0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\nx\r\n\r\n",
        "5\r\nhello\r\n",
    ] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
            let _ = peer.stream().shutdown(std::net::Shutdown::Write);
            peer.expect_end();
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let received = text(&client.read_to_end());
        assert!(!received.contains("0\r\n\r\n"), "its end is not said: {body:?}: {received:?}");
        let record = gateway.record(|record| record["record"] == "request");
        let cause = record["cause"].as_str().unwrap_or_default();
        assert!(cause.starts_with("the backend broke off within the body"), "{record}");
        drop(client);
        gateway.stop();
    }
}

#[test]
fn an_answer_with_both_framings_is_passed_on_with_the_one_it_was_read_by() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        let both = "Content-Length: 4\r\nTransfer-Encoding: chunked";
        peer.send(format!("HTTP/1.1 200 OK\r\n{both}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
        peer.read_to_end();
    });
    let gateway = gateway(&backend);
    let answer = Client::get(gateway.address("web"), "/");
    assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, Some("chunked")));
    assert_eq!(answer.text(), "hello");
    gateway.stop();
}

/// RFC 9112 section 6.3, 3: chunks are what counts, the length goes no further, and the connection ends after it.
#[test]
fn a_request_with_both_framings_is_passed_on_with_one_and_is_the_last() {
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let backend = Backend::start(take_one);
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send([&with(lines)[..], b"5\r\nhello\r\n0\r\n\r\n", HIDDEN.as_bytes()].concat());
        assert_eq!(client.read_answer().status, 200, "{lines:?}");
        client.expect_eof();
        drop(client);
        gateway.stop();
        let received = backend.finish();
        let [received] = &received[..] else { panic!("one request: {received:?}") };
        let received = text(received);
        let (head, body) = received.split_once("\r\n\r\n").expect("a head");
        assert_eq!((header(head, "content-length"), header(head, "transfer-encoding")), (None, Some("chunked")));
        assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
    }
}

#[test]
fn a_fragment_goes_no_further_and_has_no_part_in_the_choice_of_a_route() {
    let backend = Backend::start(take_one);
    let gateway = gateway(&backend);
    for (target, sent) in
        [("/a#b", "/a"), ("/a?b#/../c", "/a?b"), ("/#", "/"), ("/a#%", "/a"), ("http://localhost/a#b", "/a")]
    {
        let before = backend.connections();
        let answer = Client::ask(gateway.address("web"), format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, 200, "{target}");
        let received = text(&backend.received()[before]);
        assert!(received.starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "{target}: {received:?}");
    }
    gateway.stop();
}
