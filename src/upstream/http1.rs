//! Exchanges with a backend: a request sent, the head of its answer awaited.
//!
//! A plain request goes over a [`Connection`], which a task of its own drives and which can be asked again. An upgrade has
//! an [`Exchange`] of its own, driven by whoever waits for its answer: dropping that drops it all.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::config::{ClientLimits, DEFAULT_HEADERS};
use crate::proxy::upload::RequestBody;
use crate::tunnel::Side;
use crate::tunnel::io::TunnelIo;
use crate::worker;

/// Bytes that hyper may hold of an answer that nobody reads: its own default is 408 KiB.
const BUFFER: usize = 64 * 1024;

/// hyper's own future of the connection; its type has no name outside of hyper.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection to a backend, before and during its exchange.
pub struct Exchange {
    sender: SendRequest<RequestBody>,
    /// None once it has ended: hyper panics when it is polled then.
    driver: Option<Driver>,
    answered: Arc<AtomicBool>,
}

/// A connection that a task of its own drives, between or within exchanges. Dropping it closes it, whatever is under way.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<RequestBody>,
    driving: Driving,
    answered: Arc<AtomicBool>,
}

/// The task that drives a connection; it ends when this is dropped.
#[derive(Debug)]
struct Driving(Option<AbortHandle>);

impl Drop for Driving {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub error: ExchangeError,
    /// The request, when nothing of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}

impl Connection {
    /// Makes ready to speak over a fresh stream. `limits` bound the heads of answers.
    pub async fn over(stream: TcpStream, limits: &ClientLimits) -> Result<Self, ExchangeError> {
        let (sender, driver, answered) = shake_hands(stream, limits).await?;
        let driving = Driving(Some(worker::spawn_driver(driver)));
        Ok(Self { sender, driving, answered })
    }

    /// Sends the request and waits for the head of its answer. Dropping the future closes the connection.
    pub async fn ask(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Unanswered> {
        self.answered.store(false, Ordering::Relaxed);
        let answer = self.sender.try_send_request(request).await;
        answer.map_err(|mut failed| {
            let unsent = failed.take_message();
            let answered = self.answered.load(Ordering::Relaxed);
            Unanswered { error: ExchangeError { source: failed.into_error(), answered }, unsent }
        })
    }

    /// Closes it when what it does now is done.
    pub fn finish(mut self) {
        self.driving.0 = None;
    }

    /// Whether it can be asked now.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub struct ExchangeError {
    /// hyper's view.
    pub source: hyper::Error,
    /// Whether even one byte of an answer came.
    pub answered: bool,
}

impl Exchange {
    /// Makes ready to speak over a fresh stream. `limits` bound the heads of answers.
    pub async fn over(stream: TcpStream, limits: &ClientLimits) -> Result<Self, ExchangeError> {
        let (sender, driver, answered) = shake_hands(stream, limits).await?;
        Ok(Self { sender, driver: Some(driver), answered })
    }

    /// Sends the request and waits for the head of its answer. The connection is driven from in here: dropping the future
    /// drops it, and nothing stays open at the backend.
    pub async fn answer(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, ExchangeError> {
        let Self { sender, driver, answered } = self;
        let mut response = std::pin::pin!(sender.send_request(request));
        let polled = poll_fn(|cx| {
            // Its error also reaches the response, which knows more.
            let _ = poll_driver(driver, cx);
            response.as_mut().poll(cx)
        });
        polled.await.map_err(|source| ExchangeError { source, answered: answered.load(Ordering::Relaxed) })
    }

    /// After a 101: the raw stream, and what came behind the head.
    pub async fn switch(mut self, upgrade: OnUpgrade) -> Result<Side, ExchangeError> {
        let mut upgrade = std::pin::pin!(upgrade);
        let upgraded = poll_fn(|cx| match poll_driver(&mut self.driver, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => upgrade.as_mut().poll(cx),
        });
        let upgraded = upgraded.await.map_err(|source| ExchangeError { source, answered: true })?;
        let parts = upgraded
            .downcast::<TokioIo<BackendIo>>()
            .expect("the stream that hyper gives back is the one that it was given");
        Ok(Side { io: parts.io.into_inner().io, leftover: parts.read_buf })
    }

    /// After any other answer: its body is read by a task of its own, which ends with the body.
    pub fn stream_body(self) {
        if let Some(driver) = self.driver {
            worker::spawn_driver(driver);
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    limits: &ClientLimits,
) -> Result<(SendRequest<RequestBody>, Driver, Arc<AtomicBool>), ExchangeError> {
    let answered = Arc::new(AtomicBool::new(false));
    let io = BackendIo { io: TunnelIo::Tcp(stream), answered: Arc::clone(&answered) };
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER.max(limits.head_size)).max_header_size(limits.head_size).preserve_header_case(true);
    if limits.headers != DEFAULT_HEADERS {
        builder.max_headers(limits.headers);
    }
    match builder.handshake(TokioIo::new(io)).await {
        Ok((sender, driver)) => Ok((sender, Box::pin(driver.with_upgrades()), answered)),
        Err(source) => Err(ExchangeError { source, answered: false }),
    }
}

fn poll_driver(driver: &mut Option<Driver>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
    match driver {
        Some(running) => running.as_mut().poll(cx).map(|ended| {
            *driver = None;
            ended
        }),
        None => Poll::Ready(Ok(())),
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source.is_parse_too_large(), self.source.is_parse()) {
            (true, _) => f.write_str("the head of the backend's answer is too large"),
            (_, true) => write!(f, "the backend's answer is not HTTP: {}", self.source),
            _ if self.source.is_incomplete_message() => f.write_str("the backend closed before its answer was whole"),
            _ => write!(f, "the exchange with the backend failed: {}", self.source),
        }
    }
}

impl std::error::Error for ExchangeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.source)
    }
}

/// A backend's stream, that knows whether an answer has begun.
struct BackendIo {
    io: TunnelIo,
    answered: Arc<AtomicBool>,
}

impl AsyncRead for BackendIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.io.poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.answered.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for BackendIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.io.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.poll_shutdown(cx)
    }
}
