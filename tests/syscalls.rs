//! What a message costs at the kernel's door: one read and one write each way, and the poll that says that it is there. And
//! what a tunnel and a plain request cost from their beginning to their end.

mod support;

use support::backend::{self, Backend};
use support::client::Client;
use support::frame;
use support::gateway::Gateway;
use support::peer::Peer;
use support::syscalls::{Counts, Syscalls};
use support::until;

const MESSAGES: u64 = 500;

#[test]
fn an_echoed_message_is_four_system_calls_and_the_poll() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(&backend);
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    let message = frame::client(frame::BINARY, true, [7; 125]);
    let syscalls = Syscalls::attach(gateway.pid(), "worker-0");
    (0..10).for_each(|_| echo(&mut client, &message));
    let before = syscalls.counts();
    (0..MESSAGES).for_each(|_| echo(&mut client, &message));
    let counts = syscalls.counts() - before;
    drop(syscalls);
    println!("{MESSAGES} messages echoed: {counts:?}");

    // Each way once: in from one side, out to the other.
    assert_eq!(counts.of("recvfrom"), 2 * MESSAGES, "{counts:?}");
    assert_eq!(counts.of("sendto"), 2 * MESSAGES, "{counts:?}");
    // Each way wakes the worker once; the poll after the last message may have begun before or after a look.
    let polls = counts.of_all(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
    assert!((2 * MESSAGES - 1..=2 * MESSAGES + 1).contains(&polls), "{counts:?}");
    assert_eq!(counts.total(), 4 * MESSAGES + polls, "something else is called: {counts:?}");
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
}

fn echo(client: &mut Peer, message: &[u8]) {
    client.send(message);
    assert_eq!(client.read_exact(message.len()), message);
}

const TIMES: u64 = 50;

/// How often these are called, `TIMES` times of something.
type Pins<'a> = [(&'a str, u64)];

#[test]
fn a_tunnel_from_connect_to_close_is_so_many_system_calls() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = gateway(&backend);
    let live = || {
        let (client, _) = Client::upgrade(gateway.address("web"), "/");
        client.finish_sending();
        drop(client);
    };
    pinned(
        &gateway,
        live,
        &[
            // The client's socket is the listener's child, so its options are set already.
            ("accept4", 2),
            ("socket", 1),
            // no delay; keep-alive, its three times; how long data may stay unacknowledged; how much may wait unsent
            ("setsockopt", 7),
            ("connect", 1),
            ("getsockopt", 1),
            // Head and end, of both sides.
            ("recvfrom", 4),
            ("writev", 2),
            ("sendto", 0),
            ("shutdown", 1),
            ("epoll_ctl", 4),
            ("close", 2),
        ],
    );
}

#[test]
fn a_plain_request_over_kept_connections_is_two_reads_and_two_writes() {
    let backend = Backend::start(|mut peer| {
        while peer.next_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere");
        }
    });
    let gateway = gateway(&backend);
    let mut client = Client::connect(gateway.address("web"));
    let mut ask = || {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_answer().text(), "here");
    };
    ask();
    let syscalls = Syscalls::attach(gateway.pid(), "worker-0");
    ask();
    let before = syscalls.counts();
    (0..TIMES).for_each(|_| ask());
    let counts = syscalls.detach() - before;
    assert_pinned(&counts, &[("recvfrom", 2), ("writev", 2), ("sendto", 0), ("epoll_ctl", 0), ("setsockopt", 0)]);
    drop(client);
    gateway.stop();
}

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        backend.address()
    ))
}

/// Does it `TIMES` times, each to its end, and holds the worker's calls against the pins.
fn pinned(gateway: &Gateway, work: impl Fn(), pins: &Pins<'_>) {
    let at_rest = gateway.descriptors();
    let done = || {
        work();
        until("the descriptors are what they were", || gateway.descriptors() == at_rest);
    };
    done();
    let syscalls = Syscalls::attach(gateway.pid(), "worker-0");
    done();
    let before = syscalls.counts();
    (0..TIMES).for_each(|_| done());
    assert_pinned(&(syscalls.detach() - before), pins);
}

#[track_caller]
fn assert_pinned(counts: &Counts, pins: &Pins<'_>) {
    for &(name, each) in pins {
        assert_eq!(counts.of(name), each * TIMES, "{name}: {counts:?}");
    }
}
