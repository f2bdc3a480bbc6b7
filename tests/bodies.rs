//! Bodies pass as they are, and as they come: nothing is gathered, nothing is changed but the hop-by-hop framing.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use support::backend::{Backend, respond};
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{header, text};
use support::{GUARD, until};

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ))
}

/// A gibibyte; SPLICEWAY_BODY_MIB is for a look at more, or at less on a machine that is slow.
fn large() -> u64 {
    std::env::var("SPLICEWAY_BODY_MIB").map_or(1024, |text| text.parse().expect("a number of MiB")) << 20
}

#[test]
fn large_bodies_pass_both_ways_at_once_in_bounded_memory() {
    const MOST: u64 = 64 << 20;
    let length = large();
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let mut sender = peer.sender();
        let sending = thread::spawn(move || {
            sender.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            let part = vec![b'r'; 1 << 20];
            (1..length >> 20).for_each(|_| sender.send(&part));
        });
        peer.discard(length);
        sending.join().expect("nearly all is sent");
        // An answer that ends before the request does would end the request.
        peer.send(vec![b'r'; 1 << 20]);
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(format!("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"));
    let mut sender = client.sender();
    let most = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let part = vec![b's'; 1 << 20];
            let send = |_| {
                sender.send(&part);
                gateway.pss()
            };
            (0..length >> 20).map(send).max().expect("some of it")
        });
        let head = client.read_head();
        assert_eq!(header(&head, "content-length"), Some(&*length.to_string()));
        client.discard(length);
        sending.join().expect("all is sent")
    });
    drop((client, sender));
    let record = gateway.record(|_| true);
    assert_eq!((record["sent"].as_u64(), record["received"].as_u64()), (Some(length), Some(length)), "{record}");
    println!("{} MiB each way: at most {most} bytes of PSS", length >> 20);
    assert!(most < MOST, "{most} bytes of PSS");
    gateway.stop();
}

#[test]
fn a_reader_that_is_slow_bounds_what_the_gateway_holds_both_ways() {
    // Far more than sockets and the gateway may hold, and nobody reads: the sender is stopped.
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        peer.stop_logging();
        peer.read_head();
        may_go.lock().expect("one script").recv_timeout(GUARD).expect("the test's word");
        assert!(peer.count_to_end() > 0);
    });
    let gateway = gateway(&backend);
    let client = Client::connect(gateway.address("web"));
    let sent = AtomicU64::new(0);
    let mut sender = client.sender();
    sender.send("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n");
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let part = vec![b's'; 64 << 10];
            while sender.try_send(&part).is_ok() {
                sent.fetch_add(part.len() as u64, Ordering::SeqCst);
            }
        });
        let mut before = u64::MAX;
        until("the sender is stopped", || {
            thread::sleep(std::time::Duration::from_millis(100));
            before == std::mem::replace(&mut before, sent.load(Ordering::SeqCst)) && before != 0
        });
        assert!(sent.load(Ordering::SeqCst) < 64 << 20, "{sent:?}");
        assert!(gateway.pss() < 64 << 20);
        client.stream().shutdown(std::net::Shutdown::Both).expect("a client may leave");
        go.send(()).expect("the script waits");
        sending.join().expect("it ends");
    });
    drop(client);
    gateway.stop();
}

#[test]
fn the_chunked_body_of_a_get_arrives() {
    for method in ["GET", "DELETE", "OPTIONS", "POST", "PATCH", "QUERY"] {
        let backend = Backend::start(|mut peer| {
            let head = peer.read_head();
            assert_eq!((header(&head, "transfer-encoding"), header(&head, "content-length")), (Some("chunked"), None));
            assert_eq!(peer.read_chunks(), b"hello, backend");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            peer.expect_eof();
        });
        let gateway = gateway(&backend);
        let lines = "Host: localhost\r\nTransfer-Encoding: chunked\r\n";
        let chunks = "5\r\nhello\r\n9\r\n, backend\r\n0\r\n\r\n";
        assert_eq!(
            Client::ask(gateway.address("web"), format!("{method} / HTTP/1.1\r\n{lines}\r\n{chunks}")).status,
            200
        );
        gateway.stop();
        backend.finish();
    }
}

/// What hyper passes on of them: those that Trailer names, to whom TE says that it takes them.
#[test]
fn trailers_pass_both_ways() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        assert_eq!((header(&head, "te"), header(&head, "connection")), (Some("trailers"), Some("te")));
        assert_eq!(header(&head, "trailer"), Some("x-sum"));
        assert_eq!(peer.read_line(), "5");
        assert_eq!(peer.read_exact(7), b"hello\r\n");
        assert_eq!(
            (peer.read_line(), peer.read_line().to_lowercase(), peer.read_line()),
            ("0".into(), "x-sum: 1".into(), String::new())
        );
        let lines = "Transfer-Encoding: chunked\r\nTrailer: X-Check";
        peer.send(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n5\r\nthere\r\n0\r\nX-Check: 2\r\n\r\n"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    let lines = "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n";
    client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"));
    let head = client.read_head();
    assert_eq!(header(&head, "trailer"), Some("X-Check"), "{head}");
    assert_eq!(client.read_line(), "5");
    assert_eq!(client.read_exact(7), b"there\r\n");
    assert_eq!((client.read_line(), client.read_line().to_lowercase()), ("0".into(), "x-check: 2".into()));
    assert_eq!(client.read_line(), "");
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn ranges_and_compressed_bodies_pass_as_they_are() {
    let compressed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\x07\0\x86\xa6\x10\x36\x05\0\0\0".as_slice();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-29/100\r\nContent-Encoding: gzip\r\n\
         Vary: Accept-Encoding\r\nETag: \"x-gzip\"\r\nContent-Length: {}\r\n\r\n",
        compressed.len()
    );
    let backend = Backend::start(respond([head.as_bytes(), compressed].concat()));
    let gateway = gateway(&backend);
    let asked = ["Range: bytes=5-29", "If-Range: \"x-gzip\"", "Accept-Encoding: gzip, br;q=0.5"];
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", asked.join("\r\n"));
    let answer = Client::ask(gateway.address("web"), request);
    assert_eq!((answer.status, &answer.body[..]), (206, compressed));
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a header");
        assert_eq!(answer.header(name), Some(value), "{line}");
    }
    gateway.stop();
    let received = text(&backend.finish()[0]);
    assert!(asked.iter().all(|line| received.contains(&format!("\r\n{line}\r\n"))), "{received}");
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let may_go = may_go.lock().expect("one script");
        let next = || may_go.recv_timeout(GUARD).expect("the test's word");
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in 0..5 {
            next();
            peer.send(format!("9\r\ndata: {event}\n\n\r\n"));
        }
        next();
        peer.send("0\r\n\r\n");
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    // The head alone, before the first event.
    assert_eq!(header(&client.read_head(), "content-type"), Some("text/event-stream"));
    for event in 0..5 {
        go.send(()).expect("the script waits");
        assert_eq!(text(&client.read_exact(14)), format!("9\r\ndata: {event}\n\n\r\n"));
    }
    go.send(()).expect("the script waits");
    assert_eq!(client.read_exact(5), b"0\r\n\r\n");
    drop(client);
    gateway.stop();
    backend.finish();
}

/// Long polling, and an answer that is made while the request is still being sent.
#[test]
fn each_part_of_a_body_is_answered_before_the_next_is_sent() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        loop {
            let size = peer.read_line();
            if size == "0" {
                assert_eq!(peer.read_line(), "");
                break;
            }
            let part = peer.read_exact(usize::from_str_radix(&size, 16).expect("a size"));
            assert_eq!(peer.read_line(), "");
            peer.send(format!("{size}\r\n{}\r\n", text(&part)));
        }
        peer.send("0\r\n\r\n");
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.read_head();
    for part in ["5\r\nfirst\r\n", "6\r\nsecond\r\n", "5\r\nthird\r\n"] {
        client.send(part);
        assert_eq!(text(&client.read_exact(part.len())), part);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.read_exact(5), b"0\r\n\r\n");
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn an_answer_without_a_body_has_the_length_that_belongs_to_it() {
    for (method, answer, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 12345", Some("12345")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", None),
        ("HEAD", "404 Not Found\r\nContent-Length: 9", Some("9")),
        ("GET", "204 No Content\r\nContent-Length: 5", None),
        ("GET", "204 No Content", None),
        ("GET", "304 Not Modified\r\nContent-Length: 5", None),
        ("HEAD", "304 Not Modified\r\nContent-Length: 5", None),
        ("GET", "200 OK\r\nContent-Length: 0", Some("0")),
        ("POST", "205 Reset Content\r\nContent-Length: 0", Some("0")),
    ] {
        let backend = Backend::start(move |mut peer| {
            while peer.next_head().is_some() {
                peer.send(format!("HTTP/1.1 {answer}\r\n\r\n"));
            }
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let head = client.read_head();
            assert!(head.starts_with(&format!("HTTP/1.1 {}", &answer[..3])), "{head:?}");
            assert_eq!(header(&head, "content-length"), length, "{method} {answer}: {head:?}");
            assert_eq!(header(&head, "transfer-encoding"), None, "{method} {answer}: {head:?}");
        }
        drop(client);
        let records = gateway.stop();
        assert!(records.iter().all(|record| record.get("cause").is_none() && record["received"] == 0), "{records:?}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_what_it_understands() {
    for (lines, answer, kept) in [
        ("", "Content-Length: 5\r\n\r\nhello", false),
        ("Connection: keep-alive\r\n", "Content-Length: 5\r\n\r\nhello", true),
        ("", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
        // A length that nobody knows is said by the close alone.
        ("Connection: keep-alive\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ] {
        let backend = Backend::start(move |mut peer| {
            while let Some(head) = peer.next_head() {
                assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head:?}");
                peer.send(format!("HTTP/1.1 200 OK\r\n{answer}"));
            }
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        for _ in 0..if kept { 3 } else { 1 } {
            client.send(format!("GET / HTTP/1.0\r\nHost: localhost\r\n{lines}\r\n"));
            let answer = client.read_answer();
            assert!(answer.head.starts_with("HTTP/1.0 200 OK\r\n"), "{answer:?}");
            assert_eq!((answer.text(), answer.header("transfer-encoding")), ("hello", None), "{lines:?}");
            assert_eq!(answer.header("connection") == Some("keep-alive"), kept, "{answer:?}");
        }
        if !kept {
            client.expect_eof();
        }
        drop(client);
        gateway.stop();
    }
}

#[test]
fn an_answer_that_ends_by_its_close_becomes_chunks() {
    for head in ["HTTP/1.0 200 OK\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n", "HTTP/1.1 200 OK\r\n"] {
        let backend = Backend::start(respond(format!("{head}\r\nuntil the close")));
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = client.read_answer();
            assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
            assert_eq!((answer.header("transfer-encoding"), answer.header("connection")), (Some("chunked"), None));
            assert_eq!(answer.text(), "until the close");
        }
        drop(client);
        assert_eq!(backend.connections(), 2);
        gateway.stop();
    }
}

#[test]
fn a_body_that_the_backend_breaks_off_has_no_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let backend = Backend::start(respond(answer));
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let got = text(&client.read_to_end());
        assert!(got.contains("hello") && !got.ends_with("0\r\n\r\n"), "{got:?}");
        drop(client);
        let record = gateway.record(|_| true);
        let cause = record["cause"].as_str().unwrap_or_default();
        assert!(cause.starts_with("the backend broke off within the body"), "{record}");
        assert_eq!(record["received"], 5);
        gateway.stop();
    }
}
