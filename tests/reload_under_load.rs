//! Two hundred reloads while a thousand tunnels are busy, and new requests, new upgrades and new TLS connections come all the
//! time: none fails, no tunnel of an unchanged route ends, and nothing is left of what has come and gone.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::version;
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

/// Does it over and over until it is told to stop; counts how often.
fn meanwhile(
    over: &Arc<AtomicBool>,
    mut work: impl FnMut() + Send + 'static,
) -> (Arc<AtomicUsize>, thread::JoinHandle<()>) {
    let (over, count) = (Arc::clone(over), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&count);
    let thread = thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            work();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (count, thread)
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
    let (web, secure) = (gateway.address("web"), gateway.address("tls"));
    let open = |path: &str, count: usize| (0..count).map(|_| Client::upgrade(web, path).0).collect::<Vec<_>>();
    let mut tunnels = open("/echo", ECHOED_HERE);
    tunnels.extend(open("/u", FORWARDED));

    let over = Arc::new(AtomicBool::new(false));
    let mut message = 0;
    let talks = meanwhile(&over, {
        move || {
            message += 1;
            tunnels.iter_mut().for_each(|tunnel| echoes(tunnel, &format!("message {message}")));
        }
    });
    let requests = meanwhile(&over, move || assert_eq!(Client::ask(web, GET).status, 200));
    let mut kept = Client::connect(web);
    let kept = meanwhile(&over, move || {
        kept.send(GET);
        assert_eq!(kept.read_answer().status, 200);
    });
    let upgrades = meanwhile(&over, move || {
        for path in ["/echo", "/u"] {
            let mut tunnel = Client::upgrade(web, path).0;
            echoes(&mut tunnel, "new");
            tunnel.finish_sending();
            tunnel.read_to_end();
        }
    });
    let trust = Arc::new(Authority::all_trusted(&[&one, &other], &version::TLS13));
    let handshakes = meanwhile(&over, move || {
        let mut tunnel = tls::secure(Client::connect(secure), &trust).expect("one of the two certificates");
        tunnel.send(opening_handshake("localhost", "/echo", ""));
        assert!(tunnel.read_head().starts_with("HTTP/1.1 101 "));
        echoes(&mut tunnel, "secured");
    });

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
    over.store(true, Ordering::Relaxed);
    for (what, (count, thread)) in
        [("talks", talks), ("requests", requests), ("kept", kept), ("upgrades", upgrades), ("handshakes", handshakes)]
    {
        thread.join().unwrap_or_else(|panic| panic!("{what}: {}", support::panic_text(&*panic)));
        println!("{what}: {}", count.load(Ordering::Relaxed));
        assert!(count.load(Ordering::Relaxed) > 0, "{what} never came to it");
    }
    let (warm_memory, warm_descriptors) = warm.expect("it was warm");
    println!("memory {warm_memory} and then {memory}, descriptors {warm_descriptors} and then {descriptors}");
    assert!(memory < warm_memory + TOLERATED, "{warm_memory} bytes after {} reloads, {memory} after all", RELOADS / 4);
    // What comes and goes meanwhile has a few.
    assert!(descriptors.abs_diff(warm_descriptors) < 20, "{warm_descriptors} descriptors, and then {descriptors}");
    let refused = gateway.lines().into_iter().find(|line| line.contains("refused") || line.contains("\"Drain\""));
    assert_eq!(refused, None);
    gateway.stop();
}
