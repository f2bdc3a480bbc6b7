//! The harness itself: what the other tests rely on.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::alloc::Counting;
use support::backend::{self, Backend};
use support::client::{ACCEPT, Client, KEY, opening_handshake};
use support::peer::{header, header_lines};
use support::syscalls::{Syscalls, find_threads};
use support::{frame, panic_text, process};

#[test]
fn a_backend_and_a_client_talk() {
    let backend = Backend::start(|mut peer| {
        assert_eq!(peer.read_head(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(peer.read_exact(5), b"hello");
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n1\r\n!\r\n0\r\n\r\n");
        peer.expect_eof();
        peer.finish_sending();
    });
    let mut client = Client::connect(backend.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nhello");
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.text()), (200, "well!"));
    client.finish_sending();
    client.expect_eof();
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.finish(), [b"GET / HTTP/1.1\r\nHost: a\r\n\r\nhello"]);
}

#[test]
fn the_echo_answers_the_opening_handshake_and_sends_frames_back() {
    let backend = Backend::start(backend::websocket_echo);
    let (mut client, head) = Client::upgrade(backend.address(), "/ws");
    assert_eq!(header(&head, "UPGRADE"), Some("websocket"));
    for length in [0, 125, 126, 65_535, 65_536] {
        client.send(frame::client(frame::BINARY, true, vec![7; length]));
        let echoed = frame::read(&mut client);
        assert_eq!((echoed.fin, echoed.opcode, echoed.masked), (true, frame::BINARY, true));
        assert_eq!(echoed.payload, vec![7; length]);
    }
    client.send(frame::server(frame::CLOSE, true, frame::close_payload(1001, "bye")));
    assert_eq!(frame::read(&mut client).close_code(), Some(1001));
    client.finish_sending();
    client.expect_eof();
    assert!(backend.finish()[0].starts_with(opening_handshake("localhost", "/ws", "").as_bytes()));
}

#[test]
fn frames_are_those_of_the_rfc() {
    assert_eq!(frame::client(frame::TEXT, true, "Hello"), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(frame::server(frame::TEXT, false, "Hel"), b"\x01\x03Hel");
    assert_eq!(backend::accept_of(KEY), ACCEPT);
}

#[test]
fn a_literal_answer_and_a_silent_backend() {
    let refusing =
        Backend::start(backend::respond("HTTP/1.1 403 Forbidden\r\nA: 1\r\na: 2\r\nContent-Length: 2\r\n\r\nno"));
    let answer = Client::ask(refusing.address(), opening_handshake("localhost", "/", "Origin: null\r\n"));
    assert_eq!((answer.status, answer.body.as_slice()), (403, &b"no"[..]));
    assert_eq!(header_lines(&answer.head, "a"), ["1", "2"]);

    let silent = Backend::start(backend::silent);
    let mut client = Client::connect(silent.address());
    client.send("anything");
    client.expect_silence(Duration::from_millis(100));
    client.finish_sending();
    client.expect_end();
    assert_eq!(silent.finish(), [b"anything"]);
}

#[test]
fn a_reset_is_told_from_an_end_both_ways() {
    let (seen, is_seen) = mpsc::channel();
    let backend = Backend::start(move |mut peer| match peer.read_line().as_str() {
        "reset me" => {
            peer.send("first");
            // Read, so that the reset is the script's wish and not the consequence of unread bytes.
            assert_eq!(peer.read_exact(3), b"now");
            peer.reset();
        }
        _ => seen.send(peer.expect_reset()).expect("the test waits"),
    });
    let mut client = Client::connect(backend.address());
    client.send("reset me\r\n");
    assert_eq!(client.read_exact(5), b"first");
    client.send("now");
    assert_eq!(client.expect_reset(), b"");

    let mut client = Client::connect(backend.address());
    client.send("I reset\r\n");
    client.reset();
    assert_eq!(is_seen.recv_timeout(support::GUARD), Ok(vec![]));
    backend.finish();
}

#[test]
fn a_finished_backend_refuses() {
    let backend = Backend::start(backend::silent);
    let address = backend.address();
    backend.finish();
    let error = std::net::TcpStream::connect(address).expect_err("nobody listens there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_panic_of_a_script_fails_the_test() {
    let backend = Backend::start(|mut peer| {
        peer.read_line();
        panic!("the script's own reason");
    });
    let mut client = Client::connect(backend.address());
    client.send("line\r\n");
    client.expect_eof();
    let panic = catch_unwind(AssertUnwindSafe(|| backend.finish())).expect_err("the panic goes on");
    assert_eq!(panic_text(&*panic), "the script's own reason");
}

#[test]
fn bulk_is_counted_without_being_kept() {
    let backend = Backend::start(|mut peer| {
        peer.discard(1_000_000);
        let count = peer.count_to_end();
        peer.send(count.to_string());
    });
    let mut client = Client::connect_with(backend.address(), |socket| {
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
    });
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || {
        sender.send(vec![0; 3_000_000]);
        sender.finish_sending();
    });
    assert_eq!(client.read_to_end(), b"2000000");
    sending.join().expect("all is sent");
    assert_eq!(backend.finish(), [b""]);
}

#[test]
fn system_calls_of_a_process_are_counted_exactly() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat starts");
    let mut input = child.stdin.take().expect("it was piped");
    let mut output = BufReader::new(child.stdout.take().expect("it was piped"));
    let mut echo = |line: &str| {
        input.write_all(line.as_bytes()).expect("cat reads");
        let mut back = String::new();
        output.read_line(&mut back).expect("cat writes");
        assert_eq!(back, line);
    };
    echo("before\n"); // cat is cat from here on, and the name of its thread too
    let syscalls = Syscalls::attach(child.id(), "cat");
    echo("one\n");
    let before = syscalls.counts();
    for number in 0..10 {
        echo(&format!("{number}\n"));
    }
    let after = syscalls.counts();
    let ten = after.clone() - before;
    assert_eq!(ten.of("write"), 10, "{ten:?}");
    // The read after a line may have begun before or after a look.
    assert!((9..=11).contains(&ten.of("read")), "{ten:?}");
    assert_eq!(ten.total(), ten.of_all(&["read", "write"]), "{ten:?}");
    assert!(syscalls.detach().of("write") == after.of("write"));

    echo("after\n");
    assert!(process::descriptors(child.id()) >= 3);
    assert!(process::pss(child.id()) > 10_000);
    drop(input);
    assert!(process::wait(&mut child).is_some_and(|status| status.success()));
}

#[test]
fn a_thread_is_found_by_its_name() {
    let (stop, stopped) = mpsc::channel::<()>();
    let body = move || assert!(stopped.recv().is_err());
    let thread = std::thread::Builder::new().name("a-name-of-more-than-15".into()).spawn(body).expect("a thread");
    support::until("the thread has its name", || find_threads(std::process::id(), "a-name-of-more-than-15").len() == 1);
    drop(stop);
    thread.join().expect("it ends");
}

#[test]
fn hundreds_of_connections_at_once() {
    assert!(support::raise_descriptors() >= 4096, "too few descriptors to test with");
    let backend = Backend::start(backend::websocket_echo);
    let mut clients: Vec<_> = (0..300).map(|_| Client::upgrade(backend.address(), "/").0).collect();
    clients.iter_mut().for_each(|client| client.send("all at once"));
    clients.iter_mut().for_each(|client| assert_eq!(client.read_exact(11), b"all at once"));
    assert_eq!(backend.connections(), 300);
}

#[test]
fn a_command_runs_to_its_end() {
    let output = process::run_to_end(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 78"]));
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(78), &b"out\n"[..], &b"err\n"[..])
    );
}

#[test]
fn an_allocator_counts() {
    use std::alloc::{GlobalAlloc, Layout};

    let counting = Counting::new();
    let layout = Layout::new::<[u8; 64]>();
    let larger = Layout::new::<[u8; 128]>();
    #[allow(unsafe_code)] // called by hand here, so that the other tests of this file are not counted
    // SAFETY: each pointer is used with the layout that it has at that point, and freed once.
    unsafe {
        let memory = counting.alloc(layout);
        let memory = counting.realloc(memory, layout, larger.size());
        assert_eq!((counting.allocations(), counting.live()), (2, 128));
        counting.dealloc(memory, larger);
    }
    assert_eq!((counting.allocations(), counting.live()), (2, 0));
}

#[test]
fn a_reason_for_skipping_is_one_that_is_given() {
    let list = "# namespaces: a comment\nother: one\nnamespaces:\nnamespaces2: no\nnamespaces:  a container \n";
    assert_eq!(support::skip::reason(list, "namespaces"), Some("a container"));
    assert_eq!(support::skip::reason(list, "names"), None);
    assert_eq!(support::skip::reason("namespaces:\n", "namespaces"), None);
}
