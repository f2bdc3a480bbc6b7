//! A tunnel is transparent: every byte arrives, in its order, whatever it means, and the record counts just those that did.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use support::backend::Backend;
use support::client::Client;
use support::frame::{self, BINARY, CLOSE, CONTINUATION, PING, TEXT, close_payload};
use support::gateway::Gateway;
use support::peer::{Peer, header};
use support::tunnels::{Pattern, Tunnels};
use support::{GUARD, until};

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    /// Small ones and large ones.
    fn size(&mut self) -> usize {
        let bound = [2, 10, 200, 5_000, 100_000][self.below(5)];
        self.below(bound)
    }
}

#[test]
fn bytes_are_counted_exactly_however_they_are_cut() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    for seed in 0..8 {
        let (there, back) = (Pattern::new(seed), Pattern::new(seed + 100));
        let (client, server) = tunnels.open();
        let (sent, received) = thread::scope(|scope| {
            let sent = scope.spawn(|| in_pieces(&there, &client, seed));
            let received = scope.spawn(|| in_pieces(&back, &server, seed + 1));
            scope.spawn(|| back.expect(&client, 0..total(seed + 1)));
            scope.spawn(|| there.expect(&server, 0..total(seed)));
            (sent.join().expect("all is sent"), received.join().expect("all is sent"))
        });
        client_closes(client, server);
        tunnels.expect_record("ClientClosed", sent, received);
    }
    tunnels.stop();
}

const PIECES: usize = 60;

/// Sends the sizes of that seed, each in one call, some after a pause so that they are read apart.
fn in_pieces(pattern: &Pattern, peer: &Peer, seed: u64) -> usize {
    let (mut sizes, mut place) = (Random(seed), 0);
    for piece in 0..PIECES {
        let size = sizes.size();
        pattern.send(peer, place..place + size);
        place += size;
        if piece % 7 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    place
}

fn total(seed: u64) -> usize {
    let mut sizes = Random(seed);
    (0..PIECES).map(|_| sizes.size()).sum()
}

fn client_closes(client: Peer, mut server: Peer) {
    client.finish_sending();
    server.expect_eof();
    drop(server);
    drop(client);
}

#[test]
fn a_hundred_tunnels_at_once_do_not_mix() {
    const TUNNELS: u64 = 100;
    let tunnels = Tunnels::start("[gateway]\nworkers = 2\n");
    let ends: Vec<_> = (0..TUNNELS).map(|_| tunnels.open()).collect();
    let mut counts: Vec<(usize, usize)> = thread::scope(|scope| {
        let running: Vec<_> = ends
            .into_iter()
            .zip(0..)
            .map(|((client, server), seed)| scope.spawn(move || talk(client, server, seed)))
            .collect();
        running.into_iter().map(|one| one.join().expect("every byte is right")).collect()
    });
    let mut recorded: Vec<_> = (0..TUNNELS)
        .map(|_| tunnels.record())
        .map(|record| {
            let count = |key: &str| usize::try_from(record[key].as_u64().expect("a number")).expect("few");
            (count("sent"), count("received"))
        })
        .collect();
    counts.sort_unstable();
    recorded.sort_unstable();
    assert_eq!(recorded, counts);
    tunnels.stop();
}

/// Talks both ways at once, in rounds that the sockets' buffers hold, and ends; says how much it was.
fn talk(client: Peer, server: Peer, seed: u64) -> (usize, usize) {
    let (there, back, mut random) = (Pattern::new(seed), Pattern::new(!seed), Random(seed));
    let (mut sent, mut received) = (0, 0);
    for _ in 0..20 {
        let (more_sent, more_received) = (random.size() / 4, random.size() / 4);
        there.send(&client, sent..sent + more_sent);
        back.send(&server, received..received + more_received);
        there.expect(&server, sent..sent + more_sent);
        back.expect(&client, received..received + more_received);
        (sent, received) = (sent + more_sent, received + more_received);
    }
    client_closes(client, server);
    (sent, received)
}

/// The gateway follows the frames, and a frame that never ends, or is none, is no business of it.
#[test]
fn what_is_no_websocket_passes_unchanged() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let whole = frame::client(TEXT, true, "a whole message");
    let streams: [(&str, Vec<u8>); 9] = [
        ("half a header", vec![0x81]),
        ("half an extended length", vec![0x82, 0xff, 0, 0, 0]),
        ("half a mask", whole[..4].to_vec()),
        ("half a frame", whole[..10].to_vec()),
        ("an unmasked frame, both ways", frame::server(TEXT, true, "bare")),
        ("a length of 2^64 - 1", [&[0x82, 0xff][..], &[0xff; 8], &[7; 100]].concat()),
        ("a reserved opcode and reserved bits", vec![0xf3, 0x80, 1, 2, 3, 4, 0xff, 0xff]),
        (
            "a ping in fragments, too long",
            [frame::client(PING, false, [0; 200]), frame::client(CONTINUATION, true, "")].concat(),
        ),
        ("text", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100)),
    ];
    for (what, bytes) in streams {
        let (mut client, mut server) = tunnels.open();
        client.send(&bytes);
        assert!(server.read_exact(bytes.len()) == bytes, "{what}, to the server");
        server.send(&bytes);
        assert!(client.read_exact(bytes.len()) == bytes, "{what}, to the client");
        client_closes(client, server);
        let record = tunnels.expect_record("ClientClosed", bytes.len(), bytes.len());
        assert_eq!(record.get("close_code"), None, "{what}: {record}");
    }
    tunnels.stop();
}

#[test]
fn another_protocol_of_the_route_is_an_opaque_stream() {
    let (hand_over, ends) = channel();
    let backend = Backend::start(move |mut peer| {
        let head = peer.read_head();
        assert_eq!(header(&head, "upgrade"), Some("x-raw"));
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x-raw\r\nConnection: Upgrade\r\n\r\n");
        hand_over.send(peer).expect("the test waits");
    });
    let gateway = Gateway::start(&format!(
        "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[upstream.b]\nendpoints = [\"{}\"]\n\
         [[route]]\nupstream = \"b\"\nupgrade = [\"x-raw\"]\n",
        backend.address()
    ));
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST /raw HTTP/1.1\r\nHost: a\r\nUpgrade: x-raw\r\nConnection: Upgrade\r\n\r\n");
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 ") && header(&head, "upgrade") == Some("x-raw"), "{head}");
    let mut server = ends.recv_timeout(GUARD).expect("the backend's end");
    // A Close to who reads frames; here it is eight bytes.
    let bytes = frame::client(CLOSE, true, close_payload(1000, ""));
    client.send(&bytes);
    assert_eq!(server.read_exact(bytes.len()), bytes);
    let pattern = Pattern::new(1);
    thread::scope(|scope| {
        scope.spawn(|| pattern.send(&server, 0..1_000_000));
        pattern.expect(&client, 0..1_000_000);
    });
    client_closes(client, server);
    let record = gateway.record(|record| record["record"] == "tunnel");
    let told = (&record["ended_by"], &record["sent"], &record["received"], record.get("close_code"));
    assert_eq!(told, (&"ClientClosed".into(), &bytes.len().into(), &1_000_000.into(), None), "{record}");
    gateway.stop();
    backend.finish();
}

/// What it is, what the client sends, what the server sends, the code in the record.
type CloseRow = (&'static str, Vec<u8>, Vec<u8>, Option<u16>);

#[test]
fn the_record_has_the_code_of_the_close_that_passed() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let client_says = |payload: &[u8]| frame::client(CLOSE, true, payload);
    let server_says = |payload: &[u8]| frame::server(CLOSE, true, payload);
    let talk = [
        frame::client(TEXT, false, "a message "),
        frame::client(PING, true, "?"),
        frame::client(CONTINUATION, true, "cut"),
    ]
    .concat();
    let answer = frame::server(BINARY, true, vec![9; 70_000]);
    let table: [CloseRow; 7] = [
        ("the client's", [&talk[..], &client_says(&close_payload(1000, "done"))].concat(), vec![], Some(1000)),
        ("the server's", vec![], [&answer[..], &server_says(&close_payload(1011, "failed"))].concat(), Some(1011)),
        ("an application's", client_says(&close_payload(4999, "")), vec![], Some(4999)),
        ("both, alike", client_says(&close_payload(1001, "")), server_says(&close_payload(1001, "")), Some(1001)),
        ("without a code", client_says(b""), vec![], Some(1005)),
        ("the server's without a code", vec![], server_says(b""), Some(1005)),
        ("none", talk.clone(), answer.clone(), None),
    ];
    for (what, sent, received, code) in table {
        for piece in [1, usize::MAX] {
            let (mut client, mut server) = tunnels.open();
            // Byte by byte where that is quick: the gateway reads some of them apart.
            let piece = if sent.len() + received.len() > 1_000 { usize::MAX } else { piece };
            sent.chunks(piece.min(sent.len().max(1))).for_each(|bytes| client.send(bytes));
            assert!(server.read_exact(sent.len()) == sent, "{what}");
            received.chunks(piece.min(received.len().max(1))).for_each(|bytes| server.send(bytes));
            assert!(client.read_exact(received.len()) == received, "{what}");
            client_closes(client, server);
            let record = tunnels.expect_record("ClientClosed", sent.len(), received.len());
            assert_eq!(record.get("close_code").and_then(serde_json::Value::as_u64), code.map(u64::from), "{what}");
        }
    }
    tunnels.stop();
}

/// Whoever says Close says why; some answer with a code of their own, and some always with 1000.
#[test]
fn the_record_has_the_code_of_the_first_close_and_not_of_its_answer() {
    let tunnels = Tunnels::start("");
    let client_says = |code| frame::client(CLOSE, true, close_payload(code, ""));
    let server_says = |code| frame::server(CLOSE, true, close_payload(code, ""));
    for server_first in [true, false] {
        let (mut client, mut server) = tunnels.open();
        let (sent, received) = match server_first {
            true => (client_says(1000), server_says(4001)),
            false => (client_says(4002), server_says(1000)),
        };
        if server_first {
            server.send(&received);
            assert_eq!(client.read_exact(received.len()), received);
        }
        client.send(&sent);
        assert_eq!(server.read_exact(sent.len()), sent);
        if !server_first {
            server.send(&received);
            assert_eq!(client.read_exact(received.len()), received);
        }
        client_closes(client, server);
        let record = tunnels.expect_record("ClientClosed", sent.len(), received.len());
        assert_eq!(record["close_code"], if server_first { 4001 } else { 4002 });
    }
    tunnels.stop();
}

/// One worker serves both. The bulk goes on until the other has had its answers, so whoever is held up by it waits for ever.
#[test]
fn a_bulk_tunnel_does_not_hold_up_a_small_one() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let (bulk_client, bulk_server) = tunnels.open();
    let (mut client, mut server) = tunnels.open();
    let (done, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let pattern = Pattern::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for block in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                pattern.send(&bulk_server, block * 65_536..(block + 1) * 65_536);
            }
            bulk_server.finish_sending();
        });
        scope.spawn(|| {
            let mut place = 0;
            while pattern.comes(&bulk_client, place..place + 65_536) {
                place += 65_536;
                moved.store(place as u64, Ordering::Relaxed);
            }
        });
        let stop = StopBulk(&done);
        until("the bulk flows", || moved.load(Ordering::Relaxed) > 10_000_000);
        let before = moved.load(Ordering::Relaxed);
        for _ in 0..100 {
            client.send("small");
            assert_eq!(server.read_exact(5), b"small");
            server.send("answer");
            assert_eq!(client.read_exact(6), b"answer");
        }
        until("the bulk has flowed on", || moved.load(Ordering::Relaxed) > before);
        drop(stop);
    });
    client_closes(client, server);
    tunnels.expect_record("ClientClosed", 500, 600);
    drop((bulk_client, bulk_server));
    tunnels.expect_record("ServerClosed", 0, usize::try_from(moved.into_inner()).expect("few"));
    tunnels.stop();
}

/// A test that fails ends the bulk, too.
struct StopBulk<'a>(&'a AtomicBool);

impl Drop for StopBulk<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
