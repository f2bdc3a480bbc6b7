//! A log that nobody reads is never in the way: not of a worker, not of the process's end. What the queue could not take
//! is counted and said.
//!
//! The queue takes 65,536 lines, so this takes tens of thousands of requests.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::client::Client;
use support::gateway::Signal;
use support::process;

const CONFIG: &str = "[log]\nformat = \"json\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = 204\n";

fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A gateway whose standard output nobody reads, once it serves.
struct Unread {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    web: SocketAddr,
    file: PathBuf,
}

/// As many lines as the queue takes, and what the pipe and a reader's buffer may take besides.
const TOO_MANY: usize = 65_536 + 4_000;

impl Unread {
    /// Starts it and asks until lines must have been dropped; every request is answered.
    fn start_and_fill() -> Self {
        let file =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unread-{}-{}.toml", std::process::id(), unique()));
        fs::write(&file, CONFIG).expect("the target folder can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_spliceway"));
        command.env_remove("SPLICEWAY_LOG").arg("run").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("it was piped");
        let mut lines = BufReader::new(stdout).lines();
        let mut web = None;
        loop {
            let line = lines.next().expect("it serves").expect("a line");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            web = web.or_else(|| line["address"].as_str().and_then(|address| address.parse().ok()));
            if line["message"] == "serving" {
                break;
            }
        }
        let unread = Self { child, lines, web: web.expect("an address"), file };
        let each = TOO_MANY / 4;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = Client::connect(unread.web);
                    let mut sender = client.sender();
                    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
                    client.send(ask);
                    let answer = client.read_answer();
                    let size = (answer.head.len() + answer.body.len()) as u64;
                    scope.spawn(move || sender.send(ask.repeat(each - 1)));
                    client.discard(size * (each as u64 - 1)); // each of them is answered
                });
            }
        });
        unread
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // One that has ended by itself has been waited for.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            process::end(&mut self.child);
        }
        let _ = fs::remove_file(&self.file);
    }
}

#[test]
fn a_log_that_nobody_reads_blocks_no_request_and_what_it_lost_is_counted() {
    let mut unread = Unread::start_and_fill();
    assert_eq!(Client::get(unread.web, "/after").status, 204);
    let mut records = 0;
    let dropped = loop {
        let line = unread.lines.next().expect("the gateway runs").expect("a line");
        let line: Value = serde_json::from_str(&line).expect("whole lines of JSON");
        records += u64::from(line["record"] == "request");
        if line["message"] == "lines of the log were dropped: what reads them is too slow" {
            break line["total"].as_u64().expect("a number");
        }
    };
    assert!(dropped > 0);
    // The line that tells it may have been dropped before, too: one in five seconds.
    let requests = TOO_MANY as u64 + 1;
    assert!((requests..requests + 20).contains(&(records + dropped)), "{records} and {dropped} of {requests}");
    assert_eq!(Client::get(unread.web, "/read-again").status, 204);
    let line = unread.lines.next().expect("the gateway runs").expect("a line");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["path"], json!("/read-again"));
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_process_alive() {
    let mut unread = Unread::start_and_fill();
    let pid = i32::try_from(unread.child.id()).expect("an id of a process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("the gateway runs");
    let status = process::wait(&mut unread.child).expect("it ends though its last lines cannot be written");
    assert_eq!(status.code(), Some(0));
}
