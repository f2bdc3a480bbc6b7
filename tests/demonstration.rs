//! What somebody sees who starts the gateway without a file: the page, the echo, the small backend, and a clean end.
//!
//! The demonstration's ports are the only fixed ports of all tests, so this file has one test, and it waits while another
//! process has one of them.

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::{Gateway, Signal, run_to_end};
use support::{GUARD, peer::header};

const ADDRESS: &str = "127.0.0.1:8080";
const SECURE: &str = "127.0.0.1:8443";

#[test]
fn without_a_file_there_is_a_demonstration() {
    let _lock = wait_for_the_ports();
    let gateway = Gateway::launch(&[], &[]);
    let told = gateway.line(|line| line.contains("demonstration: open"));
    assert!(told.contains("http://127.0.0.1:8080/") && told.contains("https://127.0.0.1:8443/"), "{told}");
    let address: SocketAddr = ADDRESS.parse().expect("an address");

    let page = Client::get(address, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("WebSocket rocks"), "the page does not say what the README promises");
    let health = Client::get(address, "/health");
    assert_eq!((health.status, health.text()), (200, "ok\n"));
    talk(address, "/echo");
    talk(address, "/backend");

    // The echo is the gateway's own; the backend was reached as any is, at an endpoint.
    let echo = gateway.line(|line| line.contains("record=tunnel") && line.contains("path=/echo"));
    assert!(echo.contains("ended_by=ClientClosed") && !echo.contains("endpoint="), "{echo}");
    let backend = gateway.line(|line| line.contains("record=tunnel") && line.contains("path=/backend"));
    assert!(backend.contains("endpoint=127.0.0.1:") && backend.contains("close_code=1000"), "{backend}");
    out_of_descriptors_the_backend_pauses_and_goes_on(&gateway, endpoint_of(&backend));
    let listens = || gateway.line(|line| line.contains("listening"));
    assert!(listens().contains("127.0.0.1:8080"), "{}", listens());

    // Who starts it twice is told why the second does not run.
    let second = run_to_end(&["run"]);
    let told = String::from_utf8_lossy(&second.stderr);
    assert_eq!((second.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("cannot listen on 127.0.0.1:8080: the address is in use by another process"), "{told}");

    gateway.signal(Signal::SIGINT);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

fn endpoint_of(record: &str) -> SocketAddr {
    let endpoint = record.split_once("endpoint=").and_then(|(_, rest)| rest.split_whitespace().next());
    endpoint.and_then(|endpoint| endpoint.parse().ok()).expect("an address")
}

fn out_of_descriptors_the_backend_pauses_and_goes_on(gateway: &Gateway, backend: SocketAddr) {
    let process = Pid::from_raw(gateway.pid().try_into().expect("an id")).expect("an id that is not 0");
    let none_left = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let raised = prlimit(Some(process), Resource::Nofile, none_left).expect("a child's limit may be set");
    let began = Instant::now();
    let mut waiting = Client::connect(backend);
    gateway.line(|line| line.contains("the demonstration's backend cannot accept; it pauses for a second"));
    waiting.expect_silence(Duration::from_millis(100));
    prlimit(Some(process), Resource::Nofile, raised).expect("and set again");
    waiting.send(opening_handshake("a", "/", ""));
    assert!(waiting.read_head().starts_with("HTTP/1.1 101 "));
    // It did pause: trying again and again would have kept a core busy and filled the log.
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Waits until nobody has the ports. The lock keeps other runs of this test away, of whatever checkout on this machine; it
/// ends with the process.
fn wait_for_the_ports() -> Option<File> {
    let file =
        File::options().create(true).append(true).open(std::env::temp_dir().join("spliceway-demonstration.lock"));
    // Where the file is another user's, the ports alone have to do.
    let lock = file.ok().inspect(|file| file.lock().expect("a lock on a file"));
    let start = Instant::now();
    while let Some((address, error)) = [ADDRESS, SECURE].into_iter().find_map(taken) {
        assert!(
            start.elapsed() < GUARD,
            "the demonstration cannot be tested: another process of this machine has {address} ({error})"
        );
        thread::sleep(Duration::from_millis(50));
    }
    lock
}

fn taken(address: &'static str) -> Option<(&'static str, std::io::Error)> {
    Some((address, TcpListener::bind(address).err()?))
}

/// A message there and back, and the closing handshake.
fn talk(address: SocketAddr, path: &str) {
    let (mut client, head) = Client::upgrade(address, path);
    assert_eq!(header(&head, "upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"), "{path}");
    client.send(frame::client(frame::TEXT, true, "WebSocket rocks"));
    let message = frame::read(&mut client);
    assert_eq!((message.opcode, message.text()), (frame::TEXT, "WebSocket rocks"), "{path}");
    client.send(frame::client(frame::CLOSE, true, frame::close_payload(1000, "")));
    assert_eq!(frame::read(&mut client).close_code(), Some(1000), "{path}");
    client.finish_sending();
    client.expect_end();
}
