//! TLS as an attacker speaks it: records that are valid and say nothing. They cost the gateway's time and bring no byte
//! that a deadline would wait for, so the deadline comes; until then whoever shares the worker is served, and after it the
//! processor is idle again.
//!
//! rustls bounds most storms by itself: 32 empty records or 32 new keys in a row, four warnings. New keys and empty records
//! in turn pass both bounds for ever; that is the storm here that only deadlines end. No client library sends such things:
//! the records are sealed here, by the secret that rustls hands out to key logs (RFC 8446 sections 5.2, 7.2 and 7.3).

mod support;

use std::fmt;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::{CipherSuite, KeyLog};
use serde_json::{Value, json};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::Gateway;
use support::peer::Peer;
use support::tls::{Authority, begin, secure};
use support::{GUARD, process, until};
use tokio_rustls::rustls;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// A warning that TLS 1.3 still knows: user_canceled.
const WARNING: [u8; 2] = [1, 90];
/// KeyUpdate, and the wish for the other side's.
const NEW_KEYS: [u8; 5] = [24, 0, 0, 1, 1];

const HERE: &str = "GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n";
const BODY: &str = "POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";

/// What a storm is made of: a few records again and again.
type Gust = fn(&mut Sealer) -> Vec<u8>;

struct Stand {
    authority: Authority,
    backend: Backend,
    gateway: Gateway,
}

impl Stand {
    /// One worker, so that whoever is served is served by the very thread that the storm is in.
    fn start(timeouts: &str) -> Self {
        let backend = Backend::start(|mut peer| {
            let head = peer.read_head();
            if head.starts_with("GET ") {
                let key = support::peer::header(&head, "sec-websocket-key").expect("an opening handshake");
                peer.send(backend::switching(&backend::accept_of(key)));
            }
            backend::silent_to_end(peer);
        });
        let authority = Authority::new();
        let gateway = Gateway::start(&format!(
            "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n\
             [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n{}\
             [upstream.b]\nendpoints = [\"{}\"]\n\
             [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
             [[route]]\npath = \"/b\"\nupstream = \"b\"\n",
            authority.line(),
            backend.address()
        ));
        Self { authority, backend, gateway }
    }

    fn connect(&self) -> Peer {
        Client::connect(self.gateway.address("secure"))
    }

    /// A session whose client's records are this test's own.
    fn session(&self) -> (Peer, Sealer) {
        let secret = Arc::new(Secret::default());
        let mut config = self.authority.trusted();
        config.key_log = Arc::clone(&secret) as Arc<dyn KeyLog>;
        let peer = secure(self.connect(), &Arc::new(config)).expect("the gateway speaks TLS");
        let suite = peer.tls().connection().negotiated_cipher_suite().expect("the handshake is done").suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256, "the only one that is sealed here");
        let secret = secret.0.lock().expect("nobody panicked").clone();
        (peer, Sealer::new(secret))
    }

    /// The same, in a tunnel.
    fn tunnel(&self) -> (Peer, Sealer) {
        let (mut peer, mut sealer) = self.session();
        put(peer.stream(), &sealer.seal(DATA, opening_handshake("localhost", "/b", "").as_bytes()));
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        (peer, sealer)
    }

    /// Until it is, something still runs for a client that is gone.
    fn expect_rest(&self, descriptors: usize) {
        until("the descriptors are closed", || self.gateway.descriptors() == descriptors);
        let pid = self.gateway.pid();
        until("the processor is idle", || {
            let before = process::ticks(pid);
            thread::sleep(Duration::from_millis(100));
            process::ticks(pid) == before
        });
    }

    /// Ends all and gives the records of what was neither served nor a mere client's leaving.
    fn stop(self) -> Vec<Value> {
        let records = self.gateway.stop();
        self.backend.finish();
        records
    }
}

/// Whoever else there is: served as ever.
fn expect_here(peer: &mut Peer) {
    peer.send(HERE);
    assert_eq!(peer.read_answer().text(), "here");
}

#[test]
fn a_client_hello_in_records_of_one_byte_is_as_good_as_any() {
    let stand = Stand::start("tls_handshake = \"10m\"");
    let peer = stand.connect();
    let mut connection = begin(&Arc::new(stand.authority.trusted()));
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a vector takes all");
    let records: Vec<u8> = hello[5..].iter().flat_map(|byte| [HANDSHAKE, 3, 1, 0, 1, *byte]).collect();
    put(peer.stream(), &records);
    while connection.is_handshaking() {
        connection.complete_io(&mut peer.stream()).expect("the gateway speaks TLS");
    }
    connection.writer().write_all(HERE.as_bytes()).expect("it is taken");
    connection.complete_io(&mut peer.stream()).expect("the gateway takes it");
    stand.gateway.record(|record| record["status"] == 200);
    drop(peer);
    stand.stop();
}

/// A message that comes byte by byte, in records of one byte, moves no deadline, and keeps nobody waiting.
#[test]
fn a_handshake_that_is_never_whole_ends_at_its_deadline() {
    let stand = Stand::start("tls_handshake = \"300ms\"");
    let mut other = stand.authority.connect(stand.gateway.address("secure"));
    expect_here(&mut other);
    let at_rest = stand.gateway.descriptors();
    let begun = Instant::now();
    let peer = stand.connect();
    let stream = peer.stream().try_clone().expect("a second handle");
    let pouring = thread::spawn(move || {
        // A ClientHello of 8,192 bytes is announced.
        put(&stream, &[HANDSHAKE, 3, 1, 0, 4, 1, 0, 0x20, 0]);
        // On a busy machine its time is over before it is through.
        (0..8_191).all(|_| (&stream).write_all(&[HANDSHAKE, 3, 1, 0, 1, 0]).is_ok())
    });
    (0..20).for_each(|_| expect_here(&mut other));
    pouring.join().expect("it does not panic");
    stand.expect_rest(at_rest);
    assert!(begun.elapsed() >= Duration::from_millis(300), "before its time");
    expect_here(&mut other);
    drop((peer, other));
    assert_eq!(stand.stop().len(), 22, "the requests and nothing else");
}

/// Storms that rustls ends by itself, however long anybody may be silent.
#[test]
fn empty_records_and_warnings_within_the_handshake_are_shut_out() {
    let stand = Stand::start("tls_handshake = \"10m\"");
    let at_rest = stand.gateway.descriptors();
    // What comes first must look like TLS: a ClientHello that is announced and never comes.
    let empty = [HANDSHAKE, 3, 1, 0, 0].repeat(1000);
    let warnings = [HANDSHAKE, 3, 1, 0, 0, ALERT, 3, 1, 0, 2, 1, 90].repeat(1000);
    for storm in [&empty, &warnings] {
        let peer = stand.connect();
        // All of it, or until the gateway has gone.
        let _ = peer.stream().write_all(storm);
        stand.expect_rest(at_rest);
        drop(peer);
    }
    expect_here(&mut stand.authority.connect(stand.gateway.address("secure")));
    assert_eq!(stand.stop().len(), 1, "the request and nothing else");
}

#[test]
fn a_tunnel_of_empty_records_new_keys_or_warnings_is_cut_by_their_number() {
    let storms: [(Gust, &str); 3] = [
        (|sealer| sealer.seal(DATA, b""), "TooManyEmptyFragments"),
        (Sealer::new_keys, "TooManyKeyUpdateRequests"),
        (|sealer| sealer.seal(ALERT, &WARNING), "TooManyWarningAlertsReceived"),
    ];
    let stand = Stand::start("idle = \"10m\"");
    let at_rest = stand.gateway.descriptors();
    for (gust, cause) in storms {
        let (peer, mut sealer) = stand.tunnel();
        let records: Vec<u8> = (0..100).flat_map(|_| gust(&mut sealer)).collect();
        // All of it, or until the gateway has gone.
        let _ = peer.stream().write_all(&records);
        let record = stand.gateway.record(|record| record["record"] == "tunnel");
        assert_eq!((&record["ended_by"], &record["sent"]), (&json!("ClientReset"), &json!(0)), "{record}");
        assert!(record["cause"].as_str().is_some_and(|text| text.contains(cause)), "{cause}: {record}");
        stand.expect_rest(at_rest);
        drop(peer);
    }
    stand.stop();
}

/// The storm without end, wherever a connection may be: it lasts as long as the deadline of that place, and, where last
/// words are said, as long as a client may take to hear them.
#[test]
fn a_storm_that_is_never_too_much_of_anything_ends_at_the_deadline_of_its_place() {
    thread::scope(|scope| {
        for place in ["before a request", "between two", "in a body", "in a tunnel"] {
            scope.spawn(move || expect_end_of_storm(place));
        }
    });
}

fn expect_end_of_storm(place: &str) {
    let timeouts = "request_head = \"300ms\"\nkeep_alive = \"300ms\"\nstall = \"300ms\"\nidle = \"300ms\"";
    let stand = Stand::start(timeouts);
    let at_rest = stand.gateway.descriptors();
    let (mut peer, mut sealer) = if place == "in a tunnel" { stand.tunnel() } else { stand.session() };
    match place {
        "between two" => {
            put(peer.stream(), &sealer.seal(DATA, HERE.as_bytes()));
            assert_eq!(peer.read_answer().text(), "here");
        }
        "in a body" => put(peer.stream(), &sealer.seal(DATA, BODY.as_bytes())),
        _ => {}
    }
    let begun = Instant::now();
    Storm::begin(&peer, sealer).until_shut_out();
    assert!(begun.elapsed() >= Duration::from_millis(250), "{place}: before its time");
    stand.expect_rest(at_rest);
    let records = stand.stop();
    let told: Vec<_> = records
        .iter()
        .map(|record| [&record["status"], &record["ended_by"], &record["cause"], &record["sent"]])
        .collect();
    let none = &Value::Null;
    let too_slow = json!("the client sent nothing of its body for timeouts.stall");
    match place {
        "before a request" => assert!(told.is_empty(), "{place}: {told:?}"),
        "between two" => assert_eq!(told, [[&json!(200), none, none, &json!(0)]]),
        "in a body" => assert_eq!(told, [[&json!(408), none, &too_slow, &json!(0)]]),
        _ => assert_eq!(told, [[&json!(101), &json!("Idle"), none, &json!(0)]]),
    }
}

#[test]
fn who_shares_the_worker_with_a_storm_is_served() {
    let hours = "request_head = \"10m\"\nkeep_alive = \"10m\"\nstall = \"10m\"\nidle = \"10m\"";
    let stand = Stand::start(hours);
    let mut other = stand.authority.connect(stand.gateway.address("secure"));
    expect_here(&mut other);
    let at_rest = stand.gateway.descriptors();
    let (idle, idle_sealer) = stand.session();
    let (tunnel, tunnel_sealer) = stand.tunnel();
    let storms = [Storm::begin(&idle, idle_sealer), Storm::begin(&tunnel, tunnel_sealer)];
    for _ in 0..5 {
        expect_here(&mut other);
        // Also who comes new.
        expect_here(&mut stand.authority.connect(stand.gateway.address("secure")));
    }
    for (storm, peer) in storms.into_iter().zip([idle, tunnel]) {
        storm.end();
        peer.reset();
    }
    stand.expect_rest(at_rest);
    expect_here(&mut other);
    drop(other);
    assert_eq!(stand.stop().len(), 13, "12 requests and a tunnel");
}

/// New keys and an empty record in turn, as fast as they are taken.
struct Storm {
    over: Arc<AtomicBool>,
    pouring: JoinHandle<bool>,
}

impl Storm {
    fn begin(peer: &Peer, mut sealer: Sealer) -> Self {
        let stream = peer.stream().try_clone().expect("a second handle");
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let begun = Instant::now();
        let pouring = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) && begun.elapsed() < GUARD {
                let gusts: Vec<u8> =
                    (0..50).flat_map(|_| [sealer.new_keys(), sealer.seal(DATA, b"")].concat()).collect();
                if (&stream).write_all(&gusts).is_err() {
                    return true;
                }
            }
            false
        });
        Self { over, pouring }
    }

    /// Waits until the gateway takes no more.
    fn until_shut_out(self) {
        assert!(self.pouring.join().expect("it does not panic"), "it was taken for {GUARD:?}");
    }

    /// Ends it, and asserts that nobody else has.
    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        assert!(!self.pouring.join().expect("it does not panic"), "it was shut out");
    }
}

/// Seals a client's records of TLS 1.3 with AES-128-GCM.
struct Sealer {
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    fn new(secret: Vec<u8>) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &expand(&secret, "key", 16)).expect("a key of its length");
        let iv = expand(&secret, "iv", 12).try_into().expect("12 bytes");
        Self { secret, key: LessSafeKey::new(key), iv, sequence: 0 }
    }

    /// One record.
    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut sealed = [content, &[kind]].concat();
        let length = u16::try_from(sealed.len() + AES_128_GCM.tag_len()).expect("a record's length");
        let header = [&[DATA, 3, 3][..], &length.to_be_bytes()].concat();
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed).expect("it can be sealed");
        [header, sealed].concat()
    }

    /// KeyUpdate; what follows is sealed by the new keys.
    fn new_keys(&mut self) -> Vec<u8> {
        let record = self.seal(HANDSHAKE, &NEW_KEYS);
        *self = Self::new(expand(&self.secret, "traffic upd", 32));
        record
    }
}

/// HKDF-Expand-Label (RFC 8446 section 7.1), without a context.
fn expand(secret: &[u8], label: &str, length: u8) -> Vec<u8> {
    struct Length(u8);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0.into()
        }
    }
    let label = format!("tls13 {label}");
    let label_length = u8::try_from(label.len()).expect("a short label");
    let info = [&[0, length, label_length][..], label.as_bytes(), &[0]];
    let mut expanded = vec![0; length.into()];
    let key = Prk::new_less_safe(HKDF_SHA256, secret);
    key.expand(&info, Length(length)).and_then(|okm| okm.fill(&mut expanded)).expect("a length that it has");
    expanded
}

/// The client's first secret for its data.
#[derive(Default)]
struct Secret(Mutex<Vec<u8>>);

impl KeyLog for Secret {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            *self.0.lock().expect("nobody panicked") = secret.to_vec();
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn put(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the gateway takes it");
}
