//! Another configuration while the gateway serves: applied whole or not at all, and felt by nothing that it does not concern.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind};
use serde_json::Value;
use support::backend::{self, Backend};
use support::client::Client;
use support::frame;
use support::gateway::{Gateway, Signal};
use support::peer::Peer;
use support::tls::{self, Authority};
use support::until;
use tokio_rustls::rustls;

const LISTENER: &str = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n";

/// A deadline that no test waits for.
const NEVER: &str = "[drain]\ndeadline = \"10m\"\n";

/// What a refusal says in the log before its report.
const REFUSED: &str = "the reload is refused, and the configuration stays as it is: ";

fn page(path: &str, body: &str) -> String {
    format!("[[route]]\nname = \"page-{body}\"\npath = \"{path}\"\nrespond = {{ status = 200, body = \"{body}\" }}\n")
}

fn upstream(name: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[upstream.{name}]\nendpoints = [{}]\n{more}\n", endpoints.join(", "))
}

fn to(path: &str, upstream: &str, more: &str) -> String {
    format!(
        "[[route]]\nname = \"to{}\"\npath = \"{path}\"\nupstream = \"{upstream}\"\n{more}\n",
        path.replace('/', "-")
    )
}

/// One message there and back.
fn echoes(tunnel: &mut Peer, text: &str) {
    tunnel.send(frame::client(1, true, text));
    assert_eq!(frame::read(tunnel).text(), text);
}

fn tunnel(gateway: &Gateway, path: &str) -> Peer {
    let mut tunnel = Client::upgrade(gateway.address("web"), path).0;
    echoes(&mut tunnel, "before");
    tunnel
}

/// What a reload said of single parts: (kind, name, what happened to it).
fn told(gateway: &Gateway) -> Vec<(String, String, String)> {
    let words = |message: &Value, key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let line = |m: &Value| m["kind"].is_string().then(|| (words(m, "kind"), words(m, "name"), words(m, "message")));
    gateway.messages().iter().filter_map(line).collect()
}

fn triple(kind: &str, name: &str, how: &str) -> (String, String, String) {
    (kind.to_owned(), name.to_owned(), how.to_owned())
}

#[test]
fn requests_are_served_by_the_new_file_on_connections_that_are_there_and_on_fresh_ones() {
    let gateway = Gateway::start(&format!("{LISTENER}{}", page("/a", "one")));
    let mut kept = Client::connect(gateway.address("web"));
    let mut ask = |path: &str| {
        kept.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = kept.read_answer();
        (answer.status, answer.text().to_owned())
    };
    assert_eq!(ask("/a"), (200, "one".to_owned()));
    gateway.reload(&format!("{LISTENER}{}{}", page("/a", "two"), page("/b", "three")));
    assert_eq!(ask("/a"), (200, "two".to_owned()));
    assert_eq!(ask("/b"), (200, "three".to_owned()));
    assert_eq!(Client::get(gateway.address("web"), "/b").text(), "three");
    gateway.reload(&format!("{LISTENER}{}", page("/b", "three")));
    assert_eq!(ask("/a").0, 404);
    assert_eq!(
        told(&gateway),
        [
            triple("route", "page-two", "added"),
            triple("route", "page-three", "added"),
            triple("route", "page-one", "removed"),
            triple("route", "page-two", "removed"),
        ]
    );
    gateway.stop();
}

/// A request that is under way is answered as the file was when it began.
#[test]
fn a_request_that_is_under_way_keeps_what_it_began_with() {
    let slow = Backend::start(|mut peer| {
        peer.read_head();
        // The answer waits for a word that only comes when the gateway has gone over to the other file.
        assert_eq!(peer.read_exact(2), b"go");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        peer.read_to_end();
    });
    let before = format!("{LISTENER}{}{}", upstream("u", &[slow.address()], ""), to("/u", "u", ""));
    let gateway = Gateway::start(&before);
    let mut client = Client::connect(gateway.address("web"));
    client.send("POST /u HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    until("the backend has the head", || slow.received().first().is_some_and(|bytes| bytes.ends_with(b"\r\n\r\n")));
    gateway.reload(&format!("{LISTENER}{}", page("/", "other")));
    client.send("go");
    assert_eq!(client.read_answer().text(), "slow");
    gateway.stop();
}

#[test]
fn a_tunnel_is_touched_by_its_own_route_alone_and_as_that_says() {
    let backend = Backend::start(backend::websocket_echo);
    let file = |changed: &str, drain: &str| {
        let route = |path: &str, policy: &str, more: &str| to(path, "u", &format!("on_change = \"{policy}\"\n{more}"));
        [
            drain,
            LISTENER,
            &upstream("u", &[backend.address()], ""),
            &route("/same", "close", ""),
            &route("/keep", "keep", changed),
            &route("/close", "close", changed),
            &route("/drain", "drain", changed),
            "[[route]]\nname = \"echo\"\npath = \"/echo\"\nservice = \"echo\"\non_change = \"close\"\n",
            changed,
        ]
        .concat()
    };
    let drain = "[drain]\ndeadline = \"300ms\"\n";
    let gateway = Gateway::start(&file("", drain));
    let mut tunnels: Vec<_> = ["/same", "/keep"].map(|path| tunnel(&gateway, path)).into();
    let [mut closed, mut drained, mut echo] = ["/close", "/drain", "/echo"].map(|path| tunnel(&gateway, path));
    gateway.reload(&file("plain = false\n", drain));
    let ended = |route: &str| gateway.record(|record| record["route"] == *route && record["record"] == "tunnel");
    for (route, peer) in [("to-close", &mut closed), ("echo", &mut echo)] {
        let record = ended(route);
        assert_eq!(
            (&record["ended_by"], &record["cause"]),
            (&"Drain".into(), &"its route has changed".into()),
            "{record}"
        );
        peer.read_to_end();
    }
    let record = ended("to-drain");
    assert_eq!((&record["ended_by"], &record["cause"]), (&"Drain".into(), &"its route has changed".into()), "{record}");
    drained.read_to_end();
    tunnels.iter_mut().for_each(|tunnel| echoes(tunnel, "after"));
    // And when they are gone, in another order of the file.
    gateway.reload(&format!(
        "{drain}{LISTENER}{}{}",
        upstream("u", &[backend.address()], ""),
        to("/same", "u", "on_change = \"close\"")
    ));
    tunnels.iter_mut().for_each(|tunnel| echoes(tunnel, "and after"));
    gateway.reload(&format!("{LISTENER}{}", page("/", "nothing")));
    let record = ended("to-same");
    assert_eq!((&record["ended_by"], &record["cause"]), (&"Drain".into(), &"its route was removed".into()), "{record}");
    tunnels[0].read_to_end();
    drop(tunnels);
    gateway.stop();
}

/// A tunnel that is to drain has until `drain.deadline`, and may end by itself before.
#[test]
fn a_tunnel_that_drains_lives_until_the_deadline_and_not_longer() {
    let backend = Backend::start(backend::websocket_echo);
    let file = |deadline: &str, more: &str| {
        let upstream = upstream("u", &[backend.address()], "");
        format!(
            "[drain]\ndeadline = \"{deadline}\"\n{LISTENER}{upstream}{}",
            to("/u", "u", &format!("on_change = \"drain\"\n{more}"))
        )
    };
    let gateway = Gateway::start(&file("10m", ""));
    let [mut by_itself, mut other] = [tunnel(&gateway, "/u"), tunnel(&gateway, "/u")];
    gateway.reload(&file("10m", "plain = false\n"));
    gateway.message(|message| message["tunnels"] == 2);
    echoes(&mut by_itself, "still");
    by_itself.finish_sending();
    by_itself.expect_eof();
    assert_eq!(gateway.record(|_| true)["ended_by"], "ClientClosed");
    // Another change with a deadline that comes: what began before is drained by it, too.
    gateway.reload(&file("200ms", "plain = true\n"));
    echoes(&mut other, "still");
    let record = gateway.record(|_| true);
    assert_eq!(record["ended_by"], "Drain");
    other.read_to_end();
    gateway.stop();
}

#[test]
fn tunnels_of_an_endpoint_that_left_the_file_do_as_their_upstream_says() {
    for (policy, ends) in [("keep", false), ("close", true), ("drain", true)] {
        let [gone, stays] = [(); 2].map(|()| Backend::start(backend::websocket_echo));
        let file = |endpoints: &[SocketAddr]| {
            let upstream = upstream("u", endpoints, &format!("on_removed = \"{policy}\""));
            format!("[drain]\ndeadline = \"200ms\"\n{LISTENER}{upstream}{}", to("/u", "u", ""))
        };
        let gateway = Gateway::start(&file(&[gone.address(), stays.address()]));
        let mut tunnels = [tunnel(&gateway, "/u"), tunnel(&gateway, "/u")];
        gateway.reload(&file(&[stays.address()]));
        if ends {
            let record = gateway.record(|_| true);
            assert_eq!(record["endpoint"], gone.address().to_string(), "{policy}: {record}");
            assert_eq!((&record["ended_by"], &record["cause"]), (&"Drain".into(), &"its endpoint was removed".into()));
        }
        let living = tunnels.iter_mut().filter_map(|tunnel| {
            tunnel.try_send(frame::client(1, true, "after")).ok()?;
            Some(tunnel.try_read_some().ok()?.len())
        });
        assert_eq!(living.filter(|read| *read > 0).count(), if ends { 1 } else { 2 }, "{policy}");
        drop(tunnels);
        gateway.stop();
    }
}

#[test]
fn listeners_come_and_go_by_address_and_what_waits_in_a_queue_is_served() {
    let second = "[[listener]]\nname = \"second\"\nbind = \"127.0.0.1:0\"\n";
    let gateway = Gateway::start(&format!("{LISTENER}{}", page("/", "here")));
    gateway.reload(&format!("{LISTENER}{second}{}", page("/", "here")));
    let (web, other) = (gateway.address("web"), gateway.address("second"));
    assert_eq!(Client::get(other, "/").text(), "here");
    let mut kept = Client::connect(other);
    kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.read_answer().text(), "here");
    // Connected, but not yet accepted, when the address goes.
    std::fs::write(
        gateway.folder().join("gateway.toml"),
        format!("[log]\nformat = \"json\"\n{LISTENER}{}", page("/", "there")),
    )
    .expect("the folder can be written");
    let mut queued = gateway.standing_still(|| {
        let mut queued = Client::connect(other);
        queued.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        gateway.signal(Signal::SIGHUP);
        queued
    });
    gateway.message(|message| message["message"] == "no longer listening" && message["address"] == other.to_string());
    gateway.message(|message| message["message"] == "reloaded" && message["listeners"] == 1);
    assert_eq!(queued.read_answer().status, 200);
    kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.read_answer().text(), "there");
    let free = TcpListener::bind(other);
    assert!(free.is_ok(), "the address is free again: {free:?}");
    // An address that another listener gets is the same socket: who waits in its queue waits there still.
    let renamed = format!("[[listener]]\nname = \"renamed\"\nbind = \"{web}\"\n");
    gateway.reload(&format!("{renamed}{}", page("/", "again")));
    assert_eq!(Client::get(web, "/").text(), "again");
    assert_eq!(gateway.record(|record| record["listener"] == "renamed")["status"], 200);
    gateway.stop();
}

/// Another certificate touches no connection that is there, serves those that come, and a ticket is good for both.
#[test]
fn a_certificate_is_replaced_and_tickets_stay_good() {
    let [one, other] = [Authority::new(), Authority::new()];
    let file = |authority: &Authority| {
        let tls = format!("[[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\n{}", authority.line());
        format!("{LISTENER}{tls}{}", page("/", "here"))
    };
    let gateway = Gateway::start(&file(&one));
    let ask = |peer: &mut Peer| {
        peer.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(peer.read_answer().text(), "here");
    };
    let connect = |trust: &Arc<ClientConfig>| {
        let mut peer =
            tls::secure(Client::connect(gateway.address("tls")), trust).expect("a certificate that is trusted");
        // Tickets come behind the handshake, before the answer.
        ask(&mut peer);
        let kind = peer.tls().connection().handshake_kind();
        (peer, kind.expect("it is done"))
    };
    let (before, after) = (Arc::new(one.trusted()), Arc::new(other.trusted()));
    let (mut open, kind) = connect(&before);
    assert_eq!(kind, HandshakeKind::Full);
    gateway.reload(&file(&other));
    assert_eq!(told(&gateway), [triple("listener", "tls", "changed")]);
    ask(&mut open);
    assert_eq!(connect(&before).1, HandshakeKind::Resumed);
    assert_eq!(connect(&after).1, HandshakeKind::Full);
    gateway.reload(&file(&other));
    assert_eq!(connect(&after).1, HandshakeKind::Resumed);
    gateway.stop();
}

#[test]
fn a_file_that_is_refused_changes_nothing_and_is_told_with_its_place() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (address, taken)).expect("its address");
    let file = format!("{NEVER}{LISTENER}{}", page("/", "here"));
    let gateway = Gateway::start(&file);
    let before = gateway.descriptors();
    let table = [
        (format!("{LISTENER}[[route]]\nservice = \"ehco\"\n"), vec!["gateway.toml:7:11", "did you mean \"echo\"?"]),
        (
            format!(
                "[log]\nformat = \"text\"\n{LISTENER}[[listener]]\nname = \"new\"\nbind = \"127.0.0.1:0\"\n[[listener]]\nname = \"taken\"\nbind = \"{}\"\n{}",
                taken.0,
                page("/", "new")
            ),
            vec!["listener \"taken\": cannot listen on", "the address is in use by another process"],
        ),
        (
            format!("[limits]\nconnections = 90000000\n{LISTENER}{}", page("/", "new")),
            vec!["limits.connections = 90000000 does not fit"],
        ),
    ];
    for (text, words) in table {
        let refused = gateway.reload_in_vain(&text);
        assert!(words.iter().all(|word| refused.contains(word)), "not {words:?}: {refused}");
        assert_eq!(Client::get(gateway.address("web"), "/").text(), "here");
        // Those of the client's connection, and of the address that could be bound, are closed.
        until("no descriptor is left of it", || gateway.descriptors() == before);
    }
    assert_eq!(told(&gateway), []);
    gateway.reload(&file);
    gateway.stop();
}

/// Names of files in an included file start at its own folder, and what is wrong in it is told with its own name and line.
#[test]
fn included_files_are_read_again_too_and_refuse_the_whole() {
    let file = format!("[gateway]\ninclude = [\"routes.d/*.toml\"]\n{LISTENER}{}", page("/", "here"));
    let gateway = Gateway::start(&file);
    let folder = gateway.folder().join("routes.d");
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("the folder can be written");
    gateway.message(|message| {
        message["level"] == "WARN" && message["message"].as_str().is_some_and(|text| text.contains("no file is"))
    });
    std::fs::create_dir(&folder).expect("the folder can be written");
    put("body.txt", "from a file");
    let more = "[[route]]\nname = \"more\"\npath = \"/more\"\nrespond = { status = 200, body_file = \"body.txt\" }\n";
    put("a.toml", more);
    put("b.toml", &page("/b", "b"));
    put("c.txt", "no configuration");
    gateway.reload(&file);
    assert_eq!(told(&gateway), [triple("route", "more", "added"), triple("route", "page-b", "added")]);
    assert_eq!(Client::get(gateway.address("web"), "/more").text(), "from a file");
    put("b.toml", &page("/b", "b").replace("status = 200", "status = 20"));
    put("a.toml", &more.replace("/more", "/other"));
    let refused = gateway.reload_in_vain(&file);
    assert!(refused.contains("routes.d/b.toml:4:22") && !refused.contains("a.toml"), "{refused}");
    assert_eq!(Client::get(gateway.address("web"), "/more").text(), "from a file");
    std::fs::remove_file(folder.join("b.toml")).expect("it is there");
    gateway.reload(&file);
    assert_eq!(Client::get(gateway.address("web"), "/other").text(), "from a file");
    assert_eq!(Client::get(gateway.address("web"), "/b").text(), "here");
    gateway.stop();
}

/// Whoever writes a file in its place lets it be read halfway.
#[test]
fn a_file_that_is_written_only_halfway_is_refused_and_whole_it_is_taken() {
    let gateway = Gateway::start(&format!("{LISTENER}{}", page("/", "one")));
    let whole = format!("{LISTENER}{}", page("/", "two"));
    let asked = || Client::get(gateway.address("web"), "/").text().to_owned();
    let file = gateway.folder().join("gateway.toml");
    for (length, expected) in [
        (
            0,
            r#"error: `listener` is missing
 --> FILE:1:1
  |
1 |
  | ^ write [[listener]] with bind = "*:80" or another address"#,
        ),
        (
            5,
            r"error: not TOML: unclosed array table
 --> FILE:1:6
  |
1 | [[lis
  |      ^ expected `]]`",
        ),
        (
            LISTENER.len() - 6,
            r#"error: not TOML: invalid basic string
 --> FILE:3:16
  |
3 | bind = "127.0.0
  |                ^ expected `"`"#,
        ),
        (
            whole.len() - 4,
            r#"error: not TOML: unclosed inline table
 --> FILE:7:38
  |
7 | respond = { status = 200, body = "two
  |                                      ^ expected `}`"#,
        ),
    ] {
        std::fs::write(&file, &whole[..length]).expect("the folder can be written");
        gateway.signal(Signal::SIGHUP);
        let refused = |message: &Value| message["message"].as_str().is_some_and(|text| text.contains("is refused"));
        let told = gateway.message(refused);
        let expected = format!("{REFUSED}{}", expected.replace("FILE", file.to_str().expect("text")));
        assert_eq!((told["level"].as_str(), told["message"].as_str()), (Some("ERROR"), Some(&*expected)), "{length}");
        assert_eq!(asked(), "one");
    }
    gateway.reload(&whole);
    assert_eq!(asked(), "two");
    gateway.stop();
}

/// Whoever sends a signal has nothing but the log to read why it came to nothing: in JSON it is one line, in text it is drawn.
#[test]
fn what_a_signal_had_refused_stands_in_the_log_with_its_lines_and_carets_and_the_old_file_serves_on() {
    const WRONG: &str = "[[route]]\nname = \"r\"\nservice = \"ehco\"\n[[route]]\nname = \"r\"\nrespond = 20\n";
    const REPORT: &str = r#"error: `route.service`: "ehco" is not known
 --> FILE:8:11
  |
8 | service = "ehco"
  |           ^^^^^^ did you mean "echo"?

error: `route.name`: the same twice
  --> FILE:10:8
   |
 7 | name = "r"
   |        --- first here
...
10 | name = "r"
   |        ^^^ give one of the two another name

error: `route.respond.status`: 20 is out of range
  --> FILE:11:11
   |
11 | respond = 20
   |           ^^ expected a number from 200 to 599

FILE: 3 problems"#;
    for format in ["json", "text"] {
        let log = format!("[log]\nformat = \"{format}\"\n");
        let gateway = Gateway::start(&format!("[log]\nformat = \"json\"\n{LISTENER}{}", page("/", "one")));
        let serves = |expected: &str| assert_eq!(Client::get(gateway.address("web"), "/").text(), expected, "{format}");
        let put = |routes: &str| {
            std::fs::write(gateway.folder().join("gateway.toml"), format!("{log}{LISTENER}{routes}"))
                .expect("the folder can be written");
            gateway.signal(Signal::SIGHUP);
        };
        put(&page("/", "two"));
        gateway.line(|line| line.contains("reloaded"));
        serves("two");
        put(WRONG);
        let file = gateway.folder().join("gateway.toml");
        let expected = format!("{REFUSED}{}", REPORT.replace("FILE", file.to_str().expect("text")));
        if format == "json" {
            let told = gateway.message(|message| message["level"] == "ERROR");
            assert_eq!(told["message"], *expected);
        } else {
            gateway.line(|line| line.ends_with(": 3 problems"));
            let lines = gateway.lines();
            let told = lines.iter().skip_while(|line| !line.contains(" ERROR ")).take(expected.lines().count());
            // What comes first is the time.
            let told: Vec<_> = told.map(|line| line.split_once(" ERROR ").map_or(&**line, |(_, text)| text)).collect();
            assert_eq!(told, expected.lines().collect::<Vec<_>>());
        }
        serves("two");
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.wait().0.code(), Some(0));
    }
}

#[test]
fn a_file_of_ten_megabytes_is_applied_as_any_other_and_told_where_it_is_wrong() {
    let gateway = Gateway::start(&format!("{LISTENER}{}", page("/", "one")));
    let before = gateway.anonymous();
    let body = "x".repeat(100_000);
    let route = |index: usize| {
        format!(
            "[[route]]\nname = \"r{index}\"\npath = \"/{index}\"\nrespond = {{ status = 200, body = \"{body}\" }}\n"
        )
    };
    let big = (0..105).map(route).fold(LISTENER.to_owned(), |file, route| file + &route);
    assert!(big.len() > 10 << 20, "{}", big.len());
    gateway.reload(&big);
    assert_eq!(Client::get(gateway.address("web"), "/104").text(), body);
    let refused = gateway.reload_in_vain(&format!("{big}[[route]]\nservice = \"ehco\"\n"));
    assert!(refused.contains("did you mean \"echo\"?") && refused.contains("gateway.toml:427:11"), "{refused}");
    assert_eq!(Client::get(gateway.address("web"), "/104").text(), body);
    gateway.reload(&format!("{LISTENER}{}", page("/", "one")));
    until("what it took is given back", || gateway.anonymous() < before + (8 << 20));
    gateway.stop();
}

#[test]
fn keys_that_need_a_new_process_are_named_and_the_rest_of_the_file_is_applied() {
    let gateway = Gateway::start(&format!("[gateway]\nworkers = 1\n{LISTENER}{}", page("/", "one")));
    gateway.reload(&format!("[gateway]\nworkers = 2\n[tcp]\nbacklog = 7\n{LISTENER}{}", page("/", "two")));
    let kept = |key: &str| gateway.message(|message| message["key"] == *key)["level"] == "WARN";
    assert!(kept("gateway.workers") && kept("tcp.backlog"));
    assert_eq!(Client::get(gateway.address("web"), "/").text(), "two");
    gateway.stop();
}

#[test]
fn a_budget_of_tunnels_changes_with_those_that_are_open_in_it() {
    let file = |tunnels: &str| format!("[limits]\ntunnels = {tunnels}\n{LISTENER}[[route]]\nservice = \"echo\"\n");
    let gateway = Gateway::start(&file("\"off\""));
    let web = gateway.address("web");
    let refused = || Client::ask(web, support::client::opening_handshake("a", "/", "")).status;
    let mut open: Vec<_> = (0..3).map(|_| tunnel(&gateway, "/")).collect();
    gateway.reload(&file("2"));
    assert_eq!(refused(), 503);
    open.iter_mut().for_each(|tunnel| echoes(tunnel, "kept"));
    for left in [2, 1] {
        open.pop();
        gateway.record(|record| record["record"] == "tunnel");
        assert_eq!(refused() == 503, left == 2);
    }
    gateway.reload(&file("50"));
    open.extend((0..5).map(|_| tunnel(&gateway, "/")));
    drop(open);
    gateway.stop();
}

#[test]
fn what_is_said_of_records_and_messages_changes_too() {
    let file = |log: &str| format!("[log]\n{log}\n{LISTENER}{}", page("/", "here"));
    let gateway = Gateway::start(&file("format = \"json\""));
    let web = gateway.address("web");
    Client::get(web, "/");
    gateway.record(|record| record["status"] == 200);
    gateway.reload(&file("format = \"json\"\nrecords = \"off\""));
    Client::get(web, "/");
    gateway.reload(&file("format = \"json\"\nrecords = \"all\"\nlevel = \"debug\""));
    Client::get(web, "/");
    gateway.record(|record| record["status"] == 200);
    assert_eq!(gateway.records().len(), 2);
    let text = file("format = \"text\"");
    std::fs::write(gateway.folder().join("gateway.toml"), text).expect("the folder can be written");
    gateway.signal(Signal::SIGHUP);
    gateway.line(|line| line.contains("INFO reloaded changes=1"));
    Client::get(web, "/");
    gateway.line(|line| line.contains("record=request") && line.contains("status=200"));
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

#[test]
fn a_reload_during_a_drain_is_refused() {
    let file = format!("{NEVER}{LISTENER}[[route]]\nservice = \"echo\"\n");
    let gateway = Gateway::start(&file);
    let open = tunnel(&gateway, "/");
    gateway.signal(Signal::SIGTERM);
    gateway.message(|message| message["message"] == "draining");
    assert_eq!(gateway.reload_in_vain(&file), "the reload is refused: the gateway drains");
    drop(open);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

#[test]
fn a_deadline_of_connections_counts_for_those_that_come_after_it() {
    let file = |keep_alive: &str| format!("[timeouts]\nkeep_alive = \"{keep_alive}\"\n{LISTENER}{}", page("/", "here"));
    let gateway = Gateway::start(&file("10m"));
    let connect = || {
        let mut client = Client::connect(gateway.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_answer().text(), "here");
        client
    };
    let mut before = connect();
    gateway.reload(&file("100ms"));
    connect().expect_eof();
    before.expect_silence(Duration::from_millis(200));
    gateway.stop();
}

/// All of them became the first.
#[test]
fn addresses_by_the_same_words_stay_as_many_as_they_are() {
    let file = |body: &str| {
        let binds = "[\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:0\"]";
        format!("[[listener]]\nname = \"web\"\nbind = {binds}\n{}", page("/", body))
    };
    let gateway = Gateway::start(&file("one"));
    let addresses = gateway.addresses("web");
    gateway.reload(&file("two"));
    assert_eq!(addresses.len(), 3);
    addresses.iter().for_each(|address| assert_eq!(Client::get(*address, "/").text(), "two"));
    assert_eq!(gateway.addresses("web"), addresses, "nothing was bound anew");
    gateway.stop();
}

/// It was refused, as if another process had the port: the gateway held all of it when it was to take a part, and a part when it
/// was to take all.
#[test]
fn an_address_becomes_a_part_of_itself_and_the_whole_again() {
    let file = |bind: &str| format!("[[listener]]\nname = \"web\"\nbind = \"{bind}\"\n{}", page("/", "here"));
    let gateway = Gateway::start(&file("127.0.0.1:0"));
    let web = gateway.address("web");
    let port = web.port();
    for bind in ["0.0.0.0", "127.0.0.1", "*", "127.0.0.1"] {
        gateway.reload(&file(&format!("{bind}:{port}")));
        assert_eq!(Client::get(web, "/").text(), "here", "{bind}");
        let another = TcpListener::bind(web).map_err(|error| error.kind());
        assert_eq!(another.err(), Some(std::io::ErrorKind::AddrInUse), "{bind}");
    }
    // What port 0 was given is that listener's for as long as it is there.
    let gateway = Gateway::start(&file("127.0.0.1:0"));
    let given = gateway.address("web");
    let other = format!("[[listener]]\nname = \"other\"\nbind = \"{given}\"\n");
    let refused = gateway.reload_in_vain(&format!("{}{other}", file("127.0.0.1:0")));
    let told = format!("listener \"other\": cannot listen on {given}: another listener has got it for its port 0");
    assert!(refused.ends_with(&told), "{refused}");
    let whole = format!("0.0.0.0:{}", given.port());
    let refused =
        gateway.reload_in_vain(&format!("{}{}", file("127.0.0.1:0"), other.replace(&given.to_string(), &whole)));
    assert!(refused.ends_with(&told.replace(&given.to_string(), &whole)), "{refused}");
    gateway.stop();
}

/// It was of the listener that it came in by for as long as it was kept: after a renaming it was not routed by the rules of the
/// new name, and a proxy that was taken out of the trusted ones was believed.
#[test]
fn a_kept_connection_is_of_the_listener_that_has_its_address_now() {
    let file = |name: &str, bind: &str, trusted: &str| {
        let only = format!("listener = \"{name}\"\n{}", page("/", name).replace("[[route]]\n", ""));
        format!("[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\ntrusted_proxies = [{trusted}]\n[[route]]\n{only}")
    };
    let gateway = Gateway::start(&file("web", "127.0.0.1:0", "\"127.0.0.1\""));
    let web = gateway.address("web");
    let mut kept = Client::connect(web);
    let mut ask = |id: &str| {
        kept.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nX-Request-Id: {id}\r\n\r\n"));
        let answer = kept.read_answer();
        (answer.status, answer.text().to_owned())
    };
    let client = |record: &Value| record["client"].as_str().expect("a client").to_owned();
    assert_eq!(ask("first"), (200, "web".to_owned()));
    assert_eq!(client(&gateway.record(|_| true)), "192.0.2.7");
    gateway.reload(&file("renamed", &web.to_string(), ""));
    assert_eq!(ask("second"), (200, "renamed".to_owned()));
    let record = gateway.record(|_| true);
    assert!(client(&record).starts_with("127.0.0.1:") && record["id"] != "second", "{record}");
    // An address that is configured no longer stays the one's that it was, and that has no route any more.
    gateway.reload(&format!("{LISTENER}{}", page("/", "other")));
    assert_eq!(ask("third"), (200, "other".to_owned()));
    gateway.stop();
}

/// As it happens with a name that has an address at one look-up, and not at the next.
#[test]
fn tunnels_of_an_endpoint_that_is_back_before_the_deadline_live_on() {
    let [returns, stays_away, stays] = [(); 3].map(|()| Backend::start(backend::websocket_echo));
    let file = |endpoints: &[&Backend]| {
        let addresses: Vec<_> = endpoints.iter().map(|backend| backend.address()).collect();
        let upstream = upstream("u", &addresses, "on_removed = \"drain\"");
        format!("[drain]\ndeadline = \"1s\"\n{LISTENER}{upstream}{}", to("/u", "u", ""))
    };
    let all = file(&[&returns, &stays_away, &stays]);
    let gateway = Gateway::start(&all);
    loop {
        let mut tunnels = [(); 3].map(|()| tunnel(&gateway, "/u"));
        let gone = Instant::now();
        gateway.reload(&file(&[&stays]));
        gateway.reload(&file(&[&stays, &returns]));
        let is_back_in_time = gone.elapsed() < Duration::from_secs(1);
        let record = gateway.record(|_| true);
        if is_back_in_time {
            assert_eq!(record["endpoint"], stays_away.address().to_string(), "{record}");
            assert_eq!(record["cause"], "its endpoint was removed");
            let mut living = 0;
            for tunnel in &mut tunnels {
                let sent = tunnel.try_send(frame::client(1, true, "after"));
                let is_alive = sent.is_ok() && tunnel.try_read_some().is_ok_and(|bytes| bytes.first() == Some(&0x81));
                living += usize::from(is_alive);
            }
            assert_eq!(living, 2);
            break;
        }
        drop(tunnels);
        gateway.reload(&all);
    }
    gateway.stop();
}
