//! Clients and backends that break off anywhere, as the network has them: within a TLS handshake, a head, a body, a frame,
//! by FIN, by RST, or by silence. After thousands of them the gateway has the descriptors, the memory, the registry and
//! the endpoints' counts that it began with, and has written one record for each request and each tunnel.
//!
//! A few seconds in an ordinary run; `SPLICEWAY_SOAK_SECONDS=300` soaks for so long. What everybody does is drawn from one
//! seed, which is printed, and is `SPLICEWAY_SOAK_SEED` where that is set. (Whose bytes come first is the machine's to
//! say: the same seed gives the same clients, not the same run.)

mod support;

use std::collections::HashSet;
use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use support::backend::{accept_of, switching};
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};
use support::peer::header;
use support::tree::Tree;
use support::{frame, until};
use tokio_rustls::rustls;

const CLIENTS: usize = 12;
/// Of each backend; more than there are clients, since a backend's silence lasts longer than its client.
const BACKEND_THREADS: usize = 32;
/// How long a party waits for the other at most. The gateway's own deadlines are shorter.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn whoever_breaks_off_leaves_nothing_behind() {
    let seed = number("SPLICEWAY_SOAK_SEED").unwrap_or_else(fresh_seed);
    let time = Duration::from_secs(number("SPLICEWAY_SOAK_SECONDS").unwrap_or(4));
    println!("SPLICEWAY_SOAK_SEED={seed}, for {time:?}");
    let tree = Tree::new();
    let backends = [Wild::start(seed ^ 1, bound()), Wild::start(seed ^ 2, bound())];
    let refusing = bound();
    let gateway = start(&tree, [&backends[0].address, &backends[1].address, &address_of(&refusing)]);
    let at_rest = gateway.descriptors();
    let soak = Soak::new(&gateway);
    // The first quarter is the warm-up: what the process needs once is in both figures.
    let mut memory = Vec::new();
    for (round, part) in [time / 4, time * 3 / 4].into_iter().enumerate() {
        soak.run(seed ^ (round as u64) << 32, part);
        until("the descriptors are what they were", || gateway.descriptors() == at_rest);
        memory.push(gateway.anonymous());
    }
    let lines = gateway.lines().len() as u64;
    println!("{} clients, {lines} lines, anonymous PSS after a quarter and at the end: {memory:?}", soak.clients());
    // The queue of the log touches a slot of 32 bytes for each line until it has been round once; the rest is what a heap
    // needs to breathe.
    let bound = 32 * lines.min(65_536) + (1 << 20);
    let grown = memory[1].saturating_sub(memory[0]);
    assert!(grown < bound, "{grown} bytes are left behind: {memory:?}");

    endpoints_are_unused(&gateway, &backends, &Wild::start(seed, refusing));
    until("the descriptors are what they were", || gateway.descriptors() == at_rest);
    conclude(gateway, &soak);
}

/// A free port of which connections are refused until somebody listens.
fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address")
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn start(tree: &Tree, endpoints: [&SocketAddr; 3]) -> Gateway {
    let certs = tree.path("certs");
    Gateway::start(&format!(
        "[gateway]\nworkers = 2\n[limits]\nhead_size = \"4KiB\"\n\
         [timeouts]\ntls_handshake = \"300ms\"\nrequest_head = \"300ms\"\nkeep_alive = \"300ms\"\nconnect = \"300ms\"\n\
         upgrade = \"300ms\"\nresponse_head = \"300ms\"\nstall = \"300ms\"\nidle = \"500ms\"\nhalf_close = \"300ms\"\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{0}/fullchain.pem\", key = \"{0}/privkey.pem\" }}\n\
         [upstream.wild]\nendpoints = [\"{1}\", \"{2}\", \"{3}\"]\npool = {{ idle = 4, idle_timeout = \"500ms\" }}\n\
         [[route]]\nupstream = \"wild\"\n\
         [[route]]\npath = \"/own\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n",
        certs.display(),
        endpoints[0],
        endpoints[1],
        endpoints[2],
    ))
}

/// Endpoints take turns where they have the same number of tunnels: a count that was not given back tilts the balance,
/// and above all towards the endpoint that has refused until now. (The two that answered would share what they have lost.)
fn endpoints_are_unused(gateway: &Gateway, backends: &[Wild; 2], refused: &Wild) {
    let all = [&backends[0], &backends[1], refused];
    all.iter().for_each(|backend| backend.calm.store(true, Ordering::Relaxed));
    let tunnels: Vec<_> = (0..30).map(|_| Client::upgrade(gateway.address("web"), COUNT).0).collect();
    let counts = all.map(|backend| backend.counted.load(Ordering::Relaxed));
    assert_eq!(counts, [10, 10, 10], "an endpoint is still thought to be in use");
    drop(tunnels);
}

/// Ends the gateway: nothing is open, nothing is cut, and there is one record for each.
fn conclude(gateway: Gateway, soak: &Soak) {
    gateway.signal(Signal::SIGTERM);
    let draining = gateway.message(|message| message["message"] == "draining");
    assert_eq!(draining["open"], 0, "the registry is not empty");
    let ended = gateway.message(|message| message["message"] == "ended");
    assert_eq!(ended["cut"], 0, "{ended}");
    let bad = |message: &&Value| message["level"] == "ERROR" || message["level"] == "WARN";
    let messages = gateway.messages();
    assert_eq!(messages.iter().find(bad), None, "something went wrong");
    let (status, records) = gateway.wait();
    assert_eq!(status.code(), Some(0));
    // A head that was broken off has a record without a method; every other is of a request that was begun.
    let begun: Vec<_> = records.iter().filter(|record| record["method"].is_string()).collect();
    assert_eq!(begun.len() as u64, ended["requests"].as_u64().expect("a count"), "not one record a request");
    let tunnels = records.iter().filter(|record| record["record"] == "tunnel").count();
    assert_eq!(tunnels as u64, ended["tunnels"].as_u64().expect("a count"), "not one record a tunnel");
    let mut paths = HashSet::new();
    for record in begun.iter().filter(|record| record["path"] != COUNT) {
        assert!(paths.insert(record["path"].as_str().expect("a path")), "a second record of {record}");
    }
    let answered = soak.answered.lock().expect("no client panicked");
    assert!(!answered.is_empty() && tunnels > 0, "nobody came through");
    let missing: Vec<_> = answered.iter().filter(|path| !paths.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "answered, and without a record: {missing:?}");
}

/// Splitmix64: everybody's dice.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number from 0 to `below`, exclusively.
    fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }

    fn one_of(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }
}

// Clients.

/// A path at which backends behave, and count.
const COUNT: &str = "/count";

struct Soak {
    plain: SocketAddr,
    secure: SocketAddr,
    tls: Arc<ClientConfig>,
    next: AtomicU64,
    /// The paths of requests that were certainly answered.
    answered: std::sync::Mutex<Vec<String>>,
}

impl Soak {
    fn new(gateway: &Gateway) -> Self {
        let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        Self {
            plain: gateway.address("web"),
            secure: gateway.address("secure"),
            tls: Arc::new(config.with_no_client_auth()),
            next: AtomicU64::new(0),
            answered: std::sync::Mutex::default(),
        }
    }

    /// Clients come and break off for that long.
    fn run(&self, seed: u64, time: Duration) {
        let end = Instant::now() + time;
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let mut dice = Dice(seed.wrapping_add(client as u64 * 1_000_003));
                scope.spawn(move || {
                    while Instant::now() < end {
                        self.come_and_go(&mut dice);
                    }
                });
            }
        });
    }

    fn clients(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn path(&self, folder: &str) -> String {
        format!("{folder}/{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// One client. Whatever fails is what it came for.
    fn come_and_go(&self, dice: &mut Dice) {
        let path = self.path(["/p", "/p", "/own", "/echo", "/ws"][dice.below(5)]);
        let script = self.script(&path, dice);
        let secure = dice.one_of(3);
        let tcp = TcpStream::connect_timeout(if secure { &self.secure } else { &self.plain }, PATIENCE);
        let tcp = tcp.expect("the gateway accepts");
        tcp.set_read_timeout(Some(PATIENCE)).expect("patience");
        tcp.set_write_timeout(Some(PATIENCE)).expect("patience");
        // A third say all that they have to say.
        let cut = if dice.one_of(3) { script.len() } else { dice.below(script.len() + 1) };
        let said = &script[..cut];
        let raw = tcp.try_clone().expect("a second handle");
        if secure {
            let name = ServerName::try_from("localhost").expect("a name");
            let mut session = ClientConnection::new(Arc::clone(&self.tls), name).expect("a session");
            if dice.one_of(4) {
                break_off_within_the_handshake(&mut session, &raw, dice);
            } else {
                self.talk(&mut StreamOwned::new(session, tcp), &raw, said, &path, dice);
            }
        } else {
            self.talk(&mut { tcp }, &raw, said, &path, dice);
        }
    }

    fn talk(&self, stream: &mut (impl Read + Write), raw: &TcpStream, said: &[u8], path: &str, dice: &mut Dice) {
        for part in said.chunks(1 + dice.below(said.len().max(1))) {
            if stream.write_all(part).and_then(|()| stream.flush()).is_err() {
                break;
            }
        }
        if dice.one_of(4) {
            let _ = raw.shutdown(Shutdown::Write);
        }
        if !dice.one_of(3) && read_a_head(stream) {
            self.answered.lock().expect("no client panicked").push(path.to_owned());
        }
        match dice.below(4) {
            0 => SockRef::from(raw).set_linger(Some(Duration::ZERO)).expect("SO_LINGER"),
            1 => {
                let _ = raw.shutdown(Shutdown::Write);
                read_on(stream);
            }
            2 => read_on(stream),
            _ => {}
        }
    }

    /// What a client means to say; each of its requests has a path of its own.
    fn script(&self, path: &str, dice: &mut Dice) -> Vec<u8> {
        let body = vec![b'b'; dice.below(30_000)];
        let long = "l".repeat(if dice.one_of(20) { 5000 } else { dice.below(500) });
        if path.starts_with("/echo") || path.starts_with("/ws") {
            let mut script = opening_handshake("a", path, &format!("X: {long}\r\n")).into_bytes();
            for _ in 0..dice.below(6) {
                let opcode = [frame::TEXT, frame::BINARY, frame::PING, frame::CLOSE][dice.below(4)];
                let payload = &body[..body.len().min(if opcode >= frame::CLOSE { 100 } else { 30_000 })];
                let payload = if opcode == frame::CLOSE { &[3, 232][..] } else { payload };
                script.extend(frame::client(opcode, true, payload));
            }
            return script;
        }
        match dice.below(6) {
            0 => format!("GET {path} HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").into_bytes(),
            1 => {
                let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
                [head.as_bytes(), &body].concat()
            }
            2 => {
                let head = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = format!("{:x}\r\n", body.len().max(1));
                let trailers = ["", "X-Sum: 1\r\n", "Host: evil\r\n"][dice.below(3)];
                let end = format!("\r\n0\r\n{trailers}\r\n");
                [head.as_bytes(), chunk.as_bytes(), &body, end.as_bytes()].concat()
            }
            3 => {
                let next = [self.path("/p"), self.path("/own"), self.path("/p")];
                let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
                [get(path), next.iter().map(|path| get(path)).collect()].concat().into_bytes()
            }
            4 => {
                let expects =
                    format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
                [expects.as_bytes(), b"body"].concat()
            }
            _ => {
                let first = format!("GET {path} HTTP/1.1\r\n");
                let garbage = (0..dice.below(300)).map(|_| dice.next() as u8);
                first.into_bytes().into_iter().chain(garbage).collect()
            }
        }
    }
}

fn break_off_within_the_handshake(session: &mut ClientConnection, mut raw: &TcpStream, dice: &mut Dice) {
    let mut flight = Vec::new();
    session.write_tls(&mut flight).expect("a vector takes it");
    let cut = dice.below(flight.len() + 1);
    let _ = raw.write_all(&flight[..cut]);
    if dice.one_of(2) {
        let _ = raw.read(&mut [0; 1024]);
    }
    if dice.one_of(2) {
        SockRef::from(raw).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}

/// Reads to the end of a head; whether one came that is of a request's answer.
fn read_a_head(stream: &mut impl Read) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    // What hyper or the clock answers is of no request.
    let before_any = [&b"HTTP/1.1 400"[..], b"HTTP/1.1 408", b"HTTP/1.1 431", b"HTTP/1.1 100"];
    !before_any.iter().any(|begin| head.starts_with(begin))
}

/// Reads for as long as something comes.
fn read_on(stream: &mut impl Read) {
    let mut buffer = [0; 16 * 1024];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

/// Trusts every certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

// Backends.

/// A backend that does as it pleases. A few threads for all of its connections: there are too many for one each.
struct Wild {
    address: SocketAddr,
    /// The requests to [`COUNT`].
    counted: Arc<AtomicU64>,
    /// From then on it behaves.
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Wild {
    fn start(seed: u64, socket: Socket) -> Self {
        socket.listen(1024).expect("it listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("its address");
        let counted = Arc::new(AtomicU64::new(0));
        let [calm, over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let serve = |index: usize| {
            let listener = listener.try_clone().expect("a second handle");
            let (counted, calm, over) = (Arc::clone(&counted), Arc::clone(&calm), Arc::clone(&over));
            let mut dice = Dice(seed.wrapping_add(index as u64 * 7_368_787));
            thread::spawn(move || {
                loop {
                    let (stream, _) = listener.accept().expect("a connection");
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    stream.set_read_timeout(Some(PATIENCE)).expect("patience");
                    stream.set_write_timeout(Some(PATIENCE)).expect("patience");
                    let early = dice.one_of(12) && !calm.load(Ordering::Relaxed);
                    if early {
                        // Before it has read anything.
                        part(&stream, &mut dice);
                    } else {
                        serve_wildly(stream, &counted, &mut dice);
                    }
                }
            })
        };
        let threads = (0..BACKEND_THREADS).map(serve).collect();
        Self { address, counted, calm, over, threads }
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.over.store(true, Ordering::Relaxed);
            // Each wakes one thread, or waits for one.
            let _wake: Vec<_> = self.threads.iter().map(|_| TcpStream::connect(self.address)).collect();
            for thread in self.threads.drain(..) {
                thread.join().expect("a backend does not panic");
            }
        }
    }
}

fn serve_wildly(mut stream: TcpStream, counted: &AtomicU64, dice: &mut Dice) {
    let Some(head) = read_request(&mut stream) else { return part(&stream, dice) };
    if head.starts_with(&format!("GET {COUNT} ")) {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(switching(&accept_of(header(&head, "sec-websocket-key").expect("a key"))).as_bytes());
        return read_on(&mut stream);
    }
    if dice.one_of(10) {
        // Silence, until the gateway has had enough.
        return read_on(&mut stream);
    }
    let answer = answer_to(&head, dice);
    let cut = if dice.one_of(3) { dice.below(answer.len()) } else { answer.len() };
    let _ = stream.write_all(&answer[..cut]);
    if header(&head, "sec-websocket-key").is_some() && cut == answer.len() {
        echo(&mut stream, dice);
    } else if dice.one_of(2) {
        read_on(&mut stream);
    }
    part(&stream, dice);
}

/// Reads the head of a request, if one comes.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(support::peer::text(&head))
}

fn answer_to(head: &str, dice: &mut Dice) -> Vec<u8> {
    let body = "b".repeat(dice.below(200_000));
    match (header(head, "sec-websocket-key"), dice.below(5)) {
        (Some(_), 1) => switching("d3Jvbmc=").into_bytes(),
        (Some(key), 2..) => switching(&accept_of(key)).into_bytes(),
        (_, 0) => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        (_, 1) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        (_, 2) => {
            let (head, size) = ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body.len() + 1);
            let trailers = ["", "X-Sum: 1\r\n"][dice.below(2)];
            format!("{head}{size:x}\r\n{body}b\r\n0\r\n{trailers}\r\n").into_bytes()
        }
        (_, 3) => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}").into_bytes(),
        _ => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
    }
}

/// Sends some of what comes back, and some more.
fn echo(stream: &mut TcpStream, dice: &mut Dice) {
    let mut buffer = vec![0; 1 + dice.below(40_000)];
    for _ in 0..dice.below(5) {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => {
                let _ = stream.write_all(&buffer[..count]);
            }
            _ => return,
        }
    }
    let _ = stream.write_all(&frame::server(frame::BINARY, true, &buffer)[..1 + dice.below(buffer.len())]);
}

/// FIN, RST or a FIN and patience.
fn part(mut stream: &TcpStream, dice: &mut Dice) {
    match dice.below(3) {
        0 => SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER"),
        1 => {
            let _ = stream.shutdown(Shutdown::Write);
            read_on(&mut stream);
        }
        _ => {}
    }
}
