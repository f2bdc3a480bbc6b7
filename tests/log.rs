//! Where lines go: as text or JSON, to a stream or a file that is rotated, and never broken by what a client sends.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;
use support::client::{Client, opening_handshake};
use support::gateway::{Gateway, Signal};

const ROUTES: &str = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
                      [[route]]\nname = \"fixed\"\nrespond = { status = 200, body = \"fixed\" }\n\
                      [[route]]\npath = \"/echo\"\nservice = \"echo\"\n";

/// A folder with a configuration, for a gateway whose lines are not JSON on standard output.
struct Folder(PathBuf);

impl Folder {
    fn new(log: &str) -> Self {
        Self::with(&format!("[log]\n{log}\n{ROUTES}"))
    }

    fn with(config: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&folder.0).expect("the target folder can be written");
        fs::write(folder.0.join("gateway.toml"), config).expect("it can be written");
        folder
    }

    fn config(&self) -> String {
        self.0.join("gateway.toml").to_str().expect("the target folder's path is text").to_owned()
    }

    fn launch(&self) -> Gateway {
        Gateway::launch(&["run", &self.config()], &[])
    }

    /// The lines of a file in it that are whole; none while there is no file.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Says so when it is dropped, also by a failed assertion: whoever asks on and on would keep the test from ending.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where the one listener listens, by the line that says so in text.
fn address_in(line: &str) -> SocketAddr {
    let (_, address) = line.rsplit_once("address=").unwrap_or_else(|| panic!("no address: {line}"));
    address.trim().parse().unwrap_or_else(|_| panic!("no address: {line}"))
}

#[test]
fn text_is_one_line_of_keys_and_values() {
    let folder = Folder::new("format = \"text\"");
    let gateway = folder.launch();
    let web = address_in(&gateway.line(|line| line.contains("listening")));
    assert_eq!(Client::get(web, "/a?b=c").status, 200);
    let (mut client, _) = Client::upgrade_with(web, &opening_handshake("Some.Where", "/echo", ""));
    client.finish_sending();
    client.expect_eof();
    let request = gateway.line(|line| line.contains("record=request"));
    let tunnel = gateway.line(|line| line.contains("record=tunnel"));
    let keys = |line: &str| -> Vec<_> {
        line.split(' ')
            .skip(1)
            .map(|pair| pair.split_once('=').unwrap_or_else(|| panic!("{line}")).0.to_owned())
            .collect()
    };
    let common = [
        "record", "id", "gateway", "client", "listener", "route", "method", "host", "path", "status", "sent",
        "received",
    ];
    assert_eq!(keys(&request), [&common[..], &["took_ms"]].concat());
    assert_eq!(keys(&tunnel), [&common[..], &["ended_by", "handshake_ms", "lasted_ms"]].concat());
    assert!(
        request.contains(" listener=web route=fixed method=GET host=localhost path=/a status=200 sent=0 received=5 "),
        "{request}"
    );
    assert!(tunnel.contains(" host=some.where path=/echo status=101 "), "{tunnel}");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait().0.code(), Some(0));
}

#[test]
fn a_file_is_opened_anew_on_sigusr1_and_no_line_is_lost() {
    let folder = Folder::new("format = \"json\"\nfile = \"gateway.log\"");
    let gateway = folder.launch();
    let messages = |name: &str| -> Vec<Value> {
        folder
            .lines(name)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}")))
            .collect()
    };
    support::until("it serves", || messages("gateway.log").iter().any(|one| one["message"] == "serving"));
    let listening = messages("gateway.log").into_iter().find(|one| one["message"] == "listening").expect("it listens");
    let web: SocketAddr = listening["address"].as_str().and_then(|address| address.parse().ok()).expect("an address");

    let enough = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut client = Client::connect(web);
            let mut asked = 0;
            while !enough.load(Ordering::Relaxed) {
                client.send(format!("GET /{asked} HTTP/1.1\r\nHost: a\r\n\r\n"));
                assert_eq!(client.read_answer().status, 200);
                asked += 1;
            }
            asked
        });
        let asked_enough = Enough(&enough);
        for turn in 1..=4 {
            let before = messages("gateway.log").len();
            support::until("lines come", || messages("gateway.log").len() > before + 50);
            fs::rename(folder.0.join("gateway.log"), folder.0.join(format!("gateway.log.{turn}")))
                .expect("it is there");
            gateway.signal(Signal::SIGUSR1);
            support::until("the new file has lines", || !messages("gateway.log").is_empty());
        }
        drop(asked_enough);
        asking.join().expect("every request was answered")
    });
    gateway.signal(Signal::SIGTERM);
    let (status, _) = gateway.wait();
    assert_eq!(status.code(), Some(0));
    let names = ["gateway.log.1", "gateway.log.2", "gateway.log.3", "gateway.log.4", "gateway.log"];
    let all: Vec<_> = names.iter().flat_map(|name| messages(name)).collect();
    let paths: Vec<_> = all.iter().filter_map(|one| one["path"].as_str()).collect();
    assert_eq!(paths, (0..asked).map(|number| format!("/{number}")).collect::<Vec<_>>(), "in their order, each once");
    assert_eq!(all.last().expect("lines")["message"], "ended");
}

/// What a terminal or a reader of lines could take for more than text: ends of lines of every kind, and the beginnings of
/// commands to a terminal, in one byte (C0), two (C1 in UTF-8), and turned around (bidirectional overrides).
#[test]
fn nothing_that_a_client_sends_breaks_or_colours_a_line() {
    let paths = [
        "/%0a%0d%1b[31m",
        "/a\"b=c",
        "/\u{85}",
        "/\u{9b}31m",
        "/\u{2028}\u{2029}",
        "/\u{202e}evil",
        "/\u{7f}",
        "/\u{feff}",
        "/\u{1b}[31m",
        "/\n",
        "/\r",
        "/a b",
        "/\u{0}",
        "/\u{e4}\u{1f980}",
    ];
    for format in ["text", "json"] {
        let folder = Folder::new(&format!("format = {format:?}"));
        let gateway = folder.launch();
        let listening = gateway.line(|line| line.contains("listening"));
        let web = match format {
            "text" => address_in(&listening),
            _ => serde_json::from_str::<Value>(&listening).expect("JSON")["address"]
                .as_str()
                .and_then(|a| a.parse().ok())
                .expect("one"),
        };
        for path in paths {
            for request in [
                format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: {path}\r\n\r\n"),
                format!("{path} / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ] {
                let mut client = Client::connect(web);
                client.send(request);
                client.finish_sending();
                while client.try_read_some().is_ok_and(|bytes| !bytes.is_empty()) {}
            }
        }
        gateway.signal(Signal::SIGTERM);
        gateway.line(|line| line.contains("ended"));
        let lines = gateway.lines();
        let records = lines.iter().filter(|line| line.contains("record")).count();
        assert_eq!(records, 3 * paths.len(), "{lines:#?}");
        for line in &lines {
            let bad = |char: char| {
                char.is_control()
                    || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
            };
            assert!(!line.chars().any(bad), "{line:?}");
            assert!(format == "text" || serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
        }
        // What it says can be read back.
        if format == "json" {
            let read =
                |line: &String| serde_json::from_str::<Value>(line).expect("JSON")["path"].as_str().map(str::to_owned);
            assert!(lines.iter().filter_map(read).any(|path| path == "/\u{9b}31m"), "{lines:#?}");
        }
        assert_eq!(gateway.wait().0.code(), Some(0));
    }
}

#[test]
fn messages_have_levels_and_the_environment_wins() {
    // Directives: warnings, and what one part says besides.
    let level = "[log]\nformat = \"json\"\nlevel = \"warn,spliceway::gateway=info\"\n";
    let folder = Folder::with(&format!("{level}{ROUTES}"));
    let some = folder.launch();
    let _ = some.line(|line| line.contains("listening"));
    support::until("it listens to signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", some.pid())).expect("it runs");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("Linux says which");
        u64::from_str_radix(caught.trim(), 16).expect("a number") & 1 != 0
    });
    fs::write(folder.config(), "no configuration").expect("the folder can be written");
    some.signal(Signal::SIGHUP);
    some.message(|message| message["level"] == "ERROR");
    assert!(!some.messages().iter().any(|message| message["message"] == "serving"), "{:?}", some.messages());
    drop(some);

    let quiet = "[log]\nformat = \"json\"\nlevel = \"error\"\n";
    let gateway = Gateway::start_with(&format!("{quiet}{ROUTES}"), &[("SPLICEWAY_LOG", "info")]);
    assert_eq!(Client::get(gateway.address("web"), "/").status, 200);
    gateway.record(|_| true);
    gateway.stop();

    // Records are no messages: no level hides them.
    let talks = "[log]\nformat = \"json\"\nlevel = \"trace\"\n";
    let folder = Folder::with(&format!("{talks}{ROUTES}"));
    let gateway = Gateway::launch(&["run", &folder.config()], &[("SPLICEWAY_LOG", "error,spliceway::gateway=info")]);
    let _ = gateway.line(|line| line.contains("listening"));
    assert_eq!(Client::get(gateway.address("web"), "/").status, 200);
    gateway.record(|_| true);
    assert!(!gateway.messages().iter().any(|message| message["message"] == "serving"), "{:?}", gateway.messages());
    gateway.stop();
}

/// A mistake in the variable would otherwise be taken for a module, and silence everything.
#[test]
fn a_wrong_variable_is_told_and_the_file_stands() {
    let gateway = Gateway::start_with(ROUTES, &[("SPLICEWAY_LOG", "inof")]);
    let told = gateway.line(|line| line.contains("SPLICEWAY_LOG"));
    assert_eq!(told, "spliceway: SPLICEWAY_LOG is not used: \"inof\" is not a level; did you mean \"info\"?");
    gateway.stop();
}
