//! Starting: everything is bound before anything is served, and what cannot start says so in one line, with its own exit
//! code.

mod support;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use support::client::Client;
use support::gateway::{Gateway, Signal, run_to_end};
use support::process;
use support::skip::{self, Want};

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");

const ROUTE: &str = "[[route]]\nrespond = { status = 200, body = \"here\" }\n";

/// One listener of that name on that address.
fn listener(name: &str, bind: impl std::fmt::Display) -> String {
    format!("[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n")
}

/// A file of this test's own, gone with it.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("start-{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).expect("the target folder can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the target folder's path is text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs a gateway that is expected to end by itself; the log goes to standard output.
fn run(config: &str) -> Output {
    run_to_end(&["run", File::new(config).path()])
}

/// Asserts exit code 1 and gives the one line of standard error.
#[track_caller]
fn cannot_start(output: &Output) -> &str {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{}\n{out}{err}", output.status);
    assert!(!out.contains("listening") && !out.contains("serving"), "it has served:\n{out}");
    assert_eq!(err.lines().count(), 1, "not one line:\n{err}");
    err.strip_suffix('\n').expect("a whole line")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is told is text")
}

/// A port that somebody else listens on, for as long as the listener lives.
fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

#[test]
fn check_says_that_a_right_file_is_right_and_binds_nothing() {
    let (_taken, address) = taken();
    let file = File::new(&format!("{}{ROUTE}", listener("web", address)));
    let output = run_to_end(&["check", file.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), format!("{}: fine: 1 listeners, 1 routes, 0 upstreams\n", file.path()));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn check_and_run_refuse_a_wrong_file_alike() {
    let file = File::new(&format!("{}{ROUTE}path_ = \"/\"\n", listener("web", "127.0.0.1:0")));
    for command in ["check", "run"] {
        let output = run_to_end(&[command, file.path()]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert_eq!(text(&output.stdout), "");
        let told = text(&output.stderr);
        assert!(told.contains(&format!("{}:6:1", file.path())) && told.contains("path_"), "{told}");
    }
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_configuration() {
    for command in ["check", "run"] {
        let output = run_to_end(&[command, "tests/config/not-there.toml"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(text(&output.stderr).contains("cannot read tests/config/not-there.toml"), "{output:?}");
    }
}

#[test]
fn wrong_arguments_are_told_from_everything_else() {
    for arguments in [&["--no-such-flag"][..], &["check"], &["serve"], &["run", "a.toml", "b.toml"]] {
        let output = run_to_end(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("Usage:"), "{output:?}");
    }
    for answer in ["--help", "--version"] {
        let output = run_to_end(&[answer]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{answer}: {output:?}");
    }
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1() {
    let (_taken, address) = taken();
    let output = run(&format!("{}{ROUTE}", listener("web", address)));
    let expected =
        format!("spliceway: listener \"web\": cannot listen on {address}: the address is in use by another process");
    assert_eq!(cannot_start(&output), expected);
}

#[test]
fn a_second_gateway_on_a_port_is_refused_and_the_first_serves_on() {
    let config = |bind: &str, workers| format!("[gateway]\nworkers = {workers}\n{}{ROUTE}", listener("web", bind));
    let first = Gateway::start(&config("127.0.0.1:0", 2));
    let address = first.address("web");
    for workers in [1, 2] {
        let output = run(&config(&address.to_string(), workers));
        assert!(cannot_start(&output).contains(&format!("cannot listen on {address}: the address is in use")));
    }
    // Every connection reaches the first: none is spread to a socket of the one that was refused.
    for _ in 0..16 {
        assert_eq!(Client::get(address, "/").text(), "here");
    }
    assert_eq!(first.stop().len(), 16);
}

#[test]
fn a_forbidden_port_is_one_line_and_exit_code_1() {
    let file = File::new(&format!("{}{ROUTE}", listener("web", "0.0.0.0:1")));
    let mut command = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, 1)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Command::new(BINARY),
        // We may, so the gateway is run as somebody who may not: in a network of its own, where the system's list of free
        // ports is the default, and without the capability.
        _ => match without_privilege() {
            Some(command) => command,
            None => return,
        },
    };
    let output = process::run_to_end(command.args(["run", file.path()]));
    assert_eq!(
        cannot_start(&output),
        "spliceway: listener \"web\": cannot listen on 0.0.0.0:1: not allowed: ports below 1024 need root or the \
         capability CAP_NET_BIND_SERVICE"
    );
}

/// None where a process may not have a network of its own, and that is on the list of what is skipped.
fn without_privilege() -> Option<Command> {
    let user = if geteuid().is_root() { &[][..] } else { &["--user", "--map-root-user"] };
    let launcher = [user, &["--net", "setpriv", "--bounding-set", "-net_bind_service"]].concat();
    let works = Command::new("unshare").args(&launcher).arg("true").output();
    if works.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("unshare");
        command.args(&launcher).arg(BINARY);
        return Some(command);
    }
    skip::unless_listed(Want::Namespaces, "this machine gives a process no network of its own (unshare --net setpriv)");
    None
}

#[test]
fn an_address_of_another_machine_is_one_line_and_exit_code_1() {
    let output = run(&format!("{}{ROUTE}", listener("web", "192.0.2.1:0")));
    let expected = "listener \"web\": cannot listen on 192.0.2.1:0: no interface of this machine has the address";
    assert_eq!(cannot_start(&output), format!("spliceway: {expected}"));
}

#[test]
fn when_the_last_address_cannot_be_bound_the_first_is_not_served() {
    let (_taken, address) = taken();
    let config = format!("{}{}{ROUTE}", listener("good", "127.0.0.1:0"), listener("bad", address));
    assert!(cannot_start(&run(&config)).contains("listener \"bad\""), "the second is the one that failed");
}

#[test]
fn every_address_of_a_listener_is_served() {
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let binds = if six { r#"["127.0.0.1:0", "[::1]:0"]"# } else { r#"["127.0.0.1:0", "127.0.0.2:0"]"# };
    let gateway = Gateway::start(&format!("[[listener]]\nname = \"web\"\nbind = {binds}\n{ROUTE}"));
    let addresses = gateway.addresses("web");
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert_eq!(addresses[1].is_ipv6(), six);
    for &address in &addresses {
        assert_eq!(Client::get(address, "/").text(), "here");
    }
    let records = gateway.stop();
    let clients: Vec<_> = records.iter().map(|record| record["client"].as_str().expect("a client")).collect();
    assert!(clients[0].starts_with("127.0.0.1:"), "{clients:?}");
    assert!(!six || clients[1].starts_with("[::1]:"), "{clients:?}");
}

#[test]
fn a_star_is_both_families_on_one_port() {
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let gateway = Gateway::start(&format!("[gateway]\nworkers = 2\n{}{ROUTE}", listener("web", "*:0")));
    let addresses = gateway.addresses("web");
    let port = addresses[0].port();
    let four: SocketAddr = (Ipv4Addr::UNSPECIFIED, port).into();
    let both = vec![four, (Ipv6Addr::UNSPECIFIED, port).into()];
    assert_eq!(addresses, if six { both } else { vec![four] });
    assert_eq!(Client::get((Ipv4Addr::LOCALHOST, port).into(), "/").text(), "here");
    if six {
        assert_eq!(Client::get((Ipv6Addr::LOCALHOST, port).into(), "/").text(), "here");
    }
    // The client of IPv4 came by IPv4, not as an address inside IPv6.
    assert!(gateway.stop()[0]["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")));
}

#[test]
fn a_restart_over_connections_in_time_wait_works() {
    let config = |bind: &str| format!("[gateway]\nworkers = 2\n{}{ROUTE}", listener("web", bind));
    let first = Gateway::start(&config("127.0.0.1:0"));
    let address = first.address("web");
    // The gateway ends this connection first, so the waiting is on its side.
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.read_answer().status, 200);
    client.expect_eof();
    drop(client);
    first.stop();
    assert!(in_time_wait(address.port()), "nothing waits, and so this proves nothing");
    let second = Gateway::start(&config(&address.to_string()));
    assert_eq!(Client::get(address, "/").text(), "here");
    second.stop();
}

/// Whether a connection of this local port is in TIME_WAIT (6 in the kernel's list).
fn in_time_wait(port: u16) -> bool {
    let list = fs::read_to_string("/proc/net/tcp").expect("the kernel's list of connections");
    let local = format!(":{port:04X}");
    list.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&local) && fields[3] == "06"
    })
}

#[test]
fn the_limit_of_descriptors_is_raised_and_bounds_the_connections() {
    // The gateway inherits these: a soft limit far below the hard one.
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(8192);
    assert!(hard >= 2048, "too few descriptors to test with");
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum: Some(hard) }).expect("limits may be lowered");

    let gateway = Gateway::start(&format!("{}{ROUTE}", listener("web", "127.0.0.1:0")));
    let told = gateway.message(|message| message["message"] == "descriptors");
    assert_eq!(told["descriptors"], hard, "{told}");
    assert_eq!(told["connections"], (hard - 256) / 2, "{told}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).expect("it runs");
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of descriptors");
    let fields: Vec<_> = limit.split_whitespace().collect();
    assert_eq!(fields[3..5], [hard.to_string(), hard.to_string()], "{limit}");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));

    let fits = (hard - 256) / 2;
    let with =
        |connections| format!("[limits]\nconnections = {connections}\n{}{ROUTE}", listener("web", "127.0.0.1:0"));
    Gateway::start(&with(fits)).stop();
    let refused = run(&with(fits + 1));
    let line = cannot_start(&refused);
    assert!(line.starts_with(&format!("spliceway: limits.connections = {} does not fit", fits + 1)), "{line}");
    assert!(line.contains(&format!("can hold {fits} connections")), "{line}");
}

#[test]
fn a_log_that_cannot_be_opened_is_one_line_and_exit_code_1() {
    let log = "[log]\nfile = \"no-such-folder/gateway.log\"\n";
    let output = run(&format!("{log}{}{ROUTE}", listener("web", "127.0.0.1:0")));
    let line = cannot_start(&output);
    assert!(line.contains("no-such-folder/gateway.log"), "it does not say which file: {line}");
}

/// A reload or a stop that comes too early is no reason to die: the first line that the gateway writes is later than its
/// hearing. Many addresses make the time between the two long.
#[test]
fn a_signal_that_comes_while_it_starts_is_kept_until_it_serves() {
    let binds = vec!["\"127.0.0.1:0\""; 100].join(", ");
    let file = File::new(&format!(
        "[gateway]\nworkers = 2\n[log]\nformat = \"json\"\n[[listener]]\nname = \"web\"\nbind = [{binds}]\n{ROUTE}"
    ));
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1].repeat(5) {
        let gateway = Gateway::launch(&["run", file.path()], &[]);
        gateway.line(|_| true);
        gateway.signal(signal);
        match signal {
            Signal::SIGHUP => drop(gateway.message(|message| message["message"] == "reloaded")),
            Signal::SIGUSR1 => {
                drop(gateway.message(|message| message["message"] == "SIGUSR1: the log file is opened anew"));
            }
            _ => {
                gateway.message(|message| message["message"] == "draining");
                let (status, _) = gateway.wait();
                assert_eq!(status.code(), Some(0), "{signal}: {status}");
                continue;
            }
        }
        assert_eq!(Client::get(gateway.addresses("web")[0], "/").text(), "here");
        gateway.stop();
    }
}

/// The kernel would else double its table whenever that is full, and the worker that accepts then waits for milliseconds.
#[test]
fn there_is_room_for_all_descriptors_before_the_first_connection_comes() {
    let of = |limits: &str| {
        let gateway =
            Gateway::start(&format!("{limits}[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = 204\n"));
        let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("the size of its table");
        let told = gateway.message(|message| message["message"] == "descriptors");
        let allowed = told["descriptors"].as_u64().expect("a number");
        gateway.stop();
        (size.trim().parse::<u64>().expect("a number"), allowed)
    };
    let (size, allowed) = of("");
    assert!(size >= allowed.min(1 << 18), "{size} of {allowed}");
    let (size, _) = of("[limits]\nconnections = 100\n");
    assert!((456..1024).contains(&size), "{size}: two for each connection, and 256");
}
