//! Connections to backends that are kept: when one is asked again, when it is not, and what becomes of a request whose
//! connection turns out to be dead.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::backend::Backend;
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{Peer, header};
use support::{GUARD, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A gateway with one worker, and so with one pool.
fn gateway(backend: &Backend, upstream: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n{upstream}\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A backend whose connections each run a script that knows its place in the order of their coming.
fn numbered(script: impl Fn(usize, Peer) + Send + Sync + 'static) -> Backend {
    let next = AtomicUsize::new(0);
    Backend::start(move |peer| script(next.fetch_add(1, Ordering::SeqCst), peer))
}

/// Answers every request that comes.
fn serve(peer: &mut Peer, body: &str) {
    while peer.next_head().is_some() {
        peer.send(ok(body));
    }
}

fn requests(bytes: &[u8]) -> usize {
    support::peer::text(bytes).matches(" HTTP/1.1\r\n").count()
}

/// Two ends of a channel that scripts on several threads may use.
fn shared<T>() -> (Sender<T>, Arc<Mutex<Receiver<T>>>) {
    let (sender, receiver) = channel();
    (sender, Arc::new(Mutex::new(receiver)))
}

fn wait<T>(receiver: &Mutex<Receiver<T>>) -> T {
    receiver.lock().expect("no script has failed").recv_timeout(GUARD).expect("a message")
}

fn record(gateway: &Gateway) -> Value {
    gateway.record(|record| record["record"] == "request")
}

#[test]
fn a_connection_is_used_again_by_the_same_client_and_by_another() {
    let backend = Backend::start(|mut peer| serve(&mut peer, "here"));
    let gateway = gateway(&backend, "");
    let mut client = Client::connect(gateway.address("web"));
    for _ in 0..5 {
        client.send(GET);
        assert_eq!(client.read_answer().text(), "here");
    }
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
    client.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_answer().text(), "here");
    assert_eq!(backend.connections(), 1);
    drop(client);
    gateway.stop();
    assert_eq!(requests(&backend.finish()[0]), 7);
}

#[test]
fn pipelined_requests_are_answered_in_their_order_over_one_connection() {
    let backend = Backend::start(|mut peer| {
        while let Some(head) = peer.next_head() {
            peer.send(ok(head.split(' ').nth(1).expect("a target")));
        }
    });
    let gateway = gateway(&backend, "");
    let mut client = Client::connect(gateway.address("web"));
    let asked: Vec<_> = (0..20).map(|n| format!("/{n}")).collect();
    client.send(asked.iter().map(|path| GET.replacen('/', path, 1)).collect::<String>());
    for path in &asked {
        assert_eq!(client.read_answer().text(), path);
    }
    drop(client);
    gateway.stop();
}

#[test]
fn no_more_than_pool_idle_connections_are_kept() {
    let ((came, comes), (go, may_go), (ended, ends)) = (shared(), shared(), shared());
    let (came, ended) = (Mutex::new(came), Mutex::new(ended));
    let backend = Backend::start(move |mut peer| {
        while peer.next_head().is_some() {
            came.lock().expect("a sender").send(()).expect("the test waits");
            wait(&may_go);
            peer.send(ok("here"));
        }
        ended.lock().expect("a sender").send(()).expect("the test waits");
    });
    let gateway = gateway(&backend, "pool = { idle = 2, idle_timeout = \"1m\" }");
    let at_once = |count: usize| {
        let mut clients: Vec<_> = (0..count).map(|_| Client::connect(gateway.address("web"))).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        (0..count).for_each(|_| wait(&comes));
        (0..count).for_each(|_| go.send(()).expect("a script waits"));
        clients.iter_mut().for_each(|client| assert_eq!(client.read_answer().text(), "here"));
    };
    at_once(5);
    // As long as there is work for them, all of them have it. (On a machine that pauses some may have been closed between.)
    let opens_none = |_| {
        let before = backend.connections();
        at_once(5);
        backend.connections() == before
    };
    assert!((0..10).any(opens_none), "each burst opens connections of its own");
    // When there is none, all but two are closed; these are asked again.
    let opened = backend.connections();
    (2..opened).for_each(|_| wait(&ends));
    at_once(2);
    assert_eq!(backend.connections(), opened);
    assert!(ends.lock().expect("a receiver").try_recv().is_err(), "two are kept on");
    gateway.stop();
}

#[test]
fn an_idle_connection_is_closed_after_idle_timeout_and_not_before() {
    let (ended, ends) = shared();
    let ended = Mutex::new(ended);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let answered = Instant::now();
        peer.send(ok("here"));
        peer.expect_eof();
        ended.lock().expect("a sender").send(answered.elapsed()).expect("the test waits");
    });
    let gateway = gateway(&backend, "pool = { idle = 32, idle_timeout = \"200ms\" }");
    let at_rest = gateway.descriptors();
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
    assert!(wait(&ends) >= Duration::from_millis(200), "it is kept so long");
    until("its descriptor is gone", || gateway.descriptors() == at_rest);
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
    assert_eq!(backend.connections(), 2);
    gateway.stop();
}

#[test]
fn a_backend_that_closes_an_idle_connection_is_noticed() {
    let (close, may_close) = shared::<()>();
    let backend = numbered(move |number, mut peer| {
        peer.read_head();
        peer.send(ok("here"));
        if number == 0 {
            wait(&may_close);
            peer.finish_sending();
            peer.expect_eof();
        } else {
            serve(&mut peer, "here");
        }
    });
    let gateway = gateway(&backend, "pool = { idle = 32, idle_timeout = \"1h\" }");
    let mut client = Client::connect(gateway.address("web"));
    client.send(GET);
    assert_eq!(client.read_answer().text(), "here");
    let kept = gateway.descriptors();
    close.send(()).expect("the script waits");
    until("its descriptor is gone", || gateway.descriptors() == kept - 1);
    client.send(GET);
    assert_eq!(client.read_answer().text(), "here");
    assert_eq!(backend.connections(), 2);
    let records: Vec<_> = (0..2).map(|_| record(&gateway)).collect();
    assert!(records.iter().all(|record| record["status"] == 200 && record.get("cause").is_none()), "{records:?}");
    drop(client);
    gateway.stop();
}

/// A backend that answers its first connection's first request, does `then` to the second, and serves every other one.
fn dies_at_the_second(then: impl Fn(Peer) + Send + Sync + 'static) -> Backend {
    numbered(move |number, mut peer| {
        if number == 0 {
            peer.read_head();
            peer.send(ok("first"));
            then(peer);
        } else {
            while let Some(head) = peer.next_head() {
                let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
                peer.read_exact(length);
                peer.send(ok("fresh"));
            }
        }
    })
}

#[test]
fn a_get_whose_kept_connection_is_reset_is_asked_again_over_a_fresh_one() {
    let backend = dies_at_the_second(|mut peer| {
        peer.read_head();
        peer.reset();
    });
    let gateway = gateway(&backend, "");
    assert_eq!(Client::get(gateway.address("web"), "/one").text(), "first");
    assert_eq!(Client::get(gateway.address("web"), "/two").text(), "fresh");
    let records: Vec<_> = (0..2).map(|_| record(&gateway)).collect();
    assert!(records.iter().all(|record| record["status"] == 200 && record.get("cause").is_none()), "{records:?}");
    gateway.stop();
    let received = backend.finish();
    let heads: Vec<_> = received.iter().map(|bytes| support::peer::text(bytes)).collect();
    let [one, two] = &heads[..] else { panic!("two connections: {heads:?}") };
    // The same head twice, to a byte.
    assert_eq!(one[one.find("GET /two").expect("the second request")..], two[..]);
}

#[test]
fn a_request_that_asking_twice_would_do_twice_is_sent_once() {
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nonce",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        "PATCH / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonce\r\n0\r\n\r\n",
        // Asking twice would do no harm, but its body has gone.
        "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nonce",
    ] {
        let has_body = request.contains("once");
        let backend = dies_at_the_second(move |mut peer| {
            peer.read_head();
            while has_body && !peer.read_line().ends_with("once") {}
            peer.reset();
        });
        // The script reads lines: the body's last one has an end only in chunks.
        let request = request.replace("Content-Length: 4\r\n\r\nonce", "Content-Length: 6\r\n\r\nonce\r\n");
        let gateway = gateway(&backend, "");
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "first");
        assert_eq!(Client::ask(gateway.address("web"), &request).status, 502, "{request}");
        let record = gateway.record(|record| record["status"] == 502);
        assert!(record["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{record}");
        gateway.stop();
        let received = backend.finish();
        assert_eq!(received.len(), 1, "{request}: no second connection");
        assert_eq!(requests(&received[0]), 2, "{request}");
    }
}

#[test]
fn a_request_is_not_asked_again_once_its_answer_has_begun() {
    let backend = dies_at_the_second(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 O");
        peer.finish_sending();
        peer.expect_end();
    });
    let gateway = gateway(&backend, "");
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "first");
    assert_eq!(Client::get(gateway.address("web"), "/").status, 502);
    assert_eq!(backend.connections(), 1);
    gateway.stop();
}

/// The connection ends while the request is on its way to it: nothing of it was sent, so that a POST may be sent, too.
#[test]
fn a_request_of_which_nothing_was_sent_is_sent_over_a_fresh_connection() {
    for request in [
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nonce",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        GET,
    ] {
        let (close, may_close) = shared::<()>();
        let (closed, is_closed) = shared::<()>();
        let closed = Mutex::new(closed);
        let backend = dies_at_the_second(move |mut peer| {
            wait(&may_close);
            peer.finish_sending();
            closed.lock().expect("a sender").send(()).expect("the test waits");
            peer.expect_eof();
        });
        let gateway = gateway(&backend, "");
        let mut client = Client::connect(gateway.address("web"));
        client.send(GET);
        assert_eq!(client.read_answer().text(), "first");
        gateway.standing_still(|| {
            client.send(request);
            close.send(()).expect("the script waits");
            wait(&is_closed);
        });
        assert_eq!(client.read_answer().text(), "fresh", "{request}");
        drop(client);
        gateway.stop();
        let received = backend.finish();
        assert_eq!(received.iter().map(|bytes| requests(bytes)).collect::<Vec<_>>(), [1, 1], "{request}");
    }
}

#[test]
fn a_slow_download_blocks_no_stranger() {
    const LENGTH: usize = 24 << 20;
    let backend = Backend::start(|mut peer| {
        peer.stop_logging();
        while let Some(head) = peer.next_head() {
            if head.starts_with("GET /large ") {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
                (0..LENGTH >> 20).for_each(|_| peer.send(vec![b'x'; 1 << 20]));
            } else {
                peer.send(ok("small"));
            }
        }
    });
    let gateway = gateway(&backend, "");
    let mut slow = Client::connect(gateway.address("web"));
    slow.send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    slow.read_head();
    for _ in 0..10 {
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "small");
    }
    assert_eq!(backend.connections(), 2);
    slow.discard(LENGTH as u64);
    drop(slow);
    let large = gateway.record(|record| record["path"] == "/large");
    assert_eq!((&large["received"], large.get("cause")), (&Value::from(LENGTH), None));
    gateway.stop();
}

#[test]
fn without_a_pool_each_request_has_a_connection_of_its_own() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send(ok("here"));
        peer.expect_eof();
    });
    let gateway = gateway(&backend, "pool = \"off\"");
    let at_rest = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    for asked in 1..=3 {
        client.send(GET);
        assert_eq!(client.read_answer().text(), "here");
        until("no backend's descriptor is left", || gateway.descriptors() == at_rest + 1);
        assert_eq!(backend.connections(), asked);
    }
    drop(client);
    gateway.stop();
}

#[test]
fn an_answer_without_a_body_gives_its_connection_back() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let backend = Backend::start(move |mut peer| {
            while let Some(head) = peer.next_head() {
                peer.send(if head.contains(" /last ") { ok("last") } else { answer.to_owned() });
            }
        });
        let gateway = gateway(&backend, "");
        let mut client = Client::connect(gateway.address("web"));
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let head = client.read_head();
            assert_eq!(head.split(' ').nth(1), answer.split(' ').nth(1), "{method} {answer}");
            if header(&head, "transfer-encoding").is_some() && method == "GET" {
                assert!(client.read_chunks().is_empty());
            }
        }
        client.send("GET /last HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.read_answer().text(), "last", "{method} {answer}");
        assert_eq!(backend.connections(), 1, "{method} {answer}");
        drop(client);
        gateway.stop();
    }
}

#[test]
fn a_backend_that_says_close_is_not_asked_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nhere",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhere\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nhere",
    ] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(answer);
            // It means what it said, and leaves the closing to the gateway.
            peer.expect_eof();
        });
        let gateway = gateway(&backend, "");
        let at_rest = gateway.descriptors();
        let mut client = Client::connect(gateway.address("web"));
        for asked in 1..=2 {
            client.send(GET);
            let answered = client.read_answer();
            // The client's own connection has nothing to do with it.
            assert_eq!(answered.header("connection"), None, "{answered:?}");
            assert_eq!(answered.body, if answered.status == 204 { &b""[..] } else { b"here" });
            until("the backend's connection is closed", || gateway.descriptors() == at_rest + 1);
            assert_eq!(backend.connections(), asked, "{answer}");
        }
        drop(client);
        gateway.stop();
    }
}

/// What a backend sends unasked would be the answer to somebody else's request if the connection were asked again.
#[test]
fn unasked_bytes_are_nobodys_answer() {
    for glued in [true, false] {
        let (go, may_go) = shared::<()>();
        let (sent, is_sent) = shared::<()>();
        let sent = Mutex::new(sent);
        let backend = numbered(move |number, mut peer| {
            if number > 0 {
                return serve(&mut peer, "right");
            }
            peer.read_head();
            if glued {
                peer.send(ok("first") + &ok("forged"));
            } else {
                peer.send(ok("first"));
                wait(&may_go);
                peer.send(ok("forged"));
                sent.lock().expect("a sender").send(()).expect("the test waits");
            }
            peer.expect_end();
        });
        let gateway = gateway(&backend, "");
        let mut client = Client::connect(gateway.address("web"));
        client.send(if glued { GET.repeat(2) } else { GET.to_owned() });
        assert_eq!(client.read_answer().text(), "first");
        if !glued {
            gateway.standing_still(|| {
                client.send(GET);
                go.send(()).expect("the script waits");
                wait(&is_sent);
            });
        }
        assert_eq!(client.read_answer().text(), "right", "glued: {glued}");
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "right");
        drop(client);
        gateway.stop();
        assert_eq!(requests(&backend.finish()[0]), 1, "nothing was asked over it again");
    }
}

#[test]
fn a_client_that_leaves_within_a_download_ends_the_backends_connection() {
    let backend = numbered(|number, mut peer| {
        if number > 0 {
            return serve(&mut peer, "right");
        }
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        peer.expect_end();
    });
    let gateway = gateway(&backend, "");
    let at_rest = gateway.descriptors();
    let mut client = Client::connect(gateway.address("web"));
    client.send(GET);
    client.read_head();
    assert_eq!(client.read_line(), "5");
    drop(client);
    let record = record(&gateway);
    assert_eq!(record["cause"], "the client left before the answer was sent whole", "{record}");
    until("nothing is left of it", || gateway.descriptors() == at_rest);
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "right");
    assert_eq!(backend.connections(), 2);
    gateway.stop();
}
