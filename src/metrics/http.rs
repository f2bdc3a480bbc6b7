//! Where metrics and health are asked for: one address, three paths, on the control thread and never on a worker.
//!
//! A page is made on a thread of its own, and of the time of one processor making pages takes a tenth at most.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::Metrics;
use crate::config::{Bind, Tcp};
use crate::downstream::addr::ListenAddr;
use crate::own_http::{EXHAUSTED_PAUSE, Open, other_method, plain, response};
use crate::proxy::body::Body;
use crate::socket::{self, BindError, Listening};

/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// A page that took so long to make is followed by a pause of so many times that.
const PAUSE: u32 = 9;

/// The type of a page (OpenMetrics 1.0).
const PAGE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
                Ok((stream, _)) => {
                    let pages = Arc::clone(&pages);
                    open.serve(stream, DEADLINE, move |request| Arc::clone(&pages).answer(request));
                }
                Err(error) => {
                    tracing::error!(%error, "accepting who asks for metrics failed; it pauses for a second");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
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

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        if request.method() != Method::GET {
            return other_method("GET");
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
