//! The gateway as its users run it: the binary, a file, signals, and what it writes.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub use nix::sys::signal::Signal;
use serde_json::Value;

use super::{GUARD, process, until};

/// A running gateway. It is ended where it is dropped, at the latest.
pub struct Gateway {
    child: Child,
    /// Whether `child` has been waited for: from then on its id belongs to nobody.
    ended: bool,
    folder: Folder,
    output: Arc<Written>,
    readers: Vec<JoinHandle<()>>,
}

/// What the gateway has written so far, and the news of more.
#[derive(Default)]
struct Written {
    seen: Mutex<Seen>,
    news: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Every line of both streams, as it came.
    lines: Vec<String>,
    records: Vec<Line>,
    messages: Vec<Line>,
    /// Lines of standard output that are no JSON object.
    other: Vec<String>,
    /// Standard output has ended.
    closed: bool,
}

struct Line {
    value: Value,
    /// [`Gateway::record`] or [`Gateway::message`] has given it out.
    taken: bool,
}

/// A folder of one's own, removed with its owner unless the test fails.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Gateway {
    /// Starts `spliceway run FILE` with this text as the file, and waits until it serves. Unless the text has a `[log]` of
    /// its own, the gateway writes JSON to standard output.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// The same with variables in the environment.
    #[track_caller]
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_by(&[], config, environment)
    }

    /// The same by a command that becomes the gateway: `launcher` is its name and arguments, and the gateway's command
    /// line follows them.
    #[track_caller]
    pub fn start_by(launcher: &[&str], config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        let file = folder.0.join("gateway.toml");
        write(&file, config);
        let gateway = Self::spawn(folder, command_by(launcher, &["run", path(&file)], environment));
        gateway.message(|message| message["message"] == "serving");
        gateway
    }

    /// Writes this text in the place of the file that it was started with, and lets it be read: it must be taken.
    #[track_caller]
    pub fn reload(&self, config: &str) -> Value {
        write(&self.folder.0.join("gateway.toml"), config);
        self.signal(Signal::SIGHUP);
        self.message(|message| message["message"] == "reloaded")
    }

    /// The same, where it must be refused; gives the line that says why.
    #[track_caller]
    pub fn reload_in_vain(&self, config: &str) -> String {
        write(&self.folder.0.join("gateway.toml"), config);
        self.signal(Signal::SIGHUP);
        let refused = |message: &Value| text(message).starts_with("the reload is refused");
        text(&self.message(refused)).to_owned()
    }

    /// Starts the binary with these arguments and waits for nothing: for the demonstration, or a file elsewhere.
    pub fn launch(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch_by(&[], arguments, environment)
    }

    /// The same by a command that becomes the gateway, as in [`Gateway::start_by`].
    pub fn launch_by(launcher: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(Folder::new(), command_by(launcher, arguments, environment))
    }

    fn spawn(folder: Folder, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let output = Arc::new(Written::default());
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let readers = vec![
            read(stdout, Arc::clone(&output), Written::stdout, Written::close),
            read(stderr, Arc::clone(&output), Written::stderr, |_| {}),
        ];
        Self { child, ended: false, folder, output, readers }
    }

    /// The address of the listener of that name; it must have one only.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.addresses(listener)[..] {
            [address] => address,
            ref others => panic!("not one address of the listener {listener:?}: {others:?}"),
        }
    }

    /// All addresses of the listener of that name, in the order of their lines.
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let seen = self.output.seen();
        let lines = seen.messages.iter().map(|line| &line.value);
        let listening = lines.filter(|line| line["message"] == "listening" && line["listener"] == listener);
        let address = |line: &Value| line["address"].as_str().and_then(|text| text.parse().ok());
        listening.map(|line| address(line).unwrap_or_else(|| panic!("no address: {line}"))).collect()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of the configuration's file; it is the gateway's own.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("an id of a process");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the gateway runs");
    }

    /// Does `meanwhile` while the gateway stands still, so that it then finds all of that at once.
    #[track_caller]
    pub fn standing_still<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.signal(Signal::SIGSTOP);
        // A signal is sent long before it has come.
        until("the gateway stands still", || process::is_stopped(self.pid()));
        let result = meanwhile();
        self.signal(Signal::SIGCONT);
        result
    }

    /// Waits for a record of which `wanted` is true. Each record is given out once, so asking again for the like waits
    /// for the next; [`Gateway::records`] has them all.
    #[track_caller]
    pub fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for("record", |seen| take(&mut seen.records, &wanted))
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Value> {
        values(&self.output.seen().records)
    }

    /// Waits for a message of which `wanted` is true, as [`Gateway::record`] does.
    #[track_caller]
    pub fn message(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for("message", |seen| take(&mut seen.messages, &wanted))
    }

    /// All messages so far.
    pub fn messages(&self) -> Vec<Value> {
        values(&self.output.seen().messages)
    }

    /// Waits for a line, of either stream, of which `wanted` is true: for lines that are text.
    #[track_caller]
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for("line", |seen| seen.lines.iter().find(|line| wanted(line)).cloned())
    }

    /// All lines so far, of both streams.
    pub fn lines(&self) -> Vec<String> {
        self.output.seen().lines.clone()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    /// Its proportional set size in bytes.
    pub fn pss(&self) -> u64 {
        process::pss(self.pid())
    }

    /// Its own memory in bytes, for a comparison while other gateways run.
    pub fn anonymous(&self) -> u64 {
        process::anonymous(self.pid())
    }

    /// Sends SIGTERM, waits for the end, asserts that it was an orderly one (exit code 0, no line that is no JSON object),
    /// and gives every record.
    #[track_caller]
    pub fn stop(self) -> Vec<Value> {
        self.signal(Signal::SIGTERM);
        let output = Arc::clone(&self.output);
        let (status, records) = self.wait();
        assert_eq!(status.code(), Some(0), "{status}; it wrote:\n{}", output.seen().lines.join("\n"));
        let other = &output.seen().other;
        assert!(other.is_empty(), "lines that are no JSON object: {other:#?}");
        records
    }

    /// Waits for the end without asking for it; gives the status and every record.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, Vec<Value>) {
        let Some(status) = process::wait(&mut self.child) else {
            panic!("the gateway did not end within {GUARD:?}");
        };
        self.ended = true;
        for reader in self.readers.drain(..) {
            reader.join().expect("its output is read");
        }
        (status, self.records())
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, find: impl Fn(&mut Seen) -> Option<T>) -> T {
        let start = Instant::now();
        let mut seen = self.output.seen();
        loop {
            if let Some(found) = find(&mut seen) {
                return found;
            }
            assert!(!seen.closed, "the gateway's output ended, and no such {what} was in it");
            let left = GUARD.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "no such {what} came within {GUARD:?}");
            seen = self.output.news.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Gateway {
    #[allow(clippy::print_stderr)] // a failed test shows what the gateway said
    fn drop(&mut self) {
        if !self.ended {
            process::end(&mut self.child);
            for reader in self.readers.drain(..) {
                let _ = reader.join();
            }
        }
        if thread::panicking() {
            eprintln!("--- the gateway wrote:\n{}\n---", self.output.seen().lines.join("\n"));
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("pid", &self.pid()).field("folder", &self.folder.0).finish_non_exhaustive()
    }
}

/// Runs the binary with these arguments to its end: `check`, and starts that fail.
pub fn run_to_end(arguments: &[&str]) -> Output {
    run_to_end_with(arguments, &[])
}

/// The same with variables in the environment.
pub fn run_to_end_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    process::run_to_end(&mut command_by(&[], arguments, environment))
}

/// Unless the text has a `[log]` of its own, the gateway writes JSON.
fn write(file: &Path, config: &str) {
    let own_log = config.lines().any(|line| line.trim_start().starts_with("[log"));
    let log = if own_log { "" } else { "[log]\nformat = \"json\"\n" };
    fs::write(file, format!("{log}{config}")).expect("the folder can be written");
}

fn text(message: &Value) -> &str {
    message["message"].as_str().unwrap_or_default()
}

fn command_by(launcher: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut line = launcher.iter().chain(&[env!("CARGO_BIN_EXE_spliceway")]);
    let mut command = Command::new(line.next().expect("the binary at least"));
    command.args(line);
    // A variable of whoever runs the tests must not change what is written.
    command.env_remove("SPLICEWAY_LOG").args(arguments).envs(environment.iter().copied());
    command
}

fn read(
    pipe: impl Read + Send + 'static,
    output: Arc<Written>,
    line: fn(&Written, String),
    end: fn(&Written),
) -> JoinHandle<()> {
    thread::spawn(move || {
        for bytes in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            line(&output, String::from_utf8_lossy(&bytes).into_owned());
        }
        end(&output);
    })
}

impl Written {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stdout(&self, line: String) {
        let mut seen = self.seen();
        match serde_json::from_str::<Value>(&line) {
            Ok(value) if value["record"].is_string() => seen.records.push(Line { value, taken: false }),
            Ok(value) if value.is_object() => seen.messages.push(Line { value, taken: false }),
            _ => seen.other.push(line.clone()),
        }
        seen.lines.push(line);
        self.news.notify_all();
    }

    fn stderr(&self, line: String) {
        self.seen().lines.push(line);
        self.news.notify_all();
    }

    fn close(&self) {
        self.seen().closed = true;
        self.news.notify_all();
    }
}

fn take(lines: &mut [Line], wanted: impl Fn(&Value) -> bool) -> Option<Value> {
    let line = lines.iter_mut().find(|line| !line.taken && wanted(&line.value))?;
    line.taken = true;
    Some(line.value.clone())
}

fn values(lines: &[Line]) -> Vec<Value> {
    lines.iter().map(|line| line.value.clone()).collect()
}

impl Folder {
    /// A fresh one.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("gateway-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // A process that had this one's id may have left one behind.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the target folder can be written");
        Self(folder)
    }

    /// Writes a file into it; gives its path.
    pub fn put(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, contents).expect("the folder can be written");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the target folder's path is text")
}
