//! The end of a gateway: nothing new is begun, what is under way may finish, and what is left at the deadline is cut and
//! counted.

mod support;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};
use support::peer::Peer;

const GET: &str = "GET /here HTTP/1.1\r\nHost: a\r\n\r\n";

/// Longer than any test waits: who sees it pass has failed to end in another way.
const NEVER: &str = "10m";

fn gateway(deadline: &str, backend: Option<&Backend>, more: &str) -> Gateway {
    let upstream = backend.map_or_else(String::new, |backend| {
        format!("[upstream.b]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/b\"\nupstream = \"b\"\n", backend.address())
    });
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[drain]\ndeadline = \"{deadline}\"\n{more}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n\
         [[route]]\npath = \"/health\"\nservice = \"health\"\n{upstream}"
    ))
}

/// Sends the signal and waits until the drain has begun.
fn begin(gateway: &Gateway, signal: Signal) -> Value {
    gateway.signal(signal);
    gateway.message(|message| message["message"] == "draining")
}

/// A connection that has had its first answer and is kept.
fn kept(gateway: &Gateway) -> Peer {
    let mut client = Client::connect(gateway.address("web"));
    client.send(GET);
    assert_eq!(client.read_answer().text(), "here");
    client
}

/// Waits for the end; gives the exit code, the last line's numbers and the records.
fn ended(gateway: Gateway) -> (Option<i32>, Value, Vec<Value>) {
    let last = gateway.message(|message| message["message"] == "ended");
    let (status, records) = gateway.wait();
    (status.code(), last, records)
}

#[test]
fn with_nothing_open_it_ends_at_once_and_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let gateway = gateway(NEVER, None, "");
        assert_eq!(begin(&gateway, signal)["open"], 0);
        let (code, last, records) = ended(gateway);
        assert_eq!((code, &last["cut"], records.len()), (Some(0), &Value::from(0), 0), "{last}");
    }
}

#[test]
fn an_idle_connection_is_closed_at_once() {
    let gateway = gateway(NEVER, None, "");
    let mut client = kept(&gateway);
    assert_eq!(begin(&gateway, Signal::SIGTERM)["open"], 1);
    client.expect_eof();
    drop(client);
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"], records.len()), (Some(0), &Value::from(0), 1), "{last}");
}

#[test]
fn a_tunnel_lives_on_and_one_that_ends_before_the_deadline_is_not_cut() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(NEVER, Some(&backend), "");
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/b");
    let (mut own, _) = Client::upgrade(gateway.address("web"), "/echo");
    begin(&gateway, Signal::SIGTERM);
    for _ in 0..3 {
        client.send("still here");
        assert_eq!(client.read_exact(10), b"still here");
    }
    client.expect_silence(Duration::from_millis(200));
    client.finish_sending();
    client.expect_eof();
    own.finish_sending();
    own.expect_end();
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"], &last["tunnels"]), (Some(0), &Value::from(0), &Value::from(2)), "{last}");
    assert!(records.iter().all(|record| record["ended_by"] == "ClientClosed"), "{records:#?}");
}

#[test]
fn what_is_left_at_the_deadline_is_cut_and_counted() {
    let backend = Backend::start(|mut peer| {
        backend::accept_websocket(&mut peer);
        peer.expect_end();
    });
    let gateway = gateway("300ms", Some(&backend), "");
    let mut clients: Vec<_> = (0..3).map(|_| Client::upgrade(gateway.address("web"), "/b").0).collect();
    clients.push(Client::upgrade(gateway.address("web"), "/echo").0);
    let asked = Instant::now();
    assert_eq!(begin(&gateway, Signal::SIGTERM)["open"], 4);
    clients.iter_mut().for_each(Peer::expect_end);
    assert!(asked.elapsed() >= Duration::from_millis(300), "cut before its time: {:?}", asked.elapsed());
    let late = gateway.message(|message| message["level"] == "WARN");
    assert_eq!(
        (&late["message"], &late["open"]),
        (&"drain.deadline has passed: cutting what is left".into(), &4.into())
    );
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"]), (Some(2), &Value::from(4)), "{last}");
    assert_eq!(records.iter().filter(|record| record["ended_by"] == "HardStop").count(), 4, "{records:#?}");
    backend.finish();
}

#[test]
fn a_second_signal_ends_it_now() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGTERM)] {
        let backend = Backend::start(backend::websocket_echo);
        let gateway = gateway(NEVER, Some(&backend), "");
        let (mut client, _) = Client::upgrade(gateway.address("web"), "/b");
        begin(&gateway, first);
        client.expect_silence(Duration::from_millis(100));
        gateway.signal(second);
        client.expect_end();
        let (code, last, records) = ended(gateway);
        assert_eq!((code, &last["cut"]), (Some(2), &Value::from(1)), "{last}");
        assert_eq!(records[0]["ended_by"], "HardStop");
    }
}

/// Whose answers were all sent has lost nothing, however slowly its client takes the hint.
#[test]
fn a_closed_connection_whose_client_lingers_is_not_cut() {
    let gateway = gateway(NEVER, None, "");
    let mut client = kept(&gateway);
    begin(&gateway, Signal::SIGTERM);
    client.expect_eof();
    gateway.signal(Signal::SIGTERM);
    let (code, last, _) = ended(gateway);
    assert_eq!((code, &last["cut"]), (Some(0), &Value::from(0)), "{last}");
    drop(client);
}

#[test]
fn a_request_under_way_is_finished_and_its_connection_closed() {
    let (asked, is_asked) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        peer.read_head();
        asked.send(()).expect("the test waits");
        may_go.lock().expect("one script").recv().expect("the test says so");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        peer.finish_sending();
        peer.expect_end();
    });
    let gateway = gateway(NEVER, Some(&backend), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n");
    is_asked.recv_timeout(support::GUARD).expect("it is forwarded");
    begin(&gateway, Signal::SIGTERM);
    client.expect_silence(Duration::from_millis(100));
    go.send(()).expect("the script waits");
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "late", Some("close")));
    client.expect_eof();
    drop(client);
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"], &records[0]["status"]), (Some(0), &Value::from(0), &Value::from(200)), "{last}");
    backend.finish();
}

/// A request on its way may have been sent before its client could know: it is taken, an upgrade is not, and health says
/// why.
#[test]
fn a_fresh_connection_has_a_second_for_its_first_request() {
    let gateway = gateway(NEVER, None, "");
    let mut plain = Client::connect(gateway.address("web"));
    let mut half = Client::connect(gateway.address("web"));
    half.send("GET /here HTT");
    let mut upgrade = Client::connect(gateway.address("web"));
    let mut health = Client::connect(gateway.address("web"));
    let mut mute = Client::connect(gateway.address("web"));
    assert_eq!(health_of(&gateway), 200);
    let asked = Instant::now();
    begin(&gateway, Signal::SIGTERM);

    plain.send(GET);
    half.send("P/1.1\r\nHost: a\r\n\r\n");
    for client in [&mut plain, &mut half] {
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "here", Some("close")));
        client.expect_eof();
    }
    upgrade.send(opening_handshake("a", "/echo", ""));
    let answer = upgrade.read_answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    upgrade.expect_eof();
    health.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = health.read_answer();
    assert_eq!((answer.status, answer.text()), (503, "draining\n"));
    health.expect_eof();

    mute.expect_eof();
    assert!(asked.elapsed() >= Duration::from_secs(1), "the mute one had no second: {:?}", asked.elapsed());
    drop((plain, half, upgrade, health, mute));
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"]), (Some(0), &Value::from(0)), "{last}");
    let refused: Vec<_> = records.iter().filter(|record| record["path"] == "/echo").collect();
    assert_eq!((refused.len(), &refused[0]["status"]), (1, &Value::from(503)), "{records:#?}");
    assert_eq!(refused[0]["cause"], "the gateway is about to end");
}

fn health_of(gateway: &Gateway) -> u16 {
    let mut client = Client::connect(gateway.address("web"));
    client.send("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.read_answer().status
}

/// An upgrade whose backend answers during the drain: the client was promised nothing yet, but the backend agreed, and the
/// tunnel lives like the others.
#[test]
fn an_upgrade_under_way_becomes_a_tunnel() {
    let (asked, is_asked) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let backend = Backend::start(move |mut peer| {
        let head = peer.read_head();
        asked.send(()).expect("the test waits");
        may_go.lock().expect("one script").recv().expect("the test says so");
        let key = support::peer::header(&head, "sec-websocket-key").expect("a key");
        peer.send(backend::switching(&backend::accept_of(key)));
        peer.send("hello");
        assert_eq!(peer.read_to_end(), b"bye");
    });
    let gateway = gateway(NEVER, Some(&backend), "");
    let mut client = Client::connect(gateway.address("web"));
    client.send(opening_handshake("a", "/b", ""));
    is_asked.recv_timeout(support::GUARD).expect("it is forwarded");
    begin(&gateway, Signal::SIGTERM);
    go.send(()).expect("the script waits");
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read_exact(5), b"hello");
    client.send("bye");
    client.finish_sending();
    client.expect_eof();
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"]), (Some(0), &Value::from(0)), "{last}");
    assert_eq!((&records[0]["sent"], &records[0]["received"]), (&3.into(), &5.into()));
    backend.finish();
}

/// The kernel has told these clients that they are connected: they are served before the sockets are closed.
#[test]
fn what_waits_in_the_accept_queue_is_served() {
    let gateway = gateway(NEVER, None, "");
    let address = gateway.address("web");
    // While it is stopped nothing is accepted, and when it goes on, the signal is there as early as the connections.
    gateway.signal(Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..50).map(|_| Client::connect(address)).collect();
    waiting.iter_mut().for_each(|client| client.send(GET));
    gateway.signal(Signal::SIGTERM);
    gateway.signal(Signal::SIGCONT);
    for client in &mut waiting {
        assert_eq!(client.read_answer().text(), "here");
        client.expect_eof();
    }
    drop(waiting);
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"], records.len()), (Some(0), &Value::from(0), 50), "{last}");
}

#[test]
fn what_waits_for_a_place_is_served_too() {
    let gateway = gateway(NEVER, None, "[limits]\nconnections = 1");
    let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
    // The only place is a tunnel's, and stays so.
    let mut waiting: Vec<_> = (0..3).map(|_| Client::connect(gateway.address("web"))).collect();
    waiting.iter_mut().for_each(|client| client.send(GET));
    waiting[0].expect_silence(Duration::from_millis(100));
    begin(&gateway, Signal::SIGTERM);
    for client in &mut waiting {
        let answer = client.read_answer();
        assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "here", Some("close")));
        client.expect_eof();
    }
    tunnel.finish_sending();
    tunnel.expect_end();
    drop((waiting, tunnel));
    let (code, last, records) = ended(gateway);
    assert_eq!((code, &last["cut"], records.len()), (Some(0), &Value::from(0), 4), "{last}");
}

#[test]
fn after_the_drain_began_nobody_can_connect() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(NEVER, Some(&backend), "");
    let address = gateway.address("web");
    let (mut client, _) = Client::upgrade(address, "/b");
    begin(&gateway, Signal::SIGTERM);
    support::until("the listening sockets are closed", || std::net::TcpStream::connect(address).is_err());
    client.send("and the tunnel lives");
    assert_eq!(client.read_exact(20), b"and the tunnel lives");
    client.finish_sending();
    client.expect_eof();
    assert_eq!(ended(gateway).0, Some(0));
}

/// Logs are rotated when their time has come, and tunnels may keep a drain going for as long as its deadline.
#[test]
fn the_other_signals_are_heard_while_it_drains() {
    let gateway = gateway(NEVER, None, "");
    let (tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
    begin(&gateway, Signal::SIGTERM);
    gateway.signal(Signal::SIGHUP);
    gateway.message(|message| message["message"] == "the reload is refused: the gateway drains");
    gateway.signal(Signal::SIGUSR1);
    gateway.message(|message| message["message"] == "SIGUSR1: the log file is opened anew");
    drop(tunnel);
    let (code, last, _) = ended(gateway);
    assert_eq!((code, &last["cut"]), (Some(0), &Value::from(0)), "{last}");
}
