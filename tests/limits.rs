//! Every deadline and every limit of a client's connection and of an exchange is reached here, one test each: what the
//! client sees, that it did not come before its time, what the record says, and that the descriptors are those from
//! before. (`connect`, `upgrade`, `connections` and `tunnels` are tested with what they belong to: dialling, upgrading and
//! accepting.)

mod support;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::backend::{self, Backend, Full};
use support::client::Client;
use support::gateway::Gateway;
use support::peer::{Peer, text};
use support::tree::Tree;
use support::{GUARD, network, until};

/// The time that is tested ...
const SHORT: Duration = Duration::from_millis(200);
/// ... as the configuration has it; everything else takes its time.
const LONG: &str = "tls_handshake = \"10m\"\nrequest_head = \"10m\"\nkeep_alive = \"10m\"\nupgrade = \"10m\"\n\
    response_head = \"10m\"\nstall = \"10m\"\nidle = \"10m\"\nhalf_close = \"10m\"\n";

const GET: &str = "GET /here HTTP/1.1\r\nHost: a\r\n\r\n";

/// A gateway of which one time is short, and what it had open before anybody came.
struct Limited {
    gateway: Gateway,
    at_rest: usize,
}

impl Limited {
    fn new(short: &str, more: &str, backend: Option<&Backend>) -> Self {
        let timeouts: String =
            LONG.lines().filter(|line| !line.starts_with(short)).map(|line| format!("{line}\n")).collect();
        let short = if short.is_empty() { String::new() } else { format!("{short} = \"200ms\"\n") };
        Self::with(&format!("[timeouts]\n{timeouts}{short}{more}"), "", backend)
    }

    fn with(settings: &str, listener: &str, backend: Option<&Backend>) -> Self {
        let upstream = backend.map_or_else(String::new, |backend| {
            let address = backend.address();
            format!("[upstream.b]\nendpoints = [\"{address}\"]\n[[route]]\npath = \"/b\"\nupstream = \"b\"\n")
        });
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n{settings}\n\
             [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{listener}\n\
             [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
             [[route]]\npath = \"/echo\"\nservice = \"echo\"\n{upstream}"
        ));
        let at_rest = gateway.descriptors();
        Self { gateway, at_rest }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address("web")
    }

    fn connect(&self) -> Peer {
        Client::connect(self.address())
    }

    /// A connection that has had its first answer, and whose record is read.
    fn kept(&self) -> Peer {
        let mut client = self.connect();
        is_served(&mut client);
        self.gateway.record(|record| record["status"] == 200);
        client
    }

    /// Waits until nothing of what was open is left, and ends the gateway: it has written so many records.
    #[track_caller]
    fn ends_with(self, records: usize) {
        until("the descriptors are what they were", || self.gateway.descriptors() == self.at_rest);
        let written = self.gateway.stop();
        assert_eq!(written.len(), records, "{written:#?}");
    }
}

#[track_caller]
fn is_served(client: &mut Peer) {
    client.send(GET);
    assert_eq!(client.read_answer().text(), "here");
}

#[track_caller]
fn not_before(began: Instant) {
    assert!(began.elapsed() >= SHORT, "it came before its time: {:?}", began.elapsed());
}

#[track_caller]
fn assert_record(record: &Value, status: u16, cause: &str) {
    let told = (&record["record"], &record["status"], &record["cause"]);
    assert_eq!(told, (&"request".into(), &status.into(), &cause.into()), "{record}");
}

// The client's side.

#[test]
fn a_client_that_says_nothing_is_closed_after_request_head_and_has_no_record() {
    for settings in [
        ("request_head", ""),
        ("", "[[listener]]\nname = \"own\"\nbind = \"127.0.0.1:0\"\ntimeouts = { request_head = \"200ms\" }\n"),
    ] {
        let limited = Limited::new(settings.0, settings.1, None);
        let address = limited.gateway.address(if settings.1.is_empty() { "web" } else { "own" });
        let began = Instant::now();
        let mut mute = Client::connect(address);
        mute.expect_eof();
        not_before(began);
        drop(mute);
        limited.ends_with(0);
    }
}

#[test]
fn a_client_that_says_nothing_to_tls_is_closed_after_tls_handshake_and_has_no_record() {
    let tree = Tree::new();
    let certs = tree.path("certs");
    let listener =
        format!("tls = {{ certificate = \"{0}/fullchain.pem\", key = \"{0}/privkey.pem\" }}", certs.display());
    let whole = ("[timeouts]\ntls_handshake = \"200ms\"\n", listener.clone());
    let own =
        ("[timeouts]\ntls_handshake = \"10m\"\n", format!("{listener}\ntimeouts = {{ tls_handshake = \"200ms\" }}"));
    for (said, (settings, listener)) in [
        (&b""[..], &whole),
        (b"\x16", &whole),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &whole),
        (b"\x16", &own),
    ] {
        let limited = Limited::with(settings, listener, None);
        let began = Instant::now();
        let mut mute = limited.connect();
        mute.send(said);
        mute.expect_end();
        not_before(began);
        drop(mute);
        limited.ends_with(0);
    }
}

#[test]
fn a_head_that_is_too_slow_is_answered_408() {
    let limited = Limited::new("request_head", "", None);
    // A byte now and then does not lengthen it.
    let began = Instant::now();
    let mut slow = limited.connect();
    let mut sender = slow.sender();
    let dribble = thread::spawn(move || {
        let mut bytes = GET.bytes().cycle();
        sender.send("GET /here HTTP/1.1\r\nX: ");
        while sender.try_send([bytes.next().expect("endless").max(b'a')]).is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let head = slow.read_head();
    not_before(began);
    assert_eq!(head, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    drop(slow);
    dribble.join().expect("the sender ends when it is no longer read");
    let record = limited.gateway.record(|_| true);
    assert_record(&record, 408, "the head was not whole within timeouts.request_head");
    assert!(record["took_ms"].as_f64() >= Some(200.0), "from accept: {record}");

    // Of a later request it counts from its first byte.
    let mut kept = limited.kept();
    kept.expect_silence(SHORT + SHORT / 2);
    let began = Instant::now();
    kept.send("GET");
    assert_eq!(kept.read_answer().status, 408);
    not_before(began);
    kept.expect_eof();
    drop(kept);
    assert_record(&limited.gateway.record(|_| true), 408, "the head was not whole within timeouts.request_head");
    limited.ends_with(3);
}

#[test]
fn silence_between_two_requests_ends_after_keep_alive() {
    let limited = Limited::new("keep_alive", "", None);
    // Not before the first request: that is request_head's.
    let mut late = limited.connect();
    late.expect_silence(SHORT + SHORT / 2);
    let began = Instant::now();
    is_served(&mut late);
    thread::sleep(SHORT / 2);
    is_served(&mut late);
    late.expect_eof();
    // From the second answer on.
    assert!(began.elapsed() >= SHORT + SHORT / 2, "{:?}", began.elapsed());
    drop(late);
    limited.ends_with(2);

    let listener = "timeouts = { keep_alive = \"200ms\" }";
    let limited = Limited::with("", listener, None);
    let mut kept = limited.connect();
    let began = Instant::now();
    is_served(&mut kept);
    kept.expect_eof();
    not_before(began);
    drop(kept);
    limited.ends_with(1);
}

/// A request to `/b` whose head has exactly so many bytes, the empty line included.
fn head_of(bytes: usize) -> String {
    let begin = "GET /b HTTP/1.1\r\nHost: a\r\nX: ";
    format!("{begin}{}\r\n\r\n", "x".repeat(bytes - begin.len() - 4))
}

/// A request with so many lines of headers.
fn head_with(lines: usize) -> String {
    format!("GET /b HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(lines - 1))
}

#[test]
fn a_head_that_is_too_large_or_has_too_many_headers_is_answered_431() {
    let backend = Backend::start(backend::respond("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"));
    let limits = "head_size = \"2KiB\"\nheaders = 20";
    let own = "limits = { head_size = \"2KiB\", headers = 20 }";
    for (settings, listener) in [(format!("[limits]\n{limits}"), ""), (String::new(), own)] {
        let limited = Limited::with(&settings, listener, Some(&backend));
        let mut asked = backend.connections();
        for (request, status) in [
            (head_of(2048), 204),
            (head_of(2049), 431),
            (head_of(60_000), 431),
            (format!("GET /b?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2100)), 431),
            (head_with(20), 204),
            (head_with(21), 431),
            (head_with(400), 431),
        ] {
            let mut client = limited.connect();
            client.send(&request);
            assert_eq!(client.read_answer().status, status, "{} bytes", request.len());
            let record = limited.gateway.record(|_| true);
            assert_eq!(record["status"], status, "{record}");
            asked += usize::from(status == 204);
            if status == 431 {
                assert_record(&record, 431, "the head is larger than limits.head_size or limits.headers");
                client.expect_eof();
            }
            assert_eq!(backend.connections(), asked, "the backend has seen what was refused");
        }
        limited.ends_with(7);
    }
    backend.finish();
}

/// A client at that address; whether it is served shows when it asks.
fn from(limited: &Limited, listener: &str, address: IpAddr) -> Peer {
    Client::connect_with(limited.gateway.address(listener), |socket| {
        socket.bind(&SocketAddr::new(address, 0).into()).expect("an address of the loopback");
    })
}

/// Ends a client and waits until its place is free.
fn leave(limited: &Limited, client: Peer) {
    let open = limited.gateway.descriptors();
    drop(client);
    until("it has left", || limited.gateway.descriptors() < open);
}

#[test]
fn a_client_with_too_many_connections_is_closed_at_once_until_one_of_them_ends() {
    let [one, other] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let small = "[[listener]]\nname = \"small\"\nbind = \"127.0.0.1:0\"\nlimits = { connections_per_client = 1 }\n";
    let limited = Limited::with("[limits]\nconnections_per_client = 3", small, None);
    let mut first = from(&limited, "web", one);
    let mut second = from(&limited, "small", one);
    [&mut first, &mut second].into_iter().for_each(is_served);
    // The listener's own budget is full, the gateway's is not.
    from(&limited, "small", one).expect_end();
    let mut third = from(&limited, "web", one);
    is_served(&mut third);
    // Now both are.
    for listener in ["web", "small"] {
        from(&limited, listener, one).expect_end();
    }
    // Others do not notice, and neither do those that are there. A tunnel keeps its place.
    let mut stranger = from(&limited, "small", other);
    is_served(&mut stranger);
    [&mut first, &mut second, &mut third].into_iter().for_each(is_served);
    first.send(support::client::opening_handshake("a", "/echo", ""));
    assert!(first.read_head().starts_with("HTTP/1.1 101 "));
    from(&limited, "web", one).expect_end();

    leave(&limited, second);
    let mut again = from(&limited, "small", one);
    is_served(&mut again);
    leave(&limited, first);
    let mut after_tunnel = from(&limited, "web", one);
    is_served(&mut after_tunnel);
    from(&limited, "web", one).expect_end();

    drop((third, stranger, again, after_tunnel));
    until("the descriptors are what they were", || limited.gateway.descriptors() == limited.at_rest);
    limited.gateway.signal(support::gateway::Signal::SIGTERM);
    let ended = limited.gateway.message(|message| message["message"] == "ended");
    assert_eq!((&ended["refused"], &ended["connections"]), (&5.into(), &6.into()), "{ended}");
    let records = limited.gateway.wait().1;
    assert_eq!(records.len(), 10, "what was refused is counted and has no record: {records:#?}");
}

#[test]
fn a_trusted_proxy_has_as_many_connections_as_it_likes() {
    let settings = "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nconnections_per_client = 1";
    let limited = Limited::with(settings, "", None);
    let mut proxies: Vec<_> = (0..5).map(|_| limited.kept()).collect();
    proxies.iter_mut().for_each(is_served);
    drop(proxies);
    limited.ends_with(10);
}

#[test]
fn an_ipv6_client_is_its_slash_64() {
    let addresses = ["fd00::1/64", "fd00::2/64", "fd00:0:0:1::1/64"];
    if !network::is_own("an_ipv6_client_is_its_slash_64", &addresses) {
        return;
    }
    let six = "[[listener]]\nname = \"six\"\nbind = \"[::]:0\"\n";
    let limited = Limited::with("[limits]\nconnections_per_client = 1", six, None);
    let [one, neighbour, other] =
        addresses.map(|address| address.split('/').next().expect("it").parse::<IpAddr>().expect("an address"));
    let port = limited.gateway.address("six").port();
    let connect = |address: IpAddr| {
        let to = SocketAddr::new(one, port);
        Client::connect_with(to, |socket| {
            // An address that was just added may still be looked for elsewhere.
            until("the address is usable", || socket.bind(&SocketAddr::new(address, 0).into()).is_ok());
        })
    };
    let mut first = connect(one);
    is_served(&mut first);
    connect(neighbour).expect_end();
    let mut second = connect(other);
    is_served(&mut second);
    leave(&limited, first);
    let mut third = connect(neighbour);
    is_served(&mut third);
    connect(one).expect_end();
    drop((second, third));
    limited.ends_with(3);
}

// The exchange.

#[test]
fn a_backend_that_does_not_answer_in_time_is_answered_for_with_504() {
    let (gone, is_gone) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        peer.expect_end();
        gone.send(()).expect("the test waits");
    });
    let limited = Limited::new("response_head", "", Some(&backend));
    let mut client = limited.connect();
    let began = Instant::now();
    client.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_answer().status, 504);
    not_before(began);
    assert_record(&limited.gateway.record(|_| true), 504, "the backend did not answer within timeouts.response_head");
    is_gone.recv_timeout(GUARD).expect("the backend's connection ends");
    // The client's goes on.
    is_served(&mut client);
    drop(client);
    limited.ends_with(2);
    backend.finish();
}

#[test]
fn response_head_counts_from_the_end_of_the_request() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.read_exact(4);
        peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        peer.finish_sending();
        peer.expect_end();
    });
    let limited = Limited::new("response_head", "", Some(&backend));
    let mut client = limited.connect();
    client.send("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhal");
    client.expect_silence(SHORT + SHORT / 2);
    client.send("f");
    assert_eq!(client.read_answer().status, 204);
    drop(client);
    limited.ends_with(1);
    backend.finish();
}

/// The first endpoint takes longer to be given up than an answer or a body may: that time was the dial's.
#[test]
fn the_deadlines_of_an_exchange_do_not_count_while_it_is_dialled() {
    for (request, body) in [
        ("GET /b HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", "body"),
    ] {
        let full = Full::start();
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            peer.read_exact(body.len());
            peer.expect_silence(SHORT / 2);
            peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            peer.finish_sending();
            peer.expect_end();
        });
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n[timeouts]\nconnect = \"2s\"\nresponse_head = \"1500ms\"\nstall = \"1500ms\"\n\
             [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
             [upstream.b]\nendpoints = [\"{}\", \"{}\"]\n[[route]]\nupstream = \"b\"\n",
            full.address(),
            backend.address()
        ));
        let began = Instant::now();
        // One of two requests meets the full endpoint first, whichever is whose.
        for _ in 0..2 {
            let mut client = Client::connect(gateway.address("web"));
            client.send(format!("{request}{body}"));
            assert_eq!(client.read_answer().status, 204);
        }
        assert!(began.elapsed() >= Duration::from_secs(2), "nobody met the full endpoint");
        gateway.stop();
        backend.finish();
    }
}

#[test]
fn a_request_body_that_stops_is_answered_408() {
    for (framing, half) in [("Content-Length: 10", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")] {
        let (gone, is_gone) = mpsc::channel();
        let backend = Backend::start(move |mut peer| {
            peer.read_head();
            assert_eq!(text(&peer.read_exact(half.len())), half);
            // And nothing that would make it whole.
            peer.expect_end();
            gone.send(()).expect("the test waits");
        });
        let limited = Limited::new("stall", "", Some(&backend));
        let mut client = limited.connect();
        let began = Instant::now();
        client.send(format!("POST /b HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{half}"));
        let answer = client.read_answer();
        not_before(began);
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{answer:?}");
        client.expect_eof();
        drop(client);
        let record = limited.gateway.record(|_| true);
        assert_record(&record, 408, "the client sent nothing of its body for timeouts.stall");
        is_gone.recv_timeout(GUARD).expect("the backend's connection ends");
        limited.ends_with(1);
        backend.finish();
    }
}

#[test]
fn a_slow_body_that_moves_is_not_cut() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        assert_eq!(peer.read_exact(5), b"drips");
        peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        peer.finish_sending();
        peer.expect_end();
    });
    let limited = Limited::with("[timeouts]\nstall = \"400ms\"", "", Some(&backend));
    let mut client = limited.connect();
    client.send("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let began = Instant::now();
    for byte in b"drips" {
        client.expect_silence(Duration::from_millis(100));
        client.send([*byte]);
    }
    assert!(began.elapsed() > Duration::from_millis(400), "each byte is in time, all of them would not be");
    assert_eq!(client.read_answer().status, 204);
    drop(client);
    limited.ends_with(1);
    backend.finish();
}

#[test]
fn a_backend_that_does_not_take_the_body_is_answered_for_with_504() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        may_go.lock().expect("one script").recv().expect("the test says so");
        read_until_it_breaks(&peer);
    });
    let limited = Limited::new("stall", "", Some(&backend));
    let mut client = limited.connect();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        let length = 1_u64 << 30;
        sender.send(format!("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        while sender.try_send([b'x'; 65536]).is_ok() {}
    });
    let began = Instant::now();
    let answer = client.read_answer();
    not_before(began);
    assert_eq!((answer.status, answer.header("connection")), (504, Some("close")));
    drop(client);
    sending.join().expect("sending ends with the connection");
    let record = limited.gateway.record(|_| true);
    assert_record(&record, 504, "the backend took nothing of the body for timeouts.stall");
    until("the descriptors are what they were", || limited.gateway.descriptors() == limited.at_rest);
    go.send(()).expect("the script waits");
    limited.ends_with(1);
    backend.finish();
}

#[test]
fn an_answer_whose_body_stops_is_cut() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        peer.expect_end();
    });
    let limited = Limited::new("stall", "", Some(&backend));
    let mut client = limited.connect();
    let began = Instant::now();
    client.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    assert_eq!(client.read_exact(4), b"half");
    client.expect_end();
    not_before(began);
    drop(client);
    let record = limited.gateway.record(|_| true);
    assert_record(&record, 200, "the backend was silent within the body for timeouts.stall");
    assert_eq!(record["received"], 4);
    limited.ends_with(1);
    backend.finish();
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut_and_the_backend_let_go() {
    let (gone, is_gone) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let mut sent = 0_u64;
        while peer.try_send([b'x'; 65536]).is_ok() {
            sent += 65536;
        }
        gone.send(sent).expect("the test waits");
    });
    let limited = Limited::new("stall", "", Some(&backend));
    let mut client = Client::connect_with(limited.address(), |socket| {
        socket.set_recv_buffer_size(8192).expect("SO_RCVBUF");
    });
    let began = Instant::now();
    client.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    let sent = is_gone.recv_timeout(GUARD).expect("the backend is let go");
    not_before(began);
    assert!(sent < 1 << 30, "it was not held back");
    let record = limited.gateway.record(|_| true);
    assert_record(&record, 200, "the client read nothing for timeouts.stall");
    client.expect_reset();
    limited.ends_with(1);
    backend.finish();
}

/// Reads to the FIN or the RST, whatever comes.
fn read_until_it_breaks(peer: &Peer) {
    let mut buffer = [0; 65536];
    while peer.stream().read(&mut buffer).is_ok_and(|count| count > 0) {}
}

// Tunnels.

#[test]
fn a_tunnel_without_a_byte_ends_after_idle() {
    let backend = Backend::start(backend::websocket_echo);
    let limited = Limited::new("idle", "", Some(&backend));
    let (mut client, _) = Client::upgrade(limited.address(), "/b");
    client.expect_silence(SHORT / 2);
    let began = Instant::now();
    client.send("kept");
    assert_eq!(client.read_exact(4), b"kept");
    client.expect_end();
    not_before(began);
    drop(client);
    assert_tunnel(&limited, "Idle", 4);
    limited.ends_with(1);
    backend.finish();
}

#[test]
fn a_tunnel_whose_other_direction_is_silent_ends_after_half_close() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        peer.expect_eof();
        peer.send("last");
        may_go.lock().expect("one script").recv().expect("the test says so");
    });
    let limited = Limited::new("half_close", "", Some(&backend));
    let (mut client, _) = Client::upgrade(limited.address(), "/b");
    client.expect_silence(SHORT + SHORT / 2);
    let began = Instant::now();
    client.finish_sending();
    assert_eq!(client.read_exact(4), b"last");
    client.expect_end();
    not_before(began);
    drop(client);
    assert_tunnel(&limited, "HalfClosed", 4);
    until("the descriptors are what they were", || limited.gateway.descriptors() == limited.at_rest);
    go.send(()).expect("the script waits");
    limited.ends_with(1);
    backend.finish();
}

#[test]
fn a_tunnel_whose_bytes_nobody_takes_ends_after_stall() {
    let (gone, is_gone) = mpsc::channel();
    let backend = Backend::start(move |mut peer| {
        backend::accept_websocket(&mut peer);
        while peer.try_send([b'x'; 65536]).is_ok() {}
        gone.send(()).expect("the test waits");
    });
    let limited = Limited::new("stall", "", Some(&backend));
    let (mut client, _) = Client::upgrade(limited.address(), "/b");
    let began = Instant::now();
    is_gone.recv_timeout(GUARD).expect("the backend is let go");
    not_before(began);
    let record = limited.gateway.record(|_| true);
    assert_eq!((&record["ended_by"], &record["sent"]), (&"Stalled".into(), &0.into()), "{record}");
    client.expect_reset();
    limited.ends_with(1);
    backend.finish();
}

#[track_caller]
fn assert_tunnel(limited: &Limited, ended_by: &str, received: u64) {
    let record = limited.gateway.record(|_| true);
    assert_eq!((&record["record"], &record["ended_by"]), (&"tunnel".into(), &ended_by.into()), "{record}");
    assert_eq!(record["received"], received, "{record}");
}
