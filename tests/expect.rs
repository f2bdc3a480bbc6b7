//! A client that asks before it sends its body (`Expect: 100-continue`, RFC 9110 section 10.1.1): it is the backend that
//! says whether it wants it, and a backend that says nothing has a second to do so.

mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::GUARD;
use support::backend::Backend;
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{Peer, header};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// Long enough to see that nothing comes, and less than the gateway waits.
const SILENCE: Duration = Duration::from_millis(150);

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ))
}

fn put(lines: &str) -> String {
    format!("PUT / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{lines}\r\n")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A script whose every step waits for the test.
fn stepwise(script: impl Fn(Peer, &Mutex<Receiver<()>>) + Send + Sync + 'static) -> (Backend, Sender<()>) {
    let (go, may_go) = channel();
    let may_go = Arc::new(Mutex::new(may_go));
    (Backend::start(move |peer| script(peer, &may_go)), go)
}

fn wait(may_go: &Mutex<Receiver<()>>) {
    may_go.lock().expect("no script has failed").recv_timeout(GUARD).expect("the test's word");
}

#[test]
fn the_clients_100_is_the_backends() {
    for (lines, sent, seen) in [
        ("Content-Length: 5\r\n", "hello", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let (backend, go) = stepwise(move |mut peer, may_go| {
            let head = peer.read_head();
            assert_eq!(header(&head, "expect"), Some("100-continue"), "{head:?}");
            wait(may_go);
            // Nothing of the body came unasked.
            peer.expect_silence(Duration::from_millis(1));
            peer.send(CONTINUE);
            assert_eq!(support::peer::text(&peer.read_exact(seen.len())), seen);
            peer.send(ok("taken"));
            peer.read_head();
            peer.send(ok("next"));
            peer.expect_eof();
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send(put(lines));
        client.expect_silence(SILENCE);
        go.send(()).expect("the script waits");
        assert_eq!(client.read_head(), CONTINUE);
        client.expect_silence(SILENCE);
        client.send(sent);
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "taken", None));
        // Both connections go on.
        client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.read_answer().text(), "next");
        drop(client);
        assert_eq!(backend.connections(), 1);
        let record = gateway.record(|record| record["method"] == "PUT");
        assert_eq!((record["sent"].as_u64(), record["received"].as_u64()), (Some(5), Some(5)));
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn a_client_that_does_not_wait_is_not_held_up() {
    let (backend, go) = stepwise(|mut peer, may_go| {
        peer.read_head();
        wait(may_go);
        peer.send(CONTINUE);
        assert_eq!(peer.read_exact(5), b"hello");
        peer.send(ok("taken"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(put("Content-Length: 5\r\n") + "hello");
    go.send(()).expect("the script waits");
    // hyper leaves out the 100 where the body is there already; either is right (RFC 9110 section 10.1.1).
    let mut head = client.read_head();
    if head == CONTINUE {
        head = client.read_head();
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head:?}");
    assert_eq!(client.read_exact(5), b"taken");
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn a_final_answer_comes_instead_of_the_100_and_the_body_is_never_asked_for() {
    for eager in [false, true] {
        for lines in ["Content-Length: 43\r\n", "Transfer-Encoding: chunked\r\n"] {
            let (backend, go) = stepwise(|mut peer, may_go| {
                peer.read_head();
                wait(may_go);
                peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 4\r\n\r\nno!\n");
                // Its own connection is in the middle of a request: it is of no more use.
                peer.expect_eof();
            });
            let gateway = gateway(&backend);
            let mut client = Client::connect(gateway.address("web"));
            client.send(put(lines));
            // A body that is sent all the same is none of the next request's.
            let hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
            if eager {
                client.send(hidden);
            }
            go.send(()).expect("the script waits");
            let answer = client.read_answer();
            assert_eq!((answer.status, answer.text()), (417, "no!\n"), "no 100 before it");
            assert_eq!(answer.header("connection"), Some("close"));
            if !eager {
                let _ = client.try_send(hidden);
            }
            client.expect_eof();
            drop(client);
            let record = gateway.record(|_| true);
            assert_eq!((record["status"].as_u64(), record["sent"].as_u64()), (Some(417), Some(0)), "{record}");
            gateway.stop();
            let received = backend.finish();
            assert_eq!(received.len(), 1, "it is asked once");
            assert!(received[0].ends_with(b"\r\n\r\n") && !support::peer::text(&received[0]).contains("hidden"));
        }
    }
}

#[test]
fn the_body_of_a_refusal_arrives_whole_however_late_it_comes() {
    for lines in ["Content-Length: 43\r\n", "Transfer-Encoding: chunked\r\n"] {
        let (backend, go) = stepwise(|mut peer, may_go| {
            peer.read_head();
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\n");
            wait(may_go);
            peer.send("too ");
            wait(may_go);
            // The gateway still listens, and has sent nothing of the body.
            peer.expect_silence(Duration::from_millis(1));
            peer.send("big\n");
        });
        let gateway = gateway(&backend);
        let mut client = Client::connect(gateway.address("web"));
        client.send(put(lines));
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 413 "), "{head:?}");
        assert_eq!(header(&head, "connection"), Some("close"));
        client.expect_silence(SILENCE);
        for part in ["too ", "big\n"] {
            go.send(()).expect("the script waits");
            assert_eq!(support::peer::text(&client.read_exact(part.len())), part);
        }
        client.expect_eof();
        let record = gateway.record(|_| true);
        let counted = (record["status"].as_u64(), record["sent"].as_u64(), record["received"].as_u64());
        assert_eq!((counted, record.get("cause")), ((Some(413), Some(0), Some(8)), None), "{record}");
        drop(client);
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn after_a_second_without_a_word_the_body_is_asked_for() {
    let backend = Backend::start(|mut peer| {
        // It knows no expectations.
        peer.read_head();
        assert_eq!(peer.read_exact(5), b"hello");
        // A 100 that comes late is no answer.
        peer.send(CONTINUE.to_owned() + &ok("taken"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    let asked = Instant::now();
    client.send(put("Content-Length: 5\r\n"));
    assert_eq!(client.read_head(), CONTINUE);
    assert!(asked.elapsed() >= Duration::from_secs(1), "the backend has a second");
    client.send("hello");
    assert_eq!(client.read_answer().text(), "taken");
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn a_request_without_a_body_waits_for_nothing() {
    let (backend, go) = stepwise(|mut peer, may_go| {
        while peer.next_head().is_some() {
            wait(may_go);
            // RFC 9110 section 15.2: also who did not ask must be able to take one.
            peer.send(CONTINUE.to_owned() + &ok("taken"));
        }
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    for lines in ["", "Content-Length: 0\r\n"] {
        client.send(put(lines));
        go.send(()).expect("the script waits");
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "taken", None), "no 100");
    }
    drop(client);
    gateway.stop();
    assert_eq!(backend.finish().len(), 1);
}

#[test]
fn a_client_of_http_1_0_is_told_no_100() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        assert_eq!(peer.read_exact(5), b"hello");
        peer.send(CONTINUE.to_owned() + &ok("taken"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send("PUT / HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text()), (200, "taken"));
    client.expect_eof();
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn other_informational_answers_are_dropped_and_open_nothing() {
    let (backend, go) = stepwise(|mut peer, may_go| {
        peer.read_head();
        peer.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
        peer.send("HTTP/1.1 102 Processing\r\n\r\n");
        wait(may_go);
        peer.expect_silence(Duration::from_millis(1));
        peer.send(CONTINUE.repeat(2));
        assert_eq!(peer.read_exact(5), b"hello");
        peer.send("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned() + &ok("taken"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(put("Content-Length: 5\r\n"));
    client.expect_silence(SILENCE);
    go.send(()).expect("the script waits");
    assert_eq!(client.read_head(), CONTINUE);
    client.send("hello");
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text()), (200, "taken"));
    drop(client);
    gateway.stop();
    backend.finish();
}
