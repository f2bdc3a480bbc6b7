//! A tunnel whose server is the gateway itself: a conversation (echo) over the client's stream, under the same clock, the
//! same orders and with the same record as a tunnel between two sockets.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use std::{future, io, mem};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alarm::Alarm;
use super::clock::{self, Limits, Marks, Next};
use super::io::TunnelIo;
use super::{EndedBy, Holds, Side, TunnelEnd};
use crate::config::ExchangeTimeouts;
use crate::service::echo::{self, EchoEnd};
use crate::turns;

/// Echoes until the client or the clock ends it.
pub async fn echo(client: Side, max_message: usize, timeouts: ExchangeTimeouts, mut holds: Holds) {
    let now = Instant::now();
    holds.record.tunnel_opened(now);
    let progress = Arc::new(Mutex::new(Progress::new(now)));
    let stream = Stream { io: client.io, leftover: client.leftover, progress: Arc::clone(&progress) };
    let end = {
        let told = |end| lock(&progress).told = Some(end);
        let mut conversation = pin!(echo::echo(stream, max_message, told));
        let mut vigil =
            Vigil { progress: &progress, limits: Limits::from(&timeouts), alarm: Alarm::new(now + timeouts.idle) };
        future::poll_fn(|cx| {
            holds.seat.registration.entry().wake_by(cx.waker());
            if let Some(by) = EndedBy::order(holds.seat.registration.entry().ordered(), &mut holds.record) {
                return Poll::Ready((by, None));
            }
            let mut pressed = false;
            loop {
                if let Poll::Ready(end) = conversation.as_mut().poll(cx) {
                    return Poll::Ready(ended_by(end, lock(&progress).truncated));
                }
                match ready!(vigil.poll(cx)) {
                    // Once more, and this time past the word of epoll: a slow reader may be at work on what waits.
                    EndedBy::Stalled if !pressed => {
                        lock(&progress).press = true;
                        pressed = true;
                    }
                    by => {
                        let mut progress = lock(&progress);
                        progress.abort = by == EndedBy::Stalled;
                        let truncated = progress.truncated;
                        // A client that was told goodbye and does not leave is given up: the end is what it was told.
                        return Poll::Ready(progress.told.map_or((by, None), |end| ended_by(end, truncated)));
                    }
                }
            }
        })
        .await
    };
    let (by, close_code) = end;
    let moved = lock(&progress);
    holds.record.tunnel_ended(TunnelEnd { by, sent: moved.sent, received: moved.received, close_code });
}

fn ended_by(end: EchoEnd, truncated: bool) -> (EndedBy, Option<u16>) {
    let by = match end {
        EchoEnd::ClientGone if truncated => EndedBy::ClientTruncated,
        EchoEnd::ClientClosed(_) | EchoEnd::ClientGone => EndedBy::ClientClosed,
        EchoEnd::ClientReset => EndedBy::ClientReset,
        EchoEnd::Malformed(_) => EndedBy::Malformed,
        EchoEnd::Limit => EndedBy::Limit,
    };
    (by, end.close_code())
}

/// What a conversation has moved, for the clock and the record.
#[derive(Debug)]
struct Progress {
    sent: u64,
    received: u64,
    reading: Marks,
    writing: Marks,
    /// The next write is to press: the clock says that nothing moves.
    press: bool,
    abort: bool,
    /// How the conversation ended; the connection is still to be closed.
    told: Option<EchoEnd>,
    /// The client's end was a FIN without close_notify.
    truncated: bool,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            received: 0,
            reading: Marks::new(now),
            writing: Marks::new(now),
            press: false,
            abort: false,
            told: None,
            truncated: false,
        }
    }

    fn waits(&mut self, now: Instant) {
        self.writing.waiting.get_or_insert(now);
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Vigil<'a> {
    progress: &'a Mutex<Progress>,
    limits: Limits,
    alarm: Alarm,
}

impl Vigil<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndedBy> {
        loop {
            let next = {
                let progress = lock(self.progress);
                clock::next(Instant::now(), &progress.reading, &progress.writing, &self.limits)
            };
            match next {
                Next::End(by) => return Poll::Ready(by),
                Next::SleepUntil(due) => ready!(self.alarm.poll(due, cx)),
            }
        }
    }
}

/// The client's stream: what came early first, and everything counted.
struct Stream {
    io: TunnelIo,
    leftover: Bytes,
    progress: Arc<Mutex<Progress>>,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.leftover.is_empty() {
            ready!(self.io.poll_read(cx, buffer))?;
        } else {
            let taken = self.leftover.len().min(buffer.remaining());
            buffer.put_slice(&self.leftover[..taken]);
            self.leftover.advance(taken);
        }
        let truncated = self.io.was_truncated();
        let mut progress = lock(&self.progress);
        progress.truncated = truncated;
        let read = (buffer.filled().len() - before) as u64;
        if read > 0 {
            turns::message();
            progress.sent += read;
            // After our end what still comes is thrown away: it keeps nothing alive.
            if progress.writing.ended.is_none() {
                progress.reading.moved = Instant::now();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Where the clock says that nothing moves, and something does after all: how many of `bytes` were taken (none, where
    /// older bytes moved).
    fn press(&mut self, bytes: &[u8]) -> Option<usize> {
        if !mem::take(&mut lock(&self.progress).press) {
            return None;
        }
        let taken = self.io.press(bytes)?;
        let now = Instant::now();
        let mut progress = lock(&self.progress);
        (progress.writing.moved, progress.writing.waiting) = (now, Some(now));
        Some(taken)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.press(bytes) {
            Some(taken @ 1..) => Poll::Ready(Ok(taken)),
            _ => self.io.poll_write(cx, bytes),
        };
        let now = Instant::now();
        let mut progress = lock(&self.progress);
        match &polled {
            Poll::Ready(Ok(taken)) => {
                progress.received += *taken as u64;
                progress.writing.moved = now;
                progress.writing.waiting = None;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => progress.waits(now),
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.press(&[]);
        let polled = self.io.poll_flush(cx);
        let mut progress = lock(&self.progress);
        match polled {
            // What TLS has taken and holds inside waits like any other bytes.
            Poll::Pending => progress.waits(Instant::now()),
            Poll::Ready(_) => progress.writing.waiting = None,
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.io.poll_shutdown(cx);
        lock(&self.progress).writing.ended.get_or_insert_with(Instant::now);
        polled
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (abort, cut) = {
            let progress = lock(&self.progress);
            (progress.abort, progress.writing.waiting.is_some())
        };
        if abort {
            self.io.abort();
        } else if !cut {
            self.io.say_end();
        }
    }
}
