//! A log that cannot be written - a disk that is full, a file at its limit - is in nobody's way: requests are served, each
//! line that is lost is counted, and that is said on standard error, when it begins, when it is over, and at the end.

mod support;

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::client::Client;
use support::gateway::{Folder, Gateway, Signal};
use support::peer::Peer;

/// What is read is standard error; standard output takes nothing.
const STDERR_ALONE: &str = "exec \"$0\" \"$@\" 2>&1 > /dev/full";

/// An address that nobody else is given while this lives, and that a gateway may listen on: a log that cannot be read
/// does not tell where it listens.
fn reserve() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");
    (socket, address)
}

/// A gateway that logs to `file`, and whose messages of less than a warning are off.
fn launch(launcher: &[&str], folder: &Folder, file: &str) -> (Gateway, Peer, Socket) {
    let (reserved, address) = reserve();
    let config = folder.put(
        "gateway.toml",
        format!(
            "[gateway]\nworkers = 1\n[log]\nlevel = \"warn\"\nformat = \"json\"\nfile = \"{file}\"\n\
             [[listener]]\nbind = \"{address}\"\n[[route]]\nrespond = 204\n"
        ),
    );
    let config = config.to_str().expect("the target folder's path is text");
    let gateway = Gateway::launch_by(launcher, &["run", config], &[]);
    support::until("it listens", || std::net::TcpStream::connect(address).is_ok());
    (gateway, Client::connect(address), reserved)
}

fn ask(client: &mut Peer) {
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_answer().status, 204);
}

/// Ends it, in order; gives the lines that it has written to its streams.
fn end(gateway: Gateway) -> Vec<String> {
    gateway.signal(Signal::SIGTERM);
    gateway.line(|line| line.ends_with("lines of the log could not be written"));
    let lines = gateway.lines();
    assert_eq!(gateway.wait().0.code(), Some(0));
    lines
}

#[test]
fn every_line_that_a_full_disk_does_not_take_is_counted_and_said_once_and_at_the_end() {
    for device in ["/dev/full", "stdout"] {
        let folder = Folder::new();
        let (gateway, mut client, _reserved) = launch(&["sh", "-c", STDERR_ALONE], &folder, device);
        for _ in 0..100 {
            ask(&mut client);
        }
        drop(client);
        assert_eq!(
            end(gateway),
            [
                "spliceway: the log cannot be written, and its lines are lost until it can: No space left on device \
                 (os error 28)",
                "spliceway: 100 lines of the log could not be written"
            ],
            "{device}"
        );
    }
}

/// The limit on the size of a file stands for a disk that is full, and making room for one that has some again.
#[test]
fn when_the_disk_is_back_lines_are_written_again_and_what_is_missing_is_said() {
    for rotates in [true, false] {
        // Where the limit happens to lie between two lines, another tears one.
        assert!(
            [20_000, 20_010, 20_020].into_iter().any(|limit| fills_and_has_room_again(rotates, limit)),
            "{rotates}"
        );
    }
}

/// Whether a line was torn, so that its end was tested too.
fn fills_and_has_room_again(rotates: bool, limit: usize) -> bool {
    let folder = Folder::new();
    let (gateway, mut client, _reserved) =
        launch(&["prlimit", &format!("--fsize={limit}"), "sh", "-c", STDERR_ALONE], &folder, "gateway.log");
    let log = folder.put("gateway.log.1", "").with_file_name("gateway.log");
    let mut requests = 0;
    while !gateway.lines().iter().any(|line| line.contains("File too large")) {
        ask(&mut client);
        requests += 1;
    }
    for _ in 0..20 {
        ask(&mut client);
        requests += 1;
    }
    // What is there is kept aside, and there is room: by a new file, or in the same.
    let mut texts = Vec::new();
    if rotates {
        fs::rename(&log, log.with_file_name("gateway.log.1")).expect("it is there");
        gateway.signal(Signal::SIGUSR1);
        support::until("SIGUSR1 is heard", || {
            ask(&mut client);
            requests += 1;
            log.exists()
        });
        texts.push(fs::read_to_string(log.with_file_name("gateway.log.1")).expect("it is there"));
    } else {
        texts.push(fs::read_to_string(&log).expect("it is there"));
        fs::File::options().write(true).open(&log).and_then(|file| file.set_len(0)).expect("it can be emptied");
        ask(&mut client);
        requests += 1;
    }
    gateway.line(|line| line.contains("the log is written again"));
    drop(client);
    let said = end(gateway);
    texts.push(fs::read_to_string(&log).expect("it is there"));

    assert_eq!(texts[0].len(), limit);
    let (whole, _torn) = texts[0].rsplit_once('\n').expect("lines");
    let lines: Vec<Value> = [whole, &texts[1]]
        .iter()
        .flat_map(|text| text.lines())
        // That which ends the torn line.
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no whole line: {line:?}")))
        .collect();
    let records = lines.iter().filter(|line| line["record"] == "request").count();
    let told = lines.iter().find(|line| line["level"] == "WARN").expect("the log says what is missing");
    assert_eq!(told["message"], "lines of the log were lost: they could not be written");
    assert_eq!((&told["lost"], &told["total"]), (&Value::from(requests - records), &told["lost"]), "{told}");
    let lost = requests - records;
    assert_eq!(
        said,
        [
            "spliceway: the log cannot be written, and its lines are lost until it can: File too large \
             (os error 27)"
                .to_owned(),
            format!("spliceway: the log is written again; {lost} lines of it were lost"),
            format!("spliceway: {lost} lines of the log could not be written"),
        ]
    );
    !texts[0].ends_with('\n')
}
