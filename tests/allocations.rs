//! What costs allocations, and how many. A message through a tunnel costs none: what is read is written straight out of the
//! worker's buffer. A request costs those of its head, and of what forwards it; a change of these numbers is to be explained
//! by whoever makes it.
//!
//! The gateway runs inside this process, whose allocator counts; so this file has one test, and while it counts, its own
//! client and backend use sockets and buffers that are there already.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
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
fn messages_allocate_nothing_and_requests_so_much() {
    let [backend, pages, tunnels] = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let text = format!(
        "[gateway]\nworkers = 1\n[log]\nrecords = \"off\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n\
         [upstream.pages]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/page\"\nupstream = \"pages\"\n\
         [upstream.tunnels]\nendpoints = [\"{}\"]\n[[route]]\npath = \"/tunnel\"\nupstream = \"tunnels\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n",
        backend.local_addr().expect("its address"),
        pages.local_addr().expect("its address"),
        tunnels.local_addr().expect("its address"),
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
    let serving = thread::spawn(move || serve_pages(&pages));
    let kept = TcpStream::connect(address).expect("the gateway listens");
    let [here, page] = ["here", "page"].map(|path| format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    requests_allocate(HERE, "a request that is answered here", || ask(&kept, &here));
    requests_allocate(FORWARDED, "a request that is forwarded on kept connections", || ask(&kept, &page));
    drop(kept);
    let echoing = thread::spawn(move || (0..WARM_UP + REQUESTS).for_each(|_| serve_tunnel(&tunnels)));
    requests_allocate(TUNNEL, "a tunnel from accept to end", || live_a_tunnel(address));
    echoing.join().expect("every tunnel came");
    stop.send(()).expect("it runs");
    assert_eq!(running.join().expect("no panic"), Ended { cut: 0 });
    serving.join().expect("the kept connection has ended");
}

const WARM_UP: usize = 20;
const REQUESTS: usize = 100;

/// hyper's, 7: a fresh read buffer and the count of who shares it, the table of headers (2) and the names as they were spelt
/// (3). Ours, 7: the service's future, the record, the host as it is matched, the id as it is sent, the answer's headers
/// (2), what its body carries.
const HERE: usize = 14;
/// 12 of those (no answer is made here), and 30 more. Ours, 21: what the backend is told of the client (8), the request's
/// copy for a second try (8), how far its body came (2), the endpoints and the one tried (2), the alarm of the wait. hyper's,
/// 9: the way of the answer, its buffer and head like those of the request (7), the channel of its body.
const FORWARDED: usize = 42;
/// Of a whole life: the connection (tokio 2, hyper 3 and a read buffer, ours 5), the request as above with its checks and
/// its upgrade's hand-over, a connection to the backend that is made for it (tokio 1, for hyper 7), the request's copy for a
/// second try, the backend's head and its hand-over, and the tunnel's alarm and task.
const TUNNEL: usize = 76;

#[allow(clippy::print_stdout)] // as where messages are counted
fn requests_allocate(each: usize, what: &str, request: impl Fn()) {
    (0..WARM_UP).for_each(|_| request());
    until("all other threads are at rest", others_are_at_rest);
    let before = ALLOCATOR.allocations();
    (0..REQUESTS).for_each(|_| request());
    let allocations = ALLOCATOR.allocations() - before;
    println!("{what}: {} allocations ({allocations} in {REQUESTS})", allocations as f64 / REQUESTS as f64);
    // Rounded down: now and then a table grows.
    assert_eq!(allocations / REQUESTS, each, "{what}: {allocations} allocations in {REQUESTS}");
}

fn ask(mut client: &TcpStream, request: &str) {
    client.write_all(request.as_bytes()).expect("the gateway takes it");
    read_through(client, b"\r\n\r\nhere").expect("an answer");
}

/// From the connect to the end of both sides.
fn live_a_tunnel(address: SocketAddr) {
    let mut client = TcpStream::connect(address).expect("the gateway listens");
    client.write_all(OPENING.as_bytes()).expect("the gateway takes it");
    read_through(&client, b"\r\n\r\n").expect("a 101");
    echo_end(&mut client);
}

const OPENING: &str = "GET /tunnel HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere";

/// A message there and back, FIN, FIN.
fn echo_end(client: &mut TcpStream) {
    client.write_all(b"message").expect("the gateway takes it");
    client.read_exact(&mut [0; 7]).expect("it comes back");
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(client.read(&mut [0; 8]).expect("an end"), 0);
}

/// Serves one connection to its end.
fn serve_pages(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("the gateway comes");
    while read_through(&stream, b"\r\n\r\n").is_some() {
        stream.write_all(PAGE.as_bytes()).expect("the gateway takes it");
    }
}

/// Accepts one tunnel and sends its one message back.
fn serve_tunnel(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("the gateway comes");
    read_through(&stream, b"\r\n\r\n").expect("an opening handshake");
    stream.write_all(SWITCHING.as_bytes()).expect("the gateway takes it");
    let mut message = [0; 7];
    stream.read_exact(&mut message).expect("a message");
    stream.write_all(&message).expect("the gateway takes it");
    assert_eq!(stream.read(&mut message).expect("an end"), 0);
}

/// Reads until `end` has come, into a buffer on the stack; `None` at the end of the stream.
fn read_through(mut stream: &TcpStream, end: &[u8]) -> Option<()> {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while !buffer[..filled].ends_with(end) {
        match stream.read(&mut buffer[filled..]).expect("the other end is there") {
            0 => return None,
            count => filled += count,
        }
    }
    Some(())
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
