//! A scripted backend: it listens on a port of its own and runs a script for every connection.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Socket, Type};

use super::peer::{Log, Peer, header};

/// A listening socket, a thread that accepts, and a thread for each connection's script.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its end wakes the accepting thread; `None` once that has been joined.
    accepting: Option<(UnixStream, JoinHandle<()>)>,
}

type Script = Arc<dyn Fn(Peer) + Send + Sync>;

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    log: Log,
    script: Option<JoinHandle<()>>,
}

impl Backend {
    /// Listens on 127.0.0.1 and runs `script` for each connection. A script that panics fails the test in
    /// [`Backend::finish`], or where the backend is dropped.
    pub fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().expect("an address"), script)
    }

    /// The same on an address: of the other family, or one that a backend had before.
    pub fn start_on(address: SocketAddr, script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("the backend's address is free");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("a bound address");
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
        let shared = Arc::new(Shared::default());
        let accept = {
            let (shared, script) = (Arc::clone(&shared), Arc::new(script) as Script);
            move || accept(&listener, &stopped, &shared, &script)
        };
        let accepting = thread::Builder::new().name("backend".into()).spawn(accept).expect("a thread");
        Self { address, shared, accepting: Some((stop, accepting)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have come so far.
    pub fn connections(&self) -> usize {
        self.shared.connections().len()
    }

    /// What each connection has received so far, in the order of their coming: what its script has read, no more.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let connections = self.shared.connections();
        connections.iter().map(|one| one.log.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Stops listening, so that the address refuses, and waits until all scripts have ended; a script's panic goes on
    /// here. Gives what each connection received.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.join();
        self.received()
    }

    fn join(&mut self) {
        let Some((stop, accepting)) = self.accepting.take() else { return };
        drop(stop);
        let accepted = accepting.join();
        let scripts: Vec<_> = self.shared.connections().iter_mut().filter_map(|one| one.script.take()).collect();
        // All of them are waited for, whatever the first has to say.
        let ends: Vec<_> = scripts.into_iter().map(JoinHandle::join).collect();
        if let Some(panic) = [accepted].into_iter().chain(ends).find_map(Result::err) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // While panicking, waiting for scripts could hide the reason behind a hang: they end with the process.
        if !thread::panicking() {
            self.join();
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A script: takes the opening handshake, answers a correct 101, and sends every byte back until the FIN, then FIN.
pub fn websocket_echo(mut peer: Peer) {
    accept_websocket(&mut peer);
    echo(peer);
}

/// What comes behind the 101 of such a script.
pub fn echo(mut peer: Peer) {
    loop {
        let bytes = peer.read_some();
        if bytes.is_empty() {
            break;
        }
        peer.send(bytes);
    }
    peer.finish_sending();
}

/// A script: reads a head, answers with these bytes, closes when the other side does.
pub fn respond(answer: impl Into<Vec<u8>>) -> impl Fn(Peer) + Send + Sync + 'static {
    let answer = answer.into();
    move |mut peer| {
        peer.read_head();
        peer.send(&answer);
        peer.finish_sending();
        peer.read_to_end();
    }
}

/// A script: reads to the end and answers nothing.
pub fn silent(mut peer: Peer) {
    peer.read_to_end();
}

/// The same, whether the end is a FIN or a RST: for a client that leaves in either way.
pub fn silent_to_end(mut peer: Peer) {
    while peer.try_read_some().is_ok_and(|bytes| !bytes.is_empty()) {}
}

/// Reads an opening handshake and answers a correct 101; gives the request's head.
pub fn accept_websocket(peer: &mut Peer) -> String {
    let head = peer.read_head();
    let key = header(&head, "sec-websocket-key").unwrap_or_else(|| panic!("no opening handshake: {head:?}"));
    peer.send(switching(&accept_of(key)));
    head
}

/// A 101 to the websocket protocol with that Sec-WebSocket-Accept.
pub fn switching(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// The Sec-WebSocket-Accept that answers `key` (RFC 6455 section 4.2.2).
pub fn accept_of(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}

fn accept(listener: &TcpListener, stopped: &UnixStream, shared: &Shared, script: &Script) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.expect("poll"),
        };
        // What has come is accepted before the wish to stop is looked at: it has been promised to the test.
        loop {
            match listener.accept() {
                Ok((stream, _)) => run(stream, shared, script),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => panic!("accepting failed: {error}"),
            }
        }
        if !ready[1].revents().is_empty() {
            return;
        }
    }
}

fn run(stream: std::net::TcpStream, shared: &Shared, script: &Script) {
    stream.set_nonblocking(false).expect("a stream that blocks");
    let (log, script) = (Log::default(), Arc::clone(script));
    let peer = Peer::logged(stream, Arc::clone(&log));
    // Under the lock, so that a script's own look at the backend finds its connection there.
    let mut connections = shared.connections();
    let name = format!("backend-{}", connections.len());
    let running = thread::Builder::new().name(name).spawn(move || script(peer)).expect("a thread");
    connections.push(Connection { log, script: Some(running) });
}

/// A listening address to which a connect neither succeeds nor fails: its queue is full, so the kernel drops what else
/// asks (Linux). Nobody accepts until [`Full::accepted_besides`].
#[derive(Debug)]
pub struct Full {
    listener: TcpListener,
    address: SocketAddr,
    /// What the queue is full of.
    fillers: Vec<std::net::TcpStream>,
}

impl Full {
    /// Listens on 127.0.0.1 with the shortest queue and fills it.
    pub fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("a free port");
        socket.listen(0).expect("it listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("a bound address");
        let mut fillers = Vec::new();
        loop {
            match std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(filler) => fillers.push(filler),
                Err(error) if error.kind() == ErrorKind::TimedOut => return Self { listener, address, fillers },
                Err(error) => panic!("the queue is filled: {error}"),
            }
            assert!(fillers.len() < 16, "a queue of this length is never full here");
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts everything in the queue, and gives what was not ours.
    pub fn accepted_besides(self) -> usize {
        self.listener.set_nonblocking(true).expect("a listener that does not block");
        let ours: Vec<_> = self.fillers.iter().map(|one| one.local_addr().expect("an address")).collect();
        let accepted: Vec<_> = std::iter::from_fn(|| self.listener.accept().ok()).map(|(_, remote)| remote).collect();
        assert!(ours.iter().all(|one| accepted.contains(one)), "{ours:?} are in the queue: {accepted:?}");
        accepted.len() - ours.len()
    }
}
