//! Two hundred reloads while a thousand tunnels are busy, and new requests, new upgrades and new TLS connections come all the
//! time: none fails, no tunnel of an unchanged route ends, and nothing is left of what has come and gone.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::{ClientConfig, version};
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::frame;
use support::gateway::{Gateway, Signal};
use support::peer::Peer;
use support::tls::{self, Authority};
use tokio_rustls::rustls;

const RELOADS: usize = 200;
const ECHOED_HERE: usize = 800;
const FORWARDED: usize = 200;

/// What a process may have more at the end than when it had warmed up: the allocator's, for a build without optimisation.
const TOLERATED: u64 = 4 << 20;

const GET: &str = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The file in one of its two shapes: every other reload has more of everything, and another certificate.
fn file(more: bool, authority: &Authority, endpoint: SocketAddr, second: SocketAddr) -> String {
    let mut text = format!(
        "[log]\nformat = \"json\"\nrecords = \"failures\"\n[gateway]\nworkers = 2\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\n{}\
         [upstream.u]\nendpoints = [\"{endpoint}\"{}]\n\
         [[route]]\nname = \"page\"\npath = \"/page\"\nrespond = {{ status = 200, body = \"{}\" }}\n\
         [[route]]\nname = \"echo\"\npath = \"/echo\"\nservice = \"echo\"\non_change = \"close\"\n\
         [[route]]\nname = \"u\"\npath = \"/u\"\nupstream = \"u\"\non_change = \"close\"\n",
        authority.line(),
        if more { format!(", \"{second}\"") } else { String::new() },
        if more { "more" } else { "less" },
    );
    if more {
        text += &format!(
            "[[listener]]\nname = \"extra\"\nbind = \"127.0.0.1:0\"\n[upstream.x]\nendpoints = [\"{second}\"]\n\
             [[route]]\nname = \"x\"\npath = \"/x\"\nupstream = \"x\"\n"
        );
    }
    text
}

fn echoes(tunnel: &mut Peer, text: &str) {
    tunnel.send(frame::client(1, true, text));
    assert_eq!(frame::read(tunnel).text(), text);
}

/// What goes on while the gateway reloads, over and over; each counts how often.
struct Load {
    over: Arc<AtomicBool>,
    works: Vec<(&'static str, Arc<AtomicUsize>, thread::JoinHandle<()>)>,
}

impl Load {
    fn begin(&mut self, what: &'static str, mut work: impl FnMut() + Send + 'static) {
        let (over, count) = (Arc::clone(&self.over), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&count);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                work();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        self.works.push((what, count, thread));
    }

    /// Ends it; fails where anything of it has.
    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        for (what, count, thread) in self.works {
            thread.join().unwrap_or_else(|panic| panic!("{what}: {}", support::panic_text(&*panic)));
            assert!(count.load(Ordering::Relaxed) > 0, "{what} never came to it");
        }
    }
}

/// A thousand busy tunnels, and new requests, new upgrades and new TLS connections.
fn load(web: SocketAddr, secure: SocketAddr, trust: Arc<ClientConfig>) -> Load {
    let mut load = Load { over: Arc::default(), works: Vec::new() };
    let open = |path: &str, count: usize| (0..count).map(|_| Client::upgrade(web, path).0).collect::<Vec<_>>();
    let mut tunnels = open("/echo", ECHOED_HERE);
    tunnels.extend(open("/u", FORWARDED));
    let mut message = 0;
    load.begin("busy tunnels", move || {
        message += 1;
        tunnels.iter_mut().for_each(|tunnel| echoes(tunnel, &format!("message {message}")));
    });
    load.begin("requests", move || assert_eq!(Client::ask(web, GET).status, 200));
    let mut kept = Client::connect(web);
    load.begin("requests of one connection", move || {
        kept.send(GET);
        assert_eq!(kept.read_answer().status, 200);
    });
    load.begin("upgrades", move || {
        for path in ["/echo", "/u"] {
            let mut tunnel = Client::upgrade(web, path).0;
            echoes(&mut tunnel, "new");
            tunnel.finish_sending();
            tunnel.read_to_end();
        }
    });
    load.begin("TLS handshakes", move || {
        let mut tunnel = tls::secure(Client::connect(secure), &trust).expect("one of the two certificates");
        tunnel.send(opening_handshake("localhost", "/echo", ""));
        assert!(tunnel.read_head().starts_with("HTTP/1.1 101 "));
        echoes(&mut tunnel, "secured");
    });
    load
}

#[test]
fn two_hundred_reloads_are_felt_by_nothing_that_they_do_not_concern() {
    support::raise_descriptors();
    let script = |mut peer: Peer| {
        peer.stop_logging();
        backend::websocket_echo(peer);
    };
    let [first, second] = [Backend::start(script), Backend::start(script)];
    let [one, other] = [Authority::new(), Authority::new()];
    let shape = |more: bool| file(more, if more { &other } else { &one }, first.address(), second.address());
    let gateway = Gateway::start(&shape(false));
    let trust = Arc::new(Authority::all_trusted(&[&one, &other], &version::TLS13));
    let load = load(gateway.address("web"), gateway.address("tls"), trust);

    let mut warm = None;
    let path = gateway.folder().join("gateway.toml");
    for number in 1..=RELOADS {
        fs::write(&path, shape(number % 2 == 1)).expect("the folder can be written");
        gateway.signal(Signal::SIGHUP);
        gateway.message(|message| message["message"] == "reloaded");
        if number == RELOADS / 4 {
            warm = Some((gateway.anonymous(), gateway.descriptors()));
        }
    }
    let (memory, descriptors) = (gateway.anonymous(), gateway.descriptors());
    load.end();
    let (warm_memory, warm_descriptors) = warm.expect("it was warm");
    println!("memory {warm_memory} and then {memory}, descriptors {warm_descriptors} and then {descriptors}");
    assert!(memory < warm_memory + TOLERATED, "{warm_memory} bytes after {} reloads, {memory} after all", RELOADS / 4);
    // What comes and goes meanwhile has a few.
    assert!(descriptors.abs_diff(warm_descriptors) < 20, "{warm_descriptors} descriptors, and then {descriptors}");
    let refused = gateway.lines().into_iter().find(|line| line.contains("refused") || line.contains("\"Drain\""));
    assert_eq!(refused, None);
    gateway.stop();
}
