//! Accepting under pressure: no descriptors, no places, many workers; and what is set on the sockets.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, prlimit,
};
use socket2::SockRef;
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};
use support::peer::Peer;
use support::syscalls::{Syscalls, find_threads};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const FULL: &str = "the limit of connections is reached; accepting pauses";

fn gateway(more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n"
    ))
}

/// A connection that has asked; whether it is answered is another matter.
fn asking(address: SocketAddr) -> Peer {
    let mut client = Client::connect(address);
    client.send(GET);
    client
}

#[track_caller]
fn is_served(client: &mut Peer) {
    assert_eq!(client.read_answer().text(), "here");
}

/// Everything that was opened since is closed.
#[track_caller]
fn come_to_rest(gateway: &Gateway, at_rest: usize) {
    support::until("the descriptors are what they were", || gateway.descriptors() == at_rest);
}

fn process(gateway: &Gateway) -> Pid {
    Pid::from_raw(gateway.pid().try_into().expect("an id")).expect("an id that is not 0")
}

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    let gateway = gateway("[gateway]\nworkers = 1");
    let address = gateway.address("web");
    let mut before = asking(address);
    is_served(&mut before);

    let hard = getrlimit(Resource::Nofile).maximum;
    let none_left = Rlimit { current: Some(3), maximum: hard };
    let raised = prlimit(Some(process(&gateway)), Resource::Nofile, none_left).expect("a child's limit may be set");
    let mut waiting: Vec<_> = (0..5).map(|_| asking(address)).collect();
    let paused = Instant::now();
    let failed = gateway.message(|message| message["level"] == "ERROR");
    assert_eq!(failed["message"], "accepting failed; it pauses for a second", "{failed}");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("os error 24")), "{failed}");
    // Those that are there already do not notice.
    before.send(GET);
    is_served(&mut before);
    waiting[0].expect_silence(Duration::from_millis(100));

    prlimit(Some(process(&gateway)), Resource::Nofile, raised).expect("and set again");
    waiting.iter_mut().for_each(is_served);
    // It did pause: trying again and again would have kept a core busy and filled the log.
    assert!(paused.elapsed() >= Duration::from_millis(900), "{:?}", paused.elapsed());
    let errors = gateway.messages().iter().filter(|message| message["level"] == "ERROR").count() as u128;
    assert!(errors <= paused.elapsed().as_millis() / 900 + 1, "{errors} errors in {:?}", paused.elapsed());
    drop((before, waiting));
    gateway.stop();
}

#[test]
fn over_the_limit_of_connections_a_client_waits_for_a_place() {
    let gateway = gateway("[gateway]\nworkers = 2\n[limits]\nconnections = 2");
    let (address, at_rest) = (gateway.address("web"), gateway.descriptors());
    let (mut kept, mut other) = (asking(address), asking(address));
    is_served(&mut kept);
    is_served(&mut other);
    // Whichever worker these wait at: the budget is the gateway's, not a worker's.
    let mut waiting: Vec<_> = (0..8).map(|_| asking(address)).collect();
    gateway.message(|message| message["message"] == FULL);
    for client in &mut waiting {
        client.expect_silence(Duration::from_millis(50));
    }
    assert_eq!(gateway.records().len(), 2);
    // As many as there are places are served, and each that leaves lets another in.
    drop(other);
    for _ in 0..8 {
        let at = served_first(&mut waiting);
        drop(waiting.swap_remove(at));
    }
    kept.send(GET);
    is_served(&mut kept);
    drop(kept);
    come_to_rest(&gateway, at_rest);
    assert_eq!(gateway.stop().len(), 11);
}

/// Waits for the first of these that is answered, asserts that it is the only one, and gives its place in the list.
fn served_first(waiting: &mut [Peer]) -> usize {
    let answered = |client: &Peer| {
        client.stream().set_nonblocking(true).expect("a mode of the socket");
        let there = client.stream().peek(&mut [0]).is_ok_and(|count| count > 0);
        client.stream().set_nonblocking(false).expect("and back");
        there
    };
    let mut at = None;
    support::until("one of them is answered", || {
        at = waiting.iter().position(answered);
        at.is_some()
    });
    let at = at.expect("that is what was waited for");
    is_served(&mut waiting[at]);
    let others = waiting.iter().enumerate().filter(|(index, client)| *index != at && answered(client)).count();
    assert_eq!(others, 0, "more were served than there were places");
    at
}

#[test]
fn a_listeners_own_limit_holds_nobody_else_up() {
    let gateway = Gateway::start(
        "[gateway]\nworkers = 1\n[limits]\nconnections = 3\n\
         [[listener]]\nname = \"small\"\nbind = \"127.0.0.1:0\"\nlimits = { connections = 1 }\n\
         [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nrespond = { status = 200, body = \"here\" }\n",
    );
    let (small, other) = (gateway.address("small"), gateway.address("other"));
    let at_rest = gateway.descriptors();
    let mut first = asking(small);
    is_served(&mut first);
    let mut waiting = asking(small);
    gateway.message(|message| message["message"] == FULL && message["listener"] == "small");
    waiting.expect_silence(Duration::from_millis(100));
    // The one that waits at the small listener holds none of the gateway's three places.
    let (mut second, mut third) = (asking(other), asking(other));
    is_served(&mut second);
    is_served(&mut third);
    // Now the gateway's own budget is used up, and the small listener's place alone is not enough.
    let mut fourth = asking(other);
    fourth.expect_silence(Duration::from_millis(100));
    drop(first);
    drop(second);
    is_served(&mut waiting);
    is_served(&mut fourth);
    drop((waiting, third, fourth));
    come_to_rest(&gateway, at_rest);
    gateway.stop();
}

#[test]
fn an_upgrade_over_the_limit_of_tunnels_is_answered_503_until_one_has_ended() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(&format!(
        "[gateway]\nworkers = 2\n[limits]\ntunnels = 2\n[upstream.b]\nendpoints = [\"{}\"]\n\
         [[route]]\npath = \"/b\"\nupstream = \"b\"\n",
        backend.address()
    ));
    let (address, at_rest) = (gateway.address("web"), gateway.descriptors());
    let (first, _) = Client::upgrade(address, "/b");
    let (echo, _) = Client::upgrade(address, "/echo");
    for path in ["/b", "/echo"] {
        let mut client = Client::connect(address);
        client.send(opening_handshake("a", path, ""));
        assert_eq!(client.read_answer().status, 503);
        let refused = gateway.record(|record| record["path"] == path && record["status"] == 503);
        assert_eq!((&refused["record"], &refused["cause"]), (&"request".into(), &"limits.tunnels is reached".into()));
        // It is no tunnel and goes on as HTTP, plain requests are no tunnels either.
        client.send(GET);
        is_served(&mut client);
    }
    assert_eq!(backend.connections(), 1, "the backend has seen what was refused");

    first.finish_sending();
    drop(first);
    gateway.record(|record| record["record"] == "tunnel" && record["path"] == "/b");
    let (again, _) = Client::upgrade(address, "/echo");
    drop((again, echo));
    gateway.record(|record| record["record"] == "tunnel" && record["path"] == "/echo");
    gateway.record(|record| record["record"] == "tunnel" && record["path"] == "/echo");
    come_to_rest(&gateway, at_rest);
    gateway.stop();
    backend.finish();
}

#[test]
fn a_failed_upgrade_gives_its_place_among_the_tunnels_back() {
    let backend = Backend::start(backend::respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"));
    let gateway = gateway(&format!(
        "[limits]\ntunnels = 1\n[upstream.b]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/b\"\nupstream = \"b\"\n",
        backend.address()
    ));
    for _ in 0..3 {
        let answer = Client::ask(gateway.address("web"), opening_handshake("a", "/b", ""));
        assert_eq!(answer.status, 403);
    }
    let (client, _) = Client::upgrade(gateway.address("web"), "/echo");
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
}

/// The kernel holds one more than the backlog: its queue is full when there is more in it than that.
#[test]
fn backlog_is_how_many_connections_wait_to_be_accepted() {
    for backlog in [3, 12] {
        let gateway = gateway(&format!("[gateway]\nworkers = 1\n[tcp]\nbacklog = {backlog}"));
        let address = gateway.address("web");
        let mut waiting = gateway.standing_still(|| {
            let waiting: Vec<_> = (0..=backlog).map(|_| asking(address)).collect();
            let one_more = TcpStream::connect_timeout(&address, Duration::from_millis(200));
            assert_eq!(one_more.map_err(|error| error.kind()).err(), Some(ErrorKind::TimedOut), "{backlog}");
            waiting
        });
        waiting.iter_mut().for_each(is_served);
        is_served(&mut asking(address));
        drop(waiting);
        gateway.stop();
    }
}

#[test]
fn workers_share_the_connections() {
    let gateway = gateway("[gateway]\nworkers = 2");
    let workers = ["worker-0", "worker-1"];
    for worker in workers {
        support::until("the worker has its name", || find_threads(gateway.pid(), worker).len() == 1);
    }
    let traced = workers.map(|worker| Syscalls::attach(gateway.pid(), worker));
    let mut clients: Vec<_> = (0..64).map(|_| asking(gateway.address("web"))).collect();
    clients.iter_mut().for_each(is_served);
    // By chance alone one of them would get fewer than eight once in ten thousand million times.
    for (counts, worker) in traced.map(Syscalls::detach).iter().zip(workers) {
        assert!(counts.of("accept4") >= 8, "{worker}: {counts:?}");
    }
    drop(clients);
    gateway.stop();
}

#[test]
fn sockets_of_both_sides_are_watched_by_the_kernel() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(&format!(
        "[tcp]\nkeepalive = \"40s\"\nuser_timeout = \"70s\"\n[upstream.b]\nendpoints = [\"{}\"]\n\
         [[route]]\npath = \"/b\"\nupstream = \"b\"\n",
        backend.address()
    ));
    let (client, _) = Client::upgrade(gateway.address("web"), "/b");
    let sockets = sockets(&gateway);
    for peer in [client.local(), backend.address()] {
        let socket = sockets.iter().map(SockRef::from).find(|socket| peer_of(socket) == Some(peer));
        let socket = socket.unwrap_or_else(|| panic!("the gateway has no socket to {peer}"));
        assert!(socket.tcp_nodelay().expect("TCP_NODELAY"), "{peer}");
        assert!(socket.keepalive().expect("SO_KEEPALIVE"), "{peer}");
        assert_eq!(socket.tcp_keepalive_time().expect("TCP_KEEPIDLE"), Duration::from_secs(40), "{peer}");
        assert_eq!(socket.tcp_keepalive_interval().expect("TCP_KEEPINTVL"), Duration::from_secs(15), "{peer}");
        assert_eq!(socket.tcp_keepalive_retries().expect("TCP_KEEPCNT"), 3, "{peer}");
        let user_timeout = socket.tcp_user_timeout().expect("TCP_USER_TIMEOUT");
        assert_eq!(user_timeout, Some(Duration::from_secs(70)), "{peer}");
    }
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

/// Duplicates of all descriptors of the gateway that are sockets: the options belong to the socket, whoever asks.
fn sockets(gateway: &Gateway) -> Vec<OwnedFd> {
    let handle = pidfd_open(process(gateway), PidfdFlags::empty()).expect("a handle of the child");
    let folder = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("the gateway runs");
    let is_socket =
        |path: &std::path::PathBuf| fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"));
    let sockets = folder.map(|entry| entry.expect("an entry").path()).filter(is_socket);
    let number = |path: std::path::PathBuf| -> i32 {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).expect("a number")
    };
    sockets
        .map(|path| pidfd_getfd(&handle, number(path), PidfdGetfdFlags::empty()).expect("a child's socket"))
        .collect()
}

fn peer_of(socket: &SockRef<'_>) -> Option<SocketAddr> {
    socket.peer_addr().ok().and_then(|address| address.as_socket())
}
