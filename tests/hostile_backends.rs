//! Answers of backends that are broken, or not what the gateway believes to talk to: relayed exactly, or 502, or 504 at
//! the deadline; and never more memory than a head may have.

mod support;

use std::net::SocketAddr;

use support::backend::Backend;
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::Peer;

fn gateway(endpoint: SocketAddr, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\n[[route]]\nupstream = \"app\"\n"
    ))
}

const PLAIN: &str = "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n";

/// An opening handshake, and a plain request.
fn requests() -> [String; 2] {
    [opening_handshake("a", "/ws", ""), PLAIN.to_owned()]
}

/// Sends the same as long as the other end takes it.
fn flood(peer: &mut Peer, bytes: &str) {
    while peer.try_send(bytes).is_ok() {}
}

/// One answer of that status to each kind of request, and a record with that cause.
fn refused(gateway: &Gateway, status: u16, cause: &str) {
    for request in requests() {
        let mut client = Client::connect(gateway.address("web"));
        client.send(&request);
        let answer = client.read_answer();
        assert_eq!(answer.status, status, "{cause}: {answer:?}");
        let record = gateway.record(|_| true);
        assert_eq!((&record["record"], &record["status"]), (&"request".into(), &status.into()));
        assert!(record["cause"].as_str().is_some_and(|told| told.starts_with(cause)), "{cause}: {record}");
    }
}

/// hyper reads over what it does not pass on for as long as more is there, all within one turn of its task: until the
/// backend ran dry, whoever shared the worker waited, and no deadline was looked at.
#[test]
fn informational_answers_without_end_are_a_502_at_once() {
    let backend = Backend::start(|mut peer| {
        peer.read_head();
        flood(&mut peer, &"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(100));
    });
    let gateway = gateway(backend.address(), "");
    refused(&gateway, 502, "the backend sent informational answers without end");
    gateway.stop();
    backend.finish();
}
