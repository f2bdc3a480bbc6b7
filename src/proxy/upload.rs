//! The body of a request on its way to a backend, and how far it has come.
//!
//! Asking hyper for a body is what makes it tell the client to go on (100). So a body whose client waits for that is not
//! asked for before the backend wants it (RFC 9110 section 10.1.1): its gate is shut until the backend's 100, or for a
//! second, since not every backend knows the expectation.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::body::data_len;
use crate::record::Record;
use crate::tunnel::alarm::Alarm;

/// How long a client's body waits for a backend that says nothing.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A request's body.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    /// The record's count of it.
    bytes: Option<Arc<AtomicU64>>,
    progress: Arc<Progress>,
    alarm: Option<Alarm>,
}

/// How far a request's body has come; shared with whoever waits for the answer.
#[derive(Debug)]
pub struct Progress(Mutex<Uploaded>);

#[derive(Debug)]
struct Uploaded {
    /// Since when the one that is waited for has done nothing.
    moved: Instant,
    awaits_client: bool,
    whole: bool,
    fault: Option<BodyFault>,
    gate: Gate,
}

/// Whether the client has been told to send its body.
#[derive(Debug)]
enum Gate {
    /// It has been, or did not ask.
    Open,
    /// It waits, until this moment at most.
    Shut { until: Instant, waits: Option<Waker> },
    /// The answer came first: the body is not wanted, and never asked for. It does not end either, for hyper gives up a
    /// connection whose request breaks off, and the rest of the answer may still be on its way.
    Refused,
}

/// Which side an upload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// All of it was handed over, at this moment.
    Whole(Instant),
    /// The client has not sent more since this moment.
    AwaitsClient(Instant),
    /// The backend has not taken more since this moment.
    AwaitsBackend(Instant),
}

/// What is wrong with a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// The client left before it was whole.
    Left,
    /// It is not chunked as it says.
    Malformed,
}

impl RequestBody {
    /// A body to forward, and its progress to watch. `expects_continue`: the client waits to be told.
    pub fn new(incoming: Incoming, expects_continue: bool, record: &mut Record) -> (Self, Arc<Progress>) {
        let whole = incoming.is_end_stream();
        let progress = Progress::new(whole, expects_continue && !whole);
        let (incoming, bytes) = if whole { (None, None) } else { (Some(incoming), Some(record.uploads())) };
        (Self { incoming, bytes, progress: Arc::clone(&progress), alarm: None }, progress)
    }

    /// No body: an upgrade request has none.
    pub fn none() -> Self {
        Self { incoming: None, bytes: None, progress: Progress::new(true, false), alarm: None }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.incoming.is_none()
    }

    /// Waits at the gate. It opens by the backend's word or by the clock.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = match &mut self.progress.lock().gate {
            Gate::Open => return Poll::Ready(()),
            Gate::Refused => return Poll::Pending,
            Gate::Shut { until, waits } => {
                *waits = Some(cx.waker().clone());
                *until
            }
        };
        ready!(self.alarm.get_or_insert_with(|| Alarm::new(until)).poll(until, cx));
        self.progress.open();
        Poll::Ready(())
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Progress {
    fn new(whole: bool, shut: bool) -> Arc<Self> {
        let now = Instant::now();
        let gate = if shut { Gate::Shut { until: now + CONTINUE_WAIT, waits: None } } else { Gate::Open };
        Arc::new(Self(Mutex::new(Uploaded { moved: now, awaits_client: false, whole, fault: None, gate })))
    }

    /// The request is about to be sent: what was waited for until now, a dial, is no part of the body's deadlines.
    pub fn begin(&self) {
        let mut uploaded = self.lock();
        let now = Instant::now();
        uploaded.moved = now;
        if let Gate::Shut { until, .. } = &mut uploaded.gate {
            *until = now + CONTINUE_WAIT;
        }
    }

    /// Opens the gate when the backend says 100 to this request.
    pub fn open_on_continue(self: &Arc<Self>, request: &mut Request<RequestBody>) {
        if matches!(self.lock().gate, Gate::Shut { .. }) {
            let progress = Arc::clone(self);
            hyper::ext::on_informational(request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    progress.open();
                }
            });
        }
    }

    /// The answer has come: a gate that is still shut stays shut. Says whether it was.
    pub fn refuse(&self) -> bool {
        self.leave(Gate::Refused)
    }

    fn open(&self) {
        self.leave(Gate::Open);
    }

    fn leave(&self, next: Gate) -> bool {
        let mut uploaded = self.lock();
        let Gate::Shut { waits, .. } = &mut uploaded.gate else { return false };
        let waits = waits.take();
        uploaded.gate = next;
        uploaded.moved = Instant::now();
        drop(uploaded);
        if let Some(waker) = waits {
            waker.wake();
        }
        true
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<BodyFault> {
        self.lock().fault
    }

    /// Whether all of it was handed over.
    pub fn is_whole(&self) -> bool {
        self.lock().whole
    }

    /// Where it stands.
    pub fn upload(&self) -> Upload {
        let uploaded = self.lock();
        match *uploaded {
            Uploaded { whole: true, moved, .. } => Upload::Whole(moved),
            Uploaded { awaits_client: true, moved, .. } => Upload::AwaitsClient(moved),
            Uploaded { moved, .. } => Upload::AwaitsBackend(moved),
        }
    }

    fn note(&self, polled: &Poll<Option<hyper::Result<Frame<Bytes>>>>) {
        let mut uploaded = self.lock();
        let awaited_client = std::mem::replace(&mut uploaded.awaits_client, polled.is_pending());
        match polled {
            // Nothing comes behind trailers, and hyper does not ask whether it does.
            Poll::Ready(Some(Ok(frame))) => uploaded.whole |= frame.is_trailers(),
            Poll::Ready(Some(Err(error))) => uploaded.fault = Some(BodyFault::of(error)),
            Poll::Ready(None) => uploaded.whole = true,
            // To be asked for more means that the backend has taken what there was: the client's time begins.
            Poll::Pending if !awaited_client => {}
            Poll::Pending => return,
        }
        uploaded.moved = Instant::now();
    }

    fn end(&self) {
        self.lock().whole = true;
    }

    fn lock(&self) -> MutexGuard<'_, Uploaded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        ready!(self.poll_gate(cx));
        let polled = self.poll_incoming(cx);
        self.progress.note(&polled);
        if let (Some(bytes), Poll::Ready(Some(Ok(frame)))) = (&self.bytes, &polled) {
            bytes.fetch_add(data_len(frame), Ordering::Relaxed);
        }
        // hyper does not ask again once it has sent as much as Content-Length says.
        if self.is_end_stream() {
            self.progress.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl BodyFault {
    /// hyper tells it by the kind of the error beneath its own.
    fn of(error: &hyper::Error) -> Self {
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        match io {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Self::Malformed,
            _ => Self::Left,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "the client left within the body",
            Self::Malformed => "the body is not chunked as it says",
        })
    }
}
