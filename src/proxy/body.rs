//! The body of an answer on its way to the client.
//!
//! What must live exactly as long as a plain answer travels inside its body and ends with it, by its end, an error or a
//! drop: the record, the use of the endpoint, the backend's connection, and the phase of the client's.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::upload::Progress;
use crate::config::Pool;
use crate::downstream::connection::ConnContext;
use crate::record::Record;
use crate::tunnel::alarm::Alarm;
use crate::upstream::endpoint::EndpointGuard;
use crate::upstream::http1::Connection;

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    content: Content,
    carried: Option<Box<Carried>>,
}

#[derive(Debug)]
enum Content {
    Empty,
    Full(Bytes),
    Forwarded(Forwarded),
}

/// A backend's body, with the moment at which its silence is too long.
#[derive(Debug)]
struct Forwarded {
    incoming: Incoming,
    stall: Duration,
    /// Since when more is waited for. Not while a slow client takes what is there: that is no silence of the backend.
    waiting: Option<Instant>,
    alarm: Option<Alarm>,
}

/// What ends with the answer.
#[derive(Debug)]
pub struct Carried {
    /// Its line.
    pub record: Record,
    /// The use of the endpoint that it comes from.
    pub endpoint: Option<EndpointGuard>,
    /// How the request's body fares, when it has one.
    pub request_body: Option<Arc<Progress>>,
    /// The backend's connection, which may be asked again after this answer.
    pub kept: Option<Kept>,
    /// The connection that it is written to.
    pub connection: Arc<ConnContext>,
    /// False for the answer to a HEAD, whose body nobody asks for.
    pub has_body: bool,
}

/// A connection whose answer is being read, to be kept afterwards.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub connection: Connection,
    /// How it is kept; None where none is.
    pub settings: Option<Pool>,
}

/// A body that broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The sender's connection failed.
    Broken(hyper::Error),
    /// The sender was silent for `timeouts.stall`.
    Stalled,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self { content: Content::Empty, carried: None }
    }

    /// These bytes.
    pub fn full(bytes: Bytes) -> Self {
        let content = if bytes.is_empty() { Content::Empty } else { Content::Full(bytes) };
        Self { content, carried: None }
    }

    /// A backend's bytes as they come, unless it is silent for longer than `stall`.
    pub fn forwarded(incoming: Incoming, stall: Duration) -> Self {
        let forwarded = Forwarded { incoming, stall, waiting: None, alarm: None };
        Self { content: Content::Forwarded(forwarded), carried: None }
    }

    /// Gives it what ends with it.
    pub fn carrying(mut self, carried: Carried) -> Self {
        self.carried = Some(Box::new(carried));
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.content.poll_frame(cx);
        if let Some(carried) = &mut self.carried {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => carried.record.add_received(data_len(frame)),
                Poll::Ready(Some(Err(error))) => carried.broke_off(error),
                _ => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(_) => false,
            Content::Forwarded(forwarded) => forwarded.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Forwarded(forwarded) => forwarded.incoming.size_hint(),
        }
    }
}

impl Content {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match std::mem::replace(self, Self::Empty) {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Self::Forwarded(mut forwarded) => {
                let polled = forwarded.poll_frame(cx);
                let ended = match &polled {
                    // Nothing comes behind trailers, and hyper does not ask whether it does.
                    Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                    Poll::Ready(None | Some(Err(_))) => true,
                    Poll::Pending => false,
                };
                if !ended {
                    *self = Self::Forwarded(forwarded);
                }
                polled
            }
        }
    }
}

impl Forwarded {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)));
        }
        let due = *self.waiting.get_or_insert_with(Instant::now) + self.stall;
        let alarm = self.alarm.get_or_insert_with(|| Alarm::new(due));
        while alarm.poll(due, cx).is_ready() {
            if due <= Instant::now() {
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
        }
        Poll::Pending
    }
}

pub(super) fn data_len(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

impl Carried {
    /// A connection whose request is still under way is none that another may be asked over: it is dropped, and with it
    /// what is left of the request's body. So the client's connection ends, too, unless the rest is there already.
    fn keep_connection(&mut self) {
        let sent = self.request_body.as_ref().is_none_or(|progress| progress.is_whole());
        let Some(Kept { connection, settings }) = self.kept.take().filter(|_| sent) else { return };
        match (settings, &self.endpoint) {
            (Some(settings), Some(endpoint)) => {
                self.connection.worker.pool.put(connection, endpoint.state(), &settings);
            }
            _ => connection.finish(),
        }
    }

    /// The answer ends before its end. When the request's body failed, the exchange with the backend did for that reason.
    fn broke_off(&mut self, error: &BodyError) {
        match self.request_body.as_ref().and_then(|body| body.fault()) {
            Some(fault) => self.record.because(fault.to_string()),
            None => self.record.because(error.to_string()),
        }
        self.connection.answer_broke_off();
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let finished = self.is_end_stream();
        let Some(mut carried) = self.carried.take() else { return };
        if finished {
            carried.keep_connection();
        } else if carried.has_body {
            carried.record.unless_told(carried.connection.cut_or("the client left before the answer was sent whole"));
        }
        let request_whole = carried.request_body.as_ref().is_some_and(|progress| progress.is_whole());
        carried.connection.answered(request_whole);
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the backend broke off within the body: {error}"),
            Self::Stalled => f.write_str("the backend was silent within the body for timeouts.stall"),
        }
    }
}

impl std::error::Error for BodyError {}
