//! Answers of backends that are broken, or not what the gateway believes to talk to: relayed exactly, or 502, or 504 at
//! the deadline; and never more memory than a head may have.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::backend::{Backend, switching};
use support::client::{ACCEPT, Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Peer, header, header_lines};

fn gateway(endpoint: SocketAddr, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\n[[route]]\nupstream = \"app\"\n"
    ))
}

const PLAIN: &str = "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n";

/// An opening handshake, and a plain request.
fn requests() -> [String; 2] {
    [opening_handshake("a", "/ws", ""), PLAIN.to_owned()]
}

/// Sends the same as long as the other end takes it.
fn flood(peer: &mut Peer, bytes: &str) {
    while peer.try_send(bytes).is_ok() {}
}

/// One answer of that status to each kind of request, and a record with that cause.
fn refused(gateway: &Gateway, status: u16, cause: &str) {
    for request in requests() {
        let mut client = Client::connect(gateway.address("web"));
        client.send(&request);
        let answer = client.read_answer();
        assert_eq!(answer.status, status, "{cause}: {answer:?}");
        let record = gateway.record(|_| true);
        assert_eq!((&record["record"], &record["status"]), (&"request".into(), &status.into()));
        assert!(record["cause"].as_str().is_some_and(|told| told.starts_with(cause)), "{cause}: {record}");
    }
}

#[test]
fn informational_answers_before_the_101_are_dropped() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
        peer.send(format!("HTTP/1.1 100 Continue\r\n\r\n{early}"));
        peer.send(format!("HTTP/1.1 102 Processing\r\n\r\n{early}{}glued", switching(ACCEPT)));
        peer.expect_eof();
    });
    let gateway = gateway(backend.address(), "");
    let (mut client, head) = Client::upgrade(gateway.address("web"), "/ws");
    assert_eq!(header(&head, "link"), None, "{head:?}");
    assert_eq!(client.read_exact(5), b"glued");
    client.finish_sending();
    client.expect_eof();
    let record = gateway.record(|_| true);
    assert_eq!((&record["record"], &record["received"]), (&"tunnel".into(), &5.into()));
    gateway.stop();
    backend.finish();
}

/// hyper reads over what it does not pass on for as long as more is there, all within one turn of its task: until the
/// backend ran dry, whoever shared the worker waited, and no deadline was looked at.
#[test]
fn informational_answers_without_end_are_a_502_at_once() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        flood(&mut peer, &"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(100));
    });
    let gateway = gateway(backend.address(), "");
    refused(&gateway, 502, "the backend sent informational answers without end");
    gateway.stop();
    backend.finish();
}

#[test]
fn informational_answers_now_and_then_do_not_move_the_deadline() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        while peer.try_send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20)); // the backend's own pace
        }
    });
    let gateway = gateway(backend.address(), "[timeouts]\nupgrade = \"300ms\"\nresponse_head = \"300ms\"");
    for (request, cause) in requests().into_iter().zip(["timeouts.upgrade", "timeouts.response_head"]) {
        let mut client = Client::connect(gateway.address("web"));
        client.send(request);
        assert_eq!(client.read_answer().status, 504);
        let record = gateway.record(|_| true);
        assert_eq!(record["cause"], format!("the backend did not answer within {cause}"));
        assert!(record["took_ms"].as_f64().expect("a number") >= 300.0, "{record}");
    }
    gateway.stop();
    backend.finish();
}

/// A head of 2 MB, and heads that never end: in one line, in many, in the reason, in white space.
#[test]
fn a_head_that_is_too_large_is_a_502() {
    let line = "X: y\r\n";
    for (begin, forever) in [
        (String::new(), "x"),
        ("HTTP/1.1 101 ".into(), "very reasonable "),
        ("HTTP/1.1 101 Yes\r\nX: ".into(), "xxxxxxxx"),
        ("HTTP/1.1 101 Yes\r\n".into(), "x"),
        ("HTTP/1.1 101 Yes\r\n".into(), "X-Line: value\r\n"),
        (format!("HTTP/1.1 101 Yes\r\nX: {}\r\n\r\n", "x".repeat(2_000_000)), ""),
        (format!("HTTP/1.1 101 Yes\r\n{}\r\n", format!("X: {}\r\n", "x".repeat(40_000)).repeat(50)), ""),
        (format!("HTTP/1.1 101 Yes\r\n{}\r\n", line.repeat(101)), ""),
    ] {
        let cause = match begin.is_empty() {
            true => "the backend's answer is not HTTP",
            false => "the head of the backend's answer is too large",
        };
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            if forever.is_empty() {
                let _ = peer.try_send(&begin);
                peer.expect_end();
            } else {
                peer.send(&begin);
                flood(&mut peer, &forever.repeat(1000));
            }
        });
        let gateway = gateway(backend.address(), "");
        refused(&gateway, 502, cause);
        gateway.stop();
        backend.finish();
    }
}

/// The bound is `limits.head_size`, be it below or above what is buffered in any case, and it is exact.
#[test]
fn an_answers_head_may_be_as_large_as_head_size() {
    for (configured, size) in [("1KiB", 1 << 10), ("32KiB", 32 << 10), ("64KiB", 64 << 10), ("256KiB", 256 << 10)] {
        for (beyond, status) in [(0, 101), (1, 502)] {
            let backend = Backend::start(move |mut peer| {
                peer.read_head();
                let bare = switching(ACCEPT).replace("\r\n\r\n", "\r\nX-Much: \r\n\r\n");
                let much = "m".repeat(size + beyond - bare.len());
                let _ = peer.try_send(bare.replace("X-Much: ", &format!("X-Much: {much}")));
                peer.expect_end();
            });
            let gateway = gateway(backend.address(), &format!("[limits]\nhead_size = \"{configured}\""));
            let mut client = Client::connect(gateway.address("web"));
            client.send(opening_handshake("a", "/ws", ""));
            let head = client.read_head();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{configured} and {beyond}: {:?}", &head[..80]);
            drop(client);
            assert_eq!(gateway.record(|_| true)["status"], status);
            gateway.stop();
            backend.finish();
        }
    }
}

#[test]
fn a_101_that_comes_one_byte_at_a_time_is_a_101() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        for byte in format!("HTTP/1.1 103 Early Hints\r\n\r\n{}glued", switching(ACCEPT)).bytes() {
            peer.send([byte]);
        }
        assert_eq!(peer.read_exact(2), b"hi");
        peer.expect_eof();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    // The client's side just as slow.
    for byte in opening_handshake("a", "/ws", "").bytes() {
        client.send([byte]);
    }
    assert_eq!(header(&client.read_head(), "sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(client.read_exact(5), b"glued");
    client.send("hi");
    client.finish_sending();
    client.expect_eof();
    gateway.stop();
    backend.finish();
}

/// A 101 has no body, whatever it says: what follows it are the tunnel's bytes, and the client must not be told otherwise
/// (RFC 9110 section 8.6, RFC 9112 section 6.1).
#[test]
fn a_101_that_announces_a_body_is_relayed_without_the_announcement() {
    for line in ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked"] {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(switching(ACCEPT).replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\nmore than five bytes")));
            assert_eq!(peer.read_exact(2), b"hi");
            peer.expect_eof();
        });
        let gateway = gateway(backend.address(), "");
        let (mut client, head) = Client::upgrade(gateway.address("web"), "/ws");
        for name in ["content-length", "transfer-encoding"] {
            assert_eq!(header_lines(&head, name), [""; 0], "{head:?}");
        }
        assert_eq!(client.read_exact(20), b"more than five bytes");
        client.send("hi");
        client.finish_sending();
        client.expect_eof();
        gateway.stop();
        backend.finish();
    }
}

/// All that is passed on is HTTP/1.1, and the proof is what counts.
#[test]
fn a_101_of_http_1_0_is_relayed_as_one_of_http_1_1() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send(switching(ACCEPT).replace("HTTP/1.1", "HTTP/1.0"));
        peer.expect_eof();
    });
    let gateway = gateway(backend.address(), "");
    let (client, head) = Client::upgrade(gateway.address("web"), "/ws");
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head:?}");
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
    backend.finish();
}

/// Servers of other protocols speak first, and some answer before they are asked: nothing of it is an answer.
#[test]
fn what_a_backend_says_before_it_is_asked_opens_nothing() {
    for greeting in ["220 mail.example ESMTP\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "\0\0\0\x01"] {
        let backend = Backend::start(move |mut peer| {
            peer.send(greeting);
            // FIN or RST, with a request before it or not.
            while peer.try_read_some().is_ok_and(|some| !some.is_empty()) {}
        });
        let gateway = gateway(backend.address(), "[timeouts]\nupgrade = \"300ms\"\nresponse_head = \"300ms\"");
        for request in requests() {
            let mut client = Client::connect(gateway.address("web"));
            client.send(request);
            assert!(matches!(client.read_answer().status, 502 | 504), "{greeting:?}");
            assert_eq!(gateway.record(|_| true)["record"], "request");
        }
        gateway.stop();
        backend.finish();
    }
}
