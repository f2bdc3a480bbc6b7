//! Where lines go: one bounded queue for messages and records, one thread that writes. A worker never waits for a disk or
//! a terminal; what the queue could not take, or the disk, is counted and said.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{self, Log, LogFile, LogFormat};

/// Lines that may wait. A line is about 300 bytes, so a full queue is about 20 MB.
const QUEUE_LINES: usize = 65_536;

/// How long the end waits for lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The environment variable whose directives win over `log.level`.
pub const LEVEL_VARIABLE: &str = "SPLICEWAY_LOG";

/// The output, open from the start of the gateway to its end: dropping it writes what waits.
#[derive(Debug)]
pub struct Output {
    lines: NonBlocking,
    dropped: ErrorCounter,
    told: AtomicUsize,
    unwritten: Arc<AtomicUsize>,
    reopen: Arc<AtomicBool>,
    /// What a reload changes; None where nothing was installed.
    messages: OnceLock<Messages>,
    /// None only while it is dropped.
    writer: Option<WorkerGuard>,
}

/// A layer that writes messages, of whatever format.
type Format<S> = Box<dyn Layer<S> + Send + Sync>;

/// How messages are chosen and written, so that it can be changed while they are.
struct Messages {
    level: reload::Handle<EnvFilter, Registry>,
    format: reload::Handle<Format<Filtered>, Filtered>,
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("level", &self.level).finish_non_exhaustive()
    }
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

impl Output {
    /// Opens the configured file and starts the thread that writes.
    pub fn open(file: &LogFile) -> io::Result<Self> {
        let reopen = Arc::new(AtomicBool::new(false));
        let unwritten = Arc::default();
        let destination = Destination::open(file, Arc::clone(&reopen), Arc::clone(&unwritten))?;
        let (lines, writer) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUE_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(destination);
        let dropped = lines.error_counter();
        Ok(Self {
            lines,
            dropped,
            told: AtomicUsize::new(0),
            unwritten,
            reopen,
            messages: OnceLock::new(),
            writer: Some(writer),
        })
    }

    /// Where records are written.
    pub fn lines(&self) -> NonBlocking {
        self.lines.clone()
    }

    /// Makes `tracing` write here, and panics too.
    pub fn install(&self, log: &Log) {
        let wanted = wanted_level().unwrap_or_else(|| log.level.clone());
        let (filter, level) = reload::Layer::new(EnvFilter::new(wanted));
        let (layer, format) = reload::Layer::new(self.format(log.format));
        // A second gateway in one process (tests) keeps the first one's subscriber.
        if tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok() {
            self.messages.get_or_init(|| Messages { level, format });
        }
        std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a task panicked; its connection ends")));
    }

    /// Messages are chosen and written as this configuration has it from now on. What the environment wants still wins.
    pub fn change(&self, log: &Log) {
        let Some(messages) = self.messages.get() else { return };
        // Fails only when the subscriber is gone, and nothing ends it before the process does.
        let _ = messages.format.reload(self.format(log.format));
        if wanted_level().is_none() {
            let _ = messages.level.reload(EnvFilter::new(&log.level));
        }
    }

    fn format<S>(&self, format: LogFormat) -> Format<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let layer = tracing_subscriber::fmt::layer().with_writer(self.lines()).with_ansi(false).with_target(false);
        match format {
            LogFormat::Text => layer.with_timer(Clock).boxed(),
            LogFormat::Json => layer.with_timer(Clock).json().flatten_event(true).boxed(),
        }
    }

    /// How many lines were lost, to be looked at from elsewhere.
    pub fn losses(&self) -> Losses {
        Losses { dropped: self.dropped.clone(), unwritten: Arc::clone(&self.unwritten) }
    }

    /// The file is opened anew before the next line (log rotation has moved it).
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// What the full queue has dropped, if it has dropped more since the last call. The line that tells it may be dropped
    /// too: so the next one tells of all again.
    pub fn newly_dropped(&self) -> Option<Dropped> {
        let total = self.dropped.dropped_lines();
        let new = total - self.told.swap(total, Ordering::Relaxed);
        (new > 0).then_some(Dropped { new, total })
    }
}

/// What the environment wants in place of `log.level`. What it is refused for is told, and does not keep the gateway from
/// starting: the variable is for looking into one that runs.
fn wanted_level() -> Option<String> {
    let wanted = std::env::var(LEVEL_VARIABLE).ok()?;
    match config::check_level(&wanted) {
        Ok(()) => Some(wanted),
        Err(why) => {
            complain(format_args!("{LEVEL_VARIABLE} is not used: {why}"));
            None
        }
    }
}

/// Lines that were lost since the start.
#[derive(Debug)]
pub struct Losses {
    dropped: ErrorCounter,
    unwritten: Arc<AtomicUsize>,
}

impl Losses {
    /// The queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }

    /// The file or the pipe did not take them.
    pub fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed) as u64
    }
}

/// Lines that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Since it was last looked at.
    pub new: usize,
    /// Since the start.
    pub total: usize,
}

impl Drop for Output {
    /// Waits until the last lines are written, but not for a reader that does not read. The guard alone would: when the
    /// queue is full it complains on standard output, which may be the very pipe that is full.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let (written, is_written) = mpsc::channel();
        let unwritten = Arc::clone(&self.unwritten);
        let wait = thread::Builder::new().name("log-end".into()).spawn(move || {
            drop(writer);
            match unwritten.load(Ordering::Relaxed) {
                0 => {}
                lines => complain(format_args!("{lines} lines of the log could not be written")),
            }
            let _ = written.send(());
        });
        if wait.is_ok() {
            let _ = is_written.recv_timeout(LAST_LINES);
        }
    }
}

/// Time as records write it: UTC, milliseconds.
#[derive(Debug)]
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(std::time::SystemTime::now()))
    }
}

/// The far end of the queue; lives in the thread that writes.
#[derive(Debug)]
struct Destination {
    to: To,
    reopen: Arc<AtomicBool>,
    /// Lines that could not be written, of all time.
    unwritten: Arc<AtomicUsize>,
    /// And since writing last succeeded: 0 where all is well.
    lost: usize,
    /// Of the last line only a part was written.
    torn: bool,
}

#[derive(Debug)]
enum To {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(PathBuf, File),
}

impl Destination {
    fn open(file: &LogFile, reopen: Arc<AtomicBool>, unwritten: Arc<AtomicUsize>) -> io::Result<Self> {
        let to = match file {
            LogFile::Stdout => To::Stdout(io::stdout()),
            LogFile::Stderr => To::Stderr(io::stderr()),
            LogFile::Path(path) => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                To::File(path.clone(), append(path).map_err(named)?)
            }
        };
        Ok(Self { to, reopen, unwritten, lost: 0, torn: false })
    }

    /// A file that cannot be opened anew goes on being the old one: lines in a moved file beat no lines.
    fn follow_rotation(&mut self) {
        if let To::File(path, file) = &mut self.to
            && self.reopen.swap(false, Ordering::Relaxed)
        {
            match append(path) {
                Ok(new) => {
                    *file = new;
                    self.torn = false;
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "the log file cannot be opened anew"),
            }
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Destination {
    /// Writes a line; where the one before it is torn, that one is ended first, so that two are never taken for one.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.put_all(b"\n")?;
        }
        self.put_all(line)
    }

    fn put_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Once for a disk that is full, not for each line that it does not take.
    fn line_lost(&mut self, error: &io::Error) {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        if self.lost == 0 {
            complain(format_args!("the log cannot be written, and its lines are lost until it can: {error}"));
        }
        self.lost += 1;
    }

    fn line_written(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let total = self.unwritten.load(Ordering::Relaxed);
            tracing::warn!(lost, total, "lines of the log were lost: they could not be written");
            complain(format_args!("the log is written again; {lost} lines of it were lost"));
        }
    }
}

/// On standard error, which is all that is left when the log is not: if nobody hears it there, nothing can be done.
fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "spliceway: {what}");
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Stdout(out) => out.write(bytes),
            To::Stderr(err) => err.write(bytes),
            To::File(_, file) => file.write(bytes),
        }
    }

    /// A line, which the queue gives whole. It says nothing of what fails, so that is told here.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.follow_rotation();
        match self.put(line) {
            Ok(()) => self.line_written(),
            Err(error) => self.line_lost(&error),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Stdout(out) => out.flush(),
            To::Stderr(err) => err.flush(),
            To::File(_, file) => file.flush(),
        }
    }
}
