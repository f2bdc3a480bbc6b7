//! How tunnels over TLS end, and what does not end them: close_notify with and without a FIN, FIN without close_notify,
//! an end at the drain's deadline, and new keys, which no party of the tunnel may notice.

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustls::{SupportedProtocolVersion, version};
use serde_json::{Value, json};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};
use support::peer::Peer;
use support::tls::{Authority, secure};
use support::{GUARD, until};
use tokio_rustls::rustls;

struct Stand {
    authority: Authority,
    gateway: Gateway,
    backend: Backend,
    backends: Receiver<Peer>,
}

impl Stand {
    fn start(more: &str) -> Self {
        let (hand_over, backends) = channel();
        let backend = Backend::start(move |mut peer| {
            backend::accept_websocket(&mut peer);
            hand_over.send(peer).expect("the test waits");
        });
        let authority = Authority::new();
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n{more}\n\
             [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
             [upstream.b]\nendpoints = [\"{}\"]\n\
             [[route]]\nupstream = \"b\"\n\
             [[route]]\npath = \"/echo\"\nservice = \"echo\"\n",
            authority.line(),
            backend.address()
        ));
        Self { authority, gateway, backend, backends }
    }

    fn tunnel(&self) -> (Peer, Peer) {
        self.tunnel_by(&version::TLS13)
    }

    fn tunnel_by(&self, version: &'static SupportedProtocolVersion) -> (Peer, Peer) {
        let config = Arc::new(self.authority.trusted_with(version));
        let client = secure(Client::connect(self.gateway.address("secure")), &config).expect("it is spoken");
        let (client, _) = Client::upgrade_on(client, &opening_handshake("localhost", "/", ""));
        (client, self.backends.recv_timeout(GUARD).expect("the backend's end of it"))
    }

    #[track_caller]
    fn expect_record(&self, by: &str, sent: usize, received: usize) -> Value {
        let record = self.gateway.record(|record| record["record"] == "tunnel");
        let said = [&record["ended_by"], &record["sent"], &record["received"]];
        assert_eq!(said, [&json!(by), &json!(sent), &json!(received)], "{record}");
        record
    }

    fn stop(self) {
        self.gateway.stop();
        self.backend.finish();
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[test]
fn a_close_notify_is_the_clients_end_and_the_rest_flows() {
    let stand = Stand::start("");
    for version in VERSIONS {
        let (mut client, mut server) = stand.tunnel_by(version);
        client.send("last words");
        // No FIN yet: RFC 8446 section 6.1 has the close_notify end the direction by itself.
        client.tls().say_end(client.stream());
        assert_eq!(server.read_to_end(), b"last words");
        let mut sender = server.sender();
        let sending = thread::spawn(move || {
            sender.send([7; 300_000]);
            sender.finish_sending();
        });
        assert!(client.read_to_end() == [7; 300_000], "the bytes have changed");
        sending.join().expect("all of it was taken");
        stand.expect_record("ClientClosed", 10, 300_000);
    }
    stand.stop();
}

#[test]
fn a_fin_without_close_notify_is_passed_on_as_a_fin_and_recorded_as_a_truncation() {
    let stand = Stand::start("");
    for version in VERSIONS {
        let (mut client, mut server) = stand.tunnel_by(version);
        client.send("last wor");
        client.truncate();
        assert_eq!(server.read_to_end(), b"last wor");
        server.send([7; 300_000]);
        server.finish_sending();
        assert!(client.read_to_end() == [7; 300_000], "the bytes have changed");
        stand.expect_record("ClientTruncated", 8, 300_000);
    }
    // Where the server ended first, the tunnel was over but for that.
    let (mut client, mut server) = stand.tunnel();
    server.finish_sending();
    client.expect_eof();
    client.truncate();
    server.expect_eof();
    stand.expect_record("ServerClosed", 0, 0);
    stand.stop();
}

#[test]
fn a_truncated_echo_is_recorded_as_one() {
    let stand = Stand::start("");
    let client = stand.authority.connect(stand.gateway.address("secure"));
    let (mut client, _) = Client::upgrade_on(client, &opening_handshake("localhost", "/echo", ""));
    client.truncate();
    client.expect_eof();
    stand.expect_record("ClientTruncated", 0, 0);
    stand.stop();
}

/// The last words of a server that closes with bytes unread, and its reset, are found at once. They are delivered, and then
/// the client is cut: a close_notify between them would call that an end in order.
#[test]
fn a_reset_of_the_server_is_a_reset_and_no_close_notify() {
    const LAST_WORDS: usize = 20_000;
    let stand = Stand::start("");
    for version in VERSIONS {
        for more in ["", "more"] {
            let (mut client, mut server) = stand.tunnel_by(version);
            client.send("unread");
            until("it has come", || server.stream().peek(&mut [0; 6]).is_ok_and(|came| came == 6));
            stand.gateway.standing_still(|| {
                server.send([7; LAST_WORDS]);
                drop(server);
                client.send(more);
            });
            assert!(client.expect_reset() == [7; LAST_WORDS], "not all came, or other bytes ({more:?})");
            let state = client.tls().connection().process_new_packets().expect("nothing forged");
            assert!(!state.peer_has_closed(), "a close_notify came before the reset ({more:?})");
            stand.expect_record("ServerReset", 6, LAST_WORDS);
        }
    }
    stand.stop();
}

/// A record that was tampered with is neither bytes nor an end: what came before it stands, and both sides are cut.
#[test]
fn a_record_that_does_not_decrypt_cuts_the_tunnel() {
    let stand = Stand::start("");
    for version in VERSIONS {
        let (mut client, mut server) = stand.tunnel_by(version);
        client.send("sound");
        assert_eq!(server.read_exact(5), b"sound");
        let forged = [&[23, 3, 3, 0, 40][..], &[0x55; 40]].concat();
        std::io::Write::write_all(&mut client.stream(), &forged).expect("the kernel takes it");
        assert_eq!(server.expect_reset(), b"");
        let record = stand.expect_record("ClientReset", 5, 0);
        assert!(record["cause"].as_str().is_some_and(|cause| cause.contains("decrypt")), "{record}");
    }
    stand.stop();
}

#[test]
fn a_tunnel_that_is_left_at_the_drains_deadline_is_cut_in_order() {
    let stand = Stand::start("[drain]\ndeadline = \"300ms\"\n");
    let (mut client, mut server) = stand.tunnel();
    client.send("before");
    assert_eq!(server.read_exact(6), b"before");
    stand.gateway.signal(Signal::SIGTERM);
    stand.gateway.message(|message| message["message"] == "draining");
    server.send("during");
    assert_eq!(client.read_exact(6), b"during");
    client.expect_eof();
    server.expect_eof();
    let record = stand.expect_record("HardStop", 6, 6);
    assert!(record["lasted_ms"].as_f64().is_some_and(|lasted| lasted >= 300.0), "{record}");
    assert_eq!(stand.gateway.message(|message| message["message"] == "ended")["cut"], 1);
    assert_eq!(stand.gateway.wait().0.code(), Some(2), "what was cut is told by the exit code");
    stand.backend.finish();
}

/// Where the client has not read all, a close_notify would say that it has.
#[test]
fn a_stream_that_is_cut_within_looks_cut() {
    let stand = Stand::start("[drain]\ndeadline = \"300ms\"\n");
    let (mut client, server) = stand.tunnel();
    let mut sender = server.sender();
    let pouring = thread::spawn(move || while sender.try_send([7; 65_536]).is_ok() {});
    // It is under way, and will be at the deadline: nobody reads faster than this sends.
    assert_eq!(client.read_exact(1000), [7; 1000]);
    stand.gateway.signal(Signal::SIGTERM);
    let record = stand.gateway.record(|record| record["record"] == "tunnel");
    assert_eq!(record["ended_by"], "HardStop", "{record}");
    assert_eq!(stand.gateway.wait().0.code(), Some(2), "what was cut is told by the exit code");
    client.expect_truncation();
    pouring.join().expect("the server is told");
    drop(server);
    stand.backend.finish();
}

/// rustls asks for new keys of the other side's, too: the gateway's go out before the next bytes that it sends, so that
/// reading alone never has anything to write.
#[test]
fn new_keys_change_nothing_in_an_idle_tunnel() {
    let stand = Stand::start("");
    let (mut client, mut server) = stand.tunnel();
    // As many as one may ask for without a byte between them.
    for _ in 0..30 {
        refresh_keys(&mut client);
    }
    server.expect_silence(Duration::from_millis(50));
    for round in 0..3 {
        client.send([round; 20]);
        assert_eq!(server.read_exact(20), [round; 20]);
        server.send([round; 10]);
        assert_eq!(client.read_exact(10), [round; 10]);
        refresh_keys(&mut client);
    }
    client.finish_sending();
    server.expect_eof();
    server.send("the rest");
    server.finish_sending();
    assert_eq!(client.read_to_end(), b"the rest");
    stand.expect_record("ClientClosed", 60, 38);
    stand.stop();
}

#[test]
fn new_keys_change_nothing_in_a_busy_tunnel() {
    const ALL: usize = 100 * 20_000;
    let stand = Stand::start("");
    let (mut client, mut server) = stand.tunnel();
    let mut back = server.sender();
    let sending = thread::spawn(move || (0..100).for_each(|round| back.send([round; 20_000])));
    let reading = thread::spawn(move || {
        (0..100).for_each(|round| assert!(server.read_exact(20_000) == [round; 20_000], "the bytes have changed"));
        server
    });
    let there = {
        let mut sender = client.sender();
        let session = client.tls().clone();
        thread::spawn(move || {
            for round in 0..100 {
                session.connection().refresh_traffic_keys().expect("TLS 1.3 has new keys");
                sender.send([round; 20_000]);
            }
        })
    };
    (0..100).for_each(|round| assert!(client.read_exact(20_000) == [round; 20_000], "the bytes have changed"));
    sending.join().expect("all of it was taken");
    there.join().expect("all of it was taken");
    let mut server = reading.join().expect("all of it came");
    client.finish_sending();
    server.expect_eof();
    server.finish_sending();
    client.expect_eof();
    stand.expect_record("ClientClosed", ALL, ALL);
    stand.stop();
}

fn refresh_keys(client: &mut Peer) {
    client.tls().connection().refresh_traffic_keys().expect("TLS 1.3 has new keys");
    client.send("");
}
