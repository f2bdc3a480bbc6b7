//! Configurations that load, and ones that are refused with exactly the message that stands beside them.
//!
//! After a change of messages run with `SPLICEWAY_BLESS=1` and read the difference: what these files say is what a
//! person reads who made the mistake.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests knows only functions marked #[test]")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use spliceway::config::{
    Action, Bind, Config, ConnectionLimit, Forwarded, HeaderMatch, HostHeader, HostPattern, LogFile, LogFormat,
    Records, Scheme,
};
use spliceway::service::echo::LARGEST_MESSAGE;
use support::gateway::{Folder, Gateway, run_to_end};
use support::tree::Tree;
use toml::de::{DeTable, DeValue};

mod support;

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

fn refusal(tree: &Tree, path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let error = Config::parse(name, &text, &tree.path(INVALID)).err();
    let mut report = tree.relative(&error.unwrap_or_else(|| panic!("{name} is not refused")).to_string());
    report.push('\n');
    report
}

#[test]
fn what_is_valid_loads() {
    let tree = Tree::new();
    for path in files(VALID, "toml") {
        load(&tree.path(path.to_str().unwrap()));
    }
}

#[test]
fn what_is_invalid_is_refused_with_its_whole_message() {
    let files = files(INVALID, "toml");
    assert!(files.len() >= 45, "only {} files", files.len());
    let tree = Tree::new();
    for path in files {
        let (report, expected) = (refusal(&tree, &path), path.with_extension("expected"));
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
    let report = refusal(&Tree::without_certificates(), &Path::new(INVALID).join("several.toml"));
    let places: Vec<_> = report.lines().filter_map(|l| l.trim().strip_prefix("--> several.toml:")).collect();
    assert_eq!(places, ["2:1", "5:8", "9:27", "12:8", "16:1", "19:8", "24:12", "26:1"], "{report}");
}

#[test]
fn the_examples_load() {
    assert_eq!(load(Path::new("config/minimal.toml")).routes.len(), 1);
    let config = load(&Tree::new().path("config/gateway.toml"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_example_of_everything_serves_nothing_but_redirects_on_port_80() {
    let config = load(&Tree::new().path("config/gateway.toml"));
    let [secure, web] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((secure.binds[..].to_vec(), secure.tls.is_some()), (vec![Bind::Every(443)], true));
    assert!(web.tls.is_none() && web.binds.iter().all(|b| matches!(b, Bind::Address(a) if a.port() == 80)));
    for route in &config.routes {
        let secure_only =
            route.matches.scheme == Some(Scheme::Https) || route.matches.listeners == [secure.name.clone()];
        let redirects = matches!(&route.action, Action::Redirect(r) if r.status.as_u16() == 308);
        assert!(secure_only || redirects, "{route:?}");
    }
}

/// Every key of the contract that has landed, by its table: whoever adds one adds it here, and none is ever renamed.
const KEYS: [(&str, &str); 24] = [
    ("", "admin drain forwarded gateway limits listener log metrics route tcp timeouts upstream"),
    ("gateway", "include name trusted_proxies workers"),
    ("timeouts", "connect half_close idle keep_alive request_head response_head stall tls_handshake upgrade"),
    ("limits", "connections connections_per_client head_size headers tunnels"),
    ("tcp", "backlog keepalive user_timeout"),
    ("forwarded", "forwarded via x_forwarded x_real_ip"),
    ("log", "file format level records"),
    ("drain", "deadline"),
    ("metrics", "bind"),
    ("admin", "bind"),
    ("listener", "bind limits name timeouts tls trusted_proxies"),
    (
        "listener.tls",
        "certificate certificates cipher_suites client_ca client_certificates groups key minimum_version strict_host tickets",
    ),
    ("listener.tls.certificates", "certificate key"),
    ("listener.timeouts", "keep_alive request_head tls_handshake"),
    ("listener.limits", "connections connections_per_client head_size headers"),
    ("upstream.NAME", "balance endpoints host_header on_removed pool resolve retry tls"),
    ("upstream.NAME.pool", "idle idle_timeout"),
    ("upstream.NAME.retry", "attempts"),
    ("upstream.NAME.tls", "ca certificate key server_name verify"),
    (
        "route",
        "headers host listener methods name on_change path plain redirect respond scheme service timeouts upgrade upstream websocket",
    ),
    ("route.respond", "body body_file content_type status"),
    ("route.redirect", "status to"),
    ("route.websocket", "max_message"),
    ("route.timeouts", "half_close idle response_head stall upgrade"),
];

#[test]
fn the_keys_that_are_read_are_those_of_the_contract() {
    let whole = |(table, keys): (&str, &'static str)| {
        let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
        keys.split(' ').map(move |key| format!("{prefix}{key}"))
    };
    let contract: BTreeSet<String> = KEYS.into_iter().flat_map(whole).collect();
    let read = spliceway::config::keys();
    let missing: Vec<_> = contract.difference(&read).collect();
    let extra: Vec<_> = read.difference(&contract).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:?}, extra: {extra:?}");
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
    let (all, least) = (load(&Tree::new().path("config/gateway.toml")), load(Path::new("config/minimal.toml")));
    let shown = |c: &Config| {
        let route = c.routes.iter().find(|r| matches!(r.action, Action::Upstream(_))).unwrap();
        let (listener, upstream) = (&c.listeners[0], &c.upstreams[0]);
        let parts = (&c.limits, &c.tcp, &c.forwarded, &c.log, &c.drain, &c.gateway.workers);
        let of_listener = (&listener.timeouts, &listener.limits, &listener.trusted_proxies);
        let of_route = (&route.timeouts, &route.upgrade, route.plain, route.max_message);
        let of_upstream = (&upstream.host_header, upstream.resolve, upstream.retry_attempts, upstream.pool);
        format!("{parts:#?} {of_listener:#?} {of_route:#?} {of_upstream:#?}")
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
fn tls_is_read_in_either_form_and_its_deadline_from_the_narrow_place_to_the_wide_one() {
    let tree = Tree::new();
    let config = load(&tree.path(VALID).join("tls.toml"));
    let read: Vec<_> =
        config.listeners.iter().map(|l| (l.tls.is_some(), l.timeouts.tls_handshake.as_millis())).collect();
    assert_eq!(read, [(true, 5000), (true, 250), (false, 5000)]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

/// What `dates.toml` is warned of, as `check` and `run` say it.
fn warnings(tree: &Tree) -> Vec<String> {
    let config = load(&tree.path(VALID).join("dates.toml"));
    config.warnings.iter().map(|w| tree.relative(w)).collect()
}

#[test]
fn a_certificate_out_of_its_time_is_a_warning_with_its_place() {
    let expected = [
        "tests/config/valid/dates.toml:4:23: certificate tests/config/valid/certs/expired.pem expired on 2020-01-01",
        "tests/config/valid/dates.toml:15:15: certificate tests/config/valid/certs/../certs/expired.pem expired on 2020-01-01",
        "tests/config/valid/dates.toml:20:23: certificate tests/config/valid/certs/future.pem is not valid before 3999-01-01",
    ];
    assert_eq!(warnings(&Tree::new()), expected);
}

#[test]
fn a_backend_that_nobody_verifies_is_a_warning_with_its_place() {
    let tree = Tree::new();
    let config = load(&tree.path(VALID).join("upstream-tls.toml"));
    let warnings: Vec<_> = config.warnings.iter().map(|w| tree.relative(w)).collect();
    let expected = [
        "tests/config/valid/upstream-tls.toml:24:18: whoever answers is taken for a backend of anybody: nothing is verified",
        "tests/config/valid/upstream-tls.toml:28:46: certificate tests/config/valid/certs/expired.pem expired on 2020-01-01",
    ];
    assert_eq!(warnings, expected);
    let with_tls: Vec<_> = config.upstreams.iter().map(|u| (u.name.as_str(), u.tls.is_some())).collect();
    let expected = [("anybody", true), ("everything", true), ("plain", false), ("shown", true), ("system", true)];
    assert_eq!(with_tls, expected);
}

#[test]
fn a_route_for_a_scheme_that_no_listener_gives_it_is_a_warning_with_its_place() {
    let config = load(&Tree::new().path(VALID).join("unreachable.toml"));
    let warnings: Vec<_> = config.warnings.iter().filter_map(|w| w.split_once("unreachable.toml:")).collect();
    let expected = [
        "17:10: nothing reaches the route a: it is for https, and none of its listeners has TLS",
        "24:10: nothing reaches the route b: it is for http, and none of its listeners is plain",
    ];
    assert_eq!(warnings.iter().map(|w| w.1).collect::<Vec<_>>(), expected);

    let tree = Tree::new();
    let tls = "tls = { certificate = \"certs/chain.pem\", key = \"certs/key.pem\" }\n";
    for (tls, scheme, expected) in [
        ("", "https", "5:10: nothing reaches the route root: it is for https, and no listener has TLS"),
        (tls, "http", "6:10: nothing reaches the route root: it is for http, and no listener is plain"),
    ] {
        let route = format!("[[route]]\nservice = \"echo\"\nscheme = \"{scheme}\"\n");
        let text = format!("[[listener]]\nbind = \"127.0.0.1:1\"\n{tls}{route}");
        let config = Config::parse("f", &text, &tree.path(VALID)).unwrap();
        assert_eq!(config.warnings, [format!("f:{expected}")]);
    }
}

#[test]
fn check_prints_warnings_on_standard_error_and_is_content() {
    let tree = Tree::new();
    let output = run_to_end(&["check", tree.path(VALID).join("dates.toml").to_str().unwrap()]);
    let stderr = tree.relative(&String::from_utf8(output.stderr).unwrap());
    let expected: Vec<_> = warnings(&tree).iter().map(|w| format!("warning: {w}")).collect();
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    assert!(output.status.success() && output.stdout.ends_with(b"fine: 4 listeners, 0 routes, 0 upstreams\n"));
}

#[test]
fn run_logs_warnings() {
    let tree = Tree::new();
    let certs = tree.path(VALID).join("certs");
    let tls = format!("certificate = \"{0}/expired.pem\", key = \"{0}/key.pem\"", certs.display());
    let gateway = Gateway::start(&format!("[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ {tls} }}\n"));
    let warning = gateway.message(|m| m["level"] == "WARN");
    let text = warning["message"].as_str().unwrap();
    assert!(text.contains("gateway.toml:5:23: certificate ") && text.ends_with("/expired.pem expired on 2020-01-01"));
    gateway.stop();
}

#[test]
fn a_listeners_proxies_stand_for_the_gateways_and_budgets_stand_beside_them() {
    let config = load(&Tree::new().path(VALID).join("clients.toml"));
    let read = config.listeners.iter().map(|l| {
        let networks: Vec<_> = l.trusted_proxies.iter().map(ToString::to_string).collect();
        (networks.join(" "), l.limits.connections_per_client.map_or(0, usize::from))
    });
    let expected = [("10.0.0.0/8 192.0.2.1/32 ::1/128", 0), ("2001:db8::/32", 50), ("", 0)];
    assert_eq!(read.collect::<Vec<_>>(), expected.map(|(networks, count)| (networks.to_owned(), count)));
    assert_eq!(config.limits.connections_per_client.map(usize::from), Some(50));
    assert_eq!(config.forwarded, Forwarded { x_forwarded: false, forwarded: false, x_real_ip: true, via: false });
    let pools = config.upstreams.iter().map(|u| u.pool.map(|p| (p.idle.get(), p.idle_timeout.as_millis())));
    let expected = [Some((8, 300_000)), Some((32, 250)), Some((32, 30_000)), None];
    assert_eq!(pools.collect::<Vec<_>>(), expected);
}

/// What the file may ask for is what the echo keeps to: it once took 256 MiB and held clients to 64.
#[test]
fn the_largest_message_of_the_file_is_that_of_the_echo() {
    let with = |bytes: usize| {
        let route = format!("[[route]]\nservice = \"echo\"\n[route.websocket]\nmax_message = \"{bytes}B\"\n");
        Config::parse("gateway.toml", &format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{route}"), Path::new(""))
    };
    assert_eq!(with(LARGEST_MESSAGE).unwrap().routes[0].max_message, LARGEST_MESSAGE);
    assert!(with(LARGEST_MESSAGE + 1).is_err());
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
        (listener.timeouts.tls_handshake, 10),
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

    assert_eq!((config.limits.connections_per_client, listener.limits.connections_per_client), (None, None));
    assert_eq!(config.forwarded, Forwarded { x_forwarded: true, forwarded: true, x_real_ip: false, via: true });
    assert!(listener.tls.is_none() && listener.trusted_proxies.is_empty() && config.warnings.is_empty());
    assert_eq!(upstream.pool.map(|p| (p.idle.get(), p.idle_timeout.as_secs())), Some((32, 30)));
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
    let tree = Tree::new();
    Config::parse("gateway.toml", &text, &tree.path("config")).unwrap_or_else(|error| panic!("{error}"));
}

/// Whatever the folder is called, and whatever lies in it beside the files that are meant.
#[test]
fn an_included_pattern_is_read_as_a_shell_does_and_each_file_once() {
    let folder = Folder::new();
    let odd = folder.put("x", "").with_file_name("a[1]*");
    fs::create_dir_all(odd.join("routes.d")).unwrap();
    let gateway = "[gateway]\ninclude = [\"routes.d/*.toml\", \"again.toml\"]\n[[listener]]\nbind = \"127.0.0.1:0\"\n";
    fs::write(odd.join("gateway.toml"), gateway).unwrap();
    fs::write(odd.join("routes.d/page.toml"), "[[route]]\nname = \"page\"\npath = \"/page\"\nrespond = 204\n").unwrap();
    fs::write(odd.join("routes.d/.page.toml"), "what an editor keeps = while it is open").unwrap();
    std::os::unix::fs::symlink("routes.d/page.toml", odd.join("again.toml")).unwrap();
    let config = load(&odd.join("gateway.toml"));
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!((&names[..], &config.warnings[..]), (&["page"][..], &[][..]));
    let absolute = format!("{gateway}[[route]]\npath = \"/\"\nrespond = 204\n")
        .replace("routes.d", folder.put("one.toml", "").parent().unwrap().to_str().unwrap());
    fs::write(odd.join("gateway.toml"), absolute).unwrap();
    assert_eq!(load(&odd.join("gateway.toml")).routes.len(), 2);
}

/// Reports draw carets under places that the text decides: whatever it says, there is a report.
#[test]
fn whatever_is_written_is_taken_or_refused() {
    let tree = Tree::new();
    let folder = tree.path("config");
    let whole = fs::read_to_string("config/gateway.toml").unwrap();
    proptest::proptest!(|(place: usize, cut in 0usize..40, put in "[\\PC\\r\\n\"=\\[\\]{}]{0,6}")| {
        let from = place % whole.len();
        let text = format!("{}{put}{}", &whole[..from], &whole[(from + cut).min(whole.len())..]);
        if let Err(error) = Config::parse("gateway.toml", &text, &folder) {
            proptest::prop_assert!(error.to_string().contains("--> gateway.toml:"), "{}", error);
        }
    });
}
