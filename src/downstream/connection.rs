//! One connection of a client: HTTP/1.1 by hyper, under one deadline from accept to its end or its upgrade.
//!
//! The connection owns its seat. For hyper it ends at the upgrade: then what the service put into the slot (the backend's
//! stream, the record, the use of an endpoint) and the seat move into a tunnel of its own task, and this future, which is
//! large, is freed. If hyper ends any other way, the slot is dropped with all that is in it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::addr::{ClientAddr, ListenAddr};
use super::linger;
use super::seat::Seat;
use super::secure::{Insecure, Secured, secure};
use crate::config::{Listener, Scheme};
use crate::proxy::Switching;
use crate::proxy::body::Body;
use crate::record::Record;
use crate::registry::{Entry, Order};
use crate::rejection::ConnectionFault;
use crate::tunnel::Side;
use crate::tunnel::alarm::Alarm;
use crate::tunnel::io::TunnelIo;
use crate::worker;

/// How long a drain waits for the request that a connection has begun or is about to begin.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The least that hyper's buffer may be bounded to; a head may be smaller, by its own limit.
const LEAST_BUFFER: usize = 16 * 1024;

/// A connection as it came from the accept queue.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: TcpStream,
    /// Who it is.
    pub client: ClientAddr,
    /// The address that it came to.
    pub local: ListenAddr,
    /// Its place.
    pub seat: Seat,
    /// Where it came in.
    pub listener: Arc<Listener>,
}

/// What the requests of one connection share.
#[derive(Debug)]
pub struct ConnContext {
    /// Who it is.
    pub client: ClientAddr,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// The address that it came to.
    pub local: ListenAddr,
    /// How it came in.
    pub scheme: Scheme,
    /// The worker that it lives and dies on.
    pub worker: Arc<worker::Context>,
    entry: Arc<Entry>,
    timing: Mutex<Timing>,
    slot: Mutex<Option<Switching>>,
    /// Set when the gateway, and not the client, ends what is under way.
    cut: OnceLock<String>,
}

/// Where the connection stands between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head is awaited or has begun.
    Head,
    /// A request is being served; it has deadlines of its own.
    Service,
    /// Silence between two requests.
    Idle,
}

#[derive(Debug)]
struct Timing {
    phase: Phase,
    since: Instant,
    /// Bytes of the head at hand have come.
    begun: bool,
    /// Since the last answer it has been looked whether hyper holds bytes of the next head.
    looked: bool,
    /// Since when bytes wait to be written and none moved.
    write_waits: Option<Instant>,
    /// How long they may.
    stall: Duration,
    /// The client has ended its direction.
    client_ended: bool,
    /// The request at hand is of HTTP/1.0: the end of the connection may be the end of its answer.
    ends_by_close: bool,
    /// An answer ended before its end.
    broke_off: bool,
    /// An answer could not be written: the client was gone before it.
    unwritten: bool,
    /// A drain waits until then for the request that is about to come.
    grace: Option<Instant>,
    /// The body of the request at hand has not been read to its end.
    body_left: bool,
}

/// How hyper's part ended.
enum End {
    /// By itself: closed, failed, or upgraded.
    Http(hyper::Result<()>),
    /// By the clock.
    TimedOut(ConnectionFault),
    /// By the gateway's end.
    HardStop,
    /// Not at all: it is silent between two requests, and what hyper holds has to be known.
    Look,
}

/// Serves a connection to its end, or to its upgrade. `handle` answers one request; it is a parameter so that a test can
/// put another in its place.
pub async fn serve<H, F>(accepted: Accepted, worker: Arc<worker::Context>, handle: H)
where
    H: Fn(Request<Incoming>, Arc<ConnContext>) -> F + Send,
    F: Future<Output = Response<Body>> + Send,
{
    let Accepted { stream, client, local, seat, listener } = accepted;
    // Boxed, so that what a TLS handshake needs is freed before HTTP begins.
    let Secured { io, scheme } = match Box::pin(secure(stream, &listener, seat.registration.entry())).await {
        Ok(secured) => secured,
        Err(insecure) => {
            return Box::pin(refuse(insecure, client, &listener, &worker, seat.registration.entry())).await;
        }
    };
    let connection = Arc::new(ConnContext::new(client, local, listener, scheme, worker, &seat));
    let service = service_fn(|request| {
        connection.serving(&request);
        // Boxed for its time: hyper keeps the room for it as long as the connection lives, and an idle one would be twice as
        // large.
        let answer = Box::pin(handle(request, Arc::clone(&connection)));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let begin = |io, service| {
        Box::pin(builder(&connection.listener).serve_connection(TokioIo::new(io), service).with_upgrades())
    };
    let mut http = begin(Watched { read_before: Bytes::new(), io, connection: Arc::clone(&connection) }, service);
    let (parts, end) = loop {
        let end = drive(http.as_mut(), &connection).await;
        // Before what is under way is dropped: its record says who ended it.
        connection.note_cut(&end);
        match (Pin::into_inner(http).into_parts(), end) {
            (Some(parts), End::Look) => {
                let read_before = connection.looked(parts.read_buf);
                http = begin(Watched { read_before, ..parts.io.into_inner() }, parts.service);
            }
            ended => break ended,
        }
    };
    let switching = connection.take_switching();
    match (parts, switching) {
        (None, Some(switching)) => {
            connection.worker.cell.tunnels.add(1);
            become_tunnel(switching, seat).await;
        }
        (Some(parts), switching) => {
            if let Some(switching) = switching {
                switching.abandon(connection.cut_or("the client left before the 101"));
            }
            let io = parts.io.into_inner().io;
            let begun = has_begun(&parts.read_buf);
            // Boxed, so that room for the last words is taken only when it comes to them.
            Box::pin(finish(io, end, begun, &connection)).await;
            drop(seat);
        }
        // hyper upgrades only for a 101, and a 101 leaves only with a full slot.
        (None, None) => drop(seat),
    }
}

/// The end of a connection that never came to HTTP.
async fn refuse(insecure: Insecure, client: ClientAddr, listener: &Listener, worker: &worker::Context, entry: &Entry) {
    match insecure {
        Insecure::Failed(error) => tracing::debug!(%client, listener = %listener.name, %error, "TLS handshake failed"),
        Insecure::TimedOut => {
            tracing::debug!(%client, listener = %listener.name, "no TLS handshake within timeouts.tls_handshake");
        }
        Insecure::PlainHttp(stream) => {
            let fault = ConnectionFault::PlainHttp;
            fault.tell(Record::begin(&worker.sink, client, &listener.name));
            entry.closes();
            unless_stopped(entry, linger::close(TunnelIo::Tcp(stream), fault.last_words())).await;
        }
        Insecure::HardStop => {}
    }
}

fn builder(listener: &Listener) -> http1::Builder {
    let limits = &listener.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(limits.head_size.max(LEAST_BUFFER))
        .max_header_size(limits.head_size)
        .preserve_header_case(true);
    // hyper moves its header table to the heap as soon as its length is set.
    if limits.headers != crate::config::DEFAULT_HEADERS {
        builder.max_headers(limits.headers);
    }
    builder
}

type Http<S> = http1::UpgradeableConnection<TokioIo<Watched>, S>;

/// Polls hyper, the orders and the one deadline until one of them ends the connection.
async fn drive<S, B>(mut http: Pin<&mut Http<S>>, connection: &ConnContext) -> End
where
    S: hyper::service::HttpService<Incoming, ResBody = B> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Http<S>: Future<Output = hyper::Result<()>>,
{
    let mut alarm = Alarm::new(Instant::now() + connection.listener.timeouts.request_head);
    poll_fn(|cx| {
        connection.entry.wake_by(cx.waker());
        match connection.entry.ordered() {
            Order::HardStop => return Poll::Ready(End::HardStop),
            Order::Drain if connection.timing().must_look() => return Poll::Ready(End::Look),
            Order::Drain if connection.drain_may_cut() => http.as_mut().graceful_shutdown(),
            Order::Drain | Order::Go => {}
        }
        if let Poll::Ready(result) = http.as_mut().poll(cx) {
            return Poll::Ready(End::Http(result));
        }
        connection.poll_deadline(&mut alarm, cx)
    })
    .await
}

/// The end of a connection that did not upgrade: its record where no request has one, its last words, its close. `begun`
/// says that hyper held bytes of a head that it had read with the request before.
async fn finish(io: TunnelIo, end: End, begun: bool, connection: &ConnContext) {
    let (fault, ended) = match end {
        End::Http(Err(error)) => (connection.fault(&error, begun), connection.client_ended()),
        End::TimedOut(fault) => (Some(fault), false),
        End::HardStop => (None, true),
        End::Http(Ok(())) | End::Look => (None, connection.client_ended()),
    };
    if let Some(fault) = &fault {
        fault.tell(connection.record());
    }
    match fault {
        Some(ConnectionFault::WriteStalled) => io.abort(),
        _ if connection.must_reset() => io.abort(),
        _ if ended => {}
        fault => {
            connection.entry.closes();
            let last_words = fault.as_ref().map_or(&b""[..], ConnectionFault::last_words);
            unless_stopped(&connection.entry, linger::close(io, last_words)).await;
        }
    }
}

/// Whether these bytes, which no request has taken, are the beginning of one. Empty lines are none (RFC 9112 section 2.2).
fn has_begun(read: &[u8]) -> bool {
    read.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
}

/// Does the work, unless the gateway's end comes first.
async fn unless_stopped(entry: &Entry, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    poll_fn(|cx| {
        entry.wake_by(cx.waker());
        match entry.ordered() {
            Order::HardStop => Poll::Ready(()),
            Order::Go | Order::Drain => work.as_mut().poll(cx),
        }
    })
    .await;
}

/// The 101 has left: the raw stream, the seat and the slot's content are a tunnel from here on.
async fn become_tunnel(switching: Switching, seat: Seat) {
    // hyper fulfilled it before its future ended.
    let Ok((upgraded, ready)) = switching.upgraded().await else { return };
    let parts =
        upgraded.downcast::<TokioIo<Watched>>().expect("the stream that hyper gives back is the one that it was given");
    let client = Side { io: parts.io.into_inner().io, leftover: parts.read_buf };
    ready.start(client, seat);
}

impl ConnContext {
    fn new(
        client: ClientAddr,
        local: ListenAddr,
        listener: Arc<Listener>,
        scheme: Scheme,
        worker: Arc<worker::Context>,
        seat: &Seat,
    ) -> Self {
        let timing = Timing {
            phase: Phase::Head,
            since: Instant::now(),
            begun: false,
            looked: false,
            write_waits: None,
            stall: listener.timeouts.request_head,
            client_ended: false,
            ends_by_close: false,
            broke_off: false,
            unwritten: false,
            grace: None,
            body_left: false,
        };
        Self {
            client,
            listener,
            local,
            scheme,
            worker,
            entry: Arc::clone(seat.registration.entry()),
            timing: Mutex::new(timing),
            slot: Mutex::new(None),
            cut: OnceLock::new(),
        }
    }

    /// A record of this connection.
    pub fn record(&self) -> Record {
        Record::begin(&self.worker.sink, self.client, &self.listener.name)
    }

    /// Puts what becomes a tunnel when the 101 has left.
    pub fn switch(&self, switching: Switching) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(switching);
    }

    fn take_switching(&self) -> Option<Switching> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The answer at hand may wait so long for a client that does not read.
    pub fn bound_stall(&self, stall: Duration) {
        self.timing().stall = stall;
    }

    fn serving(&self, request: &Request<Incoming>) {
        let mut timing = self.timing();
        timing.ends_by_close = request.version() < Version::HTTP_11;
        timing.body_left = !request.body().is_end_stream();
        timing.phase = Phase::Service;
        timing.grace = None;
    }

    /// The answer's body has ended, one way or another: the connection is between two requests. `request_whole`: the
    /// body of the one at hand was read to its end.
    pub fn answered(&self, request_whole: bool) {
        let mut timing = self.timing();
        timing.body_left &= !request_whole;
        timing.phase = Phase::Idle;
        timing.since = Instant::now();
        timing.begun = false;
        timing.looked = false;
    }

    /// What hyper had read of the next request when the last one was answered: if that is something, a head has begun, and
    /// no later than then. Gives what has to be read again.
    fn looked(&self, held: Bytes) -> Bytes {
        let mut timing = self.timing();
        timing.looked = true;
        if !has_begun(&held) {
            return Bytes::new();
        }
        timing.phase = Phase::Head;
        timing.begun = true;
        held
    }

    /// The answer at hand will not be whole.
    pub fn answer_broke_off(&self) {
        self.timing().broke_off = true;
    }

    /// Whether a FIN would make an answer look whole that is not (RFC 9112 section 8: no length, no chunks, just the end).
    fn must_reset(&self) -> bool {
        let timing = self.timing();
        timing.broke_off && timing.ends_by_close
    }

    fn note_cut(&self, end: &End) {
        let cut = match end {
            End::Http(_) | End::Look => return,
            End::TimedOut(fault) => fault.to_string(),
            End::HardStop => "the gateway ended before it did".to_owned(),
        };
        self.cut.get_or_init(|| cut);
    }

    /// Why something of this connection ended early: the gateway's reason if it cut the connection, else this one.
    pub fn cut_or(&self, otherwise: &'static str) -> Cow<'static, str> {
        self.cut.get().map_or(Cow::Borrowed(otherwise), |cut| Cow::Owned(cut.clone()))
    }

    fn client_ended(&self) -> bool {
        self.timing().client_ended
    }

    /// Whether hyper may be told to end: it cuts a connection that is not within a request, so one whose request is on its
    /// way gets a moment for it.
    fn drain_may_cut(&self) -> bool {
        let mut timing = self.timing();
        if timing.phase == Phase::Head {
            timing.grace.get_or_insert_with(|| Instant::now() + DRAIN_GRACE);
            return false;
        }
        true
    }

    /// What hyper's error was, where no request has a record for it.
    fn fault(&self, error: &hyper::Error, begun: bool) -> Option<ConnectionFault> {
        let timing = self.timing();
        let within_head = match timing.phase {
            Phase::Head => timing.begun,
            Phase::Service => false,
            // A head that came in one piece with the request before it was read before its time.
            // Behind an answer that nobody was there to take, it is none: perhaps an upgrade's early bytes.
            Phase::Idle => (begun && !timing.unwritten) || error.is_parse() || error.is_parse_too_large(),
        };
        within_head.then(|| ConnectionFault::from_hyper(error))
    }

    fn poll_deadline(&self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = Instant::now();
            let Some((due, end)) = self.timing().due(&self.listener) else {
                return Poll::Pending;
            };
            if due <= now {
                return Poll::Ready(end);
            }
            if alarm.poll(due, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn timing(&self) -> MutexGuard<'_, Timing> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timing {
    /// The next deadline, and what its passing is.
    fn due(&self, listener: &Listener) -> Option<(Instant, End)> {
        let timeouts = &listener.timeouts;
        let stalled = self.write_waits.map(|since| (since + self.stall, End::TimedOut(ConnectionFault::WriteStalled)));
        let phase = match self.phase {
            Phase::Head => {
                let fault = if self.begun { ConnectionFault::HeadTooSlow } else { ConnectionFault::Mute };
                let due = self.since + timeouts.request_head;
                Some((self.grace.map_or(due, |grace| grace.min(due)), End::TimedOut(fault)))
            }
            Phase::Service => None,
            Phase::Idle if self.must_look() => {
                Some((self.since + timeouts.request_head.min(timeouts.keep_alive), End::Look))
            }
            Phase::Idle => Some((self.since + timeouts.keep_alive, End::TimedOut(ConnectionFault::KeepAliveOver))),
        };
        match (stalled, phase) {
            (Some(stalled), Some(phase)) => Some(if stalled.0 <= phase.0 { stalled } else { phase }),
            (stalled, phase) => stalled.or(phase),
        }
    }

    /// Whether what hyper holds has to be known, and may be asked: bytes that it read together with the request before may
    /// have begun a head, and it shows its buffer only when it is taken apart. That loses nothing while it waits for the
    /// next request and has written all of the last answer.
    fn must_look(&self) -> bool {
        self.phase == Phase::Idle && !self.looked && self.write_waits.is_none()
    }

    fn read(&mut self, bytes: usize) {
        if bytes == 0 {
            self.client_ended = true;
            return;
        }
        // hyper reads once for what an answer left of its request's body, and closes where that is not all of it. Where it
        // had it already, this is a head's first part, and its deadline begins with the next.
        if self.phase == Phase::Idle && !std::mem::take(&mut self.body_left) {
            self.phase = Phase::Head;
            self.since = Instant::now();
        }
        self.begun |= self.phase == Phase::Head;
    }

    fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(result) => {
                self.write_waits = None;
                self.unwritten |= result.is_err();
            }
            Poll::Pending => {
                self.write_waits.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// The client's stream under hyper: it tells the connection what its deadlines need to know.
struct Watched {
    /// What another hyper has read before this one, of a head that is not whole: so it is read to its end before any
    /// request comes of it.
    read_before: Bytes,
    io: TunnelIo,
    connection: Arc<ConnContext>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read_before.is_empty() {
            let fits = self.read_before.len().min(buffer.remaining());
            buffer.put_slice(&self.read_before.split_to(fits));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = self.io.poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.connection.timing().read(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.io.poll_write(cx, bytes);
        self.connection.timing().wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = pin!(&mut self.io).poll_write_vectored(cx, slices);
        self.connection.timing().wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper is at its end: whatever it holds will be no request.
        self.connection.timing().looked = true;
        self.io.poll_shutdown(cx)
    }
}
