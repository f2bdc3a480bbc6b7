//! As a service of the machine: what the service manager is told and when, the unit that starts it, and
//! `config/gateway.toml` on the ports that it is about, 80 and 443.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::client::Client;
use support::gateway::{Gateway, Signal, run_to_end_with};
use support::process::run_to_end;
use support::skip::{self, Want};
use support::tree::Tree;
use support::{GUARD, network};

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");

/// A service manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.sock", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("the target folder can be written");
        Self { socket, path }
    }

    fn environment(&self) -> [(&str, &str); 1] {
        [("NOTIFY_SOCKET", self.path.to_str().expect("the target folder's path is text"))]
    }

    /// Waits for the next message.
    fn told(&self) -> String {
        self.socket.set_read_timeout(Some(GUARD)).expect("a guard");
        let mut buffer = [0; 1024];
        let count = self.socket.recv(&mut buffer).expect("the manager is told");
        String::from_utf8(buffer[..count].to_vec()).expect("text")
    }

    #[track_caller]
    fn is_told_nothing(&self, lasting: Duration) {
        self.socket.set_read_timeout(Some(lasting)).expect("a timeout");
        match self.socket.recv(&mut [0; 1024]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("the manager is told something: {other:?}"),
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

const TWO: &str = "[[listener]]\nname = \"first\"\nbind = \"127.0.0.1:0\"\n[[route]]\nservice = \"echo\"\n\
    [[listener]]\nname = \"last\"\n";

#[test]
fn a_service_manager_that_cannot_be_told_is_no_reason_not_to_serve() {
    let nobody = Manager::new("nobody");
    fs::remove_file(&nobody.path).expect("it is there");
    let gateway = Gateway::start_with(&format!("{TWO}bind = \"127.0.0.1:0\"\n"), &nobody.environment());
    let told = gateway.message(|message| message["level"] == "WARN");
    assert_eq!(told["message"], "the service manager cannot be told", "{told}");
    let (client, _) = Client::upgrade(gateway.address("first"), "/");
    drop(client);
    assert_eq!(gateway.stop().len(), 1);
}

#[test]
fn the_service_manager_is_told_when_it_serves_and_when_it_drains() {
    let manager = Manager::new("ready");
    let config = format!("{TWO}bind = \"127.0.0.1:0\"\n");
    let gateway = Gateway::start_with(&config, &manager.environment());
    assert_eq!(manager.told(), "READY=1\n");
    let (client, _) = Client::upgrade(gateway.address("first"), "/");
    let (other, _) = Client::upgrade(gateway.address("last"), "/");
    manager.is_told_nothing(Duration::from_millis(100));
    // The drain has begun and lasts: there is a tunnel.
    gateway.signal(Signal::SIGTERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert!(gateway.messages().iter().all(|message| message["message"] != "ended"));
    drop((client, other));
    gateway.message(|message| message["message"] == "ended");
    assert_eq!(gateway.wait().0.code(), Some(0));
    manager.is_told_nothing(Duration::from_millis(100));
}

#[test]
fn a_gateway_that_cannot_bind_its_last_address_never_says_that_it_is_ready() {
    let manager = Manager::new("never");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let file = manager.path.with_extension("toml");
    let address = taken.local_addr().expect("its address");
    fs::write(&file, format!("{TWO}bind = \"{address}\"\n")).expect("the target folder can be written");
    let arguments = ["run", file.to_str().expect("text")];
    let output = run_to_end_with(&arguments, &manager.environment());
    fs::remove_file(&file).expect("it is there");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    manager.is_told_nothing(Duration::from_millis(1));
}

/// The unit's settings by section and key; those that are there more than once have all their values.
fn unit(text: &str) -> HashMap<(String, String), Vec<String>> {
    let (mut section, mut settings) = (String::new(), HashMap::<_, Vec<String>>::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("neither section nor setting: {line:?}"));
            assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric()), "no key: {line:?}");
            settings.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
        }
    }
    settings
}

#[test]
fn the_unit_waits_for_ready_and_gives_one_capability() {
    let text = fs::read_to_string("deploy/spliceway.service").expect("it is in the repository");
    let unit = unit(&text);
    for (section, key, value) in [
        ("Service", "Type", "notify"),
        ("Service", "ExecStart", "/usr/local/bin/spliceway run /etc/spliceway/gateway.toml"),
        ("Service", "User", "spliceway"),
        ("Service", "AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
        ("Service", "CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
        ("Service", "NoNewPrivileges", "yes"),
        ("Service", "ProtectSystem", "strict"),
        ("Service", "RestartPreventExitStatus", "78"),
        ("Install", "WantedBy", "multi-user.target"),
    ] {
        let values = unit.get(&(section.to_owned(), key.to_owned()));
        assert_eq!(values.map(Vec::as_slice), Some(&[value.to_owned()][..]), "{section}.{key}");
    }
    // NOTIFY_SOCKET is one of these.
    let families = &unit[&("Service".to_owned(), "RestrictAddressFamilies".to_owned())][0];
    assert!(["AF_INET", "AF_INET6", "AF_UNIX"].iter().all(|family| families.split(' ').any(|one| one == *family)));
    // systemd ends what is not over by then, and the drain has 25 s.
    assert_eq!(unit[&("Service".to_owned(), "TimeoutStopSec".to_owned())], ["40s"]);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip::unless_listed(Want::SystemdAnalyze, "this machine has no systemd-analyze");
    }
    // It wants the program to be where the unit says.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unit-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let text = fs::read_to_string("deploy/spliceway.service").expect("it is in the repository");
    let file = folder.join("spliceway.service");
    fs::write(&file, text.replace("/usr/local/bin/spliceway", BINARY)).expect("it can be written");
    let output = run_to_end(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file));
    fs::remove_dir_all(&folder).expect("it is there");
    let words = String::from_utf8_lossy(&output.stderr);
    // It tells of the machine's other units, too.
    let ours: Vec<_> = words.lines().filter(|line| line.contains("spliceway")).collect();
    assert!(output.status.success() && ours.is_empty(), "{words}");
}

/// All of root's powers but these.
const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set", "-net_bind_service"];
/// None of root's powers but this one.
const ONLY: [&str; 3] = ["setpriv", "--bounding-set", "-all,+net_bind_service"];

#[test]
fn the_example_serves_ports_80_and_443() {
    if !network::is_own("the_example_serves_ports_80_and_443", &[]) {
        return;
    }
    let tree = Tree::without_certificates();
    let made = run_to_end(&mut Command::new(tree.path("certs/generate")));
    assert!(made.status.success(), "{made:?}");
    let file = tree.path("config/gateway.toml");
    let arguments = ["run", file.to_str().expect("the target folder's path is text")];

    for launcher in [&[][..], &ONLY] {
        let gateway = Gateway::launch_by(launcher, &arguments, &[]);
        gateway.line(|line| line.contains("serving"));
        for plain in ["127.0.0.1:80", "[::1]:80"] {
            let plain = plain.parse().expect("an address");
            let answer = Client::ask(plain, "GET /a/b?c=%41 HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!((answer.status, answer.header("location")), (308, Some("https://localhost/a/b?c=%41")));
            // Nothing else is served there.
            assert_eq!(Client::get(plain, "/health").status, 308);
        }
        for (secure, path, status) in [
            ("127.0.0.1:443", "/", "200 OK"),
            ("[::1]:443", "/health", "200 OK"),
            ("127.0.0.1:443", "/private", "403 Forbidden"),
        ] {
            let answer = ask_securely(&tree, secure, path);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{secure}{path}: {answer:?}");
        }
        gateway.signal(Signal::SIGTERM);
        assert_eq!(gateway.wait().0.code(), Some(0), "{launcher:?}");
    }

    let refused = run_to_end(Command::new(WITHOUT[0]).args(&WITHOUT[1..]).arg(BINARY).args(arguments));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(words.lines().count(), 1, "not one line: {words}");
    let missing = "not allowed: ports below 1024 need root or the capability CAP_NET_BIND_SERVICE\n";
    assert!(
        words.starts_with("spliceway: listener \"secure\": cannot listen on ") && words.ends_with(missing),
        "{words}"
    );
}

/// Asks by openssl, which accepts no certificate but one that our authority signed.
fn ask_securely(tree: &Tree, address: &str, path: &str) -> String {
    let script = "printf 'GET %s HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' \"$1\" | \
        openssl s_client -quiet -verify_return_error -servername localhost -CAfile \"$2\" -connect \"$3\"";
    let authority = tree.path("certs/ca.pem");
    let output = run_to_end(Command::new("sh").args(["-c", script, "sh", path]).arg(authority).arg(address));
    String::from_utf8(output.stdout).expect("an answer is text")
}
