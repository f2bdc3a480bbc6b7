//! From an upstream to a connection: which endpoint is asked, which is asked next, and what a client gets when none is.

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::backend::{self, Backend, Full};
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::{Peer, header, text};
use support::skip::{self, Want};

/// A gateway with one worker, so that what was counted before is counted when the next request comes.
fn gateway(endpoints: &[String], timeouts: &str, upstream: &str) -> Gateway {
    Gateway::start(&config(endpoints, timeouts, upstream))
}

fn config(endpoints: &[String], timeouts: &str, upstream: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = {endpoints:?}\n{upstream}\n\
         [[route]]\nupstream = \"app\"\n"
    )
}

fn addresses(endpoints: &[SocketAddr]) -> Vec<String> {
    endpoints.iter().map(SocketAddr::to_string).collect()
}

/// A port that is taken, and at which nobody listens: a connect is refused.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("a bound address");
    (socket, address)
}

/// A script that takes a request and leaves without a word.
fn leave(mut peer: Peer) {
    peer.read_head();
    peer.finish_sending();
    peer.expect_end();
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn took(record: &Value) -> f64 {
    record["took_ms"].as_f64().unwrap_or_else(|| panic!("no took_ms: {record}"))
}

#[test]
fn tunnels_are_spread_evenly_and_one_that_ended_frees_its_place() {
    let backends = [Backend::start(backend::websocket_echo), Backend::start(backend::websocket_echo)];
    let gateway = gateway(&addresses(&[backends[0].address(), backends[1].address()]), "", "");
    let web = gateway.address("web");
    let mut tunnels: Vec<_> = (0..10).map(|_| Client::upgrade(web, "/").0).collect();
    assert_eq!([backends[0].connections(), backends[1].connections()], [5, 5]);
    // In turn: each pair of neighbours went to different ones, and one backend has all the odd ones. Three of them end.
    for _ in 0..3 {
        let odd = tunnels.remove(1);
        tunnels.rotate_left(1);
        drop(odd);
        gateway.record(|record| record["record"] == "tunnel");
    }
    let freed = gateway.records()[0]["endpoint"].clone();
    assert!(gateway.records().iter().all(|record| record["endpoint"] == freed), "{:?}", gateway.records());
    let more: Vec<_> = (0..3).map(|_| Client::upgrade(web, "/").0).collect();
    let freed = backends.iter().position(|one| freed == one.address().to_string()).expect("one of the two");
    assert_eq!((backends[freed].connections(), backends[1 - freed].connections()), (8, 5));
    drop((tunnels, more));
    gateway.stop();
}

#[test]
fn equals_take_turns() {
    let backends: Vec<_> = (0..3).map(|_| Backend::start(backend::respond(ok("")))).collect();
    let endpoints: Vec<_> = backends.iter().map(Backend::address).collect();
    let gateway = gateway(&addresses(&endpoints), "", "");
    for _ in 0..9 {
        assert_eq!(Client::get(gateway.address("web"), "/").status, 200);
        gateway.record(|_| true);
    }
    assert_eq!(backends.iter().map(Backend::connections).collect::<Vec<_>>(), [3, 3, 3]);
    gateway.stop();
}

#[test]
fn a_refused_connect_goes_to_the_next_endpoint() {
    let (_kept, refused) = refusing();
    let backend = Backend::start(|mut peer| {
        let head = peer.read_head();
        match header(&head, "sec-websocket-key") {
            Some(key) => peer.send(backend::switching(&backend::accept_of(key))),
            None => peer.send(ok("here")),
        }
        peer.expect_end();
    });
    // Without a pool each request dials, too.
    let gateway = gateway(&addresses(&[refused, backend.address()]), "", "pool = \"off\"");
    for round in 1..=4 {
        let (tunnel, _) = Client::upgrade(gateway.address("web"), "/");
        drop(tunnel);
        let record = gateway.record(|record| record["record"] == "tunnel");
        assert_eq!(record["endpoint"], backend.address().to_string());
        assert_eq!(record.get("cause"), None, "{record}");
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
        let record = gateway.record(|record| record["record"] == "request");
        assert_eq!((&record["endpoint"], record.get("cause")), (&json!(backend.address().to_string()), None));
        assert_eq!(backend.connections(), 2 * round);
    }
    gateway.stop();
}

#[test]
fn an_endpoint_that_leaves_without_an_answer_is_followed_by_the_next() {
    let resets: fn(Peer) = |mut peer| {
        peer.read_head();
        peer.reset();
    };
    for script in [leave as fn(Peer), resets] {
        let bad = Backend::start(script);
        let good = Backend::start(backend::websocket_echo);
        let gateway = gateway(&addresses(&[bad.address(), good.address()]), "", "");
        for tunnels in 1..=4 {
            let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/ws");
            tunnel.send("through");
            assert_eq!(tunnel.read_exact(7), b"through");
            drop(tunnel);
            let record = gateway.record(|record| record["record"] == "tunnel");
            assert_eq!(record["endpoint"], good.address().to_string());
            assert_eq!(good.connections(), tunnels);
        }
        assert!(bad.connections() > 0, "the bad one was asked too");
        // Both were asked the very same thing.
        let (first, second) = (bad.received().swap_remove(0), good.received().swap_remove(0));
        assert_eq!(text(&first), text(&second).replace("through", ""));
        gateway.stop();
    }
}

#[test]
fn without_attempts_no_other_endpoint_is_asked() {
    let (first, second) = (Backend::start(leave), Backend::start(leave));
    let gateway = gateway(&addresses(&[first.address(), second.address()]), "", "retry = { attempts = 0 }");
    let answer = Client::ask(gateway.address("web"), opening_handshake("a", "/ws", ""));
    assert_eq!(answer.status, 502);
    let record = gateway.record(|_| true);
    assert_eq!(record["cause"], "the backend closed before its answer was whole");
    assert_eq!(first.connections() + second.connections(), 1);
    gateway.stop();
}

#[test]
fn an_answer_that_has_begun_is_not_asked_for_again() {
    let begin: fn(Peer) = |mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 101 Swit");
        peer.finish_sending();
        peer.expect_end();
    };
    let (first, second) = (Backend::start(begin), Backend::start(begin));
    let gateway = gateway(&addresses(&[first.address(), second.address()]), "", "");
    assert_eq!(Client::ask(gateway.address("web"), opening_handshake("a", "/ws", "")).status, 502);
    assert_eq!(gateway.record(|_| true)["status"], 502);
    assert_eq!(first.connections() + second.connections(), 1);
    gateway.stop();
}

#[test]
fn a_plain_request_that_was_sent_is_not_sent_again() {
    let (first, second) = (Backend::start(leave), Backend::start(leave));
    let gateway = gateway(&addresses(&[first.address(), second.address()]), "", "");
    assert_eq!(Client::get(gateway.address("web"), "/order").status, 502);
    let record = gateway.record(|_| true);
    assert_eq!(record["cause"], "the backend closed before its answer was whole");
    assert_eq!(first.connections() + second.connections(), 1);
    gateway.stop();
}

#[test]
fn when_every_endpoint_fails_it_is_a_502() {
    let ((_a, first), (_b, second)) = (refusing(), refusing());
    let gateway = gateway(&addresses(&[first, second]), "", "");
    for request in [opening_handshake("a", "/ws", ""), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()] {
        let answer = Client::ask(gateway.address("web"), request);
        assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n"), "what is behind is not the client's");
        let record = gateway.record(|_| true);
        let cause = record["cause"].as_str().expect("a cause");
        assert!(cause.starts_with("cannot connect: Connection refused"), "{record}");
        assert!([first, second].map(|one| json!(one.to_string())).contains(&record["endpoint"]), "{record}");
    }
    gateway.stop();
}

#[test]
fn attempts_bound_how_many_endpoints_are_tried() {
    let refused: Vec<_> = (0..4).map(|_| refusing()).collect();
    let backend = Backend::start(backend::respond(ok("at last")));
    let mut endpoints: Vec<_> = refused.iter().map(|(_, address)| *address).collect();
    endpoints.push(backend.address());
    // Two endpoints a request, five in turn: three of five requests at least do not reach the last.
    let few = gateway(&addresses(&endpoints), "", "retry = { attempts = 1 }");
    let statuses: Vec<_> = (0..5).map(|_| Client::get(few.address("web"), "/").status).collect();
    assert!(statuses.iter().filter(|status| **status == 502).count() >= 3, "{statuses:?}");
    few.stop();
    let all = gateway(&addresses(&endpoints), "", "retry = { attempts = 4 }");
    for _ in 0..5 {
        assert_eq!(Client::get(all.address("web"), "/").text(), "at last");
    }
    all.stop();
}

#[test]
fn a_connect_that_hangs_is_a_504_at_its_deadline() {
    let full = Full::start();
    let gateway = gateway(&addresses(&[full.address()]), "connect = \"200ms\"", "");
    let at_rest = gateway.descriptors();
    for request in [opening_handshake("a", "/ws", ""), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()] {
        assert_eq!(Client::ask(gateway.address("web"), request).status, 504);
        let record = gateway.record(|_| true);
        assert_eq!(record["cause"], "no connection within timeouts.connect");
        assert_eq!(record["endpoint"], full.address().to_string());
        assert!(took(&record) >= 200.0, "{record}");
    }
    support::until("the descriptors are what they were", || gateway.descriptors() == at_rest);
    gateway.stop();
    assert_eq!(full.accepted_besides(), 0, "nothing was left behind");
}

#[test]
fn a_connect_that_hangs_goes_to_the_next_endpoint_at_its_deadline() {
    let full = Full::start();
    let backend = Backend::start(backend::respond(ok("here")));
    let gateway = gateway(&addresses(&[full.address(), backend.address()]), "connect = \"200ms\"", "");
    let mut waited = 0;
    for _ in 0..4 {
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
        waited += usize::from(took(&gateway.record(|_| true)) >= 200.0);
    }
    assert!(waited > 0, "the hanging one was tried first at least once");
    gateway.stop();
}

#[test]
fn host_is_the_clients_the_endpoints_or_a_literal() {
    let backend = Backend::start(backend::respond(ok("")));
    let endpoint = backend.address();
    for (setting, expected) in [
        ("", "Chat.example:8080"),
        ("host_header = \"client\"", "Chat.example:8080"),
        ("host_header = \"endpoint\"", &endpoint.to_string()),
        ("host_header = \"inner.example\"", "inner.example"),
    ] {
        let gateway = gateway(&addresses(&[endpoint]), "", setting);
        let before = backend.connections();
        Client::ask(gateway.address("web"), "GET / HTTP/1.1\r\nHost: Chat.example:8080\r\n\r\n");
        Client::ask(gateway.address("web"), opening_handshake("Chat.example:8080", "/ws", ""));
        gateway.stop();
        for received in &backend.received()[before..] {
            assert_eq!(header(&text(received), "host"), Some(expected), "{setting}");
        }
        assert_eq!(backend.connections(), before + 2);
    }
}

#[test]
fn a_name_is_looked_up_and_each_of_its_addresses_is_an_endpoint() {
    // Where localhost is ::1 too, that one refuses, and the other is tried.
    let backend = Backend::start(backend::respond(ok("by name")));
    let port = backend.address().port();
    let gateway = gateway(&[format!("localhost:{port}")], "", "host_header = \"endpoint\"");
    let answer = Client::get(gateway.address("web"), "/");
    assert_eq!(answer.text(), "by name");
    let record = gateway.record(|_| true);
    assert_eq!(record["endpoint"], backend.address().to_string());
    assert_eq!(header(&text(&backend.received()[0]), "host"), Some(&*format!("localhost:{port}")));
    gateway.stop();
}

/// What a gateway finds in /etc by mounts of its own, so that the test decides what a name is.
struct Etc(PathBuf);

impl Etc {
    fn new(hosts: &str, sources: &str, resolver: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("etc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let etc = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&etc.0).expect("the target folder can be written");
        fs::write(etc.0.join("hosts"), [b'\n'; 64]).expect("it can be written");
        etc.set_hosts(hosts);
        fs::write(etc.0.join("nsswitch.conf"), format!("hosts: {sources}\n")).expect("it can be written");
        fs::write(etc.0.join("resolv.conf"), resolver).expect("it can be written");
        etc
    }

    /// In one write of always the same length: a look-up sees the old names or the new ones.
    fn set_hosts(&self, hosts: &str) {
        let file = fs::OpenOptions::new().write(true).open(self.0.join("hosts")).expect("it is there");
        file.write_all_at(format!("{hosts:<63}\n").as_bytes(), 0).expect("it can be written");
    }

    /// None where a process may not have mounts of its own, and that is on the list of what is skipped.
    fn start(&self, config: &str) -> Option<Gateway> {
        let script = "for file in hosts nsswitch.conf resolv.conf; do \
                      mount --bind \"$0/$file\" \"$(readlink -f /etc/$file)\" || exit; done; exec \"$@\"";
        let folder = self.0.to_str().expect("the target folder's path is text");
        for unshare in [&["unshare", "--mount"][..], &["unshare", "--map-root-user", "--mount"]] {
            let launcher = [unshare, &["sh", "-c", script, folder]].concat();
            let works = Command::new(launcher[0]).args(&launcher[1..]).arg("true").output();
            if works.is_ok_and(|output| output.status.success()) {
                return Some(Gateway::start_by(&launcher, config, &[]));
            }
        }
        skip::unless_listed(Want::Namespaces, "this machine gives a process no mounts of its own (unshare --mount)");
        None
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_name_that_does_not_exist_is_said_once_and_found_when_it_comes_to_exist() {
    let etc = Etc::new("127.0.0.1 other.test", "files", "");
    let first = Backend::start(backend::websocket_echo);
    let moved = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), first.address().port());
    let second = Backend::start_on(moved, backend::websocket_echo);
    let endpoint = format!("backend.test:{}", moved.port());
    let Some(gateway) = etc.start(&config(&[endpoint], "", "resolve = \"100ms\"")) else { return };
    let web = gateway.address("web");
    let is =
        |text: &'static str| move |message: &Value| message["message"] == text && message["name"] == "backend.test";

    let warning = gateway.message(is("a name was not found"));
    assert_eq!((&warning["level"], &warning["upstream"]), (&json!("WARN"), &json!("app")));
    assert_eq!(Client::ask(web, opening_handshake("a", "/", "")).status, 503);
    assert_eq!(gateway.record(|_| true)["cause"], "the upstream has no endpoint to try");

    etc.set_hosts("127.0.0.1 backend.test");
    gateway.message(is("a name was looked up"));
    let (mut old, _) = Client::upgrade(web, "/");
    assert_eq!((first.connections(), second.connections()), (1, 0));

    // It moves: what is open stays, what is new goes to the new address.
    etc.set_hosts("127.0.0.2 backend.test");
    gateway.message(is("a name was looked up"));
    let (new, _) = Client::upgrade(web, "/");
    assert_eq!((first.connections(), second.connections()), (1, 1));
    old.send("still here");
    assert_eq!(old.read_exact(10), b"still here");

    // It goes: the last known address stays, and it is said once more.
    etc.set_hosts("127.0.0.1 other.test");
    gateway.message(is("a name was not found"));
    let (newest, _) = Client::upgrade(web, "/");
    assert_eq!((first.connections(), second.connections()), (1, 2));

    // It comes back, so it has been looked for again and again meanwhile: one line for each change, and no more.
    etc.set_hosts("127.0.0.2 backend.test");
    gateway.message(is("a name was looked up"));
    let count = |text| gateway.messages().iter().filter(|message| is(text)(message)).count();
    assert_eq!((count("a name was not found"), count("a name was looked up")), (2, 3));
    drop((old, new, newest));
    gateway.stop();
}

/// The look-up may fail at once or take its time, as the machine's resolver has it: the gateway serves meanwhile.
#[test]
fn a_name_that_does_not_exist_is_no_reason_not_to_start() {
    let backend = Backend::start(backend::respond(ok("known")));
    let unknown = gateway(&["nowhere.invalid:1".to_owned()], "connect = \"200ms\"", "");
    assert_eq!(Client::get(unknown.address("web"), "/").status, 503);
    let both = gateway(&["nowhere.invalid:1".to_owned(), backend.address().to_string()], "connect = \"200ms\"", "");
    for _ in 0..3 {
        assert_eq!(Client::get(both.address("web"), "/").text(), "known");
    }
    unknown.stop();
    both.stop();
}

/// The resolver of this machine takes questions and answers none, for longer than the test would wait.
#[test]
fn a_name_whose_look_up_takes_long_holds_up_neither_other_names_nor_the_end() {
    // The port of name servers cannot be chosen; the address is one that nobody else has in mind.
    let [.., high, low] = std::process::id().to_be_bytes();
    let mute = Ipv4Addr::new(127, 77, high, low.max(1));
    let Ok(resolver) = UdpSocket::bind((mute, 53)) else {
        return skip::unless_listed(
            Want::Namespaces,
            "the port of a name server needs a privilege that the test has not",
        );
    };
    let etc =
        Etc::new("127.0.0.1 quick.test", "files dns", &format!("nameserver {mute}\noptions timeout:30 attempts:5\n"));
    let backend = Backend::start(backend::respond(ok("quick")));
    let endpoints = ["slow.test:1".to_owned(), format!("quick.test:{}", backend.address().port())];
    let Some(gateway) = etc.start(&config(&endpoints, "connect = \"300ms\"", "")) else { return };
    resolver.recv_from(&mut [0; 512]).expect("the slow name is asked for");
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "quick");
    gateway.stop();
}
