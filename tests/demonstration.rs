//! What somebody sees who starts the gateway without a file: the page, the echo, the small backend, and a clean end.
//!
//! The demonstration's port is the one fixed port of all tests, so this file has one test, and it waits while another
//! process has the port.

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use support::client::Client;
use support::frame;
use support::gateway::{Gateway, Signal, run_to_end};
use support::{GUARD, peer::header};

const ADDRESS: &str = "127.0.0.1:8080";

#[test]
fn without_a_file_there_is_a_demonstration() {
    let _lock = wait_for_the_port();
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

/// Waits until nobody has the port. The lock keeps other runs of this test away, of whatever checkout on this machine; it
/// ends with the process.
fn wait_for_the_port() -> Option<File> {
    let file =
        File::options().create(true).append(true).open(std::env::temp_dir().join("spliceway-demonstration.lock"));
    // Where the file is another user's, the port alone has to do.
    let lock = file.ok().inspect(|file| file.lock().expect("a lock on a file"));
    let start = Instant::now();
    while let Err(error) = TcpListener::bind(ADDRESS) {
        assert!(
            start.elapsed() < GUARD,
            "the demonstration cannot be tested: another process of this machine has {ADDRESS} ({error})"
        );
        thread::sleep(Duration::from_millis(50));
    }
    lock
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
