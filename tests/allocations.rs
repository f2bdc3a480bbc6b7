//! A message through a tunnel costs no allocation: what is read is written straight out of the worker's buffer.
//!
//! The gateway runs inside this process, whose allocator counts; so this file has one test, and while it counts, its own
//! client and backend use sockets and buffers that are there already.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::{fs, thread};

use spliceway::config::{Config, LogFile};
use spliceway::control::Stop;
use spliceway::gateway::{Bound, Ended};
use spliceway::telemetry::Output;
use support::alloc::Counting;
use support::backend::accept_websocket;
use support::client::Client;
use support::peer::Peer;
use support::syscalls::threads;
use support::{GUARD, until};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const MESSAGES: usize = 1_000;

#[test]
fn a_message_through_a_tunnel_allocates_nothing() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
    let text = format!(
        "[gateway]\nworkers = 1\n[log]\nrecords = \"off\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        backend.local_addr().expect("its address")
    );
    let config = Config::parse("test", &text, Path::new(".")).expect("it is right");
    let bound = Bound::bind(config, Output::open(&LogFile::Stderr).expect("a log")).expect("it binds");
    let address = bound.addresses().next().expect("an address").1.0;
    let (stop, stopping) = Stop::channel();
    let running = thread::spawn(move || bound.run(stopping).expect("it can start"));
    let (hand_over, handed_over) = mpsc::channel();
    let accepting = thread::spawn(move || {
        let mut peer = Peer::new(backend.accept().expect("the gateway comes").0);
        accept_websocket(&mut peer);
        hand_over.send(peer).expect("the test waits");
    });
    let (client, _) = Client::upgrade(address, "/");
    let server = handed_over.recv_timeout(GUARD).expect("the backend's end");
    accepting.join().expect("it accepted");

    // A frame of 125 bytes, and one larger than a socket's first buffers but not than the worker's.
    for size in [2 + 4 + 125, 16 * 1024] {
        let message = vec![0x82; size];
        let mut buffer = vec![0; size];
        (0..10).for_each(|_| echo(client.stream(), server.stream(), &message, &mut buffer));
        // A thread that waits for the first time makes itself what it waits by: the one that writes the log, for one.
        until("all other threads are at rest", others_are_at_rest);
        let before = ALLOCATOR.allocations();
        (0..MESSAGES).for_each(|_| echo(client.stream(), server.stream(), &message, &mut buffer));
        let allocations = ALLOCATOR.allocations() - before;
        println!("{MESSAGES} messages of {size} bytes echoed: {allocations} allocations");
        assert_eq!(allocations, 0, "{MESSAGES} messages of {size} bytes");
    }
    drop((client, server));
    stop.send(()).expect("it runs");
    assert_eq!(running.join().expect("no panic"), Ended { cut: 0 });
}

/// Whether every thread of this process but the one that asks is asleep.
fn others_are_at_rest() -> bool {
    let process = std::process::id();
    let own = nix::unistd::gettid().as_raw().cast_unsigned();
    threads(process).iter().filter(|(thread, _)| *thread != own).all(|(thread, _)| {
        // "id (name) state ...", and the name may hold anything.
        let stat = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    })
}

/// There and back.
fn echo(mut client: &TcpStream, mut server: &TcpStream, message: &[u8], buffer: &mut [u8]) {
    client.write_all(message).expect("the gateway takes it");
    server.read_exact(buffer).expect("it arrives");
    server.write_all(buffer).expect("the gateway takes it");
    client.read_exact(buffer).expect("it comes back");
    assert!(buffer == message, "the message has changed");
}
