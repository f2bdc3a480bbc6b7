//! One connection of a client: HTTP/1.1 by hyper, under one deadline from accept to its end or its upgrade.
//!
//! The connection owns its seat. For hyper it ends at the upgrade: then what the service put into the slot (the backend's
//! stream, the record, the use of an endpoint) and the seat move into a tunnel of its own task, and this future, which is
//! large, is freed. If hyper ends any other way, the slot is dropped with all that is in it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::addr::{ClientAddr, ListenAddr};
use super::identity::ClientCertificate;
use super::linger;
use super::seat::Seat;
use super::secure::{Insecure, Secured, Shown, secure};
use super::timing::{Passing, Timing};
use super::watched::Watched;
use crate::config::{Listener, Scheme};
use crate::proxy::body::Body;
use crate::proxy::{Serving, Switching};
use crate::record::Record;
use crate::registry::{Entry, Order};
use crate::rejection::{ConnectionFault, Rejection};
use crate::tunnel::Side;
use crate::tunnel::alarm::Alarm;
use crate::tunnel::io::TunnelIo;
use crate::turns;
use crate::worker;

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
    /// When it was accepted: what its deadlines count from until its first request.
    pub since: Instant,
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
    /// What its client has shown of itself in its TLS handshake.
    shown: Option<Box<Shown>>,
    /// The worker that it lives and dies on.
    pub worker: Arc<worker::Context>,
    entry: Arc<Entry>,
    timing: Mutex<Timing>,
    slot: Mutex<Option<Switching>>,
    /// Set when the gateway, and not the client, ends what is under way.
    cut: OnceLock<String>,
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
    let Accepted { stream, client, local, since, seat, listener } = accepted;
    // Boxed, so that what a TLS handshake needs is freed before HTTP begins.
    let secured = Box::pin(secure(stream, &listener, since, seat.registration.entry())).await;
    let shaken = secured.as_ref().map_or_else(Insecure::shaken, |secured| secured.shaken);
    shaken.inspect(|shaken| worker.cell.tls.add(*shaken as usize));
    let Secured { io, scheme, shown, .. } = match secured {
        Ok(secured) => secured,
        Err(insecure) => {
            return Box::pin(refuse(insecure, client, since, &listener, &worker, seat.registration.entry())).await;
        }
    };
    let connection = Arc::new(ConnContext::new(client, local, since, listener, (scheme, shown), worker, &seat));
    let service = service_fn(|request: Request<Incoming>| {
        let unrouted = connection.listener.timeouts.request_head;
        connection.timing().serving(request.version(), !request.body().is_end_stream(), unrouted);
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
                let read_before = looked(parts.read_buf, &connection);
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
async fn refuse(
    insecure: Insecure,
    client: ClientAddr,
    since: Instant,
    listener: &Listener,
    worker: &worker::Context,
    entry: &Entry,
) {
    match insecure {
        Insecure::Failed(error) => tracing::debug!(%client, listener = %listener.name, %error, "TLS handshake failed"),
        Insecure::TimedOut => {
            tracing::debug!(%client, listener = %listener.name, "no TLS handshake within timeouts.tls_handshake");
        }
        Insecure::PlainHttp(stream) => {
            let fault = ConnectionFault::PlainHttp;
            fault.tell(Record::begin(&worker.sink, &worker.cell, client, &listener.name).since(since));
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
        ready!(turns::poll(cx));
        match connection.entry.ordered() {
            Order::HardStop => return Poll::Ready(End::HardStop),
            Order::Drain if connection.timing().must_look() => return Poll::Ready(End::Look),
            Order::Drain if connection.timing().drain_may_cut() => http.as_mut().graceful_shutdown(),
            // Those of a route and of an endpoint are for tunnels.
            _ => {}
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
        End::Http(Err(error)) => (fault(&error, begun, connection), connection.timing().client_ended()),
        End::TimedOut(fault) => (Some(fault), false),
        End::HardStop => (None, true),
        End::Http(Ok(())) | End::Look => (None, connection.timing().client_ended()),
    };
    if let Some(fault) = &fault {
        fault.tell(connection.record().since(connection.timing().since()));
    }
    match fault {
        Some(ConnectionFault::WriteStalled) => io.abort(),
        _ if connection.timing().must_reset() => io.abort(),
        _ if ended => {}
        fault => {
            connection.entry.closes();
            let last_words = fault.as_ref().map_or(&b""[..], ConnectionFault::last_words);
            unless_stopped(&connection.entry, linger::close(io, last_words)).await;
        }
    }
}

/// What hyper had read of the next request when the last one was answered: if that is something, a head has begun, and no
/// later than then. Gives what has to be read again.
fn looked(held: Bytes, connection: &ConnContext) -> Bytes {
    let begun = has_begun(&held);
    connection.timing().looked(begun);
    if begun { held } else { Bytes::new() }
}

/// What hyper's error was, where no request has a record for it.
fn fault(error: &hyper::Error, begun: bool, connection: &ConnContext) -> Option<ConnectionFault> {
    let not_http = error.is_parse() || error.is_parse_too_large();
    connection.timing().within_head(begun, not_http).then(|| ConnectionFault::from_hyper(error))
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
            _ => work.as_mut().poll(cx),
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
        since: Instant,
        listener: Arc<Listener>,
        (scheme, shown): (Scheme, Option<Box<Shown>>),
        worker: Arc<worker::Context>,
        seat: &Seat,
    ) -> Self {
        let timing = Timing::new(since, listener.timeouts.request_head);
        Self {
            client,
            listener,
            local,
            scheme,
            shown,
            worker,
            entry: Arc::clone(seat.registration.entry()),
            timing: Mutex::new(timing),
            slot: Mutex::new(None),
            cut: OnceLock::new(),
        }
    }

    /// What its next request is served by: the configuration in force, and in that the listener that has its address now. An
    /// address that is configured no longer stays the one's that it was.
    pub fn in_force(&self) -> (Arc<Serving>, Arc<Listener>) {
        let (serving, listener) = self.worker.in_force(self.local);
        (serving, listener.unwrap_or_else(|| Arc::clone(&self.listener)))
    }

    /// A record of this connection.
    pub fn record(&self) -> Record {
        Record::begin(&self.worker.sink, &self.worker.cell, self.client, &self.listener.name)
    }

    /// The certificate that its client has shown; it was verified.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.shown.as_ref()?.certificate.as_ref()
    }

    /// Whether a request for that host came to the wrong place: its client asked for another when it connected.
    pub fn is_misdirected(&self, host: &str) -> bool {
        let server_name = self.shown.as_ref().and_then(|shown| shown.server_name.as_deref());
        let tls = self.listener.tls.as_ref();
        tls.zip(server_name).is_some_and(|(tls, server_name)| tls.is_misdirected(server_name, host))
    }

    /// A try at an endpoint came to nothing for that reason: counted here, since another endpoint may answer the request.
    pub fn attempt_failed(&self, why: Rejection) -> Rejection {
        self.worker.cell.failed.add(why.cause() as usize);
        why
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
        self.timing().bound_stall(stall);
    }

    /// The answer's body has ended, one way or another: the connection is between two requests. `request_whole`: the
    /// body of the one at hand was read to its end.
    pub fn answered(&self, request_whole: bool) {
        self.timing().answered(request_whole);
    }

    /// The answer at hand will not be whole.
    pub fn answer_broke_off(&self) {
        self.timing().answer_broke_off();
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

    fn poll_deadline(&self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = Instant::now();
            let Some((due, passing)) = self.timing().due(&self.listener.timeouts) else {
                return Poll::Pending;
            };
            if due <= now {
                return Poll::Ready(match passing {
                    Passing::Fault(fault) => End::TimedOut(fault),
                    Passing::Look => End::Look,
                });
            }
            if alarm.poll(due, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Its clock.
    pub(super) fn timing(&self) -> MutexGuard<'_, Timing> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection keeps beside hyper's buffers, and what a request adds while it is served. Whoever changes a
    /// number says in the same commit what it is for.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_sizes_of_a_connection_and_of_a_request() {
        let connection = size(|accepted, worker| serve(accepted, worker, crate::proxy::handle));
        // 1536, and what moves into a tunnel holds on to the configuration that it begins with.
        assert!(connection <= 1576, "{connection}");
        let request = size(crate::proxy::handle);
        // 7456, and the listener that has the connection's address by now.
        assert!(request <= 7488, "{request}");
    }
}
