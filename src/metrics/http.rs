//! Where metrics and health are asked for: one address, three paths, on the control thread and never on a worker.
//!
//! Whoever asks is bounded: so many connections, each for one request and so long; a page is made on a thread of its own,
//! and of the time of one processor making pages takes a tenth at most.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Metrics;
use crate::config::{Bind, Tcp};
use crate::downstream::addr::ListenAddr;
use crate::downstream::linger;
use crate::proxy::body::Body;
use crate::socket::{self, BindError, Listening};
use crate::tunnel::io::TunnelIo;

/// Connections that may be open. For one more the oldest is closed: who asks in good faith has its answer long before its
/// turn, however many say nothing.
const MOST_OPEN: usize = 32;

/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most that a head may have.
const HEAD: usize = 16 * 1024;

/// A page that took so long to make is followed by a pause of so many times that.
const PAUSE: u32 = 9;

/// How long accepting pauses when the machine has nothing left to accept with.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

/// The type of a page (OpenMetrics 1.0).
const PAGE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The address where metrics are served; nobody is served there yet.
#[derive(Debug)]
pub struct Served(Arc<Listening>);

impl Served {
    /// Binds it.
    pub fn bind(address: SocketAddr, tcp: &Tcp) -> Result<Self, BindError> {
        let mut bound = socket::listen(Bind::Address(address), 1, tcp, |_| None)?;
        Ok(Self(bound.pop().expect("one address is bound once")))
    }

    /// Where it is; the real port where port 0 was asked.
    pub fn address(&self) -> ListenAddr {
        self.0.address
    }

    /// Watches the address from now on, inside the runtime that will serve it.
    pub fn watch(self) -> io::Result<Watched> {
        self.0.of_worker(0).map(TcpListener::from).and_then(tokio::net::TcpListener::from_std).map(Watched)
    }
}

/// The address, watched by the runtime that serves it.
#[derive(Debug)]
pub struct Watched(tokio::net::TcpListener);

impl Watched {
    /// Serves for ever.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let pages = Arc::new(Pages::of(metrics));
        let mut open = Open::default();
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => open.serve(stream, &pages),
                Err(error) => {
                    tracing::error!(%error, "accepting who asks for metrics failed; it pauses for a second");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Open {
    fn serve(&mut self, stream: TcpStream, pages: &Arc<Pages>) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|connection| !connection.is_finished());
        if self.oldest_first.len() == MOST_OPEN
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let connection = converse(stream, Arc::clone(pages));
        self.oldest_first.push_back(self.tasks.spawn(async {
            // Too late is over: what is left of it is dropped.
            let _ = timeout(DEADLINE, connection).await;
        }));
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(|request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).header_read_timeout(None).max_buf_size(HEAD);
    let mut http = builder.serve_connection(TokioIo::new(stream), service);
    // Who is told of an error has been told by hyper.
    let _ = (&mut http).await;
    linger::close(TunnelIo::Tcp(http.into_parts().io.into_inner()), b"").await;
}

/// What is answered.
#[derive(Debug)]
struct Pages {
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    last: Mutex<Made>,
}

/// The page that was made last.
#[derive(Debug)]
struct Made {
    page: Bytes,
    /// When it was begun.
    at: Instant,
    /// Before then no other is made.
    next: Instant,
}

impl Pages {
    fn of(metrics: Arc<Metrics>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        let now = Instant::now();
        let none = Made { page: Bytes::new(), at: now, next: now };
        Self { metrics, registry: Arc::new(registry), last: Mutex::new(none) }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        if request.method() != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match path {
            "/metrics" => self.page().await,
            "/readyz" if !self.metrics.is_ready() => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => plain(StatusCode::OK, "ok\n"),
        }
    }

    /// A page of this moment or later: all who wait for one get the same.
    async fn page(&self) -> Response<Body> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if last.at > asked {
            return response(StatusCode::OK, PAGE, last.page.clone());
        }
        sleep_until(last.next).await;
        let (at, registry) = (Instant::now(), Arc::clone(&self.registry));
        let page = spawn_blocking(move || {
            let mut page = String::new();
            text::encode(&mut page, &registry).map(|()| page)
        });
        match page.await {
            Ok(Ok(page)) => {
                *last = Made { page: page.into(), at, next: Instant::now() + at.elapsed() * PAUSE };
                response(StatusCode::OK, PAGE, last.page.clone())
            }
            failed => {
                tracing::error!(?failed, "the metrics cannot be told");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be told\n")
            }
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    response(status, TEXT, Bytes::copy_from_slice(text.as_bytes()))
}

fn response(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
