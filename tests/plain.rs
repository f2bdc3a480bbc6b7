//! A plain request to an upstream route: forwarded over a connection of its own, body and all, and its answer back.
//! One message, one framing, both ways; and what broke off never looks whole.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::backend::{self, Backend};
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{Answer, Peer, header, header_lines, text};

/// Each request over a connection of its own, and nothing told of the client: the rest is what was sent.
fn gateway(endpoint: SocketAddr, timeouts: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [forwarded]\nx_forwarded = false\nforwarded = false\nvia = false\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\npool = \"off\"\n\
         [[route]]\nupstream = \"app\"\n"
    ))
}

/// A backend that gives this answer, once, to whatever it is asked.
fn answering(answer: impl Into<Vec<u8>>) -> Backend {
    Backend::start(backend::respond(answer))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The lines of a head but for Date, which hyper adds, and the id, which is always told; in lower case and sorted.
fn lines(head: &str) -> Vec<String> {
    let lines = head.trim_end().split("\r\n").skip(1).map(str::to_ascii_lowercase);
    let mut lines: Vec<_> =
        lines.filter(|line| !line.starts_with("date:") && !line.starts_with("x-request-id:")).collect();
    lines.sort_unstable();
    lines
}

/// Reads until the connection ends, in whatever way, and says how.
fn read_to_some_end(peer: &mut Peer) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    loop {
        match peer.try_read_some() {
            Ok(more) if more.is_empty() => return (bytes, None),
            Ok(more) => bytes.extend(more),
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
}

fn took(record: &Value) -> f64 {
    record["took_ms"].as_f64().unwrap_or_else(|| panic!("no took_ms: {record}"))
}

#[test]
fn a_request_arrives_as_it_was_sent_but_for_what_concerns_one_connection() {
    let backend = answering(ok("fine"));
    let gateway = gateway(backend.address(), "");
    let answer = Client::ask(
        gateway.address("web"),
        "GET /a/b?c=%20d HTTP/1.1\r\nHost: a.example\r\nConnection: X-One, keep-alive\r\nAccept: */*\r\nX-One: 1\r\n\
         Connection: x-two,Content-Length\r\nX-Two: 2\r\nX-MiXed: 3\r\nX-MiXed: 4\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nCookie: a=b\r\n\r\n",
    );
    assert_eq!((answer.status, answer.text()), (200, "fine"));
    let record = gateway.record(|_| true);
    assert_eq!((&record["sent"], &record["received"], &record["status"]), (&json!(0), &json!(4), &json!(200)));
    gateway.stop();
    let asked = text(&backend.finish()[0]);
    assert!(asked.starts_with("GET /a/b?c=%20d HTTP/1.1\r\n"), "{asked}");
    assert_eq!(lines(&asked), ["accept: */*", "cookie: a=b", "host: a.example", "x-mixed: 3", "x-mixed: 4"]);
    assert!(asked.contains("\r\nX-MiXed: 3\r\n"), "the case of names is kept: {asked}");
}

#[test]
fn an_answer_arrives_as_it_was_sent_but_for_what_concerns_one_connection() {
    let backend = answering(
        "HTTP/1.1 404 Nothing Here\r\nConnection: X-One\r\nX-One: 1\r\nContent-Length: 2\r\nConnection: close, x-two\r\n\
         X-Two: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nX-MiXed: yes\r\nServer: s\r\n\r\nno",
    );
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    // What one connection of the backend says of itself ends none of the client's.
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text()), (404, "no"));
        let kept = ["content-length: 2", "server: s", "set-cookie: a=1", "set-cookie: b=2", "x-mixed: yes"];
        assert_eq!(lines(&answer.head), kept);
        assert!(answer.head.starts_with("HTTP/1.1 404 Nothing Here\r\n"), "{answer:?}");
        assert!(answer.head.contains("\r\nX-MiXed: yes\r\n"), "{answer:?}");
    }
    drop(client);
    gateway.stop();
}

#[test]
fn a_connection_carries_one_request_after_another() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
        let body = text(&peer.read_exact(length));
        peer.send(ok(&format!("{} {body}", head.split(' ').nth(1).expect("a path"))));
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    for turn in 0..5 {
        client.send(format!("GET /get{turn} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.read_answer().text(), format!("/get{turn} "));
        client.send(format!("POST /post{turn} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody{turn}"));
        assert_eq!(client.read_answer().text(), format!("/post{turn} body{turn}"));
    }
    // All at once, answered in their order.
    client.send(
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz\
         GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let answers: Vec<_> = (0..3).map(|_| client.read_answer()).collect();
    assert_eq!(answers.iter().map(Answer::text).collect::<Vec<_>>(), ["/a ", "/b xyz", "/c "]);
    client.expect_eof();
    drop(client);
    assert_eq!(backend.connections(), 13, "each over a connection of its own");
    let records = gateway.stop();
    assert_eq!(records.len(), 13);
    assert_eq!(records.iter().map(|record| record["sent"].as_u64().expect("sent")).sum::<u64>(), 5 * 5 + 3);
}

/// hyper's client drops the body of a GET that says no length: the gateway says that it is chunked.
#[test]
fn a_chunked_upload_arrives_whole_also_of_a_get() {
    for method in ["POST", "GET", "PUT", "DELETE"] {
        let backend = Backend::start(|mut peer| {
            let head = peer.read_head();
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
            assert_eq!(header(&head, "content-length"), None, "{head}");
            let body = peer.read_chunks();
            peer.send(ok(&text(&body)));
            peer.expect_end();
        });
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n6;x=y\r\nin two\r\n"));
        client.send("7\r\n pieces\r\n0\r\n\r\n");
        assert_eq!(client.read_answer().text(), "in two pieces", "{method}");
        client.finish_sending();
        client.expect_eof();
        assert_eq!(gateway.stop()[0]["sent"], 13);
        backend.finish();
    }
}

#[test]
fn an_answer_has_one_framing_and_ends_where_the_backends_did() {
    // Method, what the backend sends; then the framing lines that the client sees, and the body.
    let table: [(&str, &str, &[&str], &str); 10] = [
        ("GET", "200 OK\r\nContent-Length: 5\r\n\r\nwhole", &["content-length: 5"], "whole"),
        ("GET", "200 OK\r\nContent-Length: 0\r\n\r\n", &["content-length: 0"], ""),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwh\r\n3;a=b\r\nole\r\n0\r\n\r\n",
            &["transfer-encoding: chunked"],
            "whole",
        ),
        ("GET", "200 OK\r\n\r\nuntil the close", &["transfer-encoding: chunked"], "until the close"),
        ("POST", "500 Oh\r\nContent-Length: 3\r\n\r\nbad", &["content-length: 3"], "bad"),
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n\r\n", &["content-length: 5"], ""),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &[], ""),
        ("GET", "204 No Content\r\nContent-Length: 5\r\n\r\n", &[], ""),
        ("GET", "304 Not Modified\r\nETag: \"x\"\r\n\r\n", &["etag: \"x\""], ""),
        ("GET", "304 Not Modified\r\nContent-Length: 5\r\n\r\n", &[], ""),
    ];
    for (method, sent, framing, body) in table {
        let backend = answering(format!("HTTP/1.1 {sent}"));
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        // The second request tells that the first answer ended where it had to.
        for round in 1..=2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n{length}\r\n"));
            let (head, got) = match method {
                "HEAD" => (client.read_head(), vec![]),
                _ => {
                    let answer = client.read_answer();
                    (answer.head, answer.body)
                }
            };
            assert_eq!(
                (&*lines(&head), &*text(&got)),
                (&*framing.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>(), body),
                "{sent:?} {round}"
            );
        }
        client.finish_sending();
        client.expect_eof();
        for record in gateway.stop() {
            assert_eq!((&record["received"], record.get("cause")), (&json!(body.len()), None), "{sent:?} {record}");
        }
    }
}

#[test]
fn a_client_of_http_1_0_gets_what_it_can_read() {
    let backend = answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n");
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = client.read_head();
    assert_eq!(header_lines(&head, "transfer-encoding"), [""; 0], "{head}");
    assert_eq!(client.read_to_end(), b"whole");
    drop(client);
    assert_eq!(gateway.stop()[0]["status"], 200);
    assert!(backend.finish()[0].starts_with(b"GET / HTTP/1.1\r\n"), "the gateway's own version");
}

#[test]
fn trailers_pass_where_they_are_announced_and_asked_for() {
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        if head.starts_with("POST") {
            assert_eq!(header(&head, "trailer"), Some("X-Sum"), "{head}");
            while peer.read_line() != "0" {}
            assert_eq!(peer.read_line().to_ascii_lowercase(), "x-sum: 1");
            assert_eq!(peer.read_line(), "");
        } else {
            assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
            assert_eq!(header(&head, "connection").map(str::to_ascii_lowercase).as_deref(), Some("te"), "{head}");
        }
        peer.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
        );
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, deflate\r\nConnection: TE\r\n\r\n");
    let head = client.read_head();
    assert_eq!(header(&head, "trailer"), Some("X-Sum"), "{head}");
    assert_eq!(text(&client.read_exact(8)), "3\r\nabc\r\n");
    let trailers: Vec<_> = (0..3).map(|_| client.read_line().to_ascii_lowercase()).collect();
    assert_eq!(trailers, ["0", "x-sum: 6", ""]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(client.read_answer().text(), "abc");
    drop(client);
    gateway.stop();
    backend.finish();
}

#[test]
fn a_client_that_expects_100_gets_it_and_sends_its_body() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        assert_eq!(peer.read_exact(4), b"body");
        peer.send(ok("taken"));
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 100 "));
    client.send("body");
    assert_eq!(client.read_answer().text(), "taken");
    drop(client);
    gateway.stop();
}

#[test]
fn a_backend_that_does_not_answer_is_a_504() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nX-Never: "); // a head that never ends
        backend::silent_to_end(peer);
    });
    let gateway = gateway(backend.address(), "response_head = \"200ms\"");
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    ] {
        assert_eq!(Client::ask(gateway.address("web"), request).status, 504);
        let record = gateway.record(|_| true);
        assert_eq!(record["cause"], "the backend did not answer within timeouts.response_head");
        assert!(took(&record) >= 200.0, "{record}");
    }
    gateway.stop();
}

#[test]
fn half_a_body_and_then_silence_is_a_408() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        assert_eq!(peer.read_exact(5), b"5 of ");
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "stall = \"200ms\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n5 of ");
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    let record = gateway.record(|_| true);
    assert_eq!(record["cause"], "the client sent nothing of its body for timeouts.stall");
    assert_eq!(record["sent"], 5);
    assert!(took(&record) >= 200.0, "{record}");
    client.expect_eof();
    drop(client);
    gateway.stop();
    backend.finish();
}

/// Slow is not silent: each byte is a new beginning.
#[test]
fn a_slow_body_is_no_silent_one() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        let body = peer.read_exact(4);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        for byte in body {
            thread::sleep(Duration::from_millis(300)); // slow is what is tested
            peer.send([byte]);
        }
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "stall = \"1s\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    for byte in b"slow" {
        thread::sleep(Duration::from_millis(300)); // the same
        client.send([*byte]);
    }
    assert_eq!(client.read_answer().text(), "slow");
    drop(client);
    let record = gateway.stop().remove(0);
    assert!(took(&record) > 2000.0, "longer than stall: {record}");
}

/// A client whose window and segments are small, so that the kernel takes little for it.
fn narrow(gateway: &Gateway, request: &str) -> Peer {
    let mut client = Client::connect_with(gateway.address("web"), |socket| {
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        socket.set_tcp_mss(536).expect("TCP_MAXSEG");
    });
    client.send(request);
    client
}

/// How much of an answer is too much for the kernel and yet all in the gateway, when a narrow client reads none of it.
fn size_that_waits_in_the_gateway(backend: &Backend) -> Option<usize> {
    let gateway = gateway(backend.address(), "stall = \"200ms\"");
    let sizes: Vec<_> = (6..32).map(|step| step * 8 * 1024).collect();
    let clients: Vec<_> =
        sizes.iter().map(|size| narrow(&gateway, &format!("GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n"))).collect();
    let waits = |record: &Value| {
        let size = record["path"].as_str().and_then(|path| path[1..].parse::<usize>().ok()).expect("a size");
        let all_of_it = record["received"] == size && record["cause"] == "the client read nothing for timeouts.stall";
        all_of_it.then_some(size)
    };
    let size = sizes.iter().filter_map(|_| waits(&gateway.record(|_| true))).max();
    drop(clients);
    gateway.stop();
    size
}

/// A client that takes its time uses up none of the backend's: it goes on after most of `stall`, and the backend, that
/// had been at its turn all along if one looked at its last bytes only, after as much again.
#[test]
fn the_time_that_a_slow_client_takes_is_not_the_backends() {
    const PAUSE: Duration = Duration::from_millis(900); // long against what a busy machine adds
    let (resumed, has_resumed) = mpsc::channel::<()>();
    let has_resumed = Mutex::new(has_resumed);
    let backend = Backend::start(move |mut peer| {
        let head = peer.read_head();
        let size: usize = head["GET /".len()..].split(' ').next().and_then(|size| size.parse().ok()).expect("a size");
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", size + 4));
        peer.send(vec![b'x'; size]);
        if header(&head, "x-last").is_some() {
            has_resumed.lock().expect("no panic").recv().expect("the test goes on");
            thread::sleep(PAUSE);
            peer.send("last");
        }
        backend::silent_to_end(peer);
    });
    let size = size_that_waits_in_the_gateway(&backend).expect("one of the sizes waits in the gateway, on any machine");
    let gateway = gateway(backend.address(), "stall = \"1500ms\"");
    let mut client = narrow(&gateway, &format!("GET /{size} HTTP/1.1\r\nHost: a\r\nX-Last: yes\r\n\r\n"));
    thread::sleep(PAUSE);
    client.read_head();
    client.read_exact(size);
    resumed.send(()).expect("the backend waits");
    assert_eq!(text(&client.read_exact(4)), "last");
    drop(client);
    gateway.stop();
}

#[test]
fn a_backend_that_takes_nothing_of_the_body_is_a_504() {
    let (ended, has_ended) = mpsc::channel::<()>();
    let has_ended = Mutex::new(has_ended);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        let _ = has_ended.lock().expect("one connection").recv(); // nothing more is read
    });
    let gateway = gateway(backend.address(), "stall = \"300ms\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = client.sender();
    let sending = thread::spawn(move || while sender.try_send([b'x'; 64 * 1024]).is_ok() {});
    let record = gateway.record(|_| true);
    assert_eq!(
        (&record["status"], &record["cause"]),
        (&json!(504), &json!("the backend took nothing of the body for timeouts.stall"))
    );
    assert!(took(&record) >= 300.0, "{record}");
    assert_eq!(client.read_answer().status, 504);
    drop(client);
    sending.join().expect("it ends by an error");
    drop(ended);
    gateway.stop();
}

#[test]
fn what_breaks_off_at_the_backend_never_looks_whole() {
    // The head of the answer, what comes of the body, whether it ends by RST.
    let table = [
        ("Content-Length: 10\r\n", "5 of ", false),
        ("Content-Length: 10\r\n", "5 of ", true),
        ("Transfer-Encoding: chunked\r\n", "5\r\n5 of \r\n", false),
        ("Transfer-Encoding: chunked\r\n", "5\r\n5 of \r\n", true),
        ("Transfer-Encoding: chunked\r\n", "5\r\n5 of \r\n0\r\n", false), // without its last line
        ("Transfer-Encoding: chunked\r\n", "5\r\n5 of \r\nno size\r\n\r\n", false),
        ("", "5 of ", true),
    ];
    for (framing, body, reset) in table {
        let (read, has_read) = mpsc::channel::<()>();
        let has_read = Mutex::new(has_read);
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{body}"));
            let _ = has_read.lock().expect("one connection at a time").recv();
            if reset { peer.reset() } else { drop(peer) }
        });
        let gateway = gateway(backend.address(), "");
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let told = format!("{version} {framing:?} {body:?} reset: {reset}");
            let mut client = Client::connect(gateway.address("web"));
            client.send(format!("GET / {version}\r\nHost: a\r\n\r\n"));
            let head = client.read_head();
            let sized = header(&head, "content-length").is_some();
            let chunked = header(&head, "transfer-encoding").is_some();
            let got = client.read_exact(if chunked { 10 } else { 5 });
            assert!(text(&got).contains("5 of "), "{told}");
            read.send(()).expect("the backend waits");
            let (rest, end) = read_to_some_end(&mut client);
            assert_eq!(text(&rest), "", "{told}");
            // Short of its length, without its last chunk, or where the close is the end: by RST.
            assert!(sized || chunked || end == Some(ErrorKind::ConnectionReset), "{told}: {end:?}");
            let record = gateway.record(|_| true);
            let cause = record["cause"].as_str().unwrap_or_default();
            assert!(cause.starts_with("the backend broke off within the body"), "{told}: {record}");
            assert_eq!((&record["status"], &record["received"]), (&json!(200), &json!(5)), "{told}");
        }
        gateway.stop();
        drop(read);
        backend.finish();
    }
}

#[test]
fn a_backend_that_is_silent_within_the_body_is_given_up_after_stall() {
    for framing in ["Content-Length: 10\r\n\r\n5 of ", "Transfer-Encoding: chunked\r\n\r\n5\r\n5 of \r\n", "\r\n5 of "]
    {
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
            peer.expect_end();
        });
        let gateway = gateway(backend.address(), "stall = \"200ms\"");
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let sized = header(&client.read_head(), "content-length").is_some();
        assert!(client.read_to_end().ends_with(if sized { b"5 of " } else { b"5 of \r\n" }), "not whole: {framing}");
        let record = gateway.record(|_| true);
        assert_eq!(record["cause"], "the backend was silent within the body for timeouts.stall");
        assert!(took(&record) >= 200.0, "{record}");
        drop(client);
        gateway.stop();
        backend.finish();
    }
}

/// A backend that sends for ever, in chunks.
fn endless(mut peer: Peer) {
    peer.read_head();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    while peer.try_send(&chunk).is_ok() {}
}

#[test]
fn a_client_that_leaves_within_the_answer_takes_the_backends_connection_along() {
    for reset in [false, true] {
        let backend = Backend::start(endless);
        let gateway = gateway(backend.address(), "");
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head();
        client.read_exact(100_000);
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        let record = gateway.record(|_| true);
        assert_eq!(record["cause"], "the client left before the answer was sent whole");
        assert_eq!(record["status"], 200);
        assert!(record["received"].as_u64() >= Some(99_000), "{record}");
        backend.finish();
        assert_eq!(gateway.stop().len(), 1);
    }
}

/// The backend has got all that was sent, then the client goes: gives the record and how the client saw it.
fn leave_after(request: &str, leave: impl FnOnce(Peer)) -> Value {
    let backend = Backend::start(backend::silent_to_end);
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(request);
    let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    support::until("the backend has all of it", || {
        backend.received().first().is_some_and(|one| one.ends_with(&[b"\r\n\r\n", body.as_bytes()].concat()))
    });
    leave(client);
    let record = gateway.record(|_| true);
    assert_eq!(record["endpoint"], backend.address().to_string());
    backend.finish();
    assert_eq!(gateway.stop().len(), 1);
    record
}

#[test]
fn a_client_that_leaves_before_the_answer_takes_the_backends_connection_along() {
    for (request, sent) in
        [("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 3)]
    {
        for leave in [drop::<Peer>, Peer::reset] {
            let record = leave_after(request, leave);
            assert_eq!(record["cause"], "the client left before the answer", "{request:?} {record}");
            assert_eq!(record.get("status"), None, "nobody was answered: {record}");
            assert_eq!(record["sent"], sent, "{record}");
        }
    }
}

/// A body that breaks off is the client's doing, whichever side of the exchange notices first.
#[test]
fn a_client_that_leaves_within_its_body_takes_the_backends_connection_along() {
    let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n5 of ";
    let chunk = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n5 of \r\n";
    for request in [half, chunk] {
        for leave in [drop::<Peer>, Peer::reset, |mut client: Peer| {
            client.finish_sending();
            let answer = client.read_answer();
            assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
            client.expect_eof();
        }] {
            let record = leave_after(request, leave);
            assert_eq!((&record["status"], &record["sent"]), (&json!(400), &json!(5)), "{record}");
            assert_eq!(record["cause"], "the client left within the body", "{request:?} {record}");
        }
    }
    let record = leave_after(chunk, |mut client| {
        client.send("no size\r\n");
        assert_eq!(client.read_answer().status, 400);
        client.expect_eof();
    });
    assert_eq!(record["cause"], "the body is not chunked as it says");
}

#[test]
fn a_client_that_reads_nothing_is_given_up_after_stall() {
    let backend = Backend::start(endless);
    let gateway = gateway(backend.address(), "stall = \"200ms\"");
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let record = gateway.record(|_| true);
    assert_eq!(record["cause"], "the client read nothing for timeouts.stall");
    assert!(took(&record) >= 200.0, "{record}");
    backend.finish();
    drop(client);
    gateway.stop();
}

#[test]
fn twenty_megabytes_pass_each_way() {
    const SIZE: usize = 20 << 20;
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        let chunked = header(&head, "transfer-encoding").is_some();
        let body = if chunked { peer.read_chunks() } else { peer.read_exact(SIZE) };
        let length = if chunked { String::new() } else { format!("Content-Length: {SIZE}\r\n") };
        peer.send(format!("HTTP/1.1 200 OK\r\n{length}\r\n"));
        peer.send(body);
    });
    let gateway = gateway(backend.address(), "");
    let bytes: Vec<_> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    for chunked in [false, true] {
        let mut client = Client::connect(gateway.address("web"));
        let (head, body) = match chunked {
            false => (format!("Content-Length: {SIZE}\r\n"), bytes.clone()),
            true => (
                "Transfer-Encoding: chunked\r\n".into(),
                [format!("{SIZE:x}\r\n").as_bytes(), &bytes, b"\r\n0\r\n\r\n"].concat(),
            ),
        };
        let mut sender = client.sender();
        let sending = thread::spawn(move || {
            sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n"));
            sender.send(body);
        });
        let answer = client.read_answer();
        assert!(answer.status == 200 && answer.body == bytes, "{answer:?}");
        sending.join().expect("all of it was taken");
        let record = gateway.record(|_| true);
        assert_eq!((&record["sent"], &record["received"]), (&json!(SIZE), &json!(SIZE)));
    }
    gateway.stop();
}

/// One worker: what waits for a client must not keep the others waiting.
#[test]
fn slow_downloads_do_not_block_others() {
    let backend = Backend::start(|mut peer| {
        if peer.read_head().starts_with("GET /endless ") {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
            while peer.try_send(&chunk).is_ok() {}
        } else {
            peer.send(ok("quick"));
            peer.expect_end();
        }
    });
    let gateway = gateway(backend.address(), "");
    let mut slow: Vec<_> = (0..2).map(|_| Client::connect(gateway.address("web"))).collect();
    for client in &mut slow {
        client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head();
    }
    for _ in 0..20 {
        assert_eq!(Client::get(gateway.address("web"), "/quick").text(), "quick");
    }
    drop(slow);
    gateway.stop();
}

/// hyper's client of a backend and its server towards the client both write whatever trailers are announced.
#[test]
fn trailers_carry_nothing_that_headers_may_not() {
    const TRAILERS: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: forged\r\n\
                            X-Client-Cert-Subject: CN=root\r\nX-Client-Cert-Fingerprint: 00\r\nConnection: close\r\n\
                            X-Named: 1\r\nUpgrade: websocket\r\nX-Sum: 1\r\n\r\n";
    const ANNOUNCED: &str = "Transfer-Encoding: chunked\r\nConnection: X-Named\r\n\
                             Trailer: X-Forwarded-For, X-Real-IP, X-Request-Id, X-Client-Cert-Subject\r\n\
                             Trailer: X-Client-Cert-Fingerprint, Connection, X-Named, Upgrade, X-Sum\r\n";
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        assert_eq!(header(&head, "trailer"), Some("X-Sum"), "{head}");
        while peer.read_line() != "0" {}
        assert_eq!(peer.read_line().to_ascii_lowercase(), "x-sum: 1");
        assert_eq!(peer.read_line(), "");
        peer.send(format!("HTTP/1.1 200 OK\r\n{ANNOUNCED}\r\n3\r\nabc\r\n0\r\n{TRAILERS}"));
        peer.expect_end();
    });
    let gateway = gateway(backend.address(), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n{ANNOUNCED}\r\n1\r\na\r\n0\r\n{TRAILERS}"));
    let head = client.read_head();
    assert_eq!(header(&head, "trailer"), Some("X-Sum"), "{head}");
    assert_eq!(text(&client.read_exact(8)), "3\r\nabc\r\n");
    let trailers: Vec<_> = (0..3).map(|_| client.read_line().to_ascii_lowercase()).collect();
    assert_eq!(trailers, ["0", "x-sum: 1", ""]);
    drop(client);
    gateway.stop();
    backend.finish();
}

/// hyper asks for nothing behind trailers, so that they are the end: for the record, for the pool, for the deadlines.
#[test]
fn a_body_with_trailers_is_whole() {
    let backend = Backend::start(|mut peer| {
        for _ in 0..4 {
            let head = peer.read_head();
            if head.starts_with("POST") {
                while !peer.read_line().is_empty() {}
                peer.expect_silence(Duration::from_millis(600));
            }
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n");
        }
        peer.expect_end();
    });
    // A body that is whole waits for its answer by response_head, and no longer by stall.
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\nstall = \"300ms\"\nresponse_head = \"30s\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"app\"\n",
        backend.address()
    ));
    let mut client = Client::connect(gateway.address("web"));
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        client.send(request);
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text()), (200, "abc"), "{request}");
        gateway.record(|record| record["status"] == 200 && record.get("cause").is_none());
    }
    drop(client);
    assert_eq!(gateway.stop().len(), 4);
    assert_eq!(backend.finish().len(), 1, "all over one connection");
}
