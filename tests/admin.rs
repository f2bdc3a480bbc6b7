//! Administration: the socket is its owner's alone, says what is, and has the gateway read its file again. It is asked here by
//! the command line, as a person does, and by hand where nobody well-behaved would ask so.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde_json::Value;
use support::backend::{self, Backend};
use support::client::Client;
use support::frame;
use support::gateway::{Folder, Gateway, Signal, run_to_end};
use support::until;

const ADMIN: &str = "[admin]\nbind = \"unix:admin.sock\"\n[log]\nformat = \"json\"\n";
const LISTENER: &str = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n";

fn page(body: &str) -> String {
    format!("[[route]]\nname = \"page\"\npath = \"/page\"\nrespond = {{ status = 200, body = \"{body}\" }}\n")
}

fn file(body: &str) -> String {
    format!(
        "{ADMIN}[drain]\ndeadline = \"10m\"\n{LISTENER}[[route]]\nname = \"echo\"\nservice = \"echo\"\n{}",
        page(body)
    )
}

fn socket(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("admin.sock")
}

fn write(gateway: &Gateway, text: &str) {
    fs::write(gateway.folder().join("gateway.toml"), text).expect("the folder can be written");
}

fn spliceway(socket: &Path, arguments: &[&str]) -> Output {
    let socket = socket.to_str().expect("text");
    run_to_end(&[arguments, &["--socket", socket]].concat())
}

/// Exit code, standard output and standard error.
fn said(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn status(gateway: &Gateway) -> Value {
    let output = spliceway(&socket(gateway), &["status", "--json"]);
    let (code, text, error) = said(&output);
    assert_eq!((code, error), (Some(0), ""));
    serde_json::from_str(text).expect("JSON")
}

/// The whole answer to these bytes.
fn raw(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    // Who is turned away before all of it has been read gets what was said, and then a reset.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_reload_says_what_it_has_changed() {
    let gateway = Gateway::start(&file("one"));
    let socket = socket(&gateway);
    let unchanged = spliceway(&socket, &["reload"]);
    assert_eq!(said(&unchanged), (Some(0), "reloaded: 0 changes\n", ""));
    let more = "[[route]]\nname = \"more\"\npath = \"/more\"\nrespond = 204\n";
    write(&gateway, &format!("[gateway]\nworkers = 7\n{}{more}", file("two")));
    let changed = spliceway(&socket, &["reload"]);
    let lines = "route page changed\nroute more added\nreloaded: 2 changes\n";
    let warning = "warning: gateway.workers has changed, and stays as it was until the process is started anew\n";
    assert_eq!(said(&changed), (Some(0), lines, warning));
    assert_eq!(Client::get(gateway.address("web"), "/page").text(), "two");
    gateway.stop();
}

#[test]
fn a_reload_that_is_refused_says_why_and_changes_nothing() {
    let gateway = Gateway::start(&file("one"));
    let socket = socket(&gateway);
    write(&gateway, &file("two").replace("\"echo\"\n[[", "\"ehco\"\n[["));
    let refused = spliceway(&socket, &["reload"]);
    let (code, out, error) = said(&refused);
    assert_eq!((code, out), (Some(78), ""));
    assert!(
        error.starts_with("spliceway: the reload is refused: error: `route.service`: \"ehco\" is not known\n"),
        "{error}"
    );
    assert!(error.contains("gateway.toml:12:11") && error.contains("did you mean \"echo\"?"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    write(&gateway, &format!("{}[[listener]]\nname = \"taken\"\nbind = \"{address}\"\n", file("two")));
    let refused = spliceway(&socket, &["reload"]);
    let expected = format!(
        "spliceway: the reload is refused: listener \"taken\": cannot listen on {address}: the address is in use by \
         another process\n"
    );
    assert_eq!(said(&refused), (Some(1), "", &*expected));
    assert_eq!(Client::get(gateway.address("web"), "/page").text(), "one");
    assert_eq!(status(&gateway)["reloads"], serde_json::json!({ "applied": 0, "refused": 2 }));
    gateway.stop();
}

#[test]
fn the_status_tells_listeners_routes_endpoints_and_what_came_to_them() {
    let backend = Backend::start(backend::websocket_echo);
    let address = backend.address();
    let forwarded = format!(
        "[upstream.b]\nendpoints = [\"{address}\"]\n[[route]]\nname = \"far\"\npath = \"/far\"\nupstream = \"b\"\n"
    );
    let gateway = Gateway::start(&format!("{}{forwarded}", file("one")));
    let web = gateway.address("web");
    let mut tunnels = [Client::upgrade(web, "/echo").0, Client::upgrade(web, "/far").0];
    assert_eq!(Client::get(web, "/page").text(), "one");
    until("the page has its record", || !gateway.records().is_empty());
    let told = status(&gateway);
    assert_eq!(told["process"], gateway.pid());
    assert_eq!((&told["state"], &told["version"]), (&"serving".into(), &env!("CARGO_PKG_VERSION").into()));
    assert_eq!(told["tunnels"], 2);
    let listener = serde_json::json!(
        [{ "name": "web", "addresses": [web.to_string()], "tls": false, "certificates": [] }]
    );
    assert_eq!(told["listeners"], listener);
    let route = |name: &str, does: &str, counts: [u64; 3]| {
        let [requests, handshakes, tunnels] = counts;
        serde_json::json!(
            { "name": name, "does": does, "requests": requests, "handshakes": handshakes, "tunnels": tunnels }
        )
    };
    let routes =
        [route("echo", "service", [0, 1, 1]), route("page", "respond", [1, 0, 0]), route("far", "upstream", [0, 1, 1])];
    assert_eq!(told["routes"], serde_json::json!(routes));
    let endpoint = serde_json::json!({ "configured": address.to_string(), "address": address.to_string(), "in_use": 1, "tunnels": 1 });
    assert_eq!(told["upstreams"], serde_json::json!([{ "name": "b", "endpoints": [endpoint] }]));
    for tunnel in &mut tunnels {
        tunnel.send(frame::client(1, true, "still"));
        assert_eq!(frame::read(tunnel).text(), "still");
    }
    let table = spliceway(&socket(&gateway), &["status"]);
    let (code, text, _) = said(&table);
    assert_eq!(code, Some(0));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for line in [
        &*format!("web {web}"),
        "echo service 0 1 1",
        "page respond 1 0 0",
        "far upstream 0 1 1",
        &*format!("b {address} {address} 1 1"),
    ] {
        assert!(text.lines().any(|told| words(told) == words(line)), "no line {line:?} in\n{text}");
    }
    drop(tunnels);
    gateway.stop();
    backend.finish();
}

#[test]
fn the_socket_is_its_owners_alone_and_gone_with_the_gateway() {
    let gateway = Gateway::start(&file("one"));
    let (path, folder) = (socket(&gateway), gateway.folder().to_owned());
    let metadata = fs::metadata(&path).expect("it is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let line = gateway.message(|message| message["message"] == "administration is served");
    assert_eq!(line["socket"], path.to_str().expect("text"));
    // What it answers there it answers to no client of a listener.
    for path in ["/status", "/reload"] {
        let asked = Client::ask(
            gateway.address("web"),
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        assert!(!asked.text().contains("listeners") && asked.status == 426, "{asked:?}");
    }
    gateway.signal(Signal::SIGTERM);
    until("the name is gone", || !path.exists());
    drop(folder);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

#[test]
fn a_socket_that_a_killed_gateway_left_is_taken_and_one_that_is_used_is_not() {
    let folder = Folder::new();
    let config = folder.put("gateway.toml", file("one"));
    let path = config.with_file_name("admin.sock");
    drop(UnixListener::bind(&path).expect("it can be bound"));
    assert!(path.exists(), "a socket's name outlives it");
    let run = ["run", config.to_str().expect("text")];
    let gateway = Gateway::launch(&run, &[]);
    until("it serves", || gateway.lines().iter().any(|line| line.contains("serving")));
    assert!(raw(&path, "GET /status HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let second = run_to_end(&run);
    let told = format!("spliceway: admin.bind: cannot listen on {}: another process listens there\n", path.display());
    assert_eq!((second.status.code(), said(&second).2), (Some(1), &*told));
    // And that has not taken it away from the first.
    assert!(raw(&path, "GET /status HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));
    nobody_waits_for_one_who_does_not_accept(&path, &run, &told);
    fs::write(&path, "mine").expect("the folder can be written");
    let refused = run_to_end(&run);
    let told =
        format!("spliceway: admin.bind: cannot listen on {}: there is a file that is no socket\n", path.display());
    assert_eq!((refused.status.code(), said(&refused).2), (Some(1), &*told));
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "mine");
}

#[test]
fn nobody_to_be_asked_is_told() {
    let folder = Folder::new();
    let path = folder.put("x", "").with_file_name("admin.sock");
    for arguments in [&["reload"][..], &["status"]] {
        let told = format!(
            "spliceway: no gateway can be asked at {}: No such file or directory (os error 2) (admin.bind says where it \
             listens)\n",
            path.display()
        );
        assert_eq!(said(&spliceway(&path, arguments)), (Some(1), "", &*told));
    }
    // Somebody who is no gateway.
    let listener = UnixListener::bind(&path).expect("it can be bound");
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it comes");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).expect("it asks");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("it reads");
        let _ = stream.read(&mut request);
    });
    let told = "spliceway: who listens there is no gateway: it answered 200 OK\n";
    assert_eq!(said(&spliceway(&path, &["status"])), (Some(1), "", told));
    other.join().expect("it has answered");
}

#[test]
fn reloads_that_are_asked_for_at_once_are_all_answered_and_the_last_file_is_in_force() {
    let gateway = Gateway::start(&file("one"));
    write(&gateway, &file("two"));
    let path = socket(&gateway);
    let post = "POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let answers: Vec<_> = thread::scope(|scope| {
        let askers: Vec<_> = (0..20).map(|_| scope.spawn(|| raw(&path, post))).collect();
        askers.into_iter().map(|asker| asker.join().expect("it is answered")).collect()
    });
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
    let changed = answers.iter().filter(|answer| answer.contains("\"name\":\"page\"")).count();
    assert!(changed >= 1, "nobody was told of the change: {answers:?}");
    assert_eq!(Client::get(gateway.address("web"), "/page").text(), "two");
    gateway.stop();
}

/// A reading of the file that ends when the test says so: the answer of a route comes from a pipe, and whoever reads a pipe waits
/// for its writer. Where it is, a plain file has taken its name already, so that the next reading waits for nobody.
struct UnderWay(fs::File);

impl UnderWay {
    /// Has the gateway read this text, with a route `/slow` behind it, by what `ask` does, and returns when it is doing so.
    fn begin(gateway: &Gateway, text: &str, ask: impl FnOnce()) -> Self {
        let pipe = gateway.folder().join("slow.txt");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("the folder can be written");
        write(gateway, &with_slow(text));
        ask();
        // Opening it fails as long as nobody reads. Whoever reads it has read the configuration, which names it.
        let mut opened = None;
        until("the file is being read", || {
            opened = openat(CWD, &pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
            opened.is_some()
        });
        fs::write(pipe.with_file_name("plain.txt"), "slow").expect("the folder can be written");
        fs::rename(pipe.with_file_name("plain.txt"), pipe).expect("the folder can be written");
        Self(opened.expect("it was opened").into())
    }

    fn end(mut self) {
        self.0.write_all(b"slow").expect("it is read");
    }
}

fn with_slow(text: &str) -> String {
    let slow = "[[route]]\nname = \"slow\"\npath = \"/slow\"\n";
    format!("{text}{slow}respond = {{ status = 200, body_file = \"slow.txt\" }}\n")
}

const MORE: &str = "[[route]]\nname = \"more\"\npath = \"/more\"\nrespond = { status = 200, body = \"more\" }\n";

/// What the log says of reloads that were applied, in its order: differences, and how many there were.
fn applied(gateway: &Gateway) -> Vec<String> {
    let word = |message: &Value, key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let line = |message: &Value| match message["changes"].as_u64() {
        Some(count) => Some(format!("reloaded: {count} changes")),
        None if message["kind"].is_string() => {
            Some(["kind", "name", "message"].map(|key| word(message, key)).join(" "))
        }
        None => None,
    };
    gateway.messages().iter().filter_map(line).collect()
}

fn assert_both_are_in_force(gateway: &Gateway) {
    for changes in [2, 1] {
        gateway.message(|message| message["message"] == "reloaded" && message["changes"] == changes);
    }
    for (path, body) in [("/page", "two"), ("/slow", "slow"), ("/more", "more")] {
        assert_eq!(Client::get(gateway.address("web"), path).text(), body);
    }
    let lines = ["route page changed", "route slow added", "reloaded: 2 changes", "route more added"];
    assert_eq!(applied(gateway), [&lines[..], &["reloaded: 1 changes"]].concat());
    assert_eq!(status(gateway)["reloads"], serde_json::json!({ "applied": 2, "refused": 0 }));
}

/// Whoever asks while the file is read may have changed it since: what was read before is no answer to that.
#[test]
fn who_asks_during_a_reload_is_told_of_a_reading_that_began_after_it() {
    let gateway = Gateway::start(&file("one"));
    let path = socket(&gateway);
    thread::scope(|scope| {
        let mut first = None;
        let ask = || first = Some(scope.spawn(|| spliceway(&path, &["reload"])));
        let under_way = UnderWay::begin(&gateway, &file("two"), ask);
        write(&gateway, &with_slow(&format!("{}{MORE}", file("two"))));
        let mut second = UnixStream::connect(&path).expect("it listens");
        second.write_all(b"POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").expect("it reads");
        // One thread hears all who ask, in the order of their coming: who asked before this was answered has been heard.
        assert_eq!(status(&gateway)["reloads"], serde_json::json!({ "applied": 0, "refused": 0 }));
        under_way.end();
        let first = first.expect("it was asked").join().expect("it is answered");
        assert_eq!(said(&first), (Some(0), "route page changed\nroute slow added\nreloaded: 2 changes\n", ""));
        let mut answer = String::new();
        second.read_to_string(&mut answer).expect("an answer, and its end");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let told =
            r#"{"applied":true,"changes":[{"how":"added","kind":"route","name":"more"}],"kept":[],"warnings":[]}"#;
        assert_eq!(body, format!("{told}\n"));
    });
    assert_both_are_in_force(&gateway);
    gateway.stop();
}

/// The oldest connection is closed for one more, and it was so although somebody waited there for the end of a reload.
#[test]
fn who_waits_for_a_reload_is_not_closed_for_those_who_only_connect() {
    let gateway = Gateway::start(&file("one"));
    let path = socket(&gateway);
    thread::scope(|scope| {
        let mut asked = None;
        let ask = || asked = Some(scope.spawn(|| spliceway(&path, &["reload"])));
        let under_way = UnderWay::begin(&gateway, &file("two"), ask);
        let mut flood: Vec<_> = (0..64).map(|_| UnixStream::connect(&path).expect("it listens")).collect();
        // All are accepted, in the order of their coming, when this one is answered.
        assert_eq!(status(&gateway)["state"], "serving");
        assert_eq!(flood[0].read(&mut [0; 16]).unwrap_or(0), 0, "of those who say nothing the oldest was closed");
        under_way.end();
        let output = asked.expect("it was asked").join().expect("it is answered");
        assert_eq!(said(&output), (Some(0), "route page changed\nroute slow added\nreloaded: 2 changes\n", ""));
    });
    gateway.stop();
}

/// Nobody answers a signal, so that what came of it is told by the log alone; whether it came during a reload that was asked for
/// here, or during one of a signal, too.
#[test]
fn a_signal_during_a_reload_has_the_file_read_once_more() {
    for first_by_signal in [false, true] {
        let gateway = Gateway::start(&file("one"));
        let path = socket(&gateway);
        thread::scope(|scope| {
            let mut first = None;
            let ask = || match first_by_signal {
                true => gateway.signal(Signal::SIGHUP),
                false => first = Some(scope.spawn(|| spliceway(&path, &["reload"]))),
            };
            let under_way = UnderWay::begin(&gateway, &file("two"), ask);
            write(&gateway, &with_slow(&format!("{}{MORE}", file("two"))));
            gateway.signal(Signal::SIGHUP);
            until("the signal has come", || !is_pending(&gateway, Signal::SIGHUP));
            assert_eq!(status(&gateway)["reloads"], serde_json::json!({ "applied": 0, "refused": 0 }));
            under_way.end();
            if let Some(first) = first {
                let first = first.join().expect("it is answered");
                assert_eq!(said(&first), (Some(0), "route page changed\nroute slow added\nreloaded: 2 changes\n", ""));
            }
        });
        assert_both_are_in_force(&gateway);
        gateway.stop();
    }
}

/// Whether no thread of the gateway has taken it yet.
fn is_pending(gateway: &Gateway, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let shared = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("its line (proc(5))");
    let mask = u64::from_str_radix(shared.trim(), 16).expect("a mask");
    mask & 1 << (signal as u64 - 1) != 0
}

#[test]
fn a_reload_during_a_drain_is_refused_and_the_status_says_that_it_drains() {
    let gateway = Gateway::start(&file("one"));
    let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
    gateway.signal(Signal::SIGTERM);
    gateway.message(|message| message["message"] == "draining");
    let told = "spliceway: the reload is refused: the gateway drains\n";
    assert_eq!(said(&spliceway(&socket(&gateway), &["reload"])), (Some(1), "", told));
    let state = status(&gateway);
    assert_eq!((&state["state"], &state["tunnels"]), (&"draining".into(), &1.into()));
    tunnel.finish_sending();
    tunnel.expect_end();
    assert_eq!(gateway.wait().0.code(), Some(0));
}

#[test]
fn who_asks_for_what_is_not_there_is_told_so() {
    let gateway = Gateway::start(&file("one"));
    let path = socket(&gateway);
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ("HTTP/1.1 404 ", r#"{"error":"not found"}"#)),
        ("GET /reload HTTP/1.1\r\nHost: a\r\n\r\n", ("HTTP/1.1 405 ", r#"{"error":"method not allowed"}"#)),
        (
            "POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            ("HTTP/1.1 405 ", r#"{"error":"method not allowed"}"#),
        ),
        ("nonsense\r\n\r\n", ("HTTP/1.1 400 ", "")),
    ] {
        let answer = raw(&path, request);
        let (begins, body) = expected;
        assert!(answer.starts_with(begins), "{request:?}: {answer}");
        assert_eq!(answer.split("\r\n\r\n").nth(1).map(str::trim_end), Some(body), "{request:?}");
    }
    assert!(raw(&path, "GET /reload HTTP/1.1\r\nHost: a\r\n\r\n").contains("allow: POST\r\n"));
    assert!(
        raw(&path, &format!("GET /status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))).starts_with("HTTP/1.1 431 ")
    );
    assert_eq!(status(&gateway)["reloads"]["applied"], 0);
    gateway.stop();
}

/// It made the next gateway wait, and for ever: `connect` blocks where as many wait already as may.
fn nobody_waits_for_one_who_does_not_accept(path: &Path, run: &[&str], told: &str) {
    let listener = socket_with_name(path);
    listen(&listener, 0).expect("it can listen");
    let connect = || {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).expect("a socket");
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).expect("a short path")).map(|()| socket)
    };
    let mut waiting = Vec::new();
    let full = loop {
        match connect() {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(full, rustix::io::Errno::AGAIN);
    let second = run_to_end(run);
    assert_eq!((second.status.code(), said(&second).2), (Some(1), told));
    fs::remove_file(path).expect("it is there");
}

fn socket_with_name(path: &Path) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).expect("a socket");
    bind(&socket, &SocketAddrUnix::new(path).expect("a short path")).expect("the name is free");
    socket
}

/// Who floods the socket is bounded, the oldest go first, and whoever administers comes through, and no client feels it.
#[test]
fn a_flood_is_bounded_and_both_administration_and_clients_go_on() {
    let gateway = Gateway::start(&file("one"));
    let path = socket(&gateway);
    let idle = gateway.descriptors();
    let (mut tunnel, _) = Client::upgrade(gateway.address("web"), "/echo");
    // One that was accepted by the kernel waits in the queue until the gateway comes to it.
    let connect = || loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    };
    let mut flood: Vec<_> = (0..300).map(|_| connect()).collect();
    assert_eq!(status(&gateway)["state"], "serving");
    // The tunnel has a descriptor, and each of the 32 that may be open.
    assert!(gateway.descriptors() <= idle + 1 + 32, "{} of {idle}", gateway.descriptors());
    for stream in &mut flood[..200] {
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "the oldest were closed");
    }
    thread::scope(|scope| {
        let reloaders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..25).for_each(|_| assert_eq!(spliceway(&path, &["reload"]).status.code(), Some(0)));
                })
            })
            .collect();
        for _ in 0..50 {
            assert_eq!(Client::get(gateway.address("web"), "/page").text(), "one");
            tunnel.send(frame::client(1, true, "still"));
            assert_eq!(frame::read(&mut tunnel).text(), "still");
        }
        reloaders.into_iter().for_each(|reloader| reloader.join().expect("each is answered"));
    });
    drop((flood, tunnel));
    until("all descriptors are given back", || gateway.descriptors() <= idle);
    gateway.stop();
}
