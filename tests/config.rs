//! Configurations that load, and ones that are refused with exactly the message that stands beside them.
//!
//! After a change of messages run with `SPLICEWAY_BLESS=1` and read the difference: what these files say is what a
//! person reads who made the mistake.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests knows only functions marked #[test]")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use spliceway::config::{
    Action, Bind, Config, ConnectionLimit, HeaderMatch, HostHeader, HostPattern, LogFile, LogFormat, Records,
};
use toml::de::{DeTable, DeValue};

/// Relative, as tests run in the package's folder: so messages are the same on every machine.
const VALID: &str = "tests/config/valid";
const INVALID: &str = "tests/config/invalid";

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {folder}");
    files
}

fn load(path: &Path) -> Config {
    Config::load(path).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let error = Config::parse(name, &text, Path::new(INVALID)).err();
    let mut report = error.unwrap_or_else(|| panic!("{name} is not refused")).to_string();
    report.push('\n');
    report
}

#[test]
fn what_is_valid_loads() {
    for path in files(VALID, "toml") {
        load(&path);
    }
}

#[test]
fn what_is_invalid_is_refused_with_its_whole_message() {
    let files = files(INVALID, "toml");
    assert!(files.len() >= 25, "only {} files", files.len());
    for path in files {
        let (report, expected) = (refusal(&path), path.with_extension("expected"));
        if std::env::var_os("SPLICEWAY_BLESS").is_some() {
            fs::write(&expected, &report).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_else(|e| panic!("{}: {e}", expected.display()));
        assert_eq!(report, expected, "{}:\n{report}", path.display());
    }
}

#[test]
fn every_expected_message_has_its_file() {
    for path in files(INVALID, "expected") {
        assert!(path.with_extension("toml").exists(), "{} is left over", path.display());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_line() {
    let error = Config::load(Path::new("tests/config/not-there.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read tests/config/not-there.toml: No such file or directory (os error 2)");
}

#[test]
fn every_mistake_is_told_at_its_line_and_column() {
    let report = refusal(&Path::new(INVALID).join("several.toml"));
    let places: Vec<_> = report.lines().filter_map(|l| l.trim().strip_prefix("--> several.toml:")).collect();
    assert_eq!(places, ["2:1", "5:8", "9:27", "12:8", "16:1", "19:8", "24:12", "26:1"], "{report}");
}

#[test]
fn the_examples_load() {
    assert_eq!(load(Path::new("config/minimal.toml")).routes.len(), 1);
    load(Path::new("config/gateway.toml"));
}

/// The paths of all keys of a table; the name of an upstream is "NAME".
fn paths(table: &DeTable<'_>, prefix: &str, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = if prefix == "upstream." { "NAME" } else { key.get_ref() };
        let path = format!("{prefix}{key}");
        found.insert(path.clone());
        let tables: Vec<_> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(items) => items.iter().filter_map(|i| i.get_ref().as_table()).collect(),
            _ => vec![],
        };
        tables.into_iter().for_each(|t| paths(t, &format!("{path}."), found));
    }
}

#[test]
fn the_example_of_everything_mentions_every_key_that_is_read() {
    let text = fs::read_to_string("config/gateway.toml").unwrap();
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(k, _)| k.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncommented = text.lines().map(|l| l.strip_prefix("# ").filter(|l| is_key(l)).unwrap_or(l));
    let text = uncommented.collect::<Vec<_>>().join("\n");
    let mut mentioned = BTreeSet::new();
    paths(DeTable::parse(&text).unwrap().get_ref(), "", &mut mentioned);

    let keys = spliceway::config::keys();
    assert!(keys.contains("upstream.NAME.retry.attempts") && keys.contains("route.websocket.max_message"), "{keys:?}");
    let missing: Vec<_> = keys.difference(&mentioned).collect();
    assert!(missing.is_empty(), "config/gateway.toml does not mention {missing:?}");
}

#[test]
fn the_example_of_everything_shows_the_defaults() {
    let (all, least) = (load(Path::new("config/gateway.toml")), load(Path::new("config/minimal.toml")));
    let shown = |c: &Config| {
        let (listener, route, upstream) = (&c.listeners[0], &c.routes[0], &c.upstreams[0]);
        let parts = (&c.limits, &c.tcp, &c.log, &c.drain, &c.gateway.workers);
        let narrow =
            (&listener.timeouts, &listener.limits, &route.timeouts, &route.upgrade, route.plain, route.max_message);
        format!("{parts:#?} {narrow:#?} {:?} {:?} {}", upstream.host_header, upstream.resolve, upstream.retry_attempts)
    };
    assert_eq!(shown(&all), shown(&least));
}

#[test]
fn forms_and_spellings_mean_what_they_say() {
    let config = load(&Path::new(VALID).join("forms.toml"));
    assert_eq!(config.gateway.workers.get(), 1024);
    assert_eq!(config.limits.connections, ConnectionLimit::Auto);
    assert_eq!(config.limits.tunnels.unwrap().get(), 1000);
    assert_eq!(config.log.file, LogFile::Path(Path::new(VALID).join("gateway.log")));
    assert_eq!(config.listeners[0].binds[2], Bind::Every(0));
    assert_eq!(config.listeners[0].limits.head_size, 1 << 20);
    assert_eq!(config.listeners[1].limits.head_size, 1 << 10);
    assert_eq!(config.upstreams[0].host_header, HostHeader::Literal("chat.internal:80".parse().unwrap()));
    assert_eq!(config.upstreams[0].retry_attempts, 0);

    let chat = &config.routes[0];
    assert_eq!(chat.matches.hosts[1], HostPattern::Below("chat.example.com".into()));
    assert_eq!(chat.matches.paths, ["/ws".into(), "/socket".into()]);
    assert_eq!(chat.matches.headers[0], ("x-client".parse().unwrap(), HeaderMatch::Present));
    assert!(chat.upgrade.is_empty());
    assert_eq!(chat.timeouts.idle.as_secs(), 90 * 60);
    assert_eq!(chat.timeouts.connect.as_millis(), 250);

    let bodies = config.routes.iter().filter_map(|r| match &r.action {
        Action::Respond(respond) => {
            Some((respond.status.as_u16(), &respond.body[..], respond.content_type.to_str().unwrap()))
        }
        _ => None,
    });
    let bodies: Vec<_> = bodies.collect();
    let expected: [(u16, &[u8], &str); 3] = [
        (410, b"", "text/plain; charset=utf-8"),
        (503, b"closed\n", "text/plain"),
        (200, b"<p>A page.</p>\n", "text/html"),
    ];
    assert_eq!(bodies, expected);

    let echo = &config.routes[6];
    assert_eq!((&echo.upgrade[..], echo.max_message), (&["websocket".into()][..], 64 << 10));
}

#[test]
fn names_are_made_where_none_is_written() {
    let config = load(&Path::new(VALID).join("names.toml"));
    let listeners: Vec<_> = config.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(listeners, ["127-0-0-1-8080", "443", "0-0-0-0-80", "0-0-0-0-8082"]);
    let routes: Vec<_> = config.routes.iter().map(|r| r.name.as_str()).collect();
    let expected = [
        "root",
        "chat-example-com-ws",
        "example-com",
        "chat-example-com-ws-2",
        "chat-example-com-ws-3",
        "root-2",
        "root-3",
    ];
    assert_eq!(routes, expected);
}

#[test]
fn an_almost_empty_file_has_every_default() {
    let config = load(Path::new("config/minimal.toml"));
    assert_eq!(config.gateway.workers, std::thread::available_parallelism().unwrap());
    assert!(!config.gateway.name.is_empty());
    assert_eq!(config.limits.connections, ConnectionLimit::Auto);
    assert_eq!(config.limits.tunnels, None);
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Text));
    assert_eq!((config.log.records, &config.log.file), (Records::All, &LogFile::Stdout));
    assert_eq!(config.tcp.backlog, 4096);

    let (listener, route, upstream) = (&config.listeners[0], &config.routes[0], &config.upstreams[0]);
    let seconds = [
        (config.tcp.keepalive, 60),
        (config.tcp.user_timeout, 90),
        (config.drain.deadline, 25),
        (listener.timeouts.request_head, 15),
        (listener.timeouts.keep_alive, 75),
        (route.timeouts.connect, 5),
        (route.timeouts.upgrade, 15),
        (route.timeouts.response_head, 60),
        (route.timeouts.stall, 60),
        (route.timeouts.idle, 3600),
        (route.timeouts.half_close, 60),
        (upstream.resolve, 30),
    ];
    seconds.into_iter().enumerate().for_each(|(i, (is, default))| assert_eq!(is.as_secs(), default, "number {i}"));

    assert_eq!(listener.limits.connections, None);
    assert_eq!((listener.limits.head_size, listener.limits.headers), (32 * 1024, 100));
    assert_eq!((&upstream.host_header, upstream.retry_attempts), (&HostHeader::Client, 2));
    assert_eq!((route.name.as_str(), listener.name.as_str()), ("root", "127-0-0-1-8080"));
    assert_eq!((&route.upgrade[..], route.plain, route.max_message), (&["websocket".into()][..], true, 1 << 20));
    assert_eq!(route.matches.paths, ["/".into()]);
    assert!(matches!(&route.action, Action::Upstream(name) if name.as_str() == "app"));
}

#[test]
fn line_ends_of_either_kind_and_a_byte_order_mark_are_taken() {
    let text = fs::read_to_string("config/gateway.toml").unwrap();
    let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    Config::parse("gateway.toml", &text, Path::new("config")).unwrap_or_else(|error| panic!("{error}"));
}

proptest::proptest! {
    /// Reports draw carets under places that the text decides: whatever it says, there is a report.
    #[test]
    fn whatever_is_written_is_taken_or_refused(place: usize, cut in 0usize..40, put in "[\\PC\\r\\n\"=\\[\\]{}]{0,6}") {
        let text = fs::read_to_string("config/gateway.toml").unwrap();
        let from = place % text.len();
        let text = format!("{}{put}{}", &text[..from], &text[(from + cut).min(text.len())..]);
        if let Err(error) = Config::parse("gateway.toml", &text, Path::new("config")) {
            proptest::prop_assert!(error.to_string().contains("--> gateway.toml:"), "{}", error);
        }
    }
}
