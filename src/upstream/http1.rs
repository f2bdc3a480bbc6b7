//! Exchanges with a backend: a request sent, the head of its answer awaited.
//!
//! A plain request goes over a [`Connection`], which a task of its own drives and which can be asked again. An upgrade has
//! an [`Exchange`] of its own, driven by whoever waits for its answer: dropping that drops it all.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio_rustls::rustls::{self, AlertDescription};

use super::tls::Fingerprint;
use crate::config::{ClientLimits, DEFAULT_HEADERS};
use crate::proxy::upload::RequestBody;
use crate::tunnel::Side;
use crate::tunnel::io::TunnelIo;
use crate::worker;

/// Bytes that hyper may hold of an answer that nobody reads: its own default is 408 KiB.
const BUFFER: usize = 64 * 1024;

/// How many full buffers may come before the head of an answer has been taken. The largest head with what is glued to it,
/// and what hyper reads of the body meanwhile, are three. hyper reads over informational answers (103 and the like) within
/// one turn of its task: without a bound a backend that sends nothing else keeps a worker for itself.
const BUFFERS_A_HEAD: usize = 8;

/// hyper's own future of the connection; its type has no name outside of hyper.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection to a backend, before and during its exchange.
pub struct Exchange {
    sender: SendRequest<RequestBody>,
    /// None once it has ended: hyper panics when it is polled then.
    driver: Option<Driver>,
    come: Arc<Come>,
}

/// A connection that a task of its own drives, between or within exchanges. Dropping it closes it, whatever is under way.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<RequestBody>,
    driving: Driving,
    come: Arc<Come>,
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
    /// Makes ready to speak over a fresh stream, secured so. `limits` bound the heads of answers.
    pub async fn over(io: TunnelIo, tls: Option<Fingerprint>, limits: &ClientLimits) -> Result<Self, ExchangeError> {
        let (sender, driver, come) = shake_hands(io, tls, limits).await?;
        let driving = Driving(Some(worker::spawn_driver(driver)));
        Ok(Self { sender, driving, come })
    }

    /// Sends the request and waits for the head of its answer. Dropping the future closes the connection.
    pub async fn ask(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Unanswered> {
        self.come.begin();
        let answer = self.sender.try_send_request(request).await;
        let answer = answer.map_err(|mut failed| {
            let unsent = failed.take_message();
            Unanswered { error: self.come.failed(failed.into_error()), unsent }
        })?;
        self.come.end();
        Ok(answer)
    }

    /// Closes it when what it does now is done.
    pub fn finish(mut self) {
        self.driving.0 = None;
    }

    /// By which setting of TLS it was made, and to whom; None where it is plain.
    pub fn tls(&self) -> Option<Fingerprint> {
        self.come.tls
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
    /// Whether more came than the head of an answer can be.
    endless: bool,
}

impl Exchange {
    /// Makes ready to speak over a fresh stream. `limits` bound the heads of answers.
    pub async fn over(io: TunnelIo, limits: &ClientLimits) -> Result<Self, ExchangeError> {
        // It is asked once: nobody wants to know how it is secured.
        let (sender, driver, come) = shake_hands(io, None, limits).await?;
        Ok(Self { sender, driver: Some(driver), come })
    }

    /// Sends the request and waits for the head of its answer. The connection is driven from in here: dropping the future
    /// drops it, and nothing stays open at the backend.
    pub async fn answer(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, ExchangeError> {
        let Self { sender, driver, come } = self;
        come.begin();
        let mut response = std::pin::pin!(sender.send_request(request));
        let polled = poll_fn(|cx| {
            // Its error also reaches the response, which knows more.
            let _ = poll_driver(driver, cx);
            response.as_mut().poll(cx)
        });
        let answer = polled.await.map_err(|source| come.failed(source))?;
        come.end();
        Ok(answer)
    }

    /// After a 101: the raw stream, and what came behind the head.
    pub async fn switch(mut self, upgrade: OnUpgrade) -> Result<Side, ExchangeError> {
        let mut upgrade = std::pin::pin!(upgrade);
        let upgraded = poll_fn(|cx| match poll_driver(&mut self.driver, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => upgrade.as_mut().poll(cx),
        });
        let upgraded = upgraded.await.map_err(|source| ExchangeError { source, answered: true, endless: false })?;
        let parts = upgraded
            .downcast::<TokioIo<BackendIo>>()
            .expect("the stream that hyper gives back is the one that it was given");
        let mut io = parts.io.into_inner().io;
        io.becomes_tunnel();
        Ok(Side { io, leftover: parts.read_buf })
    }

    /// After any other answer: its body is read by a task of its own, which ends with the body.
    pub fn stream_body(self) {
        if let Some(driver) = self.driver {
            worker::spawn_driver(driver);
        }
    }
}

async fn shake_hands(
    io: TunnelIo,
    tls: Option<Fingerprint>,
    limits: &ClientLimits,
) -> Result<(SendRequest<RequestBody>, Driver, Arc<Come>), ExchangeError> {
    let buffer = BUFFER.max(limits.head_size);
    let come = Arc::new(Come { bytes: AtomicUsize::new(0), most: BUFFERS_A_HEAD * buffer, tls });
    let io = BackendIo { io, come: Arc::clone(&come) };
    let mut builder = Builder::new();
    builder.max_buf_size(buffer).max_header_size(limits.head_size).preserve_header_case(true);
    if limits.headers != DEFAULT_HEADERS {
        builder.max_headers(limits.headers);
    }
    match builder.handshake(TokioIo::new(io)).await {
        Ok((sender, driver)) => Ok((sender, Box::pin(driver.with_upgrades()), come)),
        Err(source) => Err(come.failed(source)),
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
        f.debug_struct("Exchange").field("come", &self.come).finish_non_exhaustive()
    }
}

impl ExchangeError {
    /// The alert by which the backend ended TLS. By TLS 1.3 that is how one refuses the gateway's certificate, or its want:
    /// its TLS handshake is over for the gateway before the backend has seen that.
    pub fn alert(&self) -> Option<AlertDescription> {
        let cause = std::error::Error::source(&self.source)?.downcast_ref::<std::io::Error>()?;
        match cause.get_ref()?.downcast_ref()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(alert) = self.alert() {
            return write!(f, "the backend ended TLS with the alert {alert:?}");
        }
        match (self.source.is_parse_too_large(), self.source.is_parse()) {
            _ if self.endless => f.write_str("the backend sent informational answers without end"),
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

/// How much has come since the backend was asked, and from whom: here, since a request has no room to carry it.
#[derive(Debug)]
struct Come {
    bytes: AtomicUsize,
    most: usize,
    tls: Option<Fingerprint>,
}

impl Come {
    /// The head of the answer is there: what comes from here on is read as somebody wants it.
    const HEAD: usize = usize::MAX;

    fn begin(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn end(&self) {
        self.bytes.store(Self::HEAD, Ordering::Relaxed);
    }

    /// Counts what has been read; false when it is too much.
    fn add(&self, bytes: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        if before == Self::HEAD {
            return true;
        }
        self.bytes.store(before + bytes, Ordering::Relaxed);
        before + bytes <= self.most
    }

    fn failed(&self, source: hyper::Error) -> ExchangeError {
        let bytes = self.bytes.load(Ordering::Relaxed);
        ExchangeError { source, answered: bytes > 0, endless: bytes > self.most }
    }
}

/// A backend's stream, that knows how much of an answer has come.
struct BackendIo {
    io: TunnelIo,
    come: Arc<Come>,
}

impl AsyncRead for BackendIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.io.poll_read(cx, buffer);
        if !self.come.add(buffer.filled().len() - before) {
            return Poll::Ready(Err(std::io::Error::other("no head of an answer")));
        }
        // RFC 9112 section 9.8: an answer that ends with its connection is whole only if a close_notify says so.
        if self.io.was_truncated() {
            return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
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
