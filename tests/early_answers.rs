//! Answers that come before the request's body was read. Bytes that are unread when a socket is closed turn the close into
//! a reset, and a reset may eat the answer (RFC 9112 section 9.6); and if the connection went on instead, what is left of
//! the body must not become the next request.

mod support;

use std::io::Read;
use std::thread;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use support::backend::Backend;
use support::client::Client;
use support::gateway::{Gateway, Signal};
use support::peer::{Peer, header, text};
use support::until;

const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
/// What bodies here are made of: a reader that takes a body for requests has plenty of them.
const HIDDEN: &str = "GET /app/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/app\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/fixed\"\nrespond = {{ status = 403, body = \"not here\" }}\n",
        backend.address()
    ))
}

fn body(length: usize) -> Vec<u8> {
    HIDDEN.bytes().cycle().take(length).collect()
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
}

/// Answers 413 to a head, and only then takes the body, and whatever is asked next.
fn refuse(mut peer: Peer) {
    while let Some(head) = peer.next_head() {
        if let Some(length) = header(&head, "content-length") {
            peer.send(TOO_LARGE);
            let length: usize = length.parse().expect("a number");
            if !peer.skip_or_end(length) {
                return;
            }
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        }
    }
}

/// All that the client gets, and its end, which must be a FIN.
fn rest(client: &mut Peer) -> String {
    text(&client.read_to_end())
}

#[test]
fn a_client_that_is_still_sending_gets_the_whole_answer_and_no_reset() {
    const LENGTH: usize = 200 << 10;
    let backend = Backend::start(refuse);
    let gateway = gateway(&backend);
    for (path, answer) in [("/app", "too large"), ("/fixed", "not here"), ("/nowhere", "404 Not Found: ")] {
        let mut client = Client::connect(gateway.address("web"));
        client.send(post(path, LENGTH));
        // The answer has left before the first byte of the body comes.
        gateway.record(|record| record["path"] == path);
        body(LENGTH).chunks(16 << 10).for_each(|part| client.send(part));
        let answered = client.read_answer();
        assert!(answered.text().starts_with(answer), "{path}: {answered:?}");
        assert_eq!(rest(&mut client), "", "{path}: a FIN, and no second answer");
    }
    gateway.stop();
}

/// The backend takes nothing of the body and says nothing more. The answer was all that there is to come: neither the
/// client nor the backend is kept waiting for the rest of the body.
#[test]
fn an_upload_to_a_backend_that_has_answered_and_does_not_read_ends() {
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        peer.set_receive_buffer(4096);
        peer.read_head();
        peer.send(TOO_LARGE);
        may_go.lock().expect("one script").recv_timeout(support::GUARD).expect("the test's word");
    });
    let gateway = gateway(&backend);
    let at_rest = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        let _ = sender.try_send([post("/app", 64 << 20).into_bytes(), body(64 << 20)].concat());
    });
    assert_eq!(client.read_answer().text(), "too large");
    sending.join().expect("it is told to stop");
    drop(client);
    until("both connections have gone", || gateway.descriptors() == at_rest);
    go.send(()).expect("the script waits");
    gateway.stop();
}

#[test]
fn a_client_that_sends_a_megabyte_before_it_looks_gets_the_whole_answer() {
    const LENGTH: usize = 1 << 20;
    let backend = Backend::start(refuse);
    let gateway = gateway(&backend);
    for (path, answer) in [("/app", "too large"), ("/fixed", "not here")] {
        let mut client = Client::connect(gateway.address("web"));
        let mut sender = client.sender();
        let sending = thread::spawn(move || {
            // It is not all taken: the answer says that it need not be.
            let _ = sender.try_send([post(path, LENGTH).into_bytes(), body(LENGTH)].concat());
        });
        assert_eq!(client.read_answer().text(), answer);
        sending.join().expect("it ends");
    }
    gateway.stop();
}

#[test]
fn a_body_is_never_parsed_as_the_next_request() {
    for (path, status) in [("/app", 413), ("/fixed", 403), ("/nowhere", 404)] {
        for length in [HIDDEN.len(), 100 * HIDDEN.len(), 5000 * HIDDEN.len()] {
            let backend = Backend::start(refuse);
            let gateway = gateway(&backend);
            let mut client = Client::connect(gateway.address("web"));
            let mut sender = client.sender();
            let next = "GET /app/next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let sending = thread::spawn(move || {
                let _ = sender.try_send([post(path, length).as_bytes(), &body(length), next.as_bytes()].concat());
            });
            assert_eq!(client.read_answer().status, status);
            // Either the connection has ended, or what follows is what follows the body.
            let mut got = Vec::new();
            let mut scrap = [0; 4096];
            while let Ok(read @ 1..) = client.stream().read(&mut scrap) {
                got.extend_from_slice(&scrap[..read]);
            }
            let got = text(&got);
            assert!(got.is_empty() || got.ends_with("\r\n\r\nnext"), "{path} {length}: {got:?}");
            sending.join().expect("it ends");
            drop(client);
            until("all of it is over", || gateway.records().iter().any(|record| record["status"] == status));
            let paths: Vec<_> = gateway.stop().iter().map(|record| record["path"].clone()).collect();
            assert!(paths.iter().all(|path| path != "/app/hidden"), "{path} {length}: {paths:?}");
            let received = backend.finish();
            assert!(received.iter().all(|bytes| !bytes.starts_with(b"GET /app/hidden")), "{path} {length}");
        }
    }
}

#[test]
fn a_backends_connection_with_half_a_request_on_it_is_not_kept() {
    let backend = Backend::start(refuse);
    let gateway = gateway(&backend);
    let at_rest = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    client.send(post("/app", 1000));
    client.send(body(500));
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text()), (413, "too large"));
    let next = Client::get(gateway.address("web"), "/app");
    assert_eq!((next.status, next.text()), (200, "next"));
    assert_eq!(backend.connections(), 2);
    assert_eq!(rest(&mut client), "");
    drop(client);
    until("one is kept, the other is not", || gateway.descriptors() == at_rest + 1);
    gateway.stop();
    assert!(backend.finish()[1].starts_with(b"GET /app HTTP/1.1\r\n"));
}

/// A backend that answers and closes at once resets its connection, for the body is on its way to it. The answer is there
/// before the reset, and it is what counts.
#[test]
fn a_backend_that_answers_and_closes_within_the_body_is_heard() {
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let (done, is_done) = std::sync::mpsc::channel();
    let words = std::sync::Mutex::new((may_go, done));
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let words = words.lock().expect("one script");
        words.0.recv_timeout(support::GUARD).expect("the test's word");
        peer.send(TOO_LARGE);
        peer.reset();
        words.1.send(()).expect("the test waits");
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(post("/app", 100_000));
    client.send(body(1000));
    until("the backend is asked", || backend.received().first().is_some_and(|bytes| !bytes.is_empty()));
    gateway.signal(Signal::SIGSTOP);
    let pid = Pid::from_raw(gateway.pid().try_into().expect("an id"));
    waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).expect("it stops");
    go.send(()).expect("the script waits");
    is_done.recv_timeout(support::GUARD).expect("it has answered and closed");
    client.send(body(1000));
    gateway.signal(Signal::SIGCONT);
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text()), (413, "too large"));
    assert_eq!(rest(&mut client), "");
    drop(client);
    let record = gateway.record(|record| record["record"] == "request");
    assert_eq!((record["status"].as_u64(), record["received"].as_u64()), (Some(413), Some(9)), "{record}");
    gateway.stop();
}

#[test]
fn an_early_answer_to_a_small_body_that_is_there_costs_no_connection() {
    let backend = Backend::start(|mut peer| {
        while peer.next_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
        }
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    client.send(post("/fixed", 5) + "hello" + "GET /app HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.read_answer().status, 403);
    assert_eq!(client.read_answer().text(), "next");
    drop(client);
    let records = gateway.stop();
    assert_eq!(records.iter().map(|record| &record["status"]).collect::<Vec<_>>(), [&Value::from(403), &200.into()]);
}

/// What is left of a body is no head, however slowly it comes: the answer that was given is the last word.
#[test]
fn the_rest_of_a_body_behind_its_answer_is_no_slow_head() {
    let backend = Backend::start(refuse);
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\nrequest_head = \"100ms\"\nkeep_alive = \"300ms\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/app\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/fixed\"\nrespond = {{ status = 403, body = \"not here\" }}\n",
        backend.address()
    ));
    for (path, status) in [("/app", 413), ("/fixed", 403)] {
        // Slowly, to its end and not to its end.
        for (length, sent) in [(30, 30), (30, 20)] {
            let mut client = Client::connect(gateway.address("web"));
            client.send(post(path, length));
            assert_eq!(client.read_answer().status, status);
            for byte in body(sent) {
                if client.try_send([byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            client.expect_eof();
        }
        // All of it at once, in more than one read of the gateway, and nothing more.
        for length in [1 << 10, 8 << 10, 12 << 10, 15 << 10, 30 << 10] {
            let mut client = Client::connect(gateway.address("web"));
            client.send([post(path, length).into_bytes(), body(length)].concat());
            assert_eq!(client.read_answer().status, status);
            assert_eq!(rest(&mut client), "", "{path} {length}");
        }
    }
    let records = gateway.stop();
    let statuses: Vec<_> = records.iter().map(|record| record["status"].as_u64()).collect();
    let expected = [[Some(413); 7], [Some(403); 7]].concat();
    assert_eq!(statuses, expected, "{records:#?}");
}

/// A body that was read to its end has no rest: what comes next is a head from its first byte.
#[test]
fn the_first_byte_behind_a_whole_request_begins_the_next() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.read_exact(5);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        peer.expect_eof();
    });
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\nrequest_head = \"100ms\"\nkeep_alive = \"10m\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ));
    let mut client = Client::connect(gateway.address("web"));
    client.send(post("/app", 5) + "he");
    client.send("llo");
    assert_eq!(client.read_answer().status, 200);
    client.send("G");
    assert_eq!(client.read_answer().status, 408);
    client.expect_eof();
    drop(client);
    gateway.stop();
}
