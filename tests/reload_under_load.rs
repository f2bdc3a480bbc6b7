//! Two hundred reloads while a thousand tunnels are busy, and new requests, new upgrades and new TLS connections come all the
//! time: none fails, no tunnel of an unchanged route ends, what is added serves until it is gone, and nothing is left of what has
//! come and gone.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, version};
use socket2::{Domain, Socket, Type};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::{Folder, Gateway, Signal};
use support::peer::{Peer, header};
use support::tls::{self, Authority};
use support::until;
use tokio_rustls::rustls;

const RELOADS: usize = 200;
const CHECKPOINTS: usize = 4;
const ECHOED_HERE: usize = 800;
const FORWARDED: usize = 200;
/// How many of the tunnels have a message under way at once; with all of them, new clients would mostly wait for these.
const AT_ONCE: usize = 50;

/// A body that nobody asks for: what each configuration weighs at least, so that one that is kept shows.
const WEIGHT: usize = 256 << 10;

/// What a process may have more than before the first reload: a third of what the configurations of all reloads weigh, so that to
/// keep every third of them is too much. Some is left by right: what is replaced is freed once a second, until then it lies
/// beside the next ones, and the allocator does not give all of their pages back.
const TOLERATED: u64 = (RELOADS * WEIGHT) as u64 / 3;

/// And than at the first checkpoint, when that has happened already: a sixth of what was replaced from then on.
const TOLERATED_WARM: u64 = (RELOADS / CHECKPOINTS * (CHECKPOINTS - 1) * WEIGHT) as u64 / 6;

const GET: &str = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What the file names.
struct Parts {
    authorities: [Authority; 2],
    backends: [SocketAddr; 2],
    /// Where the listener is that comes and goes.
    extra: SocketAddr,
    weight: PathBuf,
}

impl Parts {
    /// The file in one of its two shapes: every other reload has more of everything, and another certificate.
    fn file(&self, more: bool) -> String {
        let Self { authorities: [one, other], backends: [endpoint, second], extra, weight } = self;
        let mut text = format!(
            "[log]\nformat = \"json\"\nrecords = \"failures\"\n[gateway]\nworkers = 2\n\
             [metrics]\nbind = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\n{}\
             [upstream.u]\nendpoints = [\"{endpoint}\"{}]\n\
             [[route]]\nname = \"page\"\npath = \"/page\"\nrespond = {{ status = 200, body = \"{}\" }}\n\
             [[route]]\nname = \"weight\"\npath = \"/weight\"\nrespond = {{ status = 200, body_file = {weight:?} }}\n\
             [[route]]\nname = \"echo\"\npath = \"/echo\"\nservice = \"echo\"\non_change = \"close\"\n\
             [[route]]\nname = \"u\"\npath = \"/u\"\nupstream = \"u\"\non_change = \"close\"\n",
            if more { other } else { one }.line(),
            if more { format!(", \"{second}\"") } else { String::new() },
            if more { "more" } else { "less" },
        );
        if more {
            text += &format!(
                "[[listener]]\nname = \"extra\"\nbind = \"{extra}\"\n[upstream.x]\nendpoints = [\"{second}\"]\n\
                 [[route]]\nname = \"x\"\npath = \"/x\"\nupstream = \"x\"\n"
            );
        }
        text
    }
}

/// A backend's script: a page for a plain request, and the echo of what an upgrade is followed by.
fn page_or_echo(mut peer: Peer) {
    peer.stop_logging();
    let head = peer.read_head();
    let Some(key) = header(&head, "sec-websocket-key") else {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
        peer.finish_sending();
        peer.read_to_end();
        return;
    };
    peer.send(backend::switching(&backend::accept_of(key)));
    backend::echo(peer);
}

/// An address that nobody else is given while it is held, and where nobody listens but the gateway.
fn held() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");
    (socket, address)
}

fn echoes(tunnel: &mut Peer, text: &str) {
    tunnel.send(frame::client(1, true, text));
    assert_eq!(frame::read(tunnel).text(), text);
}

/// What a new client can have at that address: an answer, and a tunnel that ends in order.
fn serves(address: SocketAddr, page: (&str, &str), tunnel: &str) {
    let answer = Client::get(address, page.0);
    assert_eq!((answer.status, answer.text()), (200, page.1), "{address}{}", page.0);
    let mut tunnel = Client::upgrade(address, tunnel).0;
    echoes(&mut tunnel, "new");
    tunnel.finish_sending();
    tunnel.read_to_end();
}

/// What is shared with those who are the load.
#[derive(Default)]
struct Moment {
    /// How many reloads have begun, and how many of them are done: odd while one is under way.
    reloads: AtomicUsize,
    over: AtomicBool,
}

impl Moment {
    fn now(&self) -> usize {
        self.reloads.load(Ordering::SeqCst)
    }
}

/// How often something was done, and how often while a reload was under way: what falls between two of them proves nothing.
#[derive(Default)]
struct Count {
    done: AtomicUsize,
    met: AtomicUsize,
}

impl Count {
    /// Once more, since `begun`.
    fn add(&self, begun: usize, moment: &Moment) {
        self.done.fetch_add(1, Ordering::SeqCst);
        let has_met = begun % 2 == 1 || moment.now() != begun;
        self.met.fetch_add(usize::from(has_met), Ordering::SeqCst);
    }
}

/// What goes on while the gateway reloads, over and over.
#[derive(Default)]
struct Load {
    moment: Arc<Moment>,
    works: Vec<Work>,
}

struct Work {
    what: &'static str,
    counts: Arc<Vec<Count>>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    /// Does this until the end; it says itself what of it is done.
    fn begin(&mut self, what: &'static str, counts: usize, mut work: impl FnMut(&[Count], &Moment) + Send + 'static) {
        let (moment, counts) =
            (Arc::clone(&self.moment), Arc::new(Vec::from_iter((0..counts).map(|_| Count::default()))));
        let counted = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            while !moment.over.load(Ordering::SeqCst) {
                work(&counted, &moment);
            }
        });
        self.works.push(Work { what, counts, thread });
    }

    /// The same for what is one thing.
    fn repeat(&mut self, what: &'static str, mut work: impl FnMut() + Send + 'static) {
        self.begin(what, 1, move |counts, moment| {
            let begun = moment.now();
            work();
            counts[0].add(begun, moment);
        });
    }

    /// One figure of everything, the tunnels one by one.
    fn figures(&self, of: fn(&Count) -> &AtomicUsize) -> Vec<usize> {
        let counts = self.works.iter().flat_map(|work| work.counts.iter());
        counts.map(|count| of(count).load(Ordering::SeqCst)).collect()
    }

    /// False where anything has failed: then [`Load::end`] says what.
    fn goes_on(&self) -> bool {
        !self.works.iter().any(|work| work.thread.is_finished())
    }

    /// Ends it; fails where anything of it has.
    fn end(self) {
        self.moment.over.store(true, Ordering::SeqCst);
        for Work { what, thread, .. } in self.works {
            thread.join().unwrap_or_else(|panic| panic!("{what}: {}", support::panic_text(&*panic)));
        }
    }
}

/// A message there and back by each tunnel, all of them under way at once.
fn round(tunnels: &mut [Peer], message: &str, counts: &[Count], moment: &Moment) {
    let sent = |tunnel: &mut Peer| {
        let begun = moment.now();
        tunnel.send(frame::client(1, true, message));
        begun
    };
    let begun: Vec<_> = tunnels.iter_mut().map(sent).collect();
    for ((tunnel, count), begun) in tunnels.iter_mut().zip(counts).zip(begun) {
        assert_eq!(frame::read(tunnel).text(), message);
        count.add(begun, moment);
    }
}

/// A thousand busy tunnels, and new requests, new upgrades and new TLS connections.
fn load(web: SocketAddr, secure: SocketAddr, trust: Arc<ClientConfig>) -> Load {
    let mut load = Load::default();
    let open = |path: &str, count: usize| (0..count).map(|_| Client::upgrade(web, path).0).collect::<Vec<_>>();
    let mut tunnels = open("/echo", ECHOED_HERE);
    tunnels.extend(open("/u", FORWARDED));
    let mut message = 0;
    load.begin("busy tunnels", tunnels.len(), move |counts, moment| {
        message += 1;
        for (tunnels, counts) in tunnels.chunks_mut(AT_ONCE).zip(counts.chunks(AT_ONCE)) {
            round(tunnels, &format!("message {message}"), counts, moment);
        }
    });
    load.repeat("requests", move || assert_eq!(Client::ask(web, GET).status, 200));
    let mut kept = Client::connect(web);
    load.repeat("requests of one connection", move || {
        kept.send(GET);
        assert_eq!(kept.read_answer().status, 200);
    });
    load.repeat("upgrades", move || {
        for path in ["/echo", "/u"] {
            let mut tunnel = Client::upgrade(web, path).0;
            echoes(&mut tunnel, "new");
            tunnel.finish_sending();
            tunnel.read_to_end();
        }
    });
    load.repeat("TLS handshakes", move || {
        let mut tunnel = tls::secure(Client::connect(secure), &trust).expect("one of the two certificates");
        tunnel.send(opening_handshake("localhost", "/echo", ""));
        assert!(tunnel.read_head().starts_with("HTTP/1.1 101 "));
        echoes(&mut tunnel, "secured");
    });
    load
}

/// Clients of an address that comes and goes. Nobody may be there; but whoever is let in is answered, also by a listener that is
/// about to go. Both are counted, in this order.
fn come_all_the_time(load: &mut Load, address: SocketAddr) {
    load.begin("an address that comes and goes", 2, move |counts, moment| {
        let begun = moment.now();
        match TcpStream::connect(address) {
            Ok(stream) => {
                let mut client = Peer::new(stream);
                let sent = client.try_send(GET);
                let first = client.try_read_some();
                let is_answered = first.as_ref().is_ok_and(|bytes| bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
                assert!(is_answered, "it was let in and not answered: sent {sent:?}, read {first:?}");
                counts[1].add(begun, moment);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                counts[0].add(begun, moment);
                // Who asks again at once would take the processor from those who are served.
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// Has the file read in its larger shape, uses what it has more, and then in its smaller one, where that is gone.
fn there_and_back(gateway: &Gateway, parts: &Parts, moment: &Moment) {
    let reload = |more: bool| {
        fs::write(gateway.folder().join("gateway.toml"), parts.file(more)).expect("the folder can be written");
        moment.reloads.fetch_add(1, Ordering::SeqCst);
        gateway.signal(Signal::SIGHUP);
        gateway.message(|message| message["message"] == "reloaded");
        moment.reloads.fetch_add(1, Ordering::SeqCst);
    };
    let web = gateway.address("web");
    reload(true);
    serves(web, ("/x", "x"), "/x");
    serves(parts.extra, ("/page", "more"), "/echo");
    serves(parts.extra, ("/x", "x"), "/x");
    reload(false);
    assert_eq!(Client::get(web, "/x").status, 404);
    let refused = TcpStream::connect(parts.extra).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn two_hundred_reloads_are_felt_by_nothing_that_they_do_not_concern() {
    support::raise_descriptors();
    let backends = [Backend::start(page_or_echo), Backend::start(page_or_echo)];
    let (_held, extra) = held();
    let authorities = [Authority::new(), Authority::new()];
    let trust = Arc::new(Authority::all_trusted(&authorities.each_ref(), &version::TLS13));
    let folder = Folder::new();
    let weight = folder.put("weight.txt", "x".repeat(WEIGHT));
    let parts = Parts { authorities, weight, backends: backends.each_ref().map(Backend::address), extra };
    let gateway = Gateway::start(&parts.file(false));
    let mut load = load(gateway.address("web"), gateway.address("tls"), trust);
    until("all of it goes on", || load.figures(|count| &count.done).iter().all(|done| *done >= 5));

    let metrics = gateway.messages().iter().find(|message| message["message"] == "metrics are served").cloned();
    let metrics: SocketAddr = metrics.and_then(|line| line["address"].as_str()?.parse().ok()).expect("its address");
    let has = || {
        // What has left the file is told of until the last configuration that had it is freed.
        until("what was replaced is freed", || !Client::get(metrics, "/metrics").text().contains("{route=\"x\""));
        (gateway.anonymous(), gateway.descriptors())
    };
    (0..3).for_each(|_| come_all_the_time(&mut load, extra));
    let (mut held, mut met, mut reloads) = (vec![has()], load.figures(|count| &count.met), 0);
    for checkpoint in 1..=CHECKPOINTS {
        loop {
            there_and_back(&gateway, &parts, &load.moment);
            reloads += 2;
            let now = load.figures(|count| &count.met);
            if reloads >= RELOADS / CHECKPOINTS * checkpoint && now.iter().zip(&met).all(|(now, before)| now > before) {
                met = now;
                break;
            }
            if !load.goes_on() {
                load.end();
                panic!("it has ended before its time");
            }
        }
        held.push(has());
    }
    load.end();
    println!("{reloads} reloads; memory and descriptors before the first and at each checkpoint: {held:?}");
    let (before, warm) = (held[0], held[1]);
    for (memory, descriptors) in &held[1..] {
        assert!(*memory < before.0 + TOLERATED, "more than before the first reload: {held:?}");
        assert!(*memory < warm.0 + TOLERATED_WARM, "more than at the first checkpoint: {held:?}");
        // What comes and goes meanwhile has a few.
        assert!(descriptors.abs_diff(before.1) < 20, "other descriptors: {held:?}");
    }
    let refused = gateway.lines().into_iter().find(|line| line.contains("refused") || line.contains("\"Drain\""));
    assert_eq!(refused, None);
    gateway.stop();
}
