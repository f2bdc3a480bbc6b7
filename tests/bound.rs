//! The gate between binding and serving. The gateway runs inside this process, because only so can a test stand between
//! the two.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use spliceway::config::{Config, LogFile};
use spliceway::control::Stop;
use spliceway::gateway::{Bound, Ended, StartError};
use spliceway::telemetry::Output;
use support::GUARD;
use support::client::Client;
use support::peer::Peer;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn bind(listeners: &str) -> Result<Bound, StartError> {
    let text = format!(
        "[gateway]\nworkers = 2\n[log]\nrecords = \"off\"\n{listeners}\n\
         [[route]]\nrespond = {{ status = 200, body = \"here\" }}\n"
    );
    let config = Config::parse("test", &text, Path::new(".")).expect("it is right");
    Bound::bind(config, Output::open(&LogFile::Stderr).expect("a log"))
}

fn only_address(bound: &Bound) -> SocketAddr {
    let addresses: Vec<_> = bound.addresses().map(|(_, address)| address.0).collect();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    addresses[0]
}

/// Serves, lets `talk` be, and ends it.
fn run(bound: Bound, talk: impl FnOnce()) {
    let (stop, stopping) = Stop::channel();
    let (ended, end) = mpsc::channel();
    let running = thread::spawn(move || {
        let _ = ended.send(bound.run(stopping).expect("it can start"));
    });
    talk();
    stop.send(()).expect("it runs");
    assert_eq!(end.recv_timeout(GUARD), Ok(Ended { cut: 0 }));
    running.join().expect("no panic");
}

#[test]
fn what_is_bound_answers_nothing_before_it_is_run() {
    let bound = bind("[[listener]]\nbind = \"127.0.0.1:0\"").expect("it binds");
    let mut client = Client::connect(only_address(&bound));
    client.send(REQUEST);
    client.expect_silence(Duration::from_millis(200));
    run(bound, || assert_eq!(client.read_answer().text(), "here"));
}

/// What waits in the accept queue was promised: the kernel has answered for us.
#[test]
fn clients_that_connect_while_it_starts_are_served() {
    let bound = bind("[[listener]]\nbind = \"127.0.0.1:0\"").expect("it binds");
    let address = only_address(&bound);
    let early: Vec<_> = (0..20).map(|_| TcpStream::connect(address).expect("it is bound")).collect();
    run(bound, || {
        for stream in early {
            let mut client = Peer::new(stream);
            client.send(REQUEST);
            assert_eq!(client.read_answer().text(), "here");
        }
    });
}

#[test]
fn an_address_that_cannot_be_bound_gives_the_others_back() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let in_use = taken.local_addr().expect("its address");
    // Bound and not listening: nobody else is given the port, and the gateway may share it.
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    reserved.set_reuse_address(true).expect("SO_REUSEADDR");
    reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let free = reserved.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");

    let refused = bind(&format!("[[listener]]\nbind = [\"{free}\", \"{in_use}\"]"));
    let error = refused.map(|_| ()).expect_err("the second is taken").to_string();
    assert!(error.contains(&format!("cannot listen on {in_use}: the address is in use")), "{error}");
    let again = TcpStream::connect(free).expect_err("nobody listens there any more");
    assert_eq!(again.kind(), std::io::ErrorKind::ConnectionRefused);
}
