//! Heads that are meant to do harm: what is named in Connection, what comes glued behind a request, and requests that are
//! none. One reading for all: what is routed and judged is what the backend is sent, and no byte goes there early.

mod support;

use support::backend::{self, Backend};
use support::client::Client;
use support::gateway::Gateway;

fn gateway(backend: &Backend, more: &str) -> Gateway {
    let address = backend.address();
    Gateway::start(&format!(
        "[gateway]\nname = \"gw\"\n{more}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\nendpoints = [\"{address}\"]\n\
         [[route]]\nupstream = \"app\"\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/secret\"\nrespond = 403\n"
    ))
}

/// What hyper answers by itself has a record, with the status that was sent.
#[test]
fn what_is_no_http_1_1_is_answered_and_recorded_alike() {
    let backend = Backend::start(backend::silent);
    let gateway = gateway(&backend, "[limits]\nhead_size = \"256KiB\"");
    let long = "x".repeat(70_000);
    for (request, status) in [
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/0.9\r\n\r\n", 400),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n", 400),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (&format!("GET /?{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
    ] {
        let excerpt = &request[..request.len().min(40)];
        let mut client = Client::connect(gateway.address("web"));
        client.send(request);
        let answer = client.read_answer();
        assert_eq!(answer.status, status, "{excerpt:?}: {answer:?}");
        client.expect_eof();
        let record = gateway.record(|_| true);
        assert_eq!(record["status"], status, "{excerpt:?}: {record}");
        assert!(record["cause"].is_string(), "{record}");
    }
    gateway.stop();
    assert_eq!(backend.connections(), 0);
}
